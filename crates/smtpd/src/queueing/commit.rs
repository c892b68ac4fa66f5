//! From an accepted message to the spool and the queue.

use crate::clock;
use crate::queueing::engine::Engine;
use crate::server::facts::Connection;
use mail::{Address, EditList, MailMessage};
use smtp::Reply;
use smtp::reply::Enhanced;
use spool::{Entry, MessageRecord, Meta, SpoolError, Staging, record};
use std::sync::Arc;
use uuid::Uuid;

/// A recipient to be queued.
#[derive(Clone, Debug)]
pub struct QueuedRecipient {
    /// Envelope sender.
    pub sender: Address,
    /// Envelope recipient.
    pub recipient: Address,
    /// Transport id.
    pub transport: String,
    /// Script data.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// Park instead of sending.
    pub hold: bool,
    /// Job.
    pub job_id: String,
    /// Tenant.
    pub tenant_id: String,
    /// 0 or 1.
    pub priority: u32,
    /// Quota names.
    pub quotas: Vec<String>,
    /// Seconds until the first attempt.
    pub delay_s: f64,
    /// RFC 3461 parameters.
    pub dsn: Option<record::DsnParams>,
    /// The edits in force at the call.
    pub edits: Arc<EditList>,
    /// Octets with edits.
    pub size_bytes: u64,
}

impl QueuedRecipient {
    /// With the message as it is now and every option at its default.
    ///
    /// # Errors
    /// The message cannot be read.
    pub fn new(
        sender: Address,
        recipient: Address,
        transport: String,
        message: &MailMessage,
    ) -> Result<QueuedRecipient, mail::MailError> {
        Ok(QueuedRecipient {
            sender,
            recipient,
            transport,
            metadata: Vec::new(),
            hold: false,
            job_id: String::new(),
            tenant_id: String::new(),
            priority: 0,
            quotas: Vec::new(),
            delay_s: 0.0,
            dsn: None,
            edits: message.edits()?,
            size_bytes: message.size()?,
        })
    }
}

/// A message that a client handed in and a script accepted.
pub struct NewMessage<'a> {
    /// Transaction id.
    pub id: Uuid,
    /// Seconds since the epoch.
    pub received_s: f64,
    /// Facts of reception.
    pub connection: &'a Connection,
    /// Decoded Subject.
    pub subject: String,
    /// At least one.
    pub recipients: Vec<QueuedRecipient>,
}

/// Why a message was not accepted after all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The disk is full, broken or slow.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Neither server nor hook named a transport.
    #[error("no transport for {0}: set servers[].transport or name one in the rcptto or eod hook")]
    NoTransport(String),
    /// The queue refused the entries.
    #[error(transparent)]
    Queue(#[from] queue::QueueError),
    /// The content cannot be read back.
    #[error("content: {0}")]
    Content(String),
}

impl CommitError {
    /// What the client is told: temporary in every case, and no inner detail.
    pub fn reply(&self) -> Reply {
        match self {
            CommitError::Spool(SpoolError::Full) => {
                Reply::new(452, Some(Enhanced(4, 3, 1)), "Insufficient system storage")
            }
            _ => Reply::new(451, Some(Enhanced(4, 3, 0)), "Temporary server error"),
        }
    }
}

impl Engine {
    /// Makes a message durable and puts its entries into the queue. When this returns without error the
    /// client may be told 250 (invariant I1).
    pub async fn commit(&self, staging: Staging, message: NewMessage<'_>) -> Result<(), CommitError> {
        let connection = message.connection;
        let (verb, helo) = connection.helo.clone().unwrap_or_default();
        let meta = Meta {
            received_s: message.received_s,
            server_id: connection.server_id.clone(),
            stage_id: connection.stage_id.as_deref().unwrap_or_default().to_owned(),
            remote_ip: connection.remote_ip.clone(),
            remote_port: u32::from(connection.remote_port),
            remote_ptr: connection.remote_ptr.clone().unwrap_or_default(),
            tls: connection.tls.is_some(),
            sasl_username: connection
                .auth
                .as_ref()
                .and_then(|auth| auth.username.as_deref())
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .unwrap_or_default(),
            helo,
            helo_verb: verb.to_owned(),
            connection_id: connection.id.to_string(),
            local_ip: connection.local.ip().to_string(),
            local_port: u32::from(connection.local.port()),
            subject: message.subject,
            ..Meta::default()
        };
        let record = build_record(meta, message.recipients);
        self.store(staging, record).await
    }

