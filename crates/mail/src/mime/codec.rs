//! Transfer encodings (RFC 2045 6): decoders that take a body in pieces, and the choice and writing of an encoding.

use base64::Engine as _;

/// How a body is coded on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransferEncoding {
    /// ASCII in lines of at most 998 bytes.
    #[default]
    SevenBit,
    /// Any bytes but NUL in lines of at most 998.
    EightBit,
    /// As it is.
    Binary,
    /// RFC 2045 6.7.
    QuotedPrintable,
    /// RFC 2045 6.8.
    Base64,
}

/// Longest line of a message without its end (RFC 5322 2.1.1).
const LINE_BYTES_MAX: usize = 998;
/// Longest coded line (RFC 2045 6.7, 6.8).
const CODED_LINE_BYTES_MAX: usize = 76;

impl TransferEncoding {
    /// By its name in a header; `None` for an unknown one.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        // A word in front of a comment or a stray semicolon counts.
        let name = name.trim_ascii();
        let end = name.iter().position(|b| matches!(b, b';' | b'(' | b' ' | b'\t')).unwrap_or(name.len());
        Some(match name[..end].to_ascii_lowercase().as_slice() {
            b"7bit" => Self::SevenBit,
            b"8bit" => Self::EightBit,
            b"binary" => Self::Binary,
            b"quoted-printable" => Self::QuotedPrintable,
            b"base64" => Self::Base64,
            _ => return None,
        })
    }

    /// The name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::EightBit => "8bit",
            Self::Binary => "binary",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }

    /// The best encoding of a body: 7bit where it is that already, else quoted-printable if that is no longer than
    /// base64. With `text`, bare line feeds are line ends; otherwise they must survive.
    pub fn best(body: &[u8], text: bool) -> Self {
        let mut plain = !body.contains(&0);
        let mut quoted = 0_usize;
        for line in body.split_inclusive(|b| *b == b'\n') {
            let content =
                line.strip_suffix(b"\n").map_or(line, |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
            plain &= content.len() <= LINE_BYTES_MAX && content.is_ascii() && !content.contains(&b'\r');
            plain &= text || content.len() == line.len() || line.ends_with(b"\r\n");
            quoted += line.len() + 2 * content.iter().filter(|b| !qp_plain(**b)).count();
        }
        if plain {
            Self::SevenBit
        } else if quoted <= body.len().div_ceil(3) * 4 {
            Self::QuotedPrintable
        } else {
            Self::Base64
        }
    }

    /// Writes a body. With `text`, bare line feeds become line ends.
    pub fn encode(self, body: &[u8], text: bool) -> Vec<u8> {
        match self {
            Self::SevenBit | Self::EightBit if text => with_crlf(body),
            Self::SevenBit | Self::EightBit | Self::Binary => body.to_vec(),
            Self::QuotedPrintable => quoted_printable(body, text),
            Self::Base64 => {
                let coded = base64::engine::general_purpose::STANDARD.encode(body);
                let mut out = Vec::with_capacity(coded.len() + coded.len() / 38 + 2);
                for line in coded.as_bytes().chunks(CODED_LINE_BYTES_MAX) {
                    out.extend_from_slice(line);
                    out.extend_from_slice(b"\r\n");
                }
                out
            }
        }
    }

    /// Decodes a whole body.
    pub fn decode(self, body: &[u8]) -> Vec<u8> {
        let mut decoder = Decoder::new(self);
        let mut out = Vec::with_capacity(body.len());
        decoder.push(body, &mut out);
        decoder.finish(&mut out);
        out
    }
}

/// Every line end as CRLF.
fn with_crlf(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 16);
    let mut last = 0;
    for &b in body {
        if b == b'\n' && last != b'\r' {
            out.push(b'\r');
        }
        out.push(b);
        last = b;
    }
    out
}

fn qp_plain(b: u8) -> bool {
    matches!(b, b' '..=b'<' | b'>'..=b'~' | b'\t')
}

