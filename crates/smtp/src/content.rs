//! Message content on the wire: the decoder of a server (end of data, dot-unstuffing, line endings, trace
//! count) and the encoder of a client (dot-stuffing, CRLF only). RFC 5321 4.5.2, 4.1.1.4 and 2.3.8.

/// What a server does with a CR or LF that stands alone (`phases.data.barelinefeed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareLineFeed {
    /// Each becomes CRLF in the stored message.
    #[default]
    Normalize,
    /// The message is read to its true end and refused.
    Reject,
    /// Stored as received.
    Accept,
}

/// CRs held back while their line end is awaited.
const CR_RUN_MAX: u32 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Directly after CRLF (or at the start): a dot here is stuffing or the end.
    Start,
    /// Behind a dot that stood at `Start`.
    Dot,
    /// Behind a dot and one CR.
    DotCr,
    Line,
    /// Behind this many CRs that were not written yet.
    Cr(u32),
}

/// How the end of content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// DATA: dots are stuffed and one ends it.
    Dots,
    /// BDAT: the length was told.
    Counted,
    /// BDAT of a BINARYMIME message: bytes, not lines.
    Verbatim,
}

/// Decodes the content that follows `354`. The only end is CR LF `.` CR LF, and a dot is removed only
/// directly after CR LF, so no mixture of bare line endings can end a message early.
#[derive(Debug)]
pub struct DataDecoder {
    policy: BareLineFeed,
    framing: Framing,
    place: Place,
    seen_bare: bool,
    seen_8bit: bool,
    seen_nul: bool,
    bytes: u64,
    line_bytes: u64,
    line_bytes_max: u64,
    trace: TraceCounter,
}

impl DataDecoder {
    /// A decoder for one message in DATA.
    pub fn new(policy: BareLineFeed) -> DataDecoder {
        DataDecoder::framed(policy, Framing::Dots)
    }

    /// A decoder for one message in BDAT chunks: no dot has a meaning, and the end is told with
    /// [`finish`](DataDecoder::finish). Line ends may be cut by chunk borders.
    pub fn counted(policy: BareLineFeed) -> DataDecoder {
        DataDecoder::framed(policy, Framing::Counted)
    }

    /// A decoder for one BINARYMIME message in BDAT chunks: nothing is changed.
    pub fn verbatim() -> DataDecoder {
        DataDecoder::framed(BareLineFeed::Accept, Framing::Verbatim)
    }

    fn framed(policy: BareLineFeed, framing: Framing) -> DataDecoder {
        DataDecoder {
            policy,
            framing,
            place: Place::Start,
            seen_bare: false,
            seen_8bit: false,
            seen_nul: false,
            bytes: 0,
            line_bytes: 0,
            line_bytes_max: 0,
            trace: TraceCounter::default(),
        }
    }

