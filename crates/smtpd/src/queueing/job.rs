//! A copy of what is known of an entry while it is being worked on, so that no lock is held meanwhile.

use mail::Address;
use queue::{Dsn, EntryKey, EntryView, Field, Time};
use std::fmt;
use std::net::IpAddr;
use uuid::Uuid;

/// One recipient under work. Displays as `ID:QUEUEID`.
#[derive(Clone, Debug)]
pub struct Job {
    /// The queue's name of the entry.
    pub key: EntryKey,
    /// Message id.
    pub id: Uuid,
    /// From 1.
    pub queue_id: u64,
    /// When the message was received.
    pub received: Time,
    /// Server that received it.
    pub server_id: String,
    /// Live stage under which it was accepted, or empty.
    pub stage_id: String,
    /// Client that sent it.
    pub sender_ip: Option<IpAddr>,
    /// What the client said in HELO.
    pub sender_helo: String,
    /// Envelope sender.
    pub sender: Address,
    /// Envelope recipient.
    pub recipient: Address,
    /// Transport id.
    pub transport_id: String,
    /// Job id.
    pub job_id: String,
    /// Tenant id.
    pub tenant_id: String,
    /// 0 or 1.
    pub priority: u8,
    /// Script data.
    pub metadata: Vec<(String, String)>,
    /// RFC 3461 parameters.
    pub dsn: Option<Dsn>,
    /// Octets with edits.
    pub size: u64,
    /// Failed attempts so far.
    pub retry: u32,
    /// Steps of the schedule whose notice was sent.
    pub notified: u64,
    /// Number of the edit list, 0 = none.
    pub edits: u32,
    /// Next hop, once resolved.
    pub remote_ip: Option<IpAddr>,
    /// Its name.
    pub remote_mx: String,
    /// `&id` or what the default names.
    pub grouping: String,
}

impl Job {
    /// Copies an entry.
    pub fn of(entry: &EntryView<'_>) -> Job {
        let address =
            |address: queue::Address| Address { localpart: address.localpart, domain: address.domain };
        Job {
            key: entry.key(),
            id: entry.message_id(),
            queue_id: entry.queue_id(),
            received: entry.received(),
            server_id: entry.server_id().to_owned(),
            stage_id: entry.stage_id().to_owned(),
            sender_ip: entry.sender_ip(),
            sender_helo: entry.sender_helo().to_owned(),
            sender: address(entry.sender()),
            recipient: address(entry.recipient()),
            transport_id: entry.transport_id().to_owned(),
            job_id: entry.job_id().to_owned(),
            tenant_id: entry.tenant_id().to_owned(),
            priority: entry.priority(),
            metadata: entry.metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            dsn: entry.dsn().cloned(),
            size: entry.size(),
            retry: entry.retry_count(),
            notified: entry.notified(),
            edits: entry.edits(),
            remote_ip: entry.remote_ip(),
            remote_mx: entry.remote_mx().to_owned(),
            grouping: entry.grouping().to_owned(),
        }
    }

    /// The value of a queue field as text, empty when unknown.
    pub fn field(&self, field: Field, local_ip: Option<IpAddr>) -> String {
        let ip = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        match field {
            Field::TenantId => self.tenant_id.clone(),
            Field::JobId => self.job_id.clone(),
            Field::TransportId => self.transport_id.clone(),
            Field::LocalIp => ip(local_ip),
            Field::Grouping => self.grouping.clone(),
            Field::RemoteIp => ip(self.remote_ip),
            Field::RemoteMx => self.remote_mx.clone(),
            Field::RecipientDomain => self.recipient.domain.to_ascii_lowercase(),
        }
    }

    /// Seed of the next-hop choice: the transaction id, with the queue id from the second entry on.
    pub fn seed(&self) -> String {
        if self.queue_id > 1 { format!("{}:{}", self.id, self.queue_id) } else { self.id.to_string() }
    }

    /// True when NOTIFY names `item` (upper case), or `absent` where there is no NOTIFY.
    pub fn notify_has(&self, item: &str, absent: bool) -> bool {
        match self.dsn.as_ref().map(|dsn| dsn.notify.as_str()).filter(|notify| !notify.is_empty()) {
            None => absent,
            Some(notify) => notify.split(',').any(|word| word.trim().eq_ignore_ascii_case(item)),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.queue_id)
    }
}
