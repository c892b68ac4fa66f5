//! Dialogues about the extensions of the server machine, by section of `smtp-hooks`: AUTH (5.4), the proxy hook
//! (5.2), commands (8), the effective set (9), TLS (11), line ends (14).

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Outcome, expect, run};
use smtp::content::BareLineFeed;
use smtp::server::{AuthSettings, Extensions, Proxied, Settings, TlsSettings};

fn with(items: &[&str]) -> Settings {
    let mut settings = Settings::new("mx.example");
    settings.extensions = Extensions::new(items.iter().map(|&item| item.to_owned()));
    settings
}

/// Everything that can be announced.
fn full() -> Settings {
    let mut settings = with(&[
        "PIPELINING",
        "SIZE 1000",
        "STARTTLS",
        "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "DSN",
    ]);
    settings.size_max = 1000;
    settings.tls.available = true;
    settings.auth = Some(AuthSettings { tls_only: false, failures_max: 3 });
    settings
}

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

fn after_ehlo(settings: &Settings, input: &str, expected: &[&str]) -> Outcome {
    let input = format!("EHLO c\r\n{input}");
    expect(settings, &[input.as_bytes()], &[&["250"], expected].concat())
}

#[test]
fn s5_4_plain_with_and_without_initial_response() {
    let good = b64("\0joe\0pass");
    let outcome = after_ehlo(&full(), &format!("AUTH PLAIN {good}\r\n"), &["235 2.7.0"]);
    assert_eq!(outcome.asked, ["PLAIN joe pass"]);
    let outcome = after_ehlo(&full(), &format!("auth plain\r\n{good}\r\n"), &["334", "235 2.7.0"]);
    assert!(outcome.output.contains("334 \r\n"), "{}", outcome.output);
    let with_identity = b64("admin\0joe\0pass");
    let outcome = after_ehlo(&full(), &format!("AUTH PLAIN {with_identity}\r\n"), &["235 2.7.0"]);
    assert_eq!(outcome.asked, ["PLAIN joe pass"], "the authorization identity is ignored");
}

#[test]
fn s5_4_login_prompts_and_initial_response() {
    let (name, password) = (b64("joe"), b64("pass"));
    let outcome =
        after_ehlo(&full(), &format!("AUTH LOGIN\r\n{name}\r\n{password}\r\n"), &["334", "334", "235 2.7.0"]);
    assert!(outcome.output.contains("334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n"));
    let outcome = after_ehlo(&full(), &format!("AUTH LOGIN {name}\r\n{password}\r\n"), &["334", "235 2.7.0"]);
    assert_eq!(outcome.asked, ["LOGIN joe pass"]);
    let outcome = after_ehlo(&full(), "AUTH LOGIN =\r\n\r\n", &["334", "535 5.7.0"]);
    assert_eq!(outcome.asked, ["LOGIN  "], "= is an empty response");
}

#[test]
fn s5_4_other_mechanisms_ask_the_hook_for_each_response() {
    let (first, last) = (b64("wrong"), b64("joe digest"));
    let outcome =
        after_ehlo(&full(), &format!("AUTH CRAM-MD5\r\n{first}\r\n{last}\r\n"), &["334", "334", "235 2.7.0"]);
    assert_eq!(
        outcome.asked,
        ["CRAM-MD5 0 None", "CRAM-MD5 1 Some(\"wrong\")", "CRAM-MD5 2 Some(\"joe digest\")"]
    );
    assert!(outcome.output.contains(&format!("334 {}\r\n", b64("<0@mx>"))));
    let outcome = after_ehlo(&full(), &format!("AUTH XOAUTH2 {}\r\n", b64("token")), &["235 2.7.0"]);
    assert_eq!(outcome.asked, ["XOAUTH2 0 Some(\"token\")"]);
}

