//! Suspended generator functions (language section 9.6).

use super::frame_stack::Frame;
use crate::mem;
use crate::value::Value;

/// What a generator object holds.
pub(crate) struct Generator {
    pub(crate) state: State,
}

pub(crate) enum State {
    /// Suspended: its frame and registers.
    Suspended(Box<Frame>, Vec<Value>),
    Running,
    /// Ended, with its return value.
    Done(Value),
}

impl Generator {
    /// Ends the generator and hands out what it held.
    pub(crate) fn abandon(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Done(Value::None))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        match self.abandon() {
            State::Suspended(frame, registers) => {
                mem::drop_bounded(registers);
                drop(frame);
            }
            State::Done(value) => mem::drop_bounded([value]),
            State::Running => {}
        }
    }
}
