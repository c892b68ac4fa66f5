//! Accounting of the memory that script values hold, and bounded destruction of deep values.
//!
//! Every heap block of a [`Str`](crate::Str) or [`Array`](crate::Array) adds its size to a counter of the current
//! thread and takes it back when it is dropped. A virtual machine puts its own balance into the counter while it runs
//! and takes it out again when it stops, so an execution may move between threads. The balance is signed: values made
//! outside a run (constants, host values) may be freed inside one.

use crate::value::Value;
use std::cell::{Cell, RefCell};

thread_local! {
    static USED: Cell<isize> = const { Cell::new(0) };
    static DROP_DEPTH: Cell<u32> = const { Cell::new(0) };
    static PENDING: RefCell<Vec<Value>> = const { RefCell::new(Vec::new()) };
}

/// Nested destructors beyond this depth are put off, so that a chain of a million arrays needs no native stack.
const DROP_DEPTH_MAX: u32 = 48;

/// Adds to the balance of this thread.
#[inline]
pub(crate) fn charge(bytes: usize) {
    USED.with(|u| u.set(u.get().wrapping_add(bytes as isize)));
}

/// Takes from the balance of this thread.
#[inline]
pub(crate) fn release(bytes: usize) {
    // During thread shutdown the counter may be gone; then there is nobody left to count for.
    let _ = USED.try_with(|u| u.set(u.get().wrapping_sub(bytes as isize)));
}

/// Bytes held according to the balance of this thread.
#[inline]
pub(crate) fn used() -> isize {
    USED.with(Cell::get)
}

/// Replaces the balance of this thread and returns the old one.
#[inline]
pub(crate) fn swap(balance: isize) -> isize {
    USED.with(|u| u.replace(balance))
}

/// Drops `values` with bounded native recursion: beyond a fixed nesting the values go to a list that the outermost
/// destructor empties.
pub(crate) fn drop_bounded(values: impl IntoIterator<Item = Value>) {
    let Ok(depth) = DROP_DEPTH.try_with(Cell::get) else {
        return values.into_iter().for_each(drop);
    };
    if depth >= DROP_DEPTH_MAX {
        let mut rest: Vec<Value> = values.into_iter().filter(Value::is_heap).collect();
        if !rest.is_empty() {
            let _ = PENDING.try_with(|p| p.borrow_mut().append(&mut rest));
        }
        return;
    }
    DROP_DEPTH.with(|d| d.set(depth + 1));
    values.into_iter().for_each(drop);
    DROP_DEPTH.with(|d| d.set(depth));
    if depth == 0 {
        while let Ok(Some(next)) = PENDING.try_with(|p| p.borrow_mut().pop()) {
            DROP_DEPTH.with(|d| d.set(1));
            drop(next);
            DROP_DEPTH.with(|d| d.set(0));
        }
    }
}
