//! Dialogues with the server machine: what a client sends and every reply it must see.

use smtp::Reply;
use smtp::content::BareLineFeed;
use smtp::server::{Event, Extensions, Server, Settings};

mod common;

use common::codes;

fn run(settings: &Settings, input: &[u8], piece: usize) -> (String, Vec<Vec<u8>>) {
    let outcome = common::run(settings, &[input], piece);
    (outcome.output, outcome.messages)
}

fn expect(settings: &Settings, input: &[u8], expected: &[&str]) -> Vec<Vec<u8>> {
    common::expect(settings, &[input], expected).messages
}

fn settings() -> Settings {
    Settings::new("mx.example")
}

#[test]
fn greets_and_announces() {
    let (output, _) = run(&settings(), b"EHLO client\r\nHELO client\r\nQUIT\r\n", 100);
    assert_eq!(
        output,
        "220 mx.example ESMTP\r\n250-mx.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
         250-SMTPUTF8\r\n250-CHUNKING\r\n250 ENHANCEDSTATUSCODES\r\n250 mx.example\r\n221 2.0.0 Bye\r\n"
    );
}

#[test]
fn takes_a_message() {
    let messages = expect(
        &settings(),
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n",
        &["250 2.0.0".split(' ').next().unwrap_or_default(), "250", "250", "354", "250", "221 2.0.0"]
            .map(|code| if code == "250" { "250" } else { code }),
    );
    assert_eq!(messages, [b"Subject: x\r\n\r\n.dot\r\n".to_vec()]);
}

#[test]
fn takes_pipelined_transactions_in_order() {
    let messages = expect(
        &settings(),
        b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<reject@d>\r\nRCPT TO:<c@d>\r\nDATA\r\none\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nNOOP\r\nQUIT\r\n",
        &["250", "250", "550", "250", "354", "250", "250", "250", "354", "250", "250 2.0.0", "221 2.0.0"],
    );
    assert_eq!(messages, [b"one\r\n".to_vec(), b"".to_vec()]);
}

#[test]
fn refuses_out_of_order_and_malformed_commands() {
    let cases: &[(&str, &[&str])] = &[
        ("MAIL FROM:<a@b>\r\n", &["503 5.5.1"]),
        ("HELO\r\n", &["501 5.5.4"]),
        ("HELO a b\r\n", &["501 5.5.4"]),
        ("EHLO c\r\nRCPT TO:<a@b>\r\n", &["250 8", "503 5.5.1"]),
        ("EHLO c\r\nDATA\r\n", &["250 8", "503 5.5.1"]),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", &["250 8", "250", "503 5.5.1"]),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\nDATA\r\n", &["250 8", "250", "503 5.5.1"]),
        (
            "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<reject@b>\r\nDATA\r\n",
            &["250 8", "250", "550", "554 5.5.1"],
        ),
        ("EHLO c\r\nMAIL FROM:a@b\r\n", &["250 8", "501 5.1.7"]),
        ("EHLO c\r\nMAIL FROM:<a@b> FOO=1\r\n", &["250 8", "555 5.5.4"]),
        ("EHLO c\r\nMAIL FROM:<a@b> SIZE=x\r\n", &["250 8", "501 5.5.4"]),
        ("EHLO c\r\nMAIL FROM:<a@b> SIZE=99999999999\r\nNOOP\r\n", &["250 8", "552 5.3.4", "250 2.0.0"]),
        ("EHLO c\r\nMAIL FROM:<a@b> RET=HDRS\r\n", &["250 8", "555 5.5.4"]),
        ("EHLO c\r\nMAIL FROM:<ä@b>\r\n", &["250 8", "553 5.6.7"]),
        ("EHLO c\r\nMAIL FROM:<ä@b> SMTPUTF8\r\nRCPT TO:<ö@b>\r\n", &["250 8", "250", "250"]),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<ö@b>\r\n", &["250 8", "250", "553 5.6.7"]),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<>\r\n", &["250 8", "250", "501 5.1.3"]),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<postmaster>\r\n", &["250 8", "250", "250"]),
        ("HELO c\r\nMAIL FROM:<a@b> SIZE=1\r\n", &["250", "555 5.5.4"]),
        (
            "EXPN a\r\nVRFY a\r\nVRFY\r\nHELP\r\nSTARTTLS\r\nAUTH PLAIN\r\nBDAT 1\r\n",
            &["502 5.5.1", "252 2.1.5", "501 5.5.4", "214 2.0.0", "502 5.5.1", "502 5.5.1", "502 5.5.1"],
        ),
        (
            "RSET\r\nRSET x\r\nNOOP x\r\nfoo\r\n\r\n",
            &["250 2.0.0", "501 5.5.4", "250 2.0.0", "500 5.5.2", "500 5.5.2"],
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\n", &["421 4.7.0"]),
        ("NOOP\0\r\nNOOP\r\n", &["421 4.7.0"]),
        ("NO\rOP\r\nNOOP\r\n", &["500 5.5.2", "250 2.0.0"]),
        ("EHLO c\r\nMAIL FROM:<close@b>\r\nNOOP\r\n", &["250 8", "554"]),
    ];
    for (input, expected) in cases {
        // `250 8` stands for the EHLO reply, whose last line is no status text.
        let expected: Vec<&str> = expected.iter().map(|&e| if e == "250 8" { "250" } else { e }).collect();
        expect(&settings(), input.as_bytes(), &expected);
    }
}

