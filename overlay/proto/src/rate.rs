//! What a local port may send in a time: bytes and frames, each by a token bucket.
//!
//! # Theory of operation
//! A bucket is one instant: when all that was admitted so far would be paid for at the rate. A unit
//! moves it on by its share of a second; one that would move it further than the burst ahead of
//! `now` is refused. Time alone refills it, so nothing has to be counted in between.
//!
//! The burst is what the rate carries in [`BURST`], and at least [`BURST_BYTES_MIN`] or
//! [`BURST_FRAMES_MIN`], so a TCP super-frame passes at any rate.
//!
//! Source: the generic cell rate algorithm, ITU-T I.371.

use std::time::Duration;

use vde_switch::time::Instant;

use crate::control::Limits;

/// What may be sent at once, as time at the rate: longer, and a queue is filled before the sender
/// learns its rate.
pub const BURST: Duration = Duration::from_millis(50);

/// Bytes that may be sent at once at any rate: two super-frames.
pub const BURST_BYTES_MIN: u64 = 128 * 1024;

/// Frames that may be sent at once at any rate: one read of a tap.
pub const BURST_FRAMES_MIN: u64 = 32;

const NANOS_PER_S: u64 = 1_000_000_000;

/// One bucket; a rate of 0 admits all.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    per_s: u64,
    burst: u64,
    paid_at: u64,
}

impl Bucket {
    fn set(&mut self, per_s: u64, burst_min: u64, now: Instant) {
        let burst_ms = u64::try_from(BURST.as_millis()).unwrap_or(u64::MAX);
        let burst = (per_s / 1000).saturating_mul(burst_ms).max(burst_min);
        (self.per_s, self.burst) = (per_s, nanos(burst, per_s));
        // What a lower rate left unpaid must not hold a higher one back for longer than its burst.
        self.paid_at = self.paid_at.min(now.as_nanos().saturating_add(self.burst));
    }

    /// Returns when all would be paid with `units` more, `None` if that is too far ahead.
    fn after(&self, units: u64, now: Instant) -> Option<u64> {
        if self.per_s == 0 {
            return Some(0);
        }
        let now = now.as_nanos();
        let paid_at = self.paid_at.max(now).saturating_add(nanos(units, self.per_s));
        (paid_at <= now.saturating_add(self.burst)).then_some(paid_at)
    }
}

/// Returns how long so many units take at a rate, rounded up.
fn nanos(units: u64, per_s: u64) -> u64 {
    let nanos = (u128::from(units) * u128::from(NANOS_PER_S)).div_ceil(u128::from(per_s.max(1)));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// See the module's theory of operation.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    bytes: Bucket,
    frames: Bucket,
}

impl RateLimit {
    /// Makes it with full buckets.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let (bytes, frames) = Default::default();
        let mut rate = Self { bytes, frames };
        rate.set(limits, now);
        rate
    }

    /// Changes the rates; what was sent already is not forgotten.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        self.bytes.set(limits.bytes_per_s, BURST_BYTES_MIN, now);
        self.frames.set(limits.frames_per_s.into(), BURST_FRAMES_MIN, now);
    }

    /// Says whether a frame of so many bytes may be sent, and pays for it if so.
    pub fn admit(&mut self, bytes: usize, now: Instant) -> bool {
        let paid = (self.bytes.after(bytes as u64, now), self.frames.after(1, now));
        let (Some(bytes), Some(frames)) = paid else { return false };
        (self.bytes.paid_at, self.frames.paid_at) = (bytes, frames);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1 << 40);

    /// Offers frames of `len` bytes at 1000 MB/s for `seconds`; returns the bytes admitted.
    fn offered(rate: &mut RateLimit, len: usize, start: Instant, seconds: u64) -> u64 {
        let count = seconds * 1_000_000_000 / len as u64;
        let at = |n: u64| start + Duration::from_nanos(n * len as u64);
        let admitted = (0..count).filter(|n| rate.admit(len, at(*n))).count();
        admitted as u64 * len as u64
    }

    #[test]
    fn a_port_sends_at_its_rate_and_its_burst_and_no_more() {
        for per_s in [1_000_000_u64, 12_500_000, 125_000_000] {
            for len in [60, 1514, 65_549] {
                let mut rate =
                    RateLimit::new(Limits { bytes_per_s: per_s, frames_per_s: 0 }, START);
                let sent = offered(&mut rate, len, START, 4);
                let burst = (per_s / 20).max(BURST_BYTES_MIN);
                let most = per_s * 4 + burst;
                assert!(sent <= most, "{sent} bytes of {len} at {per_s}/s, above {most}");
                assert!(sent >= per_s * 4 - 2 * len as u64, "{sent} of {len} at {per_s}/s");
            }
        }
    }

    #[test]
    fn frames_are_limited_beside_bytes_and_a_refused_frame_costs_nothing() {
        let mut rate = RateLimit::new(Limits { bytes_per_s: 0, frames_per_s: 100 }, START);
        let sent = offered(&mut rate, 1000, START, 2) / 1000;
        assert!((200..=232).contains(&sent), "{sent} frames in two seconds");
        let mut rate = RateLimit::new(Limits { bytes_per_s: 1000, frames_per_s: 100 }, START);
        assert!(rate.admit(65_549, START) && rate.admit(60_000, START));
        assert!(!rate.admit(65_549, START), "above the bytes");
        let few = (0..100).filter(|_| rate.admit(1, START)).count();
        assert_eq!(few, 30, "the refused frame was counted, or the burst is another");
    }

    #[test]
    fn a_rate_changes_at_once_both_ways_and_idle_time_fills_one_burst() {
        let limits = |bytes_per_s| Limits { bytes_per_s, frames_per_s: 0 };
        let mut rate = RateLimit::new(limits(1000), START);
        assert!(rate.admit(65_536, START) && rate.admit(65_536, START));
        let later = START + Duration::from_secs(1);
        rate.set(limits(100_000_000), later);
        let sent = offered(&mut rate, 1514, later, 1);
        assert!(sent > 95_000_000, "{sent} bytes in the second after the rate was raised");
        let later = later + Duration::from_secs(1);
        rate.set(limits(1_000_000), later);
        let sent = offered(&mut rate, 1514, later, 1);
        assert!(sent <= 1_000_000 + BURST_BYTES_MIN, "{sent} bytes after it was lowered");
        let day = later + Duration::from_secs(86_400);
        let sent = offered(&mut rate, 1514, day, 1);
        assert!((990_000..=1_000_000 + BURST_BYTES_MIN).contains(&sent), "{sent} after a day");
        rate.set(Limits::NONE, later);
        assert!(rate.admit(usize::MAX, later), "no limit is one");
    }
}
