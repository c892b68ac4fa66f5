//! Break points, logpoints and exceptions between running scripts and the connection of a debugger (control plane 7).
//!
//! A [`Debugger`] is shared by executions, which have its [`observer`](Debugger::observer), and by whoever answers the
//! debugger's requests: [`next_stop`](Debugger::next_stop) for `e`, [`go_on`](Debugger::go_on) for `f` and
//! [`take_hit`](Debugger::take_hit) for `d`. Executions that stop stand in line: the debugger sees one at a time. They
//! wait as any script waits, without a thread.

use control::smtpd::hsl_break_point_response::{Callstack, Location};
use control::smtpd::{HslBreakPointResponse, HslLogResponse, hsl_log_response};
use hsl::{BoxFuture, Observer, Place, PointKind, Reached, Thrown, Value};
use hsl_std::debug::{Raised, values};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Hits of logpoints that are kept; older ones go.
const HITS_MAX: usize = 10_000;
/// How long a script stands still when the debugger says nothing.
const STOP_MAX: Duration = Duration::from_secs(300);

/// What scripts and connection share.
#[derive(Default)]
pub struct Debugger {
    inner: Mutex<Inner>,
    /// Something changed in it.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    hits: VecDeque<HslBreakPointResponse>,
    /// Who stands still, the first in line first.
    stops: VecDeque<Stop>,
    /// Number of the last stop.
    last: u64,
    /// What a pending request is told when there is no debugging any more.
    over: Option<&'static str>,
}

struct Stop {
    number: u64,
    hit: HslBreakPointResponse,
    is_shown: bool,
}

/// Which execution is observed.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The message that it is about, or empty.
    pub transactionid: String,
    /// The connection that it belongs to, or empty.
    pub connectionid: String,
    /// Path of the entry script as the compiler knows it; none for one without a path.
    pub path: Option<String>,
    /// What the debugger calls the entry script.
    pub name: String,
}

impl Debugger {
    /// For any number of executions.
    pub fn new() -> Arc<Debugger> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
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

    /// What tells the debugger of an execution; of exceptions only with `exceptions`.
    pub fn observer(self: &Arc<Self>, about: About, exceptions: bool) -> Box<dyn Observer> {
        Box::new(Watch { debugger: Arc::clone(self), about, exceptions })
    }

    /// Waits for the next stop that the debugger has not seen.
    ///
    /// # Errors
    /// Debugging is over; the text for the debugger.
    pub async fn next_stop(&self) -> Result<HslBreakPointResponse, &'static str> {
        self.wait(|inner| match inner.stops.front_mut() {
            Some(stop) if !stop.is_shown => {
                stop.is_shown = true;
                Some(Ok(stop.hit.clone()))
            }
            _ => inner.over.map(Err),
        })
        .await
    }

    /// Lets the first in line go on; false when nobody stands still.
    pub fn go_on(&self) -> bool {
        self.change(|inner| inner.stops.pop_front().is_some())
    }

    /// The oldest hit of a logpoint, of any stage when `debugid` is empty; it is forgotten.
    pub fn take_hit(&self, debugid: &str) -> Option<HslBreakPointResponse> {
        let mut inner = self.lock();
        let at = inner.hits.iter().position(|hit| debugid.is_empty() || hit.debugid == debugid)?;
        inner.hits.remove(at)
    }

    /// Keeps the hit of a logpoint.
    fn keep(&self, hit: HslBreakPointResponse) {
        let mut inner = self.lock();
        if inner.hits.len() == HITS_MAX {
            inner.hits.pop_front();
        }
        inner.hits.push_back(hit);
    }

    /// Lets everybody go on and stops nobody any more; pending requests are told `text`.
    pub fn end(&self, text: &'static str) {
        self.change(|inner| {
            inner.over.get_or_insert(text);
            inner.stops.clear();
        });
    }

    /// Tells a debugger that waits that nothing more will come; who stands still stays.
    pub fn finish(&self, text: &'static str) {
        self.change(|inner| {
            inner.over.get_or_insert(text);
        });
    }

    /// Has an execution stand still at `hit`.
    fn stop(self: &Arc<Self>, hit: HslBreakPointResponse) -> Option<BoxFuture> {
        let number = self.change(|inner| {
            if inner.over.is_some() {
                return None;
            }
            inner.last += 1;
            inner.stops.push_back(Stop { number: inner.last, hit, is_shown: false });
            Some(inner.last)
        })?;
        let standing = Standing { debugger: Arc::clone(self), number };
        Some(Box::pin(async move {
            let released = standing.debugger.wait(|inner| (!inner.has(number)).then_some(()));
            // Nobody answered for so long that the script goes on by itself; its place in the line goes with it.
            let _ = tokio::time::timeout(STOP_MAX, released).await;
            drop(standing);
            Ok(Value::None)
        }))
    }
}

impl Inner {
    fn has(&self, number: u64) -> bool {
        self.stops.iter().any(|stop| stop.number == number)
    }
}

/// A place in the line, given up when the execution goes on or is dropped.
struct Standing {
    debugger: Arc<Debugger>,
    number: u64,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.debugger.change(|inner| inner.stops.retain(|stop| stop.number != self.number));
    }
}

