//! What a guest's wire is made from: addresses and numbers, no text.
//!
//! # Theory of operation
//! A [`WireSpec`] is checked once ([`WireSpec::check`]); rules and canaries are made from its
//! numbers alone, and from the ranges that they come to, so that no text of anybody's reaches nft.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use vde_switch::serve::{ROUTES_MAX, Route};
use vde_switch::station::{Segment, Station};

use super::ranges::{Range, Ranges, range};

/// MTUs that a segment may have: IPv6 needs the least (RFC 8200, 5), a tap takes the most that is
/// anybody's jumbo frame.
pub const MTU_RANGE: RangeInclusive<u16> = 1280..=9216;

/// Prefix lengths of a segment's subnet: not a whole class A and more, and room for a guest, a
/// neighbour and a broadcast address.
pub const PREFIX_V4_RANGE: RangeInclusive<u8> = 8..=30;

/// What is no segment's subnet and behind no station: this host, loopback, link-local (where clouds
/// keep their metadata), groups and reserved addresses.
const NOBODYS: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Who the guest is and where it may speak. Its text in a ruleset is made of these numbers alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireSpec {
    /// The guest's own addresses, from its grant.
    pub station: Station,
    /// Subnet, prefix and MTU of its segment, from the order's config.
    pub segment: Segment,
    /// Networks behind stations of the segment, from the order's config. Each guest may speak to
    /// them, and for those that lead over its own address.
    pub routes: Vec<Route>,
}

/// Why there can be no such wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A group's MAC address, or none.
    #[error("the guest's MAC address is no station's")]
    Mac,
    /// Not in the subnet, or its first or last address.
    #[error("the guest's address {0} is no host's of its subnet")]
    Ipv4(Ipv4Addr),
    /// Not in the prefix.
    #[error("the guest's address {0} is not of its prefix")]
    Ipv6(Ipv6Addr),
    /// A subnet that is none, or too small.
    #[error("{0}/{1} cannot be a segment's subnet")]
    Subnet(Ipv4Addr, u8),
    /// A prefix that is none, or overlaps with link-local or group addresses.
    #[error("{0}/{1} cannot be a segment's prefix")]
    Prefix(Ipv6Addr, u8),
    /// Such an MTU.
    #[error("an MTU of {0} is not within {min} to {max}", min = MTU_RANGE.start(),
            max = MTU_RANGE.end())]
    Mtu(u16),
    /// So many networks.
    #[error("{0} networks are more than {ROUTES_MAX}")]
    Routes(usize),
    /// A network that is none.
    #[error("{0}/{1} is no network")]
    Route(Ipv4Addr, u8),
}

impl WireSpec {
    /// Says whether rules can be made from it.
    ///
    /// # Errors
    /// [`SpecError`], the first that applies.
    pub fn check(&self) -> Result<(), SpecError> {
        let Self { station, segment, routes } = self;
        let Segment { ipv4: (network, len), ipv6: (prefix, len6), mtu, broadcast: _ } = *segment;
        if !station.mac.is_station() {
            return Err(SpecError::Mac);
        }
        let Some(subnet) = network_v4(network, len).filter(|_| PREFIX_V4_RANGE.contains(&len))
        else {
            return Err(SpecError::Subnet(network, len));
        };
        let ipv4 = station.ipv4;
        if !segment.contains_ipv4(ipv4) || ipv4 == subnet.first || ipv4 == subnet.last {
            return Err(SpecError::Ipv4(ipv4));
        }
        let host_bits = u128::MAX.checked_shr(len6.into()).unwrap_or(0);
        // Beside the prefix itself, the guest and another have room.
        let sound = (8..127).contains(&len6) && prefix.to_bits() & host_bits == 0;
        // From 8 bits on, the first byte tells these apart; fe80::/10 begins with fe.
        if !sound || matches!(prefix.octets()[0], 0 | 0xfe | 0xff) {
            return Err(SpecError::Prefix(prefix, len6));
        }
        if !segment.contains_ipv6(station.ipv6) || station.ipv6 == prefix {
            return Err(SpecError::Ipv6(station.ipv6));
        }
        if !MTU_RANGE.contains(&mtu) {
            return Err(SpecError::Mtu(mtu));
        }
        if routes.len() > ROUTES_MAX {
            return Err(SpecError::Routes(routes.len()));
        }
        let wrong = |(network, len, _): &&Route| network_v4(*network, *len).is_none();
        match routes.iter().find(wrong) {
            Some((network, len, _)) => Err(SpecError::Route(*network, *len)),
            None => Ok(()),
        }
    }

    /// Returns where the guest's IPv4 packets may come from: its own address, and the networks
    /// that lead over it.
    #[must_use]
    pub fn sources_v4(&self) -> Ranges {
        let mut ranges = Ranges::default();
        let mut routes = self.routes.clone();
        // The longest prefix counts, and the later of two that are equally long.
        routes.sort_by_key(|(_, len, _)| *len);
        for (network, len, via) in routes {
            if via == self.station.ipv4 {
                ranges.add(range(network, len));
            } else {
                ranges.remove(range(network, len));
            }
        }
        ranges.remove(self.subnet());
        ranges.add(range(self.station.ipv4, 32));
        ranges
    }

    /// Returns where its IPv4 packets may go by a station's MAC address.
    #[must_use]
    pub fn destinations_v4(&self) -> Ranges {
        let mut ranges = Ranges::default();
        for (network, len, _) in &self.routes {
            ranges.add(range(*network, *len));
        }
        ranges.add(self.subnet());
        ranges.remove(range(self.segment.broadcast_ipv4(), 32));
        ranges
    }

    fn subnet(&self) -> Option<Range> {
        range(self.segment.ipv4.0, self.segment.ipv4.1)
    }
}

/// Returns the addresses of a network of hosts; `None` if it is none.
fn network_v4(network: Ipv4Addr, len: u8) -> Option<Range> {
    let own = range(network, len)?;
    let overlaps = |(other, other_len): &(Ipv4Addr, u8)| {
        range(*other, *other_len)
            .is_some_and(|other| own.first <= other.last && other.first <= own.last)
    };
    let sound = own.first == network && *PREFIX_V4_RANGE.start() <= len;
    (sound && !NOBODYS.iter().any(overlaps)).then_some(own)
}

#[cfg(test)]
mod tests;
