//! Commands on suspensions and policies.

use crate::clock;
use crate::control::admin;
use crate::daemon::Daemon;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use queue::Limits;

pub(super) fn suspend_list(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::SuspendRequest = parse(body)?;
    let suspensions = daemon.engine.queue.lock().suspensions(clock::now());
    Ok(payload(&admin::suspend_list(&request, suspensions)))
}

pub(super) fn suspend_add(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::SuspendAddRequest = parse(body)?;
    let lists = daemon.suspend_lists.lock().clone();
    let suspension = admin::suspend_add(&request, &lists, daemon.ids.next().to_string())?;
    let id = suspension.id.clone();
    daemon.engine.queue.lock().add_suspension(clock::now(), suspension).map_err(|error| error.to_string())?;
    daemon.engine.wake();
    Ok(payload(&wire::SuspendAddResponse { id }))
}

pub(super) fn suspend_update(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::SuspendUpdateRequest = parse(body)?;
    let change = admin::suspend_update(&request)?;
    let changed = daemon.engine.queue.lock().change_suspension(clock::now(), &request.id, change);
    let affected = u64::from(changed.map_err(|error| error.to_string())?);
    daemon.engine.wake();
    Ok(payload(&wire::SuspendUpdateResponse { affected }))
}

pub(super) fn suspend_delete(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::SuspendDeleteRequest = parse(body)?;
    let affected = u64::from(daemon.engine.queue.lock().delete_suspension(&request.id));
    daemon.engine.wake();
    Ok(payload(&wire::SuspendDeleteResponse { affected }))
}

pub(super) fn condition_list(daemon: &Daemon) -> Answer {
    let queue = daemon.engine.queue.lock();
    Ok(payload(&admin::condition_list(queue.conditions(clock::now()))))
}

pub(super) fn condition_add(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyConditionAddRequest = parse(body)?;
    let lists = daemon.policy_lists.lock().clone();
    let condition = admin::condition_add(&request, &lists, daemon.ids.next().to_string())?;
    let id = condition.id.clone();
    daemon.engine.queue.lock().add_condition(clock::now(), condition).map_err(|error| error.to_string())?;
    daemon.engine.wake();
    Ok(payload(&wire::PolicyConditionAddResponse { id }))
}

pub(super) fn condition_update(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyConditionUpdateRequest = parse(body)?;
    let mut queue = daemon.engine.queue.lock();
    let now = clock::now();
    let known: Option<Limits> = queue
        .conditions(now)
        .find(|(condition, _)| condition.id == request.id)
        .map(|(condition, _)| condition.then.clone());
    let Some(known) = known else { return Ok(payload(&wire::PolicyConditionUpdateResponse { affected: 0 })) };
    let change = admin::condition_update(&request, &known)?;
    let changed = queue.change_condition(now, &request.id, change).map_err(|error| error.to_string())?;
    drop(queue);
    daemon.engine.wake();
    Ok(payload(&wire::PolicyConditionUpdateResponse { affected: u64::from(changed) }))
}

pub(super) fn condition_delete(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyConditionDeleteRequest = parse(body)?;
    let affected = u64::from(daemon.engine.queue.lock().delete_condition(clock::now(), &request.id));
    daemon.engine.wake();
    Ok(payload(&wire::PolicyConditionDeleteResponse { affected }))
}

pub(super) fn refill(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyRateRefillRequest = parse(body)?;
    let (exact, tokens) = admin::refill(&request);
    let affected = daemon.engine.queue.lock().refill(clock::now(), exact.as_deref(), tokens);
    daemon.engine.wake();
    Ok(payload(&wire::PolicyRateRefillResponse { affected }))
}

pub(super) fn policy_match(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyMatchRequest = parse(body)?;
    let matches = daemon.engine.queue.lock().match_policies(clock::now(), &admin::match_values(&request));
    Ok(payload(&admin::match_response(&matches)))
}

pub(super) fn grouping_list(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::PolicyGroupingListRequest = parse(body)?;
    let rollups = daemon.engine.queue.lock().rollups();
    Ok(payload(&admin::groupings(&request, rollups)))
}

pub(super) fn grouping_members(daemon: &Daemon, body: &[u8]) -> Answer {
    let (fields, field, name) = admin::grouping_of(parse(body)?)?;
    let members = daemon.engine.queue.lock().rollup_members(fields, field, &name);
    let items = members.ok_or_else(|| format!("No policy with the fields {fields} has a group '{name}'"))?;
    Ok(payload(&wire::PolicyGroupingResponse { items }))
}
