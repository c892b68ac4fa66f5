//! Replies: building, writing (server) and reading (client). RFC 5321 4.2, RFC 2034, RFC 3463.

use std::fmt;

/// The longest reply line written, in octets without CRLF; longer text is cut into several lines.
const LINE_TEXT_MAX: usize = 900;

/// The longest reply a client machine accepts, all lines together, in octets.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Enhanced(pub u16, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Enhanced {
    /// Reads `5.7.1` from the start of `text`; gives the code and what follows it (after one space).
    pub fn split(text: &[u8]) -> Option<(Enhanced, &[u8])> {
        let end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
        let word = std::str::from_utf8(&text[..end]).ok()?;
        let mut parts = word.split('.');
        let number = |part: Option<&str>| -> Option<u16> {
            let part = part?;
            (!part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
            part.parse().ok()
        };
        let code = Enhanced(number(parts.next())?, number(parts.next())?, number(parts.next())?);
        if parts.next().is_some() || !matches!(code.0, 2 | 4 | 5) {
            return None;
        }
        Some((code, text.get(end + 1..).unwrap_or_default()))
    }
}

/// One reply: a three-digit code, an optional enhanced code and one or more lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Written on every line where present.
    pub enhanced: Option<Enhanced>,
    /// Text lines without CRLF and without codes; never empty for replies read from the wire.
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// A reply of one line; text is split at `\n` (a CR before it is dropped).
    pub fn new(code: u16, enhanced: Option<Enhanced>, text: impl AsRef<[u8]>) -> Reply {
        Reply { code, enhanced, lines: split_lines(text.as_ref()) }
    }

    /// Shorthand for the built-in replies.
    pub(crate) fn fixed(code: u16, enhanced: (u16, u16, u16), text: &str) -> Reply {
        Reply::new(code, Some(Enhanced(enhanced.0, enhanced.1, enhanced.2)), text)
    }

    /// 2, 3, 4 or 5.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// True for 2xx.
    pub fn is_positive(&self) -> bool {
        self.class() == 2
    }

    /// The text lines as lossy UTF-8 strings.
    pub fn text_lines(&self) -> Vec<String> {
        self.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Appends the reply in wire form. Control bytes become `?`, over-long lines are cut into several.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut texts: Vec<&[u8]> = Vec::with_capacity(self.lines.len().max(1));
        for line in &self.lines {
            let mut rest: &[u8] = line;
            while rest.len() > LINE_TEXT_MAX {
                let (text, more) = rest.split_at(cut(rest));
                texts.push(text);
                rest = more;
            }
            texts.push(rest);
        }
        if texts.is_empty() {
            texts.push(b"");
        }
        let last = texts.len() - 1;
        for (index, text) in texts.iter().enumerate() {
            push_number(out, self.code);
            out.push(if index == last { b' ' } else { b'-' });
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(enhanced.to_string().as_bytes());
                out.push(b' ');
            }
            out.extend(text.iter().map(|&b| if (b < 0x20 && b != b'\t') || b == 0x7f { b'?' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// `550 5.7.1 first line second line`, the form of Diagnostic-Code and of log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in &self.lines {
            if !line.is_empty() {
                write!(f, " {}", String::from_utf8_lossy(line))?;
            }
        }
        Ok(())
    }
}

/// Where a line that is too long is cut: not inside a character of UTF-8.
fn cut(line: &[u8]) -> usize {
    let continues = |&at: &usize| line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    // A character has at most four octets; what has more of these is not UTF-8.
    (LINE_TEXT_MAX - 3..=LINE_TEXT_MAX).rev().find(|at| !continues(at)).unwrap_or(LINE_TEXT_MAX)
}

fn push_number(out: &mut Vec<u8>, code: u16) {
    let code = code.min(999);
    out.extend_from_slice(&[
        b'0' + (code / 100) as u8,
        b'0' + (code / 10 % 10) as u8,
        b'0' + (code % 10) as u8,
    ]);
}

fn split_lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec()).collect()
}

/// Why bytes of a peer are no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line does not start with a code 200 to 599 followed by a space, `-` or its end.
    #[error("malformed reply line '{0}'")]
    Malformed(String),
    /// The lines of one reply carry different codes.
    #[error("reply lines with different codes, {0} and {1}")]
    MixedCodes(u16, u16),
    /// More than [`REPLY_BYTES_MAX`] octets without an end.
    #[error("reply longer than 65536 octets")]
    TooLong,
}

/// Collects the lines of a reply as they arrive.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out already.
    start: usize,
    partial: Option<Reply>,
    bytes: usize,
}

impl ReplyReader {
    /// Takes what was read from the peer.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// True when bytes wait that are no complete reply yet, or a further reply.
    pub fn has_pending(&self) -> bool {
        self.start < self.buffer.len() || self.partial.is_some()
    }

