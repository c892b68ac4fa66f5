//! Messages from any bytes: they are read, changed and written. What nobody touched comes out as it went in, and what
//! is written reads back.

use bytes::Bytes;
use mail::mime::{Parameters, TransferEncoding};
use mail::{FieldOptions, MailMessage, MemoryContent, NewPart, Tree, WriteOptions};
use std::sync::Arc;

fn message(bytes: &[u8]) -> MailMessage {
    MailMessage::new(Arc::new(MemoryContent(Bytes::copy_from_slice(bytes))))
}

/// The first bytes choose the changes, the rest is the message.
///
/// # Panics
/// On a finding.
pub fn check_message(data: &[u8]) {
    let Some((choice, bytes)) = data.split_at_checked(4) else { return };
    let mut m = message(bytes);
    assert_eq!(m.to_bytes().expect("memory can be read"), bytes, "an untouched message changed");
    let tree: Tree = m.tree().expect("memory can be read").clone();
    for (index, part) in tree.parts().iter().enumerate() {
        assert!(
            part.start <= part.header_end
                && part.header_end <= part.body_start
                && part.body_start <= part.end
        );
        assert_eq!(tree.find(&tree.path(index)), Some(index), "a part has no path");
        let _ = m.body(index, true).expect("memory can be read");
        let _ = m.file_name(index).expect("memory can be read");
        let _ = m.part_fields(index, "Subject", FieldOptions::default()).expect("memory can be read");
    }
    let which = usize::from(choice[1]) % tree.parts().len();
    let new = NewPart(Bytes::from_static(b"Content-Type: a/x\r\n\r\nnew part"));
    let options = WriteOptions::default();
    let done = match choice[0] % 9 {
        0 => m.prepend_part_header(which, "X-New", &choice[2..], options),
        1 => m.set_part_header(which, "Content-Type", b"text/x", None, options).map(drop),
        2 => m.del_part_header(which, "Content-Type", None).map(drop),
        3 => m.set_body(which, &choice[2..], None),
        4 => m.append_part(which, new, "multipart/mixed"),
        5 => m.prepend_part(which, new, "multipart/mixed"),
        6 => m.replace_part(which, new),
        7 => m.remove_part(which),
        _ => m.set_epilogue(which, b"end").map(drop),
    };
    done.expect("memory can be read");
    let after = m.to_bytes().expect("memory can be read");
    assert_eq!(after.len() as u64, m.size().expect("memory can be read"), "the size is wrong");
    // Parts in front of the changed one, and what is inside of them, stand where they stood.
    let first =
        m.edits().expect("memory can be read").edits().first().map_or(bytes.len() as u64, |edit| edit.offset);
    let kept = usize::try_from(first).unwrap_or(usize::MAX).min(bytes.len());
    assert_eq!(after[..kept], bytes[..kept], "bytes before the first edit changed");
    let again = message(&after);
    again.tree().expect("memory can be read");
    m.part_bytes(which).expect("memory can be read");
    m.reset();
    assert_eq!(
        m.to_bytes().expect("memory can be read"),
        bytes,
        "changes are left after all were taken back"
    );
}

/// Bytes as the values of header fields.
///
/// # Panics
/// On a finding.
pub fn check_fields(data: &[u8]) {
    if let Some(list) = mail::address_list::parse(data) {
        let again: Vec<(&str, &str)> = list.iter().map(|one| (&*one.name, &*one.address)).collect();
        let text = mail::address_list::compile(again);
        assert!(!text.contains(['\r', '\n']), "a line end came through");
    }
    if let Some(tags) = mail::dkim::TagList::parse(data) {
        for tag in tags.tags() {
            assert_eq!(tags.get(&tag.name), Some(&tag.value[..]), "a tag is not found");
        }
    }
    let field = [b"DKIM-Signature: ", data].concat();
    if let Ok(signature) = mail::dkim::Signature::parse(&field) {
        let _ = signature.verify(&MemoryContent(Bytes::from(field)), data, 0);
    }
    let _ = mail::dkim::PublicKey::parse(data);
    let parameters = Parameters::parse(data);
    let _ = (parameters.get("charset"), parameters.get("filename"));
    let text = mail::words::decode(data);
    let coded = mail::words::encode(&text, Default::default());
    let written = mail::words::folded_field("X", coded.as_bytes());
    assert!(written.ends_with(b"\r\n"), "a field has no end");
    for encoding in [TransferEncoding::Base64, TransferEncoding::QuotedPrintable] {
        let coded = encoding.encode(data, false);
        assert_eq!(encoding.decode(&coded), data, "{} is not reversible", encoding.name());
        let _ = encoding.decode(data);
    }
}
