//! The older end-of-data hook that runs once per recipient (`smtp-hooks` 6): its functions and what they collect. Edits
//! and settings are of one recipient; metadata carries over to those that follow.

use super::HookHost;
use super::options::{Metadata, Reader, ReplyOptions, Verdict, read_address, read_metadata};
use crate::mail::{message_value, object};
use crate::support::options;
use hsl::{Args, Array, Error, FunctionDef, NativeCx, Outcome, Registry, Value};
use mail::{Address, EditList, MailMessage};
use openssl::hash::MessageDigest;
use openssl::x509::X509;
use parking_lot::Mutex;
use std::sync::Arc;

/// Variables of the hook, with whether they are read-only.
pub(super) const VARIABLES: &[(&str, bool)] = &[
    ("senderip", true),
    ("senderport", true),
    ("serverip", true),
    ("serverport", true),
    ("serverid", true),
    ("senderhelo", true),
    ("tlsstarted", true),
    ("saslauthed", true),
    ("saslusername", true),
    ("messageid", true),
    ("sender", true),
    ("senderlocalpart", true),
    ("senderdomain", true),
    ("senderparams", true),
    ("recipientdomains", true),
    ("recipients", true),
    ("recipient", true),
    ("recipientlocalpart", true),
    ("recipientdomain", true),
    ("transportid", true),
    ("actionid", true),
    ("context", false),
];

/// Encryption of the connection, for `GetTLS`.
#[derive(Clone)]
pub struct RecipientTls {
    /// For example `TLSv1.3`.
    pub protocol: String,
    /// OpenSSL's name.
    pub cipher: String,
    /// Symmetric bits.
    pub keysize_bits: i32,
    /// The client's certificate and OpenSSL's verify result.
    pub peer: Option<(X509, i32)>,
}

/// What happens to the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queued.
    Deliver,
    /// Refused for good.
    Reject,
    /// Refused for now.
    Defer,
    /// Accepted and thrown away.
    Delete,
    /// Put on HOLD; with true the client is told 5xx.
    Quarantine(bool),
}

/// An action with what it was called with.
#[derive(Clone)]
pub struct RecipientAction {
    /// What happens.
    pub action: Action,
    /// Sent while the client waits, instead of queued.
    pub in_line: bool,
    /// Reason, codes, disconnect.
    pub reply: ReplyOptions,
    /// Envelope sender.
    pub sender: Address,
    /// Envelope recipient.
    pub recipient: Address,
    /// Transport; the server's where the script named none.
    pub transport: Option<String>,
    /// Stored with the entry.
    pub metadata: Metadata,
    /// Job id.
    pub job_id: String,
    /// Quota names.
    pub quotas: Vec<String>,
    /// Seconds until the first attempt.
    pub delay_s: f64,
    /// Changes in force, and the size with them.
    pub edits: (Arc<EditList>, u64),
    /// Stored as the client's address and greeting, where the script set them.
    pub sender_ip: Option<String>,
    /// As `sender_ip`.
    pub sender_helo: Option<String>,
}

/// A run for one recipient.
pub struct RecipientRun {
    /// The message, shared with the objects of the script.
    pub message: Arc<Mutex<MailMessage>>,
    /// `SetSender`.
    pub sender: Address,
    /// `SetRecipient`.
    pub recipient: Address,
    /// `SetMailTransport`.
    pub transport: Option<String>,
    /// `SetDelayedDeliver`.
    pub delay_s: f64,
    /// `SetMetaData`.
    pub metadata: Metadata,
    /// `SetSenderIP`.
    pub sender_ip: Option<String>,
    /// `SetSenderHELO`.
    pub sender_helo: Option<String>,
    /// Encryption of the connection.
    pub tls: Option<RecipientTls>,
    /// What was decided so far.
    pub actions: Vec<RecipientAction>,
}

/// Actions of one recipient at most; a script that loops must not fill the memory.
const ACTIONS_MAX: usize = 10_000;

fn run<'a>(cx: &'a mut NativeCx<'_>) -> Result<&'a mut RecipientRun, Error> {
    let run = cx.host::<HookHost>().and_then(|host| host.recipient.as_mut());
    run.ok_or_else(|| Error::exception("There is no recipient here"))
}

impl RecipientRun {
    /// What the end of a script without any action means: `Deliver()` with all that the script has set and changed.
    ///
    /// # Errors
    /// The message cannot be read.
    pub fn deliver(&mut self) -> Result<(), Error> {
        self.add(Action::Deliver, Verdict::Accept, &Value::None, &Value::None).map(drop)
    }

