//! How much one port may ask of all others, each kind of asking by itself.
//!
//! # Theory of operation
//! A [`Bucket`] is a token bucket kept as one instant: the time at which it will be full again
//! (the generic cell rate algorithm, ITU-T I.371). A frame moves that time on by its cost and is
//! admitted if the bucket is not emptied by it. No timer runs.
//!
//! A port has one bucket for each [`Budget`], so that a storm of one kind starves no other: who
//! floods the segment with ARP is still configured by DHCP. At the receiving end a member's uplink
//! has the same ones, in case the member's own are gone.
//!
//! # Limits
//! [`Budget::rate`] for each port. What exceeds it is dropped by the budget's own name, never
//! queued: discovery protocols repeat themselves. A clock that is set back, which no caller's is,
//! costs no more than an empty bucket.

use crate::time::Instant;
use crate::verdict::DropReason;

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, 1 to 1,000,000,000.
    pub per_second: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

/// Broadcast and multicast. mDNS, SSDP and the like send a few a second; each is copied to every
/// member of the order, so this bounds what one guest can make a seller's uplink carry.
pub const GROUP_RATE: Rate = Rate { per_second: 50, burst: 100 };

/// ARP that is answered or travels to a bridged LAN. A station that meets a full /25 at once still
/// gets all.
pub const ARP_RATE: Rate = Rate { per_second: 50, burst: 100 };

/// Neighbour discovery, likewise; that of link-local addresses travels to the members.
pub const ND_RATE: Rate = Rate { per_second: 50, burst: 100 };

/// DHCPv4 questions. A system that boots asks less than ten times, by firmware, boot loader and
/// kernel together, and again after half a lease.
pub const DHCP4_RATE: Rate = Rate { per_second: 5, burst: 10 };

/// The same of DHCPv6.
pub const DHCP6_RATE: Rate = Rate { per_second: 5, burst: 10 };

/// Router solicitations. A system sends three (RFC 4861 10).
pub const ROUTER_RATE: Rate = Rate { per_second: 5, burst: 10 };

/// What a port has a budget of its own for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Frames to groups, a super-frame for all that it stands for; on a segment with a bridged LAN
    /// also those to stations that nobody knows.
    Group,
    /// ARP.
    Arp,
    /// Neighbour solicitations and advertisements.
    Nd,
    /// DHCPv4.
    Dhcp4,
    /// DHCPv6.
    Dhcp6,
    /// Router solicitations.
    Router,
}

impl Budget {
    /// All of them, in the order of their buckets.
    pub const ALL: [Self; 6] =
        [Self::Group, Self::Arp, Self::Nd, Self::Dhcp4, Self::Dhcp6, Self::Router];

    /// Returns how large it is.
    #[must_use]
    pub const fn rate(self) -> Rate {
        match self {
            Self::Group => GROUP_RATE,
            Self::Arp => ARP_RATE,
            Self::Nd => ND_RATE,
            Self::Dhcp4 => DHCP4_RATE,
            Self::Dhcp6 => DHCP6_RATE,
            Self::Router => ROUTER_RATE,
        }
    }

    /// Returns why a frame is dropped that exceeds it.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Group => DropReason::GroupRate,
            Self::Arp => DropReason::ArpRate,
            Self::Nd => DropReason::NdRate,
            Self::Dhcp4 => DropReason::Dhcp4Rate,
            Self::Dhcp6 => DropReason::Dhcp6Rate,
            Self::Router => DropReason::RouterRate,
        }
    }
}

/// One port's budgets, all full at first.
#[derive(Clone, Copy, Debug)]
pub struct Budgets([Bucket; Budget::ALL.len()]);

impl Default for Budgets {
    fn default() -> Self {
        Self(Budget::ALL.map(|budget| Bucket::new(budget.rate())))
    }
}

