//! An engine that is broken on purpose is caught by the simulation.

mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind};

use queue::{Defect, break_on_purpose};
use sim::Simulation;

/// The first seed whose run fails, and what it says.
fn caught(defect: Option<Defect>, seeds: u64) -> Option<(u64, String)> {
    break_on_purpose(defect);
    let found = (1..=seeds).find_map(|seed| {
        let run = catch_unwind(AssertUnwindSafe(|| Simulation::new(seed).run(2000)));
        let panic = run.err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some((seed, text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()))
    });
    break_on_purpose(None);
    found
}

#[test]
fn every_broken_engine_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    let sound = caught(None, 10);
    let broken: Vec<(Defect, Option<(u64, String)>)> =
        Defect::ALL.iter().map(|&defect| (defect, caught(Some(defect), 40))).collect();
    drop(std::panic::take_hook());
    assert_eq!(sound, None, "the sound engine passes");
    for (defect, found) in broken {
        let (seed, text) = found.unwrap_or_else(|| panic!("{defect:?} was not caught in 40 runs"));
        println!("{defect:?}: run {seed}: {}", text.lines().next().unwrap_or_default());
    }
}
