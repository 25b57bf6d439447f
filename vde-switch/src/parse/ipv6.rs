//! IPv6 packets and neighbour discovery.
//!
//! # Theory of operation
//! Extension headers are walked, each within its bounds, to the protocol behind them; neighbour
//! discovery is read only where nothing stands in front of it (RFC 6980, 7113).

use std::net::Ipv6Addr;

use super::exact;
use super::transport::{Fragment, L4};
use crate::mac::MacAddr;
use crate::verdict::DropReason;
use crate::vnet::Ip;

/// Most extension headers of a packet. Real ones have at most three.
const EXTENSIONS_MAX: usize = 8;

const HEADER_LEN: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;

/// An IPv6 packet or fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source; unspecified only if the body is a solicitation, of a neighbour or a router.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// What follows the headers.
    pub body: Body,
}

/// What an IPv6 packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Neighbour discovery, valid by RFC 4861 7.1 except that no checksum is verified.
    Nd(Nd),
    /// Who are the routers here? Valid by RFC 4861 6.1.1, with the same exception.
    RouterSolicitation,
    /// All else.
    L4(L4),
}

/// A neighbour discovery message. Its link-layer options name the frame's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nd {
    /// Who has this address?
    Solicitation(Ipv6Addr),
    /// I have.
    Advertisement(Ipv6Addr),
}

/// Says whether the address is in fe80::/10.
#[must_use]
pub const fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}

impl Ipv6 {
    pub(super) fn parse(payload: &[u8], src_mac: MacAddr) -> Result<Self, DropReason> {
        let Some(header) = payload.first_chunk::<HEADER_LEN>() else {
            return Err(DropReason::BadHeader);
        };
        if header[0] >> 4 != 6 {
            return Err(DropReason::BadVersion);
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let next = header[6];
        if payload_len == 0 && next == HOP_BY_HOP {
            return Err(DropReason::BadLength); // a jumbogram's length would be in there
        }
        let packet = exact(payload, HEADER_LEN + payload_len, DropReason::BadLength)?;
        let rest = packet.get(HEADER_LEN..).unwrap_or_default();
        let chain = Chain::walk(next, rest)?;
        let (src, dst) = (address(header, 8), address(header, 24));
        let body = if chain.next == ICMPV6 {
            icmpv6(&chain, header[7])?
        } else {
            Body::L4(L4::parse(Ip::V6, chain.next, chain.rest, chain.fragment)?)
        };
        let probe = src.is_unspecified();
        let asks = match body {
            Body::Nd(nd) => {
                nd.check(src, dst, src_mac, chain.rest)?;
                matches!(nd, Nd::Solicitation(_))
            }
            Body::RouterSolicitation => {
                check_options(chain.rest.get(8..).unwrap_or_default(), probe, src_mac)?;
                true
            }
            // Clients put nothing in front of it, and the services look nowhere else.
            Body::L4(L4::Dhcp) if chain.extended => return Err(DropReason::BadDhcp),
            Body::L4(_) => false,
        };
        if probe && !asks {
            return Err(DropReason::ForeignIpv6);
        }
        Ok(Self { src, dst, body })
    }
}

/// The end of an extension header chain.
struct Chain<'a> {
    next: u8,
    rest: &'a [u8],
    fragment: Fragment,
    /// Whether there were others than the fragment header.
    extended: bool,
}

impl<'a> Chain<'a> {
    fn walk(next: u8, rest: &'a [u8]) -> Result<Self, DropReason> {
        let mut chain = Self { next, rest, fragment: Fragment::Whole, extended: false };
        for position in 0..=EXTENSIONS_MAX {
            let unit = match chain.next {
                HOP_BY_HOP if position > 0 => return Err(DropReason::ExtensionChain),
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => 8,
                AUTHENTICATION => 4,
                FRAGMENT => {
                    chain.fragment()?;
                    if let Fragment::Later(_) = chain.fragment {
                        return Ok(chain); // what follows is payload
                    }
                    continue;
                }
                _ => return Ok(chain),
            };
            let short = chain.short();
            let [next, len, kind, ..] = *chain.rest.first_chunk::<8>().ok_or(short)?;
            if chain.next == ROUTING && kind == 0 {
                return Err(DropReason::RoutingHeader);
            }
            if chain.next == AUTHENTICATION && len == 0 {
                return Err(DropReason::BadHeader); // its sequence number would be missing
            }
            chain.rest = chain.rest.get(8 + usize::from(len) * unit..).ok_or(short)?;
            chain.next = next;
            chain.extended = true;
        }
        Err(DropReason::ExtensionChain)
    }

