//! Who may be dialled: addresses that others name, and how many packets each is worth (G9).
//!
//! Addresses come from the user himself (free, not asked about here), from a ticket
//! ([`AddressTrust::Given`]) or from other members ([`AddressTrust::Hearsay`]). [`canonical`]
//! undoes the spellings of IPv4 inside IPv6, [`may_dial`] refuses what no stranger may make this
//! host touch, [`DialBudget`] counts what is sent to the rest until a handshake proves a key there.
//! DNS names are never looked up from hearsay: they cannot be written there.

mod budget;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

pub use self::budget::*;
use crate::control::{AddressTrust, CANDIDATES_MAX};

/// The only port below 1024 that hearsay may name: UDP there is QUIC.
pub const PORT_QUIC: u16 = 443;

/// Whether the user lets this host dial addresses of its own networks (`--lan`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lan {
    /// Special-use addresses may be dialled where they are on-link.
    Allowed,
    /// Only global ones may.
    Refused,
}

/// How far an address of special use reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Somebody's network: perhaps the one this host is on.
    Local,
    /// Nowhere that a member can be.
    Nowhere,
}

/// IPv4 ranges that are not global unicast (IANA special-purpose registry, RFC 6890).
const SPECIAL_V4: [(Ipv4Addr, u8, &str, Reach); 17] = {
    use Reach::{Local, Nowhere};
    const fn v4(a: u8, b: u8, c: u8) -> Ipv4Addr {
        Ipv4Addr::new(a, b, c, 0)
    }
    [
        (v4(0, 0, 0), 8, "unspecified", Nowhere),
        (v4(10, 0, 0), 8, "private", Local),
        (v4(100, 64, 0), 10, "shared (CGNAT)", Local),
        (v4(127, 0, 0), 8, "loopback", Nowhere),
        (Ipv4Addr::new(169, 254, 169, 254), 32, "cloud metadata", Nowhere),
        (v4(169, 254, 0), 16, "link-local", Local),
        (v4(172, 16, 0), 12, "private", Local),
        (v4(192, 0, 0), 24, "protocol assignment", Local),
        (v4(192, 0, 2), 24, "documentation", Local),
        (v4(192, 31, 196), 24, "AS112", Nowhere),
        (v4(192, 88, 99), 24, "6to4 relay", Nowhere),
        (v4(192, 168, 0), 16, "private", Local),
        (v4(198, 18, 0), 15, "benchmarking", Local),
        (v4(198, 51, 100), 24, "documentation", Local),
        (v4(203, 0, 113), 24, "documentation", Local),
        (v4(224, 0, 0), 4, "multicast", Nowhere),
        (v4(240, 0, 0), 4, "reserved or broadcast", Nowhere),
    ]
};

/// IPv6 ranges inside or outside 2000::/3 that need a name; the rest outside is reserved.
const SPECIAL_V6: [(Ipv6Addr, u8, &str, Reach); 16] = {
    use Reach::{Local, Nowhere};
    const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
        Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
    }
    [
        (Ipv6Addr::UNSPECIFIED, 128, "unspecified", Nowhere),
        (Ipv6Addr::LOCALHOST, 128, "loopback", Nowhere),
        (Ipv6Addr::UNSPECIFIED, 96, "IPv4-compatible", Nowhere),
        (v6(0x64, 0xff9b, 1), 48, "local NAT64", Nowhere),
        (v6(0x100, 0, 0), 64, "discard", Nowhere),
        (v6(0x2001, 0, 0), 32, "Teredo", Nowhere),
        (v6(0x2001, 0, 0), 23, "protocol assignment", Nowhere),
        (v6(0x2001, 0xdb8, 0), 32, "documentation", Local),
        (v6(0x2002, 0, 0), 16, "6to4", Nowhere),
        (v6(0x3fff, 0, 0), 20, "documentation", Local),
        (v6(0x5f00, 0, 0), 16, "segment routing", Nowhere),
        (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, "cloud metadata", Nowhere),
        (v6(0xfc00, 0, 0), 7, "unique local", Local),
        (v6(0xfe80, 0, 0), 10, "link-local", Local),
        (v6(0xfec0, 0, 0), 10, "site-local", Local),
        (v6(0xff00, 0, 0), 8, "multicast", Nowhere),
    ]
};

