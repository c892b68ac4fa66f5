//! A client that says what it is told to, in plain text or TLS, and reads whole replies.

use crate::PATIENCE;
use crate::certificates::Certificate;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

enum Wire {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<SslStream<TcpStream>>),
    Gone,
}

/// A connection.
pub struct Talk {
    wire: Wire,
    read: Vec<u8>,
    /// Everything read so far.
    pub seen: String,
}

/// How to shake hands.
#[derive(Clone, Default)]
pub struct TlsClient {
    /// Name to ask for.
    pub sni: Option<String>,
    /// Own certificate.
    pub certificate: Option<Certificate>,
    /// The only version.
    pub version: Option<SslVersion>,
    /// Cipher list.
    pub ciphers: Option<String>,
}

impl TlsClient {
    fn connect(&self, stream: TcpStream) -> Result<SslStream<TcpStream>, String> {
        let failed = |error: openssl::error::ErrorStack| error.to_string();
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
        builder.set_verify(SslVerifyMode::NONE);
        if let Some(version) = self.version {
            // Old versions are below the level that the library asks for.
            builder.set_security_level(0);
            builder.set_min_proto_version(Some(version)).map_err(failed)?;
            builder.set_max_proto_version(Some(version)).map_err(failed)?;
        }
        if let Some(ciphers) = &self.ciphers {
            builder.set_cipher_list(ciphers).map_err(failed)?;
        }
        if let Some(own) = &self.certificate {
            builder.set_certificate(&own.certificate).map_err(failed)?;
            builder.set_private_key(&own.key).map_err(failed)?;
        }
        let mut configuration = builder.build().configure().map_err(failed)?;
        configuration.set_use_server_name_indication(self.sni.is_some());
        configuration.set_verify_hostname(false);
        let name = self.sni.as_deref().unwrap_or("unused.example");
        configuration.connect(name, stream).map_err(|error| error.to_string())
    }
}

impl Talk {
    /// Connects to a port and reads nothing yet.
    ///
    /// # Panics
    /// When nobody listens, as everywhere here when the server does not behave.
    pub fn connect(port: u16) -> Talk {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Talk { wire: Wire::Plain(stream), read: Vec::new(), seen: String::new() }
    }

    /// Connects to a Unix socket.
    pub fn connect_path(path: &Path) -> Talk {
        let stream = UnixStream::connect(path).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Talk { wire: Wire::Unix(stream), read: Vec::new(), seen: String::new() }
    }

    /// Connects and shakes hands at once.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn connect_tls(port: u16, tls: &TlsClient) -> Result<Talk, String> {
        let mut talk = Talk::connect(port);
        talk.handshake(tls)?;
        Ok(talk)
    }

    /// Connects, reads the banner and says EHLO.
    pub fn greeted(port: u16) -> Talk {
        let mut talk = Talk::connect(port);
        talk.expect("220 ");
        talk.command("EHLO client.example", "250 ");
        talk
    }

    /// Shakes hands on the open connection.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn handshake(&mut self, tls: &TlsClient) -> Result<(), String> {
        let Wire::Plain(stream) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            panic!("TLS needs a plain TCP connection")
        };
        self.wire = Wire::Tls(Box::new(tls.connect(stream)?));
        Ok(())
    }

    /// STARTTLS.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn starttls(&mut self, tls: &TlsClient) -> Result<(), String> {
        self.command("STARTTLS", "220 2.0.0 ");
        assert!(self.read.is_empty(), "the server talks in the clear after 220");
        self.handshake(tls)
    }

    /// Breaks the connection off with a reset.
    pub fn reset(self) {
        if let Wire::Plain(stream) = &self.wire {
            let socket = socket2::SockRef::from(stream);
            socket.set_linger(Some(Duration::ZERO)).expect("an option");
        }
    }

    /// The state of TLS.
    pub fn ssl(&self) -> &openssl::ssl::SslRef {
        match &self.wire {
            Wire::Tls(stream) => stream.ssl(),
            _ => panic!("not in TLS"),
        }
    }

    /// Sends bytes as they are; whether they arrive is for what follows to tell.
    pub fn send(&mut self, bytes: &[u8]) {
        // The server may have closed already.
        let _ = match &mut self.wire {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Unix(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes),
            Wire::Gone => Ok(()),
        };
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let count = match &mut self.wire {
            Wire::Plain(stream) => stream.read(&mut buffer)?,
            Wire::Unix(stream) => stream.read(&mut buffer)?,
            Wire::Tls(stream) => stream.read(&mut buffer)?,
            Wire::Gone => 0,
        };
        self.read.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// The next whole reply, without its last line end; none when the server has closed.
    pub fn reply(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            while let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                self.seen.push_str(&line);
                assert!(line.ends_with("\r\n"), "a reply without CRLF: {line:?}");
                text.push_str(&line);
                if line.as_bytes().get(3) != Some(&b'-') {
                    return Some(text.trim_end().to_owned());
                }
            }
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset) => return None,
                Err(error) => panic!("no reply: {error}; so far:\n{}", self.seen),
            }
        }
    }

    /// Reads a reply whose last line starts as expected.
    pub fn expect(&mut self, start: &str) -> String {
        let reply =
            self.reply().unwrap_or_else(|| panic!("closed instead of {start:?}; so far:\n{}", self.seen));
        let last = reply.lines().last().unwrap_or_default();
        assert!(last.starts_with(start), "{last:?} instead of {start:?}; so far:\n{}", self.seen);
        reply
    }

    /// Sends a line and expects a reply.
    pub fn command(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(start)
    }

    /// Sends a whole message in an open session; gives the reply to its content.
    pub fn message(&mut self, from: &str, to: &str, content: &str) -> String {
        self.command(&format!("MAIL FROM:<{from}>"), "250 ");
        self.command(&format!("RCPT TO:<{to}>"), "250 ");
        self.command("DATA", "354 ");
        self.send(format!("{content}\r\n.\r\n").as_bytes());
        self.reply().expect("a reply to the content")
    }

    /// The server has to close without another word.
    pub fn expect_closed(&mut self) {
        if let Some(reply) = self.reply() {
            panic!("{reply:?} instead of the end; so far:\n{}", self.seen);
        }
    }

    /// What comes until the server closes or is silent.
    pub fn rest(&mut self, silence: Duration) -> String {
        if let Wire::Plain(stream) = &self.wire {
            stream.set_read_timeout(Some(silence)).expect("an option");
        }
        while matches!(self.fill(), Ok(count) if count > 0) {}
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned();
        self.seen.push_str(&rest);
        rest
    }
}
