//! The lexer: source bytes to tokens (language section 2).

use crate::string::Str;
use std::rc::Rc;

/// A token and where it starts.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    pub(crate) offset: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tok {
    /// An identifier or keyword.
    Word(Rc<str>),
    /// `$name`, without the dollar.
    Variable(Rc<str>),
    Number(f64),
    /// A string without interpolation.
    Str(Str),
    /// A quoted string with interpolation.
    Template(Rc<[Part]>),
    /// Pattern and flags of `#/pattern/flags`.
    Regex(Rc<str>, Rc<[u8]>, Rc<[u8]>),
    /// An operator or punctuation mark.
    Punct(&'static str),
    Eof,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Text(Str),
    /// A variable and the offset of its dollar.
    Variable(Rc<str>, u32),
}

/// A lexical error: offset and message.
pub(crate) struct LexError {
    pub(crate) offset: u32,
    pub(crate) message: String,
}

/// Longest first.
const PUNCTUATION: &[&str] = &[
    ">>>", "===", "!==", "**=", "??=", "...", "**", "++", "--", "+=", "-=", "*=", "/=", "%=", ".=", "==",
    "!=", "<=", ">=", "=~", "!~", "<<", ">>", "??", "->", "::", "=>", "+", "-", "*", "/", "%", ".", "=", "<",
    ">", "!", "&", "|", "^", "~", "?", ":", "(", ")", "[", "]", "{", "}", ",", ";",
];

pub(crate) const RESERVED: &[&str] = &[
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
    "object",
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

pub(crate) const FUTURE: &[&str] = &[
    "this",
    "self",
    "public",
    "protected",
    "struct",
    "clone",
    "final",
    "const",
    "goto",
    "namespace",
    "new",
    "interface",
    "in",
    "extends",
    "print",
    "trait",
    "assert",
    "finally",
    "lambda",
    "pass",
    "destroy",
    "export",
    "use",
];

/// Splits `text` into tokens. Errors do not stop it; the offending bytes are left out.
pub(crate) fn lex(text: &[u8]) -> (Vec<Token>, Vec<LexError>) {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), errors: Vec::new() };
    if text.starts_with(b"\xef\xbb\xbf") {
        lexer.at = 3;
    }
    if text[lexer.at..].starts_with(b"#!") {
        lexer.skip_line();
    }
    while lexer.step() {}
    let offset = text.len() as u32;
    lexer.tokens.push(Token { tok: Tok::Eof, offset });
    (lexer.tokens, lexer.errors)
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
    errors: Vec<LexError>,
}

