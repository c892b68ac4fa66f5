//! Reading an entry: everything that lists, conditions and script variables ask for.

use std::net::IpAddr;

use uuid::Uuid;

use crate::entry::{Address, Dsn, Entry, EntryKey, Message, NewEntry, NewMessage};
use crate::hop::Hop;
use crate::queue::Queue;
use crate::state::{State, WorkInfo};
use crate::time::Time;

/// An entry with its message, borrowed.
#[derive(Clone, Copy)]
pub struct EntryView<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) index: u32,
    pub(crate) entry: &'a Entry,
    pub(crate) message: &'a Message,
}

impl<'a> EntryView<'a> {
    pub(crate) fn new(queue: &'a Queue, index: u32, entry: &'a Entry) -> Self {
        EntryView { queue, index, entry, message: &queue.store.messages[entry.message] }
    }

    fn text(&self, symbol: crate::intern::Sym) -> &'a str {
        self.queue.store.texts.get(symbol)
    }

    fn hop(&self) -> &'a Hop {
        self.queue.store.hop_of(self.entry)
    }

    /// Key of the entry.
    pub fn key(&self) -> EntryKey {
        self.queue.store.key(self.index)
    }
    /// Transaction id.
    pub fn message_id(&self) -> Uuid {
        self.message.id
    }
    /// Number within the message.
    pub fn queue_id(&self) -> u64 {
        self.queue.store.queue_id(self.entry)
    }
    /// When the message was received.
    pub fn received(&self) -> Time {
        self.message.received
    }
    /// Virtual server that received it.
    pub fn server_id(&self) -> &'a str {
        self.text(self.message.server_id)
    }
    /// Address of the client.
    pub fn sender_ip(&self) -> Option<IpAddr> {
        self.queue.store.ip_of(self.message.sender_ip)
    }
    /// HELO name of the client.
    pub fn sender_helo(&self) -> &'a str {
        self.text(self.message.sender_helo)
    }
    /// Authenticated user.
    pub fn sasl_username(&self) -> &'a str {
        self.text(self.message.sasl_username)
    }
    /// Subject, possibly cut.
    pub fn subject(&self) -> &'a str {
        self.queue.store.subject(self.message)
    }
    /// Live stage that received it.
    pub fn stage_id(&self) -> &'a str {
        self.text(self.message.stage_id)
    }
    /// Bytes of the original.
    pub fn message_size(&self) -> u64 {
        self.message.size
    }
    /// Local part of the sender.
    pub fn sender_localpart(&self) -> &'a str {
        self.queue.store.sender_localpart(self.entry)
    }
    /// Domain of the sender.
    pub fn sender_domain(&self) -> &'a str {
        self.text(self.entry.sender_domain)
    }
    /// Sender; empty for the null sender.
    pub fn sender(&self) -> Address {
        Address { localpart: self.sender_localpart().to_owned(), domain: self.sender_domain().to_owned() }
    }
    /// Parameters of MAIL.
    pub fn sender_params(&self) -> &'a str {
        self.queue.store.rare(self.entry).map_or("", |rare| &rare.sender_params)
    }
    /// Local part of the recipient.
    pub fn recipient_localpart(&self) -> &'a str {
        self.queue.store.recipient_localpart(self.entry)
    }
    /// Domain of the recipient.
    pub fn recipient_domain(&self) -> &'a str {
        self.text(self.entry.recipient_domain)
    }
    /// Recipient.
    pub fn recipient(&self) -> Address {
        Address {
            localpart: self.recipient_localpart().to_owned(),
            domain: self.recipient_domain().to_owned(),
        }
    }
    /// Parameters of RCPT.
    pub fn recipient_params(&self) -> &'a str {
        self.queue.store.rare(self.entry).map_or("", |rare| &rare.recipient_params)
    }
    /// Transport.
    pub fn transport_id(&self) -> &'a str {
        self.text(self.entry.transport_id)
    }
    /// Job.
    pub fn job_id(&self) -> &'a str {
        self.text(self.entry.job_id)
    }
    /// Tenant.
    pub fn tenant_id(&self) -> &'a str {
        self.text(self.entry.tenant_id)
    }
    /// 0 normal, 1 high.
    pub fn priority(&self) -> u8 {
        self.entry.priority
    }
    /// Script data, sorted by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let store = &self.queue.store;
        store.metadata(self.entry).map(|(key, value)| (store.texts.get(key), value))
    }
    /// Value of one metadata key.
    pub fn metadata_value(&self, key: &str) -> Option<&'a str> {
        let store = &self.queue.store;
        let symbol = store.texts.find(key)?;
        store.metadata(self.entry).find(|(known, _)| *known == symbol).map(|(_, value)| value)
    }
    /// Quota names.
    pub fn quotas(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let store = &self.queue.store;
        store.quotas(self.entry).iter().map(|&name| store.texts.get(name))
    }
    /// Notification options.
    pub fn dsn(&self) -> Option<&'a Dsn> {
        self.queue.store.rare(self.entry).and_then(|rare| rare.dsn.as_ref())
    }
    /// Bytes with edits.
    pub fn size(&self) -> u64 {
        self.queue.store.size(self.entry)
    }
    /// State.
    pub fn state(&self) -> State {
        self.entry.state
    }
    /// Attempts counted so far.
    pub fn retry_count(&self) -> u32 {
        self.entry.retry_count
    }
    /// Next attempt.
    pub fn retry_at(&self) -> Time {
        self.entry.retry_at
    }
    /// Why the last attempt failed.
    pub fn retry_reason(&self) -> &'a str {
        self.text(self.entry.retry_reason)
    }
    /// Source addresses, while ACTIVE or SENDING.
    pub fn local_ips(&self) -> &'a [IpAddr] {
        self.queue.store.ips.get(self.hop().local_ips)
    }
    /// Whether they are tried in order.
    pub fn local_ips_ordered(&self) -> bool {
        self.hop().ordered
    }
    /// Next hop, while ACTIVE or SENDING.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.queue.store.ip_of(self.hop().remote_ip)
    }
    /// Its MX name.
    pub fn remote_mx(&self) -> &'a str {
        self.text(self.hop().remote_mx)
    }
    /// Grouping value.
    pub fn grouping(&self) -> &'a str {
        self.text(self.hop().grouping)
    }
    /// Parked by an operator or script.
    pub fn hold(&self) -> bool {
        self.entry.state == State::Hold
    }
    /// The final positive reply was read.
    pub fn delivered(&self) -> bool {
        self.entry.delivered
    }
    /// Edit list number.
    pub fn edits(&self) -> u32 {
        self.queue.store.extra(self.entry).map_or(0, |extra| extra.edits)
    }
    /// Steps whose delay notification went out, one bit each.
    pub fn notified(&self) -> u64 {
        self.queue.store.extra(self.entry).map_or(0, |extra| extra.notified)
    }
    /// What is being done with it.
    pub fn work(&self) -> Option<WorkInfo> {
        self.queue.work_info(self.key())
    }
    /// Tags of the policy conditions and suspensions that concern it now.
    pub fn tags(&self) -> Vec<String> {
        self.queue.tags_of(self.index)
    }

    /// The entry as it could be inserted again (what a queue file stores).
    pub fn to_new(&self) -> NewEntry {
        NewEntry {
            queue_id: self.queue_id(),
            sender: self.sender(),
            sender_params: self.sender_params().to_owned(),
            recipient: self.recipient(),
            recipient_params: self.recipient_params().to_owned(),
            transport_id: self.transport_id().to_owned(),
            job_id: self.job_id().to_owned(),
            tenant_id: self.tenant_id().to_owned(),
            priority: self.priority(),
            metadata: self.metadata().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            quotas: self.quotas().map(str::to_owned).collect(),
            dsn: self.dsn().cloned(),
            size: self.size(),
            retry_count: self.retry_count(),
            retry_at: self.retry_at(),
            retry_reason: self.retry_reason().to_owned(),
            hold: self.hold(),
            update: self.state() == State::Update,
            delivered: self.delivered(),
            edits: self.edits(),
            notified: self.notified(),
        }
    }

    /// The message's facts as they could be inserted again.
    pub fn to_new_message(&self) -> NewMessage {
        NewMessage {
            id: self.message_id(),
            received: self.received(),
            server_id: self.server_id().to_owned(),
            sender_ip: self.sender_ip(),
            sender_helo: self.sender_helo().to_owned(),
            sasl_username: self.sasl_username().to_owned(),
            subject: self.subject().to_owned(),
            stage_id: self.stage_id().to_owned(),
            size: self.message_size(),
        }
    }
}
