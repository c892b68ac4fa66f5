//! Start, signals and shutdown: the order of `config` section 1.4, so that nothing is half-started.

use crate::clock::Ids;
use crate::delivery::settings;
use crate::generation::{Generations, Shared};
use crate::lists::Lists;
use crate::log::{self, Target};
use crate::policies;
use crate::queue_files::{QueueFiles, QueuePaths, QueueRules};
use crate::queueing::engine::Engine;
use crate::server::listener;
use crate::{control, error, info, privileges, warning};
use config::startup::{Corrupt, Startup};
use config::validate;
use parking_lot::Mutex;
use queue::Queue;
use spool::disk::RealDisk;
use spool::{CorruptPolicy, Event, Recovered, Spool, SpoolOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long running transactions and attempts may take at shutdown.
const GRACE: Duration = Duration::from_secs(60);

/// Entries in pre-delivery at once.
const PREDELIVERY_MAX: u32 = 1024;

/// What every part of the daemon can reach.
pub struct Daemon {
    /// The running configuration.
    pub generations: Arc<Generations>,
    /// The queue at work.
    pub engine: Arc<Engine>,
    /// The durable store.
    pub spool: Arc<Spool>,
    /// Makes ids.
    pub ids: Ids,
    /// Becomes true when the daemon stops.
    pub shutdown: watch::Receiver<bool>,
    /// When it started.
    pub started: Instant,
    /// Messages above this size are streamed to disk, octets.
    pub journal_message_max: u64,
    /// Messages read into memory, for the counters.
    pub loaded: Arc<AtomicU64>,
    /// Policy, suspend and delivery file, for reloads.
    pub paths: QueuePaths,
    /// Those files as they were read last.
    pub files: Mutex<QueueFiles>,
    /// The policies that the file in force made.
    pub policies: Mutex<queue::PolicySet>,
    /// Lists that dynamic conditions may name.
    pub policy_lists: Mutex<Lists>,
    /// Lists that dynamic suspensions may name.
    pub suspend_lists: Mutex<Lists>,
    /// Held by a reload: each begins with what the last one left.
    pub reloading: tokio::sync::Mutex<()>,
}

/// How `smtpd` was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// Startup file.
    pub config: PathBuf,
    /// Stay in the foreground and log to standard error.
    pub foreground: bool,
    /// Load everything, report and exit.
    pub test: bool,
}

/// Runs the daemon until it is told to stop. The error is for the operator: what, where, and what was expected.
pub fn run(options: &Options) -> Result<(), String> {
    let startup = load_startup(&options.config)?;
    let target = match startup.logging.target {
        Some(target) => target,
        None if options.foreground || options.test => Target::Stderr,
        None => Target::Syslog,
    };
    log::start(target, startup.logging.level);
    info!("", "Starting Halon ({})", env!("CARGO_PKG_VERSION"));
    privileges::raise_limits(&startup)?;
    let listeners =
        if options.test { Vec::new() } else { listener::bind_all(&startup, event_threads(&startup))? };
    let control_socket = if options.test { None } else { Some(control::bind(&startup)?) };
    if !options.test {
        // Its folder usually belongs to root, so it is written before the rights go.
        write_pidfile(&startup)?;
    }
    // Its keys are often files that only root can read.
    let shared = Shared::new(&startup)?;
    privileges::drop_rights(&startup)?;
    let generations = Generations::load(&startup, shared).map_err(|errors| errors.join("\n"))?;
    let files = QueueFiles::read(&QueuePaths::of(&startup)).map_err(|errors| errors.join("\n"))?;
    let rules = files.rules(&generations.current().lists).map_err(|errors| errors.join("\n"))?;
    if options.test {
        info!("", "configuration is valid");
        return Ok(());
    }
    warn_about_pair(&options.config, &startup);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("event")
        .worker_threads(event_threads(&startup))
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let result = runtime.block_on(serve(&startup, generations, (files, rules), listeners, control_socket));
    runtime.shutdown_timeout(Duration::from_secs(5));
    if result.is_ok()
        && let Some(pidfile) = &startup.environment.pidfile
    {
        // A stale pid file misleads; one that cannot be removed is no reason to fail the stop.
        let _ = std::fs::remove_file(pidfile);
    }
    result
}