    /// The next complete reply, or none when more input is needed. A bare LF ends a line too.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let rest = &self.buffer[self.start..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if self.bytes + rest.len() > REPLY_BYTES_MAX {
                    return Err(ReplyError::TooLong);
                }
                return Ok(None);
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            self.bytes += end + 1;
            if self.bytes > REPLY_BYTES_MAX {
                return Err(ReplyError::TooLong);
            }
            let (code, more, text) = parse_line(line)?;
            self.start += end + 1;
            let (enhanced, text) = match Enhanced::split(text) {
                Some((enhanced, rest)) if enhanced.0 == code / 100 => (Some(enhanced), rest.to_vec()),
                _ => (None, text.to_vec()),
            };
            // The text was copied above, so the buffer may be compacted by the next feed.
            let reply = match self.partial.take() {
                None => Reply { code, enhanced, lines: vec![text] },
                Some(mut reply) if reply.code == code => {
                    reply.enhanced = reply.enhanced.or(enhanced);
                    reply.lines.push(text);
                    reply
                }
                Some(reply) => return Err(ReplyError::MixedCodes(reply.code, code)),
            };
            if more {
                self.partial = Some(reply);
            } else {
                self.bytes = 0;
                return Ok(Some(reply));
            }
        }
    }
}

fn parse_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let malformed =
        || ReplyError::Malformed(String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned());
    let digits = line.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit)).ok_or_else(malformed)?;
    let code = digits.iter().fold(0u16, |sum, d| sum * 10 + u16::from(d - b'0'));
    if !(200..600).contains(&code) {
        return Err(malformed());
    }
    match line.get(3) {
        None => Ok((code, false, b"")),
        Some(b' ') => Ok((code, false, &line[4..])),
        Some(b'-') => Ok((code, true, &line[4..])),
        Some(_) => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_one_and_many_lines() {
        assert_eq!(wire(&Reply::fixed(250, (2, 0, 0), "Ok")), "250 2.0.0 Ok\r\n");
        assert_eq!(
            wire(&Reply::new(550, Some(Enhanced(5, 7, 1)), "no\r\nway")),
            "550-5.7.1 no\r\n550 5.7.1 way\r\n"
        );
        assert_eq!(wire(&Reply::new(220, None, "a\rb\0c")), "220 a?b?c\r\n");
    }

    #[test]
    fn cuts_long_lines_between_characters() {
        // Two octets each, so 900 is between two of them, and with one before them inside of one.
        for (text, first) in [("å".repeat(600), 900), (format!("x{}", "å".repeat(600)), 899)] {
            let mut out = Vec::new();
            Reply::new(550, None, &text).write(&mut out);
            let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[0].len(), "550-".len() + first);
            assert_eq!(lines.iter().map(|line| &line[4..]).collect::<String>(), text);
        }
        // What is not UTF-8 is cut all the same.
        let mut out = Vec::new();
        Reply::new(550, None, vec![0x80; 2000]).write(&mut out);
        assert_eq!(out.iter().filter(|&&byte| byte == 0x80).count(), 2000);
        assert!(out.split(|&byte| byte == b'\n').all(|line| line.len() <= 1000));
    }

    #[test]
    fn cuts_long_lines() {
        let text = "x".repeat(2000);
        let wire = wire(&Reply::new(250, None, &text));
        assert_eq!(wire.lines().count(), 3);
        assert!(wire.lines().all(|line| line.len() <= 1000));
    }

    #[test]
    fn reads_replies_split_anywhere() {
        let input = b"250-first\r\n250-SIZE 10\r\n250 last\r\n550-5.7.1 a\r\n550 5.7.1 b\r\n354\r\n";
        for split in 0..input.len() {
            let mut reader = ReplyReader::default();
            let mut replies = Vec::new();
            for part in [&input[..split], &input[split..]] {
                reader.feed(part);
                while let Some(reply) = reader.next_reply().unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies.len(), 3, "split at {split}");
            assert_eq!(replies[0].lines.len(), 3);
            assert_eq!(replies[1].to_string(), "550 5.7.1 a b");
            assert_eq!(replies[2].code, 354);
            assert!(!reader.has_pending());
        }
    }

    #[test]
    fn refuses_garbage() {
        for (input, expected) in [
            ("hello\r\n", "malformed"),
            ("150 x\r\n", "malformed"),
            ("2500 x\r\n", "malformed"),
            ("250-a\r\n550 b\r\n", "different codes"),
        ] {
            let mut reader = ReplyReader::default();
            reader.feed(input.as_bytes());
            let error = loop {
                match reader.next_reply() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{input} was accepted"),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains(expected), "{input}: {error}");
        }
        let mut reader = ReplyReader::default();
        reader.feed(&vec![b'x'; REPLY_BYTES_MAX + 1]);
        assert_eq!(reader.next_reply(), Err(ReplyError::TooLong));
    }
}
