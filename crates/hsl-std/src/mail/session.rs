//! An SMTP or LMTP client for scripts: one session over a real connection, command by command (RFC 5321, RFC 2033,
//! RFC 3207, RFC 4954; XCLIENT as Postfix speaks it). No pipelining: scripts want the reply of each state.

use super::server_array::{Server, TlsMode};
use crate::environment::Environment;
use crate::network::tls::verify_names;
use base64::Engine as _;
use hsl::{Error, Value};
use mail::{Address, Content};
use net::nexthop::{Candidate, Choice, Target, candidates};
use openssl::ssl::Ssl;
use openssl::x509::X509;
use smtp::Reply;
use smtp::content::DataEncoder;
use smtp::reply::ReplyReader;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_openssl::SslStream;

/// Patience for a block of content (RFC 5321 4.5.3.2.5).
const BLOCK_PATIENCE: Duration = Duration::from_secs(180);
/// Content is encoded and written in pieces of this size, octets.
const BLOCK_BYTES: usize = 64 << 10;
/// Connections tried before giving up.
const CANDIDATES_MAX: usize = 10;

/// How a session ended before it did what was wanted.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Reply(&'static str, Reply),
    /// There is no reply to report.
    Error { temporary: bool, reason: String },
}

impl Failure {
    fn temporary(reason: impl Into<String>) -> Failure {
        Failure::Error { temporary: true, reason: reason.into() }
    }
}

/// What became of TLS.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsState {
    pub(super) started: bool,
    pub(super) protocol: String,
    pub(super) cipher: String,
    pub(super) peer: Option<X509>,
    pub(super) chain: Vec<X509>,
    /// What OpenSSL says against the certificate.
    pub(super) error: Option<String>,
}

/// What is known of the connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Local and remote address and the name of the host, once connected.
    pub(super) connected: Option<(IpAddr, IpAddr, String)>,
    pub(super) tls: TlsState,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A session.
pub(super) struct Session<'a> {
    server: &'a Server,
    io: Box<dyn Io>,
    reader: ReplyReader,
    extensions: Vec<String>,
    encrypted: bool,
}

/// Connects, greets, starts TLS and logs in as the server array says.
pub(super) async fn open<'a>(
    server: &'a Server,
    domain: &str,
    environment: &Environment,
    facts: &mut Facts,
) -> Result<Session<'a>, Failure> {
    let host = server.host.as_deref().unwrap_or("lookup-mx");
    let target = Target::parse(host, domain);
    let uses = |v4: bool| server.sources.is_empty() || server.sources.iter().any(|ip| ip.is_ipv4() == v4);
    let choice = Choice { ipv4: uses(true), ipv6: uses(false), ..Choice::default() };
    let found =
        candidates(&environment.resolver, &target, &choice, &format!("{}", rand::random::<u64>())).await;
    let found = found
        .map_err(|error| Failure::Error { temporary: error.is_temporary(), reason: error.to_string() })?;
    let is_mx = matches!(target, Target::Mx(_));
    let found: Vec<Candidate> =
        found.into_iter().filter(|one| !is_mx || server.admits(&one.hostname)).take(CANDIDATES_MAX).collect();
    let mut last =
        Failure::Error { temporary: false, reason: "no MX host is left by mx_include and mx_exclude".into() };
    for candidate in &found {
        match greet(server, candidate, environment, facts, server.tls != TlsMode::Disabled).await {
            Ok(mut session) => {
                session.identify().await?;
                session.log_in().await?;
                return Ok(session);
            }
            Err((failure, tls_failed)) if tls_failed && matches!(server.tls, TlsMode::Optional { .. }) => {
                // TLS that is only wished for must not keep mail away: once more without it.
                let _ = failure;
                match greet(server, candidate, environment, facts, false).await {
                    Ok(mut session) => {
                        session.identify().await?;
                        session.log_in().await?;
                        return Ok(session);
                    }
                    Err((failure, _)) => last = failure,
                }
            }
            // A reply is an answer; only what did not answer is passed over (RFC 5321 5.1).
            Err((failure @ Failure::Reply(..), _)) => return Err(failure),
            Err((failure, true)) => return Err(failure),
            Err((failure, false)) => last = failure,
        }
    }
    Err(last)
}

