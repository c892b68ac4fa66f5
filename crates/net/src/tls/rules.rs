//! How a connection is to be encrypted, as configuration and scripts say it.

use openssl::ssl::{SslContextBuilder, SslOptions, SslVersion};

/// Allowed versions unless the configuration says otherwise.
const PROTOCOLS: &str = "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1";

const VERSIONS: [(&str, SslVersion, SslOptions); 4] = [
    ("TLSv1", SslVersion::TLS1, SslOptions::NO_TLSV1),
    ("TLSv1.1", SslVersion::TLS1_1, SslOptions::NO_TLSV1_1),
    ("TLSv1.2", SslVersion::TLS1_2, SslOptions::NO_TLSV1_2),
    ("TLSv1.3", SslVersion::TLS1_3, SslOptions::NO_TLSV1_3),
];

/// How much encryption is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// None.
    Disabled,
    /// When offered.
    #[default]
    Optional,
    /// When offered, and then with a trusted chain.
    OptionalVerify,
    /// Always.
    Require,
    /// Always, with a trusted chain.
    RequireVerify,
    /// DANE where there are records, else when offered.
    Dane,
    /// DANE always.
    DaneRequire,
    /// DANE where there are records, else always.
    DaneFallbackRequire,
    /// DANE where there are records, else always with a trusted chain.
    DaneFallbackRequireVerify,
}

impl Mode {
    /// All modes with their names in configuration and scripts.
    pub const ALL: [(&'static str, Mode); 9] = [
        ("disabled", Mode::Disabled),
        ("optional", Mode::Optional),
        ("optional_verify", Mode::OptionalVerify),
        ("require", Mode::Require),
        ("require_verify", Mode::RequireVerify),
        ("dane", Mode::Dane),
        ("dane_require", Mode::DaneRequire),
        ("dane_fallback_require", Mode::DaneFallbackRequire),
        ("dane_fallback_require_verify", Mode::DaneFallbackRequireVerify),
    ];

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, mode)| mode)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Mode::ALL.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    /// True for those that ask for TLSA records.
    pub fn uses_dane(self) -> bool {
        matches!(
            self,
            Mode::Dane | Mode::DaneRequire | Mode::DaneFallbackRequire | Mode::DaneFallbackRequireVerify
        )
    }

    fn verifies(self) -> bool {
        matches!(self, Mode::OptionalVerify | Mode::RequireVerify | Mode::DaneFallbackRequireVerify)
    }
}

/// The name that the peer is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sni {
    /// None, unless a check of names or DANE needs it.
    #[default]
    None,
    /// That of the host connected to.
    Host,
    /// This one.
    Name(String),
}

/// Everything about the encryption of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How much.
    pub mode: Mode,
    /// From the first byte, without STARTTLS.
    pub implicit: bool,
    /// The name that the peer is told.
    pub sni: Sni,
    /// Allowed or, with `!`, forbidden versions, separated by commas.
    pub protocols: Option<String>,
    /// Ciphers in OpenSSL's form.
    pub ciphers: Option<String>,
    /// The certificate must carry the name of the host connected to.
    pub verify_host: bool,
    /// The certificate must carry one of these names.
    pub verify_names: Vec<String>,
    /// Trust the roots of the system; modes that verify do so anyway.
    pub default_ca: bool,
    /// Id of our own certificate.
    pub client_cert: Option<String>,
}

/// What a context of the library is made of.
pub(super) type ContextKey = (Option<String>, Option<String>, bool, Option<String>);

impl Rules {
    pub(super) fn context_key(&self) -> ContextKey {
        (self.protocols.clone(), self.ciphers.clone(), self.trusts_system(), self.client_cert.clone())
    }

    /// There is no other trust than that in the system's roots, so a mode that verifies has it.
    pub(super) fn trusts_system(&self) -> bool {
        self.default_ca || self.mode.verifies()
    }

    /// Names of the certificate matter.
    pub fn checks_names(&self) -> bool {
        self.verify_host || !self.verify_names.is_empty()
    }
}

/// Words with `!` take away from all versions, words without name the only ones.
pub(super) fn set_protocols(context: &mut SslContextBuilder, protocols: Option<&str>) -> Result<(), String> {
    let text = protocols.unwrap_or(PROTOCOLS);
    let words: Vec<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    let mut allowed = [!words.iter().any(|word| !word.starts_with('!')); 4];
    for word in words {
        let (name, on) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
        match VERSIONS.iter().position(|(known, ..)| *known == name) {
            Some(index) => allowed[index] = on,
            // Words that are known and never offered.
            None if matches!(name, "SSLv2" | "SSLv3") => {}
            None => {
                return Err(format!(
                    "protocols: unknown '{name}', expected SSLv2, SSLv3, TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"
                ));
            }
        }
    }
    let lowest = allowed.iter().position(|allowed| *allowed);
    let lowest = lowest.ok_or_else(|| format!("protocols: '{text}' leaves none"))?;
    context.set_min_proto_version(Some(VERSIONS[lowest].1)).map_err(|error| error.to_string())?;
    for (allowed, (.., option)) in allowed.iter().zip(VERSIONS) {
        if !allowed {
            context.set_options(option);
        }
    }
    if allowed[0] || allowed[1] {
        // Their signatures are below the level that OpenSSL asks for.
        context.set_security_level(0);
    }
    Ok(())
}
