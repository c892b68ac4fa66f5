//! Calls of library functions with the input as their argument.

use hsl::{Compiler, Limits, NoHost, Program, Registry, Shared, Step, Value, Vm};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(hsl_std::shared_registry);

/// An expression over `$d`, compiled once.
pub fn expression(text: &str) -> Arc<Program> {
    let compiler = Compiler::new(Arc::clone(&REGISTRY)).context_variable("d", false);
    let script = format!("try {{ return {text}; }} catch ($e) {{ return none; }}");
    // The expressions are constants of the targets.
    compiler.compile("target.hsl", script.as_bytes()).expect("a valid expression").program
}

/// Its value; `None` when a limit stopped it.
pub fn value(program: &Arc<Program>, data: Value) -> Option<Value> {
    let limits =
        Limits { timeout: Some(Duration::from_secs(5)), memory_bytes: 64 << 20, ..Limits::default() };
    let mut vm = Vm::new(Arc::clone(program), Arc::new(Shared::new()), limits, Box::new(NoHost));
    vm.set_variable("d", data);
    loop {
        match vm.run(1 << 16) {
            Step::Done(value) => return Some(value),
            Step::OutOfFuel => {}
            Step::Failed(error) => {
                assert!(error.to_string().contains("limit reached"), "{error}");
                return None;
            }
            Step::Ended { .. } | Step::Pending(_) => panic!("no expression waits or ends the script"),
        }
    }
}
