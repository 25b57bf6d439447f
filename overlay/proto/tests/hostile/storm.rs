//! A member's storms, with no limit of its own: what of them is delivered, and what is handed on.

use std::time::Duration;

use vde_switch::flood::Budget;

use crate::frames::*;
use crate::net::{BOBS, GW, Net};
use crate::{As, send};

/// Frames of a storm, over a second.
const STORM: u32 = 20_000;
const PLAIN: [u8; 12] = [0; 12];

/// Returns how many of a second's frames a budget lets pass.
fn most(budget: Budget) -> usize {
    (budget.rate().burst + budget.rate().per_second) as usize
}

/// Storms for a second; returns how many frames the gateway's guest and Bob got.
fn storm(net: &mut Net, ways: &[(usize, As)], frame: &[u8]) -> (usize, usize) {
    let (mut at_gateway, mut at_bob) = (0, 0);
    for n in 0..STORM {
        let (to, how) = ways[n as usize % ways.len()];
        net.pass(Duration::from_secs(1) / STORM);
        send(net, to, how, &PLAIN, frame, n as u16);
        at_gateway += net.heard(GW).len();
        at_bob += net.heard(BOBS).len();
    }
    (at_gateway, at_bob)
}

#[test]
fn a_storm_of_group_frames_is_limited_where_it_arrives_and_where_it_is_handed_on() {
    let broadcast = alice4(DIRECTED4, UDP, &udp(9, 9, b"storm"));
    let multicast = alice6(ALL_NODES, UDP, &udp(9, 9, b"storm"));
    let (direct, group) = ((BOBS, As::Frame), (GW, As::Group(0)));
    for frame in [&broadcast, &multicast] {
        for ways in [&[direct][..], &[group], &[(GW, As::Frame)], &[direct, group]] {
            let mut net = Net::new();
            let (at_gateway, at_bob) = storm(&mut net, ways, frame);
            let most = most(Budget::Group);
            assert!(at_gateway <= most && at_bob <= most, "{at_gateway}, {at_bob} by {ways:?}");
            assert!(at_gateway + at_bob >= most - 1, "{at_gateway}, {at_bob} by {ways:?}");
            let dropped = net.dropped(GW, "group-rate") + net.dropped(BOBS, "group-rate");
            assert!(dropped >= u64::from(STORM) / 2, "{dropped} dropped by their name");
            // What Bob says meanwhile is heard.
            let mut hello = alice4(DIRECTED4, UDP, &udp(9, 9, b"hello"));
            hello[6..12].copy_from_slice(&BOB);
            hello[26..30].copy_from_slice(&BOB4.octets());
            net.send(BOBS, &hello);
            assert_eq!(net.heard(GW).len(), 1, "Bob pays for the storm");
        }
    }
}

#[test]
fn a_storm_of_neighbour_discovery_is_limited_apart_from_the_rest() {
    let question = solicitation(ALICE_LINK, "fe80::99".parse().unwrap());
    let answer = advertisement(ALICE_LINK, BOB_LINK, ALICE_LINK);
    for frame in [&question, &answer] {
        let mut net = Net::new();
        let (_, at_bob) = storm(&mut net, &[(BOBS, As::Frame)], frame);
        let most = most(Budget::Nd);
        assert!((most - 1..=most).contains(&at_bob), "{at_bob} of at most {most}");
        assert!(net.dropped(BOBS, "nd-rate") >= u64::from(STORM) - most as u64);
        let beacon = alice4(DIRECTED4, UDP, &udp(9, 9, b"x"));
        send(&mut net, BOBS, As::Frame, &PLAIN, &beacon, 0);
        assert_eq!(net.heard(BOBS).len(), 1, "broadcast has a budget of its own");
    }
}

#[test]
fn a_storm_of_questions_to_the_network_gets_no_further_than_a_members_uplink() {
    let discover = packet4(ZERO4, [255; 4].into(), UDP, 0, &udp(68, 67, &[1; 240]));
    let agents = "ff02::1:2".parse().unwrap();
    for (name, frame) in [
        ("neighbour-on-uplink", arp(ALICE, BROADCAST, 1, ALICE4, BOB4)),
        ("neighbour-on-uplink", solicitation(ALICE6, BOB6)),
        ("dhcp-client", ethernet(BROADCAST, ALICE, 0x0800, &discover)),
        ("dhcp-client", alice6_from(ALICE_LINK, agents, UDP, &udp(546, 547, &[1; 20]))),
        ("router-solicitation", alice6_from(ALICE_LINK, ALL_ROUTERS, ICMPV6, &icmp(133, 0, &[]))),
    ] {
        let mut net = Net::new();
        let ways = [(GW, As::Frame), (GW, As::Group(0)), (BOBS, As::Frame)];
        assert_eq!(storm(&mut net, &ways, &frame), (0, 0), "{name}");
        let dropped = net.dropped(GW, name) + net.dropped(BOBS, name);
        assert_eq!(dropped, STORM.into(), "{name}");
    }
}
