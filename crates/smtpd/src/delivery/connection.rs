//! An open connection to a next hop: the client machine joined to a socket, with TLS where wanted.

use crate::delivery::result::{AttemptError, ConnectionInfo, Ending, ErrorKind};
use crate::transport::{Source, Transport};
use config::app::{Protocol, TlsMode};
use mail::{Content, EditList, Segment};
use net::dial;
use net::tls::TlsClient;
use smtp::client::{Client, Envelope, Event, Settings, StartTls, State};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_openssl::SslStream;

/// What is read from a socket at once, octets.
const READ_BYTES_MAX: usize = 4096;

/// Content is encoded and written in pieces of this size, octets.
const CONTENT_BYTES: u64 = 128 * 1024;

/// Patience for a block of content (RFC 5321 4.5.3.2.5).
const BLOCK_PATIENCE: Duration = Duration::from_secs(180);

enum Stream {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer).await,
            Stream::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

/// Where to connect and how.
pub struct Route<'a> {
    /// Address and port.
    pub remote: SocketAddr,
    /// Its name.
    pub remote_mx: &'a str,
    /// Bound before connecting.
    pub source: Option<&'a Source>,
    /// EHLO name.
    pub helo: &'a str,
}

/// A session that may carry transactions.
pub struct Connection {
    stream: Stream,
    client: Client,
    /// What scripts are told.
    pub info: ConnectionInfo,
    transport: Arc<Transport>,
    /// The state whose reply is waited for, and since when: a peer that drips gets no more time than a silent one.
    waiting: Option<(State, Instant)>,
}

/// Why a connection did not come about.
#[derive(Debug)]
pub struct OpenError {
    /// The result of the attempt.
    pub ending: Ending,
    /// Known once the TCP connection stood.
    pub info: Option<ConnectionInfo>,
    /// Nothing but the connection failed, so the next candidate may be tried (`queues.failover`).
    pub may_fail_over: bool,
}

impl Connection {
    /// Connects, greets and starts TLS as the transport wants it. An optional TLS whose handshake fails is
    /// followed by a second connection without it.
    pub async fn open(
        route: &Route<'_>,
        transport: &Arc<Transport>,
        tls: &TlsClient,
        id: String,
    ) -> Result<Connection, OpenError> {
        let wish = match transport.tls {
            TlsMode::Disabled => StartTls::Never,
            TlsMode::Optional => StartTls::Optional,
            TlsMode::Require | TlsMode::RequireVerify => StartTls::Required,
        };
        match Connection::open_with(route, transport, tls, &id, wish).await {
            Err(OpenError { ending: Ending::Error(error), .. })
                if error.kind == ErrorKind::Tls && wish == StartTls::Optional =>
            {
                Connection::open_with(route, transport, tls, &id, StartTls::Never).await
            }
            result => result,
        }
    }

    async fn open_with(
        route: &Route<'_>,
        transport: &Arc<Transport>,
        tls: &TlsClient,
        id: &str,
        wish: StartTls,
    ) -> Result<Connection, OpenError> {
        let source_ip = route.source.map(|source| source.ip);
        let stream =
            dial::connect(route.remote, source_ip, transport.connect_timeout).await.map_err(|error| {
                OpenError { ending: Ending::Error(error.into()), info: None, may_fail_over: true }
            })?;
        let info = ConnectionInfo {
            id: id.to_owned(),
            transactions: 0,
            local_ip: stream.local_addr().ok().map(|local| local.ip()),
            local_id: route.source.map(|source| source.id.clone()),
            helo: route.helo.to_owned(),
            remote_ip: Some(route.remote.ip()),
            remote_mx: route.remote_mx.to_owned(),
            ..ConnectionInfo::default()
        };
        let settings = Settings {
            protocol: match transport.protocol {
                Protocol::Smtp => smtp::client::Protocol::Smtp,
                Protocol::Lmtp => smtp::client::Protocol::Lmtp,
            },
            helo: route.helo.to_owned(),
            pipelining: transport.pipelining,
            starttls: wish,
        };
        let client = Client::new(settings);
        let connection = Connection {
            stream: Stream::Plain(stream),
            client,
            info,
            transport: transport.clone(),
            waiting: None,
        };
        connection.greet(route.remote_mx, tls).await
    }

    /// Drives the session until it is ready for a transaction.
    async fn greet(mut self, remote_mx: &str, tls: &TlsClient) -> Result<Connection, OpenError> {
        loop {
            match self.client.next() {
                Event::Ready => {
                    self.note_session();
                    return Ok(self);
                }
                Event::StartTls => {
                    if let Err(error) = self.write().await {
                        return Err(self.failed(network(&error, State::StartTls)));
                    }
                    self = self.shake_hands(remote_mx, tls).await?;
                }
                Event::Finished(outcome) => {
                    // What is still to be written is a QUIT that nobody needs to see.
                    let _ = timeout(self.transport.timeout(State::Quit), self.write()).await;
                    return Err(self.failed(outcome.into()));
                }
                Event::Close | Event::SendContent => {
                    let error = AttemptError::new(ErrorKind::Protocol, "session ended before it began");
                    return Err(self.failed(Ending::Error(error)));
                }
                Event::NeedInput(state) => {
                    if let Err(ending) = self.exchange(state).await {
                        return Err(self.failed(ending));
                    }
                }
            }
        }
    }

