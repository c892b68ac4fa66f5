//! The dispatch loop.

use super::access::{self};
use super::frame_stack::{Handler, Mode};
use super::frames::{
    Flow, Resumed, WINDOW, call_native, call_value, construct, continue_native, push_call, raise, raise_now,
    resume_generator, return_value, with_cx, yield_value,
};
use super::steps::{
    append, binary_slow, call_anyway, call_leaf, call_method, compare, compare_const, concat, copy_register,
    defined, fetch, function, int_slow, no_member, place_args, probe, remember_method, run_path, set_index,
    set_number, undefined, window,
};
use super::{Machine, Step, Waiting, cache};
use crate::array::Array;
use crate::ast::BinaryOp;
use crate::error::Error;
use crate::object::{FunctionKind, Object, ObjectKind};
use crate::ops;
use crate::program::{Op, Program, Proto, Reg};
use crate::registry::{Args, NativeFn};
use crate::string::Str;
use crate::value::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Runs until the execution stops or `fuel` jumps and calls are used up.
pub(crate) fn run(m: &mut Machine, stack: &mut Vec<Value>, fuel: u32) -> Step {
    let mut fuel = fuel;
    let mut flow = match start(m, stack) {
        Ok(flow) => flow,
        Err(e) => raise(m, stack, e),
    };
    loop {
        match flow {
            Flow::Continue => {}
            Flow::Done(value) => return Step::Done(value),
            Flow::End(function, args) => {
                super::frames::unwind_all(m, stack);
                return Step::Ended { function, args };
            }
            Flow::Wait(future) => return Step::Pending(future),
            Flow::Fail(error) => return Step::Failed(error),
        }
        if m.frames.is_native() {
            let result = match m.resumed.take() {
                Some(Ok(value)) => continue_native(m, stack, value),
                Some(Err(e)) => Err(e),
                None => Err(Error::fatal("A native function was left without a result")),
            };
            flow = result.unwrap_or_else(|e| raise(m, stack, e));
            continue;
        }
        if m.frames.is_empty() {
            return Step::Done(Value::None);
        }
        if fuel == 0 {
            return Step::OutOfFuel;
        }
        flow = match frames(m, stack, &mut fuel) {
            Ok(flow) => flow,
            Err(e) => raise(m, stack, e),
        };
    }
}

/// Applies the result that the machine waited for.
fn start(m: &mut Machine, stack: &mut Vec<Value>) -> Result<Flow, Error> {
    let waiting = std::mem::replace(&mut m.waiting, Waiting::No);
    if waiting == Waiting::No {
        return Ok(Flow::Continue);
    }
    let value = match m.resumed.take() {
        Some(result) => result?,
        None => Value::None,
    };
    match waiting {
        Waiting::No | Waiting::Drop => {}
        Waiting::Retry => {
            if let Some(f) = m.frames.script_mut() {
                f.pc -= 1;
            }
        }
        Waiting::Deliver(dst) => {
            if let Some(f) = m.frames.script() {
                stack[f.base as usize + usize::from(dst)] = value;
            }
        }
        Waiting::Continuation => return continue_native(m, stack, value),
        Waiting::Raise => {
            let error = m.held.take().unwrap_or_else(|| Error::fatal("An exception was lost"));
            return Ok(raise_now(m, stack, error));
        }
    }
    Ok(Flow::Continue)
}

/// Runs script frames until control has to go elsewhere. Plain calls and returns stay inside; everything that looks at
/// frames finds the position saved there.
#[allow(clippy::too_many_lines, clippy::cognitive_complexity)]
fn frames(m: &mut Machine, stack: &mut Vec<Value>, fuel_out: &mut u32) -> Result<Flow, Error> {
    let programs: Vec<Arc<Program>> = m.programs.iter().map(|s| Arc::clone(&s.program)).collect();
    let mut fuel = *fuel_out;
    let result = 'reload: loop {
        let Some(f) = m.frames.script() else { break Ok(Flow::Continue) };
        let slot = f.program as usize;
        // A program that joined meanwhile is seen by the next round.
        let Some(program) = programs.get(slot) else { break Ok(Flow::Continue) };
        let proto = &program.protos[f.proto as usize];
        let base = f.base as usize;
        let pc = f.pc as usize;
        match segment(m, stack, &mut fuel, slot, program, proto, base, pc) {
            Ok(Flow::Continue) if fuel > 0 => continue 'reload,
            other => break other,
        }
    };
    *fuel_out = fuel;
    result
}

