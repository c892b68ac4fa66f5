//! Messages that wait on disk because `queues.maxmessages` are in memory: only their ids are kept, in order of arrival.

use crate::queueing::engine::Engine;
use crate::queueing::load;
use crate::{clock, error, info};
use parking_lot::Mutex;
use queue::{QueueError, Time};
use spool::{Recovered, SpoolError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// Messages read back at once.
const TOGETHER: usize = 64;

/// After a failure of the disk the same messages are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Those that wait.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: Mutex<BTreeSet<(Time, Uuid)>>,
    notify: Notify,
}

impl Backlog {
    /// Messages waiting.
    pub fn len(&self) -> u64 {
        self.waiting.lock().len() as u64
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// There may be room now.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    pub(super) fn add(&self, received: Time, id: Uuid) {
        self.waiting.lock().insert((received, id));
        self.wake();
    }
}

impl Engine {
    /// Whether another message may be taken into memory now, before those that wait.
    pub(super) fn has_room(&self) -> bool {
        match self.generations.current().messages_max {
            0 => true,
            max => self.backlog.is_empty() && (self.queue.lock().messages() as u64) < max,
        }
    }

    /// Takes a stored message into memory, or notes that it waits on disk (`false`).
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn take_in(&self, recovered: &Recovered) -> Result<bool, QueueError> {
        if !self.has_room() {
            self.backlog.add(clock::from_s(recovered.meta.received_s), recovered.id);
            return Ok(false);
        }
        self.insert(recovered)?;
        Ok(true)
    }

    fn insert(&self, recovered: &Recovered) -> Result<(), QueueError> {
        let (message, entries) =
            load::to_queue(recovered.id, &recovered.meta, &recovered.entries, recovered.content_bytes);
        self.queue.lock().insert(clock::now(), message, entries).map(drop)
    }

    /// Brings waiting messages into memory as room appears, oldest first; runs until the shutdown.
    pub async fn load_backlog(self: Arc<Self>, mut shutdown: watch::Receiver<bool>, loaded: Arc<AtomicU64>) {
        while !*shutdown.borrow() {
            let next = self.next_waiting();
            if next.is_empty() {
                tokio::select! {
                    () = self.backlog.notify.notified() => {}
                    _ = shutdown.wait_for(|stop| *stop) => return,
                }
                continue;
            }
            let spool = self.spool.clone();
            let read = tokio::task::spawn_blocking(move || {
                next.into_iter().map(|(at, id)| (at, id, spool.read(id))).collect::<Vec<_>>()
            });
            let Ok(read) = read.await else { return };
            let mut failed = false;
            for (at, id, found) in read {
                match found {
                    Ok(recovered) => match self.insert(&recovered) {
                        Ok(()) => drop(loaded.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => error!(id, "waited on disk but is not queued: {failure}"),
                    },
                    Err(SpoolError::NotFound(_)) => info!(id, "waited on disk and is gone"),
                    Err(failure @ SpoolError::Corrupt { .. }) => error!(id, "left on disk: {failure}"),
                    Err(failure) => {
                        error!(id, "cannot be read, tried again in {RETRY:?}: {failure}");
                        self.backlog.add(at, id);
                        failed = true;
                    }
                }
            }
            self.wake();
            if failed {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn next_waiting(&self) -> Vec<(Time, Uuid)> {
        let room = match self.generations.current().messages_max {
            0 => TOGETHER,
            max => {
                usize::try_from(max.saturating_sub(self.queue.lock().messages() as u64)).unwrap_or(TOGETHER)
            }
        };
        let mut waiting = self.backlog.waiting.lock();
        (0..room.min(TOGETHER)).map_while(|_| waiting.pop_first()).collect()
    }
}
