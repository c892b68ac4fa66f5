//! The Received field that the server puts on top of every message (RFC 5321 4.4, manual "Received header").

use std::fmt::Write as _;

use crate::{MailError, Zoned};

/// The words behind `with` (RFC 3848, RFC 6531).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// An SMTP session. Encryption and authentication always give the E form.
    Smtp {
        /// EHLO was said.
        esmtp: bool,
        /// TLS is active.
        tls: bool,
        /// The client is authenticated.
        auth: bool,
        /// The transaction uses SMTPUTF8.
        utf8: bool,
    },
    /// Submission over HTTP.
    Http,
    /// Submission over HTTPS.
    Https,
}

impl Protocol {
    fn write(self, out: &mut String) {
        match self {
            Self::Http => out.push_str("HTTP"),
            Self::Https => out.push_str("HTTPS"),
            Self::Smtp { esmtp, tls, auth, utf8 } => {
                out.push_str(match (utf8, esmtp || tls || auth) {
                    (true, _) => "UTF8SMTP",
                    (false, true) => "ESMTP",
                    (false, false) => "SMTP",
                });
                if tls {
                    out.push('S');
                }
                if auth {
                    out.push('A');
                }
            }
        }
    }
}

/// What a Received field says.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// Host of HELO or EHLO; empty is written `unknown`.
    pub helo: &'a str,
    /// Forward-confirmed reverse name.
    pub ptr: Option<&'a str>,
    /// Address of the client, textual; none for a unix socket.
    pub ip: &'a str,
    /// `servers[].hostname`.
    pub hostname: &'a str,
    /// `servers[].received.product`; empty omits it.
    pub product: &'a str,
    /// How it came.
    pub protocol: Protocol,
    /// Transaction id.
    pub id: &'a str,
    /// When, in local time.
    pub time: &'a Zoned,
}

impl Received<'_> {
    /// The field, folded with tabs, CRLF at its end.
    ///
    /// # Errors
    /// [`MailError::Time`] if the time cannot be written.
    pub fn field(&self) -> Result<String, MailError> {
        let mut out = String::with_capacity(256);
        out.push_str("Received: from ");
        push_or_unknown(&mut out, self.helo);
        out.push_str(" (");
        push_or_unknown(&mut out, self.ptr.unwrap_or(""));
        out.push_str(" [");
        push_safe(&mut out, self.ip);
        out.push_str("])\r\n\tby ");
        push_or_unknown(&mut out, self.hostname);
        if !self.product.is_empty() {
            out.push_str(" (");
            push_safe(&mut out, self.product);
            out.push(')');
        }
        out.push_str(" with ");
        self.protocol.write(&mut out);
        out.push_str("\r\n\tid ");
        push_safe(&mut out, self.id);
        // Writing to a string cannot fail.
        let _ = write!(out, ";\r\n\t{}\r\n", self.time.rfc5322_with_zone()?);
        Ok(out)
    }
}

fn push_or_unknown(out: &mut String, text: &str) {
    if text.is_empty() { out.push_str("unknown") } else { push_safe(out, text) }
}

/// What a client says must not open comments, start fields or hide bytes.
fn push_safe(out: &mut String, text: &str) {
    let safe = |c: char| {
        !c.is_control() && !c.is_whitespace() && !matches!(c, '(' | ')' | '\\' | '"' | '<' | '>' | ';')
    };
    out.extend(text.chars().map(|c| if safe(c) { c } else { '?' }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_manual_shows() {
        let time = Zoned::utc(1_757_167_391);
        let mut received = Received {
            helo: "mail.example",
            ptr: Some("ptr.example"),
            ip: "2001:db8::1",
            hostname: "mx.example",
            product: "Halon",
            protocol: Protocol::Smtp { esmtp: true, tls: true, auth: false, utf8: false },
            id: "c6321f4c-1671-11ea-885e-005056914940",
            time: &time,
        };
        assert_eq!(
            received.field().unwrap(),
            "Received: from mail.example (ptr.example [2001:db8::1])\r\n\tby mx.example (Halon) with ESMTPS\r\n\tid \
             c6321f4c-1671-11ea-885e-005056914940;\r\n\tSat, 06 Sep 2025 14:03:11 +0000 (UTC)\r\n"
        );
        received.helo = "a)\r\nX: y";
        received.ptr = None;
        received.product = "";
        received.protocol = Protocol::Http;
        let field = received.field().unwrap();
        assert!(
            field.starts_with(
                "Received: from a???X:?y (unknown [2001:db8::1])\r\n\tby mx.example with HTTP\r\n"
            )
        );
    }

    #[test]
    fn protocols() {
        let name = |esmtp, tls, auth, utf8| {
            let mut out = String::new();
            Protocol::Smtp { esmtp, tls, auth, utf8 }.write(&mut out);
            out
        };
        assert_eq!(name(false, false, false, false), "SMTP");
        assert_eq!(name(false, false, true, false), "ESMTPA");
        assert_eq!(name(true, true, true, false), "ESMTPSA");
        assert_eq!(name(true, true, true, true), "UTF8SMTPSA");
    }
}
