//! The client side: one connection, one request at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::error::ControlError;
use crate::frame::{Reply, Status, encode_request};

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

impl Endpoint {
    /// Reads a path or `HOST:PORT`. Whatever contains a slash is a path; a bare word is one too.
    pub fn parse(text: &str) -> Result<Endpoint, ControlError> {
        if text.is_empty() {
            return Err(ControlError::Endpoint(text.to_owned()));
        }
        if !text.contains('/')
            && let Some((host, port)) = text.rsplit_once(':')
        {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            return match port.parse() {
                Ok(port) if !host.is_empty() => Ok(Endpoint::Tcp(host.to_owned(), port)),
                _ => Err(ControlError::Endpoint(text.to_owned())),
            };
        }
        Ok(Endpoint::Unix(PathBuf::from(text)))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl From<&Path> for Endpoint {
    fn from(path: &Path) -> Self {
        Endpoint::Unix(path.to_owned())
    }
}

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to a daemon.
pub struct Client {
    stream: Box<dyn Stream>,
    input: BytesMut,
    /// The version pair has been sent.
    greeted: bool,
    timeout: Option<Duration>,
}

impl Client {
    /// Connects; `timeout` also bounds each wait for a reply frame.
    pub async fn connect(endpoint: &Endpoint, timeout: Option<Duration>) -> Result<Client, ControlError> {
        let connecting = async {
            Ok::<Box<dyn Stream>, std::io::Error>(match endpoint {
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Endpoint::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
            })
        };
        let connected = limited(timeout, connecting).await?;
        let fail = |source| ControlError::Connect { endpoint: endpoint.to_string(), source };
        Ok(Client::new(connected.map_err(fail)?, timeout))
    }

    /// A client on a stream that is open already (TLS).
    pub fn new(stream: Box<dyn Stream>, timeout: Option<Duration>) -> Client {
        Client { stream, input: BytesMut::new(), greeted: false, timeout }
    }

    /// Changes the bound of each wait; `None` waits for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// A command with a request message.
    pub async fn request<Q: Message, R: Message + Default>(
        &mut self,
        command: u8,
        request: &Q,
    ) -> Result<R, ControlError> {
        let payload = self.call(command, Some(&request.encode_to_vec())).await?;
        R::decode(payload).map_err(|e| ControlError::Protocol(e.to_string()))
    }

    /// A command without request body.
    pub async fn fetch<R: Message + Default>(&mut self, command: u8) -> Result<R, ControlError> {
        let payload = self.call(command, None).await?;
        R::decode(payload).map_err(|e| ControlError::Protocol(e.to_string()))
    }

    /// A command as bytes; interim frames are passed over.
    pub async fn call(&mut self, command: u8, body: Option<&[u8]>) -> Result<Bytes, ControlError> {
        self.send(command, body).await?;
        loop {
            let reply = self.receive().await?;
            match reply.status {
                Status::Done => return Ok(reply.payload),
                Status::Error => return Err(server_error(&reply)),
                Status::Interim => {}
            }
        }
    }

    /// Sends a request; the replies are read with [`Client::receive`].
    pub async fn send(&mut self, command: u8, body: Option<&[u8]>) -> Result<(), ControlError> {
        let bytes = encode_request(!self.greeted, command, body);
        self.greeted = true;
        limited(self.timeout, self.stream.write_all(&bytes)).await??;
        Ok(())
    }

    /// The next reply frame, of any status. Cancelling it loses nothing.
    pub async fn receive(&mut self) -> Result<Reply, ControlError> {
        loop {
            if let Some(reply) = Reply::decode(&mut self.input).map_err(ControlError::Protocol)? {
                return Ok(reply);
            }
            let read = limited(self.timeout, self.stream.read_buf(&mut self.input)).await??;
            if read == 0 {
                let closed = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(ControlError::Io(closed));
            }
        }
    }
}

/// The error a server's `E` frame stands for.
pub fn server_error(reply: &Reply) -> ControlError {
    ControlError::Server(String::from_utf8_lossy(&reply.payload).into_owned())
}

async fn limited<T>(timeout: Option<Duration>, future: impl Future<Output = T>) -> Result<T, ControlError> {
    match timeout {
        None => Ok(future.await),
        Some(limit) => {
            tokio::time::timeout(limit, future).await.map_err(|_| ControlError::Timeout(limit.as_secs()))
        }
    }
}
