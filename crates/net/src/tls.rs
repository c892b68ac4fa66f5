//! TLS of outgoing connections, on OpenSSL: rules, handshakes, and what a peer has to prove in them.
//!
//! The library judges the chain but does not end the handshake over it; [`Proof`] is asked for afterwards, before
//! anything is sent. So that a connection without requirements still tells what is wrong with its certificate.

mod dane;
mod names;
mod rules;

pub use dane::Tlsa;
pub use names::matches_name;
pub use rules::{Mode, Rules, Sni};

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslMode, SslRef, SslVerifyMode};
use openssl::x509::{X509, X509VerifyResult};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

/// Contexts remembered; a script that makes up rules does not fill the memory.
const CONTEXTS_MAX: usize = 1000;

/// What a handshake gave.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub protocol: String,
    /// OpenSSL's name of the cipher.
    pub cipher: String,
    /// Symmetric bits.
    pub keysize_bits: i32,
    /// The peer's certificate.
    pub peer: Option<PeerFacts>,
}

/// A certificate of a peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// The certificate.
    pub certificate: X509,
    /// The others that came with it.
    pub chain: Vec<X509>,
    /// What OpenSSL has against the chain.
    pub error: Option<String>,
}

/// What the peer has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// A chain to a trusted root.
    Chain,
    /// DANE (RFC 7672): one of these records, which are usable.
    Dane {
        /// The records.
        records: Arc<[Tlsa]>,
        /// Names that a certificate below a trust anchor may carry.
        names: Vec<String>,
    },
}

/// Why TLS did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The library cannot be set up as the rules want it: ours.
    #[error("TLS set-up: {0}")]
    Setup(String),
    /// The chain leads to no trusted root.
    #[error("certificate of {name}: {reason}")]
    Untrusted {
        /// The host.
        name: String,
        /// OpenSSL's words.
        reason: String,
    },
    /// The certificate is too old, or too new.
    #[error("certificate of {name}: {reason}")]
    Expired {
        /// The host.
        name: String,
        /// OpenSSL's words.
        reason: String,
    },
    /// The certificate is for others.
    #[error("certificate of {name}: not for {expected}")]
    OtherName {
        /// The host.
        name: String,
        /// The names looked for.
        expected: String,
    },
    /// No TLSA record fits.
    #[error("certificate of {name}: no TLSA record matches")]
    Dane {
        /// The host.
        name: String,
    },
    /// The handshake broke off.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// The peer did not answer in time.
    #[error("TLS handshake timed out")]
    Timeout,
}

impl From<ErrorStack> for TlsError {
    fn from(error: ErrorStack) -> TlsError {
        TlsError::Setup(error.to_string())
    }
}

impl TlsError {
    /// The result type of RFC 8460 4.3.
    pub fn report(&self) -> &'static str {
        match self {
            TlsError::Untrusted { .. } => "certificate-not-trusted",
            TlsError::Expired { .. } => "certificate-expired",
            TlsError::OtherName { .. } => "certificate-host-mismatch",
            TlsError::Dane { .. } | TlsError::Setup(_) | TlsError::Handshake(_) | TlsError::Timeout => {
                "validation-failure"
            }
        }
    }
}

/// A certificate of our own, shown to peers that ask.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: X509,
    /// Its key.
    pub key: PKey<Private>,
    /// Certificates between it and a root.
    pub chain: Vec<X509>,
}

/// Makes handshakes; holds the library's contexts and is cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    inner: Arc<Inner>,
}

struct Inner {
    identities: HashMap<String, Identity>,
    contexts: Mutex<HashMap<rules::ContextKey, SslContext>>,
}

impl TlsClient {
    /// With certificates of our own by id.
    pub fn new(identities: HashMap<String, Identity>) -> TlsClient {
        TlsClient { inner: Arc::new(Inner { identities, contexts: Mutex::default() }) }
    }

    /// Whether the rules can be followed.
    ///
    /// # Errors
    /// The key that is wrong, and how.
    pub fn check(&self, rules: &Rules) -> Result<(), String> {
        self.context(rules).map(|_| ())
    }

    fn context(&self, rules: &Rules) -> Result<SslContext, String> {
        let key = rules.context_key();
        if let Some(context) = self.inner.contexts.lock().get(&key) {
            return Ok(context.clone());
        }
        let failed = |error: ErrorStack| error.to_string();
        let mut context = SslContext::builder(SslMethod::tls_client()).map_err(failed)?;
        // Idle connections give their buffers back.
        context.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
        rules::set_protocols(&mut context, rules.protocols.as_deref())?;
        if let Some(ciphers) = &rules.ciphers {
            let unusable = |_| format!("ciphers: '{ciphers}' names no usable cipher");
            context.set_cipher_list(ciphers).map_err(unusable)?;
        }
        if rules.trusts_system() {
            context.set_default_verify_paths().map_err(failed)?;
        }
        if let Some(id) = &rules.client_cert {
            let identity = self.inner.identities.get(id);
            let identity = identity
                .ok_or_else(|| format!("clientcert: no key \"{id}\" with a certificate in pki.private"))?;
            context.set_certificate(&identity.certificate).map_err(failed)?;
            context.set_private_key(&identity.key).map_err(failed)?;
            for certificate in &identity.chain {
                context.add_extra_chain_cert(certificate.clone()).map_err(failed)?;
            }
        }
        // The result stays in the session and is looked at after the handshake.
        context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        let context = context.build();
        let mut contexts = self.inner.contexts.lock();
        if contexts.len() >= CONTEXTS_MAX {
            contexts.clear();
        }
        contexts.insert(key, context.clone());
        Ok(context)
    }

