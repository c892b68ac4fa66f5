//! The header that a proxy puts in front of a connection to tell where it comes from: PROXY protocol versions 1
//! (text) and 2 (binary), as HAProxy's `proxy-protocol.txt` describes them.
//!
//! ```
//! use smtp::proxy_header::{Header, parse};
//!
//! let line = b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 25\r\nEHLO";
//! let (header, used) = parse(line)?.expect("the header is complete");
//! assert_eq!(header.source, Some("192.0.2.1:40000".parse()?));
//! assert_eq!(&line[used..], b"EHLO");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, octets with CRLF.
const V1_BYTES_MAX: usize = 107;

/// How version 2 starts.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// Type of the checksum.
const TLV_CRC32C: u8 = 3;

/// What a proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client; none for `UNKNOWN` and `LOCAL`: the connection is the proxy's own.
    pub source: Option<SocketAddr>,
    /// Where the client connected to; present where `source` is.
    pub destination: Option<SocketAddr>,
    /// The values behind the addresses of version 2, as sent.
    pub tlv: Vec<u8>,
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// They start like none.
    #[error("no PROXY header")]
    Missing,
    /// Version 1 without its end.
    #[error("PROXY header longer than {V1_BYTES_MAX} octets")]
    TooLong,
    /// A part is not what it has to be.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// The checksum of version 2 does not fit.
    #[error("wrong checksum in the PROXY header")]
    Checksum,
}

/// Reads a header from the start of `input`: what it says and its length. None while it is not complete.
///
/// # Errors
/// What comes is no header, whatever follows.
pub fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let prefix = |wanted: &[u8]| input.iter().zip(wanted).all(|(a, b)| a == b);
    if prefix(V2_SIGNATURE) {
        if input.len() < V2_SIGNATURE.len() { Ok(None) } else { parse_v2(input) }
    } else if prefix(b"PROXY ") {
        parse_v1(input)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Writes a header of version 1 or 2 (any other number is 2) that says where a connection comes from and where it is to go.
/// Addresses of different families cannot be said; then it is one that says nothing.
pub fn write(version: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let same = source.is_ipv4() == destination.is_ipv4();
    if version == 1 {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let text = if same {
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        } else {
            "PROXY UNKNOWN\r\n".to_owned()
        };
        return text.into_bytes();
    }
    let mut addresses = Vec::new();
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
            0x11
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
            0x21
        }
        _ => 0x00,
    };
    if same {
        addresses.extend_from_slice(&source.port().to_be_bytes());
        addresses.extend_from_slice(&destination.port().to_be_bytes());
    }
    let mut header = V2_SIGNATURE.to_vec();
    header.extend_from_slice(&[0x21, family]);
    // At most 36.
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

fn parse_v1(input: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let window = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if input.len() >= V1_BYTES_MAX { Err(HeaderError::TooLong) } else { Ok(None) };
    };
    let malformed = HeaderError::Malformed;
    let line = window[..end].strip_suffix(b"\r").ok_or(malformed("it does not end in CRLF"))?;
    let line = std::str::from_utf8(line).map_err(|_| malformed("it is not text"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some((Header::default(), end + 1)));
    }
    let mut address = || -> Result<IpAddr, HeaderError> {
        let word = words.next().unwrap_or_default();
        let address = match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => return Err(malformed("unknown family")),
        };
        address.ok_or(malformed("bad address"))
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || -> Result<u16, HeaderError> {
        let word = words.next().unwrap_or_default();
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let plain = plain && (word.len() == 1 || !word.starts_with('0'));
        word.parse().ok().filter(|_| plain).ok_or(malformed("bad port"))
    };
    let (source_port, destination_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(malformed("more words than expected"));
    }
    let header = Header {
        source: Some(SocketAddr::new(source, source_port)),
        destination: Some(SocketAddr::new(destination, destination_port)),
        tlv: Vec::new(),
    };
    Ok(Some((header, end + 1)))
}

fn parse_v2(input: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let malformed = HeaderError::Malformed;
    let Some(fixed) = input.get(..V2_FIXED_BYTES) else { return Ok(None) };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 15, fixed[13]);
    if version != 2 {
        return Err(malformed("unknown version"));
    }
    if command > 1 {
        return Err(malformed("unknown command"));
    }
    // Addresses of TCP over IPv4, over IPv6, of a Unix stream, or none.
    let address_bytes = match family {
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        0x00 => 0,
        _ if command == 0 => 0,
        _ => return Err(malformed("unknown family")),
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let end = V2_FIXED_BYTES + length;
    let Some(body) = input.get(V2_FIXED_BYTES..end) else { return Ok(None) };
    if command == 0 {
        // The proxy's own check; what else it sends has no meaning.
        return Ok(Some((Header::default(), end)));
    }
    if body.len() < address_bytes {
        return Err(malformed("too short for its family"));
    }
    let (addresses, tlv) = body.split_at(address_bytes);
    check_tlvs(&input[..end], V2_FIXED_BYTES + address_bytes)?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let v4 = |at: usize| {
        let mut octets = [0u8; 4];
        octets.copy_from_slice(&addresses[at..at + 4]);
        IpAddr::from(octets)
    };
    let v6 = |at: usize| {
        let mut octets = [0u8; 16];
        octets.copy_from_slice(&addresses[at..at + 16]);
        IpAddr::from(octets)
    };
    let (source, destination) = match family {
        0x11 => (Some(SocketAddr::new(v4(0), port(8))), Some(SocketAddr::new(v4(4), port(10)))),
        0x21 => (Some(SocketAddr::new(v6(0), port(32))), Some(SocketAddr::new(v6(16), port(34)))),
        _ => (None, None),
    };
    Ok(Some((Header { source, destination, tlv: tlv.to_vec() }, end)))
}