#[test]
fn limits_recipients_messages_and_errors() {
    let mut limited = settings();
    limited.recipients_max = 1;
    limited.messages_max = 1;
    limited.errors_max = 3;
    let message = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<a@b>\r\nNOOP\r\n";
    expect(&limited, message.as_bytes(), &["250", "250", "250", "452 4.5.3", "354", "250", "421 4.7.0"]);
    expect(
        &limited,
        b"a\r\nb\r\nNOOP\r\nc\r\nd\r\ne\r\nNOOP\r\n",
        &["500 5.5.2", "500 5.5.2", "250 2.0.0", "500 5.5.2", "500 5.5.2", "500 5.5.2", "421 4.7.0"],
    );
}

#[test]
fn limits_content() {
    let mut limited = settings();
    limited.size_max = 10;
    limited.hops_max = 1;
    limited.data_line_bytes_max = 8;
    let transaction = |content: &str| {
        format!("HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n{content}\r\n.\r\nNOOP\r\n")
            .into_bytes()
    };
    let codes = |end| ["250", "250", "250", "354", end, "250 2.0.0"];
    expect(&limited, &transaction("12345678"), &codes("250"));
    expect(&limited, &transaction("123456789"), &codes("552 5.3.4"));
    limited.size_max = 0;
    expect(&limited, &transaction("123456789"), &codes("550 5.6.0"));
    limited.data_line_bytes_max = 0;
    expect(&limited, &transaction("Received: a\r\nReceived: b\r\n\r\nx"), &codes("554 5.4.6"));
    expect(&limited, &transaction("Received: a\r\n\r\nReceived: b"), &codes("250"));
}

#[test]
fn follows_the_bare_line_feed_policy() {
    let input = b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\nb\r\n.\r\n";
    let mut policy = settings();
    assert_eq!(expect(&policy, input, &["250", "250", "250", "354", "250"]), [b"a\r\nb\r\n".to_vec()]);
    policy.bare_line_feed = BareLineFeed::Accept;
    assert_eq!(expect(&policy, input, &["250", "250", "250", "354", "250"]), [b"a\nb\r\n".to_vec()]);
    policy.bare_line_feed = BareLineFeed::Reject;
    assert!(expect(&policy, input, &["250", "250", "250", "354", "550 5.6.0"]).is_empty());
    expect(&settings(), b"NOOP\nNOOP\n", &["250 2.0.0", "250 2.0.0"]);
    let (output, _) = run(&policy, b"NOOP\nNOOP\n", 100);
    assert_eq!(codes(&output)[1..], ["500 5.5.2"]);
}

#[test]
fn discards_overlong_lines() {
    let mut input = vec![b'x'; smtp::server::COMMAND_LINE_BYTES_MAX * 3];
    input.extend_from_slice(b"\r\nNOOP\r\n");
    for piece in [1, 1000, 16 * 1024, 100_000] {
        let (output, _) = run(&settings(), &input, piece);
        assert_eq!(codes(&output)[1..], ["500 5.5.2", "250 2.0.0"]);
    }
    let mut exact = b"NOOP ".to_vec();
    exact.resize(smtp::server::COMMAND_LINE_BYTES_MAX - 2, b'x');
    exact.extend_from_slice(b"\r\n");
    assert_eq!(codes(&run(&settings(), &exact, 7000).0)[1..], ["250 2.0.0"]);
}

#[test]
fn foreign_extensions_open_their_parameters() {
    let mut server = Server::new(settings());
    server.greet(None);
    server.feed(b"EHLO c\r\nMAIL FROM:<a@b> XFOO=1\r\n");
    assert!(matches!(server.next(), Event::Helo(_)));
    let items = Extensions::new(["SIZE 5".to_owned(), "XFOO".to_owned()]);
    server.helo(Reply::new(250, None, "hi"), Some(items), None, false);
    assert!(matches!(server.next(), Event::Mail { parameters, .. } if parameters.len() == 1));
    assert!(
        String::from_utf8(server.take_output()).unwrap().ends_with("250-hi\r\n250-SIZE 5\r\n250 XFOO\r\n")
    );
}

#[test]
fn arbitrary_bytes_never_panic_and_split_alike() {
    use proptest::prelude::*;
    let token = prop_oneof![
        Just(b"EHLO c\r\n".to_vec()),
        Just(b"MAIL FROM:<a@b>\r\n".to_vec()),
        Just(b"RCPT TO:<a@b>\r\n".to_vec()),
        Just(b"DATA\r\n".to_vec()),
        Just(b".\r\n".to_vec()),
        Just(b"RSET\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (proptest::collection::vec(token, 0..24), 1usize..30);
    runner
        .run(&strategy, |(tokens, piece)| {
            let input = tokens.concat();
            let whole = run(&settings(), &input, input.len());
            let split = run(&settings(), &input, piece);
            prop_assert_eq!(whole, split);
            Ok(())
        })
        .unwrap();
}
