//! The byte streams of clients: TCP or Unix, plain or encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// From a port.
    Tcp(TcpStream),
    /// From a path.
    Unix(UnixStream),
}

impl Socket {
    /// The socket for calls below tokio.
    pub fn raw(&self) -> socket2::SockRef<'_> {
        match self {
            Socket::Tcp(stream) => stream.into(),
            Socket::Unix(stream) => stream.into(),
        }
    }

    /// True when bytes wait in the system.
    pub fn has_bytes(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        // The socket does not block; an error is found again by whoever reads.
        self.raw().peek(&mut byte).is_ok_and(|count| count > 0)
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// What a session reads and writes.
#[derive(Debug)]
pub enum Stream {
    /// Not encrypted.
    Plain(Socket),
    /// TLS.
    Tls(Box<SslStream<Socket>>),
    /// Given up in a handshake that failed.
    Gone,
}

impl Stream {
    /// Takes the plain socket out, to start TLS on it.
    pub fn take_plain(&mut self) -> Option<Socket> {
        match std::mem::replace(self, Stream::Gone) {
            Stream::Plain(socket) => Some(socket),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The socket below.
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(stream) => Some(stream.get_ref()),
            Stream::Gone => None,
        }
    }

    /// True when the client has said something that was not read yet. In TLS only decrypted bytes count.
    pub async fn has_spoken(&mut self) -> bool {
        match self {
            Stream::Plain(socket) => socket.has_bytes(),
            Stream::Tls(stream) => {
                let mut byte = [0u8; 1];
                let peeked = std::future::poll_fn(|cx| {
                    Poll::Ready(match Pin::new(&mut **stream).poll_peek(cx, &mut byte) {
                        Poll::Ready(Ok(count)) => count > 0,
                        Poll::Ready(Err(_)) | Poll::Pending => false,
                    })
                });
                peeked.await
            }
            Stream::Gone => false,
        }
    }
}

macro_rules! each_layer {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Tls(boxed) => {
                let $stream = &mut **boxed;
                $call
            }
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_layer!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each_layer!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_layer!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_layer!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
