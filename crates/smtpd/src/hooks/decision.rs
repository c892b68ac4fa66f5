//! What a hook decided, and the reply that follows from it.

use mail::Address;
use smtp::Reply;
use smtp::reply::Enhanced;

/// The hooks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the phases")]
pub enum Phase {
    Connect,
    Helo,
    MailFrom,
    RcptTo,
    Eod,
    Disconnect,
}

impl Phase {
    /// All of them, in the order of a session.
    pub const ALL: [Phase; 6] =
        [Phase::Connect, Phase::Helo, Phase::MailFrom, Phase::RcptTo, Phase::Eod, Phase::Disconnect];

    /// The name in the configuration and in counters.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Helo => "helo",
            Phase::MailFrom => "mailfrom",
            Phase::RcptTo => "rcptto",
            Phase::Eod => "eod",
            Phase::Disconnect => "disconnect",
        }
    }
}

/// Accepted, refused for good or for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the functions of the scripts")]
pub enum Verdict {
    Accept,
    Reject,
    Defer,
}

impl Verdict {
    /// The reply class.
    pub fn class(self) -> u16 {
        match self {
            Verdict::Accept => 2,
            Verdict::Reject => 5,
            Verdict::Defer => 4,
        }
    }
}

/// The end of a connection hook with its options.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Which function ended the script.
    pub verdict: Verdict,
    /// Replaces the default text where not empty.
    pub reason: Vec<Vec<u8>>,
    /// Replaces the default code.
    pub code: Option<u16>,
    /// Replaces the default enhanced code; `Some(None)` suppresses it.
    pub enhanced: Option<Option<Enhanced>>,
    /// Close after the reply.
    pub disconnect: bool,
    /// `sender` (mailfrom) or `recipient` (rcptto).
    pub address: Option<Address>,
    /// `transportid` (rcptto).
    pub transport: Option<String>,
    /// `extensions` (helo).
    pub extensions: Option<Vec<String>>,
    /// `host` (helo).
    pub host: Option<String>,
    /// `remoteip` (connect).
    pub remote_ip: Option<String>,
    /// `remoteptr` (connect).
    pub remote_ptr: Option<String>,
    /// `priority` (connect).
    pub priority: Option<f64>,
}

impl Decision {
    /// The function without arguments.
    pub fn plain(verdict: Verdict) -> Decision {
        Decision {
            verdict,
            reason: Vec::new(),
            code: None,
            enhanced: None,
            disconnect: false,
            address: None,
            transport: None,
            extensions: None,
            host: None,
            remote_ip: None,
            remote_ptr: None,
            priority: None,
        }
    }

    /// What follows a script error: the codes of Defer with a text that tells the client nothing.
    pub fn script_error() -> Decision {
        Decision { reason: vec![b"Temporary server error".to_vec()], ..Decision::plain(Verdict::Defer) }
    }

    /// The reply: defaults of phase and function, overridden by the options. `text` is the default text of
    /// Accept where it is not fixed (greeting, queue id).
    pub fn reply(&self, phase: Phase, text: &str) -> Reply {
        let (code, enhanced, default) = defaults(phase, self.verdict);
        let class = self.code.unwrap_or(code) / 100;
        let enhanced = match self.enhanced {
            Some(enhanced) => enhanced,
            None => enhanced,
        };
        // The class digit follows the code whatever the script said.
        let enhanced = enhanced.map(|Enhanced(_, subject, detail)| Enhanced(class, subject, detail));
        let is_empty = self.reason.iter().all(Vec::is_empty);
        let lines = match is_empty {
            false => self.reason.clone(),
            true if default.is_empty() => vec![text.as_bytes().to_vec()],
            true => vec![default.as_bytes().to_vec()],
        };
        Reply { code: self.code.unwrap_or(code), enhanced, lines }
    }
}

/// Codes and texts of `smtp-hooks` section 3.
fn defaults(phase: Phase, verdict: Verdict) -> (u16, Option<Enhanced>, &'static str) {
    let (code, (a, b, c), text) = match (phase, verdict) {
        (Phase::Connect, Verdict::Accept) => return (220, None, ""),
        (Phase::Helo, Verdict::Accept) => return (250, None, ""),
        (Phase::Connect, Verdict::Reject) => (521, (5, 7, 1), "Connection rejected"),
        (Phase::Connect, Verdict::Defer) => (421, (4, 3, 2), "Service not available, try again later"),
        (Phase::Helo, Verdict::Reject) => (554, (5, 7, 1), "Command rejected"),
        (Phase::MailFrom, Verdict::Accept) => (250, (2, 1, 0), "Ok"),
        (Phase::MailFrom, Verdict::Reject) => (554, (5, 7, 1), "Sender rejected"),
        (Phase::RcptTo, Verdict::Accept) => (250, (2, 1, 5), "Ok"),
        (Phase::RcptTo, Verdict::Reject) => (554, (5, 7, 1), "Recipient rejected"),
        (Phase::Helo | Phase::MailFrom | Phase::RcptTo, Verdict::Defer) => {
            (450, (4, 3, 2), "Try again later")
        }
        (Phase::Eod | Phase::Disconnect, Verdict::Accept) => (250, (2, 0, 0), ""),
        (Phase::Eod | Phase::Disconnect, Verdict::Reject) => (550, (5, 7, 1), "Message rejected"),
        (Phase::Eod | Phase::Disconnect, Verdict::Defer) => {
            (421, (4, 3, 2), "Message deferred, try again later")
        }
    };
    (code, Some(Enhanced(a, b, c)), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_manual() {
        for (phase, verdict, expected) in [
            (Phase::Connect, Verdict::Accept, "220 mx ESMTP"),
            (Phase::Connect, Verdict::Reject, "521 5.7.1 Connection rejected"),
            (Phase::Helo, Verdict::Defer, "450 4.3.2 Try again later"),
            (Phase::MailFrom, Verdict::Accept, "250 2.1.0 Ok"),
            (Phase::RcptTo, Verdict::Reject, "554 5.7.1 Recipient rejected"),
            (Phase::Eod, Verdict::Accept, "250 2.0.0 mx ESMTP"),
            (Phase::Eod, Verdict::Defer, "421 4.3.2 Message deferred, try again later"),
        ] {
            assert_eq!(Decision::plain(verdict).reply(phase, "mx ESMTP").to_string(), expected);
        }
    }

    #[test]
    fn options_override_one_by_one() {
        let mut decision = Decision::plain(Verdict::Reject);
        decision.code = Some(553);
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 5.7.1 Sender rejected");
        decision.enhanced = Some(Some(Enhanced(4, 1, 8)));
        decision.reason = vec![b"no".to_vec()];
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 5.1.8 no");
        decision.enhanced = Some(None);
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 no");
        assert_eq!(
            Decision::script_error().reply(Phase::Eod, "").to_string(),
            "421 4.3.2 Temporary server error"
        );
    }
}
