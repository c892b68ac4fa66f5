//! The payloads of frames: what is known about a message besides its bytes.
//!
//! They are protobuf messages. Members unknown to this version stay in the file when it is rewritten, because UPDATE
//! uses the member numbers of ENTRY and both are merged as encoded members, not as these structs.

use mail::{Address, Edit, EditError, EditList};

/// Facts about the reception of a message (frame META).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Meta {
    /// When it was received, Unix time with fraction.
    #[prost(double, tag = "1")]
    pub received_s: f64,
    /// `servers[].id`.
    #[prost(string, tag = "2")]
    pub server_id: String,
    /// Address of the client, textual.
    #[prost(string, tag = "3")]
    pub remote_ip: String,
    /// Its port.
    #[prost(uint32, tag = "4")]
    pub remote_port: u32,
    /// Its forward-confirmed reverse name, if any.
    #[prost(string, tag = "5")]
    pub remote_ptr: String,
    /// What it said in HELO or EHLO.
    #[prost(string, tag = "6")]
    pub helo: String,
    /// Whether the session was encrypted.
    #[prost(bool, tag = "7")]
    pub tls: bool,
    /// Authenticated user name, if any.
    #[prost(string, tag = "8")]
    pub sasl_username: String,
    /// Id of the connection.
    #[prost(string, tag = "9")]
    pub connection_id: String,
    /// Address of ours that was connected to.
    #[prost(string, tag = "10")]
    pub local_ip: String,
    /// Its port.
    #[prost(uint32, tag = "11")]
    pub local_port: u32,
    /// `HELO` or `EHLO`.
    #[prost(string, tag = "12")]
    pub helo_verb: String,
    /// Live stage that accepted it, if not the default.
    #[prost(string, tag = "13")]
    pub stage_id: String,
    /// Decoded Subject, for lists.
    #[prost(string, tag = "14")]
    pub subject: String,
    /// Anything else the daemon wants back.
    #[prost(message, repeated, tag = "15")]
    pub extra: Vec<Pair>,
}

impl Meta {
    /// Number of the member `received_s`.
    pub(crate) const RECEIVED: u32 = 1;
}

/// A key with a value; values are byte strings as in scripts.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Pair {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Pair {
    /// A pair.
    pub fn new(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// An address as stored.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Mailbox {
    /// Local part, unquoted.
    #[prost(string, tag = "1")]
    pub localpart: String,
    /// Domain; empty if none.
    #[prost(string, tag = "2")]
    pub domain: String,
}

impl From<Address> for Mailbox {
    fn from(address: Address) -> Self {
        Self { localpart: address.localpart, domain: address.domain }
    }
}

impl From<Mailbox> for Address {
    fn from(mailbox: Mailbox) -> Self {
        Self { localpart: mailbox.localpart, domain: mailbox.domain }
    }
}

/// RFC 3461 parameters of one recipient.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DsnParams {
    /// ENVID, xtext as received.
    #[prost(string, tag = "1")]
    pub envid: String,
    /// RET: `FULL`, `HDRS` or empty.
    #[prost(string, tag = "2")]
    pub ret: String,
    /// NOTIFY items: `NEVER`, `SUCCESS`, `FAILURE`, `DELAY`.
    #[prost(string, repeated, tag = "3")]
    pub notify: Vec<String>,
    /// ORCPT: `type;xtext`.
    #[prost(string, tag = "4")]
    pub orcpt: String,
}

/// The positive final reply of a next hop; once this is durable the entry is never sent again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delivered {
    /// Protocol state that was answered, e.g. `EOD`.
    #[prost(string, tag = "1")]
    pub state: String,
    /// Reply code.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Enhanced status code, three numbers or none.
    #[prost(uint32, repeated, tag = "3")]
    pub enhanced: Vec<u32>,
    /// Lines of the reply.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub reason: Vec<Vec<u8>>,
    /// When it was read, Unix time.
    #[prost(double, tag = "5")]
    pub time_s: f64,
    /// Address of the next hop.
    #[prost(string, tag = "6")]
    pub remote_ip: String,
    /// Its name.
    #[prost(string, tag = "7")]
    pub remote_mx: String,
    /// Whether the next hop announced DSN (then no success DSN is ours).
    #[prost(bool, tag = "8")]
    pub remote_dsn: bool,
}