fn quoted_printable(body: &[u8], text: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 8);
    let mut column = 0;
    for line in body.split_inclusive(|b| *b == b'\n') {
        let bare = line.strip_suffix(b"\n");
        let (content, ended) = match line.strip_suffix(b"\r\n").or(bare.filter(|_| text)) {
            Some(content) => (content, true),
            None => (line, false),
        };
        for (at, &b) in content.iter().enumerate() {
            // White space at the end of a line would get lost on the way.
            let last = at + 1 == content.len();
            let plain = qp_plain(b) && !(last && matches!(b, b' ' | b'\t'));
            // A lone dot or "From " is safe for SMTP, mbox writers change them: code them.
            let plain = plain && !(column == 0 && (b == b'.' || content[at..].starts_with(b"From ")));
            let width = if plain { 1 } else { 3 };
            let room = if last && ended { CODED_LINE_BYTES_MAX } else { CODED_LINE_BYTES_MAX - 1 };
            if column + width > room {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if plain {
                out.push(b);
            } else {
                out.extend_from_slice(format!("={b:02X}").as_bytes());
            }
            column += width;
        }
        if ended {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
    }
    out
}

/// Decodes a body that comes in pieces. Never fails: what is no code is skipped (base64) or kept (quoted-printable).
pub struct Decoder {
    encoding: TransferEncoding,
    /// Base64: bits not given out yet, and how many.
    bits: u32,
    have: u32,
    ended: bool,
    /// Quoted-printable: an escape or white space that is not decided yet.
    held: Vec<u8>,
}

/// White space or a soft break held back by the quoted-printable decoder.
const HELD_BYTES_MAX: usize = 4096;

impl Decoder {
    /// For a body of that encoding.
    pub fn new(encoding: TransferEncoding) -> Self {
        Self { encoding, bits: 0, have: 0, ended: false, held: Vec::new() }
    }

    /// Decodes a piece.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self.encoding {
            TransferEncoding::Base64 => self.push_base64(piece, out),
            TransferEncoding::QuotedPrintable => piece.iter().for_each(|b| self.push_quoted(*b, out)),
            _ => out.extend_from_slice(piece),
        }
    }

    /// The body is complete.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        // White space at the end was added on the way; a lone escape is kept.
        if self.held.first() == Some(&b'=') && self.held.len() > 1 {
            out.append(&mut self.held);
        }
        self.held.clear();
    }

    fn push_base64(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &b in piece {
            if self.ended {
                return;
            }
            let value = BASE64_VALUES[usize::from(b)];
            if value == NO_VALUE {
                self.ended = b == b'=';
                continue;
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.have += 6;
            if self.have >= 8 {
                self.have -= 8;
                // The top eight of the bits that are there.
                out.push((self.bits >> self.have) as u8);
                self.bits &= (1 << self.have) - 1;
            }
        }
    }

    fn push_quoted(&mut self, b: u8, out: &mut Vec<u8>) {
        let hex = |b: u8| char::from(b).to_digit(16);
        match (self.held.first(), b) {
            (None, b'=' | b' ' | b'\t' | b'\r') => self.held.push(b),
            (None, _) => out.push(b),
            (Some(b'='), b'\n') => {
                // A soft break, maybe with white space before the line end.
                if self.held[1..].iter().all(u8::is_ascii_whitespace) {
                    self.held.clear();
                } else {
                    out.append(&mut self.held);
                    out.push(b);
                }
            }
            (Some(b'='), b' ' | b'\t' | b'\r') if self.held[1..].iter().all(u8::is_ascii_whitespace) => {
                self.held.push(b);
                self.bound(out);
            }
            (Some(b'='), _) if self.held.len() == 1 && hex(b).is_some() => self.held.push(b),
            (Some(b'='), _) if self.held.len() == 2 && hex(self.held[1]).is_some() && hex(b).is_some() => {
                let high = hex(self.held[1]).unwrap_or(0);
                // Two hex digits.
                out.push((high * 16 + hex(b).unwrap_or(0)) as u8);
                self.held.clear();
            }
            (Some(b'='), _) => {
                out.append(&mut self.held);
                self.push_quoted(b, out);
            }
            // White space: only a line end or the end of the body makes it vanish (RFC 2045 6.7 (3)).
            (Some(_), b' ' | b'\t' | b'\r') => {
                self.held.push(b);
                self.bound(out);
            }
            (Some(_), b'\n') => {
                if self.held.last() == Some(&b'\r') {
                    out.push(b'\r');
                }
                out.push(b'\n');
                self.held.clear();
            }
            (Some(_), _) => {
                out.append(&mut self.held);
                self.push_quoted(b, out);
            }
        }
    }

    fn bound(&mut self, out: &mut Vec<u8>) {
        if self.held.len() > HELD_BYTES_MAX {
            out.append(&mut self.held);
        }
    }
}

