//! Router advertisements, and the services' IPv6 addresses.

use std::net::Ipv6Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vde_switch::frame::Frame;
use vde_switch::serve::GuestConfig;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, Verdict};

use crate::asks::*;
use crate::frames::*;

/// Destination and message of an advertisement whose sum is right.
fn advert(frame: &[u8]) -> (Mac, Ipv6Addr, Vec<u8>) {
    assert_eq!(frame[6..12], SERVICE);
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
    let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
    assert_eq!((src, ip.header().hop_limit()), (SERVICE_LINK, 255));
    let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
    (frame[..6].try_into().unwrap(), dst, icmp.slice().to_vec())
}

#[test]
fn a_solicitation_is_told_that_there_is_no_router_and_to_ask_dhcp() {
    for (src, heard) in [
        (ALICE_LINK, (ALICE, ALICE_LINK)),
        (ALICE6, (ALICE, ALICE6)),
        (ZERO6, (group6(ALL_NODES), ALL_NODES)),
    ] {
        let (mac, dst, message) = advert(&ask(&router_solicitation(src)).unwrap());
        assert_eq!((mac, dst), heard);
        assert_eq!((message[0], message[1], message[5]), (134, 0, 0xc0));
        assert_eq!(message[6..8], [0, 0], "the lifetime of a router");
        let (mut options, mut found) = (&message[16..], Vec::new());
        while !options.is_empty() {
            let (option, rest) = options.split_at(usize::from(options[1]) * 8);
            found.push(option.to_vec());
            options = rest;
        }
        let [link, mtu, prefix, dns] = &found[..] else { panic!("{found:?}") };
        assert_eq!(link[..], [&[1, 1], &SERVICE[..]].concat());
        assert_eq!(mtu[..], [5, 1, 0, 0, 0, 0, 5, 220]);
        assert_eq!(prefix[..4], [3, 4, 64, 0x80], "on the link, and not to make addresses from");
        assert_eq!(prefix[16..], "fd3a::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!((dns[0], &dns[8..]), (25, &GATEWAY6.octets()[..]));
    }
    let mut switch = switch();
    switch.serve(GUEST, GuestConfig::default()).unwrap();
    let question = router_solicitation(ALICE_LINK);
    let (_, _, message) = advert(&ask_at(&mut switch, &question, Instant::ZERO).unwrap());
    assert_eq!(message.len(), 16 + 8 + 8 + 32, "no DNS servers");
    assert_eq!(switch.port_counters(GUEST).unwrap().router_adverts, 1);
}

#[test]
fn the_services_addresses_are_found_at_the_guests_port_and_are_nobodys() {
    let mut switch = switch();
    for target in [SERVICE6, SERVICE_LINK] {
        for src in [ALICE6, ALICE_LINK, ZERO6] {
            let answer = ask_at(&mut switch, &solicitation(src, target), Instant::ZERO).unwrap();
            assert_eq!((&answer[62..78], &answer[80..86]), (&target.octets()[..], &SERVICE[..]));
        }
    }
    // Who claims to be them is refused, wherever he is.
    let speech = alice6_from(SERVICE_LINK, ALL_NODES, UDP, &udp(1, 2, b"x"));
    assert_eq!(ask_at(&mut switch, &speech, Instant::ZERO), Err(DropReason::LinkLocalTaken));
    for (port, mac) in [(OTHER, BOB), (UPLINK, GATEWAY)] {
        let mut speech = speech.clone();
        speech[6..12].copy_from_slice(&mac);
        let mut frame = Frame { hdr: Default::default(), bytes: &speech };
        let verdict = switch.forward(port, &mut frame, Instant::ZERO);
        assert_eq!(verdict, Verdict::Drop(DropReason::LinkLocalTaken));
    }
}

#[test]
fn a_solicitation_elsewhere_is_answered_by_nobody() {
    let mut switch = switch();
    for (port, mac) in [(OTHER, BOB), (UPLINK, GATEWAY)] {
        let mut frame = router_solicitation(ZERO6);
        frame[6..12].copy_from_slice(&mac);
        let mut frame = Frame { hdr: Default::default(), bytes: &frame };
        let verdict = switch.forward(port, &mut frame, Instant::ZERO);
        assert_eq!(verdict, Verdict::Drop(DropReason::RouterSolicitation));
    }
}
