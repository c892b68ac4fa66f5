//! The server side: accepts, reads requests, asks a [`Handler`], writes replies.
//!
//! Each connection has its own task and serves one request at a time, in order. Interim frames may go out at any
//! time, also between requests. There is no idle timeout; access is decided by the permissions of the socket.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::client::Stream;
use crate::commands;
use crate::error::ControlError;
use crate::frame::{Reply, Request, RequestDecoder, Status};

/// Connections served at once; further ones are closed.
pub const CONNECTIONS_MAX: usize = 64;
/// Interim frames waiting for a slow client; a handler that sends more waits.
const INTERIM_FRAMES_MAX: usize = 256;
/// Bytes of further requests read while one is being served.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// The answer to a request: payload of the `+` frame, or the text of the `E` frame.
pub type Answer = Result<Bytes, String>;

/// A future of a handler.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// One client connection, for handlers.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Number of the connection, unique in the process.
    pub connection: u64,
    interim: mpsc::Sender<Bytes>,
}

impl Peer {
    /// Sends an interim frame; false when the client has gone.
    pub async fn send(&self, payload: Bytes) -> bool {
        self.interim.send(payload).await.is_ok()
    }

    /// Sends an interim frame from a thread that runs no tasks; false when the client has gone.
    pub fn send_blocking(&self, payload: Bytes) -> bool {
        self.interim.blocking_send(payload).is_ok()
    }

    /// Sends an interim frame unless the client is gone or too slow (false).
    pub fn try_send(&self, payload: Bytes) -> bool {
        self.interim.try_send(payload).is_ok()
    }
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client leaves during an open-ended command
    /// ([`commands::Command::is_open_ended`]).
    fn handle<'a>(&'a self, peer: &'a Peer, request: Request) -> Answering<'a>;

    /// The connection has ended, for whatever is bound to it.
    fn closed(&self, _connection: u64) {}
}

/// Reads a request message, with the answer the protocol has for nonsense.
pub fn parse<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|_| "Invalid request".to_owned())
}

/// The payload of a reply message.
pub fn payload<M: Message>(message: &M) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// Something to accept from.
pub trait Listener: Send + 'static {
    /// The next connection.
    fn accept(&self) -> impl Future<Output = std::io::Result<Box<dyn Stream>>> + Send;
}

impl Listener for UnixListener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(UnixListener::accept(self).await?.0))
    }
}

impl Listener for TcpListener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// Binds a Unix socket with these permissions (like 0o660). A socket left behind by a process that is gone is
/// replaced; one that answers, and anything that is no socket, is an error.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, ControlError> {
    let fail = |source| ControlError::Socket { path: path.to_owned(), source };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(fail(std::io::Error::other("there is a file that is no socket")));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(fail(std::io::Error::from(std::io::ErrorKind::AddrInUse)));
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    Ok(listener)
}

/// The connections of a process: their limit is shared by all its listeners.
#[derive(Clone)]
pub struct Server {
    handler: Arc<dyn Handler>,
    places: Arc<Semaphore>,
    last: Arc<AtomicU64>,
}

impl Server {
    /// A server that asks `handler`.
    pub fn new(handler: Arc<dyn Handler>) -> Server {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Server { handler, places, last: Arc::new(AtomicU64::new(0)) }
    }

    /// Accepts until `stop` becomes true (or its sender goes); connections end with the request in hand.
    pub async fn serve(&self, listener: impl Listener, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stop) => return,
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = accepted else {
                // Out of descriptors, most likely: others must close theirs first.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = self.places.clone().try_acquire_owned() else { continue };
            let server = self.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let connection = server.last.fetch_add(1, Ordering::Relaxed) + 1;
                let handler = Closing { handler: server.handler, connection };
                // A broken connection is the client's business and ends here.
                let _ = Connection::new(stream, connection).run(&*handler.handler, stop).await;
                drop(place);
            });
        }
    }
}

