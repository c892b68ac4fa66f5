//! Any byte sequence is a program or an error, and any program stops: random tokens, random programs, small fuel.

use hsl::{Compiler, FunctionDef, Limits, NoHost, Registry, Shared, Step, Value, Vm};
use proptest::prelude::*;
use std::sync::Arc;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add_function(FunctionDef::pure("length(value: any)", "", |_, a| {
        Ok(a.get(0).as_array().map(|x| x.len()).into())
    }));
    registry
}

fn run(source: &[u8]) -> Option<Step> {
    let program =
        Compiler::new(Arc::new(registry())).context_variable("ctx", true).compile("f", source).ok()?.program;
    assert!(!program.dump().is_empty());
    let limits = Limits { memory_bytes: 4 << 20, depth: 50, ..Limits::default() };
    let mut vm = Vm::new(program, Arc::new(Shared::new()), limits, Box::new(NoHost));
    vm.set_variable("ctx", Value::from(5));
    let mut step = vm.run(300);
    for _ in 0..5 {
        if matches!(step, Step::OutOfFuel) {
            step = vm.run(50);
        }
    }
    Some(step)
}

const TOKENS: &[&str] = &[
    "$a",
    "$b",
    "$c",
    "$this",
    "$ctx",
    "f",
    "C",
    "length",
    "1",
    "2.5",
    "0",
    "\"x\"",
    "\"t$a\"",
    "''r''",
    "#/a+/i",
    "none",
    "true",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ";",
    ",",
    "=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "**",
    ".",
    "==",
    "===",
    "<",
    ">=",
    "=~",
    "and",
    "or",
    "not",
    "!",
    "??",
    "?",
    ":",
    "::",
    "->",
    "=>",
    "...",
    "++",
    "--",
    "+=",
    ".=",
    "??=",
    "&",
    "|",
    "<<",
    "if",
    "else",
    "while",
    "for",
    "foreach",
    "as",
    "forever",
    "break",
    "continue",
    "switch",
    "case",
    "default",
    "match",
    "function",
    "closure",
    "class",
    "constructor",
    "static",
    "private",
    "return",
    "yield",
    "throw",
    "try",
    "catch",
    "global",
    "isset",
    "unset",
    "barrier",
    "cache",
    "builtin",
    "echo",
    "import",
    "from",
    "include",
    "\n",
];

fn soup() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(TOKENS), 0..60).prop_map(|t| t.join(" "))
}

