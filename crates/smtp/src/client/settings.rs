//! What a session and a transaction are to do, and what the server announced.

use crate::reply::Reply;
use mail::Address;
use std::fmt;

/// SMTP or LMTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: LHLO, and one reply per recipient after the content.
    Lmtp,
}

/// How much STARTTLS is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StartTls {
    /// Not even when announced.
    Never,
    /// When announced.
    #[default]
    Optional,
    /// Without it nothing is sent.
    Required,
}

/// What a session is to do.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Argument of EHLO, HELO or LHLO.
    pub helo: String,
    /// Use PIPELINING when announced.
    pub pipelining: bool,
    /// Use STARTTLS.
    pub starttls: StartTls,
    /// TLS is active from the first byte: the driver has shaken hands before the first reply.
    pub implicit_tls: bool,
    /// Use BDAT when CHUNKING and PIPELINING are announced.
    pub chunking: bool,
    /// Log in before the first transaction.
    pub auth: Option<Credentials>,
    /// Attributes for XCLIENT, sent when it is announced.
    pub xclient: Vec<(String, String)>,
}

/// An account at the next hop.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// PLAIN and LOGIN may be used although the connection is not encrypted.
    pub in_clear: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One transaction: a sender and one recipient.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// Reverse path; both parts empty for the null sender.
    pub sender: Address,
    /// Forward path.
    pub recipient: Address,
    /// Octets of the content, for SIZE.
    pub bytes: u64,
    /// The content has bytes above 127.
    pub has_8bit: bool,
    /// The header needs SMTPUTF8.
    pub needs_smtputf8: bool,
    /// DSN parameters for MAIL (`RET`, `ENVID`), sent when DSN is announced.
    pub dsn_mail: Vec<(String, String)>,
    /// DSN parameters for RCPT (`NOTIFY`, `ORCPT`), sent when DSN is announced.
    pub dsn_rcpt: Vec<(String, String)>,
    /// Further MAIL parameters, sent as they are.
    pub mail_parameters: Vec<(String, String)>,
    /// Further RCPT parameters, sent as they are.
    pub rcpt_parameters: Vec<(String, String)>,
}

/// What the server announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// PIPELINING.
    pub pipelining: bool,
    /// 8BITMIME.
    pub eightbit: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// DSN.
    pub dsn: bool,
    /// SIZE: the limit in octets, 0 = none named.
    pub size: Option<u64>,
    /// CHUNKING.
    pub chunking: bool,
    /// XCLIENT.
    pub xclient: bool,
    /// Mechanisms of AUTH, in upper case.
    pub auth: Vec<String>,
}

impl Announced {
    /// Reads the reply to EHLO or LHLO.
    pub(super) fn read(reply: &Reply) -> Announced {
        let mut announced = Announced::default();
        for line in reply.lines.iter().skip(1) {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => announced.pipelining = true,
                "8BITMIME" => announced.eightbit = true,
                "SMTPUTF8" => announced.smtputf8 = true,
                "STARTTLS" => announced.starttls = true,
                "DSN" => announced.dsn = true,
                "CHUNKING" => announced.chunking = true,
                "XCLIENT" => announced.xclient = true,
                "AUTH" => announced.auth.extend(words.map(str::to_ascii_uppercase)),
                // The form of servers older than RFC 4954.
                word if word.starts_with("AUTH=") => {
                    announced.auth.extend(word.strip_prefix("AUTH=").map(str::to_owned));
                    announced.auth.extend(words.map(str::to_ascii_uppercase));
                }
                "SIZE" => announced.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                _ => {}
            }
        }
        announced
    }
}
