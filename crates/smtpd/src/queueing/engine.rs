//! The scheduler: asks the queue what is due, hands it to tasks and sees that every entry comes back.

use crate::clock::{self, Ids};
use crate::delivery::peer::Stalled;
use crate::delivery::pool::Pool;
use crate::delivery::settings::Settings;
use crate::generation::Generations;
use crate::hooks::ContextValue;
use crate::hooks::delivery::TryOptions;
use crate::queueing::backlog::Backlog;
use crate::queueing::job::Job;
use crate::transport::Transport;
use crate::{error, info};
use parking_lot::{Mutex, RwLock};
use queue::{AgedRun, EntryKey, Outcome, Pick, Queue, Requeue, Ticket, Time, Work};
use spool::Spool;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// Work taken from the queue at once; between two helpings other tasks run.
const WORK_AT_ONCE: usize = 256;

/// How often ACTIVE entries are looked at for their age.
const AGE_CHECK: Duration = Duration::from_secs(60);

/// Entries looked at while the queue is locked.
const AGED_SLICE: usize = 20_000;

/// After a defect the entry waits this long before it is tried again.
const DEFECT_DELAY: Duration = Duration::from_secs(60);

/// What pre-delivery settled for one attempt, where it is not the plain default.
#[derive(Default)]
pub(crate) struct Plan {
    /// The transport with the overrides of `Try`.
    pub(crate) transport: Option<Arc<Transport>>,
    /// The envelope and other overrides.
    pub(crate) options: Option<Arc<TryOptions>>,
    /// `$context` for the post-delivery hook.
    pub(crate) context: ContextValue,
    /// Whether DNS signed the way to the next hop.
    pub(crate) is_secure: bool,
    /// Candidates tried after the first. The addresses themselves are looked up again then: a million entries that wait
    /// in their lanes would hold millions of them.
    pub(crate) failovers: u32,
}

/// The queue at work.
pub struct Engine {
    /// The index; held for short steps only, never across an await or a disk operation.
    pub queue: Mutex<Queue>,
    /// The durable store.
    pub spool: Arc<Spool>,
    pub(crate) generations: Arc<Generations>,
    /// Connections kept between messages.
    pub pool: Arc<Pool>,
    pub(crate) stalled: Stalled,
    pub(crate) ids: Ids,
    pub(crate) plans: Mutex<HashMap<EntryKey, Plan>>,
    pub(super) ending: Mutex<super::ending::Ending>,
    notify: Notify,
    abort: watch::Sender<bool>,
    journal_hold: Duration,
    journal_message_max: u64,
    /// Delivery settings in force.
    pub settings: RwLock<Arc<Settings>>,
    /// Messages that wait on disk.
    pub backlog: Backlog,
    /// Outbound connections now.
    pub connections: AtomicU64,
    /// Entries whose post-delivery has not finished.
    pub releasing: AtomicU64,
    /// Every task holds a clone; the scheduler knows that all ended when the channel closes.
    tasks: Mutex<Option<mpsc::Sender<()>>>,
}

impl Engine {
    /// An engine around a queue and its spool.
    pub fn new(
        queue: Queue,
        spool: Arc<Spool>,
        generations: Arc<Generations>,
        ids: Ids,
        journal_hold: Duration,
        journal_message_max: u64,
    ) -> Engine {
        Engine {
            queue: Mutex::new(queue),
            spool,
            generations,
            pool: Arc::default(),
            stalled: Stalled::default(),
            ids,
            plans: Mutex::new(HashMap::new()),
            ending: Mutex::default(),
            notify: Notify::new(),
            abort: watch::Sender::new(false),
            journal_hold,
            journal_message_max,
            settings: RwLock::default(),
            backlog: Backlog::default(),
            connections: AtomicU64::new(0),
            releasing: AtomicU64::new(0),
            tasks: Mutex::new(None),
        }
    }

