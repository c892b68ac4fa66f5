//! The syntax tree that the parser builds and the compiler reads.

use crate::diag::Span;
use crate::string::Str;
use std::rc::Rc;

pub(crate) type Name = Rc<str>;

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) kind: Box<ExprKind>,
    pub(crate) span: Span,
    /// Height of the tree, bounded by the parser so that walks may recurse.
    pub(crate) depth: u16,
}

#[derive(Debug, Clone)]
pub(crate) enum ExprKind {
    None,
    Bool(bool),
    Number(f64),
    Str(Str),
    /// Interpolated string.
    Template(Vec<Expr>),
    Regex(Rc<[u8]>, Rc<[u8]>),
    Var(Name),
    Array(Vec<Element>),
    Closure(Rc<FunctionDecl>),
    Match {
        subject: Expr,
        arms: Vec<(Vec<Expr>, Expr)>,
        default: Option<Expr>,
    },
    Isset(Expr),
    Unset(Expr),
    /// A function or class by name; `builtin` skips overrides.
    Name {
        builtin: bool,
        name: Name,
    },
    /// `Cls::name`; class is an identifier, a namespace or `static`.
    StaticName {
        class: Name,
        name: Name,
    },
    /// `Cls::$name`.
    StaticVar {
        class: Name,
        name: Name,
    },
    Cache {
        options: Expr,
        target: Expr,
        args: Vec<Arg>,
    },
    Call {
        callee: Expr,
        args: Vec<Arg>,
    },
    Index {
        base: Expr,
        key: Expr,
    },
    /// `e[]`, only as a target.
    Append {
        base: Expr,
    },
    Slice {
        base: Expr,
        from: Option<Expr>,
        to: Option<Expr>,
        step: Option<Expr>,
    },
    Prop {
        base: Expr,
        name: Name,
    },
    Unary {
        op: UnaryOp,
        operand: Expr,
    },
    Binary {
        op: BinaryOp,
        left: Expr,
        right: Expr,
    },
    Concat(Vec<Expr>),
    And(Expr, Expr),
    Or(Expr, Expr),
    Ternary {
        cond: Expr,
        then: Option<Expr>,
        other: Expr,
    },
    Coalesce(Expr, Expr),
    Assign {
        target: Expr,
        value: Expr,
    },
    /// A destructuring pattern, only as a target.
    Pattern(Pattern),
    /// `op=`; `None` is `??=`.
    Augment {
        op: Option<BinaryOp>,
        target: Expr,
        value: Expr,
    },
    IncDec {
        target: Expr,
        delta: f64,
        prefix: bool,
    },
    /// An expression between parentheses that would otherwise draw a warning.
    Paren(Expr),
}

#[derive(Debug, Clone)]
pub(crate) enum Element {
    Value(Expr),
    Pair(Expr, Expr),
    Spread(Expr),
}

#[derive(Debug, Clone)]
pub(crate) struct Arg {
    pub(crate) spread: bool,
    pub(crate) value: Expr,
}

#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Key (in keyed patterns), target, default.
    pub(crate) items: Vec<(Option<Expr>, Expr, Option<Expr>)>,
    pub(crate) rest: Option<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnaryOp {
    Not,
    Minus,
    Plus,
    BitNot,
}

impl UnaryOp {
    /// The operator as written.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            UnaryOp::Not => "!",
            UnaryOp::Minus => "-",
            UnaryOp::Plus => "+",
            UnaryOp::BitNot => "~",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Concat,
    Eq,
    Ne,
    StrictEq,
    StrictNe,
    Lt,
    Gt,
    Le,
    Ge,
    Match,
    NoMatch,
    BitAnd,
    BitOr,
    BitXor,
    Shl,
    Shr,
    UShr,
}

