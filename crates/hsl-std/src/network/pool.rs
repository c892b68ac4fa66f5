//! Open connections that wait for the next request to the same place.

use super::connect::Connected;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a connection may wait.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that may wait for one place.
const PER_PLACE_MAX: usize = 8;
/// Connections that may wait in all.
const TOTAL_MAX: usize = 256;

/// A request body.
pub(super) enum Body {
    /// All of it.
    Whole(Option<Bytes>),
    /// Pieces from a script; `None` is the end, and a sender that is gone without it a failure.
    Stream(mpsc::Receiver<Option<Bytes>>, bool),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(_, true) => Poll::Ready(None),
            Body::Stream(pieces, ended) => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(None) => {
                    *ended = true;
                    None
                }
                None => Some(Err(io::Error::other("the script gave up"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None) | Body::Stream(_, true))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(..) => SizeHint::default(),
        }
    }
}

/// The sending half of a connection.
pub(super) enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Sender {
    /// Begins HTTP on a new connection.
    pub(super) async fn start(connected: Connected) -> hyper::Result<Sender> {
        if connected.http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(connected.io)
                .await?;
            // Its failures show at the requests.
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Sender::Two(sender));
        }
        let (sender, connection) = http1::handshake(connected.io).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Sender::One(sender))
    }

    /// Sends a request; the answer's head.
    pub(super) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Sender::One(sender) => sender.send_request(request).await,
            Sender::Two(sender) => sender.send_request(request).await,
        }
    }

    /// Whether requests are HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Sender::Two(_))
    }

    async fn usable(&mut self) -> bool {
        match self {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        }
    }
}

type Idle = HashMap<String, Vec<(Sender, Instant)>>;

static IDLE: LazyLock<Mutex<Idle>> = LazyLock::new(Mutex::default);

/// A connection to a place that still works.
pub(super) async fn take(place: &str) -> Option<Sender> {
    loop {
        let mut sender = {
            let mut idle = IDLE.lock();
            let list = idle.get_mut(place)?;
            list.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_MAX);
            match list.last() {
                // Many requests share a connection of HTTP/2.
                Some((Sender::Two(sender), _)) => Sender::Two(sender.clone()),
                Some(_) => list.pop()?.0,
                None => {
                    idle.remove(place);
                    return None;
                }
            }
        };
        if sender.usable().await {
            return Some(sender);
        }
    }
}

/// Keeps a connection whose answer has been read.
pub(super) fn give_back(place: &str, sender: Sender) {
    if sender.is_closed() {
        return;
    }
    let mut idle = IDLE.lock();
    if idle.values().map(Vec::len).sum::<usize>() >= TOTAL_MAX {
        idle.values_mut().for_each(|l| l.retain(|(s, since)| !s.is_closed() && since.elapsed() < IDLE_MAX));
        idle.retain(|_, list| !list.is_empty());
        if idle.values().map(Vec::len).sum::<usize>() >= TOTAL_MAX {
            return;
        }
    }
    let list = idle.entry(place.to_owned()).or_default();
    let shared = sender.is_http2() && list.iter().any(|(s, _)| s.is_http2());
    if list.len() < PER_PLACE_MAX && !shared {
        list.push((sender, Instant::now()));
    }
}
