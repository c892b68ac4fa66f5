//! The network below SMTP: resolver, next-hop choice, TLS and dialling from a source address.
//!
//! [`resolver`] asks name servers and remembers their answers, [`nexthop`] turns a destination into an ordered
//! list of addresses, [`dial`] connects to one of them and [`tls`] shakes hands.

pub mod dial;
pub mod nexthop;
pub mod resolver;
pub mod tls;

pub use hickory_proto::rr::RecordType;
pub use nexthop::{Candidate, HopError, Target};
pub use resolver::{DnsError, Resolver};
