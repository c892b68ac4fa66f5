//! The interface to the embedding program: waiting, ending, context variables, limits, cache, barriers, dumps.

use hsl::{
    BoxFuture, Compiler, Error, FunctionDef, Host, Limits, NoHost, Outcome, Place, Registry, Shared, Step,
    Value, Vm, value,
};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

fn registry() -> Arc<Registry> {
    let mut base = Registry::new();
    base.add_function(FunctionDef::full("wait(x: any)", "", |_, mut a| {
        let x = a.take(0);
        Ok(Outcome::Pending(Box::pin(async move { Ok(x) })))
    }));
    base.add_function(FunctionDef::full("fail_later()", "", |_, _| {
        Ok(Outcome::Pending(Box::pin(async { Err(Error::exception("Lookup failed")) })))
    }));
    let base = Arc::new(base);
    let mut hook = Registry::child(&base);
    hook.add_function(FunctionDef::full("Accept(options?: array)", "", |_, mut a| {
        Ok(Outcome::End(vec![a.take(0)]))
    }));
    hook.add_function(FunctionDef::pure("add(a: number, b: number)", "", |_, a| {
        Ok((a.number(0) + a.number(1)).into())
    }));
    Arc::new(hook)
}

fn compiler() -> Compiler {
    Compiler::new(registry()).context_variable("arguments", true).context_variable("context", false)
}

fn vm(source: &str, shared: &Arc<Shared>) -> Vm {
    let program =
        compiler().compile("main.hsl", source.as_bytes()).unwrap_or_else(|e| panic!("{}", e[0])).program;
    let mut vm = Vm::new(program, Arc::clone(shared), Limits::default(), Box::new(NoHost));
    vm.set_variable("arguments", value!({ "ip" => "192.0.2.1" }));
    vm
}

fn poll(future: &mut BoxFuture) -> Option<Result<Value, Error>> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn finish(vm: &mut Vm) -> Step {
    loop {
        match vm.run(1000) {
            Step::Pending(mut future) => {
                let result = poll(&mut future).expect("nothing else runs that it could wait for");
                vm.resume(result);
            }
            Step::OutOfFuel => {}
            step => return step,
        }
    }
}

fn result(source: &str) -> String {
    match finish(&mut vm(source, &Arc::new(Shared::new()))) {
        Step::Done(v) => v.to_string_lossy(),
        Step::Failed(e) => format!("failed: {e}"),
        Step::Ended { function, args } => format!("{function} {args:?}"),
        _ => "stopped".into(),
    }
}

#[test]
fn waiting_ends_and_errors() {
    assert_eq!(result("return wait(1) + wait([2])[0];"), "3");
    assert_eq!(result("try { fail_later(); } catch ($e) { return $e->message(); }"), "Lookup failed");
    assert_eq!(result("fail_later();"), "failed: main.hsl:1:1: Lookup failed");
    assert_eq!(
        result("function f() { try { Accept([\"x\" => 1]); } catch ($e) { } } f(); return 2;"),
        r#"Accept [{Val("x"): 1}]"#
    );
    assert_eq!(result("return add(\"2\", true);"), "3");
    assert_eq!(
        result("return add([], 1);"),
        "failed: main.hsl:1:8: Function 'add' expects argument 1 ($a) to be number, array given"
    );
}

#[test]
fn context_variables() {
    let shared = Arc::new(Shared::new());
    let mut first = vm("function f() { global $context; $context[\"n\"] = 1; } f();", &shared);
    assert!(first.variable("context").is_none());
    assert!(matches!(finish(&mut first), Step::Done(_)));
    let context = first.variable("context").unwrap();
    let mut second = vm("$context[\"n\"] += 1; return $context[\"n\"] . $arguments[\"ip\"];", &shared);
    assert!(second.set_variable("context", context));
    assert!(!second.set_variable("other", Value::None));
    let Step::Done(v) = finish(&mut second) else { panic!("failed") };
    assert_eq!(v.to_string_lossy(), "2192.0.2.1");
    for source in
        ["$arguments = 1;", "$arguments[\"x\"] = 1;", "unset($arguments[\"ip\"]);", "$arguments[] += 1;"]
    {
        let errors = compiler().compile("m", source.as_bytes()).unwrap_err();
        assert_eq!(errors[0].message, "Variable '$arguments' is read-only", "{source}");
    }
}

