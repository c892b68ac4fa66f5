//! Commands that look at and change the queue. Scans run in slices, so that neither sessions nor deliveries
//! wait for them; changes are durable before they are reported.

use crate::clock;
use crate::control::convert::{self, PendingAction};
use crate::daemon::Daemon;
use crate::hooks::delivery::BounceOptions;
use crate::queueing::engine::Engine;
use crate::queueing::settle::DefaultAction;
use crate::{error, info};
use bytes::Bytes;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use parking_lot::MutexGuard;
use queue::{
    AddressChange, Changes, Duplicate, EntryKey, EntryView, ListQuery, Queue, State, Task, Ticket, UnloadRun,
    UpdateRun,
};
use spool::record::{self, EntryState, EntryUpdate, Pair};
use spool::{Durability, Frame, SpoolError, Uuid};
use std::sync::Arc;

/// Entries looked at while the queue is locked; a few milliseconds at most.
const SLICE: usize = 20_000;

/// Messages unloaded at once.
const UNLOADS: usize = 256;

/// Rows copied while the queue is locked.
const ROWS: usize = 2_000;

/// Scans on a thread of its own: it does not stand in line behind sessions and deliveries after each slice.
async fn scan<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    work: impl FnOnce(&Daemon) -> T + Send + 'static,
) -> Result<T, String> {
    let daemon = daemon.clone();
    tokio::task::spawn_blocking(move || work(&daemon)).await.map_err(|error| error.to_string())
}

/// A slice of a scan; whoever waits for the queue has it next.
fn with_queue<T>(daemon: &Daemon, slice: impl FnOnce(&mut Queue) -> T) -> T {
    let mut queue = daemon.engine.queue.lock();
    let result = slice(&mut queue);
    MutexGuard::unlock_fair(queue);
    result
}

/// `queue list`.
pub(super) async fn list(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueListRequest = parse(body)?;
    let condition = convert::condition(request.conditions.as_ref())?;
    let sortings = convert::list_sortings(&request.sortings)?;
    let paging = request.paging.unwrap_or_default();
    let now = clock::now();
    let found = scan(daemon, move |daemon| {
        let mut query = with_queue(daemon, |queue| {
            ListQuery::new(queue, now, condition, sortings, paging.offset, paging.limit)
        });
        while !with_queue(daemon, |queue| query.step(queue, SLICE)) {}
        let (total, keys) = query.finish();
        let mut items = Vec::with_capacity(keys.len());
        for slice in keys.chunks(ROWS) {
            with_queue(daemon, |queue| {
                let entries = slice.iter().filter_map(|key| queue.entry(*key));
                items.extend(entries.map(|view| {
                    let path = daemon.spool.path(view.message_id()).display().to_string();
                    convert::list_item(view, now, path)
                }));
            });
        }
        (total, items)
    });
    let (total, items) = found.await?;
    let paging = wire::queue_list_response::Paging { total };
    Ok(payload(&wire::QueueListResponse { items, paging: Some(paging) }))
}

/// `queue groupby`.
pub(super) async fn group_by(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueGroupByRequest = parse(body)?;
    let group = convert::group_request(&request)?;
    let now = clock::now();
    let found = scan(daemon, move |daemon| {
        let mut query = with_queue(daemon, |queue| queue::GroupQuery::new(queue, now, group));
        while !with_queue(daemon, |queue| query.step(queue, SLICE)) {}
        let (total, rows) = query.finish();
        payload(&convert::group_response(total, rows))
    });
    found.await
}

/// `queue update`.
pub(super) async fn update(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueUpdateRequest = parse(body)?;
    let (update, action) = convert::update_request(&request)?;
    let (changed, task) = (update.changes.clone(), update.task);
    let run = scan(daemon, move |daemon| {
        let mut run = with_queue(daemon, |queue| UpdateRun::new(queue, clock::now(), update))?;
        while !with_queue(daemon, |queue| run.step(queue, clock::now(), SLICE)) {}
        Ok::<_, queue::QueueError>(run)
    });
    let run = run.await?.map_err(|error| error.to_string())?;
    let report = run.finish();
    let (affected, working) = (report.affected, report.working);
    // In a task of its own: what was taken out of the queue is brought to its end even when the client leaves.
    let daemon = daemon.clone();
    let ending = tokio::spawn(async move {
        let (mut keys, mut released) = (report.changed, report.released);
        let copied = duplicates(&daemon, report.created, task, &mut keys, &mut released).await;
        let persisted = persist(&daemon, keys, changed).await;
        release(&daemon, released, &action).await;
        daemon.engine.wake();
        copied.and(persisted)
    });
    ending.await.map_err(|failure| failure.to_string())??;
    info!("", "queue update: {affected} affected, {working} working");
    Ok(payload(&wire::QueueUpdateResponse { affected, working }))
}

/// Post-deliveries that an update runs at once: their ends share the syncs of the spool.
const RELEASES_MAX: usize = 256;

