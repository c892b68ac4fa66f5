//! The virtual machine: runs a [`Program`] with explicit frames, so that script calls never use the native stack.
//!
//! A machine is a value that may move between threads while it is stopped. [`Vm::run`] goes on until the script ends,
//! waits, fails or its fuel is used up; the caller decides when to go on.

mod access;
pub(crate) mod builtin;
mod cache;
mod dispatch;
mod frame_stack;
mod frames;
pub(crate) mod generator;
mod steps;

use crate::diag::{Place, ScriptError, Severity, Span};
use crate::error::Error;
use crate::mem;
use crate::object::{Cell, Object, ObjectKind};
use crate::ops;
use crate::probe::Observer;
use crate::program::Program;
use crate::registry::BoxFuture;
use crate::shared::Shared;
use crate::value::Value;
pub(crate) use frame_stack::Frames;
pub(crate) use frames::{call_stack, variables};
use std::any::Any;
use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Jumps and calls between two checks of the time and memory limits.
const SLICE: u32 = 1024;

/// Bounds of one execution (language section 15).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Run time without waiting.
    pub timeout: Option<Duration>,
    /// Memory held by strings and arrays, bytes.
    pub memory_bytes: usize,
    /// Active calls.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { timeout: None, memory_bytes: 256 << 20, depth: 1000 }
    }
}

/// What the embedding program provides to an execution.
pub trait Host: Any + Send {
    /// Output of `echo`.
    fn echo(&mut self, text: &[u8], place: &Place);

    /// Identity of the message that the execution is about: the namespace of `cache` with `per_message`. Without one
    /// that option has no effect.
    fn message_id(&self) -> Option<&str> {
        None
    }

    /// What the library needs to know of the program around it; see [`NativeCx::environment`].
    fn environment(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// A host that drops all output.
pub struct NoHost;

impl Host for NoHost {
    fn echo(&mut self, _text: &[u8], _place: &Place) {}
}

/// Why [`Vm::run`] came back.
pub enum Step {
    /// The script ended; its return value.
    Done(Value),
    /// A terminating function (`Accept()` and the like) was called.
    Ended {
        /// Its name.
        function: Cow<'static, str>,
        /// What it was called with.
        args: Vec<Value>,
    },
    /// The script waits; [`Vm::resume`] with the output of the future, then run again.
    Pending(BoxFuture),
    /// The fuel is used up; run again.
    OutOfFuel,
    /// The script failed.
    Failed(Box<ScriptError>),
}

/// What a native function sees of its execution.
pub struct NativeCx<'a> {
    host: &'a mut dyn Host,
    shared: &'a Arc<Shared>,
    limits: &'a Limits,
    execution: u64,
    started_s: f64,
    at: Option<(&'a Frames, &'a [ProgramState])>,
}

impl<'a> NativeCx<'a> {
    pub(crate) fn detached(
        host: &'a mut dyn Host,
        shared: &'a Arc<Shared>,
        limits: &'a Limits,
    ) -> NativeCx<'a> {
        let started_s = shared.now();
        NativeCx { host, shared, limits, execution: 0, started_s, at: None }
    }

    /// The host data, if it is of type `T`.
    pub fn host<T: Host>(&mut self) -> Option<&mut T> {
        (&mut *self.host as &mut dyn Any).downcast_mut()
    }

    /// The environment that the host gives to the library, if it is of type `T`.
    pub fn environment<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.host.environment()?.downcast().ok()
    }

    /// State shared between executions.
    pub fn shared(&self) -> &Arc<Shared> {
        self.shared
    }

    /// The limits of the execution.
    pub fn limits(&self) -> &Limits {
        self.limits
    }

    /// Number of the execution, unique in its [`Shared`].
    pub fn execution(&self) -> u64 {
        self.execution
    }

    /// Seconds since the execution began, waiting included.
    pub fn elapsed_s(&self) -> f64 {
        self.shared.now() - self.started_s
    }

    /// The place of the call.
    pub fn place(&self) -> Option<Place> {
        let (calls, programs) = self.at?;
        let (program, span) = frames::current_span(calls, programs)?;
        Some(programs[program].program.sources.place(span))
    }

    /// Raises when `bytes` more would exceed the memory limit; to be asked before large allocations.
    ///
    /// # Errors
    /// [`Error::Fatal`].
    pub fn check_memory(&self, bytes: usize) -> Result<(), Error> {
        ops::check_memory(bytes)
    }
}