#[test]
fn objects_survive_their_execution() {
    let shared = Arc::new(Shared::new());
    let mut first = vm("class C { $n = 4; function get() { return $this->n; } } $context = C();", &shared);
    assert!(matches!(finish(&mut first), Step::Done(_)));
    let object = first.variable("context").unwrap();
    let mut second = vm("return $context->get() + 1;", &shared);
    second.set_variable("context", object.clone());
    assert!(matches!(finish(&mut second), Step::Done(v) if v.as_number() == Some(5.0)));
}

#[test]
fn limits() {
    let run = |source: &str, limits: Limits| {
        let program = compiler().compile("m", source.as_bytes()).unwrap().program;
        let mut vm = Vm::new(program, Arc::new(Shared::new()), limits, Box::new(NoHost));
        match finish(&mut vm) {
            Step::Failed(e) => e.diagnostic.message,
            Step::Done(v) => v.to_string_lossy(),
            _ => "stopped".into(),
        }
    };
    let small = || Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let memory = "Memory limit reached";
    assert_eq!(run("$s = \"x\"; forever { try { $s .= $s; } catch ($e) { } }", small()), memory);
    assert_eq!(run("$a = []; forever { $a[] = \"some string that is not short\"; }", small()), memory);
    assert_eq!(run("$a = [1]; forever { $a = [$a, $a]; $s = \"$a\"; }", small()), memory);
    assert_eq!(run("$a = [1]; forever { $a += $a; }", small()), memory);
    assert_eq!(run("$a = [1]; forever { $a = [...$a, ...$a]; }", small()), memory);
    assert_eq!(run("return \"x\" * 100000000;", small()), memory);
    let time = Limits { timeout: Some(Duration::from_millis(20)), ..Limits::default() };
    assert_eq!(run("forever { try { $x = 1; } catch ($e) { } }", time), "Time limit reached");
    let depth = Limits { depth: 100, ..Limits::default() };
    assert_eq!(
        run(
            "function f($n) { try { return f($n + 1); } catch ($e) { return $n; } } return f(0);",
            depth.clone()
        ),
        "98"
    );
    assert_eq!(run("function f() { return f(); } f();", depth), "Recursion limit reached");
}

#[test]
fn memory_balance_returns_to_zero() {
    // Garbage in cycles is freed with the execution, and freed strings do not count.
    let source = "for ($i = 0; $i < 20000; $i++) { $s = \"a string of some length $i\"; $a = [$s, [$s]]; }
        class N { } $n = N(); $n->self = $n; $f = function () closure ($f) { return $f; }; return 1;";
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let program = compiler().compile("m", source.as_bytes()).unwrap().program;
    let mut vm = Vm::new(program, Arc::new(Shared::new()), limits, Box::new(NoHost));
    assert!(matches!(finish(&mut vm), Step::Done(_)));
}

