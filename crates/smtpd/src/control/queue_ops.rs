//! Commands that look at and change the queue. Scans run in slices, so that neither sessions nor deliveries
//! wait for them; changes are durable before they are reported.

use crate::clock;
use crate::control::convert::{self, PendingAction};
use crate::daemon::Daemon;
use crate::hooks::delivery::BounceOptions;
use crate::queueing::load;
use crate::queueing::settle::DefaultAction;
use crate::{error, info};
use bytes::Bytes;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use queue::{EntryKey, EntryView, ListQuery, State, Time, UpdateRun};
use spool::record::{EntryState, EntryUpdate, Pair};
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
pub(super) async fn update(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueUpdateRequest = parse(body)?;
    if request.duplicate {
        return Err("duplicate is not available in this version".to_owned());
    }
    let (update, action) = convert::update_request(&request)?;
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
    persist(daemon, &report.changed).await?;
    let pending = action.unwrap_or(PendingAction { bounce: false, status: None, diagnosticcode: None });
    let mut ends = Vec::with_capacity(report.released.len());
    for ticket in report.released {
        let (kind, bounce) = released(&pending);
        let engine = daemon.engine.clone();
        ends.push(tokio::spawn(async move { engine.operator_action(ticket, kind, bounce).await }));
    }
    for end in ends {
        if let Err(failure) = end.await {
            error!("", "queue update: {failure}");
        }
    }
    daemon.engine.wake();
    info!("", "queue update: {} affected, {} working", report.affected, report.working);
    Ok(payload(&wire::QueueUpdateResponse { affected: report.affected, working: report.working }))
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

/// Appends the present values of entries and waits until they are on disk; the writes share their syncs.
async fn persist(daemon: &Daemon, keys: &[EntryKey]) -> Result<(), String> {
    for slice in keys.chunks(ROWS) {
        let updates: Vec<(Uuid, EntryUpdate)> = {
            let queue = daemon.engine.queue.lock();
            slice
                .iter()
                .filter_map(|key| queue.entry(*key))
                .map(|view| (view.message_id(), full_update(view)))
                .collect()
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

fn full_update(view: EntryView<'_>) -> EntryUpdate {
    let mailbox = |address: queue::Address| spool::record::Mailbox {
        localpart: address.localpart,
        domain: address.domain,
    };
    let state = match view.state() {
        State::Hold => EntryState::Hold,
        State::Update => EntryState::Update,
        _ => EntryState::Timed,
    };
    let metadata: Vec<Pair> = view.metadata().map(|(key, value)| Pair::new(key, value.as_bytes())).collect();
    EntryUpdate {
        queue_id: view.queue_id(),
        sender: Some(mailbox(view.sender())),
        recipient: Some(mailbox(view.recipient())),
        transport_id: Some(view.transport_id().to_owned()),
        job_id: Some(view.job_id().to_owned()),
        priority: Some(u32::from(view.priority())),
        cleared: if metadata.is_empty() { vec![EntryUpdate::METADATA] } else { Vec::new() },
        metadata,
        state: Some(state as i32),
        retry: Some(view.retry_count()),
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
    let mut paths = Vec::with_capacity(report.unloaded.len());
    for unloaded in report.unloaded {
        match daemon.spool.unload(unloaded.message.id).await {
            Ok(path) => paths.push(path.display().to_string()),
            Err(failure) => return Err(format!("{}: {failure}", unloaded.message.id)),
        }
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
