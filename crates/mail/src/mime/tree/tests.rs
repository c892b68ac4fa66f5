use std::io;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::MemoryContent;

/// Content that must be read through the window.
struct OnDisk(MemoryContent);

impl Content for OnDisk {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }
}

fn scan(text: &[u8]) -> Tree {
    Tree::scan(&MemoryContent(Bytes::copy_from_slice(text))).unwrap()
}

fn bodies(text: &[u8]) -> Vec<(String, String)> {
    let tree = scan(text);
    (0..tree.parts().len())
        .map(|index| {
            let body = tree.parts()[index].body();
            let body = &text[body.start as usize..body.end as usize];
            (tree.path(index), String::from_utf8_lossy(body).into_owned())
        })
        .filter(|(path, _)| path != "1")
        .collect()
}

fn list(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

const NESTED: &str = "Content-Type: multipart/mixed; boundary=o\r\n\r\npre\r\n--o\r\nContent-Type: \
    multipart/alternative; boundary=\"i\"\r\n\r\n--i\r\n\r\none\r\n--i  \r\nX: y\r\n\r\ntwo\r\n\r\n--i--\r\nbetween\r\n\
    --o\n\nthree\n--o--\r\nepilogue\r\n";

#[test]
fn nested() {
    assert_eq!(
        bodies(NESTED.as_bytes()),
        list(&[
            ("1.1", "--i\r\n\r\none\r\n--i  \r\nX: y\r\n\r\ntwo\r\n\r\n--i--\r\nbetween"),
            ("1.1.1", "one"),
            ("1.1.2", "two\r\n"),
            ("1.2", "three"),
        ])
    );
    let tree = scan(NESTED.as_bytes());
    let text = |range: Range<u64>| &NESTED[range.start as usize..range.end as usize];
    assert_eq!(text(tree.parts()[0].preamble().unwrap()), "pre");
    assert_eq!(text(tree.parts()[0].epilogue().unwrap()), "epilogue\r\n");
    assert_eq!(text(tree.parts()[1].preamble().unwrap()), "");
    assert_eq!(text(tree.parts()[1].epilogue().unwrap()), "between");
    assert_eq!(tree.errors(0), PartErrors::default());
    assert_eq!(tree.find("1.1.2"), Some(3));
    assert_eq!(tree.find("1"), Some(0));
    for wrong in ["", "2", "1.3", "1.1.0", "1.x", "1.1.1.1"] {
        assert_eq!(tree.find(wrong), None, "{wrong}");
    }
    assert_eq!(tree.subtree(1), [1, 2, 3]);
}

#[test]
fn broken_messages() {
    let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let unclosed = PartErrors { unclosed_boundary: true, bad_header: false };
    let bad = PartErrors { unclosed_boundary: false, bad_header: true };
    let fine = PartErrors::default();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], PartErrors);
    let cases: &[Case<'_>] = &[
        // No delimiter at all, then none that ends.
        ("just text\r\n", &[], unclosed),
        ("--b\r\n\r\nx\r\n", &[("1.1", "x\r\n")], unclosed),
        // Delimiters inside the header of a part, and parts without header.
        ("--b\r\nX: y\r\n--b--", &[("1.1", "")], fine),
        ("--b\r\n--b--", &[("1.1", "")], fine),
        ("--b\r\nno field\r\n\r\nx\r\n--b--", &[("1.1", "no field\r\n\r\nx")], bad),
        ("--b\r\nX: y\r\nno field\r\n\r\nx\r\n--b--", &[("1.1", "x")], bad),
        // No delimiters: longer words and dashes inside lines.
        ("--b\r\n\r\n--bb\r\n x--b\r\n--b-\r\n--b--", &[("1.1", "--bb\r\n x--b\r\n--b-")], fine),
        // Nothing after the closing delimiter counts.
        ("--b\r\n\r\nx\r\n--b--\r\n--b\r\n\r\ny\r\n--b--\r\n", &[("1.1", "x")], fine),
        ("--b--", &[], fine),
        // The inner multipart never closes.
        (
            "--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--b--\r\n",
            &[("1.1", "--c\r\n\r\nx"), ("1.1.1", "x")],
            unclosed,
        ),
        // An inner boundary of the same name hides the outer one until it closes.
        (
            "--b\r\nContent-Type: multipart/x; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n--b\r\n\r\ny\r\n--b--",
            &[("1.1", "--b\r\n\r\nx\r\n--b--"), ("1.1.1", "x"), ("1.2", "y")],
            fine,
        ),
    ];
    for (body, parts, errors) in cases {
        let text = format!("{head}{body}");
        assert_eq!(bodies(text.as_bytes()), list(parts), "{body}");
        assert_eq!(scan(text.as_bytes()).errors(0), *errors, "{body}");
    }
    assert_eq!(scan(b"no header\r\n").errors(0), bad);
    assert_eq!(scan(b"").errors(0), fine);
}