#[test]
fn s5_4_errors_of_the_exchange() {
    let good = b64("\0joe\0pass");
    for (input, expected) in [
        ("AUTH LOGIN\r\n*\r\nNOOP\r\n".to_owned(), &["334", "501 5.7.0", "250 2.0.0"][..]),
        ("AUTH LOGIN\r\n!!\r\nNOOP\r\n".to_owned(), &["334", "501 5.5.2", "250 2.0.0"]),
        ("AUTH PLAIN !!\r\n".to_owned(), &["501 5.5.2"]),
        (format!("AUTH PLAIN {}\r\n", b64("joe")), &["501 5.5.2"]),
        ("AUTH SCRAM-SHA-1 =\r\n".to_owned(), &["504 5.5.4"]),
        ("AUTH\r\n".to_owned(), &["501 5.5.4"]),
        (format!("AUTH PLAIN {good} x\r\n"), &["501 5.5.4"]),
        (format!("AUTH PLAIN {good}\r\nAUTH PLAIN {good}\r\n"), &["235 2.7.0", "503 5.5.1"]),
        (format!("MAIL FROM:<a@b>\r\nAUTH PLAIN {good}\r\n"), &["250", "503 5.5.1"]),
        (format!("AUTH PLAIN {}\r\n", b64("\0later\0x")), &["454 4.7.0"]),
    ] {
        after_ehlo(&full(), &input, expected);
    }
    // Without a hook, before EHLO and after HELO there is no AUTH.
    after_ehlo(&with(&["AUTH PLAIN"]), "AUTH PLAIN\r\n", &["502 5.5.1"]);
    expect(&full(), &[b"AUTH PLAIN\r\nHELO c\r\nAUTH PLAIN\r\n"], &["502 5.5.1", "250", "502 5.5.1"]);
}

#[test]
fn s5_4_three_refusals_close_the_connection() {
    let bad = format!("AUTH PLAIN {}\r\n", b64("\0joe\0wrong"));
    let outcome = after_ehlo(
        &full(),
        &format!("{}NOOP\r\n", bad.repeat(3)),
        &["535 5.7.0", "535 5.7.0", "535 5.7.0", "421 4.7.0"],
    );
    assert!(outcome.closed);
    let mut patient = full();
    patient.auth = Some(AuthSettings { tls_only: false, failures_max: 0 });
    let outcome = after_ehlo(&patient, &bad.repeat(5), &["535 5.7.0"; 5]);
    assert!(!outcome.closed);
}

#[test]
fn s5_4_needs_tls_unless_told_otherwise() {
    let mut strict = full();
    strict.auth = Some(AuthSettings { tls_only: true, failures_max: 3 });
    let good = format!("AUTH PLAIN {}\r\n", b64("\0joe\0pass"));
    let outcome = after_ehlo(&strict, &good, &["538 5.7.11"]);
    assert!(!outcome.output.contains("AUTH PLAIN"), "not announced: {}", outcome.output);
    assert!(outcome.asked.is_empty());
    let later = format!("EHLO c\r\n{good}");
    let outcome = expect(
        &strict,
        &[b"EHLO c\r\nSTARTTLS\r\n", later.as_bytes()],
        &["250", "220 2.0.0", "<TLS>", "250", "235 2.7.0"],
    );
    assert!(outcome.output.contains("250-AUTH PLAIN LOGIN"), "{}", outcome.output);
}

#[test]
fn s5_2_proxy_translates_answers_and_takes_the_next_line() {
    let mut settings = full();
    settings.proxied = Proxied::commands(&["BREV".into(), "hejdå".into(), "TWO".into(), "PASSNEXT".into()]);
    let outcome = expect(
        &settings,
        &["EHLO c\r\nBREV FRÅN:<a@b>\r\nRCPT TO:<c@d>\r\nTWO\r\nsecret\r\nPASSNEXT\r\nNOOP x\r\nHEJDÅ\r\nNOOP\r\n"
            .as_bytes()],
        &["250", "250", "250", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "221 2.0.0"],
    );
    assert_eq!(outcome.proxied, ["BREV FRÅN:<a@b>", "TWO", "secret", "PASSNEXT", "NOOP x", "HEJDÅ"]);
    assert!(outcome.closed);
}

