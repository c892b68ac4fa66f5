//! Array functions (library section 1).

use crate::support::{ARRAY_MAX, flag, options};
use hsl::{
    Args, Array, CallArgs, Continuation, Error, FunctionDef, Key, NativeCall, NativeCx, Next, OptionDef,
    Outcome, Value, option,
};
use rand::seq::SliceRandom;
use std::collections::HashSet;

const SORT: &[OptionDef] = &[option("keys", "boolean", "false", "The callback gets keys instead of values.")];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "array_combine(keys: array, values: array, default_value?: any) -> array",
            "Pairs keys with values.",
            combine,
        ),
        FunctionDef::full(
            "array_every(callback: function, array: array) -> boolean",
            "Whether the callback accepts all values.",
            every,
        ),
        FunctionDef::full(
            "array_filter(callback: function, array: array) -> array",
            "Elements that the callback accepts.",
            filter,
        ),
        FunctionDef::full(
            "array_find(callback: function, array: array) -> any",
            "First value that the callback accepts.",
            find,
        ),
        FunctionDef::full(
            "array_includes(needle: any, array: array) -> boolean",
            "Whether a value is in the array.",
            includes,
        ),
        FunctionDef::pure(
            "array_join(array: array, separator?: string) -> string",
            "Values joined to one string.",
            join,
        ),
        FunctionDef::pure("array_keys(array: array) -> array", "The keys as a list.", |_, a| {
            Ok(a.array(0).keys().map(|k| k.to_value()).collect::<Array>().into())
        }),
        FunctionDef::full(
            "array_map(callback: function, array: array) -> array",
            "Results of the callback, keys kept.",
            map,
        ),
        FunctionDef::pure(
            "array_random(array: array) -> array or none",
            "A random element as key and value.",
            random,
        ),
        FunctionDef::pure(
            "array_range(start: number, stop: number, step?: number) -> array",
            "Numbers from start up to stop.",
            range,
        ),
        FunctionDef::full(
            "array_reduce(callback: function, array: array, initial?: any) -> any",
            "Left fold.",
            reduce,
        ),
        FunctionDef::pure("array_reverse(array: array) -> array", "Elements in reverse order.", |_, a| {
            let array = a.array(0);
            let mut items: Vec<(Key, Value)> = array.iter().map(|(k, v)| (k, v.clone())).collect();
            items.reverse();
            Ok(renumber(items))
        }),
        FunctionDef::full(
            "array_sort(callback: function, array: array, options?: array) -> array",
            "Sorts by a less-than callback.",
            sort,
        )
        .with_options(SORT),
        FunctionDef::pure("array_shuffle(array: array) -> array", "Elements in random order.", |_, a| {
            let array = a.array(0);
            let mut items: Vec<(Key, Value)> = array.iter().map(|(k, v)| (k, v.clone())).collect();
            items.shuffle(&mut rand::rng());
            Ok(renumber(items))
        }),
        FunctionDef::pure("array_unique(array: array) -> array", "First of equal values.", unique),
    ]
}

/// Numeric keys are numbered from 0, others stay.
fn renumber(items: Vec<(Key, Value)>) -> Value {
    let mut result = Array::with_capacity(items.len());
    for (key, value) in items {
        match key {
            Key::Int(_) => {
                result.push(value);
            }
            key => {
                result.insert(key, value);
            }
        }
    }
    result.into()
}

fn combine(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let (keys, values) = (args.array(0), args.array(1));
    let default = if args.len() > 2 { Some(args.get(2).clone()) } else { None };
    if default.is_none() && keys.len() != values.len() {
        return Err(Error::exception(format!(
            "array_combine(): {} keys and {} values without a default",
            keys.len(),
            values.len()
        )));
    }
    let mut result = Array::new();
    let mut values = values.values();
    for key in keys.values() {
        if matches!(key, Value::Array(_) | Value::Function(_) | Value::Object(_) | Value::Resource(_)) {
            return Err(Error::exception(format!("array_combine(): {} cannot be a key", key.type_name())));
        }
        let key =
            Key::from_value(key).map_err(|_| Error::exception("Array key cannot be nan or infinite"))?;
        let value = values.next().cloned().or_else(|| default.clone()).unwrap_or_default();
        result.insert(key, value);
    }
    Ok(result.into())
}

