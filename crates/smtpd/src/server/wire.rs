//! Reading and writing of one client connection, with time-outs. Nothing is buffered while a client is idle.

use smtp::server::Server;
use std::cell::RefCell;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a client may refuse to take our replies.
const WRITE_PATIENCE: Duration = Duration::from_secs(300);

/// What is read from a socket at once, octets.
const READ_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// One buffer per thread instead of one per connection keeps idle connections small.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// Why reading ended without bytes.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// Bytes were handed to the machine.
    Bytes,
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
    stream: &TcpStream,
    machine: &mut Server,
    deadline: Instant,
    until_shutdown: Option<&watch::Receiver<bool>>,
) -> ReadEnd {
    loop {
        match try_read(stream, machine) {
            Ok(0) => return ReadEnd::Closed,
            Ok(_) => return ReadEnd::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return ReadEnd::Error(error),
        }
        machine.relax();
        let readable = timeout_at(deadline, stream.readable());
        let ready = match until_shutdown {
            None => readable.await,
            Some(shutdown) => {
                let mut shutdown = shutdown.clone();
                tokio::select! {
                    biased;
                    ready = readable => ready,
                    _ = shutdown.wait_for(|stop| *stop) => return ReadEnd::Shutdown,
                }
            }
        };
        match ready {
            Err(_) => return ReadEnd::Timeout,
            Ok(Err(error)) => return ReadEnd::Error(error),
            Ok(Ok(())) => {}
        }
    }
}

fn try_read(stream: &TcpStream, machine: &mut Server) -> io::Result<usize> {
    BUFFER.with_borrow_mut(|buffer| {
        let count = stream.try_read(buffer)?;
        machine.feed(&buffer[..count]);
        Ok(count)
    })
}

/// True when the client has sent something already (it did not wait for the greeting).
pub(super) async fn has_spoken(stream: &TcpStream) -> bool {
    let mut byte = [0u8; 1];
    // A peek that would wait says nothing came.
    matches!(tokio::time::timeout(Duration::ZERO, stream.peek(&mut byte)).await, Ok(Ok(count)) if count > 0)
}

/// Writes everything; a client that does not take it in time is an error.
pub(super) async fn write(stream: &TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let mut deadline = None;
    while written < output.len() {
        match stream.try_write(&output[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + WRITE_PATIENCE);
                timeout_at(deadline, stream.writable())
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "client does not read"))??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    output.clear();
    if output.capacity() > 4096 {
        *output = Vec::new();
    }
    Ok(())
}
