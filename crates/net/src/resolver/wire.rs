//! Questions and answers on the wire (RFC 1035, 6891): one exchange with one server after the other.

use super::cache::Key;
use super::{DnsError, Settings};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Fits into one unfragmented packet everywhere (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;

/// Aliases followed in one answer.
const ALIASES_MAX: usize = 16;

pub(super) enum Reply {
    Records { records: Vec<RData>, authentic: bool, ttl_s: u32 },
    Negative { error: DnsError, authentic: bool, ttl_s: u32 },
}

/// Asks the servers in turn until one gives an answer; the error says what the last one did.
pub(super) async fn ask_servers(key: &Key, settings: &Settings) -> Result<Reply, DnsError> {
    let name =
        Name::from_ascii(format!("{}.", key.name)).map_err(|_| DnsError::BadName(key.name.to_string()))?;
    let mut error = DnsError::Temporary("no name server configured".to_owned());
    let tries = settings
        .servers
        .iter()
        .cycle()
        .take((settings.retries as usize + 1).max(settings.servers.len().min(3)));
    for &server in tries {
        match exchange(&name, key.kind, server, settings.timeout).await {
            Ok(mut message) => {
                message.metadata.authentic_data &= settings.dnssec.trusts(server);
                match read(&name, key.kind, message) {
                    Ok(reply) => return Ok(reply),
                    Err(code) => error = DnsError::Refused { server: server.to_string(), code },
                }
            }
            Err(text) => error = DnsError::Temporary(format!("{server}: {text}")),
        }
    }
    Err(error)
}

async fn exchange(
    name: &Name,
    kind: RecordType,
    server: SocketAddr,
    patience: Duration,
) -> Result<Message, String> {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.metadata.authentic_data = true;
    query.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX);
    query.set_edns(edns);
    let id = query.metadata.id;
    let bytes = query.to_vec().map_err(|error| error.to_string())?;
    let reply = tokio::time::timeout(patience, over_udp(&bytes, id, name, kind, server))
        .await
        .map_err(|_| "timeout".to_owned())??;
    if !reply.metadata.truncation {
        return Ok(reply);
    }
    tokio::time::timeout(patience, over_tcp(&bytes, id, name, kind, server))
        .await
        .map_err(|_| "timeout over TCP".to_owned())?
}

async fn over_udp(
    bytes: &[u8],
    id: u16,
    name: &Name,
    kind: RecordType,
    server: SocketAddr,
) -> Result<Message, String> {
    // A fresh socket has a fresh random port, and being connected it takes packets of this server only.
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let text = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind(local).await.map_err(text)?;
    socket.connect(server).await.map_err(text)?;
    socket.send(bytes).await.map_err(text)?;
    let mut buffer = [0u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(text)?;
        // Anything that is not the answer to this question is noise or forgery; keep waiting.
        if let Some(message) =
            Message::from_vec(&buffer[..length]).ok().filter(|m| answers(m, id, name, kind))
        {
            return Ok(message);
        }
    }
}

async fn over_tcp(
    bytes: &[u8],
    id: u16,
    name: &Name,
    kind: RecordType,
    server: SocketAddr,
) -> Result<Message, String> {
    let text = |error: std::io::Error| format!("TCP: {error}");
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    let length = u16::try_from(bytes.len()).map_err(|_| "question too long".to_owned())?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend_from_slice(bytes);
    stream.write_all(&packet).await.map_err(text)?;
    let length = stream.read_u16().await.map_err(text)?;
    let mut buffer = vec![0u8; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(text)?;
    let message = Message::from_vec(&buffer).map_err(|error| format!("malformed answer: {error}"))?;
    if answers(&message, id, name, kind) { Ok(message) } else { Err("answer to another question".to_owned()) }
}

fn answers(message: &Message, id: u16, name: &Name, kind: RecordType) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && matches!(&message.queries[..], [query] if query.query_type() == kind && query.name() == name)
}

fn read(name: &Name, kind: RecordType, message: Message) -> Result<Reply, ResponseCode> {
    let code = message.metadata.response_code;
    if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
        return Err(code);
    }
    let mut owner = name.clone();
    let mut ttl_s = u32::MAX;
    for _ in 0..ALIASES_MAX {
        let mut records = Vec::new();
        for record in message.answers.iter().filter(|r| r.record_type() == kind && r.name == owner) {
            ttl_s = ttl_s.min(record.ttl);
            records.push(record.data.clone());
        }
        if !records.is_empty() {
            return Ok(Reply::Records { records, authentic: message.metadata.authentic_data, ttl_s });
        }
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        ttl_s = ttl_s.min(ttl);
        owner = target;
    }
    // RFC 2308 5: the lesser of the SOA's own time to live and its minimum field.
    let soa_ttl = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let error = if code == ResponseCode::NXDomain { DnsError::NxDomain } else { DnsError::NoData };
    let authentic = message.metadata.authentic_data;
    Ok(Reply::Negative { error, authentic, ttl_s: soa_ttl.unwrap_or(0).min(ttl_s) })
}

/// A name as text: lower case, without final dot; the root is `.`.
pub(super) fn plain_name(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some("") | None => text,
        Some(plain) => plain.to_owned(),
    }
}

/// The name under which an address has its PTR records.
pub(super) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles: Vec<String> = v6
                .octets()
                .iter()
                .rev()
                .flat_map(|byte| [byte & 15, byte >> 4])
                .map(|n| format!("{n:x}"))
                .collect();
            format!("{}.ip6.arpa", nibbles.join("."))
        }
    }
}
