//! Traffic of real systems is never dropped: recorded from firmware, boot loaders and systems as
//! they started at a port of this switch, and by the table for those that cannot be run here.
//!
//! A recording in `tests/corpus/traffic` has a line a frame: milliseconds, what became of it,
//! virtio-net header (`-` for a plain one), frame. Large frames after the first of their kind are
//! left out.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

mod asks;
mod frames;
mod oracle;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use asks::{GUEST, OTHER, SERVICE4, UPLINK, guest};
use frames::*;
use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::port::{HandsOn, Learning, PortConfig, PortKind};
use vde_switch::station::Station;
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, FloodTo, Verdict};
use vde_switch::vnet::VnetHdr;

/// Drops that cost a system nothing: its question was about itself, or was none, or its switch
/// knows the answer.
const NEEDS_NO_CARRYING: [DropReason; 5] = [
    DropReason::Mld,
    DropReason::Igmp,
    DropReason::OwnAddress,
    DropReason::Unsolicited,
    DropReason::DhcpNotice,
];

/// Recordings, and the fewest frames of each.
const RECORDINGS: [(&str, usize); 8] = [
    ("debian-dhclient", 60),
    ("debian-networkd", 60),
    ("ipxe-e1000", 8),
    ("ipxe-virtio", 15),
    ("linux-avahi", 40),
    ("linux-dhcpcd", 60),
    ("linux-udhcpc", 50),
    ("uefi-edk2", 15),
];

/// Alice is served at a port, the gateway is at another, Bob is a member.
fn switch() -> Switch {
    let mut switch = Switch::new(SEGMENT);
    let bob = Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 };
    let gateway = Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 };
    for (id, kind, station) in [
        (GUEST, PortKind::Attachment, STATION),
        (OTHER, PortKind::Attachment, gateway),
        (UPLINK, PortKind::Uplink, bob),
    ] {
        let (stations, learning, hands_on) = (vec![station], Learning::Off, HandsOn::No);
        switch.set_port(id, PortConfig { kind, stations, learning, hands_on }).unwrap();
    }
    switch.serve(GUEST, guest()).unwrap();
    switch
}

