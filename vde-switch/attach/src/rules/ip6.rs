//! IPv6 from the guest, and neighbour discovery.
//!
//! # Theory of operation
//! What has TCP, UDP or ICMPv6 right behind the header goes the short way. The rest is looked at
//! for extension headers; ICMPv6 is nowhere behind one but a fragment header, where it may be
//! neither neighbour discovery nor multicast control (RFC 6980, 7113).

use super::guest::IS_GROUP;
use super::ip4::{TCP_LEN_MAX, TCP_LEN_MIN, short_tcp};
use super::{Chain, NEIGHBOUR_RATE, Stop};
use crate::wire::spec::WireSpec;

/// Length of a fragment header, in bytes.
const FRAGMENT_LEN: usize = 8;
/// Least length of a neighbour solicitation or advertisement, in bytes.
const ND_LEN_MIN: usize = 24;

/// Link-local addresses; which of them are the guest's, the switch learns.
const LINK_LOCAL: &str = "fe80::/10";

pub(super) fn chains(spec: &WireSpec) -> Vec<Chain> {
    let plain = [plain_tcp(), plain_tcp_short(), plain_udp(), udp_ports()];
    let behind = [extended(), fragment(), fragment_tcp(), extended_udp(), fragment_icmp(), later()];
    let nd = [icmp(), nd_form(), router_solicit(spec), solicit(spec), advert(spec), nd_asks()];
    let ways = [ip6(spec), unaddressed(), one(), group(), part()];
    ways.into_iter().chain(plain).chain(behind).chain(nd).collect()
}

fn ip6(spec: &WireSpec) -> Chain {
    let own = spec.station.ipv6;
    let (prefix, len) = spec.segment.ipv6;
    let prefix = format!("{prefix}/{len}");
    Chain::new("g_ip6")
        .stop(Stop::Ip6Form, "ip6 version != 6")
        .jump("ip6 saddr ::", "g_ip6_unaddressed")
        .stop(Stop::Ip6Source, &format!("ip6 saddr != {{ ::, {own}, {LINK_LOCAL} }}"))
        .fork(
            "ip6 daddr",
            &[(&prefix, "g_ip6_one"), (LINK_LOCAL, "g_ip6_one"), ("ff02::/16", "g_ip6_group")],
        )
        .rest(Stop::Ip6Destination)
}

/// Who looks whether his address is free, or for a router, may have none yet.
fn unaddressed() -> Chain {
    Chain::new("g_ip6_unaddressed")
        // Right behind the header: of a later fragment nft would take payload for a type.
        .back("ip6 nexthdr icmpv6 and icmpv6 type { nd-router-solicit, nd-neighbor-solicit }")
        .rest(Stop::Ip6Source)
}

fn one() -> Chain {
    Chain::new("g_ip6_one").stop(Stop::Ip6Mac, IS_GROUP).goto("", "g_ip6_part")
}

fn group() -> Chain {
    Chain::new("g_ip6_group")
        .stop(Stop::Ip6Mac, "ether daddr & ff:ff:00:00:00:00 != 33:33:00:00:00:00")
        // Neighbour discovery has a rate of its own.
        .goto("ip6 nexthdr icmpv6", "g_ip6_icmp")
        .jump("", "g_groups")
        .goto("", "g_ip6_part")
}

fn part() -> Chain {
    Chain::new("g_ip6_part")
        .fork(
            "ip6 nexthdr",
            &[("tcp", "g_ip6_tcp"), ("udp", "g_ip6_udp"), ("icmpv6", "g_ip6_icmp")],
        )
        .goto("", "g_ip6_extended")
}

fn plain_tcp() -> Chain {
    Chain::new("g_ip6_tcp")
        .stop(Stop::TcpForm, &format!("ip6 length < {TCP_LEN_MIN}"))
        .jump(&format!("ip6 length < {TCP_LEN_MAX}"), "g_ip6_tcp_short")
        .goto("", "g_tcp")
}

fn plain_tcp_short() -> Chain {
    short_tcp("g_ip6_tcp_short", "ip6 length", 0)
}

