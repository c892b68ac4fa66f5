//! Bytes of requests and replies.
//!
//! Request: a version pair (major, minor as raw bytes; at the start of the connection, allowed again later), the
//! command letter, and for commands with a body a length as u64 little-endian with so many bytes. Reply: a status
//! byte, a length, a payload. A byte below 0x20 where a command is expected begins a version pair.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::commands;

/// Version our clients send.
pub const VERSION: Version = Version { major: 5, minor: 15 };
/// Largest request body.
pub const BODY_BYTES_MAX: u64 = 1 << 30;
/// Reply bodies stay below this.
pub const REPLY_BYTES_MAX: u64 = 1 << 48;

/// Protocol version of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 5 or 6.
    pub major: u8,
    /// Any: a lower one than ours only means that the client may miss fields.
    pub minor: u8,
}

/// Status of a reply frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `+`: success, ends the request.
    Done,
    /// `E`: error text, ends the request.
    Error,
    /// `=`: more follows, or news outside of a request.
    Interim,
}

impl Status {
    fn byte(self) -> u8 {
        match self {
            Status::Done => b'+',
            Status::Error => b'E',
            Status::Interim => b'=',
        }
    }
}

/// A reply frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What kind.
    pub status: Status,
    /// Protobuf message or text.
    pub payload: Bytes,
}

impl Reply {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(9 + self.payload.len());
        out.put_u8(self.status.byte());
        out.put_u64_le(self.payload.len() as u64);
        out.put_slice(&self.payload);
    }

    /// Takes a whole frame from the front of `input`; `None` when more bytes are needed.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Reply>, String> {
        let Some(&status) = input.first() else { return Ok(None) };
        let status = match status {
            b'+' => Status::Done,
            b'E' => Status::Error,
            b'=' => Status::Interim,
            other => return Err(format!("status byte {other:#04x}")),
        };
        let Some(length) = input.get(1..9) else { return Ok(None) };
        let length = length.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let size = usize::try_from(length).ok().filter(|_| length < REPLY_BYTES_MAX);
        let Some(size) = size else { return Err(format!("a reply of {length} bytes")) };
        if input.len() - 9 < size {
            return Ok(None);
        }
        input.advance(9);
        Ok(Some(Reply { status, payload: input.split_to(size).freeze() }))
    }
}

/// A request as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Command letter.
    pub command: u8,
    /// Version the client gave last.
    pub version: Version,
    /// Body; empty for commands without one.
    pub body: Bytes,
}

/// Why a request cannot be read. All of these end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Neither major 5 nor 6, or no version at the start.
    #[error("Unsupported protocol version")]
    Version,
    /// A letter that is not in the list: its length cannot be known.
    #[error("Unknown command")]
    Command,
    /// A body above [`BODY_BYTES_MAX`].
    #[error("Request too large")]
    TooLarge,
}

/// Reads requests from bytes as they arrive.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    version: Option<Version>,
}

impl RequestDecoder {
    /// A decoder for a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a whole request from the front of `input`; `None` when more bytes are needed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        loop {
            let Some(&first) = input.first() else { return Ok(None) };
            if first < 0x20 {
                let Some(&minor) = input.get(1) else { return Ok(None) };
                if !matches!(first, 5 | 6) {
                    return Err(RequestError::Version);
                }
                self.version = Some(Version { major: first, minor });
                input.advance(2);
                continue;
            }
            let version = self.version.ok_or(RequestError::Version)?;
            let command = commands::find(first).ok_or(RequestError::Command)?;
            if !command.has_body(version) {
                input.advance(1);
                return Ok(Some(Request { command: first, version, body: Bytes::new() }));
            }
            let Some(length) = input.get(1..9) else { return Ok(None) };
            let length = length.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            if length > BODY_BYTES_MAX {
                return Err(RequestError::TooLarge);
            }
            // Bounded by BODY_BYTES_MAX, which fits.
            let size = length as usize;
            if input.len() - 9 < size {
                return Ok(None);
            }
            input.advance(9);
            let body = input.split_to(size).freeze();
            return Ok(Some(Request { command: first, version, body }));
        }
    }
}

