//! Shared memory (library section 14). Waiting for a barrier of the same name suspends the script.

use hsl::{
    Args, BarrierGuard, Continuation, Error, FunctionDef, NativeCall, NativeCx, Next, Outcome, Shared, Str,
    Value,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::full(
            "memory_add(key: string, value: any) -> boolean",
            "Stores a value unless the key exists.",
            |cx, mut a| {
                let value = checked(a.take(1))?;
                change(cx, &a, move |slot| {
                    let free = slot.is_none();
                    if free {
                        *slot = Some(value.clone());
                    }
                    Value::Bool(free)
                })
            },
        ),
        FunctionDef::full(
            "memory_store(key: string, value: any, callback?: function) -> boolean",
            "Stores a value; true if the key existed.",
            |cx, mut a| {
                let value = checked(a.take(1))?;
                let callback = a.given(2).cloned();
                with_old(cx, &a, callback, move |slot| {
                    let old = slot.replace(value.clone());
                    (Value::Bool(old.is_some()), old)
                })
            },
        ),
        FunctionDef::full(
            "memory_fetch(key: string, callback?: function) -> any",
            "The value of a key.",
            fetch,
        ),
        FunctionDef::full(
            "memory_exists(key: string, callback?: function) -> boolean",
            "Whether a key exists.",
            |cx, a| {
                let callback = a.given(1).cloned();
                with_old(cx, &a, callback, |slot| (Value::Bool(slot.is_some()), slot.clone()))
            },
        ),
        FunctionDef::full(
            "memory_delete(key: string, callback?: function) -> boolean",
            "Removes a key.",
            |cx, a| {
                let callback = a.given(1).cloned();
                with_old(cx, &a, callback, |slot| {
                    let old = slot.take();
                    (Value::Bool(old.is_some()), old)
                })
            },
        ),
        FunctionDef::full(
            "memory_inc(key: string, offset?: number) -> number or none",
            "Adds to a number.",
            |cx, a| {
                let offset = if a.given(1).is_some() { a.number(1) } else { 1.0 };
                change(cx, &a, move |slot| add(slot, offset, false))
            },
        ),
        FunctionDef::full(
            "memory_dec(key: string, offset?: number, remove_if_zero?: boolean) -> number or none",
            "Subtracts from a number.",
            |cx, a| {
                let offset = if a.given(1).is_some() { a.number(1) } else { 1.0 };
                let remove = a.flag(2, false);
                change(cx, &a, move |slot| add(slot, -offset, remove))
            },
        ),
        FunctionDef::full(
            "memory_update(key: string, value: any, callback: function, initial?: any) -> boolean",
            "Stores the result of a callback.",
            update,
        ),
    ]
}

fn checked(value: Value) -> Result<Value, Error> {
    if hsl::storable(&value) {
        return Ok(value);
    }
    Err(Error::exception("Only plain data can be shared between executions"))
}

fn add(slot: &mut Option<Value>, offset: f64, remove_if_zero: bool) -> Value {
    let current = match slot {
        None => 0.0,
        Some(Value::Number(n)) => *n,
        Some(_) => return Value::None,
    };
    let sum = current + offset;
    *slot = if remove_if_zero && sum == 0.0 { None } else { Some(Value::Number(sum)) };
    Value::Number(sum)
}

/// Changes a key, waiting for its barrier if another execution is inside.
fn change(
    cx: &mut NativeCx<'_>,
    args: &Args<'_>,
    mut change: impl FnMut(&mut Option<Value>) -> Value + Send + 'static,
) -> Result<Outcome, Error> {
    let execution = cx.execution();
    let shared: Arc<Shared> = Arc::clone(cx.shared());
    let mut wait = match shared.with_memory(args.bytes(0), execution, &mut change) {
        Ok(value) => return Ok(value.into()),
        Err(wait) => wait,
    };
    let key = args.bytes(0).to_vec();
    Ok(Outcome::Pending(Box::pin(async move {
        loop {
            wait.await?;
            match shared.with_memory(&key, execution, &mut change) {
                Ok(value) => return Ok(value),
                Err(again) => wait = again,
            }
        }
    })))
}

/// What an operation with a callback wants after it saw the slot.
enum Seen {
    Done(Value),
    /// Calls the callback; its result goes to the second step.
    Ask(Vec<Value>),
}

type First = Box<dyn FnMut(&mut Option<Value>) -> Seen + Send>;
type After = Box<dyn FnMut(&mut Option<Value>, Value) -> Result<Value, Error> + Send>;

/// An operation that keeps the key locked while its callback runs. An execution may lock a key it holds already.
struct Locked {
    shared: Arc<Shared>,
    execution: u64,
    key: Str,
    function: Value,
    guard: Option<BarrierGuard>,
    first: First,
    after: After,
    asked: bool,
}

