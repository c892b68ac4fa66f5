//! The parser: tokens to syntax tree, by recursive descent for statements and precedence climbing for expressions
//! (language section 18). After an error it goes on behind the next `;` or `}` and reports up to 20 errors.

mod expr;
mod stmt;

use crate::ast::{Name, Stmt};
use crate::diag::Span;
use crate::lexer::{FUTURE, RESERVED, Tok, Token, lex};
use crate::string::Str;
use std::sync::Arc;

/// Deepest nesting of blocks and expressions.
const NESTING_MAX: u32 = 200;
/// Highest expression tree; long operator chains count like nesting.
const HEIGHT_MAX: u16 = 300;
/// Errors reported per file.
const ERRORS_MAX: usize = 20;

/// A syntax error.
#[derive(Debug, Clone)]
pub(crate) struct SyntaxError {
    pub(crate) span: Span,
    pub(crate) message: String,
}

/// Unwinds to the nearest recovery point; the error itself is already recorded.
pub(crate) struct Recover;

type Parsed<T> = Result<T, Recover>;

/// Number and text of an included file.
pub(crate) type Entered = (u32, Arc<[u8]>);

/// Answers `include` statements while the parser runs.
pub(crate) trait Includes {
    /// Finds the file; `None` when it is to be skipped. [`Includes::leave`] follows when a file was returned.
    fn enter(&mut self, path: &Str, span: Span, once: bool) -> Result<Option<Entered>, String>;
    /// The included file has been parsed.
    fn leave(&mut self);
}

/// Parses one file. The tree is complete where no error is reported.
pub(crate) fn parse(file: u32, text: &[u8], includes: &mut dyn Includes) -> (Vec<Stmt>, Vec<SyntaxError>) {
    parse_inner(file, text, includes, false)
}

fn parse_inner<'a>(
    file: u32,
    text: &'a [u8],
    includes: &'a mut dyn Includes,
    in_function: bool,
) -> (Vec<Stmt>, Vec<SyntaxError>) {
    let (tokens, lex_errors) = lex(text);
    let errors = lex_errors
        .into_iter()
        .map(|e| SyntaxError { span: Span { file, offset: e.offset }, message: e.message })
        .collect();
    let mut parser = Parser {
        file,
        text,
        tokens,
        at: 0,
        errors,
        nesting: 0,
        yields: vec![false],
        lexical_errors: false,
        includes,
    };
    if in_function {
        parser.yields.push(false);
    }
    parser.lexical_errors = !parser.errors.is_empty();
    let mut body = Vec::new();
    while !parser.at_end() && parser.errors.len() < ERRORS_MAX {
        let before = parser.at;
        match parser.statement() {
            Ok(stmt) => body.push(stmt),
            Err(Recover) => parser.skip_statement(before),
        }
    }
    parser.errors.sort_by_key(|e| (e.span.file, e.span.offset));
    parser.errors.truncate(ERRORS_MAX);
    (body, parser.errors)
}

struct Parser<'a> {
    includes: &'a mut dyn Includes,
    file: u32,
    text: &'a [u8],
    tokens: Vec<Token>,
    at: usize,
    errors: Vec<SyntaxError>,
    nesting: u32,
    /// For each open function: whether its own body contains `yield`.
    yields: Vec<bool>,
    lexical_errors: bool,
}

impl<'a> Parser<'a> {
    fn tok(&self) -> &Tok {
        // The last token is Eof and `at` never passes it.
        &self.tokens[self.at].tok
    }

