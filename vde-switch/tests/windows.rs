//! What systems say on a LAN by themselves: Windows above all, whose packets stand for a guest that
//! cannot be run here, and the boot loaders and BSDs that ask for an address in ways of their own.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

mod asks;
mod frames;

use std::net::{Ipv4Addr, Ipv6Addr};

use asks::*;
use frames::*;
use vde_switch::frame::Frame;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, FloodTo, Verdict};
use vde_switch::vnet::VnetHdr;

const FLOOD: Verdict = Verdict::Flood(FloodTo::All);

/// A step of a system's start: what it is, its frame, what becomes of that.
type Step = (&'static str, Vec<u8>, Verdict);

fn drop_by(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

fn run(steps: Vec<Step>) {
    let mut switch = switch();
    for (second, (name, bytes, expected)) in (0_u64..).zip(steps) {
        let now = Instant::from_nanos(second * 1_000_000_000);
        let mut frame = Frame { hdr: VnetHdr::default(), bytes: &bytes };
        assert_eq!(switch.forward(GUEST, &mut frame, now), expected, "{name}");
    }
}

/// UDP from Alice to a group or broadcast.
fn say4(dst: [u8; 4], port: u16, text: &[u8]) -> Vec<u8> {
    alice4(dst.into(), UDP, &udp(port, port, text))
}

fn say6(dst: &str, port: u16, text: &[u8]) -> Vec<u8> {
    alice6_from(ALICE_LINK, dst.parse().unwrap(), UDP, &udp(49_152, port, text))
}

/// A report of multicast listeners, version 2, behind a router alert.
fn mld2(groups: &[Ipv6Addr]) -> Vec<u8> {
    let mut report = vec![143, 0, 0, 0, 0, 0, 0, groups.len() as u8];
    for group in groups {
        report.extend([4, 0, 0, 0]);
        report.extend(group.octets());
    }
    let alert = [&[58, 0, 5, 2, 0, 0, 1, 0], &report[..]].concat();
    alice6_from(ALICE_LINK, "ff02::16".parse().unwrap(), 0, &alert)
}

/// The same for IPv4: IGMPv3, with the router alert option that it must have.
fn igmp3(group: Ipv4Addr) -> Vec<u8> {
    let report = [&[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0], &group.octets()[..]].concat();
    let with_option = [&[0x94, 4, 0, 0], &report[..]].concat();
    let mut frame = alice4(Ipv4Addr::new(224, 0, 0, 22), 2, &with_option);
    frame[14] = 0x46;
    frame
}

/// Interface ids that follow from no MAC address, as Windows makes them.
fn random_link_local(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x9d3c, 0x41e8 ^ n, 0x7a05, 0xc2f1 ^ n)
}

const MSFT: &[u8] = b"MSFT 5.0";

/// No option 26 among them: Windows takes its MTU from elsewhere.
const WANTED: &[u8] = &[1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252];

#[test]
fn a_windows_guest_starts_and_is_heard_on_the_lan() {
    let id = [&[1], &ALICE[..]].concat();
    let name: &[u8] = b"DESKTOP-4F7K2Q1";
    let fqdn = [&[0, 0, 0], name].concat();
    let common: [(u8, &[u8]); 3] = [(61, &id), (12, name), (60, MSFT)];
    let discover: Vec<(u8, &[u8])> =
        [&common[..], &[(50, &[169, 254, 7, 7]), (55, WANTED)]].concat();
    let request: Vec<(u8, &[u8])> =
        [&common[..], &[(50, &[10, 77, 0, 10]), (54, &[10, 77, 0, 1]), (81, &fqdn), (55, WANTED)]]
            .concat();
    let inform = message4(0, ALICE4, &options4(INFORM, &[(61, &id), (60, MSFT), (55, WANTED)]));
    let inform = {
        let packet = packet4(ALICE4, Ipv4Addr::BROADCAST, UDP, 0, &udp(68, 67, &inform));
        ethernet(BROADCAST, ALICE, 0x0800, &packet)
    };
    let link = random_link_local(0);
    // Its identifier is of link-layer and time, and not the MAC address that it has today.
    let duid = [&[0, 1, 0, 1, 0x2c, 0x11, 0x22, 0x33], &[0x52, 0x54, 0, 1, 2, 3][..]].concat();
    let solicit = [
        option6(8, &[0, 0]),
        option6(1, &duid),
        ia_na(0x0a02_0000, &[]),
        option6(39, b"\x00\x0fDESKTOP-4F7K2Q1"),
        option6(16, &[&[0, 0, 1, 0x37, 0, 8], MSFT].concat()),
        option6(6, &[0, 17, 0, 23, 0, 24, 0, 39]),
    ];
    let probe = arp(ALICE, BROADCAST, 1, ZERO4, ALICE4);
    let own = drop_by(DropReason::OwnAddress);
    run(vec![
        ("link-local probe", solicitation(ZERO6, link), FLOOD),
        ("router solicitation without address", router_solicitation(ZERO6), Verdict::Answer),
        ("listener report", mld2(&[solicited_node(link)]), drop_by(DropReason::Mld)),
        ("router solicitation", router_solicitation(ALICE_LINK), Verdict::Answer),
        ("discover", dhcp4(DISCOVER, &discover), Verdict::Answer),
        ("request", dhcp4(REQUEST, &request), Verdict::Answer),
        ("address probe", probe.clone(), own),
        ("address probe again", probe, own),
        ("announcement", arp(ALICE, BROADCAST, 1, ALICE4, ALICE4), own),
        ("group report", igmp3(Ipv4Addr::new(224, 0, 0, 252)), drop_by(DropReason::Igmp)),
        ("solicit", dhcp6(1, &solicit.concat()), Verdict::Answer),
        ("IPv6 address probe", solicitation(ZERO6, ALICE6), own),
        ("inform", inform, Verdict::Answer),
        ("NetBIOS name", say4([10, 77, 0, 255], 137, &[0; 50]), FLOOD),
        ("NetBIOS datagram", say4([10, 77, 0, 255], 138, &[0; 200]), FLOOD),
        ("browser election", say4([255; 4], 138, &[0; 200]), FLOOD),
        ("SSDP", say4([239, 255, 255, 250], 1900, b"M-SEARCH * HTTP/1.1\r\n\r\n"), FLOOD),
        ("SSDP over IPv6", say6("ff02::c", 1900, b"M-SEARCH * HTTP/1.1\r\n\r\n"), FLOOD),
        ("LLMNR", say4([224, 0, 0, 252], 5355, &[0; 30]), FLOOD),
        ("LLMNR over IPv6", say6("ff02::1:3", 5355, &[0; 30]), FLOOD),
        ("mDNS", say4([224, 0, 0, 251], 5353, &[0; 40]), FLOOD),
        ("mDNS over IPv6", say6("ff02::fb", 5353, &[0; 40]), FLOOD),
        ("WS-Discovery", say4([239, 255, 255, 250], 3702, b"<soap:Envelope/>"), FLOOD),
        ("WS-Discovery over IPv6", say6("ff02::c", 3702, b"<soap:Envelope/>"), FLOOD),
        ("a neighbour", arp(ALICE, BROADCAST, 1, ALICE4, BOB4), Verdict::Answer),
        ("its share", alice4(BOB4, TCP, &tcp(SYN, &[])), Verdict::Forward(OTHER)),
        // What the design leaves out, each by its name.
        ("the internet", alice4([8; 4].into(), UDP, &udp(1, 53, b"x")), drop_by(OUTSIDE)),
        ("a wider scope", say6("ff05::c", 1900, b"M-SEARCH"), drop_by(OUTSIDE)),
        ("no router", arp(ALICE, BROADCAST, 1, ALICE4, NOBODY4), drop_by(NOBODY)),
        // Connection sharing, switched on by mistake.
        ("its DHCP server", say4([255; 4], 67, &[2; 300]), drop_by(DropReason::DhcpServer)),
        (
            "its router advertisement",
            alice6_from(ALICE_LINK, ALL_NODES, ICMPV6, &icmp(134, 0, &[0; 8])),
            drop_by(DropReason::RouterAdvertisement),
        ),
        ("its gateway", arp(ALICE, BROADCAST, 1, GATEWAY4, GATEWAY4), drop_by(SPOOFED)),
    ]);
}

const OUTSIDE: DropReason = DropReason::OutsideSegment;
const NOBODY: DropReason = DropReason::NoSuchStation;
const SPOOFED: DropReason = DropReason::SpoofedArp;

#[test]
fn four_random_link_local_addresses_are_taken_and_a_fifth_is_one_too_many() {
    let hello = |n| alice6_from(random_link_local(n), ALL_NODES, UDP, &udp(5353, 5353, b"x"));
    let steps = (0..4).map(|n| ("hello", hello(n), FLOOD));
    let fifth = ("a fifth", hello(4), drop_by(DropReason::LinkLocalLimit));
    run(steps.chain([fifth]).chain([("the first again", hello(0), FLOOD)]).collect());
}

#[test]
fn windows_is_told_its_routes_and_not_refused_for_what_it_does_not_want() {
    let answer = ask(&dhcp4(DISCOVER, &[(60, MSFT), (55, WANTED)])).unwrap();
    let options = &answer[42 + 240..];
    let told = |option: &[u8]| options.windows(option.len()).any(|window| window == option);
    assert!(told(&[249, 8, 24, 192, 168, 9, 10, 77, 0, 2]) && told(&[26, 2, 5, 220]));
    assert!(!told(&[3, 4]), "a default route");
}

#[test]
fn boot_loaders_and_bsds_are_answered_too() {
    let mac_id = [&[1], &ALICE[..]].concat();
    let uuid = [0; 17];
    let ipxe: Vec<(u8, &[u8])> = vec![
        (57, &[5, 192]),
        (93, &[0, 0]),
        (94, &[1, 2, 1]),
        (60, b"PXEClient:Arch:00000:UNDI:002001"),
        (77, b"iPXE"),
        (55, &[1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 175, 203]),
        (175, &[0xb1, 5, 1, 0x10, 0x50, 0x10, 0, 0x18, 1, 1, 0x23, 1, 1]),
        (61, &mac_id),
        (97, &uuid),
    ];
    let dhclient: Vec<(u8, &[u8])> =
        vec![(12, b"freebsd"), (61, &mac_id), (55, &[1, 28, 2, 121, 3, 15, 6, 12, 119])];
    let duid = [&[255, 0, 0, 0, 1, 0, 3, 0, 1], &ALICE[..]].concat();
    let dhcpcd: Vec<(u8, &[u8])> =
        vec![(61, &duid), (57, &[5, 220]), (60, b"dhcpcd-10.0.6"), (145, &[1]), (80, &[])];
    let udhcpc: Vec<(u8, &[u8])> = vec![(61, &mac_id), (57, &[2, 64]), (60, b"udhcp 1.37.0")];
    for (name, options) in
        [("iPXE", ipxe), ("dhclient", dhclient), ("dhcpcd", dhcpcd), ("udhcpc", udhcpc)]
    {
        // Padded as BOOTP wants it, with and without the broadcast flag.
        for flags in [0, 0x8000] {
            let mut message = message4(flags, ZERO4, &options4(DISCOVER, &options));
            message.resize(message.len().max(300), 0);
            let answer = ask(&broadcast4(&message)).unwrap();
            assert_eq!(answer[58..62], ALICE4.octets(), "{name}");
            assert_eq!(answer[..6] == BROADCAST, flags != 0, "{name}");
        }
    }
}
