//! The simulation, briefly; `cargo run --release --example simulate` runs it for longer.

mod common;
mod sim;

use common::*;
use proptest::prelude::*;
use queue::*;
use sim::Simulation;

/// Seeds to try: a few in every run, many on demand (`SIMULATION_CASES=5000`).
fn cases() -> u32 {
    std::env::var("SIMULATION_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_rules_hold_at_every_step(seed in any::<u64>()) {
        Simulation::new(seed).run(2000);
    }

    #[test]
    fn a_lane_is_first_in_first_out_by_due_time(dues in proptest::collection::vec(0u64..100, 1..40)) {
        let mut queue = Queue::new(Settings { predelivery_max: 1000, attempts_max: 0, seed: 1 });
        for (id, due) in dues.iter().enumerate() {
            let new = NewEntry { retry_at: Time(T0.0 - *due as i64), ..entry(1, "a@b") };
            queue.insert(T0, message(id as u128 + 1), vec![new]).unwrap();
        }
        let mut work = Vec::new();
        queue.poll(T0, 1000, &mut work);
        // Resolution answers in any order.
        work.reverse();
        for piece in work.drain(..) {
            let Work::Predelivery(ticket) = piece else { panic!() };
            queue.resolved(T0, ticket, &resolved("mx")).unwrap();
        }
        queue.set_limits(1000, 1000);
        queue.poll(T0, 1000, &mut work);
        let order: Vec<Time> = work
            .iter()
            .map(|piece| match piece {
                Work::Deliver(pick) => queue.entry(pick.ticket.key()).unwrap().retry_at(),
                _ => panic!(),
            })
            .collect();
        prop_assert_eq!(order.len(), dues.len());
        prop_assert!(order.is_sorted());
    }
}
