//! A session: inputs that are compiled and run one after the other and share variables, functions and classes.
//!
//! Each input is a program and an execution of its own. Variables are context variables of every program and carry
//! their values over. Functions, classes and imports are source text: it is kept, with everything else blank, and
//! included at the end of later inputs, so that messages about it still name the right place. The consequence is that
//! imported modules and static variables start anew with every input.

use super::scan::{Declaration, Declares, blank_but, scan};
use hsl::{
    Array, Compiled, Compiler, DataError, Diagnostic, Host, Limits, LoadError, Loader, Place, Registry,
    ScriptError, Shared, Value, Vm,
};
use hsl_std::ScriptFiles;
use hsl_std::hooks::{self, Hook};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Arrays looked into when values that need their execution are searched.
const DEPTH_MAX: usize = 100;

/// Source text of declarations that later inputs include.
#[derive(Clone)]
struct Piece {
    path: String,
    text: Vec<u8>,
    declarations: Vec<Declaration>,
}

/// The files of the session and what its inputs declared.
struct Files {
    files: ScriptFiles,
    pieces: HashMap<String, Arc<[u8]>>,
}

/// Prefix of the path of a piece that came from an input.
const INPUT: &str = "hsh://";
/// Prefixes of the paths of pieces that came from files, and the prefixes of those files.
const KEPT: [(&str, &str); 2] = [("kept+file://", "file://"), ("kept://", "")];

/// The path that a piece stands for.
fn original(path: &str) -> String {
    for (kept, scheme) in KEPT {
        if let Some(rest) = path.strip_prefix(kept) {
            return format!("{scheme}{rest}");
        }
    }
    path.strip_prefix(INPUT).unwrap_or(path).to_owned()
}

impl Loader for Files {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        match self.pieces.get(path) {
            Some(text) => Ok(Arc::clone(text)),
            // A kept file names its neighbours relative to itself.
            None => self.files.load(&original(path)),
        }
    }

    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        self.files.decode(kind, data, options)
    }
}

/// An input that compiled.
pub struct Input {
    compiled: Compiled,
    /// Its value is to be shown.
    expression: bool,
    names: BTreeSet<String>,
    text: Vec<u8>,
    name: String,
}

impl Input {
    /// It is an expression, whose value is to be shown.
    pub fn is_expression(&self) -> bool {
        self.expression
    }
}

/// See the module.
pub struct Session {
    registry: Arc<Registry>,
    files: ScriptFiles,
    shared: Arc<Shared>,
    /// Names that the host declares, with whether they are read-only.
    declared: BTreeMap<String, bool>,
    /// All names that inputs used.
    names: BTreeSet<String>,
    values: BTreeMap<String, Value>,
    pieces: Vec<Piece>,
    /// Executions whose objects live on in variables; they end when none does.
    executions: Vec<Vm>,
    inputs: usize,
}

impl Session {
    /// A session with the functions and variables of a hook, or those of the library alone.
    pub fn new(hook: Option<Hook>, files: ScriptFiles) -> Session {
        let library = hsl_std::shared_registry();
        Session {
            registry: hook.map_or_else(|| Arc::clone(&library), |hook| hooks::registry(hook, &library)),
            declared: hook
                .iter()
                .flat_map(|h| h.variables())
                .map(|(n, readonly)| ((*n).to_owned(), *readonly))
                .collect(),
            values: hook.map(hook_values).unwrap_or_default().into_iter().collect(),
            files,
            shared: Arc::new(Shared::new()),
            names: BTreeSet::new(),
            pieces: Vec::new(),
            executions: Vec::new(),
            inputs: 0,
        }
    }

    /// The functions and classes that are not the session's own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Names of the variables that have a value.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// What the inputs declared and is still valid.
    pub fn declarations(&self) -> impl Iterator<Item = &Declaration> {
        self.pieces.iter().flat_map(|p| &p.declarations)
    }

    /// The text is not finished: more lines may make it valid.
    pub fn unfinished(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        let found = scan(bytes);
        if found.brackets().is_none() {
            return false;
        }
        if found.unfinished(bytes) {
            return true;
        }
        // An empty line hands over what the compiler finds incomplete.
        if text.ends_with('\n') || text.trim().is_empty() {
            return false;
        }
        let lines = line_count(bytes);
        self.compile(text).is_err_and(|errors| {
            errors.first().is_some_and(|e| e.place.file.is_none() && e.place.line > lines)
        })
    }

