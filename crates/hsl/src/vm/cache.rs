//! The `cache` expression (language section 13).

use super::Machine;
use super::frame_stack::NativeFrame;
use super::frames::{Flow, call_value, continue_native};
use crate::array::Array;
use crate::error::Error;
use crate::object::{Function, FunctionKind};
use crate::ops;
use crate::program::{CacheCallee, Program};
use crate::registry::{CallArgs, Continuation, Next};
use crate::shared::{Lookup, Ticket};
use crate::string::Str;
use crate::value::Value;
use std::sync::Arc;

struct Options {
    ttl_s: f64,
    overrides: Option<Array>,
    ttl_function: Option<Value>,
    update_function: Option<Value>,
    filter: Option<Array>,
    force: bool,
    size: usize,
    namespace: Str,
    lru: bool,
    per_message: bool,
}

impl Options {
    fn read(array: &Array) -> Result<Options, Error> {
        let wrong = |name: &str, kind: &str, v: &Value| {
            Error::exception(format!("Cache option '{name}' must be {kind}, {} given", v.type_name()))
        };
        let mut o = Options {
            ttl_s: 60.0,
            overrides: None,
            ttl_function: None,
            update_function: None,
            filter: None,
            force: false,
            size: 32,
            namespace: Str::new(),
            lru: true,
            per_message: false,
        };
        for (key, v) in array.iter() {
            let name = key.to_value().to_string_lossy();
            match (&*name, v) {
                ("ttl", Value::Number(n)) => o.ttl_s = *n,
                ("ttl", v) => match v {
                    Value::Str(s) if crate::number::parse_number(s.as_bytes()).is_some() => {
                        o.ttl_s = v.to_number()
                    }
                    _ => return Err(wrong("ttl", "number", v)),
                },
                ("ttl_override", Value::Array(a)) => o.overrides = Some(a.clone()),
                ("ttl_override", v) => return Err(wrong("ttl_override", "array", v)),
                ("ttl_function", f @ Value::Function(_)) => o.ttl_function = Some(f.clone()),
                ("ttl_function", v) => return Err(wrong("ttl_function", "function", v)),
                ("update_function", f @ Value::Function(_)) => o.update_function = Some(f.clone()),
                ("update_function", v) => return Err(wrong("update_function", "function", v)),
                ("argv_filter", Value::Array(a)) => o.filter = Some(a.clone()),
                ("argv_filter", v) => return Err(wrong("argv_filter", "array", v)),
                ("force", v) => o.force = v.truthy(),
                ("size", Value::Number(n)) if *n >= 0.0 => o.size = *n as usize,
                ("size", v) => return Err(wrong("size", "a number that is not negative", v)),
                ("namespace", Value::Str(s)) => o.namespace = s.clone(),
                ("namespace", v @ (Value::Number(_) | Value::Bool(_))) => o.namespace = v.to_str(),
                ("namespace", v) => return Err(wrong("namespace", "string", v)),
                ("lru", v) => o.lru = v.truthy(),
                ("per_message", v) => o.per_message = v.truthy(),
                (other, _) => return Err(Error::exception(format!("Unknown cache option '{other}'"))),
            }
        }
        Ok(o)
    }
}

/// Identifies the arguments; `None` when they hold something without a stable identity.
fn key(args: &[Value], filter: Option<&Array>) -> Result<Option<Str>, Error> {
    let mut out = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        let chosen = filter.is_none_or(|f| f.values().any(|v| v.to_number() == (i + 1) as f64));
        if chosen {
            if !crate::shared::plain(arg) {
                return Ok(None);
            }
            out.extend_from_slice(arg.type_name().as_bytes());
            out.push(b':');
            // Arrays that share parts can be much longer as text than in memory.
            let text = ops::to_str(arg)?;
            ops::check_length(out.len() + text.len())?;
            out.extend_from_slice(text.len().to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
        }
    }
    Ok(Some(Str::from_vec(out)))
}