/// Connects to one address and says EHLO, over TLS where it is wanted. The flag of the error tells that TLS failed.
async fn greet<'a>(
    server: &'a Server,
    candidate: &Candidate,
    environment: &Environment,
    facts: &mut Facts,
    wants_tls: bool,
) -> Result<Session<'a>, (Failure, bool)> {
    let plain = |failure| (failure, false);
    let stream = connect(server, candidate).await.map_err(|error| {
        plain(Failure::temporary(format!("connect to {}:{}: {error}", candidate.address, server.port)))
    })?;
    let local = stream.local_addr().map(|local| local.ip()).unwrap_or(candidate.address);
    facts.connected = Some((local, candidate.address, candidate.hostname.clone()));
    facts.tls = TlsState::default();
    let mut session = Session {
        server,
        io: Box::new(tokio::io::empty()),
        reader: ReplyReader::default(),
        extensions: Vec::new(),
        encrypted: false,
    };
    if server.implicit {
        session.io = shake_hands(server, stream, &candidate.hostname, environment, facts)
            .await
            .map_err(|reason| (Failure::temporary(reason), true))?;
        session.encrypted = true;
        session.expect("BANNER").await.map_err(plain)?;
        session.hello().await.map_err(plain)?;
        return Ok(session);
    }
    let mut early = Plain { stream, reader: ReplyReader::default() };
    let mut reply = early.reply(server, "BANNER").await.map_err(plain)?;
    if !reply.is_positive() {
        return Err(plain(Failure::Reply("BANNER", reply)));
    }
    let hello = if server.lmtp { "LHLO" } else { "EHLO" };
    reply = early.command(server, hello, &format!("{hello} {}", server.helo)).await.map_err(plain)?;
    session.extensions = extensions(&reply);
    if reply.class() == 5 && !server.lmtp {
        reply = early.command(server, "HELO", &format!("HELO {}", server.helo)).await.map_err(plain)?;
        session.extensions.clear();
        if !reply.is_positive() {
            return Err(plain(Failure::Reply("HELO", reply)));
        }
    } else if !reply.is_positive() {
        return Err(plain(Failure::Reply(hello, reply)));
    }
    let offered = session.has("STARTTLS");
    if !wants_tls || (!offered && matches!(server.tls, TlsMode::Optional { .. })) {
        session.io = Box::new(early.stream);
        session.reader = early.reader;
        return Ok(session);
    }
    if !offered {
        return Err((Failure::temporary("STARTTLS is not offered"), true));
    }
    reply = early.command(server, "STARTTLS", "STARTTLS").await.map_err(plain)?;
    if !reply.is_positive() {
        return Err((Failure::Reply("STARTTLS", reply), true));
    }
    if early.reader.has_pending() {
        // RFC 3207 4.2: what was sent before the handshake is not trusted.
        return Err((Failure::temporary("text behind the reply to STARTTLS"), true));
    }
    session.io = shake_hands(server, early.stream, &candidate.hostname, environment, facts)
        .await
        .map_err(|reason| (Failure::temporary(reason), true))?;
    session.encrypted = true;
    session.hello().await.map_err(plain)?;
    Ok(session)
}

