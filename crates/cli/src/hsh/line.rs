//! Line editing: what completes, what is shown behind the cursor, and when Enter hands the input over.

use super::scan::{Declares, Kind, Scan, scan};
use super::session::Session;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Keywords that complete.
const KEYWORDS: [&str; 44] = [
    "and",
    "array",
    "as",
    "barrier",
    "break",
    "builtin",
    "cache",
    "case",
    "catch",
    "class",
    "closure",
    "constructor",
    "continue",
    "default",
    "echo",
    "else",
    "false",
    "for",
    "foreach",
    "forever",
    "from",
    "function",
    "global",
    "if",
    "import",
    "include",
    "include_once",
    "isset",
    "match",
    "none",
    "not",
    "or",
    "private",
    "readonly",
    "return",
    "static",
    "switch",
    "throw",
    "true",
    "try",
    "unset",
    "while",
    "with",
    "yield",
];

/// The session as the line editor sees it.
pub struct Line {
    session: Rc<RefCell<Session>>,
    colour: bool,
}

impl Line {
    /// Over a session, with or without colour.
    pub fn new(session: Rc<RefCell<Session>>, colour: bool) -> Line {
        Line { session, colour }
    }
}

impl Helper for Line {}

impl Validator for Line {
    fn validate(&self, cx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match self.session.borrow().unfinished(cx.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Highlighter for Line {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        if self.colour { format!("\x1b[2m{hint}\x1b[0m").into() } else { hint.into() }
    }

    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if self.colour { highlighted(line).into() } else { line.into() }
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.colour
    }
}

impl Hinter for Line {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        if pos < line.len() {
            return None;
        }
        parameters(&self.session.borrow(), line)
    }
}

impl Completer for Line {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(complete(&self.session.borrow(), line, pos))
    }
}

/// The input with its keywords, variables, strings and numbers in colour.
fn highlighted(line: &str) -> String {
    let mut out = String::new();
    let mut done = 0;
    for token in scan(line.as_bytes()).tokens {
        let Some(text) = line.get(token.range.clone()) else { continue };
        let code = match token.kind {
            Kind::Word if KEYWORDS.contains(&text) => "\x1b[1;34m",
            Kind::Word if text.starts_with(|c: char| c.is_ascii_digit()) => "\x1b[36m",
            Kind::Variable => "\x1b[33m",
            Kind::Text => "\x1b[32m",
            _ => continue,
        };
        out.push_str(line.get(done..token.range.start).unwrap_or_default());
        out.extend([code, text, "\x1b[0m"]);
        done = token.range.end;
    }
    out.push_str(line.get(done..).unwrap_or_default());
    out
}

/// Signature of a function by its name, aliases under their own name.
fn signature(session: &Session, name: &str) -> Option<String> {
    let own = session.declarations().find(|d| d.declares == Declares::Function && d.names[0] == name);
    if let Some(own) = own {
        return Some(own.signature.clone());
    }
    let registry = session.registry();
    let def = match registry.function(name) {
        Some(def) => Some(def),
        None => registry.class(name).and_then(|class| class.constructor.as_ref()),
    }?;
    let list = def.signature.split_once('(').map_or("", |(_, list)| list);
    Some(format!("{name}({list}"))
}

