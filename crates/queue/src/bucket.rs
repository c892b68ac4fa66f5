//! One counter of a policy: attempts running, rate and connect interval of one combination of field values.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::policy::{Applied, BucketKey, Rate, RateAlgorithm};
use crate::time::Time;

/// What keeps a counter from starting another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// As many attempts run as may.
    Concurrency,
    /// Starts are used up for now.
    Rate,
    /// The last connection was opened too recently.
    ConnectInterval,
}

/// How many attempts may start now, and if none, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// So many (`u32::MAX`: not limited).
    Free(u32),
    /// None until an attempt ends.
    Full,
    /// None until this moment.
    Until(Time, Cause),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum RateState {
    /// As new: full bucket or closed window.
    Fresh,
    /// `level` is tokens times the interval in microseconds, exact in integers: one microsecond adds `count`,
    /// one start costs `interval`.
    Tokens { level: u128, at: Time },
    /// `used` starts since `start`.
    Window { start: Time, used: u32 },
}

/// Lanes in order of waiting, by priority.
pub(crate) type Waiters = [BTreeMap<u64, u32>; 2];

pub(crate) struct Bucket {
    pub(crate) policy: u32,
    pub(crate) key: BucketKey,
    pub(crate) applied: Arc<Applied>,
    pub(crate) running: u32,
    rate: RateState,
    /// Next new connection not before.
    connect_at: Time,
    pub(crate) waiters: Waiters,
    /// Lanes woken by this bucket that have not been looked at since, by priority.
    pub(crate) woken: [u32; 2],
    pub(crate) timer: Option<Time>,
}

impl Bucket {
    pub(crate) fn new(policy: u32, key: BucketKey, applied: Arc<Applied>) -> Self {
        Bucket {
            policy,
            key,
            applied,
            running: 0,
            rate: RateState::Fresh,
            connect_at: Time(i64::MIN),
            waiters: Waiters::default(),
            woken: [0; 2],
            timer: None,
        }
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters.iter().any(|waiters| !waiters.is_empty())
    }

    pub(crate) fn rate(&self) -> Option<Rate> {
        self.applied.limits.as_ref().and_then(|limits| limits.rate)
    }

    pub(crate) fn availability(&self, now: Time) -> Availability {
        let Some(limits) = &self.applied.limits else {
            return Availability::Free(u32::MAX);
        };
        let mut free = u32::MAX;
        if let Some(concurrency) = limits.concurrency {
            free = concurrency.saturating_add(u32::from(broken!(OneMore))).saturating_sub(self.running);
            if free == 0 {
                return Availability::Full;
            }
        }
        if let Some(interval) = limits.connect_interval
            && !interval.is_zero()
        {
            if self.connect_at > now {
                return Availability::Until(self.connect_at, Cause::ConnectInterval);
            }
            free = 1;
        }
        if let Some(rate) = limits.rate {
            let starts = self.starts_left(rate, now);
            if starts == 0 {
                return Availability::Until(self.rate_ready_at(rate, now), Cause::Rate);
            }
            free = free.min(starts);
        }
        Availability::Free(free)
    }

    /// Counts an attempt. `evaluated`: its limits were asked (not behind a `stop`), so rates are charged.
    pub(crate) fn start(&mut self, now: Time, evaluated: bool) {
        self.running += 1;
        let Some(limits) = self.applied.limits.clone().filter(|_| evaluated) else {
            return;
        };
        if let Some(interval) = limits.connect_interval {
            self.connect_at = now.after(interval);
        }
        if let Some(rate) = limits.rate {
            self.rate = match rate.algorithm {
                RateAlgorithm::TokenBucket => {
                    let level = self.level(rate, now).saturating_sub(interval_us(rate));
                    RateState::Tokens { level, at: now }
                }
                RateAlgorithm::FixedWindow => match self.rate {
                    RateState::Window { start, used } if in_window(start, rate, now) => {
                        RateState::Window { start, used: used.saturating_add(1) }
                    }
                    _ => RateState::Window { start: now, used: 1 },
                },
            };
        }
    }

    /// The attempt that started at `started` uses an open connection: its connect interval is given back.
    pub(crate) fn connection_reused(&mut self, started: Time) {
        let interval = self.applied.limits.as_ref().and_then(|limits| limits.connect_interval);
        if interval.is_some_and(|interval| self.connect_at == started.after(interval)) {
            self.connect_at = started;
        }
    }

