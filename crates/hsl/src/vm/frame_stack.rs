//! The stack of active calls.
//!
//! Popped slots stay in place with their references taken out, so that a call only overwrites a few numbers: building
//! a frame elsewhere and moving it costs more than the rest of a small call.

use crate::error::Error;
use crate::object::{Cell, Function, FunctionKind, Object};
use crate::program::Reg;
use crate::registry::Continuation;
use crate::shared::BarrierGuard;
use crate::value::Value;
use std::sync::Arc;

/// An active call: of a script function, or of a native one that waits for a callback or a future.
pub(crate) struct Frame {
    /// What happens with the result.
    pub(crate) mode: Mode,
    pub(crate) proto: u32,
    pub(crate) pc: u32,
    /// First register of the window.
    pub(crate) base: u32,
    /// Index into [`Machine::programs`](super::Machine).
    pub(crate) program: u16,
    /// Register of the caller that gets the result.
    pub(crate) dst: Reg,
    /// The closure being called, for the variables it captured.
    pub(crate) closure: Option<Arc<Function>>,
    pub(crate) extra: Option<Box<Extra>>,
    native: Option<Box<NativeFrame>>,
}

/// What few calls of script functions need.
#[derive(Default)]
pub(crate) struct Extra {
    /// Own variables that closures capture.
    pub(crate) cells: Vec<Arc<Cell>>,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) generator: Option<Arc<Object>>,
}

/// What happens with the result of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    Value,
    /// A constructor: the instance in register 0 is the result.
    Construct,
    /// A module body: the result is dropped.
    Discard,
    /// A generator resumed by `foreach`: value to `dst`, key behind it when `pair`, end at `to`.
    Foreach {
        iter: Reg,
        pair: bool,
        to: u32,
    },
    /// A generator resumed by `next()`.
    Next,
    /// A generator spread into an array.
    Spread {
        array: Reg,
        values_only: bool,
    },
}

pub(crate) enum Handler {
    Catch { pc: u32, dst: Reg },
    Barrier(BarrierGuard),
}

/// A native function waiting for a callback or a future.
pub(crate) struct NativeFrame {
    /// Taken out while it runs.
    pub(crate) then: Option<Box<dyn Continuation>>,
    pub(crate) function: Value,
    pub(crate) dst: Reg,
    /// Registers from here on are free for the callback.
    pub(crate) base: u32,
}

impl Default for Frame {
    fn default() -> Frame {
        Frame {
            mode: Mode::Value,
            proto: 0,
            pc: 0,
            base: 0,
            program: 0,
            dst: 0,
            closure: None,
            extra: None,
            native: None,
        }
    }
}

impl Frame {
    /// True for a call of a script function.
    #[inline(always)]
    pub(crate) fn is_script(&self) -> bool {
        self.native.is_none()
    }

    /// The variable in a cell: captured ones first, then own ones.
    ///
    /// # Errors
    /// Code that does not fit its function.
    #[inline]
    pub(crate) fn cell(&self, index: u16) -> Result<&Arc<Cell>, Error> {
        let index = usize::from(index);
        let captures: &[Arc<Cell>] = match self.closure.as_ref().map(|f| &f.0) {
            Some(FunctionKind::Script { captures, .. }) => captures,
            _ => &[],
        };
        let own = || self.extra.as_ref().and_then(|e| e.cells.get(index - captures.len()));
        captures.get(index).or_else(own).ok_or_else(|| Error::fatal("Cell is missing"))
    }

    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn pop_handler(&mut self) -> Option<Handler> {
        self.extra.as_mut().and_then(|e| e.handlers.pop())
    }

    pub(crate) fn take_generator(&mut self) -> Option<Arc<Object>> {
        self.extra.as_mut().and_then(|e| e.generator.take())
    }
}

/// The active calls, innermost last.
#[derive(Default)]
pub(crate) struct Frames {
    slots: Vec<Frame>,
    len: usize,
}

impl Frames {
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Frame> {
        self.slots.get(..self.len).unwrap_or_default().iter()
    }

    #[inline(always)]
    pub(crate) fn last(&self) -> Option<&Frame> {
        self.slots.get(self.len.wrapping_sub(1))
    }

