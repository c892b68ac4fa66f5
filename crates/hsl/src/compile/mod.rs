//! The compiler: loads a script with everything it names, resolves names to registers and slots, and emits bytecode.

mod assign;
mod call;
mod dead;
mod emit;
mod expr;
mod fold;
mod generate;
mod modules;
mod scan;
mod stmt;
mod variables;

use crate::array::Array;
use crate::ast::{Element, Expr, ExprKind, Import, ImportWhat, Name, Stmt, StmtKind};
use crate::diag::{Diagnostic, Severity, SourceFile, SourceMap, Span};
use crate::loader::{LoadError, Loader, NoFiles, resolve};
use crate::parser::{Entered, Includes, parse};
use crate::program::Program;
use crate::registry::Registry;
use crate::string::Str;
use crate::value::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Largest source file, bytes.
const SOURCE_MAX: usize = 16 << 20;
/// Included and imported files of one program.
const FILES_MAX: usize = 1000;
/// All source text of one program, bytes.
const TOTAL_MAX: usize = 64 << 20;
/// Deepest chain of includes and imports.
const CHAIN_MAX: usize = 50;
/// Errors and warnings reported.
const DIAGNOSTICS_MAX: usize = 20;

/// Compiles scripts against a registry.
#[derive(Clone)]
pub struct Compiler {
    pub(crate) registry: Arc<Registry>,
    loader: Arc<dyn Loader>,
    pub(crate) context: Vec<(String, bool)>,
    pub(crate) probes: bool,
    pub(crate) fragment: bool,
    base: Option<String>,
}

/// A compiled program and what the compiler has to say about it.
#[derive(Debug)]
pub struct Compiled {
    /// The program.
    pub program: Arc<Program>,
    /// Warnings in source order.
    pub warnings: Vec<Diagnostic>,
}

impl Compiler {
    /// A compiler without files and context variables.
    pub fn new(registry: Arc<Registry>) -> Compiler {
        Compiler {
            registry,
            loader: Arc::new(NoFiles),
            context: Vec::new(),
            probes: false,
            fragment: false,
            base: None,
        }
    }

    /// Sets where included and imported files come from.
    #[must_use]
    pub fn loader(mut self, loader: Arc<dyn Loader>) -> Compiler {
        self.loader = loader;
        self
    }

    /// Declares a variable (without dollar) that the host sets before the run, see
    /// [`Vm::set_variable`](crate::Vm::set_variable).
    #[must_use]
    pub fn context_variable(mut self, name: &str, readonly: bool) -> Compiler {
        self.context.push((name.to_owned(), readonly));
        self
    }

    /// Adds probes for an [`Observer`](crate::Observer), which makes programs slower.
    #[must_use]
    pub fn probes(mut self, yes: bool) -> Compiler {
        self.probes = yes;
        self
    }

    /// The source is a file that others include or import: its top-level variables draw no warnings.
    #[must_use]
    pub fn fragment(mut self, yes: bool) -> Compiler {
        self.fragment = yes;
        self
    }

    /// Sets the canonical path (see [`Loader`]) that relative paths in the entry script start from, when that is not
    /// the path it is compiled under.
    #[must_use]
    pub fn base(mut self, path: &str) -> Compiler {
        self.base = Some(path.to_owned());
        self
    }

    /// Compiles `source`; `path` names it in messages.
    ///
    /// # Errors
    /// Up to 20 diagnostics, in source order.
    pub fn compile(&self, path: &str, source: &[u8]) -> Result<Compiled, Vec<Diagnostic>> {
        let mut unit = Unit {
            compiler: self,
            sources: SourceMap::default(),
            notes: Vec::new(),
            modules: Vec::new(),
            index: HashMap::new(),
            loading: Vec::new(),
            including: Vec::new(),
            included: HashSet::new(),
            files: HashMap::new(),
            total_bytes: 0,
        };
        unit.load_module(path, Arc::from(source), None);
        let Unit { sources, notes, modules, .. } = unit;
        let mut notes = notes;
        let failed = |notes: &[Note]| notes.iter().any(|n| n.severity == Severity::Error);
        let mut program = None;
        if !failed(&notes) {
            let (built, more) = generate::generate(self, modules);
            notes.extend(more);
            program = Some(built);
        }
        let errors = failed(&notes);
        if errors {
            notes.retain(|n| n.severity == Severity::Error);
        }
        notes.sort_by_key(|n| (n.span.file, n.span.offset));
        notes.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        notes.truncate(DIAGNOSTICS_MAX);
        let list: Vec<Diagnostic> =
            notes.into_iter().map(|n| sources.diagnostic(n.severity, n.span, n.message)).collect();
        match program {
            Some(mut program) if !errors => {
                program.sources = sources;
                Ok(Compiled { program: Arc::new(program), warnings: list })
            }
            _ => Err(list),
        }
    }
}

/// A message of the compiler before its place is worked out.
pub(crate) struct Note {
    pub(crate) severity: Severity,
    pub(crate) span: Span,
    pub(crate) message: String,
}

