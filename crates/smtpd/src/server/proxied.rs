//! The PROXY header of a connection from a trusted proxy (`smtp-hooks` 12). Nothing behind the header is read, so what
//! follows reaches whoever comes next, TLS or SMTP.

use config::value::Network;
use smtp::proxy_header::{self, Header, HeaderError};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long a proxy may take to send the header.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every header has at least so many octets.
const SHORTEST_BYTES: usize = 15;

/// The longest header of version 1, octets.
const V1_BYTES_MAX: usize = 107;

/// Signature, version and command, family, length of version 2.
const V2_FIXED_BYTES: usize = 16;

/// Who may send PROXY headers.
#[derive(Clone, Debug)]
pub enum Trusted {
    /// Everybody.
    All,
    /// Those of the networks.
    From(Vec<Network>),
}

impl Trusted {
    /// True for a proxy.
    pub fn includes(&self, peer: IpAddr) -> bool {
        match self {
            Trusted::All => true,
            Trusted::From(networks) => networks.iter().any(|network| network.contains(peer)),
        }
    }
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("no PROXY header in time")]
    Timeout,
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Header(#[from] HeaderError),
}

/// Reads the header and nothing else.
pub(super) async fn read_header(stream: &mut TcpStream) -> Result<Header, ProxyError> {
    match tokio::time::timeout(PATIENCE, read(stream)).await {
        Ok(read) => read,
        Err(_) => Err(ProxyError::Timeout),
    }
}

async fn read(stream: &mut TcpStream) -> Result<Header, ProxyError> {
    let mut bytes = vec![0; SHORTEST_BYTES];
    // One octet is enough to tell a client that speaks something else.
    stream.read_exact(&mut bytes[..1]).await?;
    proxy_header::parse(&bytes[..1])?;
    stream.read_exact(&mut bytes[1..]).await?;
    loop {
        if let Some((header, _)) = proxy_header::parse(&bytes)? {
            return Ok(header);
        }
        if bytes.starts_with(b"PROXY ") {
            line_part(stream, &mut bytes).await?;
        } else {
            // Version 2 tells its length.
            let wanted = match bytes.get(14..V2_FIXED_BYTES) {
                Some(&[high, low]) => V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low])),
                _ => V2_FIXED_BYTES,
            };
            let have = bytes.len();
            bytes.resize(wanted, 0);
            stream.read_exact(&mut bytes[have..]).await?;
        }
    }
}

/// Takes what has come of the line, up to its end.
async fn line_part(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut ahead = [0; V1_BYTES_MAX];
    let count = stream.peek(&mut ahead).await?;
    let count = ahead[..count].iter().position(|&b| b == b'\n').map_or(count, |end| end + 1);
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let have = bytes.len();
    bytes.resize(have + count, 0);
    stream.read_exact(&mut bytes[have..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn sent(parts: &[&[u8]]) -> (Result<Header, ProxyError>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for part in parts {
                client.write_all(&part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let header = read_header(&mut stream).await;
        writer.await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    #[tokio::test]
    async fn what_follows_the_header_is_left() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 25\r\n";
        for cut in [0, 1, 3, 15, 16, 30, 40] {
            let (header, rest) = sent(&[&line[..cut], &line[cut..], b"EHLO x\r\n"]).await;
            assert_eq!(header.unwrap().source, Some("192.0.2.1:40000".parse().unwrap()), "cut at {cut}");
            assert_eq!(rest, b"EHLO x\r\n");
        }
        let (header, rest) = sent(&[b"PROXY UNKNOWN\r\nEHLO x\r\n"]).await;
        assert_eq!(header.unwrap(), Header::default());
        assert_eq!(rest, b"EHLO x\r\n");
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
        v2.extend([192, 0, 2, 1, 192, 0, 2, 9, 0x9c, 0x40, 0, 25, 4, 0, 1, 0]);
        v2.extend(b"EHLO x\r\n");
        let (header, rest) = sent(&[&v2]).await;
        assert_eq!(header.unwrap().tlv, [4, 0, 1, 0]);
        assert_eq!(rest, b"EHLO x\r\n");
    }

    #[tokio::test]
    async fn others_are_told_apart() {
        let (header, _) = sent(&[b"EHLO x\r\n"]).await;
        assert!(matches!(header, Err(ProxyError::Header(HeaderError::Missing))));
        let (header, _) = sent(&[b"PROXY TCP4 192"]).await;
        assert!(matches!(header, Err(ProxyError::Socket(_))));
    }
}