/// Calls the callback with each value in turn.
struct Walk<S> {
    array: Array,
    /// Position of the element that the callback is asked about, and of the next one.
    at: usize,
    next: usize,
    state: S,
    /// Gets the element and the result of one call; a value ends the walk.
    step: Step<S>,
    finish: fn(&mut S) -> Value,
}

type Step<S> = fn(&mut S, &Array, usize, Value) -> Option<Value>;

impl<S: Send + 'static> Walk<S> {
    fn start(function: Value, array: Array, state: S, step: Step<S>, finish: fn(&mut S) -> Value) -> Outcome {
        let mut walk = Walk { array, at: 0, next: 0, state, step, finish };
        match walk.advance() {
            Some(args) => Outcome::Call(Box::new(NativeCall { function, args, then: Box::new(walk) })),
            None => Outcome::Value((walk.finish)(&mut walk.state)),
        }
    }

    #[inline]
    fn advance(&mut self) -> Option<CallArgs> {
        let (value, next) = self.array.value_at(self.next)?;
        self.at = self.next;
        self.next = next;
        Some([value.clone()].into())
    }
}

impl<S: Send + 'static> Continuation for Walk<S> {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        if let Some(done) = (self.step)(&mut self.state, &self.array, self.at, result) {
            return Ok(Next::Value(done));
        }
        Ok(match self.advance() {
            Some(args) => Next::Again(args),
            None => Next::Value((self.finish)(&mut self.state)),
        })
    }

    fn step(&mut self, _: &mut NativeCx<'_>, result: Value, slots: &mut [Value; 2]) -> Result<Next, Error> {
        if let Some(done) = (self.step)(&mut self.state, &self.array, self.at, result) {
            return Ok(Next::Value(done));
        }
        let Some((value, next)) = self.array.value_at(self.next) else {
            return Ok(Next::Value((self.finish)(&mut self.state)));
        };
        slots[0].copy_from(value);
        self.at = self.next;
        self.next = next;
        Ok(Next::Placed(1))
    }
}

fn element(array: &Array, at: usize) -> (Key, Value) {
    // The callback was asked about this element, so it is there.
    array.element_at(at).map_or((Key::Int(0), Value::None), |(k, v, _)| (k, v.clone()))
}

fn every(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    Ok(Walk::start(
        args.take(0),
        array,
        (),
        |(), _, _, r| (!r.truthy()).then_some(Value::Bool(false)),
        |()| Value::Bool(true),
    ))
}

fn filter(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    Ok(Walk::start(
        args.take(0),
        array,
        Vec::new(),
        |kept: &mut Vec<(Key, Value)>, array, at, r| {
            if r.truthy() {
                kept.push(element(array, at));
            }
            None
        },
        |kept| Array::from_distinct(std::mem::take(kept)).into(),
    ))
}

fn find(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    Ok(Walk::start(
        args.take(0),
        array,
        (),
        |(), array, at, r| r.truthy().then(|| element(array, at).1),
        |()| Value::None,
    ))
}

fn includes(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    if !matches!(args.get(0), Value::Function(_)) {
        let needle = args.get(0);
        return Ok(Value::Bool(array.values().any(|v| v.strict_eq(needle))).into());
    }
    Ok(Walk::start(
        args.take(0),
        array,
        (),
        |(), _, _, r| r.truthy().then_some(Value::Bool(true)),
        |()| Value::Bool(false),
    ))
}

fn map(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    if array.as_list().is_some() {
        let result = Array::with_capacity(array.len());
        return Ok(Walk::start(
            args.take(0),
            array,
            result,
            |mapped, _, _, r| {
                mapped.push(r);
                None
            },
            |mapped| std::mem::take(mapped).into(),
        ));
    }
    let result = Vec::with_capacity(array.len());
    Ok(Walk::start(
        args.take(0),
        array,
        result,
        |mapped: &mut Vec<(Key, Value)>, array, at, r| {
            mapped.push((element(array, at).0, r));
            None
        },
        |mapped| Array::from_distinct(std::mem::take(mapped)).into(),
    ))
}