/// Where an entry stands besides its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EntryState {
    /// Due at its next attempt time (ACTIVE and DEFER).
    Timed = 0,
    /// Parked until released.
    Hold = 1,
    /// Frozen for update; stored so that it shows as UPDATE after a restart.
    Update = 2,
}

/// A queue entry: one recipient of a message (frame ENTRY).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// Number within the message, from 1.
    #[prost(uint64, tag = "1")]
    pub queue_id: u64,
    /// Envelope sender.
    #[prost(message, optional, tag = "2")]
    pub sender: Option<Mailbox>,
    /// MAIL parameters.
    #[prost(message, repeated, tag = "3")]
    pub sender_params: Vec<Pair>,
    /// Envelope recipient.
    #[prost(message, optional, tag = "4")]
    pub recipient: Option<Mailbox>,
    /// RCPT parameters.
    #[prost(message, repeated, tag = "5")]
    pub recipient_params: Vec<Pair>,
    /// Transport.
    #[prost(string, tag = "6")]
    pub transport_id: String,
    /// Job.
    #[prost(string, tag = "7")]
    pub job_id: String,
    /// Tenant.
    #[prost(string, tag = "8")]
    pub tenant_id: String,
    /// 0 normal, 1 high.
    #[prost(uint32, tag = "9")]
    pub priority: u32,
    /// Metadata, in order.
    #[prost(message, repeated, tag = "10")]
    pub metadata: Vec<Pair>,
    /// Names of quotas it counts in.
    #[prost(string, repeated, tag = "11")]
    pub quotas: Vec<String>,
    /// RFC 3461 parameters.
    #[prost(message, optional, tag = "12")]
    pub dsn: Option<DsnParams>,
    /// Edit list of this entry; 0 is the original.
    #[prost(uint32, tag = "13")]
    pub edit_id: u32,
    /// Bytes of the message with its edits.
    #[prost(uint64, tag = "14")]
    pub size_bytes: u64,
    /// Hold and freeze flags.
    #[prost(enumeration = "EntryState", tag = "15")]
    pub state: i32,
    /// Attempts so far.
    #[prost(uint32, tag = "16")]
    pub retry: u32,
    /// When it is due, Unix time; 0 is at once.
    #[prost(double, tag = "17")]
    pub next_attempt_s: f64,
    /// Notifications already sent, bits of the daemon's choice.
    #[prost(uint32, tag = "18")]
    pub notified: u32,
    /// The positive final reply, if one was read.
    #[prost(message, optional, tag = "19")]
    pub delivered: Option<Delivered>,
    /// Why the last attempt failed.
    #[prost(string, tag = "20")]
    pub retry_reason: String,
    /// Highest number of a late change that it has seen.
    #[prost(uint64, tag = "21")]
    pub late: u64,
}

/// Changed members of an entry (frame UPDATE); `None` and empty lists leave a member as it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EntryUpdate {
    /// Which entry.
    #[prost(uint64, tag = "1")]
    pub queue_id: u64,
    /// New sender.
    #[prost(message, optional, tag = "2")]
    pub sender: Option<Mailbox>,
    /// New recipient.
    #[prost(message, optional, tag = "4")]
    pub recipient: Option<Mailbox>,
    /// New transport.
    #[prost(string, optional, tag = "6")]
    pub transport_id: Option<String>,
    /// New job.
    #[prost(string, optional, tag = "7")]
    pub job_id: Option<String>,
    /// New tenant.
    #[prost(string, optional, tag = "8")]
    pub tenant_id: Option<String>,
    /// New priority.
    #[prost(uint32, optional, tag = "9")]
    pub priority: Option<u32>,
    /// The whole new metadata; to empty it, name [`EntryUpdate::METADATA`] in `cleared`.
    #[prost(message, repeated, tag = "10")]
    pub metadata: Vec<Pair>,
    /// The whole new list; to empty it, name [`EntryUpdate::QUOTAS`] in `cleared`.
    #[prost(string, repeated, tag = "11")]
    pub quotas: Vec<String>,
    /// New RFC 3461 parameters.
    #[prost(message, optional, tag = "12")]
    pub dsn: Option<DsnParams>,
    /// New flags.
    #[prost(enumeration = "EntryState", optional, tag = "15")]
    pub state: Option<i32>,
    /// Attempts so far.
    #[prost(uint32, optional, tag = "16")]
    pub retry: Option<u32>,
    /// When it is due, Unix time.
    #[prost(double, optional, tag = "17")]
    pub next_attempt_s: Option<f64>,
    /// Notifications already sent.
    #[prost(uint32, optional, tag = "18")]
    pub notified: Option<u32>,
    /// The positive final reply.
    #[prost(message, optional, tag = "19")]
    pub delivered: Option<Delivered>,
    /// Why the last attempt failed.
    #[prost(string, optional, tag = "20")]
    pub retry_reason: Option<String>,
    /// Number of this change, if it goes through the journal first; set by [`crate::Spool::update_many`].
    #[prost(uint64, optional, tag = "21")]
    pub late: Option<u64>,
    /// Numbers of members that become empty.
    #[prost(uint32, repeated, tag = "100")]
    pub cleared: Vec<u32>,
}

