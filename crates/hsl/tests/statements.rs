//! Statements of the language description in tables, for what needs no library: what a program returns, or the message
//! it fails with.

use hsl::{Compiler, Limits, LoadError, Loader, NoHost, Registry, Shared, Step, Vm};
use std::sync::Arc;

fn run(source: &str) -> String {
    let program = match Compiler::new(Arc::new(Registry::new()))
        .loader(Arc::new(Files))
        .compile("m", source.as_bytes())
    {
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
        "return 1 ?? no();",
        "return (2 ?? no()) + 1;",
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

/// Sections 9.2 and 10: a regex literal is a constant like other literals.
#[test]
fn regex_literals_are_constants() {
    table(&[
        (
            "function f($x, $r = #/^a/i) { return $x =~ $r; } return [f(\"Ab\"), f(\"ba\")];",
            "[0=>true,1=>false]",
        ),
        (
            "class A { static $list = [#/x/, #/y/u]; $r = #/z/; } return [\"y\" =~ A::$list[1], \"z\" =~ A()->r, A::$list];",
            "[0=>true,1=>true,2=>[0=>#/x/,1=>#/y/u]]",
        ),
        (
            "return [#/a/ === #/a/, #/a/ ? 1 : 2, \"a\" =~ (#/a/), #/a/ . \"b\"];",
            "[0=>false,1=>1,2=>true,3=>\"#/a/b\"]",
        ),
        (
            "$a = [#/x/ => 1]; $r = [#/a/, \"k\" => #/b/m]; return [$a, $r, \"b\" =~ $r[\"k\"]];",
            "[0=>[#/x/=>1],1=>[0=>#/a/,\"k\"=>#/b/m],2=>true]",
        ),
        (
            "try { return #/a/ + 1; } catch ($e) { return $e->message(); }",
            "Unsupported operand types for +: object and number",
        ),
    ]);
}

/// `??` between constants is one.
#[test]
fn coalescing_constants() {
    table(&[
        (
            "function f($x = none ?? 5, $y = [1][3] ?? \"d\", $z = 0 ?? 1) { return [$x, $y, $z]; } return f();",
            "[0=>5,1=>\"d\",2=>0]",
        ),
        ("class A { static $w = none ?? none ?? 1 === 1; } return A::$w;", "true"),
        ("try { return 5[0] ?? 1; } catch ($e) { return $e->message(); }", "1"),
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

/// Section 6: on an object a key sets a property; nothing can be appended to it or cut out of it, wherever it is held.
#[test]
fn objects_are_not_lists() {
    const REFUSED: &str = "Cannot use subscript on object for writing";
    for place in ["$o", "$a[\"o\"]", "$b->o", "A::$s"] {
        for write in ["[] = 1", "[0:1] = []", "[0:1] += [1]", "[][\"x\"] = 1"] {
            let source = format!(
                "class A {{ private $p = 1; static $s; $o; }} $o = A(); $a = [\"o\" => $o]; $b = A(); $b->o = $o; A::$s = $o; \
                 try {{ {place}{write}; }} catch ($e) {{ return $e->message(); }}"
            );
            assert_eq!(run(&source), REFUSED, "{place}{write}");
        }
        let inside = format!(
            "class A {{ static $s; $o; }} function f() {{ global $o, $a, $b; $o = A(); $a = [\"o\" => $o]; $b = A(); $b->o = $o; A::$s = $o; {place}[] = 1; }} try {{ f(); }} catch ($e) {{ return $e->message(); }}"
        );
        assert_eq!(run(&inside), REFUSED, "{place} in a function");
    }
    table(&[("class A { } $a = [\"o\" => A()]; $a[\"o\"][\"k\"][] = 1; return $a[\"o\"]->k;", "[0=>1]")]);
}

/// Section 7.9: `->` on what is not an object raises, in every kind of assignment.
#[test]
fn members_of_what_is_not_an_object() {
    for (value, kind) in [("[1]", "array"), ("5", "number"), ("\"s\"", "string"), ("none", "none")] {
        for write in
            ["$o->x = 1", "$o->x ??= 1", "$o->x += 1", "$o->x++", "$o->x[] = 1", "$o->x[\"k\"] ??= 1"]
        {
            let source = format!("$o = {value}; try {{ {write}; }} catch ($e) {{ return $e->message(); }}");
            assert_eq!(run(&source), format!("Cannot access a member of {kind}"), "{source}");
            let source = format!(
                "function f() {{ global $o; $o = {value}; {write}; }} try {{ f(); }} catch ($e) {{ return $e->message(); }}"
            );
            assert_eq!(run(&source), format!("Cannot access a member of {kind}"), "{source}");
        }
    }
    table(&[(
        "class A { $p; } $o = A(); $o->p ??= 1; $o->q ??= 2; $o->p ??= 3; return [$o->p, $o->q];",
        "[0=>1,1=>2]",
    )]);
}

/// Section 7.6: `??` and `isset` do not raise for undefined variables, in keys as well, wherever the variable lives.
#[test]
fn quiet_keys() {
    table(&[
        ("$a = [1]; return [$a[$u] ?? 2, isset($a[$u]), $a[$u[\"x\"]] ?? 3];", "[0=>2,1=>false,2=>3]"),
        (
            "function f() { global $u, $a; return [$a[$u] ?? 2, isset($a[$u]), $a[$u->x] ?? 3]; } $a = [1]; return f();",
            "[0=>2,1=>false,2=>3]",
        ),
        (
            "$a = [5]; $f = function () closure ($a, $u) { return [$a[$u] ?? 2, $a[0] ?? 3]; }; return $f();",
            "[0=>2,1=>5]",
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

const MODULE: &str =
    "$v = 1; function unset_v() { global $v; unset($v); } function inc() { global $v; return ++$v; }";

struct Files;

impl Loader for Files {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        match path {
            "m.hsl" | "same.hsl" => Ok(Arc::from(MODULE.as_bytes())),
            _ => Err(LoadError::NotFound),
        }
    }
}

/// Section 12.3: variables of a namespace can be unset like others, and a namespace is not replaced.
#[test]
fn namespaces() {
    table(&[
        (
            "import * as m from \"m.hsl\"; $was = isset(m::$v); m::unset_v(); return [$was, isset(m::$v)];",
            "[0=>true,1=>false]",
        ),
        (
            "import * as m from \"m.hsl\"; return [unset(m::$v), isset(m::$v), m::$v ?? 7];",
            "[0=>true,1=>false,2=>7]",
        ),
        ("import * as m from \"m.hsl\"; m::unset_v(); m::$v ??= 5; return m::inc();", "6"),
        ("import * as m from \"m.hsl\"; import * as m from \"m.hsl\"; return m::inc();", "2"),
        (
            "import * as m from \"m.hsl\"; import * as m from \"same.hsl\";",
            "m:1:41: 'm' is already imported; import it under another name",
        ),
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
        (
            "function a($n) { return cache [] a($n); } try { a(1); } catch ($e) { return $e->message(); }",
            "Recursion limit reached",
        ),
        (
            "function a($n) { global $d; return ++$d < 3 ? [cache [] a($n)] : $n; } $d = 0; return [cache [] a(1), cache [] a(1), $d];",
            "[0=>[0=>[0=>1]],1=>[0=>[0=>1]],2=>3]",
        ),
    ]);
}

/// A function that only gives back an operation on its arguments needs no frame; whoever calls it cannot tell, whatever
/// the operands are.
#[test]
fn functions_of_one_operation_are_called_like_others() {
    let operands = ["0", "-0.5", "7", "7.25", "\"\"", "\"a\"", "\"7\"", "\"b\"", "true", "none", "[]", "[1]"];
    for op in ["+", "-", "*", "/", "%", "<", ">", "<=", ">=", "==", "!=", "===", "!==", ".", "&"] {
        let mut calls = String::new();
        for a in operands {
            calls.push_str(&format!("try {{ $r[] = g({a}); }} catch ($e) {{ $r[] = \"failed\"; }}\n"));
            for b in operands {
                calls.push_str(&format!(
                    "try {{ $r[] = f({a}, {b}); }} catch ($e) {{ $r[] = \"failed\"; }}\n"
                ));
            }
        }
        let short = format!(
            "function f($x, $y) {{ return $x {op} $y; }} function g($x) {{ return $x {op} 3; }} $r = [];\n{calls}return $r;"
        );
        let long = short.replace("return $x", "$z = $x").replacen("; }", "; return $z; }", 2);
        let found = run(&short);
        assert!(found.starts_with("[0=>"), "{found}");
        assert_eq!(found, run(&long), "{op}");
    }
    table(&[
        // Arguments are gone after the call; the order of operands is kept.
        (
            "function f($x, $y) { return $y - $x; } $a = 1; $b = f($a, 5); return [$a, $b, f($b, f(2, 1))];",
            "[0=>1,1=>4,2=>-5]",
        ),
        ("function f($x) { return $x - 1; } return f();", "m:1:42: Function 'f' expects 1 argument, 0 given"),
        ("function f($x, $y = 2) { return $x + $y; } return [f(1), f(1, 5)];", "[0=>3,1=>6]"),
        (
            "function f($x) { return $x < 3; } return f(1, 2);",
            "m:1:42: Function 'f' expects 1 argument, 2 given",
        ),
        (
            "function f($n) { return $n - 1; }\nreturn f(\"a\");",
            "m:1:28: Unsupported operand types for -: string and number",
        ),
        // It may call itself no deeper than others.
        (
            "function f($x) { return $x + 1; } function g($n) { return $n == 0 ? f(1) : g($n - 1); } return g(50);",
            "2",
        ),
    ]);
}
