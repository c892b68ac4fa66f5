//! What is known of a next hop beside its address: TLSA records, and that it stalls in TLS.

use net::tls::Tlsa;
use net::{DnsError, Resolver};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a stalled handshake is remembered.
const STALL_MEMORY: Duration = Duration::from_secs(3600);

/// Peers remembered.
const STALLED_MAX: usize = 10_000;

/// What DNS says about the certificate of a host (RFC 7672).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dane {
    /// Nothing that is signed.
    #[default]
    None,
    /// Signed records.
    Records {
        /// All of them.
        all: Arc<[Tlsa]>,
        /// Those that mail can use.
        usable: Arc<[Tlsa]>,
    },
    /// It cannot be known: the host is not to be used.
    Failed {
        /// For logs and reports.
        reason: String,
    },
}

/// `attempt.connection.tls.tlsa`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsaFacts {
    /// The records, all of them.
    Records(Arc<[Tlsa]>),
    /// They could not be had now.
    Failed,
}

impl Dane {
    /// Asks for the records of a host that was found through signed answers only.
    pub async fn find(resolver: &Resolver, host: &str, port: u16) -> Dane {
        match resolver.tlsa(host, port).await {
            (Ok(all), true) => {
                let usable = all.iter().filter(|record| record.is_usable()).cloned().collect();
                Dane::Records { all: all.into(), usable }
            }
            // Unsigned records, or that there are none: DANE does not apply (RFC 7672 2.2).
            (Ok(_) | Err(DnsError::NoData | DnsError::NxDomain | DnsError::BadName(_)), _) => Dane::None,
            (Err(error), _) => Dane::Failed { reason: error.to_string() },
        }
    }

    /// What scripts are told.
    pub fn facts(&self) -> Option<TlsaFacts> {
        match self {
            Dane::None => None,
            Dane::Records { all, .. } => Some(TlsaFacts::Records(all.clone())),
            Dane::Failed { .. } => Some(TlsaFacts::Failed),
        }
    }
}

/// Peers whose handshake ran out of time: where TLS is optional it is not waited for again for a while.
#[derive(Debug, Default)]
pub struct Stalled(Mutex<HashMap<IpAddr, Instant>>);

impl Stalled {
    /// Remembers one.
    pub fn note(&self, peer: IpAddr) {
        let mut known = self.0.lock();
        let now = Instant::now();
        if known.len() >= STALLED_MAX {
            known.retain(|_, since| now.duration_since(*since) < STALL_MEMORY);
        }
        if known.len() < STALLED_MAX {
            known.insert(peer, now);
        }
    }

    /// Whether it stalled lately.
    pub fn knows(&self, peer: IpAddr) -> bool {
        self.0.lock().get(&peer).is_some_and(|since| since.elapsed() < STALL_MEMORY)
    }
}
