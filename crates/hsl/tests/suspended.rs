//! Waiting executions cost memory only, and little of it.

use hsl::{Compiler, FunctionDef, Limits, NoHost, Outcome, Registry, Shared, Step, Value, Vm};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// The system allocator with a count of what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// A global allocator cannot be written without it.
#[allow(unsafe_code)]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COUNT: usize = 2_000;
/// What one may take, bytes: 256 registers alone would be twice that.
const EACH_MAX: usize = 2_500;

#[test]
fn suspended_scripts_are_small_and_go_on() {
    let mut registry = Registry::new();
    registry.add_function(FunctionDef::full("wait(x: any)", "", |_, mut a| {
        let x = a.take(0);
        Ok(Outcome::Pending(Box::pin(async move { Ok(x) })))
    }));
    let source = "function inner($n) { $list = [$n, $n + 1]; $n = wait($n); return $n + count_of($list); }
        function count_of($list) { $n = 0; foreach ($list as $_) $n += 1; return $n; }
        function outer($n) { $text = \"number $n of many\"; $x = inner($n); return \"$text: $x\"; }
        $sum = \"\"; foreach ([1, 2] as $n) { $sum .= outer($n) . \";\"; } return $sum;";
    let compiled = Compiler::new(Arc::new(registry)).compile("hook.hsl", source.as_bytes());
    let program = compiled.unwrap_or_else(|e| panic!("{}", e[0])).program;
    let shared = Arc::new(Shared::new());
    let mut waiting = Vec::with_capacity(COUNT);
    let before = IN_USE.load(Ordering::Relaxed);
    for _ in 0..COUNT {
        let mut vm = Vm::new(Arc::clone(&program), Arc::clone(&shared), Limits::default(), Box::new(NoHost));
        let Step::Pending(future) = vm.run(1000) else { panic!("the script waits") };
        waiting.push((vm, Some(future)));
    }
    let each = (IN_USE.load(Ordering::Relaxed) - before) / COUNT;
    assert!(each < EACH_MAX, "{each} bytes per suspended script");
    for (vm, future) in &mut waiting {
        loop {
            let mut pending = future.take().expect("set when the script waits");
            let Poll::Ready(result) = pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("the future is ready")
            };
            vm.resume(result);
            match vm.run(1000) {
                Step::Pending(next) => *future = Some(next),
                Step::Done(Value::Str(text)) => {
                    assert_eq!(text.as_bytes(), b"number 1 of many: 3;number 2 of many: 4;");
                    break;
                }
                _ => panic!("the script ends with a string"),
            }
        }
    }
}
