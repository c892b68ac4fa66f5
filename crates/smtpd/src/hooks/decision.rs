//! What a hook decided, and the reply that follows from it.

use hsl_std::hooks::Hook;
use hsl_std::hooks::options::ReplyOptions;
pub use hsl_std::hooks::options::Verdict;
use smtp::Reply;
use smtp::reply::Enhanced;

/// The hooks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the phases")]
pub enum Phase {
    Connect,
    Proxy,
    Helo,
    Auth,
    MailFrom,
    RcptTo,
    Eod,
    EodRcpt,
    Disconnect,
}

impl Phase {
    /// All of them, in the order of a session.
    pub const ALL: [Phase; 9] = [
        Phase::Connect,
        Phase::Proxy,
        Phase::Helo,
        Phase::Auth,
        Phase::MailFrom,
        Phase::RcptTo,
        Phase::Eod,
        Phase::EodRcpt,
        Phase::Disconnect,
    ];

    /// The name in the configuration and in counters.
    pub fn name(self) -> &'static str {
        self.hook().name()
    }

    /// The hook with its functions and variables.
    pub fn hook(self) -> Hook {
        match self {
            Phase::Connect => Hook::Connect,
            Phase::Proxy => Hook::Proxy,
            Phase::Helo => Hook::Helo,
            Phase::Auth => Hook::Auth,
            Phase::MailFrom => Hook::MailFrom,
            Phase::RcptTo => Hook::RcptTo,
            Phase::Eod => Hook::Eod,
            Phase::EodRcpt => Hook::EodRcpt,
            Phase::Disconnect => Hook::Disconnect,
        }
    }

    /// What follows where a script ends without a function.
    pub fn implicit_end(self) -> Verdict {
        match self {
            Phase::Auth => Verdict::Reject,
            // Nothing was said about the message, so nothing happens to it and the client keeps it.
            Phase::Eod => Verdict::Defer,
            Phase::Proxy | Phase::Disconnect => Verdict::Pass,
            _ => Verdict::Accept,
        }
    }
}

/// The end of a connection hook with its options.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Which function ended the script.
    pub verdict: Verdict,
    /// Its arguments.
    pub options: ReplyOptions,
}

impl Decision {
    /// The function without arguments.
    pub fn plain(verdict: Verdict) -> Decision {
        Decision { verdict, options: ReplyOptions::default() }
    }

    /// What follows a script error: the codes of Defer with a text that tells the client nothing. In the proxy hook
    /// the connection ends, since nobody knows what the line was meant to do.
    pub fn script_error(phase: Phase) -> Decision {
        let mut options =
            ReplyOptions { reason: vec![b"Temporary server error".to_vec()], ..ReplyOptions::default() };
        if phase == Phase::Proxy {
            options.code = Some(421);
            options.enhanced = Some(Some((4, 3, 2)));
            options.disconnect = true;
            return Decision { verdict: Verdict::Reply, options };
        }
        Decision { verdict: Verdict::Defer, options }
    }

    /// The reply: defaults of phase and function, overridden by the options. `text` is the default text of
    /// Accept where it is not fixed (greeting, queue id).
    pub fn reply(&self, phase: Phase, text: &str) -> Reply {
        let (code, enhanced, default) = defaults(phase, self.verdict);
        let code = self.options.code.unwrap_or(code);
        let class = code / 100;
        let enhanced = match self.options.enhanced {
            Some(enhanced) => enhanced.map(|(class, subject, detail)| Enhanced(class, subject, detail)),
            None => enhanced,
        };
        // Codes of the class 3 have none (RFC 2034).
        let enhanced = enhanced.filter(|_| class != 3);
        // The class digit follows the code whatever the script said.
        let enhanced = enhanced.map(|Enhanced(_, subject, detail)| Enhanced(class, subject, detail));
        let reason = &self.options.reason;
        let lines = match reason.iter().all(Vec::is_empty) {
            false => reason.clone(),
            true if default.is_empty() => vec![text.as_bytes().to_vec()],
            true => vec![default.as_bytes().to_vec()],
        };
        Reply { code, enhanced, lines }
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
        (Phase::Auth, Verdict::Accept) => (235, (2, 7, 0), "Authentication successful"),
        (Phase::Auth, Verdict::Reject) => (535, (5, 7, 8), "Authentication failed"),
        (Phase::Auth, Verdict::Defer) => (454, (4, 7, 0), "Temporary authentication failure"),
        (Phase::Eod | Phase::EodRcpt, Verdict::Accept) => (250, (2, 0, 0), ""),
        (Phase::Eod | Phase::EodRcpt, Verdict::Reject) => (550, (5, 7, 1), "Message rejected"),
        (Phase::Eod | Phase::EodRcpt, Verdict::Defer) => {
            (421, (4, 3, 2), "Message deferred, try again later")
        }
        // The proxy hook; the other pairs have no reply of their own.
        _ => (250, (2, 0, 0), "Ok"),
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
            (Phase::Auth, Verdict::Accept, "235 2.7.0 Authentication successful"),
            (Phase::Auth, Verdict::Reject, "535 5.7.8 Authentication failed"),
            (Phase::Auth, Verdict::Defer, "454 4.7.0 Temporary authentication failure"),
            (Phase::Proxy, Verdict::Reply, "250 2.0.0 Ok"),
            (Phase::Eod, Verdict::Reject, "550 5.7.1 Message rejected"),
            (Phase::Eod, Verdict::Accept, "250 2.0.0 mx ESMTP"),
            (Phase::Eod, Verdict::Defer, "421 4.3.2 Message deferred, try again later"),
        ] {
            assert_eq!(Decision::plain(verdict).reply(phase, "mx ESMTP").to_string(), expected);
        }
    }

    #[test]
    fn options_override_one_by_one() {
        let mut decision = Decision::plain(Verdict::Reject);
        decision.options.code = Some(553);
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 5.7.1 Sender rejected");
        decision.options.enhanced = Some(Some((4, 1, 8)));
        decision.options.reason = vec![b"no".to_vec()];
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 5.1.8 no");
        decision.options.enhanced = Some(None);
        assert_eq!(decision.reply(Phase::MailFrom, "").to_string(), "553 no");
        assert_eq!(
            Decision::script_error(Phase::Eod).reply(Phase::Eod, "").to_string(),
            "421 4.3.2 Temporary server error"
        );
        for (phase, expected) in [
            (Phase::Connect, "421 4.3.2 Temporary server error"),
            (Phase::Proxy, "421 4.3.2 Temporary server error"),
            (Phase::Helo, "450 4.3.2 Temporary server error"),
            (Phase::Auth, "454 4.7.0 Temporary server error"),
            (Phase::MailFrom, "450 4.3.2 Temporary server error"),
            (Phase::RcptTo, "450 4.3.2 Temporary server error"),
        ] {
            let error = Decision::script_error(phase);
            assert_eq!(error.reply(phase, "").to_string(), expected);
            assert_eq!(error.options.disconnect, phase == Phase::Proxy);
        }
    }
}