    /// Makes a message of our own durable and queues it for one recipient.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn enqueue(
        &self,
        staging: Staging,
        subject: String,
        recipient: QueuedRecipient,
    ) -> Result<(), CommitError> {
        self.enqueue_all(staging, subject, vec![recipient]).await
    }

    /// The same for several recipients.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn enqueue_all(
        &self,
        staging: Staging,
        subject: String,
        recipients: Vec<QueuedRecipient>,
    ) -> Result<(), CommitError> {
        let meta = Meta { received_s: clock::now_s(), subject, ..Meta::default() };
        self.store(staging, build_record(meta, recipients)).await
    }

    /// Stores a record and queues its entries.
    pub(super) async fn store(&self, staging: Staging, record: MessageRecord) -> Result<(), CommitError> {
        let now = clock::now();
        let (message, entries) =
            super::load::to_queue(staging.id(), &record.meta, &record.entries, staging.len());
        let id = staging.id();
        self.spool.commit(staging, record).await?;
        if !self.has_room() {
            self.backlog.add(message.received, id);
            return Ok(());
        }
        let inserted = self.queue.lock().insert(now, message, entries);
        if let Err(refused) = inserted {
            // The client is told to come again, so the stored copy must not come back after a restart.
            self.spool.remove(id, spool::Durability::Synced).await?;
            return Err(refused.into());
        }
        self.wake();
        Ok(())
    }
}

/// Numbers the recipients from 1 and shares equal edit lists.
pub(super) fn build_record(meta: Meta, recipients: Vec<QueuedRecipient>) -> MessageRecord {
    let mut lists: Vec<(u32, Arc<EditList>)> = Vec::new();
    let smtputf8 = recipients.iter().any(|one| !one.sender.is_ascii() || !one.recipient.is_ascii());
    let mut entries = Vec::with_capacity(recipients.len());
    for (index, one) in recipients.into_iter().enumerate() {
        let edit_id = if one.edits.is_empty() {
            0
        } else {
            match lists.iter().find(|(_, list)| Arc::ptr_eq(list, &one.edits) || **list == *one.edits) {
                Some((known, _)) => *known,
                None => {
                    let next = lists.len() as u32 + 1;
                    lists.push((next, one.edits.clone()));
                    next
                }
            }
        };
        entries.push(Entry {
            queue_id: index as u64 + 1,
            sender: Some(one.sender.into()),
            recipient: Some(one.recipient.into()),
            transport_id: one.transport,
            job_id: one.job_id,
            tenant_id: one.tenant_id,
            priority: one.priority,
            metadata: one.metadata.into_iter().map(|(key, value)| record::Pair::new(key, value)).collect(),
            quotas: one.quotas,
            dsn: one.dsn,
            edit_id,
            size_bytes: one.size_bytes,
            state: if one.hold { record::EntryState::Hold as i32 } else { record::EntryState::Timed as i32 },
            next_attempt_s: if one.delay_s > 0.0 {
                meta.received_s.max(clock::now_s()) + one.delay_s
            } else {
                0.0
            },
            ..Entry::default()
        });
    }
    let edits = lists.into_iter().map(|(id, list)| (id, Arc::unwrap_or_clone(list))).collect();
    MessageRecord { meta, edits, entries, smtputf8 }
}
