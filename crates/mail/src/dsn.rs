//! Delivery status notifications (RFC 3464, RFC 6522; manual, queue and delivery 14).
//!
//! One [`Report`] speaks about one queue entry. Its id is derived from what it reports ([`report_id`]), so that a crash
//! between storing it and recording that cannot leave two.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::{
    Address, FieldOptions, MailError, MailMessage, WriteOptions, Zoned,
    words::{WordEncoding, contained, encode, folded_field, text},
};

/// Name space of [`report_id`]; must never change.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x8a1e_6c1b_4a53_4f0e_9d0b_5d7c_31f2_a946);

/// What happened to the recipient (RFC 3464 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Given up.
    Failed,
    /// Still trying.
    Delayed,
    /// Delivered.
    Delivered,
    /// Handed to a system that does not report.
    Relayed,
}

impl Action {
    /// The value of the Action field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }

    fn subject_prefix(self) -> &'static str {
        match self {
            Self::Failed => "Undeliverable: ",
            Self::Delayed => "Delayed: ",
            Self::Delivered => "Delivered: ",
            Self::Relayed => "Relayed: ",
        }
    }

    fn default_class(self) -> u8 {
        match self {
            Self::Failed => 5,
            Self::Delayed => 4,
            Self::Delivered | Self::Relayed => 2,
        }
    }
}

/// How much of the original goes along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Original {
    /// Nothing.
    None,
    /// Its header.
    #[default]
    Headers,
    /// All of it.
    Full,
}

/// What the next hop or we ourselves said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply<'a> {
    /// SMTP reply code, 0 if none was read.
    pub code: u16,
    /// Enhanced status code.
    pub enhanced: Option<(u8, u16, u16)>,
    /// Lines of text, without codes.
    pub lines: &'a [String],
    /// The command it answered, e.g. `RCPT TO`; empty if none.
    pub command: &'a str,
    /// `Diagnostic-Code` type; `smtp` if empty.
    pub diagnostic_type: &'a str,
}

/// Everything a notification says.
#[derive(Clone)]
pub struct Report<'a> {
    /// What happened.
    pub action: Action,
    /// Name of this host.
    pub hostname: &'a str,
    /// `Reporting-MTA` if not `hostname`.
    pub reporting_mta: Option<&'a str>,
    /// Id of the notification, see [`report_id`].
    pub id: Uuid,
    /// Date of the notification.
    pub date: &'a Zoned,
    /// Body of the From field; none is `Mail Delivery Subsystem <postmaster@HOSTNAME>`.
    pub from: Option<&'a str>,
    /// Whom it goes to: the sender of the original.
    pub to: &'a Address,
    /// The whole subject; else the prefix and that of the original.
    pub subject: Option<&'a str>,
    /// The prefix, if not that of the action.
    pub subject_prepend: Option<&'a str>,
    /// Additional header lines, `Name: value`.
    pub headers: &'a [String],
    /// A MIME part (header, blank line, body) instead of the readable text.
    pub readable_mimepart: Option<&'a [u8]>,
    /// The message reported about, with the edits of the entry.
    pub original: &'a MailMessage,
    /// How much of it goes along.
    pub part3: Original,
    /// ENVID, xtext.
    pub envid: Option<&'a str>,
    /// What the client said in HELO, and its address.
    pub received_from: Option<(&'a str, &'a str)>,
    /// When the original came.
    pub arrival: Option<&'a Zoned>,
    /// ORCPT, `type;xtext`.
    pub orcpt: Option<&'a str>,
    /// The recipient.
    pub recipient: &'a Address,
    /// Status if it does not follow from the reply.
    pub status: Option<(u8, u16, u16)>,
    /// Host that was connected to.
    pub remote_mta: Option<&'a str>,
    /// The last reply.
    pub reply: Reply<'a>,
    /// When the last attempt was.
    pub last_attempt: Option<&'a Zoned>,
    /// When we give up (delayed only).
    pub will_retry_until: Option<&'a Zoned>,
}

/// The id of the notification about one outcome of one entry: the same every time it is asked.
pub fn report_id(message: Uuid, queue_id: u64, action: Action, retry: u32) -> Uuid {
    Uuid::new_v5(&ID_NAMESPACE, format!("{message}:{queue_id}:{}:{retry}", action.as_str()).as_bytes())
}

