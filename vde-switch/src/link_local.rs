//! Whose link-local IPv6 addresses are whose: no grant names them, a station makes its own.
//!
//! # Theory of operation
//! The first station to use a link-local address, or to ask whether somebody else does, owns it:
//! from then on it is refused to all others, so that nobody can deny a station its address by
//! claiming it, or speak in its name. Addresses formed from a station's MAC address (EUI-64) are
//! the station's from the start: the switch, which knows all stations, sees to that.
//!
//! A node has two switches, one for each direction, and its own guests speak to one of them only:
//! what they claim there ([`LinkLocals::poll_new`]) is told to the other ([`LinkLocals::hold`]), so
//! that no member takes it from behind.
//!
//! # Limits
//! [`LINK_LOCAL_MAX`] addresses a station. A station that needs another, since it was installed
//! anew, gives up the one silent longest, if that is silent for [`AGEING_TIME`]; else it is
//! refused.

use std::net::Ipv6Addr;

use crate::fdb::AGEING_TIME;
use crate::hash::Table;
use crate::mac::{MacAddr, SERVICE_MAC};
use crate::time::Instant;
use crate::verdict::DropReason;

/// Most link-local addresses of one station. Systems use one, or two while they change it.
pub const LINK_LOCAL_MAX: usize = 4;

/// From where the segment's services speak IPv6; never a station's.
pub const SERVICE_LINK_LOCAL: Ipv6Addr = eui64_address(SERVICE_MAC);

/// The table of claims.
#[derive(Clone, Debug, Default)]
pub struct LinkLocals {
    owners: Table<u128, MacAddr>,
    claims: Table<[u8; 6], Vec<Claim>>,
    /// Claimed since they were asked for; at most [`NEW_MAX`].
    new: Vec<(Ipv6Addr, MacAddr)>,
}

/// Claims that one frame makes at most: its source and what it advertises.
const NEW_MAX: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Claim {
    address: Ipv6Addr,
    heard_at: Instant,
}

impl LinkLocals {
    /// Returns the station that owns the address.
    #[must_use]
    pub fn owner(&self, address: Ipv6Addr) -> Option<MacAddr> {
        self.owners.get(&address.to_bits()).copied()
    }

    /// Takes the address for a station, or notes that it is used still.
    ///
    /// # Errors
    /// [`DropReason::LinkLocalTaken`], [`DropReason::LinkLocalLimit`].
    pub fn claim(
        &mut self,
        address: Ipv6Addr,
        mac: MacAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.owner(address).is_some_and(|owner| owner != mac) {
            return Err(DropReason::LinkLocalTaken);
        }
        let claims = self.claims.entry(mac.0).or_default();
        let claim = Claim { address, heard_at: now };
        if let Some(known) = claims.iter_mut().find(|known| known.address == address) {
            *known = claim;
            return Ok(());
        }
        if claims.len() < LINK_LOCAL_MAX {
            claims.push(claim);
        } else {
            let oldest = claims
                .iter_mut()
                .min_by_key(|claim| claim.heard_at)
                .filter(|oldest| now - oldest.heard_at >= AGEING_TIME)
                .ok_or(DropReason::LinkLocalLimit)?;
            self.owners.remove(&oldest.address.to_bits());
            *oldest = claim;
        }
        self.owners.insert(address.to_bits(), mac);
        if self.new.len() == NEW_MAX {
            self.new.remove(0);
        }
        self.new.push((address, mac));
        Ok(())
    }

    /// Returns an address, and whose it is, that was claimed for the first time.
    pub fn poll_new(&mut self) -> Option<(Ipv6Addr, MacAddr)> {
        self.new.pop()
    }

    /// Takes an address that a station claimed elsewhere, unless it is another's here. What the
    /// station has too many was given up there.
    pub fn hold(&mut self, address: Ipv6Addr, mac: MacAddr, now: Instant) {
        if self.claim(address, mac, now) == Err(DropReason::LinkLocalLimit)
            && let Some(claims) = self.claims.get_mut(&mac.0)
            && let Some(oldest) = claims.iter_mut().min_by_key(|claim| claim.heard_at)
        {
            self.owners.remove(&oldest.address.to_bits());
            *oldest = Claim { address, heard_at: now };
            self.owners.insert(address.to_bits(), mac);
        }
        self.new.clear();
    }

