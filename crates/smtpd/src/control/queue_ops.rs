//! Commands that look at and change the queue. Scans run in slices, so that neither sessions nor deliveries
//! wait for them; changes are durable before they are reported.

use crate::clock;
use crate::control::convert::{self, PendingAction};
use crate::daemon::Daemon;
use crate::hooks::delivery::BounceOptions;
use crate::queueing::engine::Engine;
use crate::queueing::load;
use crate::queueing::settle::DefaultAction;
use crate::{error, info};
use bytes::Bytes;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use queue::{AddressChange, Changes, EntryKey, EntryView, ListQuery, State, Ticket, Time, UpdateRun};
use spool::record::{self, EntryState, EntryUpdate, Pair};
use spool::{Durability, Frame, LoadOptions, SpoolError, Uuid};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries looked at while the queue is locked; a few milliseconds at most.
const SLICE: usize = 20_000;

/// Rows copied while the queue is locked.
const ROWS: usize = 2_000;

/// `queue list`.
pub(super) async fn list(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueListRequest = parse(body)?;
    let condition = convert::condition(request.conditions.as_ref())?;
    let sortings = convert::list_sortings(&request.sortings)?;
    let paging = request.paging.unwrap_or_default();
    let now = clock::now();
    let mut query =
        ListQuery::new(&daemon.engine.queue.lock(), now, condition, sortings, paging.offset, paging.limit);
    while !query.step(&daemon.engine.queue.lock(), SLICE) {
        tokio::task::yield_now().await;
    }
    let (total, keys) = query.finish();
    let mut items = Vec::with_capacity(keys.len());
    for slice in keys.chunks(ROWS) {
        {
            let queue = daemon.engine.queue.lock();
            let entries = slice.iter().filter_map(|key| queue.entry(*key));
            items.extend(entries.map(|view| {
                let path = daemon.spool.path(view.message_id()).display().to_string();
                convert::list_item(view, now, path)
            }));
        }
        tokio::task::yield_now().await;
    }
    let paging = wire::queue_list_response::Paging { total };
    Ok(payload(&wire::QueueListResponse { items, paging: Some(paging) }))
}

/// `queue groupby`.
pub(super) async fn group_by(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueGroupByRequest = parse(body)?;
    let group = convert::group_request(&request)?;
    let now = clock::now();
    let mut query = queue::GroupQuery::new(&daemon.engine.queue.lock(), now, group);
    while !query.step(&daemon.engine.queue.lock(), SLICE) {
        tokio::task::yield_now().await;
    }
    let (total, rows) = query.finish();
    Ok(payload(&convert::group_response(total, rows)))
}

/// `queue update`.
pub(super) async fn update(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueUpdateRequest = parse(body)?;
    if request.duplicate {
        return Err("duplicate is not available in this version".to_owned());
    }
    let (update, action) = convert::update_request(&request)?;
    let changed = update.changes.clone();
    let mut run = {
        let queue = daemon.engine.queue.lock();
        UpdateRun::new(&queue, clock::now(), update).map_err(|error| error.to_string())?
    };
    loop {
        let done = run.step(&mut daemon.engine.queue.lock(), clock::now(), SLICE);
        if done {
            break;
        }
        tokio::task::yield_now().await;
    }
    let report = run.finish();
    let (affected, working) = (report.affected, report.working);
    // In a task of its own: what was taken out of the queue is brought to its end even when the client leaves.
    let daemon = daemon.clone();
    let ending = tokio::spawn(async move {
        let persisted = persist(&daemon, &report.changed, &changed).await;
        release(&daemon, report.released, &action).await;
        daemon.engine.wake();
        persisted
    });
    ending.await.map_err(|failure| failure.to_string())??;
    info!("", "queue update: {affected} affected, {working} working");
    Ok(payload(&wire::QueueUpdateResponse { affected, working }))
}

/// Post-deliveries that an update runs at once.
const RELEASES_MAX: usize = 64;

/// Ends entries as the operator wants it.
async fn release(daemon: &Daemon, tickets: Vec<Ticket>, action: &Option<PendingAction>) {
    let nothing = PendingAction { bounce: false, status: None, diagnosticcode: None };
    let pending = action.as_ref().unwrap_or(&nothing);
    let mut running = std::collections::VecDeque::new();
    for ticket in tickets {
        if running.len() >= RELEASES_MAX
            && let Some(oldest) = running.pop_front()
        {
            finished(oldest).await;
        }
        let (kind, bounce) = released(pending);
        let key = ticket.key();
        let work = |engine: Arc<Engine>| async move { engine.operator_action(ticket, kind, bounce).await };
        running.push_back(daemon.engine.spawn(key, work));
    }
    for task in running {
        finished(task).await;
    }
}

async fn finished(task: tokio::task::JoinHandle<()>) {
    if let Err(failure) = task.await {
        error!("", "queue update: {failure}");
    }
}

fn released(pending: &PendingAction) -> (DefaultAction, BounceOptions) {
    let small = |n: u64| u16::try_from(n).unwrap_or(0);
    let bounce = BounceOptions {
        status: pending.status.map(|(a, b, c)| (small(a), small(b), small(c))),
        diagnostic: pending.diagnosticcode.clone(),
        ..BounceOptions::default()
    };
    (if pending.bounce { DefaultAction::Bounce } else { DefaultAction::Delete }, bounce)
}

