//! Answers that come later: plain futures, woken from the spool's threads.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use parking_lot::Mutex;

use crate::SpoolError;

/// The answer of the spool to something that takes time. Dropping it does not undo what was asked.
#[must_use = "what was asked is done only when this resolves"]
pub struct Pending<T>(Arc<Mutex<State<T>>>);

/// The other end; dropped without an answer it answers [`SpoolError::Closed`].
pub(crate) struct Completer<T>(Option<Arc<Mutex<State<T>>>>);

enum State<T> {
    Waiting(Option<Waker>),
    Ready(Result<T, SpoolError>),
    Taken,
}

impl<T> Pending<T> {
    pub(crate) fn new() -> (Self, Completer<T>) {
        let state = Arc::new(Mutex::new(State::Waiting(None)));
        (Self(Arc::clone(&state)), Completer(Some(state)))
    }

    pub(crate) fn ready(result: Result<T, SpoolError>) -> Self {
        Self(Arc::new(Mutex::new(State::Ready(result))))
    }

    /// Blocks the thread until the answer is there. Not for async code.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(mut self) -> Result<T, SpoolError> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self).poll(&mut context) {
                return result;
            }
            std::thread::park();
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, SpoolError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Ready(_) => match std::mem::replace(&mut *state, State::Taken) {
                State::Ready(result) => Poll::Ready(result),
                _ => Poll::Ready(Err(SpoolError::Closed)),
            },
            // Polled again after its answer: a mistake of the caller, answered without panic.
            State::Taken => Poll::Ready(Err(SpoolError::Closed)),
        }
    }
}

impl<T> Completer<T> {
    pub(crate) fn complete(mut self, result: Result<T, SpoolError>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<T, SpoolError>) {
        let Some(state) = self.0.take() else { return };
        let before = std::mem::replace(&mut *state.lock(), State::Ready(result));
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.answer(Err(SpoolError::Closed));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_cross_threads() {
        let (pending, completer) = Pending::new();
        let thread = std::thread::spawn(move || completer.complete(Ok(7)));
        assert_eq!(pending.wait().unwrap(), 7);
        thread.join().unwrap();
        let (pending, completer) = Pending::<()>::new();
        drop(completer);
        assert!(matches!(pending.wait(), Err(SpoolError::Closed)));
        assert_eq!(Pending::ready(Ok(1)).wait().unwrap(), 1);
    }
}