    /// Takes over new limits; what was counted stays counted.
    pub(crate) fn set_applied(&mut self, applied: Arc<Applied>, now: Time) {
        let before = self.rate();
        let after = applied.limits.as_ref().and_then(|limits| limits.rate);
        self.rate = match (before, after) {
            (Some(old), Some(new)) if old.algorithm == new.algorithm && !broken!(ReloadRefills) => {
                match self.rate {
                    // What is over under the old limits does not come back under longer ones: an idle counter would have
                    // been forgotten by now.
                    RateState::Tokens { .. } if self.level(old, now) >= capacity(old) => RateState::Fresh,
                    RateState::Window { start, .. } if !in_window(start, old, now) => RateState::Fresh,
                    RateState::Tokens { .. } => {
                        let level =
                            self.level(old, now).saturating_mul(interval_us(new)) / interval_us(old).max(1);
                        RateState::Tokens { level: level.min(capacity(new)), at: now }
                    }
                    other => other,
                }
            }
            _ => RateState::Fresh,
        };
        self.applied = applied;
    }

    /// Gives tokens back: `None` fills up. Whole windows are reopened.
    pub(crate) fn refill(&mut self, tokens: Option<f64>, now: Time) {
        let Some(rate) = self.rate() else { return };
        self.rate = match (tokens, self.rate) {
            (Some(tokens), RateState::Tokens { .. }) => {
                let added = (tokens.max(0.0) * interval_us(rate) as f64) as u128;
                let level = self.level(rate, now).saturating_add(added).min(capacity(rate));
                RateState::Tokens { level, at: now }
            }
            (Some(tokens), RateState::Window { start, used }) => {
                RateState::Window { start, used: used.saturating_sub(tokens.max(0.0) as u32) }
            }
            _ => RateState::Fresh,
        };
    }

    /// Starts left, with fraction, for lists.
    pub(crate) fn tokens(&self, now: Time) -> Option<f64> {
        let rate = self.rate()?;
        Some(match rate.algorithm {
            RateAlgorithm::TokenBucket => self.level(rate, now) as f64 / interval_us(rate).max(1) as f64,
            RateAlgorithm::FixedWindow => f64::from(self.starts_left(rate, now)),
        })
    }

    /// When nothing is left to remember, if no attempt starts until then. `None` while attempts run or lanes wait.
    pub(crate) fn forgettable_at(&self, now: Time) -> Option<Time> {
        if self.running > 0 || self.woken != [0; 2] || self.has_waiters() {
            return None;
        }
        let mut at = now.max(self.connect_at);
        match (self.rate, self.rate()) {
            (RateState::Tokens { level, at: since }, Some(rate)) => {
                at = at.max(refilled_at(capacity(rate).saturating_sub(level), since, rate));
            }
            (RateState::Window { start, .. }, Some(rate)) => at = at.max(start.after(rate.interval)),
            _ => {}
        }
        Some(at)
    }

    fn level(&self, rate: Rate, now: Time) -> u128 {
        match self.rate {
            // A clock that went backwards adds nothing.
            RateState::Tokens { level, at } => {
                let gained = now.since(at).as_micros().saturating_mul(u128::from(rate.count));
                level.saturating_add(gained).min(capacity(rate))
            }
            _ => capacity(rate),
        }
    }

    fn starts_left(&self, rate: Rate, now: Time) -> u32 {
        match rate.algorithm {
            RateAlgorithm::TokenBucket => {
                u32::try_from(self.level(rate, now) / interval_us(rate).max(1)).unwrap_or(u32::MAX)
            }
            RateAlgorithm::FixedWindow => match self.rate {
                RateState::Window { start, used } if in_window(start, rate, now) => {
                    rate.count.saturating_sub(used)
                }
                _ => rate.count,
            },
        }
    }

    fn rate_ready_at(&self, rate: Rate, now: Time) -> Time {
        match self.rate {
            RateState::Tokens { level, at } => {
                refilled_at(interval_us(rate).saturating_sub(level), at, rate).max(now)
            }
            RateState::Window { start, .. } => start.after(rate.interval),
            RateState::Fresh => now,
        }
    }
}

fn interval_us(rate: Rate) -> u128 {
    rate.interval.as_micros()
}

/// One second's worth, at least one start, in token units.
fn capacity(rate: Rate) -> u128 {
    let interval = interval_us(rate).max(1);
    let tokens = (u128::from(rate.count) * 1_000_000).div_ceil(interval).max(1);
    tokens.saturating_mul(interval)
}

/// When `missing` token units have come in since `since`.
fn refilled_at(missing: u128, since: Time, rate: Rate) -> Time {
    let micros = missing.div_ceil(u128::from(rate.count).max(1));
    Time(since.0.saturating_add(i64::try_from(micros).unwrap_or(i64::MAX)))
}

