//! IPv4 from the guest: whose it is, where it goes, what it carries.

use super::guest::IS_GROUP;
use super::{Chain, Stop};
use crate::wire::spec::WireSpec;

/// Shortest TCP header, in bytes.
pub(super) const TCP_LEN_MIN: usize = 20;
/// Longest TCP header, in bytes.
pub(super) const TCP_LEN_MAX: usize = 60;

const HEADER_LEN: usize = 20;

/// Highest fragment offset, in units of 8 bytes, behind which a byte fits into a packet.
const OFFSET_MAX: usize = (65_535 - HEADER_LEN - 1) / 8;

pub(super) fn chains(spec: &WireSpec) -> Vec<Chain> {
    let [tcp, tcp_short] = tcp();
    let part = [fragment(), part(), later(), tcp, tcp_short, tcp_any(), udp(), dhcp(), icmp()];
    [ip4(spec), unaddressed(), all(), group(), one()].into_iter().chain(part).collect()
}

fn ip4(spec: &WireSpec) -> Chain {
    let (own, others) = (spec.sources_v4(), spec.destinations_v4());
    let directed = spec.segment.broadcast_ipv4();
    let stations = others.iter().map(|range| (range.to_string(), "g_ip4_one"));
    let groups = [
        ("255.255.255.255".to_owned(), "g_ip4_all"),
        (directed.to_string(), "g_ip4_all"),
        ("224.0.0.0/24".to_owned(), "g_ip4_group"),
        ("239.0.0.0/8".to_owned(), "g_ip4_group"),
    ];
    let ways: Vec<_> = stations.chain(groups).collect();
    let ways: Vec<_> = ways.iter().map(|(range, chain)| (range.as_str(), *chain)).collect();
    Chain::new("g_ip4")
        // Version 4 and a header of 20 bytes.
        .stop(Stop::Ip4Form, "@nh,0,8 != 0x45")
        .jump("ip saddr 0.0.0.0", "g_ip4_unaddressed")
        .stop(Stop::Ip4Source, &format!("ip saddr != {{ 0.0.0.0, {own} }}"))
        .fork("ip daddr", &ways)
        .rest(Stop::Ip4Destination)
}

/// Who asks for an address has none yet.
fn unaddressed() -> Chain {
    Chain::new("g_ip4_unaddressed")
        // Of a later fragment nft would take payload for ports.
        .back("ip daddr 255.255.255.255 and ip frag-off & 0x1fff == 0 and udp dport 67")
        .rest(Stop::Ip4Source)
}

fn all() -> Chain {
    Chain::new("g_ip4_all")
        .stop(Stop::Ip4Mac, "ether daddr != ff:ff:ff:ff:ff:ff")
        .jump("", "g_groups")
        .goto("", "g_ip4_part")
}

fn group() -> Chain {
    Chain::new("g_ip4_group")
        .stop(Stop::Ip4Mac, "ether daddr & ff:ff:ff:80:00:00 != 01:00:5e:00:00:00")
        .jump("", "g_groups")
        .goto("", "g_ip4_part")
}

fn one() -> Chain {
    Chain::new("g_ip4_one").stop(Stop::Ip4Mac, IS_GROUP).goto("", "g_ip4_part")
}

fn part() -> Chain {
    Chain::new("g_ip4_part")
        .jump("ip frag-off & 0x3fff != 0", "g_ip4_fragment")
        .fork("meta l4proto", &[("tcp", "g_ip4_tcp"), ("udp", "g_ip4_udp"), ("icmp", "g_ip4_icmp")])
        // Known only of a packet whose length is within the frame.
        .goto("meta l4proto 0-255", "g_pass")
        .rest(Stop::Ip4Form)
}

fn fragment() -> Chain {
    Chain::new("g_ip4_fragment")
        .stop(Stop::Fragment, "ip length 20")
        // All but the last are multiples of 8 behind the header.
        .stop(Stop::Fragment, "ip frag-off & 0x2000 == 0x2000 and ip length & 7 != 4")
        .goto("ip frag-off & 0x1fff != 0", "g_ip4_later")
}

fn later() -> Chain {
    Chain::new("g_ip4_later")
        .stop(Stop::Fragment, &format!("ip frag-off & 0x1fff > {OFFSET_MAX}"))
        // It would overwrite the flags of the header that the first fragment showed.
        .stop(Stop::TinyFragment, "ip protocol tcp and ip frag-off & 0x1fff == 1")
        // What is longer than its frame goes back to where that is known.
        .goto("meta l4proto 0-255", "g_pass")
}

fn tcp() -> [Chain; 2] {
    let (least, most) = (HEADER_LEN + TCP_LEN_MIN, HEADER_LEN + TCP_LEN_MAX);
    let chain = Chain::new("g_ip4_tcp")
        .stop(Stop::TcpForm, &format!("ip length < {least}"))
        .jump(&format!("ip length < {most}"), "g_ip4_tcp_short")
        .goto("", "g_tcp");
    [chain, short_tcp("g_ip4_tcp_short", "ip length", HEADER_LEN)]
}

/// A TCP header is within its packet: the data offset counts 4 bytes each. For packets that are
/// shorter than with the longest header.
pub(super) fn short_tcp(name: &'static str, field: &str, before: usize) -> Chain {
    let (least, most) = (TCP_LEN_MIN / 4, TCP_LEN_MAX / 4);
    let chain = (least..most - 1).fold(Chain::new(name), |chain, words| {
        let len = before + 4 * (words + 1);
        chain.stop(Stop::TcpForm, &format!("tcp doff > {words} and {field} < {len}"))
    });
    chain.stop(Stop::TcpForm, &format!("tcp doff {most}"))
}

/// Over IPv4 and IPv6.
fn tcp_any() -> Chain {
    Chain::new("g_tcp")
        .stop(Stop::TcpFlags, "tcp flags & (fin | syn) == fin | syn")
        .goto("tcp doff >= 5", "g_pass")
        .rest(Stop::TcpForm)
}

fn udp() -> Chain {
    Chain::new("g_ip4_udp")
        .stop(Stop::UdpForm, &format!("ip length < {}", HEADER_LEN + 8))
        .stop(Stop::DhcpServer, "udp sport 67")
        .stop(Stop::DhcpServer, "udp dport 68")
        .goto("udp dport 67", "g_ip4_dhcp")
        .goto("udp length >= 8", "g_pass")
        .rest(Stop::UdpForm)
}

fn dhcp() -> Chain {
    Chain::new("g_ip4_dhcp")
        .stop(Stop::FragmentedDhcp, "ip frag-off & 0x3fff != 0")
        .goto("udp length >= 8", "g_asks")
        .rest(Stop::UdpForm)
}

fn icmp() -> Chain {
    let control = "redirect, router-advertisement, router-solicitation, address-mask-request, \
                   address-mask-reply";
    Chain::new("g_ip4_icmp")
        .stop(Stop::IcmpForm, &format!("ip length < {}", HEADER_LEN + 8))
        .stop(Stop::IcmpControl, &format!("icmp type {{ {control} }}"))
        .goto("", "g_pass")
}