impl BinaryOp {
    /// The operator as written.
    pub(crate) fn symbol(self) -> &'static str {
        use BinaryOp::*;
        match self {
            Add => "+",
            Sub => "-",
            Mul => "*",
            Div => "/",
            Rem => "%",
            Pow => "**",
            Concat => ".",
            Eq => "==",
            Ne => "!=",
            StrictEq => "===",
            StrictNe => "!==",
            Lt => "<",
            Gt => ">",
            Le => "<=",
            Ge => ">=",
            Match => "=~",
            NoMatch => "!~",
            BitAnd => "&",
            BitOr => "|",
            BitXor => "^",
            Shl => "<<",
            Shr => ">>",
            UShr => ">>>",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Stmt {
    pub(crate) kind: StmtKind,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) enum StmtKind {
    Empty,
    Block(Vec<Stmt>),
    Function(Rc<FunctionDecl>),
    Class(Rc<ClassDecl>),
    Echo(Expr),
    Return(Option<Expr>),
    Throw(Expr),
    Yield(Option<Expr>),
    Break,
    Continue,
    Global(Vec<(Name, Span)>),
    /// The statements of an included file.
    Included(Vec<Stmt>),
    Import(Import),
    /// `__debug ["stage", "point"]` before a statement.
    Debug {
        stage: Str,
        point: Str,
        log: bool,
        body: Box<Stmt>,
    },
    Expr(Expr),
    /// Conditions with their branches, and `else`.
    If {
        arms: Vec<(Expr, Stmt)>,
        other: Option<Box<Stmt>>,
    },
    While {
        cond: Expr,
        body: Box<Stmt>,
    },
    For {
        init: Option<Expr>,
        cond: Option<Expr>,
        step: Option<Expr>,
        body: Box<Stmt>,
    },
    Forever(Box<Stmt>),
    Foreach {
        subject: Expr,
        key: Option<Expr>,
        value: Expr,
        body: Box<Stmt>,
    },
    /// Cases in order; `None` is `default`.
    Switch {
        subject: Expr,
        cases: Vec<(Option<Expr>, Vec<Stmt>)>,
    },
    Try {
        body: Vec<Stmt>,
        name: Name,
        name_span: Span,
        handler: Vec<Stmt>,
    },
    Barrier {
        name: Expr,
        var: Option<Name>,
        body: Vec<Stmt>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) what: ImportWhat,
    pub(crate) path: Str,
    pub(crate) path_span: Span,
    pub(crate) options: Option<Expr>,
}

#[derive(Debug, Clone)]
pub(crate) enum ImportWhat {
    Symbols(Vec<ImportSymbol>),
    All { name: Name, span: Span },
    Data { name: Name, span: Span },
}

#[derive(Debug, Clone)]
pub(crate) struct ImportSymbol {
    pub(crate) variable: bool,
    pub(crate) name: Name,
    pub(crate) local: Name,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct FunctionDecl {
    /// Empty for anonymous functions.
    pub(crate) name: Name,
    pub(crate) span: Span,
    pub(crate) params: Vec<Param>,
    pub(crate) captures: Vec<(Name, Span)>,
    pub(crate) body: Vec<Stmt>,
    pub(crate) generator: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub(crate) name: Name,
    pub(crate) span: Span,
    pub(crate) default: Option<Expr>,
    pub(crate) variadic: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ClassDecl {
    pub(crate) name: Name,
    pub(crate) span: Span,
    pub(crate) constructor: Option<Rc<FunctionDecl>>,
    pub(crate) vars: Vec<ClassVar>,
    pub(crate) methods: Vec<Method>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Modifiers {
    pub(crate) private: bool,
    pub(crate) readonly: bool,
    pub(crate) fixed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ClassVar {
    pub(crate) name: Name,
    pub(crate) modifiers: Modifiers,
    pub(crate) value: Option<Expr>,
}

#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) modifiers: Modifiers,
    pub(crate) decl: Rc<FunctionDecl>,
}

impl Expr {
    pub(crate) fn new(kind: ExprKind, span: Span) -> Expr {
        let depth = kind.children().map(|e| e.depth).max().unwrap_or(0).saturating_add(1);
        Expr { kind: Box::new(kind), span, depth }
    }

    /// True if this form can be written to (section 6).
    pub(crate) fn assignable(&self) -> bool {
        matches!(
            &*self.kind,
            ExprKind::Var(_)
                | ExprKind::Index { .. }
                | ExprKind::Append { .. }
                | ExprKind::Slice { .. }
                | ExprKind::Prop { .. }
                | ExprKind::StaticVar { .. }
                | ExprKind::Pattern(_)
        )
    }

    /// True if evaluating the expression calls something, which may write variables that others see.
    pub(crate) fn calls(&self) -> bool {
        matches!(&*self.kind, ExprKind::Call { .. } | ExprKind::Cache { .. })
            || self.kind.children().any(Expr::calls)
    }

    /// True if evaluating the expression may write a variable of the function it stands in.
    pub(crate) fn writes(&self) -> bool {
        match &*self.kind {
            ExprKind::Assign { .. }
            | ExprKind::Augment { .. }
            | ExprKind::IncDec { .. }
            | ExprKind::Unset(_) => true,
            kind => kind.children().any(Expr::writes),
        }
    }
}

impl ExprKind {
    /// Direct sub-expressions in evaluation order.
    pub(crate) fn children(&self) -> Box<dyn Iterator<Item = &Expr> + '_> {
        use ExprKind::*;
        match self {
            None
            | Bool(_)
            | Number(_)
            | Str(_)
            | Regex(..)
            | Var(_)
            | Closure(_)
            | Name { .. }
            | StaticName { .. }
            | StaticVar { .. } => Box::new(std::iter::empty()),
            Template(list) | Concat(list) => Box::new(list.iter()),
            Array(elements) => Box::new(elements.iter().flat_map(|e| match e {
                Element::Value(v) | Element::Spread(v) => [Some(v), Option::None].into_iter().flatten(),
                Element::Pair(k, v) => [Some(k), Some(v)].into_iter().flatten(),
            })),
            Match { subject, arms, default } => Box::new(
                std::iter::once(subject)
                    .chain(arms.iter().flat_map(|(c, r)| c.iter().chain(std::iter::once(r))))
                    .chain(default.iter()),
            ),
            Isset(e)
            | Unset(e)
            | Append { base: e }
            | Prop { base: e, .. }
            | Unary { operand: e, .. }
            | Paren(e)
            | IncDec { target: e, .. } => Box::new(std::iter::once(e)),
            Cache { options: head, args, .. } | Call { callee: head, args } => {
                Box::new(std::iter::once(head).chain(args.iter().map(|a| &a.value)))
            }
            Index { base: a, key: b }
            | Binary { left: a, right: b, .. }
            | And(a, b)
            | Or(a, b)
            | Coalesce(a, b)
            | Assign { target: a, value: b }
            | Augment { target: a, value: b, .. } => Box::new([a, b].into_iter()),
            Slice { base, from, to, step } => {
                Box::new(std::iter::once(base).chain(from.iter()).chain(to.iter()).chain(step.iter()))
            }
            Ternary { cond, then, other } => {
                Box::new(std::iter::once(cond).chain(then.iter()).chain(std::iter::once(other)))
            }
            Pattern(p) => Box::new(
                p.items
                    .iter()
                    .flat_map(|(k, t, d)| k.iter().chain(std::iter::once(t)).chain(d.iter()))
                    .chain(p.rest.iter()),
            ),
        }
    }
}
