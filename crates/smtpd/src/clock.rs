//! The one place where the time of day is read.

use queue::Time;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Microseconds since the Unix epoch, as the queue counts.
pub fn now() -> Time {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    Time(micros)
}

/// Seconds since the Unix epoch, with fraction.
pub fn now_s() -> f64 {
    to_s(now())
}

/// A time of the queue in seconds.
pub fn to_s(time: Time) -> f64 {
    time.0 as f64 / 1e6
}

/// Seconds as a time of the queue; out of range values become the nearest.
pub fn from_s(seconds: f64) -> Time {
    Time((seconds * 1e6).clamp(i64::MIN as f64, i64::MAX as f64) as i64)
}

/// Makes message and connection ids of the configured version.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    time_based: bool,
    node: [u8; 6],
}

impl Ids {
    /// Version 1 (time) or 4 (random). The node of version 1 is random, with the multicast bit that RFC 9562
    /// 6.10 asks for, so it tells nothing about the host.
    pub fn new(version: u8) -> Ids {
        let mut node: [u8; 6] = rand::random();
        node[0] |= 1;
        Ids { time_based: version == 1, node }
    }

    /// A fresh id.
    pub fn next(&self) -> Uuid {
        if self.time_based { Uuid::now_v1(&self.node) } else { Uuid::new_v4() }
    }
}