/// The only part of IPv6 that is global unicast so far (RFC 4291, 2.5.4).
pub const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Says whether the first `prefix` bits of the two are the same.
fn in_prefix(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (bits, len) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => (u128::from(ip.to_bits() ^ net.to_bits()) << 96, 32),
        (IpAddr::V6(ip), IpAddr::V6(net)) => (ip.to_bits() ^ net.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    prefix <= len && (prefix == 0 || bits >> (128 - u32::from(prefix)) == 0)
}

/// Returns the one spelling of an address: IPv4 where an IPv6 address stands for it, and no zone
/// or flow label but a link-local's zone.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = addr else { return addr };
    let ip = *v6.ip();
    let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    if let Some(v4) = ip.to_ipv4_mapped() {
        return (v4, v6.port()).into();
    }
    if in_prefix(ip.into(), nat64.into(), 96) {
        return (Ipv4Addr::from_bits(ip.to_bits() as u32), v6.port()).into();
    }
    let zone = if ip.is_unicast_link_local() { v6.scope_id() } else { 0 };
    SocketAddrV6::new(ip, v6.port(), 0, zone).into()
}

fn range(ip: IpAddr) -> Option<(&'static str, Reach)> {
    let named = match ip {
        IpAddr::V4(_) => SPECIAL_V4
            .iter()
            .find(|(net, prefix, ..)| in_prefix(ip, (*net).into(), *prefix))
            .map(|&(_, _, name, reach)| (name, reach)),
        IpAddr::V6(_) => SPECIAL_V6
            .iter()
            .find(|(net, prefix, ..)| in_prefix(ip, (*net).into(), *prefix))
            .map(|&(_, _, name, reach)| (name, reach)),
    };
    let reserved = ip.is_ipv6() && !in_prefix(ip, GLOBAL_V6.0.into(), GLOBAL_V6.1);
    named.or(reserved.then_some(("reserved", Reach::Nowhere)))
}

/// Lists the ranges of special use that reach so far, some inside others. A smaller range outdoes
/// the one around it; what is in none of them is global, but IPv6 outside [`GLOBAL_V6`], which is
/// reserved. For whoever enforces the same elsewhere.
pub fn special_ranges(reach: Reach) -> impl Iterator<Item = (IpAddr, u8)> {
    let v4 = SPECIAL_V4.iter().map(|&(net, len, _, reach)| (net.into(), len, reach));
    let v6 = SPECIAL_V6.iter().map(|&(net, len, _, reach)| (net.into(), len, reach));
    v4.chain(v6).filter(move |(.., found)| *found == reach).map(|(net, len, _)| (net, len))
}

/// Returns what an address is for, unless it is global unicast. Spellings are undone first.
#[must_use]
pub fn special_use(ip: IpAddr) -> Option<&'static str> {
    range(canonical(SocketAddr::new(ip, 0)).ip()).map(|(name, _)| name)
}

/// Says whether an address that others named may be dialled, and returns its one spelling.
///
/// # Errors
/// [`DialRefused`], with what is wrong with it.
pub fn may_dial(
    addr: SocketAddr,
    trust: AddressTrust,
    lan: Lan,
    on_link: bool,
) -> Result<SocketAddr, DialRefused> {
    let addr = canonical(addr);
    let port = addr.port();
    if port == 0 || (trust == AddressTrust::Hearsay && port < 1024 && port != PORT_QUIC) {
        return Err(DialRefused::Port(addr));
    }
    match range(addr.ip()) {
        None => Ok(addr),
        Some((_, Reach::Local)) if lan == Lan::Allowed && on_link => Ok(addr),
        Some((range, Reach::Local)) if on_link => Err(DialRefused::Lan { addr, range }),
        Some((range, _)) => Err(DialRefused::Special { addr, range }),
    }
}

/// What this host's user lets others' addresses do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialRules {
    /// Whether `--lan` was given.
    pub lan: Lan,
    /// Networks that this host is on: address and prefix length, without default routes.
    pub links: Vec<(IpAddr, u8)>,
}

