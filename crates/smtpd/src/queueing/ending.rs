//! The end of entries: DONE on disk, then out of the queue; one by one, or many at once for an operator.

use crate::clock;
use crate::queueing::engine::{Engine, Gauge};
use crate::queueing::job::Job;
use crate::{error, info};
use queue::{Outcome, Ticket};
use spool::record::{self, Done};
use spool::{Durability, SpoolError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Entries whose ends are written together: they share the syncs of the spool.
const ENDS_AT_ONCE: usize = 4096;

impl Engine {
    /// Writes DONE and removes the entry. While the disk is full the entry stays "working", so that this
    /// process never sends it again.
    pub(super) async fn forget(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        outcome: record::Outcome,
        report: Option<Uuid>,
        durability: Durability,
    ) {
        let done = Done {
            queue_id: job.queue_id,
            outcome: outcome as i32,
            time_s: clock::now_s(),
            dsn_id: report.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        };
        let mut told = false;
        loop {
            // Entries of a message end in any order and at once; whoever is last takes the file along.
            let (last, alone) = self.ending.lock().begin(job.id, self.queue.lock().entry_count(job.id));
            // Ends that others reported must be on disk before their file goes.
            let durability = if last && !alone { Durability::Synced } else { durability };
            match self.spool.finish(job.id, done.clone(), last, durability).await {
                // Not found: another entry of the message ended at the same time and took the file along.
                Ok(()) | Err(SpoolError::NotFound(_)) => break,
                Err(SpoolError::Closed) => return,
                Err(failure) => {
                    if !std::mem::replace(&mut told, true) {
                        error!(job, "its end cannot be recorded, trying on: {failure}");
                    }
                    self.ending.lock().end(job.id);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let mut ending = self.ending.lock();
        self.settle(ticket, Outcome::Done);
        ending.end(job.id);
    }

    /// Deletes entries that an operator took out of the queue. No hook runs and no report is made.
    pub(crate) async fn delete_many(self: &Arc<Self>, tickets: Vec<Ticket>) {
        // As tasks of single entries do, so that a shutdown waits.
        let _running = self.running();
        let _releasing = Gauge::of(&self.releasing, tickets.len() as u64);
        let mut tickets = tickets.into_iter();
        loop {
            let helping: Vec<Ticket> = tickets.by_ref().take(ENDS_AT_ONCE).collect();
            if helping.is_empty() {
                return;
            }
            self.delete_some(helping).await;
        }
    }

    async fn delete_some(self: &Arc<Self>, tickets: Vec<Ticket>) {
        let mut messages: HashMap<Uuid, Vec<(u64, Ticket)>> = HashMap::new();
        {
            let queue = self.queue.lock();
            for ticket in tickets {
                let Some(entry) = queue.entry(ticket.key()) else { continue };
                messages.entry(entry.message_id()).or_default().push((entry.queue_id(), ticket));
            }
        }
        let mut whole = Vec::with_capacity(messages.len());
        let mut single = Vec::new();
        for (id, entries) in messages {
            let is_whole = self.ending.lock().begin_all(id, entries.len(), self.queue.lock().entry_count(id));
            if is_whole {
                // The file goes, and with it what it says of each of them.
                let pending = self.spool.remove(id, Durability::Synced);
                whole.push((id, entries, pending));
            } else {
                single.extend(entries.into_iter().map(|(_, ticket)| ticket));
            }
        }
        for (id, entries, pending) in whole {
            match pending.await {
                Ok(()) | Err(SpoolError::NotFound(_)) => {
                    let mut ending = self.ending.lock();
                    for (queue_id, ticket) in entries {
                        info!(format_args!("{id}:{queue_id}"), "deleted");
                        self.settle(ticket, Outcome::Done);
                        ending.end(id);
                    }
                }
                Err(SpoolError::Closed) => return,
                Err(_) => {
                    // One by one, which tries until the disk takes it.
                    let mut ending = self.ending.lock();
                    entries.iter().for_each(|_| ending.end(id));
                    single.extend(entries.into_iter().map(|(_, ticket)| ticket));
                }
            }
        }
        let tasks: Vec<_> = single.into_iter().map(|ticket| self.delete_one(ticket)).collect();
        for task in tasks {
            if let Err(failure) = task.await {
                error!("", "queue update: {failure}");
            }
        }
    }

    fn delete_one(self: &Arc<Self>, ticket: Ticket) -> tokio::task::JoinHandle<()> {
        self.spawn(ticket.key(), |engine| async move {
            let Some(job) = engine.job(ticket.key()) else { return };
            info!(job, "deleted");
            engine.forget(ticket, &job, record::Outcome::Deleted, None, Durability::Synced).await;
        })
    }
}

/// Entries whose end is being written, for messages with several.
#[derive(Debug, Default)]
pub(crate) struct Ending(HashMap<Uuid, usize>);

impl Ending {
    /// One more entry of a message with `alive` entries ends; whether none of them goes on, and whether no other
    /// ends at the same time.
    fn begin(&mut self, id: Uuid, alive: usize) -> (bool, bool) {
        let ending = self.0.entry(id).or_insert(0);
        *ending += 1;
        (*ending >= alive, *ending == 1)
    }

    fn end(&mut self, id: Uuid) {
        if let Some(ending) = self.0.get_mut(&id) {
            *ending -= 1;
            if *ending == 0 {
                self.0.remove(&id);
            }
        }
    }

    /// All entries of a message, of which none is ending yet, end at once; false when there are others.
    fn begin_all(&mut self, id: Uuid, ending: usize, alive: usize) -> bool {
        let is_whole = ending >= alive && !self.0.contains_key(&id);
        if is_whole {
            self.0.insert(id, ending);
        }
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_of_a_message_takes_the_file_along() {
        let (mut ending, id) = (Ending::default(), Uuid::from_u128(1));
        assert_eq!(ending.begin(id, 2), (false, true));
        assert!(!ending.begin_all(id, 1, 2), "another one is ending");
        assert_eq!(ending.begin(id, 2), (true, false));
        ending.end(id);
        ending.end(id);
        assert!(!ending.begin_all(id, 1, 2) && ending.begin_all(id, 2, 2));
        ending.end(id);
        ending.end(id);
        assert!(ending.0.is_empty());
    }
}