/// A parsed module: the entry script or an imported file.
pub(crate) struct Module {
    pub(crate) path: String,
    /// Index of its source file.
    pub(crate) file: u32,
    pub(crate) body: Vec<Stmt>,
    pub(crate) imports: Vec<(Import, Source)>,
    /// Functions and classes of the library that it exports; only modules of the library have some.
    pub(crate) natives: Vec<&'static str>,
}

/// What an import statement refers to.
pub(crate) enum Source {
    /// Index of an earlier module.
    Module(usize),
    Data(Value),
}

struct Unit<'a> {
    compiler: &'a Compiler,
    sources: SourceMap,
    notes: Vec<Note>,
    modules: Vec<Module>,
    index: HashMap<String, usize>,
    /// Modules being loaded, to find cycles.
    loading: Vec<String>,
    /// Canonical paths of the files being parsed, innermost last.
    including: Vec<String>,
    /// Files that the current module has included.
    included: HashSet<String>,
    files: HashMap<String, Arc<[u8]>>,
    total_bytes: usize,
}

impl Unit<'_> {
    fn error(&mut self, span: Span, message: impl Into<String>) {
        self.notes.push(Note { severity: Severity::Error, span, message: message.into() });
    }

    fn add_file(&mut self, path: &str, text: &Arc<[u8]>, parent: Option<Span>) -> Result<u32, String> {
        if text.len() > SOURCE_MAX {
            return Err(format!("File '{path}' is larger than {} MiB", SOURCE_MAX >> 20));
        }
        self.total_bytes += text.len();
        if self.total_bytes > TOTAL_MAX || self.sources.files.len() >= FILES_MAX {
            return Err(format!(
                "Program is too large: more than {FILES_MAX} files or {} MiB",
                TOTAL_MAX >> 20
            ));
        }
        let file = self.sources.files.len() as u32;
        self.sources.files.push(SourceFile::new(path, Arc::clone(text), parent));
        Ok(file)
    }

    fn read(&mut self, path: &str) -> Result<Arc<[u8]>, String> {
        if let Some(text) = self.files.get(path) {
            return Ok(Arc::clone(text));
        }
        let text = self.compiler.loader.load(path).map_err(|e| match e {
            LoadError::NotFound => format!("File '{path}' not found"),
            LoadError::Refused(why) => format!("Cannot read '{path}': {why}"),
        })?;
        self.files.insert(path.to_owned(), Arc::clone(&text));
        Ok(text)
    }

    /// Loads a module and what it imports; modules are stored in the order in which they can be compiled.
    fn load_module(&mut self, path: &str, text: Arc<[u8]>, parent: Option<Span>) -> Option<usize> {
        let file = match self.add_file(path, &text, parent) {
            Ok(file) => file,
            Err(message) => {
                // For the entry script there is no file to point into yet.
                if self.sources.files.is_empty() {
                    self.sources.files.push(SourceFile::new(path, Arc::from(&b""[..]), parent));
                }
                self.error(parent.unwrap_or_default(), message);
                return None;
            }
        };
        let entry = file == 0;
        let base = self.compiler.base.as_deref().filter(|_| entry).unwrap_or(path);
        let outer_including = std::mem::replace(&mut self.including, vec![base.to_owned()]);
        let outer_included = std::mem::take(&mut self.included);
        let (mut body, errors) = parse(file, &text, self);
        for e in errors {
            self.error(e.span, e.message);
        }
        self.including = outer_including;
        self.included = outer_included;
        self.loading.push(base.to_owned());
        let mut found = Vec::new();
        take_imports(&mut body, &mut found);
        let mut imports = Vec::new();
        for (import, importer) in found {
            let importer = match (&self.compiler.base, self.sources.files.get(importer as usize)) {
                (Some(base), _) if importer == 0 => base.clone(),
                (_, file) => file.map_or_else(String::new, |f| f.path.to_string()),
            };
            if let Some(source) = self.load_import(&import, &importer) {
                imports.push((import, source));
            }
        }
        self.loading.pop();
        self.modules.push(Module { path: path.to_owned(), file, body, imports, natives: Vec::new() });
        Some(self.modules.len() - 1)
    }

    /// A module that is part of the library.
    fn library_module(&mut self, path: &str, span: Span) -> Option<usize> {
        let natives = self.compiler.registry.module(path.strip_prefix("extras://")?)?.to_vec();
        let (file, path) = (span.file, path.to_owned());
        self.modules.push(Module { path, file, body: Vec::new(), imports: Vec::new(), natives });
        Some(self.modules.len() - 1)
    }

    fn load_import(&mut self, import: &Import, importer: &str) -> Option<Source> {
        let span = import.path_span;
        let path = match resolve(import.path.as_bytes(), importer) {
            Ok(path) => path,
            Err(message) => {
                self.error(span, message);
                return None;
            }
        };
        if let ImportWhat::Data { .. } = &import.what {
            return self.load_data(import, &path).map(Source::Data);
        }
        if let Some(index) = self.index.get(&path) {
            return Some(Source::Module(*index));
        }
        if let Some(index) = self.library_module(&path, span) {
            self.index.insert(path, index);
            return Some(Source::Module(index));
        }
        if self.loading.contains(&path) {
            self.error(span, format!("Import of '{path}' is cyclic"));
            return None;
        }
        if self.loading.len() >= CHAIN_MAX {
            self.error(span, format!("Imports are nested deeper than {CHAIN_MAX} levels"));
            return None;
        }
        let text = match self.read(&path) {
            Ok(text) => text,
            Err(message) => {
                self.error(span, message);
                return None;
            }
        };
        let index = self.load_module(&path, text, Some(span))?;
        self.index.insert(path, index);
        Some(Source::Module(index))
    }

    fn load_data(&mut self, import: &Import, path: &str) -> Option<Value> {
        let span = import.path_span;
        let options = match &import.options {
            None => Array::new(),
            Some(e) => match fold::constant(e) {
                Some(Value::Array(options)) => options,
                _ => {
                    self.error(e.span, "Import options must be a constant array");
                    return None;
                }
            },
        };
        let option_span = |name: &str| import.options.as_ref().map_or(span, |e| key_span(e, name));
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
        let kind = match options.get_str("type") {
            Some(Value::Str(s)) if [b"json".as_slice(), b"yaml", b"csv", b"txt"].contains(&s.as_bytes()) => {
                s.to_text().into_owned()
            }
            Some(_) => {
                self.error(option_span("type"), "Import option 'type' must be json, yaml, csv or txt");
                return None;
            }
            None => match extension {
                "json" | "yaml" | "csv" | "key" | "crt" => extension.to_owned(),
                "yml" => "yaml".to_owned(),
                _ => "txt".to_owned(),
            },
        };
        let known: &[&str] = match &*kind {
            "csv" => &["delimiter", "header", "schema", "type"],
            "txt" => &["array", "type"],
            "crt" => &["resource", "type"],
            _ => &["type"],
        };
        for key in options.keys() {
            let key = key.to_value().to_string_lossy();
            if !known.contains(&&*key) {
                let hint = crate::diag::hint(&key, "", known.iter().copied());
                let message = format!("Unknown import option '{key}' for {kind} data{hint}");
                self.error(option_span(&key), message);
                return None;
            }
        }
        let result = self.read(path).and_then(|data| {
            if data.len() > SOURCE_MAX {
                return Err(format!("File '{path}' is larger than {} MiB", SOURCE_MAX >> 20));
            }
            self.compiler
                .loader
                .decode(&kind, &data, &options)
                .map_err(|e| format!("Cannot import '{path}': line {}: {}", e.line, e.message))
        });
        match result {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(span, message);
                None
            }
        }
    }
}

