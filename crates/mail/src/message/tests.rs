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
    assert!(m.edits().unwrap().is_empty());
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

const PARTS: &str = "Subject: s\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\npre\r\n--o\r\nContent-Type: \
    multipart/alternative; boundary=i\r\n\r\n--i\r\nContent-Type: text/plain\r\n\r\none\r\n--i\r\nContent-Type: \
    text/html\r\nContent-Transfer-Encoding: base64\r\n\r\ndHdv\r\n--i--\r\n--o\r\nContent-Type: \
    application/pdf; name=x.pdf\r\n\r\nthree\r\n--o--\r\nepi\r\n";

/// Type and decoded body of each leaf, in order, as the modified message has them.
fn leaves(m: &MailMessage) -> Vec<String> {
    let m = message(&shown(m));
    let tree = m.tree().unwrap();
    let leaf = |index: &usize| tree.parts()[*index].children.is_empty();
    (0..tree.parts().len())
        .filter(leaf)
        .map(|index| {
            let kind = m.content_type(index).unwrap().map(|kind| kind.value().to_owned()).unwrap_or_default();
            let body = m.body(index, true).unwrap().unwrap();
            format!("{} {kind} {}", tree.path(index), String::from_utf8_lossy(&body).trim_end())
        })
        .collect()
}

fn part(kind: &str, body: &str) -> NewPart {
    NewPart(Bytes::from(format!("Content-Type: {kind}\r\n\r\n{body}")))
}

#[test]
fn parts_are_read() {
    let m = message(PARTS);
    assert_eq!(leaves(&m), ["1.1.1 text/plain one", "1.1.2 text/html two", "1.2 application/pdf three"]);
    assert_eq!(m.body(0, true).unwrap(), None);
    assert_eq!(m.body(3, false).unwrap().unwrap(), b"dHdv");
    assert_eq!(m.file_name(4).unwrap().as_deref(), Some("x.pdf"));
    assert_eq!(m.preamble(0).unwrap().unwrap(), b"pre");
    assert_eq!(m.epilogue(0).unwrap().unwrap(), b"epi\r\n");
    assert_eq!(m.epilogue(1).unwrap().unwrap(), b"");
    assert_eq!(m.preamble(2).unwrap(), None);
    assert_eq!(m.part_size(4).unwrap(), 50);
    assert!(matches!(m.body(9, true), Err(MailError::NoPart(9))));
}

#[test]
fn parts_are_changed() {
    type Change = fn(&mut MailMessage);
    let cases: &[(&str, Change, &[&str])] = &[
        ("remove", |m| m.remove_part(2).unwrap(), &["1.1.1 text/html two", "1.2 application/pdf three"]),
        ("remove inner", |m| m.remove_part(1).unwrap(), &["1.1 application/pdf three"]),
        ("remove last", |m| m.remove_part(4).unwrap(), &["1.1.1 text/plain one", "1.1.2 text/html two"]),
        (
            "append",
            |m| {
                m.append_part(0, part("a/x", "A"), "multipart/mixed").unwrap();
                m.append_part(0, part("a/y", "B"), "multipart/mixed").unwrap();
                m.append_part(1, part("a/z", "C"), "multipart/mixed").unwrap();
            },
            &[
                "1.1.1 text/plain one",
                "1.1.2 text/html two",
                "1.1.3 a/z C",
                "1.2 application/pdf three",
                "1.3 a/x A",
                "1.4 a/y B",
            ],
        ),
        (
            "prepend",
            |m| {
                m.prepend_part(0, part("a/x", "A"), "multipart/mixed").unwrap();
                m.prepend_part(0, part("a/y", "B"), "multipart/mixed").unwrap();
                m.prepend_part(1, part("a/z", "C"), "multipart/mixed").unwrap();
            },
            &[
                "1.1 a/y B",
                "1.2 a/x A",
                "1.3.1 a/z C",
                "1.3.2 text/plain one",
                "1.3.3 text/html two",
                "1.4 application/pdf three",
            ],
        ),
        (
            "replace",
            |m| m.replace_part(1, part("a/x", "A")).unwrap(),
            &["1.1 a/x A", "1.2 application/pdf three"],
        ),
        ("replace root", |m| m.replace_part(0, part("a/x", "A")).unwrap(), &["1 a/x A"]),
        (
            "body",
            |m| m.set_body(3, "zw\u{f6}lf".as_bytes(), None).unwrap(),
            &["1.1.1 text/plain one", "1.1.2 text/html zw\u{f6}lf", "1.2 application/pdf three"],
        ),
        ("body of all", |m| m.set_body(0, b"text", None).unwrap(), &["1 text/plain text"]),
        (
            "wrap a leaf",
            |m| {
                m.append_part(2, part("a/x", "A"), "multipart/related").unwrap();
                m.prepend_part(2, part("a/y", "B"), "multipart/related").unwrap();
                m.append_part(2, part("a/z", "C"), "multipart/related").unwrap();
                m.set_body(2, b"eins", None).unwrap();
            },
            &[
                "1.1.1.1 a/y B",
                "1.1.1.2 text/plain eins",
                "1.1.1.3 a/x A",
                "1.1.1.4 a/z C",
                "1.1.2 text/html two",
                "1.2 application/pdf three",
            ],
        ),
    ];
    for (name, change, expected) in cases {
        let mut m = message(PARTS);
        change(&mut m);
        assert_eq!(leaves(&m), *expected, "{name}:\n{}", shown(&m));
        assert!(message(&shown(&m)).part_errors(0).unwrap().names().next().is_none(), "{name}");
        assert_eq!(
            message(&shown(&m)).get_header("subject", 0, FieldOptions::default()).unwrap().unwrap(),
            b"s"
        );
        m.reset();
        assert_eq!(shown(&m), PARTS);
    }
}