fn join(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let array = args.array(0);
    let separator = args.bytes(1);
    let strings: usize = array.values().map(|v| v.as_str_bytes().map_or(8, <[u8]>::len)).sum();
    let total = strings.saturating_add(separator.len().saturating_mul(array.len()));
    crate::support::check_string("array_join", total)?;
    let mut out = Vec::with_capacity(total);
    let mut at = 0;
    while let Some((v, next)) = array.value_at(at) {
        if at > 0 {
            out.extend_from_slice(separator);
        }
        at = next;
        match v {
            Value::Str(s) => out.extend_from_slice(s.as_bytes()),
            v if v.is_none() => {}
            v => {
                v.write_string(&mut out);
                crate::support::check_string("array_join", out.len())?;
            }
        }
    }
    Ok(out.into())
}

fn random(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let array = args.array(0);
    if array.is_empty() {
        return Ok(Value::None);
    }
    let n = rand::random_range(0..array.len());
    Ok(match array.iter().nth(n) {
        Some((k, v)) => vec![k.to_value(), v.clone()].into(),
        None => Value::None,
    })
}

fn range(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let (start, stop) = (args.number(0), args.number(1));
    let step = if args.given(2).is_some() { args.number(2) } else { 1.0 };
    if step == 0.0 || ![start, stop, step].iter().all(|n| n.is_finite()) {
        return Err(Error::exception("array_range(): needs finite numbers and a step other than 0"));
    }
    let count = ((stop - start) / step).ceil().max(0.0);
    if count > ARRAY_MAX as f64 {
        return Err(Error::too_large("array_range"));
    }
    let count = count as usize;
    cx.check_memory(count * size_of::<Value>())?;
    let mut list: Vec<Value> = Vec::with_capacity(count);
    for i in 0..count {
        let n = start + i as f64 * step;
        // The division may have rounded up.
        if (step > 0.0 && n < stop) || (step < 0.0 && n > stop) {
            list.push(n.into());
        }
    }
    Ok(list.into())
}

struct Fold {
    array: Array,
    at: usize,
}

impl Continuation for Fold {
    fn resume(&mut self, _: &mut NativeCx<'_>, carry: Value) -> Result<Next, Error> {
        Ok(match self.array.value_at(self.at) {
            Some((value, next)) => {
                let value = value.clone();
                self.at = next;
                Next::Again([carry, value].into())
            }
            None => Next::Value(carry),
        })
    }

    fn step(&mut self, _: &mut NativeCx<'_>, carry: Value, slots: &mut [Value; 2]) -> Result<Next, Error> {
        let Some((value, next)) = self.array.value_at(self.at) else { return Ok(Next::Value(carry)) };
        slots[1].copy_from(value);
        slots[0] = carry;
        self.at = next;
        Ok(Next::Placed(2))
    }
}

fn reduce(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let array = args.array(1);
    let mut fold = Fold { array, at: 0 };
    let take = |fold: &mut Fold| {
        fold.array.element_at(fold.at).map(|(_, v, next)| (v.clone(), next)).map(|(v, next)| {
            fold.at = next;
            v
        })
    };
    let carry = if args.len() > 2 {
        args.take(2)
    } else {
        match take(&mut fold) {
            Some(first) => first,
            None => return Err(Error::exception("array_reduce(): empty array without initial value")),
        }
    };
    match take(&mut fold) {
        None => Ok(carry.into()),
        Some(value) => Ok(Outcome::Call(Box::new(NativeCall {
            function: args.take(0),
            args: [carry, value].into(),
            then: Box::new(fold),
        }))),
    }
}

/// A bottom-up merge sort that can stop at every comparison. Stable; ends for any callback.
struct Sort {
    /// What is compared, and its place in `other`.
    from: Vec<(Value, u32)>,
    to: Vec<(Value, u32)>,
    /// Keys, or values when keys are compared.
    other: Vec<Value>,
    width: usize,
    left: usize,
    right: usize,
    left_end: usize,
    right_end: usize,
    keys: bool,
}

