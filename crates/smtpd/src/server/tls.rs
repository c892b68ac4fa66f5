//! TLS of inbound connections on OpenSSL: certificates by name, versions and ciphers, certificates of clients
//! (`smtp-hooks` 11). Contexts belong to a configuration generation, so a reload changes new handshakes only.

use crate::server::stream::Socket;
use config::app::{PeerCertificate, ServerTls as Settings};
use hsl_std::Credential;
use openssl::error::ErrorStack;
use openssl::ssl::{
    NameType, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_openssl::SslStream;

/// How long a client may take to shake hands.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(60);

/// Allowed versions unless the configuration says otherwise.
const PROTOCOLS: &str = "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1";

const VERSIONS: [(&str, SslVersion, SslOptions); 4] = [
    ("TLSv1", SslVersion::TLS1, SslOptions::NO_TLSV1),
    ("TLSv1.1", SslVersion::TLS1_1, SslOptions::NO_TLSV1_1),
    ("TLSv1.2", SslVersion::TLS1_2, SslOptions::NO_TLSV1_2),
    ("TLSv1.3", SslVersion::TLS1_3, SslOptions::NO_TLSV1_3),
];

/// What a handshake gave.
#[derive(Clone)]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub protocol: String,
    /// OpenSSL's name of the cipher.
    pub cipher: String,
    /// Symmetric bits.
    pub keysize_bits: i32,
    /// The name that the client asked for.
    pub sni: Option<String>,
    /// The client's certificate.
    pub peer: Option<PeerFacts>,
}

/// A certificate of a client.
#[derive(Clone)]
pub struct PeerFacts {
    /// The certificate.
    pub certificate: X509,
    /// With the certificates that came with it, itself first.
    pub chain: Vec<X509>,
    /// OpenSSL's verify result, 0 = good.
    pub error: i32,
}

/// Why a handshake failed.
#[derive(Debug)]
pub struct TlsFailure {
    /// For the log and the disconnect hook.
    pub reason: String,
    /// OpenSSL's error code, or the system's.
    pub code: i64,
}

/// The contexts of a server.
pub struct ServerTls {
    default: SslContext,
}

impl ServerTls {
    /// Builds the contexts for a server; none where it has no certificate.
    ///
    /// # Errors
    /// What the operator has to mend, with the key below `tls`.
    pub fn build(
        settings: &Settings,
        server_id: &str,
        keys: &HashMap<String, Credential>,
    ) -> Result<Option<ServerTls>, String> {
        let mut contexts = Vec::new();
        for (index, cert) in settings.certs.iter().enumerate() {
            let credential = keys.get(&cert.cert).ok_or_else(|| {
                let near = config::validate::suggestion(&cert.cert, keys.keys().map(String::as_str));
                format!("certs/{index}/cert: no key \"{}\" in pki.private{near}", cert.cert)
            })?;
            contexts.push((builder(settings, server_id, credential)?, cert));
        }
        let mut contexts = contexts.into_iter();
        let Some((mut default, first)) = contexts.next() else { return Ok(None) };
        let mut names = Names::default();
        let mut others = Vec::new();
        for name in &first.hosts {
            names.insert(name, None);
        }
        for (builder, cert) in contexts {
            for name in &cert.hosts {
                names.insert(name, Some(others.len()));
            }
            others.push(builder.build());
        }
        if !others.is_empty() {
            default.set_servername_callback(move |ssl, _alert| {
                let asked = ssl.servername(NameType::HOST_NAME).map(str::to_ascii_lowercase);
                if let Some(index) = asked.and_then(|name| names.find(&name))
                    && let Some(context) = others.get(index)
                {
                    // The default certificate is better than none where the library refuses the change.
                    let _ = ssl.set_ssl_context(context);
                }
                Ok(())
            });
        }
        Ok(Some(ServerTls { default: default.build() }))
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The client broke off, was too slow, or wants what is not allowed.
    pub async fn accept(&self, socket: Socket) -> Result<(Box<SslStream<Socket>>, TlsFacts), TlsFailure> {
        self.accept_within(socket, HANDSHAKE_PATIENCE).await
    }

    async fn accept_within(
        &self,
        socket: Socket,
        patience: Duration,
    ) -> Result<(Box<SslStream<Socket>>, TlsFacts), TlsFailure> {
        let setup = |error: ErrorStack| TlsFailure { reason: format!("TLS set-up: {error}"), code: 0 };
        let ssl = Ssl::new(&self.default).map_err(setup)?;
        let mut stream = Box::new(SslStream::new(ssl, socket).map_err(setup)?);
        match tokio::time::timeout(patience, Pin::new(&mut *stream).accept()).await {
            Err(_) => Err(TlsFailure { reason: "TLS handshake timed out".to_owned(), code: 0 }),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(())) => {
                let facts = facts(stream.ssl());
                Ok((stream, facts))
            }
        }
    }
}

