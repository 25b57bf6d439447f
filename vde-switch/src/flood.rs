//! How much one port may ask of all others.
//!
//! # Theory of operation
//! A [`Bucket`] is a token bucket kept as one instant: the time at which it will be full again
//! (the generic cell rate algorithm, ITU-T I.371). A frame moves that time on by its cost and is
//! admitted if the bucket is not emptied by it. No timer runs.
//!
//! # Limits
//! [`GROUP_RATE`], [`ANSWER_RATE`] and [`SERVICE_RATE`] for each port. What exceeds them is dropped
//! by name, never queued: discovery protocols repeat themselves.

use crate::time::Instant;

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, at least 1.
    pub per_second: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

/// Group frames of one port. mDNS, SSDP and the like send a few a second; each is copied to every
/// member of the order, so this bounds what one guest can make a seller's uplink carry.
pub const GROUP_RATE: Rate = Rate { per_second: 100, burst: 200 };

/// Answers to one port's ARP and ND. A station that meets a full /25 at once still gets all.
pub const ANSWER_RATE: Rate = Rate { per_second: 50, burst: 100 };

/// Answers to one port's DHCP and router solicitations. A system that boots asks less than ten
/// times, by firmware, boot loader and kernel together, and again after half a lease.
pub const SERVICE_RATE: Rate = Rate { per_second: 5, burst: 10 };

/// A token bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Nanoseconds that one token takes to come back.
    token: u64,
    /// Nanoseconds that an empty bucket takes to fill.
    depth: u64,
    /// When the bucket is full again.
    full_at: u64,
}

impl Bucket {
    /// Makes a full bucket.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        let per_second = if rate.per_second == 0 { 1 } else { rate.per_second };
        let token = 1_000_000_000 / per_second as u64;
        Self { token, depth: token * rate.burst as u64, full_at: 0 }
    }

    /// Takes `count` tokens, all or none, and says whether they were there.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        let now = now.as_nanos();
        let full_at = self.full_at.max(now).saturating_add(self.token * u64::from(count));
        let admitted = full_at - now <= self.depth;
        if admitted {
            self.full_at = full_at;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let mut bucket = Bucket::new(GROUP_RATE);
        let mut now = Instant::from_nanos(7);
        assert_eq!((0..1000).filter(|_| bucket.take(1, now)).count(), 200);
        now += Duration::from_millis(10);
        assert!(bucket.take(1, now));
        assert!(!bucket.take(1, now));
        now += Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| bucket.take(1, now)).count(), 200);
    }

    proptest! {
        #[test]
        fn no_window_carries_more_than_burst_and_rate(
            gaps in prop::collection::vec(0..50_000_000u64, 1..400),
        ) {
            let mut bucket = Bucket::new(ANSWER_RATE);
            let (mut now, mut taken) = (0, 0u64);
            for gap in gaps {
                now += gap;
                taken += u64::from(bucket.take(1, Instant::from_nanos(now)));
                prop_assert!(taken <= 100 + now / 20_000_000 + 1);
            }
        }
    }
}
