//! The server machine of SMTP on any bytes, whole and in pieces: replies, messages and end must be the same, memory is
//! bounded, and nothing in a message ever becomes a command.

use smtp::Reply;
use smtp::content::{BareLineFeed, DataEncoder};
use smtp::proxy_header;
use smtp::server::{AuthAnswer, AuthSettings, Event, Extensions, Proxied, Server, Settings};

/// What a run gave.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    output: Vec<u8>,
    messages: Vec<Vec<u8>>,
    asked: usize,
    proxied: Vec<Vec<u8>>,
    closed: bool,
}

fn settings(choice: u8) -> Settings {
    let mut settings = Settings::new("mx.example");
    settings.extensions = Extensions::new(
        [
            "PIPELINING",
            "SIZE 300",
            "STARTTLS",
            "AUTH PLAIN LOGIN X-OWN",
            "8BITMIME",
            "SMTPUTF8",
            "CHUNKING",
            "BINARYMIME",
            "DSN",
        ]
        .map(str::to_owned),
    );
    settings.size_max = if choice & 1 == 0 { 300 } else { 0 };
    settings.bare_line_feed = if choice & 2 == 0 { BareLineFeed::Normalize } else { BareLineFeed::Accept };
    settings.tls.available = true;
    settings.auth = Some(AuthSettings { tls_only: choice & 4 != 0, failures_max: 3 });
    settings.proxied = match choice >> 3 & 3 {
        0 => Proxied::None,
        1 => Proxied::All,
        _ => Proxied::commands(&["XNEXT".to_owned(), "XPASS".to_owned()]),
    };
    settings.helo_required = choice & 32 == 0;
    settings.recipients_max = 3;
    settings.data_line_bytes_max = if choice & 64 == 0 { 0 } else { 60 };
    settings
}

/// Content waits in the machine for its driver only, so what it keeps is bounded by a piece and a line.
const CONTENT_BYTES_MAX: usize = 600 * 1024;

fn run(settings: &Settings, input: &[u8], piece: usize) -> Outcome {
    let mut server = Server::new(settings.clone());
    server.greet(None);
    let mut outcome = Outcome::default();
    let mut current = Vec::new();
    let mut chunks = input.chunks(piece.max(1));
    let ok = |code| Reply::new(code, None, "ok");
    loop {
        match server.next() {
            Event::NeedInput => match chunks.next() {
                Some(chunk) => server.feed(chunk),
                None => break,
            },
            Event::Proxy(line) => {
                let next = line.first() == Some(&b'X') && line.len() % 2 == 0;
                match line.get(1) {
                    Some(b'N') => server.proxy_reply(ok(250), next, line.ends_with(b"!")),
                    Some(b'P') => server.pass(Some(b"MAIL FROM:<p@q>".to_vec()), next),
                    _ => server.pass(None, false),
                }
                outcome.proxied.push(line);
            }
            Event::Helo(helo) => {
                server.helo(ok(if helo.host == "no" { 550 } else { 250 }), None, None, false)
            }
            // The handshake takes place when nothing else comes.
            Event::StartTls => match chunks.next() {
                Some(chunk) => server.feed(chunk),
                None => {
                    server.tls_started(true);
                    break;
                }
            },
            Event::Auth(request) => {
                outcome.asked += 1;
                let answer = match (request.mechanism(), outcome.asked % 3) {
                    ("X-OWN", 0) => AuthAnswer::Challenge(b"more".to_vec(), None),
                    (_, 1) => AuthAnswer::Reject(ok(535)),
                    (_, 2) => AuthAnswer::Defer(ok(454)),
                    _ => AuthAnswer::Accept(ok(235)),
                };
                server.auth(answer, false);
            }
            Event::Mail { address, .. } => {
                server.mail(ok(if address.localpart == "no" { 550 } else { 250 }), false)
            }
            Event::Rcpt { address, .. } => {
                server.rcpt(ok(if address.localpart == "no" { 550 } else { 250 }), false)
            }
            Event::Data => server.data((outcome.messages.len() == 2).then(|| ok(451))),
            Event::Content => {
                assert!(server.content().len() <= CONTENT_BYTES_MAX);
                current.extend_from_slice(server.content());
            }
            Event::EndOfData(summary) => {
                assert_eq!(summary.bytes, current.len() as u64, "the machine counts what it hands out");
                outcome.messages.push(std::mem::take(&mut current));
                server.end_of_data(ok(250), false);
            }
            Event::DataRefused(_) | Event::Reset => current.clear(),
            Event::Close => {
                outcome.closed = true;
                break;
            }
        }
    }
    outcome.output = server.take_output();
    outcome
}

/// The first two bytes choose settings and pieces, the rest is what a client sends.
///
/// # Panics
/// On a finding.
pub fn check(data: &[u8]) {
    let Some((choice, input)) = data.split_at_checked(2) else { return };
    // Whatever is no PROXY header must be told without a panic, and a part of one waits for more.
    if let Ok(Some((_, used))) = proxy_header::parse(input) {
        assert!(used <= input.len());
        assert!(matches!(proxy_header::parse(&input[..used - 1]), Ok(None)), "a shorter header was complete");
    }
    let settings = settings(choice[0]);
    let whole = run(&settings, input, input.len());
    for piece in [1, 2, usize::from(choice[1] % 61) + 3] {
        assert_eq!(run(&settings, input, piece), whole, "in pieces of {piece}");
    }
    assert!(whole.output.is_empty() || whole.output.ends_with(b"\r\n"));
    for line in whole.output.split_inclusive(|&b| b == b'\n') {
        assert!(line.ends_with(b"\r\n") && line.len() <= 1000, "a line that no client can read");
        assert!(line[..3].iter().all(u8::is_ascii_digit), "a reply without a code");
    }
    for message in &whole.messages {
        let mut wire = Vec::new();
        let mut encoder = DataEncoder::default();
        encoder.encode(message, &mut wire);
        encoder.finish(&mut wire);
        let ends = wire.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        let starts = usize::from(wire.starts_with(b".\r\n"));
        assert_eq!(ends + starts, 1, "sent on, the message would end early");
    }
}