#[test]
fn preamble_and_epilogue() {
    let mut m = message(PARTS);
    assert!(m.set_preamble(0, b"new").unwrap());
    assert!(m.set_epilogue(0, b"end\r\n").unwrap());
    assert!(m.set_preamble(1, b"inner").unwrap());
    assert!(m.set_epilogue(1, b"inner end").unwrap());
    assert!(!m.set_epilogue(2, b"").unwrap());
    let read = message(&shown(&m));
    assert_eq!(read.preamble(0).unwrap().unwrap(), b"new");
    assert_eq!(read.epilogue(0).unwrap().unwrap(), b"end\r\n");
    assert_eq!(read.preamble(1).unwrap().unwrap(), b"inner");
    assert_eq!(read.epilogue(1).unwrap().unwrap(), b"inner end");
    assert_eq!(leaves(&m), leaves(&message(PARTS)));
}

#[test]
fn a_message_becomes_a_multipart() {
    for text in [
        "A: b\r\nContent-Type: text/x\r\n\r\nbody\r\n",
        "A: b\r\nContent-Type: text/x",
        "A: b\r\nContent-Type: text/x\r\n\r\n",
    ] {
        let mut m = message(text);
        m.append_part(0, part("a/x", "A"), "multipart/mixed").unwrap();
        m.prepend_header("Content-Language", b"sv", AS_IS).unwrap();
        let body = if text.contains("body") { "body" } else { "" };
        assert_eq!(leaves(&m), [format!("1.1 text/x {body}"), "1.2 a/x A".to_owned()], "{}", shown(&m));
        let read = message(&shown(&m));
        assert_eq!(read.header_names().unwrap(), ["a", "mime-version", "content-type"]);
        assert_eq!(read.part_header_names(1).unwrap().len(), 2);
    }
}

#[test]
fn a_part_is_taken_out() {
    let mut m = message(PARTS);
    m.set_body(2, b"eins", None).unwrap();
    m.prepend_part_header(1, "X", b"y", AS_IS).unwrap();
    m.remove_part(4).unwrap();
    let text = String::from_utf8(m.part_bytes(1).unwrap().0.to_vec()).unwrap();
    assert_eq!(
        text,
        "X: y\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\nContent-Type: \
         text/plain\r\n\r\neins\r\n--i\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: \
         base64\r\n\r\ndHdv\r\n--i--"
    );
    // Taken out although it is removed from where it was.
    assert!(m.part_bytes(4).unwrap().0.ends_with(b"three"));
    let mut other = message("Subject: other\r\n\r\ntext\r\n");
    other.append_part(0, m.part_bytes(1).unwrap(), "multipart/mixed").unwrap();
    assert_eq!(leaves(&other), ["1.1  text", "1.2.1 text/plain eins", "1.2.2 text/html two"]);
}

#[test]
fn empty_parts_take_text() {
    for text in
        ["--o\r\n--o--", "--o\r\nX: y\r\n--o--", "--o\r\n\r\n--o--\r\n", "--o\r\n\r\n\r\n--o\r\n--o--"]
    {
        let mut m = message(&format!("Content-Type: multipart/x; boundary=o\r\n\r\n{text}"));
        m.set_body(1, b"new", None).unwrap();
        m.append_part(0, part("a/x", "A"), "multipart/mixed").unwrap();
        let found = leaves(&m);
        assert_eq!(found.first().map(String::as_str), Some("1.1  new"), "{}", shown(&m));
        assert!(found.last().unwrap().ends_with("a/x A"), "{}", shown(&m));
        let mut m = message(&format!("Content-Type: multipart/x; boundary=o\r\n\r\n{text}"));
        m.replace_part(1, part("a/y", "B")).unwrap();
        assert_eq!(leaves(&m).first().map(String::as_str), Some("1.1 a/y B"), "{}", shown(&m));
    }
}

