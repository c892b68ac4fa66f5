//! Many runs of the mail targets without instrumentation, for volume: `cargo run --release --example mail_volume --
//! COUNT [SEED]`. Inputs are pieces of the seeds and of mail syntax, put together and changed at random.

use std::time::{Duration, Instant};

/// A run that takes longer is a finding.
const RUN_MAX: Duration = Duration::from_secs(5);

const PIECES: &[&[u8]] = &[
    b"--o\r\n",
    b"--o--\r\n",
    b"--i\n",
    b"--i--\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"text",
    b"--",
    b"=",
    b"=?utf-8?Q?",
    b"?=",
    b"Content-Type: multipart/x; boundary=i\r\n",
    b"Content-Type: text/x\r\n",
    b"A: b\r\n",
    b" folded\r\n",
    b"\"",
    b"<",
    b">",
    b"(",
    b")",
    b"@",
    b",",
    b";",
    b":",
    b"\\",
    b"[",
    b"]",
    b"b=",
    b"v=1;",
    b"name*0*=utf-8''%41",
    b"\0",
    b"\xff",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
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

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(folder);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("seeds").map(|e| e.expect("seeds").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("seeds")).collect()
}

fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.below(12) {
        let at = random.below(data.len() + 1);
        match random.below(5) {
            0 => data.truncate(at),
            1 if at < data.len() => data[at] = (random.next() >> 56) as u8,
            2 => {
                let end = (at + random.below(20)).min(data.len());
                data.drain(at..end);
            }
            3 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.splice(at..at, other[from..].iter().copied());
            }
            _ => {
                data.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied());
            }
        }
        data.truncate(4000);
    }
    data
}

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|a| a.parse::<u64>().expect("usage: mail_volume COUNT [SEED]"));
    let count = arguments.next().unwrap_or(100_000);
    let seed = arguments.next().unwrap_or(1);
    let begun = Instant::now();
    let (messages, fields) = (seeds("mail_message"), seeds("mail_fields"));
    for i in 0..count {
        // Every run can be had again alone: its seed is printed when it fails.
        let mut random = Random((seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = input(&mut random, if i % 2 == 0 { &messages } else { &fields });
        let one = Instant::now();
        let run =
            || if i % 2 == 0 { fuzz::mail::check_message(&data) } else { fuzz::mail::check_fields(&data) };
        let result = std::panic::catch_unwind(run);
        if result.is_err() || one.elapsed() > RUN_MAX {
            println!("run {i} of seed {seed}, {:?}:\n{}", one.elapsed(), data.escape_ascii());
            std::process::exit(1);
        }
    }
    println!("{count} runs in {:?}", begun.elapsed());
}