fn failure(error: &openssl::ssl::Error) -> TlsFailure {
    let of_library = error.ssl_error().and_then(|stack| stack.errors().last());
    let of_system = error.io_error().and_then(std::io::Error::raw_os_error);
    let code = match (of_library, of_system) {
        (Some(error), _) => i64::try_from(error.code()).unwrap_or(0),
        (None, Some(code)) => code.into(),
        (None, None) => 0,
    };
    TlsFailure { reason: format!("TLS handshake: {error}"), code }
}

fn facts(ssl: &openssl::ssl::SslRef) -> TlsFacts {
    let cipher = ssl.current_cipher();
    TlsFacts {
        protocol: ssl.version_str().to_owned(),
        cipher: cipher.map(|cipher| cipher.name().to_owned()).unwrap_or_default(),
        keysize_bits: cipher.map_or(0, |cipher| cipher.bits().secret),
        sni: ssl.servername(NameType::HOST_NAME).map(str::to_owned),
        peer: ssl.peer_certificate().map(|certificate| {
            // On the server's side the library lists the chain without the certificate itself.
            let mut chain = vec![certificate.clone()];
            if let Some(more) = ssl.peer_cert_chain() {
                chain.extend(more.iter().map(openssl::x509::X509Ref::to_owned));
            }
            PeerFacts { certificate, chain, error: ssl.verify_result().as_raw() }
        }),
    }
}

fn builder(
    settings: &Settings,
    server_id: &str,
    credential: &Credential,
) -> Result<SslContextBuilder, String> {
    let failed = |error: ErrorStack| error.to_string();
    let mut context = SslContext::builder(SslMethod::tls_server()).map_err(failed)?;
    context.set_options(
        SslOptions::NO_RENEGOTIATION | SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::NO_COMPRESSION,
    );
    // Idle connections give their buffers back.
    context.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    set_protocols(&mut context, settings.protocols.as_deref().unwrap_or(PROTOCOLS))?;
    if let Some(ciphers) = &settings.ciphers {
        set_ciphers(&mut context, ciphers)?;
    }
    let certificate = credential
        .certificate
        .as_ref()
        .ok_or("certs: the key has no certificate, give one in pki.private[] of either file")?;
    context.set_certificate(certificate).map_err(failed)?;
    context.set_private_key(&credential.key.key).map_err(failed)?;
    for certificate in &credential.chain {
        context.add_extra_chain_cert(certificate.clone()).map_err(failed)?;
    }
    if settings.peercert != PeerCertificate::Never {
        context.set_default_verify_paths().map_err(failed)?;
        // A bad certificate is for the scripts to judge; the result stays in the session.
        context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    }
    // Sessions of other servers of this process, with other rules, are not taken up.
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha256(), server_id.as_bytes());
    context.set_session_id_context(&digest.map_err(failed)?).map_err(failed)?;
    Ok(context)
}

