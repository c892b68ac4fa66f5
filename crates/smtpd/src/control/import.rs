//! `queue load`: `.hqf` files and plain messages brought into the queue.

use crate::clock;
use crate::control::convert;
use crate::daemon::Daemon;
use crate::info;
use crate::queueing::commit::QueuedRecipient;
use bytes::Bytes;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use mail::header::FieldOptions;
use mail::{Address, MailMessage, address_list};
use spool::LoadOptions;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) async fn import(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueImportRequest = parse(body)?;
    let data = request.data.unwrap_or_default();
    match (data.hqf.is_empty(), data.rfc822.is_empty()) {
        (false, true) => import_hqf(daemon, data.hqf, request.reset.unwrap_or_default()).await,
        (true, false) => import_message(daemon, data.rfc822).await,
        _ => Err(convert::INVALID.to_owned()),
    }
}

async fn import_hqf(daemon: &Arc<Daemon>, hqf: Vec<u8>, reset: wire::queue_import_request::Reset) -> Answer {
    let wants = |flag: Option<wire::BoolValue>| flag.is_some_and(|flag| flag.value);
    let options = LoadOptions {
        id: wants(reset.transactionid).then(|| daemon.ids.next()),
        received_s: wants(reset.ts).then(clock::now_s),
        reset_retry: wants(reset.retrycount),
    };
    let spool = daemon.spool.clone();
    let bytes = Bytes::from(hqf);
    let loaded = tokio::task::spawn_blocking(move || spool.load_bytes(bytes, options));
    let recovered = loaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if daemon.engine.take_in(&recovered).map_err(|error| error.to_string())? {
        daemon.loaded.fetch_add(1, Ordering::Relaxed);
    }
    daemon.engine.wake();
    Ok(payload(&wire::QueueImportResponse { transactionid: recovered.id.to_string() }))
}

/// A message has no envelope: its sender is taken from Return-Path, its recipients from To, Cc and Bcc, as programs that
/// read mail from standard input do; Bcc is taken out. It goes over the transport of the first server that names one.
async fn import_message(daemon: &Arc<Daemon>, bytes: Vec<u8>) -> Answer {
    let generation = daemon.generations.current();
    let mut servers: Vec<_> = generation.servers.values().collect();
    servers.sort_by(|a, b| a.id.cmp(&b.id));
    let transport = servers.iter().find_map(|server| server.transport.clone());
    let transport = transport.ok_or("No server names a transport for messages without one")?;
    let id = daemon.ids.next();
    let mut staging = daemon.spool.stage(id);
    staging.write(&with_line_ends(bytes)).map_err(|error| error.to_string())?;
    let mut message = MailMessage::new(staging.content());
    let failed = |error: mail::MailError| error.to_string();
    let sender = addresses(&message, "Return-Path")?.into_iter().next().unwrap_or_default();
    let mut recipients: Vec<Address> = Vec::new();
    for name in ["To", "Cc", "Bcc"] {
        for address in addresses(&message, name)? {
            if !recipients.contains(&address) {
                recipients.push(address);
            }
        }
    }
    if recipients.is_empty() {
        return Err("The message names no recipient in To, Cc or Bcc".to_owned());
    }
    message.del_header("Bcc", None).map_err(failed)?;
    let subject = message.subject().ok().flatten().unwrap_or_default();
    let mut queued = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        queued.push(
            QueuedRecipient::new(sender.clone(), recipient, transport.clone(), &message).map_err(failed)?,
        );
    }
    let count = queued.len();
    daemon.engine.enqueue_all(staging, subject, queued).await.map_err(|error| error.to_string())?;
    info!(id, "loaded by an operator from={sender} recipients={count}");
    Ok(payload(&wire::QueueImportResponse { transactionid: id.to_string() }))
}

/// The addresses in all fields of a name.
fn addresses(message: &MailMessage, name: &str) -> Result<Vec<Address>, String> {
    let options = FieldOptions { decode: false, ..FieldOptions::default() };
    let mut found = Vec::new();
    for field in message.get_headers(name, options).map_err(|error| error.to_string())? {
        let text = String::from_utf8_lossy(&field).trim().to_owned();
        let wrong = || format!("{name}: '{text}' is no list of addresses");
        for mailbox in address_list::parse(text.as_bytes()).ok_or_else(wrong)? {
            let Some((localpart, domain)) = address_list::envelope_parts(&mailbox.address) else {
                // `<>`, the null sender.
                continue;
            };
            found.push(Address::new(&localpart, &domain).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    Ok(found)
}

/// Lines end in CRLF in the spool, whatever they end in outside.
fn with_line_ends(bytes: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    let mut before = 0;
    for byte in bytes {
        if byte == b'\n' && before != b'\r' {
            out.push(b'\r');
        }
        out.push(byte);
        before = byte;
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}
