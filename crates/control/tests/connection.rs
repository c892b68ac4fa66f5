//! Client and server over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use control::frame::{Request, Status};
use control::server::{Answering, CONNECTIONS_MAX, Handler, Peer, Server, parse, payload};
use control::smtpd::{QueueQuotaRequest, QueueQuotaResponse, VersionResponse};
use control::{Client, ControlError, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

#[derive(Default)]
struct Daemon {
    closed: AtomicU64,
}

impl Handler for Daemon {
    fn handle<'a>(&'a self, peer: &'a Peer, request: Request) -> Answering<'a> {
        Box::pin(async move {
            match request.command {
                b'X' => Ok(payload(&VersionResponse { major: 6, minor: 9, patch: 1 })),
                b'I' => {
                    let request: QueueQuotaRequest = parse(&request.body)?;
                    let count = request.quota.len() as u64;
                    Ok(payload(&QueueQuotaResponse { count, bytes: 0 }))
                }
                b'W' => {
                    peer.send(Bytes::from_static(b"one")).await;
                    peer.send(Bytes::from_static(b"two")).await;
                    Ok(Bytes::from_static(b"message"))
                }
                b'V' => {
                    // Never ends by itself.
                    std::future::pending::<()>().await;
                    Ok(Bytes::new())
                }
                b'b' => {
                    let peer = peer.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        peer.send(Bytes::from_static(b"news")).await;
                    });
                    Ok(Bytes::new())
                }
                _ => Err("two\nlines".to_owned()),
            }
        })
    }

    fn closed(&self, _connection: u64) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

struct Running {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    daemon: Arc<Daemon>,
    stop: watch::Sender<bool>,
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("smtpd.ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = Arc::new(Daemon::default());
    let server = Server::new(daemon.clone());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move { server.serve(listener, stopped).await });
    Running { _dir: dir, path, daemon, stop }
}

async fn client(running: &Running) -> Client {
    let endpoint = Endpoint::Unix(running.path.clone());
    Client::connect(&endpoint, Some(Duration::from_secs(5))).await.unwrap()
}

#[tokio::test]
async fn requests_in_order_on_one_connection() {
    let running = start();
    let mut client = client(&running).await;
    let version: VersionResponse = client.fetch(b'X').await.unwrap();
    assert_eq!((version.major, version.minor), (6, 9));
    let request = QueueQuotaRequest { quota: "abc".into() };
    let quota: QueueQuotaResponse = client.request(b'I', &request).await.unwrap();
    assert_eq!(quota.count, 3);
    let error = client.call(b'r', None).await.unwrap_err();
    assert!(matches!(&error, ControlError::Server(text) if text == "two lines"), "{error}");
    // The connection is still good.
    client.fetch::<VersionResponse>(b'X').await.unwrap();
}

#[tokio::test]
async fn interim_frames_come_before_the_answer_and_between_requests() {
    let running = start();
    let mut client = client(&running).await;
    client.send(b'W', Some(&[])).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let reply = client.receive().await.unwrap();
        seen.push((reply.status, reply.payload));
    }
    let expected = [
        (Status::Interim, Bytes::from_static(b"one")),
        (Status::Interim, Bytes::from_static(b"two")),
        (Status::Done, Bytes::from_static(b"message")),
    ];
    assert_eq!(seen, expected);
    client.call(b'b', None).await.unwrap();
    assert_eq!(client.receive().await.unwrap().payload, "news");
}

/// Sends raw bytes and reads whatever comes until the server closes.
async fn raw(running: &Running, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

fn error_frame(text: &str) -> Vec<u8> {
    [b"E", &(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[tokio::test]
async fn nonsense_is_answered_and_ends_the_connection() {
    let running = start();
    assert_eq!(raw(&running, &[5, 15, b'~', b'X']).await, error_frame("Unknown command"));
    assert_eq!(raw(&running, &[7, 0, b'X']).await, error_frame("Unsupported protocol version"));
    let large = [&[5, 15, b'F'][..], &(1u64 << 31).to_le_bytes()].concat();
    assert_eq!(raw(&running, &large).await, error_frame("Request too large"));
    // A body that does not parse leaves the connection usable.
    let broken = [&[5, 15, b'I'][..], &1u64.to_le_bytes(), &[0xff], b"r"].concat();
    let expected = [error_frame("Invalid request"), error_frame("two lines")].concat();
    assert_eq!(raw(&running, &broken).await, expected);
}

#[tokio::test]
async fn a_client_that_leaves_ends_open_ended_commands() {
    let running = start();
    let mut client = client(&running).await;
    client.send(b'V', Some(&[])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(client);
    for _ in 0..200 {
        if running.daemon.closed.load(Ordering::SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the connection task is still there");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let running = start();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = client(&running).await;
        client.fetch::<VersionResponse>(b'X').await.unwrap();
        clients.push(client);
    }
    let mut one_more = client(&running).await;
    assert!(one_more.fetch::<VersionResponse>(b'X').await.is_err());
    // A place that is given back is used again.
    clients.pop();
    for _ in 0..200 {
        if client(&running).await.fetch::<VersionResponse>(b'X').await.is_ok() {
            running.stop.send(true).unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place was given back");
}

#[tokio::test]
async fn endpoints_are_paths_or_host_and_port() {
    for (text, expected) in [
        ("/run/x.ctl", Some(Endpoint::Unix("/run/x.ctl".into()))),
        ("./a:1", Some(Endpoint::Unix("./a:1".into()))),
        ("mta1:4000", Some(Endpoint::Tcp("mta1".into(), 4000))),
        ("[::1]:4000", Some(Endpoint::Tcp("::1".into(), 4000))),
        ("mta1:port", None),
        (":4000", None),
        ("", None),
    ] {
        assert_eq!(Endpoint::parse(text).ok(), expected, "{text}");
    }
    let endpoint = Endpoint::Unix("/nonexistent/smtpd.ctl".into());
    let error = Client::connect(&endpoint, None).await.err().unwrap();
    assert!(matches!(error, ControlError::Connect { .. }));
}

#[tokio::test]
async fn sockets_left_behind_are_replaced_and_others_are_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("smtpd.ctl");
    let first = control::server::bind(&path, 0o660).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(control::server::bind(&path, 0o660), Err(ControlError::Socket { .. })), "in use");
    drop(first);
    drop(control::server::bind(&path, 0o600).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(control::server::bind(&path, 0o660).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