impl Sort {
    fn new(array: Array, keys: bool) -> Sort {
        let n = array.len();
        let mut from = Vec::with_capacity(n);
        let mut other = Vec::with_capacity(n);
        for (i, (key, value)) in array.into_elements().into_iter().enumerate() {
            let (compared, rest) = if keys { (key.to_value(), value) } else { (value, key.to_value()) };
            from.push((compared, i as u32));
            other.push(rest);
        }
        Sort {
            from,
            to: Vec::with_capacity(n),
            other,
            width: 1,
            left: 0,
            left_end: 1.min(n),
            right: 1.min(n),
            right_end: 2.min(n),
            keys,
        }
    }

    /// Moves on to the next pair that needs a comparison, `right` and `left`; false when sorted.
    fn advance(&mut self) -> bool {
        loop {
            if self.left < self.left_end && self.right < self.right_end {
                return true;
            }
            for range in [self.left..self.left_end, self.right..self.right_end] {
                for item in &mut self.from[range] {
                    self.to.push(std::mem::take(item));
                }
            }
            let n = self.from.len();
            let mut start = self.right_end;
            if start >= n {
                std::mem::swap(&mut self.from, &mut self.to);
                self.to.clear();
                self.width *= 2;
                if self.width >= n {
                    return false;
                }
                start = 0;
            }
            self.left = start;
            self.left_end = (start + self.width).min(n);
            self.right = self.left_end;
            self.right_end = (start + 2 * self.width).min(n);
        }
    }

    fn result(&mut self) -> Value {
        let sorted = std::mem::take(&mut self.from).into_iter().filter_map(|(compared, i)| {
            let rest = std::mem::take(&mut self.other[i as usize]);
            let (key, value) = if self.keys { (compared, rest) } else { (rest, compared) };
            // The value was a key before, so it can be one again.
            Key::from_value(&key).ok().map(|key| (key, value))
        });
        Array::from_distinct(sorted.collect()).into()
    }
}

impl Sort {
    /// The arguments of the next comparison: right before left only if it is strictly less, which keeps the order of
    /// equals.
    fn pair(&self) -> CallArgs {
        [self.from[self.right].0.clone(), self.from[self.left].0.clone()].into()
    }

    fn take_less(&mut self, less: &Value) {
        let side = if less.truthy() { &mut self.right } else { &mut self.left };
        let at = *side;
        *side += 1;
        self.to.push(std::mem::take(&mut self.from[at]));
    }
}

impl Continuation for Sort {
    fn resume(&mut self, _: &mut NativeCx<'_>, less: Value) -> Result<Next, Error> {
        self.take_less(&less);
        Ok(if self.advance() { Next::Again(self.pair()) } else { Next::Value(self.result()) })
    }

    fn step(&mut self, _: &mut NativeCx<'_>, less: Value, slots: &mut [Value; 2]) -> Result<Next, Error> {
        self.take_less(&less);
        if !self.advance() {
            return Ok(Next::Value(self.result()));
        }
        slots[0].copy_from(&self.from[self.right].0);
        slots[1].copy_from(&self.from[self.left].0);
        Ok(Next::Placed(2))
    }
}

fn sort(_: &mut NativeCx<'_>, mut args: Args<'_>) -> Result<Outcome, Error> {
    let keys = flag(&options(&args, 2), "keys", false);
    let array = args.array(1);
    if array.len() > ARRAY_MAX {
        return Err(Error::too_large("array_sort"));
    }
    if array.len() < 2 {
        return Ok(Value::from(array).into());
    }
    args.take(1);
    let mut sort = Sort::new(array, keys);
    if !sort.advance() {
        return Ok(sort.result().into());
    }
    let (function, args) = (args.take(0), sort.pair());
    Ok(Outcome::Call(Box::new(NativeCall { function, args, then: Box::new(sort) })))
}

fn unique(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let array = args.array(0);
    let mut numbers = HashSet::new();
    let mut strings = HashSet::new();
    let mut others: Vec<Value> = Vec::new();
    let mut result = Array::new();
    for (key, value) in array.iter() {
        let new = match value {
            // Adding zero makes -0 and 0 one.
            Value::Number(n) => n.is_nan() || numbers.insert((n + 0.0).to_bits()),
            Value::Str(s) => strings.insert(s.clone()),
            other => {
                let new = !others.iter().any(|o| o.strict_eq(other));
                if new {
                    others.push(other.clone());
                }
                new
            }
        };
        if new {
            result.insert(key, value.clone());
        }
    }
    Ok(result.into())
}
