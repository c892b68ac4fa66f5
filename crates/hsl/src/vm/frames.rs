//! Frames: calls, returns, exceptions.

use super::frame_stack::{Frame, Frames, Handler, Mode, NativeFrame};
use super::generator::{Generator, State};
use super::{Machine, NativeCx, ProgramState, Waiting};
use crate::array::{Array, Key};
use crate::diag::{ScriptError, Severity, Span};
use crate::error::Error;
use crate::leaf::Leaf;
use crate::mem;
use crate::object::{Cell, Exception, Function, FunctionKind, Lock, Object, ObjectKind};
use crate::probe::Thrown;
use crate::program::{Program, Proto, Reg};
use crate::registry::{Args, BoxFuture, FunctionDef, NativeFn, Next, Outcome, arity_message};
use crate::string::Str;
use crate::value::Value;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::sync::Arc;

/// Registers that a window spans.
pub(crate) const WINDOW: usize = 256;

/// Callbacks without a frame in a row: after so many one takes the long way, which uses fuel.
const LEAVES_MAX: u32 = 64;

/// What the dispatch loop does next.
pub(crate) enum Flow {
    /// Goes on with the topmost frame.
    Continue,
    Done(Value),
    End(Cow<'static, str>, Vec<Value>),
    Wait(BoxFuture),
    Fail(Box<ScriptError>),
}

pub(crate) fn push_entry(m: &mut Machine, stack: &mut Vec<Value>, proto: u32) {
    reserve(stack, 0);
    let program = Arc::clone(&m.programs[0].program);
    let cells = own_cells(m, &program.protos[proto as usize]);
    let frame = m.frames.enter(0, proto, 0, 0, Mode::Value);
    if !cells.is_empty() {
        frame.extra().cells = cells;
    }
}

/// Makes room for a window at `base`.
pub(crate) fn reserve(stack: &mut Vec<Value>, base: usize) {
    let need = base + WINDOW;
    if stack.len() < need {
        stack.resize_with(need + need / 2, || Value::Undef);
    }
}

/// Gives the unused part of the registers and frames back while the execution waits: many wait at once.
pub(crate) fn fold(m: &mut Machine, stack: &mut Vec<Value>) {
    let used = stack.iter().rposition(|v| !matches!(v, Value::Undef)).map_or(0, |i| i + 1);
    stack.truncate(used);
    stack.shrink_to_fit();
    m.frames.trim();
}

/// Makes room again for the registers of the innermost frame, which spans those of the frames around it.
pub(crate) fn unfold(m: &Machine, stack: &mut Vec<Value>) {
    if let Some(base) = m.frames.last_base() {
        reserve(stack, base as usize);
    }
}

/// Fresh cells for the variables of a function that closures capture.
fn own_cells(m: &mut Machine, proto: &Proto) -> Vec<Arc<Cell>> {
    let mut cells = Vec::new();
    for _ in usize::from(proto.captures)..proto.cell_names.len() {
        let cell = Cell::new(Value::Undef);
        m.heap.cell(&cell);
        cells.push(cell);
    }
    cells
}

#[cold]
fn arity_error(proto: &Proto, argc: usize) -> Error {
    let max = if proto.variadic { None } else { Some(usize::from(proto.params)) };
    match arity_message(&proto.name, usize::from(proto.required), max, argc) {
        Err(message) => Error::exception(message),
        Ok(()) => Error::fatal("Arity mismatch"),
    }
}

/// Pushes a call of a script function. The arguments (behind the receiver of a method) begin at `base`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn push_call(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    program: u16,
    proto: &Proto,
    index: u32,
    base: usize,
    argc: usize,
    closure: Option<&Arc<Function>>,
    dst: Reg,
    mode: Mode,
) -> Result<(), Error> {
    let params = usize::from(proto.params);
    if argc < usize::from(proto.required) || (argc > params && !proto.variadic) {
        return Err(arity_error(proto, argc));
    }
    if m.frames.len() >= m.limits.depth {
        return Err(Error::exception("Recursion limit reached"));
    }
    reserve(stack, base);
    if proto.simple && argc == params {
        let frame = m.frames.enter(program, index, base as u32, dst, mode);
        frame.closure = closure.cloned();
        return Ok(());
    }
    let first = base + usize::from(proto.method);
    if proto.variadic {
        let rest: Vec<Value> = if argc > params {
            stack[first + params..first + argc].iter_mut().map(std::mem::take).collect()
        } else {
            Vec::new()
        };
        for slot in stack.iter_mut().take(first + argc).skip(first + params) {
            *slot = Value::Undef;
        }
        stack[first + params] = Value::Array(Array::from_list(rest));
    }
    let cells = own_cells(m, proto);
    let frame = m.frames.enter(program, index, base as u32, dst, mode);
    frame.closure = closure.cloned();
    if !cells.is_empty() {
        frame.extra().cells = cells;
    }
    if proto.generator {
        let registers: Vec<Value> = stack[base..base + usize::from(proto.registers)]
            .iter_mut()
            .map(|v| std::mem::replace(v, Value::Undef))
            .collect();
        let frame = m.frames.pop().unwrap_or_default();
        let generator = Generator { state: State::Suspended(Box::new(frame), registers) };
        let object = Arc::new(Object(ObjectKind::Generator(Mutex::new(generator))));
        m.heap.object(&object);
        // The value goes where the result of the call would go.
        deliver_direct(m, stack, dst, Value::Object(object));
        return Ok(());
    }
    Ok(())
}