/// Looks up or calls. The options are at `start`, the arguments behind them.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    program: &Arc<Program>,
    site: u32,
    start: usize,
    argc: usize,
    dst: u8,
) -> Result<Flow, Error> {
    let site = &program.sites[site as usize];
    let mut options = match &stack[start] {
        Value::Array(a) => Options::read(a)?,
        other => {
            return Err(Error::exception(format!(
                "Cache options must be an array, {} given",
                other.type_name()
            )));
        }
    };
    if options.per_message
        && let Some(id) = m.host.message_id()
    {
        options.namespace = Str::from(id);
    }
    let args: Vec<Value> = match (&stack[start + 1], site.spread) {
        (Value::Array(list), true) => list.values().cloned().collect(),
        _ => stack[start + 1..start + 1 + argc].to_vec(),
    };
    let function = match site.callee {
        CacheCallee::Native(n) => Function(FunctionKind::Native(Arc::clone(&program.natives[n as usize]))),
        CacheCallee::Proto(proto) => Function(FunctionKind::Script {
            program: Arc::clone(program),
            proto,
            captures: Box::default(),
            this: None,
            closure: false,
        }),
    };
    let function = Value::Function(Arc::new(function));
    let bucket = (options.namespace.clone(), site.identity.clone());
    let Some(key) = key(&args, options.filter.as_ref())? else {
        return call(m, stack, &function, args, start, dst);
    };
    let shared = Arc::clone(&m.shared);
    match shared.lookup(&bucket, &key, options.size, options.force, m.execution, m.barriers == 0) {
        Lookup::Hit(value) => {
            if let Some(f) = m.frames.script() {
                stack[f.base as usize + usize::from(dst)] = value;
            }
            Ok(Flow::Continue)
        }
        Lookup::Wait(future) => {
            m.waiting = super::Waiting::Retry;
            Ok(Flow::Wait(future))
        }
        Lookup::Miss { ticket, old } => {
            let then = Fill { options, bucket, key, ticket, old, stage: Stage::Called, value: Value::None };
            m.frames.push_native(NativeFrame {
                then: Some(Box::new(then)),
                function: function.clone(),
                dst,
                base: start as u32,
            });
            call(m, stack, &function, args, start, 0)
        }
    }
}

fn call(
    m: &mut Machine,
    stack: &mut Vec<Value>,
    function: &Value,
    args: Vec<Value>,
    start: usize,
    dst: u8,
) -> Result<Flow, Error> {
    let argc = args.len();
    super::frames::reserve(stack, start + 1 + argc);
    for (i, value) in args.into_iter().enumerate() {
        stack[start + 1 + i] = value;
    }
    let flow = call_value(m, stack, function, start, argc, dst)?;
    match (flow, m.resumed.take()) {
        // A native function delivered at once.
        (Flow::Continue, Some(result)) => continue_native(m, stack, result?),
        (flow, resumed) => {
            m.resumed = resumed;
            Ok(flow)
        }
    }
}

#[derive(PartialEq)]
enum Stage {
    Called,
    Updated,
    Aged,
}

/// Stores the result of the call.
struct Fill {
    options: Options,
    bucket: (Str, Str),
    key: Str,
    ticket: Option<Ticket>,
    old: Option<Value>,
    stage: Stage,
    value: Value,
}

impl Continuation for Fill {
    fn resume(&mut self, cx: &mut super::NativeCx<'_>, result: Value) -> Result<Next, Error> {
        if self.stage == Stage::Called {
            self.stage = Stage::Updated;
            if let Some(update) = self.options.update_function.take() {
                let args: CallArgs = CallArgs::from([self.old.take().unwrap_or_default(), result]);
                return Ok(Next::Call(update, args));
            }
        }
        let ttl_s = if self.stage == Stage::Updated {
            self.value = result;
            self.stage = Stage::Aged;
            if let Some(f) = self.options.ttl_function.take() {
                return Ok(Next::Call(f, CallArgs::from([self.value.clone()])));
            }
            let over = self.options.overrides.as_ref().and_then(|o| o.get_value(&self.value));
            over.map_or(self.options.ttl_s, Value::to_number)
        } else {
            result.to_number()
        };
        cx.shared().store(&self.bucket, &self.key, &self.value, ttl_s, self.options.lru);
        self.ticket = None;
        Ok(Next::Value(std::mem::take(&mut self.value)))
    }
}