fn plain_udp() -> Chain {
    Chain::new("g_ip6_udp")
        .stop(Stop::UdpForm, "ip6 length < 8")
        .jump("", "g_ip6_udp_ports")
        .goto("udp dport 547 and udp length >= 8", "g_asks")
        .goto("udp length >= 8", "g_pass")
        .rest(Stop::UdpForm)
}

/// Some clients look at the destination port only, so that either port makes a server.
fn udp_ports() -> Chain {
    Chain::new("g_ip6_udp_ports")
        .stop(Stop::DhcpServer, "udp sport 547")
        .stop(Stop::DhcpServer, "udp dport 546")
}

fn extended() -> Chain {
    Chain::new("g_ip6_extended")
        // A jumbogram's length would be in there.
        .stop(Stop::Ip6Form, "ip6 length 0 and ip6 nexthdr 0")
        .stop(Stop::Ip6Extension, "ip6 nexthdr != 0 and exthdr hbh exists")
        .stop(Stop::Ip6Extension, "rt type 0")
        .stop(Stop::HiddenIcmp, "ip6 nexthdr != 44 and meta l4proto icmpv6")
        // The kernel looks for the protocol no further than here.
        .stop(Stop::HiddenIcmp, "ah nexthdr icmpv6")
        .goto("exthdr frag exists", "g_ip6_fragment")
        .goto("meta l4proto udp", "g_ip6_extended_udp")
        .goto("meta l4proto tcp", "g_tcp")
        .goto("meta l4proto 0-255", "g_pass")
        .rest(Stop::Ip6Form)
}

fn fragment() -> Chain {
    let header = FRAGMENT_LEN;
    Chain::new("g_ip6_fragment")
        // All but the last are multiples of 8; what is in front of the header may not be.
        .stop(Stop::Fragment, "ip6 nexthdr 44 and frag more-fragments 1 and ip6 length & 7 != 0")
        .stop(Stop::Fragment, &format!("ip6 length {header} and frag more-fragments 1"))
        .stop(Stop::HiddenIcmp, "frag nexthdr != icmpv6 and meta l4proto icmpv6")
        .goto("frag frag-off != 0", "g_ip6_later")
        .stop(Stop::Ip6Extension, "frag nexthdr 44")
        .fork(
            "meta l4proto",
            &[
                ("tcp", "g_ip6_fragment_tcp"),
                ("udp", "g_ip6_extended_udp"),
                ("icmpv6", "g_ip6_fragment_icmp"),
            ],
        )
        .goto("meta l4proto 0-255", "g_pass")
        .rest(Stop::Ip6Form)
}

fn later() -> Chain {
    Chain::new("g_ip6_later")
        .stop(Stop::Fragment, &format!("ip6 length {FRAGMENT_LEN}"))
        // It would overwrite the flags of the header that the first fragment showed.
        .stop(Stop::TinyFragment, "frag frag-off 1 and frag nexthdr tcp")
        .goto("meta l4proto 0-255", "g_pass")
        // Of these the kernel looks for more behind, where there is payload.
        .goto("frag nexthdr { 0, 43, 44, 51, 60 }", "g_pass")
        .rest(Stop::Ip6Form)
}

fn fragment_tcp() -> Chain {
    let least = FRAGMENT_LEN + TCP_LEN_MIN;
    Chain::new("g_ip6_fragment_tcp")
        .stop(Stop::TinyFragment, &format!("ip6 length < {least}"))
        .goto("", "g_tcp")
}

/// UDP behind an extension header; a DHCP message stands in front, where the services look.
fn extended_udp() -> Chain {
    Chain::new("g_ip6_extended_udp")
        .jump("", "g_ip6_udp_ports")
        .stop(Stop::FragmentedDhcp, "udp dport 547")
        .goto("udp length >= 8", "g_pass")
        .rest(Stop::UdpForm)
}

