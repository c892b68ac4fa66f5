//! Makes programs from bytes: mostly correct in syntax, with few names and small values, so that they meet.

use arbitrary::Unstructured;
use std::fmt::Write;

/// Deepest nesting of statements and expressions.
const DEPTH_MAX: u32 = 5;
/// Longest program, bytes.
const LENGTH_MAX: usize = 6_000;

const METHOD: &str = "function m($x, $y = 1)";
const VARIABLES: &[&str] = &["$a", "$b", "$c", "$d", "$o", "$g", "$z"];
const BINARY: &[&str] = &[
    "+", "-", "*", "/", "%", "**", ".", "==", "!=", "===", "!==", "<", ">", "<=", ">=", "=~", "!~", "&", "|",
    "^", "<<", ">>", ">>>", "and", "or", "??", "?:",
];
const AUGMENTED: &[&str] = &["+=", "-=", "*=", "/=", "%=", "**=", ".=", "??="];
const LEAVES: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "2.5",
    "1000000",
    "0x7fffffff",
    "9007199254740993",
    "\"\"",
    "\"x\"",
    "\"7\"",
    "\"a rather long string, kept on the heap\"",
    "\"t$a ${b}\"",
    "''raw''",
    "none",
    "true",
    "false",
    "[]",
    "[1, 2, 3]",
    "[\"k\" => 1, 5 => [2]]",
    "#/a(.)?/i",
    "f",
    "length",
    "C",
    "C::make",
    "$ctx",
    "$this",
    "builtin length",
    "ns::bump",
    "ns::$state",
    "C::$s",
];

struct Maker<'a> {
    bytes: Unstructured<'a>,
    text: String,
    loops: u32,
    function: bool,
    generator: bool,
    method: bool,
}

/// The program that `data` stands for.
pub fn program(data: &[u8]) -> String {
    let mut maker = Maker {
        bytes: Unstructured::new(data),
        text: String::new(),
        loops: 0,
        function: false,
        generator: false,
        method: false,
    };
    maker.whole();
    maker.text
}