impl Report<'_> {
    /// The message, lines ending in CRLF.
    ///
    /// # Errors
    /// Reading the original, a time that cannot be written, or a custom header line that is none.
    pub fn compose(&self) -> Result<Vec<u8>, MailError> {
        let boundary = format!("=_{}", self.id.simple());
        let mut out = self.message_header(&boundary)?;
        out.extend_from_slice(b"This is a delivery status notification in MIME format.\r\n");
        let mut part = |header: &str, body: &[u8]| {
            out.extend_from_slice(format!("\r\n--{boundary}\r\n{header}").as_bytes());
            out.extend_from_slice(body);
        };
        match self.readable_mimepart {
            Some(own) => part("", own),
            None => {
                let readable = self.readable();
                let encoding = if readable.is_ascii() { "7bit" } else { "8bit" };
                part(
                    &format!(
                        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
                    ),
                    readable.as_bytes(),
                );
            }
        }
        let kind = if self.is_global() { "global-delivery-status" } else { "delivery-status" };
        let status = self.delivery_status()?;
        let encoding = if status.is_ascii() { "" } else { "Content-Transfer-Encoding: 8bit\r\n" };
        part(&format!("Content-Type: message/{kind}\r\n{encoding}\r\n"), status.as_bytes());
        match self.part3 {
            Original::None => {}
            Original::Headers => {
                let header = self.original_header()?;
                let encoding = if header.is_ascii() { "" } else { "Content-Transfer-Encoding: 8bit\r\n" };
                part(&format!("Content-Type: text/rfc822-headers\r\n{encoding}\r\n"), &header);
            }
            Original::Full => {
                let all = self.original.to_bytes()?;
                let kind = if self.is_global() { "global" } else { "rfc822" };
                let encoding = if all.is_ascii() { "" } else { "Content-Transfer-Encoding: 8bit\r\n" };
                part(&format!("Content-Type: message/{kind}\r\n{encoding}\r\n"), &all);
            }
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        Ok(out)
    }

    /// The status written in the Status field: as given, else the enhanced code if its class fits the action, else
    /// class.0.0.
    pub fn status_code(&self) -> (u8, u16, u16) {
        let class = match u8::try_from(self.reply.code / 100) {
            Ok(class @ (2 | 4 | 5)) => class,
            _ => self.action.default_class(),
        };
        let class = if self.action == Action::Failed && class == 2 { 5 } else { class };
        self.status.or(self.reply.enhanced.filter(|code| code.0 == class)).unwrap_or((class, 0, 0))
    }

    fn message_header(&self, boundary: &str) -> Result<Vec<u8>, MailError> {
        let subject_original = self.original.subject()?.unwrap_or_default();
        let subject = match self.subject {
            Some(whole) => whole.to_owned(),
            None => {
                format!("{}{subject_original}", self.subject_prepend.unwrap_or(self.action.subject_prefix()))
            }
        };
        let from = match self.from {
            Some(from) => from.to_owned(),
            None => format!("Mail Delivery Subsystem <postmaster@{}>", self.hostname),
        };
        let mut out = Vec::with_capacity(2048);
        let mut field = |name: &str, value: &str| {
            out.extend(folded_field(name, encode(&one_line(value), WordEncoding::Shorter).as_bytes()));
        };
        field("From", &from);
        field("To", &format!("<{}>", self.to));
        field("Subject", &subject);
        field("Date", &self.date.rfc5322()?);
        field("Message-ID", &crate::message_id(self.id, self.hostname));
        field("MIME-Version", "1.0");
        field("Auto-Submitted", "auto-replied");
        let raw = FieldOptions { field: false, decode: false };
        if let Some(id) = self.original.get_header("Message-ID", 0, raw)? {
            // An id longer than a line may be cannot be one.
            let id = one_line(&text(&id));
            if !id.is_empty() && id.len() <= 900 {
                field("In-Reply-To", &id);
                field("References", &id);
            }
        }
        for line in self.headers {
            out.extend(custom_line(line)?);
        }
        out.extend_from_slice(
            format!(
                "Content-Type: multipart/report; report-type={};\r\n\tboundary=\"{boundary}\"\r\n",
                if self.is_global() { "global-delivery-status" } else { "delivery-status" }
            )
            .as_bytes(),
        );
        if self.has_8bit()? {
            out.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }

    fn readable(&self) -> String {
        let recipient = self.recipient;
        let what = match self.action {
            Action::Failed => "Your message could not be delivered to the following recipient:",
            Action::Delayed => {
                "Your message has not yet been delivered to the following recipient. Delivery is\r\nstill being \
                 attempted; you do not need to send the message again."
            }
            Action::Delivered => "Your message was delivered to the following recipient:",
            Action::Relayed => {
                "Your message was relayed to a system that does not send delivery notifications,\r\nfor the following \
                 recipient:"
            }
        };
        let mut out = format!(
            "This is the mail delivery system at {}.\r\n\r\n{what}\r\n\r\n\t<{recipient}>\r\n",
            one_line(self.hostname)
        );
        if self.reply.code > 0 || !self.reply.lines.is_empty() {
            let who = match self.remote_mta {
                Some(host) => format!("The host {} said", one_line(host)),
                None => "The reason given was".to_owned(),
            };
            let _ = write!(out, "\r\n{who}:\r\n\r\n");
            for line in self.reply_lines() {
                let _ = write!(out, "\t{line}\r\n");
            }
            if !self.reply.command.is_empty() {
                let _ = write!(out, "\r\nin reply to {}.\r\n", one_line(self.reply.command));
            }
        }
        if let (Action::Delayed, Some(until)) = (self.action, self.will_retry_until)
            && let Ok(date) = until.rfc5322()
        {
            let _ = write!(out, "\r\nDelivery will be attempted until {date}.\r\n");
        }
        out
    }

    fn delivery_status(&self) -> Result<String, MailError> {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut field = |name: &str, value: &str| {
            let folded = folded_field(name, one_line(value).as_bytes());
            out.push_str(&text(&folded));
        };
        field("Reporting-MTA", &format!("dns; {}", self.reporting_mta.unwrap_or(self.hostname)));
        if let Some(envid) = self.envid.filter(|envid| !envid.is_empty()) {
            field("Original-Envelope-Id", &xtext_decoded(envid));
        }
        if let Some((helo, ip)) = self.received_from {
            let host = if helo.is_empty() { "unknown" } else { helo };
            field("Received-From-MTA", &format!("dns; {host} ({ip})"));
        }
        if let Some(arrival) = self.arrival {
            field("Arrival-Date", &arrival.rfc5322()?);
        }
        out.push_str("\r\n");
        let mut field = |name: &str, value: &str| {
            let folded = folded_field(name, one_line(value).as_bytes());
            out.push_str(&text(&folded));
        };
        if let Some(orcpt) = self.orcpt.filter(|orcpt| !orcpt.is_empty()) {
            let (kind, address) = orcpt.split_once(';').unwrap_or(("rfc822", orcpt));
            field("Original-Recipient", &format!("{kind};{}", xtext_decoded(address)));
        }
        let kind = if self.recipient.is_ascii() { "rfc822" } else { "utf-8" };
        field("Final-Recipient", &format!("{kind}; {}", self.recipient));
        field("Action", self.action.as_str());
        let (class, subject, detail) = self.status_code();
        field("Status", &format!("{class}.{subject}.{detail}"));
        if let Some(mta) = self.remote_mta {
            field("Remote-MTA", &format!("dns; {mta}"));
        }
        if self.reply.code > 0 || !self.reply.lines.is_empty() {
            let kind =
                if self.reply.diagnostic_type.is_empty() { "smtp" } else { self.reply.diagnostic_type };
            field("Diagnostic-Code", &format!("{kind}; {}", self.reply_lines().join(" ")));
        }
        if let Some(last) = self.last_attempt {
            field("Last-Attempt-Date", &last.rfc5322()?);
        }
        if let (Action::Delayed, Some(until)) = (self.action, self.will_retry_until) {
            field("Will-Retry-Until", &until.rfc5322()?);
        }
        Ok(out)
    }

    /// The reply as the peer sent it; codes stand on the first line only.
    fn reply_lines(&self) -> Vec<String> {
        let mut head = String::new();
        if self.reply.code > 0 {
            let _ = write!(head, "{} ", self.reply.code);
        }
        if let Some((class, subject, detail)) = self.reply.enhanced {
            let _ = write!(head, "{class}.{subject}.{detail} ");
        }
        let mut lines: Vec<String> = self.reply.lines.iter().map(|line| one_line(line)).collect();
        match lines.first_mut() {
            Some(first) => first.insert_str(0, &head),
            None => lines.push(head.trim_end().to_owned()),
        }
        lines
    }

    fn original_header(&self) -> Result<Vec<u8>, MailError> {
        if self.original.edits()?.is_empty() {
            return Ok(self.original.header()?.block().to_vec());
        }
        let modified = crate::HeaderIndex::parse(&self.original.to_bytes()?);
        Ok(modified.block().to_vec())
    }

    fn has_8bit(&self) -> Result<bool, MailError> {
        Ok(!self.delivery_status()?.is_ascii()
            || (self.readable_mimepart.is_none() && !self.readable().is_ascii())
            || self.readable_mimepart.is_some_and(|part| !part.is_ascii())
            || match self.part3 {
                Original::None => false,
                Original::Headers => !self.original_header()?.is_ascii(),
                Original::Full => !self.original.to_bytes()?.is_ascii(),
            })
    }

    fn is_global(&self) -> bool {
        !self.recipient.is_ascii() || !self.to.is_ascii()
    }
}

/// Text that cannot end its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// A custom line `Name: value` as a field that ends with CRLF.
fn custom_line(line: &str) -> Result<Vec<u8>, MailError> {
    let bad = || MailError::HeaderName(line.chars().take(80).collect());
    let (name, value) = line.split_once(':').ok_or_else(bad)?;
    if name.is_empty() || !name.bytes().all(|b| matches!(b, 33..=57 | 59..=126)) {
        return Err(bad());
    }
    let options = WriteOptions::default();
    let value = contained(value.trim().as_bytes());
    let encoded = encode(&text(&crate::words::unfold(&value)), options.encoding);
    Ok(folded_field(name, encoded.as_bytes()))
}

/// RFC 3461 4: `+HH` is a byte; what is not xtext stays as it is.
fn xtext_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'+', Some(high), Some(low)) => {
                // Two hex digits.
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (other, _, _) => {
                out.push(other);
                at += 1;
            }
        }
    }
    text(&out)
}

#[cfg(test)]
mod tests;
