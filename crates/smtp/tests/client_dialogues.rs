//! Dialogues with the client machine: scripted servers, and the two machines against each other.

use mail::Address;
use proptest::prelude::*;
use smtp::Reply;
use smtp::client::{Client, Envelope, Event, Failure, Outcome, Protocol, Settings, StartTls, State};
use smtp::server;

fn settings() -> Settings {
    Settings { helo: "me".into(), pipelining: true, ..Settings::default() }
}

fn address(localpart: &str, domain: &str) -> Address {
    Address { localpart: localpart.into(), domain: domain.into() }
}

fn envelope() -> Envelope {
    Envelope { sender: address("a", "b"), recipient: address("c", "d"), bytes: 5, ..Envelope::default() }
}

/// Plays a scripted server: each line of the client's output is answered by the next script item.
struct Script {
    client: Client,
    sent: Vec<String>,
}

impl Script {
    fn new(settings: Settings) -> Script {
        Script { client: Client::new(settings), sent: Vec::new() }
    }

    /// Runs until the machine wants input and the replies are used up, or it ends.
    fn play(&mut self, envelope: &Envelope, replies: &[&str]) -> Option<Outcome> {
        let mut replies = replies.iter();
        loop {
            let event = self.client.next();
            let output = String::from_utf8(self.client.take_output()).unwrap();
            self.sent.extend(output.split_inclusive("\r\n").map(str::to_owned));
            match event {
                Event::NeedInput(_) => match replies.next() {
                    Some(reply) => self.client.feed(format!("{reply}\r\n").as_bytes()),
                    None => return Some(self.client.peer_closed()),
                },
                Event::StartTls => {
                    self.sent.push("(tls)".into());
                    self.client.tls_started();
                }
                Event::Ready => self.client.send(envelope.clone()),
                Event::SendContent => {
                    self.client.content(b"body\r\n");
                    self.client.end_content();
                }
                Event::Finished(outcome) => return Some(outcome),
                Event::Close => return None,
            }
        }
    }
}

fn reply_code(outcome: &Outcome) -> (State, u16) {
    (outcome.state, outcome.result.as_ref().map_or(0, |reply| reply.code))
}

#[test]
fn pipelines_when_announced() {
    let mut script = Script::new(settings());
    let outcome = script
        .play(
            &envelope(),
            &["220 hi", "250-x\r\n250-PIPELINING\r\n250 SIZE 100", "250 ok", "250 ok", "354 go", "250 done"],
        )
        .unwrap();
    assert!(outcome.is_delivered());
    let sent = script.sent.concat();
    assert_eq!(sent, "EHLO me\r\nMAIL FROM:<a@b> SIZE=5\r\nRCPT TO:<c@d>\r\nDATA\r\nbody\r\n.\r\n");
    assert!(script.client.is_reusable());
    let outcome = script.play(&envelope(), &[]);
    assert!(outcome.is_some(), "idle connection closed by the peer");
}

#[test]
fn every_refusal_is_the_result_of_its_command() {
    let ehlo = "250-x\r\n250 PIPELINING";
    let cases: &[(&[&str], State, u16)] = &[
        (&["554 go away"], State::Banner, 554),
        (&["421 busy"], State::Banner, 421),
        (&["220 hi", "421 busy"], State::Ehlo, 421),
        (&["220 hi", "450 later"], State::Ehlo, 450),
        (&["220 hi", "502 no", "550 neither"], State::Helo, 550),
        (&["220 hi", "250 x", "450 later"], State::Mail, 450),
        (&["220 hi", "250 x", "250 ok", "550 no"], State::Rcpt, 550),
        (&["220 hi", "250 x", "250 ok", "250 ok", "451 no"], State::Data, 451),
        (&["220 hi", "250 x", "250 ok", "250 ok", "354 go", "550 spam"], State::Eod, 550),
        (&["220 hi", ehlo, "450 later", "503 no", "503 no"], State::Mail, 450),
        (&["220 hi", ehlo, "250 ok", "550 no", "503 no"], State::Rcpt, 550),
        (&["220 hi", ehlo, "250 ok", "550 no", "354 go", "554 nothing"], State::Rcpt, 550),
        (&["220 hi", ehlo, "250 ok", "421 bye"], State::Rcpt, 421),
    ];
    for (replies, state, code) in cases {
        let mut script = Script::new(settings());
        let outcome = script.play(&envelope(), replies).unwrap();
        assert_eq!(reply_code(&outcome), (*state, *code), "{replies:?}");
        assert!(!outcome.is_delivered());
    }
}

#[test]
fn falls_back_to_helo() {
    let mut script = Script::new(settings());
    let outcome =
        script.play(&envelope(), &["220 hi", "500 what", "250 x", "250", "250", "354", "250 ok"]).unwrap();
    assert!(outcome.is_delivered());
    assert!(script.sent.contains(&"HELO me\r\n".to_owned()));
    assert!(script.sent.contains(&"MAIL FROM:<a@b>\r\n".to_owned()), "no parameters after HELO");
}

