//! Places in source text and what the compiler and the machine say about them (language section 11, "Messages").

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A byte position in one inclusion of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Span {
    /// Index into [`SourceMap::files`].
    pub file: u32,
    /// Offset, bytes.
    pub offset: u32,
}

/// One inclusion of a source file. A file included twice has two entries with different parents.
#[derive(Debug)]
pub struct SourceFile {
    /// Path as given to the loader; for the entry script the name given by the host.
    pub path: Arc<str>,
    /// The text.
    pub text: Arc<[u8]>,
    /// The `include` or `import` that brought it in; `None` for the entry script.
    pub parent: Option<Span>,
    /// Offsets at which lines begin, found when a place is first asked for.
    lines: OnceLock<Vec<u32>>,
}

impl SourceFile {
    /// A file that was brought in by `parent`.
    pub fn new(path: impl Into<Arc<str>>, text: Arc<[u8]>, parent: Option<Span>) -> SourceFile {
        SourceFile { path: path.into(), text, parent, lines: OnceLock::new() }
    }

    /// Line and column of an offset, both from 1.
    pub fn line_column(&self, offset: usize) -> (u32, u32) {
        let lines = self.lines.get_or_init(|| {
            // The compiler takes no file whose offsets exceed 32 bits.
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', &self.text).map(|i| i as u32 + 1)).collect()
        });
        let offset = offset.min(self.text.len()) as u32;
        let line = lines.partition_point(|start| *start <= offset);
        (line as u32, offset - lines.get(line.wrapping_sub(1)).copied().unwrap_or(0) + 1)
    }

    /// The text of a line, counted from 1, without its line end; empty behind the last one.
    pub fn line(&self, line: u32) -> &[u8] {
        let text = self.text.split(|c| *c == b'\n').nth((line as usize).wrapping_sub(1)).unwrap_or_default();
        text.strip_suffix(b"\r").unwrap_or(text)
    }
}

/// All source files of a program.
#[derive(Debug, Default)]
pub struct SourceMap {
    /// The files by index; 0 is the entry script.
    pub files: Vec<SourceFile>,
}

impl SourceMap {
    /// Line, column and file of a span.
    pub fn place(&self, span: Span) -> Place {
        let Some(file) = self.files.get(span.file as usize) else {
            return Place { file: None, entry: Arc::from("?"), line: 1, column: 1 };
        };
        let (line, column) = file.line_column(span.offset as usize);
        Place {
            file: file.parent.map(|_| Arc::clone(&file.path)),
            entry: self.files.first().map_or_else(|| Arc::from("?"), |f| Arc::clone(&f.path)),
            line,
            column,
        }
    }

    /// The chain of inclusions above a span, innermost first.
    pub fn chain(&self, span: Span) -> Vec<Place> {
        let mut chain = Vec::new();
        let mut at = span;
        while let Some(parent) = self.files.get(at.file as usize).and_then(|f| f.parent) {
            chain.push(self.place(parent));
            at = parent;
        }
        chain
    }

    /// The text of the line a span is on, without its line end.
    pub fn line_text(&self, span: Span) -> &[u8] {
        let Some(file) = self.files.get(span.file as usize) else { return b"" };
        let at = (span.offset as usize).min(file.text.len());
        let start = file.text[..at].iter().rposition(|c| *c == b'\n').map_or(0, |i| i + 1);
        let end = file.text[at..].iter().position(|c| *c == b'\n').map_or(file.text.len(), |i| at + i);
        file.text[start..end].strip_suffix(b"\r").unwrap_or(&file.text[start..end])
    }

    /// Builds a diagnostic for a span.
    pub fn diagnostic(&self, severity: Severity, span: Span, message: String) -> Diagnostic {
        Diagnostic {
            severity,
            place: self.place(span),
            message,
            path: self.chain(span),
            source_line: String::from_utf8_lossy(self.line_text(span)).into_owned(),
        }
    }
}

/// File, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The included or imported file; `None` in the entry script.
    pub file: Option<Arc<str>>,
    /// Name of the entry script.
    pub entry: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, bytes.
    pub column: u32,
}

impl Place {
    /// The file, or the name of the entry script.
    pub fn file_or_entry(&self) -> &str {
        self.file.as_deref().unwrap_or(&self.entry)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file_or_entry(), self.line, self.column)
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The program runs, but probably not as meant.
    Warning,
    /// The program cannot be compiled.
    Error,
}

/// A message of the compiler about a place.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What: capital letter, no full stop.
    pub message: String,
    /// The inclusions above the place, innermost first.
    pub path: Vec<Place>,
    /// Text of the source line.
    pub source_line: String,
}

impl Diagnostic {
    /// The message with the chain of inclusions, the source line and a caret under the column.
    pub fn render(&self) -> String {
        let mut out = format!("{self}");
        let mut caret = String::new();
        for c in self.source_line.bytes().take(self.place.column.saturating_sub(1) as usize) {
            caret.push(if c == b'\t' { '\t' } else { ' ' });
        }
        out.push_str(&format!("\n  | {}\n  | {caret}^", self.source_line));
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = if self.severity == Severity::Warning { "warning: " } else { "" };
        write!(f, "{}: {label}{}", self.place, self.message)?;
        for step in &self.path {
            write!(f, "\n  included from {step}")?;
        }
        Ok(())
    }
}

/// Why an execution failed: an uncaught exception or a limit.
#[derive(Debug, Clone)]
pub struct ScriptError {
    /// Message and place.
    pub diagnostic: Diagnostic,
    /// The thrown value; `None` for limits.
    pub value: Option<crate::Value>,
    /// The active functions, innermost first, each with the place that it has reached.
    pub stack: Vec<(String, Place)>,
}

impl ScriptError {
    /// The calls that led to the failure as lines `  at PLACE in FUNCTION`; empty when it happened in the main script.
    pub fn trace(&self) -> String {
        let mut out = String::new();
        if self.stack.len() > 1 {
            for (function, place) in &self.stack {
                out.push_str(&format!("\n  at {place} in {function}"));
            }
        }
        out
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostic.fmt(f)
    }
}

impl std::error::Error for ScriptError {}

/// The candidate nearest to `name`, if it is near enough to suggest.
pub(crate) fn suggest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (name.len() / 3).clamp(1, 3);
    candidates
        .filter(|c| *c != name)
        // Any two letters are near each other; short names have to go on as they begin.
        .filter(|c| name.len() > 2 || c.starts_with(name))
        .filter(|c| c.len().abs_diff(name.len()) <= bound && c.len() <= 64)
        .map(|c| (distance(name.as_bytes(), c.as_bytes()), c))
        .filter(|(d, _)| *d <= bound)
        .min()
        .map(|(_, c)| c)
}

/// [`suggest`] as the end of a message; empty when nothing is near. `mark` goes before the name.
pub(crate) fn hint<'a>(name: &str, mark: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    suggest(name, candidates).map_or_else(String::new, |near| format!("; did you mean '{mark}{near}'?"))
}

/// Letters to insert, remove or replace, or neighbours to exchange, to turn `a` into `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near() {
        let names = ["str_find", "str_rfind", "length", "array_map"];
        assert_eq!(suggest("lenght", names.into_iter()), Some("length"));
        assert_eq!(suggest("str_fnd", names.into_iter()), Some("str_find"));
        assert_eq!(suggest("zzz", names.into_iter()), None);
        assert_eq!(suggest("a", ["b", "i"].into_iter()), None);
        assert_eq!(suggest("ad", ["add", "id"].into_iter()), Some("add"));
    }
}
