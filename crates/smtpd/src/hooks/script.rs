//! Compiled scripts and how they run: a short slice on the calling thread, the rest on the script pool, waits
//! without any thread.

use crate::hooks::ContextValue;
use crate::hooks::decision::Phase;
use crate::hooks::pool::Pool;
use crate::hooks::pools::Pools;
use crate::{debug, error, info, warning};
use config::app::App;
use control::server::{Peer, payload};
use debugger::{About, Debugger};
use hsl::{Compiler as HslCompiler, Limits, Loader, Program, Registry, Shared, Step, Value, Vm};
use hsl_std::hooks::recipient::RecipientRun;
use hsl_std::hooks::{EchoSink, Hook, HookHost};
use hsl_std::{Environment, ScriptFiles};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Jumps and calls that a script may use up on the caller's thread. Most hooks end within it and so cost no
/// change of thread; one that does not moves to the pool, where it delays no connection.
const FIRST_SLICE: u32 = 2_000;

/// Jumps and calls between two looks at the clock on the pool.
const POOL_SLICE: u32 = 1_000_000;

/// Counters of one hook of one server, as `process-stats` shows them.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names are the documented counters")]
pub struct ScriptCounters {
    pub pending: AtomicU64,
    pub running: AtomicU64,
    pub finished: AtomicU64,
    pub errors: AtomicU64,
    pub suspended: AtomicU64,
}

/// A compiled hook.
pub struct Script {
    hook: Hook,
    id: String,
    program: Arc<Program>,
    /// The variables of the hook that the program names.
    variables: Vec<&'static str>,
    environment: Arc<Environment>,
    shared: Arc<Shared>,
    limits: Limits,
    counters: Arc<ScriptCounters>,
    pool: Arc<Pool>,
    /// Path of the entry script.
    path: String,
    /// Who follows its executions.
    watch: Option<Arc<Watched>>,
    /// The class of `$arguments["mail"]`.
    pub mail_class: Arc<hsl::NativeClass>,
}

/// How the executions of a live stage are followed.
pub struct Watched {
    /// Who is told of break points.
    pub debugger: Arc<Debugger>,
    /// Whether scripts have break points.
    pub has_points: bool,
    /// Who gets exceptions and output.
    pub client: Option<Peer>,
}

/// How an execution ended.
pub enum End {
    /// At its last line, or with `return`.
    Implicit,
    /// With a terminating function and its arguments.
    Function(String, Vec<Value>),
    /// With an error, which has been logged.
    Error,
}

/// What is left of an execution.
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// Metadata, where the script set it.
    pub metadata: Option<Vec<(String, Vec<u8>)>>,
    /// What the older end-of-data hook decided.
    pub recipient: Option<RecipientRun>,
}

/// Compiles the scripts of one configuration; they share library, files and limits.
pub struct Compiler {
    registries: HashMap<Hook, Arc<Registry>>,
    loader: Arc<dyn Loader>,
    environment: Arc<Environment>,
    shared: Arc<Shared>,
    limits: Limits,
    pools: Arc<Pools>,
    mail_class: Arc<hsl::NativeClass>,
    watch: Option<Arc<Watched>>,
}

impl Compiler {
    /// The same for scripts that are followed.
    pub fn watched(mut self, watch: Option<Arc<Watched>>) -> Compiler {
        self.watch = watch;
        self
    }

    /// For the limits of a running configuration, and what the library gets to know.
    pub fn new(app: &App, environment: Arc<Environment>, shared: Arc<Shared>, pools: Arc<Pools>) -> Compiler {
        let library = hsl_std::shared_registry();
        let registries =
            Hook::ALL.into_iter().map(|hook| (hook, hsl_std::hooks::registry(hook, &library))).collect();
        let limits = app.scripting.limits;
        Compiler {
            registries,
            loader: environment.files.clone(),
            environment,
            shared,
            limits: Limits {
                timeout: limits.timeout.map(config::Duration::to_std),
                memory_bytes: usize::try_from(limits.memory.0).unwrap_or(usize::MAX),
                depth: limits.depth as usize,
            },
            pools,
            mail_class: hsl_std::mail::eod_class(),
            watch: None,
        }
    }

    /// Compiles a hook of a phase, to run in the pool that the phase names; errors are complete lines for the operator.
    pub fn phase_hook(
        &self,
        phase: Phase,
        server: &str,
        threadid: Option<&str>,
        id: &str,
        source: &str,
        counters: Arc<ScriptCounters>,
    ) -> Result<Script, Vec<String>> {
        let hook = phase.hook();
        let pool = self.pools.of_phase(server, threadid);
        let pool =
            pool.map_err(|text| vec![format!("server {server}: phases.{}.threadid: {text}", hook.name())])?;
        self.compile(hook, &format!("{}/{id}.hsl", hook.name()), id, source, counters, pool)
    }

