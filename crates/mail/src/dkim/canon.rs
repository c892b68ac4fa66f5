//! Canonicalization (RFC 6376 3.4), of fields at once and of bodies in pieces.

use openssl::{error::ErrorStack, hash::Hasher, hash::MessageDigest};

/// How header or body are made comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Canonicalization {
    /// As they are.
    Simple,
    /// White space and case of names do not count.
    #[default]
    Relaxed,
}

impl Canonicalization {
    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "simple" => Some(Self::Simple),
            "relaxed" => Some(Self::Relaxed),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }

    /// A whole field, line end included.
    pub fn field(self, raw: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        match self {
            Self::Simple => {
                let mut last = 0;
                for &b in raw {
                    if b == b'\n' && last != b'\r' {
                        out.push(b'\r');
                    }
                    out.push(b);
                    last = b;
                }
                if !out[from..].ends_with(b"\n") {
                    out.extend_from_slice(b"\r\n");
                }
            }
            Self::Relaxed => {
                let colon = memchr::memchr(b':', raw).unwrap_or(raw.len());
                out.extend(raw[..colon].trim_ascii().iter().map(u8::to_ascii_lowercase));
                out.push(b':');
                let mut space = false;
                let mut first = true;
                for &b in raw.get(colon + 1..).unwrap_or_default() {
                    match b {
                        b'\r' | b'\n' => {}
                        b' ' | b'\t' => space = true,
                        _ => {
                            if space && !first {
                                out.push(b' ');
                            }
                            space = false;
                            first = false;
                            out.push(b);
                        }
                    }
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// Hashes a body that comes in pieces.
pub struct BodyHasher {
    hasher: Hasher,
    mode: Canonicalization,
    /// Octets still to be hashed (`l=`).
    room: u64,
    /// Octets after canonicalization, the limit aside.
    octets: u64,
    /// Line ends that count only if something follows.
    line_ends: u64,
    /// White space that counts only if something follows on its line.
    space: bool,
    carriage_return: bool,
    buffer: Vec<u8>,
}

/// Canonical bytes gathered before they are hashed.
const BUFFER_BYTES: usize = 16 << 10;

impl BodyHasher {
    /// Hashes no more than `limit` octets.
    ///
    /// # Errors
    /// OpenSSL refuses the digest.
    pub fn new(
        digest: MessageDigest,
        mode: Canonicalization,
        limit: Option<u64>,
    ) -> Result<Self, ErrorStack> {
        Ok(Self {
            hasher: Hasher::new(digest)?,
            mode,
            room: limit.unwrap_or(u64::MAX),
            octets: 0,
            line_ends: 0,
            space: false,
            carriage_return: false,
            buffer: Vec::with_capacity(BUFFER_BYTES + 16),
        })
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// OpenSSL.
    pub fn update(&mut self, piece: &[u8]) -> Result<(), ErrorStack> {
        let mut rest = piece;
        while let Some(&b) = rest.first() {
            if self.carriage_return && b != b'\n' {
                // A lone carriage return is text.
                self.carriage_return = false;
                self.text(b"\r")?;
            }
            match b {
                b'\r' => self.carriage_return = true,
                b'\n' => {
                    self.carriage_return = false;
                    self.space = false;
                    self.line_ends += 1;
                }
                b' ' | b'\t' if self.mode == Canonicalization::Relaxed => self.space = true,
                _ => {
                    let end = match self.mode {
                        Canonicalization::Simple => memchr::memchr2(b'\r', b'\n', rest),
                        Canonicalization::Relaxed => {
                            rest.iter().position(|b| matches!(b, b'\r' | b'\n' | b' ' | b'\t'))
                        }
                    };
                    let run = end.unwrap_or(rest.len());
                    self.text(&rest[..run])?;
                    rest = &rest[run..];
                    continue;
                }
            }
            rest = &rest[1..];
        }
        Ok(())
    }

    /// The digest, and how many octets the canonical body has.
    ///
    /// # Errors
    /// OpenSSL.
    pub fn finish(mut self) -> Result<(Vec<u8>, u64), ErrorStack> {
        if self.carriage_return {
            self.text(b"\r")?;
        }
        // All empty lines at the end are ignored; what is left ends with one line end (RFC 6376 3.4.3, 3.4.4).
        if self.octets > 0 || self.mode == Canonicalization::Simple {
            self.put(b"\r\n")?;
        }
        self.flush()?;
        Ok((self.hasher.finish()?.to_vec(), self.octets))
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), ErrorStack> {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.put(b"\r\n")?;
        }
        if std::mem::take(&mut self.space) {
            self.put(b" ")?;
        }
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ErrorStack> {
        self.octets += bytes.len() as u64;
        let kept = usize::try_from(self.room).unwrap_or(usize::MAX).min(bytes.len());
        self.room -= kept as u64;
        if self.buffer.len() + kept > BUFFER_BYTES {
            self.flush()?;
        }
        if kept > BUFFER_BYTES {
            return self.hasher.update(&bytes[..kept]);
        }
        self.buffer.extend_from_slice(&bytes[..kept]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ErrorStack> {
        self.hasher.update(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
