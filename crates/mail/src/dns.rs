//! What the checks of senders ask the DNS for, behind a trait: this crate does no IO.

use std::{future::Future, net::Ipv4Addr, net::Ipv6Addr, pin::Pin};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist, or cannot exist.
    #[error("no such domain")]
    NoDomain,
    /// The name exists without records of the type.
    #[error("no such record")]
    NoRecord,
    /// The servers or the way to them: another time it may work.
    #[error("{0}")]
    Temporary(String),
}

/// An answer under way.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Result<Vec<T>, DnsError>> + Send + 'a>>;

/// A resolver. Names come without final dot; empty answers are [`DnsError::NoRecord`].
pub trait Dns: Send + Sync {
    /// TXT records, the strings of each joined.
    fn txt<'a>(&'a self, name: &'a str) -> Lookup<'a, Vec<u8>>;
    /// A records.
    fn ipv4<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv4Addr>;
    /// AAAA records.
    fn ipv6<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv6Addr>;
    /// Hosts of MX records by preference.
    fn mx<'a>(&'a self, name: &'a str) -> Lookup<'a, String>;
    /// Names of PTR records.
    fn ptr<'a>(&'a self, name: &'a str) -> Lookup<'a, String>;
}