    fn add(
        &mut self,
        action: Action,
        verdict: Verdict,
        reason: &Value,
        options: &Value,
    ) -> Result<bool, Error> {
        if self.actions.len() >= ACTIONS_MAX {
            return Err(Error::exception(format!("More than {ACTIONS_MAX} actions for one recipient")));
        }
        let reader = Reader::new(options)?;
        let queued = matches!(action, Action::Deliver | Action::Quarantine(_));
        let in_line = action == Action::Deliver && reader.flag("queue")? == Some(false);
        let action = match action {
            Action::Quarantine(_) => Action::Quarantine(reader.flag("reject")?.unwrap_or(true)),
            other => other,
        };
        // A quarantined message is refused to the client unless told otherwise.
        let verdict = if action == Action::Quarantine(true) { Verdict::Reject } else { verdict };
        let reply = ReplyOptions::read(super::Hook::EodRcpt, verdict, reason, options)?;
        let edits = {
            let message = self.message.lock();
            let failed = |error: mail::MailError| Error::exception(error.to_string());
            (message.edits().map_err(failed)?, message.size().map_err(failed)?)
        };
        let mut metadata = self.metadata.clone();
        metadata.extend(reader.metadata("metadata")?.unwrap_or_default());
        self.actions.push(RecipientAction {
            action,
            in_line,
            reply,
            sender: self.sender.clone(),
            recipient: reader.address("recipient")?.unwrap_or_else(|| self.recipient.clone()),
            transport: reader.text("transportid")?.or_else(|| self.transport.clone()),
            metadata,
            job_id: reader.text("jobid")?.unwrap_or_default(),
            quotas: reader.strings("quotas")?.unwrap_or_default(),
            delay_s: reader.number("delay")?.unwrap_or(self.delay_s).clamp(0.0, 30.0 * 86_400.0),
            edits,
            sender_ip: self.sender_ip.clone(),
            sender_helo: self.sender_helo.clone(),
        });
        Ok(queued && reader.flag("done")? == Some(false))
    }
}

fn ended(goes_on: bool) -> Outcome {
    if goes_on { Outcome::Value(Value::None) } else { Outcome::End(Vec::new()) }
}

/// Adds the functions.
pub(super) fn add(registry: &mut Registry) {
    registry.add_function(FunctionDef::full(
        "Deliver(options?: array)",
        "Queues the message for the recipient; with queue false it is sent while the client waits.",
        |cx, args| Ok(ended(run(cx)?.add(Action::Deliver, Verdict::Accept, &Value::None, args.get(0))?)),
    ));
    registry.add_function(FunctionDef::full(
        "Reject(reason?: string or array, options?: array)",
        "Refuses the message for good (5xx).",
        |cx, args| Ok(ended(run(cx)?.add(Action::Reject, Verdict::Reject, args.get(0), args.get(1))?)),
    ));
    registry.add_function(FunctionDef::full(
        "Defer(reason?: string or array, options?: array)",
        "Refuses the message for now (4xx).",
        |cx, args| Ok(ended(run(cx)?.add(Action::Defer, Verdict::Defer, args.get(0), args.get(1))?)),
    ));
    registry.add_function(FunctionDef::full("Delete()", "Accepts the message and drops it.", |cx, _| {
        Ok(ended(run(cx)?.add(Action::Delete, Verdict::Accept, &Value::None, &Value::None)?))
    }));
    registry.add_function(FunctionDef::full(
        "Quarantine(quarantineid: string, options?: array)",
        "Puts the message on hold for the recipient; the client is told 5xx unless reject is false.",
        |cx, args| {
            let id = args.get(0).to_string_lossy();
            let run = run(cx)?;
            let goes_on = run.add(Action::Quarantine(true), Verdict::Accept, &Value::None, args.get(1))?;
            if let Some(action) = run.actions.last_mut() {
                action.metadata.push(("quarantineid".to_owned(), id.into_bytes()));
            }
            Ok(ended(goes_on))
        },
    ));
    registry.add_function(FunctionDef::full(
        "Done()",
        "Ends the script; a recipient without any action is deferred.",
        |_, _| Ok(Outcome::End(Vec::new())),
    ));
    registry.add_function(FunctionDef::pure("GetMailMessage() -> MailMessage", "The message.", |cx, _| {
        Ok(message_value(run(cx)?.message.clone()))
    }));
    add_settings(registry);
    add_headers(registry);
    registry.add_function(FunctionDef::pure(
        "GetTLS(options?: array) -> array",
        "Encryption of the connection; the option fingerprint adds a digest of the client's certificate.",
        get_tls,
    ));
}

