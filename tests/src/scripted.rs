//! A next hop whose every answer a test decides: it can refuse, lie, close, reset, stall and drip at any point, and it
//! remembers what it was told and what it took.

use crate::certificates::Certificate;
use openssl::ssl::{SslAcceptor, SslMethod, SslStream, SslVerifyMode};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the client did.
#[derive(Debug)]
pub struct Command<'a> {
    /// Number of the connection, from 1.
    pub connection: usize,
    /// Number of the transaction on it, from 1; 0 before the first.
    pub transaction: usize,
    /// `CONNECT`, the verb, `HANDSHAKE` before TLS, `LOGIN` for a line within AUTH, `CONTENT` when content is expected,
    /// `CHUNK` after a chunk that is not the last, or `EOD`.
    pub state: &'a str,
    /// The line.
    pub line: &'a str,
    /// It came through TLS.
    pub encrypted: bool,
}

/// What the peer does.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What a good server says.
    Usual,
    /// This; lines are separated by `\n`.
    Say(String),
    /// Closes.
    Close,
    /// Closes with a reset.
    Reset,
    /// Says nothing more and reads nothing more.
    Stall,
    /// Sends a reply that does not end, one octet at a time.
    Drip,
}

/// An answer.
pub fn say(text: &str) -> Answer {
    Answer::Say(text.to_owned())
}

/// A message as taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Number of the connection.
    pub connection: usize,
    /// Number of the transaction on it.
    pub transaction: usize,
    /// The line of MAIL.
    pub mail: String,
    /// The line of RCPT.
    pub rcpt: String,
    /// Content, without dots.
    pub content: Vec<u8>,
    /// It came through TLS.
    pub encrypted: bool,
}

/// How the peer is set up.
#[derive(Clone, Default)]
pub struct Script {
    /// Lines of EHLO. STARTTLS is left out once TLS is on.
    pub extensions: Vec<&'static str>,
    /// For TLS: the certificate, and those above it.
    pub certificate: Option<(Certificate, Vec<Certificate>)>,
    /// TLS from the first byte.
    pub implicit: bool,
    /// The address to listen on; 127.0.0.1 when empty.
    pub address: &'static str,
    /// The port; any when 0.
    pub port: u16,
}