/// Appends what was changed of entries and waits until it is on disk; the writes share their syncs.
async fn persist(daemon: &Daemon, keys: &[EntryKey], changes: &Changes) -> Result<(), String> {
    for slice in keys.chunks(ROWS) {
        let updates: Vec<(Uuid, EntryUpdate)> = {
            let queue = daemon.engine.queue.lock();
            let entries = slice.iter().filter_map(|key| queue.entry(*key));
            entries.map(|view| (view.message_id(), changed_members(view, changes))).collect()
        };
        let writes: Vec<_> = updates
            .into_iter()
            .map(|(id, update)| {
                (id, daemon.spool.append(id, &Frame::Update(Box::new(update)), Durability::Synced))
            })
            .collect();
        for (id, write) in writes {
            match write.await {
                // It ended between the change and the write.
                Ok(()) | Err(SpoolError::NotFound(_)) => {}
                Err(failure) => return Err(format!("{id}: change is not on disk: {failure}")),
            }
        }
    }
    Ok(())
}

/// State and time of an entry, and the members that the update named; what it did not name stays as stored.
fn changed_members(view: EntryView<'_>, changes: &Changes) -> EntryUpdate {
    let mailbox =
        |address: queue::Address| record::Mailbox { localpart: address.localpart, domain: address.domain };
    let state = match view.state() {
        State::Hold => EntryState::Hold,
        State::Update => EntryState::Update,
        _ => EntryState::Timed,
    };
    let metadata = match changes.metadata.is_empty() {
        true => Vec::new(),
        false => view.metadata().map(|(key, value)| Pair::new(key, value.as_bytes())).collect(),
    };
    EntryUpdate {
        queue_id: view.queue_id(),
        sender: (changes.sender != AddressChange::default()).then(|| mailbox(view.sender())),
        recipient: (changes.recipient != AddressChange::default()).then(|| mailbox(view.recipient())),
        transport_id: changes.transport_id.clone(),
        job_id: changes.job_id.clone(),
        priority: changes.priority.map(u32::from),
        metadata,
        state: Some(state as i32),
        retry: changes.retry_count,
        next_attempt_s: Some(clock::to_s(view.retry_at())),
        ..EntryUpdate::default()
    }
}

/// `queue export`.
pub(super) async fn export(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueExportRequest = parse(body)?;
    let wanted = request.id.unwrap_or_default();
    let id = Uuid::parse_str(&wanted.transaction)
        .map_err(|_| format!("'{}' is no message id", wanted.transaction))?;
    let queue_id = (wanted.queue > 0).then_some(wanted.queue);
    let spool = daemon.spool.clone();
    let read = tokio::task::spawn_blocking(move || {
        let message = spool.export(id, queue_id).map_err(|error| error.to_string())?;
        message.to_bytes().map_err(|error| error.to_string())
    });
    read.await.map_err(|error| error.to_string())?.map(Bytes::from)
}

/// `queue unload`.
pub(super) async fn unload(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueUnloadRequest = parse(body)?;
    let condition = convert::condition(request.conditions.as_ref())?;
    let report = daemon.engine.queue.lock().unload(clock::now(), condition, request.partial, request.freeze);
    daemon.engine.prune_plans();
    let mut paths = Vec::with_capacity(report.unloaded.len());
    let mut failures = Vec::new();
    for unloaded in report.unloaded {
        let id = unloaded.message.id;
        match daemon.spool.unload(id).await {
            Ok(path) => paths.push(path.display().to_string()),
            Err(failure) => {
                failures.push(format!("{id}: {failure}"));
                // It cannot be handed over, so it stays ours.
                let back =
                    daemon.engine.queue.lock().insert(clock::now(), unloaded.message, unloaded.entries);
                if let Err(refused) = back {
                    error!(id, "back in the queue only after a restart: {refused}");
                }
            }
        }
    }
    daemon.engine.wake();
    if !failures.is_empty() {
        let done = paths.len();
        return Err(format!("{done} messages unloaded, {} kept: {}", failures.len(), failures.join("; ")));
    }
    info!("", "queue unload: {} messages", paths.len());
    Ok(payload(&wire::QueueUnloadResponse {
        hqfpaths: paths,
        partial: report.partial,
        working: report.working,
    }))
}

/// `queue load` of an `.hqf` file.
pub(super) async fn import(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueImportRequest = parse(body)?;
    let data = request.data.unwrap_or_default();
    if data.hqf.is_empty() || !data.rfc822.is_empty() {
        return Err(if data.rfc822.is_empty() {
            convert::INVALID.to_owned()
        } else {
            "import of RFC 5322 messages is not available in this version".to_owned()
        });
    }
    let reset = request.reset.unwrap_or_default();
    let wants = |flag: Option<wire::BoolValue>| flag.is_some_and(|flag| flag.value);
    let options = LoadOptions {
        id: wants(reset.transactionid).then(|| daemon.ids.next()),
        received_s: wants(reset.ts).then(clock::now_s),
        reset_retry: wants(reset.retrycount),
    };
    let spool = daemon.spool.clone();
    let bytes = Bytes::from(data.hqf);
    let loaded = tokio::task::spawn_blocking(move || spool.load_bytes(bytes, options));
    let recovered = loaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let (message, entries) =
        load::to_queue(recovered.id, &recovered.meta, &recovered.entries, recovered.content_bytes);
    let now: Time = clock::now();
    daemon.engine.queue.lock().insert(now, message, entries).map_err(|error| error.to_string())?;
    daemon.loaded.fetch_add(1, Ordering::Relaxed);
    daemon.engine.wake();
    Ok(payload(&wire::QueueImportResponse { transactionid: recovered.id.to_string() }))
}
