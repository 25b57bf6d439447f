//! The forwarding database: behind which port a MAC address is.
//!
//! # Theory of operation
//! Members' stations come from the roster and are *fixed*: [`Fdb::fix`] enters them when a port is
//! set, and only [`Fdb::unfix`] removes them. On a port that bridges a LAN, [`Fdb::learn`] runs for
//! the source of each admitted frame that is no station's; the newest sighting is the truth, and
//! one older than [`AGEING_TIME`] no longer answers. A fixed entry always answers first and cannot
//! be learned over, so nobody takes a member's place by speaking.
//!
//! # Limits
//! [`LEARNED_MAX`] learned addresses. When full, aged ones make room, at most one sweep a second;
//! if there are none, new ones are not learned and their frames are flooded to learning ports.
//!
//! Source: IEEE 802.1Q-2022, 8.7 (learning) and 8.8 (filtering database).

use std::time::Duration;

use crate::hash::Table;
use crate::mac::MacAddr;
use crate::port::PortId;
use crate::time::Instant;

/// How long a learned address answers after it was last heard (802.1Q-2022, table 8-10).
pub const AGEING_TIME: Duration = Duration::from_secs(300);

/// Most learned addresses: a large LAN; 128 kB.
pub const LEARNED_MAX: usize = 4096;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A forwarding database.
#[derive(Clone, Debug, Default)]
pub struct Fdb {
    fixed: Table<u64, PortId>,
    learned: Table<u64, Sighting>,
    sweep_due: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Sighting {
    port: PortId,
    heard_at: Instant,
}

impl Fdb {
    /// Returns the port that has the MAC address, fixed or learned.
    #[must_use]
    pub fn lookup(&self, mac: MacAddr, now: Instant) -> Option<PortId> {
        if let Some(port) = self.fixed(mac) {
            return Some(port);
        }
        if self.learned.is_empty() {
            return None;
        }
        let sighting = self.learned.get(&key(mac))?;
        (now - sighting.heard_at < AGEING_TIME).then_some(sighting.port)
    }

    /// Returns the port whose station has the MAC address.
    #[must_use]
    pub fn fixed(&self, mac: MacAddr) -> Option<PortId> {
        self.fixed.get(&key(mac)).copied()
    }

    /// Notes that a stranger was heard behind a port, and says whether it is known there now.
    pub fn learn(&mut self, mac: MacAddr, port: PortId, now: Instant) -> bool {
        let (key, sighting) = (key(mac), Sighting { port, heard_at: now });
        if self.fixed.contains_key(&key) {
            return false;
        }
        if let Some(entry) = self.learned.get_mut(&key) {
            *entry = sighting;
            return true;
        }
        if self.learned.len() >= LEARNED_MAX && now >= self.sweep_due {
            self.sweep_due = now + SWEEP_INTERVAL;
            self.learned.retain(|_, sighting| now - sighting.heard_at < AGEING_TIME);
        }
        let room = self.learned.len() < LEARNED_MAX;
        if room {
            self.learned.insert(key, sighting);
        }
        room
    }

    /// Enters a station's MAC address; a stranger's sighting of it is forgotten.
    pub fn fix(&mut self, mac: MacAddr, port: PortId) {
        self.learned.remove(&key(mac));
        self.fixed.insert(key(mac), port);
    }

    /// Removes a station's MAC address.
    pub fn unfix(&mut self, mac: MacAddr) {
        self.fixed.remove(&key(mac));
    }

    /// Forgets all that was learned behind a port.
    pub fn unlearn(&mut self, port: PortId) {
        self.learned.retain(|_, sighting| sighting.port != port);
    }

    /// Returns how many addresses are learned, aged ones included.
    #[must_use]
    pub fn learned_count(&self) -> usize {
        self.learned.len()
    }
}

fn key(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn mac(n: u16) -> MacAddr {
        let [a, b] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    #[test]
    fn a_stranger_cannot_take_a_members_place() {
        let (mut fdb, now) = (Fdb::default(), Instant::ZERO);
        assert!(fdb.learn(mac(1), PortId(7), now));
        fdb.fix(mac(1), PortId(3));
        assert!(!fdb.learn(mac(1), PortId(7), now));
        assert_eq!(fdb.lookup(mac(1), now), Some(PortId(3)));
        fdb.unfix(mac(1));
        assert_eq!(fdb.lookup(mac(1), now), None);
    }

    #[test]
    fn a_full_table_learns_again_when_entries_have_aged() {
        let (mut fdb, mut now) = (Fdb::default(), Instant::ZERO);
        for n in 0..=u16::MAX {
            fdb.learn(mac(n), PortId(0), now);
        }
        assert_eq!(fdb.learned_count(), LEARNED_MAX);
        now += AGEING_TIME;
        assert_eq!(fdb.lookup(mac(0), now), None);
        assert!(fdb.learn(mac(9999), PortId(0), now));
        assert_eq!(fdb.learned_count(), 1);
    }

    proptest! {
        #[test]
        fn a_hit_is_always_the_newest_sighting(
            sightings in vec((0..12u16, 0..4u16, 0..200u64), 1..200)
        ) {
            let (mut fdb, mut model, mut now) = (Fdb::default(), BTreeMap::new(), Instant::ZERO);
            for (station, port, gap) in sightings {
                now += Duration::from_secs(gap);
                prop_assert!(fdb.learn(mac(station), PortId(port), now));
                model.insert(station, (PortId(port), now));
                for (station, (port, heard_at)) in &model {
                    let expected = (now - *heard_at < AGEING_TIME).then_some(*port);
                    prop_assert_eq!(fdb.lookup(mac(*station), now), expected);
                }
            }
        }
    }
}
