//! Dialogues with the client machine: scripted servers, and the two machines against each other.

use mail::Address;
use proptest::prelude::*;
use smtp::Reply;
use smtp::client::{Client, Credentials, Envelope, Event, Failure, Outcome, Settings, StartTls, State};
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
        assert!(
            matches!(outcome.result, Err(Failure::TlsRefused(_) | Failure::TlsNotOffered(_))),
            "{outcome:?}"
        );
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

#[test]
fn logs_in_with_the_strongest_mechanism_that_may_be_used() {
    let account =
        |in_clear| Some(Credentials { username: "user".into(), password: "secret".into(), in_clear });
    let play = |offer: &str, auth, starttls, replies: &[&str]| {
        let mut script = Script::new(Settings { auth, starttls, ..settings() });
        let mut all = vec!["220 hi".to_owned(), format!("250-x\r\n250 {offer}")];
        all.extend(replies.iter().map(|reply| (*reply).to_owned()));
        all.extend(["250", "250", "354", "250"].map(str::to_owned));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let outcome = script.play(&envelope(), &all).unwrap();
        (script, outcome)
    };
    // RFC 2195 has this challenge, with the answer for the account tim and tanstaaftanstaaf.
    let tim = Credentials { username: "tim".into(), password: "tanstaaftanstaaf".into(), in_clear: false };
    let challenge = "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+";
    let (script, outcome) =
        play("AUTH LOGIN PLAIN CRAM-MD5", Some(tim), StartTls::Never, &[challenge, "235 ok"]);
    assert!(outcome.is_delivered(), "{outcome:?}");
    assert_eq!(
        script.sent[1..3],
        ["AUTH CRAM-MD5\r\n", "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n"]
    );

    let (script, outcome) = play("AUTH LOGIN PLAIN", account(true), StartTls::Never, &["235 ok"]);
    assert!(outcome.is_delivered());
    assert_eq!(script.sent[1], "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");

    let (script, outcome) = play(
        "AUTH=LOGIN",
        account(true),
        StartTls::Never,
        &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"],
    );
    assert!(outcome.is_delivered());
    assert_eq!(script.sent[1..4], ["AUTH LOGIN\r\n", "dXNlcg==\r\n", "c2VjcmV0\r\n"]);

    // Not in the clear unless that is wanted; and not without AUTH.
    for (offer, expected) in
        [("AUTH LOGIN PLAIN", "without TLS"), ("SIZE", "not announced"), ("AUTH GSSAPI", "GSSAPI")]
    {
        let (script, outcome) = play(offer, account(false), StartTls::Never, &[]);
        assert!(
            matches!(&outcome.result, Err(Failure::NoLogin(text)) if text.contains(expected)),
            "{outcome:?}"
        );
        assert!(!script.sent.concat().contains("MAIL"));
    }
    // Behind TLS it is no secret to others.
    let mut script = Script::new(Settings { auth: account(false), ..settings() });
    let tls = "250-x\r\n250-AUTH PLAIN\r\n250 STARTTLS";
    let replies = ["220 hi", tls, "220 go", "250-x\r\n250 AUTH PLAIN", "235 ok", "250", "250", "354", "250"];
    assert!(script.play(&envelope(), &replies).unwrap().is_delivered());

    for (replies, state, code) in [
        (&["535 5.7.8 no"][..], State::AuthPlain, 535),
        (&["454 4.7.0 later"], State::AuthPlain, 454),
        (&["421 bye"], State::AuthPlain, 421),
    ] {
        let (_, outcome) = play("AUTH PLAIN", account(true), StartTls::Never, replies);
        assert_eq!(reply_code(&outcome), (state, code));
    }
    for (replies, state, code) in [
        (&["504 no"][..], State::AuthLogin, 504),
        (&["334 x", "501 no"], State::AuthLoginUser, 501),
        (&["334 x", "334 x", "535 no"], State::Auth, 535),
    ] {
        let (_, outcome) = play("AUTH LOGIN", account(true), StartTls::Never, replies);
        assert_eq!(reply_code(&outcome), (state, code));
    }
    let (_, outcome) = play("AUTH CRAM-MD5", account(true), StartTls::Never, &["334 !!!"]);
    assert!(matches!(outcome.result, Err(Failure::Protocol(_))), "{outcome:?}");
    // Once per session.
    let (mut script, _) = play("AUTH PLAIN", account(true), StartTls::Never, &["235 ok"]);
    script.client.send(envelope());
    assert!(script.play(&envelope(), &["250 ok"]).is_some());
    assert_eq!(script.sent.iter().filter(|line| line.starts_with("AUTH")).count(), 1);
}

