//! The retry schedule as a pure function.
//!
//! `retry` counts from 0. After failure number `retry` the delay is `intervals[retry]`, the last one repeating; an
//! entry has expired when `retry >= count` or its age reaches `age_max`. With a count of c at most c + 1 attempts
//! are made.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Time;

/// Longest delay between attempts.
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// One step of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryInterval {
    /// Delay after the failure.
    pub interval: Duration,
    /// Whether a "delayed" notification goes out when this step is taken.
    pub notify: bool,
}

/// A daily time window, in seconds since midnight UTC, start included, end not. An end at or before the start
/// reaches into the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayWindow {
    /// First second.
    pub start_s: u32,
    /// First second no longer inside.
    pub end_s: u32,
    /// Days of the week it starts on, bit 0 = Monday; 0 stands for every day.
    pub weekdays: u8,
}

/// The schedule of a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    /// Retries before expiry.
    pub count: u32,
    /// Steps, the last one repeating. Empty: 60 s.
    pub intervals: Vec<RetryInterval>,
    /// Age at which a failure is final.
    pub age_max: Option<Duration>,
    /// Windows in which attempts may run; empty: always.
    pub during: Vec<DayWindow>,
    /// A uniform part of this is added to each delay.
    pub jitter: Duration,
    /// Seconds the windows' clock is ahead of UTC.
    pub utc_offset_s: i32,
}

impl Default for RetrySchedule {
    /// The stock example of the manual: 30 retries after 1, 15, 60 (notifying), 120 and 180 minutes.
    fn default() -> Self {
        let step = |seconds, notify| RetryInterval { interval: Duration::from_secs(seconds), notify };
        RetrySchedule {
            count: 30,
            intervals: vec![
                step(60, false),
                step(900, false),
                step(3600, true),
                step(7200, false),
                step(10_800, false),
            ],
            age_max: None,
            during: Vec::new(),
            jitter: Duration::ZERO,
            utc_offset_s: 0,
        }
    }
}

/// What the schedule says after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPlan {
    /// No further attempt by schedule.
    pub expired: bool,
    /// Delay until the next attempt, jitter and windows included (also given when expired: a script may go on).
    pub delay: Duration,
    /// This step asks for a "delayed" notification.
    pub notify: bool,
    /// Number of the step used, for remembering that its notification went out.
    pub step: usize,
}

impl RetrySchedule {
    /// The plan after failure number `retry` of a message received at `received`. `dice` is a random number that
    /// decides the jitter.
    pub fn plan(&self, now: Time, received: Time, retry: u32, dice: u64) -> RetryPlan {
        let last = self.intervals.len().saturating_sub(1);
        let step = usize::try_from(retry).unwrap_or(usize::MAX).min(last);
        let (interval, notify) =
            self.intervals.get(step).map_or((Duration::from_secs(60), false), |i| (i.interval, i.notify));
        let jitter = Rng::new(dice).duration(self.jitter);
        let delay = interval.saturating_add(jitter).min(DELAY_MAX);
        let aged = self.age_max.is_some_and(|limit| now.since(received) >= limit);
        let expired = retry >= self.count || aged;
        let wanted = now.after(delay);
        let delay = self.next_allowed(wanted).since(now).min(DELAY_MAX);
        RetryPlan { expired, delay, notify: notify && !expired, step }
    }

