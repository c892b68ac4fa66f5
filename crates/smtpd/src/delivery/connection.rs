//! An open connection to a next hop: the client machine joined to a socket, with TLS where wanted.

use crate::delivery::peer::{Dane, Stalled};
use crate::delivery::result::{AttemptError, ConnectionInfo, Ending, ErrorKind};
use crate::transport::{Source, Transport};
use config::app::Protocol;
use mail::{Content, EditList, Segment};
use net::Resolver;
use net::dial;
use net::tls::{Mode, Proof, Rules, TlsClient, TlsError, Tlsa};
use smtp::client::{Client, Credentials, Envelope, Event, Failure, Settings, StartTls, State};
use smtp::proxy_header;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_openssl::SslStream;

/// What is read from a socket at once, octets.
const READ_BYTES_MAX: usize = 4096;

/// Content is encoded and written in pieces of this size, octets.
const CONTENT_BYTES: u64 = 128 * 1024;

/// How long a peer that broke off is listened to for its reason.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);

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

    /// True when a read would wait: no end, no error and no bytes beside those of TLS itself.
    fn is_quiet(&mut self) -> bool {
        let socket = match self {
            Stream::Plain(stream) => &*stream,
            Stream::Tls(stream) => stream.get_ref(),
        };
        let mut byte = [MaybeUninit::uninit()];
        match socket2::SockRef::from(socket).peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Ok(count) if count > 0 => {}
            _ => return false,
        }
        // Of TLS it may be a ticket; the library takes that in without giving anything out.
        let Stream::Tls(stream) = self else { return false };
        let mut buffer = [0u8; 1];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut **stream).poll_read(&mut context, &mut buffer);
        read.is_pending() && socket2::SockRef::from(stream.get_ref()).peek(&mut byte).is_err()
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
    /// What DNS says about its certificate.
    pub dane: &'a Dane,
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
    /// It was the encryption that failed.
    tls_failed: bool,
}

/// How a transaction ended.
#[derive(Debug)]
pub struct Sent {
    /// The result.
    pub ending: Ending,
    /// The connection had been used before and turned out to be dead before the peer looked at this message. Nothing was
    /// lost and nothing can arrive twice, so it goes over another one.
    pub found_dead: bool,
}

/// Opens connections: what they have in common beside their routes.
pub struct Opener<'a> {
    /// Contexts of the library.
    pub tls: &'a TlsClient,
    /// Peers that are known to stall in TLS.
    pub stalled: &'a Stalled,
    /// For proxies that are given by name.
    pub resolver: &'a Resolver,
}