async fn connect(server: &Server, candidate: &Candidate) -> io::Result<TcpStream> {
    let remote = SocketAddr::new(candidate.address, server.port);
    let source = server.sources.iter().find(|ip| ip.is_ipv4() == remote.is_ipv4()).copied();
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        if server.nonlocal_source {
            let raw = socket2::SockRef::from(&socket);
            if remote.is_ipv4() { raw.set_freebind_v4(true)? } else { raw.set_freebind_v6(true)? }
        }
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = tokio::time::timeout(server.connect_timeout, socket.connect(remote)).await;
    let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The handshake; on failure what went wrong.
async fn shake_hands(
    server: &Server,
    stream: TcpStream,
    host: &str,
    environment: &Environment,
    facts: &mut Facts,
) -> Result<Box<dyn Io>, String> {
    let verify = matches!(server.tls, TlsMode::Optional { verify: true } | TlsMode::Require { verify: true });
    let mut options = server.options.clone();
    options.verify_ca |= verify;
    let mut names = server.verify_names.clone();
    if server.verify_host || (verify && names.is_empty()) {
        names.push(host.to_owned());
    }
    let set_up = |error: openssl::error::ErrorStack| format!("TLS set-up: {error}");
    let mut ssl = Ssl::new(&options.context(environment).map_err(set_up)?.build()).map_err(set_up)?;
    match &server.sni {
        Some(Some(name)) => ssl.set_hostname(name).map_err(set_up)?,
        Some(None) if host.parse::<IpAddr>().is_err() => ssl.set_hostname(host).map_err(set_up)?,
        _ => {}
    }
    verify_names(&mut ssl, &names, options.verify_ca).map_err(set_up)?;
    let mut stream = SslStream::new(ssl, stream).map_err(set_up)?;
    let done = tokio::time::timeout(server.timeout("STARTTLS"), Pin::new(&mut stream).connect()).await;
    let ssl = stream.ssl();
    let result = ssl.verify_result();
    let error = (result != openssl::x509::X509VerifyResult::OK).then(|| result.error_string().to_owned());
    facts.tls = TlsState {
        started: matches!(done, Ok(Ok(()))),
        protocol: ssl.version_str().to_owned(),
        cipher: ssl.current_cipher().map(|cipher| cipher.name().to_owned()).unwrap_or_default(),
        peer: ssl.peer_certificate().filter(|_| server.capture),
        chain: match ssl.peer_cert_chain().filter(|_| server.capture) {
            Some(chain) => chain.iter().skip(1).map(ToOwned::to_owned).collect(),
            None => Vec::new(),
        },
        error: error.clone(),
    };
    match done {
        Err(_) => Err("TLS handshake timed out".to_owned()),
        Ok(Err(failure)) => Err(match error {
            Some(text) if verify || !names.is_empty() => format!("certificate of {host}: {text}"),
            _ => format!("TLS handshake: {failure}"),
        }),
        Ok(Ok(())) => Ok(Box::new(stream)),
    }
}

/// The connection before TLS, when the stream itself is still needed.
struct Plain {
    stream: TcpStream,
    reader: ReplyReader,
}

impl Plain {
    async fn command(&mut self, server: &Server, state: &'static str, line: &str) -> Result<Reply, Failure> {
        write_line(&mut self.stream, server, state, line).await?;
        self.reply(server, state).await
    }

    async fn reply(&mut self, server: &Server, state: &'static str) -> Result<Reply, Failure> {
        read_reply(&mut self.stream, &mut self.reader, server, state).await
    }
}

fn extensions(reply: &Reply) -> Vec<String> {
    reply.text_lines().into_iter().skip(1).map(|line| line.to_ascii_uppercase()).collect()
}

async fn write_line(
    io: &mut (impl AsyncWrite + Unpin + ?Sized),
    server: &Server,
    state: &'static str,
    line: &str,
) -> Result<(), Failure> {
    // A line break in an address or a parameter would be a second command.
    let mut bytes: Vec<u8> = line.bytes().filter(|b| !matches!(b, b'\r' | b'\n' | 0)).collect();
    bytes.extend_from_slice(b"\r\n");
    let write = async {
        io.write_all(&bytes).await?;
        io.flush().await
    };
    match tokio::time::timeout(server.timeout(state), write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::temporary(format!("{error} in state {state}"))),
        Err(_) => Err(Failure::temporary(format!("timed out in state {state}"))),
    }
}

async fn read_reply(
    io: &mut (impl AsyncRead + Unpin + ?Sized),
    reader: &mut ReplyReader,
    server: &Server,
    state: &'static str,
) -> Result<Reply, Failure> {
    let read = async {
        let mut buffer = [0; 4096];
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => return Err(Failure::temporary(format!("{error} in state {state}"))),
            }
            match io.read(&mut buffer).await {
                Ok(0) => {
                    return Err(Failure::temporary(format!("connection closed by peer in state {state}")));
                }
                Ok(count) => reader.feed(&buffer[..count]),
                Err(error) => return Err(Failure::temporary(format!("{error} in state {state}"))),
            }
        }
    };
    match tokio::time::timeout(server.timeout(state), read).await {
        Ok(result) => result,
        Err(_) => Err(Failure::temporary(format!("timed out in state {state}"))),
    }
}