impl EntryUpdate {
    /// Number of the member `metadata`.
    pub const METADATA: u32 = 10;
    /// Number of the member `quotas`.
    pub const QUOTAS: u32 = 11;
    /// Number of the member `dsn`.
    pub const DSN: u32 = 12;
    /// Number of the member `delivered`: an operator sends it again.
    pub const DELIVERED: u32 = 19;
    /// Number of the member `cleared` itself.
    pub(crate) const CLEARED: u32 = 100;
    /// Number of the member `queue_id`.
    pub(crate) const QUEUE_ID: u32 = 1;
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Outcome {
    /// The next hop took it.
    Delivered = 0,
    /// A DSN was committed.
    Bounced = 1,
    /// Removed without a DSN.
    Deleted = 2,
}

/// The end of an entry (frame DONE).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {
    /// Which entry.
    #[prost(uint64, tag = "1")]
    pub queue_id: u64,
    /// How it ended.
    #[prost(enumeration = "Outcome", tag = "2")]
    pub outcome: i32,
    /// When, Unix time.
    #[prost(double, tag = "3")]
    pub time_s: f64,
    /// Id of the DSN that was made, 16 bytes or none.
    #[prost(bytes = "vec", tag = "4")]
    pub dsn_id: Vec<u8>,
}

/// The last frame of a complete message (frame COMMIT).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Commit {
    /// Frames before this one.
    #[prost(uint32, tag = "1")]
    pub(crate) frames: u32,
    /// CRC32C over their CRCs (little-endian), in order.
    #[prost(fixed32, tag = "2")]
    pub(crate) crc: u32,
}

/// A stored edit list (frame EDIT).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredEdits {
    /// Number that entries name; from 1.
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    /// The edits, sorted.
    #[prost(message, repeated, tag = "2")]
    pub(crate) edits: Vec<StoredEdit>,
}

/// One edit of [`StoredEdits`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredEdit {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) delete: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) insert: bytes::Bytes,
}

impl StoredEdits {
    pub(crate) fn new(id: u32, list: &EditList) -> Self {
        let stored = |e: &Edit| StoredEdit { offset: e.offset, delete: e.delete, insert: e.insert.clone() };
        Self { id, edits: list.edits().iter().map(stored).collect() }
    }

    pub(crate) fn into_list(self) -> Result<EditList, EditError> {
        let edit = |e: StoredEdit| Edit { offset: e.offset, delete: e.delete, insert: e.insert };
        EditList::from_edits(self.edits.into_iter().map(edit).collect())
    }
}

/// A change to append to a stored message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Frame {
    /// Changed members of one entry.
    Update(Box<EntryUpdate>),
    /// A further entry, its number not in use.
    Entry(Box<Entry>),
    /// One entry is over.
    Done(Done),
}

/// Everything about a message besides its content, as given to [`crate::Spool::commit`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageRecord {
    /// Facts of reception.
    pub meta: Meta,
    /// Edit lists by the id that entries name (from 1).
    pub edits: Vec<(u32, EditList)>,
    /// One entry for each recipient.
    pub entries: Vec<Entry>,
    /// Needs SMTPUTF8 at the next hop.
    pub smtputf8: bool,
}