fn outcome(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Forward(_) => "forwarded",
        Verdict::Flood(_) => "flooded",
        Verdict::Answer => "answered",
        Verdict::Drop(reason) => reason.name(),
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn what_real_systems_were_recorded_to_say_is_answered_or_carried() {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/traffic"));
    assert_eq!(fs::read_dir(corpus).unwrap().count(), RECORDINGS.len());
    let mut super_frames = 0;
    for (name, count_min) in RECORDINGS {
        let text = fs::read_to_string(corpus.join(name)).unwrap();
        let (mut switch, mut count) = (switch(), 0);
        for (number, line) in (1..).zip(text.lines()) {
            let fields: Vec<&str> = line.split(' ').collect();
            let [at, expected, vnet, frame] = fields[..] else { panic!("{name}:{number}") };
            let now = Instant::from_nanos(at.parse::<u64>().unwrap() * 1_000_000);
            let vnet = if vnet == "-" { vec![0; 12] } else { bytes_of(vnet) };
            let (vnet, bytes): ([u8; 12], _) = (vnet.try_into().unwrap(), bytes_of(frame));
            let mut frame = Frame { hdr: VnetHdr::parse(&vnet).unwrap(), bytes: &bytes };
            let verdict = switch.forward(GUEST, &mut frame, now);
            assert_eq!(outcome(verdict), expected, "{name}:{number}");
            if let Verdict::Drop(reason) = verdict {
                assert!(NEEDS_NO_CARRYING.contains(&reason), "{name}:{number} {reason}");
            }
            // The oracle has another opinion of no frame but the reports of groups.
            let report = ["mld", "igmp"].contains(&expected);
            let admitted = oracle::admits(&bytes, &vnet, &[STATION], &SEGMENT);
            assert_eq!(admitted, !report, "{name}:{number}");
            super_frames += usize::from(vnet[1] != 0);
            count += 1;
        }
        assert!(count >= count_min, "{name} has lost frames: {count}");
    }
    assert!(super_frames >= 4, "{super_frames} super-frames");
}

const FLOOD: Verdict = Verdict::Flood(FloodTo::All);
const THERE: Verdict = Verdict::Forward(UPLINK);

fn drop_by(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

/// UDP from Alice to a group or broadcast, from an ephemeral port.
fn say(dst: [u8; 4], port: u16, len: usize) -> Vec<u8> {
    alice4(dst.into(), UDP, &udp(49_152, port, &vec![0x61; len]))
}

fn say6(dst: &str, port: u16, len: usize) -> Vec<u8> {
    alice6_from(ALICE_LINK, dst.parse().unwrap(), UDP, &udp(49_152, port, &vec![0x61; len]))
}

/// As a driver sends it that pads to 60 bytes with whatever its buffer held.
fn dirty(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0xa5);
    frame
}

/// TCP with options, as many words as there are.
fn tcp_with(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut segment = [&tcp(flags, &[])[..], options].concat();
    segment[12] = (4 * (20 + options.len())) as u8; // in words, in the upper half
    segment
}

fn unicast6(next: u8, rest: &[u8]) -> Vec<u8> {
    alice6(BOB6, next, rest)
}

#[test]
fn what_bsds_routers_and_programs_say_is_answered_or_carried() {
    let own = drop_by(DropReason::OwnAddress);
    let dhclient = |kind, flags| {
        let options = asks::options4(kind, &[(50, &[10, 77, 0, 10]), (55, &[1, 28, 2, 3, 15, 6])]);
        let mut message = asks::message4(flags, ZERO4, &options);
        message.resize(300, 0);
        asks::broadcast4(&message)
    };
    let mld1 =
        alice6_from(ALICE_LINK, ALL_NODES, 0, &extension(0, ICMPV6, &icmp(131, 0, &[0; 16])));
    let random = "fe80::9d3c:41e8:7a05:c2f1".parse().unwrap();
    let fragments = |offset: u16| alice4_fragment(BOB4, UDP, offset, &[0x61; 1480]);
    let syn = tcp_with(SYN, &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 6]);
    let steps: Vec<(&str, Vec<u8>, Verdict)> = vec![
        // FreeBSD, OpenBSD, NetBSD: from the link up to the lease.
        ("BSD: link-local probe", solicitation(ZERO6, ALICE_LINK), FLOOD),
        ("BSD: listener report, first version", mld1, drop_by(DropReason::Mld)),
        ("BSD: privacy link-local probe", solicitation(ZERO6, random), FLOOD),
        ("BSD: router solicitation", asks::router_solicitation(ALICE_LINK), Verdict::Answer),
        ("BSD: discover, padded to BOOTP", dhclient(asks::DISCOVER, 0), Verdict::Answer),
        ("BSD: the same by broadcast", dhclient(asks::DISCOVER, 0x8000), Verdict::Answer),
        ("BSD: request", dhclient(asks::REQUEST, 0), Verdict::Answer),
        ("BSD: announcement", arp(ALICE, BROADCAST, 1, ALICE4, ALICE4), own),
        (
            "BSD: ARP padded with rubbish",
            dirty(arp(ALICE, BROADCAST, 1, ALICE4, BOB4)),
            Verdict::Answer,
        ),
        ("BSD: ARP by unicast", dirty(arp(ALICE, BOB, 1, ALICE4, BOB4)), Verdict::Answer),
        ("BSD: ARP for the services", arp(ALICE, BROADCAST, 1, ALICE4, SERVICE4), Verdict::Answer),
        ("BSD: SYN with all options", alice4(BOB4, TCP, &syn), THERE),
        ("BSD: ACK padded with rubbish", dirty(alice4(BOB4, TCP, &tcp(ACK, &[]))), THERE),
        ("BSD: FIN and ACK", alice4(BOB4, TCP, &tcp(ACK | 1, &[])), THERE),
        ("BSD: RST alone", alice4(BOB4, TCP, &tcp(4, &[])), THERE),
        ("BSD: SYN with ECN", alice4(BOB4, TCP, &tcp(SYN | 0xc0, &[])), THERE),
        ("BSD: urgent data", alice4(BOB4, TCP, &tcp(ACK | 0x20, b"!")), THERE),
        ("BSD: SYN with data", alice4(BOB4, TCP, &tcp(SYN, b"fast open")), THERE),
        // Diagnosis.
        ("traceroute", alice4(BOB4, UDP, &udp(40_000, 33_434, &[0; 32])), THERE),
        ("port unreachable", alice4(BOB4, ICMP, &icmp(3, 3, &[0x45; 28])), THERE),
        ("fragmentation needed", alice4(BOB4, ICMP, &icmp(3, 4, &[0x45; 28])), THERE),
        ("time exceeded", alice4(BOB4, ICMP, &icmp(11, 0, &[0x45; 28])), THERE),
        ("parameter problem", alice4(BOB4, ICMP, &icmp(12, 0, &[0x45; 28])), THERE),
        ("ICMP timestamp", alice4(BOB4, ICMP, &icmp(13, 0, &[0; 12])), THERE),
        (
            "a large ping's first fragment",
            alice4_fragment(BOB4, ICMP, 0x2000, &icmp(8, 0, &[0; 1472])),
            THERE,
        ),
        ("ping to all", alice4(DIRECTED4, ICMP, &icmp(8, 0, &[0; 56])), FLOOD),
        (
            "ping to all nodes",
            alice6_from(ALICE_LINK, ALL_NODES, ICMPV6, &icmp(128, 0, &[0; 56])),
            FLOOD,
        ),
        ("packet too big", unicast6(ICMPV6, &icmp(2, 0, &[0x60; 48])), THERE),
        ("ICMPv6 unreachable", unicast6(ICMPV6, &icmp(1, 4, &[0x60; 48])), THERE),
        (
            "reachability of a neighbour",
            alice6_from(
                ALICE_LINK,
                BOB_LINK,
                ICMPV6,
                &nd(135, 0, BOB_LINK, &link_option(1, ALICE)),
            ),
            THERE,
        ),
        ("and the answer to one", advertisement(ALICE_LINK, BOB_LINK, ALICE_LINK), THERE),
        // Files, clocks, names, phones, games.
        (
            "NFS over UDP, first fragment",
            alice4_fragment(BOB4, UDP, 0x2000, &udp(800, 2049, &[0x61; 1472])),
            THERE,
        ),
        ("NFS over UDP, a middle one", fragments(0x2000 | 185), THERE),
        ("NFS over UDP, the last one", fragments(370), THERE),
        ("an empty datagram", dirty(alice4(BOB4, UDP, &udp(1, 2, &[]))), THERE),
        ("DNS with EDNS to a member", alice4(BOB4, UDP, &udp(40_000, 53, &[0; 60])), THERE),
        ("NTP", alice4(BOB4, UDP, &udp(123, 123, &[0; 48])), THERE),
        ("NTP to all", say([10, 77, 0, 255], 123, 48), FLOOD),
        ("TFTP", alice4(BOB4, UDP, &udp(40_000, 69, b"\0\x01f\0octet\0")), THERE),
        ("syslog to all", say([255; 4], 514, 80), FLOOD),
        ("Wake-on-LAN", say([255; 4], 9, 102), FLOOD),
        ("service location", say([239, 255, 255, 253], 427, 60), FLOOD),
        ("LAN sync", say([255; 4], 17_500, 200), FLOOD),
        ("a game's search", say([255; 4], 27_036, 40), FLOOD),
        ("a printer's search", say6("ff02::fb", 5353, 60), FLOOD),
        ("SIP to all", say([224, 0, 1, 75], 5060, 40), drop_by(DropReason::OutsideSegment)),
        // Routing daemons, tunnels, clusters inside the segment.
        ("RIP", say([224, 0, 0, 9], 520, 24), FLOOD),
        ("OSPF", alice4([224, 0, 0, 5].into(), 89, &[0; 44]), FLOOD),
        ("VRRP", alice4([224, 0, 0, 18].into(), 112, &[0; 20]), FLOOD),
        ("GRE", alice4(BOB4, 47, &[0; 40]), THERE),
        ("ESP", alice4(BOB4, 50, &[0; 60]), THERE),
        ("AH", alice4(BOB4, 51, &[0; 60]), THERE),
        ("SCTP", alice4(BOB4, 132, &[0; 32]), THERE),
        ("AH over IPv6", unicast6(51, &[&[TCP, 4][..], &[0; 22], &tcp(ACK, &[])].concat()), THERE),
        ("destination options", unicast6(60, &extension(60, UDP, &udp(1, 2, b"x"))), THERE),
        ("hop-by-hop options", unicast6(0, &extension(0, UDP, &udp(1, 2, b"x"))), THERE),
        ("an atomic fragment", unicast6(44, &fragment6(UDP, 0, false, &udp(1, 2, b"x"))), THERE),
        ("DCCP", unicast6(33, &[0; 16]), THERE),
        ("its own multicast group", say([239, 1, 2, 3], 5000, 1000), FLOOD),
        ("an ad-hoc group over IPv6", say6("ff02::1234", 5000, 1000), FLOOD),
        (
            "its own address",
            {
                let mut frame = alice4(Ipv4Addr::new(10, 77, 0, 10), UDP, &udp(1, 2, b"x"));
                frame[..6].copy_from_slice(&ALICE);
                frame
            },
            drop_by(DropReason::Hairpin),
        ),
    ];
    let mut switch = switch();
    for (second, (name, bytes, expected)) in (0_u64..).zip(&steps) {
        let now = Instant::from_nanos(second * 1_000_000_000);
        let mut frame = Frame { hdr: VnetHdr::default(), bytes };
        assert_eq!(switch.forward(GUEST, &mut frame, now), *expected, "{name}");
        let refused = [DropReason::Mld, DropReason::OutsideSegment].map(drop_by);
        let admitted = oracle::admits(bytes, &[0; 12], &[STATION], &SEGMENT);
        assert_eq!(admitted, !refused.contains(expected), "{name}, the oracle");
    }
    assert!(steps.len() >= 60, "{} frames", steps.len());
}
