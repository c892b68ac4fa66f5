//! From stored records to the queue: for messages just committed and for those found at start.

use crate::clock;
use queue::{NewEntry, NewMessage, Time};
use spool::Meta;
use spool::record::{Entry, EntryState, Mailbox};
use uuid::Uuid;

/// The queue's form of a stored message. Entries without a next attempt time are due now.
pub(crate) fn to_queue(id: Uuid, meta: &Meta, entries: &[Entry], bytes: u64) -> (NewMessage, Vec<NewEntry>) {
    let message = NewMessage {
        id,
        received: clock::from_s(meta.received_s),
        server_id: meta.server_id.clone(),
        sender_ip: meta.remote_ip.parse().ok(),
        sender_helo: meta.helo.clone(),
        sasl_username: meta.sasl_username.clone(),
        subject: meta.subject.clone(),
        stage_id: meta.stage_id.clone(),
        size: bytes,
    };
    let entries = entries.iter().map(|entry| to_entry(entry, message.received)).collect();
    (message, entries)
}

fn to_entry(entry: &Entry, received: Time) -> NewEntry {
    let state = entry.state();
    NewEntry {
        queue_id: entry.queue_id,
        sender: address(entry.sender.as_ref()),
        recipient: address(entry.recipient.as_ref()),
        transport_id: entry.transport_id.clone(),
        job_id: entry.job_id.clone(),
        tenant_id: entry.tenant_id.clone(),
        priority: u8::from(entry.priority > 0),
        // The queue compares metadata as text; the stored bytes are untouched.
        metadata: entry
            .metadata
            .iter()
            .map(|pair| (pair.key.clone(), String::from_utf8_lossy(&pair.value).into_owned()))
            .collect(),
        quotas: entry.quotas.clone(),
        dsn: entry.dsn.as_ref().map(|dsn| queue::Dsn {
            envid: dsn.envid.clone(),
            ret: dsn.ret.clone(),
            notify: dsn.notify.join(","),
            orcpt: dsn.orcpt.clone(),
        }),
        size: entry.size_bytes,
        retry_count: entry.retry,
        // Fresh entries stand in line by their age, behind retries that became due earlier.
        retry_at: if entry.next_attempt_s > 0.0 { clock::from_s(entry.next_attempt_s) } else { received },
        retry_reason: entry.retry_reason.clone(),
        hold: state == EntryState::Hold,
        update: state == EntryState::Update,
        delivered: entry.delivered.is_some(),
        edits: entry.edit_id,
        notified: u64::from(entry.notified),
        ..NewEntry::default()
    }
}

fn address(mailbox: Option<&Mailbox>) -> queue::Address {
    mailbox.map_or_else(queue::Address::default, |mailbox| queue::Address {
        localpart: mailbox.localpart.clone(),
        domain: mailbox.domain.clone(),
    })
}
