//! Expressions (precedence: language section 7.1).

use super::{HEIGHT_MAX, Parsed, Parser};
use crate::ast::{Arg, BinaryOp, Element, Expr, ExprKind, Pattern, UnaryOp};
use crate::diag::Span;
use crate::lexer::{FUTURE, Part, RESERVED, Tok};

/// Binding power and operator of the left-associative binary levels, and `**`.
fn binary(punct: &str) -> Option<(u8, BinaryOp)> {
    use BinaryOp::*;
    Some(match punct {
        "==" => (6, Eq),
        "!=" => (6, Ne),
        "===" => (6, StrictEq),
        "!==" => (6, StrictNe),
        "=~" => (6, Match),
        "!~" => (6, NoMatch),
        "<" => (7, Lt),
        ">" => (7, Gt),
        "<=" => (7, Le),
        ">=" => (7, Ge),
        "|" => (8, BitOr),
        "^" => (9, BitXor),
        "&" => (10, BitAnd),
        "<<" => (11, Shl),
        ">>" => (11, Shr),
        ">>>" => (11, UShr),
        "." => (12, Concat),
        "+" => (13, Add),
        "-" => (13, Sub),
        "*" => (14, Mul),
        "/" => (14, Div),
        "%" => (14, Rem),
        _ => return None,
    })
}

/// The operator of an augmented assignment; the inner `None` is `??=`.
fn augmented(punct: &str) -> Option<Option<BinaryOp>> {
    use BinaryOp::*;
    Some(match punct {
        "+=" => Some(Add),
        "-=" => Some(Sub),
        "*=" => Some(Mul),
        "/=" => Some(Div),
        "%=" => Some(Rem),
        "**=" => Some(Pow),
        ".=" => Some(Concat),
        "??=" => None,
        _ => return None,
    })
}

const OR: u8 = 4;
const AND: u8 = 5;

