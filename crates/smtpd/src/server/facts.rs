//! What scripts, logs and stored messages are told about a connection and its transaction.

use crate::server::tls::TlsFacts;
use mail::Address;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// `$connection`.
#[derive(Clone)]
pub struct Connection {
    /// Differs from every transaction id.
    pub id: Uuid,
    /// Of the connection; 0 unless the connect hook set it.
    pub priority: f64,
    /// Address of the client, as text; scripts may replace it.
    pub remote_ip: String,
    /// TCP port of the client.
    pub remote_port: u16,
    /// Name of the client, confirmed by a forward lookup.
    pub remote_ptr: Option<String>,
    /// User of the client, at a Unix socket.
    pub remote_uid: Option<u32>,
    /// Our address.
    pub local: SocketAddr,
    /// `servers[].id`.
    pub server_id: String,
    /// The live stage whose configuration it has.
    pub stage_id: Option<Arc<str>>,
    /// The proxy that the connection came through.
    pub proxy: Option<Proxy>,
    /// Verb and host of an accepted greeting.
    pub helo: Option<(&'static str, String)>,
    /// Encryption.
    pub tls: Option<Arc<TlsFacts>>,
    /// Who the client is.
    pub auth: Option<Authenticated>,
}

/// What a PROXY header told besides the addresses.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Address of the proxy.
    pub ip: String,
    /// Values of version 2, hexadecimal.
    pub tlv: Option<String>,
}

/// The result of AUTH.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// In upper case.
    pub mechanism: String,
    /// Absent where the script accepted without a name.
    pub username: Option<Vec<u8>>,
}

/// One accepted recipient.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The address, as the rcptto hook left it.
    pub address: Address,
    /// RCPT parameters.
    pub parameters: Vec<(String, String)>,
    /// From the server's default or the rcptto hook.
    pub transport: Option<String>,
    /// What scripts see; made once, so that a hook at each of many recipients does not build those before again.
    pub(crate) value: OnceLock<hsl::Value>,
}

impl Recipient {
    /// An accepted one.
    pub fn new(address: Address, parameters: Vec<(String, String)>, transport: Option<String>) -> Recipient {
        Recipient { address, parameters, transport, value: OnceLock::new() }
    }
}

/// `$transaction`.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Message id of what gets queued.
    pub id: Uuid,
    /// Seconds since the epoch when MAIL was accepted.
    pub ts_s: f64,
    /// The sender, as the mailfrom hook left it.
    pub sender: Option<Address>,
    /// MAIL parameters.
    pub sender_parameters: Vec<(String, String)>,
    /// Accepted recipients in order.
    pub recipients: Vec<Recipient>,
}

impl Transaction {
    /// An empty one.
    pub fn new(id: Uuid) -> Transaction {
        Transaction { id, ts_s: 0.0, sender: None, sender_parameters: Vec::new(), recipients: Vec::new() }
    }
}

/// `$arguments` of the disconnect hook.
#[derive(Clone, Debug, Default)]
pub struct Goodbye {
    /// The client closed first.
    pub by_remote: bool,
    /// The reply that led to it, with the phase.
    pub reply: Option<(smtp::Reply, &'static str)>,
    /// What broke.
    pub error: Option<Broken>,
}

/// A broken connection.
#[derive(Clone, Debug)]
pub struct Broken {
    /// For people.
    pub reason: String,
    /// `socket` or `tls`.
    pub kind: &'static str,
    /// The system's or OpenSSL's code.
    pub code: i64,
}

impl Broken {
    /// A broken socket.
    pub fn socket(error: &std::io::Error) -> Broken {
        Broken { reason: error.to_string(), kind: "socket", code: error.raw_os_error().unwrap_or(0).into() }
    }
}
