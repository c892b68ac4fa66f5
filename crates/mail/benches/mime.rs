//! MIME throughput: parse, change a header field, write. Beside it in the same run: the crate mail-parser (which only
//! parses) and Python's email package (`cargo bench -p mail --bench mime`).

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::content::for_each_chunk;
use mail::{MailError, MailMessage, MemoryContent, Tree, WriteOptions};

/// Each measurement runs at least so long.
const MEASURE: Duration = Duration::from_secs(2);

/// Text of a fixed random sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn line(&mut self, out: &mut Vec<u8>, width: usize) {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for _ in 0..width {
            out.push(alphabet[(self.next() >> 58) as usize]);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, n: usize) {
    for hop in 0..4 {
        let line = format!(
            "Received: from host{hop}.example ([192.0.2.{hop}])\r\n\tby mx{n}.example with ESMTPS id x{n};\r\n\tTue, 1 Jul 2003 10:52:37 +0200\r\n"
        );
        out.extend_from_slice(line.as_bytes());
    }
    let rest = format!(
        "From: =?utf-8?Q?J=C3=B6rg?= <a{n}@x.example>\r\nTo: b@y.example\r\nSubject: message {n}\r\nMessage-ID: \
         <{n}@x.example>\r\nDate: Tue, 1 Jul 2003 10:52:37 +0200\r\nMIME-Version: 1.0\r\n"
    );
    out.extend_from_slice(rest.as_bytes());
}

/// A message with a text, an HTML part and `attachments` of `kib` KiB each; without attachments a plain text.
fn message(random: &mut Random, n: usize, attachments: usize, kib: usize) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, n);
    if attachments == 0 {
        out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n\r\n");
        for _ in 0..kib * 1024 / 72 {
            random.line(&mut out, 70);
        }
        return out;
    }
    out.extend_from_slice(b"Content-Type: multipart/mixed; boundary=\"outer\"\r\n\r\n--outer\r\nContent-Type: multipart/alternative; boundary=\"inner\"\r\n\r\n");
    for kind in ["plain", "html"] {
        out.extend_from_slice(
            format!("--inner\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n").as_bytes(),
        );
        for _ in 0..30 {
            random.line(&mut out, 70);
        }
    }
    out.extend_from_slice(b"--inner--\r\n");
    for attachment in 0..attachments {
        let head = format!(
            "--outer\r\nContent-Type: application/pdf; name=\"{attachment}.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        for _ in 0..kib * 1024 / 78 {
            random.line(&mut out, 76);
        }
    }
    out.extend_from_slice(b"--outer--\r\n");
    out
}

/// MB/s of one task over all messages.
fn measure(messages: &[Bytes], mut task: impl FnMut(&Bytes)) -> f64 {
    let total: usize = messages.iter().map(Bytes::len).sum();
    messages.iter().for_each(&mut task);
    let begun = Instant::now();
    let mut rounds = 0_u32;
    while begun.elapsed() < MEASURE {
        messages.iter().for_each(&mut task);
        rounds += 1;
    }
    f64::from(rounds) * total as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn edit_and_write(bytes: &Bytes) -> Result<u64, MailError> {
    let mut message = MailMessage::new(Arc::new(MemoryContent(bytes.clone())));
    black_box(message.tree()?);
    message.set_header("Subject", b"changed", None, WriteOptions::default())?;
    message.prepend_header("X-Top", b"value", WriteOptions::default())?;
    let out = message.patched()?;
    let mut written = 0;
    for_each_chunk(&*out, 0..out.len(), |piece| {
        written += black_box(piece).len() as u64;
        Ok::<(), MailError>(())
    })?;
    Ok(written)
}

fn main() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let sets: [(&str, Vec<Bytes>); 3] = [
        ("plain text, 4 KiB", (0..500).map(|n| message(&mut random, n, 0, 4).into()).collect()),
        ("two attachments of 50 KiB", (0..100).map(|n| message(&mut random, n, 2, 50).into()).collect()),
        ("one attachment of 10 MiB", (0..2).map(|n| message(&mut random, n, 1, 10 << 10).into()).collect()),
    ];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/mime.py");
    let folder = std::env::temp_dir().join(format!("mime-bench-{}", std::process::id()));
    println!("MB/s | parse | mail-parser: parse | parse, edit, write | Python: parse, edit, write");
    for (name, messages) in &sets {
        let parse = measure(messages, |bytes| {
            let content = MemoryContent(bytes.clone());
            black_box(Tree::scan(&content).expect("memory can be read"));
        });
        let other = measure(messages, |bytes| {
            black_box(mail_parser::MessageParser::default().parse(&bytes[..]));
        });
        let whole = measure(messages, |bytes| {
            black_box(edit_and_write(bytes).expect("memory can be read"));
        });
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        for (n, bytes) in messages.iter().enumerate() {
            fs::write(folder.join(format!("{n}.eml")), bytes).expect("the temporary folder is writable");
        }
        let output = Command::new("python3").arg(&script).arg(&folder).output().expect("python3 runs");
        fs::remove_dir_all(&folder).expect("the temporary folder is ours");
        let python = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("{name} | {parse:.0} | {other:.0} | {whole:.0} | {python}");
    }
}
