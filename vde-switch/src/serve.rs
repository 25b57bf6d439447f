//! What a guest asks of its network, answered at its own port: addresses, names, how large packets
//! may be.
//!
//! # Theory of operation
//! All answers follow from the station's addresses, the segment and the port's [`GuestConfig`]:
//! nothing is allotted, remembered or shared, so the same question gets the same answer before and
//! after any restart, and two guests cannot be given one address. A question never leaves its port,
//! whoever it is addressed to, and who is asked has no port of its own: the services answer from
//! [`Segment::service_ipv4`], [`SERVICE_LINK_LOCAL`] and
//! [`SERVICE_MAC`](crate::mac::SERVICE_MAC), also to ARP and neighbour discovery.
//!
//! An answer repeats of its question no more than identifiers whose lengths were checked.
//!
//! # Limits
//! [`DNS_MAX`], [`ROUTES_MAX`], [`HOSTNAME_LEN_MAX`], [`DOMAIN_LEN_MAX`];
//! the three budgets of [`crate::flood`] a port. There is never a default route, and router
//! advertisements are sent when asked for alone: what they say holds until the guest asks again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::frame::{ETHERNET_HEADER_LEN, Frame};
use crate::link_local::SERVICE_LINK_LOCAL;
use crate::parse::{Ipv4, Ipv6, Packet, Parsed, Question};
use crate::station::{Segment, Station};
use crate::verdict::DropReason;
use crate::vnet::GsoType;

pub mod dhcp4;
pub mod dhcp6;
pub mod router;

/// Most DNS servers of an order.
pub const DNS_MAX: usize = 4;

/// Most routes of an order.
pub const ROUTES_MAX: usize = 8;

/// Longest host name, in bytes: a DNS label (RFC 1035 2.3.4).
pub const HOSTNAME_LEN_MAX: usize = 63;

/// Longest domain, in bytes: an order's name and what stands behind it, with room to spare.
pub const DOMAIN_LEN_MAX: usize = 127;

/// How long a guest believes its address, in seconds. It asks again after half of it, so that a
/// change of the order's options reaches it in that time.
pub const LEASE_S: u32 = 3600;

/// Smallest MTU of a segment whose guests are served: all answers fit.
const MTU_MIN: u16 = 1280;

/// All DHCPv6 servers and relay agents (RFC 8415 7.1); none is asked by unicast.
const DHCP_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A route that guests are told: network, prefix length, and the station that it leads over.
pub type Route = (Ipv4Addr, u8, Ipv4Addr);

/// What a guest is told beside its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Its name; none if empty.
    pub hostname: String,
    /// The domain that its name is in and that it looks names up in; none if empty.
    pub domain: String,
    /// Whom to ask for names, best first.
    pub dns: Vec<IpAddr>,
    /// Networks behind stations of the segment.
    pub routes: Vec<Route>,
}

/// What has been served, beyond that it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The guest has its IPv4 address from now on, for a lease.
    Dhcp4Lease,
    /// The same for IPv6.
    Dhcp6Lease,
    /// It knows how IPv6 is configured.
    RouterAdvert,
    /// An offer, a refusal, or options alone.
    Other,
}

/// Why a port cannot be served so. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// No attachment is there.
    #[error("no guest is attached there")]
    NoGuest,
    /// Something that is no name, or a long one.
    #[error("{0:?} is no host name or domain")]
    Name(String),
    /// So many DNS servers.
    #[error("{0} DNS servers are more than {DNS_MAX}")]
    Dns(usize),
    /// So many routes.
    #[error("{0} routes are more than {ROUTES_MAX}")]
    Routes(usize),
    /// A route to everywhere, or to a network that is none.
    #[error("{0}/{1} cannot be a route's network")]
    Route(Ipv4Addr, u8),
}

impl GuestConfig {
    /// Says whether guests can be told so.
    ///
    /// # Errors
    /// [`GuestError`], the first that applies.
    pub fn check(&self) -> Result<(), GuestError> {
        let named = |name: &str, len_max| {
            let label = |label: &str| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
                (1..=63).contains(&label.len()) && label.bytes().all(known)
            };
            if name.is_empty() || name.len() <= len_max && name.split('.').all(label) {
                return Ok(());
            }
            Err(GuestError::Name(name.chars().take(len_max).collect()))
        };
        named(&self.hostname, HOSTNAME_LEN_MAX)?;
        named(&self.domain, DOMAIN_LEN_MAX)?;
        if self.dns.len() > DNS_MAX {
            return Err(GuestError::Dns(self.dns.len()));
        }
        if self.routes.len() > ROUTES_MAX {
            return Err(GuestError::Routes(self.routes.len()));
        }
        let odd = |&&(network, prefix, _): &&Route| {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            !(1..=32).contains(&prefix) || network.to_bits() & host != 0
        };
        match self.routes.iter().find(odd) {
            Some(&(network, prefix, _)) => Err(GuestError::Route(network, prefix)),
            None => Ok(()),
        }
    }

    fn dns4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.dns.iter().take(DNS_MAX).filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    fn dns6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.dns.iter().take(DNS_MAX).filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        })
    }
}

