//! Many runs without instrumentation, for volume: `cargo run --release --example volume -- COUNT [SEED]`. Inputs are
//! random bytes for the generator of programs, and such programs with some bytes changed.

use std::time::{Duration, Instant};

/// A run that takes longer is a finding.
const RUN_MAX: Duration = Duration::from_secs(20);

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
        (self.next() % n as u64) as usize
    }
}

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|a| a.parse::<u64>().expect("usage: volume COUNT [SEED]"));
    let count = arguments.next().unwrap_or(100_000);
    let seed = arguments.next().unwrap_or(1);
    let begun = Instant::now();
    // The longest run and its number.
    let mut slowest = (Duration::ZERO, 0);
    for i in 0..count {
        // Every run can be had again alone: its seed is printed when it fails.
        let mut random = Random((seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let length = 1 + random.below(300);
        let data: Vec<u8> = (0..length).map(|_| (random.next() >> 56) as u8).collect();
        let mut source = fuzz::generate::program(&data).into_bytes();
        if i % 4 == 3 {
            for _ in 0..=random.below(8) {
                let at = random.below(source.len().max(1));
                if at >= source.len() {
                    break;
                }
                match random.below(3) {
                    0 => source[at] = (random.next() >> 56) as u8,
                    1 => drop(source.remove(at)),
                    _ => source.truncate(at.max(1)),
                }
            }
        }
        let one = Instant::now();
        let result = std::panic::catch_unwind(|| fuzz::check(&source));
        let took = one.elapsed();
        slowest = slowest.max((took, i));
        if result.is_err() || took > RUN_MAX {
            println!("run {i} of seed {seed} ({took:?}):\n{}", String::from_utf8_lossy(&source));
            std::process::exit(1);
        }
        if i % 100_000 == 99_999 {
            println!("{} runs in {:?}, slowest {:?} (run {})", i + 1, begun.elapsed(), slowest.0, slowest.1);
        }
    }
    println!(
        "{count} runs of seed {seed} without a finding in {:?}, slowest {:?} (run {})",
        begun.elapsed(),
        slowest.0,
        slowest.1
    );
}