#[test]
fn s5_2_proxy_sees_commands_but_neither_content_nor_auth_lines() {
    let mut settings = full();
    settings.proxied = Proxied::All;
    let name = b64("joe");
    let outcome = expect(
        &settings,
        &[format!(
            "EHLO c\r\nAUTH LOGIN\r\n{name}\r\n*\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nTWOBDAT 0 LAST\r\n\
             BREV FRÅN:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nTWO\r\n.\r\nQUIT\r\n"
        )
        .as_bytes()],
        &["250", "334", "334", "501 5.7.0", "250", "250", "250 2.0.0", "250", "250", "250", "354", "250", "221 2.0.0"],
    );
    assert_eq!(outcome.messages, [b"TWO".to_vec(), b"TWO\r\n".to_vec()]);
    let expected = [
        "EHLO c",
        "AUTH LOGIN",
        "MAIL FROM:<a@b>",
        "RCPT TO:<c@d>",
        "BDAT 3",
        "BDAT 0 LAST",
        "BREV FRÅN:<a@b>",
        "RCPT TO:<c@d>",
        "DATA",
        "QUIT",
    ];
    assert_eq!(outcome.proxied, expected);
}

#[test]
fn s8_bdat_takes_a_message_in_chunks() {
    let outcome = after_ehlo(
        &full(),
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 6\r\nline\r\nBDAT 6 LAST\r\n.\r\nx\r\nMAIL FROM:<>\r\nQUIT\r\n",
        &["250", "250", "250 2.0.0", "250", "250", "221 2.0.0"],
    );
    assert_eq!(outcome.messages, [b"line\r\n.\r\nx\r\n".to_vec()]);
    assert!(outcome.output.contains("250 2.0.0 6 octets received\r\n"));
    let outcome = after_ehlo(
        &full(),
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 0 LAST\r\nNOOP\r\n",
        &["250", "250", "250", "250 2.0.0"],
    );
    assert_eq!(outcome.messages, [b"".to_vec()]);
}

#[test]
fn s8_bdat_errors_discard_the_chunk() {
    for (input, expected) in [
        ("BDAT 6\r\nQUIT\r\nNOOP\r\n", &["503 5.5.1", "250 2.0.0"][..]),
        ("MAIL FROM:<a@b>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", &["250", "503 5.5.1", "250 2.0.0"]),
        (
            "MAIL FROM:<a@b>\r\nRCPT TO:<reject@d>\r\nBDAT 6 LAST\r\nQUIT\r\nRSET\r\n",
            &["250", "550", "554 5.5.1", "250 2.0.0"],
        ),
        ("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT x\r\nRSET\r\n", &["250", "250", "501 5.5.4", "250 2.0.0"]),
        (
            "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1\r\nxDATA\r\nRCPT TO:<e@d>\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n",
            &["250", "250", "250 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250"],
        ),
    ] {
        assert!(after_ehlo(&full(), input, expected).messages.is_empty(), "{input}");
    }
    after_ehlo(&with(&["SIZE 5"]), "BDAT 1\r\n", &["502 5.5.1"]);
}