/// Writes the answer to a frame that an admitted station asks with; of no other frame.
///
/// # Errors
/// The [`DropReason`] of a question that gets none. What is in `answer` means nothing then.
pub fn answer(
    frame: &Frame<'_>,
    parsed: &Parsed,
    station: &Station,
    segment: &Segment,
    guest: &GuestConfig,
    answer: &mut Answer,
) -> Result<Served, DropReason> {
    let Some(question) = parsed.question() else { return Err(DropReason::DhcpClient) };
    let host = Host { station, segment, guest };
    if segment.mtu < MTU_MIN {
        return Err(unserved(question));
    }
    if frame.hdr.gso != GsoType::None {
        return Err(DropReason::BadDhcp); // several messages in one
    }
    match &parsed.packet {
        Packet::Ipv4(Ipv4 { src, dst, .. }) => {
            let ours = segment.service_ipv4() == Some(*dst);
            if !(ours || dst.is_broadcast() || segment.is_broadcast(*dst)) {
                return Err(unserved(question));
            }
            let message = datagram(frame.bytes, ETHERNET_HEADER_LEN + 20)?;
            dhcp4::reply(&host, *src, message, answer)
        }
        Packet::Ipv6(Ipv6 { src, dst, .. }) => match question {
            Question::Router if dst.is_multicast() || *dst == SERVICE_LINK_LOCAL => {
                Ok(router::advertise(&host, *src, answer))
            }
            Question::Dhcp6 if *dst == DHCP_AGENTS => {
                let message = datagram(frame.bytes, ETHERNET_HEADER_LEN + 40)?;
                dhcp6::reply(&host, *src, message, answer)
            }
            Question::Router | Question::Dhcp4 | Question::Dhcp6 => Err(unserved(question)),
        },
        Packet::Arp(_) => Err(unserved(question)),
    }
}

/// Returns why a question is dropped where nobody serves.
pub(crate) const fn unserved(question: Question) -> DropReason {
    match question {
        Question::Dhcp4 | Question::Dhcp6 => DropReason::DhcpClient,
        Question::Router => DropReason::RouterSolicitation,
    }
}

/// Who asks, and all that an answer is made from.
struct Host<'a> {
    station: &'a Station,
    segment: &'a Segment,
    guest: &'a GuestConfig,
}

/// Returns the payload of the UDP datagram at `l4`, whose length `parse` has checked.
fn datagram(bytes: &[u8], l4: usize) -> Result<&[u8], DropReason> {
    let header = bytes.get(l4..).and_then(|rest| rest.first_chunk::<8>());
    let [.., l0, l1, _, _] = *header.ok_or(DropReason::BadDhcp)?;
    let end = l4 + usize::from(u16::from_be_bytes([l0, l1]));
    bytes.get(l4 + 8..end).ok_or(DropReason::BadDhcp)
}

/// Takes a value that a message may say once.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), DropReason> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(DropReason::BadDhcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_cannot_be_told_is_refused() {
        let good = GuestConfig {
            hostname: "g1".to_owned(),
            domain: "farm.internal".to_owned(),
            dns: vec![[10, 77, 0, 2].into(); DNS_MAX],
            routes: vec![([192, 168, 9, 0].into(), 24, [10, 77, 0, 2].into()); ROUTES_MAX],
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(GuestConfig::default().check(), Ok(()));
        for name in ["-".repeat(64).as_str(), "a b", "a..b", ".", "ä", "a\0"] {
            let bad = GuestConfig { hostname: name.to_owned(), ..good.clone() };
            assert!(matches!(bad.check(), Err(GuestError::Name(_))), "{name}");
            let bad = GuestConfig { domain: name.to_owned(), ..good.clone() };
            assert!(matches!(bad.check(), Err(GuestError::Name(_))), "{name}");
        }
        let long = GuestConfig { domain: "a.".repeat(64) + "a", ..good.clone() };
        assert!(matches!(long.check(), Err(GuestError::Name(_))));
        let dns = GuestConfig { dns: vec![[10, 77, 0, 2].into(); 5], ..good.clone() };
        assert_eq!(dns.check(), Err(GuestError::Dns(5)));
        let many = GuestConfig { routes: vec![good.routes[0]; 9], ..good.clone() };
        assert_eq!(many.check(), Err(GuestError::Routes(9)));
        // Neither a default route nor one whose network has host bits.
        for (network, prefix) in [([0; 4], 0), ([10, 0, 0, 1], 24), ([10, 0, 0, 0], 33)] {
            let routes = vec![(network.into(), prefix, [10, 77, 0, 2].into())];
            let route = GuestConfig { routes, ..good.clone() };
            assert_eq!(route.check(), Err(GuestError::Route(network.into(), prefix)));
        }
    }
}