impl Locked {
    fn start(
        cx: &NativeCx<'_>,
        key: Str,
        function: Value,
        first: impl FnMut(&mut Option<Value>) -> Seen + Send + 'static,
        after: impl FnMut(&mut Option<Value>, Value) -> Result<Value, Error> + Send + 'static,
    ) -> Result<Outcome, Error> {
        let mut state = Locked {
            shared: Arc::clone(cx.shared()),
            execution: cx.execution(),
            key,
            function,
            guard: None,
            first: Box::new(first),
            after: Box::new(after),
            asked: false,
        };
        Ok(match state.begin()? {
            Next::Value(value) => Outcome::Value(value),
            Next::Pending(wait) => Outcome::Wait(wait, Box::new(state)),
            Next::Call(function, args) => {
                Outcome::Call(Box::new(NativeCall { function, args, then: Box::new(state) }))
            }
            Next::Again(_) | Next::Placed(_) => {
                return Err(Error::fatal("memory: nothing to call again"));
            }
        })
    }

    fn begin(&mut self) -> Result<Next, Error> {
        if !self.shared.is_inside(self.key.as_bytes(), self.execution) {
            match self.shared.enter(&self.key, self.execution) {
                Ok(guard) => self.guard = Some(guard),
                Err(Ok(wait)) => return Ok(Next::Pending(wait)),
                Err(Err(e)) => return Err(e),
            }
        }
        self.asked = true;
        Ok(match self.with_slot(|state, slot| (state.first)(slot))? {
            Seen::Done(value) => Next::Value(value),
            Seen::Ask(args) => Next::Call(self.function.clone(), args.into()),
        })
    }

    fn with_slot<R>(&mut self, f: impl FnOnce(&mut Locked, &mut Option<Value>) -> R) -> Result<R, Error> {
        let shared = Arc::clone(&self.shared);
        let (key, execution) = (self.key.clone(), self.execution);
        // The key is locked by this execution, so there is nobody to wait for.
        shared
            .with_memory(key.as_bytes(), execution, |slot| f(self, slot))
            .map_err(|_| Error::fatal("memory: the lock was lost"))
    }
}

impl Continuation for Locked {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        if !self.asked {
            return self.begin();
        }
        let value = self.with_slot(|state, slot| (state.after)(slot, result))??;
        self.guard = None;
        Ok(Next::Value(value))
    }
}

/// Changes a key and shows the old value to a callback when there was one.
fn with_old(
    cx: &mut NativeCx<'_>,
    args: &Args<'_>,
    callback: Option<Value>,
    mut apply: impl FnMut(&mut Option<Value>) -> (Value, Option<Value>) + Send + 'static,
) -> Result<Outcome, Error> {
    let Some(function) = callback else {
        return change(cx, args, move |slot| apply(slot).0);
    };
    let key = args.string(0);
    let shown = Value::Str(key.clone());
    let answer = Arc::new(parking_lot::Mutex::new(Value::None));
    let kept = Arc::clone(&answer);
    Locked::start(
        cx,
        key,
        function,
        move |slot| match apply(slot) {
            (result, Some(old)) => {
                *kept.lock() = result;
                Seen::Ask(vec![shown.clone(), old])
            }
            (result, None) => Seen::Done(result),
        },
        move |_, _| Ok(answer.lock().clone()),
    )
}

fn fetch(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let Some(function) = args.given(1).cloned() else {
        return change(cx, &args, |slot| slot.clone().unwrap_or_default());
    };
    let key = args.string(0);
    let shown = Value::Str(key.clone());
    Locked::start(
        cx,
        key,
        function,
        move |slot| match slot {
            Some(value) => Seen::Done(value.clone()),
            None => Seen::Ask(vec![shown.clone()]),
        },
        |_, made| Ok(made),
    )
}

fn update(cx: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let initial = if args.len() > 3 { Some(args.take(3)) } else { None };
    let key = args.string(0);
    let shown = Value::Str(key.clone());
    let value = args.take(1);
    let existed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let found = Arc::clone(&existed);
    Locked::start(
        cx,
        key,
        args.take(2),
        move |slot| {
            found.store(slot.is_some(), Ordering::Relaxed);
            match slot.clone().or_else(|| initial.clone()) {
                Some(current) => Seen::Ask(vec![shown.clone(), current, value.clone()]),
                None => Seen::Done(Value::Bool(false)),
            }
        },
        move |slot, result| {
            *slot = Some(checked(result)?);
            Ok(Value::Bool(existed.load(Ordering::Relaxed)))
        },
    )
}
