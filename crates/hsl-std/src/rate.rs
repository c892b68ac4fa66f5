//! `rate`: counts on the daemon `rated`, one datagram each way over its Unix socket. The layout of the packets is that of
//! the daemon's public client.

use crate::environment::{self, Environment};
use crate::support::options;
use hsl::{Args, Error, FunctionDef, NativeCx, OptionDef, Outcome, Value, option};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixDatagram;

const VERSION: u8 = 1;
const HIT: u8 = 1;
const COUNT: u8 = 2;
/// A hit that stays with this daemon.
const LOCAL_HIT: u8 = 5;
const NAMESPACE_BYTES: usize = 64;
const ENTRY_BYTES: usize = 512;
const HIT_REPLY_BYTES: usize = 10;
const COUNT_REPLY_BYTES: usize = 8;
/// Hexadecimal digits of the digest that stands for the rest of a long name.
const DIGEST_DIGITS: usize = 32;
/// Patience with the daemon.
const TIMEOUT: Duration = Duration::from_secs(5);

const OPTIONS: &[OptionDef] =
    &[option("sync", "boolean", "true", "The daemon tells its peers; without, the hit counts here alone.")];

/// The function.
pub(crate) fn function() -> FunctionDef {
    FunctionDef::full(
        "rate(namespace: string, entry: string, count: number, interval: number, options?: array) -> boolean or number or none",
        "Adds a hit and gives true when there were fewer than `count` in the last `interval` seconds, else false. With a \
         count of 0 how many there were. None when the daemon `rated` gives no answer.",
        rate,
    )
    .with_options(OPTIONS)
}

fn rate(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let namespace = padded(args.bytes(0), NAMESPACE_BYTES)
        .ok_or_else(|| Error::exception("Invalid or missing namespace parameter"))?;
    let entry = padded(args.bytes(1), ENTRY_BYTES)
        .ok_or_else(|| Error::exception("Invalid or missing entry parameter"))?;
    let (count, interval) = (whole(&args, 2, "count")?, whole(&args, 3, "interval")?);
    let sync = match options(&args, 4).get_str("sync") {
        None | Some(Value::None) => true,
        Some(Value::Bool(sync)) => *sync,
        Some(_) => return Err(Error::exception("Invalid sync option")),
    };
    let cookie: [u8; 4] = rand::random();
    let mut packet = vec![VERSION];
    packet.push(if count == 0 {
        COUNT
    } else if sync {
        HIT
    } else {
        LOCAL_HIT
    });
    packet.extend_from_slice(&cookie);
    packet.extend_from_slice(&interval.to_be_bytes());
    if count > 0 {
        packet.extend_from_slice(&count.to_be_bytes());
    }
    packet.extend_from_slice(&namespace);
    packet.extend_from_slice(&entry);
    let environment = environment::of(cx);
    Ok(Outcome::Pending(Box::pin(async move {
        let length = if count > 0 { HIT_REPLY_BYTES } else { COUNT_REPLY_BYTES };
        let asked = tokio::time::timeout(TIMEOUT, ask(&environment, &packet, cookie, length)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(reply) if count > 0 => Ok(Value::Bool(reply[4] != 0)),
            // The count is in the byte order of the host, as the daemon of the same host writes it.
            Ok(reply) => Ok(u32::from_ne_bytes([reply[4], reply[5], reply[6], reply[7]]).into()),
            Err(error) => {
                (environment.log)(format_args!("rate(): {}: {error}", environment.rated.display()));
                Ok(Value::None)
            }
        }
    })))
}

/// A number of the packet: not negative, rounded.
fn whole(args: &Args<'_>, i: usize, name: &str) -> Result<u32, Error> {
    let n = args.number(i).round();
    if (0.0..=f64::from(u32::MAX)).contains(&n) {
        return Ok(n as u32);
    }
    Err(Error::exception(format!("Invalid or missing {name} parameter")))
}

/// A name in a field of the packet. The end of a longer one gives way to its digest, so that different names stay so.
fn padded(name: &[u8], bytes: usize) -> Option<Vec<u8>> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    let mut field = name.to_vec();
    if name.len() > bytes {
        field.truncate(bytes - DIGEST_DIGITS - 1);
        field.push(b'~');
        let digest = openssl::sha::sha256(name);
        field.extend(digest.iter().flat_map(|b| format!("{b:02x}").into_bytes()).take(DIGEST_DIGITS));
    }
    field.resize(bytes, 0);
    Some(field)
}

async fn ask(
    environment: &Environment,
    packet: &[u8],
    cookie: [u8; 4],
    length: usize,
) -> io::Result<Vec<u8>> {
    let path: &PathBuf = &environment.rated;
    // An abstract address, so that the daemon can answer and nothing is left in the file system.
    let own = SocketAddr::from_abstract_name(uuid::Uuid::new_v4().simple().to_string())?;
    let socket = StdDatagram::bind_addr(&own)?;
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    socket.connect(path)?;
    socket.send(packet).await?;
    loop {
        let mut reply = vec![0; length + 1];
        let n = socket.recv(&mut reply).await?;
        // Answers to others' questions and of other sizes are skipped.
        if n == length && reply[..4] == cookie {
            return Ok(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_different() {
        assert_eq!(padded(b"ab", 4).unwrap(), b"ab\0\0");
        assert_eq!(padded(&[b'x'; 64], 64).unwrap(), [b'x'; 64]);
        let (a, b) = (padded(&[b'x'; 65], 64).unwrap(), padded(&[b'x'; 66], 64).unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.starts_with(&[&[b'x'; 31][..], b"~"].concat()) && a != b);
        assert!(padded(b"", 4).is_none() && padded(b"a\0", 4).is_none());
    }
}
