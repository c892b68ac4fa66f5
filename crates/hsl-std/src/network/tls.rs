//! TLS of scripts on OpenSSL: the options that `TLSSocket`, `http` and the SMTP lookups have in common (library section
//! 11).

use crate::crypto::keys::client_credential;
use crate::crypto::openssl_extra::add_host;
use crate::environment::{Credential, Environment};
use crate::support::flag;
use hsl::{Array, Error, Value};
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509CheckFlags;

/// Protocols that are offered unless the option says otherwise.
const DEFAULT_PROTOCOLS: &str = "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1";

/// Which protocols are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocols {
    /// TLS 1.0 to 1.3.
    allowed: [bool; 4],
}

const VERSIONS: [(&str, SslVersion, SslOptions); 4] = [
    ("TLSv1", SslVersion::TLS1, SslOptions::NO_TLSV1),
    ("TLSv1.1", SslVersion::TLS1_1, SslOptions::NO_TLSV1_1),
    ("TLSv1.2", SslVersion::TLS1_2, SslOptions::NO_TLSV1_2),
    ("TLSv1.3", SslVersion::TLS1_3, SslOptions::NO_TLSV1_3),
];

impl Protocols {
    /// Reads a list such as `!TLSv1,TLSv1.3`. Words with `!` take away from all, words without name the only ones.
    pub(crate) fn read(text: &str) -> Result<Protocols, Error> {
        let words: Vec<&str> = text.split([',', ' ']).filter(|w| !w.is_empty()).collect();
        let mut allowed = [!words.iter().any(|w| !w.starts_with('!')); 4];
        for word in words {
            let (name, on) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
            match VERSIONS.iter().position(|(n, ..)| *n == name) {
                Some(i) => allowed[i] = on,
                // Words that are known and never offered.
                None if matches!(name, "SSLv2" | "SSLv3") => {}
                None => {
                    return Err(Error::exception(format!(
                        "Option 'tls_protocols': unknown protocol '{name}', expected SSLv2, SSLv3, TLSv1, TLSv1.1, \
                         TLSv1.2 or TLSv1.3"
                    )));
                }
            }
        }
        Ok(Protocols { allowed })
    }

    fn apply(self, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let lowest = self.allowed.iter().position(|a| *a).unwrap_or(3);
        context.set_min_proto_version(Some(VERSIONS[lowest].1))?;
        for (allowed, (.., option)) in self.allowed.iter().zip(VERSIONS) {
            if !allowed {
                context.set_options(option);
            }
        }
        if self.allowed[0] || self.allowed[1] {
            // Their signatures are below the level that OpenSSL asks for.
            context.set_security_level(0);
        }
        Ok(())
    }
}

/// Codes of OpenSSL for a certificate with other names: host and address.
const MISMATCHES: [i32; 2] =
    [openssl_sys::X509_V_ERR_HOSTNAME_MISMATCH, openssl_sys::X509_V_ERR_IP_ADDRESS_MISMATCH];

/// What the options say about a context.
#[derive(Clone)]
pub(crate) struct TlsOptions {
    pub(crate) protocols: Protocols,
    pub(crate) ciphers: Option<String>,
    /// Check the chain.
    pub(crate) verify_ca: bool,
    /// Trust the authorities of the system.
    pub(crate) default_ca: bool,
    pub(crate) credential: Option<Credential>,
}

impl TlsOptions {
    /// Reads the options that all have in common. `verify_ca` is the name of the option for the chain.
    pub(crate) fn read(
        options: &Array,
        verify_ca: &str,
        verify_default: bool,
        environment: &Environment,
    ) -> Result<TlsOptions, Error> {
        let text = |key: &str| options.get_str(key).filter(|v| !v.is_none()).map(Value::to_string_lossy);
        let credential = options
            .get_str("tls_client_cert")
            .filter(|v| v.truthy())
            .map(|v| client_credential(v, environment))
            .transpose()?;
        Ok(TlsOptions {
            protocols: Protocols::read(text("tls_protocols").as_deref().unwrap_or(DEFAULT_PROTOCOLS))?,
            ciphers: text("tls_ciphers"),
            verify_ca: flag(options, verify_ca, verify_default),
            default_ca: flag(options, "tls_default_ca", false),
            credential,
        })
    }

    /// A context for these options.
    pub(crate) fn context(&self, environment: &Environment) -> Result<SslContextBuilder, ErrorStack> {
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        self.protocols.apply(&mut context)?;
        if let Some(ciphers) = &self.ciphers {
            context.set_cipher_list(ciphers)?;
        }
        let mut store = X509StoreBuilder::new()?;
        for authority in &environment.authorities {
            store.add_cert(authority.clone())?;
        }
        if self.default_ca {
            store.set_default_paths()?;
        }
        context.set_cert_store(store.build());
        context.set_verify(if self.verify_ca { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
        if let Some(credential) = &self.credential {
            if let Some(certificate) = &credential.certificate {
                context.set_certificate(certificate)?;
            }
            context.set_private_key(&credential.key.key)?;
            for certificate in &credential.chain {
                context.add_extra_chain_cert(certificate.clone())?;
            }
        }
        Ok(context)
    }
}

/// Demands that the peer's certificate carries one of the names, even where its chain is not checked.
pub(crate) fn verify_names(ssl: &mut Ssl, names: &[String], verify_ca: bool) -> Result<(), ErrorStack> {
    if names.is_empty() {
        return Ok(());
    }
    let param = ssl.param_mut();
    param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    for name in names {
        match name.parse() {
            Ok(address) => param.set_ip(address)?,
            Err(_) => add_host(param, name)?,
        }
    }
    ssl.set_verify_callback(SslVerifyMode::PEER, move |good, context| {
        good || (!verify_ca && !MISMATCHES.contains(&context.error().as_raw()))
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_lists() {
        for (text, allowed) in [
            (DEFAULT_PROTOCOLS, [false, false, true, true]),
            ("", [true; 4]),
            ("TLSv1.3", [false, false, false, true]),
            ("TLSv1,TLSv1.2", [true, false, true, false]),
            ("!SSLv2, !TLSv1.3", [true, true, true, false]),
        ] {
            assert_eq!(Protocols::read(text).unwrap().allowed, allowed, "{text}");
        }
        assert!(Protocols::read("TLSv4").is_err());
    }
}