fn fragment_icmp() -> Chain {
    Chain::new("g_ip6_fragment_icmp")
        .stop(Stop::FragmentedNd, "icmpv6 type { 130-137, 143 }")
        // The last byte of its header.
        .goto("@th,56,8 0-255", "g_pass")
        .rest(Stop::IcmpForm)
}

fn icmp() -> Chain {
    Chain::new("g_ip6_icmp")
        .stop(Stop::IcmpForm, "ip6 length < 8")
        .stop(Stop::Mld, "icmpv6 type { 130-132, 143 }")
        .stop(Stop::RouterAdvert, "icmpv6 type nd-router-advert")
        .stop(Stop::Redirect, "icmpv6 type nd-redirect")
        .fork(
            "icmpv6 type",
            &[
                ("nd-router-solicit", "g_router_solicit"),
                ("nd-neighbor-solicit", "g_solicit"),
                ("nd-neighbor-advert", "g_advert"),
            ],
        )
        .jump("ip6 daddr ff00::/8", "g_groups")
        .goto("@th,56,8 0-255", "g_pass")
        .rest(Stop::Ip6Form)
}

fn nd_form() -> Chain {
    Chain::new("g_nd_form")
        .stop(Stop::NdForm, "ip6 hoplimit != 255")
        .stop(Stop::NdForm, "icmpv6 code != 0")
}

/// The first option, `at` bytes from the start: whole, and the guest's own where it names a
/// link-layer address.
fn option(chain: Chain, spec: &WireSpec, at: usize) -> Chain {
    let [a, b, c, d, e, f] = spec.station.mac.0;
    let own = format!("0x01{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}");
    let kind = 8 * at;
    let rest = kind + 8;
    chain
        .stop(Stop::NdForm, &format!("@th,{rest},8 0"))
        .stop(Stop::NdOption, &format!("@th,{kind},8 {{ 1, 2 }} and @th,{rest},56 != {own}"))
}

/// Who has no address yet names no link-layer address.
fn nameless(chain: Chain, at: usize) -> Chain {
    chain.stop(Stop::NdForm, &format!("ip6 saddr :: and @th,{},8 {{ 1, 2 }}", 8 * at))
}

fn router_solicit(spec: &WireSpec) -> Chain {
    let chain = Chain::new("g_router_solicit").jump("", "g_nd_form");
    let chain = option(nameless(chain, 8), spec, 8);
    chain.goto("", "g_asks")
}

fn solicit(spec: &WireSpec) -> Chain {
    let chain = Chain::new("g_solicit")
        .jump("", "g_nd_form")
        .stop(Stop::NdForm, &format!("ip6 length < {ND_LEN_MIN}"))
        // The target is no group, and neither unspecified nor loopback.
        .stop(Stop::NdForm, "@th,64,8 0xff")
        .stop(Stop::NdForm, "@th,64,128 0x0-0x1")
        .stop(Stop::NdForm, "ip6 saddr :: and ip6 daddr != ff02::1:ff00:0/104");
    let chain = option(nameless(chain, ND_LEN_MIN), spec, ND_LEN_MIN);
    chain.goto("", "g_nd_asks")
}

fn advert(spec: &WireSpec) -> Chain {
    let own = format!("{:#034x}", spec.station.ipv6.to_bits());
    // fe80::/10.
    let link_local = "0xfe800000000000000000000000000000-0xfebfffffffffffffffffffffffffffff";
    let chain = Chain::new("g_advert")
        .jump("", "g_nd_form")
        .stop(Stop::NdForm, &format!("ip6 length < {ND_LEN_MIN}"))
        // What everyone is told, nobody has asked for.
        .stop(Stop::NdForm, "ip6 daddr ff00::/8 and @th,32,8 & 0x40 == 0x40");
    option(chain, spec, ND_LEN_MIN)
        .goto(&format!("@th,64,128 {{ {own}, {link_local} }}"), "g_nd_asks")
        .rest(Stop::NdTarget)
}

fn nd_asks() -> Chain {
    Chain::new("g_nd_asks").limit(Stop::NdRate, NEIGHBOUR_RATE).goto("", "g_pass")
}
