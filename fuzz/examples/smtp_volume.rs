//! Many sessions for the SMTP server machine without instrumentation, for volume: `cargo run --release --example
//! smtp_volume -- COUNT [SEED]`. Inputs are pieces of the protocol put together at random, with changes.

use std::time::{Duration, Instant};

/// A run that takes longer is a finding.
const RUN_MAX: Duration = Duration::from_secs(5);

const PIECES: &[&[u8]] = &[
    b"EHLO c\r\n",
    b"HELO c\r\n",
    b"EHLO no\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n",
    b"MAIL FROM:<no@b> SIZE=5 RET=FULL\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"RCPT TO:<no@d> NOTIFY=NEVER\r\n",
    b"DATA\r\n",
    b"\r\n.\r\n",
    b".\r\n",
    b"..\r\n",
    b"\n.\n",
    b"\r.\r",
    b"BDAT 7\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 20 LAST\r\n",
    b"BDAT 400\r\n",
    b"RSET\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH X-OWN =\r\n",
    b"YQ==\r\n",
    b"*\r\n",
    b"XNEXT\r\n",
    b"XPASS\r\n",
    b"XN!\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"QUIT\r\n",
    b"Received: x\r\n",
    b"\r",
    b"\n",
    b"\r\r\n",
    b"\0",
    b"\xff\xc3\xa5",
    b"text",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) % n as u64) as usize
    }
}

fn input(random: &mut Random) -> Vec<u8> {
    let mut data = vec![(random.next() >> 56) as u8, (random.next() >> 56) as u8];
    if random.below(4) > 0 {
        data.extend_from_slice(b"EHLO c\r\n");
    }
    for _ in 0..random.below(30) {
        // Half of the sessions get somewhere.
        match random.below(8) {
            0 => data.extend_from_slice(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
            1 => data.extend_from_slice(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 9\r\n"),
            _ => data.extend_from_slice(PIECES[random.below(PIECES.len())]),
        }
        if random.below(20) == 0 && data.len() > 2 {
            let at = 2 + random.below(data.len() - 2);
            data[at] = (random.next() >> 56) as u8;
        }
    }
    data
}

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|a| a.parse::<u64>().expect("usage: smtp_volume COUNT [SEED]"));
    let count = arguments.next().unwrap_or(100_000);
    let seed = arguments.next().unwrap_or(1);
    let begun = Instant::now();
    for i in 0..count {
        // Every run can be had again alone: its seed is printed when it fails.
        let mut random = Random((seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = input(&mut random);
        let one = Instant::now();
        let result = std::panic::catch_unwind(|| fuzz::smtp_server::check(&data));
        if result.is_err() || one.elapsed() > RUN_MAX {
            println!("run {i} of seed {seed}, {:?}:\n{}", one.elapsed(), data.escape_ascii());
            std::process::exit(1);
        }
    }
    println!("{count} runs in {:?}", begun.elapsed());
}