fn load_startup(path: &Path) -> Result<Startup, String> {
    let startup: Startup = config::load(path).map_err(|error| error.to_string())?;
    validate::startup(&path.display().to_string(), &startup)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(startup)
}

fn warn_about_pair(path: &Path, startup: &Startup) {
    // The file was read a moment ago; if it is gone now, the next reload will say so.
    if let Ok(app) = config::load::<config::App>(&startup.app_path()) {
        for text in validate::pair(startup, &app) {
            warning!("", "{}: {text}", path.display());
        }
    }
}

fn event_threads(startup: &Startup) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let asked = startup.servers.iter().filter_map(|server| server.threads.event).max();
    let of_queue = startup.queues.threads.event;
    asked.max(of_queue).map_or(cores, |threads| threads as usize).clamp(1, 256)
}

async fn serve(
    startup: &Startup,
    generations: Generations,
    (files, rules): (QueueFiles, QueueRules),
    listeners: Vec<listener::Listening>,
    control_socket: Option<control::Bound>,
) -> Result<(), String> {
    let generations = Arc::new(generations);
    let (stop, shutdown) = watch::channel(false);
    let ids = Ids::new(startup.environment.uuid.version);
    let mut queue = Queue::new(queue::Settings {
        predelivery_max: PREDELIVERY_MAX,
        attempts_max: generations.current().outbound_max,
        seed: rand::random(),
    });
    let now = crate::clock::now();
    queue.set_policies(now, rules.policies.0.clone()).map_err(|error| format!("policies: {error}"))?;
    queue.set_suspensions(now, rules.suspensions.0).map_err(|error| format!("suspensions: {error}"))?;
    let options = spool_options(startup);
    let (hold, message_max) = (options.journal_hold, options.journal_maxmessage_bytes);
    let (spool, loader) = open_spool(options)?;
    let engine = Arc::new(Engine::new(queue, spool.clone(), generations.clone(), ids, hold, message_max));
    engine.pool.set_size(engine.generations.current().pooling.size);
    *engine.settings.write() = Arc::new(rules.delivery);
    let loaded = Arc::new(AtomicU64::new(0));
    let daemon = Arc::new(Daemon {
        generations,
        engine: engine.clone(),
        spool: spool.clone(),
        ids,
        shutdown: shutdown.clone(),
        started: Instant::now(),
        journal_message_max: message_max,
        loaded: loaded.clone(),
        paths: QueuePaths::of(startup),
        files: Mutex::new(files),
        policies: Mutex::new(rules.policies.0),
        policy_lists: Mutex::new(rules.policies.1),
        suspend_lists: Mutex::new(rules.suspensions.1),
        reloading: tokio::sync::Mutex::new(()),
    });
    daemon.generations.shared().server().set(&daemon);
    loader.connect(&engine, &loaded);
    tokio::spawn(engine.clone().load_backlog(shutdown.clone(), loaded));
    let scheduler = tokio::spawn(engine.run(shutdown, GRACE));
    for listening in listeners {
        tokio::spawn(listener::accept(listening, daemon.clone()));
    }
    if let Some(bound) = control_socket {
        control::serve(bound, daemon.clone());
    }
    info!("", "ready");
    signals(&daemon).await?;
    info!("", "stopping");
    // Nobody left to tell is fine: everything has stopped then.
    let _ = stop.send(true);
    tokio::select! {
        _ = drain(&daemon, scheduler) => {}
        _ = signals(&daemon) => info!("", "second signal, stopping at once"),
    }
    let closing = tokio::task::spawn_blocking(move || spool.shutdown());
    match closing.await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => return Err(format!("spool: {failure}")),
        Err(failure) => return Err(format!("spool: {failure}")),
    }
    info!("", "stopped");
    log::flush();
    Ok(())
}

/// Waits for running transactions and attempts, up to the grace.
async fn drain(daemon: &Daemon, scheduler: tokio::task::JoinHandle<()>) {
    let deadline = tokio::time::Instant::now() + GRACE;
    if let Err(failure) = scheduler.await {
        error!("", "scheduler: {failure}");
    }
    let open =
        || daemon.generations.current().servers.values().map(|server| server.gate.total()).sum::<u32>();
    while open() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for SIGTERM or SIGINT; reloads on SIGHUP meanwhile.
async fn signals(daemon: &Arc<Daemon>) -> Result<(), String> {
    let watch = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut hangup = watch(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                for text in reload_all(daemon).await {
                    error!("", "reload: {text}");
                }
            }
        }
    }
}