#[test]
fn root_geometry() {
    let geometry = |text: &[u8]| {
        let part = Tree::root_only(&MemoryContent(Bytes::copy_from_slice(text))).unwrap();
        (part.header_end, part.body_start, part.end)
    };
    assert_eq!(geometry(b"A: 1\r\n\r\nbody"), (6, 8, 12));
    assert_eq!(geometry(b"A: 1\r\n"), (6, 6, 6));
    assert_eq!(geometry(b"A: 1"), (4, 4, 4));
    assert_eq!(geometry(b"\r\nbody"), (0, 2, 6));
    assert_eq!(geometry(b"body\r\n\r\nmore"), (0, 0, 12));
}

#[test]
fn hostile_messages_are_bounded() {
    // 10^5 levels: each names a boundary and opens it.
    let mut text = String::from("Content-Type: multipart/mixed; boundary=b0\r\n\r\n");
    for level in 0..100_000 {
        text.push_str(&format!(
            "--b{level}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n",
            level + 1
        ));
    }
    let began = std::time::Instant::now();
    let tree = scan(text.as_bytes());
    assert!(tree.parts().len() <= PART_DEPTH_MAX + 1, "{}", tree.parts().len());
    // 10^6 parts.
    let text =
        format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\n".repeat(1_000_000));
    assert_eq!(scan(text.as_bytes()).parts().len(), PARTS_MAX);
    // 10^6 fields, a field of 8 MiB, a line of dashes of 8 MiB.
    let text = "A: b\r\n".repeat(1_000_000);
    assert!(scan(text.as_bytes()).errors(0).bad_header);
    let text = format!("A: {}\r\n\r\nbody", "x".repeat(8 << 20));
    let tree = scan(text.as_bytes());
    assert!(tree.errors(0).bad_header);
    assert_eq!(tree.parts()[0].body_start, text.len() as u64 - 4);
    let text = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "-".repeat(8 << 20));
    scan(text.as_bytes());
    // 10^6 lines that look like delimiters.
    let text = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--c\r\n".repeat(1_000_000));
    scan(text.as_bytes());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

proptest! {
    #[test]
    fn disk_and_memory_agree(
        pieces in prop::collection::vec(prop_oneof![
            Just("--b\r\n"), Just("--b--\r\n"), Just("--c\n"), Just("--c--\n"), Just("\r\n"), Just("\n"), Just("text"),
            Just("Content-Type: multipart/x; boundary=c\r\n"), Just("A: b\r\n"), Just("-"), Just("--"),
        ], 0..40),
        pad in prop::option::of(0_usize..12),
    ) {
        let mut text = String::from("Content-Type: multipart/x; boundary=b\r\n\r\n");
        if let Some(pad) = pad {
            // The window ends somewhere in what follows.
            text.push_str(&"p".repeat(CHUNK_BYTES - text.len() - pad));
            text.push_str("\r\n");
        }
        text.extend(pieces);
        let memory = MemoryContent(Bytes::from(text.clone()));
        let tree = Tree::scan(&memory).unwrap();
        prop_assert_eq!(&tree, &Tree::scan(&OnDisk(memory)).unwrap());
        for part in tree.parts() {
            prop_assert!(part.delimiter <= part.start && part.start <= part.header_end);
            prop_assert!(part.header_end <= part.body_start && part.body_start <= part.end);
            prop_assert!(part.end <= text.len() as u64);
            let mut from = part.body_start;
            for child in &part.children {
                let child = tree.get(*child).unwrap();
                prop_assert!(child.delimiter >= from && child.end <= part.end);
                from = child.end;
            }
            if let Some(close) = part.multipart.as_ref().and_then(|inside| inside.close) {
                prop_assert!(close.start >= from && close.end <= text.len() as u64);
            }
        }
    }

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let tree = scan(&bytes);
        prop_assert!(tree.parts()[0].end == bytes.len() as u64);
    }
}