#[test]
fn cache_is_filled_once_and_barriers_exclude() {
    let shared = Arc::new(Shared::new());
    let mut a = vm("function f($x) { return wait($x); } return cache [] f(7);", &shared);
    let Step::Pending(mut first) = a.run(1000) else { panic!("the function waits") };
    let mut b = vm("function f($x) { return wait($x); } return cache [] f(7);", &shared);
    let Step::Pending(mut second) = b.run(1000) else { panic!("the other execution fills the entry") };
    assert!(poll(&mut second).is_none());
    a.resume(poll(&mut first).unwrap());
    assert!(matches!(a.run(1000), Step::Done(v) if v.as_number() == Some(7.0)));
    b.resume(poll(&mut second).unwrap());
    assert!(matches!(b.run(1000), Step::Done(v) if v.as_number() == Some(7.0)));
    assert_eq!(shared.cache_list()[0].misses, 1);
    assert_eq!(shared.cache_clear(None), 1);

    let mut a = vm("barrier \"n\" => $v { $v = 1; wait(0); $v = 2; }", &shared);
    let Step::Pending(_) = a.run(1000) else { panic!("it waits inside") };
    let mut b = vm("barrier \"n\" => $v { return isset($v) ? $v : \"unset\"; }", &shared);
    let Step::Pending(mut outside) = b.run(1000) else { panic!("the barrier is closed") };
    assert!(poll(&mut outside).is_none());
    // Killing the execution inside releases the barrier; the value stays as it was.
    drop(a);
    b.resume(poll(&mut outside).unwrap());
    assert!(matches!(b.run(1000), Step::Done(v) if v.to_string_lossy() == "unset"));
}

