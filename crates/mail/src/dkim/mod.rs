//! DKIM signatures (RFC 6376, RFC 8463): signing, and checking in two steps so that whoever asks for the key, a
//! resolver or a script, stays outside.
//!
//! The body is read piece by piece; only the header is in memory. A bare line feed counts as a line end, since that is
//! what it becomes on the way.

mod canon;
mod key;
mod sign;
pub mod tags;
mod verify;

pub use canon::{BodyHasher, Canonicalization};
pub use key::{KeyError, PublicKey, SigningKey};
pub(crate) use sign::fold_base64;
pub use sign::{ArcInstance, DEFAULT_HEADERS, SignOptions, sign};
pub use tags::{Tag, TagList};
pub use verify::{Failure, Signature, Verdict};
pub(crate) use verify::{SignatureKind, hash_header, without_value};

/// The algorithms of `a=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 6376, no longer to be used (RFC 8301); still verified.
    RsaSha1,
    /// RFC 6376.
    RsaSha256,
    /// RFC 8463.
    Ed25519Sha256,
}

impl Algorithm {
    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "rsa-sha1" => Self::RsaSha1,
            "rsa-sha256" => Self::RsaSha256,
            "ed25519-sha256" => Self::Ed25519Sha256,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RsaSha1 => "rsa-sha1",
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    pub(crate) fn digest(self) -> openssl::hash::MessageDigest {
        match self {
            Self::RsaSha1 => openssl::hash::MessageDigest::sha1(),
            Self::RsaSha256 | Self::Ed25519Sha256 => openssl::hash::MessageDigest::sha256(),
        }
    }
}

#[cfg(test)]
mod tests;