/// Stores a result in the topmost script frame; continuations get theirs through [`deliver`].
fn deliver_direct(m: &mut Machine, stack: &mut [Value], dst: Reg, value: Value) {
    match m.frames.script() {
        Some(f) => stack[f.base as usize + usize::from(dst)] = value,
        None => m.resumed = Some(Ok(value)),
    }
}

/// The index of a program in this execution, adding it when a function value brought it from another one.
fn program_index(m: &mut Machine, program: &Arc<Program>) -> Result<u16, Error> {
    if let Some(i) = m.programs.iter().position(|s| Arc::ptr_eq(&s.program, program)) {
        return Ok(i as u16);
    }
    if m.programs.len() >= 64 {
        return Err(Error::exception("Functions of too many other scripts"));
    }
    m.programs.push(ProgramState::new(Arc::clone(program)));
    Ok(m.programs.len() as u16 - 1)
}

/// Calls any value. The callee or an empty slot is at `start`, the arguments follow.
pub(crate) fn call_value(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    callee: &Value,
    start: usize,
    argc: usize,
    dst: Reg,
) -> Result<Flow, Error> {
    let Value::Function(function) = callee else {
        if matches!(callee, Value::Undef) {
            return Err(Error::exception("Value of type none is not callable"));
        }
        return Err(Error::exception(format!("Value of type {} is not callable", callee.type_name())));
    };
    call_function(m, stack, function, start, argc, dst)
}

fn call_function(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    function: &Arc<Function>,
    start: usize,
    argc: usize,
    dst: Reg,
) -> Result<Flow, Error> {
    match &function.0 {
        FunctionKind::Script { program, proto, captures, this, .. } => {
            let slot = program_index(m, program)?;
            let p = &program.protos[*proto as usize];
            let base = match this {
                Some(object) => {
                    stack[start] = Value::Object(Arc::clone(object));
                    start
                }
                None => start + 1,
            };
            let closure = if captures.is_empty() { None } else { Some(function) };
            push_call(m, stack, slot, p, *proto, base, argc, closure, dst, Mode::Value)?;
            Ok(Flow::Continue)
        }
        FunctionKind::Class { program, class } => {
            let slot = program_index(m, program)?;
            construct(m, stack, program, slot, *class, start, argc, dst)?;
            Ok(Flow::Continue)
        }
        FunctionKind::Native(def) => {
            def.check_arity(argc).map_err(Error::exception)?;
            call_native(m, stack, def, start + 1, argc, dst)
        }
        FunctionKind::NativeClass(class) => match &class.constructor {
            Some(def) => {
                def.check_arity(argc).map_err(Error::exception)?;
                call_native(m, stack, def, start + 1, argc, dst)
            }
            None => Err(Error::exception(format!("Class '{}' cannot be created by scripts", class.name))),
        },
        FunctionKind::NativeMethod { object, method } => {
            let object = Arc::clone(object);
            call_native_method(m, stack, &object, *method, start + 1, argc, dst)
        }
    }
}

