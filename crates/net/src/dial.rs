//! Connecting from a chosen source address.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The source address is not ours: configuration.
    #[error("cannot bind source address {source_ip}: {error}")]
    Bind {
        /// The address asked for.
        source_ip: IpAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The peer or the way to it.
    #[error("connect to {remote}: {error}")]
    Connect {
        /// The peer.
        remote: SocketAddr,
        /// What the system says; `TimedOut` after the patience is used up.
        error: io::Error,
    },
}

/// Opens a TCP connection without Nagle's delay. With `nonlocal` the source need not be an address of this host.
pub async fn connect(
    remote: SocketAddr,
    source_ip: Option<IpAddr>,
    nonlocal: bool,
    patience: Duration,
) -> Result<TcpStream, DialError> {
    let failed = |error| DialError::Connect { remote, error };
    let domain = if remote.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    if let Some(source_ip) = source_ip {
        let free = match (nonlocal, remote) {
            (false, _) => Ok(()),
            (true, SocketAddr::V4(_)) => socket.set_freebind_v4(true),
            (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true),
        };
        let bound = free.and_then(|()| socket.bind(&SocketAddr::new(source_ip, 0).into()));
        bound.map_err(|error| DialError::Bind { source_ip, error })?;
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "timed out");
    let stream = match tokio::time::timeout(patience, socket.connect(remote)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => return Err(failed(timed_out())),
    };
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
