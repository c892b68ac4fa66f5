//! Shared memory (library section 14). Waiting for a barrier of the same name suspends the script.

use hsl::{
    Args, Continuation, Error, FunctionDef, NativeCall, NativeCx, Next, Outcome, Shared, Value, shareable,
};
use std::sync::Arc;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::full(
            "memory_add(key: string, value: any)",
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
            "memory_store(key: string, value: any, callback?: function)",
            "Stores a value; true if the key existed.",
            |cx, mut a| {
                let value = checked(a.take(1))?;
                let callback = a.given(2).cloned();
                let key = a.get(0).clone();
                with_old(cx, &a, callback, key, false, move |slot| {
                    let old = slot.replace(value.clone());
                    (Value::Bool(old.is_some()), old)
                })
            },
        ),
        FunctionDef::full(
            "memory_fetch(key: string, callback?: function)",
            "The value of a key.",
            |cx, a| {
                let key = a.get(0).clone();
                let callback = a.given(1).cloned();
                let slot = match try_change(cx, a.bytes(0), |slot| slot.clone()) {
                    Ok(slot) => slot,
                    Err(_) if callback.is_none() => {
                        return change(cx, &a, |slot| slot.clone().unwrap_or_default());
                    }
                    Err(wait) => return Ok(Outcome::Pending(wait)),
                };
                match (slot, callback) {
                    (Some(value), _) => Ok(value.into()),
                    (None, Some(function)) => Ok(Outcome::Call(Box::new(NativeCall {
                        function,
                        args: [key].into(),
                        then: Box::new(|_: &mut NativeCx<'_>, result: Value| Ok(Next::Value(result))),
                    }))),
                    (None, None) => Ok(Value::None.into()),
                }
            },
        ),
        FunctionDef::full(
            "memory_exists(key: string, callback?: function)",
            "Whether a key exists.",
            |cx, a| {
                let callback = a.given(1).cloned();
                let key = a.get(0).clone();
                with_old(cx, &a, callback, key, true, |slot| (Value::Bool(slot.is_some()), slot.clone()))
            },
        ),
        FunctionDef::full("memory_delete(key: string, callback?: function)", "Removes a key.", |cx, a| {
            let callback = a.given(1).cloned();
            let key = a.get(0).clone();
            with_old(cx, &a, callback, key, true, |slot| {
                let old = slot.take();
                (Value::Bool(old.is_some()), old)
            })
        }),
        FunctionDef::full("memory_inc(key: string, offset?: number)", "Adds to a number.", |cx, a| {
            let offset = if a.given(1).is_some() { a.number(1) } else { 1.0 };
            change(cx, &a, move |slot| add(slot, offset, false))
        }),
        FunctionDef::full(
            "memory_dec(key: string, offset?: number, remove_if_zero?: boolean)",
            "Subtracts from a number.",
            |cx, a| {
                let offset = if a.given(1).is_some() { a.number(1) } else { 1.0 };
                let remove = a.flag(2, false);
                change(cx, &a, move |slot| add(slot, -offset, remove))
            },
        ),
        FunctionDef::full(
            "memory_update(key: string, value: any, callback: function, initial?: any)",
            "Stores the result of a callback.",
            update,
        ),
    ]
}

fn checked(value: Value) -> Result<Value, Error> {
    if shareable(&value) {
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

fn try_change<R>(
    cx: &NativeCx<'_>,
    key: &[u8],
    change: impl FnOnce(&mut Option<Value>) -> R,
) -> Result<R, hsl::BoxFuture> {
    cx.shared().with_memory(key, cx.execution(), change)
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

/// Changes a key and shows the old value to a callback when there was one.
fn with_old(
    cx: &mut NativeCx<'_>,
    args: &Args<'_>,
    callback: Option<Value>,
    key: Value,
    _reads: bool,
    mut apply: impl FnMut(&mut Option<Value>) -> (Value, Option<Value>) + Send + 'static,
) -> Result<Outcome, Error> {
    let Some(function) = callback else {
        return change(cx, args, move |slot| apply(slot).0);
    };
    match try_change(cx, args.bytes(0), &mut apply) {
        Ok((result, Some(old))) => Ok(Outcome::Call(Box::new(NativeCall {
            function,
            args: [key, old].into(),
            then: Box::new(move |_: &mut NativeCx<'_>, _: Value| Ok(Next::Value(result.clone()))),
        }))),
        Ok((result, None)) => Ok(result.into()),
        Err(_) => change(cx, args, move |slot| apply(slot).0),
    }
}

struct Update {
    shared: Arc<Shared>,
    execution: u64,
    key: Vec<u8>,
    existed: bool,
}

impl Continuation for Update {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        let result = checked(result)?;
        let stored = self.shared.with_memory(&self.key, self.execution, |slot| *slot = Some(result.clone()));
        match stored {
            Ok(()) => Ok(Next::Value(Value::Bool(self.existed))),
            Err(_) => Err(Error::exception("memory_update(): the key was locked meanwhile")),
        }
    }
}

fn update(cx: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let current = match try_change(cx, args.bytes(0), |slot| slot.clone()) {
        Ok(current) => current,
        Err(_) => {
            return Err(Error::exception(
                "memory_update(): the key is inside a barrier of another execution",
            ));
        }
    };
    let existed = current.is_some();
    let initial = if args.len() > 3 { Some(args.take(3)) } else { None };
    let Some(current) = current.or(initial) else { return Ok(Value::Bool(false).into()) };
    let then = Update {
        shared: Arc::clone(cx.shared()),
        execution: cx.execution(),
        key: args.bytes(0).to_vec(),
        existed,
    };
    let (key, value) = (args.get(0).clone(), args.take(1));
    Ok(Outcome::Call(Box::new(NativeCall {
        function: args.take(2),
        args: vec![key, current, value].into(),
        then: Box::new(then),
    })))
}
