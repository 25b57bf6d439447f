//! What a local port may send in a time: bytes and frames, each by a token bucket.
//!
//! # Theory of operation
//! A bucket is one instant: when all that was admitted so far would be paid for at the rate. A unit
//! moves it on by its share of a second; one that would move it further than the burst ahead of
//! `now` is refused. Time alone refills it, so nothing has to be counted in between.
//!
//! The burst is what the rate carries in [`BURST`], and at least [`BURST_BYTES_MIN`] or
//! [`BURST_FRAMES_MIN`], so any super-frame passes at any rate. It counts as all the frames that it
//! stands for, or a guest would multiply its frames by handing over large ones.
//!
//! A clock that is set back, which the data plane's is not, leaves an empty bucket and no more.
//!
//! Source: the generic cell rate algorithm, ITU-T I.371.

use std::time::Duration;

use vde_switch::frame::{FRAME_LEN_MAX, Frame};
use vde_switch::time::Instant;
use vde_switch::vnet::GSO_SIZE_MIN;

use crate::control::Limits;

/// What may be sent at once, as time at the rate: longer, and a queue is filled before the sender
/// learns its rate.
pub const BURST: Duration = Duration::from_millis(50);

/// Bytes that may be sent at once at any rate: two super-frames.
pub const BURST_BYTES_MIN: u64 = 128 * 1024;

/// Frames that may be sent at once at any rate: the super-frame that stands for most.
pub const BURST_FRAMES_MIN: u64 = FRAME_LEN_MAX.div_ceil(GSO_SIZE_MIN as usize) as u64;

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
    fn after(&mut self, units: u64, now: Instant) -> Option<u64> {
        if self.per_s == 0 {
            return Some(0);
        }
        let now = now.as_nanos();
        // Further ahead than a burst it is only if the clock was set back.
        self.paid_at = self.paid_at.min(now.saturating_add(self.burst));
        let paid_at = self.paid_at.max(now).checked_add(nanos(units, self.per_s))?;
        (paid_at - now <= self.burst).then_some(paid_at)
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

    /// Says whether a frame may be sent, and pays for it if so.
    pub fn admit(&mut self, frame: &Frame<'_>, now: Instant) -> bool {
        let count = frame.hdr.segment_count(frame.bytes);
        self.admit_units(frame.bytes.len() as u64, count.into(), now)
    }

    fn admit_units(&mut self, bytes: u64, frames: u64, now: Instant) -> bool {
        let paid = (self.bytes.after(bytes, now), self.frames.after(frames, now));
        let (Some(bytes), Some(frames)) = paid else { return false };
        (self.bytes.paid_at, self.frames.paid_at) = (bytes, frames);
        true
    }
}

#[cfg(test)]
mod tests;