fn add_settings(registry: &mut Registry) {
    registry.add_function(FunctionDef::pure(
        "SetRecipient(recipient: string or array)",
        "Recipient of the actions that follow.",
        |cx, a| {
            run(cx)?.recipient = read_address("recipient", a.get(0))?;
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetSender(sender: string or array)",
        "Sender of the actions that follow.",
        |cx, a| {
            run(cx)?.sender = read_address("sender", a.get(0))?;
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetMailTransport(transportid: string)",
        "Transport of the actions that follow.",
        |cx, a| {
            run(cx)?.transport = Some(a.get(0).to_string_lossy());
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetDelayedDeliver(delay: number)",
        "Seconds until the first attempt of the actions that follow.",
        |cx, a| {
            run(cx)?.delay_s = a.number(0);
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetSenderIP(ip: string)",
        "Address of the client that is stored with the message.",
        |cx, a| {
            let ip = a.get(0).to_string_lossy();
            if ip.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::exception(format!("SetSenderIP() expects an address, '{ip}' given")));
            }
            run(cx)?.sender_ip = Some(ip);
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetSenderHELO(hostname: string)",
        "Greeting of the client that is stored with the message.",
        |cx, a| {
            run(cx)?.sender_helo = Some(a.get(0).to_string_lossy());
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "SetMetaData(metadata: array)",
        "Metadata of the actions that follow, also for the recipients after this one.",
        |cx, a| {
            run(cx)?.metadata = read_metadata("metadata", a.get(0))?;
            Ok(Value::None)
        },
    ));
    registry.add_function(FunctionDef::pure(
        "GetMetaData() -> array",
        "The metadata set so far.",
        |cx, _| {
            let mut array = Array::new();
            for (key, value) in &run(cx)?.metadata {
                array.insert_str(key, value.as_slice());
            }
            Ok(array.into())
        },
    ));
}

fn add_headers(registry: &mut Registry) {
    registry.add_function(FunctionDef::pure(
        "GetHeader(name: string, options?: array) -> string or none",
        "The topmost value of a header field, or none.",
        |cx, a| {
            let o = options(&a, 1);
            let index = object::index_option(&o)?.unwrap_or(0);
            let name = a.string(0);
            let message = run(cx)?.message.clone();
            let value =
                message.lock().part_field(mail::ROOT, &name.to_text(), index, object::field_options(&o));
            Ok(value.map_err(object::failed)?.into())
        },
    ));
    registry.add_function(FunctionDef::pure(
        "GetHeaders(name: string, options?: array) -> array",
        "All values of a header field, top first.",
        |cx, a| {
            let o = object::field_options(&options(&a, 1));
            let name = a.string(0);
            let message = run(cx)?.message.clone();
            let values =
                message.lock().part_fields(mail::ROOT, &name.to_text(), o).map_err(object::failed)?;
            Ok(values.into_iter().map(Value::from).collect::<Array>().into())
        },
    ));
    for (signature, doc, at_end) in [
        ("AddHeader(name: string, value: string, options?: array)", "Adds a field at the top.", false),
        ("PrependHeader(name: string, value: string, options?: array)", "Adds a field at the top.", false),
        (
            "AppendHeader(name: string, value: string, options?: array)",
            "Adds a field at the end of the header.",
            true,
        ),
    ] {
        registry.add_function(FunctionDef::full(signature, doc, move |cx, a| {
            let write = object::write_options(&options(&a, 2))?;
            let name = a.string(0);
            let message = run(cx)?.message.clone();
            let mut message = message.lock();
            let added = match at_end {
                true => message.append_header(&name.to_text(), a.bytes(1), write),
                false => message.prepend_header(&name.to_text(), a.bytes(1), write),
            };
            added.map_err(object::failed)?;
            Ok(Outcome::Value(Value::from(1.0)))
        }));
    }
    registry.add_function(FunctionDef::pure(
        "SetHeader(name: string, value: string, options?: array) -> number",
        "Replaces a field, or adds it; gives the number changed.",
        |cx, a| {
            let o = options(&a, 2);
            let (index, write) = (object::index_option(&o)?, object::write_options(&o)?);
            let name = a.string(0);
            let message = run(cx)?.message.clone();
            let changed =
                message.lock().set_part_header(mail::ROOT, &name.to_text(), a.bytes(1), index, write);
            Ok((changed.map_err(object::failed)? as f64).into())
        },
    ));
    registry.add_function(FunctionDef::pure(
        "DelHeader(name: string, options?: array) -> number",
        "Removes fields of a name; gives how many.",
        |cx, a| {
            let index = object::index_option(&options(&a, 1))?;
            let name = a.string(0);
            let message = run(cx)?.message.clone();
            let removed = message.lock().del_part_header(mail::ROOT, &name.to_text(), index);
            Ok((removed.map_err(object::failed)? as f64).into())
        },
    ));
}

fn get_tls(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let o = options(&args, 0);
    let digest = match o.get_str("fingerprint").map(Value::to_string_lossy).as_deref() {
        None => None,
        Some("md5") => Some(MessageDigest::md5()),
        Some("sha1") => Some(MessageDigest::sha1()),
        Some("sha256") => Some(MessageDigest::sha256()),
        Some("sha512") => Some(MessageDigest::sha512()),
        Some(other) => {
            return Err(Error::exception(format!(
                "Option 'fingerprint' is '{other}', expected md5, sha1, sha256 or sha512"
            )));
        }
    };
    let mut array = Array::new();
    let tls = run(cx)?.tls.clone();
    array.insert_str("started", tls.is_some());
    let Some(tls) = tls else { return Ok(array.into()) };
    array.insert_str("protocol", tls.protocol);
    array.insert_str("cipher", tls.cipher);
    array.insert_str("keysize", f64::from(tls.keysize_bits));
    if let Some((certificate, error)) = tls.peer {
        if let Some(digest) = digest {
            let bytes = certificate.digest(digest).map_err(|e| Error::exception(e.to_string()))?;
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            array.insert_str("fingerprint", text);
        }
        array.insert_str("peer_cert", crate::certificate_value(certificate));
        array.insert_str("peer_cert_error", f64::from(error));
    }
    Ok(array.into())
}