const NO_VALUE: u8 = 0xff;

const BASE64_VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [NO_VALUE; 256];
    let mut at = 0;
    while at < 64 {
        // 64 values fit a byte.
        table[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_leniently() {
        use TransferEncoding::{Base64, QuotedPrintable};
        let cases: &[(TransferEncoding, &[u8], &[u8])] = &[
            (Base64, b"aGVs\r\nbG8=\r\nignored", b"hello"),
            (Base64, b"aGV*sbG8", b"hello"),
            (Base64, b"a", b""),
            (QuotedPrintable, b"caf=C3=a9=\r\n=20ok", b"caf\xc3\xa9 ok"),
            (QuotedPrintable, b"a \t\r\nb= \t\r\nc", b"a\r\nbc"),
            (QuotedPrintable, b"=zz =4 =", b"=zz =4 "),
            (QuotedPrintable, b"a =4", b"a =4"),
            (QuotedPrintable, b"a b\n=\nc  ", b"a b\nc"),
            (QuotedPrintable, b"a\rb", b"a\rb"),
        ];
        for (encoding, coded, plain) in cases {
            let found = encoding.decode(coded);
            assert_eq!(&found, plain, "{}: {}", coded.escape_ascii(), found.escape_ascii());
        }
    }

    #[test]
    fn chooses() {
        use TransferEncoding::{Base64, QuotedPrintable, SevenBit};
        let cases: &[(&[u8], bool, TransferEncoding)] = &[
            (b"hello\r\n", true, SevenBit),
            (b"hello\n", true, SevenBit),
            (b"hello\n", false, QuotedPrintable),
            (b"caf\xc3\xa9 and more text", true, QuotedPrintable),
            (b"\x00\x01\xff\x00\x01\xff", true, Base64),
            (b"", true, SevenBit),
        ];
        for (body, text, encoding) in cases {
            assert_eq!(TransferEncoding::best(body, *text), *encoding, "{}", body.escape_ascii());
        }
        assert_eq!(TransferEncoding::best(&b"x".repeat(999), true), QuotedPrintable);
    }

    proptest! {
        #[test]
        fn round_trip(body in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b'\r'), Just(b'=')], 0..300), cut in 0_usize..300) {
            for encoding in [TransferEncoding::QuotedPrintable, TransferEncoding::Base64, TransferEncoding::best(&body, false)] {
                let coded = encoding.encode(&body, false);
                if encoding != TransferEncoding::SevenBit {
                    prop_assert!(coded.is_ascii());
                    prop_assert!(coded.split(|b| *b == b'\n').all(|line| line.len() <= CODED_LINE_BYTES_MAX + 1));
                }
                let mut decoder = Decoder::new(encoding);
                let (mut out, cut) = (Vec::new(), cut.min(coded.len()));
                decoder.push(&coded[..cut], &mut out);
                decoder.push(&coded[cut..], &mut out);
                decoder.finish(&mut out);
                prop_assert_eq!(&out, &body, "{:?} {}", encoding, coded.escape_ascii());
            }
        }
    }
}