    /// Decodes `input`, appending content to `out`. Gives the number of bytes consumed and whether the end
    /// of data was reached; everything behind the end is left to the caller.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let written_before = out.len();
        if self.framing == Framing::Verbatim {
            out.extend_from_slice(input);
            self.note(&out[written_before..]);
            return (input.len(), false);
        }
        let dots = self.framing == Framing::Dots;
        let mut at = 0;
        let mut ended = false;
        while at < input.len() {
            match self.place {
                Place::Start if dots && input[at] == b'.' => {
                    self.place = Place::Dot;
                    at += 1;
                }
                Place::Start => self.place = Place::Line,
                Place::Dot if input[at] == b'\r' => {
                    self.place = Place::DotCr;
                    at += 1;
                }
                // The dot was stuffing; what follows is content, even when it is a dot again.
                Place::Dot => self.place = Place::Line,
                Place::DotCr if input[at] == b'\n' => {
                    at += 1;
                    ended = true;
                    break;
                }
                Place::DotCr => self.place = Place::Cr(1),
                Place::Cr(count) => match input[at] {
                    b'\r' if count >= CR_RUN_MAX => {
                        // A run without an end is written as it goes, so that the size limit sees it.
                        self.bare_crs(count, out);
                        self.place = Place::Cr(1);
                        at += 1;
                    }
                    b'\r' => {
                        self.place = Place::Cr(count + 1);
                        at += 1;
                    }
                    b'\n' => {
                        self.crs_then_lf(count, out);
                        self.place = Place::Start;
                        at += 1;
                    }
                    _ => {
                        self.bare_crs(count, out);
                        self.place = Place::Line;
                    }
                },
                Place::Line => at += self.line(&input[at..], out),
            }
        }
        self.note(&out[written_before..]);
        (at, ended)
    }

    /// Ends counted content: CRs that waited for a line end are written now.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let written_before = out.len();
        if let Place::Cr(count) = self.place {
            self.bare_crs(count, out);
            self.place = Place::Line;
        }
        self.note(&out[written_before..]);
    }

    fn note(&mut self, written: &[u8]) {
        self.bytes += written.len() as u64;
        self.seen_8bit |= !written.is_ascii();
        self.seen_nul |= memchr::memchr(0, written).is_some();
        self.trace.feed(written);
    }

    /// Copies up to the next CR or LF; gives the number of bytes consumed.
    fn line(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let run = memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len());
        out.extend_from_slice(&input[..run]);
        self.line_bytes += run as u64;
        self.line_bytes_max = self.line_bytes_max.max(self.line_bytes);
        match input.get(run) {
            None => run,
            Some(b'\r') if input.get(run + 1) == Some(&b'\n') => {
                out.extend_from_slice(b"\r\n");
                self.line_bytes = 0;
                self.place = Place::Start;
                run + 2
            }
            Some(b'\r') => {
                self.place = Place::Cr(1);
                run + 1
            }
            Some(_) => {
                self.seen_bare = true;
                self.line_bytes = 0;
                out.extend_from_slice(if self.policy == BareLineFeed::Normalize { b"\r\n" } else { b"\n" });
                run + 1
            }
        }
    }

    fn crs_then_lf(&mut self, count: u32, out: &mut Vec<u8>) {
        self.line_bytes = 0;
        self.seen_bare |= count > 1;
        if self.policy == BareLineFeed::Normalize {
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend(std::iter::repeat_n(b'\r', count as usize));
            out.push(b'\n');
        }
    }

    fn bare_crs(&mut self, count: u32, out: &mut Vec<u8>) {
        self.line_bytes = 0;
        self.seen_bare = true;
        for _ in 0..count {
            out.extend_from_slice(if self.policy == BareLineFeed::Normalize { b"\r\n" } else { b"\r" });
        }
    }

    /// Octets of content written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The longest line so far, in octets without its end.
    pub fn line_bytes_max(&self) -> u64 {
        self.line_bytes_max
    }

    /// True when a CR or LF stood alone.
    pub fn seen_bare(&self) -> bool {
        self.seen_bare
    }

    /// True when the content has a byte above 127.
    pub fn seen_8bit(&self) -> bool {
        self.seen_8bit
    }

    /// True when the content has a NUL.
    pub fn seen_nul(&self) -> bool {
        self.seen_nul
    }

    /// The number of Received header fields, the hop count of RFC 5321 6.3.
    pub fn hops(&self) -> u32 {
        self.trace.count
    }
}

/// Counts Received fields of a header that arrives in pieces.
#[derive(Debug)]
struct TraceCounter {
    count: u32,
    /// How many bytes of the current line match `received:`; none when the line cannot match any more.
    matched: Option<usize>,
    line_bytes: usize,
    ended: bool,
}

impl Default for TraceCounter {
    fn default() -> TraceCounter {
        TraceCounter { count: 0, matched: Some(0), line_bytes: 0, ended: false }
    }
}

