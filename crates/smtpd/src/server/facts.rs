//! What scripts, logs and stored messages are told about a connection and its transaction.

use mail::Address;
use std::net::SocketAddr;
use uuid::Uuid;

/// `$connection`.
#[derive(Clone, Debug)]
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
    /// Our address.
    pub local: SocketAddr,
    /// `servers[].id`.
    pub server_id: String,
    /// Verb and host of an accepted greeting.
    pub helo: Option<(&'static str, String)>,
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
    /// Text and errno of a socket error.
    pub error: Option<(String, i32)>,
}
