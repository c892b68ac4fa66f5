//! MAIL and RCPT: what has to come before them, their addresses and parameters (RFC 5321 4.1.1.2 and 4.1.1.3).

use super::command::PathError;
use super::parameters::ParameterError;
use super::{Event, Server, State, command};
use crate::reply::{Enhanced, Reply};

impl Server {
    pub(super) fn mail_command(&mut self, argument: &[u8]) -> Option<Event> {
        if self.settings.helo_required && self.helo.is_none() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send HELO or EHLO first"));
            return None;
        }
        if self.mail.is_some() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Nested MAIL command"));
            return None;
        }
        let missing = if self.settings.tls.required && !self.tls {
            Some("Must issue a STARTTLS command first")
        } else if self.settings.tls.peer_certificate_required && !self.peer_certificate {
            Some("Client certificate required")
        } else if self.settings.auth_required && !self.authenticated {
            Some("Authentication required")
        } else {
            None
        };
        if let Some(text) = missing {
            self.protocol_error(Reply::fixed(530, (5, 7, 0), text));
            return None;
        }
        if self.settings.messages_max > 0 && self.messages >= self.settings.messages_max {
            self.put(Reply::fixed(421, (4, 7, 0), "Too many messages in this session"));
            self.state = State::Closed;
            return None;
        }
        let smtputf8 = self.extensions.has("SMTPUTF8");
        let parsed = command::parse_path(argument, "FROM", |parameters| {
            smtputf8 && parameters.iter().any(|(keyword, _)| keyword == "SMTPUTF8")
        });
        let (address, parameters) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                self.protocol_error(path_reply(&error, (5, 1, 7), "Bad sender address syntax"));
                return None;
            }
        };
        match self.extensions.check_mail(&parameters, self.settings.size_max) {
            Ok(facts) => {
                self.mail = Some(facts);
                self.recipients = 0;
                self.recipients_tried = 0;
                self.state = State::AwaitMail;
                self.errors = 0;
                Some(Event::Mail { address, parameters, facts })
            }
            Err(error) => {
                self.protocol_error(parameter_reply(&error));
                None
            }
        }
    }

    pub(super) fn rcpt_command(&mut self, argument: &[u8]) -> Option<Event> {
        let Some(facts) = self.mail else {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send MAIL first"));
            return None;
        };
        if self.chunked || self.dead {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "RCPT after BDAT"));
            return None;
        }
        self.recipients_tried += 1;
        let parsed = command::parse_path(argument, "TO", |_| facts.smtputf8);
        let (address, parameters) = match parsed {
            Ok((address, _)) if address.localpart.is_empty() => {
                self.protocol_error(Reply::fixed(501, (5, 1, 3), "Bad recipient address syntax"));
                return None;
            }
            Ok(parsed) => parsed,
            Err(error) => {
                self.protocol_error(path_reply(&error, (5, 1, 3), "Bad recipient address syntax"));
                return None;
            }
        };
        if let Err(error) = self.extensions.check_rcpt(&parameters) {
            self.protocol_error(parameter_reply(&error));
            return None;
        }
        if self.recipients >= self.settings.recipients_max {
            self.put(Reply::fixed(452, (4, 5, 3), "Too many recipients"));
            return None;
        }
        self.state = State::AwaitRcpt;
        self.errors = 0;
        Some(Event::Rcpt { address, parameters })
    }
}

fn path_reply(error: &PathError, enhanced: (u16, u16, u16), text: &str) -> Reply {
    match error {
        PathError::Address => Reply::fixed(501, enhanced, text),
        PathError::NotAscii => Reply::fixed(553, (5, 6, 7), "Non-ASCII address without SMTPUTF8"),
        PathError::Parameter => Reply::fixed(501, (5, 5, 4), "Syntax error in parameters"),
    }
}

fn parameter_reply(error: &ParameterError) -> Reply {
    match error {
        ParameterError::Unknown(keyword) => {
            Reply::new(555, Some(Enhanced(5, 5, 4)), format!("Parameter {keyword} not recognized"))
        }
        ParameterError::Value(keyword) => {
            Reply::new(501, Some(Enhanced(5, 5, 4)), format!("Bad value of parameter {keyword}"))
        }
        ParameterError::TooLarge => Reply::fixed(552, (5, 3, 4), "Message size exceeds the limit"),
    }
}