async fn reload_all(daemon: &Arc<Daemon>) -> Vec<String> {
    let mut errors = Vec::new();
    for reload in [
        daemon.clone().reload_app().await,
        daemon.clone().reload_policies().await,
        daemon.clone().reload_suspensions().await,
        daemon.clone().reload_delivery().await,
    ] {
        errors.extend(reload.err().unwrap_or_default());
    }
    errors
}

impl Daemon {
    /// Replaces the running configuration, or keeps it and says why. Policies, suspensions and delivery settings stay as
    /// their files were read last, with the lists of the new configuration.
    pub async fn reload_app(self: Arc<Self>) -> Result<(), Vec<String>> {
        let _one_at_a_time = self.reloading.lock().await;
        let (daemon, files) = (self.clone(), self.files.lock().clone());
        let built = tokio::task::spawn_blocking(move || {
            let next = daemon.generations.prepare()?;
            let rules = files.rules(&next.lists)?;
            Ok::<_, Vec<String>>((next, rules))
        });
        let (next, rules) = built.await.map_err(|error| vec![error.to_string()])??;
        let (outbound_max, pool_size) = (next.outbound_max, next.pooling.size);
        // Everything is checked by now: what follows cannot fail on what a file says.
        self.generations.install(next);
        self.engine.queue.lock().set_limits(PREDELIVERY_MAX, outbound_max);
        self.engine.pool.set_size(pool_size);
        self.apply_policies(rules.policies)?;
        self.apply_suspensions(rules.suspensions)?;
        *self.engine.settings.write() = Arc::new(rules.delivery);
        self.engine.backlog.wake();
        self.engine.wake();
        info!("", "configuration reloaded");
        Ok(())
    }

    /// Replaces the policies, or keeps them and says why.
    pub async fn reload_policies(self: Arc<Self>) -> Result<(), Vec<String>> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, lists) = (self.paths.policy.clone(), self.generations.current().lists.clone());
        let read = tokio::task::spawn_blocking(move || {
            let file = policies::read(&path, config::validate::policy)?;
            let rules = policies::policies(&file, &lists)?;
            Ok::<_, Vec<String>>((file, rules))
        });
        let (file, rules) = read.await.map_err(|error| vec![error.to_string()])??;
        self.apply_policies(rules)?;
        self.files.lock().policy = Arc::new(file);
        self.engine.wake();
        info!("", "policies reloaded");
        Ok(())
    }

    /// Replaces the suspensions of the file, or keeps them and says why.
    pub async fn reload_suspensions(self: Arc<Self>) -> Result<(), Vec<String>> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, lists) = (self.paths.suspend.clone(), self.generations.current().lists.clone());
        let read = tokio::task::spawn_blocking(move || {
            let file = policies::read(&path, config::validate::suspend)?;
            let rules = policies::suspensions(&file, &lists)?;
            Ok::<_, Vec<String>>((file, rules))
        });
        let (file, rules) = read.await.map_err(|error| vec![error.to_string()])??;
        self.apply_suspensions(rules)?;
        self.files.lock().suspend = Arc::new(file);
        self.engine.wake();
        info!("", "suspensions reloaded");
        Ok(())
    }

    /// Replaces the delivery settings, or keeps them and says why.
    pub async fn reload_delivery(self: Arc<Self>) -> Result<(), Vec<String>> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, lists) = (self.paths.delivery.clone(), self.generations.current().lists.clone());
        let read = tokio::task::spawn_blocking(move || {
            let file = policies::read(&path, config::validate::delivery)?;
            let settings = settings::Settings::of(&file, &lists)?;
            Ok::<_, Vec<String>>((file, settings))
        });
        let (file, settings) = read.await.map_err(|error| vec![error.to_string()])??;
        *self.engine.settings.write() = Arc::new(settings);
        self.files.lock().delivery = Arc::new(file);
        info!("", "delivery settings reloaded");
        Ok(())
    }

    fn apply_policies(&self, (set, lists): (queue::PolicySet, Lists)) -> Result<(), Vec<String>> {
        let mut running = self.policies.lock();
        // With policies every lane is looked at again, so those that say the same are left alone.
        if *running != set {
            let applied = self.engine.queue.lock().set_policies(crate::clock::now(), set.clone());
            applied.map_err(|error| vec![error.to_string()])?;
            *running = set;
        }
        *self.policy_lists.lock() = lists;
        Ok(())
    }

    fn apply_suspensions(&self, (list, lists): (Vec<queue::Suspension>, Lists)) -> Result<(), Vec<String>> {
        let applied = self.engine.queue.lock().set_suspensions(crate::clock::now(), list);
        applied.map_err(|error| vec![error.to_string()])?;
        *self.suspend_lists.lock() = lists;
        Ok(())
    }
}

