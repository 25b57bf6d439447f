//! Frames of Alice's, legal ones and the attack catalogue's (F01 to F31), each with its verdict.

#![allow(dead_code, unreachable_pub, reason = "shared, and each test uses some")]

use std::net::{Ipv4Addr, Ipv6Addr};

use vde_switch::verdict::DropReason::{self, *};

use crate::frames::*;

pub struct Row {
    /// Its id in the catalogue, or `legal`, and what it is.
    pub name: &'static str,
    pub vnet: [u8; 12],
    pub frame: Vec<u8>,
    pub expected: Result<(), DropReason>,
}

const PLAIN: [u8; 12] = [0; 12];

fn row(name: &'static str, frame: Vec<u8>, expected: Result<(), DropReason>) -> Row {
    Row { name, vnet: PLAIN, frame, expected }
}

fn offloaded(
    name: &'static str,
    vnet: [u8; 12],
    frame: Vec<u8>,
    expected: Result<(), DropReason>,
) -> Row {
    Row { name, vnet, frame, expected }
}

/// `frame` with one byte changed.
fn with(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

/// `frame` with other bytes between its MAC addresses and the rest.
fn tagged(tag: &[u8], frame: Vec<u8>) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

/// `frame` with bytes behind its packet that are in no message: see [`MARK`].
fn hiding(mut frame: Vec<u8>, count: usize) -> Vec<u8> {
    frame.resize(frame.len() + count, MARK);
    frame
}

/// What is hidden behind packets, and nowhere else in these frames.
pub const MARK: u8 = 0xd5;

fn tcp4() -> Vec<u8> {
    alice4(BOB4, TCP, &tcp(SYN, &[]))
}

fn udp4(src: u16, dst: u16) -> Vec<u8> {
    alice4(BOB4, UDP, &udp(src, dst, &[0; 20]))
}

fn udp6(src: u16, dst: u16) -> Vec<u8> {
    alice6(BOB6, UDP, &udp(src, dst, &[0; 20]))
}

fn dhcp_discover() -> Vec<u8> {
    let packet = packet4(ZERO4, Ipv4Addr::BROADCAST, UDP, 0, &udp(68, 67, &[1; 240]));
    ethernet(BROADCAST, ALICE, 0x0800, &packet)
}

fn dhcp_renewal() -> Vec<u8> {
    let service = Ipv4Addr::new(10, 77, 0, 1);
    let packet = packet4(ALICE4, service, UDP, 0, &udp(68, 67, &[1; 240]));
    ethernet([2, b'o', b'v', b'l', 0, 1], ALICE, 0x0800, &packet)
}

fn dhcp6_solicit(src: Ipv6Addr) -> Vec<u8> {
    let agents = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    alice6_from(src, agents, UDP, &udp(546, 547, &[1; 20]))
}

fn router_solicitation(src: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let message = [&[133, 0, 0, 0, 0, 0, 0, 0], options].concat();
    alice6_from(src, ALL_ROUTERS, ICMPV6, &message)
}

fn from4(src: Ipv4Addr) -> Vec<u8> {
    ethernet(BOB, ALICE, 0x0800, &packet4(src, BOB4, TCP, 0, &tcp(SYN, &[])))
}

fn from6(src: Ipv6Addr) -> Vec<u8> {
    alice6_from(src, BOB6, TCP, &tcp(SYN, &[]))
}

fn from_mac(src: Mac) -> Vec<u8> {
    let mut frame = tcp4();
    frame[6..12].copy_from_slice(&src);
    frame
}

fn super4() -> Vec<u8> {
    alice4(BOB4, TCP, &tcp(ACK, &[7; 4000]))
}

fn super6() -> Vec<u8> {
    alice6(BOB6, TCP, &tcp(ACK, &[7; 4000]))
}

const SUPER4: (u16, u16, u16, u16) = (54, 1448, 34, 16);

fn vnet4(flags: u8, gso: u8, fields: (u16, u16, u16, u16)) -> [u8; 12] {
    vnet(flags, gso, fields.0, fields.1, fields.2, fields.3)
}

fn advert(options: &[u8]) -> Vec<u8> {
    nd(136, 0x60, ALICE6, options)
}

fn ra() -> Vec<u8> {
    icmp(134, 0, &[0; 8])
}

/// What a server says to lead all traffic over itself.
fn ack_with_routes() -> Vec<u8> {
    [&[2, 1, 6, 0][..], &[0; 232], &[99, 130, 83, 99, 53, 1, 5, 121, 5, 0, 10, 77, 0, 10, 255]]
        .concat()
}

/// TCP behind IPv4 options, padded to whole words.
fn with_options(options: &[u8]) -> Vec<u8> {
    let words = options.len().div_ceil(4);
    let mut rest = options.to_vec();
    rest.resize(words * 4, 0);
    rest.extend(tcp(SYN, &[]));
    with(alice4(BOB4, TCP, &rest), 14, 0x45 + words as u8)
}

fn arp_with(at: usize, byte: u8) -> Vec<u8> {
    with(arp(ALICE, BROADCAST, 1, ALICE4, BOB4), 14 + at, byte)
}

/// Frames that a decent station sends.
pub fn legal() -> Vec<Row> {
    let ok = |name, frame| row(name, frame, Ok(()));
    let far = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let exact = vec![7; 1500 - 28];
    vec![
        ok("legal-arp-request", arp(ALICE, BROADCAST, 1, ALICE4, BOB4)),
        ok("legal-arp-request-padded", padded(arp(ALICE, BROADCAST, 1, ALICE4, BOB4))),
        ok("legal-arp-request-unicast", arp(ALICE, BOB, 1, ALICE4, BOB4)),
        ok("legal-arp-probe", arp(ALICE, BROADCAST, 1, ZERO4, ALICE4)),
        ok("legal-arp-announcement", arp(ALICE, BROADCAST, 1, ALICE4, ALICE4)),
        ok("legal-arp-reply", arp(ALICE, BOB, 2, ALICE4, BOB4)),
        ok("legal-tcp-syn", tcp4()),
        ok("legal-tcp-padded", padded(tcp4())),
        ok("legal-udp", udp4(5000, 5001)),
        ok("F24-mtu-less-1", alice4(BOB4, UDP, &udp(1, 2, &exact[1..]))),
        ok("F24-exact-mtu", alice4(BOB4, UDP, &udp(1, 2, &exact))),
        ok("F31-hidden-bytes", hiding(alice4(BOB4, UDP, &udp(1, 2, &[0; 40])), 1)),
        ok("F31-hidden-bytes-long", hiding(tcp4(), 1400)),
        ok("F31-hidden-in-padding", hiding(tcp4(), 6)),
        ok("F31-hidden-behind-fragment", hiding(alice4_fragment(BOB4, UDP, 185, &[0; 100]), 99)),
        ok("F31-hidden-behind-arp", hiding(arp(ALICE, BROADCAST, 1, ALICE4, BOB4), 18)),
        ok("F31-hidden-behind-arp-long", hiding(arp(ALICE, BROADCAST, 1, ALICE4, BOB4), 900)),
        ok("F31-hidden6", hiding(from6(ALICE6), 900)),
        ok("F31-hidden-behind-nothing6", hiding(alice6(BOB6, 59, &[]), 6)),
        ok("legal-ping", alice4(BOB4, ICMP, &icmp(8, 0, &[0; 56]))),
        ok("legal-limited-broadcast", alice4(Ipv4Addr::BROADCAST, UDP, &udp(9, 9, b"wake"))),
        ok("legal-directed-broadcast", alice4(DIRECTED4, UDP, &udp(9, 9, b"wake"))),
        ok("legal-mdns", alice4(Ipv4Addr::new(224, 0, 0, 251), UDP, &udp(5353, 5353, b"q"))),
        ok("legal-ssdp", alice4(Ipv4Addr::new(239, 255, 255, 250), UDP, &udp(1900, 1900, b"q"))),
        ok("F19-first-fragment", alice4_fragment(BOB4, UDP, 0x2000, &udp(1, 2, &[0; 1464]))),
        ok("F19-later-fragment", alice4_fragment(BOB4, UDP, 185, &[0; 100])),
        ok("F21-gre", alice4(BOB4, 47, &[0; 40])),
        ok("F21-ipip", alice4(BOB4, 4, &packet4(GATEWAY4, BOB4, TCP, 0, &tcp(SYN, &[])))),
        ok("F21-6in4", alice4(BOB4, 41, &packet6(ALICE6, BOB6, TCP, 64, &tcp(SYN, &[])))),
        ok("F21-l2tpv3", alice4(BOB4, 115, &[0; 24])),
        ok("F21-sctp", alice4(BOB4, 132, &[0; 12])),
        ok("F21-esp6", alice6(BOB6, 50, &[0; 40])),
        ok("F22-vxlan", udp4(49_152, 4789)),
        ok("F22-wireguard", udp6(51_820, 51_820)),
        ok("legal-tcp6", alice6(BOB6, TCP, &tcp(SYN, &[]))),
        ok("legal-udp6-link-local", alice6_from(ALICE_LINK, BOB_LINK, UDP, &udp(1, 2, b"x"))),
        ok("legal-mdns6", alice6(far, UDP, &udp(5353, 5353, b"q"))),
        ok("legal-ping6", alice6(BOB6, ICMPV6, &icmp(128, 0, &[0; 56]))),
        ok("legal-solicitation", solicitation(ALICE6, BOB6)),
        ok("legal-solicitation-unicast", alice6(BOB6, ICMPV6, &nd(135, 0, BOB6, &[]))),
        ok("legal-solicitation-link-local", solicitation(ALICE_LINK, BOB_LINK)),
        ok("legal-dad", solicitation(ZERO6, ALICE6)),
        ok(
            "legal-dad-with-nonce",
            alice6_from(
                ZERO6,
                solicited_node(ALICE6),
                ICMPV6,
                &nd(135, 0, ALICE6, &[14, 1, 1, 2, 3, 4, 5, 6]),
            ),
        ),
        ok("legal-advertisement", advertisement(ALICE6, BOB6, ALICE6)),
        ok("legal-advertisement-link-local", advertisement(ALICE_LINK, BOB_LINK, ALICE_LINK)),
        ok("legal-advertisement-to-all", advertisement(ALICE6, ALL_NODES, ALICE6)),
        ok("legal-tcp-behind-options", alice6(BOB6, 60, &extension(60, TCP, &tcp(SYN, &[])))),
        ok("legal-fragment6", alice6(BOB6, 44, &fragment6(UDP, 0, true, &udp(1, 2, &[0; 1440])))),
        ok("legal-fragment6-later", alice6(BOB6, 44, &fragment6(UDP, 1448, false, &[0; 99]))),
        ok(
            "legal-fragmented-ping6",
            alice6(BOB6, 44, &fragment6(ICMPV6, 0, true, &icmp(128, 0, &[0; 1440]))),
        ),
        ok("legal-no-next-header", alice6(BOB6, 59, &[])),
        ok("asks-dhcp-discover", dhcp_discover()),
        ok("asks-dhcp-renewal", dhcp_renewal()),
        ok("asks-dhcp-of-a-station", udp4(68, 67)),
        ok("asks-dhcpv6-solicit", dhcp6_solicit(ALICE_LINK)),
        ok("asks-dhcpv6-of-a-station", udp6(546, 547)),
        ok("asks-router", router_solicitation(ALICE_LINK, &link_option(1, ALICE))),
        ok("asks-router-without-option", router_solicitation(ALICE_LINK, &[])),
        ok("asks-router-without-address", router_solicitation(ZERO6, &[])),
        offloaded("legal-checksum", vnet(1, 0, 0, 0, 34, 16), tcp4(), Ok(())),
        offloaded("legal-super-frame", vnet4(1, 1, SUPER4), super4(), Ok(())),
        offloaded("F31-super-frame", vnet4(1, 1, SUPER4), hiding(super4(), 300), Ok(())),
        offloaded("F31-super-frame6", vnet(1, 4, 74, 1428, 54, 16), hiding(super6(), 1), Ok(())),
        offloaded("F31-checksum", vnet(1, 0, 0, 0, 34, 16), hiding(tcp4(), 6), Ok(())),
        offloaded("legal-super-frame-ecn", vnet4(1, 0x81, SUPER4), super4(), Ok(())),
        offloaded("legal-super-frame6", vnet(1, 4, 74, 1428, 54, 16), super6(), Ok(())),
        offloaded(
            "legal-udp-super-frame",
            vnet(1, 5, 42, 1000, 34, 6),
            alice4(BOB4, UDP, &udp(1, 2, &[7; 9000])),
            Ok(()),
        ),
    ]
}

/// Frames of the attack catalogue, each to be dropped by its name.
pub fn hostile() -> Vec<Row> {
    let no = |name, frame, reason| row(name, frame, Err(reason));
    let raw = |ethertype| ethernet(BOB, ALICE, ethertype, &[0; 46]);
    let inner = packet6(ALICE6, BOB6, ICMPV6, 255, &ra());
    let llc =
        |len: u16, sap: &[u8], packet: &[u8]| ethernet(BOB, ALICE, len, &[sap, packet].concat());
    let snap4 = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    let packet = packet4(ALICE4, BOB4, TCP, 0, &tcp(SYN, &[]));
    let behind = |kind, rest: &[u8]| alice6(ALL_NODES, kind, &extension(kind, ICMPV6, rest));
    let solicit = nd(135, 0, BOB6, &link_option(1, ALICE));
    let reserved = |last| ethernet([1, 0x80, 0xc2, 0, 0, last], ALICE, 0x88cc, &[0; 46]);
    let unicast_from_zero =
        ethernet(BOB, ALICE, 0x0800, &packet4(ZERO4, BOB4, UDP, 0, &udp(68, 67, &[1; 240])));
    let mut rows = vec![
        no("F01-experimental", raw(0x88b5), EtherType),
        no("F01-mpls", raw(0x8847), EtherType),
        no("F01-pppoe", raw(0x8863), EtherType),
        no("F01-batman", raw(0x4305), EtherType),
        no("F01-ptp", raw(0x88f7), EtherType),
        no("F01-rarp", raw(0x8035), EtherType),
        no("F02-priority-tag", tagged(&[0x81, 0, 0xe0, 0], tcp4()), Tagged),
        no("F03-vlan-1", tagged(&[0x81, 0, 0, 1], tcp4()), Tagged),
        no("F03-vlan-4095", tagged(&[0x81, 0, 0x0f, 0xff], tcp4()), Tagged),
        no("F04-service-tag", tagged(&[0x88, 0xa8, 0, 5], tcp4()), Tagged),
        no("F04-9100", tagged(&[0x91, 0, 0, 5], tcp4()), Tagged),
        no("F04-9200", tagged(&[0x92, 0, 0, 5], tcp4()), Tagged),
        no(
            "F05-stacked-tags-around-ra",
            tagged(&[0x81, 0, 0, 0].repeat(10), ethernet(BOB, ALICE, 0x86dd, &inner)),
            Tagged,
        ),
        no("F05-vlan-0-twice", tagged(&[0x81, 0, 0, 0].repeat(2), tcp4()), Tagged),
        no("F05-service-and-vlan", tagged(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1], tcp4()), Tagged),
        no("F06-snap-right-length", llc(8 + packet.len() as u16, &snap4, &packet), Llc),
        no("F06-snap-wrong-length", llc(3, &snap4, &packet), Llc),
        no("F06-llc-ipv6-zero-length", llc(0, &[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd], &inner), Llc),
        no("F07-mac-of-gateway", from_mac(GATEWAY), ForeignMac),
        no("F07-mac-of-services", from_mac([2, b'o', b'v', b'l', 0, 1]), ForeignMac),
        no("F07-mac-of-guest", from_mac(BOB), ForeignMac),
        no("F07-mac-of-group", from_mac([3, 0, 0, 0, 0, 0x0a]), ForeignMac),
        no("F07-mac-zero", from_mac([0; 6]), ForeignMac),
        no("F08-ipv4-of-gateway", from4(GATEWAY4), ForeignIpv4),
        no("F08-ipv4-of-guest", from4(BOB4), ForeignIpv4),
        no("F08-ipv4-zero", from4(ZERO4), ForeignIpv4),
        no("F08-ipv4-loopback", from4(Ipv4Addr::LOCALHOST), ForeignIpv4),
        no("F08-ipv4-class-e", from4(Ipv4Addr::new(240, 0, 0, 1)), ForeignIpv4),
        no("F08-ipv4-broadcast", from4(DIRECTED4), ForeignIpv4),
        no(
            "F08-ipv4-zero-to-all",
            ethernet(
                BROADCAST,
                ALICE,
                0x0800,
                &packet4(ZERO4, Ipv4Addr::BROADCAST, UDP, 0, &udp(9, 9, b"x")),
            ),
            ForeignIpv4,
        ),
        no("F08-ipv4-to-all", from4(Ipv4Addr::BROADCAST), ForeignIpv4),
        no("F08-ipv4-multicast", from4(Ipv4Addr::new(224, 0, 0, 251)), ForeignIpv4),
        no("F08-ipv4-abroad", from4(Ipv4Addr::new(8, 8, 8, 8)), ForeignIpv4),
        no("F08-ipv4-of-nobody", from4(NOBODY4), ForeignIpv4),
        no("F08-ipv4-link-local", from4(Ipv4Addr::new(169, 254, 7, 7)), ForeignIpv4),
        no("F08-ipv6-of-guest", from6(BOB6), ForeignIpv6),
        no("F08-ipv6-of-nobody", from6(NOBODY6), ForeignIpv6),
        no("F08-ipv6-multicast", from6(ALL_NODES), ForeignIpv6),
        no("F08-ipv6-abroad", from6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), ForeignIpv6),
        no("F08-ipv6-of-gateway", from6(GATEWAY6), ForeignIpv6),
        no("F08-ipv6-zero", from6(ZERO6), ForeignIpv6),
        no("F08-ipv6-loopback", from6(Ipv6Addr::LOCALHOST), ForeignIpv6),
        no("F08-ipv6-mapped", from6(ALICE4.to_ipv6_mapped()), ForeignIpv6),
        no("F09-gratuitous-arp", arp(ALICE, BROADCAST, 1, GATEWAY4, GATEWAY4), SpoofedArp),
        no("F09-arp-reply-for-gateway", arp(ALICE, BOB, 2, GATEWAY4, BOB4), SpoofedArp),
        no("F09-arp-reply-from-zero", arp(ALICE, BOB, 2, ZERO4, BOB4), SpoofedArp),
        no(
            "F09-arp-other-sender",
            ethernet(BROADCAST, ALICE, 0x0806, &arp_message(1, BOB, ALICE4, BOB4)),
            SpoofedArp,
        ),
        no("F09-arp-abroad", arp(ALICE, BROADCAST, 1, ALICE4, [8; 4].into()), OutsideSegment),
        no("F09-arp-multicast", arp(ALICE, [1, 0, 0x5e, 0, 0, 1], 1, ALICE4, BOB4), MacMismatch),
        no("F10-arp-hardware-type", arp_with(1, 6), BadArp),
        no("F10-arp-protocol-type", arp_with(2, 0x86), BadArp),
        no("F10-arp-hardware-length", arp_with(4, 7), BadArp),
        no("F10-arp-protocol-length", arp_with(5, 16), BadArp),
        no("F10-arp-opcode-0", arp_with(7, 0), BadArp),
        no("F10-arp-opcode-3", arp_with(7, 3), BadArp),
        no("F10-arp-opcode-4", arp_with(7, 4), BadArp),
        no("F10-arp-opcode-8", arp_with(7, 8), BadArp),
        no("F10-arp-opcode-9", arp_with(7, 9), BadArp),
        no("F10-arp-opcode-10", arp_with(7, 10), BadArp),
        no("F10-arp-opcode-257", arp_with(6, 1), BadArp),
        no("F10-arp-truncated", arp(ALICE, BROADCAST, 1, ALICE4, BOB4)[..41].to_vec(), BadArp),
        no("F11-na-for-gateway", advertisement(ALICE6, BOB6, GATEWAY6), SpoofedNd),
        no(
            "F11-na-foreign-option",
            alice6(BOB6, ICMPV6, &advert(&link_option(2, GATEWAY))),
            SpoofedNd,
        ),
        no(
            "F11-na-second-option-foreign",
            alice6(
                BOB6,
                ICMPV6,
                &advert(&[link_option(2, ALICE), link_option(2, GATEWAY)].concat()),
            ),
            SpoofedNd,
        ),
        no(
            "F11-ns-foreign-option",
            alice6(BOB6, ICMPV6, &nd(135, 0, BOB6, &link_option(1, GATEWAY))),
            SpoofedNd,
        ),
        no("F11-hop-limit", with(solicitation(ALICE6, BOB6), 21, 254), BadNd),
        no("F11-code", with(solicitation(ALICE6, BOB6), 55, 1), BadNd),
        no("F11-solicited-to-all", with(advertisement(ALICE6, ALL_NODES, ALICE6), 58, 0x60), BadNd),
        no("F11-target-zero", alice6(BOB6, ICMPV6, &nd(135, 0, ZERO6, &[])), BadNd),
        no(
            "F11-target-loopback",
            alice6(BOB6, ICMPV6, &nd(135, 0, Ipv6Addr::LOCALHOST, &[])),
            BadNd,
        ),
        no(
            "F11-option-of-two-units",
            alice6(BOB6, ICMPV6, &nd(135, 0, BOB6, &[&[1, 2][..], &ALICE, &[0; 8]].concat())),
            BadNd,
        ),
        no("F11-target-group", alice6(BOB6, ICMPV6, &nd(135, 0, ALL_NODES, &[])), BadNd),
        no("F11-option-length-zero", with(solicitation(ALICE6, BOB6), 79, 0), BadNd),
        no("F11-option-length-lies", with(solicitation(ALICE6, BOB6), 79, 2), BadNd),
        no("F11-option-cut", alice6(BOB6, ICMPV6, &nd(135, 0, BOB6, &[14, 1, 0])), BadNd),
        no("F11-message-cut", alice6(BOB6, ICMPV6, &nd(135, 0, BOB6, &[])[..23]), BadNd),
        no(
            "F11-dad-with-option",
            alice6_from(ZERO6, solicited_node(BOB6), ICMPV6, &solicit),
            BadNd,
        ),
        no("F11-dad-to-all", alice6_from(ZERO6, ALL_NODES, ICMPV6, &nd(135, 0, BOB6, &[])), BadNd),
        no("F12-dad-denial", advertisement(ALICE6, ALL_NODES, BOB6), SpoofedNd),
        no("F13-dhcp-server", udp4(67, 68), DhcpServer),
        no("F13-dhcp-server-odd-port", udp4(1067, 68), DhcpServer),
        no("F13-dhcp-relay", udp4(67, 67), DhcpServer),
        no(
            "F13-dhcp-offer-broadcast",
            alice4(Ipv4Addr::BROADCAST, UDP, &udp(67, 68, &[2; 300])),
            DhcpServer,
        ),
        no(
            "F13-dhcp-ack-with-routes",
            alice4(BOB4, UDP, &udp(67, 68, &ack_with_routes())),
            DhcpServer,
        ),
        no("F13-dhcp-to-relay-port", alice4(BOB4, UDP, &udp(67, 1067, &[2; 300])), DhcpServer),
        no(
            "F13-dhcp-fragment",
            alice4_fragment(BOB4, UDP, 0x2000, &udp(67, 68, &[2; 296])),
            FragmentedDhcp,
        ),
        no("F14-dhcpv6-server", udp6(547, 546), DhcpServer),
        no("F14-dhcpv6-reconfigure", udp6(1547, 546), DhcpServer),
        no(
            "F14-dhcpv6-fragment",
            alice6(BOB6, 44, &fragment6(UDP, 0, true, &udp(547, 546, &[2; 296]))),
            FragmentedDhcp,
        ),
        no(
            "F14-dhcpv6-behind-options",
            alice6(BOB6, 60, &extension(60, UDP, &udp(547, 546, &[2; 96]))),
            DhcpServer,
        ),
        no(
            "F15-router-advertisement",
            alice6_from(ALICE_LINK, ALL_NODES, ICMPV6, &ra()),
            RouterAdvertisement,
        ),
        no(
            "F15-solicitation-foreign-option",
            router_solicitation(ALICE_LINK, &link_option(1, BOB)),
            SpoofedNd,
        ),
        no(
            "F15-solicitation-from-nobody-with-option",
            router_solicitation(ZERO6, &link_option(1, ALICE)),
            BadNd,
        ),
        no(
            "F15-solicitation-option-length-zero",
            router_solicitation(ALICE_LINK, &[1, 0, 0, 0, 0, 0, 0, 0]),
            BadNd,
        ),
        no(
            "F15-solicitation-from-afar",
            with(router_solicitation(ALICE_LINK, &[]), 21, 254),
            BadNd,
        ),
        no(
            "F15-solicitation-fragment",
            alice6(ALL_ROUTERS, 44, &fragment6(ICMPV6, 0, false, &icmp(133, 0, &[]))),
            FragmentedNd,
        ),
        no("F15-redirect", alice6(BOB6, ICMPV6, &icmp(137, 0, &[0; 32])), Redirect),
        no("F16-ra-behind-hop-by-hop", behind(0, &ra()), IcmpBehindExtension),
        no("F16-ra-behind-options", behind(60, &ra()), IcmpBehindExtension),
        no("F16-ra-behind-routing", behind(43, &ra()), IcmpBehindExtension),
        no(
            "F16-ra-behind-options-twice",
            alice6(ALL_NODES, 60, &extension(60, 60, &extension(60, ICMPV6, &ra()))),
            IcmpBehindExtension,
        ),
        no(
            "F16-ra-behind-ah",
            alice6(ALL_NODES, 51, &[&[ICMPV6, 4, 0, 0, 0, 0, 0, 1][..], &[0; 16], &ra()].concat()),
            IcmpBehindExtension,
        ),
        no(
            "F16-ra-fragment",
            alice6(ALL_NODES, 44, &fragment6(ICMPV6, 0, true, &ra())),
            FragmentedNd,
        ),
        no(
            "F16-ra-atomic-fragment",
            alice6(ALL_NODES, 44, &fragment6(ICMPV6, 0, false, &ra())),
            FragmentedNd,
        ),
        no(
            "F16-ra-fragment-behind-options",
            alice6(ALL_NODES, 44, &fragment6(60, 0, true, &extension(60, ICMPV6, &ra()))),
            IcmpBehindExtension,
        ),
        no(
            "F16-ns-fragment",
            alice6(ALL_NODES, 44, &fragment6(ICMPV6, 0, false, &solicit)),
            FragmentedNd,
        ),
        no(
            "F16-fragment-in-fragment",
            alice6(
                ALL_NODES,
                44,
                &fragment6(44, 0, false, &fragment6(TCP, 0, false, &tcp(2, &[]))),
            ),
            ExtensionChain,
        ),
        no(
            "F16-hop-by-hop-late",
            alice6(BOB6, 60, &extension(60, 0, &extension(0, TCP, &tcp(SYN, &[])))),
            ExtensionChain,
        ),
        no(
            "F16-routing-type-0",
            alice6(BOB6, 43, &with(extension(43, TCP, &tcp(SYN, &[])), 2, 0)),
            RoutingHeader,
        ),
        no(
            "F16-nine-extensions",
            alice6(
                BOB6,
                60,
                &(0..9).fold(tcp(SYN, &[]), |rest, n| {
                    extension(60, [TCP, 60][usize::from(n > 0)], &rest)
                }),
            ),
            ExtensionChain,
        ),
        no(
            "F16-ah-without-sequence",
            alice6(BOB6, 51, &with(extension(51, TCP, &tcp(SYN, &[])), 1, 0)),
            BadHeader,
        ),
        no("F16-extension-cut", alice6(BOB6, 60, &with(extension(60, TCP, &[]), 1, 1)), BadHeader),
        no("F17-dhcp-of-another", with(dhcp_discover(), 29, 11), ForeignIpv4),
        no("F17-dhcp-unicast-from-zero", unicast_from_zero, ForeignIpv4),
        no("F17-dhcp-directed-from-zero", with(dhcp_discover(), 30, 10), ForeignIpv4),
        no("F17-dhcpv6-from-zero", dhcp6_solicit(ZERO6), ForeignIpv6),
        no("F17-dhcpv6-of-another", dhcp6_solicit(BOB6), ForeignIpv6),
        no(
            "F17-dhcpv6-behind-options",
            alice6(BOB6, 60, &extension(60, UDP, &udp(546, 547, &[1; 96]))),
            BadDhcp,
        ),
        no(
            "F17-dhcp-fragment-to-server",
            alice4_fragment(BOB4, UDP, 0x2000, &udp(68, 67, &[1; 296])),
            FragmentedDhcp,
        ),
        no("F18-options", with(alice4(BOB4, TCP, &[1; 24]), 14, 0x46), Ipv4Options),
        no("F18-ihl-15-beyond-frame", with(tcp4(), 14, 0x4f), Ipv4Options),
        no("F18-router-alert", with_options(&[0x94, 4, 0, 0]), Ipv4Options),
        no("F18-loose-source-route", with_options(&[0x83, 7, 4, 10, 77, 0, 11, 0]), Ipv4Options),
        no("F18-timestamp", with_options(&[0x44, 8, 5, 0, 0, 0, 0, 0]), Ipv4Options),
        no("F18-ihl-1", with(tcp4(), 14, 0x41), BadHeader),
        no("F18-ihl-0", with(tcp4(), 14, 0x40), BadHeader),
        no("F18-ihl-4", with(tcp4(), 14, 0x44), BadHeader),
        no(
            "F19-tiny-first-fragment-tcp",
            alice4_fragment(BOB4, TCP, 0x2000, &tcp(SYN, &[])[..16]),
            TinyFragment,
        ),
        no("F19-overlapping-tcp", alice4_fragment(BOB4, TCP, 0x2001, &[0; 16]), TinyFragment),
        no("F19-beyond-65535", alice4_fragment(BOB4, UDP, 0x1fff, &[0; 100]), BadFragment),
        no("F19-odd-length", alice4_fragment(BOB4, UDP, 0x2000, &[0; 101]), BadFragment),
        no("F19-empty", alice4_fragment(BOB4, UDP, 0x2003, &[]), BadFragment),
        no(
            "F19-tiny-first-fragment6",
            alice6(BOB6, 44, &fragment6(TCP, 0, true, &tcp(SYN, &[])[..16])),
            TinyFragment,
        ),
        no(
            "F19-beyond-65535-6",
            alice6(BOB6, 44, &fragment6(UDP, 0xfff8, false, &[0; 100])),
            BadFragment,
        ),
        no("F20-version-6-as-4", with(tcp4(), 14, 0x65), BadVersion),
        no("F20-version-4-as-6", with(from6(ALICE6), 14, 0x45), BadVersion),
        no("F20-total-length-long", with(tcp4(), 17, 41), BadLength),
        no("F20-total-length-short", with(tcp4(), 17, 19), BadHeader),
        no("F20-total-length-0", with(tcp4(), 17, 0), BadHeader),
        no("F20-payload-length-long", with(from6(ALICE6), 19, 21), BadLength),
        no("F20-jumbogram", with(alice6(BOB6, 0, &extension(0, TCP, &[])), 19, 0), BadLength),
        no("F23-runt", tcp4()[..13].to_vec(), Runt),
        no("F23-empty", Vec::new(), Runt),
        no("F23-header-only", tcp4()[..14].to_vec(), BadHeader),
        no("F23-ipv4-19", tcp4()[..33].to_vec(), BadHeader),
        no("F23-ipv6-39", from6(ALICE6)[..53].to_vec(), BadHeader),
        no("F23-icmp-cut", alice4(BOB4, ICMP, &[8, 0, 0]), BadHeader),
        no("F24-giant-1515", alice4(BOB4, UDP, &udp(1, 2, &[0; 1473])), TooLong),
        no("F24-giant-65535", alice4(BOB4, UDP, &udp(1, 2, &[0; 65_493])), TooLong),
        no("F25-super-frame-without-header", super4(), TooLong),
        no("F28-lldp", reserved(0x0e), ReservedGroup),
        no("F28-spanning-tree", reserved(0), ReservedGroup),
        no("F28-pause", reserved(1), ReservedGroup),
        no("F28-lacp", reserved(2), ReservedGroup),
        no("F28-eapol-group", reserved(3), ReservedGroup),
        no("F28-gvrp", reserved(0x21), ReservedGroup),
        no(
            "F28-ipv4-to-reserved-group",
            ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], ALICE, 0x0800, &packet),
            ReservedGroup,
        ),
        no("F28-cdp", ethernet([1, 0, 0xc, 0xcc, 0xcc, 0xcc], ALICE, 0x20, &[0xaa; 46]), Llc),
        no("F28-eapol", raw(0x888e), EtherType),
        no("F29-syn-fin", alice4(BOB4, TCP, &tcp(3, &[])), BadTcp),
        no("F29-data-offset-4", with(tcp4(), 46, 0x40), BadTcp),
        no("F29-data-offset-beyond", with(tcp4(), 46, 0x60), BadHeader),
        no("F29-udp-length-7", with(udp4(1, 2), 39, 7), BadUdp),
        no("F29-udp-length-beyond", with(udp4(1, 2), 39, 29), BadUdp),
        no("F29-icmp-redirect", alice4(BOB4, ICMP, &icmp(5, 1, &[0; 28])), Redirect),
        no("F29-icmp-mask-request", alice4(BOB4, ICMP, &icmp(17, 0, &[0; 4])), IcmpConfig),
        no("F29-icmp-mask-reply", alice4(BOB4, ICMP, &icmp(18, 0, &[0; 4])), IcmpConfig),
        no("F29-icmp-router-solicitation", alice4(BOB4, ICMP, &icmp(10, 0, &[])), IcmpConfig),
        no("F29-icmp-router", alice4(BOB4, ICMP, &icmp(9, 0, &[0; 8])), IcmpConfig),
        no(
            "F30-routed-multicast",
            alice4([224, 0, 1, 1].into(), UDP, &udp(9, 9, &[])),
            OutsideSegment,
        ),
        no(
            "F30-site-multicast6",
            alice6("ff05::2".parse().expect("an address"), UDP, &udp(9, 9, &[])),
            OutsideSegment,
        ),
        no("F30-abroad", alice4([8; 4].into(), UDP, &udp(9, 9, &[])), OutsideSegment),
        no("F30-abroad6", alice6(Ipv6Addr::LOCALHOST, UDP, &udp(9, 9, &[])), OutsideSegment),
        no("F30-unicast-by-group", ethernet(BROADCAST, ALICE, 0x0800, &packet), MacMismatch),
        no(
            "F30-group-by-unicast",
            ethernet(BOB, ALICE, 0x0800, &packet4(ALICE4, DIRECTED4, UDP, 0, &udp(9, 9, &[]))),
            MacMismatch,
        ),
        no(
            "F30-mld-report",
            alice6_from(ALICE_LINK, ALL_NODES, 0, &extension(0, ICMPV6, &icmp(143, 0, &[0; 20]))),
            Mld,
        ),
        no("F30-igmp-query", alice4(Ipv4Addr::new(224, 0, 0, 1), 2, &[0x11; 8]), Igmp),
        no("F30-igmp-by-unicast", alice4(BOB4, 2, &[0x16; 8]), Igmp),
        no(
            "F30-mld-query",
            alice6_from(ALICE_LINK, ALL_NODES, ICMPV6, &icmp(130, 0, &[0; 16])),
            Mld,
        ),
        no(
            "F30-igmp-with-router-alert",
            with(alice4(Ipv4Addr::new(224, 0, 0, 22), 2, &[0; 12]), 14, 0x46),
            Igmp,
        ),
    ];
    let bad = |name, vnet, frame| offloaded(name, vnet, frame, Err(BadOffload));
    rows.extend([
        bad("F26-gso-size-0", vnet(1, 1, 54, 0, 34, 16), super4()),
        bad("F26-gso-by-frags", vnet(1, 1, 54, 0xffff, 34, 16), super4()),
        bad("F26-csum-start-outside", vnet(1, 0, 0, 0, 0xffff, 16), tcp4()),
        bad("F26-csum-start-in-ip", vnet(1, 0, 0, 0, 14, 16), tcp4()),
        bad("F26-csum-offset-outside", vnet(1, 0, 0, 0, 34, 0xffff), tcp4()),
        bad("F26-csum-of-gre", vnet(1, 0, 0, 0, 34, 16), alice4(BOB4, 47, &[0; 40])),
        bad("F26-hdr-len-wraps", vnet(1, 1, 0xffff, 1448, 34, 16), super4()),
        bad("F26-gso-tcp6-for-tcp4", vnet(1, 4, 54, 1448, 34, 16), super4()),
        bad("F26-gso-udp-for-tcp", vnet(1, 5, 54, 1448, 34, 16), super4()),
        bad("F26-gso-without-checksum", vnet(0, 1, 54, 1448, 34, 16), super4()),
        bad("F26-gso-size-255", vnet(1, 1, 54, 255, 34, 16), super4()),
        bad("F26-gso-size-beyond-mtu", vnet(1, 1, 54, 1461, 34, 16), super4()),
        bad(
            "F26-gso-nothing-to-cut",
            vnet(1, 1, 54, 1448, 34, 16),
            alice4(BOB4, TCP, &tcp(ACK, &[])),
        ),
        bad("F26-gso-rst", vnet(1, 1, 54, 1448, 34, 16), with(super4(), 47, 4)),
        bad(
            "F26-gso-udp-length-lies",
            vnet(1, 5, 42, 1000, 34, 6),
            with(alice4(BOB4, UDP, &udp(1, 2, &[7; 9000])), 38, 0x20),
        ),
        bad("F26-gso-syn", vnet(1, 1, 54, 1448, 34, 16), with(super4(), 47, SYN)),
        bad("F26-gso-fragment", vnet(1, 1, 54, 1448, 34, 16), with(super4(), 20, 0x20)),
    ]);
    rows
}

/// Headers that are refused before there is a frame to look at.
pub fn hostile_headers() -> Vec<(&'static str, [u8; 12])> {
    vec![
        ("F26-unknown-gso-type", vnet(1, 2, 54, 1448, 34, 16)),
        ("F26-ufo", vnet(1, 3, 42, 1448, 34, 6)),
        ("F26-tunnel-gso-v4", vnet(1, 0x21, 54, 1448, 34, 16)),
        ("F26-tunnel-gso-v6", vnet(1, 0x41, 54, 1448, 34, 16)),
        ("F26-ecn-alone", vnet(1, 0x80, 54, 1448, 34, 16)),
        ("F26-ecn-udp", vnet(1, 0x85, 54, 1448, 34, 6)),
        ("F26-unknown-flag", vnet(8, 0, 0, 0, 0, 0)),
        ("F26-rsc-info", vnet(5, 1, 54, 1448, 34, 16)),
    ]
}
