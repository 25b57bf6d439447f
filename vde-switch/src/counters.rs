//! What the switch counts: each frame once, by its verdict.

use crate::serve::Served;
use crate::verdict::{DropReason, Verdict};

/// Counters of a switch; `frames_in` is always the sum of all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in.
    pub frames_in: u64,
    /// Frames forwarded to one port.
    pub forwarded: u64,
    /// Frames flooded, counted once.
    pub flooded: u64,
    /// Frames answered at their port.
    pub answered: u64,
    drops: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self { frames_in: 0, forwarded: 0, flooded: 0, answered: 0, drops: [0; DropReason::COUNT] }
    }
}

impl Counters {
    /// Returns how many frames were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Returns each reason that dropped a frame, with the number of them.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().copied().zip(self.drops).filter(|(_, count)| *count > 0)
    }

    pub(crate) fn count(&mut self, verdict: &Verdict) {
        self.frames_in += 1;
        match verdict {
            Verdict::Forward(_) => self.forwarded += 1,
            Verdict::Flood(_) => self.flooded += 1,
            Verdict::Answer => self.answered += 1,
            Verdict::Drop(reason) => self.drops[*reason as usize] += 1,
        }
    }
}

/// Counters of one port: frames that came in by it, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that came in.
    pub frames_in: u64,
    /// Their bytes, a super-frame's as one.
    pub bytes_in: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Leases confirmed by DHCPv4, renewals among them.
    pub dhcp4_leases: u64,
    /// Leases confirmed by DHCPv6, renewals among them.
    pub dhcp6_leases: u64,
    /// Router advertisements given.
    pub router_adverts: u64,
}

impl PortCounters {
    pub(crate) fn count_served(&mut self, served: Served) {
        match served {
            Served::Dhcp4Lease => self.dhcp4_leases += 1,
            Served::Dhcp6Lease => self.dhcp6_leases += 1,
            Served::RouterAdvert => self.router_adverts += 1,
            Served::Other => {}
        }
    }

    pub(crate) fn count(&mut self, verdict: &Verdict, len: usize) {
        self.frames_in += 1;
        self.bytes_in += len as u64;
        self.dropped += u64::from(matches!(verdict, Verdict::Drop(_)));
    }
}