/// Tells the handler about the end, also when the task dies.
struct Closing {
    handler: Arc<dyn Handler>,
    connection: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.handler.closed(self.connection);
    }
}

/// A connection that was made by this side, which answers requests all the same: the debugger of `hsh` (control plane
/// 7.4).
pub struct Conversation(Connection);

impl Conversation {
    /// Takes over `stream`.
    pub fn new(stream: Box<dyn Stream>) -> Conversation {
        Conversation(Connection::new(stream, 0))
    }

    /// The other end, for interim frames.
    pub fn peer(&self) -> Peer {
        self.0.peer.clone()
    }

    /// Answers requests until the other end closes or `stop` becomes true; interim frames sent before go out first.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn run(self, handler: &dyn Handler, stop: watch::Receiver<bool>) -> Result<(), ControlError> {
        self.0.run(handler, stop).await
    }
}

/// Accepts on one listener; see [`Server`] for several.
pub async fn serve(listener: impl Listener, handler: Arc<dyn Handler>, stop: watch::Receiver<bool>) {
    Server::new(handler).serve(listener, stop).await;
}

/// Resolves when the server is to stop. The watch's guard must not live across an await.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|&stop| stop).await.map(|_guard| ()));
}

struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
    peer: Peer,
    interim: mpsc::Receiver<Bytes>,
    /// The client will send no more.
    ended: bool,
}

impl Connection {
    fn new(stream: Box<dyn Stream>, connection: u64) -> Connection {
        let (sender, interim) = mpsc::channel(INTERIM_FRAMES_MAX);
        Connection {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            peer: Peer { connection, interim: sender },
            interim,
            ended: false,
        }
    }

    async fn run(
        mut self,
        handler: &dyn Handler,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ControlError> {
        let mut decoder = RequestDecoder::new();
        loop {
            match decoder.decode(&mut self.input) {
                Ok(Some(request)) => {
                    self.answer(handler, request).await?;
                    continue;
                }
                Ok(None) if self.ended => return Ok(()),
                Ok(None) => {}
                Err(error) => {
                    self.reply(Status::Error, Bytes::from(error.to_string())).await?;
                    return Ok(());
                }
            }
            tokio::select! {
                () = stopped(&mut stop) => {
                    while let Ok(payload) = self.interim.try_recv() {
                        self.reply(Status::Interim, payload).await?;
                    }
                    return Ok(());
                }
                read = self.stream.read_buf(&mut self.input) => self.ended = read? == 0,
                Some(payload) = self.interim.recv() => self.reply(Status::Interim, payload).await?,
            }
        }
    }

    async fn answer(&mut self, handler: &dyn Handler, request: Request) -> Result<(), ControlError> {
        let open_ended = commands::find(request.command).is_some_and(|command| command.is_open_ended());
        let peer = self.peer.clone();
        let mut answering = handler.handle(&peer, request);
        let answer = loop {
            let may_read = !self.ended && self.input.len() < READ_AHEAD_BYTES_MAX;
            tokio::select! {
                biased;
                Some(payload) = self.interim.recv() => self.reply(Status::Interim, payload).await?,
                answer = &mut answering => break answer,
                read = self.stream.read_buf(&mut self.input), if may_read => {
                    self.ended = read? == 0;
                    if self.ended && open_ended {
                        return Ok(());
                    }
                }
            }
        };
        drop(answering);
        // Frames sent before the answer go before it.
        while let Ok(payload) = self.interim.try_recv() {
            self.reply(Status::Interim, payload).await?;
        }
        match answer {
            Ok(payload) => self.reply(Status::Done, payload).await,
            Err(text) => self.reply(Status::Error, Bytes::from(text.replace(['\r', '\n'], " "))).await,
        }
    }

    async fn reply(&mut self, status: Status, payload: Bytes) -> Result<(), ControlError> {
        self.output.clear();
        Reply { status, payload }.encode(&mut self.output);
        self.stream.write_all(&self.output).await?;
        Ok(())
    }
}