impl TraceCounter {
    fn feed(&mut self, mut bytes: &[u8]) {
        const NAME: &[u8] = b"received:";
        while !self.ended && !bytes.is_empty() {
            if self.matched.is_none() {
                // Skip to the end of a line that is no trace field.
                match memchr::memchr(b'\n', bytes) {
                    None => {
                        self.line_bytes += bytes.iter().filter(|&&b| b != b'\r').count();
                        return;
                    }
                    Some(end) => {
                        self.line_bytes += bytes[..end].iter().filter(|&&b| b != b'\r').count();
                        bytes = &bytes[end..];
                    }
                }
            }
            let byte = bytes[0];
            bytes = &bytes[1..];
            match byte {
                b'\n' => {
                    self.ended = self.line_bytes == 0;
                    self.line_bytes = 0;
                    self.matched = Some(0);
                }
                b'\r' => {}
                byte => {
                    self.line_bytes += 1;
                    self.matched = match self.matched {
                        Some(at) if byte.to_ascii_lowercase() == NAME[at] => {
                            if at + 1 == NAME.len() {
                                self.count = self.count.saturating_add(1);
                                None
                            } else {
                                Some(at + 1)
                            }
                        }
                        _ => None,
                    };
                }
            }
        }
    }
}

/// Encodes content for DATA: dots are stuffed, every line ends in CRLF, nothing else leaves as CR or LF
/// (`queue-delivery` rule Q19). Content may arrive in pieces.
#[derive(Debug)]
pub struct DataEncoder {
    at_start: bool,
    pending_cr: bool,
}

impl Default for DataEncoder {
    fn default() -> DataEncoder {
        DataEncoder { at_start: true, pending_cr: false }
    }
}

impl DataEncoder {
    /// Appends `content` in wire form to `out`.
    pub fn encode(&mut self, content: &[u8], out: &mut Vec<u8>) {
        self.encode_with(content, out, true);
    }

    /// As [`encode`](DataEncoder::encode) for BDAT: line ends are CRLF, and no dot has a meaning.
    pub fn encode_lines(&mut self, content: &[u8], out: &mut Vec<u8>) {
        self.encode_with(content, out, false);
    }

    fn encode_with(&mut self, mut content: &[u8], out: &mut Vec<u8>, dots: bool) {
        if self.pending_cr && !content.is_empty() {
            self.pending_cr = false;
            out.extend_from_slice(b"\r\n");
            self.at_start = true;
            if content[0] == b'\n' {
                content = &content[1..];
            }
        }
        while !content.is_empty() {
            if dots && self.at_start && content[0] == b'.' {
                out.push(b'.');
            }
            let run = memchr::memchr2(b'\r', b'\n', content).unwrap_or(content.len());
            out.extend_from_slice(&content[..run]);
            self.at_start = false;
            match content.get(run) {
                None => return,
                Some(b'\r') => match content.get(run + 1) {
                    None => {
                        self.pending_cr = true;
                        return;
                    }
                    Some(b'\n') => content = &content[run + 2..],
                    Some(_) => content = &content[run + 1..],
                },
                Some(_) => content = &content[run + 1..],
            }
            out.extend_from_slice(b"\r\n");
            self.at_start = true;
        }
    }