    /// Compiles an input.
    ///
    /// # Errors
    /// What the compiler says about it.
    pub fn compile(&self, text: &str) -> Result<Input, Vec<Diagnostic>> {
        let input = self.compile_with(text, &[])?;
        let included: Vec<Arc<[u8]>> =
            input.compiled.program.sources().files.iter().skip(1).map(|f| Arc::clone(&f.text)).collect();
        if included.iter().all(|text| scan(text).variables(text).all(|name| input.names.contains(&name))) {
            return Ok(input);
        }
        // Included files set variables too; their names are only known now.
        self.compile_with(text, &included)
    }

    fn compile_with(&self, text: &str, included: &[Arc<[u8]>]) -> Result<Input, Vec<Diagnostic>> {
        let bytes = text.as_bytes();
        let found = scan(bytes);
        let declarations = found.declarations(bytes);
        let live = without(&self.pieces, &declarations);
        let mut names = self.names.clone();
        names.extend(found.variables(bytes));
        let mut elsewhere = Vec::new();
        for text in included {
            let found = scan(text);
            names.extend(found.variables(text));
            elsewhere.extend(found.declarations(text));
        }
        let imported: BTreeSet<&str> = live
            .iter()
            .flat_map(|p| &p.declarations)
            .chain(&declarations)
            .chain(&elsewhere)
            .flat_map(|d| &d.names)
            .filter_map(|name| name.strip_prefix('$'))
            .collect();
        names.retain(|name| !imported.contains(&**name) && !self.declared.contains_key(name));
        let mut compiler = Compiler::new(Arc::clone(&self.registry)).loader(Arc::new(self.loader(&live)));
        for name in &names {
            compiler = compiler.context_variable(name, false);
        }
        for (name, readonly) in &self.declared {
            compiler = compiler.context_variable(name, *readonly);
        }
        let includes: String = live.iter().map(|p| format!("include \"{}\";", p.path)).collect();
        let name = format!("input-{}", self.inputs + 1);
        let lines = line_count(bytes);
        let finish = |compiled: Compiled, expression: bool| {
            let mut compiled = compiled;
            let shift = u32::from(expression);
            compiled.warnings.retain(|w| w.place.file.is_none() && w.place.line <= lines + shift);
            compiled.warnings.iter_mut().for_each(|w| mend(w, shift));
            names.extend(self.declared.keys().cloned());
            Input { compiled, expression, names, text: bytes.to_vec(), name: name.clone() }
        };
        let ended = found.tokens.last().is_none_or(|t| t.kind == super::scan::Kind::Mark(b';'));
        if !ended && declarations.is_empty() {
            let source = format!("return (\n{text}\n);\n{includes}");
            if let Ok(compiled) = compiler.compile(&name, source.as_bytes()) {
                return Ok(finish(compiled, true));
            }
        }
        let source = format!("{text}\n;\n{includes}");
        match compiler.compile(&name, source.as_bytes()) {
            Ok(compiled) => Ok(finish(compiled, false)),
            Err(mut errors) => {
                errors.iter_mut().for_each(|e| mend(e, 0));
                Err(errors)
            }
        }
    }

    fn loader(&self, live: &[Piece]) -> Files {
        let pieces = live.iter().map(|p| (p.path.clone(), Arc::from(p.text.as_slice()))).collect();
        Files { files: self.files.clone(), pieces }
    }

    /// Warnings about an input, in source order.
    pub fn warnings(input: &Input) -> &[Diagnostic] {
        &input.compiled.warnings
    }

    /// Begins to run an input. From here on its declarations belong to the session.
    pub fn start(&mut self, input: &Input, host: Box<dyn Host>) -> Vm {
        self.inputs += 1;
        self.keep_declarations(input);
        self.names.extend(input.names.iter().filter(|n| !self.declared.contains_key(*n)).cloned());
        let program = Arc::clone(&input.compiled.program);
        let mut vm = Vm::new(program, Arc::clone(&self.shared), Limits::default(), host);
        for (name, value) in &self.values {
            // Names that an import has taken over are not in the program.
            vm.set_variable(name, value.clone());
        }
        vm
    }

    /// Takes the variables over from an execution. One that was `stopped` amid its work ends here, and its objects
    /// with it; variables that could refer to them stay what they were.
    pub fn finish(&mut self, input: &Input, mut vm: Vm, stopped: bool) {
        for name in &input.names {
            match vm.variable(name) {
                Some(value) if stopped && needs_execution(&value, 0) => {}
                Some(value) => drop(self.values.insert(name.clone(), value)),
                None => drop(self.values.remove(name)),
            }
        }
        if !self.values.values().any(|value| needs_execution(value, 0)) {
            self.executions.clear();
        } else if !stopped {
            for name in &input.names {
                vm.set_variable(name, Value::None);
            }
            self.executions.push(vm);
        }
    }

