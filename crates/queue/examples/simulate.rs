//! The simulation for longer: `cargo run --release --example simulate -- RUNS EVENTS [FIRST_SEED]`.

#[path = "../tests/sim/mod.rs"]
mod sim;

use std::time::Instant;

use sim::{Figures, Simulation};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (runs, events) = (numbers.first().copied().unwrap_or(100), numbers.get(1).copied().unwrap_or(10_000));
    let first = numbers.get(2).copied().unwrap_or(1);
    let started = Instant::now();
    let mut sum = Figures::default();
    for seed in first..first + runs {
        let mut simulation = Simulation::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulation.run(events)));
        if run.is_err() {
            println!("seed {seed} found a violation");
            std::process::exit(1);
        }
        let figures = simulation.figures;
        sum.events += figures.events;
        sum.attempts += figures.attempts;
        sum.crashes += figures.crashes;
        sum.reloads += figures.reloads;
        sum.frozen += figures.frozen;
        sum.left_behind_checks += figures.left_behind_checks;
        if (seed - first + 1) % 500 == 0 {
            println!("{} runs, {:.0} s, {sum:?}", seed - first + 1, started.elapsed().as_secs_f64());
        }
    }
    println!(
        "{runs} runs of {events} events without a violation in {:.0} s: {sum:?}",
        started.elapsed().as_secs_f64()
    );
}
