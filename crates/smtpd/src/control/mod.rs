//! The control socket: where operators look and act. Requests are answered by [`handler`].

pub mod admin;
pub mod convert;
mod explain;
mod handler;
mod hsl_ops;
mod import;
mod policy_ops;
mod queue_ops;
mod resolver_ops;
mod stage_ops;
mod stats;

use crate::daemon::Daemon;
use crate::{info, privileges, warning};
use config::Startup;
use control::server::Server;
use nix::unistd::chown;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// A bound control socket.
pub enum Bound {
    /// At a path.
    Unix(std::os::unix::net::UnixListener),
    /// At a port.
    Tcp(std::net::TcpListener),
}

/// Binds the control socket of the startup file.
pub fn bind(startup: &Startup) -> Result<Bound, String> {
    let socket = &startup.environment.controlsocket;
    if let Some(port) = socket.port {
        let address = SocketAddr::new(socket.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port);
        if !address.ip().is_loopback() {
            warning!("", "the control socket on {address} is open to everybody who can reach it");
        }
        let listener = std::net::TcpListener::bind(address)
            .map_err(|error| format!("control socket {address}: {error}"))?;
        listener.set_nonblocking(true).map_err(|error| format!("control socket {address}: {error}"))?;
        return Ok(Bound::Tcp(listener));
    }
    let path = startup.control_path();
    let failed = |error: &dyn std::fmt::Display| format!("control socket {}: {error}", path.display());
    remove_stale(&path).map_err(|error| failed(&error))?;
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(|error| failed(&error))?;
    listener.set_nonblocking(true).map_err(|error| failed(&error))?;
    let owner =
        socket.owner.as_deref().map(|name| privileges::user_id(name, "/environment/controlsocket/owner"));
    let group =
        socket.group.as_deref().map(|name| privileges::group_id(name, "/environment/controlsocket/group"));
    chown(&path, owner.transpose()?, group.transpose()?).map_err(|error| failed(&error))?;
    let mode = socket.chmod.map_or(0o660, |mode| mode.0);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(|error| failed(&error))?;
    Ok(Bound::Unix(listener))
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Removes the socket of a process that is gone; a live one is another daemon's and stays.
pub(crate) fn remove_stale(path: &Path) -> Result<(), String> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err("another process answers there".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => Err(error.to_string()),
        Err(_) if !is_socket(path) => Err("a file that is no socket is there".to_owned()),
        Err(_) => std::fs::remove_file(path).map_err(|error| error.to_string()),
    }
}

/// Serves requests until the daemon stops.
pub fn serve(bound: Bound, daemon: Arc<Daemon>) {
    let stop = daemon.shutdown.clone();
    let server = Server::new(Arc::new(handler::Commands::new(daemon)));
    tokio::spawn(async move {
        match bound {
            Bound::Unix(listener) => match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => server.serve(listener, stop).await,
                Err(error) => warning!("", "control socket: {error}"),
            },
            Bound::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => server.serve(listener, stop).await,
                Err(error) => warning!("", "control socket: {error}"),
            },
        }
        info!("", "control socket closed");
    });
}