    /// Compiles `predelivery` or `postdelivery`.
    pub fn queue_hook(
        &self,
        name: &str,
        source: &str,
        counters: Arc<ScriptCounters>,
    ) -> Result<Script, Vec<String>> {
        let hook = if name == "predelivery" { Hook::PreDelivery } else { Hook::PostDelivery };
        let pool = self.pools.of_queue().map_err(|text| vec![text])?;
        self.compile(hook, &format!("queue/{name}.hsl"), name, source, counters, pool)
    }

    fn compile(
        &self,
        hook: Hook,
        path: &str,
        id: &str,
        source: &str,
        counters: Arc<ScriptCounters>,
        pool: &Arc<Pool>,
    ) -> Result<Script, Vec<String>> {
        let registry =
            self.registries.get(&hook).ok_or_else(|| vec![format!("no functions for {}", hook.name())])?;
        let mut compiler = HslCompiler::new(registry.clone()).loader(self.loader.clone());
        compiler = compiler.probes(self.watch.as_ref().is_some_and(|watch| watch.has_points));
        for (name, readonly) in hook.variables() {
            compiler = compiler.context_variable(name, *readonly);
        }
        let compiled = compiler.compile(path, source.as_bytes());
        let compiled =
            compiled.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for text in &compiled.warnings {
            warning!("", "{text}");
        }
        let names = hook.variables().iter().map(|(name, _)| *name);
        Ok(Script {
            hook,
            id: id.to_owned(),
            variables: names.filter(|name| compiled.program.uses_variable(name)).collect(),
            program: compiled.program,
            environment: self.environment.clone(),
            shared: self.shared.clone(),
            limits: self.limits.clone(),
            counters,
            pool: pool.clone(),
            path: path.to_owned(),
            watch: self.watch.clone(),
            mail_class: self.mail_class.clone(),
        })
    }
}

/// The virtual files of the configuration and the files below the script root.
///
/// # Errors
/// A virtual file that is no base64 although it says so.
pub fn script_files(app: &App, rootpath: Option<PathBuf>) -> Result<ScriptFiles, String> {
    let mut files = ScriptFiles::new();
    for (index, file) in app.scripting.files.iter().enumerate() {
        let bytes: Vec<u8> = if file.binary {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(file.data.trim());
            decoded.map_err(|error| format!("/scripting/files/{index}/data: {error}"))?
        } else {
            file.data.clone().into_bytes()
        };
        files.insert(file.id.as_str(), bytes);
    }
    if let Some(root) = rootpath {
        files.set_root(root);
    }
    Ok(files)
}

/// What a script is run with.
#[derive(Default)]
pub struct Execution {
    /// Names connection or transaction in the log.
    pub id: String,
    /// Variables of the hook.
    pub variables: Vec<(&'static str, Value)>,
    /// Metadata of the entry, for the delivery hooks.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// The recipient, for the older end-of-data hook.
    pub recipient: Option<RecipientRun>,
    /// Who is let into the pool first.
    pub priority: f64,
}

impl Script {
    /// What its library knows of the daemon.
    pub(super) fn environment(&self) -> &Arc<Environment> {
        &self.environment
    }

    /// Whether it names a variable of its hook, so that others need not be made.
    pub(super) fn uses(&self, name: &str) -> bool {
        self.variables.contains(&name)
    }

    /// The variables of its hook that it names.
    pub(super) fn named(&self) -> impl Iterator<Item = &'static str> {
        self.variables.iter().copied()
    }