fn any_message() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("--o\r\n"),
        Just("--o--\r\n"),
        Just("--i\n"),
        Just("--i--\n"),
        Just("\r\n"),
        Just("\n"),
        Just("text\r\n"),
        Just("Content-Type: multipart/x; boundary=i\r\n"),
        Just("A: b\r\n"),
        Just("-"),
        Just("text"),
    ];
    prop::collection::vec(piece, 0..25)
        .prop_map(|pieces| format!("Content-Type: multipart/x; boundary=o\r\n\r\n{}", pieces.concat()))
}

proptest! {
    #[test]
    fn untouched_parts_stay_byte_for_byte(text in any_message(), which in 0_usize..8, what in 0..7) {
        let mut m = message(&text);
        prop_assert_eq!(shown(&m), text.clone());
        let tree = m.tree().unwrap().clone();
        let which = which % tree.parts().len();
        let touched = tree.subtree(which);
        let mut above = vec![];
        let mut at = Some(which);
        while let Some(index) = at {
            above.push(index);
            at = tree.parts()[index].parent;
        }
        match what {
            0 => m.prepend_part_header(which, "New", b"value", AS_IS).unwrap(),
            1 => m.set_body(which, b"new body", None).unwrap(),
            2 => m.append_part(which, part("a/x", "A"), "multipart/mixed").unwrap(),
            3 => m.prepend_part(which, part("a/x", "A"), "multipart/mixed").unwrap(),
            4 => m.remove_part(which).unwrap(),
            5 => m.replace_part(which, part("a/x", "A")).unwrap(),
            _ => { m.set_epilogue(which, b"new epilogue").unwrap(); }
        }
        let after = shown(&m);
        let edits = m.edits().unwrap();
        prop_assert_eq!(after.len() as u64, m.size().unwrap());
        // Every other part is still there, byte for byte, in the same order.
        let mut from = 0;
        for (index, part) in tree.parts().iter().enumerate() {
            if touched.contains(&index) || above.contains(&index) {
                continue;
            }
            let bytes = &text[part.start as usize..part.end as usize];
            let found = after[from..].find(bytes);
            prop_assert!(found.is_some(), "part {} of {:?} is gone: {:?} {:?}", index, text, after, edits);
            if part.children.is_empty() {
                from += found.unwrap();
            }
        }
        // The patched view reads the same.
        let patched = m.patched().unwrap();
        let mut bytes = vec![0; patched.len() as usize];
        patched.read_at(0, &mut bytes).unwrap();
        prop_assert_eq!(String::from_utf8(bytes).unwrap(), after);
    }

    #[test]
    fn arbitrary_bytes_survive_edits(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut m = MailMessage::new(Arc::new(MemoryContent(Bytes::from(bytes.clone()))));
        prop_assert_eq!(m.to_bytes().unwrap(), bytes.clone());
        m.set_header("X", b"y", None, AS_IS).unwrap();
        m.del_header("A", None).unwrap();
        let end = m.to_bytes().unwrap();
        prop_assert!(end.ends_with(&bytes[m.tree().unwrap().parts()[0].body_start as usize..]));
        m.set_body(0, b"z", None).unwrap();
        m.append_part(0, part("a/x", "A"), "multipart/mixed").unwrap();
        m.to_bytes().unwrap();
        m.part_bytes(0).unwrap();
    }
}

#[test]
fn dates_are_filled_in_late() {
    let mut m = message(TEXT);
    assert_eq!(m.set_date_later().unwrap(), 1);
    let stored = m.edits().unwrap();
    assert!(String::from_utf8_lossy(&stored.apply(TEXT.as_bytes()).unwrap()).contains("Date: \0"));
    let sent = with_date_now(&stored).unwrap().unwrap();
    assert_eq!(sent.size(TEXT.len() as u64), stored.size(TEXT.len() as u64));
    assert!(with_date_now(&sent).unwrap().is_none());
    let read = message(&shown(&m));
    let date = read.get_header("Date", 0, FieldOptions::default()).unwrap().unwrap();
    assert_eq!(date.len(), 31, "{}", date.escape_ascii());
    assert_eq!(m.size().unwrap() as usize, shown(&m).len());
}
