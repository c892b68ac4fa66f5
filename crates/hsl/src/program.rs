//! [`Program`]: compiled code, shared by all executions, and its bytecode.
//!
//! Register machine: every function has a window of at most 256 registers, variables first, temporaries behind them.
//! Arguments of a call are evaluated into the registers where the window of the callee begins, so a call copies
//! nothing. Every instruction has a source span in a table beside the code.

use crate::array::Array;
use crate::ast::BinaryOp;
use crate::diag::{SourceMap, Span};
use crate::leaf::Leaf;
use crate::probe::Point;
use crate::regex::Regex;
use crate::registry::{FunctionDef, NativeClass};
use crate::string::Str;
use crate::value::Value;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A register of the current window.
pub(crate) type Reg = u8;

/// One instruction; 8 bytes. `to` is an index into the code of the same function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Op {
    Const {
        dst: Reg,
        k: u32,
    },
    Int {
        dst: Reg,
        n: i32,
    },
    Bool {
        dst: Reg,
        b: bool,
    },
    None {
        dst: Reg,
    },
    Move {
        dst: Reg,
        src: Reg,
    },
    /// As `Move`, but an unset variable gives `none`.
    MoveQuiet {
        dst: Reg,
        src: Reg,
    },
    LoadCell {
        dst: Reg,
        quiet: bool,
        cell: u16,
    },
    StoreCell {
        src: Reg,
        cell: u16,
    },
    LoadGlobal {
        dst: Reg,
        quiet: bool,
        slot: u32,
    },
    StoreGlobal {
        src: Reg,
        slot: u32,
    },
    LoadStatic {
        dst: Reg,
        slot: u32,
    },
    StoreStatic {
        src: Reg,
        slot: u32,
    },
    ClearReg {
        dst: Reg,
        reg: Reg,
    },
    ClearCell {
        dst: Reg,
        cell: u16,
    },
    ClearGlobal {
        dst: Reg,
        slot: u32,
    },
    IssetReg {
        dst: Reg,
        reg: Reg,
    },
    IssetCell {
        dst: Reg,
        cell: u16,
    },
    IssetGlobal {
        dst: Reg,
        slot: u32,
    },

    Add {
        dst: Reg,
        a: Reg,
        b: Reg,
    },
    Sub {
        dst: Reg,
        a: Reg,
        b: Reg,
    },
    Mul {
        dst: Reg,
        a: Reg,
        b: Reg,
    },
    AddInt {
        dst: Reg,
        a: Reg,
        n: i32,
    },
    MulInt {
        dst: Reg,
        a: Reg,
        n: i32,
    },
    RemInt {
        dst: Reg,
        a: Reg,
        n: i32,
    },
    Binary {
        op: BinaryOp,
        dst: Reg,
        a: Reg,
        b: Reg,
    },
    /// `a .= b` on a register variable.
    Append {
        a: Reg,
        b: Reg,
    },
    /// `a .= constant` on a register variable.
    AppendConst {
        a: Reg,
        k: u32,
    },
    Negate {
        dst: Reg,
        a: Reg,
    },
    Plus {
        dst: Reg,
        a: Reg,
    },
    Not {
        dst: Reg,
        a: Reg,
    },
    Truth {
        dst: Reg,
        a: Reg,
    },
    BitNot {
        dst: Reg,
        a: Reg,
    },
    /// Adds to a number variable (`++`, `--`).
    Increment {
        reg: Reg,
        n: i32,
    },
    CheckNumber {
        reg: Reg,
    },
    /// Joins `count` registers; `none` raises unless interpolated.
    Concat {
        dst: Reg,
        start: Reg,
        count: u8,
        interpolated: bool,
    },
    MatchRegex {
        dst: Reg,
        a: Reg,
        negate: bool,
        regex: u32,
    },

    Jump {
        to: u32,
    },
    JumpIf {
        a: Reg,
        to: u32,
    },
    JumpIfNot {
        a: Reg,
        to: u32,
    },
    JumpIfNone {
        a: Reg,
        to: u32,
    },
    JumpIfDefined {
        a: Reg,
        to: u32,
    },
    JumpLt {
        a: Reg,
        b: Reg,
        when: bool,
        to: u32,
    },
    JumpLe {
        a: Reg,
        b: Reg,
        when: bool,
        to: u32,
    },
    JumpEq {
        a: Reg,
        b: Reg,
        when: bool,
        to: u32,
    },
    JumpNe {
        a: Reg,
        b: Reg,
        when: bool,
        to: u32,
    },
    JumpLtConst {
        a: Reg,
        k: u16,
        to: u32,
    },
    JumpNotLtConst {
        a: Reg,
        k: u16,
        to: u32,
    },
    JumpLeConst {
        a: Reg,
        k: u16,
        to: u32,
    },
    JumpNotLeConst {
        a: Reg,
        k: u16,
        to: u32,
    },
    /// Jumps by a table of constants; falls through when nothing is equal and the subject is of the table's type.
    Switch {
        a: Reg,
        table: u32,
    },

    NewArray {
        dst: Reg,
        capacity: u16,
    },
    Push {
        array: Reg,
        src: Reg,
    },
    PushPair {
        array: Reg,
        key: Reg,
        src: Reg,
    },
    Spread {
        array: Reg,
        src: Reg,
        values_only: bool,
    },
    Index {
        dst: Reg,
        base: Reg,
        key: Reg,
    },
    IndexConst {
        dst: Reg,
        base: Reg,
        k: u32,
    },
    IndexQuiet {
        dst: Reg,
        base: Reg,
        key: Reg,
    },
    IssetIndex {
        dst: Reg,
        base: Reg,
        key: Reg,
    },
    Slice {
        dst: Reg,
        start: Reg,
    },
    /// `$v[key] = src` on a register variable.
    SetIndex {
        base: Reg,
        key: Reg,
        src: Reg,
    },
    /// `$v[] = src` on a register variable.
    PushVar {
        base: Reg,
        src: Reg,
    },
    GetProp {
        dst: Reg,
        base: Reg,
        quiet: bool,
        k: u32,
    },
    IssetProp {
        dst: Reg,
        base: Reg,
        k: u32,
    },
    SetProp {
        base: Reg,
        src: Reg,
        k: u32,
    },
    /// Writes through a path of subscripts and properties.
    Path {
        dst: Reg,
        src: Reg,
        path: u32,
    },
    /// Element `n` in iteration order, or `Undef` when missing or not an array.
    Element {
        dst: Reg,
        base: Reg,
        n: u32,
    },
    ElementKey {
        dst: Reg,
        base: Reg,
        key: Reg,
    },
    /// Elements from `n` on, as a list.
    Rest {
        dst: Reg,
        base: Reg,
        n: u32,
    },

    Call {
        dst: Reg,
        start: Reg,
        argc: u8,
        proto: u32,
    },
    /// A call with the right number of arguments of a function that is a [`Leaf`](crate::leaf::Leaf).
    CallLeaf {
        dst: Reg,
        start: Reg,
        argc: u8,
        proto: u32,
    },
    CallNative {
        dst: Reg,
        start: Reg,
        argc: u8,
        native: u32,
    },
    CallValue {
        dst: Reg,
        start: Reg,
        argc: u8,
    },
    CallSpread {
        dst: Reg,
        start: Reg,
    },
    CallMethod {
        dst: Reg,
        start: Reg,
        argc: u8,
        k: u32,
    },
    CallMethodSpread {
        dst: Reg,
        start: Reg,
        k: u32,
    },
    New {
        dst: Reg,
        start: Reg,
        argc: u8,
        class: u32,
    },
    NewNative {
        dst: Reg,
        start: Reg,
        argc: u8,
        class: u32,
    },
    MakeFunction {
        dst: Reg,
        proto: u32,
    },
    MakeClosure {
        dst: Reg,
        closure: u32,
    },
    MakeClass {
        dst: Reg,
        class: u32,
    },
    MakeNative {
        dst: Reg,
        native: u32,
    },
    MakeNativeClass {
        dst: Reg,
        class: u32,
    },
    Return {
        src: Reg,
    },
    ReturnNone,
    Yield {
        src: Reg,
    },

    PushTry {
        dst: Reg,
        to: u32,
    },
    PopTry,
    Throw {
        src: Reg,
    },
    MatchFail {
        src: Reg,
    },

    IterInit {
        iter: Reg,
        src: Reg,
    },
    IterNext {
        iter: Reg,
        dst: Reg,
        to: u32,
    },
    /// Key goes to `dst + 1`.
    IterNextPair {
        iter: Reg,
        dst: Reg,
        to: u32,
    },

    BarrierEnter {
        dst: Reg,
        name: Reg,
    },
    /// Writes `src` back when `write`.
    BarrierExit {
        src: Reg,
        write: bool,
    },
    Cache {
        dst: Reg,
        start: Reg,
        argc: u8,
        site: u32,
    },
    Echo {
        src: Reg,
    },
    RunModule {
        module: u32,
    },
    /// Tells the observer; only in programs compiled with probes.
    Probe {
        point: u32,
    },
}