impl Opener<'_> {
    /// Connects, greets, starts TLS and logs in as the transport wants it. An optional TLS that fails is followed by a
    /// second connection without it.
    pub async fn open(
        &self,
        route: &Route<'_>,
        transport: &Arc<Transport>,
        id: String,
    ) -> Result<Connection, OpenError> {
        let rules = &transport.session.tls;
        let Wish { starttls, proof } = match wish(rules, route) {
            Ok(wish) => wish,
            Err((error, report)) => {
                let info = ConnectionInfo {
                    tls_report: Some(report),
                    tlsa: route.dane.facts(),
                    ..self.info(route, id)
                };
                // Another host may have better records.
                let ending = Ending::Error(error);
                return Err(OpenError { ending, info: Some(info), may_fail_over: true, tls_failed: true });
            }
        };
        let may_go_without = starttls == StartTls::Optional && proof == Proof::None && !rules.implicit;
        if may_go_without && self.stalled.knows(route.remote.ip()) {
            let mut opened = self.open_with(route, transport, &id, StartTls::Never, &proof).await;
            let info = match &mut opened {
                Ok(connection) => Some(&mut connection.info),
                Err(error) => error.info.as_mut(),
            };
            if let Some(info) = info {
                info.tls_report = Some("validation-failure");
            }
            return opened;
        }
        let failed = match self.open_with(route, transport, &id, starttls, &proof).await {
            Err(error) if error.tls_failed && may_go_without => error,
            result => return result,
        };
        let mut opened = self.open_with(route, transport, &id, StartTls::Never, &proof).await?;
        opened.info.tls_report = failed.info.and_then(|info| info.tls_report).or(Some("validation-failure"));
        Ok(opened)
    }

    fn info(&self, route: &Route<'_>, id: String) -> ConnectionInfo {
        ConnectionInfo {
            id,
            transactions: 0,
            local_id: route.source.map(|source| source.id.clone()),
            helo: route.helo.to_owned(),
            remote_ip: Some(route.remote.ip()),
            remote_mx: route.remote_mx.to_owned(),
            ..ConnectionInfo::default()
        }
    }

    async fn open_with(
        &self,
        route: &Route<'_>,
        transport: &Arc<Transport>,
        id: &str,
        starttls: StartTls,
        proof: &Proof,
    ) -> Result<Connection, OpenError> {
        let session = &transport.session;
        let stream = self.dial(route, transport).await.map_err(|error| OpenError {
            ending: Ending::Error(error),
            info: None,
            may_fail_over: true,
            tls_failed: false,
        })?;
        let own_ip = stream.local_addr().ok().map(|local| local.ip());
        let info = ConnectionInfo {
            // Behind a proxy it is the proxy that has the address.
            local_ip: route.source.map(|source| source.ip).or(own_ip),
            is_lmtp: transport.protocol == Protocol::Lmtp,
            tlsa: route.dane.facts(),
            ..self.info(route, id.to_owned())
        };
        let settings = Settings {
            protocol: match transport.protocol {
                Protocol::Smtp => smtp::client::Protocol::Smtp,
                Protocol::Lmtp => smtp::client::Protocol::Lmtp,
            },
            helo: route.helo.to_owned(),
            pipelining: session.pipelining,
            starttls,
            implicit_tls: session.tls.implicit,
            chunking: session.chunking,
            auth: session.auth.as_ref().map(|account| Credentials {
                username: account.username.clone(),
                password: account.password.clone(),
                // Passwords are said in the clear only where encryption is switched off on purpose.
                in_clear: session.tls.mode == Mode::Disabled,
            }),
            xclient: session.xclient.clone(),
        };
        let mut connection = Connection {
            stream: Stream::Plain(stream),
            client: Client::new(settings),
            info,
            transport: transport.clone(),
            waiting: None,
        };
        if session.tls.implicit {
            connection = self.shake_hands(connection, route, proof).await?;
        }
        self.greet(connection, route, proof).await
    }

    /// Connects to the next hop, or to the proxy in front of it, which is then told where to go.
    async fn dial(&self, route: &Route<'_>, transport: &Transport) -> Result<TcpStream, AttemptError> {
        let session = &transport.session;
        let proxy = route.source.and_then(|source| source.proxy.as_ref()).or(session.proxy.as_ref());
        let patience = transport.connect_timeout;
        let Some(proxy) = proxy else {
            let source_ip = route.source.map(|source| source.ip);
            return Ok(dial::connect(route.remote, source_ip, session.nonlocal, patience).await?);
        };
        let failed = |text: String| {
            let place = format!("{}:{}", proxy.server, proxy.port);
            AttemptError::new(ErrorKind::Network, format!("proxy {place}: {text}"))
        };
        let address = match proxy.server.parse() {
            Ok(address) => address,
            Err(_) => {
                let found = self.resolver.addresses(&proxy.server, true, true).await;
                let found = found.map_err(|error| failed(error.to_string()))?;
                *found.first().ok_or_else(|| failed("no address".to_owned()))?
            }
        };
        let server = SocketAddr::new(address, proxy.port);
        let mut stream =
            dial::connect(server, None, false, patience).await.map_err(|error| failed(error.to_string()))?;
        let anywhere = || match route.remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let source = SocketAddr::new(route.source.map_or_else(anywhere, |source| source.ip), 0);
        let header = proxy_header::write(proxy.version, source, route.remote);
        match timeout(patience, stream.write_all(&header)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("timed out".to_owned())),
        }
    }

    /// Drives the session until it is ready for a transaction.
    async fn greet(
        &self,
        mut connection: Connection,
        route: &Route<'_>,
        proof: &Proof,
    ) -> Result<Connection, OpenError> {
        loop {
            match connection.client.next() {
                Event::Ready => {
                    connection.note_session();
                    return Ok(connection);
                }
                Event::StartTls => {
                    connection = self.shake_hands(connection, route, proof).await?;
                    connection.client.tls_started();
                }
                Event::Finished(outcome) => {
                    let report = match &outcome.result {
                        Err(Failure::TlsNotOffered(_)) => Some("starttls-not-supported"),
                        Err(Failure::TlsRefused(_)) => Some("validation-failure"),
                        _ => None,
                    };
                    connection.info.tls_report = report.or(connection.info.tls_report);
                    // What is still to be written is a QUIT that nobody needs to see.
                    let _ = timeout(connection.transport.timeout(State::Quit), connection.write()).await;
                    return Err(connection.failed(outcome.into()));
                }
                Event::Close | Event::SendContent => {
                    let error = AttemptError::new(ErrorKind::Protocol, "session ended before it began");
                    return Err(connection.failed(Ending::Error(error)));
                }
                Event::NeedInput(state) => {
                    if let Err(ending) = connection.exchange(state).await {
                        return Err(connection.failed(ending));
                    }
                }
            }
        }
    }

    async fn shake_hands(
        &self,
        connection: Connection,
        route: &Route<'_>,
        proof: &Proof,
    ) -> Result<Connection, OpenError> {
        let Connection { stream, client, mut info, transport, .. } = connection;
        let rules = &transport.session.tls;
        let patience = transport.timeout(State::StartTls);
        let Stream::Plain(stream) = stream else {
            let error = AttemptError::new(ErrorKind::Protocol, "TLS is active already");
            let ending = Ending::Error(error);
            return Err(OpenError { ending, info: Some(info), may_fail_over: false, tls_failed: false });
        };
        match self.tls.handshake(stream, route.remote_mx, rules, proof, patience).await {
            Ok((stream, facts)) => {
                info.tls = Some(facts);
                let stream = Stream::Tls(Box::new(stream));
                Ok(Connection { stream, client, info, transport, waiting: None })
            }
            Err((error, facts)) => {
                if error == TlsError::Timeout {
                    self.stalled.note(route.remote.ip());
                }
                info.tls_report = Some(error.report());
                info.tls_peer = facts.and_then(|facts| facts.peer);
                let kind = if matches!(proof, Proof::Dane { .. }) { ErrorKind::Dane } else { ErrorKind::Tls };
                let kind = if matches!(error, TlsError::Setup(_)) { ErrorKind::Config } else { kind };
                let ending = Ending::Error(AttemptError::new(kind, error.to_string()));
                let tls_failed = kind != ErrorKind::Config;
                Err(OpenError { ending, info: Some(info), may_fail_over: false, tls_failed })
            }
        }
    }
}