    /// The first moment at or after `wanted` that lies in a window.
    fn next_allowed(&self, wanted: Time) -> Time {
        const DAY_S: i64 = 86_400;
        if self.during.is_empty() {
            return wanted;
        }
        let offset_s = i64::from(self.utc_offset_s);
        let local_s = wanted.as_secs().saturating_add(offset_s);
        let today = local_s.div_euclid(DAY_S);
        let mut best: Option<i64> = None;
        // A window may have begun yesterday, and the next one begins within a week at the latest.
        for day in (today - 1)..=(today + 7) {
            for window in &self.during {
                // Day 0 of the epoch was a Thursday, bit 3.
                let weekday = (day + 3).rem_euclid(7) as u8;
                if window.weekdays & 0x7f != 0 && window.weekdays & (1 << weekday) == 0 {
                    continue;
                }
                let start = day * DAY_S + i64::from(window.start_s);
                let reaches_over = window.end_s <= window.start_s;
                let end = day * DAY_S + i64::from(window.end_s) + if reaches_over { DAY_S } else { 0 };
                if start <= local_s && local_s < end {
                    return wanted;
                }
                if start > local_s && best.is_none_or(|known| start < known) {
                    best = Some(start);
                }
            }
        }
        best.map_or(wanted, |start| Time::from_secs(start.saturating_sub(offset_s)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn steps_follow_the_list_and_the_last_one_repeats() {
        let schedule = RetrySchedule::default();
        let now = Time::from_secs(1_000_000);
        for (retry, delay_s, notify, expired) in [
            (0, 60, false, false),
            (1, 900, false, false),
            (2, 3600, true, false),
            (3, 7200, false, false),
            (4, 10_800, false, false),
            (29, 10_800, false, false),
            (30, 10_800, false, true),
            (u32::MAX, 10_800, false, true),
        ] {
            let plan = schedule.plan(now, now, retry, 7);
            assert_eq!(plan.delay, Duration::from_secs(delay_s), "retry {retry}");
            assert_eq!((plan.notify, plan.expired), (notify, expired), "retry {retry}");
        }
    }

    #[test]
    fn age_ends_it_whatever_the_count() {
        let schedule = RetrySchedule { age_max: Some(HOUR), ..RetrySchedule::default() };
        let now = Time::from_secs(10_000_000);
        assert!(!schedule.plan(now, Time(now.0 - 3_599_000_000), 0, 0).expired);
        assert!(schedule.plan(now, Time(now.0 - 3_600_000_000), 0, 0).expired);
        // A clock that went backwards makes the message young, never expired.
        assert!(!schedule.plan(now, now.after(HOUR), 0, 0).expired);
    }

    #[test]
    fn jitter_stays_within_its_span_and_delays_are_capped() {
        let schedule = RetrySchedule { jitter: Duration::from_secs(10), ..RetrySchedule::default() };
        for dice in 0..1000 {
            let delay = schedule.plan(Time::ZERO, Time::ZERO, 0, dice).delay;
            assert!((Duration::from_secs(60)..=Duration::from_secs(70)).contains(&delay));
        }
        let long = RetrySchedule {
            intervals: vec![RetryInterval { interval: Duration::MAX, notify: false }],
            ..RetrySchedule::default()
        };
        assert_eq!(long.plan(Time::ZERO, Time::ZERO, 0, 0).delay, DELAY_MAX);
    }

    #[test]
    fn attempts_outside_the_windows_move_to_the_next_start() {
        let night = DayWindow { start_s: 22 * 3600, end_s: 6 * 3600, weekdays: 0 };
        let schedule = RetrySchedule { during: vec![night], ..RetrySchedule::default() };
        let day = Time::from_secs(20_000 * 86_400);
        let at = |hour: u64| day.after(Duration::from_secs(hour * 3600));
        // 12:00 + 60 s waits for 22:00; 23:00 and 03:00 are inside.
        assert_eq!(at(12).after(schedule.plan(at(12), day, 0, 0).delay), at(22));
        assert_eq!(schedule.plan(at(23), day, 0, 0).delay, Duration::from_secs(60));
        assert_eq!(schedule.plan(at(3), day, 0, 0).delay, Duration::from_secs(60));
        // Day 0 was a Thursday and 20,000 mod 7 = 1, so this is a Friday. Only Mondays: three days on.
        let monday = DayWindow { start_s: 0, end_s: 3600, weekdays: 1 };
        let schedule = RetrySchedule { during: vec![monday], ..RetrySchedule::default() };
        assert_eq!(at(12).after(schedule.plan(at(12), day, 0, 0).delay), at(72));
    }
}
