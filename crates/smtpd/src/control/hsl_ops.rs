//! Commands on the shared memory and the function cache of scripts.

use crate::control::convert::string_match;
use crate::daemon::Daemon;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use hsl::{Array, Shared, Value, shareable};
use std::sync::Arc;

/// No execution has this number, so barriers of scripts are waited for.
const OUTSIDE: u64 = 0;

fn shared(daemon: &Daemon) -> &Arc<Shared> {
    daemon.generations.shared().state()
}

/// Changes a key when no script is inside its barrier.
async fn change<R>(
    daemon: &Daemon,
    key: &str,
    mut change: impl FnMut(&mut Option<Value>) -> R,
) -> Result<R, String> {
    loop {
        let wait = match shared(daemon).with_memory(key.as_bytes(), OUTSIDE, &mut change) {
            Ok(result) => return Ok(result),
            Err(wait) => wait,
        };
        wait.await.map_err(|error| error.to_string())?;
    }
}

fn json(value: &Value) -> Result<String, String> {
    hsl_std::to_json(value).ok_or_else(|| "The value has no JSON form".to_owned())
}

fn value(text: &str) -> Result<Value, String> {
    hsl_std::decode("json", text.as_bytes(), &Array::new())
        .map_err(|error| format!("\"{text}\" is no JSON: {}", error.message))
}

pub(super) async fn memory_fetch(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslMemoryRequest = parse(body)?;
    match change(daemon, &request.key, |slot| slot.clone()).await? {
        Some(value) => Ok(payload(&wire::HslMemoryResponse { value: json(&value)? })),
        None => Err(format!("No key \"{}\"", request.key)),
    }
}

pub(super) fn memory_list(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslMemoryListRequest = parse(body)?;
    let test = request.condition.and_then(|c| c.key).map(|key| string_match(&key)).transpose()?;
    let paging = request.paging.unwrap_or_default();
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let limit = if paging.limit == 0 { usize::MAX } else { size(paging.limit) };
    let keys = shared(daemon)
        .memory_keys()
        .into_iter()
        .map(|key| key.to_text().into_owned())
        .filter(|key| test.as_ref().is_none_or(|item| item.test.matches(key) != item.exclude))
        .skip(size(paging.offset))
        .take(limit)
        .collect();
    Ok(payload(&wire::HslMemoryListResponse { keys }))
}

pub(super) async fn memory_store(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslMemoryStoreRequest = parse(body)?;
    let new = value(&request.value)?;
    debug_assert!(shareable(&new), "JSON is plain data");
    let old = change(daemon, &request.key, |slot| slot.replace(new.clone())).await?;
    let value = match old.filter(|_| request.r#return) {
        Some(old) => json(&old)?,
        None => String::new(),
    };
    Ok(payload(&wire::HslMemoryStoreResponse { value }))
}

pub(super) async fn memory_delete(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslMemoryDeleteRequest = parse(body)?;
    let old = change(daemon, &request.key, Option::take).await?;
    let affected = u64::from(old.is_some());
    let value = match old.filter(|_| request.r#return) {
        Some(old) => json(&old)?,
        None => String::new(),
    };
    Ok(payload(&wire::HslMemoryDeleteResponse { affected, value }))
}

pub(super) fn cache_list(daemon: &Daemon) -> wire::HslCacheResponse {
    let mut list = shared(daemon).cache_list();
    list.sort_by(|a, b| (&a.namespace, &a.function).cmp(&(&b.namespace, &b.function)));
    let items = list.into_iter().map(|bucket| wire::hsl_cache_response::Item {
        namespace: bucket.namespace,
        // Functions of the library have no file in front.
        function: bucket.function.trim_start_matches(':').to_owned(),
        maxsize: bucket.size as u64,
        size: bucket.entries as u64,
        hits: bucket.hits,
        misses: bucket.misses,
        evicts: bucket.evicts,
        waits: bucket.waits,
    });
    wire::HslCacheResponse { items: items.collect() }
}

pub(super) fn cache_clear(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslCacheClearRequest = parse(body)?;
    let mut arguments = Vec::new();
    for (index, text) in &request.arguments {
        arguments.push((usize::try_from(*index).unwrap_or(usize::MAX).min(1 << 20), value(text)?));
    }
    let namespace = request.namespace.as_ref().map(|n| n.value.as_str());
    let function = request.function.as_ref().map(|f| f.value.as_str());
    let affected = shared(daemon).cache_remove(namespace, function, &arguments) as u64;
    Ok(payload(&wire::HslCacheClearResponse { affected }))
}
