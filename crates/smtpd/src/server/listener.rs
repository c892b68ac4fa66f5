//! Listening sockets and the accept loops.

use crate::daemon::Daemon;
use crate::server::session;
use crate::{error, info, warning};
use config::startup::Startup;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// A bound socket of a server.
pub struct Listening {
    /// `servers[].id`.
    pub server_id: String,
    socket: std::net::TcpListener,
}

/// Binds all listeners of the startup file, logging each as the manual shows.
pub fn bind_all(startup: &Startup) -> Result<Vec<Listening>, String> {
    let mut bound = Vec::new();
    for server in &startup.servers {
        info!("", "serverid: {}", server.id);
        for listener in &server.listeners {
            let addresses: Vec<IpAddr> = match listener.address {
                Some(address) => vec![address],
                None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            };
            let both = addresses.len() > 1;
            for address in addresses {
                let socket_address = SocketAddr::new(address, listener.port);
                match bind(socket_address, listener.backlog) {
                    Ok(socket) => {
                        let port = socket.local_addr().map_or(listener.port, |local| local.port());
                        info!("", "- listen on {}:{port}", display(address));
                        bound.push(Listening { server_id: server.id.clone(), socket });
                    }
                    // A host without IPv6 still has all of its addresses.
                    Err(error) if both && address.is_ipv6() => {
                        warning!("", "- no listener on {}:{}: {error}", display(address), listener.port);
                    }
                    Err(error) => {
                        return Err(format!("bind {}:{}: {error}", display(address), listener.port));
                    }
                }
            }
        }
    }
    Ok(bound)
}

fn display(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn bind(address: SocketAddr, backlog: Option<u32>) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let backlog = backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(4096);
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Accepts connections until the shutdown begins.
pub async fn accept(listening: Listening, daemon: Arc<Daemon>) {
    let Listening { server_id, socket } = listening;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            error!("", "server {server_id}: cannot watch the listener: {error}");
            return;
        }
    };
    let mut shutdown = daemon.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let daemon = daemon.clone();
                let server_id = server_id.clone();
                tokio::spawn(async move { session::serve(stream, client, &server_id, daemon).await });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: wait for some to come back instead of spinning.
                warning!("", "server {server_id}: accept pauses: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