/// Bytes of a request; `first` puts the version pair in front.
pub fn encode_request(first: bool, command: u8, body: Option<&[u8]>) -> BytesMut {
    let mut out = BytesMut::with_capacity(11 + body.map_or(0, <[u8]>::len));
    if first {
        out.put_u8(VERSION.major);
        out.put_u8(VERSION.minor);
    }
    out.put_u8(command);
    if let Some(body) = body {
        out.put_u64_le(body.len() as u64);
        out.put_slice(body);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters and bodies.
    type Decoded = Result<Vec<(u8, Vec<u8>)>, RequestError>;

    fn decode_all(bytes: &[u8]) -> Decoded {
        let mut decoder = RequestDecoder::new();
        let mut input = BytesMut::from(bytes);
        let mut requests = Vec::new();
        while let Some(request) = decoder.decode(&mut input)? {
            requests.push((request.command, request.body.to_vec()));
        }
        Ok(requests)
    }

    #[test]
    fn requests_by_the_byte() {
        let empty_list = [b'F', 0, 0, 0, 0, 0, 0, 0, 0];
        let with = |parts: &[&[u8]]| parts.concat();
        let cases: Vec<(Vec<u8>, Decoded)> = vec![
            (with(&[&[5, 15], b"q"]), Ok(vec![(b'q', vec![])])),
            (with(&[&[6, 99], b"q"]), Ok(vec![(b'q', vec![])])),
            (with(&[b"q"]), Err(RequestError::Version)),
            (with(&[&[4, 0], b"q"]), Err(RequestError::Version)),
            (with(&[&[5, 15], b"~"]), Err(RequestError::Command)),
            (with(&[&[5, 15], &empty_list, b"q"]), Ok(vec![(b'F', vec![]), (b'q', vec![])])),
            (with(&[&[5, 15], b"q", &[5, 15], b"q"]), Ok(vec![(b'q', vec![]), (b'q', vec![])])),
            // Below 5.5 `s` and `C` had no body, `t` had.
            (with(&[&[5, 4], b"sCq"]), Ok(vec![(b's', vec![]), (b'C', vec![]), (b'q', vec![])])),
            (with(&[&[5, 15], b"s", &[1, 0, 0, 0, 0, 0, 0, 0, 9]]), Ok(vec![(b's', vec![9])])),
            (with(&[&[5, 15], b"F", &[0, 0, 0, 0x41, 0, 0, 0, 0]]), Err(RequestError::TooLarge)),
            (with(&[&[5, 15], b"F", &[255; 8]]), Err(RequestError::TooLarge)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode_all(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn split_at_every_byte_the_requests_are_the_same() {
        let mut bytes = encode_request(true, b'F', Some(b"body"));
        bytes.unsplit(encode_request(false, b'q', None));
        for cut in 0..bytes.len() {
            let mut decoder = RequestDecoder::new();
            let mut input = BytesMut::from(&bytes[..cut]);
            let mut requests = Vec::new();
            while let Some(request) = decoder.decode(&mut input).unwrap() {
                requests.push(request);
            }
            input.extend_from_slice(&bytes[cut..]);
            while let Some(request) = decoder.decode(&mut input).unwrap() {
                requests.push(request);
            }
            assert_eq!(requests.len(), 2, "cut at {cut}");
            assert_eq!(&requests[0].body[..], b"body");
        }
    }

    #[test]
    fn replies_round_trip_and_refuse_nonsense() {
        let reply = Reply { status: Status::Interim, payload: Bytes::from_static(b"news") };
        let mut bytes = BytesMut::new();
        reply.encode(&mut bytes);
        assert_eq!(&bytes[..], b"=\x04\0\0\0\0\0\0\0news");
        for cut in 0..bytes.len() {
            assert_eq!(Reply::decode(&mut BytesMut::from(&bytes[..cut])), Ok(None));
        }
        assert_eq!(Reply::decode(&mut bytes), Ok(Some(reply)));
        assert!(bytes.is_empty());
        assert!(Reply::decode(&mut BytesMut::from(&b"?"[..])).is_err());
        assert!(Reply::decode(&mut BytesMut::from(&b"+\xff\xff\xff\xff\xff\xff\xff\xff"[..])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Reply::decode(&mut input) {}
            let _ = decode_all(&bytes);
            let _ = decode_all(&[&[5, 15], &bytes[..]].concat());
        }

        #[test]
        fn requests_come_out_as_they_went_in(
            bodies in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..50), 1..10),
        ) {
            let mut bytes = BytesMut::new();
            for (i, body) in bodies.iter().enumerate() {
                bytes.unsplit(encode_request(i == 0, b'F', Some(body)));
            }
            let expected: Vec<(u8, Vec<u8>)> = bodies.into_iter().map(|body| (b'F', body)).collect();
            proptest::prop_assert_eq!(decode_all(&bytes), Ok(expected));
        }
    }
}
