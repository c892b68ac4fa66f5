use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{HeaderIndex, MemoryContent, words};

const ORIGINAL: &str = "Received: x\r\nSubject: Gr=?utf-8?Q?=C3=BC=C3=9Fe?= =?utf-8?Q?gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n";

fn original(text: &str) -> MailMessage {
    MailMessage::new(Arc::new(MemoryContent(Bytes::copy_from_slice(text.as_bytes()))))
}

fn field(part: &[u8], name: &str) -> Option<String> {
    let index = HeaderIndex::parse(part);
    index.named(name).next().map(|f| words::decode(index.body(f)))
}

/// The parts of a multipart message, each with its header.
fn parts(message: &[u8]) -> Vec<Vec<u8>> {
    let kind = field(message, "Content-Type").unwrap();
    let boundary = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"');
    let text = String::from_utf8(message.to_vec()).unwrap();
    let end = format!("\r\n--{boundary}--\r\n");
    assert!(text.ends_with(&end));
    let body = &text[..text.len() - end.len()];
    body.split(&format!("\r\n--{boundary}\r\n")).skip(1).map(|part| part.as_bytes().to_vec()).collect()
}

fn body(part: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(part, b"\r\n\r\n").unwrap();
    part[at + 4..].to_vec()
}

fn with_report<R>(message: &MailMessage, check: impl FnOnce(Report<'_>) -> R) -> R {
    let time = Zoned::utc(1_757_167_391);
    let to = Address::parse("me@here.example").unwrap();
    let recipient = Address::parse("you@there.example").unwrap();
    let lines = ["No such user".to_owned(), "Go\r\naway".to_owned()];
    check(Report {
        action: Action::Failed,
        hostname: "mx.example",
        reporting_mta: None,
        id: report_id(Uuid::from_u128(1), 1, Action::Failed, 0),
        date: &time,
        from: None,
        to: &to,
        subject: None,
        subject_prepend: None,
        headers: &[],
        readable_mimepart: None,
        original: message,
        part3: Original::Headers,
        envid: Some("a+2Bb"),
        received_from: Some(("client.example", "192.0.2.1")),
        arrival: Some(&time),
        orcpt: Some("rfc822;you+40there.example"),
        recipient: &recipient,
        status: None,
        remote_mta: Some("mx.there.example"),
        reply: Reply {
            code: 550,
            enhanced: Some((5, 1, 1)),
            lines: &lines,
            command: "RCPT TO",
            diagnostic_type: "",
        },
        last_attempt: Some(&time),
        will_retry_until: Some(&time),
    })
}

#[test]
fn failed() {
    let message = original(ORIGINAL);
    let out = with_report(&message, |report| report.compose().unwrap());
    assert_eq!(field(&out, "From").unwrap(), "Mail Delivery Subsystem <postmaster@mx.example>");
    assert_eq!(field(&out, "To").unwrap(), "<me@here.example>");
    assert!(field(&out, "Subject").unwrap().starts_with("Undeliverable: Gr"));
    assert_eq!(field(&out, "In-Reply-To").unwrap(), "<1@x>");
    assert_eq!(field(&out, "References").unwrap(), "<1@x>");
    assert_eq!(field(&out, "Date").unwrap(), "Sat, 06 Sep 2025 14:03:11 +0000");
    let parts = parts(&out);
    assert_eq!(parts.len(), 3);
    let readable = String::from_utf8(body(&parts[0])).unwrap();
    for needle in ["<you@there.example>", "550 5.1.1 No such user", "in reply to RCPT TO", "mx.there.example"]
    {
        assert!(readable.contains(needle), "{needle}: {readable}");
    }
    let status = body(&parts[1]);
    assert_eq!(field(&status, "Reporting-MTA").unwrap(), "dns; mx.example");
    assert_eq!(field(&status, "Original-Envelope-Id").unwrap(), "a+b");
    assert_eq!(field(&status, "Received-From-MTA").unwrap(), "dns; client.example (192.0.2.1)");
    assert_eq!(field(&status, "Arrival-Date").unwrap(), "Sat, 06 Sep 2025 14:03:11 +0000");
    let recipient = body(&status);
    let expected = [
        ("Original-Recipient", "rfc822;you@there.example"),
        ("Final-Recipient", "rfc822; you@there.example"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.there.example"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 No such user Go  away"),
        ("Last-Attempt-Date", "Sat, 06 Sep 2025 14:03:11 +0000"),
    ];
    for (name, value) in expected {
        assert_eq!(field(&recipient, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(field(&recipient, "Will-Retry-Until"), None);
    assert_eq!(field(&parts[2], "Content-Type").unwrap(), "text/rfc822-headers");
    assert_eq!(
        body(&parts[2]),
        ORIGINAL
            .split("\r\n\r\n")
            .next()
            .unwrap()
            .as_bytes()
            .iter()
            .chain(b"\r\n")
            .copied()
            .collect::<Vec<u8>>()
    );
}

#[test]
fn variants() {
    let message = original(ORIGINAL);
    let headers = ["X-One: 1\r\nBcc: evil".to_owned()];
    let bad = ["nonsense".to_owned()];
    with_report(&message, |report| {
        let mut report = Report { headers: &headers, ..report };
        report.action = Action::Delayed;
        report.part3 = Original::None;
        report.subject_prepend = Some("Später: ");
        let out = report.compose().unwrap();
        assert!(field(&out, "Subject").unwrap().starts_with("Später: "));
        assert_eq!(field(&out, "X-One").unwrap(), "1\tBcc: evil");
        assert_eq!(field(&out, "Bcc"), None);
        assert_eq!(parts(&out).len(), 2);
        assert!(field(&body(&body(&parts(&out)[1])), "Will-Retry-Until").is_some());
        report.part3 = Original::Full;
        report.subject = Some("Whole");
        report.readable_mimepart = Some(b"Content-Type: text/html\r\n\r\n<p>");
        let out = report.compose().unwrap();
        assert_eq!(field(&out, "Subject").unwrap(), "Whole");
        assert_eq!(field(&parts(&out)[0], "Content-Type").unwrap(), "text/html");
        assert_eq!(body(&parts(&out)[2]), ORIGINAL.as_bytes());
        report.headers = &bad;
        assert!(report.compose().is_err());
    });
}

#[test]
fn global_addresses() {
    let message = original(ORIGINAL);
    with_report(&message, |report| {
        let recipient = Address::parse("dü@bücher.example").unwrap();
        let out = Report { recipient: &recipient, ..report }.compose().unwrap();
        assert!(field(&out, "Content-Type").unwrap().contains("report-type=global-delivery-status"));
        let status = parts(&out)[1].clone();
        assert_eq!(field(&status, "Content-Type").unwrap(), "message/global-delivery-status");
        assert_eq!(field(&body(&body(&status)), "Final-Recipient").unwrap(), "utf-8; dü@bücher.example");
    });
}

#[test]
fn status_codes() {
    let message = original(ORIGINAL);
    with_report(&message, |mut report| {
        for (action, code, enhanced, status, expected) in [
            (Action::Failed, 550, Some((5, 1, 1)), None, (5, 1, 1)),
            (Action::Failed, 550, Some((4, 1, 1)), None, (5, 0, 0)),
            (Action::Failed, 0, None, None, (5, 0, 0)),
            (Action::Failed, 450, None, Some((5, 4, 7)), (5, 4, 7)),
            (Action::Delayed, 0, None, None, (4, 0, 0)),
            (Action::Relayed, 250, None, None, (2, 0, 0)),
        ] {
            report.action = action;
            report.reply.code = code;
            report.reply.enhanced = enhanced;
            report.status = status;
            assert_eq!(report.status_code(), expected);
        }
    });
}

#[test]
fn ids_are_stable_and_distinct() {
    let id = Uuid::from_u128(7);
    assert_eq!(report_id(id, 1, Action::Failed, 0), report_id(id, 1, Action::Failed, 0));
    assert_ne!(report_id(id, 1, Action::Failed, 0), report_id(id, 2, Action::Failed, 0));
    assert_ne!(report_id(id, 1, Action::Delayed, 0), report_id(id, 1, Action::Delayed, 1));
}