    fn tok_ahead(&self, n: usize) -> &Tok {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.at + n).min(last)].tok
    }

    fn span(&self) -> Span {
        Span { file: self.file, offset: self.tokens[self.at].offset }
    }

    fn at_end(&self) -> bool {
        *self.tok() == Tok::Eof
    }

    fn advance(&mut self) {
        if !self.at_end() {
            self.at += 1;
        }
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.tok(), Tok::Punct(p) if *p == punct)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.advance();
        }
        found
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.tok(), Tok::Word(w) if **w == *word)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn line_of(&self, span: Span) -> usize {
        let before = &self.text[..(span.offset as usize).min(self.text.len())];
        memchr::memchr_iter(b'\n', before).count() + 1
    }

    fn describe(&self) -> String {
        match self.tok() {
            Tok::Word(w) => format!("'{w}'"),
            Tok::Variable(v) => format!("'${v}'"),
            Tok::Number(_) => "a number".into(),
            Tok::Str(_) | Tok::Template(_) => "a string".into(),
            Tok::Regex(..) => "a regex".into(),
            Tok::Punct(p) => format!("'{p}'"),
            Tok::Eof => "the end of the file".into(),
        }
    }

    fn fail_at<T>(&mut self, span: Span, message: impl Into<String>) -> Parsed<T> {
        self.report(span, message);
        Err(Recover)
    }

    fn report(&mut self, span: Span, message: impl Into<String>) {
        // A lexical error usually makes the tokens after it senseless; one message is enough for it.
        let follows = self.errors.iter().any(|e| self.lexical_errors && e.span.offset <= span.offset);
        if self.errors.is_empty() || (self.errors.len() < ERRORS_MAX && !follows) {
            self.errors.push(SyntaxError { span, message: message.into() });
        }
    }

    fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        let message = format!("Expected {what}, found {}", self.describe());
        self.fail_at(self.span(), message)
    }

    fn expect(&mut self, punct: &str) -> Parsed<Span> {
        let span = self.span();
        if self.eat(punct) { Ok(span) } else { self.expected(&format!("'{punct}'")) }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) { Ok(()) } else { self.expected(&format!("'{word}'")) }
    }

    fn variable(&mut self) -> Parsed<(Name, Span)> {
        let span = self.span();
        match self.tok() {
            Tok::Variable(name) => {
                let name = name.clone();
                self.advance();
                Ok((name, span))
            }
            _ => self.expected("a variable"),
        }
    }

    /// A variable that a statement creates; `$this` cannot be.
    fn fresh_variable(&mut self) -> Parsed<(Name, Span)> {
        let (name, span) = self.variable()?;
        if *name == *"this" {
            self.report(span, "Cannot assign to $this");
        }
        Ok((name, span))
    }

    /// A name after `->` or `::`, where keywords are allowed.
    fn member_name(&mut self) -> Parsed<Name> {
        match self.tok() {
            Tok::Word(name) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            _ => self.expected("a name"),
        }
    }

    /// A name that is being declared or imported.
    fn declared_name(&mut self, what: &str) -> Parsed<(Name, Span)> {
        let span = self.span();
        match self.tok() {
            Tok::Word(name) => {
                let name = name.clone();
                if RESERVED.contains(&&*name) {
                    return self
                        .fail_at(span, format!("'{name}' is a reserved keyword and cannot name a {what}"));
                }
                if FUTURE.contains(&&*name) {
                    return self.fail_at(span, format!("'{name}' is reserved for future use"));
                }
                self.advance();
                Ok((name, span))
            }
            _ => self.expected(&format!("a {what} name")),
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Parser<'a>) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= NESTING_MAX {
            return self.fail_at(self.span(), format!("Nested deeper than {NESTING_MAX} levels"));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    /// Error recovery: skips to behind the next `;` or `}` on this level.
    fn skip_statement(&mut self, started: usize) {
        if self.at == started {
            self.advance();
        }
        let mut depth = 0u32;
        while !self.at_end() {
            if self.is("{") {
                depth += 1;
            } else if self.is("}") {
                self.advance();
                if depth <= 1 {
                    return;
                }
                depth -= 1;
                continue;
            } else if self.is(";") && depth == 0 {
                self.advance();
                return;
            }
            self.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoIncludes;

    impl Includes for NoIncludes {
        fn enter(&mut self, _: &Str, _: Span, _: bool) -> Result<Option<Entered>, String> {
            Ok(None)
        }
        fn leave(&mut self) {}
    }

    fn parse(file: u32, text: &[u8]) -> (Vec<Stmt>, Vec<SyntaxError>) {
        super::parse(file, text, &mut NoIncludes)
    }

    #[test]
    fn goes_on_after_an_error() {
        let (_, errors) = parse(0, b"echo 1 +;\necho 2;\n$x = = 3;\nif (1 { echo 4; }\n5 = 6;");
        let offsets: Vec<u32> = errors.iter().map(|e| e.span.offset).collect();
        assert_eq!(offsets.len(), 4, "{errors:?}");
    }

    #[test]
    fn nesting_is_bounded() {
        for (open, close) in
            [("(", ")"), ("[", "]"), ("-", ""), ("{", "}"), ("function () {", "}"), ("!", "")]
        {
            let text = format!("$x = {}1{};", open.repeat(100_000), close.repeat(100_000));
            assert!(!parse(0, text.as_bytes()).1.is_empty(), "{open}");
            let text = format!("{}{}", open.repeat(100_000), close.repeat(100_000));
            assert!(!parse(0, text.as_bytes()).1.is_empty(), "{open}");
        }
        for chain in ["+1", "[0]", "->f()", "?1:1", "??1", "**1", "=$x", " and 1"] {
            let text = format!("$x = $x{};", chain.repeat(100_000));
            assert!(!parse(0, text.as_bytes()).1.is_empty(), "{chain}");
        }
        let text = format!("$x = 1{};", ".\"a\"".repeat(100_000));
        assert!(parse(0, text.as_bytes()).1.is_empty());
        let text = format!("if (1) {{}} {} else {{}}", "else if (2) {}".repeat(10_000));
        assert!(parse(0, text.as_bytes()).1.is_empty());
    }
}