/// Checks the form of the values behind the addresses, and the checksum where there is one.
fn check_tlvs(header: &[u8], start: usize) -> Result<(), HeaderError> {
    let mut at = start;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(HeaderError::Malformed("cut off value"));
        };
        let (from, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        let value = header.get(from..from + length).ok_or(HeaderError::Malformed("cut off value"))?;
        if kind == TLV_CRC32C {
            let &[a, b, c, d] = value else {
                return Err(HeaderError::Malformed("checksum of a wrong length"));
            };
            let mut copy = header.to_vec();
            copy[from..from + 4].fill(0);
            if crc32c::crc32c(&copy) != u32::from_be_bytes([a, b, c, d]) {
                return Err(HeaderError::Checksum);
            }
        }
        at = from + length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_can_be_read() {
        for (source, destination) in [
            ("192.0.2.1:0", "198.51.100.7:25"),
            ("[2001:db8::1]:0", "[2001:db8:1::2]:2525"),
            ("0.0.0.0:0", "127.0.0.1:65535"),
        ] {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            for version in [1, 2] {
                let written = write(version, source, destination);
                let (header, used) = parse(&written).unwrap().unwrap();
                assert_eq!(
                    (header.source, header.destination, used),
                    (Some(source), Some(destination), written.len())
                );
            }
        }
        for version in [1, 2] {
            let written = write(version, "192.0.2.1:0".parse().unwrap(), "[::1]:25".parse().unwrap());
            let (header, used) = parse(&written).unwrap().unwrap();
            assert_eq!((header, used), (Header::default(), written.len()));
        }
    }

    fn v2(command: u8, family: u8, addresses: &[u8], tlv: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(((addresses.len() + tlv.len()) as u16).to_be_bytes());
        header.extend(addresses);
        header.extend(tlv);
        header
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 9, 0x9c, 0x40, 0, 25];

    #[test]
    fn reads_version_1() {
        let (header, used) = parse(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\nX").unwrap().unwrap();
        assert_eq!(header.source, Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!(header.destination, Some("[2001:db8::2]:65535".parse().unwrap()));
        assert_eq!(used, 44);
        assert_eq!(parse(b"PROXY UNKNOWN whatever\r\n").unwrap().unwrap().0, Header::default());
        for bad in [
            "EHLO x\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 40000 25\n",
            "PROXY TCP4 192.0.2.1 2001:db8::2 40000 25\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.9 40000 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 40000 025\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 40000 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 40000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 40000 25 x\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.9 40000 25\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(parse(format!("PROXY UNKNOWN {}", "x".repeat(100)).as_bytes()), Err(HeaderError::TooLong));
    }

    #[test]
    fn reads_version_2_with_its_values() {
        let tlv = [2, 0, 3, b'a', b'.', b'b'];
        let (header, used) = parse(&v2(1, 0x11, &TCP4, &tlv)).unwrap().unwrap();
        assert_eq!(header.source, Some("192.0.2.1:40000".parse().unwrap()));
        assert_eq!(header.destination, Some("192.0.2.9:25".parse().unwrap()));
        assert_eq!((header.tlv.as_slice(), used), (&tlv[..], 34));
        assert_eq!(parse(&v2(0, 0, &[], &[])).unwrap().unwrap().0.source, None);
        assert_eq!(parse(&v2(1, 0x31, &[0; 216], &[])).unwrap().unwrap().0.source, None);
        for (bad, why) in [
            (v2(2, 0x11, &TCP4, &[]), "command"),
            (v2(1, 0x12, &TCP4, &[]), "datagram"),
            (v2(1, 0x21, &TCP4, &[]), "too short"),
            (v2(1, 0x11, &TCP4, &[2, 0, 9, 1]), "cut off"),
        ] {
            assert!(parse(&bad).is_err(), "{why}");
        }
    }

    #[test]
    fn checks_the_checksum() {
        let mut header = v2(1, 0x11, &TCP4, &[3, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c::crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        assert!(parse(&header).unwrap().is_some());
        header[at] ^= 1;
        assert_eq!(parse(&header), Err(HeaderError::Checksum));
    }

    proptest! {
        #[test]
        fn any_prefix_of_a_header_waits_for_more(cut in 0usize..34) {
            let whole = v2(1, 0x11, &TCP4, &[2, 0, 3, b'a', b'.', b'b']);
            prop_assert_eq!(parse(&whole[..cut]), Ok(None));
            let line = b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 25\r\n";
            prop_assert_eq!(parse(&line[..cut.min(line.len() - 1)]), Ok(None));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), v in 0u8..2) {
            let mut input = if v == 0 { V2_SIGNATURE.to_vec() } else { b"PROXY ".to_vec() };
            input.extend(bytes);
            let _ = parse(&input);
        }
    }
}