/// Creates an instance of a script class at `start` and calls its constructor on the arguments behind it.
#[allow(clippy::too_many_arguments)]
pub(crate) fn construct(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    program: &Arc<Program>,
    slot: u16,
    class: u32,
    start: usize,
    argc: usize,
    dst: Reg,
) -> Result<(), Error> {
    let def = &program.classes[class as usize];
    let props = Lock::new(def.fields.clone());
    let object =
        Arc::new(Object(ObjectKind::Script { program: Arc::clone(program), class: Arc::clone(def), props }));
    m.heap.object(&object);
    match def.constructor {
        Some(c) => {
            stack[start] = Value::Object(object);
            push_call(m, stack, slot, &program.protos[c as usize], c, start, argc, None, dst, Mode::Construct)
        }
        None => {
            arity_message(&def.name, 0, Some(0), argc).map_err(Error::exception)?;
            deliver_direct(m, stack, dst, Value::Object(object));
            Ok(())
        }
    }
}

/// The program and span of the instruction that the topmost script frame executes.
pub(crate) fn current_span(frames: &Frames, programs: &[ProgramState]) -> Option<(usize, Span)> {
    let f = frames.iter().rev().find(|f| f.is_script())?;
    Some((f.program as usize, frame_span(&programs[f.program as usize].program, f)))
}

fn frame_span(program: &Program, f: &Frame) -> Span {
    let spans = &program.protos[f.proto as usize].spans;
    spans.get((f.pc as usize).saturating_sub(1)).copied().unwrap_or_default()
}

