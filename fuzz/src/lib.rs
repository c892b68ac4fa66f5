//! What the fuzz targets of the language have in common: a small library of native functions that use every way of
//! going on, files to include, tight limits, and [`check`], which compiles and runs a program under them.

pub mod generate;
pub mod library;
pub mod mail;
pub mod smtp_server;

use hsl::{
    Array, BoxFuture, CallArgs, Compiler, Error, FunctionDef, Limits, LoadError, Loader, NativeCall, Next,
    NoHost, Observer, Outcome, Reached, Registry, Shared, Step, Value, Vm,
};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

/// Longer inputs only take time.
const SOURCE_MAX: usize = 64 << 10;
/// Bounds of one run.
const MEMORY_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 60;
/// Turns of 100 jumps and calls each.
const TURNS_MAX: usize = 20;

struct Files;

impl Loader for Files {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        let text: &[u8] = match path {
            "inc" => b"$included = 1; function helper($x) { return $x; }",
            "loop" => b"include \"loop\";",
            "mod" => b"$state = 0; function bump($n = 1) { global $state; $state += $n; return $state; } class M { static $s = 1; }",
            "data.txt" => b"one\ntwo\r\n",
            _ => return Err(LoadError::NotFound),
        };
        Ok(Arc::from(text))
    }
}

static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(|| {
    let mut registry = Registry::new();
    registry.add_function(FunctionDef::pure("length(value: any)", "", |_, a| match a.get(0) {
        Value::Array(list) => Ok(list.len().into()),
        Value::Str(text) => Ok(text.len().into()),
        _ => Ok(Value::None),
    }));
    registry.add_function(FunctionDef::pure("fail(text: string)", "", |_, a| {
        Err(Error::exception(a.string(0).to_text()))
    }));
    registry.add_function(FunctionDef::full("wait(value: any)", "", |_, mut a| {
        let value = a.take(0);
        Ok(Outcome::Pending(Box::pin(async move { Ok(value) })))
    }));
    registry.add_function(FunctionDef::full("Accept(options?: array)", "", |_, mut a| {
        Ok(Outcome::End(vec![a.take(0)]))
    }));
    registry.add_function(FunctionDef::full("each(callback: function, list: array)", "", |_, mut a| {
        let mut items = a.array(1).into_values().into_iter();
        let Some(first) = items.next() else { return Ok(Outcome::Value(Array::new().into())) };
        let mut results = Vec::new();
        let then = move |_: &mut hsl::NativeCx<'_>, value: Value| {
            results.push(value);
            Ok(match items.next() {
                Some(item) => Next::Again(CallArgs::from([item])),
                None => Next::Value(Array::from_list(std::mem::take(&mut results)).into()),
            })
        };
        let args = CallArgs::from([first]);
        Ok(Outcome::Call(Box::new(NativeCall { function: a.take(0), args, then: Box::new(then) })))
    }));
    Arc::new(registry)
});

/// Suspends now and then.
#[derive(Default)]
struct Stops(u32);

impl Observer for Stops {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        self.0 += 1;
        if !self.0.is_multiple_of(16) {
            return None;
        }
        let seen = at.variables().len() + at.call_stack().len() + at.place().line as usize;
        Some(Box::pin(async move { Ok(seen.into()) }))
    }
}

/// Compiles and runs `source`. Panics on what must not happen.
pub fn check(source: &[u8]) {
    if source.len() > SOURCE_MAX {
        return;
    }
    let compiler = Compiler::new(Arc::clone(&REGISTRY))
        .loader(Arc::new(Files))
        .context_variable("ctx", true)
        .probes(source.len().is_multiple_of(4));
    let compiled = match compiler.compile("main", source) {
        Ok(compiled) => compiled,
        Err(errors) => {
            assert!(!errors.is_empty() && errors.len() <= 20, "{} errors", errors.len());
            for error in errors {
                assert!(error.place.line >= 1 && error.place.column >= 1, "{error}");
                assert!(!error.render().is_empty());
            }
            return;
        }
    };
    assert!(compiled.warnings.len() <= 20);
    let limits = Limits { memory_bytes: MEMORY_MAX, depth: DEPTH_MAX, ..Limits::default() };
    let mut vm = Vm::new(compiled.program, Arc::new(Shared::new()), limits, Box::new(NoHost));
    vm.set_variable("ctx", Value::from(5));
    vm.observe(Box::new(Stops::default()));
    for _ in 0..TURNS_MAX {
        match vm.run(100) {
            Step::OutOfFuel => {}
            Step::Pending(mut future) => {
                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => vm.resume(result),
                    // Nobody else could let it go on.
                    Poll::Pending => return,
                }
            }
            Step::Failed(error) => {
                assert!(error.diagnostic.place.line >= 1 && !error.to_string().is_empty());
                return;
            }
            Step::Done(_) | Step::Ended { .. } => return,
        }
    }
}
