//! Splits source text just far enough for the shell: where strings and comments are, which brackets are open, and
//! what a text declares at top level. The compiler alone says what is valid.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// `$name`.
    Variable,
    /// A string or pattern.
    Text,
    /// One character of punctuation.
    Mark(u8),
}

/// A token, and where it is in the text.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub range: Range<usize>,
}

/// The tokens of a text.
#[derive(Debug, Default)]
pub struct Scan {
    /// In order.
    pub tokens: Vec<Token>,
    /// A string, pattern or comment is not closed.
    pub open: bool,
}

/// What a text declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declares {
    /// A function.
    Function,
    /// A class.
    Class,
    /// Whatever an import names.
    Import,
    /// Nothing itself: `include`, `include_once`.
    Include,
}

/// A declaration at top level.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// What it declares.
    pub declares: Declares,
    /// The names; of variables with dollar.
    pub names: Vec<String>,
    /// All of it.
    pub range: Range<usize>,
    /// `name(parameters)` of a function.
    pub signature: String,
}

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

/// Splits `text`.
pub fn scan(text: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        let rest = &text[at..];
        let (kind, len) = match c {
            _ if c.is_ascii_whitespace() || c == 0x0b => (None, 1),
            b'/' if rest.starts_with(b"//") => {
                (None, rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len()))
            }
            b'/' if rest.starts_with(b"/*") => {
                let end = rest.windows(2).skip(2).position(|w| w == b"*/");
                scan.open |= end.is_none();
                (None, end.map_or(rest.len(), |n| n + 4))
            }
            b'"' => (Some(Kind::Text), closed_by(rest, 1, b'"', &mut scan.open)),
            b'#' if rest.starts_with(b"#/") => (Some(Kind::Text), regex(rest)),
            b'\'' => (Some(Kind::Text), raw(rest, &mut scan.open)),
            b'$' if rest.get(1).copied().is_some_and(is_name) => {
                (Some(Kind::Variable), 1 + rest[1..].iter().take_while(|c| is_name(**c)).count())
            }
            _ if is_name(c) => (Some(Kind::Word), rest.iter().take_while(|c| is_name(**c)).count()),
            _ => (Some(Kind::Mark(c)), 1),
        };
        if let Some(kind) = kind {
            scan.tokens.push(Token { kind, range: at..at + len });
        }
        at += len;
    }
    scan
}

/// Length of a text with backslash escapes, up to and with `end`.
fn closed_by(rest: &[u8], start: usize, end: u8, open: &mut bool) -> usize {
    let mut at = start;
    while let Some(&c) = rest.get(at) {
        match c {
            b'\\' => at += 2,
            _ if c == end => return at + 1,
            _ => at += 1,
        }
    }
    *open = true;
    rest.len()
}

/// Patterns end with their line, so an open one is a mistake and not unfinished.
fn regex(rest: &[u8]) -> usize {
    let line = rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
    closed_by(&rest[..line], 2, b'/', &mut false)
}

fn raw(rest: &[u8], open: &mut bool) -> usize {
    let len = rest[1..].iter().take_while(|c| matches!(c, 0x21..=0x26 | 0x28..=0x7e)).count();
    if rest.get(1 + len) != Some(&b'\'') {
        return 1;
    }
    let (delimiter, body) = rest.split_at(len + 2);
    match body.windows(delimiter.len()).position(|w| w == delimiter) {
        Some(n) => n + 2 * delimiter.len(),
        None => {
            *open = true;
            rest.len()
        }
    }
}

impl Scan {
    /// The text goes on: something is open, or a statement lacks its body.
    pub fn unfinished(&self, text: &[u8]) -> bool {
        self.open || self.brackets().is_some_and(|open| !open.is_empty()) || self.lacks_body(text)
    }

    /// Indices of the brackets that are open at the end; `None` when more are closed than opened.
    pub fn brackets(&self) -> Option<Vec<usize>> {
        let mut open = Vec::new();
        for (i, token) in self.tokens.iter().enumerate() {
            match token.kind {
                Kind::Mark(b'(' | b'[' | b'{') => open.push(i),
                Kind::Mark(b')' | b']' | b'}') => drop(open.pop()?),
                _ => {}
            }
        }
        Some(open)
    }