    /// Takes the address that is formed from a station's MAC address from whoever claimed it
    /// before the station was known.
    pub fn reserve(&mut self, mac: MacAddr) {
        let address = eui64_address(mac);
        let Some(owner) = self.owner(address).filter(|owner| *owner != mac) else { return };
        self.owners.remove(&address.to_bits());
        if let Some(claims) = self.claims.get_mut(&owner.0) {
            claims.retain(|claim| claim.address != address);
        }
    }

    /// Forgets a station that has left.
    pub fn forget(&mut self, mac: MacAddr) {
        for claim in self.claims.remove(&mac.0).unwrap_or_default() {
            self.owners.remove(&claim.address.to_bits());
        }
    }
}

/// Returns the MAC address that a link-local address is formed from (RFC 4291, appendix A).
#[must_use]
pub fn eui64_mac(address: Ipv6Addr) -> Option<MacAddr> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
            Some(MacAddr([a ^ 2, b, c, d, e, f]))
        }
        _ => None,
    }
}

const fn eui64_address(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(u128::from_be_bytes(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const MALLORY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn address(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n)
    }

    #[test]
    fn an_address_is_the_first_comers_until_it_leaves() {
        let (mut table, now) = (LinkLocals::default(), Instant::ZERO);
        assert_eq!(table.claim(address(1), ALICE, now), Ok(()));
        assert_eq!(table.claim(address(1), MALLORY, now), Err(DropReason::LinkLocalTaken));
        assert_eq!(table.claim(address(1), ALICE, now), Ok(()));
        table.forget(ALICE);
        assert_eq!(table.claim(address(1), MALLORY, now), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_is_refused_but_a_new_system_finds_room_later() {
        let (mut table, mut now) = (LinkLocals::default(), Instant::ZERO);
        for n in 0..1000 {
            let expected = if n < 4 { Ok(()) } else { Err(DropReason::LinkLocalLimit) };
            assert_eq!(table.claim(address(n), MALLORY, now), expected);
        }
        now += AGEING_TIME;
        assert_eq!(table.claim(address(3), MALLORY, now), Ok(()));
        assert_eq!(table.claim(address(4), MALLORY, now), Ok(()));
        assert_eq!(table.owner(address(0)), None);
        assert_eq!(table.owner(address(3)), Some(MALLORY));
        assert_eq!(table.owners.len(), LINK_LOCAL_MAX);
    }

    #[test]
    fn what_is_claimed_here_is_held_there_unless_another_was_first() {
        let (mut here, mut there, mut now) =
            (LinkLocals::default(), LinkLocals::default(), Instant::ZERO);
        assert_eq!(there.claim(address(9), MALLORY, now), Ok(()));
        for n in [1, 2, 3, 9, 1, 4, 5, 6] {
            now += AGEING_TIME;
            assert_eq!(here.claim(address(n), ALICE, now), Ok(()));
            while let Some((address, mac)) = here.poll_new() {
                there.hold(address, mac, now);
            }
        }
        for n in [4, 5, 6] {
            assert_eq!(there.claim(address(n), MALLORY, now), Err(DropReason::LinkLocalTaken));
        }
        assert_eq!(there.owner(address(9)), Some(MALLORY));
        assert!(there.claims[&ALICE.0].len() <= LINK_LOCAL_MAX);
        assert_eq!(there.owners.len(), there.claims.values().map(Vec::len).sum::<usize>());
        assert_eq!(there.poll_new(), None, "what was told is told back");
    }

    #[test]
    fn eui64_addresses_name_their_mac_address() {
        let formed = "fe80::5054:ff:fe12:3456".parse().unwrap();
        assert_eq!(eui64_mac(formed), Some(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert_eq!(eui64_mac(address(1)), None);
    }

    #[test]
    fn a_station_gets_its_own_address_though_another_was_quicker() {
        let (mut table, now) = (LinkLocals::default(), Instant::ZERO);
        let address = eui64_address(ALICE);
        assert_eq!(eui64_mac(address), Some(ALICE));
        assert_eq!(table.claim(address, MALLORY, now), Ok(()));
        table.reserve(ALICE);
        assert_eq!(table.claim(address, ALICE, now), Ok(()));
        assert_eq!(table.claims[&MALLORY.0].len(), 0);
    }
}