fn write_pidfile(startup: &Startup) -> Result<(), String> {
    let Some(path) = &startup.environment.pidfile else { return Ok(()) };
    std::fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn spool_options(startup: &Startup) -> SpoolOptions {
    let spool = &startup.spool;
    SpoolOptions {
        fsync: spool.fsync,
        corrupt: match spool.corrupt {
            Corrupt::Ignore => CorruptPolicy::Ignore,
            Corrupt::Rename => CorruptPolicy::Rename,
            Corrupt::Fail => CorruptPolicy::Fail,
        },
        minfree_bytes: spool.minfree.bytes.0,
        minfree_inodes: spool.minfree.inodes,
        journal_enabled: spool.journal.enabled,
        journal_segment_bytes: spool.journal.segment.0,
        journal_segments: spool.journal.segments as usize,
        journal_maxmessage_bytes: spool.journal.maxmessage.0,
        journal_hold: spool.journal.hold.to_std(),
        threads_load: spool.threads.load as usize,
        threads_sync: spool.threads.sync as usize,
        events: Arc::new(log_event),
        ..SpoolOptions::new(startup.spool_path())
    }
}

fn log_event(event: Event) {
    match event {
        Event::Corrupt { error, renamed: None } => error!("", "spool: {error}; left where it is"),
        Event::Corrupt { error, renamed: Some(path) } => {
            error!("", "spool: {error}; renamed to {}", path.display());
        }
        Event::Loaded { messages, corrupt: 0 } => info!("", "spool: {messages} messages found"),
        Event::Loaded { messages, corrupt } => {
            error!("", "spool: {messages} messages found, {corrupt} files are damaged");
        }
        other => warning!("", "spool: {other:?}"),
    }
}

/// Hands recovered messages to the queue; those found before the engine exists wait here.
struct Loader {
    state: Arc<Mutex<LoaderState>>,
}

#[derive(Default)]
struct LoaderState {
    waiting: Vec<Recovered>,
    sink: Option<(Arc<Engine>, Arc<AtomicU64>)>,
}

fn open_spool(options: SpoolOptions) -> Result<(Arc<Spool>, Loader), String> {
    let state = Arc::new(Mutex::new(LoaderState::default()));
    let sink = state.clone();
    let opened = Spool::open(options, Arc::new(RealDisk), move |recovered| {
        let mut state = sink.lock();
        match &state.sink {
            None => state.waiting.push(recovered),
            Some((engine, loaded)) => insert(engine, loaded, &recovered),
        }
    });
    Ok((Arc::new(opened.map_err(|error| format!("spool: {error}"))?), Loader { state }))
}

impl Loader {
    fn connect(&self, engine: &Arc<Engine>, loaded: &Arc<AtomicU64>) {
        let mut state = self.state.lock();
        for recovered in std::mem::take(&mut state.waiting) {
            insert(engine, loaded, &recovered);
        }
        state.sink = Some((engine.clone(), loaded.clone()));
    }
}

fn insert(engine: &Arc<Engine>, loaded: &AtomicU64, recovered: &Recovered) {
    if recovered.entries.is_empty() {
        return;
    }
    match engine.take_in(recovered) {
        Ok(true) => {
            loaded.fetch_add(1, Ordering::Relaxed);
            engine.wake();
        }
        // It waits on disk.
        Ok(false) => {}
        Err(failure) => error!(recovered.id, "found in the spool but not queued: {failure}"),
    }
}
