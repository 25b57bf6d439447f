//! Who is on the segment, as the switch is told: addresses that one port may speak for.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;

/// One station's addresses, from a signed grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Station {
    /// The only source MAC address it may use.
    pub mac: MacAddr,
    /// Its IPv4 address in the segment's subnet.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address in the segment's prefix. Link-local ones are learned, see `policy`.
    pub ipv6: Ipv6Addr,
}

/// What all stations of one segment share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Network address and prefix length of the IPv4 subnet.
    pub ipv4: (Ipv4Addr, u8),
    /// Network address and prefix length of the IPv6 prefix.
    pub ipv6: (Ipv6Addr, u8),
    /// Largest IP packet, in bytes, that a station sends (L3, without the 14-byte header).
    pub mtu: u16,
    /// Whether broadcast and multicast are carried beyond what ARP and ND need.
    pub broadcast: Broadcast,
}

impl Segment {
    /// Says whether the address is in the subnet, its first and last included.
    #[must_use]
    pub const fn contains_ipv4(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.ipv4.0.to_bits()) & !self.host_mask() == 0
    }

    /// Says whether the address is the subnet's directed broadcast; a /31 has none.
    #[must_use]
    pub const fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let hosts = self.host_mask();
        hosts > 1 && self.contains_ipv4(address) && address.to_bits() & hosts == hosts
    }

    /// Returns the subnet mask.
    #[must_use]
    pub const fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(!self.host_mask())
    }

    /// Returns the subnet's directed broadcast, its last address.
    #[must_use]
    pub const fn broadcast_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ipv4.0.to_bits() | self.host_mask())
    }

    /// Returns the IPv4 address of the segment's own services, host number 1, unless that is the
    /// broadcast address or beyond.
    #[must_use]
    pub const fn service_ipv4(&self) -> Option<Ipv4Addr> {
        if self.host_mask() > 1 {
            Some(Ipv4Addr::from_bits(self.ipv4.0.to_bits() & !self.host_mask() | 1))
        } else {
            None
        }
    }

    /// Returns the IPv6 address of the segment's own services, the prefix's first but one.
    #[must_use]
    pub const fn service_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.ipv6.0.to_bits() | 1)
    }

    const fn host_mask(&self) -> u32 {
        match u32::MAX.checked_shr(self.ipv4.1 as u32) {
            Some(hosts) => hosts,
            None => 0,
        }
    }

    /// Says whether the address is in the prefix.
    #[must_use]
    pub const fn contains_ipv6(&self, address: Ipv6Addr) -> bool {
        let len = self.ipv6.1 as u32;
        let differs = address.to_bits() ^ self.ipv6.0.to_bits();
        len == 0 || differs.leading_zeros() >= if len < 128 { len } else { 128 }
    }
}

/// The order's option to carry group traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broadcast {
    /// Carried, within the port's limits.
    On,
    /// Dropped; neighbours are still found, since the switch answers ARP and ND itself.
    Off,
}