impl Includes for Unit<'_> {
    fn enter(&mut self, path: &Str, span: Span, once: bool) -> Result<Option<Entered>, String> {
        let importer = self.including.last().cloned().unwrap_or_default();
        let path = resolve(path.as_bytes(), &importer)?;
        if self.including.contains(&path) {
            return Err(format!("Include of '{path}' is cyclic"));
        }
        if once && self.included.contains(&path) {
            return Ok(None);
        }
        if self.including.len() >= CHAIN_MAX {
            return Err(format!("Includes are nested deeper than {CHAIN_MAX} levels"));
        }
        let text = self.read(&path)?;
        let file = self.add_file(&path, &text, Some(span))?;
        self.included.insert(path.clone());
        self.including.push(path);
        Ok(Some((file, text)))
    }

    fn leave(&mut self) {
        self.including.pop();
    }
}

/// The place of a key in an array literal.
fn key_span(array: &Expr, name: &str) -> Span {
    let ExprKind::Array(elements) = &*array.kind else { return array.span };
    let keys = elements.iter().filter_map(|element| match element {
        Element::Pair(key, _) => Some(key),
        _ => None,
    });
    let is = |key: &&Expr| fold::constant(key).is_some_and(|v| v.as_str_bytes() == Some(name.as_bytes()));
    keys.into_iter().find(is).map_or(array.span, |key| key.span)
}

/// Takes the import statements off the top level, with the file each stands in.
fn take_imports(body: &mut [Stmt], found: &mut Vec<(Import, u32)>) {
    for stmt in body {
        match &mut stmt.kind {
            StmtKind::Included(body) => take_imports(body, found),
            StmtKind::Import(import) => {
                found.push((import.clone(), stmt.span.file));
                stmt.kind = StmtKind::Empty;
            }
            _ => {}
        }
    }
}

/// Names that a module offers to importers.
#[derive(Default)]
pub(crate) struct Exports {
    pub(crate) symbols: HashMap<Name, generate::Symbol>,
    pub(crate) globals: HashMap<Name, u32>,
}
