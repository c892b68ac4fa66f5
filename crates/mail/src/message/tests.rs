use proptest::prelude::*;

use super::*;
use crate::MemoryContent;

const TEXT: &str = "Received: by me\r\nReceived: by you\r\nSubject: =?utf-8?Q?f=C3=BCr?=\r\n dich\r\nX: 1\r\nX: 2\r\n\r\nX: body\r\n";

fn message(text: &str) -> MailMessage {
    MailMessage::new(Arc::new(MemoryContent(Bytes::copy_from_slice(text.as_bytes()))))
}

fn shown(message: &MailMessage) -> String {
    String::from_utf8(message.to_bytes().unwrap()).unwrap()
}

const AS_IS: WriteOptions = WriteOptions { encode: false, encoding: crate::words::WordEncoding::Shorter };

#[test]
fn getters() {
    let m = message(TEXT);
    assert_eq!(m.subject().unwrap().as_deref(), Some("für dich"));
    assert_eq!(m.received_count().unwrap(), 2);
    assert_eq!(m.get_header("x", 1, FieldOptions::default()).unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(m.get_header("x", 2, FieldOptions::default()).unwrap(), None);
    let field = FieldOptions { field: true, decode: true };
    assert_eq!(m.get_header("X", 0, field).unwrap().as_deref(), Some(&b"X: 1\r\n"[..]));
    assert_eq!(m.get_headers("RECEIVED", FieldOptions::default()).unwrap().len(), 2);
    assert_eq!(m.header_names().unwrap(), ["received", "received", "subject", "x", "x"]);
}

#[test]
fn writers() {
    let mut m = message(TEXT);
    m.prepend_header("A", b"top", AS_IS).unwrap();
    m.append_header("B", b"end", AS_IS).unwrap();
    assert_eq!(m.set_header("x", b"one", None, AS_IS).unwrap(), 1);
    assert_eq!(m.del_header("Received", Some(0)).unwrap(), 1);
    assert_eq!(m.del_header("Received", Some(0)).unwrap(), 0);
    assert_eq!(m.del_header("Nope", None).unwrap(), 0);
    assert_eq!(
        shown(&m),
        "A: top\r\nReceived: by you\r\nSubject: =?utf-8?Q?f=C3=BCr?=\r\n dich\r\nx: one\r\nX: 2\r\nB: end\r\n\r\nX: body\r\n"
    );
    assert_eq!(m.rename_header("x", "Y").unwrap(), 2);
    assert!(shown(&m).contains("Y: one\r\nY: 2\r\n"));
    // Getters read the original all the time.
    assert_eq!(m.get_header("X", 0, FieldOptions::default()).unwrap().as_deref(), Some(&b"1"[..]));
    assert!(m.reset() > 0);
    assert_eq!(shown(&m), TEXT);
}

#[test]
fn added_fields_are_set_and_deleted() {
    let mut m = message(TEXT);
    assert_eq!(m.set_header("New", b"1", None, AS_IS).unwrap(), 1);
    assert_eq!(m.set_header("new", b"2", None, AS_IS).unwrap(), 1);
    m.append_header("New", b"3", AS_IS).unwrap();
    assert_eq!(shown(&m), format!("new: 2\r\n{}", TEXT.replace("\r\n\r\n", "\r\nNew: 3\r\n\r\n")));
    assert_eq!(m.set_header("other", b"2", Some(1), AS_IS).unwrap(), 0);
    assert_eq!(m.del_header("NEW", None).unwrap(), 2);
    assert_eq!(shown(&m), TEXT);
    assert!(m.edits().is_empty());
}

#[test]
fn a_body_without_header_stays_a_body() {
    let mut m = message("hello\r\n");
    m.prepend_header("A", b"1", AS_IS).unwrap();
    m.append_header("B", b"2", AS_IS).unwrap();
    assert_eq!(shown(&m), "B: 2\r\nA: 1\r\n\r\nhello\r\n");
    let mut m = message("A: 1");
    m.append_header("B", b"2", AS_IS).unwrap();
    assert_eq!(shown(&m), "A: 1\r\nB: 2\r\n");
}

#[test]
fn snapshots() {
    let mut m = message(TEXT);
    m.prepend_header("A", b"1", AS_IS).unwrap();
    let first = m.snapshot();
    m.del_header("X", None).unwrap();
    let second = m.snapshot();
    m.restore(first).unwrap();
    assert_eq!(shown(&m), format!("A: 1\r\n{TEXT}"));
    m.restore(second).unwrap();
    assert!(!shown(&m).contains("X: 1"));
    assert!(m.restore(7).is_err());
}

#[test]
fn values_cannot_inject() {
    for options in [AS_IS, WriteOptions::default()] {
        let mut m = message(TEXT);
        m.prepend_header("A", b"1\r\nBcc: x\r\n\r\nbody\0", options).unwrap();
        let parsed = HeaderIndex::parse(&m.to_bytes().unwrap());
        assert_eq!(parsed.fields().len(), 6, "{}", shown(&m));
        assert_eq!(parsed.named("bcc").count(), 0);
    }
    for name in ["", "a b", "a:", "a\r\nb", "ä"] {
        assert!(message(TEXT).prepend_header(name, b"", AS_IS).is_err(), "{name:?}");
    }
}

#[test]
fn content_edits_are_checked() {
    let mut m = message("A: 1\r\n\r\nhello");
    m.modify_content(8, 5, "bye").unwrap();
    assert_eq!(shown(&m), "A: 1\r\n\r\nbye");
    assert!(m.modify_content(12, 2, "x").is_err());
    assert!(m.modify_content(u64::MAX, 2, "x").is_err());
    assert_eq!(m.size().unwrap(), 11);
}

proptest! {
    #[test]
    fn untouched_bytes_stay(ops in prop::collection::vec((0_u8..5, 0_usize..3, "[A-DX]", "[ -~\r\n]{0,100}"), 0..12)) {
        let mut m = message(TEXT);
        for (op, index, name, value) in ops {
            let value = value.as_bytes();
            match op {
                0 => m.prepend_header(&name, value, WriteOptions::default()).unwrap(),
                1 => m.append_header(&name, value, AS_IS).unwrap(),
                2 => drop(m.set_header(&name, value, Some(index), AS_IS).unwrap()),
                3 => drop(m.del_header(&name, None).unwrap()),
                _ => drop(m.set_header(&name, value, None, WriteOptions::default()).unwrap()),
            }
        }
        let out = shown(&m);
        prop_assert!(out.ends_with("\r\n\r\nX: body\r\n"));
        prop_assert!(out.contains("Received: by me\r\nReceived: by you\r\nSubject: =?utf-8?Q?f=C3=BCr?=\r\n dich\r\n"));
        let parsed = HeaderIndex::parse(out.as_bytes());
        prop_assert!(parsed.fields().iter().all(|f| f.name_end > f.start), "{}", out);
    }
}