impl Maker<'_> {
    /// A number below `n`; 0 when the bytes are used up, so the first choice of every list ends the recursion.
    fn below(&mut self, n: usize) -> usize {
        self.bytes.int_in_range(0..=n - 1).unwrap_or(0)
    }

    fn pick(&mut self, list: &[&'static str]) -> &'static str {
        list[self.below(list.len())]
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn spent(&self) -> bool {
        self.bytes.is_empty() || self.text.len() > LENGTH_MAX
    }

    fn whole(&mut self) {
        self.put("import * as ns from \"mod\"; import $lines from \"data.txt\" with [\"array\" => true];\n");
        self.put("$z = 0; $a = 1; $b = [1]; $c = \"s\"; $d = none; $o = C(1); $g = g(2);\n");
        self.put("class C { $n = 0; private $p = []; readonly $r = 1; static $s = 0; static function make() { return C(2); }\n");
        self.put("constructor($n) { $this->n = $n; }\n");
        self.function_with(METHOD);
        self.put("}\n");
        self.function_with("function f($a, $b = [], ...$c)");
        self.generator = true;
        self.function_with("function g($a)");
        self.generator = false;
        while !self.spent() {
            self.statement(0);
        }
    }

    fn function_with(&mut self, head: &str) {
        let (loops, function) =
            (std::mem::take(&mut self.loops), std::mem::replace(&mut self.function, true));
        let method = std::mem::replace(&mut self.method, head == METHOD);
        let _ = write!(self.text, "{head} {{ ");
        if self.below(2) == 1 {
            self.put("global $z; ");
        }
        if self.generator {
            self.put("yield 1; ");
        }
        for _ in 0..self.below(4) {
            self.statement(2);
        }
        self.put("return ");
        self.expression(3);
        self.put("; }\n");
        (self.loops, self.function, self.method) = (loops, function, method);
    }

    fn block(&mut self, depth: u32) {
        self.put("{ ");
        for _ in 0..=self.below(3) {
            self.statement(depth + 1);
        }
        self.put("} ");
    }

    fn looped(&mut self, depth: u32) {
        self.loops += 1;
        self.block(depth);
        self.loops -= 1;
    }

    fn statement(&mut self, depth: u32) {
        let kinds = if depth >= DEPTH_MAX { 9 } else { 24 };
        match self.below(kinds) {
            0 => self.put("$a++; "),
            1 | 2 => {
                self.pattern(depth);
                self.put(" = ");
                self.expression(depth);
                self.put("; ");
            }
            3 => {
                self.place(depth);
                let op = self.pick(AUGMENTED);
                let _ = write!(self.text, " {op} ");
                self.expression(depth);
                self.put("; ");
            }
            4 => {
                self.put("echo ");
                self.expression(depth);
                self.put("; ");
            }
            5 if self.loops > 0 => self.put("break; "),
            6 if self.loops > 0 => self.put("continue; "),
            5..=7 => {
                self.expression(depth);
                self.put("; ");
            }
            8 if self.generator => {
                self.put("yield ");
                self.expression(depth);
                self.put("; ");
            }
            8 | 9 => {
                self.put("throw ");
                self.expression(depth);
                self.put("; ");
            }
            10 | 11 => {
                self.put("if (");
                self.expression(depth);
                self.put(") ");
                self.block(depth);
                self.put("else ");
                self.block(depth);
            }
            12 => {
                self.put("while (");
                self.expression(depth);
                self.put(") ");
                self.looped(depth);
            }
            13 => {
                self.put("for ($i = 0; $i < 5; $i++) ");
                self.looped(depth);
            }
            14 | 15 => {
                self.put("foreach (");
                self.expression(depth);
                self.put(" as ");
                if self.below(2) == 1 {
                    self.target(depth);
                    self.put(" => ");
                }
                self.pattern(depth);
                self.put(") ");
                self.looped(depth);
            }
            16 | 17 => {
                self.put("try ");
                self.block(depth);
                self.put("catch ($e) ");
                self.block(depth);
            }
            18 => {
                self.put("switch (");
                self.expression(depth);
                self.put(") { ");
                for _ in 0..self.below(6) {
                    self.put("case ");
                    self.expression(depth + 2);
                    self.put(": ");
                    self.statement(depth + 1);
                    if self.below(2) == 1 {
                        self.put("break; ");
                    }
                }
                self.put("default: ");
                self.statement(depth + 1);
                self.put("} ");
            }
            19 => {
                self.put("barrier \"n\" => ");
                let variable = self.pick(VARIABLES);
                self.put(variable);
                self.put(" ");
                let generator = std::mem::take(&mut self.generator);
                self.block(depth);
                self.generator = generator;
            }
            20 => {
                self.put("unset(");
                if self.below(3) == 1 {
                    self.put("$a[1:2]");
                } else {
                    self.place(depth);
                }
                self.put("); ");
            }
            21 => {
                self.put("forever ");
                self.looped(depth);
            }
            22 => {
                let name = self.below(3);
                let generator = std::mem::take(&mut self.generator);
                self.function_with(&format!("function h{name}_{}($a)", self.text.len()));
                self.generator = generator;
            }
            _ => {
                self.put("include_once \"inc\"; ");
            }
        }
    }

    /// What `=` and `foreach` write to.
    fn pattern(&mut self, depth: u32) {
        match self.below(8) {
            1 => self.put("[$a, $b[1], ...$c]"),
            2 => self.put("[\"k\" => $a = 5, 1 => [$b, $o->x]]"),
            _ => self.target(depth),
        }
    }

    /// What `=` and loops write to, but for patterns.
    fn target(&mut self, depth: u32) {
        let variable = self.pick(VARIABLES);
        match self.below(6) {
            1 => {
                let _ = write!(self.text, "{variable}[]");
            }
            2 => {
                let _ = write!(self.text, "{variable}[");
                self.expression(depth + 2);
                self.put(":");
                self.expression(depth + 2);
                self.put("]");
            }
            3 => {
                let _ = write!(self.text, "{variable}[");
                self.expression(depth + 2);
                self.put("][\"k\"][]");
            }
            4 => self.put("C::$s"),
            _ => self.place(depth),
        }
    }

    /// A variable, element or property.
    fn place(&mut self, depth: u32) {
        let variable = self.pick(VARIABLES);
        match self.below(if depth >= DEPTH_MAX { 2 } else { 6 }) {
            0 | 1 => self.put(variable),
            2 | 3 => {
                let _ = write!(self.text, "{variable}[");
                self.expression(depth + 2);
                self.put("]");
            }
            4 => {
                let property = self.pick(&["n", "p", "r", "x", "self"]);
                let _ = write!(self.text, "{variable}->{property}");
            }
            _ => {
                let _ = write!(self.text, "{variable}[\"k\"][");
                self.expression(depth + 2);
                self.put("]");
            }
        }
    }

    fn list(&mut self, depth: u32) {
        for i in 0..self.below(4) {
            if i > 0 {
                self.put(", ");
            }
            if self.below(6) == 1 {
                self.put("...");
            }
            self.expression(depth + 1);
        }
    }

    fn expression(&mut self, depth: u32) {
        if depth >= DEPTH_MAX || self.spent() {
            let leaf = if self.below(2) == 0 { self.pick(VARIABLES) } else { self.pick(LEAVES) };
            return self.put(if leaf == "$this" && !self.method { "$a" } else { leaf });
        }
        let d = depth + 1;
        match self.below(26) {
            0..=2 => {
                let variable = self.pick(VARIABLES);
                self.put(variable);
            }
            3..=5 => {
                let leaf = self.pick(LEAVES);
                self.put(if leaf == "$this" && !self.method { "$a" } else { leaf });
            }
            6..=9 => {
                self.put("(");
                self.expression(d);
                let op = self.pick(BINARY);
                let _ = write!(self.text, " {op} ");
                self.expression(d);
                self.put(")");
            }
            10 => {
                let op = self.pick(&["!", "-", "+", "~", "not "]);
                let _ = write!(self.text, "({op}");
                self.expression(d);
                self.put(")");
            }
            11 => {
                self.put("[");
                self.list(d);
                self.put(", \"k\" => ");
                self.expression(d);
                self.put("]");
                // An empty list leaves a comma that does not parse; its repair is cheap.
                if let Some(at) = self.text.rfind("[, ") {
                    self.text.replace_range(at..at + 3, "[");
                }
            }
            12 => {
                self.put("(");
                self.expression(d);
                self.put(")[");
                self.expression(d);
                self.put("]");
            }
            13 => {
                self.put("(");
                self.expression(d);
                self.put(")[");
                self.expression(d);
                self.put(":");
                self.expression(d);
                self.put(":");
                self.expression(d);
                self.put("]");
            }
            14 | 15 => {
                self.put("f(");
                self.expression(d);
                if self.below(2) == 1 {
                    self.put(", ...");
                    self.expression(d);
                }
                self.put(")");
            }
            16 => {
                let object = self.pick(&["$o", "C(1)", "C::make()", "$a"]);
                let _ = write!(self.text, "{object}->m(");
                self.expression(d);
                self.put(")");
            }
            17 => {
                self.put("function ($x) closure ($a, $g) { return ");
                let (function, method) =
                    (std::mem::replace(&mut self.function, true), std::mem::take(&mut self.method));
                self.expression(d);
                (self.function, self.method) = (function, method);
                self.put("; }");
            }
            18 => {
                self.put("each(function ($x) { return ");
                let (function, method) =
                    (std::mem::replace(&mut self.function, true), std::mem::take(&mut self.method));
                self.expression(d);
                (self.function, self.method) = (function, method);
                self.put("; }, [");
                self.list(d);
                self.put("])");
            }
            19 => {
                let name = self.pick(&["length", "wait", "fail", "g", "C"]);
                let _ = write!(self.text, "{name}(");
                self.expression(d);
                self.put(")");
            }
            20 => {
                self.put("match (");
                self.expression(d);
                self.put(") { 1, \"x\", none => ");
                self.expression(d);
                self.put(", 2 => 0, 3 => 1, 4 => 2, default => ");
                self.expression(d);
                self.put(" }");
            }
            21 => {
                self.put("(");
                self.expression(d);
                self.put(" ? ");
                self.expression(d);
                self.put(" : ");
                self.expression(d);
                self.put(")");
            }
            22 => {
                self.put("cache [\"size\" => 2, \"force\" => ");
                self.expression(d);
                self.put("] f(");
                self.expression(d);
                self.put(")");
            }
            23 => {
                self.put("(");
                self.target(d);
                self.put(" = ");
                self.expression(d);
                self.put(")");
            }
            24 => {
                self.put("isset(");
                let variable = self.pick(VARIABLES);
                let _ = write!(self.text, "{variable}[");
                self.expression(d);
                self.put("])");
            }
            _ => {
                self.put("$g->next()");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    /// Most programs have to compile, or the machine is hardly tried.
    #[test]
    fn most_programs_are_correct() {
        let mut state = 1_u64;
        let mut correct = 0;
        for _ in 0..500 {
            let mut data = vec![0_u8; 400];
            for byte in &mut data {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            let source = super::program(&data);
            crate::check(source.as_bytes());
            let compiler = hsl::Compiler::new(std::sync::Arc::clone(&crate::REGISTRY))
                .loader(std::sync::Arc::new(crate::Files))
                .context_variable("ctx", true);
            match compiler.compile("main", source.as_bytes()) {
                Ok(_) => correct += 1,
                Err(errors) => println!("{}", errors[0].message),
            }
        }
        println!("{correct} of 500 programs compile");
        assert!(correct > 150, "{correct} of 500 programs compile");
    }
}