#[test]
fn starttls_as_wanted() {
    let tls = "250-x\r\n250 STARTTLS";
    let mut script = Script::new(settings());
    let outcome =
        script.play(&envelope(), &["220 hi", tls, "220 go", "250 x", "250", "250", "354", "250"]).unwrap();
    assert!(outcome.is_delivered() && script.client.is_tls());
    assert_eq!(script.sent.iter().filter(|line| *line == "EHLO me\r\n").count(), 2);

    let mut refused = Script::new(settings());
    assert!(
        refused
            .play(&envelope(), &["220 hi", tls, "454 no", "250", "250", "354", "250"])
            .unwrap()
            .is_delivered()
    );

    let required = Settings { starttls: StartTls::Required, ..settings() };
    for replies in [&["220 hi", "250 x"][..], &["220 hi", tls, "454 no"]] {
        let outcome = Script::new(required.clone()).play(&envelope(), replies).unwrap();
        assert!(matches!(outcome.result, Err(Failure::TlsRefused(_) | Failure::TlsNotOffered(_))), "{outcome:?}");
    }
    let never = Settings { starttls: StartTls::Never, ..settings() };
    let mut plain = Script::new(never);
    assert!(plain.play(&envelope(), &["220 hi", tls, "250", "250", "354", "250"]).unwrap().is_delivered());
}

#[test]
fn engine_refuses_what_the_server_cannot_take() {
    let big = Envelope { bytes: 101, ..envelope() };
    let outcome = Script::new(settings()).play(&big, &["220 hi", "250-x\r\n250 SIZE 100"]).unwrap();
    assert!(matches!(&outcome.result, Err(Failure::Engine(reply)) if reply.code == 552));
    let utf8 = Envelope { recipient: address("ä", "d"), ..envelope() };
    let outcome = Script::new(settings()).play(&utf8, &["220 hi", "250 x"]).unwrap();
    assert!(matches!(&outcome.result, Err(Failure::Engine(reply)) if reply.code == 553));
    let domain = Envelope { recipient: address("c", "dömain"), ..envelope() };
    let mut script = Script::new(settings());
    assert!(script.play(&domain, &["220 hi", "250 x", "250", "250", "354", "250"]).unwrap().is_delivered());
    assert!(script.sent.contains(&"RCPT TO:<c@xn--dmain-jua>\r\n".to_owned()), "{:?}", script.sent);
}

#[test]
fn garbage_and_closing_are_failures() {
    for (replies, state) in [
        (&["SSH-2.0-x"][..], State::Banner),
        (&["220 hi", "250 x", "354 what"], State::Mail),
        (&["220 hi", "250 x", "250", "250", "250 huh"], State::Data),
    ] {
        let outcome = Script::new(settings()).play(&envelope(), replies).unwrap();
        assert!(matches!(outcome.result, Err(Failure::Protocol(_))), "{outcome:?}");
        assert_eq!(outcome.state, state);
    }
    let outcome = Script::new(settings()).play(&envelope(), &["220 hi", "250 x", "250"]).unwrap();
    assert_eq!(outcome.state, State::Rcpt);
    assert!(matches!(outcome.result, Err(Failure::Closed(_))));
}

/// Client and server machine joined by a wire that is cut into pieces.
fn loopback(content: &[u8], piece: usize, pipelining: bool) -> (Option<Outcome>, Vec<u8>) {
    let mut client = Client::new(Settings { pipelining, ..settings() });
    let mut server = server::Server::new(server::Settings::new("mx"));
    server.greet(None);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut stored = Vec::new();
    let mut outcome = None;
    for _ in 0..100_000 {
        to_client.extend(server.take_output());
        match server.next() {
            server::Event::NeedInput if !to_server.is_empty() => {
                let rest: Vec<u8> = to_server.split_off(piece.min(to_server.len()));
                server.feed(&std::mem::replace(&mut to_server, rest));
            }
            server::Event::NeedInput | server::Event::Reset => {}
            server::Event::Helo(_) => server.helo(Reply::new(250, None, "mx"), None, None, false),
            server::Event::Mail { .. } => server.mail(Reply::new(250, None, "ok"), false),
            server::Event::Rcpt { .. } => server.rcpt(Reply::new(250, None, "ok"), false),
            server::Event::Data => server.data(None),
            server::Event::Content => stored.extend_from_slice(server.content()),
            server::Event::EndOfData(_) => server.end_of_data(Reply::new(250, None, "ok"), false),
            server::Event::DataRefused(_) | server::Event::Close => break,
            // Neither is set up here.
            event @ (server::Event::Proxy(_) | server::Event::StartTls | server::Event::Auth(_)) => {
                panic!("{event:?}")
            }
        }
        to_server.extend(client.take_output());
        match client.next() {
            Event::NeedInput(_) if !to_client.is_empty() => {
                let rest: Vec<u8> = to_client.split_off(piece.min(to_client.len()));
                client.feed(&std::mem::replace(&mut to_client, rest));
            }
            Event::NeedInput(_) | Event::StartTls => {}
            Event::Ready => client.send(envelope()),
            Event::SendContent => {
                client.content(content);
                client.end_content();
            }
            Event::Finished(end) => {
                outcome = Some(end);
                break;
            }
            Event::Close => break,
        }
    }
    (outcome, stored)
}

proptest! {
    #[test]
    fn machines_carry_content_unchanged(lines in proptest::collection::vec("[.a-z]{0,6}", 0..20),
        piece in 1usize..64, pipelining: bool)
    {
        let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let (outcome, stored) = loopback(content.as_bytes(), piece, pipelining);
        prop_assert!(outcome.is_some_and(|outcome| outcome.is_delivered()));
        prop_assert_eq!(stored, content.into_bytes());
    }

    #[test]
    fn arbitrary_replies_end_in_an_outcome(replies in proptest::collection::vec(
        prop_oneof!["[0-9]{3}[ -][a-z]{0,5}", Just("250 ok".to_owned()), Just("354 go".to_owned()), "\\PC{0,10}"], 0..12))
    {
        let replies: Vec<&str> = replies.iter().map(String::as_str).collect();
        Script::new(settings()).play(&envelope(), &replies);
    }
}
