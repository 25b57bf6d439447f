//! Addresses of an order: its subnet, its prefix, and what each slot gets of them.
//!
//! All follow from the order's id and the slot's number, so a gateway that forgot everything but
//! its order would give everyone the same addresses again. Host number 1 is the order's services, 2
//! the buyer's computer (slot 0), 10 the first guest (slot 1); 3 to 9 stay free.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;

use crate::control::{MEMBERS_MAX, Slot};
use crate::order::OrderId;

/// Largest subnet of an order: all of 10.0.0.0/8.
pub const PREFIX_V4_MIN: u8 = 8;

/// Smallest subnet of an order: five guests.
pub const PREFIX_V4_MAX: u8 = 28;

/// Host number of the order's services.
pub const HOST_SERVICES: u32 = 1;

/// Host number of the buyer's computer, slot 0.
pub const HOST_BUYER: u32 = 2;

/// What is added to a guest's slot to get its host number.
const HOST_OF_SLOT: u32 = 9;

/// Where subnets are looked for, in this order: (network, prefix length).
const POOLS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// An IPv4 network: of an order, or a route of this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Returns the network that an address lies in; `None` for a prefix length above 32.
    #[must_use]
    pub fn new(addr: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = mask(prefix)?;
        Some(Self { network: Ipv4Addr::from_bits(addr.to_bits() & mask), prefix })
    }

    /// Returns the first address.
    #[must_use]
    pub const fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Returns the prefix length.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Says whether an address lies in it.
    #[must_use]
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        Self::new(addr, self.prefix) == Some(self)
    }

    /// Says whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let wider = if self.prefix < other.prefix { self } else { other };
        wider.contains(self.network) && wider.contains(other.network)
    }

    /// Says whether hosts may have addresses here: not 0/8, loopback, link-local, group or
    /// reserved.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        let nets =
            [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([169, 254, 0, 0], 16), ([224, 0, 0, 0], 3)];
        nets.into_iter()
            .filter_map(|(net, prefix)| Self::new(Ipv4Addr::from(net), prefix))
            .all(|net| !net.overlaps(self))
    }

    /// Returns a host's address, unless the number is 0 or as large as the broadcast address.
    #[must_use]
    pub fn host(self, number: u32) -> Option<Ipv4Addr> {
        let last = !mask(self.prefix)?;
        (number > 0 && number < last).then(|| Ipv4Addr::from_bits(self.network.to_bits() | number))
    }

    /// Returns the largest slot that has an address here; at most [`MEMBERS_MAX`] − 1.
    #[must_use]
    pub fn slot_max(self) -> u16 {
        let last = mask(self.prefix).map_or(0, |mask| !mask);
        let fit = last.saturating_sub(1).saturating_sub(HOST_OF_SLOT);
        u16::try_from(fit).unwrap_or(u16::MAX).min(MEMBERS_MAX as u16 - 1)
    }

    /// Chooses an order's /24 by hash, next to no route of this host. A default route is no matter.
    #[must_use]
    pub fn choose(order: OrderId, routes: &[Self]) -> Option<Self> {
        let start = blake3::derive_key("ovl subnet v1", &order.0);
        let start = u32::from_be_bytes([start[0], start[1], start[2], start[3]]);
        POOLS.into_iter().find_map(|(pool, prefix)| {
            let count = 1_u32 << (24 - prefix);
            (0..count)
                .map(|step| (start.wrapping_add(step) % count) << 8)
                .filter_map(|offset| Self::new(Ipv4Addr::from_bits(pool.to_bits() | offset), 24))
                .find(|subnet| subnet.check_free(routes).is_ok())
        })
    }

    /// Says whether the subnet meets none of this host's routes, the default route left out.
    ///
    /// # Errors
    /// [`SubnetError::Overlaps`] with the first route that it meets.
    pub fn check_free(self, routes: &[Self]) -> Result<(), SubnetError> {
        match routes.iter().find(|route| route.prefix > 0 && route.overlaps(self)) {
            Some(&route) => Err(SubnetError::Overlaps { subnet: self, route }),
            None => Ok(()),
        }
    }
}

/// Reads an order's subnet as a user types it, `10.77.0.0/24`.
impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let unreadable = || SubnetError::Unreadable(text.chars().take(40).collect());
        let (addr, prefix) = text.split_once('/').ok_or_else(unreadable)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| unreadable())?;
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(unreadable)?;
        let subnet = Self::new(addr, prefix).ok_or_else(unreadable)?;
        if !(PREFIX_V4_MIN..=PREFIX_V4_MAX).contains(&prefix) {
            return Err(SubnetError::Size(subnet));
        }
        if subnet.network != addr {
            return Err(SubnetError::NotNetwork { addr, subnet });
        }
        if !subnet.is_unicast() {
            return Err(SubnetError::NotUnicast(subnet));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.network, self.prefix))
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const fn mask(prefix: u8) -> Option<u32> {
    match prefix {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - prefix)),
        _ => None,
    }
}

