//! What comes between the greeting and the first transaction: XCLIENT (as Postfix speaks it) and AUTH (RFC 4954) with
//! CRAM-MD5 (RFC 2195), PLAIN (RFC 4616) or LOGIN.

use super::{Client, Event, Failure, Outcome, Phase, State};
use crate::reply::Reply;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

impl Client {
    /// XCLIENT where it is wanted and announced; the server greets anew afterwards.
    pub(super) fn identify(&mut self) -> Option<Event> {
        if self.done.xclient || self.settings.xclient.is_empty() || !self.announced.xclient {
            return self.log_in();
        }
        self.done.xclient = true;
        let mut line = "XCLIENT".to_owned();
        for (name, value) in &self.settings.xclient {
            line.push_str(&format!(" {}={}", name.to_ascii_uppercase(), xtext(value)));
        }
        self.command(State::Xclient, &line);
        None
    }

    /// AUTH where there is an account: the strongest mechanism announced, no password in the clear unless that is
    /// wanted.
    fn log_in(&mut self) -> Option<Event> {
        let Some(account) = self.settings.auth.as_ref().filter(|_| !self.done.auth) else {
            self.phase = Phase::Ready;
            return None;
        };
        let offers = |name: &str| self.announced.auth.iter().any(|mechanism| mechanism == name);
        let may_show = self.tls_active || account.in_clear;
        let (state, line) = if offers("CRAM-MD5") {
            (State::AuthCramMd5, "AUTH CRAM-MD5".to_owned())
        } else if offers("PLAIN") && may_show {
            let token = STANDARD.encode(format!("\0{}\0{}", account.username, account.password));
            (State::AuthPlain, format!("AUTH PLAIN {token}"))
        } else if offers("LOGIN") && may_show {
            (State::AuthLogin, "AUTH LOGIN".to_owned())
        } else {
            let text = if self.announced.auth.is_empty() {
                "AUTH not announced".to_owned()
            } else {
                let clear = if may_show { "" } else { " without TLS" };
                format!("no usable mechanism in AUTH {}{clear}", self.announced.auth.join(" "))
            };
            return Some(self.fail_session(State::Ehlo, Failure::NoLogin(text)));
        };
        self.done.auth = true;
        self.command(state, &line);
        None
    }

    /// The next line of a login, or its end.
    pub(super) fn authenticate(&mut self, state: State, reply: &Reply) -> Option<Event> {
        let account = self.settings.auth.clone();
        match (state, reply.class(), account) {
            (State::AuthPlain | State::Auth, 2, _) => {
                self.phase = Phase::Ready;
                None
            }
            (State::AuthCramMd5, 3, Some(account)) => {
                let challenge = reply.lines.first().map(Vec::as_slice).unwrap_or_default();
                let challenge = STANDARD.decode(challenge.trim_ascii()).ok();
                let digest =
                    challenge.and_then(|challenge| hmac_md5(account.password.as_bytes(), &challenge));
                let Some(digest) = digest else {
                    let failure = Failure::Protocol("malformed challenge of CRAM-MD5".to_owned());
                    return Some(self.fail_session(state, failure));
                };
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                self.command(State::Auth, &STANDARD.encode(format!("{} {hex}", account.username)));
                None
            }
            (State::AuthLogin, 3, Some(account)) => {
                self.command(State::AuthLoginUser, &STANDARD.encode(account.username));
                None
            }
            (State::AuthLoginUser, 3, Some(account)) => {
                self.command(State::Auth, &STANDARD.encode(account.password));
                None
            }
            _ => {
                let failure = Failure::Protocol(format!("unexpected reply '{reply}' in state {state}"));
                Some(self.fail_session(state, failure))
            }
        }
    }

    /// The session ends with a reply that refuses it.
    pub(super) fn refused(&mut self, state: State, reply: Reply) -> Event {
        self.broken = true;
        self.output.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Closed;
        Event::Finished(Outcome { state, result: Ok(reply) })
    }
}

/// None where the library has no MD5, as in its FIPS mode.
fn hmac_md5(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let key = PKey::hmac(key).ok()?;
    let mut signer = Signer::new(MessageDigest::md5(), &key).ok()?;
    signer.sign_oneshot_to_vec(message).ok()
}

/// RFC 3461 4: what is not printable or has a meaning becomes `+HH`.
fn xtext(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'+' | b'=') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("+{byte:02X}"));
        }
    }
    out
}