#[test]
fn promises_of_the_compiler() {
    let dump = |source: &str| compiler().compile("m", source.as_bytes()).unwrap().program.dump();
    // Constant folding, and errors that stay at run time.
    assert!(dump("return 3600 * 24;").contains("Int { dst: 0, n: 86400 }"));
    assert!(dump("return \"a\" . \"b\" . 1;").contains("\"ab1\""));
    assert!(dump("return \"%s-%s\" % [1, 2];").contains("\"1-2\""));
    assert!(dump("return \"abcdef\"[1:3];").contains("\"bc\""));
    assert!(dump("return 1 / 0;").contains("Div"));
    // Code patterns.
    assert!(!dump("while (true) { break; }").contains("JumpIf"));
    assert!(dump("$s = \"\"; $s = $s . \"x\";").contains("Append"));
    for source in [
        "$s = \"\"; function f($y) { global $s; $s = $s . \"x\" . $y; }",
        "$s = \"\"; $f = function ($y) closure ($s) { $s = $s . $y; };",
    ] {
        assert!(dump(source).contains("Augment(Concat)"), "{source}");
    }
    assert!(dump("$n = 1; function f() { global $n; $n = $n + 1; }").contains("Augment(Add)"));
    assert!(!dump("$n = 1; function f() { global $n; $n = $n + f(); }").contains("Augment"));
    assert!(dump("$n = 1; $n = $n + 1; return $n;").contains("AddInt { dst: 0, a: 0, n: 1 }"));
    assert!(!dump("for (;;) { break; }").contains("JumpIf"));
    assert!(!dump("$a = 1; if (not $a) { return 2; }").contains("Not "));
    assert!(dump("$a = 1; return match ($a) { 1 => 1, 2 => 2, 3 => 3, 4 => 4 };").contains("Switch"));
    // Jumps to jumps go to the end of the chain.
    let threaded = dump("$a = 1; while ($a) { if ($a) { $a = 0; } else { $a = 2; } }");
    let jumps: Vec<usize> = threaded
        .lines()
        .filter_map(|line| line.split("to: ").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    for to in jumps {
        let line = threaded.lines().find(|l| l.trim_start().starts_with(&format!("{to} "))).unwrap();
        assert!(!line.contains(" Jump {"), "{threaded}");
    }
    // Literals and patterns exist once.
    assert_eq!(
        dump("$a = \"same text\"; $b = \"same text\"; return $a . $b;").matches("Const { dst").count(),
        2
    );
    let consts = dump("$a = \"same text\"; $b = \"same text\"; return $a . $b;");
    assert!(consts.matches("k: 0 }").count() == 2, "{consts}");
    assert!(dump("$a = 1; $b = 2; return !($a == $b);").contains("op: Ne"));
    assert!(dump("$a = 1; switch ($a) { case 1: case 2: case 3: case 4: return 1; }").contains("Switch"));
    // Dead code, with the functions in it still registered.
    assert!(!dump("return 1; echo \"never\";").contains("never"));
    assert!(!dump("if (false) { echo \"never\"; } else { echo \"live\"; }").contains("never"));
    assert_eq!(result("if (false) { function f() { return 5; } } return f();"), "5");
    // One allocation for a concatenation.
    assert_eq!(dump("$b = 1; return \"a\" . $b . \"c\" . $b;").matches("Concat").count(), 1);
}

#[test]
fn caches_age_and_stay_small() {
    let now = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let clock = Arc::clone(&now);
    let shared = Arc::new(Shared::with_clock(Arc::new(move || {
        clock.load(std::sync::atomic::Ordering::Relaxed) as f64
    })));
    let run = |source: &str| match finish(&mut vm(source, &shared)) {
        Step::Done(v) => v.to_string_lossy(),
        Step::Failed(e) => e.to_string(),
        _ => panic!("stopped"),
    };
    let at = |s: u64| now.store(s, std::sync::atomic::Ordering::Relaxed);
    let f = "function f($x) { return $x + 1; } ";
    let fixed = |x: u32| format!("{f} return cache [\"size\" => 1, \"lru\" => false, \"ttl\" => 10] f({x});");
    for x in [1, 1, 2, 2] {
        run(&fixed(x));
    }
    // The second value found the cache full.
    assert_eq!((shared.cache_list()[0].hits, shared.cache_list()[0].misses), (1, 3));
    at(9);
    run(&fixed(1));
    at(11);
    // Full of what is out of date is not full; and an old value is given to the update function.
    run(&fixed(2));
    run(&fixed(2));
    assert_eq!((shared.cache_list()[0].hits, shared.cache_list()[0].misses), (3, 4));
    at(30);
    let update = "function u($old, $new) { return $old + $new; } ";
    let updated =
        format!("{f}{update} return cache [\"size\" => 1, \"lru\" => false, \"update_function\" => u] f(2);");
    assert_eq!(run(&updated), "6");
    // Namespaces without end do not fill the memory.
    let many = format!("{f} for ($i = 0; $i < 25000; $i++) cache [\"namespace\" => \"n$i\"] f(1); return 1;");
    assert_eq!(run(&many), "1");
    assert!(shared.cache_list().len() <= 10_000, "{}", shared.cache_list().len());
}

#[test]
fn a_cache_can_belong_to_a_message() {
    struct Message(&'static str);
    impl Host for Message {
        fn echo(&mut self, _: &[u8], _: &Place) {}
        fn message_id(&self) -> Option<&str> {
            Some(self.0)
        }
    }
    let shared = Arc::new(Shared::new());
    let source = "function f() { return 1; } return cache [\"per_message\" => true] f();";
    let program = compiler().compile("m", source.as_bytes()).unwrap().program;
    for id in ["a", "b", "a"] {
        let host = Box::new(Message(id));
        let mut vm = Vm::new(Arc::clone(&program), Arc::clone(&shared), Limits::default(), host);
        assert!(matches!(finish(&mut vm), Step::Done(_)));
    }
    let mut list = shared.cache_list();
    list.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    let found: Vec<_> = list.iter().map(|b| (&*b.namespace, b.hits, b.misses)).collect();
    assert_eq!(found, [("a", 1, 1), ("b", 0, 1)]);
    assert_eq!(shared.cache_clear(Some(b"a")), 1);
}

#[test]
fn arrays_and_objects_as_keys() {
    // Equal arrays find the same element, also when zeros differ in sign; unlike ones do not slow each other down.
    assert_eq!(result("$a[[0, \"x\", [1]]] = 5; return $a[[-0, \"x\", [1]]];"), "5");
    let begun = std::time::Instant::now();
    let source = "class C { } $a = []; for ($i = 0; $i < 20000; $i++) { $a[[$i, 1]] = $i; $a[C()] = $i; } return $a[[7, 1]];";
    assert_eq!(result(source), "7");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn huge_constants_are_left_to_run_time() {
    // The compiler must not make what only a limit of the execution keeps from being made.
    for source in [
        "return ~(\"x\" * 0x7fffffff) + 1;",
        "return [1] * 1000000000;",
        "return \"%1000000s\" * 2000 % [1];",
        "return (([1] * 60000) * 60000)[0];",
    ] {
        let begun = std::time::Instant::now();
        assert!(compiler().compile("m", source.as_bytes()).is_ok(), "{source}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{source}");
        assert!(result(source).starts_with("failed: "), "{source}");
    }
}

#[test]
fn warnings() {
    let warnings = |source: &str| -> Vec<String> {
        let compiled = compiler().compile("m", source.as_bytes()).unwrap();
        compiled.warnings.into_iter().map(|w| w.message).collect()
    };
    for (source, expected) in [
        ("return 1; echo 2;", "Unreachable code"),
        ("$host = 1; echo $host . $hst;", "Variable '$hst' is never assigned; did you mean '$host'?"),
        (
            "$a = 1; if ($a == true) echo 1;",
            "Comparison with a boolean by '=='; use the value itself or '==='",
        ),
        ("$a = 1; switch ($a) { case 1: case 1: echo 1; }", "Duplicate constant '1'"),
        ("$a = 1; echo match ($a) { 1, 1 => 2, default => 3 };", "Duplicate constant '1'"),
        ("$a = 1; echo $a / \"x\";", "Operator '/' cannot work on string"),
        ("$a = [1]; echo $a * none;", "Operator '*' cannot work on none"),
        ("$a = 1; echo $a % \"x\";", "Operator '%' cannot work on string"),
        ("$a = 1; echo \"x\" - $a;", "Operator '-' cannot work on string"),
        ("$a = 1; echo $a . none;", "Operator '.' cannot work on none"),
        ("echo -\"x\";", "Operator '-' cannot work on string"),
        ("echo 5[0];", "Subscript cannot work on number"),
        ("echo 1 / 0;", "This always fails: Division by zero"),
        ("echo 1 + \"a\";", "This always fails: Unsupported operand types for +: number and string"),
        ("$a = add(1, 2);", "Variable '$a' is assigned but never used"),
        ("$n = 0; for ($i = 0; $i < 3; $i++) $n += 1;", "Variable '$n' is assigned but never used"),
        ("function f() { $x = 1; return 2; } f();", "Variable '$x' is assigned but never used"),
        (
            "function f($x) { return 2; } f(1);",
            "Parameter '$x' is never used; name it '$_x' if that is meant",
        ),
        ("function add($a, $b) { return $a - $b; } add(1, 2);", "'add' shadows the one of the library"),
        (
            "function f() { function g() {} g(); } function g() { f(); } g();",
            "'g' shadows the one of an outer scope",
        ),
        (
            "foreach ([1] as $i) { foreach ([2] as $i) echo $i; }",
            "Loop variable '$i' shadows that of the loop around it",
        ),
        (
            "for ($i = 0; $i < 2; $i++) foreach ([2] as $i) echo $i;",
            "Loop variable '$i' shadows that of the loop around it",
        ),
        ("try { return 1; } catch ($e) { return 2; } echo 3;", "Unreachable code"),
        ("$f = function () { return 1; echo 2; }; $f();", "Unreachable code"),
        ("echo [\"a\" => 1, \"a\" => 2];", "Duplicate key 'a'"),
        ("if (false) { echo 1 . none; }", "Unreachable code"),
        ("if (true) echo 1; else { return 2; echo 3; }", "Unreachable code"),
        ("return; echo 1; echo 2;", "Unreachable code"),
    ] {
        assert_eq!(warnings(source), [expected], "{source}");
    }
    let assigned = "Assignment in a condition; write '==' to compare, or put parentheses around it";
    for source in [
        "if ($a = 1) echo $a;",
        "while ($a = add(1, 2)) echo $a;",
        "for (; $a = add(1, 2);) echo $a;",
        "if (not ($context and $a = 1)) echo $a;",
    ] {
        assert_eq!(warnings(source), [assigned], "{source}");
    }
    for source in [
        "if (($a = 1)) echo $a;",
        "while (($a = add(1, 2)) != 3) echo $a;",
        // Used elsewhere, or in ways that the compiler does not follow.
        "$context = 1;",
        "$a = 1; function f() { global $a; return $a; } f();",
        "$a = 1; $f = function () closure ($a) { return $a; }; $f();",
        "$a = []; $a[] = 1;",
        "foreach ([1] as $k => $v) { $context[] = 1; }",
        "[$a, $b] = [1, 2];",
        "try { add(1, 2); } catch ($e) { }",
        "$_ = add(1, 2); function f($_x) { } f(1);",
        "$f = function ($x) { return 1; }; $f(1); class C { function m($x) { } } C()->m(1);",
        "$a = 1; isset($a);",
        "$a = 1; unset($a);",
        "foreach ([1] as $i) echo $i; foreach ([2] as $i) echo $i;",
        "$s = \"x\"; echo $s + 1; echo [1] - \"x\";",
    ] {
        assert!(warnings(source).is_empty(), "{source}: {:?}", warnings(source));
    }
    let fragment = compiler().fragment(true).compile("m", b"$a = 1; echo $b;").unwrap();
    assert!(fragment.warnings.is_empty());
}

#[test]
fn errors_are_collected_and_suggest() {
    let errors = compiler().compile("m.hsl", b"echo ad(1, 2);\necho add(1);\necho 1 +;\n").unwrap_err();
    assert_eq!(errors[0].to_string(), "m.hsl:3:9: Expected an expression, found ';'");
    assert!(errors[0].render().ends_with("\n  | echo 1 +;\n  |         ^"));
    let errors = compiler().compile("m.hsl", b"echo ad(1, 2);\necho add(1);\n").unwrap_err();
    let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        list,
        [
            "m.hsl:1:6: Unknown function 'ad'; did you mean 'add'?",
            "m.hsl:2:6: Function 'add' expects 2 arguments, 1 given"
        ]
    );
    for (source, expected) in [
        ("class Cat { static $purr = 1; } Cta::$purr;", "Unknown class 'Cta'; did you mean 'Cat'?"),
        (
            "class Cat { static $purr = 1; } Cat::$pur;",
            "Class 'Cat' has no static member '$pur'; did you mean '$purr'?",
        ),
        (
            "class Cat { static function purr() {} } Cat::pur();",
            "Class 'Cat' has no static function 'pur'; did you mean 'purr'?",
        ),
        ("class Cat { function purr() {} } Cat::purr();", "Function 'purr' of class 'Cat' needs an instance"),
        ("function f() {} cache [\"tll\" => 1] f();", "Unknown cache option 'tll'; did you mean 'ttl'?"),
        ("function addd() { return builtin addd(); }", "Unknown function 'addd'; did you mean 'add'?"),
        ("function zapp() { return builtin zapp(); }", "Unknown function 'zapp'"),
        ("function f() {} cache [1] f();", "A cache option needs a name: [\"ttl\" => 60]"),
        ("if (1) {\n\necho 1;", "Expected '}', found the end of the file; the block begins on line 1"),
    ] {
        let errors = compiler().compile("m.hsl", source.as_bytes()).unwrap_err();
        assert_eq!(errors[0].message, expected, "{source}");
    }
    // One wrong statement does not hide the next, and there is an end.
    let many: String = (0..30).map(|i| format!("$a = {i} +;\nif (1) {{ nosuch{i}( }}\n")).collect();
    let errors = compiler().compile("m.hsl", many.as_bytes()).unwrap_err();
    assert_eq!(errors.len(), 20);
    assert!(errors.windows(2).all(|w| w[0].place.line < w[1].place.line));
    for (source, expected) in [
        ("$total = 1; return $totl;", "Undefined variable $totl; did you mean '$total'?"),
        (
            "class C { function put() {} } C()->putt();",
            "Class 'C' has no function 'putt'; did you mean 'put'?",
        ),
    ] {
        assert!(result(source).ends_with(expected), "{}", result(source));
    }
}

#[test]
fn echo_has_a_place() {
    struct Lines(Vec<String>);
    impl Host for Lines {
        fn echo(&mut self, text: &[u8], place: &Place) {
            self.0.push(format!("{place}: {}", String::from_utf8_lossy(text)));
        }
    }
    let program = compiler().compile("m", b"\n  echo [1];").unwrap().program;
    let mut vm = Vm::new(program, Arc::new(Shared::new()), Limits::default(), Box::new(Lines(Vec::new())));
    vm.run(100);
    assert_eq!(vm.host::<Lines>().unwrap().0, ["m:2:8: [0=>1]"]);
}

#[test]
fn a_program_tells_which_context_variables_it_uses() {
    struct Files;
    impl hsl::Loader for Files {
        fn load(&self, path: &str) -> Result<Arc<[u8]>, hsl::LoadError> {
            match path {
                "part" => Ok(Arc::from(&b"$seen = $arguments[\"ip\"];"[..])),
                // A module has variables of its own.
                "module" => Ok(Arc::from(
                    &b"$arguments = 1; function of() { global $arguments; return $arguments; }"[..],
                )),
                _ => Err(hsl::LoadError::NotFound),
            }
        }
    }
    let used = |source: &str, probes: bool| {
        let compiled = compiler().loader(Arc::new(Files)).probes(probes).compile("main", source.as_bytes());
        let program = compiled.unwrap_or_else(|e| panic!("{source}: {}", e[0])).program;
        assert!(!program.uses_variable("nobody"));
        (program.uses_variable("arguments"), program.uses_variable("context"))
    };
    for source in [
        "",
        "Accept();",
        "$x = 1; function f($arguments) { return $arguments; } f($x);",
        "class C { function m() { $context = 1; return $context; } } C()->m();",
        "import { of } from \"module\"; of();",
        "echo \"context\" + \"arguments\";",
    ] {
        assert_eq!(used(source, false), (false, false), "{source}");
        assert_eq!(used(source, true), (true, true), "{source}");
    }
    for source in [
        "echo $arguments;",
        "include \"part\";",
        "function f() { global $arguments; return $arguments; } f();",
        "class C { static function m() { global $arguments; return $arguments; } } C::m();",
        "$f = function () closure ($arguments) { return $arguments; }; $f();",
        "$f = function () { return function () closure () { global $arguments; return $arguments; }; }; $f()();",
        "isset($arguments[\"ip\"]);",
        "echo \"$arguments\";",
        "foreach ($arguments as $k => $v) { echo $k + $v; }",
        "function g() { global $arguments; foreach ($arguments as $v) { yield $v; } } foreach (g() as $v) { echo $v; }",
        "function h() { global $arguments; return $arguments ?? 1; } cache [] h();",
    ] {
        assert_eq!(used(source, false), (true, false), "{source}");
    }
    for source in [
        "$context = 1;",
        "$context += 1;",
        "$context[] = 1;",
        "$context[\"a\"][\"b\"] = 1;",
        "$context[\"a\"]++;",
        "unset($context);",
        "unset($context[\"a\"]);",
        "[$context, $b] = [1, 2];",
        "foreach ([1] as $context) {}",
        "function f() { global $context; $context[\"x\"] = 1; } f();",
        "try { add(1, 2); } catch ($context) { }",
        "$context ??= 5;",
    ] {
        assert_eq!(used(source, false), (false, true), "{source}");
    }
}
