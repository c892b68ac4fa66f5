//! Private keys: the resources of `rsa_privatekey`, `ec_privatekey` and `ed25519_privatekey`, and the credentials that
//! signing functions and TLS accept.

use crate::environment::{Credential, Environment};
use hsl::{Error, Resource, Value};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::X509;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// An elliptic curve of NIST.
    Ec,
    /// Ed25519.
    Ed25519,
}

/// A private key, as a resource shared between executions.
#[derive(Clone)]
pub struct PrivateKey {
    /// What it is for.
    pub kind: KeyKind,
    /// The key.
    pub key: PKey<Private>,
}

/// Curves of `ec_privatekey`.
const CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];

impl PrivateKey {
    /// Wraps a key of a supported algorithm.
    pub fn new(key: PKey<Private>) -> Option<PrivateKey> {
        let kind = match key.id() {
            Id::RSA => KeyKind::Rsa,
            Id::ED25519 => KeyKind::Ed25519,
            Id::EC => {
                let curve = key.ec_key().ok()?.group().curve_name()?;
                CURVES.contains(&curve).then_some(KeyKind::Ec)?
            }
            _ => return None,
        };
        Some(PrivateKey { kind, key })
    }

    /// Reads PEM: PKCS#8, PKCS#1 or SEC1. Encrypted keys are refused.
    pub fn from_pem(text: &[u8]) -> Option<PrivateKey> {
        // The callback keeps OpenSSL from asking at the terminal.
        let key =
            PKey::private_key_from_pem_callback(text, |_| Err(openssl::error::ErrorStack::get())).ok()?;
        PrivateKey::new(key)
    }

    /// The Ed25519 key of 32 bytes (the seed), or of 64 (seed and public key).
    pub fn from_ed25519_bytes(bytes: &[u8]) -> Option<PrivateKey> {
        if !matches!(bytes.len(), 32 | 64) {
            return None;
        }
        let key = PKey::private_key_from_raw_bytes(&bytes[..32], Id::ED25519).ok()?;
        Some(PrivateKey { kind: KeyKind::Ed25519, key })
    }

    /// The RSA key, for RSA.
    pub fn rsa(&self) -> Option<Rsa<Private>> {
        self.key.rsa().ok()
    }

    /// As a value of scripts.
    pub fn into_value(self) -> Value {
        Value::Resource(Resource::new(self, true))
    }

    /// The key behind a value.
    pub fn of(value: &Value) -> Option<&PrivateKey> {
        match value {
            Value::Resource(resource) => resource.data(),
            _ => None,
        }
    }
}

/// A certificate as a resource.
pub fn certificate_value(certificate: X509) -> Value {
    Value::Resource(Resource::new(certificate, true))
}

/// The certificate behind a resource or an object of class `X509`.
pub(crate) fn certificate_of(value: &Value) -> Option<X509> {
    match value {
        Value::Resource(resource) => resource.data::<X509>().cloned(),
        Value::Object(object) => super::x509::certificate(object).cloned(),
        _ => None,
    }
}

/// The certificates of a list.
pub(crate) fn certificates_of(value: Option<&Value>) -> Option<Vec<X509>> {
    match value {
        None | Some(Value::None) => Some(Vec::new()),
        Some(Value::Array(list)) => list.values().map(certificate_of).collect(),
        Some(_) => None,
    }
}

/// All certificates of a PEM text, and its key.
fn bundle(text: &[u8]) -> Option<Credential> {
    let mut certificates = X509::stack_from_pem(text).ok()?.into_iter();
    Some(Credential {
        key: PrivateKey::from_pem(text)?,
        certificate: certificates.next(),
        chain: certificates.collect(),
    })
}

/// What stands in a parameter `certificate` or an option `tls_client_cert`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// The id of a configured key.
    Id,
    /// A PEM bundle.
    Pem,
}

/// The credential of a value: an array with `x509`, `privatekey` and `chain`, or text. `None` when it is not usable.
pub(crate) fn credential(value: &Value, text: Text, environment: &Environment) -> Option<Credential> {
    match value {
        Value::Array(parts) => Some(Credential {
            key: PrivateKey::of(parts.get_str("privatekey")?)?.clone(),
            certificate: Some(certificate_of(parts.get_str("x509")?)?),
            chain: certificates_of(parts.get_str("chain"))?,
        }),
        Value::Str(s) if text == Text::Id => environment.keys.get(&*s.to_text()).cloned(),
        Value::Str(s) => bundle(s.as_bytes()),
        _ => None,
    }
}

/// The credential of the option `tls_client_cert`.
///
/// # Errors
/// An exception that names the option.
pub(crate) fn client_credential(value: &Value, environment: &Environment) -> Result<Credential, Error> {
    credential(value, Text::Id, environment).filter(|c| c.certificate.is_some()).ok_or_else(|| {
        Error::exception(match value {
            Value::Str(id) => {
                format!("Option 'tls_client_cert': no key with id '{}' is configured", id.to_text())
            }
            _ => "Option 'tls_client_cert' expects an id or an array with x509 and privatekey".to_owned(),
        })
    })
}
