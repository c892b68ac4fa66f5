//! Observers: what they see, in which order, and how they stop an execution.

use hsl::{
    BoxFuture, Compiler, Error, FunctionDef, Limits, NoHost, Observer, PointKind, Program, Reached, Registry,
    Shared, Step, Value, Vm,
};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

fn compile(source: &str) -> Arc<Program> {
    let mut registry = Registry::new();
    registry.add_function(FunctionDef::pure("twice(n: number)", "", |_, a| Ok((a.number(0) * 2.0).into())));
    let compiler = Compiler::new(Arc::new(registry)).probes(true);
    compiler.compile("m", source.as_bytes()).unwrap_or_else(|e| panic!("{}", e[0])).program
}

fn start(program: &Arc<Program>, observer: impl Observer) -> Vm {
    let shared = Arc::new(Shared::new());
    let mut vm = Vm::new(Arc::clone(program), shared, Limits::default(), Box::new(NoHost));
    vm.observe(Box::new(observer));
    vm
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Observer for Log {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        let what = match &at.point().kind {
            PointKind::Enter => format!("enter {}", at.program().function_name(at.point().function)),
            PointKind::Statement => format!("{}", at.place().line),
            PointKind::Leave => "leave".to_owned(),
            PointKind::Pause => "pause".to_owned(),
            PointKind::Resume => "resume".to_owned(),
            PointKind::Call(name) => format!("call {name}"),
            PointKind::Return => "return".to_owned(),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(format!("{} {what}", at.depth()));
        None
    }
}

fn log(source: &str) -> String {
    let log = Log::default();
    let mut vm = start(&compile(source), log.clone());
    while let Step::OutOfFuel = vm.run(10) {}
    let lines = log.0.lock().unwrap();
    lines.join(", ")
}

#[test]
fn points_are_passed_in_order() {
    for (source, expected) in [
        ("$a = 1;\n$b = 2;", "1 enter (main), 1 1, 1 2, 1 leave"),
        (
            "function f($n) {\n return twice($n);\n}\nf(1);",
            "1 enter (main), 1 4, 2 enter f, 2 2, 2 call twice, 2 return, 2 leave, 1 leave",
        ),
        (
            "$n = 1; if ($n == 0)\n $a = 1;\nelse if ($n == 1)\n $a = 2;",
            "1 enter (main), 1 1, 1 1, 1 3, 1 4, 1 leave",
        ),
        ("$i = 0;\nwhile ($i < 2)\n $i++;", "1 enter (main), 1 1, 1 2, 1 3, 1 2, 1 3, 1 2, 1 leave"),
        ("for ($i = 0; $i < 1; $i++)\n $a = 1;", "1 enter (main), 1 1, 1 1, 1 2, 1 1, 1 leave"),
        ("foreach ([1] as $v)\n $a = $v;", "1 enter (main), 1 1, 1 1, 1 2, 1 1, 1 leave"),
        ("$a = match (2) {\n 1 => 1,\n default => 2 };", "1 enter (main), 1 1, 1 3, 1 leave"),
        ("while (true) {\n break;\n}", "1 enter (main), 1 1, 1 2, 1 leave"),
        (
            "function g() {\n yield 1;\n}\nforeach (g() as $v)\n $a = $v;",
            "1 enter (main), 1 4, 1 4, 2 enter g, 2 2, 2 pause, 1 5, 1 4, 2 resume, 2 leave, 1 leave",
        ),
        (
            "class C {\n constructor() { $this->n = 1; }\n function get() { return $this->n; } }\nC()->get();",
            "1 enter (main), 1 4, 2 enter C::constructor, 2 2, 2 leave, 2 enter C::get, 2 3, 2 leave, 1 leave",
        ),
        (
            "function f() { throw 1; }\ntry {\n f();\n} catch ($e) {\n $a = $e; }",
            "1 enter (main), 1 2, 1 3, 2 enter f, 2 1, 1 5, 1 leave",
        ),
        (
            "$f = function ($x) {\n return $x; };\n$f(1);",
            "1 enter (main), 1 1, 1 3, 2 enter (anonymous m:1), 2 2, 2 leave, 1 leave",
        ),
        (
            "__debug [\"s\", \"p\"] $a = 1;",
            "1 enter (main), 1 Debug { stage: \"s\", point: \"p\", log: false }, 1 1, 1 leave",
        ),
        (
            "__debug [\"s\", \"p\", true] if (1 == 1) { __debug [\"s\", \"q\"] return; }",
            "1 enter (main), 1 Debug { stage: \"s\", point: \"p\", log: true }, 1 1, \
             1 Debug { stage: \"s\", point: \"q\", log: false }, 1 1, 1 leave",
        ),
    ] {
        assert_eq!(log(source), expected, "{source}");
    }
}

#[test]
fn programs_without_probes_have_none() {
    let source = b"__debug [\"s\", \"p\"] $a = 1; foreach ([1] as $b) { $a += $b; } return $a;";
    let program = Compiler::new(Arc::new(Registry::new())).compile("m", source).unwrap().program;
    assert!(program.points().is_empty());
    assert!(!program.dump().contains("Probe"));
    let mut vm = start(&program, Log::default());
    assert!(matches!(vm.run(100), Step::Done(Value::Number(2.0))));
    for wrong in ["__debug [] $a = 1;", "__debug [\"s\"] $a = 1;", "__debug [\"s\", 1] $a = 1;"] {
        let compiler = Compiler::new(Arc::new(Registry::new()));
        assert!(compiler.compile("m", wrong.as_bytes()).is_err(), "{wrong}");
    }
}

/// Stops at every break point and notes the variables there.
#[derive(Clone, Default)]
struct Stops(Arc<Mutex<Vec<String>>>);

impl Observer for Stops {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        let PointKind::Debug { point, .. } = &at.point().kind else { return None };
        let variables: Vec<String> = at
            .variables()
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_string_lossy()))
            .collect();
        let stack: Vec<String> = at.call_stack().iter().map(|(f, p)| format!("{f} {}", p.line)).collect();
        self.0.lock().unwrap().push(format!("{point}: {} | {}", variables.join(" "), stack.join(", ")));
        let end = &**point == "end";
        Some(Box::pin(async move { if end { Err(Error::fatal("Stopped")) } else { Ok(Value::from(7)) } }))
    }
}

#[test]
fn observers_suspend_and_end() {
    let source = "$text = \"x\";\nfunction f($n) {\n $m = $n + 1;\n __debug [\"s\", \"one\"] $m += 1;\n return $m;\n}\n\
        $r = f(1);\n__debug [\"s\", \"end\"] $r = 0;";
    let stops = Stops::default();
    let mut vm = start(&compile(source), stops.clone());
    let mut waits = 0;
    let message = loop {
        match vm.run(100) {
            Step::Pending(mut future) => {
                waits += 1;
                let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                else {
                    panic!("it is ready")
                };
                vm.resume(result);
            }
            Step::Failed(error) => break error.to_string(),
            _ => panic!("the observer ends it"),
        }
    };
    assert_eq!((waits, &*message), (2, "m:8:1: Stopped"));
    assert_eq!(*stops.0.lock().unwrap(), ["one: n=1 m=2 | f 4, (main) 7", "end: text=x r=3 | (main) 8"]);
}