    /// Appends the end of data, with a CRLF before it where the content had no final one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.finish_lines(out);
        out.extend_from_slice(b".\r\n");
    }

    /// Appends a CRLF where the content had no final one.
    pub fn finish_lines(&mut self, out: &mut Vec<u8>) {
        if self.pending_cr || !self.at_start {
            out.extend_from_slice(b"\r\n");
        }
        *self = DataEncoder::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_pieces(
        policy: BareLineFeed,
        input: &[u8],
        pieces: usize,
    ) -> (Vec<u8>, Option<usize>, DataDecoder) {
        let mut decoder = DataDecoder::new(policy);
        let mut out = Vec::new();
        let mut consumed = 0;
        for chunk in input.chunks(pieces) {
            let (used, ended) = decoder.decode(chunk, &mut out);
            consumed += used;
            if ended {
                return (out, Some(consumed), decoder);
            }
        }
        (out, None, decoder)
    }

    #[test]
    fn ends_only_at_crlf_dot_crlf() {
        let cases: &[(&[u8], bool)] = &[
            (b".\r\n", true),
            (b"a\r\n.\r\n", true),
            (b"a\n.\n", false),
            (b"a\r.\r", false),
            (b"a\n.\r\n", false),
            (b"a\r\n.\n", false),
            (b"a\r\n.\r", false),
            (b"a\r.\r\n", false),
            (b"a\r\n.\0\r\n", false),
            (b"a\r\n\0.\r\n", false),
            (b"a\r\r\n.\r\n", true),
            (b"a\r\n..\r\n", false),
        ];
        for (input, ends) in cases {
            for policy in [BareLineFeed::Normalize, BareLineFeed::Reject, BareLineFeed::Accept] {
                for pieces in 1..=input.len() {
                    let (_, end, _) = decode_pieces(policy, input, pieces);
                    assert_eq!(end.is_some(), *ends, "{:?} in {pieces}", String::from_utf8_lossy(input));
                }
            }
        }
    }

    #[test]
    fn unstuffs_and_normalizes() {
        let cases: &[(BareLineFeed, &[u8], &[u8])] = &[
            (BareLineFeed::Normalize, b"..a\r\n.b\r\n.\r\n", b".a\r\nb\r\n"),
            (BareLineFeed::Normalize, b"a\nb\rc\r\r\nd\r\n.\r\n", b"a\r\nb\r\nc\r\nd\r\n"),
            (BareLineFeed::Accept, b"a\nb\rc\r\r\nd\r\n.\r\n", b"a\nb\rc\r\r\nd\r\n"),
            (BareLineFeed::Normalize, b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (BareLineFeed::Normalize, b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        ];
        for (policy, input, expected) in cases {
            for pieces in 1..=input.len() {
                let (out, end, _) = decode_pieces(*policy, input, pieces);
                assert_eq!(out, *expected, "{:?}", String::from_utf8_lossy(input));
                assert_eq!(end, Some(input.len()));
            }
        }
    }

    #[test]
    fn endless_run_of_crs_counts_as_content() {
        for policy in [BareLineFeed::Normalize, BareLineFeed::Reject, BareLineFeed::Accept] {
            let mut decoder = DataDecoder::new(policy);
            let mut out = Vec::new();
            for _ in 0..100 {
                decoder.decode(&[b'\r'; 1000], &mut out);
                assert!(out.len() < 10_000);
                out.clear();
            }
            assert!(decoder.bytes() > 90_000 && decoder.seen_bare(), "{}", decoder.bytes());
        }
    }

    #[test]
    fn counts_hops_of_the_header_only() {
        let input = b"Received: a\r\n folded\r\nreceived: b\r\nX-Received: c\r\nRECEIVED : no\r\n\r\nReceived: body\r\n.\r\n";
        for pieces in 1..=input.len() {
            let (_, _, decoder) = decode_pieces(BareLineFeed::Normalize, input, pieces);
            assert_eq!(decoder.hops(), 2, "in pieces of {pieces}");
        }
    }

    proptest! {
        #[test]
        fn encoding_then_decoding_gives_crlf_lines(content in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a'), Just(0u8), Just(0xffu8)], 0..60),
            piece in 1usize..8)
        {
            let mut wire = Vec::new();
            let mut encoder = DataEncoder::default();
            for chunk in content.chunks(piece) {
                encoder.encode(chunk, &mut wire);
            }
            encoder.finish(&mut wire);
            let (out, end, decoder) = decode_pieces(BareLineFeed::Reject, &wire, piece);
            prop_assert_eq!(end, Some(wire.len()));
            prop_assert!(!decoder.seen_bare());
            // CR LF, CR and LF each count as one line end; a missing last one is added.
            let mut expected = Vec::new();
            let mut bytes = content.iter().copied().peekable();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\r' => { if bytes.peek() == Some(&b'\n') { bytes.next(); } expected.extend(b"\r\n"); }
                    b'\n' => expected.extend(b"\r\n"),
                    byte => expected.push(byte),
                }
            }
            if !expected.is_empty() && !expected.ends_with(b"\r\n") { expected.extend(b"\r\n"); }
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_split_decodes_alike(content in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40), piece in 1usize..40)
        {
            for policy in [BareLineFeed::Normalize, BareLineFeed::Reject, BareLineFeed::Accept] {
                let whole = decode_pieces(policy, &content, content.len().max(1));
                let split = decode_pieces(policy, &content, piece);
                prop_assert_eq!(&whole.0, &split.0);
                prop_assert_eq!(whole.1, split.1);
                prop_assert_eq!(whole.2.seen_bare(), split.2.seen_bare());
                prop_assert_eq!(whole.2.line_bytes_max(), split.2.line_bytes_max());
            }
        }
    }
}
