//! Dispatch of control commands.

use crate::control::{explain, hsl_ops, import, policy_ops, queue_ops, resolver_ops, stage_ops, stats};
use crate::daemon::Daemon;
use crate::info;
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

    async fn answer(&self, peer: &Peer, request: Request) -> Answer {
        let daemon = &self.daemon;
        match request.command {
            b'q' => Ok(payload(&stats::process_stats(daemon))),
            b'X' => {
                let [major, minor, patch] = stats::version_numbers();
                Ok(payload(&wire::VersionResponse { major, minor, patch }))
            }
            b'a' => stage_ops::deploy(daemon, peer, &request.body).await,
            b'b' => Ok(stage_ops::status(daemon)),
            b'c' => stage_ops::cancel(daemon),
            b'd' => stage_ops::logpoint(daemon, &request.body),
            b'e' => stage_ops::next_stop(daemon, peer).await,
            b'f' => stage_ops::go_on(daemon, peer),
            b'5' => stage_ops::check(daemon, &request.body).await,
            b'r' => reloaded(daemon.clone().reload_app().await),
            b'p' => reloaded(daemon.clone().reload_policies().await),
            b'o' => reloaded(daemon.clone().reload_suspensions().await),
            b'H' => reloaded(daemon.clone().reload_delivery().await),
            b'D' => queue_ops::group_by(daemon, &request.body).await,
            b'E' => import::import(daemon, &request.body).await,
            b'F' => queue_ops::list(daemon, &request.body).await,
            b'G' => queue_ops::update(daemon, &request.body).await,
            b'J' => queue_ops::unload(daemon, &request.body).await,
            b'W' => queue_ops::export(daemon, &request.body).await,
            b's' => policy_ops::suspend_list(daemon, &request.body),
            b't' => policy_ops::suspend_add(daemon, &request.body),
            b'O' => policy_ops::suspend_update(daemon, &request.body),
            b'u' => policy_ops::suspend_delete(daemon, &request.body),
            b'v' => policy_ops::condition_list(daemon),
            b'w' => policy_ops::condition_add(daemon, &request.body),
            b'P' => policy_ops::condition_update(daemon, &request.body),
            b'x' => policy_ops::condition_delete(daemon, &request.body),
            b'B' => policy_ops::refill(daemon, &request.body),
            b'S' => policy_ops::policy_match(daemon, &request.body),
            b'T' => policy_ops::grouping_list(daemon, &request.body),
            b'U' => policy_ops::grouping_members(daemon, &request.body),
            b'7' => explain::explain(daemon, &request.body),
            b'n' => Ok(payload(&wire::UsersResponse::default())),
            b'C' => resolver_ops::clear(daemon, &request.body),
            b'2' => resolver_ops::query(daemon, &request.body).await,
            b'I' => {
                let request: wire::QueueQuotaRequest = parse(&request.body)?;
                let quota = daemon.engine.queue.lock().quota(&request.quota);
                Ok(payload(&wire::QueueQuotaResponse { count: quota.count, bytes: quota.bytes }))
            }
            b'y' => hsl_ops::memory_fetch(daemon, &request.body).await,
            b'K' => hsl_ops::memory_list(daemon, &request.body),
            b'z' => hsl_ops::memory_store(daemon, &request.body).await,
            b'A' => hsl_ops::memory_delete(daemon, &request.body).await,
            b'g' => Ok(payload(&hsl_ops::cache_list(daemon))),
            b'h' => hsl_ops::cache_clear(daemon, &request.body),
            letter => Err(format!("Command '{}' is not available in this version", char::from(letter))),
        }
    }
}

impl Handler for Commands {
    fn handle<'a>(&'a self, peer: &'a Peer, request: Request) -> Answering<'a> {
        Box::pin(self.answer(peer, request))
    }

    fn closed(&self, connection: u64) {
        if let Some(id) = self.daemon.generations.control_closed(connection) {
            info!("", "live stage {id} ended with its control connection");
        }
    }
}

fn reloaded(result: Result<(), Vec<String>>) -> Answer {
    result.map(|()| Bytes::new()).map_err(|errors| errors.join("; "))
}