impl Session<'_> {
    /// Whether EHLO announced an extension.
    fn has(&self, name: &str) -> bool {
        self.extensions.iter().any(|line| line.split(' ').next() == Some(name))
    }

    async fn reply(&mut self, state: &'static str) -> Result<Reply, Failure> {
        read_reply(&mut *self.io, &mut self.reader, self.server, state).await
    }

    /// A positive reply, or the failure that it is not.
    async fn expect(&mut self, state: &'static str) -> Result<Reply, Failure> {
        let reply = self.reply(state).await?;
        if reply.is_positive() { Ok(reply) } else { Err(Failure::Reply(state, reply)) }
    }

    async fn command(&mut self, state: &'static str, line: &str) -> Result<Reply, Failure> {
        write_line(&mut *self.io, self.server, state, line).await?;
        self.reply(state).await
    }

    async fn need(&mut self, state: &'static str, line: &str) -> Result<Reply, Failure> {
        let reply = self.command(state, line).await?;
        if reply.is_positive() { Ok(reply) } else { Err(Failure::Reply(state, reply)) }
    }

    async fn hello(&mut self) -> Result<(), Failure> {
        let verb = if self.server.lmtp { "LHLO" } else { "EHLO" };
        let reply = self.need(verb, &format!("{verb} {}", self.server.helo)).await?;
        self.extensions = extensions(&reply);
        Ok(())
    }

    /// XCLIENT, after which the session begins anew.
    async fn identify(&mut self) -> Result<(), Failure> {
        if self.server.xclient.is_empty() {
            return Ok(());
        }
        if !self.has("XCLIENT") {
            return Err(Failure::Error { temporary: false, reason: "XCLIENT is not offered".to_owned() });
        }
        let mut line = "XCLIENT".to_owned();
        for (name, value) in &self.server.xclient {
            line.push_str(&format!(" {}={}", name.to_ascii_uppercase(), xtext(value)));
        }
        self.need("XCLIENT", &line).await?;
        self.hello().await
    }

    async fn log_in(&mut self) -> Result<(), Failure> {
        let Some((user, password)) = &self.server.login else { return Ok(()) };
        let (user, password) = (user.clone(), password.clone());
        let code = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let offers = |mechanism: &str| {
            self.extensions.iter().any(|line| {
                let mut words = line.split([' ', '=']);
                words.next() == Some("AUTH") && words.any(|word| word == mechanism)
            })
        };
        // Passwords are said in the clear only where the script does without TLS on purpose.
        let clear = self.encrypted || self.server.tls == TlsMode::Disabled;
        if offers("CRAM-MD5") {
            let reply = self.command("AUTH-CRAM-MD5", "AUTH CRAM-MD5").await?;
            let challenge = reply.lines.first().filter(|_| reply.code == 334);
            let Some(challenge) = challenge else { return Err(Failure::Reply("AUTH-CRAM-MD5", reply)) };
            let challenge = crate::base64_decode(challenge);
            let digest = hmac_md5(password.as_bytes(), &challenge)
                .map_err(|error| Failure::Error { temporary: false, reason: format!("HMAC: {error}") })?;
            let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            self.need("AUTH", &code(format!("{user} {hex}").as_bytes())).await?;
        } else if offers("PLAIN") && clear {
            let token = code(format!("\0{user}\0{password}").as_bytes());
            self.need("AUTH-PLAIN", &format!("AUTH PLAIN {token}")).await?;
        } else if offers("LOGIN") && clear {
            let reply = self.command("AUTH-LOGIN", "AUTH LOGIN").await?;
            if reply.code != 334 {
                return Err(Failure::Reply("AUTH-LOGIN", reply));
            }
            let reply = self.command("AUTH-LOGIN-USER", &code(user.as_bytes())).await?;
            if reply.code != 334 {
                return Err(Failure::Reply("AUTH-LOGIN-USER", reply));
            }
            self.need("AUTH", &code(password.as_bytes())).await?;
        } else {
            let reason = "no usable mechanism of AUTH is offered".to_owned();
            return Err(Failure::Error { temporary: false, reason });
        }
        Ok(())
    }

    /// MAIL and RCPT; gives the reply to the last RCPT.
    pub(super) async fn envelope(
        &mut self,
        sender: &EnvelopeAddress,
        recipients: &[EnvelopeAddress],
        content: Option<&ContentFacts>,
    ) -> Result<Reply, Failure> {
        let ascii = std::iter::once(sender).chain(recipients).all(|one| one.address.is_ascii());
        let utf8 = self.has("SMTPUTF8") && (!ascii || content.is_some_and(|content| content.utf8_header));
        let path = |one: &EnvelopeAddress| -> Result<String, Failure> {
            if utf8 || one.address.is_ascii() {
                return Ok(one.address.to_string());
            }
            let domain = mail::address::domain_to_ascii(&one.address.domain).ok();
            let domain = domain.filter(|_| one.address.localpart.is_ascii()).ok_or_else(|| {
                let reason = "address needs SMTPUTF8, which the server does not offer".to_owned();
                Failure::Error { temporary: false, reason }
            })?;
            Ok(Address { localpart: one.address.localpart.clone(), domain }.to_string())
        };
        let mut line = format!("MAIL FROM:<{}>", path(sender)?);
        if let Some(content) = content {
            if self.has("SIZE") {
                line.push_str(&format!(" SIZE={}", content.bytes));
            }
            if content.has_8bit && self.has("8BITMIME") {
                line.push_str(" BODY=8BITMIME");
            }
        }
        if utf8 {
            line.push_str(" SMTPUTF8");
        }
        line.push_str(&sender.parameters);
        self.need("MAIL", &line).await?;
        let mut last = None;
        for recipient in recipients {
            let line = format!("RCPT TO:<{}>{}", path(recipient)?, recipient.parameters);
            last = Some(self.need("RCPT", &line).await?);
        }
        last.ok_or_else(|| Failure::Error { temporary: false, reason: "no recipients".to_owned() })
    }

    /// DATA and the content; gives the reply to its end. With LMTP that is the first refusal of a recipient, if any.
    pub(super) async fn content(
        &mut self,
        content: &dyn Content,
        recipients: usize,
    ) -> Result<Reply, Failure> {
        let reply = self.command("DATA", "DATA").await?;
        if reply.class() != 3 {
            return Err(Failure::Reply("DATA", reply));
        }
        let mut encoder = DataEncoder::default();
        let (mut buffer, mut out) =
            (vec![0; BLOCK_BYTES], Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 16));
        let mut at = 0;
        while at < content.len() {
            // No more than the buffer, so it fits.
            let count = (content.len() - at).min(BLOCK_BYTES as u64) as usize;
            content.read_at(at, &mut buffer[..count]).map_err(|error| Failure::Error {
                temporary: false,
                reason: format!("message cannot be read: {error}"),
            })?;
            encoder.encode(&buffer[..count], &mut out);
            at += count as u64;
            self.block(&mut out).await?;
        }
        encoder.finish(&mut out);
        self.block(&mut out).await?;
        let mut reply = self.reply("EOD").await?;
        if self.server.lmtp {
            for _ in 1..recipients {
                let next = self.reply("EOD").await?;
                if reply.is_positive() {
                    reply = next;
                }
            }
        }
        if reply.is_positive() { Ok(reply) } else { Err(Failure::Reply("EOD", reply)) }
    }

    async fn block(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let write = async {
            self.io.write_all(out).await?;
            self.io.flush().await
        };
        match tokio::time::timeout(BLOCK_PATIENCE, write).await {
            Ok(Ok(())) => {
                out.clear();
                Ok(())
            }
            Ok(Err(error)) => Err(Failure::temporary(format!("{error} in state DATA"))),
            Err(_) => Err(Failure::temporary("timed out in state DATA")),
        }
    }

    /// Ends the session; what the server says about it does not matter any more.
    pub(super) async fn quit(mut self, reset: bool) {
        if reset && self.command("RSET", "RSET").await.is_err() {
            return;
        }
        let _ = self.command("QUIT", "QUIT").await;
    }
}