/// What the rules and DNS together ask of a connection.
struct Wish {
    starttls: StartTls,
    proof: Proof,
}

fn wish(rules: &Rules, route: &Route<'_>) -> Result<Wish, (AttemptError, &'static str)> {
    let dane = |records: &Arc<[Tlsa]>| Wish {
        starttls: StartTls::Required,
        proof: Proof::Dane { records: records.clone(), names: vec![route.remote_mx.to_owned()] },
    };
    let refuse = |text: String, report| Err((AttemptError::new(ErrorKind::Dane, text), report));
    let plain = |starttls, proof| Ok(Wish { starttls, proof });
    if rules.mode.uses_dane() {
        match route.dane {
            Dane::Failed { reason, .. } => {
                let text = format!("TLSA records of {}: {reason}", route.remote_mx);
                return refuse(text, "dnssec-invalid");
            }
            Dane::Records { usable, .. } if !usable.is_empty() => return Ok(dane(usable)),
            Dane::Records { .. } if rules.mode == Mode::DaneRequire => {
                let text = format!("no usable TLSA record of {}", route.remote_mx);
                return refuse(text, "tlsa-invalid");
            }
            // Secure records that cannot be used: encrypted, and nobody knows with whom (RFC 7672 2.2).
            Dane::Records { .. } if rules.mode != Mode::DaneFallbackRequireVerify => {
                return plain(StartTls::Required, Proof::None);
            }
            Dane::Records { .. } | Dane::None => {}
        }
    }
    match rules.mode {
        Mode::DaneRequire => refuse(format!("no secure TLSA record of {}", route.remote_mx), "dane-required"),
        Mode::Disabled => plain(StartTls::Never, Proof::None),
        Mode::Optional | Mode::Dane => plain(StartTls::Optional, Proof::None),
        Mode::OptionalVerify => plain(StartTls::Optional, Proof::Chain),
        Mode::Require | Mode::DaneFallbackRequire => plain(StartTls::Required, Proof::None),
        Mode::RequireVerify | Mode::DaneFallbackRequireVerify => plain(StartTls::Required, Proof::Chain),
    }
}