impl DialRules {
    /// Returns what [`may_dial`] allows of a list, in one spelling each, no more than
    /// [`CANDIDATES_MAX`].
    #[must_use]
    pub fn filter(&self, addrs: &[SocketAddr], trust: AddressTrust) -> Vec<SocketAddr> {
        let mut allowed = Vec::new();
        for addr in addrs {
            if let Ok(addr) = self.check(*addr, trust)
                && !allowed.contains(&addr)
                && allowed.len() < CANDIDATES_MAX
            {
                allowed.push(addr);
            }
        }
        allowed
    }

    /// As [`may_dial`], for this host's networks.
    ///
    /// # Errors
    /// [`DialRefused`], with what is wrong with it.
    pub fn check(&self, addr: SocketAddr, trust: AddressTrust) -> Result<SocketAddr, DialRefused> {
        let ip = canonical(addr).ip();
        let on_link = self.links.iter().any(|(net, len)| *len > 0 && in_prefix(ip, *net, *len));
        may_dial(addr, trust, self.lan, on_link)
    }
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialRefused {
    /// A service of another kind is there.
    #[error("{0} has a port that no stranger may name")]
    Port(SocketAddr),
    /// Would be allowed with `--lan`.
    #[error("{addr} is on this host's own network ({range}); --lan allows it")]
    Lan {
        /// The address.
        addr: SocketAddr,
        /// What its range is for.
        range: &'static str,
    },
    /// Nothing that a member can have, or not on this host's networks.
    #[error("{addr} is not a global address ({range})")]
    Special {
        /// The address.
        addr: SocketAddr,
        /// What its range is for.
        range: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_spelling_hides_an_address_that_is_not_global() {
        for text in [
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::1",
            "::10.0.0.1",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fe80::1",
            "fd00::1",
            "198.51.100.7",
            "203.0.113.7",
            "192.0.2.7",
            "198.18.0.1",
            "100.64.0.1",
            "2001:db8::1",
            "2001::1",
            "4000::1",
            "64:ff9b:1::1",
            "240.0.0.1",
            "192.168.1.1",
            "172.31.255.255",
            "fec0::1",
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert!(special_use(ip).is_some(), "{text}");
            let addr = SocketAddr::new(ip, 7770);
            for trust in [AddressTrust::Given, AddressTrust::Hearsay] {
                assert!(may_dial(addr, trust, Lan::Refused, true).is_err(), "{text}");
                assert!(may_dial(addr, trust, Lan::Allowed, false).is_err(), "{text}");
            }
        }
        for text in
            ["44.128.2.2", "8.8.8.8", "2a00::1", "172.32.0.1", "100.128.0.1", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(special_use(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn lan_addresses_need_both_the_flag_and_the_link_and_metadata_is_never_dialled() {
        let dial =
            |text, on_link| may_dial(addr(text), AddressTrust::Hearsay, Lan::Allowed, on_link);
        assert_eq!(dial("192.168.1.9:7770", true), Ok(addr("192.168.1.9:7770")));
        assert!(dial("192.168.1.9:7770", false).is_err());
        for text in
            ["127.0.0.1:7770", "169.254.169.254:7770", "[fd00:ec2::254]:7770", "224.0.0.1:7770"]
        {
            assert!(dial(text, true).is_err(), "{text}");
        }
        let told = may_dial(addr("192.168.1.9:7770"), AddressTrust::Given, Lan::Refused, true);
        assert!(told.unwrap_err().to_string().contains("--lan"));
    }

    #[test]
    fn hearsay_names_no_service_of_others() {
        let dial = |port, trust| {
            may_dial(SocketAddr::from(([44, 128, 2, 2], port)), trust, Lan::Refused, false).is_ok()
        };
        for port in [0, 1, 22, 53, 123, 1023] {
            assert!(!dial(port, AddressTrust::Hearsay), "{port}");
        }
        for port in [443, 1024, 7770, 65535] {
            assert!(dial(port, AddressTrust::Hearsay), "{port}");
        }
        assert!(dial(80, AddressTrust::Given) && !dial(0, AddressTrust::Given));
    }
}