/// Where a path write starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Root {
    Reg(Reg),
    Cell(u16),
    Global(u32),
    Static(u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    Index(Reg),
    Append,
    /// First of three registers: from, to, step.
    Slice(Reg),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PathOp {
    /// Stores `src`.
    Assign,
    /// `op= src`; the result goes to `dst`.
    Augment(BinaryOp),
    /// Adds; the new or old number goes to `dst`.
    Increment { delta: i8, prefix: bool },
    /// Whether something was removed goes to `dst`.
    Unset,
}

#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) steps: Box<[Step]>,
    /// Marks the steps written with `->`, which need an object.
    pub(crate) arrows: Box<[bool]>,
    pub(crate) op: PathOp,
}

/// A jump table over constant numbers and strings.
#[derive(Debug, Default)]
pub(crate) struct SwitchTable {
    pub(crate) numbers: HashMap<u64, u32>,
    pub(crate) strings: HashMap<Str, u32>,
    /// Where subjects go that no entry equals.
    pub(crate) default: u32,
    /// Where subjects go that need one comparison after the other.
    pub(crate) slow: u32,
}

/// What a `cache` expression calls.
#[derive(Debug)]
pub(crate) struct CacheSite {
    pub(crate) callee: CacheCallee,
    /// Names the function in the cache, with its file.
    pub(crate) identity: Str,
    /// Arguments come as one array.
    pub(crate) spread: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum CacheCallee {
    Proto(u32),
    Native(u32),
}

#[derive(Debug)]
pub(crate) struct ClosureDef {
    pub(crate) proto: u32,
    /// Cells of the creating function.
    pub(crate) captures: Box<[u16]>,
}

/// One compiled function.
#[derive(Debug, Default)]
pub(crate) struct Proto {
    pub(crate) name: Arc<str>,
    pub(crate) code: Vec<Op>,
    pub(crate) spans: Vec<Span>,
    pub(crate) consts: Vec<Value>,
    pub(crate) paths: Vec<Path>,
    pub(crate) tables: Vec<SwitchTable>,
    pub(crate) closures: Vec<ClosureDef>,
    /// Names of the register variables.
    pub(crate) names: Vec<Arc<str>>,
    /// Names of the cells: captured ones first.
    pub(crate) cell_names: Vec<Arc<str>>,
    pub(crate) captures: u16,
    pub(crate) registers: u16,
    /// Declared parameters without the variadic one.
    pub(crate) params: u8,
    pub(crate) required: u8,
    pub(crate) variadic: bool,
    pub(crate) method: bool,
    pub(crate) generator: bool,
    /// Neither variadic nor a generator, without cells: a call only pushes a frame.
    pub(crate) plain: bool,
    /// As `plain`, but it may use captured variables.
    pub(crate) simple: bool,
    /// What it computes, if that is all it does.
    pub(crate) leaf: Option<Leaf>,
    /// What calls of methods found before, by the constant of the name: index of the class + 1 in the upper half,
    /// function in the lower.
    pub(crate) found: Box<[AtomicU64]>,
    /// Where properties were found before, by the constant of the name: index of the entry.
    pub(crate) spots: Box<[AtomicU32]>,
    /// Class whose private members it may use.
    pub(crate) class: Option<u32>,
    pub(crate) span: Span,
}

impl Proto {
    /// Suggests a variable of the function with a name near to `name`, as the end of a message.
    #[cold]
    pub(crate) fn near(&self, name: &str) -> String {
        let names = self.names.iter().chain(&self.cell_names).map(|n| &**n);
        crate::diag::hint(name, "$", names.filter(|n| *n != name))
    }
}

/// Member names come from programs, not from clients; speed matters more than seeding.
pub(crate) type Hasher = foldhash::fast::FixedState;

/// A class of a script.
#[derive(Debug)]
pub struct ClassDef {
    pub(crate) name: Arc<str>,
    /// Place in the classes of its program.
    pub(crate) index: u32,
    /// Initial values of instance variables.
    pub(crate) fields: Array,
    pub(crate) guarded: HashMap<Str, Guard, Hasher>,
    pub(crate) constructor: Option<u32>,
    pub(crate) methods: HashMap<Str, MethodDef, Hasher>,
    pub(crate) statics: HashMap<Str, StaticDef, Hasher>,
    pub(crate) static_methods: HashMap<Str, MethodDef, Hasher>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub(crate) private: bool,
    pub(crate) readonly: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct MethodDef {
    pub(crate) proto: u32,
    pub(crate) private: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct StaticDef {
    pub(crate) slot: u32,
    pub(crate) guard: Guard,
}

/// A compiled script with everything it includes and imports. Immutable and shared between executions.
#[derive(Debug, Default)]
pub struct Program {
    pub(crate) protos: Vec<Proto>,
    pub(crate) classes: Vec<Arc<ClassDef>>,
    pub(crate) natives: Vec<Arc<FunctionDef>>,
    pub(crate) native_classes: Vec<Arc<NativeClass>>,
    pub(crate) regexes: Vec<Regex>,
    pub(crate) sites: Vec<CacheSite>,
    /// Initial values of static class variables.
    pub(crate) statics: Vec<Value>,
    /// Main function of each imported module.
    pub(crate) modules: Vec<u32>,
    pub(crate) entry: u32,
    /// Names of the global slots, for messages.
    pub(crate) global_names: Vec<Arc<str>>,
    /// Slots of the context variables.
    pub(crate) context: HashMap<String, u32>,
    pub(crate) points: Vec<Point>,
    pub(crate) sources: SourceMap,
}

impl Program {
    /// Marks the functions that need no frame, and the calls of them.
    pub(crate) fn find_leaves(&mut self) {
        for proto in &mut self.protos {
            proto.leaf = Leaf::find(proto);
        }
        let leaves: Vec<Option<u8>> =
            self.protos.iter().map(|p| p.leaf.is_some().then_some(p.params)).collect();
        for op in self.protos.iter_mut().flat_map(|p| &mut p.code) {
            if let Op::Call { dst, start, argc, proto } = *op
                && leaves.get(proto as usize) == Some(&Some(argc))
            {
                *op = Op::CallLeaf { dst, start, argc, proto };
            }
        }
    }

    /// The source files.
    pub fn sources(&self) -> &SourceMap {
        &self.sources
    }

    /// Whether code of the program reads or changes a context variable (without dollar), see
    /// [`Compiler::context_variable`](crate::Compiler::context_variable); the host may leave out what nobody uses.
    /// Programs with probes use all of them, as their observers do.
    pub fn uses_variable(&self, name: &str) -> bool {
        let Some(&wanted) = self.context.get(name) else { return false };
        // Only these instructions reach a slot, whatever function, closure or included file they come from.
        let reaches = |op: &Op| match op {
            Op::LoadGlobal { slot, .. }
            | Op::StoreGlobal { slot, .. }
            | Op::ClearGlobal { slot, .. }
            | Op::IssetGlobal { slot, .. } => *slot == wanted,
            _ => false,
        };
        !self.points.is_empty()
            || self.protos.iter().any(|proto| {
                proto.code.iter().any(reaches)
                    || proto.paths.iter().any(|path| path.root == Root::Global(wanted))
            })
    }

    /// The bytecode as text, one instruction per line with its place.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        for (i, proto) in self.protos.iter().enumerate() {
            let name = self.function_name(i as u32);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "function {i} {name}: {} registers", proto.registers);
            for (pc, (op, span)) in proto.code.iter().zip(&proto.spans).enumerate() {
                let place = self.sources.place(*span);
                let _ = write!(out, "  {pc:5}  {:>4}:{:<3} {op:?}", place.line, place.column);
                if let Op::Const { k, .. } | Op::IndexConst { k, .. } = op {
                    let _ = write!(out, "  ; {:?}", proto.consts.get(*k as usize));
                }
                if let Op::Path { path, .. } = op {
                    let _ = write!(out, "  ; {:?}", proto.paths.get(*path as usize));
                }
                if let Op::CallNative { native, .. } = op {
                    let _ =
                        write!(out, "  ; {}", self.natives.get(*native as usize).map_or("?", |n| &n.name));
                }
                out.push('\n');
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn instructions_are_small() {
        assert_eq!(size_of::<super::Op>(), 8);
    }
}