#[test]
fn s15_bdat_over_size_kills_the_transaction_until_rset() {
    let big = "y".repeat(600);
    let start = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    let outcome = after_ehlo(
        &full(),
        &format!(
            "{start}BDAT 600\r\n{big}BDAT 600\r\n{big}BDAT 1 LAST\r\nxDATA\r\nRSET\r\n{start}BDAT 1 LAST\r\nx"
        ),
        &["250", "250", "250 2.0.0", "552 5.3.4", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250", "250", "250"],
    );
    assert_eq!(outcome.messages, [b"x".to_vec()]);
    // With LAST the transaction is over, as after DATA.
    let outcome = after_ehlo(
        &full(),
        &format!("{start}BDAT 1200 LAST\r\n{big}{big}{start}BDAT 1 LAST\r\nx"),
        &["250", "250", "552 5.3.4", "250", "250", "250"],
    );
    assert_eq!(outcome.messages, [b"x".to_vec()]);
    // Line ends that grow past the limit are noticed too.
    let grown = "\n".repeat(700);
    after_ehlo(
        &full(),
        &format!("{start}BDAT 700\r\n{grown}RSET\r\n"),
        &["250", "250", "552 5.3.4", "250 2.0.0"],
    );
}

#[test]
fn s11_bdat_and_data_store_the_same() {
    let content = "Subject: x\r\n\r\n.dot\r\nbare\nlf, bare\rcr, run\r\r\nend\r\n";
    let start = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    for policy in [BareLineFeed::Normalize, BareLineFeed::Accept] {
        let mut settings = full();
        settings.bare_line_feed = policy;
        let stuffed = content.replace("\r\n.", "\r\n..");
        let data = run(&settings, &[format!("EHLO c\r\n{start}DATA\r\n{stuffed}.\r\n").as_bytes()], 10_000);
        assert_eq!(data.messages.len(), 1, "{}", data.output);
        for cut in 0..content.len() {
            let (a, b) = content.split_at(cut);
            let input = format!("EHLO c\r\n{start}BDAT {}\r\n{a}BDAT {} LAST\r\n{b}", a.len(), b.len());
            for piece in [1, 7, 10_000] {
                let chunked = run(&settings, &[input.as_bytes()], piece);
                assert_eq!(chunked.messages, data.messages, "{policy:?} cut at {cut} in {piece}");
            }
        }
    }
    let mut strict = full();
    strict.bare_line_feed = BareLineFeed::Reject;
    after_ehlo(
        &strict,
        &format!("{start}BDAT 4 LAST\r\na\nb\rRSET\r\n"),
        &["250", "250", "550 5.6.0", "250 2.0.0"],
    );
    after_ehlo(
        &strict,
        &format!("{start}BDAT 2\r\na\rBDAT 2 LAST\r\n\nb"),
        &["250", "250", "250 2.0.0", "250"],
    );
}

#[test]
fn s9_binarymime_only_where_announced_and_only_with_bdat() {
    let binary = with(&["8BITMIME", "CHUNKING", "BINARYMIME"]);
    let start = "MAIL FROM:<a@b> BODY=BINARYMIME\r\n";
    let rest = "RCPT TO:<c@d>\r\nDATA\r\nBDAT 4 LAST\r\n\n\r\0\u{7f}";
    let outcome = after_ehlo(&binary, &format!("{start}{rest}"), &["250", "250", "503 5.5.1", "250"]);
    assert_eq!(outcome.messages, [b"\n\r\0\x7f".to_vec()], "not one octet is changed");
    after_ehlo(&full(), start, &["501 5.5.4"]);
    after_ehlo(&with(&["SIZE 5"]), start, &["555 5.5.4"]);
}

#[test]
fn s11_starttls_forgets_what_was_said() {
    let outcome = expect(
        &full(),
        &[
            format!("EHLO c\r\nAUTH PLAIN {}\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\n", b64("\0joe\0pass"))
                .as_bytes(),
            format!(
                "MAIL FROM:<a@b>\r\nEHLO c\r\nRCPT TO:<a@b>\r\nAUTH PLAIN {}\r\nSTARTTLS\r\n",
                b64("\0joe\0pass")
            )
            .as_bytes(),
        ],
        &[
            "250",
            "235 2.7.0",
            "250",
            "220 2.0.0",
            "<TLS>",
            "503 5.5.1",
            "250",
            "503 5.5.1",
            "235 2.7.0",
            "503 5.5.1",
        ],
    );
    let second = outcome.output.split("<TLS>").nth(1).unwrap();
    assert!(!second.contains("STARTTLS\r\n250"), "not announced again: {second}");
}

#[test]
fn s12_plaintext_behind_starttls_is_never_a_command() {
    for cut in ["STARTTLS\r\nNOOP\r\n", "STARTTLS\r\nX", "STARTTLS\r\n\r\n"] {
        let outcome = after_ehlo(&full(), cut, &["220 2.0.0"]);
        assert!(outcome.closed, "{cut:?}");
        assert!(!outcome.output.contains("<TLS>"));
    }
}

#[test]
fn s11_starttls_errors() {
    after_ehlo(&full(), "STARTTLS now\r\n", &["501 5.5.4"]);
    after_ehlo(&with(&["SIZE 5"]), "STARTTLS\r\n", &["502 5.5.1"]);
    let mut removed = full();
    removed.extensions = Extensions::new(["SIZE 5".to_owned()]);
    after_ehlo(&removed, "STARTTLS\r\n", &["502 5.5.1"]);
    expect(&full(), &[b"STARTTLS\r\nHELO c\r\nSTARTTLS\r\n"], &["502 5.5.1", "250", "502 5.5.1"]);
}

#[test]
fn s11_required_tls_certificate_and_authentication() {
    let mut settings = full();
    settings.tls = TlsSettings { available: true, required: true, peer_certificate_required: false };
    let outcome = expect(
        &settings,
        &[b"EHLO c\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\n", b"EHLO c\r\nMAIL FROM:<a@b>\r\n"],
        &["250", "530 5.7.0", "220 2.0.0", "<TLS>", "250", "250"],
    );
    assert!(outcome.output.contains("530 5.7.0 Must issue a STARTTLS command first"));
    settings.tls.peer_certificate_required = true;
    expect(
        &settings,
        &[b"EHLO c\r\nSTARTTLS\r\n", b"EHLO c\r\nMAIL FROM:<a@b>\r\n"],
        &["250", "220 2.0.0", "<TLS>", "250", "530 5.7.0"],
    );
    let mut settings = full();
    settings.auth_required = true;
    after_ehlo(
        &settings,
        &format!("MAIL FROM:<a@b>\r\nAUTH PLAIN {}\r\nMAIL FROM:<a@b>\r\n", b64("\0joe\0pass")),
        &["530 5.7.0", "235 2.7.0", "250"],
    );
}

#[test]
fn s13_items_outside_the_effective_set_are_refused() {
    let cases: &[(&str, &str, &str)] = &[
        ("SIZE 5000", "MAIL FROM:<a@b> SIZE=5\r\n", "555 5.5.4"),
        ("8BITMIME", "MAIL FROM:<a@b> BODY=8BITMIME\r\n", "555 5.5.4"),
        ("SMTPUTF8", "MAIL FROM:<a@b> SMTPUTF8\r\n", "555 5.5.4"),
        ("SMTPUTF8", "MAIL FROM:<ä@b>\r\n", "553 5.6.7"),
        ("CHUNKING", "BDAT 0 LAST\r\n", "502 5.5.1"),
        ("DSN", "MAIL FROM:<a@b> RET=FULL\r\n", "555 5.5.4"),
        ("DSN", "MAIL FROM:<a@b> ENVID=x\r\n", "555 5.5.4"),
        ("AUTH", "AUTH PLAIN =\r\n", "502 5.5.1"),
        ("AUTH", "MAIL FROM:<a@b> AUTH=<>\r\n", "555 5.5.4"),
        ("STARTTLS", "STARTTLS\r\n", "502 5.5.1"),
    ];
    for (item, command, expected) in cases {
        let mut settings = full();
        settings.extensions = settings.extensions.without(&[item.split(' ').next().unwrap_or_default()]);
        after_ehlo(&settings, command, &[expected]);
        let outcome = after_ehlo(&settings, "", &[]);
        assert!(!outcome.output.contains(item), "{item} announced: {}", outcome.output);
        // HELO announces nothing and allows nothing.
        let input = format!("HELO c\r\n{command}");
        let outcome = expect(&full(), &[input.as_bytes()], &["250", expected]);
        assert!(outcome.output.starts_with("220 mx.example ESMTP\r\n250 mx.example\r\n"));
    }
    after_ehlo(&full(), "MAIL FROM:<a@b> AUTH=<>\r\n", &["250"]);
    after_ehlo(&full(), "MAIL FROM:<a@b>\r\nRCPT TO:<a@b> NOTIFY=NEVER,DELAY\r\n", &["250", "501 5.5.4"]);
    after_ehlo(&with(&["LIMITS RCPTMAX=5"]), "MAIL FROM:<a@b> X=1\r\n", &["555 5.5.4"]);
    after_ehlo(&with(&["X-OWN"]), "MAIL FROM:<a@b> X=1\r\n", &["250"]);
}

#[test]
fn s10_only_crlf_dot_crlf_ends_data() {
    let ends = [
        "\n.\n",
        "\r.\r",
        "\n.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\n\n.\r\n",
        "\r\n\x00\n.\r\n",
        "\r\r\n.\n",
        "\r\n.\r\r\n",
        "\n.\r",
        "\r.\n",
        "\n.\n\r",
        "\x0b.\r\n",
        "\u{85}.\u{85}",
        "\r\n .\r\n",
    ];
    let hidden = "MAIL FROM:<evil@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhidden";
    for policy in [BareLineFeed::Normalize, BareLineFeed::Reject, BareLineFeed::Accept] {
        let mut settings = full();
        settings.size_max = 0;
        settings.bare_line_feed = policy;
        for end in ends {
            let input =
                format!("HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx{end}{hidden}\r\n.\r\n");
            let length = input.len();
            for piece in [1, 2, 3, 5, length] {
                let outcome = run(&settings, &[input.as_bytes()], piece);
                let count = outcome.output.matches("\r\n354 ").count();
                assert_eq!(count, 1, "{policy:?} {end:?} was taken for the end:\n{}", outcome.output);
                assert!(outcome.messages.len() <= 1);
                for message in &outcome.messages {
                    let text = String::from_utf8_lossy(message);
                    assert!(text.contains("MAIL FROM:<evil@b>"), "the rest is content");
                    let mut encoder = smtp::content::DataEncoder::default();
                    let mut wire = Vec::new();
                    encoder.encode(message, &mut wire);
                    encoder.finish(&mut wire);
                    let text = String::from_utf8_lossy(&wire).replace("\r\n", "");
                    assert!(!text.contains(['\r', '\n']), "sent on with a bare line end: {end:?}");
                    let wire = String::from_utf8_lossy(&wire).into_owned();
                    assert_eq!(wire.matches("\r\n.\r\n").count(), 1, "{end:?} {wire:?}");
                }
            }
        }
    }
}

#[test]
fn s9_any_chunking_gives_the_same_replies() {
    use proptest::prelude::*;
    let plain = format!("AUTH PLAIN {}\r\n", b64("\0joe\0pass"));
    let tokens: Vec<Vec<u8>> = [
        "EHLO c\r\n",
        "HELO c\r\n",
        "MAIL FROM:<a@b>\r\n",
        "MAIL FROM:<a@b> BODY=BINARYMIME\r\n",
        "RCPT TO:<a@b>\r\n",
        "RCPT TO:<reject@b>\r\n",
        "DATA\r\n",
        ".\r\n",
        "\r\n.\r\n",
        "BDAT 5\r\n",
        "BDAT 5 LAST\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 2000\r\n",
        "RSET\r\n",
        "AUTH LOGIN\r\n",
        "AUTH CRAM-MD5\r\n",
        "am9l\r\n",
        "*\r\n",
        "TWO\r\n",
        "secret\r\n",
        "HEJDÅ\r\n",
        "\r",
        "\n",
        "STARTTLS\r\n",
        "NOOP\r\n",
        plain.as_str(),
    ]
    .iter()
    .map(|token| token.as_bytes().to_vec())
    .collect();
    let token = prop_oneof![
        8 => proptest::sample::select(tokens),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    let mut settings = full();
    settings.extensions =
        Extensions::new(settings.extensions.items().iter().cloned().chain(["BINARYMIME".to_owned()]));
    settings.proxied = Proxied::commands(&["TWO".into(), "HEJDÅ".into()]);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (proptest::collection::vec(token, 0..24), 1usize..30, any::<bool>());
    runner
        .run(&strategy, |(tokens, piece, accept)| {
            let mut settings = settings.clone();
            settings.bare_line_feed = if accept { BareLineFeed::Accept } else { BareLineFeed::Normalize };
            let input = [b"EHLO c\r\n".to_vec(), tokens.concat()].concat();
            let whole = run(&settings, &[&input], input.len());
            let split = run(&settings, &[&input], piece);
            prop_assert_eq!(whole, split);
            Ok(())
        })
        .unwrap();
}

#[test]
fn s16_debug_forms_hide_secrets() {
    let mut settings = full();
    settings.verbose = true;
    let mut server = smtp::server::Server::new(settings);
    server.greet(None);
    server.feed(b"EHLO c\r\n");
    assert!(matches!(server.next(), smtp::server::Event::Helo(_)));
    server.helo(smtp::Reply::new(250, None, "hi"), None, None, false);
    server.feed(format!("AUTH PLAIN {}\r\n", b64("\0joe\0sesame")).as_bytes());
    let event = server.next();
    assert_eq!(format!("{event:?}"), "Auth(AuthRequest(PLAIN))");
    let dialogue = server.take_dialogue().join("\n");
    assert!(dialogue.contains("< AUTH (hidden)"), "{dialogue}");
    assert!(!dialogue.contains(&b64("\0joe\0sesame")));
}