    fn word<'a>(&self, text: &'a [u8], i: usize) -> &'a [u8] {
        match self.tokens.get(i) {
            Some(token) if token.kind == Kind::Word => &text[token.range.clone()],
            _ => b"",
        }
    }

    fn mark(&self, i: usize) -> u8 {
        match self.tokens.get(i).map(|t| t.kind) {
            Some(Kind::Mark(c)) => c,
            _ => 0,
        }
    }

    /// Ends in `else`, `try`, `forever` or the condition of an `if` or loop.
    fn lacks_body(&self, text: &[u8]) -> bool {
        let Some(last) = self.tokens.len().checked_sub(1) else { return false };
        if matches!(self.word(text, last), b"else" | b"try" | b"forever") {
            return true;
        }
        if self.mark(last) != b')' {
            return false;
        }
        let mut depth = 0_usize;
        for i in (0..=last).rev() {
            match self.mark(i) {
                b')' => depth += 1,
                b'(' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                let head = i.checked_sub(1).map_or(&b""[..], |i| self.word(text, i));
                return matches!(head, b"if" | b"while" | b"for" | b"foreach" | b"switch");
            }
        }
        false
    }

    /// Index after the token that closes the bracket at `i`.
    fn close(&self, i: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for j in i..self.tokens.len() {
            match self.mark(j) {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                return Some(j + 1);
            }
        }
        None
    }

    /// The declarations at top level.
    pub fn declarations(&self, text: &[u8]) -> Vec<Declaration> {
        let mut list = Vec::new();
        let mut i = 0;
        while i < self.tokens.len() {
            match self.declaration(text, i) {
                Some((declaration, next)) => {
                    list.push(declaration);
                    i = next;
                }
                None if matches!(self.mark(i), b'(' | b'[' | b'{') => {
                    i = self.close(i).unwrap_or(self.tokens.len());
                }
                None => i += 1,
            }
        }
        list
    }

    fn declaration(&self, text: &[u8], i: usize) -> Option<(Declaration, usize)> {
        let string = |range: Range<usize>| String::from_utf8_lossy(&text[range]).into_owned();
        let name = |i: usize| self.tokens.get(i).map(|t| string(t.range.clone()));
        let mut signature = String::new();
        let (declares, names, next) = match self.word(text, i) {
            b"function" if self.mark(i + 2) == b'(' && !self.word(text, i + 1).is_empty() => {
                let body = self.close(i + 2)?;
                signature = string(self.tokens[i + 1].range.start..self.tokens[body - 1].range.end);
                (Declares::Function, vec![name(i + 1)?], self.close(body)?)
            }
            b"class" if self.mark(i + 2) == b'{' => (Declares::Class, vec![name(i + 1)?], self.close(i + 2)?),
            b"import" => {
                let next = self.semicolon(i)?;
                (Declares::Import, self.imported(text, i + 1..next), next)
            }
            b"include" | b"include_once" => (Declares::Include, Vec::new(), self.semicolon(i)?),
            _ => return None,
        };
        let range = self.tokens[i].range.start..self.tokens[next - 1].range.end;
        Some((Declaration { declares, names, range, signature }, next))
    }

    /// Index after the next semicolon, or the end of the text.
    fn semicolon(&self, i: usize) -> Option<usize> {
        (i < self.tokens.len()).then(|| {
            (i..self.tokens.len()).find(|j| self.mark(*j) == b';').map_or(self.tokens.len(), |j| j + 1)
        })
    }

    /// The names that an import brings in: those before a comma, a closing brace or `from`.
    fn imported(&self, text: &[u8], range: Range<usize>) -> Vec<String> {
        let mut names = Vec::new();
        for i in range {
            if self.word(text, i) == b"from" {
                break;
            }
            let named = matches!(self.tokens[i].kind, Kind::Word | Kind::Variable);
            let last = matches!(self.mark(i + 1), b',' | b'}') || self.word(text, i + 1) == b"from";
            if named && last {
                names.push(String::from_utf8_lossy(&text[self.tokens[i].range.clone()]).into_owned());
            }
        }
        names
    }

    /// The variables named, without dollar.
    pub fn variables<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = String> + 'a {
        self.tokens
            .iter()
            .filter(|t| t.kind == Kind::Variable)
            .map(|t| String::from_utf8_lossy(&text[t.range.start + 1..t.range.end]).into_owned())
    }
}

/// `text` with everything but `keep` made blank, so that places stay what they are.
pub fn blank_but(text: &[u8], keep: &[Range<usize>]) -> Vec<u8> {
    let mut out: Vec<u8> = text.iter().map(|c| if *c == b'\n' { b'\n' } else { b' ' }).collect();
    for range in keep {
        out[range.clone()].copy_from_slice(&text[range.clone()]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unfinished_texts() {
        for (text, expected) in [
            ("echo 1;", false),
            ("if (1) {", true),
            ("if (1)", true),
            ("while (f(1))", true),
            ("f(1)", false),
            ("echo \"a", true),
            ("echo \"a\\\"", true),
            ("echo \"{\";", false),
            ("echo ''a''", false),
            ("echo ''a", true),
            ("echo 'X'a''", true),
            ("/* a", true),
            ("/* a */", false),
            ("// {", false),
            ("$x =~ #/[(\"]/i;", false),
            ("}", false),
            ("try { } catch ($e) {", true),
            ("if (1) {} else", true),
            ("", false),
        ] {
            assert_eq!(scan(text.as_bytes()).unfinished(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn declarations_at_top_level() {
        let text = b"import { a, b as c, $d } from \"m\"; import * as ns from ''m'';\n\
            function f($x, $y = [1]) { function inner() {} }\nclass C { function g() {} }\n\
            $h = function () {}; if (1) { function k() {} } include \"x\";";
        let list = scan(text).declarations(text);
        let found: Vec<_> = list.iter().map(|d| (d.declares, d.names.join(" "))).collect();
        assert_eq!(
            found,
            [
                (Declares::Import, "a c $d".into()),
                (Declares::Import, "ns".into()),
                (Declares::Function, "f".into()),
                (Declares::Class, "C".into()),
                (Declares::Include, String::new()),
            ]
        );
        assert_eq!(list[2].signature, "f($x, $y = [1])");
        let kept = blank_but(text, &[list[3].range.clone()]);
        assert_eq!(String::from_utf8_lossy(&kept).trim(), "class C { function g() {} }");
        assert_eq!(kept.len(), text.len());
    }

    proptest! {
        #[test]
        fn any_text_is_split(text in "[a-z$\"'#/*\\\\(){};\n ]{0,60}") {
            let text = text.as_bytes();
            let scan = scan(text);
            let mut at = 0;
            for token in &scan.tokens {
                prop_assert!(token.range.start >= at && token.range.end > token.range.start);
                at = token.range.end;
            }
            prop_assert!(at <= text.len());
            scan.unfinished(text);
            for d in scan.declarations(text) {
                blank_but(text, &[d.range]);
            }
        }
    }
}