fn expr() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "$a",
        "$b",
        "$c",
        "1",
        "0",
        "-3",
        "2.5",
        "\"x\"",
        "\"long string for the heap\"",
        "none",
        "true",
        "[]",
        "[1,2,3]",
        "[\"k\"=>[1]]",
        "f",
        "C()",
        "g()",
        "$ctx",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 40, 3, |inner| {
        prop_oneof![
            (
                inner.clone(),
                proptest::sample::select(vec![
                    "+", "-", "*", "/", "%", "**", ".", "==", "===", "<", "&", "<<", "and", "or", "??", "?:",
                    "=~"
                ]),
                inner.clone()
            )
                .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}:]")),
            inner.clone().prop_map(|a| format!("f({a}, 1)")),
            inner.clone().prop_map(|a| format!("f(...{a})")),
            inner.clone().prop_map(|a| format!("[{a}, ...[{a}], \"k\" => {a}]")),
            inner.clone().prop_map(|a| format!("$a[] = {a}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("$a[{a}][\"x\"] = {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("$b[{a}:1] = {b}")),
            inner.clone().prop_map(|a| format!("$c .= {a}")),
            inner.clone().prop_map(|a| format!("$b += {a}")),
            inner.clone().prop_map(|a| format!("unset($a[{a}])")),
            inner.clone().prop_map(|a| format!("isset($a[{a}][1])")),
            inner.clone().prop_map(|a| format!("[$a, ...$b] = {a}")),
            inner.clone().prop_map(|a| format!("C()->put({a})")),
            inner.clone().prop_map(|a| format!("match ({a}) {{ 1, \"x\" => 1, default => {a} }}")),
            inner.clone().prop_map(|a| format!("function ($x) closure ($a) {{ return $a + $x; }}({a})")),
            inner.clone().prop_map(|a| format!("cache [] f({a}, 2)")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

fn statement() -> impl Strategy<Value = String> {
    let simple = prop_oneof![
        expr().prop_map(|e| format!("$a = {e};")),
        expr().prop_map(|e| format!("$b = {e};")),
        expr().prop_map(|e| format!("echo {e};")),
        expr().prop_map(|e| format!("$a = [$a, {e}];")),
        expr().prop_map(|e| format!("throw {e};")),
        Just("$a++;".to_owned()),
        Just("$c = $a; $a = $b; $b = $c;".to_owned()),
        Just("break;".to_owned()),
        Just("continue;".to_owned()),
        Just("return 1;".to_owned()),
    ];
    simple.prop_recursive(3, 20, 4, |inner| {
        let body = proptest::collection::vec(inner, 1..4).prop_map(|v| v.join(" "));
        prop_oneof![
            (expr(), body.clone()).prop_map(|(e, b)| format!("if ({e}) {{ {b} }} else {{ {b} }}")),
            (expr(), body.clone()).prop_map(|(e, b)| format!("while ({e}) {{ {b} }}")),
            (expr(), body.clone()).prop_map(|(e, b)| format!("foreach ({e} as $k => $v) {{ {b} }}")),
            body.clone().prop_map(|b| format!("foreach (g() as $v) {{ {b} }}")),
            body.clone().prop_map(|b| format!("try {{ {b} }} catch ($e) {{ $a = $e; }}")),
            body.clone().prop_map(|b| format!("forever {{ try {{ {b} }} catch ($e) {{ $c = 1; }} }}")),
            body.clone().prop_map(|b| format!("barrier \"n\" => $a {{ {b} }}")),
            (expr(), body.clone(), body).prop_map(|(e, a, b)| {
                format!("switch ({e}) {{ case 1: {a} case \"x\": {b} case 3: case 4: {a} case 5: {b} default: {b} }}")
            }),
        ]
    })
}

const PRELUDE: &str = "$a = 1; $b = [1]; $c = \"s\"; $e = none; $k = 0; $v = 0;\n\
    function f($x, $y = 2, ...$r) { global $a; $a = $x; return $x . $y; }\n\
    function g() { $i = 0; while ($i < 3) { try { yield $i; $i++; } catch ($e) { } } return 9; }\n\
    class C { private $p = []; function put($v) { $this->p[] = $v; $this->q = $v; $this->self = $this; return $this->p; } }\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_a_program_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        run(&bytes);
    }

    #[test]
    fn token_soup_is_a_program_or_an_error(source in soup()) {
        run(source.as_bytes());
    }

    #[test]
    fn token_soup_in_a_function(source in soup()) {
        run(format!("function h($a) {{ {source} }} h(1);").as_bytes());
    }

    #[test]
    fn programs_stop(statements in proptest::collection::vec(statement(), 1..8)) {
        run(format!("{PRELUDE}{}", statements.join("\n")).as_bytes());
    }

    #[test]
    fn programs_in_functions_stop(statements in proptest::collection::vec(statement(), 1..8)) {
        let body = statements.join("\n");
        run(format!("{PRELUDE}function h($a, $b, $c) {{ $e = 1; $k = 2; $v = 3; $w = function () closure ($b) {{ return $b; }}; {body} }} h(1, 2, 3);").as_bytes());
    }
}

/// The inputs that the fuzz target `compile` was given or has kept.
#[test]
fn kept_inputs_are_programs_or_errors() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/compile");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 100, "{} inputs", files.len());
    for file in files {
        run(&std::fs::read(file).unwrap());
    }
}