    /// Puts the places of an error of an execution right.
    pub fn mend(input: &Input, error: &mut ScriptError) {
        let shift = u32::from(input.expression);
        mend(&mut error.diagnostic, shift);
        for (_, place) in &mut error.stack {
            mend_place(place, shift);
        }
    }

    fn keep_declarations(&mut self, input: &Input) {
        let sources = &input.compiled.program.sources().files;
        // The entry and, in their order, the files that it includes at top level.
        let mut top: HashMap<u32, Vec<Declaration>> = HashMap::new();
        let mut fresh = Vec::new();
        for (index, source) in (0_u32..).zip(sources) {
            let included = source.parent.is_some_and(|at| {
                top.get(&at.file).is_some_and(|list| {
                    list.iter()
                        .any(|d| d.declares == Declares::Include && d.range.contains(&(at.offset as usize)))
                })
            });
            let (path, text) = match index {
                0 => (format!("{INPUT}{}", input.name), input.text.as_slice()),
                _ if !included => continue,
                _ => match source.path.strip_prefix("file://") {
                    Some(rest) => (format!("kept+file://{rest}"), &*source.text),
                    None => (format!("kept://{}", source.path), &*source.text),
                },
            };
            let found = scan(text);
            self.names.extend(found.variables(text));
            let declarations = found.declarations(text);
            top.insert(index, declarations.clone());
            fresh.push((path, text.to_vec(), declarations));
        }
        for (path, text, declarations) in fresh {
            self.pieces = without(&self.pieces, &declarations);
            self.pieces.retain(|p| p.path != path);
            let kept: Vec<Declaration> =
                declarations.into_iter().filter(|d| d.declares != Declares::Include).collect();
            if !kept.is_empty() {
                let ranges: Vec<_> = kept.iter().map(|d| d.range.clone()).collect();
                self.pieces.push(Piece { path, text: blank_but(&text, &ranges), declarations: kept });
            }
        }
    }
}

/// What a script of a hook finds in its variables when there is no connection or message: empty arrays.
pub fn hook_values(hook: Hook) -> Vec<(String, Value)> {
    let arrays = hook.variables().iter().filter(|(name, _)| *name != "message");
    arrays.map(|(name, _)| ((*name).to_owned(), Value::from(Array::new()))).collect()
}

fn line_count(text: &[u8]) -> u32 {
    u32::try_from(text.iter().filter(|c| **c == b'\n').count() + 1).unwrap_or(u32::MAX)
}

/// The pieces without what `fresh` declares again.
fn without(pieces: &[Piece], fresh: &[Declaration]) -> Vec<Piece> {
    let names: BTreeSet<&String> = fresh.iter().flat_map(|d| &d.names).collect();
    let mut list = Vec::new();
    for piece in pieces {
        let kept: Vec<Declaration> = piece
            .declarations
            .iter()
            .filter(|d| !d.names.iter().any(|name| names.contains(name)))
            .cloned()
            .collect();
        if kept.is_empty() {
            continue;
        }
        let ranges: Vec<_> = kept.iter().map(|d| d.range.clone()).collect();
        list.push(Piece {
            path: piece.path.clone(),
            text: blank_but(&piece.text, &ranges),
            declarations: kept,
        });
    }
    list
}

/// Undoes what the session put around the text of an input.
fn mend(diagnostic: &mut Diagnostic, shift: u32) {
    if diagnostic.place.file.as_deref().is_some_and(|f| f.starts_with(INPUT) || f.starts_with("kept")) {
        // The session's own include is no step that the user made.
        diagnostic.path.pop();
    }
    mend_place(&mut diagnostic.place, shift);
    for place in &mut diagnostic.path {
        mend_place(place, shift);
    }
}

fn mend_place(place: &mut Place, shift: u32) {
    match &mut place.file {
        Some(file) => *file = Arc::from(original(file)),
        None => place.line = place.line.saturating_sub(shift).max(1),
    }
}