/// State of one program in an execution.
pub(crate) struct ProgramState {
    pub(crate) program: Arc<Program>,
    pub(crate) globals: Vec<Value>,
    pub(crate) statics: Vec<Value>,
    pub(crate) modules_run: Vec<bool>,
}

impl ProgramState {
    fn new(program: Arc<Program>) -> ProgramState {
        ProgramState {
            globals: program.global_names.iter().map(|_| Value::Undef).collect(),
            statics: program.statics.clone(),
            modules_run: vec![false; program.modules.len()],
            program,
        }
    }
}

/// What the machine does with the result it waits for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Waiting {
    No,
    /// Runs the same instruction again.
    Retry,
    /// Delivers it as the result of a native function.
    Deliver(u8),
    /// Gives it to the continuation on top.
    Continuation,
    /// Drops it.
    Drop,
    /// Raises the error that is held.
    Raise,
}

/// Everything of a machine but its registers.
pub(crate) struct Machine {
    pub(crate) programs: Vec<ProgramState>,
    pub(crate) frames: Frames,
    pub(crate) host: Box<dyn Host>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    pub(crate) execution: u64,
    pub(crate) started_s: f64,
    pub(crate) waiting: Waiting,
    pub(crate) resumed: Option<Result<Value, Error>>,
    /// What [`Waiting::Raise`] raises.
    pub(crate) held: Option<Error>,
    pub(crate) barriers: u32,
    pub(crate) observer: Option<Box<dyn Observer>>,
    /// Objects and cells that may form cycles; emptied at the end of the execution.
    pub(crate) heap: Heap,
}

/// Weak references to what reference counting alone might not free.
#[derive(Default)]
pub(crate) struct Heap {
    objects: Vec<Weak<Object>>,
    cells: Vec<Weak<Cell>>,
    prune_at: usize,
}

impl Heap {
    pub(crate) fn object(&mut self, object: &Arc<Object>) {
        self.objects.push(Arc::downgrade(object));
        self.prune();
    }

    pub(crate) fn cell(&mut self, cell: &Arc<Cell>) {
        self.cells.push(Arc::downgrade(cell));
        self.prune();
    }

    fn prune(&mut self) {
        if self.objects.len() + self.cells.len() > self.prune_at.max(256) {
            self.objects.retain(|w| w.strong_count() > 0);
            self.cells.retain(|w| w.strong_count() > 0);
            self.prune_at = 2 * (self.objects.len() + self.cells.len());
        }
    }

    /// Breaks cycles by emptying what is still alive.
    fn clear(&mut self) {
        for cell in std::mem::take(&mut self.cells).iter().filter_map(Weak::upgrade) {
            let value = std::mem::take(&mut *cell.0.lock());
            mem::drop_bounded([value]);
        }
        for object in std::mem::take(&mut self.objects).iter().filter_map(Weak::upgrade) {
            match &object.0 {
                ObjectKind::Script { props, .. } => {
                    let props = std::mem::take(&mut *props.lock());
                    drop(props);
                }
                ObjectKind::Generator(g) => {
                    let parts = g.lock().abandon();
                    drop(parts);
                }
                ObjectKind::Native { .. } => {}
            }
        }
    }
}

/// One execution of a program.
pub struct Vm {
    stack: Vec<Value>,
    m: Machine,
    /// Bytes held by the values of this execution while it is stopped.
    balance: isize,
    ran_s: f64,
    finished: bool,
}

impl Vm {
    /// An execution that has not begun.
    pub fn new(program: Arc<Program>, shared: Arc<Shared>, limits: Limits, host: Box<dyn Host>) -> Vm {
        let execution = shared.next_execution();
        let started_s = shared.now();
        let mut vm = Vm {
            stack: Vec::new(),
            m: Machine {
                programs: vec![ProgramState::new(Arc::clone(&program))],
                frames: Frames::default(),
                host,
                shared,
                limits,
                execution,
                started_s,
                waiting: Waiting::No,
                resumed: None,
                barriers: 0,
                observer: None,
                held: None,
                heap: Heap::default(),
            },
            balance: 0,
            ran_s: 0.0,
            finished: false,
        };
        frames::push_entry(&mut vm.m, &mut vm.stack, program.entry);
        vm
    }