/// Reads a list such as `!TLSv1,!TLSv1.1`. Words with `!` take away from all, words without name the only ones.
fn set_protocols(context: &mut SslContextBuilder, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    let mut allowed = [!words.iter().any(|word| !word.starts_with('!')); 4];
    for word in words {
        let (name, on) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
        match VERSIONS.iter().position(|(known, ..)| *known == name) {
            Some(index) => allowed[index] = on,
            // Known, and never offered.
            None if matches!(name, "SSLv2" | "SSLv3") => {}
            None => {
                return Err(format!(
                    "protocols: \"{name}\" found, expected SSLv2, SSLv3, TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"
                ));
            }
        }
    }
    let lowest = allowed.iter().position(|on| *on).ok_or("protocols: no version is left")?;
    context.set_min_proto_version(Some(VERSIONS[lowest].1)).map_err(|error| error.to_string())?;
    for (on, (.., option)) in allowed.iter().zip(VERSIONS) {
        if !on {
            context.set_options(option);
        }
    }
    if lowest < 2 {
        // Their signatures are below the level that OpenSSL asks for.
        context.set_security_level(0);
    }
    Ok(())
}

/// TLS 1.3 suites and older ciphers stand in one string; OpenSSL takes them apart.
fn set_ciphers(context: &mut SslContextBuilder, text: &str) -> Result<(), String> {
    let (suites, ciphers): (Vec<&str>, Vec<&str>) =
        text.split(':').filter(|word| !word.is_empty()).partition(|word| word.starts_with("TLS_"));
    let failed = |error: ErrorStack| format!("ciphers: \"{text}\" is not usable: {error}");
    if !suites.is_empty() {
        context.set_ciphersuites(&suites.join(":")).map_err(failed)?;
    }
    if !ciphers.is_empty() {
        context.set_cipher_list(&ciphers.join(":")).map_err(failed)?;
    }
    Ok(())
}

/// Host names, exact or with `*.` for one label; none stands for the default certificate.
#[derive(Default)]
struct Names(HashMap<String, Option<usize>>);

impl Names {
    fn insert(&mut self, name: &str, index: Option<usize>) {
        // The first certificate that names a host wins.
        self.0.entry(name.to_ascii_lowercase()).or_insert(index);
    }

    fn find(&self, name: &str) -> Option<usize> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some(index) = self.0.get(name) {
            return *index;
        }
        let (_, parent) = name.split_once('.')?;
        self.0.get(&format!("*.{parent}")).copied().flatten()
    }
}

/// The TLS of a server, shared by its connections.
pub type SharedTls = Option<Arc<ServerTls>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let mut names = Names::default();
        names.insert("MX.example.net", None);
        names.insert("*.example.org", Some(0));
        names.insert("*.example.net", Some(1));
        for (name, found) in [
            ("mx.example.net", None),
            ("a.example.org", Some(0)),
            ("a.example.org.", Some(0)),
            ("a.b.example.org", None),
            ("example.org", None),
            ("b.example.net", Some(1)),
            ("org", None),
        ] {
            assert_eq!(names.find(name), found, "{name}");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_shake_hands_is_given_up() {
        assert_eq!(HANDSHAKE_PATIENCE.as_secs(), 60);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let tls = ServerTls { default: SslContext::builder(SslMethod::tls_server()).unwrap().build() };
        let patience = Duration::from_millis(200);
        let Err(failure) = tls.accept_within(Socket::Tcp(stream), patience).await else {
            panic!("nobody shook hands")
        };
        assert_eq!(failure.reason, "TLS handshake timed out");
    }

    #[test]
    fn wrong_versions_and_ciphers_are_told() {
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        assert!(set_protocols(&mut context, "!TLSv9").unwrap_err().contains("\"TLSv9\" found"));
        assert!(set_protocols(&mut context, "!TLSv1,!TLSv1.1,!TLSv1.2,!TLSv1.3").is_err());
        assert!(set_protocols(&mut context, "TLSv1.3").is_ok());
        assert!(set_ciphers(&mut context, "NO-SUCH").is_err());
        assert!(set_ciphers(&mut context, "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384").is_ok());
    }
}
