//! Moments as numbers: the queue reads no clock, the caller passes the time in.

use std::time::Duration;

/// Microseconds since the Unix epoch, UTC. All arithmetic saturates, so a wild clock never panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// The Unix epoch.
    pub const ZERO: Time = Time(0);
    /// Later than any real moment.
    pub const MAX: Time = Time(i64::MAX);

    /// From seconds with fraction; not-a-number becomes the epoch, out-of-range values the nearest end.
    pub fn from_secs_f64(seconds: f64) -> Time {
        Time((seconds * 1e6).round() as i64)
    }

    /// From whole seconds.
    pub fn from_secs(seconds: i64) -> Time {
        Time(seconds.saturating_mul(1_000_000))
    }

    /// Seconds since the epoch with fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment moved into the future.
    pub fn after(self, delay: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment moved by seconds of either sign (`TimeValue.relative` of the control protocol).
    pub fn shifted_s(self, seconds: f64) -> Time {
        Time(self.0.saturating_add((seconds * 1e6).round() as i64))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Time) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}
