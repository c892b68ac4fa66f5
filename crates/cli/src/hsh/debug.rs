//! `hsh -C`: break points and exceptions of a script, for a debugger that listens on a Unix socket (control plane 7.4).
//!
//! The connection has a thread of its own, so that it answers while the script is busy. Only the protocol's `d`, `e` and
//! `f` are known here; the messages are those of `smtpd` with the same numbers.

use bytes::Bytes;
use control::frame::Request;
use control::server::{Answer, Answering, Conversation, Handler, Peer, parse, payload};
use control::smtpd::hsl_break_point_response::{Callstack, Location};
use control::smtpd::{HslBreakPointRequest, HslBreakPointResponse, HslLogResponse, hsl_log_response};
use hsl::{BoxFuture, Observer, Place, PointKind, Reached, Thrown, Value};
use hsl_std::debug::{Raised, values};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};

/// Hits of logpoints that are kept; older ones go.
const HITS_MAX: usize = 10_000;
/// How long a script stands still when the debugger says nothing.
const STOP_MAX: Duration = Duration::from_secs(300);
/// How long the debugger may take to read what is left when the script has ended.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What script and connection share.
#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    /// Something changed in it.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    hits: VecDeque<HslBreakPointResponse>,
    /// The stop the script stands at; taken out when it was handed over.
    stop: Option<HslBreakPointResponse>,
    /// Counts the stops, and those that were let go.
    stops: u64,
    released: u64,
    /// Nobody is there any more.
    gone: bool,
    /// The script has ended.
    ended: bool,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Waits until `found` finds something.
    async fn wait<T>(&self, mut found: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            if let Some(result) = found(&mut self.lock()) {
                return result;
            }
            changed.await;
        }
    }

    /// Has the script stand still at `stop`.
    fn stop(self: &Arc<Self>, stop: HslBreakPointResponse) -> Option<BoxFuture> {
        let number = {
            let mut inner = self.lock();
            if inner.gone {
                return None;
            }
            inner.stops += 1;
            inner.stop = Some(stop);
            inner.stops
        };
        self.changed.notify_waiters();
        let state = Arc::clone(self);
        Some(Box::pin(async move {
            let released = state.wait(|inner| (inner.gone || inner.released >= number).then_some(()));
            if tokio::time::timeout(STOP_MAX, released).await.is_err() {
                state.change(|inner| {
                    inner.stop = None;
                    inner.released = number;
                });
            }
            Ok(Value::None)
        }))
    }
}

/// Answers the debugger.
struct Answers(Arc<State>);

impl Handler for Answers {
    fn handle<'a>(&'a self, _peer: &'a Peer, request: Request) -> Answering<'a> {
        Box::pin(self.answer(request))
    }
}

impl Answers {
    async fn answer(&self, request: Request) -> Answer {
        match request.command {
            b'd' => {
                let wanted: HslBreakPointRequest = parse(&request.body)?;
                let mut inner = self.0.lock();
                let of_stage =
                    |hit: &HslBreakPointResponse| wanted.debugid.is_empty() || hit.debugid == wanted.debugid;
                let at = inner.hits.iter().position(of_stage);
                let hit = at.and_then(|at| inner.hits.remove(at));
                Ok(hit.as_ref().map_or_else(Bytes::new, payload))
            }
            b'e' => {
                let next = self.0.wait(|inner| match inner.stop.take() {
                    Some(stop) => Some(Ok(payload(&stop))),
                    None => inner.ended.then(|| Err("No breakpoint".to_owned())),
                });
                next.await
            }
            b'f' => {
                let mut standing = false;
                self.0.change(|inner| {
                    standing = inner.released < inner.stops;
                    inner.stop = None;
                    inner.released = inner.stops;
                });
                if standing { Ok(Bytes::new()) } else { Err("No breakpoint".to_owned()) }
            }
            _ => Err("Unknown command".to_owned()),
        }
    }
}