/// Returns an order's ULA /64 (RFC 4193): `fd`, then 56 bits of its id's hash.
#[must_use]
pub fn prefix_v6(order: OrderId) -> Ipv6Addr {
    let hash = blake3::derive_key("ovl ula v1", &order.0);
    let mut octets = [0; 16];
    octets[1..8].copy_from_slice(&hash[..7]);
    octets[0] = 0xfd;
    Ipv6Addr::from(octets)
}

/// Returns the number that stands for a slot in its addresses.
#[must_use]
pub const fn host_number(slot: Slot) -> u32 {
    if slot.0 == Slot::GATEWAY.0 { HOST_BUYER } else { slot.0 as u32 + HOST_OF_SLOT }
}

/// Returns a slot's MAC address: locally administered, by hash.
#[must_use]
pub fn mac(order: OrderId, slot: Slot) -> MacAddr {
    let mut input = [0; 34];
    input[..32].copy_from_slice(&order.0);
    input[32..].copy_from_slice(&slot.0.to_be_bytes());
    let hash = blake3::derive_key("ovl mac v1", &input);
    MacAddr([(hash[0] & 0xfc) | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]])
}

/// Returns all addresses of a slot, or `None` if the subnet has no room for it.
#[must_use]
pub fn station(order: OrderId, subnet: Subnet, prefix: Ipv6Addr, slot: Slot) -> Option<Station> {
    if slot.0 > subnet.slot_max() {
        return None;
    }
    let number = host_number(slot);
    let ipv6 = Ipv6Addr::from_bits(prefix.to_bits() | u128::from(number));
    Some(Station { mac: mac(order, slot), ipv4: subnet.host(number)?, ipv6 })
}

/// Why a subnet cannot be an order's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not an address, a slash and a prefix length.
    #[error("{0:?} is not a subnet such as 10.77.0.0/24")]
    Unreadable(String),
    /// An address inside a network.
    #[error("{addr}/{} is not a network; did you mean {subnet}", subnet.prefix)]
    NotNetwork {
        /// What was given.
        addr: Ipv4Addr,
        /// Where it lies.
        subnet: Subnet,
    },
    /// Too large or too small.
    #[error("{0} has the wrong size: use a prefix length of {PREFIX_V4_MIN} to {PREFIX_V4_MAX}")]
    Size(Subnet),
    /// Loopback and the like.
    #[error("{0} is not for hosts; use a private network such as 10.77.0.0/24")]
    NotUnicast(Subnet),
    /// A route of this host leads there.
    #[error("{subnet} overlaps {route}, which this host already has a route to; choose another")]
    Overlaps {
        /// What was asked for.
        subnet: Subnet,
        /// What is there.
        route: Subnet,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: OrderId = OrderId([1; 32]);

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_slots_are_the_documented_ones() {
        let net = subnet("10.77.0.0/24");
        let prefix = prefix_v6(ORDER);
        let of = |slot| station(ORDER, net, prefix, Slot(slot)).unwrap();
        assert_eq!(of(0).ipv4, Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(of(1).ipv4, Ipv4Addr::new(10, 77, 0, 10));
        assert_eq!(of(1).ipv6.octets()[8..], [0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(of(245).ipv4, Ipv4Addr::new(10, 77, 0, 254));
        assert!(station(ORDER, net, prefix, Slot(246)).is_none());
        assert_eq!(prefix.octets()[0], 0xfd);
        assert_eq!((0..=245).map(|slot| of(slot).mac).filter(|mac| mac.is_station()).count(), 246);
    }

    #[test]
    fn a_subnet_holds_as_many_slots_as_it_has_addresses() {
        let max = |text| subnet(text).slot_max();
        assert_eq!((max("10.0.0.0/28"), max("10.0.0.0/24"), max("10.0.0.0/8")), (5, 245, 511));
    }

    #[test]
    fn what_is_typed_is_refused_with_what_to_type_instead() {
        let error = |text: &str| text.parse::<Subnet>().unwrap_err().to_string();
        assert_eq!(error("10.0.0.5/24"), "10.0.0.5/24 is not a network; did you mean 10.0.0.0/24");
        assert!(error("10.0.0.0/30").contains("/30 has the wrong size"));
        assert!(error("0.0.0.0/7").contains("wrong size"));
        assert!(error("127.0.0.0/24").contains("not for hosts"));
        assert!(error("224.0.0.0/8").contains("not for hosts"));
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/+24"] {
            assert!(error(text).contains("is not a subnet such as"), "{text}");
        }
    }

    #[test]
    fn a_chosen_subnet_meets_no_route() {
        let default = Subnet::new(Ipv4Addr::UNSPECIFIED, 0).unwrap();
        let free = Subnet::choose(ORDER, &[default]).unwrap();
        assert!(subnet("10.0.0.0/8").contains(free.network()));
        let next = Subnet::choose(ORDER, &[default, free]).unwrap();
        assert!(!next.overlaps(free));
        let corporate = Subnet::choose(ORDER, &[subnet("10.0.0.0/8")]).unwrap();
        assert!(subnet("172.16.0.0/12").contains(corporate.network()));
        assert!(
            corporate.check_free(&[Subnet::new(corporate.host(9).unwrap(), 32).unwrap()]).is_err()
        );
    }
}
