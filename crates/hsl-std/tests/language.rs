//! Statements of the language description that the conformance corpus does not try, in tables: what a program returns,
//! or the message it fails with.

use hsl::{Array, Compiler, DataError, Limits, LoadError, Loader, NoHost, Shared, Step, Value, Vm};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

struct Files;

const FILES: &[(&str, &str)] = &[
    (
        "module.hsl",
        "$count = 1; function up($n = 1) { global $count; $count += $n; return $count; } class Box { static $s = 3; static function make() { return 9; } }",
    ),
    (
        "again.hsl",
        "import { up, $count as $c } from \"module.hsl\"; function both() { global $c; return up() + $c; }",
    ),
    ("dir/a.hsl", "include \"./b.hsl\"; include \"../c.hsl\";"),
    ("dir/b.hsl", "$b = 2;"),
    ("c.hsl", "$c = isset($c) ? $c + 1 : 1;"),
    ("self.hsl", "import { x } from \"self.hsl\"; function x() {}"),
    ("bad.hsl", "echo 1;\necho nosuch();"),
    ("rows.csv", "name,age,ok\nada,36,true\nbob,,false\n"),
    ("semi.csv", "a;b\n1;2\n"),
    ("broken.csv", "name,age\nada,x\n"),
    ("data.json", "// a comment\n{\"a\": [1, 2, {\"b\": null}]}"),
    ("broken.json", "{\"a\": 1,\n \"b\": }"),
    ("data.yaml", "a: [1, 2]\nb:\n  c: text\n"),
    ("data.yml", "x: 1\n"),
    ("broken.yaml", "a: [1\nb: 2\n"),
    ("list.txt", "one\r\ntwo\n\nfour"),
    ("note.md", "text"),
    ("conf.dat", "[1, 2]"),
];

impl Loader for Files {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        let found = FILES.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| Arc::from(text.as_bytes())).ok_or(LoadError::NotFound)
    }

    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        hsl_std::decode(kind, data, options)
    }
}

fn compiler() -> Compiler {
    Compiler::new(hsl_std::shared_registry()).loader(Arc::new(Files))
}

fn run_with(source: &[u8], limits: Limits) -> String {
    let program = match compiler().compile("m", source) {
        Ok(compiled) => compiled.program,
        Err(errors) => return errors[0].to_string(),
    };
    let mut vm = Vm::new(program, Arc::new(Shared::new()), limits, Box::new(NoHost));
    for _ in 0..200_000 {
        match vm.run(50) {
            Step::Done(value) => return value.to_string_lossy(),
            Step::Failed(error) => return error.to_string(),
            Step::OutOfFuel => {}
            Step::Pending(mut future) => {
                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => vm.resume(result),
                    Poll::Pending => return "waits".into(),
                }
            }
            Step::Ended { function, .. } => return function.into_owned(),
        }
    }
    "does not end".into()
}

