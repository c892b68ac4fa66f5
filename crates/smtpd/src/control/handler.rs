//! Dispatch of control commands.

use crate::control::stats;
use crate::daemon::Daemon;
use bytes::Bytes;
use control::frame::Request;
use control::server::{Answer, Answering, Handler, Peer, parse, payload};
use control::smtpd as wire;
use std::sync::Arc;

/// Answers the commands of the control protocol.
pub(super) struct Commands {
    daemon: Arc<Daemon>,
}

impl Commands {
    pub(super) fn new(daemon: Arc<Daemon>) -> Commands {
        Commands { daemon }
    }

    async fn answer(&self, request: Request) -> Answer {
        let daemon = &self.daemon;
        match request.command {
            b'q' => Ok(payload(&stats::process_stats(daemon))),
            b'X' => {
                let [major, minor, patch] = stats::version_numbers();
                Ok(payload(&wire::VersionResponse { major, minor, patch }))
            }
            b'r' => reloaded(daemon.clone().reload_app().await),
            b'p' => reloaded(daemon.clone().reload_policies().await),
            b'n' => Ok(payload(&wire::UsersResponse::default())),
            b'C' => {
                let request: wire::ResolverCacheClearRequest = parse(&request.body)?;
                let domain = request.domain.as_ref().map(|domain| domain.value.as_str());
                let affected = daemon.generations.current().resolver.clear(domain);
                Ok(payload(&wire::ResolverCacheClearResponse { affected }))
            }
            b'I' => {
                let request: wire::QueueQuotaRequest = parse(&request.body)?;
                let quota = daemon.engine.queue.lock().quota(&request.quota);
                Ok(payload(&wire::QueueQuotaResponse { count: quota.count, bytes: quota.bytes }))
            }
            letter => Err(format!("Command '{}' is not available in this version", char::from(letter))),
        }
    }
}

impl Handler for Commands {
    fn handle<'a>(&'a self, _peer: &'a Peer, request: Request) -> Answering<'a> {
        Box::pin(self.answer(request))
    }
}

fn reloaded(result: Result<(), Vec<String>>) -> Answer {
    result.map(|()| Bytes::new()).map_err(|errors| errors.join("; "))
}
