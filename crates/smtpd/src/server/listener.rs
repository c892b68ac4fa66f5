//! Listening sockets and the accept loops.

use crate::daemon::Daemon;
use crate::server::entry;
use crate::server::proxied::Trusted;
use crate::server::stream::Socket;
use crate::{error, info, privileges, warning};
use config::startup::{self, ProxyProtocol, ServerKind, Startup};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

/// What a connection needs to know of the listener that it came through.
pub struct Listener {
    /// `servers[].id`.
    pub server_id: String,
    /// What it speaks.
    pub kind: ServerKind,
    /// `listeners[].id`.
    pub id: Option<String>,
    /// `listeners[].tls.implicit`.
    pub implicit: bool,
    /// Who may send PROXY headers.
    pub trusted: Option<Trusted>,
}

/// The other end, as the system tells it.
pub enum Peer {
    /// At a port.
    Address(SocketAddr),
    /// At a path: the user.
    User(Option<u32>),
}

enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A bound socket of a server.
pub struct Listening {
    listener: Arc<Listener>,
    socket: Bound,
}

impl Listening {
    /// What it serves.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }
}

/// Binds all listeners of the startup file, logging each as the manual shows. `event_threads` is how many sockets a
/// listener with `reuseport` gets.
pub fn bind_all(startup: &Startup, event_threads: usize) -> Result<Vec<Listening>, String> {
    let mut bound = Vec::new();
    for (index, server) in startup.servers.iter().enumerate() {
        info!("", "serverid: {}", server.id);
        for (at, settings) in server.listeners.iter().enumerate() {
            let listener = Arc::new(Listener {
                server_id: server.id.clone(),
                kind: server.kind,
                id: settings.id.clone(),
                implicit: settings.tls.implicit,
                trusted: trusted(server, settings),
            });
            let copies = if settings.reuseport { event_threads } else { 1 };
            for socket in bind(settings, copies, &format!("/servers/{index}/listeners/{at}"))? {
                bound.push(Listening { listener: listener.clone(), socket });
            }
        }
    }
    Ok(bound)
}

fn trusted(server: &startup::Server, listener: &startup::Listener) -> Option<Trusted> {
    match &listener.proxyprotocol {
        Some(ProxyProtocol::All(true)) => Some(Trusted::All),
        Some(ProxyProtocol::All(false)) => None,
        Some(ProxyProtocol::From(networks)) => Some(Trusted::From(networks.clone())),
        None if server.proxyprotocol.is_empty() => None,
        None => Some(Trusted::From(server.proxyprotocol.clone())),
    }
}

fn bind(settings: &startup::Listener, copies: usize, pointer: &str) -> Result<Vec<Bound>, String> {
    if let Some(path) = &settings.path {
        let socket = bind_path(path, settings, pointer)?;
        info!("", "- listen on {}", path.display());
        return Ok(vec![Bound::Unix(socket)]);
    }
    let Some(port) = settings.port else { return Err(format!("{pointer}: needs 'port' or 'path'")) };
    let addresses: Vec<IpAddr> = match settings.address {
        Some(address) => vec![address],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    let both = addresses.len() > 1;
    let mut bound = Vec::new();
    for address in addresses {
        for copy in 0..copies.max(1) {
            match bind_port(SocketAddr::new(address, port), settings.backlog, copies > 1) {
                Ok(socket) => {
                    let port = socket.local_addr().map_or(port, |local| local.port());
                    if copy == 0 {
                        info!("", "- listen on {}:{port}", display(address));
                    }
                    bound.push(Bound::Tcp(socket));
                }
                // A host without IPv6 still has all of its addresses.
                Err(error) if both && address.is_ipv6() => {
                    warning!("", "- no listener on {}:{port}: {error}", display(address));
                    break;
                }
                Err(error) => return Err(format!("bind {}:{port}: {error}", display(address))),
            }
        }
    }
    Ok(bound)
}

fn display(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn bind_port(address: SocketAddr, backlog: Option<u32>, shared: bool) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog_of(backlog))?;
    Ok(socket.into())
}

/// What the system allows (`SOMAXCONN`), unless the configuration says less.
fn backlog_of(backlog: Option<u32>) -> i32 {
    backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(i32::MAX)
}

fn bind_path(
    path: &Path,
    settings: &startup::Listener,
    pointer: &str,
) -> Result<std::os::unix::net::UnixListener, String> {
    use socket2::{Domain, SockAddr, Socket, Type};
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: &dyn std::fmt::Display| format!("bind {}: {error}", path.display());
    crate::control::remove_stale(path).map_err(|error| format!("{pointer}/path: {error}"))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|error| failed(&error))?;
    socket.set_nonblocking(true).map_err(|error| failed(&error))?;
    let address = SockAddr::unix(path).map_err(|error| failed(&error))?;
    socket.bind(&address).map_err(|error| failed(&error))?;
    let owner = settings.owner.as_deref().map(|name| privileges::user_id(name, &format!("{pointer}/owner")));
    let group = settings.group.as_deref().map(|name| privileges::group_id(name, &format!("{pointer}/group")));
    nix::unistd::chown(path, owner.transpose()?, group.transpose()?).map_err(|error| failed(&error))?;
    if let Some(mode) = settings.chmod {
        let mode = std::fs::Permissions::from_mode(mode.0);
        std::fs::set_permissions(path, mode).map_err(|error| failed(&error))?;
    }
    socket.listen(backlog_of(settings.backlog)).map_err(|error| failed(&error))?;
    Ok(socket.into())
}

/// Accepts connections until the shutdown begins.
pub async fn accept(listening: Listening, daemon: Arc<Daemon>) {
    let Listening { listener, socket } = listening;
    let watched = match socket {
        Bound::Tcp(socket) => TcpListener::from_std(socket).map(Watched::Tcp),
        Bound::Unix(socket) => UnixListener::from_std(socket).map(Watched::Unix),
    };
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            error!("", "server {}: cannot watch the listener: {error}", listener.server_id);
            return;
        }
    };
    let mut shutdown = daemon.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = watched.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let daemon = daemon.clone();
                let listener = listener.clone();
                tokio::spawn(async move { entry::serve(socket, peer, &listener, daemon).await });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: wait for some to come back instead of spinning.
                warning!("", "server {}: accept pauses: {error}", listener.server_id);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Watched {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Watched::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Peer::Address(client)))
            }
            Watched::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // A client that is gone has no user any more.
                let uid = stream.peer_cred().ok().map(|user| user.uid());
                Ok((Socket::Unix(stream), Peer::User(uid)))
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