/// The connection to a debugger.
pub struct Debugger {
    state: Arc<State>,
    peer: Peer,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Debugger {
    /// Connects to the socket that the debugger listens on.
    ///
    /// # Errors
    /// It cannot be reached, as a message.
    pub fn connect(path: &Path) -> Result<Debugger, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let stream = runtime.block_on(tokio::net::UnixStream::connect(path)).map_err(failed)?;
        let conversation = Conversation::new(Box::new(stream));
        let peer = conversation.peer();
        let state = Arc::new(State::default());
        let answers = Answers(Arc::clone(&state));
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("debugger".into())
            .spawn(move || {
                // A debugger that goes away ends the conversation, broken connection or not.
                let _ = runtime.block_on(conversation.run(&answers, stopped));
                answers.0.change(|inner| inner.gone = true);
            })
            .map_err(failed)?;
        Ok(Debugger { state, peer, stop, thread: Some(thread) })
    }

    /// What tells the debugger of a script.
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(Watch(Arc::clone(&self.state)))
    }

    /// The end that output is copied to.
    pub fn output(&self) -> Output {
        Output(self.peer.clone())
    }

    /// Tells the debugger that the script has ended and closes the connection.
    pub fn close(mut self) {
        self.state.change(|inner| inner.ended = true);
        let Some(thread) = self.thread.take() else { return };
        // Time for the answer to a pending request.
        let began = std::time::Instant::now();
        let _ = self.stop.send(true);
        while !thread.is_finished() && began.elapsed() < CLOSE_MAX {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Copies of the output for the debugger.
pub struct Output(Peer);

impl Output {
    /// Sends what `echo` at `place` wrote. Without the debugger nobody misses it.
    pub fn echo(&self, text: &[u8], place: &Place) {
        let at = location(place);
        let location = hsl_log_response::Location {
            beginline: at.beginline,
            endline: at.endline,
            begincolumn: at.begincolumn,
            endcolumn: at.endcolumn,
            file: at.file,
        };
        let message = HslLogResponse { location: Some(location), text: text.to_vec(), id: String::new() };
        self.0.send_blocking(payload(&message));
    }
}

/// The observer of the script.
struct Watch(Arc<State>);

impl Observer for Watch {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        let PointKind::Debug { stage, point, log } = &at.point().kind else { return None };
        let mut hit = response(&at.place(), at.call_stack(), values(None, &at.variables()));
        hit.id = point.to_string();
        hit.debugid = stage.to_string();
        if *log {
            let mut inner = self.0.lock();
            if inner.hits.len() == HITS_MAX {
                inner.hits.pop_front();
            }
            inner.hits.push_back(hit);
            return None;
        }
        self.0.stop(hit)
    }

    fn thrown(&mut self, at: &Thrown<'_>) -> Option<BoxFuture> {
        let raised = Raised { value: at.value(), caught: at.caught() };
        let calls = at.call_stack();
        let place = calls.first().map(|(_, place)| place.clone())?;
        self.0.stop(response(&place, calls, values(Some(&raised), &at.variables())))
    }
}

fn response(place: &Place, calls: Vec<(String, Place)>, values: String) -> HslBreakPointResponse {
    let outermost_first = calls.into_iter().rev();
    HslBreakPointResponse {
        location: Some(location(place)),
        // Before 1970 is no time for a script to run.
        time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        values,
        callstack: outermost_first
            .map(|(function, place)| Callstack { function, location: Some(location(&place)) })
            .collect(),
        ..HslBreakPointResponse::default()
    }
}

/// The entry script is called `hsh`; the machine knows where a statement begins, so it ends there, too.
fn location(place: &Place) -> Location {
    let (line, column) = (u64::from(place.line), u64::from(place.column));
    Location {
        beginline: line,
        endline: line,
        begincolumn: column,
        endcolumn: column,
        file: place.file.as_deref().unwrap_or("hsh").to_owned(),
    }
}
