//! What the commands of a client lead to: the hook of the phase, or its default, and the answer to the machine.
//!
//! The future of a hook is large and lives short, so it is boxed: a connection that waits for its client does not carry room
//! for it.

use crate::hooks::connection as hooks;
use crate::hooks::decision::{Decision, Phase, Verdict};
use crate::server::facts::{Authenticated, Recipient};
use crate::server::session::{Session, reply};
use crate::{clock, error, info, warning};
use config::app::EarlyTalker;
use hsl_std::hooks::options::ConnectionChange;
use mail::Address;
use smtp::server::{AuthAnswer, AuthRequest, Extensions, Helo};
use std::net::SocketAddr;

impl Session {
    /// Looks up the client's name, runs the connect hook and greets; false when the client was sent away.
    pub(super) async fn connect(&mut self) -> bool {
        let mut ptr_result = None;
        if self.server.remote_ptr && self.connection.remote_uid.is_none() {
            let resolver = &self.generation.resolver;
            let (name, result) = Box::pin(hooks::confirmed_name(resolver, &self.connection.remote_ip)).await;
            self.connection.remote_ptr = name;
            ptr_result = Some(result);
        }
        let decision = match &self.server.hooks.connect {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                let (connection, transaction) = (&self.connection, &self.transaction);
                Box::pin(hooks::connect(script, connection, transaction, ptr_result, &mut self.context)).await
            }
        };
        let banner = format!("{} ESMTP", self.server.hostname);
        let answer = decision.reply(Phase::Connect, &banner);
        if decision.verdict != Verdict::Accept {
            self.goodbye.reply = Some((answer.clone(), "CONNECT"));
            self.machine.close_with(answer);
            return false;
        }
        if let Some(remote_ip) = decision.options.remote_ip {
            // The name belonged to the other address.
            self.connection.remote_ptr = None;
            self.connection.remote_ip = remote_ip;
        }
        if let Some(name) = decision.options.remote_ptr {
            self.connection.remote_ptr = Some(name).filter(|name| !name.is_empty());
        }
        self.connection.priority = decision.options.priority.unwrap_or(0.0);
        if !self.server.delay.is_zero() {
            tokio::time::sleep(self.server.delay).await;
        }
        if self.server.early_talker == EarlyTalker::Reject && self.stream.has_spoken().await {
            let answer = reply(554, (5, 5, 1), "Protocol violation: talked before greeting");
            info!(self.connection.id, "early talker {} refused", self.connection.remote_ip);
            self.goodbye.reply = Some((answer.clone(), "CONNECT"));
            self.machine.close_with(answer);
            return false;
        }
        let text = String::from_utf8_lossy(&answer.lines.join(&b'\n')).into_owned();
        self.machine.greet(Some(&text));
        true
    }

    pub(super) async fn proxy(&mut self, line: Vec<u8>) {
        let decision = match &self.server.hooks.proxy {
            // The machine asks only where there is a hook.
            None => Decision::plain(Verdict::Pass),
            Some(script) => {
                let (connection, transaction) = (&self.connection, &self.transaction);
                Box::pin(hooks::proxy(script, connection, transaction, &line, &mut self.context)).await
            }
        };
        self.change_connection(&decision.options.connection);
        let next = decision.options.next;
        if decision.verdict == Verdict::Pass {
            self.machine.pass(decision.options.command, next);
        } else {
            let answer = decision.reply(Phase::Proxy, "");
            self.machine.proxy_reply(answer, next, decision.options.disconnect);
        }
    }

    /// Puts what the proxy hook knows better in place of what the socket tells.
    fn change_connection(&mut self, change: &ConnectionChange) {
        let connection = &mut self.connection;
        if let Some(ip) = &change.remote_ip {
            // The name belonged to the other address.
            connection.remote_ptr = None;
            connection.remote_ip.clone_from(ip);
        }
        if let Some(port) = change.remote_port {
            connection.remote_port = port;
        }
        if let Some(name) = &change.remote_ptr {
            connection.remote_ptr = Some(name.clone()).filter(|name| !name.is_empty());
        }
        if let Some(ip) = change.local_ip.as_ref().and_then(|ip| ip.parse().ok()) {
            connection.local = SocketAddr::new(ip, connection.local.port());
        }
        if let Some(port) = change.local_port {
            connection.local.set_port(port);
        }
        if let Some(host) = &change.helo {
            let extended = connection.helo.as_ref().is_none_or(|(verb, _)| *verb == "EHLO");
            connection.helo = Some((if extended { "EHLO" } else { "HELO" }, host.clone()));
            self.machine.set_helo(Helo { extended, host: host.clone() });
        }
        if let Some(username) = &change.username {
            let auth = (!username.is_empty()).then(|| Authenticated {
                mechanism: "PROXY".to_owned(),
                username: Some(username.clone().into_bytes()),
            });
            self.machine.set_authenticated(auth.is_some());
            connection.auth = auth;
        }
    }

    pub(super) async fn helo(&mut self, helo: Helo) {
        let decision = match &self.server.hooks.helo {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                let offered = self.machine.default_extensions();
                Box::pin(hooks::helo(
                    script,
                    &self.connection,
                    &self.transaction,
                    &helo,
                    offered.items(),
                    &mut self.context,
                ))
                .await
            }
        };
        let answer = decision.reply(Phase::Helo, &self.server.hostname);
        let options = decision.options;
        if decision.verdict == Verdict::Accept {
            let verb = if helo.extended { "EHLO" } else { "HELO" };
            let host = options.host.clone().unwrap_or_else(|| helo.host.clone());
            self.connection.helo = Some((verb, host));
        }
        let extensions = options.extensions.map(Extensions::new);
        self.machine.helo(answer, extensions, options.host, options.disconnect);
    }

    pub(super) async fn auth(&mut self, request: AuthRequest) {
        let decision = match &self.server.hooks.auth {
            // The machine offers AUTH only where there is a hook.
            None => Decision::plain(Phase::Auth.implicit_end()),
            Some(script) => {
                let (connection, transaction) = (&self.connection, &self.transaction);
                Box::pin(hooks::auth(script, connection, transaction, &request, &mut self.context)).await
            }
        };
        let answer = decision.reply(Phase::Auth, "");
        let options = decision.options;
        let answer = match decision.verdict {
            Verdict::Accept => {
                let own = match &request {
                    AuthRequest::Password { username, .. } => Some(username.clone()),
                    AuthRequest::Response { .. } => None,
                };
                let mechanism = request.mechanism().to_owned();
                let username = options.username.or(own);
                self.connection.auth = Some(Authenticated { mechanism, username });
                AuthAnswer::Accept(answer)
            }
            Verdict::Reply => AuthAnswer::Challenge(options.challenge, options.code),
            Verdict::Defer => AuthAnswer::Defer(answer),
            Verdict::Reject | Verdict::Pass => {
                info!(
                    self.connection.id,
                    "authentication of {} with {} refused",
                    self.connection.remote_ip,
                    request.mechanism()
                );
                AuthAnswer::Reject(answer)
            }
        };
        self.machine.auth(answer, options.disconnect);
    }

    pub(super) async fn mail(&mut self, address: Address, parameters: Vec<(String, String)>) {
        if self.daemon.spool.low_space() {
            warning!(self.connection.id, "mail refused: free space of the spool is below its minimum");
            return self.machine.mail(reply(452, (4, 3, 1), "Insufficient system storage"), false);
        }
        let decision = match &self.server.hooks.mailfrom {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                Box::pin(hooks::mail(
                    script,
                    &self.connection,
                    &self.transaction,
                    &address,
                    &parameters,
                    &mut self.context,
                ))
                .await
            }
        };
        let answer = decision.reply(Phase::MailFrom, "");
        if decision.verdict == Verdict::Accept {
            self.transaction.ts_s = clock::now_s();
            self.transaction.sender = Some(decision.options.address.unwrap_or(address));
            self.transaction.sender_parameters = parameters;
            self.transaction.recipients.clear();
        }
        self.machine.mail(answer, decision.options.disconnect);
    }

    pub(super) async fn rcpt(&mut self, address: Address, parameters: Vec<(String, String)>) {
        let transport = self.server.transport.clone();
        let decision = match self.server.hooks.rcptto.script(&address.domain) {
            None if transport.is_some() => Decision::plain(Verdict::Accept),
            None => return self.machine.rcpt(reply(550, (5, 7, 1), "Relaying denied"), false),
            Some(script) => {
                let transport = transport.as_deref();
                Box::pin(hooks::rcpt(
                    script,
                    &self.connection,
                    &self.transaction,
                    &address,
                    &parameters,
                    transport,
                    &mut self.context,
                ))
                .await
            }
        };
        let decision = match &decision.options.transport {
            Some(id) if !self.generation.transports.contains_key(id) => {
                let known = self.generation.transports.keys().map(String::as_str);
                let near = config::validate::suggestion(id, known);
                error!(self.connection.id, "script error in rcptto: unknown transport '{id}'{near}");
                Decision::script_error(Phase::RcptTo)
            }
            _ => decision,
        };
        let answer = decision.reply(Phase::RcptTo, "");
        let options = decision.options;
        if decision.verdict == Verdict::Accept {
            let address = options.address.unwrap_or(address);
            let transport = options.transport.or(transport);
            self.transaction.recipients.push(Recipient::new(address, parameters, transport));
        }
        self.machine.rcpt(answer, options.disconnect);
    }
}