/// The observer of an execution.
struct Watch {
    debugger: Arc<Debugger>,
    about: About,
    exceptions: bool,
}

impl Observer for Watch {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        let PointKind::Debug { stage, point, log } = &at.point().kind else { return None };
        let mut hit = self.response(&at.place(), at.call_stack(), values(None, &at.variables()));
        hit.id = point.to_string();
        hit.debugid = stage.to_string();
        if *log {
            self.debugger.keep(hit);
            return None;
        }
        self.debugger.stop(hit)
    }

    fn thrown(&mut self, at: &Thrown<'_>) -> Option<BoxFuture> {
        if !self.exceptions {
            return None;
        }
        let raised = Raised { value: at.value(), caught: at.caught() };
        let calls = at.call_stack();
        let place = calls.first().map(|(_, place)| place.clone())?;
        self.debugger.stop(self.response(&place, calls, values(Some(&raised), &at.variables())))
    }
}

impl Watch {
    fn response(&self, place: &Place, calls: Vec<(String, Place)>, values: String) -> HslBreakPointResponse {
        let outermost_first = calls.into_iter().rev();
        HslBreakPointResponse {
            location: Some(self.about.location(place)),
            // Before 1970 is no time for a script to run.
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            values,
            callstack: outermost_first
                .map(|(function, place)| Callstack { function, location: Some(self.about.location(&place)) })
                .collect(),
            transactionid: self.about.transactionid.clone(),
            connectionid: self.about.connectionid.clone(),
            ..HslBreakPointResponse::default()
        }
    }
}

impl About {
    /// The machine knows where a statement begins, so it ends there, too.
    fn location(&self, place: &Place) -> Location {
        let (line, column) = (u64::from(place.line), u64::from(place.column));
        let file = match place.file.as_deref() {
            Some(file) if self.path.as_deref() != Some(file) => file,
            _ => &self.name,
        };
        Location {
            beginline: line,
            endline: line,
            begincolumn: column,
            endcolumn: column,
            file: file.to_owned(),
        }
    }

    /// The interim message for what `echo` at `place` wrote.
    pub fn log(&self, text: &[u8], place: &Place) -> HslLogResponse {
        let at = self.location(place);
        let location = hsl_log_response::Location {
            beginline: at.beginline,
            endline: at.endline,
            begincolumn: at.begincolumn,
            endcolumn: at.endcolumn,
            file: at.file,
        };
        let id = if self.transactionid.is_empty() { &self.connectionid } else { &self.transactionid };
        HslLogResponse { location: Some(location), text: text.to_vec(), id: id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: &str) -> HslBreakPointResponse {
        HslBreakPointResponse { id: id.into(), ..HslBreakPointResponse::default() }
    }

    async fn shown(debugger: &Debugger) -> String {
        debugger.next_stop().await.unwrap().id
    }

    #[tokio::test]
    async fn executions_stand_in_line() {
        let debugger = Debugger::new();
        assert!(!debugger.go_on(), "nobody is there");
        let stand = |id: &str| tokio::spawn(debugger.stop(hit(id)).unwrap());
        let (first, second) = (stand("1"), stand("2"));
        assert_eq!(shown(&debugger).await, "1");
        let next = tokio::time::timeout(Duration::from_millis(20), debugger.next_stop()).await;
        assert!(next.is_err(), "one at a time");
        assert!(!first.is_finished() && !second.is_finished());
        assert!(debugger.go_on());
        first.await.unwrap().unwrap();
        assert_eq!(shown(&debugger).await, "2");
        // An execution that goes away gives its place up.
        second.abort();
        assert!(second.await.is_err_and(|e| e.is_cancelled()));
        assert!(!debugger.go_on());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stands_for_ever() {
        let debugger = Debugger::new();
        let standing = tokio::spawn(debugger.stop(hit("1")).unwrap());
        tokio::time::sleep(STOP_MAX - Duration::from_secs(1)).await;
        assert!(!standing.is_finished());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(standing.is_finished() && !debugger.go_on());
    }

    #[tokio::test]
    async fn the_end_releases_all() {
        let debugger = Debugger::new();
        let standing: Vec<_> = ["1", "2"].map(|id| tokio::spawn(debugger.stop(hit(id)).unwrap())).into();
        assert_eq!(shown(&debugger).await, "1");
        let waiting = tokio::spawn({
            let debugger = Arc::clone(&debugger);
            async move { debugger.next_stop().await.map(|hit| hit.id) }
        });
        tokio::task::yield_now().await;
        debugger.end("Aborted");
        for one in standing {
            one.await.unwrap().unwrap();
        }
        assert_eq!(waiting.await.unwrap(), Err("Aborted"));
        assert!(debugger.stop(hit("3")).is_none());
    }

    #[test]
    fn the_newest_hits_are_kept() {
        let debugger = Debugger::new();
        for n in 0..HITS_MAX + 2 {
            debugger.keep(HslBreakPointResponse { debugid: format!("{}", n % 2), ..hit(&n.to_string()) });
        }
        assert_eq!(debugger.take_hit("").map(|hit| hit.id).as_deref(), Some("2"));
        assert_eq!(debugger.take_hit("1").map(|hit| hit.id).as_deref(), Some("3"));
        assert_eq!(debugger.take_hit("other"), None);
    }
}
