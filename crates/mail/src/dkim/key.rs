//! Keys: private ones for signing, public ones as DNS publishes them (RFC 6376 3.6.1, RFC 8463 4).

use base64::Engine as _;
use openssl::{
    hash::MessageDigest,
    pkey::{Id, PKey, Private, Public},
    rsa::Rsa,
    sign::{Signer, Verifier},
};

use super::{Algorithm, TagList};
use crate::MailError;

/// RSA keys below this are refused (RFC 8301 3.2).
const RSA_BITS_MIN: u32 = 1024;

/// A private key for signing.
#[derive(Clone)]
pub struct SigningKey(PKey<Private>);

impl SigningKey {
    /// From a key of OpenSSL; `None` if it is neither RSA nor Ed25519.
    pub fn new(key: PKey<Private>) -> Option<Self> {
        matches!(key.id(), Id::RSA | Id::ED25519).then_some(Self(key))
    }

    /// From PEM (PKCS#8 or PKCS#1); `None` if it is no such key.
    pub fn from_pem(text: &[u8]) -> Option<Self> {
        // The callback keeps OpenSSL from asking for a password at the terminal.
        let key =
            PKey::private_key_from_pem_callback(text, |_| Err(openssl::error::ErrorStack::get())).ok()?;
        Self::new(key)
    }

    /// The algorithm it is for unless another is named.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.id() == Id::ED25519 { Algorithm::Ed25519Sha256 } else { Algorithm::RsaSha256 }
    }

    /// Signs the canonical header.
    pub(crate) fn sign(&self, algorithm: Algorithm, data: &[u8]) -> Result<Vec<u8>, MailError> {
        let failed = |error: openssl::error::ErrorStack| MailError::Crypto(format!("signing: {error}"));
        if (self.algorithm() == Algorithm::Ed25519Sha256) != (algorithm == Algorithm::Ed25519Sha256) {
            return Err(MailError::Crypto(format!("the key is not for {}", algorithm.name())));
        }
        if algorithm == Algorithm::Ed25519Sha256 {
            // RFC 8463 3: the digest is what is signed.
            let digest = openssl::hash::hash(MessageDigest::sha256(), data).map_err(failed)?;
            let mut signer = Signer::new_without_digest(&self.0).map_err(failed)?;
            return signer.sign_oneshot_to_vec(&digest).map_err(failed);
        }
        let mut signer = Signer::new(algorithm.digest(), &self.0).map_err(failed)?;
        signer.sign_oneshot_to_vec(data).map_err(failed)
    }
}

/// Why a published key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum KeyError {
    #[error("no key record")]
    NotARecord,
    #[error("key is of version {0}")]
    Version(String),
    #[error("key is revoked")]
    Revoked,
    #[error("unknown key type {0}")]
    Type(String),
    #[error("key cannot be read")]
    Data,
    #[error("RSA key of {0} bits is too short")]
    Short(u32),
}

/// A published key.
#[derive(Clone)]
pub struct PublicKey {
    key: PKey<Public>,
    ed25519: bool,
    /// Digests it is for; empty for all.
    digests: Vec<String>,
    /// Services it is for; empty for all.
    services: Vec<String>,
    /// `i=` must be of the domain itself.
    pub(crate) strict: bool,
}

impl PublicKey {
    /// Reads a TXT record.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(record: &[u8]) -> Result<Self, KeyError> {
        let tags = TagList::parse(record).ok_or(KeyError::NotARecord)?;
        if let Some(version) = tags.word("v").filter(|version| version != "DKIM1") {
            return Err(KeyError::Version(version));
        }
        let data = tags.word("p").ok_or(KeyError::NotARecord)?;
        if data.is_empty() {
            return Err(KeyError::Revoked);
        }
        let data = base64::engine::general_purpose::STANDARD.decode(data).map_err(|_| KeyError::Data)?;
        let kind = tags.word("k").unwrap_or_else(|| "rsa".to_owned());
        let list = |name: &str| -> Vec<String> {
            let words = tags.word(name).unwrap_or_default();
            words.split(':').filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
        };
        let ed25519 = kind.eq_ignore_ascii_case("ed25519");
        let key = if ed25519 {
            PKey::public_key_from_raw_bytes(&data, Id::ED25519).map_err(|_| KeyError::Data)?
        } else if kind.eq_ignore_ascii_case("rsa") {
            // SubjectPublicKeyInfo, or RSAPublicKey as RFC 6376 3.6.1 has it.
            let rsa = Rsa::public_key_from_der(&data).or_else(|_| Rsa::public_key_from_der_pkcs1(&data));
            let rsa = rsa.map_err(|_| KeyError::Data)?;
            let bits = rsa.size() * 8;
            if bits < RSA_BITS_MIN {
                return Err(KeyError::Short(bits));
            }
            PKey::from_rsa(rsa).map_err(|_| KeyError::Data)?
        } else {
            return Err(KeyError::Type(kind));
        };
        let strict = list("t").iter().any(|flag| flag == "s");
        Ok(Self { key, ed25519, digests: list("h"), services: list("s"), strict })
    }

    /// Whether the key is for an algorithm and for mail.
    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        let digest = if algorithm == Algorithm::RsaSha1 { "sha1" } else { "sha256" };
        self.ed25519 == (algorithm == Algorithm::Ed25519Sha256)
            && (self.digests.is_empty() || self.digests.iter().any(|known| known == digest))
            && (self.services.is_empty()
                || self.services.iter().any(|known| known == "*" || known == "email"))
    }

    /// Whether the signature over the canonical header is good.
    pub(crate) fn verify(&self, algorithm: Algorithm, data: &[u8], signature: &[u8]) -> bool {
        // What OpenSSL cannot even read is a bad signature.
        if self.ed25519 {
            let Ok(digest) = openssl::hash::hash(MessageDigest::sha256(), data) else { return false };
            return Verifier::new_without_digest(&self.key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, &digest))
                .unwrap_or(false);
        }
        Verifier::new(algorithm.digest(), &self.key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, data))
            .unwrap_or(false)
    }
}