impl Connection {
    fn note_session(&mut self) {
        self.info.greeting = self.client.greeting().map(smtp::Reply::text_lines).unwrap_or_default();
        self.info.announced_dsn = self.client.announced().dsn;
        let wanted = self.transport.session.tls.mode != Mode::Disabled;
        if wanted && self.info.tls.is_none() && self.info.tls_report.is_none() {
            let offered = self.client.announced().starttls;
            self.info.tls_report =
                Some(if offered { "validation-failure" } else { "starttls-not-supported" });
        }
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
        let tls_failed = match &ending {
            Ending::Reply(state, _) => *state == State::StartTls,
            // A peer that breaks off, stalls or talks nonsense at STARTTLS has no TLS for us.
            Ending::Error(error) => error.kind == ErrorKind::Tls || self.client.state() == State::StartTls,
        };
        OpenError { ending, info: Some(self.info), may_fail_over, tls_failed }
    }

    /// Carries one transaction; gives how it ended. Afterwards [`Connection::is_reusable`] tells whether
    /// another may follow.
    pub async fn send(&mut self, envelope: Envelope, content: &dyn Content, edits: &EditList) -> Sent {
        let was_used = self.info.transactions > 0;
        self.info.transactions += 1;
        self.waiting = None;
        let ending = self.transact(envelope, content, edits).await;
        let says_nothing = match &ending {
            Ending::Reply(state, reply) => *state == State::Rset || reply.code == 421,
            Ending::Error(error) => matches!(error.kind, ErrorKind::Network | ErrorKind::Protocol),
        };
        Sent { ending, found_dead: was_used && says_nothing && !self.client.mail_answered() }
    }

    async fn transact(&mut self, envelope: Envelope, content: &dyn Content, edits: &EditList) -> Ending {
        self.client.send(envelope);
        loop {
            match self.client.next() {
                Event::Finished(outcome) => return outcome.into(),
                Event::SendContent => {
                    if let Err(ending) = self.send_content(content, edits).await {
                        return self.last_words(ending).await;
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

    /// A peer that closes while content is on its way has often said why.
    async fn last_words(&mut self, ending: Ending) -> Ending {
        let of_network = matches!(&ending, Ending::Error(error) if error.kind == ErrorKind::Network);
        if !of_network {
            return ending;
        }
        let mut buffer = [0u8; READ_BYTES_MAX];
        let read = timeout(LAST_WORDS_PATIENCE, self.stream.read(&mut buffer)).await;
        if let Ok(Ok(count)) = read
            && count > 0
        {
            self.client.feed(&buffer[..count]);
            if let Some(outcome) = self.client.early_end() {
                return outcome.into();
            }
        }
        ending
    }

    /// From now on it works for a transport whose [`session`](Transport::session) is the same.
    pub fn serve(&mut self, transport: &Arc<Transport>) {
        self.transport = transport.clone();
    }

    /// True while the peer has neither closed nor said anything since the last reply; for idle connections.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet()
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
        match timeout(self.transport.block_timeout(), self.write()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(network(&error, self.client.state())),
            Err(_) => Err(timed_out(self.client.state())),
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