fn table(rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (source, expected) in rows {
        let found = run_with(source.as_bytes(), Limits::default());
        if found != *expected {
            wrong.push(format!("{source}\n   found: {found}\nexpected: {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn lexical() {
    table(&[
        ("\u{feff}return 1;", "1"),
        ("#!/usr/bin/hsh\nreturn 2;", "2"),
        ("return 1;\u{b}\u{c}", "1"),
        ("return\u{a0}1;", "m:1:7: No-break space outside a string; use a plain space"),
        ("return \u{201c}x\u{201d};", "m:1:8: Typographic quote outside a string; use '\"'"),
        ("/* a /* b */ return 1;", "1"),
        ("return 010;", "10"),
        ("return 1_000 + 0x_f;", "m:1:16: '0x_f' is not a number"),
        ("return 1.5.2;", "m:1:8: '1.5.2' is not a number"),
        ("return 5 . \"x\" . 5.\"y\";", "5x5y"),
        ("return 3x;", "m:1:8: '3x' is not a number"),
        ("return 0B1;", "m:1:8: '0B1' is not a number"),
        ("return \"a\nb\";", "a\nb"),
        ("return \"\\q\";", "m:1:9: Unknown escape sequence '\\q'"),
        ("return \"\\x4\";", "m:1:9: Escape '\\x' needs two hexadecimal digits"),
        ("$a = [1]; return \"$a[0] ${a}x $ 5 \\$a\";", "[0=>1][0] [0=>1]x $ 5 $a"),
        ("$n = none; return \"$n\";", "none"),
        ("return \"$nosuch\";", "m:1:9: Undefined variable $nosuch"),
        ("return ''a\\n$b'' . 'X'it''s'X';", "a\\n$bit''s"),
        ("return #/a\\/b/ == none;", "false"),
        ("return #//;", "m:1:8: Empty regex literal"),
        ("return #/a/q;", "m:1:12: Unknown regex flag 'q'"),
        ("return #/(/;", "m:1:8: Invalid pattern at offset 1: missing closing parenthesis"),
        ("function class() {}", "m:1:10: 'class' is a reserved keyword and cannot name a function"),
        ("function object() {}", "m:1:10: 'object' is a reserved keyword and cannot name a function"),
        ("class new {}", "m:1:7: 'new' is reserved for future use"),
        (
            "class C { function new() { return 1; } function if() { return 2; } } return C()->new() . C()->if();",
            "12",
        ),
        ("return 1 && 2;", "m:1:11: Expected an expression, found '&'"),
    ]);
}

#[test]
fn values_and_operators() {
    table(&[
        // Conversion of numbers to strings.
        ("return [0.1 + 0.2, 1e0];", "m:1:20: '1e0' is not a number"),
        ("return \"\" . 1000000 * 1000000 * 1000000 * 1000;", "1e+21"),
        ("return \"\" . 0.0000001 . \" \" . 0.00000001;", "0.0000001 1e-8"),
        ("return \"\" . -0 . \" \" . (0 - 0);", "0 0"),
        ("return \"\" . 2 ** 10000 . -(2 ** 10000);", "inf-inf"),
        // Keys.
        ("$a = [true => 1, \"1\" => 2, 1.9 => 3]; return $a;", "[1=>3]"),
        (
            "$a = []; $a[\"01\"] = 1; $a[\"-0\"] = 2; $a[\"-5\"] = 3; return array_keys($a);",
            "[0=>\"01\",1=>\"-0\",2=>-5]",
        ),
        ("$a = [-5 => 1]; $a[] = 2; return $a;", "[-5=>1,0=>2]"),
        ("$a = [1, 2, 3]; unset($a[2]); $a[] = 9; return $a;", "[0=>1,1=>2,2=>9]"),
        ("$a = [\"k\" => 1, \"x\" => 2, \"k\" => 3]; return $a;", "[\"k\"=>3,\"x\"=>2]"),
        ("$a = [none => 1, [1] => 2]; return [$a[none], $a[[1]], $a[\"none\"]];", "[0=>1,1=>2,2=>none]"),
        ("$a = []; $a[2 ** 10000] = 1;", "m:1:25: Array key cannot be nan or infinite"),
        ("$a = [\"x\" => 1, \"y\" => 2]; unset($a[\"x\"]); $a[\"x\"] = 3; return $a;", "[\"y\"=>2,\"x\"=>3]"),
        // Comparison.
        (
            "return [5 == true, 1 == true, \"0\" == true, none == false, [1] == [\"1\"], \"1\" == 1, \"x\" == 0];",
            "[0=>false,1=>true,2=>true,3=>false,4=>false,5=>true,6=>true]",
        ),
        (
            "return [none < 1, none >= 0, \"a\" < \"b\", \"10\" < 9, true > 0, [1] < [2]];",
            "[0=>false,1=>false,2=>true,3=>false,4=>true,5=>false]",
        ),
        (
            "return number(\" 12 \") . number(\"0x1F\") . number(\"1e3\") . number(\"1x\") . number(\"\") . number([1]);",
            "12311000000",
        ),
        // Arithmetic.
        ("return 1 / 0;", "m:1:10: Division by zero"),
        ("return 1 % 0;", "m:1:10: Division by zero"),
        ("return [-7 % 3, 7.5 % 2];", "[0=>-1,1=>1.5]"),
        ("return none + 1;", "m:1:13: Unsupported operand types for +: none and number"),
        ("return 1 + \"1\";", "m:1:10: Unsupported operand types for +: number and string"),
        ("return \"a\" + \"b\";", "ab"),
        ("return [1] + \"x\";", "[0=>1,1=>\"x\"]"),
        ("return \"x\" + [1];", "m:1:12: Unsupported operand types for +: string and array"),
        ("return \"ab\" * 2.9 . 0 * \"x\" . \"[]\";", "abab[]"),
        ("return [1] * 2;", "[0=>1,1=>1]"),
        ("return none . \"x\";", "m:1:13: Unsupported operand types for .: none and string"),
        ("return [-2 ** 2, 2 ** 3 ** 2, 2 ** -1];", "[0=>-4,1=>512,2=>0.5]"),
        ("return [1, \"1\", 2, 1] - 1;", "[1=>\"1\",2=>2]"),
        ("return [1, 2, 3] - [1, 3];", "[1=>2]"),
        ("return [~5, 1 << 33, -1 >>> 0, -8 >> 1, 4294967297 & 1];", "[0=>-6,1=>2,2=>4294967295,3=>-4,4=>1]"),
        ("return \"1\" & 1;", "m:1:12: Unsupported operand types for &: string and number"),
        // Formats.
        (
            "return \"%5s|%'*^7s|%<4s|%>4s|%.2s\" % [1, \"abc\", \"d\", \"e\", \"fgh\"];",
            "1    |**abc**|d   |   e|fg",
        ),
        (
            "return \"%f|%.2f|%'0=6f|%6f|%x|%b|%c|%%\" % [1.50, 2.345, -5, 7, -255, 5, 65];",
            "1.5|2.35|-00005|     7|-ff|101|A|%",
        ),
        ("return \"%[1]s%s%[0]s\" % [\"a\", \"b\", \"c\", 9];", "bca"),
        ("return \"%q\" % [1];", "m:1:13: Unknown format type 'q'"),
        ("return \"%s\" % [];", "m:1:13: Format argument 0 is missing: 0 given"),
        // Subscripts and slices.
        (
            "return [\"abc\"[1], \"abc\"[-1], \"abc\"[9], \"abc\"[\"x\"], none[1][2]];",
            "[0=>\"b\",1=>none,2=>none,3=>none,4=>none]",
        ),
        ("$n = 5; return $n[0];", "m:1:18: Cannot use subscript on number"),
        (
            "return [\"abcdef\"[::2], \"abcdef\"[::-1], \"ab\"[0:5], \"abc\"[-2:], [1, 2, 3][::-2]];",
            "[0=>\"ace\",1=>\"fedcba\",2=>\"ab\",3=>\"bc\",4=>[0=>3,1=>1]]",
        ),
        ("return \"abc\"[::0];", "m:1:13: Slice step cannot be 0"),
        ("return [\"a\" => 1, 5 => 2, \"c\" => 3][1:];", "[0=>2,1=>3]"),
        ("$a = [1, 2, 3, 4]; $a[1:3] = [\"x\"]; return $a;", "[0=>1,1=>\"x\",2=>4]"),
        ("$a = [1, \"k\" => 2, 7 => 3]; $a[0:1] = []; return $a;", "[\"k\"=>2,0=>3]"),
        ("$a = [1, 2]; $a[0:1] = 5;", "m:1:22: A slice can only be replaced by an array, number given"),
        ("$a = [1, 2]; $a[::2] = [];", "m:1:16: A slice with a step cannot be written"),
        ("$a = [1, 2, 3]; $r = unset($a[1:]); return [$r, $a];", "[0=>true,1=>[0=>1]]"),
        // Spread.
        ("return [...[\"k\" => 1, 5 => 2], ...[3]];", "[\"k\"=>1,0=>2,1=>3]"),
        ("return [...5];", "m:1:12: Spread needs an array or iterator, number given"),
        // Logic.
        (
            "return [1 and \"x\", 0 or none, not none, none ?? 5, 0 ?: 6, $u[1]->x ?? 7];",
            "[0=>true,1=>false,2=>true,3=>5,4=>6,5=>7]",
        ),
        ("$x = true; $x and $e = 5; return $e;", "5"),
        ("$c = false; $c ? $a : $b = 3; return $b;", "3"),
        ("return \"/x/i\" == \"y\" or \"aXb\" =~ \"/x/i\";", "true"),
        ("return none =~ \"x\";", "m:1:13: Unsupported operand type for =~: none"),
        (
            "return \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\" =~ \"^(a+)+$\";",
            "m:1:49: Regex match failed: PCRE2: error matching: match limit exceeded",
        ),
        // Calls of what is none.
        ("$f = 5; $f();", "m:1:9: Value of type number is not callable"),
        ("\"length\"(1);", "m:1:9: A literal cannot be called"),
        ("return length(\"abc\",);", "3"),
    ]);
}

#[test]
fn variables_and_assignment() {
    table(&[
        ("$d[1][0] = 5; return $d;", "[1=>[0=>5]]"),
        ("$a = 5; $a[\"x\"] = 1; return $a;", "[\"x\"=>1]"),
        ("$a = \"text\"; $a[0] = 1;", "m:1:20: Cannot use subscript on string for writing"),
        ("$a += 1;", "m:1:4: Undefined variable $a"),
        ("$a ??= 5; $a ??= 6; return $a;", "5"),
        ("$a[\"x\"][\"y\"] ??= 5; return $a;", "[\"x\"=>[\"y\"=>5]]"),
        ("$a = \"x\"; $a++;", "m:1:13: Cannot increment string"),
        ("$a = 1; return [$a++, $a, ++$a, $a--, --$a];", "[0=>1,1=>2,2=>3,3=>3,4=>1]"),
        ("$a = $b = 2; return $a . $b;", "22"),
        ("[$a, $b = 5, ...$r] = [1]; return [$a, $b, $r];", "[0=>1,1=>5,2=>[]]"),
        ("[$a, $b = 5] = [none, none]; return [$a, $b];", "[0=>none,1=>none]"),
        ("[$a, ...$r] = 7; return [$a, $r];", "[0=>none,1=>[]]"),
        (
            "[\"x\" => $a = 1, \"y\" => [$b, $c[]]] = [\"y\" => [2, 3]]; return [$a, $b, $c];",
            "[0=>1,1=>2,2=>[0=>3]]",
        ),
        ("$a = 1; $b = 2; [$a, $b] = [$b, $a]; return [$a, $b];", "[0=>2,1=>1]"),
        ("[\"x\" => $a, $b] = [];", "m:1:13: Keyed and unkeyed targets cannot be mixed"),
        ("[...$a, $b] = [];", "m:1:1: The rest target must come last"),
        ("[$a, $b] = $c = [3, 4, 5]; return [$a, $b, $c];", "[0=>3,1=>4,2=>[0=>3,1=>4,2=>5]]"),
        ("return isset($a[1]->x[2]);", "false"),
        (
            "$a = [\"x\" => none]; return [isset($a[\"x\"]), isset($a[\"y\"]), unset($a[\"x\"]), unset($a[\"x\"])];",
            "[0=>true,1=>false,2=>true,3=>false]",
        ),
        ("$this = 1;", "m:1:1: Cannot assign to $this"),
        ("return isset(f());", "m:1:14: 'isset' takes one variable, element or property"),
        // Copy on write.
        ("$a = [1]; $b = $a; $b[] = 2; function f($x) { $x[] = 3; return $x; } f($a); return $a;", "[0=>1]"),
        // `x = x op y` on global and captured variables reads first.
        ("$x = \"a\"; function f() { global $x; $x = \"b\"; return \"c\"; } $x = $x . f(); return $x;", "ac"),
        ("$x = 1; $f = function () closure ($x) { $x = $x + 1; return $x; }; $f(); return $f() . $x;", "33"),
    ]);
}

#[test]
fn statements() {
    table(&[
        (";;if (1) {;} function f() {}; return f();", "none"),
        ("function f() { return 1 } return f();", "1"),
        ("foreach ([1, 2] as $v) { $l = $v; } return [$v, $l];", "[0=>2,1=>2]"),
        ("$a = [1, 2]; foreach ($a as $v) { $a[] = $v; } return $a;", "[0=>1,1=>2,2=>1,3=>2]"),
        (
            "foreach ([[1, 2], [3, 4]] as $k => [$x, $o[\"y\"]]) { $r[] = $k + $x + $o[\"y\"]; } return $r;",
            "[0=>3,1=>8]",
        ),
        ("foreach (5 as $v) {}", "m:1:10: foreach needs an array or iterator, number given"),
        ("break;", "m:1:1: 'break' needs a loop or switch around it"),
        ("switch (1) { default: continue; }", "m:1:23: 'continue' needs a loop around it"),
        (
            "for ($i = 0; $i < 5; $i++) { switch ($i) { case 1: continue; default: $r[] = $i; } } return $r;",
            "[0=>0,1=>2,2=>3,3=>4]",
        ),
        ("switch (\"1\") { default: return 0; case 1: return 5; }", "5"),
        ("switch (9) { case 1: return 0; default: $x = 1; case 2: return $x + 1; }", "2"),
        ("switch (1) { default: default: }", "m:1:23: More than one 'default' in a switch"),
        ("return match (3) { 1, 2 => \"a\", default => \"d\", 3 => \"b\", };", "b"),
        ("return match (3) { 1 => 2 };", "m:1:8: Unhandled match value: 3"),
        (
            "try { return match (3) { 1 => 2 }; } catch ($e) { return $e->message(); }",
            "Unhandled match value: 3",
        ),
        ("return match (true) { 5 => 1, 1 => 2 };", "2"),
        ("try { throw [1]; } catch ($e) { return $e; }", "[0=>1]"),
        ("try { } catch { }", "m:1:15: Expected '(', found '{'"),
        ("throw \"no\";", "m:1:1: Uncaught no"),
        ("throw Exception(\"bad\");", "m:1:1: Uncaught bad"),
        (
            "try { none + 1; } catch ($e) { return [$e->file(), $e->line(), $e->column(), $e->toString()]; }",
            "[0=>\"m\",1=>1,2=>12,3=>\"m:1:12: Unsupported operand types for +: none and number\"]",
        ),
        (
            "try { throw Exception(\"x\"); } catch ($e) { return [$e->file(), $e->line(), $e->toString()]; }",
            "[0=>none,1=>none,2=>\"x\"]",
        ),
        ("function f() { try { return 1; } catch ($e) { } } return f();", "1"),
        ("yield 1;", "m:1:1: 'yield' outside a function"),
    ]);
}

#[test]
fn functions() {
    table(&[
        (
            "function f($a, $b = 10 * 1024, ...$c) { return [$a, $b, $c]; } return f(1, 2, 3, 4);",
            "[0=>1,1=>2,2=>[0=>3,1=>4]]",
        ),
        ("function f($a, $b = [1, \"k\" => -1]) { return $b; } return f(1);", "[0=>1,\"k\"=>-1]"),
        ("function f($a) {} f();", "m:1:19: Function 'f' expects 1 argument, 0 given"),
        ("function f($a, $b = 1) {} f();", "m:1:27: Function 'f' expects at least 1 argument, 0 given"),
        (
            "function f($a, $b = 1) {} f(1, 2, 3);",
            "m:1:27: Function 'f' expects at most 2 arguments, 3 given",
        ),
        ("function f($a) {} f(...[1, 2]);", "m:1:19: Function 'f' expects 1 argument, 2 given"),
        ("function f() {} function f() {}", "m:1:26: 'f' is already declared in this scope"),
        ("if (false) { function f() { return 4; } } return f();", "4"),
        (
            "function f() { function g() { return 1; } return h(); function h() { return g() + 1; } } return f();",
            "2",
        ),
        ("function f() { function g() {} } g();", "m:1:34: Unknown function 'g'"),
        ("function length($x) { return 99; } return [length(\"a\"), builtin length(\"a\")];", "[0=>99,1=>1]"),
        (
            "$f = length; $g = builtin length; return [$f([1]), $f == $g, $f === length];",
            "[0=>1,1=>true,2=>true]",
        ),
        (
            "class C { $n = 5; function m() { return $this->n; } static function s() { return 6; } } $o = C(); $m = $o->m; $s = C::s; return [$m(), $s(), is_function(C)];",
            "[0=>5,1=>6,2=>true]",
        ),
        ("return function ($x) { return $x + 1; }(4);", "5"),
        (
            "$n = 1; $f = function ($d) closure ($n, $new) { $n += $d; $new = $n; return $n; }; $f(2); return [$n, $new];",
            "[0=>3,1=>3]",
        ),
        (
            "$f = function ($x) closure ($x) {};",
            "m:1:29: Captured variable '$x' is already a parameter or captured",
        ),
        (
            "function f() { $x = 1; global $x; }",
            "m:1:31: Cannot import global '$x': the variable already exists here",
        ),
        ("function f() { global $new; $new = 5; } f(); return $new;", "5"),
        ("$f = function () { global $g; return $g; }; $g = 3; return $f();", "3"),
        ("function f($n) { return $n == 0 ? 0 : 1 + f($n - 1); } return f(900);", "900"),
        (
            "function f() { return f(); } try { f(); } catch ($e) { return $e->message() . $e->column(); }",
            "Recursion limit reached23",
        ),
        (
            "function f($n) { return array_map(function ($x) { return f($x); }, [$n]); } try { f(1); } catch ($e) { return $e->message(); }",
            "Recursion limit reached",
        ),
        // Generators.
        (
            "function g() { $x = 1; yield $x; yield; return 9; } $g = g(); return [$g->next(), $g->next(), $g->next(), $g->next()];",
            "[0=>[\"value\"=>1,\"done\"=>false],1=>[\"value\"=>none,\"done\"=>false],2=>[\"value\"=>9,\"done\"=>true],3=>[\"value\"=>9,\"done\"=>true]]",
        ),
        ("function g($n) { yield $n; } g();", "m:1:30: Function 'g' expects 1 argument, 0 given"),
        (
            "function g() { foreach ([5, 6, 7] as $x) yield $x; } $g = g(); foreach ($g as $k => $v) { $r[] = \"$k$v\"; if ($k == 1) break; } foreach ($g as $v) $r[] = $v; return $r;",
            "[0=>\"05\",1=>\"16\",2=>7]",
        ),
        (
            "function g() { global $g; yield $g->next(); } $g = g(); $g->next();",
            "m:1:37: Generator is already running",
        ),
        ("function g() { barrier \"b\" { yield 1; } }", "m:1:30: 'yield' is not allowed inside a barrier"),
        (
            "function g() { throw \"x\"; yield 1; } $g = g(); try { $g->next(); } catch ($e) { return [$e, $g->next()]; }",
            "[0=>\"x\",1=>[\"value\"=>none,\"done\"=>true]]",
        ),
        ("function g() { yield 1; yield 2; } return [0, ...g()];", "[0=>0,1=>1,2=>2]"),
    ]);
}

#[test]
fn classes() {
    table(&[
        (
            "class C { $a = [1]; $b; } $x = C(); $y = C(); $x->a[] = 2; return [$x->a, $y->a, $x->b, $x == $y, $x === $x];",
            "[0=>[0=>1,1=>2],1=>[0=>1],2=>none,3=>false,4=>true]",
        ),
        ("class C { } C(1);", "m:1:13: Function 'C' expects 0 arguments, 1 given"),
        ("class C { constructor() { return 5; } } return is_object(C());", "true"),
        ("class C { private $p = 1; function get($o) { return $o->p; } } return C()->get(C());", "1"),
        (
            "class C { private $p = 1; } return C()->p;",
            "m:1:41: Cannot access private member 'p' of class 'C'",
        ),
        (
            "class C { readonly $r = 1; function set() { $this->r = 2; return $this->r; } } $c = C(); $n = $c->set(); try { $c->r = 3; } catch ($e) { return $n . $e->message(); }",
            "2Cannot write readonly member 'r' of class 'C'",
        ),
        (
            "class C { private static $n = 0; static function up() { static::$n += 1; return C::$n; } } C::up(); return C::up();",
            "2",
        ),
        (
            "class C { static readonly $n = 1; } C::$n = 2;",
            "m:1:37: Cannot write readonly member 'n' of class 'C'",
        ),
        ("class C { private private $x; }", "m:1:19: Modifier given twice"),
        ("class C { readonly function f() {} }", "m:1:29: A function cannot be readonly"),
        ("class C { $x = f(); } function f() {}", "m:1:16: Initial value must be a constant expression"),
        (
            "class C { } $o = C(); $o->f = function ($x) { return $x * 2; }; $o->n = 1; unset($o->n); return [$o->f(4), isset($o->n), $o->n];",
            "[0=>8,1=>false,2=>none]",
        ),
        ("class C { } foreach (C() as $x) {}", "m:1:22: foreach needs an array or iterator, object given"),
        ("function f() { class D { $v = 3; } return D()->v; } return f();", "3"),
        ("none->x;", "m:1:7: Cannot access a member of none"),
        (
            "class C { function m() { return $this[\"v\"]; } constructor($v) { $this[\"v\"] = $v; } } return C(7)->m();",
            "7",
        ),
        (
            "class C { private $p = 4; function f() { return function () closure ($this) { return $this->p; }; } } $f = C()->f(); return $f();",
            "4",
        ),
        ("return \"\" . Exception(\"m\") . #/a/i;", "m#/a/i"),
    ]);
}

#[test]
fn modules_and_data() {
    table(&[
        (
            "import { up, $count, up as more, Box } from \"module.hsl\"; up(); more(4); return [$count, Box::$s, Box::make()];",
            "[0=>6,1=>3,2=>9]",
        ),
        (
            "import * as m from \"module.hsl\"; m::up(2); m::$count = m::$count + 10; return [m::$count, m::Box];",
            "[0=>13,1=>function]",
        ),
        ("import { up } from \"module.hsl\"; import { both } from \"again.hsl\"; up(); return both();", "6"),
        (
            "import { $count } from \"module.hsl\"; $count = 50; import { up } from \"module.hsl\"; return up();",
            "51",
        ),
        (
            "import { up } from \"module.hsl\"; import { up } from \"again.hsl\";",
            "m:1:43: 'up' is already imported; import it under another name with 'as'",
        ),
        (
            "import { $count } from \"module.hsl\"; import { $c as $count } from \"again.hsl\";",
            "m:1:47: Import overwrites variable '$count'; import it under another name with 'as'",
        ),
        (
            "import { upp } from \"module.hsl\";",
            "m:1:10: The module has no function or class 'upp'; did you mean 'up'?",
        ),
        (
            "import { $cuont } from \"module.hsl\";",
            "m:1:10: The module has no variable '$cuont'; did you mean '$count'?",
        ),
        (
            "import * as m from \"module.hsl\"; m::upp();",
            "m:1:34: Namespace 'm' has no function or class 'upp'; did you mean 'up'?",
        ),
        (
            "import { x } from \"self.hsl\";",
            "self.hsl:1:19: Import of 'self.hsl' is cyclic\n  included from m:1:19",
        ),
        (
            "if (1) { import { up } from \"module.hsl\"; }",
            "m:1:10: 'import' is only allowed at the top level of a file",
        ),
        ("import { up } from \"nosuch\";", "m:1:20: File 'nosuch' not found"),
        ("import { up } from \"../module.hsl\";", "m:1:20: Path '../module.hsl' leaves its root"),
        ("include \"dir/a.hsl\"; include \"c.hsl\"; include_once \"c.hsl\"; return [$b, $c];", "[0=>2,1=>2]"),
        ("include \"bad.hsl\";", "bad.hsl:2:6: Unknown function 'nosuch'\n  included from m:1:9"),
        ("include \"$x\";", "m:1:9: A path cannot contain variables; expected a plain string"),
        ("import $d from \"data.json\"; return $d;", "[\"a\"=>[0=>1,1=>2,2=>[\"b\"=>none]]]"),
        ("import $d from \"data.yaml\"; return $d;", "[\"a\"=>[0=>1,1=>2],\"b\"=>[\"c\"=>\"text\"]]"),
        ("import $d from \"data.yml\"; return $d;", "[\"x\"=>1]"),
        ("import $d from \"rows.csv\"; return $d[1];", "[\"name\"=>\"bob\",\"age\"=>\"\",\"ok\"=>\"false\"]"),
        (
            "import $d from \"rows.csv\" with [\"header\" => false]; return $d[0];",
            "[0=>\"name\",1=>\"age\",2=>\"ok\"]",
        ),
        (
            "import $d from \"rows.csv\" with [\"schema\" => [\"age\" => [\"type\" => \"number\", \"nullable\" => true], \"ok\" => [\"type\" => \"boolean\"]]]; return $d;",
            "[0=>[\"name\"=>\"ada\",\"age\"=>36,\"ok\"=>true],1=>[\"name\"=>\"bob\",\"age\"=>none,\"ok\"=>false]]",
        ),
        (
            "import $d from \"semi.csv\" with [\"delimiter\" => \";\"]; return $d;",
            "[0=>[\"a\"=>\"1\",\"b\"=>\"2\"]]",
        ),
        ("import $d from \"list.txt\"; return length($d);", "14"),
        (
            "import $d from \"list.txt\" with [\"array\" => true]; return $d;",
            "[0=>\"one\",1=>\"two\",2=>\"\",3=>\"four\"]",
        ),
        ("import $d from \"note.md\"; return $d;", "text"),
        ("import $d from \"conf.dat\" with [\"type\" => \"json\"]; return $d;", "[0=>1,1=>2]"),
        (
            "import $d from \"conf.dat\" with [\"type\" => \"toml\"]; ",
            "m:1:33: Import option 'type' must be json, yaml, csv or txt",
        ),
        (
            "import $d from \"rows.csv\" with [\"headr\" => 1];",
            "m:1:33: Unknown import option 'headr' for csv data; did you mean 'header'?",
        ),
        ("import $d from \"broken.json\";", "m:1:16: Cannot import 'broken.json': line 2: Invalid JSON"),
        (
            "import $d from \"broken.csv\" with [\"schema\" => [\"age\" => [\"type\" => \"number\"]]];",
            "m:1:16: Cannot import 'broken.csv': line 2: 'x' is not a number",
        ),
        ("import { up } from \"module.hsl\" with [];", "m:1:38: Options are only for imported data"),
    ]);
    let yaml = run_with(b"import $d from \"broken.yaml\";", Limits::default());
    assert!(yaml.starts_with("m:1:16: Cannot import 'broken.yaml': line "), "{yaml}");
}

#[test]
fn caches() {
    table(&[
        // Same arguments, same answer; the namespace and the file keep buckets apart.
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $x . $n; } return [cache [] f(1), cache [] f(1), cache [] f(2), cache [\"namespace\" => \"b\"] f(1)];",
            "[0=>\"11\",1=>\"11\",2=>\"22\",3=>\"13\"]",
        ),
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } return [cache [\"ttl\" => 0] f(1), cache [\"ttl\" => 0] f(1), cache [] f(1), cache [\"ttl\" => 0] f(1), cache [\"force\" => true] f(1), cache [] f(1)];",
            "[0=>1,1=>2,2=>3,3=>3,4=>4,5=>4]",
        ),
        (
            "$n = 0; function f($x, $y) { global $n; $n += 1; return $n; } return [cache [\"argv_filter\" => [1]] f(1, 2), cache [\"argv_filter\" => [1]] f(1, 3), cache [\"argv_filter\" => [1]] f(2, 2)];",
            "[0=>1,1=>1,2=>2]",
        ),
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } cache [\"size\" => 2] f(1); cache [\"size\" => 2] f(2); cache [\"size\" => 2] f(1); cache [\"size\" => 2] f(3); return [cache [\"size\" => 2] f(1), cache [\"size\" => 2] f(2)];",
            "[0=>1,1=>4]",
        ),
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } $o = [\"size\" => 1, \"lru\" => false]; cache [\"size\" => 1, \"lru\" => false] f(1); cache [\"size\" => 1, \"lru\" => false] f(2); return [cache [\"size\" => 1, \"lru\" => false] f(1), cache [\"size\" => 1, \"lru\" => false] f(2)];",
            "[0=>1,1=>3]",
        ),
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } return [cache [\"ttl_override\" => [1 => 0]] f(1), cache [\"ttl_override\" => [1 => 0]] f(1), cache [\"ttl_override\" => [1 => 0]] f(1)];",
            "[0=>1,1=>2,2=>2]",
        ),
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } function t($v) { return $v == 1 ? 0 : 60; } return [cache [\"ttl_function\" => t] f(1), cache [\"ttl_function\" => t] f(1), cache [\"ttl_function\" => t] f(1)];",
            "[0=>1,1=>2,2=>2]",
        ),
        (
            "function f($x) { return [$x]; } function u($old, $new) { return [$old, $new]; } return [cache [\"update_function\" => u] f(1), cache [\"update_function\" => u, \"force\" => true] f(1)];",
            "[0=>[0=>none,1=>[0=>1]],1=>[0=>[0=>none,1=>[0=>1]],1=>[0=>1]]]",
        ),
        (
            "class C { static $n = 0; static function up($x) { C::$n += 1; return C::$n + $x; } } return [cache [] C::up(1), cache [] C::up(1)];",
            "[0=>2,1=>2]",
        ),
        ("return cache [] builtin length(\"abc\") + cache [] length([1]);", "4"),
        (
            "function f() { throw \"x\"; } $n = 0; foreach ([1, 2] as $_) { try { cache [] f(); } catch ($e) { $n += 1; } } return $n;",
            "2",
        ),
        (
            "$n = 0; class O {} function f() { global $n; $n += 1; return O(); } cache [] f(); cache [] f(); return $n;",
            "2",
        ),
        // Objects have no text that tells one from the other.
        (
            "$n = 0; function f($x) { global $n; $n += 1; return $n; } $m = Map(\"string\", \"number\"); return [cache [] f([$m]), cache [] f([Map(\"string\", \"number\")]), cache [] f([[\"1\"]]), cache [] f([[1]])];",
            "[0=>1,1=>2,2=>3,3=>4]",
        ),
        ("cache [\"tll\" => 5] length(1);", "m:1:8: Unknown cache option 'tll'; did you mean 'ttl'?"),
        ("cache [\"ttl\" => []] length(\"\");", "m:1:21: Cache option 'ttl' must be number, array given"),
        ("class C { function m() {} } cache [] C()->m();", "m:1:38: A class cannot be cached"),
        ("$f = length; cache [] $f(1);", "m:1:23: Expected a function name, found '$f'"),
    ]);
}

#[test]
fn barriers() {
    table(&[
        (
            "barrier \"n\" => $v { $first = isset($v); $v = 5; } barrier \"n\" => $v { return [$first, $v]; }",
            "[0=>false,1=>5]",
        ),
        (
            "function f() { barrier 1 => $v { $v = 7; return $v; } } f(); barrier \"1\" => $w { return $w; }",
            "7",
        ),
        (
            "foreach ([1, 2] as $i) { barrier \"n\" => $v { $v = $i; if ($i == 1) continue; break; } } barrier \"n\" => $v { return $v; }",
            "2",
        ),
        (
            "try { barrier \"n\" => $v { $v = 1; throw \"x\"; } } catch ($e) { } barrier \"n\" => $v { return isset($v); }",
            "false",
        ),
        ("barrier \"n\" { barrier \"n\" { } }", "m:1:15: Already inside barrier 'n'"),
        (
            "barrier \"n\" => $v { $v = function () {}; }",
            "m:1:1: Only plain data can be shared between executions",
        ),
        (
            "barrier \"n\" => $v { $v = 1; } barrier \"n\" => $v { unset($v); } barrier \"n\" => $v { return isset($v); }",
            "false",
        ),
    ]);
}

#[test]
fn limits() {
    let deep = |open: &str, close: &str, n: usize| format!("return {}1{};", open.repeat(n), close.repeat(n));
    for (source, expected) in [
        (deep("[", "]", 150), None),
        (deep("[", "]", 250), Some("Nested deeper than 200 levels")),
        (deep("(", ")", 250), Some("Nested deeper than 200 levels")),
        (format!("{}{}", "{".repeat(250), "}".repeat(250)), Some("Nested deeper than 200 levels")),
        (format!("return \"{}\";", "x".repeat(17 << 20)), Some("File 'm' is larger than 16 MiB")),
    ] {
        let found = run_with(source.as_bytes(), Limits::default());
        match expected {
            Some(text) => assert!(found.ends_with(text), "{}", &found[..found.len().min(200)]),
            None => assert!(found.starts_with("[0=>["), "{found}"),
        }
    }
    let small = || Limits { memory_bytes: 4 << 20, ..Limits::default() };
    for source in [
        "$s = \"x\" * 1000; try { forever { $s .= $s; } } catch ($e) { return \"caught\"; }",
        "$a = []; forever { $a[] = [1, 2, 3]; }",
        "class C { } $a = []; forever { $o = C(); $o->self = $o; $o->data = \"y\" * 1000; $a[] = 1; }",
        "function g() { $s = \"x\" * 100000; yield 1; } $a = []; forever { $g = g(); $g->next(); $a[] = $g; }",
        "$a = [1]; forever { $a = [$a, $a]; cache [] length($a); }",
        "$f = []; forever { $s = \"z\" * 5000; $f[] = function () closure ($s) { return $s; }; unset($s); }",
    ] {
        let found = run_with(source.as_bytes(), small());
        assert!(found.contains("Memory limit reached"), "{source}: {found}");
    }
}