/// What is still to be given to the call at the end of `line`.
fn parameters(session: &Session, line: &str) -> Option<String> {
    let text = line.as_bytes();
    let found: Scan = scan(text);
    if found.open {
        return None;
    }
    let open = *found.brackets()?.last()?;
    let head = found.tokens.get(open.checked_sub(1)?)?;
    if found.tokens[open].kind != Kind::Mark(b'(') || head.kind != Kind::Word {
        return None;
    }
    let signature = signature(session, &line[head.range.clone()])?;
    let list = signature.split_once('(')?.1.strip_suffix(')')?;
    let mut depth = 0_usize;
    let mut commas = 0;
    for token in &found.tokens[open + 1..] {
        match token.kind {
            Kind::Mark(b'(' | b'[' | b'{') => depth += 1,
            Kind::Mark(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Mark(b',') if depth == 0 => commas += 1,
            _ => {}
        }
    }
    let begun = !matches!(found.tokens.last()?.kind, Kind::Mark(b'(' | b','));
    let rest: Vec<&str> = list.split(',').map(str::trim).skip(commas + usize::from(begun)).collect();
    let lead = if begun && !rest.is_empty() { ", " } else { "" };
    Some(format!("{lead}{})", rest.join(", ")))
}

/// Where the word at `pos` starts, and what it may become.
pub(crate) fn complete(session: &Session, line: &str, pos: usize) -> (usize, Vec<Pair>) {
    let Some(before) = line.get(..pos) else { return (pos, Vec::new()) };
    let start = before
        .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let (ahead, word) = before.split_at(start);
    // In strings only their variables complete.
    let quoted = scan(ahead.as_bytes()).open;
    let mut list: BTreeMap<String, String> = BTreeMap::new();
    if ahead.ends_with('$') || (quoted && ahead.ends_with("${")) {
        let text = line.as_bytes();
        let found = scan(text);
        let mut names: BTreeSet<String> = found
            .tokens
            .iter()
            .filter(|t| t.kind == Kind::Variable && t.range.end != pos)
            .map(|t| line[t.range.start + 1..t.range.end].to_owned())
            .collect();
        names.extend(session.variables().map(str::to_owned));
        list.extend(names.into_iter().map(|name| (name.clone(), format!("${name}"))));
    } else if !quoted && !ahead.ends_with("->") && !ahead.ends_with("::") && !word.is_empty() {
        list.extend(KEYWORDS.iter().map(|k| ((*k).to_owned(), (*k).to_owned())));
        let registry = session.registry();
        let own =
            session.declarations().filter(|d| matches!(d.declares, Declares::Function | Declares::Import));
        let own_functions = own.flat_map(|d| &d.names).filter(|n| !n.starts_with('$')).map(String::as_str);
        for name in registry.names().into_iter().chain(own_functions) {
            match signature(session, name) {
                Some(signature) => list.insert(format!("{name}("), signature),
                None => list.insert(name.to_owned(), name.to_owned()),
            };
        }
        for class in session.declarations().filter(|d| d.declares == Declares::Class) {
            list.insert(class.names[0].clone(), format!("class {}", class.names[0]));
        }
    }
    let pairs = list.into_iter().filter(|(name, _)| name.starts_with(word));
    (start, pairs.map(|(replacement, display)| Pair { display, replacement }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsl::NoHost;

    fn session() -> Session {
        let mut session = Session::new(None, hsl_std::ScriptFiles::new());
        let input =
            session.compile("function greet($name, $mark = 1) {} class Greeter {} $green = 1;").unwrap();
        let mut vm = session.start(&input, Box::new(NoHost));
        assert!(matches!(vm.run(1000), hsl::Step::Done(_)));
        session.finish(&input, vm, false);
        session
    }

    #[test]
    fn input_in_colour() {
        for (line, expected) in [
            (
                "echo f($x, 1.5) . \"é\"",
                "\x1b[1;34mecho\x1b[0m f(\x1b[33m$x\x1b[0m, \x1b[36m1\x1b[0m.\x1b[36m5\x1b[0m) . \x1b[32m\"é\"\x1b[0m",
            ),
            ("é \"open", "é \x1b[32m\"open\x1b[0m"),
            ("// only", "// only"),
        ] {
            assert_eq!(highlighted(line), expected, "{line}");
        }
    }

    #[test]
    fn words_complete() {
        let session = session();
        for (line, start, expected) in [
            ("gree", 0, &["greet("][..]),
            ("1 + Gree", 4, &["Greeter"]),
            ("echo $gr", 6, &["green"]),
            ("echo \"$gr", 7, &["green"]),
            ("echo \"gre", 6, &[]),
            ("$x->gre", 4, &[]),
            ("$length = 1; $le", 14, &["length"]),
            ("forev", 0, &["forever"]),
            ("str_repe", 0, &["str_repeat("]),
            ("é", 2, &[]),
        ] {
            let (at, pairs) = complete(&session, line, line.len());
            let found: Vec<&str> = pairs.iter().map(|p| &*p.replacement).collect();
            assert_eq!((at, &found[..]), (start, expected), "{line}");
        }
    }

    #[test]
    fn hints_are_what_is_missing() {
        let session = session();
        for (line, expected) in [
            ("greet(", Some("$name, $mark = 1)")),
            ("greet(1", Some(", $mark = 1)")),
            ("greet([1, 2], ", Some("$mark = 1)")),
            ("greet(1, 2", Some(")")),
            ("greet(1)", None),
            ("nosuch(", None),
            ("greet(\"", None),
        ] {
            assert_eq!(parameters(&session, line).as_deref(), expected, "{line}");
        }
    }
}
