//! A driver for the server machine that decides by the words in addresses and lines, and checks that every way of
//! cutting the input gives the same.

use smtp::Reply;
use smtp::reply::Enhanced;
use smtp::server::{AuthAnswer, AuthRequest, Event, Server, Settings};

/// What a dialogue gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Everything written, with `<TLS>` where a handshake took place.
    pub(crate) output: String,
    /// Contents of accepted messages.
    pub(crate) messages: Vec<Vec<u8>>,
    /// What the auth hook was asked.
    pub(crate) asked: Vec<String>,
    /// What the proxy hook saw.
    pub(crate) proxied: Vec<String>,
    /// The server closed the connection.
    pub(crate) closed: bool,
}

/// Runs the machine over `input` in pieces of `piece` octets. Each further part of `input` is sent when the
/// handshake before it is done. Everything is accepted but addresses with the local part `reject` or `close`, and
/// wrong credentials.
pub(crate) fn run(settings: &Settings, input: &[&[u8]], piece: usize) -> Outcome {
    let mut server = Server::new(settings.clone());
    server.greet(None);
    let mut outcome = Outcome::default();
    let mut current = Vec::new();
    let mut output = Vec::new();
    let mut parts = input.iter();
    let mut chunks = parts.next().unwrap_or(&&b""[..]).chunks(piece.max(1));
    loop {
        match server.next() {
            Event::NeedInput => match chunks.next() {
                Some(chunk) => server.feed(chunk),
                None => break,
            },
            Event::Proxy(line) => proxy(&mut server, &line, &mut outcome),
            Event::Helo(_) => server.helo(Reply::new(250, None, "mx.example"), None, None, false),
            Event::StartTls => {
                output.extend(server.take_output());
                match chunks.next() {
                    // What was sent before the handshake must not count.
                    Some(chunk) => server.feed(chunk),
                    None => {
                        output.extend_from_slice(b"<TLS>\r\n");
                        server.tls_started(false);
                        chunks = parts.next().unwrap_or(&&b""[..]).chunks(piece.max(1));
                    }
                }
            }
            Event::Auth(request) => {
                let (text, answer) = decide(request);
                outcome.asked.push(text);
                server.auth(answer, false);
            }
            Event::Mail { address, .. } => match address.localpart.as_str() {
                "reject" => server.mail(Reply::new(554, None, "Sender rejected"), false),
                "close" => server.mail(Reply::new(554, None, "Sender rejected"), true),
                _ => server.mail(Reply::new(250, None, "sender"), false),
            },
            Event::Rcpt { address, .. } if address.localpart == "reject" => {
                server.rcpt(Reply::new(550, None, "no"), false);
            }
            Event::Rcpt { .. } => server.rcpt(Reply::new(250, None, "recipient"), false),
            Event::Data => server.data(None),
            Event::Content => current.extend_from_slice(server.content()),
            Event::EndOfData(summary) => {
                assert_eq!(summary.bytes as usize, current.len());
                outcome.messages.push(std::mem::take(&mut current));
                server.end_of_data(Reply::new(250, None, "queued"), false);
            }
            Event::DataRefused(_) => current.clear(),
            // A transaction may end in the middle of its chunks.
            Event::Reset => current.clear(),
            Event::Close => {
                outcome.closed = true;
                break;
            }
        }
    }
    output.extend(server.take_output());
    outcome.output = String::from_utf8(output).expect("replies are UTF-8 here");
    outcome
}

fn proxy(server: &mut Server, line: &[u8], outcome: &mut Outcome) {
    let line = String::from_utf8_lossy(line).into_owned();
    outcome.proxied.push(line.clone());
    if let Some(rest) = line.strip_prefix("BREV FRÅN:") {
        server.pass(Some(format!("MAIL FROM:{rest}").into_bytes()), false);
    } else if line == "HEJDÅ" {
        server.proxy_reply(Reply::new(221, Some(Enhanced(2, 0, 0)), "Ha det bra"), false, true);
    } else if line == "TWO" {
        server.proxy_reply(Reply::new(250, Some(Enhanced(2, 0, 0)), "go on"), true, false);
    } else if line.starts_with("PASSNEXT") {
        server.pass(Some(b"NOOP".to_vec()), true);
    } else if line == "secret" {
        server.proxy_reply(Reply::new(250, Some(Enhanced(2, 0, 0)), "thanks"), false, false);
    } else {
        server.pass(None, false);
    }
}

fn decide(request: AuthRequest) -> (String, AuthAnswer) {
    let reply = |code, a, text: &str| Reply::new(code, Some(Enhanced(a, 7, 0)), text);
    let verdict = |good: bool| match good {
        true => AuthAnswer::Accept(reply(235, 2, "welcome")),
        false => AuthAnswer::Reject(reply(535, 5, "no")),
    };
    match request {
        AuthRequest::Password { mechanism, username, password } => {
            let text = format!(
                "{mechanism} {} {}",
                String::from_utf8_lossy(&username),
                String::from_utf8_lossy(&password)
            );
            let answer = match &*username {
                b"later" => AuthAnswer::Defer(reply(454, 4, "later")),
                name => verdict(name == b"joe" && password == b"pass"),
            };
            (text, answer)
        }
        AuthRequest::Response { mechanism, state, response } => {
            let response = response.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let text = format!("{mechanism} {state} {response:?}");
            let answer = match state {
                0 | 1 if response.as_deref() != Some("token") => {
                    AuthAnswer::Challenge(format!("<{state}@mx>").into_bytes(), None)
                }
                _ => verdict(matches!(response.as_deref(), Some("token" | "joe digest"))),
            };
            (text, answer)
        }
    }
}

/// The codes of all replies, with their enhanced codes.
pub(crate) fn codes(output: &str) -> Vec<String> {
    output
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' ') || line.starts_with('<'))
        .map(|line| {
            let enhanced = line.get(4..).unwrap_or_default().split(' ').next().unwrap_or_default();
            if line.starts_with('<') {
                line.to_owned()
            } else if enhanced.split('.').count() == 3
                && enhanced.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            {
                format!("{} {enhanced}", &line[..3])
            } else {
                line[..3].to_owned()
            }
        })
        .collect()
}

/// Checks the codes of all replies (greeting left out), whatever way the input is cut.
pub(crate) fn expect(settings: &Settings, input: &[&[u8]], expected: &[&str]) -> Outcome {
    let length = input.iter().map(|part| part.len()).max().unwrap_or(1);
    let whole = run(settings, input, length.max(1));
    let shown: Vec<_> = input.iter().map(|part| String::from_utf8_lossy(part)).collect();
    assert_eq!(codes(&whole.output)[1..], *expected, "{shown:?}\n{}", whole.output);
    for piece in 1..length.min(40) {
        assert_eq!(run(settings, input, piece), whole, "{shown:?} in pieces of {piece}");
    }
    whole
}