/// Runs the topmost script frame and what it calls of the same program until something needs the machine.
#[allow(clippy::too_many_arguments, clippy::too_many_lines, clippy::cognitive_complexity)]
fn segment<'p>(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    fuel_out: &mut u32,
    slot: usize,
    program: &'p Arc<Program>,
    mut proto: &'p Proto,
    mut base: usize,
    pc: usize,
) -> Result<Flow, Error> {
    let mut code = &proto.code[..];
    // What comes next: an iterator is one pointer to move where an index would be counted and checked.
    let mut coming = code.get(pc..).unwrap_or_default().iter();
    let mut fuel = *fuel_out;
    let mut regs = window(stack, base)?;
    /// Index of what comes next.
    macro_rules! pc {
        () => {
            code.len() - coming.len()
        };
    }
    macro_rules! go_to {
        ($to:expr) => {
            coming = code.get($to as usize..).unwrap_or_default().iter()
        };
    }
    macro_rules! r {
        ($i:expr) => {
            regs[usize::from($i)]
        };
    }
    macro_rules! save {
        () => {
            if let Some(f) = m.frames.script_mut() {
                f.pc = pc!() as u32;
            }
        };
    }
    /// Leaves the loop.
    macro_rules! leave {
        ($result:expr) => {{
            *fuel_out = fuel;
            return $result;
        }};
    }
    macro_rules! fail {
        ($e:expr) => {{
            save!();
            leave!(Err($e))
        }};
    }
    macro_rules! check {
        ($e:expr) => {
            match $e {
                Ok(v) => v,
                Err(e) => fail!(e),
            }
        };
    }
    macro_rules! burn {
        () => {
            fuel -= 1;
            if fuel == 0 {
                save!();
                leave!(Ok(Flow::Continue));
            }
        };
    }
    macro_rules! jump {
        ($to:expr) => {{
            go_to!($to);
            burn!();
        }};
    }
    /// Goes on after something that may have pushed or popped frames.
    macro_rules! resume {
        ($result:expr) => {{
            let flow: Result<Flow, Error> = $result;
            fuel = fuel.saturating_sub(1);
            match flow {
                Ok(Flow::Continue) if fuel > 0 => match m.frames.script() {
                    Some(f) if f.program as usize == slot => {
                        proto = &program.protos[f.proto as usize];
                        code = &proto.code[..];
                        base = f.base as usize;
                        go_to!(f.pc);
                        regs = check!(window(stack, base));
                    }
                    _ => leave!(Ok(Flow::Continue)),
                },
                other => leave!(other),
            }
        }};
    }
    /// Ends the running function.
    macro_rules! give_back {
        ($src:expr) => {{
            let src: Reg = $src;
            if let Some((parent, f)) = m.frames.last_two_mut()
                && f.mode == Mode::Value
                && f.extra.is_none()
            {
                if !parent.is_script() {
                    let value = std::mem::replace(&mut r!(src), Value::Undef);
                    for v in &mut regs[..usize::from(proto.registers).min(WINDOW)] {
                        v.put(Value::Undef);
                    }
                    m.frames.leave();
                    resume!(continue_native(m, stack, value));
                    continue;
                }
                if parent.program as usize == slot {
                    let dst = f.dst;
                    if f.closure.is_some() {
                        f.closure = None;
                    }
                    if let Value::Number(n) = r!(src) {
                        for v in &mut regs[..usize::from(proto.registers).min(WINDOW)] {
                            v.put(Value::Undef);
                        }
                        proto = &program.protos[parent.proto as usize];
                        code = &proto.code[..];
                        base = parent.base as usize;
                        go_to!(parent.pc);
                        m.frames.forget();
                        regs = check!(window(stack, base));
                        set_number(regs, dst, n);
                        continue;
                    }
                    let from = base + usize::from(src);
                    for (i, v) in regs[..usize::from(proto.registers).min(WINDOW)].iter_mut().enumerate() {
                        if i != usize::from(src) {
                            v.put(Value::Undef);
                        }
                    }
                    proto = &program.protos[parent.proto as usize];
                    code = &proto.code[..];
                    base = parent.base as usize;
                    go_to!(parent.pc);
                    m.frames.forget();
                    // A swap moves the value whole, where moving it by way of a variable would take it apart.
                    let to = base + usize::from(dst);
                    stack.swap(from, to);
                    if from != to {
                        stack[from].put(Value::Undef);
                    }
                    regs = check!(window(stack, base));
                    continue;
                }
            }
            let value = std::mem::replace(&mut r!(src), Value::Undef);
            resume!(return_value(m, stack, value));
        }};
    }
    /// Enters a function of the same program whose frame is already on top.
    macro_rules! enter {
        ($callee:expr, $at:expr) => {{
            proto = $callee;
            code = &proto.code[..];
            base = $at;
            coming = code.iter();
            regs = check!(window(stack, base));
            burn!();
            continue;
        }};
    }
    macro_rules! inside {
        () => {
            proto.class.map(|c| &program.classes[c as usize])
        };
    }
    loop {
        let Some(op) = coming.next() else { fail!(Error::fatal("Code ends without a return")) };
        match *op {
            Op::Const { dst, k } => r!(dst).copy_from(&proto.consts[k as usize]),
            Op::Int { dst, n } => set_number(regs, dst, f64::from(n)),
            Op::Bool { dst, b } => r!(dst) = Value::Bool(b),
            Op::None { dst } => r!(dst) = Value::None,
            Op::Move { dst, src } => {
                if let Value::Number(n) = r!(src) {
                    set_number(regs, dst, n);
                } else if usize::from(src) >= proto.names.len() {
                    // A temporary gives its value away.
                    regs.swap(usize::from(dst), usize::from(src));
                    r!(src).put(Value::Undef);
                } else {
                    if matches!(r!(src), Value::Undef) {
                        fail!(undefined(proto, src));
                    }
                    copy_register(regs, dst, src);
                }
            }
            Op::MoveQuiet { dst, src } => r!(dst) = r!(src).clone(),
            Op::LoadCell { dst, quiet, cell } => {
                let Some(f) = m.frames.script() else { fail!(Error::fatal("Frame is missing")) };
                let held = check!(f.cell(cell)).0.lock();
                if quiet || !matches!(*held, Value::Undef) {
                    r!(dst).copy_from(&held);
                } else {
                    drop(held);
                    fail!(Error::exception(format!(
                        "Undefined variable ${}",
                        proto.cell_names[usize::from(cell)]
                    )));
                }
            }
            Op::StoreCell { src, cell } => {
                let value = check!(fetch(regs, src, proto));
                let Some(f) = m.frames.script() else { fail!(Error::fatal("Frame is missing")) };
                let old = std::mem::replace(&mut *check!(f.cell(cell)).0.lock(), value);
                drop(old);
            }
            Op::LoadGlobal { dst, quiet, slot: g } => {
                let held = &m.programs[slot].globals[g as usize];
                if quiet || !matches!(held, Value::Undef) {
                    r!(dst).copy_from(held);
                } else {
                    fail!(Error::exception(format!(
                        "Undefined variable ${}",
                        program.global_names[g as usize]
                    )));
                }
            }
            Op::StoreGlobal { src, slot: g } => {
                let value = check!(fetch(regs, src, proto));
                m.programs[slot].globals[g as usize] = value;
            }
            Op::LoadStatic { dst, slot: s } => r!(dst) = m.programs[slot].statics[s as usize].clone(),
            Op::StoreStatic { src, slot: s } => {
                let value = check!(fetch(regs, src, proto));
                m.programs[slot].statics[s as usize] = value;
            }
            Op::ClearReg { dst, reg } => {
                let old = std::mem::replace(&mut r!(reg), Value::Undef);
                r!(dst).put(Value::Bool(!matches!(old, Value::Undef)));
            }
            Op::ClearCell { dst, cell } => {
                let Some(f) = m.frames.script() else { fail!(Error::fatal("Frame is missing")) };
                let old = std::mem::replace(&mut *check!(f.cell(cell)).0.lock(), Value::Undef);
                r!(dst).put(Value::Bool(!matches!(old, Value::Undef)));
            }
            Op::ClearGlobal { dst, slot: g } => {
                let old = std::mem::replace(&mut m.programs[slot].globals[g as usize], Value::Undef);
                r!(dst).put(Value::Bool(!matches!(old, Value::Undef)));
            }
            Op::IssetReg { dst, reg } => r!(dst) = Value::Bool(!matches!(r!(reg), Value::Undef)),
            Op::IssetCell { dst, cell } => {
                let Some(f) = m.frames.script() else { fail!(Error::fatal("Frame is missing")) };
                let set = !matches!(&*check!(f.cell(cell)).0.lock(), Value::Undef);
                r!(dst).put(Value::Bool(set));
            }
            Op::IssetGlobal { dst, slot: g } => {
                r!(dst).put(Value::Bool(!matches!(m.programs[slot].globals[g as usize], Value::Undef)));
            }

            Op::Add { dst, a, b } => match (&r!(a), &r!(b)) {
                (Value::Number(x), Value::Number(y)) => {
                    let n = x + y;
                    set_number(regs, dst, n);
                }
                _ => check!(binary_slow(regs, BinaryOp::Add, dst, a, b, proto)),
            },
            Op::Sub { dst, a, b } => match (&r!(a), &r!(b)) {
                (Value::Number(x), Value::Number(y)) => {
                    let n = x - y;
                    set_number(regs, dst, n);
                }
                _ => check!(binary_slow(regs, BinaryOp::Sub, dst, a, b, proto)),
            },
            Op::Mul { dst, a, b } => match (&r!(a), &r!(b)) {
                (Value::Number(x), Value::Number(y)) => {
                    let n = x * y;
                    set_number(regs, dst, n);
                }
                _ => check!(binary_slow(regs, BinaryOp::Mul, dst, a, b, proto)),
            },
            Op::AddInt { dst, a, n } => match r!(a) {
                Value::Number(x) => set_number(regs, dst, x + f64::from(n)),
                _ => check!(int_slow(regs, BinaryOp::Add, dst, a, n, proto)),
            },
            Op::MulInt { dst, a, n } => match r!(a) {
                Value::Number(x) => set_number(regs, dst, x * f64::from(n)),
                _ => check!(int_slow(regs, BinaryOp::Mul, dst, a, n, proto)),
            },
            Op::RemInt { dst, a, n } => match r!(a) {
                Value::Number(x) => {
                    // Whole numbers take the integer instruction; the compiler never emits n = 0.
                    let whole = x as i64;
                    let n = if whole as f64 == x && whole > 0 {
                        (whole % i64::from(n)) as f64
                    } else {
                        x % f64::from(n)
                    };
                    set_number(regs, dst, n);
                }
                _ => check!(int_slow(regs, BinaryOp::Rem, dst, a, n, proto)),
            },
            Op::Binary { op, dst, a, b } => match (&r!(a), &r!(b)) {
                (Value::Number(x), Value::Number(y)) => {
                    let (x, y) = (*x, *y);
                    let v = match op {
                        BinaryOp::Lt => Value::Bool(x < y),
                        BinaryOp::Gt => Value::Bool(x > y),
                        BinaryOp::Le => Value::Bool(x <= y),
                        BinaryOp::Ge => Value::Bool(x >= y),
                        BinaryOp::Eq | BinaryOp::StrictEq => Value::Bool(x == y),
                        BinaryOp::Ne | BinaryOp::StrictNe => Value::Bool(x != y),
                        BinaryOp::Div if y != 0.0 => Value::Number(x / y),
                        BinaryOp::Rem if y != 0.0 => Value::Number(x % y),
                        _ => check!(ops::binary(op, &Value::Number(x), &Value::Number(y))),
                    };
                    r!(dst).put(v);
                }
                _ => check!(binary_slow(regs, op, dst, a, b, proto)),
            },
            Op::Append { a, b } => check!(append(regs, a, b, proto)),
            Op::AppendConst { a, k } => {
                let tail = &proto.consts[k as usize];
                match (&mut r!(a), tail) {
                    (Value::Str(s), Value::Str(t)) if s.len() < 1 << 16 => s.push_bytes(t.as_bytes()),
                    (Value::Undef, _) => fail!(undefined(proto, a)),
                    (left, tail) => check!(ops::append_assign(left, tail)),
                }
            }
            Op::Negate { dst, a } => {
                let v = check!(defined(regs, a, proto).and_then(ops::negate));
                r!(dst).put(v);
            }
            Op::Plus { dst, a } => {
                let v = check!(defined(regs, a, proto).and_then(ops::plus));
                r!(dst).put(v);
            }
            Op::BitNot { dst, a } => {
                let v = check!(defined(regs, a, proto).and_then(ops::bit_not));
                r!(dst).put(v);
            }
            Op::Not { dst, a } => {
                let b = !check!(defined(regs, a, proto)).truthy();
                r!(dst).put(Value::Bool(b));
            }
            Op::Truth { dst, a } => {
                let b = check!(defined(regs, a, proto)).truthy();
                r!(dst).put(Value::Bool(b));
            }
            Op::Increment { reg, n } => match &mut r!(reg) {
                Value::Number(x) => *x += f64::from(n),
                Value::Undef => fail!(undefined(proto, reg)),
                other => fail!(Error::exception(format!("Cannot increment {}", other.type_name()))),
            },
            Op::CheckNumber { reg } => match &r!(reg) {
                Value::Number(_) => {}
                Value::Undef => fail!(undefined(proto, reg)),
                other => fail!(Error::exception(format!("Cannot increment {}", other.type_name()))),
            },
            Op::Concat { dst, start, count, interpolated } => {
                let v = check!(concat(regs, start, count, interpolated));
                r!(dst).put(v);
            }
            Op::MatchRegex { dst, a, negate, regex } => {
                let subject = check!(defined(regs, a, proto));
                let found = check!(ops::matches(&program.regexes[regex as usize], subject));
                r!(dst).put(Value::Bool(found != negate));
            }

            Op::Jump { to } => jump!(to),
            Op::JumpIf { a, to } => {
                if check!(defined(regs, a, proto)).truthy() {
                    jump!(to);
                }
            }
            Op::JumpIfNot { a, to } => {
                if !check!(defined(regs, a, proto)).truthy() {
                    jump!(to);
                }
            }
            Op::JumpIfNone { a, to } => {
                if r!(a).is_none() {
                    jump!(to);
                }
            }
            Op::JumpIfDefined { a, to } => {
                if !matches!(r!(a), Value::Undef) {
                    jump!(to);
                }
            }
            Op::JumpLt { a, b, when, to } => {
                let less = match (&r!(a), &r!(b)) {
                    (Value::Number(x), Value::Number(y)) => x < y,
                    _ => check!(compare(regs, a, b, proto, ops::less)),
                };
                if less == when {
                    jump!(to);
                }
            }
            Op::JumpLe { a, b, when, to } => {
                let less = match (&r!(a), &r!(b)) {
                    (Value::Number(x), Value::Number(y)) => x <= y,
                    _ => check!(compare(regs, a, b, proto, ops::less_or_equal)),
                };
                if less == when {
                    jump!(to);
                }
            }
            Op::JumpEq { a, b, when, to } => {
                let equal = match (&r!(a), &r!(b)) {
                    (Value::Number(x), Value::Number(y)) => x == y,
                    (Value::Str(x), Value::Str(y)) => x == y,
                    _ => check!(compare(regs, a, b, proto, Value::loose_eq)),
                };
                if equal == when {
                    jump!(to);
                }
            }
            Op::JumpNe { a, b, when, to } => {
                let equal = match (&r!(a), &r!(b)) {
                    (Value::Number(x), Value::Number(y)) => x == y,
                    (Value::Str(x), Value::Str(y)) => x == y,
                    _ => check!(compare(regs, a, b, proto, Value::loose_eq)),
                };
                if equal != when {
                    jump!(to);
                }
            }
            Op::JumpLtConst { a, k, to } => {
                if check!(compare_const(regs, a, k, proto, true)) {
                    jump!(to);
                }
            }
            Op::JumpNotLtConst { a, k, to } => {
                if !check!(compare_const(regs, a, k, proto, true)) {
                    jump!(to);
                }
            }
            Op::JumpLeConst { a, k, to } => {
                if check!(compare_const(regs, a, k, proto, false)) {
                    jump!(to);
                }
            }
            Op::JumpNotLeConst { a, k, to } => {
                if !check!(compare_const(regs, a, k, proto, false)) {
                    jump!(to);
                }
            }
            Op::Switch { a, table } => {
                let t = &proto.tables[table as usize];
                let to = match check!(defined(regs, a, proto)) {
                    Value::Number(n) if !t.numbers.is_empty() => {
                        t.numbers.get(&(n + 0.0).to_bits()).copied().unwrap_or(t.default)
                    }
                    Value::Str(s) if !t.strings.is_empty() => t.strings.get(s).copied().unwrap_or(t.default),
                    _ => t.slow,
                };
                jump!(to);
            }

            Op::NewArray { dst, capacity } => {
                r!(dst) = Value::Array(Array::with_capacity(usize::from(capacity)))
            }
            Op::Push { array, src } => {
                let value = check!(fetch(regs, src, proto));
                if let Value::Array(list) = &mut r!(array)
                    && !list.push(value)
                {
                    fail!(Error::exception("Array has no further index"));
                }
            }
            Op::PushPair { array, key, src } => {
                let value = check!(fetch(regs, src, proto));
                let key = check!(defined(regs, key, proto).and_then(ops::key));
                if let Value::Array(list) = &mut r!(array) {
                    list.insert(key, value);
                }
            }
            Op::Spread { array, src, values_only } => {
                let value = check!(defined(regs, src, proto)).clone();
                match value {
                    Value::Array(items) => {
                        if let Value::Array(list) = &mut r!(array) {
                            check!(ops::check_elements(list.len() + items.len()));
                            if values_only {
                                for v in items.values() {
                                    list.push(v.clone());
                                }
                            } else {
                                list.merge(&items);
                            }
                        }
                    }
                    Value::Object(object) => match &object.0 {
                        ObjectKind::Generator(_) => {
                            save!();
                            let top = base + usize::from(proto.registers);
                            let mode = Mode::Spread { array, values_only };
                            match resume_generator(m, stack, &object, top, 0, mode) {
                                Ok(Resumed::Running) => resume!(Ok(Flow::Continue)),
                                Ok(Resumed::Done(_)) => regs = check!(window(stack, base)),
                                Err(e) => fail!(e),
                            }
                        }
                        ObjectKind::Native { data, .. } if data.iterable() => {
                            while let Some((_, v)) = check!(data.next()) {
                                if let Value::Array(list) = &mut r!(array) {
                                    list.push(v);
                                }
                            }
                        }
                        _ => fail!(Error::exception("Spread needs an array or iterator, object given")),
                    },
                    other => {
                        fail!(Error::exception(format!(
                            "Spread needs an array or iterator, {} given",
                            other.type_name()
                        )))
                    }
                }
            }
            Op::Index { dst, base: b, key } => {
                let at = match &r!(key) {
                    Value::Number(n) if *n as usize as f64 == *n => *n as usize,
                    _ => usize::MAX,
                };
                match &r!(b) {
                    Value::Array(array)
                        if let Some(list) = array.as_list()
                            && let Some(v) = list.get(at) =>
                    {
                        match v {
                            Value::Number(n) => {
                                let n = *n;
                                set_number(regs, dst, n);
                            }
                            Value::Bool(v) => {
                                let v = *v;
                                r!(dst).put(Value::Bool(v));
                            }
                            other => {
                                let v = other.clone();
                                r!(dst).put(v);
                            }
                        }
                    }
                    Value::Str(text) if let Some(c) = text.as_bytes().get(at) => {
                        let c = *c;
                        r!(dst).put(Value::Str(Str::from_byte(c)));
                    }
                    Value::Undef => fail!(undefined(proto, b)),
                    object => {
                        if matches!(r!(key), Value::Undef) {
                            fail!(undefined(proto, key));
                        }
                        let v = check!(access::index(object, &r!(key), inside!()));
                        r!(dst).put(v);
                    }
                }
            }
            Op::IndexConst { dst, base: b, k } => {
                let key = &proto.consts[k as usize];
                let object = check!(defined(regs, b, proto));
                let v = check!(access::index(object, key, inside!()));
                r!(dst).put(v);
            }
            Op::IndexQuiet { dst, base: b, key } => {
                let v = access::index_quiet(&r!(b), &r!(key), inside!());
                r!(dst).put(v);
            }
            Op::IssetIndex { dst, base: b, key } => {
                let set = access::has_index(&r!(b), &r!(key), inside!());
                r!(dst).put(Value::Bool(set));
            }
            Op::Slice { dst, start } => {
                let s = usize::from(start);
                let v = check!(defined(regs, start, proto).and_then(|v| {
                    ops::slice(v, Some(&regs[s + 1]), Some(&regs[s + 2]), Some(&regs[s + 3]))
                }));
                r!(start).put(Value::Undef);
                r!(dst).put(v);
            }
            Op::SetIndex { base: b, key, src } => {
                let at = match &r!(key) {
                    Value::Number(n) if *n as usize as f64 == *n => *n as usize,
                    _ => usize::MAX,
                };
                match r!(src) {
                    Value::Number(n) => {
                        if let Value::Array(array) = &mut r!(b)
                            && let Some(slot) = array.slot_mut(at)
                        {
                            slot.put(Value::Number(n));
                            continue;
                        }
                    }
                    Value::Bool(v) => {
                        if let Value::Array(array) = &mut r!(b)
                            && let Some(slot) = array.slot_mut(at)
                        {
                            slot.put(Value::Bool(v));
                            continue;
                        }
                    }
                    _ => {}
                }
                let value = check!(fetch(regs, src, proto));
                if let Value::Array(array) = &mut r!(b)
                    && let Some(slot) = array.slot_mut(at)
                {
                    slot.put(value);
                } else {
                    check!(set_index(regs, b, key, value, inside!(), proto));
                }
            }
            Op::PushVar { base: b, src } => {
                match r!(src) {
                    Value::Number(n) => {
                        if let Value::Array(array) = &mut r!(b)
                            && array.push_fits(Value::Number(n))
                        {
                            continue;
                        }
                    }
                    Value::Bool(v) => {
                        if let Value::Array(array) = &mut r!(b)
                            && array.push_fits(Value::Bool(v))
                        {
                            continue;
                        }
                    }
                    _ => {}
                }
                let value = check!(fetch(regs, src, proto));
                match &mut r!(b) {
                    Value::Array(array) => {
                        if !array.push(value) {
                            fail!(Error::exception("Array has no further index"));
                        }
                    }
                    slot @ (Value::Undef | Value::None | Value::Bool(_) | Value::Number(_)) => {
                        *slot = Value::Array(Array::from_list(vec![value]));
                    }
                    other => {
                        fail!(Error::exception(format!(
                            "Cannot use subscript on {} for writing",
                            other.type_name()
                        )))
                    }
                }
            }
            Op::GetProp { dst, base: b, quiet, k } => {
                let name = &proto.consts[k as usize];
                let spot = &proto.spots[k as usize];
                if let Value::Object(object) = &r!(b)
                    && let Some(n) = access::number_member(object, name, spot, inside!())
                {
                    set_number(regs, dst, n);
                    continue;
                }
                let v = match &r!(b) {
                    Value::Object(object) => match access::member(object, name, spot, inside!()) {
                        Err(_) if quiet => Value::None,
                        result => check!(result),
                    },
                    _ if quiet => Value::None,
                    Value::Undef => fail!(undefined(proto, b)),
                    other => fail!(no_member(other)),
                };
                r!(dst).put(v);
            }
            Op::IssetProp { dst, base: b, k } => {
                let set = match &r!(b) {
                    Value::Object(o) => access::has_property(o, &proto.consts[k as usize], inside!()),
                    _ => false,
                };
                r!(dst).put(Value::Bool(set));
            }
            Op::SetProp { base: b, src, k } => {
                let name = &proto.consts[k as usize];
                let spot = &proto.spots[k as usize];
                if let Value::Number(n) = r!(src)
                    && let Value::Object(object) = &r!(b)
                    && access::set_number_member(object, name, spot, n, inside!())
                {
                    continue;
                }
                let value = check!(fetch(regs, src, proto));
                match &r!(b) {
                    Value::Object(object) => {
                        check!(access::set_member(object, name, spot, value, inside!()));
                    }
                    Value::Undef => fail!(undefined(proto, b)),
                    other => fail!(no_member(other)),
                }
            }
            Op::Path { dst, src, path } => {
                let path = &proto.paths[path as usize];
                let uses =
                    matches!(path.op, crate::program::PathOp::Assign | crate::program::PathOp::Augment(_));
                let value = if uses { check!(fetch(regs, src, proto)) } else { Value::None };
                save!();
                let v = check!(run_path(m, slot, regs, path, value, inside!()));
                r!(dst).put(v);
            }
            Op::Element { dst, base: b, n } => {
                let v = match &r!(b) {
                    Value::Array(array) => match array.as_list() {
                        Some(list) => list.get(n as usize).cloned(),
                        None => array.values().nth(n as usize).cloned(),
                    },
                    _ => None,
                };
                r!(dst).put(v.unwrap_or(Value::Undef));
            }
            Op::ElementKey { dst, base: b, key } => {
                let key = check!(defined(regs, key, proto));
                let v = match &r!(b) {
                    Value::Array(array) => array.get_value(key).cloned(),
                    _ => None,
                };
                r!(dst).put(v.unwrap_or(Value::Undef));
            }
            Op::Rest { dst, base: b, n } => {
                let list = match &r!(b) {
                    Value::Array(array) => array.values().skip(n as usize).cloned().collect(),
                    _ => Vec::new(),
                };
                r!(dst).put(Value::Array(Array::from_list(list)));
            }

            Op::Call { dst, start, argc, proto: index } => {
                let callee = &program.protos[index as usize];
                let at = base + usize::from(start);
                if callee.plain
                    && argc == callee.params
                    && m.frames.len() < m.limits.depth
                    && stack.len() >= at + WINDOW
                {
                    m.frames.call(pc!() as u32, slot as u16, index, at as u32, dst);
                    enter!(callee, at);
                }
                save!();
                let pushed = push_call(
                    m,
                    stack,
                    slot as u16,
                    callee,
                    index,
                    at,
                    usize::from(argc),
                    None,
                    dst,
                    Mode::Value,
                );
                resume!(pushed.map(|()| Flow::Continue));
            }
            Op::CallLeaf { dst, start, argc, proto: index } => {
                let callee = &program.protos[index as usize];
                if m.frames.len() < m.limits.depth && call_leaf(regs, callee, dst, start, argc) {
                    burn!();
                    continue;
                }
                save!();
                resume!(call_anyway(m, stack, slot, callee, index, base + usize::from(start), dst));
            }
            Op::CallNative { dst, start, argc, native } => {
                save!();
                let def = &program.natives[native as usize];
                if let NativeFn::Pure(f) = &def.code {
                    let first = usize::from(start);
                    let Some(args) = regs.get_mut(first..first + usize::from(argc)) else {
                        fail!(Error::fatal("Arguments are outside the window"))
                    };
                    let result = match def.check_types(args) {
                        Ok(()) => with_cx(m, |cx| f(cx, Args(args))),
                        Err(e) => Err(e),
                    };
                    let value = check!(result);
                    r!(dst).put(value);
                    burn!();
                    continue;
                }
                resume!(call_native(m, stack, def, base + usize::from(start), usize::from(argc), dst));
            }
            Op::CallValue { dst, start, argc } => {
                let callee = std::mem::replace(&mut r!(start), Value::Undef);
                save!();
                resume!(call_value(m, stack, &callee, base + usize::from(start), usize::from(argc), dst));
            }
            Op::CallSpread { dst, start } => {
                let callee = std::mem::replace(&mut r!(start), Value::Undef);
                let args = match std::mem::replace(&mut r!(start + 1), Value::Undef) {
                    Value::Array(list) => list.into_values(),
                    _ => Vec::new(),
                };
                save!();
                let at = base + usize::from(start);
                let argc = check!(place_args(stack, at + 1, args));
                resume!(call_value(m, stack, &callee, at, argc, dst));
            }
            Op::CallMethod { dst, start, argc, k } => {
                if let Value::Object(object) = &r!(start)
                    && let ObjectKind::Script { program: owner, class, .. } = &object.0
                    && Arc::ptr_eq(owner, program)
                    && let Some(found) = proto.found.get(k as usize)
                {
                    let mut hit = found.load(Relaxed);
                    if (hit >> 32) as u32 != class.index + 1 {
                        hit = remember_method(found, class, &proto.consts[k as usize]);
                    }
                    let index = hit as u32;
                    if hit != 0
                        && let Some(callee) = program.protos.get(index as usize)
                        && callee.plain
                        && argc == callee.params
                        && m.frames.len() < m.limits.depth
                        && stack.len() >= base + usize::from(start) + WINDOW
                    {
                        let at = base + usize::from(start);
                        m.frames.call(pc!() as u32, slot as u16, index, at as u32, dst);
                        enter!(callee, at);
                    }
                }
                save!();
                resume!(call_method(
                    m,
                    stack,
                    program,
                    slot,
                    proto,
                    base + usize::from(start),
                    usize::from(argc),
                    k,
                    dst
                ));
            }
            Op::CallMethodSpread { dst, start, k } => {
                let args = match std::mem::replace(&mut r!(start + 1), Value::Undef) {
                    Value::Array(list) => list.into_values(),
                    _ => Vec::new(),
                };
                save!();
                let at = base + usize::from(start);
                let argc = check!(place_args(stack, at + 1, args));
                resume!(call_method(m, stack, program, slot, proto, at, argc, k, dst));
            }
            Op::New { dst, start, argc, class } => {
                let at = base + usize::from(start);
                save!();
                let made = construct(m, stack, program, slot as u16, class, at, usize::from(argc), dst);
                resume!(made.map(|()| Flow::Continue));
            }
            Op::NewNative { dst, start, argc, class } => {
                save!();
                let class = &program.native_classes[class as usize];
                let Some(def) = &class.constructor else {
                    fail!(Error::exception(format!("Class '{}' cannot be created by scripts", class.name)))
                };
                resume!(call_native(m, stack, def, base + usize::from(start), usize::from(argc), dst));
            }
            Op::MakeFunction { dst, proto: index } => {
                r!(dst) = function(FunctionKind::Script {
                    program: Arc::clone(program),
                    proto: index,
                    captures: Box::default(),
                    this: None,
                    closure: false,
                });
            }
            Op::MakeClosure { dst, closure } => {
                let def = &proto.closures[closure as usize];
                let Some(f) = m.frames.script() else { fail!(Error::fatal("Frame is missing")) };
                let captures = check!(def.captures.iter().map(|c| f.cell(*c).map(Arc::clone)).collect());
                r!(dst) = function(FunctionKind::Script {
                    program: Arc::clone(program),
                    proto: def.proto,
                    captures,
                    this: None,
                    closure: true,
                });
            }
            Op::MakeClass { dst, class } => {
                r!(dst).put(function(FunctionKind::Class { program: Arc::clone(program), class }));
            }
            Op::MakeNative { dst, native } => {
                r!(dst).put(function(FunctionKind::Native(Arc::clone(&program.natives[native as usize]))));
            }
            Op::MakeNativeClass { dst, class } => {
                r!(dst).put(function(FunctionKind::NativeClass(Arc::clone(
                    &program.native_classes[class as usize],
                ))));
            }
            Op::Return { src } => {
                if matches!(r!(src), Value::Undef) {
                    fail!(undefined(proto, src));
                }
                // To where the value of a plain call is fetched from; the old content is dropped with the window.
                give_back!(src);
            }
            Op::ReturnNone => {
                let src = proto.registers.saturating_sub(1) as Reg;
                r!(src).put(Value::None);
                give_back!(src);
            }
            Op::Yield { src } => {
                let value = check!(fetch(regs, src, proto));
                save!();
                resume!(yield_value(m, stack, value));
            }

            Op::PushTry { dst, to } => {
                if let Some(f) = m.frames.script_mut() {
                    f.extra().handlers.push(Handler::Catch { pc: to, dst });
                }
            }
            Op::PopTry => {
                if let Some(f) = m.frames.script_mut() {
                    f.pop_handler();
                }
            }
            Op::Throw { src } => {
                let value = check!(fetch(regs, src, proto));
                fail!(Error::Thrown(value));
            }
            Op::MatchFail { src } => {
                let shown = check!(ops::to_str(&r!(src)));
                let shown = shown.to_text();
                fail!(Error::exception(format!("Unhandled match value: {shown}")));
            }

            Op::IterInit { iter, src } => {
                let mut value = check!(fetch(regs, src, proto));
                if let Value::Object(o) = &value
                    && let Some(items) = o.as_native().and_then(|data| data.elements())
                {
                    value = Object::iterator(items);
                }
                let fine = match &value {
                    Value::Array(_) => true,
                    Value::Object(o) => match &o.0 {
                        ObjectKind::Generator(_) => true,
                        ObjectKind::Native { data, .. } => data.iterable(),
                        ObjectKind::Script { .. } => false,
                    },
                    _ => false,
                };
                if !fine {
                    fail!(Error::exception(format!(
                        "foreach needs an array or iterator, {} given",
                        value.type_name()
                    )));
                }
                r!(iter).put(value);
                r!(iter + 1) = Value::Number(0.0);
            }
            Op::IterNext { iter, dst, to } | Op::IterNextPair { iter, dst, to } => {
                let pair = matches!(op, Op::IterNextPair { .. });
                fuel -= 1;
                if fuel == 0 {
                    // This instruction runs again with new fuel.
                    if let Some(f) = m.frames.script_mut() {
                        f.pc = pc!() as u32 - 1;
                    }
                    leave!(Ok(Flow::Continue));
                }
                let at = r!(iter + 1).to_number() as usize;
                if let Value::Array(array) = &r!(iter)
                    && let Some(Value::Number(n)) = array.as_list().and_then(|list| list.get(at))
                {
                    let n = *n;
                    set_number(regs, iter + 1, (at + 1) as f64);
                    if pair {
                        set_number(regs, dst + 1, at as f64);
                    }
                    set_number(regs, dst, n);
                    continue;
                }
                let step = match &r!(iter) {
                    Value::Array(array) => array.at_position(at).map(|(key, v, next)| {
                        (if pair { key.to_value() } else { Value::None }, v.clone(), next)
                    }),
                    Value::Object(object) => {
                        let object = Arc::clone(object);
                        match &object.0 {
                            ObjectKind::Native { data, .. } => {
                                check!(data.next()).map(|(k, v)| (k, v, at + 1))
                            }
                            _ => {
                                save!();
                                let top = base + usize::from(proto.registers);
                                match resume_generator(
                                    m,
                                    stack,
                                    &object,
                                    top,
                                    dst,
                                    Mode::Foreach { iter, pair, to },
                                ) {
                                    Ok(Resumed::Running) => {
                                        resume!(Ok(Flow::Continue));
                                        continue;
                                    }
                                    Ok(Resumed::Done(_)) => {
                                        regs = check!(window(stack, base));
                                        None
                                    }
                                    Err(e) => fail!(e),
                                }
                            }
                        }
                    }
                    _ => None,
                };
                match step {
                    Some((key, value, next)) => {
                        set_number(regs, iter + 1, next as f64);
                        if pair {
                            r!(dst + 1).put(key);
                        }
                        r!(dst).put(value);
                    }
                    None => {
                        r!(iter).put(Value::Undef);
                        go_to!(to);
                    }
                }
            }

            Op::BarrierEnter { dst, name } => {
                let name = check!(defined(regs, name, proto).and_then(ops::to_str));
                match m.shared.enter(&name, m.execution) {
                    Ok(guard) => {
                        r!(dst).put(guard.value().unwrap_or(Value::Undef));
                        m.barriers += 1;
                        if let Some(f) = m.frames.script_mut() {
                            f.extra().handlers.push(Handler::Barrier(guard));
                        }
                    }
                    Err(Err(e)) => fail!(e),
                    Err(Ok(future)) => {
                        save!();
                        m.waiting = Waiting::Retry;
                        leave!(Ok(Flow::Wait(future)));
                    }
                }
            }
            Op::BarrierExit { src, write } => {
                let Some(f) = m.frames.script_mut() else { fail!(Error::fatal("Frame is missing")) };
                if let Some(Handler::Barrier(guard)) = f.pop_handler() {
                    m.barriers = m.barriers.saturating_sub(1);
                    if write {
                        let value = match &r!(src) {
                            Value::Undef => None,
                            v => Some(v.clone()),
                        };
                        check!(guard.set(value));
                    }
                }
            }
            Op::Cache { dst, start, argc, site } => {
                save!();
                resume!(cache::run(
                    m,
                    stack,
                    program,
                    site,
                    base + usize::from(start),
                    usize::from(argc),
                    dst
                ));
            }
            Op::Echo { src } => {
                let text = check!(defined(regs, src, proto).and_then(ops::to_str));
                let span = proto.spans[pc!() - 1];
                let place = program.sources.place(span);
                m.host.echo(text.as_bytes(), &place);
            }
            Op::RunModule { module } => {
                let state = &mut m.programs[slot];
                if !std::mem::replace(&mut state.modules_run[module as usize], true) {
                    let index = program.modules[module as usize];
                    let main = &program.protos[index as usize];
                    let top = base + usize::from(proto.registers);
                    save!();
                    let pushed =
                        push_call(m, stack, slot as u16, main, index, top, 0, None, 0, Mode::Discard);
                    resume!(pushed.map(|()| Flow::Continue));
                }
            }
            Op::Probe { point } => {
                save!();
                if let Some(future) = probe(m, stack, slot, point) {
                    m.waiting = Waiting::Drop;
                    leave!(Ok(Flow::Wait(future)));
                }
                regs = check!(window(stack, base));
            }
        }
    }
}
