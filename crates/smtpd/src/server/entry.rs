//! The way of a connection into the server: PROXY header, place, implicit TLS; then the session of its protocol.

use crate::daemon::Daemon;
use crate::generation::VirtualServer;
use crate::server::facts::{Connection, Proxy};
use crate::server::listener::{Listener, Peer};
use crate::server::proxied::read_header;
use crate::server::session::Session;
use crate::server::stream::{Socket, Stream};
use crate::{debug, info};
use config::startup::ServerKind;
use smtp::Reply;
use smtp::reply::Enhanced;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What a Unix socket counts as.
const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Both ends of a connection, as a proxy or the system tells them.
struct Ends {
    client: SocketAddr,
    local: SocketAddr,
    proxy: Option<Proxy>,
    uid: Option<u32>,
}

/// Serves a connection to its end.
pub(super) async fn serve(mut socket: Socket, peer: Peer, listener: &Listener, daemon: Arc<Daemon>) {
    let current = daemon.generations.current();
    if current.servers.get(&listener.server_id).is_none_or(|server| server.kind != listener.kind) {
        return unavailable(&socket, listener.kind);
    }
    drop(current);
    let Some(ends) = ends(&mut socket, peer, listener).await else { return };
    let (generation, stage) = daemon.generations.select(ends.client.ip(), &listener.server_id);
    // A reload or a stage may know the server no more, or as another kind.
    let server = generation.servers.get(&listener.server_id).filter(|server| server.kind == listener.kind);
    let Some(server) = server.cloned() else { return unavailable(&socket, listener.kind) };
    let implicit = listener.kind == ServerKind::Https || listener.implicit || is_implicit(&server, listener);
    let client = ends.client.ip();
    let Some(place) = server.gate.enter(client, server.concurrency_total, server.concurrency_per_client)
    else {
        debug!("", "server {}: too many connections, {} refused", server.id, ends.client);
        // A client that expects TLS could not read it.
        if !implicit {
            let refusal = Reply::new(421, Some(Enhanced(4, 7, 0)), "Too many connections");
            refuse(&socket, listener.kind, &refusal);
        }
        return;
    };
    let mut connection = Connection {
        id: daemon.ids.next(),
        priority: 0.0,
        remote_ip: client.to_canonical().to_string(),
        remote_port: ends.client.port(),
        remote_ptr: None,
        remote_uid: ends.uid,
        local: SocketAddr::new(ends.local.ip().to_canonical(), ends.local.port()),
        server_id: server.id.clone(),
        stage_id: stage,
        proxy: ends.proxy,
        helo: None,
        tls: None,
        auth: None,
    };
    let stream = if implicit {
        let Some(tls) = server.tls.clone() else {
            // The configuration is checked, so only a listener that another file calls implicit comes here.
            info!(connection.id, "server {}: no certificate for implicit TLS", server.id);
            return;
        };
        match tls.accept(socket).await {
            Ok((stream, facts)) => {
                connection.tls = Some(Arc::new(facts));
                Stream::Tls(stream)
            }
            Err(failure) => {
                info!(connection.id, "{} from {}", failure.reason, connection.remote_ip);
                return;
            }
        }
    } else {
        Stream::Plain(socket)
    };
    debug!(connection.id, "connect from {} to server {}", ends.client, server.id);
    if listener.kind != ServerKind::Smtp {
        Box::pin(super::http::serve(daemon, generation.clone(), server, stream, connection)).await;
    } else {
        let mut session = Session::new(daemon, generation.clone(), server, stream, connection);
        session.run().await;
        session.finish(place).await;
    }
}

fn is_implicit(server: &VirtualServer, listener: &Listener) -> bool {
    server.tls_implicit.includes(listener.id.as_deref())
}

/// Who is at both ends; none where the connection cannot be served.
async fn ends(socket: &mut Socket, peer: Peer, listener: &Listener) -> Option<Ends> {
    let (stream, client) = match (socket, peer) {
        (Socket::Tcp(stream), Peer::Address(client)) => (stream, client),
        (_, Peer::User(uid)) => {
            return Some(Ends { client: NO_ADDRESS, local: NO_ADDRESS, proxy: None, uid });
        }
        (Socket::Unix(_), Peer::Address(_)) => return None,
    };
    // A client that is gone already is not worth a line.
    let local = stream.local_addr().and_then(|local| stream.set_nodelay(true).map(|()| local)).ok()?;
    if !listener.trusted.as_ref().is_some_and(|trusted| trusted.includes(client.ip())) {
        return Some(Ends { client, local, proxy: None, uid: None });
    }
    let header = match read_header(stream).await {
        Ok(header) => header,
        Err(error) => {
            info!("", "server {}: connection from proxy {client} closed: {error}", listener.server_id);
            return None;
        }
    };
    let (Some(source), Some(destination)) = (header.source, header.destination) else {
        return Some(Ends { client, local, proxy: None, uid: None });
    };
    let tlv = (!header.tlv.is_empty()).then(|| header.tlv.iter().map(|byte| format!("{byte:02x}")).collect());
    let proxy = Proxy { ip: client.ip().to_canonical().to_string(), tlv };
    Some(Ends { client: source, local: destination, proxy: Some(proxy), uid: None })
}

fn unavailable(socket: &Socket, kind: ServerKind) {
    let text = "Service not available, try again later";
    refuse(socket, kind, &Reply::new(421, Some(Enhanced(4, 3, 2)), text));
}

fn refuse(socket: &Socket, kind: ServerKind, refusal: &Reply) {
    if kind != ServerKind::Smtp {
        return;
    }
    let mut output = Vec::new();
    refusal.write(&mut output);
    // One try: a refused client is not worth waiting for, and it sees the connection close in any case.
    let _ = socket.raw().send(&output);
}