    /// Shakes hands with `host` and sees that it proves what it has to. Facts of a handshake are given with its error
    /// where it got so far.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &str,
        rules: &Rules,
        proof: &Proof,
        patience: Duration,
    ) -> Result<(SslStream<S>, TlsFacts), (TlsError, Option<TlsFacts>)> {
        let early = |error: TlsError| (error, None);
        let setup = |error: ErrorStack| early(error.into());
        let context = self.context(rules).map_err(|text| early(TlsError::Setup(text)))?;
        let mut ssl = Ssl::new(&context).map_err(setup)?;
        let sni = match &rules.sni {
            Sni::Name(name) => Some(name.as_str()),
            Sni::Host => Some(host),
            // RFC 7672 8.1; and whoever checks a name asks for it.
            Sni::None if rules.verify_host || matches!(proof, Proof::Dane { .. }) => Some(host),
            Sni::None => None,
        };
        if let Some(name) = sni.filter(|name| name.parse::<IpAddr>().is_err()) {
            ssl.set_hostname(name.trim_end_matches('.')).map_err(setup)?;
        }
        let mut stream = SslStream::new(ssl, stream).map_err(setup)?;
        match tokio::time::timeout(patience, Pin::new(&mut stream).connect()).await {
            Err(_) => Err(early(TlsError::Timeout)),
            Ok(Err(error)) => Err(early(TlsError::Handshake(error.to_string()))),
            Ok(Ok(())) => {
                let facts = facts(stream.ssl());
                match prove(stream.ssl(), &facts, host, rules, proof) {
                    Ok(()) => Ok((stream, facts)),
                    Err(error) => Err((error, Some(facts))),
                }
            }
        }
    }
}

fn facts(ssl: &SslRef) -> TlsFacts {
    let cipher = ssl.current_cipher();
    let result = ssl.verify_result();
    TlsFacts {
        protocol: ssl.version_str().to_owned(),
        cipher: cipher.map(|cipher| cipher.name().to_owned()).unwrap_or_default(),
        keysize_bits: cipher.map_or(0, |cipher| cipher.bits().secret),
        peer: ssl.peer_certificate().map(|certificate| PeerFacts {
            certificate,
            // On the client's side the library lists the certificate itself first.
            chain: ssl
                .peer_cert_chain()
                .map(|chain| chain.iter().skip(1).map(ToOwned::to_owned).collect())
                .unwrap_or_default(),
            error: (result != X509VerifyResult::OK).then(|| result.error_string().to_owned()),
        }),
    }
}

fn prove(ssl: &SslRef, facts: &TlsFacts, host: &str, rules: &Rules, proof: &Proof) -> Result<(), TlsError> {
    let name = || host.to_owned();
    let Some(peer) = &facts.peer else {
        let nothing_asked = *proof == Proof::None && !rules.checks_names();
        let reason = "none was sent".to_owned();
        return if nothing_asked { Ok(()) } else { Err(TlsError::Untrusted { name: name(), reason }) };
    };
    if let Proof::Dane { records, names } = proof {
        // RFC 7671 5.1: with usage 3 neither names nor dates matter; so nothing else is asked.
        let is_proven = dane::proves(records, names, &peer.certificate, &peer.chain)?;
        return if is_proven { Ok(()) } else { Err(TlsError::Dane { name: name() }) };
    }
    if *proof == Proof::Chain {
        let result = ssl.verify_result();
        let reason = result.error_string().to_owned();
        match result.as_raw() {
            openssl_sys::X509_V_OK => {}
            openssl_sys::X509_V_ERR_CERT_HAS_EXPIRED | openssl_sys::X509_V_ERR_CERT_NOT_YET_VALID => {
                return Err(TlsError::Expired { name: name(), reason });
            }
            _ => return Err(TlsError::Untrusted { name: name(), reason }),
        }
    }
    if rules.checks_names() {
        let mut expected: Vec<&str> = rules.verify_names.iter().map(String::as_str).collect();
        if rules.verify_host {
            expected.push(host);
        }
        if !expected.iter().any(|expected| matches_name(&peer.certificate, expected)) {
            return Err(TlsError::OtherName { name: name(), expected: expected.join(", ") });
        }
    }
    Ok(())
}