fn is_name_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_'
}

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_line(&mut self) {
        while self.at < self.text.len() && self.text[self.at] != b'\n' {
            self.at += 1;
        }
    }

    fn error(&mut self, offset: usize, message: impl Into<String>) {
        if self.errors.len() < 20 {
            self.errors.push(LexError { offset: offset as u32, message: message.into() });
        }
    }

    fn push(&mut self, offset: usize, tok: Tok) {
        self.tokens.push(Token { tok, offset: offset as u32 });
    }

    fn name(&mut self) -> Rc<str> {
        let start = self.at;
        while is_name(self.peek(0)) {
            self.at += 1;
        }
        self.text[start..self.at].iter().map(|c| *c as char).collect::<String>().into()
    }

    /// Reads one token; false at the end.
    fn step(&mut self) -> bool {
        let start = self.at;
        let Some(&c) = self.text.get(self.at) else { return false };
        match c {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c => self.at += 1,
            b'/' if self.peek(1) == b'/' => self.skip_line(),
            b'/' if self.peek(1) == b'*' => match memchr::memmem::find(&self.text[self.at + 2..], b"*/") {
                Some(n) => self.at += n + 4,
                None => {
                    self.error(start, "Comment is never closed");
                    self.at = self.text.len();
                }
            },
            b'$' => {
                self.at += 1;
                if is_name_start(self.peek(0)) {
                    let name = self.name();
                    self.push(start, Tok::Variable(name));
                } else {
                    self.error(start, "Expected a variable name after '$'");
                    while is_name(self.peek(0)) {
                        self.at += 1;
                    }
                }
            }
            b'"' => self.quoted(),
            b'\'' => self.raw(),
            b'#' if self.peek(1) == b'/' => self.regex(),
            b'0'..=b'9' => self.number(),
            _ if is_name_start(c) => {
                let name = self.name();
                self.push(start, Tok::Word(name));
            }
            _ => match PUNCTUATION.iter().find(|p| self.text[self.at..].starts_with(p.as_bytes())) {
                Some(p) => {
                    self.at += p.len();
                    self.push(start, Tok::Punct(p));
                }
                None => self.illegal(),
            },
        }
        true
    }

    fn illegal(&mut self) {
        let start = self.at;
        let rest = &self.text[start..];
        let (len, message) = if rest.starts_with("\u{a0}".as_bytes()) {
            (2, "No-break space outside a string; use a plain space".to_owned())
        } else if rest.starts_with("\u{201c}".as_bytes()) || rest.starts_with("\u{201d}".as_bytes()) {
            (3, "Typographic quote outside a string; use '\"'".to_owned())
        } else {
            let len = match rest[0] {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => 1,
            }
            .min(rest.len());
            (len, format!("Unexpected character '{}'", String::from_utf8_lossy(&rest[..len]).escape_debug()))
        };
        self.error(start, message);
        self.at += len;
    }

    fn digits(&mut self, text: &mut String, radix: u32) {
        loop {
            let c = self.peek(0);
            if (c as char).is_digit(radix) {
                text.push(c as char);
                self.at += 1;
            } else if c == b'_'
                && !text.is_empty()
                && !text.ends_with('.')
                && (self.peek(1) as char).is_digit(radix)
            {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn number(&mut self) {
        let start = self.at;
        let radix = match (self.peek(0), self.peek(1)) {
            (b'0', b'x') => 16,
            (b'0', b'o') => 8,
            (b'0', b'b') => 2,
            _ => 10,
        };
        let mut text = String::new();
        let value = if radix == 10 {
            self.digits(&mut text, 10);
            if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
                self.at += 1;
                text.push('.');
                self.digits(&mut text, 10);
            }
            text.parse().unwrap_or(f64::NAN)
        } else {
            self.at += 2;
            self.digits(&mut text, radix);
            text.chars()
                .filter_map(|c| c.to_digit(radix))
                .fold(0.0, |acc, d| acc * f64::from(radix) + f64::from(d))
        };
        let bad_tail = is_name(self.peek(0)) || (self.peek(0) == b'.' && self.peek(1).is_ascii_digit());
        if bad_tail || text.is_empty() {
            while is_name(self.peek(0)) || (self.peek(0) == b'.' && self.peek(1).is_ascii_digit()) {
                self.at += 1;
            }
            let literal = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
            self.error(start, format!("'{literal}' is not a number"));
        }
        self.push(start, Tok::Number(value));
    }

    fn quoted(&mut self) {
        let start = self.at;
        self.at += 1;
        let mut parts: Vec<Part> = Vec::new();
        let mut text: Vec<u8> = Vec::new();
        loop {
            let Some(&c) = self.text.get(self.at) else {
                self.error(start, "String is never closed");
                return;
            };
            match c {
                b'"' => {
                    self.at += 1;
                    break;
                }
                b'\\' => self.escape(&mut text),
                b'$' => {
                    let dollar = self.at;
                    let braced = self.peek(1) == b'{';
                    let skip = if braced { 2 } else { 1 };
                    if !is_name_start(self.peek(skip)) {
                        text.push(c);
                        self.at += 1;
                        continue;
                    }
                    self.at += skip;
                    let name = self.name();
                    if braced {
                        if self.peek(0) != b'}' {
                            // Not one of the two forms: the dollar is an ordinary character.
                            text.push(b'$');
                            self.at = dollar + 1;
                            continue;
                        }
                        self.at += 1;
                    }
                    if !text.is_empty() {
                        parts.push(Part::Text(Str::from_vec(std::mem::take(&mut text))));
                    }
                    parts.push(Part::Variable(name, dollar as u32));
                }
                _ => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        if parts.is_empty() {
            return self.push(start, Tok::Str(Str::from_vec(text)));
        }
        if !text.is_empty() {
            parts.push(Part::Text(Str::from_vec(text)));
        }
        self.push(start, Tok::Template(parts.into()));
    }

    fn escape(&mut self, text: &mut Vec<u8>) {
        let start = self.at;
        let c = self.peek(1);
        self.at = (self.at + 2).min(self.text.len());
        match c {
            b'\\' | b'"' | b'$' => text.push(c),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'x' => {
                let digit = |c: u8| (c as char).to_digit(16);
                match (digit(self.peek(0)), digit(self.peek(1))) {
                    (Some(a), Some(b)) => {
                        text.push((a * 16 + b) as u8);
                        self.at += 2;
                    }
                    _ => self.error(start, "Escape '\\x' needs two hexadecimal digits"),
                }
            }
            _ => {
                let shown = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
                self.error(start, format!("Unknown escape sequence '{shown}'"));
            }
        }
    }

    fn raw(&mut self) {
        let start = self.at;
        let rest = &self.text[start + 1..];
        let len = rest.iter().take_while(|c| matches!(c, 0x21..=0x26 | 0x28..=0x7e)).count();
        if rest.get(len) != Some(&b'\'') {
            self.error(start, "Raw string needs its delimiter between quotes: ''text'' or 'X'text'X'");
            self.at = start + 1 + len;
            return;
        }
        let delimiter = self.text[start..start + len + 2].to_vec();
        let body = start + delimiter.len();
        match memchr::memmem::find(&self.text[body..], &delimiter) {
            Some(n) => {
                let text = Str::from_bytes(&self.text[body..body + n]);
                self.at = body + n + delimiter.len();
                self.push(start, Tok::Str(text));
            }
            None => {
                self.error(
                    start,
                    format!("Raw string is never closed by {}", String::from_utf8_lossy(&delimiter)),
                );
                self.at = self.text.len();
            }
        }
    }

    fn regex(&mut self) {
        let start = self.at;
        self.at += 2;
        let mut pattern = Vec::new();
        loop {
            match self.text.get(self.at) {
                None | Some(b'\n') => return self.error(start, "Regex literal is never closed"),
                Some(b'/') => break,
                Some(b'\\') if self.peek(1) == b'/' => {
                    pattern.push(b'/');
                    self.at += 2;
                }
                Some(b'\\') if self.at + 1 < self.text.len() && self.peek(1) != b'\n' => {
                    pattern.extend_from_slice(&[b'\\', self.peek(1)]);
                    self.at += 2;
                }
                Some(c) => {
                    pattern.push(*c);
                    self.at += 1;
                }
            }
        }
        let source_end = self.at;
        self.at += 1;
        if pattern.is_empty() {
            self.error(start, "Empty regex literal");
        }
        let flags_start = self.at;
        while is_name(self.peek(0)) {
            self.at += 1;
        }
        let flags: Vec<u8> = self.text[flags_start..self.at].to_vec();
        if let Some(bad) = flags.iter().find(|c| !b"imusxUX".contains(c)) {
            self.error(flags_start, format!("Unknown regex flag '{}'", *bad as char));
        }
        let shown = String::from_utf8_lossy(&self.text[start..source_end]).into_owned();
        self.push(start, Tok::Regex(shown.into(), pattern.into(), flags.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Tok> {
        let (tokens, errors) = lex(text.as_bytes());
        assert!(errors.is_empty(), "{}", errors[0].message);
        tokens.into_iter().map(|t| t.tok).filter(|t| *t != Tok::Eof).collect()
    }

    #[test]
    fn numbers() {
        for (text, value) in
            [("0x1F", 31.0), ("0o17", 15.0), ("0b1010_0101", 165.0), ("1_0.2_5", 10.25), ("010", 10.0)]
        {
            assert_eq!(tokens(text), [Tok::Number(value)], "{text}");
        }
        assert_eq!(tokens("5.\"x\"").len(), 3);
        for bad in ["1.2.3", "1a", "0x", "1_", "0XFF", "1__0"] {
            assert!(!lex(bad.as_bytes()).1.is_empty(), "{bad}");
        }
    }

    #[test]
    fn strings() {
        let text = |s: &str| Tok::Str(Str::from(s));
        assert_eq!(
            tokens(r#""\x48\t\$x" ''a\n'' 'X'it''s'X'"#),
            [text("H\t$x"), text("a\\n"), text("it''s")]
        );
        assert_eq!(
            tokens(r#""$a[0]${b}c $ 5$""#),
            [Tok::Template(
                [
                    Part::Variable("a".into(), 1),
                    Part::Text("[0]".into()),
                    Part::Variable("b".into(), 6),
                    Part::Text("c $ 5$".into())
                ]
                .into()
            )]
        );
        for bad in ["\"abc", "\"\\q\"", "'X'abc'Y'", "/* x", "#/abc", "\u{201c}", "$1"] {
            assert!(!lex(bad.as_bytes()).1.is_empty(), "{bad}");
        }
    }
}