/// The value refers to objects, which end with their execution.
fn needs_execution(value: &Value, depth: usize) -> bool {
    match value {
        Value::Object(_) | Value::Function(_) => true,
        Value::Array(array) => {
            depth >= DEPTH_MAX
                || array.iter().any(|(key, value)| {
                    needs_execution(&key.to_value(), depth + 1) || needs_execution(value, depth + 1)
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsl::{NoHost, Step};

    fn session() -> Session {
        let mut files = ScriptFiles::new();
        files.insert("lib", &b"function lib() { return helper() + 1; }\n$loaded = 7;\ninclude \"more\";"[..]);
        files.insert("more", &b"\nfunction helper() { return 40; }"[..]);
        files.insert("module", &b"function exported() { return 5; }\n$state = 3;"[..]);
        Session::new(None, files)
    }

    /// The value of an input, or its error.
    fn run(session: &mut Session, text: &str) -> Result<Value, String> {
        let input = session.compile(text).map_err(|e| e[0].to_string())?;
        let mut vm = session.start(&input, Box::new(NoHost));
        let result = match vm.run(1 << 20) {
            Step::Done(value) => Ok(value),
            Step::Failed(mut error) => {
                Session::mend(&input, &mut error);
                Err(error.to_string())
            }
            _ => panic!("neither waits nor ends: {text}"),
        };
        session.finish(&input, vm, false);
        result
    }

    fn all(inputs: &[(&str, &str)]) {
        let mut session = session();
        for (text, expected) in inputs {
            let shown = match run(&mut session, text) {
                Ok(value) => super::super::show::show(&value),
                Err(message) => message,
            };
            assert_eq!(&shown, expected, "{text}");
        }
    }

    #[test]
    fn variables_stay() {
        all(&[
            ("$x = [1];", "none"),
            ("$x[] = 2;", "none"),
            ("$x", "[1, 2]"),
            ("$y = count($x) // c", "2"),
            ("unset($x);", "none"),
            ("isset($x)", "false"),
        ]);
    }

    #[test]
    fn functions_and_classes_stay() {
        all(&[
            ("function f($n) { return $n * 2; }", "none"),
            ("f(4)", "8"),
            ("function g() { return f(1) + 1; } $x = g();", "none"),
            ("$x", "3"),
            ("function f($n) { return $n * 10; }", "none"),
            ("g()", "11"),
        ]);
    }

    #[test]
    fn objects_stay() {
        all(&[
            (
                "class C { constructor() { $this->v = 1; } function inc() { $this->v += 1; return $this->v; } }",
                "none",
            ),
            ("$c = C();", "none"),
            ("$c->inc()", "2"),
            ("$c->inc()", "3"),
            ("$f = function ($o) { return $o->inc(); };", "none"),
            ("$f($c)", "4"),
            (
                "function counter() { $n = 0; return function () closure ($n) { $n += 1; return $n; }; }",
                "none",
            ),
            ("$next = counter();", "none"),
            ("$next()", "1"),
            ("$next()", "2"),
        ]);
    }

    #[test]
    fn files_stay() {
        all(&[
            ("include \"lib\";", "none"),
            ("lib()", "41"),
            ("$loaded", "7"),
            ("import { exported, $state } from \"module\";", "none"),
            ("exported() + $state", "8"),
            ("import { exported as other } from \"module\";", "none"),
            ("other() + exported()", "10"),
            ("import { exported } from \"module\";", "none"),
        ]);
    }

    #[test]
    fn places_are_those_of_the_input() {
        all(&[
            ("function f() {\n  throw \"no\";\n}", "none"),
            ("f()", "input-1:2:3: Uncaught no"),
            ("1 +\n nosuch()", "input-3:2:2: Unknown function 'nosuch'"),
            ("\n\nnone + 1", "input-3:3:6: Unsupported operand types for +: none and number"),
        ]);
    }

    #[test]
    fn unfinished_inputs() {
        let session = session();
        for (text, expected) in [
            ("1 +", true),
            ("1 +\n", false),
            ("1 + 1", false),
            ("if (1) {", true),
            ("function f()", true),
            ("echo 1", false),
            ("echo )", false),
            ("nosuch()", false),
            ("", false),
        ] {
            assert_eq!(session.unfinished(text), expected, "{text}");
        }
    }

    #[test]
    fn stopped_inputs_leave_plain_values() {
        let mut session = session();
        run(&mut session, "class C {} $o = C(); $n = 1;").unwrap();
        let input = session.compile("$n = 2; $o = C(); forever {}").unwrap();
        let mut vm = session.start(&input, Box::new(NoHost));
        assert!(matches!(vm.run(100), Step::OutOfFuel));
        session.finish(&input, vm, true);
        assert_eq!(run(&mut session, "$n").unwrap().as_number(), Some(2.0));
    }
}