type Decide = dyn Fn(&Command<'_>) -> Answer + Send + Sync;

/// The peer. Its threads end with the test process.
#[derive(Clone)]
pub struct Scripted {
    /// Where it listens.
    pub port: u16,
    taken: Arc<Mutex<Vec<Taken>>>,
    commands: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Scripted {
    /// Listens; `decide` is asked before every answer.
    ///
    /// # Panics
    /// When the address cannot be used.
    pub fn start(
        script: Script,
        decide: impl Fn(&Command<'_>) -> Answer + Send + Sync + 'static,
    ) -> Scripted {
        let address = if script.address.is_empty() { "127.0.0.1" } else { script.address };
        let listener = TcpListener::bind((address, script.port)).expect("loopback has free ports");
        let peer = Scripted {
            port: listener.local_addr().expect("a bound socket has an address").port(),
            taken: Arc::default(),
            commands: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
        };
        let (of_thread, decide): (_, Arc<Decide>) = (peer.clone(), Arc::new(decide));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = of_thread.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (peer, script, decide) = (of_thread.clone(), script.clone(), decide.clone());
                std::thread::spawn(move || {
                    peer.open.fetch_add(1, Ordering::SeqCst);
                    let session = Session {
                        peer: peer.clone(),
                        decide,
                        number,
                        transaction: 0,
                        stream: Some(Stream::Plain(stream)),
                        buffer: Vec::new(),
                    };
                    // A client that breaks off is part of the tests.
                    let _ = session.run(&script);
                    peer.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        peer
    }

    /// One that takes everything.
    pub fn good(extensions: &[&'static str]) -> Scripted {
        Scripted::start(Script { extensions: extensions.to_vec(), ..Script::default() }, |_| Answer::Usual)
    }

    /// Everything taken so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("no thread panics with it").clone()
    }

    /// The number of messages taken so far.
    pub fn count(&self) -> usize {
        self.taken.lock().expect("no thread panics with it").len()
    }

    /// Everything said so far: number of the connection, `tls` or `plain`, and the line.
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("no thread panics with it").clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

struct Session {
    peer: Scripted,
    decide: Arc<Decide>,
    number: usize,
    transaction: usize,
    stream: Option<Stream>,
    buffer: Vec<u8>,
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Session {
    fn is_encrypted(&self) -> bool {
        matches!(self.stream, Some(Stream::Tls(_)))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.as_mut().ok_or_else(gone)? {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut block = [0; 16 * 1024];
        let count = match self.stream.as_mut().ok_or_else(gone)? {
            Stream::Plain(stream) => stream.read(&mut block)?,
            Stream::Tls(stream) => stream.read(&mut block)?,
        };
        if count == 0 {
            return Err(gone());
        }
        self.buffer.extend_from_slice(&block[..count]);
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    /// Asks the test, then says `usual` or does what the test wants; true when the usual was said.
    fn answer(&mut self, state: &str, line: &str, usual: &str) -> io::Result<bool> {
        let command = Command {
            connection: self.number,
            transaction: self.transaction,
            state,
            line,
            encrypted: self.is_encrypted(),
        };
        match (self.decide)(&command) {
            Answer::Usual => {
                if !usual.is_empty() {
                    self.write(format!("{usual}\r\n").as_bytes())?;
                }
                Ok(true)
            }
            Answer::Say(text) => {
                let text: String = text.split('\n').map(|line| format!("{line}\r\n")).collect();
                self.write(text.as_bytes())?;
                if text.starts_with("421") {
                    return Err(gone());
                }
                // A server of several minds has not taken anything.
                let is_long = text.as_bytes().get(3) == Some(&b'-');
                let mut lines = text.trim_end().split('\n');
                let last = if is_long { lines.next_back() } else { lines.next() }.unwrap_or_default();
                Ok(last.starts_with('2') || (last.starts_with('3') && usual.starts_with('3')))
            }
            Answer::Close => Err(gone()),
            Answer::Reset => {
                let stream = self.stream.take().ok_or_else(gone)?;
                let socket = match &stream {
                    Stream::Plain(stream) => stream,
                    Stream::Tls(stream) => stream.get_ref(),
                };
                socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
                Err(gone())
            }
            Answer::Stall => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Answer::Drip => {
                let mut at = 0;
                loop {
                    self.write(&b"250-x\r\n"[at % 7..at % 7 + 1])?;
                    at += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn shake_hands(&mut self, script: &Script) -> io::Result<()> {
        self.answer("HANDSHAKE", "", "")?;
        let Some(Stream::Plain(stream)) = self.stream.take() else { return Err(gone()) };
        let (own, above) = script.certificate.as_ref().expect("TLS needs a certificate");
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor.set_certificate(&own.certificate)?;
        acceptor.set_private_key(&own.key)?;
        for one in above {
            acceptor.add_extra_chain_cert(one.certificate.clone())?;
        }
        acceptor.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        let stream = acceptor.build().accept(stream).map_err(io::Error::other)?;
        if let Some(peer) = stream.ssl().peer_certificate() {
            let name = peer.subject_name().entries().next().and_then(|entry| entry.data().to_string().ok());
            self.log(&format!("(certificate {})", name.unwrap_or_default()));
        }
        let sni = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).map(str::to_owned);
        self.stream = Some(Stream::Tls(Box::new(stream)));
        self.log(&format!("(sni {})", sni.unwrap_or_default()));
        Ok(())
    }

    fn log(&self, line: &str) {
        let state = if self.is_encrypted() { "tls" } else { "plain" };
        let line = format!("{} {state} {line}", self.number);
        self.peer.commands.lock().expect("no thread panics with it").push(line);
    }

    fn run(mut self, script: &Script) -> io::Result<()> {
        if let Some(Stream::Plain(stream)) = &self.stream {
            stream.set_nodelay(true)?;
        }
        if script.implicit {
            self.shake_hands(script)?;
        }
        self.answer("CONNECT", "", "220 scripted.test.example ESMTP")?;
        let (mut mail, mut rcpt) = (String::new(), String::new());
        let mut content = Vec::new();
        let mut is_refused = false;
        loop {
            let line = self.line()?;
            self.log(&line);
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "LHLO" => {
                    let mut text = "250-scripted.test.example\r\n".to_owned();
                    for item in &script.extensions {
                        if *item != "STARTTLS" || !self.is_encrypted() {
                            text.push_str(&format!("250-{item}\r\n"));
                        }
                    }
                    text.push_str("250 HELP");
                    self.answer(&verb, &line, &text)?;
                }
                "STARTTLS" => {
                    if self.answer(&verb, &line, "220 go ahead")? {
                        self.shake_hands(script)?;
                    }
                }
                "XCLIENT" => {
                    self.answer(&verb, &line, "220 scripted.test.example ESMTP")?;
                }
                "AUTH" => self.log_in(&line)?,
                "MAIL" => {
                    self.transaction += 1;
                    let taken = self.answer(&verb, &line, "250 2.1.0 sender ok")?;
                    mail = if taken { line.clone() } else { String::new() };
                    rcpt.clear();
                }
                "RCPT" if mail.is_empty() => self.write(b"503 no sender\r\n")?,
                "RCPT" => {
                    let taken = self.answer(&verb, &line, "250 2.1.5 recipient ok")?;
                    rcpt = if taken { line.clone() } else { String::new() };
                }
                "DATA" if rcpt.is_empty() => self.write(b"503 no recipient\r\n")?,
                "DATA" => {
                    if self.answer(&verb, &line, "354 go ahead")? {
                        self.answer("CONTENT", "", "")?;
                        content.clear();
                        loop {
                            let line = self.line()?;
                            if line == "." {
                                break;
                            }
                            content.extend_from_slice(line.strip_prefix('.').unwrap_or(&line).as_bytes());
                            content.extend_from_slice(b"\r\n");
                        }
                        self.end_of_data(&mail, &rcpt, std::mem::take(&mut content))?;
                    }
                }
                "BDAT" => {
                    let mut words = line.split(' ').skip(1);
                    let length: usize = words.next().and_then(|n| n.parse().ok()).ok_or_else(gone)?;
                    let is_last = words.next() == Some("LAST");
                    while self.buffer.len() < length {
                        self.fill()?;
                    }
                    content.extend(self.buffer.drain(..length));
                    if is_refused {
                        self.write(b"503 5.5.1 a chunk was refused\r\n")?;
                        is_refused = !is_last;
                        content.clear();
                    } else if is_last {
                        self.end_of_data(&mail, &rcpt, std::mem::take(&mut content))?;
                    } else {
                        is_refused = !self.answer("CHUNK", &line, "250 chunk ok")?;
                    }
                }
                // What a proxy says about the client is not answered.
                "PROXY" => {}
                "QUIT" => {
                    self.answer(&verb, &line, "221 bye")?;
                    return Ok(());
                }
                _ => {
                    self.answer(&verb, &line, "250 ok")?;
                }
            }
        }
    }

    fn log_in(&mut self, line: &str) -> io::Result<()> {
        // `dXNlcg==` and so on: what a server asks for.
        let questions: &[&str] = match line.split(' ').nth(1) {
            Some("CRAM-MD5") => &["334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"],
            Some("LOGIN") => &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"],
            _ => &[],
        };
        let mut line = line.to_owned();
        let mut state = "AUTH";
        for question in questions {
            if !self.answer(state, &line, question)? {
                return Ok(());
            }
            line = self.line()?;
            self.log(&line);
            state = "LOGIN";
        }
        self.answer(state, &line, "235 2.7.0 welcome")?;
        Ok(())
    }

    fn end_of_data(&mut self, mail: &str, rcpt: &str, content: Vec<u8>) -> io::Result<()> {
        let taken = Taken {
            connection: self.number,
            transaction: self.transaction,
            mail: mail.to_owned(),
            rcpt: rcpt.to_owned(),
            content,
            encrypted: self.is_encrypted(),
        };
        if self.answer("EOD", "", "250 2.0.0 taken")? {
            self.peer.taken.lock().expect("no thread panics with it").push(taken);
        }
        Ok(())
    }
}
