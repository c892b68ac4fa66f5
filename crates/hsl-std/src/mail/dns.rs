//! The resolver behind the checks of senders.

use crate::environment::Environment;
use hickory_proto::rr::{RData, RecordType};
use hsl::{Array, Error, Value};
use mail::dns::{Dns, DnsError, Lookup};
use net::Resolver;
use net::resolver::Settings;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Seconds for a query unless an option says otherwise.
const TIMEOUT_S: f64 = 5.0;
/// Longest patience that still means something, seconds.
const TIMEOUT_MAX_S: f64 = 3600.0;

/// A resolver with a limit of time for each query.
#[derive(Clone)]
pub(super) struct MailDns {
    resolver: Resolver,
    timeout: Duration,
}

impl MailDns {
    /// The resolver of the process, or the servers of the options `servers` and `port`; option `timeout`.
    pub(super) fn read(options: &Array, environment: &Environment) -> Result<MailDns, Error> {
        let seconds = options.get_str("timeout").map_or(TIMEOUT_S, Value::to_number);
        let timeout =
            Duration::from_secs_f64(if seconds > 0.0 { seconds.min(TIMEOUT_MAX_S) } else { TIMEOUT_S });
        let port = options.get_str("port").map_or(53.0, Value::to_number);
        if !(1.0..=65535.0).contains(&port) {
            return Err(Error::exception(format!("Option 'port' is {port}, expected 1 to 65535")));
        }
        let mut servers = Vec::new();
        if let Some(Value::Array(list)) = options.get_str("servers") {
            for server in list.values() {
                let text = server.to_string_lossy();
                let address: IpAddr = text
                    .parse()
                    .map_err(|_| Error::exception(format!("Option 'servers': '{text}' is no address")))?;
                // In range, as checked above.
                servers.push(SocketAddr::new(address, port as u16));
            }
        }
        let resolver = if servers.is_empty() {
            environment.resolver.clone()
        } else {
            // A try with each server must fit.
            let part = timeout / u32::try_from(servers.len()).unwrap_or(1).max(1);
            Resolver::new(Settings { servers, timeout: part, retries: 0, ..Default::default() })
        };
        Ok(MailDns { resolver, timeout })
    }

    async fn query(&self, name: &str, kind: RecordType) -> Result<Arc<net::resolver::Answer>, DnsError> {
        let answer = tokio::time::timeout(self.timeout, self.resolver.query(name, kind)).await;
        match answer {
            Err(_) => Err(DnsError::Temporary("timed out".to_owned())),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(net::DnsError::NxDomain | net::DnsError::BadName(_))) => Err(DnsError::NoDomain),
            Ok(Err(net::DnsError::NoData)) => Err(DnsError::NoRecord),
            Ok(Err(error)) => Err(DnsError::Temporary(error.to_string())),
        }
    }

    fn records<'a, T: Send + 'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T> + Send + 'a,
    ) -> Lookup<'a, T> {
        Box::pin(async move {
            let answer = self.query(name, kind).await?;
            let list: Vec<T> = answer.records.iter().filter_map(read).collect();
            if list.is_empty() { Err(DnsError::NoRecord) } else { Ok(list) }
        })
    }
}

fn plain(name: &hickory_proto::rr::Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').filter(|plain| !plain.is_empty()).unwrap_or(&text).to_owned()
}

impl Dns for MailDns {
    fn txt<'a>(&'a self, name: &'a str) -> Lookup<'a, Vec<u8>> {
        self.records(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect()),
            _ => None,
        })
    }

    fn ipv4<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv4Addr> {
        self.records(name, RecordType::A, |data| if let RData::A(a) = data { Some(a.0) } else { None })
    }

    fn ipv6<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv6Addr> {
        self.records(name, RecordType::AAAA, |data| if let RData::AAAA(a) = data { Some(a.0) } else { None })
    }

    fn mx<'a>(&'a self, name: &'a str) -> Lookup<'a, String> {
        Box::pin(async move {
            let answer = self.query(name, RecordType::MX).await?;
            let mut list: Vec<(u16, String)> = answer
                .records
                .iter()
                .filter_map(|data| match data {
                    RData::MX(mx) => Some((mx.preference, plain(&mx.exchange))),
                    _ => None,
                })
                .collect();
            list.sort();
            if list.is_empty() {
                Err(DnsError::NoRecord)
            } else {
                Ok(list.into_iter().map(|(_, host)| host).collect())
            }
        })
    }

    fn ptr<'a>(&'a self, name: &'a str) -> Lookup<'a, String> {
        self.records(name, RecordType::PTR, |data| {
            if let RData::PTR(name) = data { Some(plain(&name.0)) } else { None }
        })
    }
}
