//! `hsh -C`: break points and exceptions of a script, for a debugger that listens on a Unix socket (control plane 7.4).
//!
//! The connection has a thread of its own, so that it answers while the script is busy. Only the protocol's `d`, `e` and
//! `f` are known here; the messages are those of `smtpd` with the same numbers.

use bytes::Bytes;
use control::frame::Request;
use control::server::{Answer, Answering, Conversation, Handler, Peer, parse, payload};
use control::smtpd::HslBreakPointRequest;
use debugger::{About, Debugger};
use hsl::{Observer, Place};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the debugger may take to read what is left when the script has ended.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Answers the debugger.
struct Answers(Arc<Debugger>);

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
                let hit = self.0.take_hit(&wanted.debugid);
                Ok(hit.as_ref().map_or_else(Bytes::new, payload))
            }
            b'e' => self.0.next_stop().await.map(|hit| payload(&hit)).map_err(str::to_owned),
            b'f' if self.0.go_on() => Ok(Bytes::new()),
            b'f' => Err("No breakpoint".to_owned()),
            _ => Err("Unknown command".to_owned()),
        }
    }
}

/// The connection to a debugger.
pub struct Connection {
    debugger: Arc<Debugger>,
    peer: Peer,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Connection {
    /// Connects to the socket that the debugger listens on.
    ///
    /// # Errors
    /// It cannot be reached, as a message.
    pub fn connect(path: &Path) -> Result<Connection, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let stream = runtime.block_on(tokio::net::UnixStream::connect(path)).map_err(failed)?;
        let conversation = Conversation::new(Box::new(stream));
        let peer = conversation.peer();
        let debugger = Debugger::new();
        let answers = Answers(Arc::clone(&debugger));
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("debugger".into())
            .spawn(move || {
                // A debugger that goes away ends the conversation, broken connection or not.
                let _ = runtime.block_on(conversation.run(&answers, stopped));
                answers.0.end("Aborted");
            })
            .map_err(failed)?;
        Ok(Connection { debugger, peer, stop, thread: Some(thread) })
    }

    /// What tells the debugger of a script.
    pub fn observer(&self) -> Box<dyn Observer> {
        self.debugger.observer(about(), true)
    }

    /// The end that output is copied to.
    pub fn output(&self) -> Output {
        Output(self.peer.clone())
    }

    /// Tells the debugger that the script has ended and closes the connection.
    pub fn close(mut self) {
        self.debugger.finish("No breakpoint");
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
        self.0.send_blocking(payload(&about().log(text, place)));
    }
}

/// The entry script is called `hsh`.
fn about() -> About {
    About { name: "hsh".to_owned(), ..About::default() }
}
