//! A blocking sender on the `smtp::client` machine. It knows what the server promised.

use mail::Address;
use smtp::client::{Client, Envelope, Event, Outcome, Protocol, Settings, StartTls};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A session with a server.
pub struct Sender {
    stream: TcpStream,
    client: Client,
}

impl Sender {
    /// Connects and greets.
    pub fn connect(port: u16) -> io::Result<Sender> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let client = Client::new(Settings {
            protocol: Protocol::Smtp,
            helo: "client.test.example".to_owned(),
            pipelining: true,
            starttls: StartTls::Never,
            ..Settings::default()
        });
        let mut sender = Sender { stream, client };
        match sender.run(b"")? {
            None => Ok(sender),
            Some(outcome) => Err(io::Error::other(format!("{outcome:?}"))),
        }
    }

    /// Sends a message to one recipient; gives how it ended.
    pub fn send(&mut self, from: &str, to: &str, content: &[u8]) -> io::Result<Outcome> {
        let address = |text: &str| Address::parse(text).map_err(io::Error::other);
        self.client.send(Envelope {
            sender: address(from)?,
            recipient: address(to)?,
            bytes: content.len() as u64,
            has_8bit: !content.is_ascii(),
            ..Envelope::default()
        });
        self.run(content)?.ok_or_else(|| io::Error::other("session ended without a result"))
    }

    /// Runs until the session is ready (none) or the transaction ended.
    fn run(&mut self, content: &[u8]) -> io::Result<Option<Outcome>> {
        loop {
            let event = self.client.next();
            let output = self.client.take_output();
            self.stream.write_all(&output)?;
            match event {
                Event::NeedInput(_) => {
                    let mut buffer = [0; 4096];
                    let count = self.stream.read(&mut buffer)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.client.feed(&buffer[..count]);
                }
                Event::Ready => return Ok(None),
                Event::SendContent => {
                    self.client.content(content);
                    self.client.end_content();
                }
                Event::Finished(outcome) => return Ok(Some(outcome)),
                Event::StartTls | Event::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}

/// Sends one message over a connection of its own; it has to be accepted.
///
/// # Panics
/// When it is not.
pub fn send(port: u16, from: &str, to: &str, content: &[u8]) {
    let outcome = Sender::connect(port).and_then(|mut sender| sender.send(from, to, content));
    let outcome = outcome.expect("the server answers");
    assert!(outcome.is_delivered(), "{outcome:?}");
}

/// A dialogue over a plain socket: sends `input` at once and reads until the server closes or is silent.
pub fn talk(port: u16, input: &[u8], silence: Duration) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(silence)).expect("a timeout can be set");
    // The server may close before it has read all of it; what it said is what counts.
    let _ = stream.write_all(input);
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        output.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&output).into_owned()
}