#[test]
fn tells_who_the_client_was_and_greets_again() {
    let xclient = vec![("addr".to_owned(), "192.0.2.1".to_owned()), ("NAME".to_owned(), "a b+c".to_owned())];
    let settings = Settings { xclient, ..settings() };
    let offer = "250-x\r\n250 XCLIENT NAME ADDR";
    let mut script = Script::new(settings.clone());
    let replies = ["220 hi", offer, "220 anew", offer, "250", "250", "354", "250"];
    assert!(script.play(&envelope(), &replies).unwrap().is_delivered());
    let sent = script.sent.concat();
    assert!(
        sent.starts_with("EHLO me\r\nXCLIENT ADDR=192.0.2.1 NAME=a+20b+2Bc\r\nEHLO me\r\nMAIL"),
        "{sent}"
    );
    let mut without = Script::new(settings.clone());
    assert!(
        without.play(&envelope(), &["220 hi", "250 x", "250", "250", "354", "250"]).unwrap().is_delivered()
    );
    assert!(!without.sent.concat().contains("XCLIENT"), "not announced");
    let outcome = Script::new(settings).play(&envelope(), &["220 hi", offer, "550 no"]).unwrap();
    assert_eq!(reply_code(&outcome), (State::Xclient, 550));
}

#[test]
fn chunks_replace_data() {
    let chunking = Settings { chunking: true, ..settings() };
    let offer = "250-x\r\n250-PIPELINING\r\n250 CHUNKING";
    let mut script = Script::new(chunking.clone());
    assert!(script.play(&envelope(), &["220 hi", offer, "250", "250", "250 taken"]).unwrap().is_delivered());
    let sent = script.sent.concat();
    assert_eq!(sent, "EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 6 LAST\r\nbody\r\n");
    // A refused recipient costs no content, and the session goes on.
    let mut script = Script::new(chunking.clone());
    let outcome = script.play(&envelope(), &["220 hi", offer, "250", "550 no"]).unwrap();
    assert_eq!(reply_code(&outcome), (State::Rcpt, 550));
    assert!(!script.sent.concat().contains("BDAT") && script.client.is_reusable());
    // Without PIPELINING, or without CHUNKING, it is DATA.
    for offer in ["250-x\r\n250 CHUNKING", "250-x\r\n250 PIPELINING"] {
        let mut script = Script::new(chunking.clone());
        assert!(
            script.play(&envelope(), &["220 hi", offer, "250", "250", "354", "250"]).unwrap().is_delivered()
        );
        assert!(script.sent.concat().contains("DATA\r\n"));
    }
    // Bare line ends become CRLF, dots stay, a last line end is added; many chunks.
    let mut client = Client::new(chunking);
    for reply in ["220 hi\r\n", "250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n"] {
        client.feed(reply.as_bytes());
        while !matches!(client.next(), Event::NeedInput(_) | Event::Ready) {}
    }
    client.send(envelope());
    client.feed(b"250 ok\r\n250 ok\r\n");
    assert_eq!(client.next(), Event::SendContent);
    client.take_output();
    let line = [b".", &[b'x'; 998][..], b"\n"].concat();
    let mut expected = Vec::new();
    for _ in 0..2500 {
        client.content(&line);
        expected.extend_from_slice(&line[..999]);
        expected.extend_from_slice(b"\r\n");
    }
    client.content(b"end");
    expected.extend_from_slice(b"end\r\n");
    client.end_content();
    let output = client.take_output();
    let (mut at, mut content, mut chunks) = (0, Vec::new(), 0);
    while at < output.len() {
        let end = at + output[at..].iter().position(|b| *b == b'\n').unwrap();
        let head = std::str::from_utf8(&output[at..end - 1]).unwrap();
        let length: usize = head.split(' ').nth(1).unwrap().parse().unwrap();
        content.extend_from_slice(&output[end + 1..end + 1 + length]);
        at = end + 1 + length;
        assert_eq!(head.ends_with("LAST"), at == output.len(), "{head}");
        chunks += 1;
    }
    assert!(content == expected && chunks == 3, "{chunks}");
    for reply in ["250 ok\r\n", "452 full\r\n"] {
        client.feed(reply.as_bytes());
        assert_eq!(
            client.next(),
            Event::NeedInput(if reply.starts_with('2') { State::Bdat } else { State::Eod })
        );
    }
    client.feed(b"503 no\r\n");
    let Event::Finished(outcome) = client.next() else { panic!("all replies are here") };
    assert_eq!(reply_code(&outcome), (State::Bdat, 452), "the first refusal counts");
}

#[test]
fn resets_between_transactions() {
    for (offer, together) in [("250-x\r\n250 PIPELINING", true), ("250 x", false)] {
        let mut script = Script::new(settings());
        script.play(&envelope(), &["220 hi", offer, "250", "250", "354", "250"]).unwrap();
        script.client.send(envelope());
        let sent = String::from_utf8(script.client.output().clone()).unwrap();
        assert_eq!(sent.starts_with("RSET\r\nMAIL"), together, "{sent}");
        assert!(!script.client.mail_answered());
        let outcome = script.play(&envelope(), &["250 reset", "451 no", "503", "503"]).unwrap();
        assert_eq!(reply_code(&outcome), (State::Mail, 451));
        assert!(script.client.mail_answered());
    }
    let mut script = Script::new(settings());
    script.play(&envelope(), &["220 hi", "250 x", "250", "250", "354", "250"]).unwrap();
    script.client.send(envelope());
    let outcome = script.play(&envelope(), &["500 what"]).unwrap();
    assert_eq!(reply_code(&outcome), (State::Rset, 500));
    assert!(!script.client.mail_answered() && !script.client.is_reusable());
}
