//! The daemon as `queue()` of messages that scripts make or read sees it: a transaction of its own, durable when the
//! call returns.

use crate::hooks::bridge::Bridge;
use crate::hooks::sink::apply_options;
use crate::info;
use crate::queueing::commit::QueuedRecipient;
use config::app::Protocol;
use hsl_std::hooks::options::EnqueueOptions;
use hsl_std::mail::{MailQueue, Queued};
use mail::content::for_each_chunk;
use mail::{Address, Content, MailMessage};
use net::tls::Mode;
use spool::Staging;
use std::pin::Pin;
use std::sync::Arc;

impl MailQueue for Bridge {
    fn queue(
        &self,
        content: Arc<dyn Content>,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> Pin<Box<dyn Future<Output = Result<Queued, String>> + Send>> {
        let daemon = self.daemon();
        Box::pin(async move {
            let daemon = daemon?;
            let generation = daemon.generations.current();
            if !generation.transports.contains_key(&transport) {
                let known = generation.transports.keys().map(String::as_str);
                let near = config::validate::suggestion(&transport, known);
                return Err(format!("Unknown transport '{transport}'{near}"));
            }
            let id = daemon.ids.next();
            let staging = daemon.engine.spool.stage(id);
            // Large messages are written to disk while they are copied.
            let copied = tokio::task::spawn_blocking(move || copy(&*content, staging)).await;
            let mut staging = copied.map_err(|error| error.to_string())??;
            let message = MailMessage::new(staging.content());
            let subject = message.subject().ok().flatten().unwrap_or_default();
            let one = QueuedRecipient::new(sender, recipient, transport, &message);
            let mut one = one.map_err(|error| error.to_string())?;
            apply_options(&mut one, options);
            let (from, to) = (one.sender.to_string(), one.recipient.to_string());
            daemon.engine.enqueue(staging, subject, one).await.map_err(|error| error.to_string())?;
            info!(id, "queued by a script from={from} to={to}");
            Ok(Queued { transaction: id.to_string(), queue: 1 })
        })
    }

    fn transport(&self, id: &str) -> Option<Vec<(String, String)>> {
        let generation = self.daemon().ok()?.generations.current();
        let transport = generation.transports.get(id)?;
        let rules = &transport.session.tls;
        // What is sent without the queue does without DANE; that it cannot when DANE is required, send() says.
        let tls = match rules.mode {
            Mode::Dane => Mode::Optional,
            Mode::DaneFallbackRequire => Mode::Require,
            Mode::DaneFallbackRequireVerify => Mode::RequireVerify,
            other => other,
        };
        let protocol = if transport.protocol == Protocol::Lmtp { "lmtp" } else { "smtp" };
        let mut server = vec![
            ("host".to_owned(), transport.server.clone()),
            ("port".to_owned(), transport.port.to_string()),
            ("helo".to_owned(), transport.helo.clone().unwrap_or_else(|| generation.hostname.clone())),
            ("tls".to_owned(), tls.name().to_owned()),
            ("tls_default_ca".to_owned(), "true".to_owned()),
            ("protocol".to_owned(), protocol.to_owned()),
            ("connect_timeout".to_owned(), transport.connect_timeout.as_secs_f64().to_string()),
        ];
        if let Some(account) = &transport.session.auth {
            server.push(("saslusername".to_owned(), account.username.clone()));
            server.push(("saslpassword".to_owned(), account.password.clone()));
        }
        if let Some(source) = transport.sources.first() {
            server.push(("sourceip".to_owned(), source.ip.to_string()));
        }
        Some(server)
    }
}

fn copy(content: &dyn Content, mut staging: Staging) -> Result<Staging, String> {
    let mut failure = None;
    let read = for_each_chunk(content, 0..content.len(), |piece| {
        staging.write(piece).map_err(|error| {
            let text = error.to_string();
            failure = Some(text.clone());
            std::io::Error::other(text)
        })
    });
    match (failure, read) {
        (Some(text), _) => Err(text),
        (None, Err(error)) => Err(format!("message cannot be read: {error}")),
        (None, Ok(())) => Ok(staging),
    }
}