/// An address with the parameters of its command, a space before each.
#[derive(Clone)]
pub(super) struct EnvelopeAddress {
    pub(super) address: Address,
    pub(super) parameters: String,
}

impl EnvelopeAddress {
    /// Reads a string or an array with localpart, domain and params.
    pub(super) fn read(name: &str, value: &Value) -> Result<EnvelopeAddress, Error> {
        let address = crate::hooks::options::read_address(name, value)?;
        let mut parameters = String::new();
        if let Some(Value::Array(list)) = value.as_array().and_then(|array| array.get_str("params")) {
            for (key, value) in list.iter() {
                let key = key.to_value().to_string_lossy();
                let text = value.to_string_lossy();
                let legal = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
                if !legal(&key) || !legal(&text) {
                    return Err(Error::exception(format!("Option 'params': '{key}' cannot be sent")));
                }
                parameters.push(' ');
                parameters.push_str(&key);
                if !text.is_empty() {
                    parameters.push('=');
                    parameters.push_str(&text);
                }
            }
        }
        Ok(EnvelopeAddress { address, parameters })
    }
}

/// What the commands before the content say about it.
pub(super) struct ContentFacts {
    bytes: u64,
    has_8bit: bool,
    utf8_header: bool,
}

impl ContentFacts {
    /// Reads the content once.
    pub(super) fn read(content: &Arc<dyn Content>) -> Result<ContentFacts, mail::MailError> {
        let mut has_8bit = false;
        mail::content::for_each_chunk(&**content, 0..content.len(), |piece| {
            has_8bit |= !piece.is_ascii();
            Ok::<(), mail::MailError>(())
        })?;
        let utf8_header = has_8bit && !mail::HeaderIndex::read(&**content)?.block().is_ascii();
        Ok(ContentFacts { bytes: content.len(), has_8bit, utf8_header })
    }
}

fn hmac_md5(key: &[u8], message: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let key = openssl::pkey::PKey::hmac(key)?;
    openssl::sign::Signer::new(openssl::hash::MessageDigest::md5(), &key)?.sign_oneshot_to_vec(message)
}

/// RFC 3461 4, as XCLIENT wants its values.
fn xtext(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_graphic() && !b"+=".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("+{b:02X}"));
        }
    }
    out
}