    /// Sets a context variable (without dollar); false when the program was compiled without it.
    pub fn set_variable(&mut self, name: &str, value: Value) -> bool {
        let state = &mut self.m.programs[0];
        let Some(slot) = state.program.context.get(name) else { return false };
        if let Some(place) = state.globals.get_mut(*slot as usize) {
            *place = value;
        }
        true
    }

    /// The value of a context variable, if it is set.
    pub fn variable(&self, name: &str) -> Option<Value> {
        let state = &self.m.programs[0];
        let slot = state.program.context.get(name)?;
        state.globals.get(*slot as usize).filter(|v| !matches!(v, Value::Undef)).cloned()
    }

    /// The host data.
    pub fn host_mut(&mut self) -> &mut dyn Host {
        &mut *self.m.host
    }

    /// The host data as type `T`.
    pub fn host<T: Host>(&mut self) -> Option<&mut T> {
        (&mut *self.m.host as &mut dyn Any).downcast_mut()
    }

    /// Tells `observer` what passes the probes of the program, see [`Compiler::probes`](crate::Compiler::probes).
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.m.observer = Some(observer);
    }

    /// Number of the execution, unique in its [`Shared`].
    pub fn execution(&self) -> u64 {
        self.m.execution
    }

    /// Seconds spent running, waiting excluded.
    pub fn ran_s(&self) -> f64 {
        self.ran_s
    }

    /// Gives the output of the future of [`Step::Pending`].
    pub fn resume(&mut self, result: Result<Value, Error>) {
        self.m.resumed = Some(result);
    }

    /// Runs until the script stops; `fuel` bounds the jumps and calls.
    pub fn run(&mut self, fuel: u32) -> Step {
        if self.finished {
            return self.failed_outside("The execution has ended");
        }
        if self.m.waiting != Waiting::No && self.m.resumed.is_none() {
            return self.failed_outside("The execution waits for a result that was not given");
        }
        frames::unfold(&self.m, &mut self.stack);
        let outer = mem::swap(self.balance);
        let outer_limit = ops::set_memory_limit(self.m.limits.memory_bytes);
        let step = self.run_slices(fuel);
        if !matches!(step, Step::Pending(_) | Step::OutOfFuel) {
            self.finished = true;
        }
        if matches!(step, Step::Pending(_)) {
            frames::fold(&mut self.m, &mut self.stack);
        }
        ops::set_memory_limit(outer_limit);
        self.balance = mem::swap(outer);
        step
    }

    fn run_slices(&mut self, fuel: u32) -> Step {
        let mut rest = fuel.max(1);
        loop {
            let slice = rest.min(SLICE);
            rest -= slice;
            let began = self.m.shared.now();
            let step = dispatch::run(&mut self.m, &mut self.stack, slice);
            self.ran_s += self.m.shared.now() - began;
            match step {
                Step::OutOfFuel => {
                    if let Some(limit) = self.m.limits.timeout
                        && self.ran_s > limit.as_secs_f64()
                    {
                        return self.limit("Time limit reached");
                    }
                    if mem::used() > 0 && mem::used() as usize > self.m.limits.memory_bytes {
                        return self.limit("Memory limit reached");
                    }
                    if rest == 0 {
                        return Step::OutOfFuel;
                    }
                }
                other => return other,
            }
        }
    }

    fn limit(&mut self, message: &str) -> Step {
        let error = frames::script_error(&self.m, &Error::fatal(message));
        frames::unwind_all(&mut self.m, &mut self.stack);
        Step::Failed(Box::new(error))
    }

    fn failed_outside(&self, message: &str) -> Step {
        let program = &self.m.programs[0].program;
        let diagnostic = program.sources.diagnostic(Severity::Error, Span::default(), message.to_owned());
        Step::Failed(Box::new(ScriptError { diagnostic, value: None, stack: Vec::new() }))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let outer = mem::swap(self.balance);
        frames::unwind_all(&mut self.m, &mut self.stack);
        for state in &mut self.m.programs {
            mem::drop_bounded(std::mem::take(&mut state.globals));
            mem::drop_bounded(std::mem::take(&mut state.statics));
        }
        self.m.heap.clear();
        mem::swap(outer);
    }
}