    /// Where it runs past its first slice.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs to the end; `context` is `$context` before and after.
    pub async fn run(&self, execution: Execution, context: &mut ContextValue) -> Finished {
        let Execution { id, variables, metadata, recipient, priority } = execution;
        let id: Arc<str> = id.into();
        // The other hooks run for a connection, which may carry several messages.
        let about_message =
            matches!(self.hook, Hook::Eod | Hook::EodRcpt | Hook::PreDelivery | Hook::PostDelivery);
        let mut host = HookHost::new(self.echo(&id, about_message));
        host.metadata = metadata;
        if self.hook == Hook::Eod {
            let tag = id.clone();
            host.history = Some(Box::new(move |text| info!(tag, "{}", String::from_utf8_lossy(text))));
        }
        host.environment = Some(self.environment.clone());
        host.recipient = recipient;
        host.message = about_message.then(|| id.to_string());
        let mut vm = Vm::new(self.program.clone(), self.shared.clone(), self.limits.clone(), Box::new(host));
        for (name, value) in variables {
            vm.set_variable(name, value);
        }
        // It is none until a script sets it.
        vm.set_variable("context", context.0.take().unwrap_or_default());
        if let Some(watch) = &self.watch {
            vm.observe(watch.debugger.observer(self.about(&id, about_message), watch.client.is_some()));
        }
        let counters = &*self.counters;
        let _begun = match self.pool.begun.try_enter() {
            Some(place) => place,
            None => {
                let _waiting = Gauge::new(&counters.pending);
                self.pool.begun.enter(priority).await
            }
        };
        let mut step = {
            let _running = Gauge::new(&counters.running);
            vm.run(FIRST_SLICE)
        };
        let end = loop {
            match step {
                Step::Done(_) => break End::Implicit,
                Step::Ended { function, args } => break End::Function(function.into_owned(), args),
                Step::Failed(failure) => {
                    counters.errors.fetch_add(1, Ordering::Relaxed);
                    error!(id, "script error in {} {}: {failure}", self.hook.name(), self.id);
                    break End::Error;
                }
                Step::Pending(future) => {
                    let result = {
                        let _suspended = Gauge::new(&counters.suspended);
                        future.await
                    };
                    vm.resume(result);
                    let _running = Gauge::new(&counters.running);
                    step = vm.run(FIRST_SLICE);
                }
                Step::OutOfFuel => match self.continue_on_pool(vm, priority).await {
                    Some((back, next)) => {
                        vm = back;
                        step = next;
                    }
                    None => {
                        counters.errors.fetch_add(1, Ordering::Relaxed);
                        error!(id, "script pool failed in {} {}", self.hook.name(), self.id);
                        return Finished { end: End::Error, metadata: None, recipient: None };
                    }
                },
            }
        };
        counters.finished.fetch_add(1, Ordering::Relaxed);
        context.0 = vm.variable("context").filter(|value| !value.is_none());
        let recipient = vm.host::<HookHost>().and_then(|host| host.recipient.take());
        let metadata = vm
            .host::<HookHost>()
            .filter(|host| host.metadata_changed)
            .map(|host| std::mem::take(&mut host.metadata));
        Finished { end, metadata, recipient }
    }

    /// Where its output goes: to the log, and to the debugger that follows it.
    fn echo(&self, id: &Arc<str>, about_message: bool) -> EchoSink {
        let tag = id.clone();
        let follower = self.watch.as_ref().and_then(|watch| watch.client.clone());
        let Some(client) = follower else {
            return Box::new(move |text, _| debug!(tag, "{}", String::from_utf8_lossy(text)));
        };
        let about = self.about(id, about_message);
        Box::new(move |text, place| {
            debug!(tag, "{}", String::from_utf8_lossy(text));
            // A client that reads too slowly misses lines; the log has them.
            client.try_send(payload(&about.log(text, place)));
        })
    }

    /// What a debugger is told about an execution. Queue hooks have no name of their own.
    fn about(&self, id: &Arc<str>, about_message: bool) -> About {
        let of_queue = matches!(self.hook, Hook::PreDelivery | Hook::PostDelivery);
        let (transactionid, connectionid) =
            if about_message { (id.to_string(), String::new()) } else { (String::new(), id.to_string()) };
        let name = if of_queue { "" } else { &self.id };
        About {
            transactionid,
            connectionid,
            path: Some(self.path.clone()),
            name: format!("{}:{name}", self.hook.name()),
        }
    }

    /// Runs on until the script waits or ends. At most the pool's number of scripts run so at once; between two
    /// slices another script may take the place.
    async fn continue_on_pool(&self, mut vm: Vm, priority: f64) -> Option<(Vm, Step)> {
        loop {
            let waiting = Gauge::new(&self.counters.pending);
            let place = self.pool.running.enter(priority).await;
            drop(waiting);
            let _running = Gauge::new(&self.counters.running);
            let (back, step) = tokio::task::spawn_blocking(move || {
                let _place = place;
                let step = vm.run(POOL_SLICE);
                (vm, step)
            })
            .await
            .ok()?;
            vm = back;
            if !matches!(step, Step::OutOfFuel) {
                return Some((vm, step));
            }
        }
    }
}

/// Counts one while it lives.
struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    fn new(counter: &'a AtomicU64) -> Gauge<'a> {
        counter.fetch_add(1, Ordering::Relaxed);
        Gauge(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
