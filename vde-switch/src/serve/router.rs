//! Router advertisements: that there is no router, that addresses come by DHCPv6, and which
//! neighbours are on the link.
//!
//! Source: RFC 4861 4.2 and 6.2 (advertisements), 8106 (DNS servers).

use std::net::Ipv6Addr;

use super::{Host, Served};
use crate::answer::Answer;
use crate::link_local::SERVICE_LINK_LOCAL;
use crate::mac::SERVICE_MAC;
use crate::neighbour::ALL_NODES;

/// The hop limit that guests are to use: what systems use anyhow.
const HOP_LIMIT: u8 = 64;

/// Addresses and other things by DHCPv6.
const MANAGED_AND_OTHER: u8 = 0xc0;

/// The prefix is on the link; no address is to be made from it.
const ON_LINK: u8 = 0x80;

/// What holds until it is said anew: nobody repeats it.
const FOR_EVER: [u8; 4] = [0xff; 4];

/// Answers a solicitation from `src`.
pub(super) fn advertise(host: &Host<'_>, src: Ipv6Addr, answer: &mut Answer) -> Served {
    let Host { station, segment, guest } = *host;
    let dst = if src.is_unspecified() { ALL_NODES } else { (station.mac, src) };
    let (prefix, prefix_len) = segment.ipv6;
    answer
        .begin_ipv6(dst, (SERVICE_MAC, SERVICE_LINK_LOCAL), 58, 255)
        // No router, so a lifetime of zero; times for reachability as the guest likes.
        .put(&[134, 0, 0, 0, HOP_LIMIT, MANAGED_AND_OTHER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .put(&[1, 1])
        .put(&SERVICE_MAC.0)
        .put(&[5, 1, 0, 0])
        .put(&u32::from(segment.mtu).to_be_bytes())
        .put(&[3, 4, prefix_len, ON_LINK])
        .put(&FOR_EVER)
        .put(&FOR_EVER)
        .put(&[0; 4])
        .put(&prefix.octets());
    let count = guest.dns6().count() as u8; // at most DNS_MAX
    if count > 0 {
        answer.put(&[25, 1 + 2 * count, 0, 0]).put(&FOR_EVER);
        for address in guest.dns6() {
            answer.put(&address.octets());
        }
    }
    answer.finish_icmp6();
    Served::RouterAdvert
}
