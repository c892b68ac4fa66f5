//! Reading and writing of one client connection, with time-outs. Nothing is buffered while a client is idle.

use crate::server::stream::Stream;
use smtp::server::Server;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a client may refuse to take our replies.
const WRITE_PATIENCE: Duration = Duration::from_secs(300);

/// How long the rest of a client's input is read after the last reply, so that the reply is not lost to a
/// reset.
const LINGER: Duration = Duration::from_secs(2);

/// What is read from a socket at once, octets.
const READ_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// One buffer per thread instead of one per connection keeps idle connections small.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// Why reading ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// So many bytes were handed to the machine.
    Bytes(usize),
    /// The client closed its side.
    Closed,
    /// The deadline passed.
    Timeout,
    /// The daemon is stopping.
    Shutdown,
    /// The socket broke.
    Error(io::Error),
}

/// Waits for bytes and feeds them to the machine. With `until_shutdown` the wait ends when the daemon stops.
pub(super) async fn read(
    stream: &mut Stream,
    machine: &mut Server,
    deadline: Instant,
    until_shutdown: Option<&watch::Receiver<bool>>,
) -> ReadEnd {
    let bytes = poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {
                    machine.feed(buffer.filled());
                    Poll::Ready(Ok(buffer.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => {
                    machine.relax();
                    Poll::Pending
                }
            }
        })
    });
    let bytes = timeout_at(deadline, bytes);
    let read = match until_shutdown {
        None => bytes.await,
        Some(shutdown) => {
            let mut shutdown = shutdown.clone();
            tokio::select! {
                biased;
                read = bytes => read,
                _ = shutdown.wait_for(|stop| *stop) => return ReadEnd::Shutdown,
            }
        }
    };
    match read {
        Err(_) => ReadEnd::Timeout,
        Ok(Err(error)) => ReadEnd::Error(error),
        Ok(Ok(0)) => ReadEnd::Closed,
        Ok(Ok(count)) => ReadEnd::Bytes(count),
    }
}

/// Writes everything; a client that does not take it in time is an error.
pub(super) async fn write(stream: &mut Stream, output: &mut Vec<u8>) -> io::Result<()> {
    write_within(stream, output, WRITE_PATIENCE).await
}

async fn write_within(stream: &mut Stream, output: &mut Vec<u8>, patience: Duration) -> io::Result<()> {
    let mut written = 0;
    let writing = poll_fn(|cx| {
        while written < output.len() {
            match Pin::new(&mut *stream).poll_write(cx, &output[written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut *stream).poll_flush(cx)
    });
    timeout(patience, writing)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "client does not read"))??;
    output.clear();
    if output.capacity() > 4096 {
        *output = Vec::new();
    }
    Ok(())
}

/// Ends our side. Where the client had sent more than was read, a plain close would reset the connection and
/// take the last reply with it.
pub(super) async fn close(stream: &mut Stream, unread: bool) {
    // A client that is gone cannot be told.
    let _ = timeout(LINGER, stream.shutdown()).await;
    let Some(socket) = stream.socket() else { return };
    let _ = socket.raw().shutdown(std::net::Shutdown::Write);
    if !unread {
        return;
    }
    let drained = poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut scrap = ReadBuf::new(buffer);
                let end = match &mut *stream {
                    // What is encrypted need not be deciphered to be thrown away.
                    Stream::Tls(tls) => Pin::new(tls.get_mut()).poll_read(cx, &mut scrap),
                    plain => Pin::new(plain).poll_read(cx, &mut scrap),
                };
                match end {
                    Poll::Ready(Ok(())) if !scrap.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
    });
    // A client that talks on is cut off at the end of the time.
    let _ = timeout(LINGER, drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stream::Socket;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        assert_eq!(WRITE_PATIENCE.as_secs(), 5 * 60);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Stream::Plain(Socket::Tcp(stream));
        let mut output = vec![b'x'; 64 << 20];
        let failure = write_within(&mut stream, &mut output, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        assert!(!output.is_empty());
    }
}