    /// Lets the scheduler look again; called after every change of the queue.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Runs until the shutdown begins, then waits up to `grace` for running attempts.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>, grace: Duration) {
        let (sender, mut ended) = mpsc::channel::<()>(1);
        *self.tasks.lock() = Some(sender);
        let sweeping = tokio::spawn(self.pool.clone().sweep(shutdown.clone()));
        let mut work = Vec::with_capacity(WORK_AT_ONCE);
        let mut aged_at = Instant::now();
        while !*shutdown.borrow() {
            if aged_at.elapsed() >= AGE_CHECK {
                aged_at = Instant::now();
                self.expire_active().await;
            }
            let wake = {
                let mut queue = self.queue.lock();
                let now = clock::now();
                queue.poll(now, WORK_AT_ONCE, &mut work);
                if work.is_empty() { queue.next_wake(now) } else { None }
            };
            if work.is_empty() {
                tokio::select! {
                    () = self.notify.notified() => {}
                    () = sleep_until(wake) => {}
                    _ = shutdown.wait_for(|stop| *stop) => {}
                }
                continue;
            }
            for item in work.drain(..) {
                self.dispatch(item);
            }
            tokio::task::yield_now().await;
        }
        // What was handed out but not begun stays in the spool; what is running may finish.
        self.tasks.lock().take();
        if tokio::time::timeout(grace, ended.recv()).await.is_err() {
            info!("", "shutdown does not wait longer for running deliveries");
            self.abort.send_replace(true);
        }
        if let Err(failure) = sweeping.await {
            error!("", "connection pool: {failure}");
        }
        self.pool.close().await;
    }

    /// Ends ACTIVE entries whose age has reached the limit of their transport while they waited behind limits
    /// and suspensions.
    async fn expire_active(self: &Arc<Self>) {
        let generation = self.generations.current();
        let age_max = |id: &str| generation.transports.get(id).and_then(|transport| transport.retry.age_max);
        let mut run = AgedRun::default();
        loop {
            let mut aged = Vec::new();
            let done = run.step(&mut self.queue.lock(), clock::now(), age_max, AGED_SLICE, &mut aged);
            for ticket in aged {
                self.spawn(ticket.key(), |engine| async move { engine.expired(ticket).await });
            }
            if done {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn dispatch(self: &Arc<Self>, work: Work) {
        match work {
            Work::Predelivery(ticket) => {
                // A plan of an earlier attempt that never ran must not reach into this one.
                self.plans.lock().remove(&ticket.key());
                if let Some(ticket) = self.quick_predelivery(ticket) {
                    self.spawn(ticket.key(), |engine| async move { engine.predelivery(ticket).await });
                }
            }
            Work::Postdelivery(ticket) => {
                self.spawn(ticket.key(), |engine| async move { engine.resume_delivered(ticket).await });
            }
            Work::Deliver(pick) => {
                self.spawn(pick.ticket.key(), |engine| async move { engine.attempt(pick).await });
            }
        }
    }

    /// Runs the work on an entry as a task of its own. If it panics, the entry is taken back and waits.
    pub(crate) fn spawn<F, W>(self: &Arc<Self>, key: EntryKey, work: W) -> JoinHandle<()>
    where
        W: FnOnce(Arc<Engine>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let running = self.running();
        let guard = Guard { engine: self.clone(), key, armed: true };
        let work = work(self.clone());
        let mut abort = self.abort.subscribe();
        tokio::spawn(async move {
            let _running = running;
            let mut guard = guard;
            tokio::select! {
                () = work => {}
                // Past the grace of a shutdown; what was not recorded is done again after the start.
                _ = abort.wait_for(|abort| *abort) => {}
            }
            guard.armed = false;
        })
    }

    /// Held by whoever works on entries: a shutdown waits for it.
    pub(super) fn running(&self) -> Option<mpsc::Sender<()>> {
        self.tasks.lock().clone()
    }

    /// The entry as it is now; none when it is gone.
    pub(crate) fn job(&self, key: EntryKey) -> Option<Job> {
        self.queue.lock().entry(key).map(|entry| Job::of(&entry))
    }

    /// Gives a ticket back to the queue and wakes the scheduler.
    pub(super) fn settle(&self, ticket: Ticket, outcome: Outcome) -> Option<queue::Settled> {
        let key = ticket.key();
        self.plans.lock().remove(&key);
        let settled = self.queue.lock().settle(clock::now(), ticket, outcome);
        if matches!(settled, Ok(queue::Settled::Gone { message_gone: true })) {
            self.backlog.wake();
        }
        self.wake();
        settled.map_err(|failure| error!("", "queue: {failure}")).ok()
    }

    /// Messages up to this size may still be in memory, octets.
    pub(super) fn journal_message_max(&self) -> u64 {
        self.journal_message_max
    }

    /// Forgets plans of entries that are gone.
    pub(crate) fn prune_plans(&self) {
        let mut plans = self.plans.lock();
        let queue = self.queue.lock();
        plans.retain(|key, _| queue.entry(*key).is_some());
    }

    /// Entries that wait longer than this leave the journal at once.
    pub(super) fn journal_hold(&self) -> Duration {
        self.journal_hold
    }

    /// Changes the metadata of an entry that is being worked on, in memory.
    pub(crate) fn set_metadata(&self, key: EntryKey, metadata: Vec<(String, Vec<u8>)>) {
        let text = metadata
            .into_iter()
            .map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()))
            .collect();
        let mut queue = self.queue.lock();
        // The entry is working and this task holds its ticket further up, so a fresh one replaces none.
        if let Err(failure) = queue.replace_metadata(key, text) {
            error!("", "queue: {failure}");
        }
    }

    pub(super) fn now(&self) -> Time {
        clock::now()
    }
}

/// Takes an entry back when its task ends without settling it.
struct Guard {
    engine: Arc<Engine>,
    key: EntryKey,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A task that is dropped with the runtime leaves its entry to the next start.
        if !self.armed || !std::thread::panicking() {
            return;
        }
        let ticket = self.engine.queue.lock().reclaim(self.key);
        let Ok(ticket) = ticket else { return };
        error!("", "internal error while working on an entry; it is tried again in {DEFECT_DELAY:?}");
        let outcome = Outcome::Requeue(Requeue {
            delay: DEFECT_DELAY,
            increment_retry: false,
            reason: Some("internal error".to_owned()),
            ..Requeue::default()
        });
        self.engine.settle(ticket, outcome);
    }
}

/// Counts one, or several, while it lives.
pub(super) struct Gauge<'a>(&'a AtomicU64, u64);

impl<'a> Gauge<'a> {
    pub(super) fn new(counter: &'a AtomicU64) -> Gauge<'a> {
        Gauge::of(counter, 1)
    }

    pub(super) fn of(counter: &'a AtomicU64, count: u64) -> Gauge<'a> {
        counter.fetch_add(count, Ordering::Relaxed);
        Gauge(counter, count)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

async fn sleep_until(wake: Option<Time>) {
    match wake {
        None => std::future::pending().await,
        Some(wake) => {
            // The wall clock may be set while we wait, so no sleep is longer than a minute.
            let left = wake.since(clock::now()).min(Duration::from_secs(60));
            tokio::time::sleep(left).await;
        }
    }
}

/// An attempt handed out by the queue, with the source address that its limits were asked for.
pub(super) type Picked = Pick;
