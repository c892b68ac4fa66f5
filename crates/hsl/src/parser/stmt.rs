//! Statements.

use super::{Parsed, Parser, Recover};
use crate::ast::{
    ClassDecl, ClassVar, Expr, ExprKind, FunctionDecl, Import, ImportSymbol, ImportWhat, Method, Modifiers,
    Name, Param, Stmt, StmtKind,
};
use crate::diag::Span;
use crate::lexer::Tok;
use crate::string::Str;
use std::collections::HashSet;
use std::rc::Rc;

impl Parser<'_> {
    pub(super) fn statement(&mut self) -> Parsed<Stmt> {
        self.nested(Self::statement_inner)
    }

    fn statement_inner(&mut self) -> Parsed<Stmt> {
        let span = self.span();
        let word = match self.tok() {
            Tok::Word(w) => w.clone(),
            Tok::Punct("{") => {
                let body = self.block()?;
                return Ok(Stmt { kind: StmtKind::Block(body), span });
            }
            Tok::Punct(";") => {
                self.advance();
                return Ok(Stmt { kind: StmtKind::Empty, span });
            }
            _ => return self.simple(span),
        };
        let kind = match &*word {
            "function" if matches!(self.tok_ahead(1), Tok::Word(_)) => {
                self.advance();
                let (name, span) = self.declared_name("function")?;
                StmtKind::Function(self.function(name, span, false)?)
            }
            "class" => {
                self.advance();
                StmtKind::Class(self.class()?)
            }
            "import" => {
                self.advance();
                let import = self.import()?;
                self.terminator()?;
                StmtKind::Import(import)
            }
            "if" => self.if_statement()?,
            "while" => {
                self.advance();
                let cond = self.condition()?;
                StmtKind::While { cond, body: Box::new(self.statement()?) }
            }
            "for" => {
                self.advance();
                self.expect("(")?;
                let part = |p: &mut Self, end: &str| -> Parsed<Option<Expr>> {
                    let e = if p.is(end) { None } else { Some(p.expression()?) };
                    p.expect(end)?;
                    Ok(e)
                };
                let init = part(self, ";")?;
                let cond = part(self, ";")?;
                let step = part(self, ")")?;
                StmtKind::For { init, cond, step, body: Box::new(self.statement()?) }
            }
            "__debug" if matches!(self.tok_ahead(1), Tok::Punct("[")) => {
                self.advance();
                self.debug_point()?
            }
            "forever" => {
                self.advance();
                StmtKind::Forever(Box::new(self.statement()?))
            }
            "foreach" => self.foreach()?,
            "switch" => self.switch()?,
            "try" => {
                self.advance();
                let body = self.block()?;
                self.expect_word("catch")?;
                self.expect("(")?;
                let (name, name_span) = self.fresh_variable()?;
                self.expect(")")?;
                StmtKind::Try { body, name, name_span, handler: self.block()? }
            }
            "barrier" => {
                self.advance();
                let name = self.expression()?;
                let var = if self.eat("=>") { Some(self.fresh_variable()?.0) } else { None };
                StmtKind::Barrier { name, var, body: self.block()? }
            }
            _ => return self.simple(span),
        };
        Ok(Stmt { kind, span })
    }

    /// The prefix of a break point and the statement behind it.
    fn debug_point(&mut self) -> Parsed<StmtKind> {
        let span = self.span();
        self.advance();
        let mut ids = Vec::new();
        let mut log = false;
        while !self.eat("]") {
            if !ids.is_empty() {
                self.expect(",")?;
            }
            match self.tok().clone() {
                Tok::Str(id) if ids.len() < 2 => ids.push(id),
                Tok::Word(word) if ids.len() == 2 && matches!(&*word, "true" | "false") => {
                    log = *word == *"true";
                }
                _ => return self.expected("'[\"stage\", \"point\"]'"),
            }
            self.advance();
        }
        let Ok([stage, point]) = <[Str; 2]>::try_from(ids) else {
            return self.fail_at(span, "A break point needs the identities of its stage and of itself");
        };
        Ok(StmtKind::Debug { stage, point, log, body: Box::new(self.statement()?) })
    }

    /// `{ statements }`, going on after errors inside.
    pub(super) fn block(&mut self) -> Parsed<Vec<Stmt>> {
        let open = self.expect("{")?;
        let mut body = Vec::new();
        loop {
            if self.eat("}") {
                return Ok(body);
            }
            if self.at_end() {
                let line = self.line_of(open);
                let message =
                    format!("Expected '}}', found the end of the file; the block begins on line {line}");
                return self.fail_at(self.span(), message);
            }
            let before = self.at;
            match self.statement() {
                Ok(stmt) => body.push(stmt),
                Err(Recover) => {
                    if self.errors.len() >= super::ERRORS_MAX || self.nesting >= super::NESTING_MAX - 1 {
                        return Err(Recover);
                    }
                    self.skip_in_block(before);
                }
            }
        }
    }

    /// Skips to behind the next `;` on this level, or to the `}` that closes the block.
    fn skip_in_block(&mut self, started: usize) {
        if self.at == started && !self.is("}") {
            self.advance();
        }
        let mut depth = 0u32;
        while !self.at_end() {
            if self.is("{") {
                depth += 1;
            } else if self.is("}") {
                if depth == 0 {
                    return;
                }
                depth -= 1;
                if depth == 0 {
                    self.advance();
                    return;
                }
            } else if self.is(";") && depth == 0 {
                self.advance();
                return;
            }
            self.advance();
        }
    }

    /// `;`, which may be missing directly before `}`.
    fn terminator(&mut self) -> Parsed<()> {
        if self.eat(";") || self.is("}") { Ok(()) } else { self.expected("';'") }
    }

    fn simple(&mut self, span: Span) -> Parsed<Stmt> {
        let kind = if let Tok::Word(word) = self.tok() {
            match &*word.clone() {
                "echo" => {
                    self.advance();
                    StmtKind::Echo(self.expression()?)
                }
                "return" => {
                    self.advance();
                    StmtKind::Return(self.optional_expression()?)
                }
                "throw" => {
                    self.advance();
                    StmtKind::Throw(self.expression()?)
                }
                "yield" => {
                    self.advance();
                    if self.yields.len() == 1 {
                        self.report(span, "'yield' outside a function");
                    } else if let Some(last) = self.yields.last_mut() {
                        *last = true;
                    }
                    StmtKind::Yield(self.optional_expression()?)
                }
                "break" => {
                    self.advance();
                    StmtKind::Break
                }
                "continue" => {
                    self.advance();
                    StmtKind::Continue
                }
                "global" => {
                    self.advance();
                    let mut names = vec![self.fresh_variable()?];
                    while self.eat(",") {
                        names.push(self.fresh_variable()?);
                    }
                    StmtKind::Global(names)
                }
                "include" | "include_once" => {
                    let once = self.is_word("include_once");
                    self.advance();
                    let (path, path_span) = self.path()?;
                    self.include(&path, path_span, once)
                }
                _ => StmtKind::Expr(self.expression()?),
            }
        } else {
            StmtKind::Expr(self.expression()?)
        };
        self.terminator()?;
        Ok(Stmt { kind, span })
    }

    fn include(&mut self, path: &Str, span: Span, once: bool) -> StmtKind {
        match self.includes.enter(path, span, once) {
            Ok(Some((file, text))) => {
                let in_function = self.yields.len() > 1;
                let (body, errors) = super::parse_inner(file, &text, self.includes, in_function);
                self.includes.leave();
                self.errors.extend(errors);
                StmtKind::Included(body)
            }
            Ok(None) => StmtKind::Empty,
            Err(message) => {
                self.report(span, message);
                StmtKind::Empty
            }
        }
    }

    fn optional_expression(&mut self) -> Parsed<Option<Expr>> {
        if self.is(";") || self.is("}") { Ok(None) } else { Ok(Some(self.expression()?)) }
    }

    fn path(&mut self) -> Parsed<(Str, Span)> {
        let span = self.span();
        match self.tok() {
            Tok::Str(s) => {
                let s = s.clone();
                self.advance();
                Ok((s, span))
            }
            Tok::Template(_) => {
                self.fail_at(span, "A path cannot contain variables; expected a plain string")
            }
            _ => self.expected("a path string"),
        }
    }

    fn condition(&mut self) -> Parsed<Expr> {
        self.expect("(")?;
        let cond = self.expression()?;
        self.expect(")")?;
        Ok(cond)
    }

    fn if_statement(&mut self) -> Parsed<StmtKind> {
        let mut arms = Vec::new();
        loop {
            self.expect_word("if")?;
            let cond = self.condition()?;
            let body = self.statement()?;
            arms.push((cond, body));
            if !self.eat_word("else") {
                return Ok(StmtKind::If { arms, other: None });
            }
            if !self.is_word("if") {
                let other = Some(Box::new(self.statement()?));
                return Ok(StmtKind::If { arms, other });
            }
        }
    }

    fn foreach(&mut self) -> Parsed<StmtKind> {
        self.advance();
        self.expect("(")?;
        let subject = self.expression()?;
        self.expect_word("as")?;
        let first = self.loop_target()?;
        let (key, value) = if self.eat("=>") { (Some(first), self.loop_target()?) } else { (None, first) };
        self.expect(")")?;
        Ok(StmtKind::Foreach { subject, key, value, body: Box::new(self.statement()?) })
    }

    fn loop_target(&mut self) -> Parsed<Expr> {
        let span = self.span();
        let e = self.nested(Self::postfix_target)?;
        match self.pattern(e)? {
            t if t.assignable() => Ok(t),
            _ => self.fail_at(span, "Loop target must be assignable"),
        }
    }

    fn switch(&mut self) -> Parsed<StmtKind> {
        self.advance();
        let subject = self.condition()?;
        self.expect("{")?;
        let mut cases: Vec<(Option<Expr>, Vec<Stmt>)> = Vec::new();
        while !self.eat("}") {
            let span = self.span();
            let label = if self.eat_word("case") {
                Some(self.expression()?)
            } else if self.eat_word("default") {
                if cases.iter().any(|c| c.0.is_none()) {
                    self.report(span, "More than one 'default' in a switch");
                }
                None
            } else {
                return self.expected("'case', 'default' or '}'");
            };
            self.expect(":")?;
            let mut body = Vec::new();
            while !(self.is("}") || self.is_word("case") || self.is_word("default") || self.at_end()) {
                body.push(self.statement()?);
            }
            cases.push((label, body));
        }
        Ok(StmtKind::Switch { subject, cases })
    }

    /// Parameters, captures and body.
    pub(super) fn function(&mut self, name: Name, span: Span, anonymous: bool) -> Parsed<Rc<FunctionDecl>> {
        self.expect("(")?;
        let mut params: Vec<Param> = Vec::new();
        let mut names: HashSet<Name> = HashSet::new();
        while !self.eat(")") {
            if !params.is_empty() {
                self.expect(",")?;
            }
            let variadic = self.eat("...");
            let (name, span) = self.fresh_variable()?;
            if let Some(last) = params.last() {
                if last.variadic {
                    self.report(span, "No parameter may follow a variadic one");
                } else if last.default.is_some() && !variadic && !self.is("=") {
                    self.report(
                        span,
                        format!("Parameter '${name}' without default follows one with a default"),
                    );
                }
            }
            if !names.insert(name.clone()) {
                self.report(span, format!("Duplicate parameter '${name}'"));
            }
            let default = if !variadic && self.eat("=") { Some(self.ternary_expression()?) } else { None };
            params.push(Param { name, span, default, variadic });
        }
        let mut captures: Vec<(Name, Span)> = Vec::new();
        if anonymous && self.eat_word("closure") {
            self.expect("(")?;
            while !self.eat(")") {
                if !captures.is_empty() {
                    self.expect(",")?;
                }
                let (name, span) = self.variable()?;
                if !names.insert(name.clone()) {
                    self.report(
                        span,
                        format!("Captured variable '${name}' is already a parameter or captured"),
                    );
                }
                captures.push((name, span));
            }
        }
        self.yields.push(false);
        let body = self.block();
        let generator = self.yields.pop().unwrap_or(false);
        Ok(Rc::new(FunctionDecl { name, span, params, captures, body: body?, generator }))
    }

    fn class(&mut self) -> Parsed<Rc<ClassDecl>> {
        let (name, span) = self.declared_name("class")?;
        self.expect("{")?;
        let mut class = ClassDecl { name, span, constructor: None, vars: Vec::new(), methods: Vec::new() };
        while !self.eat("}") {
            if self.eat(";") {
                continue;
            }
            let span = self.span();
            if self.eat_word("constructor") {
                if class.constructor.is_some() {
                    self.report(span, "A class has at most one constructor");
                }
                class.constructor = Some(self.function("constructor".into(), span, false)?);
                continue;
            }
            let modifiers = self.modifiers();
            if self.eat_word("function") {
                let span = self.span();
                let name = self.member_name()?;
                if modifiers.readonly {
                    self.report(span, "A function cannot be readonly");
                }
                let decl = self.function(name, span, false)?;
                class.methods.push(Method { modifiers, decl });
            } else if matches!(self.tok(), Tok::Variable(_)) {
                let (name, _) = self.variable()?;
                let value = if self.eat("=") { Some(self.ternary_expression()?) } else { None };
                self.terminator()?;
                class.vars.push(ClassVar { name, modifiers, value });
            } else {
                return self.expected("a variable, 'function' or 'constructor'");
            }
        }
        let mut names: HashSet<&Name> = HashSet::new();
        let members = class.vars.iter().map(|v| &v.name).chain(class.methods.iter().map(|m| &m.decl.name));
        let twice: Vec<Name> = members.filter(|name| !names.insert(name)).cloned().collect();
        for name in twice.into_iter().take(super::ERRORS_MAX) {
            self.report(class.span, format!("Class '{}' already has a member named '{name}'", class.name));
        }
        Ok(Rc::new(class))
    }

    fn modifiers(&mut self) -> Modifiers {
        let mut m = Modifiers::default();
        loop {
            let span = self.span();
            let slot = if self.is_word("private") {
                &mut m.private
            } else if self.is_word("readonly") {
                &mut m.readonly
            } else if self.is_word("static") {
                &mut m.fixed
            } else {
                return m;
            };
            let twice = std::mem::replace(slot, true);
            if twice {
                self.report(span, "Modifier given twice");
            }
            self.advance();
        }
    }

    fn import(&mut self) -> Parsed<Import> {
        let what = if self.eat("{") {
            let mut symbols = Vec::new();
            while !self.eat("}") {
                if !symbols.is_empty() {
                    self.expect(",")?;
                    if self.eat("}") {
                        break;
                    }
                }
                symbols.push(self.import_symbol()?);
            }
            ImportWhat::Symbols(symbols)
        } else if self.eat("*") {
            self.expect_word("as")?;
            let (name, span) = self.declared_name("namespace")?;
            ImportWhat::All { name, span }
        } else if matches!(self.tok(), Tok::Variable(_)) {
            let (name, span) = self.fresh_variable()?;
            ImportWhat::Data { name, span }
        } else {
            return self.expected("'{', '*' or a variable");
        };
        self.expect_word("from")?;
        let (path, path_span) = self.path()?;
        let mut options = None;
        if self.eat_word("with") {
            let e = self.ternary_expression()?;
            if !matches!(what, ImportWhat::Data { .. }) {
                self.report(e.span, "Options are only for imported data");
            } else if !matches!(&*e.kind, ExprKind::Array(_)) {
                self.report(e.span, "Options must be an array");
            }
            options = Some(e);
        }
        Ok(Import { what, path, path_span, options })
    }

    fn import_symbol(&mut self) -> Parsed<ImportSymbol> {
        let variable = matches!(self.tok(), Tok::Variable(_));
        let one = |p: &mut Self| if variable { p.fresh_variable() } else { p.declared_name("function") };
        let (name, span) = one(self)?;
        let local = if self.eat_word("as") { one(self)?.0 } else { name.clone() };
        Ok(ImportSymbol { variable, name, local, span })
    }
}