fn in_window(start: Time, rate: Rate, now: Time) -> bool {
    now.since(start) < rate.interval
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Limits;

    fn bucket(limits: Limits) -> Bucket {
        let key = BucketKey { values: [BucketKey::ABSENT; 8], rolled: 0 };
        Bucket::new(0, key, Arc::new(Applied { limits: Some(limits), ..Applied::default() }))
    }

    fn rate(count: u32, seconds: u64, algorithm: RateAlgorithm) -> Limits {
        let rate = Rate { count, interval: Duration::from_secs(seconds), algorithm };
        Limits { rate: Some(rate), ..Limits::default() }
    }

    #[test]
    fn token_bucket_holds_one_second_and_refills_evenly() {
        // 10 per 60 s: capacity ceil(10/60) = 1, then one every 6 s.
        let mut bucket = bucket(rate(10, 60, RateAlgorithm::TokenBucket));
        let start = Time::from_secs(1000);
        assert_eq!(bucket.availability(start), Availability::Free(1));
        bucket.start(start, true);
        assert_eq!(bucket.availability(start), Availability::Until(Time::from_secs(1006), Cause::Rate));
        assert_eq!(bucket.availability(Time::from_secs(1006)), Availability::Free(1));
        assert_eq!(
            bucket.availability(Time(1_005_999_999)),
            Availability::Until(Time(1_006_000_000), Cause::Rate)
        );
        bucket.refill(None, start);
        assert_eq!(bucket.availability(start), Availability::Free(1));
    }

    #[test]
    fn fixed_window_opens_with_the_first_start() {
        let mut bucket = bucket(rate(3, 60, RateAlgorithm::FixedWindow));
        let start = Time::from_secs(1000);
        for left in [3, 2, 1] {
            assert_eq!(bucket.availability(start), Availability::Free(left));
            bucket.start(start.after(Duration::from_secs(u64::from(3 - left))), true);
        }
        assert_eq!(bucket.availability(start), Availability::Until(Time::from_secs(1060), Cause::Rate));
        assert_eq!(bucket.availability(Time::from_secs(1060)), Availability::Free(3));
    }

    #[test]
    fn connect_interval_spares_reused_connections() {
        let interval = Some(Duration::from_secs(5));
        let mut bucket = bucket(Limits { connect_interval: interval, ..Limits::default() });
        let start = Time::from_secs(1000);
        bucket.start(start, true);
        let blocked = Availability::Until(Time::from_secs(1005), Cause::ConnectInterval);
        assert_eq!(bucket.availability(start), blocked);
        bucket.connection_reused(start);
        assert_eq!(bucket.availability(start), Availability::Free(1));
    }

    /// Starts whenever the counter lets it, moving the clock by `steps` microseconds; the moments of starts.
    fn greedy(limits: Limits, steps: &[u64]) -> Vec<Time> {
        let mut bucket = bucket(limits);
        let mut now = Time::from_secs(1000);
        let mut starts = Vec::new();
        for step in steps {
            now = now.after(Duration::from_micros(*step));
            while let Availability::Free(free) = bucket.availability(now) {
                assert!(free > 0);
                bucket.start(now, true);
                starts.push(now);
            }
            let Availability::Until(at, _) = bucket.availability(now) else { panic!("nothing else runs") };
            assert!(at > now, "blocked until a moment to come");
            assert!(matches!(bucket.availability(at), Availability::Free(_)), "and no longer");
        }
        starts
    }

    proptest! {
        #[test]
        fn a_token_bucket_never_gives_more_than_capacity_and_refill(
            count in 1u32..500, seconds in 1u64..600, steps in vec(0u64..5_000_000, 1..200),
        ) {
            let starts = greedy(rate(count, seconds, RateAlgorithm::TokenBucket), &steps);
            let capacity = (f64::from(count) / seconds as f64).ceil();
            for (i, first) in starts.iter().enumerate() {
                for (extra, last) in starts[i..].iter().enumerate() {
                    let span_s = last.since(*first).as_secs_f64();
                    let most = capacity + span_s * f64::from(count) / seconds as f64;
                    prop_assert!((extra + 1) as f64 <= most + 1e-6, "{} in {span_s} s, at most {most}", extra + 1);
                }
            }
        }

        #[test]
        fn fixed_windows_hold_their_count(
            count in 1u32..20, seconds in 1u64..20, steps in vec(0u64..5_000_000, 1..200),
        ) {
            let starts = greedy(rate(count, seconds, RateAlgorithm::FixedWindow), &steps);
            // The first start opens a window; whatever starts within it counts to it.
            let mut window = None;
            let mut used = 0;
            for at in starts {
                if window.is_none_or(|open: Time| at.since(open) >= Duration::from_secs(seconds)) {
                    window = Some(at);
                    used = 0;
                }
                used += 1;
                prop_assert!(used <= count);
            }
        }
    }
}