    async fn shake_hands(self, remote_mx: &str, tls: &TlsClient) -> Result<Connection, OpenError> {
        let Connection { stream, mut client, mut info, transport, .. } = self;
        let verify = transport.tls == TlsMode::RequireVerify;
        let result = match stream {
            Stream::Plain(stream) => {
                tls.handshake(stream, remote_mx, verify, transport.timeout(State::StartTls)).await
            }
            Stream::Tls(_) => Err(net::tls::TlsError::Handshake("TLS is active already".to_owned())),
        };
        match result {
            Ok((stream, facts)) => {
                client.tls_started();
                info.tls = Some(facts);
                Ok(Connection {
                    stream: Stream::Tls(Box::new(stream)),
                    client,
                    info,
                    transport,
                    waiting: None,
                })
            }
            Err(error) => {
                Err(OpenError { ending: Ending::Error(error.into()), info: Some(info), may_fail_over: false })
            }
        }
    }

    fn note_session(&mut self) {
        self.info.greeting = self.client.greeting().map(smtp::Reply::text_lines).unwrap_or_default();
        self.info.announced_dsn = self.client.announced().dsn;
    }

    fn failed(mut self, ending: Ending) -> OpenError {
        self.note_session();
        // RFC 5321 5.1: another address is tried when this one did not even greet properly.
        let may_fail_over = match &ending {
            Ending::Reply(State::Banner, reply) => reply.class() != 5,
            Ending::Reply(..) => false,
            Ending::Error(error) => {
                self.client.greeting().is_none()
                    && matches!(error.kind, ErrorKind::Network | ErrorKind::Protocol)
            }
        };
        OpenError { ending, info: Some(self.info), may_fail_over }
    }

    /// Carries one transaction; gives how it ended. Afterwards [`Connection::is_reusable`] tells whether
    /// another may follow.
    pub async fn send(&mut self, envelope: Envelope, content: &dyn Content, edits: &EditList) -> Ending {
        self.info.transactions += 1;
        self.waiting = None;
        self.client.send(envelope);
        loop {
            match self.client.next() {
                Event::Finished(outcome) => return outcome.into(),
                Event::SendContent => {
                    if let Err(ending) = self.send_content(content, edits).await {
                        return ending;
                    }
                }
                Event::NeedInput(state) => {
                    if let Err(ending) = self.exchange(state).await {
                        return ending;
                    }
                }
                Event::Ready | Event::StartTls | Event::Close => {
                    let error = AttemptError::new(ErrorKind::Protocol, "dialogue out of step");
                    return Ending::Error(error);
                }
            }
        }
    }

    async fn send_content(&mut self, content: &dyn Content, edits: &EditList) -> Result<(), Ending> {
        let mut block = Vec::new();
        for segment in edits.segments(content.len()) {
            match segment {
                Segment::Inserted(bytes) => self.client.content(bytes),
                Segment::Original(range) => {
                    if let Some(slice) = content.as_slice() {
                        let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                        let part = range.and_then(|(start, end)| slice.get(start..end));
                        let part = part.ok_or_else(|| unreadable("edit list exceeds the content"))?;
                        for block in part.chunks(CONTENT_BYTES as usize) {
                            if self.client.output().len() as u64 >= CONTENT_BYTES {
                                self.write_block().await?;
                            }
                            self.client.content(block);
                        }
                        continue;
                    }
                    let mut at = range.start;
                    while at < range.end {
                        let length = CONTENT_BYTES.min(range.end - at);
                        block.resize(length as usize, 0);
                        tokio::task::block_in_place(|| content.read_at(at, &mut block))
                            .map_err(|error| unreadable(&error.to_string()))?;
                        self.client.content(&block);
                        at += length;
                        self.write_block().await?;
                    }
                }
            }
            if self.client.output().len() as u64 > CONTENT_BYTES {
                self.write_block().await?;
            }
        }
        self.client.end_content();
        self.write_block().await
    }

    async fn write_block(&mut self) -> Result<(), Ending> {
        match timeout(BLOCK_PATIENCE, self.write()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(network(&error, State::Data)),
            Err(_) => Err(timed_out(State::Data)),
        }
    }

    /// Writes what is due and reads once, with the time-out of the state.
    async fn exchange(&mut self, state: State) -> Result<(), Ending> {
        let since = match self.waiting {
            Some((waiting, since)) if waiting == state => since,
            _ => Instant::now(),
        };
        self.waiting = Some((state, since));
        let patience = self.transport.timeout(state).saturating_sub(since.elapsed());
        let step = async {
            self.write().await?;
            let mut buffer = [0u8; READ_BYTES_MAX];
            let count = self.stream.read(&mut buffer).await?;
            self.client.feed(&buffer[..count]);
            Ok::<usize, io::Error>(count)
        };
        match timeout(patience, step).await {
            Ok(Ok(0)) => Err(self.client.peer_closed().into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(network(&error, state)),
            Err(_) => Err(timed_out(state)),
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.client.output().is_empty() {
            return Ok(());
        }
        let output = self.client.take_output();
        self.stream.write_all(&output).await
    }

    /// True when another transaction may follow.
    pub fn is_reusable(&self) -> bool {
        self.client.is_reusable()
    }

    /// Says QUIT and closes. The answer is not waited for, as most servers expect from a busy client.
    pub async fn quit(mut self) {
        self.client.quit();
        // The message has its result; a peer that is gone already does not matter.
        let _ = timeout(self.transport.timeout(State::Quit), self.write()).await;
    }
}

fn unreadable(text: &str) -> Ending {
    Ending::Error(AttemptError::new(ErrorKind::Config, format!("message content cannot be read: {text}")))
}

fn network(error: &io::Error, state: State) -> Ending {
    Ending::Error(AttemptError::new(ErrorKind::Network, format!("{error} in state {state}")))
}

fn timed_out(state: State) -> Ending {
    Ending::Error(AttemptError::new(ErrorKind::Network, format!("timed out in state {state}")))
}
