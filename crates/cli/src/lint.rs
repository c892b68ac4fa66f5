//! `hsl-lint`: compiles one script as an editor holds it, with the files of its configuration, and reports what is
//! wrong as YAML (configuration section 13.4).

use config::load;
use config::node::Node;
use hsl::{Compiled, Compiler, Diagnostic, Place, Registry, Severity};
use hsl_std::ScriptFiles;
use hsl_std::hooks::{self, Hook};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a request cannot be linted; the caller's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is no YAML of the expected form.
    #[error("{0}")]
    Request(#[from] load::Error),
    /// The request is no text.
    #[error("standard input: not valid UTF-8")]
    Encoding,
    /// The phase is none of ours.
    #[error("standard input: /phase: no phase \"{0}\"")]
    Phase(String),
}

/// What there is to say about a script.
#[derive(Debug)]
pub enum Report {
    /// Nothing.
    Clean,
    /// A YAML document `{warnings: [...]}`; the script compiles.
    Warnings(String),
    /// A YAML document with the first error and, under `more`, the others.
    Errors(String),
}

/// The request on standard input.
#[derive(Deserialize)]
struct Request {
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default)]
    phase: Option<String>,
    data: String,
    #[serde(default)]
    files: Option<Vec<File>>,
    #[serde(default)]
    scripting: Option<Scripting>,
    #[serde(default, rename = "plugins")]
    _plugins: IgnoredAny,
}

#[derive(Deserialize)]
struct File {
    id: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    binary: bool,
}

/// `scripting` of the startup file; the other keys do not change what compiles.
#[derive(Deserialize)]
struct Scripting {
    #[serde(default)]
    rootpath: Option<PathBuf>,
}

/// Lints the request in `input`.
///
/// # Errors
/// [`Error`] when the request itself is wrong; errors of the script are a [`Report`].
pub fn lint(input: &[u8]) -> Result<Report, Error> {
    let text = std::str::from_utf8(input).map_err(|_| Error::Encoding)?;
    let request: Request = load::parse("standard input", text)?;
    let compiler = match request.phase.as_deref().unwrap_or_default() {
        "" => file_compiler(),
        name => {
            hook_compiler(Hook::from_name(name).ok_or_else(|| Error::Phase(name.to_owned()))?, &library())
        }
    };
    let mut files = ScriptFiles::new();
    for file in request.files.into_iter().flatten() {
        let data = file.data.into_bytes();
        files.insert(file.id, if file.binary { hsl_std::base64_decode(&data) } else { data });
    }
    if let Some(root) = request.scripting.and_then(|scripting| scripting.rootpath) {
        files.set_root(root);
    }
    Ok(report(compiler.loader(Arc::new(files)).compile("-", request.data.as_bytes())))
}

fn library() -> Arc<Registry> {
    hsl_std::shared_registry()
}

/// A compiler for scripts of `hook` over `library`.
pub fn hook_compiler(hook: Hook, library: &Arc<Registry>) -> Compiler {
    hook.variables()
        .iter()
        .fold(Compiler::new(hooks::registry(hook, library)), |compiler, (name, readonly)| {
            compiler.context_variable(name, *readonly)
        })
}

/// A file may be included by any hook, so it may use what any of them has. Where two hooks have a function of the same
/// name, any of the two will do: the linter does not run it.
fn file_compiler() -> Compiler {
    let registry = Hook::ALL.into_iter().fold(library(), |below, hook| hooks::registry(hook, &below));
    let mut names: Vec<&str> = Hook::ALL.iter().flat_map(|h| h.variables()).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let compiler = Compiler::new(registry).fragment(true);
    names.into_iter().fold(compiler, |compiler, name| compiler.context_variable(name, false))
}

fn report(result: Result<Compiled, Vec<Diagnostic>>) -> Report {
    match result {
        Ok(compiled) if compiled.warnings.is_empty() => Report::Clean,
        Ok(compiled) => {
            let list = compiled.warnings.iter().map(|w| Node::Map(finding(w))).collect();
            Report::Warnings(Node::Map(vec![("warnings".into(), Node::List(list))]).to_yaml())
        }
        Err(errors) => {
            let mut errors = errors.iter().map(finding);
            let mut document = errors.next().unwrap_or_default();
            let more: Vec<Node> = errors.map(Node::Map).collect();
            if !more.is_empty() {
                document.push(("more".into(), Node::List(more)));
            }
            Report::Errors(Node::Map(document).to_yaml())
        }
    }
}

fn finding(diagnostic: &Diagnostic) -> Vec<(String, Node)> {
    let severity = if diagnostic.severity == Severity::Warning { "warning" } else { "error" };
    let mut pairs = vec![
        ("message".to_owned(), Node::Str(diagnostic.message.clone())),
        ("severity".to_owned(), Node::Str(severity.into())),
    ];
    pairs.extend(place(&diagnostic.place));
    if !diagnostic.path.is_empty() {
        let chain = diagnostic.path.iter().map(|step| Node::Map(place(step))).collect();
        pairs.push(("path".into(), Node::List(chain)));
    }
    pairs
}

fn place(place: &Place) -> Vec<(String, Node)> {
    let file = place.file.iter().map(|file| ("file".to_owned(), Node::Str(file.to_string())));
    file.chain([
        ("line".to_owned(), Node::Int(place.line.into())),
        ("column".to_owned(), Node::Int(place.column.into())),
    ])
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_use_every_hook() {
        for call in ["Accept();", "Try();", "Bounce();", "Pass();", "echo $message;", "$context = [];"] {
            let report = lint(format!("data: '{call}'").as_bytes()).unwrap();
            assert!(!matches!(report, Report::Errors(_)), "{call}: {report:?}");
        }
    }

    #[test]
    fn hooks_may_use_their_own() {
        for (phase, call, fine) in [
            ("eod", "Accept();", true),
            ("eod", "Bounce();", false),
            ("predelivery", "Try();", true),
            ("predelivery", "Accept();", false),
            ("postdelivery", "Default();", true),
            ("connect", "$arguments = 1;", false),
        ] {
            let report = lint(format!("{{phase: {phase}, data: '{call}'}}").as_bytes()).unwrap();
            assert_eq!(!matches!(report, Report::Errors(_)), fine, "{phase} {call}: {report:?}");
        }
    }
}