impl Budgets {
    /// Takes `count` of one budget, all or none.
    ///
    /// # Errors
    /// [`Budget::reason`] if there are fewer.
    pub fn spend(&mut self, budget: Budget, count: u32, now: Instant) -> Result<(), DropReason> {
        if self.0[budget as usize].take(count, now) { Ok(()) } else { Err(budget.reason()) }
    }
}

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
        let token = 1_000_000_000_u64.div_ceil(per_second as u64);
        Self { token, depth: token * rate.burst as u64, full_at: 0 }
    }

    /// Takes `count` tokens, all or none, and says whether they were there.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        let now = now.as_nanos();
        // Further ahead than empty it is only if the clock was set back.
        self.full_at = self.full_at.min(now.saturating_add(self.depth));
        let cost = self.token * u64::from(count);
        let Some(full_at) = self.full_at.max(now).checked_add(cost) else { return false };
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
        assert_eq!((0..1000).filter(|_| bucket.take(1, now)).count(), 100);
        now += Duration::from_millis(20);
        assert!(bucket.take(1, now));
        assert!(!bucket.take(1, now));
        now += Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| bucket.take(1, now)).count(), 100);
    }

    #[test]
    fn an_empty_budget_leaves_the_others_full() {
        for emptied in Budget::ALL {
            let (mut budgets, now) = (Budgets::default(), Instant::from_nanos(7));
            let spent = (0..1000).filter(|_| budgets.spend(emptied, 1, now).is_ok()).count();
            assert_eq!(spent, emptied.rate().burst as usize);
            assert_eq!(budgets.spend(emptied, 1, now), Err(emptied.reason()));
            for other in Budget::ALL.into_iter().filter(|other| *other != emptied) {
                assert_eq!(budgets.spend(other, other.rate().burst, now), Ok(()), "{other:?}");
            }
        }
        // As the catalogue has it (R02), no more of any kind than 50 a second leave a port.
        assert!(Budget::ALL.iter().all(|budget| budget.rate().per_second <= 50));
        assert!(Budget::ALL.iter().all(|budget| budget.rate().burst <= 100));
        let mut reasons: Vec<_> = Budget::ALL.iter().map(|budget| budget.reason().name()).collect();
        reasons.dedup();
        assert_eq!(reasons.len(), Budget::ALL.len());
    }

    /// Any rate that a caller may ask for.
    fn rate() -> impl Strategy<Value = Rate> {
        let per_second = prop_oneof![1..100u32, 1..1_000_000_000u32, Just(1_000_000_000)];
        (per_second, 1..1000u32).prop_map(|(per_second, burst)| Rate { per_second, burst })
    }

    proptest! {
        /// From any instant to any later one no more than a burst and what the rate brings.
        #[test]
        fn no_window_carries_more_than_burst_and_rate(
            rate in rate(),
            start in prop_oneof![Just(0), any::<u64>()],
            steps in prop::collection::vec((0..50_000_000u64, 0..6u32), 1..200),
        ) {
            let mut bucket = Bucket::new(rate);
            let mut taken = Vec::new();
            let mut now = start;
            for (gap, count) in steps {
                now = now.saturating_add(gap);
                if bucket.take(count, Instant::from_nanos(now)) {
                    taken.push((now, u64::from(count)));
                }
            }
            for (from, (first, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (at, count) in &taken[from..] {
                    sum += count;
                    let rated = u128::from(at - first) * u128::from(rate.per_second);
                    let most = u128::from(rate.burst) + rated / 1_000_000_000 + 1;
                    prop_assert!(u128::from(sum) <= most, "{} of {}", sum, most);
                }
            }
        }

        /// Whatever the clock did before, also run backwards, after the time that fills a bucket it
        /// is full.
        #[test]
        fn a_bucket_is_full_again_after_its_time_whatever_the_clock_did(
            rate in rate(),
            jumps in prop::collection::vec((0..1u64 << 62, 0..2000u32), 0..50),
            at in 0..1u64 << 62,
        ) {
            let mut bucket = Bucket::new(rate);
            for (jump, count) in jumps {
                bucket.take(count, Instant::from_nanos(jump));
            }
            bucket.take(rate.burst, Instant::from_nanos(at));
            let filled = at + 1_000_000_000_u64.div_ceil(rate.per_second.into())
                * u64::from(rate.burst);
            prop_assert!(bucket.take(rate.burst, Instant::from_nanos(filled)));
            prop_assert!(!bucket.take(1, Instant::from_nanos(filled)));
        }

        /// Nothing overflows, and nobody gets more than a burst at once, at the end of time either.
        #[test]
        fn extreme_instants_and_counts_are_refused_or_counted(
            rate in rate(),
            takes in prop::collection::vec((any::<u64>(), any::<u32>()), 1..50),
        ) {
            let mut bucket = Bucket::new(rate);
            for (at, count) in takes {
                let admitted = bucket.take(count, Instant::from_nanos(at));
                prop_assert!(!admitted || count <= rate.burst);
            }
            let end = Instant::from_nanos(u64::MAX);
            prop_assert!((0..3000).filter(|_| bucket.take(1, end)).count() <= 1000);
        }
    }
}