    #[inline(always)]
    pub(crate) fn last_mut(&mut self) -> Option<&mut Frame> {
        self.slots.get_mut(self.len.wrapping_sub(1))
    }

    /// The innermost call, if it is one of a script function.
    #[inline(always)]
    pub(crate) fn script(&self) -> Option<&Frame> {
        self.last().filter(|f| f.is_script())
    }

    /// The innermost call, if it is one of a script function.
    #[inline(always)]
    pub(crate) fn script_mut(&mut self) -> Option<&mut Frame> {
        self.last_mut().filter(|f| f.is_script())
    }

    /// The innermost call and the one around it.
    #[inline(always)]
    pub(crate) fn last_two_mut(&mut self) -> Option<(&mut Frame, &mut Frame)> {
        match self.slots.get_mut(self.len.wrapping_sub(2)..self.len) {
            Some([outer, inner]) => Some((outer, inner)),
            _ => None,
        }
    }

    /// The innermost call, if it is a waiting native function.
    #[inline(always)]
    pub(crate) fn native_mut(&mut self) -> Option<&mut NativeFrame> {
        self.last_mut().and_then(|f| f.native.as_deref_mut())
    }

    pub(crate) fn native_at(&mut self, i: usize) -> Option<&mut NativeFrame> {
        if i < self.len { self.slots[i].native.as_deref_mut() } else { None }
    }

    /// Where the registers of the innermost call begin.
    pub(crate) fn last_base(&self) -> Option<u32> {
        self.last().map(|f| f.native.as_ref().map_or(f.base, |n| n.base))
    }

    pub(crate) fn is_native(&self) -> bool {
        self.last().is_some_and(|f| !f.is_script())
    }

    /// Enters a script function.
    #[inline(always)]
    pub(crate) fn enter(&mut self, program: u16, proto: u32, base: u32, dst: Reg, mode: Mode) -> &mut Frame {
        if self.len == self.slots.len() {
            self.grow();
        }
        let frame = &mut self.slots[self.len];
        self.len += 1;
        frame.mode = mode;
        frame.proto = proto;
        frame.pc = 0;
        frame.base = base;
        frame.program = program;
        frame.dst = dst;
        frame
    }

    /// As [`enter`](Self::enter) for a plain call; the caller goes on at `pc`.
    #[inline(always)]
    pub(crate) fn call(&mut self, pc: u32, program: u16, proto: u32, base: u32, dst: Reg) {
        if self.len == self.slots.len() {
            self.grow();
        }
        if let Some([caller, frame]) = self.slots.get_mut(self.len.wrapping_sub(1)..=self.len) {
            self.len += 1;
            caller.pc = pc;
            frame.mode = Mode::Value;
            frame.proto = proto;
            frame.pc = 0;
            frame.base = base;
            frame.program = program;
            frame.dst = dst;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let more = self.slots.len().clamp(4, 256);
        self.slots.resize_with(self.slots.len() + more, Frame::default);
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        if self.len == self.slots.len() {
            self.grow();
        }
        self.slots[self.len] = frame;
        self.len += 1;
    }

    pub(crate) fn push_native(&mut self, native: NativeFrame) {
        self.push(Frame { native: Some(Box::new(native)), ..Frame::default() });
    }

    /// Takes the innermost call off.
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.len = self.len.checked_sub(1)?;
        self.slots.get_mut(self.len).map(std::mem::take)
    }

    /// Drops the innermost call.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        if let Some(frame) = self.slots.get_mut(self.len.wrapping_sub(1)) {
            self.len -= 1;
            if frame.closure.is_some() {
                frame.closure = None;
            }
            if frame.extra.is_some() {
                frame.extra = None;
            }
            if frame.native.is_some() {
                frame.native = None;
            }
        }
    }

    /// Drops the innermost call, a script function whose closure and extra are taken out.
    #[inline(always)]
    pub(crate) fn forget(&mut self) {
        debug_assert!(self.last().is_none_or(|f| f.is_script() && f.closure.is_none() && f.extra.is_none()));
        self.len = self.len.saturating_sub(1);
    }

    /// Gives memory of popped slots back while the execution waits.
    pub(crate) fn trim(&mut self) {
        self.slots.truncate(self.len);
        self.slots.shrink_to_fit();
    }
}
