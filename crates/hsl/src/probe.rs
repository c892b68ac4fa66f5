//! Probes: places in compiled code at which an [`Observer`] of the execution is told what happens. Profiler, coverage
//! and break points are observers.
//!
//! Probes are instructions that the compiler adds only when it is asked to ([`Compiler::probes`](crate::Compiler)), so
//! programs without them pay nothing. An observer may suspend the execution by returning a future.

use crate::diag::{Place, Span};
use crate::program::Program;
use crate::registry::BoxFuture;
use crate::value::Value;
use crate::vm::{self, Frames, ProgramState};
use std::any::Any;
use std::sync::Arc;

/// What happens at a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PointKind {
    /// A script function begins; the main part of a file is one, too.
    Enter,
    /// A generator goes on.
    Resume,
    /// A statement begins, or a loop tests its condition, or a branch is taken.
    Statement,
    /// A statement with the prefix `__debug` begins: identity of the stage and of the point.
    Debug {
        /// First element of the prefix.
        stage: Arc<str>,
        /// Second element.
        point: Arc<str>,
        /// Third element: note what is there and go on.
        log: bool,
    },
    /// A script function ends. Functions that are left by an exception have no such point.
    Leave,
    /// A generator hands out a value.
    Pause,
    /// A native function is called by its name.
    Call(Arc<str>),
    /// It has returned.
    Return,
}

/// A place that is observed.
#[derive(Debug, Clone)]
pub struct Point {
    /// What happens here.
    pub kind: PointKind,
    /// Where.
    pub span: Span,
    /// The function it belongs to, see [`Program::function_name`].
    pub function: u32,
}

/// Gets to know of an execution what passes its probes.
pub trait Observer: Any + Send {
    /// Called before the code behind the point runs. A future suspends the execution until it is ready; its output is
    /// dropped, unless it is an error, which is raised in the script.
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture>;

    /// Called before an exception is raised, of programs without probes as well. A future suspends the execution until
    /// it is ready; its output is dropped.
    fn thrown(&mut self, _at: &Thrown<'_>) -> Option<BoxFuture> {
        None
    }
}

/// The state of an execution in which an exception is about to be raised.
pub struct Thrown<'a> {
    pub(crate) value: &'a Value,
    pub(crate) caught: bool,
    pub(crate) frames: &'a Frames,
    pub(crate) programs: &'a [ProgramState],
    pub(crate) stack: &'a [Value],
}

impl Thrown<'_> {
    /// What a handler gets.
    pub fn value(&self) -> &Value {
        self.value
    }

    /// Whether there is a handler.
    pub fn caught(&self) -> bool {
        self.caught
    }

    /// Active script functions, innermost first, with the places they have reached.
    pub fn call_stack(&self) -> Vec<(String, Place)> {
        vm::call_stack(self.frames, self.programs)
    }

    /// The variables in scope: those of the function first, then the global ones.
    pub fn variables(&self) -> Vec<(Arc<str>, Value)> {
        vm::variables(self.frames, self.programs, self.stack)
    }
}

/// The state of an execution at a probe.
pub struct Reached<'a> {
    pub(crate) slot: usize,
    pub(crate) index: u32,
    pub(crate) frames: &'a Frames,
    pub(crate) programs: &'a [ProgramState],
    pub(crate) stack: &'a [Value],
}

impl Reached<'_> {
    /// The program that the point belongs to.
    pub fn program(&self) -> &Arc<Program> {
        &self.programs[self.slot].program
    }

    /// Index into [`Program::points`].
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The point.
    pub fn point(&self) -> &Point {
        &self.program().points()[self.index as usize]
    }

    /// File, line and column of the point.
    pub fn place(&self) -> Place {
        self.program().sources().place(self.point().span)
    }

    /// Active calls, native functions that wait for callbacks included.
    pub fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Active script functions, innermost first, with the places they have reached.
    pub fn call_stack(&self) -> Vec<(String, Place)> {
        vm::call_stack(self.frames, self.programs)
    }

    /// The variables in scope: those of the function first, then the global ones.
    pub fn variables(&self) -> Vec<(Arc<str>, Value)> {
        vm::variables(self.frames, self.programs, self.stack)
    }
}

impl Program {
    /// The probes; empty unless the program was compiled with them.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Name of a function for people: `f`, `Class::f`, `(main)`, `(module FILE)` or `(anonymous FILE:LINE)`.
    pub fn function_name(&self, function: u32) -> String {
        let Some(proto) = self.protos.get(function as usize) else { return "?".to_owned() };
        if function == self.entry {
            return "(main)".to_owned();
        }
        if self.modules.contains(&function) {
            let file = self.sources.files.get(proto.span.file as usize);
            return format!("(module {})", file.map_or("?", |f| &f.path));
        }
        if proto.name.is_empty() {
            let place = self.sources.place(proto.span);
            return format!("(anonymous {}:{})", place.file_or_entry(), place.line);
        }
        match proto.class.and_then(|c| self.classes.get(c as usize)) {
            Some(class) => format!("{}::{}", class.name, proto.name),
            None => proto.name.to_string(),
        }
    }

    /// Where a function is declared.
    pub fn function_place(&self, function: u32) -> Place {
        let span = self.protos.get(function as usize).map_or_else(Span::default, |p| p.span);
        self.sources.place(span)
    }
}