/// Runs `f` with the context that native code sees.
#[inline]
pub(crate) fn with_cx<R>(m: &mut Machine, f: impl FnOnce(&mut NativeCx<'_>) -> R) -> R {
    let mut cx = NativeCx {
        host: &mut *m.host,
        shared: &m.shared,
        limits: &m.limits,
        execution: m.execution,
        started_s: m.started_s,
        at: Some((&m.frames, &m.programs)),
    };
    f(&mut cx)
}

/// Calls a native function on the registers `at..at + argc`.
pub(crate) fn call_native(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    def: &Arc<FunctionDef>,
    at: usize,
    argc: usize,
    dst: Reg,
) -> Result<Flow, Error> {
    let args = &mut stack[at..at + argc];
    def.check_types(args)?;
    let outcome = match &def.code {
        NativeFn::Pure(f) => with_cx(m, |cx| f(cx, Args(args))).map(Outcome::Value),
        NativeFn::Full(f) => with_cx(m, |cx| f(cx, Args(args))),
    }?;
    outcome_flow(m, stack, outcome, at, dst, &def.name)
}

fn outcome_flow(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    outcome: Outcome,
    at: usize,
    dst: Reg,
    name: &str,
) -> Result<Flow, Error> {
    match outcome {
        Outcome::Value(value) => {
            deliver_direct(m, stack, dst, value);
            Ok(Flow::Continue)
        }
        Outcome::Pending(future) => {
            m.waiting =
                if m.frames.script().is_some() { Waiting::Deliver(dst) } else { Waiting::Continuation };
            Ok(Flow::Wait(future))
        }
        Outcome::Wait(future, then) => {
            if m.frames.len() >= m.limits.depth {
                return Err(Error::exception("Recursion limit reached"));
            }
            let frame = NativeFrame { then: Some(then), function: Value::None, dst, base: at as u32 };
            m.frames.push_native(frame);
            m.waiting = Waiting::Continuation;
            Ok(Flow::Wait(future))
        }
        Outcome::End(args) => Ok(Flow::End(Cow::Owned(name.to_owned()), args)),
        Outcome::Call(call) => {
            if m.frames.len() >= m.limits.depth {
                return Err(Error::exception("Recursion limit reached"));
            }
            let call = *call;
            m.frames.push_native(NativeFrame {
                then: Some(call.then),
                function: call.function,
                dst,
                base: at as u32,
            });
            start_callback(m, stack, call.args)
        }
    }
}

/// Calls the function of the native frame on top.
fn start_callback(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    args: crate::registry::CallArgs,
) -> Result<Flow, Error> {
    let Some(frame) = m.frames.native_mut() else { return Ok(Flow::Continue) };
    let start = frame.base as usize;
    let argc = args.len();
    reserve(stack, start + 1 + argc);
    args.place(&mut stack[start + 1..]);
    start_placed(m, stack, argc)
}

/// [`start_callback`] with the arguments in place.
fn start_placed(m: &mut Machine, stack: &mut Vec<Value>, argc: usize) -> Result<Flow, Error> {
    let depth = m.frames.len();
    let top = depth.saturating_sub(1);
    let Some(frame) = m.frames.native_mut() else { return Ok(Flow::Continue) };
    let start = frame.base as usize;
    if let Value::Function(function) = &frame.function
        && let FunctionKind::Script { program, proto, captures, this: None, .. } = &function.0
        && let Some(target) = program.protos.get(*proto as usize)
        && target.simple
        && argc == usize::from(target.params)
        && m.programs.first().is_some_and(|s| Arc::ptr_eq(&s.program, program))
        && depth < m.limits.depth
    {
        let closure = (!captures.is_empty()).then(|| Arc::clone(function));
        let proto = *proto;
        reserve(stack, start + 1);
        let entered = m.frames.enter(0, proto, start as u32 + 1, 0, Mode::Value);
        if closure.is_some() {
            entered.closure = closure;
        }
        return Ok(Flow::Continue);
    }
    // Taken out for the call and put back: no counting for every callback.
    let function = std::mem::take(&mut frame.function);
    let flow = call_value(m, stack, &function, start, argc, 0);
    if let Some(frame) = m.frames.native_at(top) {
        frame.function = function;
    }
    flow
}

/// How a callback computes its result and from how many arguments, if it needs no frame.
fn leaf_of(function: &Value) -> Option<(Leaf, u8)> {
    let Value::Function(function) = function else { return None };
    let FunctionKind::Script { program, proto, this: None, .. } = &function.0 else { return None };
    let proto = program.protos.get(*proto as usize)?;
    proto.leaf.map(|leaf| (leaf, proto.params))
}

/// Gives a result to the continuation on top until it needs a script frame, ends or waits.
pub(crate) fn continue_native(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    mut value: Value,
) -> Result<Flow, Error> {
    let mut leaves = LEAVES_MAX;
    loop {
        let depth = m.frames.len();
        let Some(frame) = m.frames.native_mut() else { return Ok(Flow::Continue) };
        let Some(mut then) = frame.then.take() else {
            return Err(Error::fatal("A native function continued inside itself"));
        };
        let start = frame.base as usize;
        let leaf = leaf_of(&frame.function);
        reserve(stack, start + 1);
        let Some(slots) = stack.get_mut(start + 1..).and_then(|s| s.first_chunk_mut()) else {
            return Err(Error::fatal("Register window is missing"));
        };
        let mut next = with_cx(m, |cx| then.step(cx, value, slots))?;
        if let Some((leaf, params)) = leaf
            && depth < m.limits.depth
        {
            while leaves > 0
                && let Next::Placed(argc) = next
                && argc == params
                && let Some(result) = slots.get(..usize::from(argc)).and_then(|args| leaf.apply(args))
            {
                leaves -= 1;
                next = with_cx(m, |cx| then.step(cx, result, slots))?;
            }
            if !matches!(next, Next::Placed(_)) {
                for slot in slots {
                    slot.put(Value::Undef);
                }
            }
        }
        let Some(frame) = m.frames.native_mut() else { return Ok(Flow::Continue) };
        frame.then = Some(then);
        let flow = match next {
            Next::Value(result) => {
                let dst = frame.dst;
                m.frames.leave();
                match m.frames.last() {
                    Some(f) if f.is_script() => {
                        stack[f.base as usize + usize::from(dst)] = result;
                        return Ok(Flow::Continue);
                    }
                    Some(_) => {
                        value = result;
                        continue;
                    }
                    None => return Ok(Flow::Done(result)),
                }
            }
            Next::Pending(future) => {
                m.waiting = Waiting::Continuation;
                return Ok(Flow::Wait(future));
            }
            Next::Placed(argc) => start_placed(m, stack, usize::from(argc))?,
            Next::Again(args) => start_callback(m, stack, args)?,
            Next::Call(function, args) => {
                frame.function = function;
                start_callback(m, stack, args)?
            }
        };
        match flow {
            // A native callee delivered at once: its result is for this continuation again.
            Flow::Continue if m.frames.len() == depth => match m.resumed.take() {
                Some(Ok(v)) => value = v,
                Some(Err(e)) => return Err(e),
                None => return Ok(Flow::Continue),
            },
            other => return Ok(other),
        }
    }
}

/// Calls method `method` of a native object or generator.
pub(crate) fn call_native_method(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    object: &Arc<Object>,
    method: u32,
    at: usize,
    argc: usize,
    dst: Reg,
) -> Result<Flow, Error> {
    match &object.0 {
        ObjectKind::Native { class, .. } => {
            let method = &class.methods[method as usize];
            method.def.check_arity(argc).map_err(Error::exception)?;
            let args = &mut stack[at..at + argc];
            method.def.check_types(args)?;
            let outcome = with_cx(m, |cx| (method.code)(cx, object, Args(args)))?;
            let name = method.name.clone();
            outcome_flow(m, stack, outcome, at, dst, &name)
        }
        ObjectKind::Generator(_) => {
            arity_message("next", 0, Some(0), argc).map_err(Error::exception)?;
            match resume_generator(m, stack, object, at, dst, Mode::Next)? {
                Resumed::Running => {}
                Resumed::Done(value) => deliver_direct(m, stack, dst, next_result(value, true)),
            }
            Ok(Flow::Continue)
        }
        ObjectKind::Script { .. } => Err(Error::exception("Not a native object")),
    }
}

pub(crate) fn next_result(value: Value, done: bool) -> Value {
    let mut array = Array::new();
    array.insert(Key::from("value"), value);
    array.insert(Key::from("done"), Value::Bool(done));
    Value::Array(array)
}

pub(crate) enum Resumed {
    Running,
    Done(Value),
}

/// Pushes the frame of a suspended generator with its window at `base`.
pub(crate) fn resume_generator(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    object: &Arc<Object>,
    base: usize,
    dst: Reg,
    mode: Mode,
) -> Result<Resumed, Error> {
    let ObjectKind::Generator(lock) = &object.0 else {
        return Err(Error::exception("foreach needs an array or iterator"));
    };
    if m.frames.len() >= m.limits.depth {
        return Err(Error::exception("Recursion limit reached"));
    }
    let state = std::mem::replace(&mut lock.lock().state, State::Running);
    match state {
        State::Running => Err(Error::exception("Generator is already running")),
        State::Done(value) => {
            lock.lock().state = State::Done(value.clone());
            Ok(Resumed::Done(value))
        }
        State::Suspended(mut frame, registers) => {
            reserve(stack, base);
            for (slot, value) in stack[base..].iter_mut().zip(registers) {
                *slot = value;
            }
            frame.base = base as u32;
            frame.dst = dst;
            frame.mode = mode;
            frame.extra().generator = Some(Arc::clone(object));
            m.frames.push(*frame);
            Ok(Resumed::Running)
        }
    }
}

/// Suspends the generator on top and hands its value to the consumer.
pub(crate) fn yield_value(m: &mut Machine, stack: &mut Vec<Value>, value: Value) -> Result<Flow, Error> {
    let Some(mut frame) = m.frames.pop().filter(Frame::is_script) else { return Ok(Flow::Continue) };
    let base = frame.base as usize;
    let count =
        usize::from(m.programs[frame.program as usize].program.protos[frame.proto as usize].registers);
    let registers: Vec<Value> =
        stack[base..base + count].iter_mut().map(|v| std::mem::replace(v, Value::Undef)).collect();
    let (dst, mode) = (frame.dst, frame.mode);
    if let Some(object) = frame.take_generator()
        && let ObjectKind::Generator(lock) = &object.0
    {
        lock.lock().state = State::Suspended(Box::new(frame), registers);
    }
    let value = match mode {
        Mode::Next => next_result(value, false),
        _ => value,
    };
    match m.frames.last_mut() {
        Some(f) if f.is_script() => {
            let base = f.base as usize;
            match mode {
                Mode::Foreach { iter, pair, .. } => {
                    let at = base + usize::from(iter) + 1;
                    let n = stack[at].to_number();
                    if pair {
                        stack[base + usize::from(dst) + 1] = Value::Number(n);
                    }
                    stack[at] = Value::Number(n + 1.0);
                    stack[base + usize::from(dst)] = value;
                }
                Mode::Spread { array, .. } => {
                    if let Value::Array(list) = &mut stack[base + usize::from(array)] {
                        list.push(value);
                    }
                    // The instruction asks for the next value.
                    f.pc -= 1;
                }
                _ => stack[base + usize::from(dst)] = value,
            }
            Ok(Flow::Continue)
        }
        Some(_) => continue_native(m, stack, value),
        None => Ok(Flow::Done(value)),
    }
}

/// Ends the topmost script frame and hands its result on.
pub(crate) fn return_value(m: &mut Machine, stack: &mut Vec<Value>, value: Value) -> Result<Flow, Error> {
    let Some(mut frame) = m.frames.pop().filter(Frame::is_script) else { return Ok(Flow::Continue) };
    let base = frame.base as usize;
    let value = match frame.mode {
        Mode::Construct => std::mem::take(&mut stack[base]),
        _ => value,
    };
    clear_window(m, stack, &frame);
    // A barrier that was left by a return has been closed by its instruction; nothing else is left but tries.
    if let Some(extra) = &mut frame.extra {
        extra.handlers.clear();
    }
    if let Some(object) = frame.take_generator()
        && let ObjectKind::Generator(lock) = &object.0
    {
        lock.lock().state = State::Done(value.clone());
    }
    let value = match frame.mode {
        Mode::Next => next_result(value, true),
        _ => value,
    };
    match m.frames.last_mut() {
        Some(f) if f.is_script() => {
            match frame.mode {
                Mode::Discard => {}
                Mode::Foreach { to, .. } => f.pc = to,
                Mode::Spread { .. } => f.pc -= 1,
                _ => stack[f.base as usize + usize::from(frame.dst)] = value,
            }
            Ok(Flow::Continue)
        }
        Some(_) => continue_native(m, stack, value),
        None => Ok(Flow::Done(value)),
    }
}

fn clear_window(m: &Machine, stack: &mut [Value], frame: &Frame) {
    let base = frame.base as usize;
    let count =
        usize::from(m.programs[frame.program as usize].program.protos[frame.proto as usize].registers);
    for slot in &mut stack[base..base + count] {
        slot.put(Value::Undef);
    }
}

/// Drops all frames and registers.
pub(crate) fn unwind_all(m: &mut Machine, stack: &mut Vec<Value>) {
    while let Some(mut frame) = m.frames.pop() {
        mem::drop_bounded(frame.take_generator().map(Value::Object));
    }
    mem::drop_bounded(std::mem::take(stack));
    m.barriers = 0;
}

/// Describes a failure at the current place.
pub(crate) fn script_error(m: &Machine, error: &Error) -> ScriptError {
    let (program, span) = current_span(&m.frames, &m.programs).unwrap_or((0, Span::default()));
    let program = &m.programs[program].program;
    let (message, value) = match error {
        Error::Exception(text) | Error::Fatal(text) => (text.to_string(), None),
        Error::Thrown(value) => (thrown_message(value), Some(value.clone())),
    };
    let mut diagnostic = program.sources.diagnostic(Severity::Error, span, message);
    if let Error::Thrown(Value::Object(o)) = error
        && let Some(Exception { place: Some(place), message }) = o.data::<Exception>()
    {
        // A runtime error that was caught and thrown again still points to its origin.
        diagnostic.message = message.to_text().into_owned();
        diagnostic.place = place.clone();
        diagnostic.path = Vec::new();
    }
    ScriptError { diagnostic, value, stack: call_stack(&m.frames, &m.programs) }
}

fn thrown_message(value: &Value) -> String {
    match value {
        Value::Object(o) => match o.data::<Exception>() {
            Some(e) if e.place.is_some() => e.message.to_text().into_owned(),
            _ => format!("Uncaught {}", value.to_string_lossy()),
        },
        _ => format!("Uncaught {}", value.to_string_lossy()),
    }
}

/// The active script functions, innermost first, with the places they have reached.
pub(crate) fn call_stack(frames: &Frames, programs: &[ProgramState]) -> Vec<(String, crate::diag::Place)> {
    let scripts = frames.iter().rev().filter(|f| f.is_script());
    scripts
        .take(64)
        .map(|f| {
            let program = &programs[f.program as usize].program;
            (program.function_name(f.proto), program.sources.place(frame_span(program, f)))
        })
        .collect()
}

/// The variables in scope of the topmost script function, then the global ones of its program.
pub(crate) fn variables(
    frames: &Frames,
    programs: &[ProgramState],
    stack: &[Value],
) -> Vec<(Arc<str>, Value)> {
    let Some(f) = frames.iter().rev().find(|f| f.is_script()) else { return Vec::new() };
    let state = &programs[f.program as usize];
    let proto = &state.program.protos[f.proto as usize];
    let mut found: Vec<(Arc<str>, Value)> = Vec::new();
    let mut add = |name: &Arc<str>, value: &Value| {
        if !matches!(value, Value::Undef) && !found.iter().any(|(known, _)| known == name) {
            found.push((Arc::clone(name), value.clone()));
        }
    };
    let registers = stack.get(f.base as usize..).unwrap_or_default();
    for (name, value) in proto.names.iter().zip(registers) {
        add(name, value);
    }
    for (name, index) in proto.cell_names.iter().zip(0..) {
        if let Ok(cell) = f.cell(index) {
            let value = cell.0.lock().clone();
            add(name, &value);
        }
    }
    for (name, value) in state.program.global_names.iter().zip(&state.globals) {
        add(name, value);
    }
    found
}

/// Raises an error where the execution stands. An observer gets to know first, and may have it wait.
pub(crate) fn raise(m: &mut Machine, stack: &mut Vec<Value>, error: Error) -> Flow {
    if !matches!(error, Error::Fatal(_))
        && let Some(mut observer) = m.observer.take()
    {
        let value = exception_value(m, &error);
        let at =
            Thrown { value: &value, caught: is_caught(m), frames: &m.frames, programs: &m.programs, stack };
        let future = observer.thrown(&at);
        m.observer = Some(observer);
        if let Some(future) = future {
            m.held = Some(error);
            m.waiting = Waiting::Raise;
            return Flow::Wait(future);
        }
    }
    raise_now(m, stack, error)
}

/// Whether a handler of an active function would get an exception.
fn is_caught(m: &Machine) -> bool {
    let mut extras = m.frames.iter().filter(|f| f.is_script()).filter_map(|f| f.extra.as_ref());
    extras.any(|extra| extra.handlers.iter().any(|h| matches!(h, Handler::Catch { .. })))
}

/// What a handler gets for an error.
fn exception_value(m: &Machine, error: &Error) -> Value {
    match error {
        Error::Thrown(value) => value.clone(),
        Error::Exception(message) | Error::Fatal(message) => {
            let place = current_span(&m.frames, &m.programs)
                .map(|(program, span)| m.programs[program].program.sources.place(span));
            let exception = Exception { message: Str::from(&**message), place };
            Object::native(&super::builtin::exception_class(), exception)
        }
    }
}

/// Unwinds to the nearest handler, or fails the execution.
pub(crate) fn raise_now(m: &mut Machine, stack: &mut Vec<Value>, error: Error) -> Flow {
    if matches!(error, Error::Fatal(_)) {
        let failure = script_error(m, &error);
        unwind_all(m, stack);
        return Flow::Fail(Box::new(failure));
    }
    // The report is only made when somebody will read it.
    let failure = if is_caught(m) { None } else { Some(script_error(m, &error)) };
    let value = exception_value(m, &error);
    loop {
        match m.frames.last_mut() {
            None => {
                let failure = failure.unwrap_or_else(|| script_error(m, &error));
                return Flow::Fail(Box::new(failure));
            }
            Some(f) if !f.is_script() => m.frames.leave(),
            Some(f) => match f.pop_handler() {
                Some(Handler::Catch { pc, dst }) => {
                    f.pc = pc;
                    let at = f.base as usize + usize::from(dst);
                    stack[at] = value;
                    return Flow::Continue;
                }
                Some(Handler::Barrier(guard)) => {
                    m.barriers = m.barriers.saturating_sub(1);
                    drop(guard);
                }
                None => {
                    if let Some(mut frame) = m.frames.pop() {
                        clear_window(m, stack, &frame);
                        if let Some(object) = frame.take_generator()
                            && let ObjectKind::Generator(lock) = &object.0
                        {
                            let old = lock.lock().abandon();
                            drop(old);
                        }
                    }
                }
            },
        }
    }
}