/// Ends entries as the operator wants it.
async fn release(daemon: &Daemon, tickets: Vec<Ticket>, action: &Option<PendingAction>) {
    let nothing = PendingAction { bounce: false, status: None, diagnosticcode: None };
    let pending = action.as_ref().unwrap_or(&nothing);
    if !pending.bounce
        && daemon.generations.stage().is_none()
        && daemon.generations.current().postdelivery.is_none()
    {
        return daemon.engine.delete_many(tickets).await;
    }
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

/// Stores copies of entries and lets them into the queue, which adds to what is to be persisted or released.
async fn duplicates(
    daemon: &Daemon,
    copies: Vec<Duplicate>,
    task: Option<Task>,
    keys: &mut Vec<EntryKey>,
    released: &mut Vec<Ticket>,
) -> Result<(), String> {
    let mut failures = Vec::new();
    for copy in copies {
        let key = copy.ticket.key();
        let stored = store_copy(daemon, &copy).await;
        let now = clock::now();
        let mut queue = daemon.engine.queue.lock();
        if let Err(failure) = stored {
            // Nobody has seen it: it is as if it had never been made.
            failures.push(failure);
            if let Err(refused) = queue.settle(now, copy.ticket, queue::Outcome::Done) {
                error!("", "queue: {refused}");
            }
            continue;
        }
        match queue.finish_duplicate(now, copy, task) {
            Ok(Some(ticket)) => released.push(ticket),
            Ok(None) => keys.push(key),
            Err(refused) => error!("", "queue: {refused}"),
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} copies were not made: {first}", failures.len())),
    }
}

/// Writes the copy of an entry as the original is stored, under its own number.
async fn store_copy(daemon: &Daemon, copy: &Duplicate) -> Result<(), String> {
    let (id, queue_id) = {
        let queue = daemon.engine.queue.lock();
        let view = queue.entry(copy.ticket.key()).ok_or("the message is gone")?;
        (view.message_id(), view.queue_id())
    };
    let (spool, original) = (daemon.spool.clone(), copy.original);
    let read =
        tokio::task::spawn_blocking(move || spool.read(id)).await.map_err(|error| error.to_string())?;
    let found = read.map_err(|error| format!("{id}: {error}"))?;
    let entry = found.entries.into_iter().find(|entry| entry.queue_id == original);
    let mut entry = entry.ok_or_else(|| format!("{id}:{original} is gone"))?;
    entry.queue_id = queue_id;
    let written = daemon.spool.append(id, &Frame::Entry(Box::new(entry)), Durability::Synced).await;
    written.map_err(|error| format!("{id}:{queue_id}: {error}"))
}

/// Writes what was changed of entries and waits until it is on disk: one stretch of the journal for all.
async fn persist(daemon: &Arc<Daemon>, keys: Vec<EntryKey>, changes: Changes) -> Result<(), String> {
    let updates = scan(daemon, move |daemon| {
        let mut updates: Vec<(Uuid, EntryUpdate)> = Vec::with_capacity(keys.len());
        for slice in keys.chunks(ROWS) {
            with_queue(daemon, |queue| {
                let entries = slice.iter().filter_map(|key| queue.entry(*key));
                updates.extend(entries.map(|view| (view.message_id(), changed_members(view, &changes))));
            });
        }
        updates
    });
    let updates = updates.await?;
    if updates.is_empty() {
        return Ok(());
    }
    let spool = daemon.spool.clone();
    let asked = tokio::task::spawn_blocking(move || spool.update_many(updates));
    let mut first = None;
    for answer in asked.await.map_err(|error| error.to_string())? {
        match answer.await {
            // It ended between the change and the write.
            Ok(()) | Err(SpoolError::NotFound(_)) => {}
            Err(failure) => first = first.or(Some(format!("a change is not on disk: {failure}"))),
        }
    }
    first.map_or(Ok(()), Err)
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
pub(super) async fn unload(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::QueueUnloadRequest = parse(body)?;
    let condition = convert::condition(request.conditions.as_ref())?;
    let run = scan(daemon, move |daemon| {
        let mut run = with_queue(daemon, |queue| {
            UnloadRun::new(queue, clock::now(), condition, request.partial, request.freeze)
        });
        while !with_queue(daemon, |queue| run.step(queue, clock::now(), SLICE)) {}
        run
    });
    let run = run.await?;
    let report = run.finish();
    daemon.engine.prune_plans();
    let mut paths = Vec::with_capacity(report.unloaded.len());
    let mut failures = Vec::new();
    let mut unloaded = report.unloaded.into_iter();
    loop {
        // Many at once: the files of a round share their syncs.
        let round: Vec<_> =
            unloaded.by_ref().take(UNLOADS).map(|one| (daemon.spool.unload(one.message.id), one)).collect();
        if round.is_empty() {
            break;
        }
        for (pending, one) in round {
            match pending.await {
                Ok(path) => paths.push(path.display().to_string()),
                Err(failure) => {
                    let id = one.message.id;
                    failures.push(format!("{id}: {failure}"));
                    // It cannot be handed over, so it stays ours.
                    let back = daemon.engine.queue.lock().insert(clock::now(), one.message, one.entries);
                    if let Err(refused) = back {
                        error!(id, "back in the queue only after a restart: {refused}");
                    }
                }
            }
        }
    }
    daemon.engine.backlog.wake();
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
