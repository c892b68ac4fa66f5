//! Statements of the language description in tables, for what needs no library: what a program returns, or the message
//! it fails with.

use hsl::{Compiler, Limits, NoHost, Registry, Shared, Step, Vm};
use std::sync::Arc;

fn run(source: &str) -> String {
    let program = match Compiler::new(Arc::new(Registry::new())).compile("m", source.as_bytes()) {
        Ok(compiled) => compiled.program,
        Err(errors) => return errors[0].to_string(),
    };
    let mut vm = Vm::new(program, Arc::new(Shared::new()), Limits::default(), Box::new(NoHost));
    loop {
        match vm.run(1000) {
            Step::OutOfFuel => {}
            Step::Done(value) => return value.to_string_lossy(),
            Step::Failed(error) => return error.to_string(),
            Step::Pending(_) | Step::Ended { .. } => return "stopped".into(),
        }
    }
}

fn table(rows: &[(&str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .map(|(source, expected)| (source, expected, run(source)))
        .filter(|(_, expected, found)| *found != **expected)
        .map(|(source, expected, found)| format!("{source}\n   found: {found}\nexpected: {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An unknown name, a wrong argument count or a stray `break` is an error wherever it stands (sections 8 and 9).
#[test]
fn code_that_never_runs_is_checked() {
    const UNKNOWN: &str = "m:1:1: Unknown function 'no'";
    for source in [
        "if (false) { no(); }",
        "if (true) { } else no();",
        "if (true) { } else if (no()) { }",
        "if (false and no()) { }",
        "while (false) no();",
        "while (true or no()) break;",
        "for (; false; no()) { }",
        "for (; false;) no();",
        "return; no();",
        "function f() { return 1; no(); }",
        "forever { break; no(); }",
        "return 1 or no();",
        "return [1, false and no()];",
        "return true ? 1 : no();",
        "return 1 + (0 ? no() : 2);",
        "return 1 ?: no();",
        "if (false) { function f() { no(); } }",
        "if (false) { $f = function () { no(); }; }",
    ] {
        let found = run(source);
        let at = source.find("no(").unwrap_or_default() + 1;
        assert_eq!(found, UNKNOWN.replace("1:1", &format!("1:{at}")), "{source}");
    }
    table(&[
        ("function f($a) { } if (false) f();", "m:1:31: Function 'f' expects 1 argument, 0 given"),
        ("function f() { return; break; }", "m:1:24: 'break' needs a loop or switch around it"),
        ("if (false) $x = #/(/;", "m:1:17: Invalid pattern at offset 1: missing closing parenthesis"),
    ]);
}

/// What never runs leaves nothing behind.
#[test]
fn code_that_never_runs_has_no_effect() {
    table(&[
        ("$n = 0; forever { if (++$n > 2) break; continue; break; } return $n;", "3"),
        ("$n = 0; while ($n < 5) { $n++; if (false) { break; continue; } } return $n;", "5"),
        ("function f() { if (false) { global $a; } $a = 2; return $a; } $a = 1; f(); return $a;", "1"),
        ("function f() { if (false) $a = 2; global $a; return $a; } $a = 1; return f();", "1"),
        ("switch (1) { case 1: $r = 5; break; $r = 6; break; case 2: $r = 7; } return $r;", "5"),
        (
            "function f($x) { switch ($x) { case 1: return 1; break; default: return 2; } } return f(1) . f(3);",
            "12",
        ),
        ("try { throw 1; $x = [1, 2 => 3]; } catch ($e) { return $e; return 9; }", "1"),
        ("if (false) { try { return 1; } catch ($e) { } } return 2;", "2"),
        ("foreach ([1, 2] as $v) { continue; foreach ([3] as $w) { break; } } return $v;", "2"),
        ("return isset($x) ? 1 : (false ? ($x = 5) : 2);", "2"),
        ("if (false) { function f() { return 4; } class C { static $s = 3; } } return f() . C::$s;", "43"),
        ("$f = function ($v) { return true or $v; }; return $f(0);", "true"),
    ]);
}

/// Section 6: `op=` works on every assignable form; `isset` and `??` do not raise for a missing part.
#[test]
fn assignable_forms() {
    table(&[
        ("$a = [1, 2, 3]; $a[0:2] += [9]; return $a;", "[0=>1,1=>2,2=>9,3=>3]"),
        (
            "$a = [1, 2, 3]; $r = ($a[1:] *= 2); return [$a, $r];",
            "[0=>[0=>1,1=>2,2=>3,3=>2,4=>3],1=>[0=>2,1=>3,2=>2,3=>3]]",
        ),
        ("$a = [\"k\" => [1, 2]]; $a[\"k\"][0:1] -= 1; return $a;", "[\"k\"=>[0=>2]]"),
        ("$a = [1]; $a[0:1] .= \"x\";", "m:1:19: A slice can only be replaced by an array, string given"),
        ("$a = [1]; $a[0:1]++;", "m:1:18: Cannot increment array"),
        (
            "class A { static $s; } return [isset(A::$s), isset(A::$t), A::$t ?? 5];",
            "[0=>true,1=>false,2=>5]",
        ),
    ]);
}

/// Section 4.9: the array form is nested, in keys as well.
#[test]
fn arrays_as_keys_in_the_string_form() {
    table(&[
        ("return [[1] => 2];", "[[0=>1]=>2]"),
        ("return [[] => [], [[1, [2]], \"a\"] => [3]];", "[[]=>[],[0=>[0=>1,1=>[0=>2]],1=>\"a\"]=>[0=>3]]"),
        ("$a = []; for ($i = 0; $i < 20000; $i++) $a = [$a => 1]; return $a == [] ? 0 : 1;", "1"),
    ]);
}

/// Section 13: the options are an array in either form; `static` stands for the class.
#[test]
fn cache_forms() {
    table(&[
        (
            "$n = 0; function f() { global $n; return ++$n; } cache array(\"ttl\" => 5) f(); return cache [] f();",
            "1",
        ),
        (
            "class A { static $n = 0; static function f() { return ++A::$n; } static function g() { return cache [] static::f(); } } cache [] A::f(); return A::g();",
            "1",
        ),
    ]);
}