impl Parser<'_> {
    /// A whole expression, assignment included.
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        self.nested(Self::ternary)
    }

    /// An expression where a top-level assignment makes no sense (defaults).
    pub(super) fn ternary_expression(&mut self) -> Parsed<Expr> {
        self.expression()
    }

    fn build(&mut self, kind: ExprKind, span: Span) -> Parsed<Expr> {
        let e = Expr::new(kind, span);
        if e.depth > HEIGHT_MAX {
            return self.fail_at(span, "Expression is too complex");
        }
        Ok(e)
    }

    fn ternary(&mut self) -> Parsed<Expr> {
        let cond = self.coalesce()?;
        let span = self.span();
        if !self.eat("?") {
            return Ok(cond);
        }
        let then = if self.is(":") { None } else { Some(self.expression()?) };
        self.expect(":")?;
        let other = self.expression()?;
        self.build(ExprKind::Ternary { cond, then, other }, span)
    }

    fn coalesce(&mut self) -> Parsed<Expr> {
        let left = self.binary_level(OR)?;
        let span = self.span();
        if !self.eat("??") {
            return Ok(left);
        }
        let right = self.nested(Self::coalesce)?;
        self.build(ExprKind::Coalesce(left, right), span)
    }

    fn binary_level(&mut self, min: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        loop {
            let span = self.span();
            let (power, op) = match self.tok() {
                Tok::Word(w) if **w == *"or" => (OR, None),
                Tok::Word(w) if **w == *"and" => (AND, None),
                Tok::Punct(p) => match binary(p) {
                    Some((power, op)) => (power, Some(op)),
                    None => return Ok(left),
                },
                _ => return Ok(left),
            };
            if power < min {
                return Ok(left);
            }
            self.advance();
            let right = self.nested(|p| p.binary_level(power + 1))?;
            let kind = match op {
                None if power == OR => ExprKind::Or(left, right),
                None => ExprKind::And(left, right),
                // Concatenation is associative: one node, so that it allocates once and chains have no height.
                Some(BinaryOp::Concat) => match *left.kind {
                    ExprKind::Concat(mut list) => {
                        // Only the new part can be too high; to look at all of them would be quadratic.
                        let depth = left.depth.max(right.depth.saturating_add(1));
                        if depth > HEIGHT_MAX {
                            return self.fail_at(span, "Expression is too complex");
                        }
                        list.push(right);
                        left = Expr { kind: Box::new(ExprKind::Concat(list)), depth, ..left };
                        continue;
                    }
                    kind => ExprKind::Concat(vec![Expr { kind: Box::new(kind), ..left }, right]),
                },
                Some(op) => ExprKind::Binary { op, left, right },
            };
            left = self.build(kind, span)?;
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let span = self.span();
        let op = match self.tok() {
            Tok::Punct("!") => UnaryOp::Not,
            Tok::Word(w) if **w == *"not" => UnaryOp::Not,
            Tok::Punct("-") => UnaryOp::Minus,
            Tok::Punct("+") => UnaryOp::Plus,
            Tok::Punct("~") => UnaryOp::BitNot,
            Tok::Punct(p @ ("++" | "--")) => {
                let delta = if *p == "++" { 1.0 } else { -1.0 };
                self.advance();
                let target = self.nested(Self::postfix)?;
                self.check_target(&target, span, false)?;
                return self.build(ExprKind::IncDec { target, delta, prefix: true }, span);
            }
            _ => return self.power(),
        };
        self.advance();
        let operand = self.nested(Self::unary)?;
        self.build(ExprKind::Unary { op, operand }, span)
    }

    fn power(&mut self) -> Parsed<Expr> {
        let left = self.postfix()?;
        let span = self.span();
        if let Tok::Punct(p) = *self.tok() {
            if p == "=" {
                let target = self.pattern(left)?;
                self.check_target(&target, span, true)?;
                self.advance();
                let value = self.expression()?;
                return self.build(ExprKind::Assign { target, value }, span);
            }
            if let Some(op) = augmented(p) {
                self.check_target(&left, span, false)?;
                self.advance();
                let value = self.expression()?;
                return self.build(ExprKind::Augment { op, target: left, value }, span);
            }
        }
        if !self.eat("**") {
            return Ok(left);
        }
        let right = self.nested(Self::unary)?;
        self.build(ExprKind::Binary { op: BinaryOp::Pow, left, right }, span)
    }

    fn check_target(&mut self, target: &Expr, span: Span, pattern: bool) -> Parsed<()> {
        match &*target.kind {
            ExprKind::Var(name) if **name == *"this" => self.fail_at(target.span, "Cannot assign to $this"),
            ExprKind::Pattern(_) if !pattern => {
                self.fail_at(span, "A destructuring pattern can only be used with '='")
            }
            _ if target.assignable() => Ok(()),
            _ => self.fail_at(span, "Left side of an assignment must be assignable"),
        }
    }

    /// Turns an array literal into a destructuring pattern; other expressions stay.
    pub(super) fn pattern(&mut self, e: Expr) -> Parsed<Expr> {
        let span = e.span;
        match *e.kind {
            ExprKind::Array(elements) => {
                let mut pattern = Pattern { items: Vec::new(), rest: None };
                let keyed = matches!(elements.first(), Some(Element::Pair(..)));
                if elements.is_empty() {
                    return self.fail_at(span, "A destructuring pattern needs a target");
                }
                for element in elements {
                    if pattern.rest.is_some() {
                        return self.fail_at(span, "The rest target must come last");
                    }
                    let (key, target) = match element {
                        Element::Spread(rest) if keyed => {
                            return self.fail_at(rest.span, "A rest target needs a positional pattern");
                        }
                        Element::Spread(rest) => {
                            self.check_target(&rest, rest.span, false)?;
                            pattern.rest = Some(rest);
                            continue;
                        }
                        Element::Pair(key, target) => (Some(key), target),
                        Element::Value(target) => (None, target),
                    };
                    if key.is_some() != keyed {
                        return self.fail_at(target.span, "Keyed and unkeyed targets cannot be mixed");
                    }
                    let span = target.span;
                    let (target, default) = match *target.kind {
                        ExprKind::Assign { target, value } => (target, Some(value)),
                        kind => (self.pattern(Expr { kind: Box::new(kind), ..target })?, None),
                    };
                    self.check_target(&target, span, true)?;
                    pattern.items.push((key, target, default));
                }
                self.build(ExprKind::Pattern(pattern), span)
            }
            kind => Ok(Expr { kind: Box::new(kind), ..e }),
        }
    }

    /// A target of `foreach`.
    pub(super) fn postfix_target(&mut self) -> Parsed<Expr> {
        let e = self.postfix()?;
        if let ExprKind::Var(name) = &*e.kind
            && **name == *"this"
        {
            return self.fail_at(e.span, "Cannot assign to $this");
        }
        Ok(e)
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut e = self.primary()?;
        loop {
            let span = self.span();
            let Tok::Punct(p) = *self.tok() else { return Ok(e) };
            match p {
                "(" => {
                    if matches!(&*e.kind, ExprKind::Str(_) | ExprKind::Template(_) | ExprKind::Number(_)) {
                        return self.fail_at(span, "A literal cannot be called");
                    }
                    self.advance();
                    let args = self.arguments()?;
                    // The call is reported at its name, not at the parenthesis.
                    let span = match &*e.kind {
                        ExprKind::Name { .. } | ExprKind::StaticName { .. } | ExprKind::Var(_) => e.span,
                        _ => span,
                    };
                    e = self.build(ExprKind::Call { callee: e, args }, span)?;
                }
                "[" => {
                    self.advance();
                    e = self.subscript(e, span)?;
                }
                "->" => {
                    self.advance();
                    let span = self.span();
                    let name = self.member_name()?;
                    e = self.build(ExprKind::Prop { base: e, name }, span)?;
                }
                "++" | "--" => {
                    self.check_target(&e, span, false)?;
                    self.advance();
                    let delta = if p == "++" { 1.0 } else { -1.0 };
                    e = self.build(ExprKind::IncDec { target: e, delta, prefix: false }, span)?;
                }
                _ => return Ok(e),
            }
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Arg>> {
        let mut args = Vec::new();
        while !self.eat(")") {
            if !args.is_empty() {
                self.expect(",")?;
                // Published scripts end long lists with a comma.
                if self.eat(")") {
                    break;
                }
            }
            let spread = self.eat("...");
            let value = self.expression()?;
            args.push(Arg { spread, value });
        }
        Ok(args)
    }

    fn subscript(&mut self, base: Expr, span: Span) -> Parsed<Expr> {
        if self.eat("]") {
            return self.build(ExprKind::Append { base }, span);
        }
        let mut first = None;
        if !self.is(":") && !self.is("::") {
            let key = self.expression()?;
            if self.eat("]") {
                return self.build(ExprKind::Index { base, key }, span);
            }
            first = Some(key);
        }
        let (mut to, mut step) = (None, None);
        if self.eat("::") {
            if !self.is("]") {
                step = Some(self.expression()?);
            }
        } else {
            self.expect(":")?;
            if !self.is(":") && !self.is("]") {
                to = Some(self.expression()?);
            }
            if self.eat(":") && !self.is("]") {
                step = Some(self.expression()?);
            }
        }
        self.expect("]")?;
        self.build(ExprKind::Slice { base, from: first, to, step }, span)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let span = self.span();
        let kind = match self.tok().clone() {
            Tok::Number(n) => {
                self.advance();
                ExprKind::Number(n)
            }
            Tok::Str(s) => {
                self.advance();
                ExprKind::Str(s)
            }
            Tok::Template(parts) => {
                self.advance();
                let file = self.file;
                let parts = parts
                    .iter()
                    .map(|p| match p {
                        Part::Text(s) => Expr::new(ExprKind::Str(s.clone()), span),
                        Part::Variable(name, offset) => {
                            Expr::new(ExprKind::Var(name.clone()), Span { file, offset: *offset })
                        }
                    })
                    .collect();
                ExprKind::Template(parts)
            }
            Tok::Regex(_, pattern, flags) => {
                self.advance();
                ExprKind::Regex(pattern, flags)
            }
            Tok::Variable(name) => {
                self.advance();
                ExprKind::Var(name)
            }
            Tok::Punct("(") => {
                self.advance();
                let e = self.expression()?;
                self.expect(")")?;
                match &*e.kind {
                    ExprKind::Assign { .. } => ExprKind::Paren(e),
                    // A parenthesised concatenation or literal is an operand of its own, never a target.
                    ExprKind::Concat(_) | ExprKind::Array(_) => ExprKind::Paren(e),
                    _ => return Ok(e),
                }
            }
            Tok::Punct("[") => {
                self.advance();
                self.elements("]")?
            }
            Tok::Word(word) => return self.word(&word, span),
            _ => return self.expected("an expression"),
        };
        self.build(kind, span)
    }

    fn elements(&mut self, close: &str) -> Parsed<ExprKind> {
        let mut list = Vec::new();
        while !self.eat(close) {
            if !list.is_empty() {
                self.expect(",")?;
                if self.eat(close) {
                    break;
                }
            }
            if self.eat("...") {
                list.push(Element::Spread(self.expression()?));
                continue;
            }
            let first = self.expression()?;
            if self.eat("=>") {
                list.push(Element::Pair(first, self.expression()?));
            } else {
                list.push(Element::Value(first));
            }
        }
        Ok(ExprKind::Array(list))
    }

    fn word(&mut self, word: &str, span: Span) -> Parsed<Expr> {
        let kind = match word {
            "true" | "false" => {
                self.advance();
                ExprKind::Bool(word == "true")
            }
            "none" => {
                self.advance();
                ExprKind::None
            }
            "array" => {
                self.advance();
                self.expect("(")?;
                self.elements(")")?
            }
            "function" => {
                self.advance();
                ExprKind::Closure(self.function("".into(), span, true)?)
            }
            "match" => {
                self.advance();
                self.match_expression()?
            }
            "isset" | "unset" => {
                self.advance();
                self.expect("(")?;
                let target = self.expression()?;
                if !target.assignable()
                    || matches!(&*target.kind, ExprKind::Append { .. } | ExprKind::Pattern(_))
                {
                    return self
                        .fail_at(target.span, format!("'{word}' takes one variable, element or property"));
                }
                self.expect(")")?;
                if word == "isset" { ExprKind::Isset(target) } else { ExprKind::Unset(target) }
            }
            "builtin" => {
                self.advance();
                let (name, _) = self.declared_name("function")?;
                ExprKind::Name { builtin: true, name }
            }
            "cache" => {
                self.advance();
                return self.cache(span);
            }
            "static" => {
                self.advance();
                if !self.is("::") {
                    return self.expected("'::'");
                }
                self.advance();
                return self.static_member("static".into(), span);
            }
            _ if RESERVED.contains(&word) => {
                return self.fail_at(span, format!("Unexpected keyword '{word}'"));
            }
            _ if FUTURE.contains(&word) => {
                return self.fail_at(span, format!("'{word}' is reserved for future use"));
            }
            _ => {
                self.advance();
                if self.eat("::") {
                    return self.static_member(word.into(), span);
                }
                ExprKind::Name { builtin: false, name: word.into() }
            }
        };
        self.build(kind, span)
    }

    fn static_member(&mut self, class: crate::ast::Name, span: Span) -> Parsed<Expr> {
        let kind = match self.tok().clone() {
            Tok::Variable(name) => {
                self.advance();
                ExprKind::StaticVar { class, name }
            }
            _ => ExprKind::StaticName { class, name: self.member_name()? },
        };
        self.build(kind, span)
    }

    fn match_expression(&mut self) -> Parsed<ExprKind> {
        self.expect("(")?;
        let subject = self.expression()?;
        self.expect(")")?;
        self.expect("{")?;
        let mut arms: Vec<(Vec<Expr>, Expr)> = Vec::new();
        let mut default = None;
        while !self.eat("}") {
            if !arms.is_empty() || default.is_some() {
                self.expect(",")?;
                if self.eat("}") {
                    break;
                }
            }
            let span = self.span();
            if self.eat_word("default") {
                self.expect("=>")?;
                if default.replace(self.expression()?).is_some() {
                    self.report(span, "More than one 'default' in a match");
                }
                continue;
            }
            let mut values = vec![self.expression()?];
            while self.eat(",") {
                values.push(self.expression()?);
            }
            self.expect("=>")?;
            arms.push((values, self.expression()?));
        }
        Ok(ExprKind::Match { subject, arms, default })
    }

    fn cache(&mut self, span: Span) -> Parsed<Expr> {
        let options_span = self.span();
        let elements = if self.eat_word("array") {
            self.expect("(")?;
            self.elements(")")?
        } else {
            self.expect("[")?;
            self.elements("]")?
        };
        let options = self.build(elements, options_span)?;
        let target_span = self.span();
        let builtin = self.eat_word("builtin");
        let target = match self.tok().clone() {
            Tok::Word(w) if *w == *"static" && !builtin => self.word("static", target_span)?,
            Tok::Word(_) => {
                let (name, name_span) = self.declared_name("function")?;
                if !builtin && self.eat("::") {
                    self.static_member(name, name_span)?
                } else {
                    self.build(ExprKind::Name { builtin, name }, name_span)?
                }
            }
            _ => return self.expected("a function name"),
        };
        if !matches!(&*target.kind, ExprKind::Name { .. } | ExprKind::StaticName { .. }) {
            return self.fail_at(target_span, "Expected a function name after the cache options");
        }
        self.expect("(")?;
        let args = self.arguments()?;
        let e = self.build(ExprKind::Cache { options, target, args }, span)?;
        Ok(e)
    }
}