    fn fragment(&mut self) -> Result<(), DropReason> {
        if self.fragment != Fragment::Whole {
            return Err(DropReason::ExtensionChain);
        }
        let Some((&[next, _, o0, o1, ..], rest)) = self.rest.split_first_chunk::<8>() else {
            return Err(DropReason::BadHeader);
        };
        let offset = u16::from_be_bytes([o0, o1]);
        self.fragment = match Fragment::new(offset >> 3, offset & 1 != 0, 0, rest.len())? {
            Fragment::Whole => Fragment::First, // atomic (RFC 6946): still hides nothing
            part @ (Fragment::First | Fragment::Later(_)) => part,
        };
        (self.next, self.rest) = (next, rest);
        Ok(())
    }

    fn short(&self) -> DropReason {
        match self.fragment {
            Fragment::Whole => DropReason::BadHeader,
            Fragment::First | Fragment::Later(_) => DropReason::TinyFragment,
        }
    }
}

/// Tells neighbour discovery from the rest of ICMPv6.
fn icmpv6(chain: &Chain<'_>, hop_limit: u8) -> Result<Body, DropReason> {
    let L4::Icmp(kind) = L4::parse(Ip::V6, ICMPV6, chain.rest, chain.fragment)? else {
        return if chain.extended {
            Err(DropReason::IcmpBehindExtension)
        } else {
            Ok(Body::L4(L4::Later))
        };
    };
    if let 130..=132 | 143 = kind {
        return Err(DropReason::Mld);
    }
    if chain.extended {
        return Err(DropReason::IcmpBehindExtension);
    }
    if !matches!(kind, 133..=137) {
        return Ok(Body::L4(L4::Icmp(kind)));
    }
    if chain.fragment != Fragment::Whole {
        return Err(DropReason::FragmentedNd);
    }
    match kind {
        133 if hop_limit != 255 || chain.rest.get(1) != Some(&0) => return Err(DropReason::BadNd),
        133 => return Ok(Body::RouterSolicitation),
        134 => return Err(DropReason::RouterAdvertisement),
        137 => return Err(DropReason::Redirect),
        _ => {}
    }
    let Some(message) = chain.rest.first_chunk::<24>() else {
        return Err(DropReason::BadNd);
    };
    if hop_limit != 255 || message[1] != 0 {
        return Err(DropReason::BadNd);
    }
    let target = address(message, 8);
    Ok(Body::Nd(if kind == 135 { Nd::Solicitation(target) } else { Nd::Advertisement(target) }))
}

impl Nd {
    /// Checks what RFC 4861 7.1.1 and 7.1.2 demand, and that the options name the frame's source.
    fn check(
        self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        src_mac: MacAddr,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let solicited = message.get(4).is_some_and(|flags| flags & 0x40 != 0);
        let probe = src.is_unspecified();
        let (target, sound) = match self {
            Self::Solicitation(target) => (target, !probe || dst == solicited_node(target)),
            Self::Advertisement(target) => (target, !(dst.is_multicast() && solicited)),
        };
        if !sound || target.is_multicast() || target.is_unspecified() || target.is_loopback() {
            return Err(DropReason::BadNd);
        }
        check_options(message.get(24..).unwrap_or_default(), probe, src_mac)
    }
}

/// Checks that options are whole and that link-layer addresses among them are the frame's source;
/// who has no address yet gives none.
fn check_options(mut options: &[u8], probe: bool, src_mac: MacAddr) -> Result<(), DropReason> {
    while !options.is_empty() {
        let Some(&[kind, units, m0, m1, m2, m3, m4, m5]) = options.first_chunk() else {
            return Err(DropReason::BadNd);
        };
        if let OPTION_SOURCE_LINK | OPTION_TARGET_LINK = kind {
            if probe || units != 1 {
                return Err(DropReason::BadNd);
            }
            if MacAddr([m0, m1, m2, m3, m4, m5]) != src_mac {
                return Err(DropReason::SpoofedNd);
            }
        }
        options = match options.get(usize::from(units) * 8..) {
            Some(rest) if units != 0 => rest,
            _ => return Err(DropReason::BadNd),
        };
    }
    Ok(())
}

/// Returns the group that a node with this address listens to (RFC 4291 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Reads the address at `at`, a constant below `N - 16`.
fn address<const N: usize>(bytes: &[u8; N], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}
