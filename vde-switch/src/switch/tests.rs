use std::time::Duration;

use super::*;
use crate::flood::{ARP_RATE, GROUP_RATE as GROUPS, ND_RATE};
use crate::frames::{self, *};
use crate::fuzz::{SEGMENT, STATION};
use crate::link_local::eui64_mac;
use crate::station::Broadcast;
use crate::verdict::DropReason;
use crate::vnet::VnetHdr;

const GUEST: PortId = PortId(4);
const PEER: PortId = PortId(9);
const GW: PortId = PortId(0);
const LAN: PortId = PortId(30);
const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn bob() -> Station {
    Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 }
}

fn gateway() -> Station {
    Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 }
}

fn port(kind: PortKind, stations: &[Station]) -> PortConfig {
    let hands_on = HandsOn::No;
    PortConfig { kind, stations: stations.to_vec(), learning: Learning::Off, hands_on }
}

/// Alice is a guest here, Bob another member, and there is the gateway.
fn switch() -> Switch {
    let mut switch = Switch::new(SEGMENT);
    switch.set_port(GUEST, port(PortKind::Attachment, &[STATION])).unwrap();
    switch.set_port(PEER, port(PortKind::Uplink, &[bob()])).unwrap();
    let hands_on = HandsOn::Yes;
    let config = PortConfig { hands_on, ..port(PortKind::Uplink, &[gateway()]) };
    switch.set_port(GW, config).unwrap();
    switch
}

fn send(switch: &mut Switch, ingress: PortId, bytes: &[u8]) -> Verdict {
    switch.forward(ingress, &mut Frame { hdr: VnetHdr::default(), bytes }, NOW)
}

/// The same frame as if Bob had sent it: his MAC address wherever Alice's was.
fn as_bob(mut frame: Vec<u8>, ipv4: bool) -> Vec<u8> {
    frame[6..12].copy_from_slice(&BOB);
    let dst = if frame[0] & 1 == 0 { ALICE } else { BROADCAST };
    frame[..6].copy_from_slice(&dst);
    if ipv4 {
        frame[26..30].copy_from_slice(&BOB4.octets());
    }
    frame
}

fn chat() -> Vec<u8> {
    alice4(BOB4, TCP, &tcp(ACK, b"hello"))
}

fn beacon() -> Vec<u8> {
    alice4(DIRECTED4, UDP, &udp(5353, 5353, b"here"))
}

use DropReason as No;
use Verdict::{Drop, Flood, Forward};

#[test]
fn unicast_goes_where_the_roster_says_and_nowhere_else() {
    let mut switch = switch();
    assert_eq!(send(&mut switch, GUEST, &chat()), Forward(PEER));
    assert_eq!(send(&mut switch, PEER, &as_bob(chat(), true)), Forward(GUEST));
    assert_eq!(send(&mut switch, PEER, &chat()), Drop(No::ForeignMac));
    assert_eq!(send(&mut switch, PortId(77), &chat()), Drop(No::NoSuchPort));
    let mut frame = chat();
    frame[..6].copy_from_slice(&ALICE);
    assert_eq!(send(&mut switch, GUEST, &frame), Drop(No::Hairpin));
    frame[5] = 0x99;
    assert_eq!(send(&mut switch, GUEST, &frame), Drop(No::UnknownDestination));
}

#[test]
fn a_frame_from_one_uplink_never_leaves_by_another() {
    let mut switch = switch();
    let mut frame = as_bob(chat(), true);
    frame[..6].copy_from_slice(&GATEWAY);
    assert_eq!(send(&mut switch, PEER, &frame), Drop(No::NotForUs));
    assert_eq!(send(&mut switch, PEER, &as_bob(beacon(), true)), Flood(FloodTo::All));
    let out: Vec<_> = switch.flood_ports(PEER, FloodTo::All).collect();
    assert_eq!(out, [(GUEST, PortKind::Attachment)]);
    let out: Vec<_> = switch.flood_ports(GUEST, FloodTo::All).map(|(id, _)| id).collect();
    assert_eq!(out, [GW, PEER]);
    assert_eq!(switch.uplinks().collect::<Vec<_>>(), [GW, PEER]);
}

#[test]
fn the_gateway_hands_on_group_frames_only_and_only_honest_ones() {
    let mut switch = switch();
    let beacon_of_bob = as_bob(beacon(), true);
    assert_eq!(send(&mut switch, GW, &beacon_of_bob), Flood(FloodTo::All));
    assert_eq!(send(&mut switch, GW, &as_bob(chat(), true)), Drop(No::ForeignMac));
    assert_eq!(send(&mut switch, GW, &as_bob(beacon(), false)), Drop(No::ForeignIpv4));
    assert_eq!(send(&mut switch, GW, &beacon()), Drop(No::Reflected));
    let mut unknown = beacon_of_bob.clone();
    unknown[11] = 0x77;
    assert_eq!(send(&mut switch, GW, &unknown), Drop(No::ForeignMac));
    // An ordinary member does not hand on.
    let beacon_of_gateway = {
        let mut frame = beacon();
        frame[6..12].copy_from_slice(&GATEWAY);
        frame[26..30].copy_from_slice(&GATEWAY4.octets());
        frame
    };
    assert_eq!(send(&mut switch, GW, &beacon_of_gateway), Flood(FloodTo::All));
    assert_eq!(send(&mut switch, PEER, &beacon_of_gateway), Drop(No::ForeignMac));
}

#[test]
fn what_is_handed_on_counts_against_the_member_who_sent_it() {
    let mut switch = switch();
    let flooded = (0..300).filter(|n| {
        let ingress = if n % 2 == 0 { GW } else { PEER };
        send(&mut switch, ingress, &as_bob(beacon(), true)) == Flood(FloodTo::All)
    });
    assert_eq!(flooded.count(), GROUPS.burst as usize);
    assert_eq!(switch.counters().dropped(No::GroupRate), 200);
    assert_eq!(send(&mut switch, GUEST, &beacon()), Flood(FloodTo::All));
}

#[test]
fn a_super_frame_to_a_group_costs_what_it_stands_for() {
    let mut switch = switch();
    let bytes = alice4(DIRECTED4, UDP, &udp(1000, 2000, &[0; 40_000]));
    let hdr = VnetHdr::parse(&frames::vnet(1, 5, 42, 512, 34, 6)).unwrap();
    let mut frame = Frame { hdr, bytes: &bytes };
    assert_eq!(switch.forward(GUEST, &mut frame, NOW), Flood(FloodTo::All));
    assert_eq!(switch.forward(GUEST, &mut frame, NOW), Drop(No::GroupRate));
}

#[test]
fn bad_offloads_end_at_the_switch() {
    let mut switch = switch();
    let bytes = alice4(BOB4, TCP, &tcp(ACK, &[0; 4000]));
    let good = frames::vnet(1, 1, 54, 1448, 34, 16);
    for (header, verdict) in [
        (good, Forward(PEER)),
        (frames::vnet(1, 1, 54, 1448, 35, 16), Drop(No::BadOffload)),
        (frames::vnet(0, 1, 54, 1448, 0, 0), Drop(No::BadOffload)),
        (frames::vnet(0, 0, 0, 0, 0, 0), Drop(No::TooLong)),
    ] {
        let hdr = VnetHdr::parse(&header).unwrap();
        assert_eq!(switch.forward(GUEST, &mut Frame { hdr, bytes: &bytes }, NOW), verdict);
    }
}

#[test]
fn arp_is_answered_at_the_port_from_the_roster() {
    let mut switch = switch();
    let ask = |spa, tpa| arp(ALICE, BROADCAST, 1, spa, tpa);
    assert_eq!(send(&mut switch, GUEST, &ask(ALICE4, BOB4)), Verdict::Answer);
    let answer = switch.answer();
    assert_eq!(answer[..14], [&ALICE, &BOB, &[8, 6][..]].concat());
    assert_eq!(answer[20..32], [&[0, 2], &BOB[..], &BOB4.octets()].concat());
    assert!(matches!(send(&mut switch, GUEST, &padded(ask(ALICE4, GATEWAY4))), Verdict::Answer));
    // A probe finds that Bob has the address; nobody contests one's own.
    assert!(matches!(send(&mut switch, GUEST, &ask(ZERO4, BOB4)), Verdict::Answer));
    assert_eq!(send(&mut switch, GUEST, &ask(ZERO4, ALICE4)), Drop(No::OwnAddress));
    assert_eq!(send(&mut switch, GUEST, &ask(ALICE4, ALICE4)), Drop(No::OwnAddress));
    assert_eq!(send(&mut switch, GUEST, &ask(ALICE4, NOBODY4)), Drop(No::NoSuchStation));
    let reply = arp(ALICE, BOB, 2, ALICE4, BOB4);
    assert_eq!(send(&mut switch, GUEST, &reply), Drop(No::Unsolicited));
    let foreign = arp(BOB, BROADCAST, 1, BOB4, ALICE4);
    assert_eq!(send(&mut switch, PEER, &foreign), Drop(No::NeighbourOnUplink));
}

#[test]
fn solicitations_are_answered_at_the_port_from_the_roster() {
    let mut switch = switch();
    assert_eq!(send(&mut switch, GUEST, &solicitation(ALICE6, BOB6)), Verdict::Answer);
    let answer = switch.answer();
    assert_eq!(answer[62..78], BOB6.octets());
    assert_eq!(answer[80..86], BOB);
    assert!(matches!(send(&mut switch, GUEST, &solicitation(ZERO6, BOB6)), Verdict::Answer));
    assert_eq!(send(&mut switch, GUEST, &solicitation(ZERO6, ALICE6)), Drop(No::OwnAddress));
    assert_eq!(send(&mut switch, GUEST, &solicitation(ALICE6, NOBODY6)), Drop(No::NoSuchStation));
    let announcement = frames::advertisement(ALICE6, ALL_NODES, ALICE6);
    assert_eq!(send(&mut switch, GUEST, &announcement), Drop(No::Unsolicited));
}

#[test]
fn answers_are_limited() {
    let mut switch = switch();
    let ask = arp(ALICE, BROADCAST, 1, ALICE4, BOB4);
    let answered = (0..500).filter(|_| send(&mut switch, GUEST, &ask) != Drop(No::ArpRate));
    assert_eq!(answered.count(), ARP_RATE.burst as usize);
    let later = NOW + Duration::from_millis(20);
    let mut frame = Frame { hdr: VnetHdr::default(), bytes: &ask };
    assert!(matches!(switch.forward(GUEST, &mut frame, later), Verdict::Answer));
}

/// Bob's solicitation or advertisement, options included.
fn nd_of_bob(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[6..12].copy_from_slice(&BOB);
    if frame.len() == 86 {
        frame[80..86].copy_from_slice(&BOB);
    }
    frame
}

#[test]
fn link_local_addresses_belong_to_the_first_comer() {
    let mut switch = switch();
    // Alice finds her address free, and has it from then on.
    let probe = solicitation(ZERO6, ALICE_LINK);
    assert_eq!(send(&mut switch, GUEST, &probe), Flood(FloodTo::All));
    assert_eq!(send(&mut switch, GUEST, &probe), Drop(No::OwnAddress));
    let denial = nd_of_bob(&frames::advertisement(ALICE_LINK, ALL_NODES, ALICE_LINK));
    assert_eq!(send(&mut switch, PEER, &denial), Drop(No::LinkLocalTaken));
    let stolen = nd_of_bob(&alice6_from(ALICE_LINK, ALL_NODES, UDP, &udp(1, 2, b"x")));
    assert_eq!(send(&mut switch, PEER, &stolen), Drop(No::LinkLocalTaken));
    // Bob speaks from an address of his own; Alice's question for it is answered at once.
    let hello = nd_of_bob(&alice6_from(BOB_LINK, ALL_NODES, UDP, &udp(1, 2, b"x")));
    assert_eq!(send(&mut switch, PEER, &hello), Flood(FloodTo::All));
    let ask = solicitation(ALICE_LINK, BOB_LINK);
    assert!(matches!(send(&mut switch, GUEST, &ask), Verdict::Answer));
    // Bob's question for Alice's is hers to answer.
    let ask = nd_of_bob(&solicitation(BOB_LINK, ALICE_LINK));
    assert_eq!(send(&mut switch, PEER, &ask), Flood(FloodTo::All));
    let reply = frames::advertisement(ALICE_LINK, BOB_LINK, ALICE_LINK);
    assert_eq!(send(&mut switch, GUEST, &reply), Forward(PEER));
    // What is formed from a station's MAC address is nobody else's, spoken from or not.
    let formed = "fe80::ff:fe00:a".parse().unwrap();
    assert_eq!(eui64_mac(formed), Some(MacAddr(ALICE)));
    let squat = nd_of_bob(&alice6_from(formed, ALL_NODES, UDP, &udp(1, 2, b"x")));
    assert_eq!(send(&mut switch, PEER, &squat), Drop(No::LinkLocalTaken));
    switch.remove_port(GUEST);
    assert_eq!(send(&mut switch, PEER, &stolen), Flood(FloodTo::All));
}

#[test]
fn with_broadcast_off_neighbours_are_still_found() {
    let mut switch = switch();
    switch.set_segment(Segment { broadcast: Broadcast::Off, ..SEGMENT });
    assert_eq!(send(&mut switch, GUEST, &beacon()), Drop(No::BroadcastOff));
    assert_eq!(send(&mut switch, GUEST, &solicitation(ALICE_LINK, BOB_LINK)), Flood(FloodTo::All));
    assert_eq!(send(&mut switch, GUEST, &chat()), Forward(PEER));
    let ask = arp(ALICE, BROADCAST, 1, ALICE4, BOB4);
    assert!(matches!(send(&mut switch, GUEST, &ask), Verdict::Answer));
}

#[test]
fn a_bridged_lan_is_learned_but_takes_nobodys_place() {
    let mut switch = switch();
    let config = PortConfig { learning: Learning::On, ..port(PortKind::Attachment, &[]) };
    switch.set_port(LAN, config).unwrap();
    const PRINTER: frames::Mac = [0, 0x1b, 0x44, 1, 2, 3];
    let of_printer = |mut frame: Vec<u8>, ipv4: std::net::Ipv4Addr| {
        frame[..6].copy_from_slice(&ALICE);
        frame[6..12].copy_from_slice(&PRINTER);
        frame[26..30].copy_from_slice(&ipv4.octets());
        frame
    };
    // Not heard yet: whoever asks for it, asks the LAN, and the LAN alone.
    let ask = arp(ALICE, BROADCAST, 1, ALICE4, NOBODY4);
    assert_eq!(send(&mut switch, GUEST, &ask), Flood(FloodTo::Learning));
    let out: Vec<_> = switch.flood_ports(GUEST, FloodTo::Learning).collect();
    assert_eq!(out, [(LAN, PortKind::Attachment)]);
    let reply = arp(PRINTER, ALICE, 2, NOBODY4, ALICE4);
    assert_eq!(send(&mut switch, LAN, &reply), Forward(GUEST));
    let mut to_printer = chat();
    to_printer[..6].copy_from_slice(&PRINTER);
    assert_eq!(send(&mut switch, GUEST, &to_printer), Forward(LAN));
    // It may speak for itself only.
    assert_eq!(send(&mut switch, LAN, &of_printer(chat(), NOBODY4)), Forward(GUEST));
    assert_eq!(send(&mut switch, LAN, &of_printer(chat(), BOB4)), Drop(No::ForeignIpv4));
    assert_eq!(send(&mut switch, LAN, &as_bob(chat(), true)), Drop(No::ForeignMac));
    let mut as_service = of_printer(chat(), NOBODY4);
    as_service[6..12].copy_from_slice(&SERVICE_MAC.0);
    assert_eq!(send(&mut switch, LAN, &as_service), Drop(No::ForeignMac));
    // Nor from an address that is nobody's, nor by one.
    assert_eq!(send(&mut switch, LAN, &of_printer(chat(), DIRECTED4)), Drop(No::ForeignIpv4));
    let abroad = std::net::Ipv4Addr::new(8, 8, 8, 8);
    assert_eq!(send(&mut switch, LAN, &of_printer(chat(), abroad)), Drop(No::ForeignIpv4));
    let mut grouped = of_printer(chat(), NOBODY4);
    grouped[6] |= 1;
    assert_eq!(send(&mut switch, LAN, &grouped), Drop(No::ForeignMac));
    let strange6 = |src, rest: &[u8]| {
        let mut frame = alice6_from(src, ALICE6, ICMPV6, rest);
        frame[..6].copy_from_slice(&ALICE);
        frame[6..12].copy_from_slice(&PRINTER);
        frame
    };
    let ping = frames::icmp(128, 0, &[]);
    assert_eq!(send(&mut switch, LAN, &strange6(NOBODY6, &ping)), Forward(GUEST));
    assert_eq!(send(&mut switch, LAN, &strange6(BOB6, &ping)), Drop(No::ForeignIpv6));
    let claim = frames::nd(136, 0x60, BOB6, &frames::link_option(2, PRINTER));
    assert_eq!(send(&mut switch, LAN, &strange6(NOBODY6, &claim)), Drop(No::SpoofedNd));
    let spoofed = arp(PRINTER, ALICE, 2, BOB4, ALICE4);
    assert_eq!(send(&mut switch, LAN, &spoofed), Drop(No::SpoofedArp));
    // Aged or unplugged, it is a stranger again.
    switch.remove_port(LAN);
    assert_eq!(send(&mut switch, GUEST, &to_printer), Drop(No::UnknownDestination));
}

#[test]
fn what_is_asked_of_a_bridged_lan_and_answered_there_is_limited() {
    let mut switch = switch();
    let config = PortConfig { learning: Learning::On, ..port(PortKind::Attachment, &[]) };
    switch.set_port(LAN, config).unwrap();
    let mut passed = |ingress, bytes: &[u8]| {
        let verdicts = (0..500).map(|_| send(&mut switch, ingress, bytes));
        verdicts.filter(|verdict| !matches!(verdict, Drop(_))).count() as u32
    };
    let printer = [0, 0x1b, 0x44, 1, 2, 3];
    let mut claim = frames::advertisement(NOBODY6, ALICE6, NOBODY6);
    claim[..6].copy_from_slice(&ALICE);
    claim[6..12].copy_from_slice(&printer);
    claim[80..86].copy_from_slice(&printer);
    assert_eq!(passed(GUEST, &arp(ALICE, BROADCAST, 1, ALICE4, NOBODY4)), ARP_RATE.burst);
    assert_eq!(passed(LAN, &arp(printer, ALICE, 2, NOBODY4, ALICE4)), ARP_RATE.burst);
    assert_eq!(passed(GUEST, &solicitation(ALICE6, NOBODY6)), ND_RATE.burst);
    assert_eq!(passed(LAN, &claim), ND_RATE.burst);
    let mut to_unknown = chat();
    to_unknown[5] = 0x99;
    assert_eq!(passed(GUEST, &to_unknown), GROUPS.burst);
}

#[test]
fn a_port_is_served_once_its_guest_is_known_and_as_long_as_it_is_plugged_in() {
    let mut switch = switch();
    let ask = arp(ALICE, BROADCAST, 1, ALICE4, std::net::Ipv4Addr::new(10, 77, 0, 1));
    assert_eq!(send(&mut switch, GUEST, &ask), Drop(No::NoSuchStation));
    assert_eq!(switch.serve(PEER, GuestConfig::default()), Err(GuestError::NoGuest));
    assert_eq!(switch.serve(PortId(77), GuestConfig::default()), Err(GuestError::NoGuest));
    switch.serve(GUEST, GuestConfig::default()).unwrap();
    assert_eq!(send(&mut switch, GUEST, &ask), Verdict::Answer);
    assert_eq!(switch.answer()[6..12], SERVICE_MAC.0);
    switch.set_port(GUEST, port(PortKind::Attachment, &[STATION])).unwrap();
    assert_eq!(send(&mut switch, GUEST, &ask), Verdict::Answer);
    switch.remove_port(GUEST);
    switch.set_port(GUEST, port(PortKind::Attachment, &[STATION])).unwrap();
    assert_eq!(send(&mut switch, GUEST, &ask), Drop(No::NoSuchStation));
}

#[test]
fn a_network_behind_a_station_is_reached_over_it_alone() {
    let mut switch = switch();
    let behind = std::net::Ipv4Addr::new(192, 168, 9, 7);
    let to = |mac: frames::Mac, dst| {
        ethernet(mac, ALICE, 0x0800, &packet4(ALICE4, dst, TCP, 0, &tcp(ACK, b"x")))
    };
    let from = |mac: frames::Mac, src| {
        ethernet(ALICE, mac, 0x0800, &packet4(src, ALICE4, TCP, 0, &tcp(ACK, b"x")))
    };
    assert_eq!(send(&mut switch, GUEST, &to(GATEWAY, behind)), Drop(No::OutsideSegment));
    assert_eq!(send(&mut switch, GW, &from(GATEWAY, behind)), Drop(No::ForeignIpv4));
    switch.set_routes(&[([192, 168, 9, 0].into(), 24, GATEWAY4)]);
    assert_eq!(send(&mut switch, GUEST, &to(GATEWAY, behind)), Forward(GW));
    assert_eq!(send(&mut switch, GUEST, &to(BOB, behind)), Drop(No::MacMismatch));
    assert_eq!(send(&mut switch, GW, &from(GATEWAY, behind)), Forward(GUEST));
    assert_eq!(send(&mut switch, PEER, &from(BOB, behind)), Drop(No::ForeignIpv4));
    let next = std::net::Ipv4Addr::new(192, 168, 10, 7);
    assert_eq!(send(&mut switch, GUEST, &to(GATEWAY, next)), Drop(No::OutsideSegment));
    assert_eq!(send(&mut switch, GW, &from(GATEWAY, next)), Drop(No::ForeignIpv4));
    // Nobody routes to himself, and a longer prefix goes before.
    switch.set_routes(&[
        ([192, 168, 0, 0].into(), 16, GATEWAY4),
        ([192, 168, 9, 0].into(), 24, BOB4),
        ([172, 16, 0, 0].into(), 12, ALICE4),
    ]);
    assert_eq!(send(&mut switch, GUEST, &to(BOB, behind)), Forward(PEER));
    assert_eq!(send(&mut switch, GUEST, &to(GATEWAY, behind)), Drop(No::MacMismatch));
    assert_eq!(send(&mut switch, GW, &from(GATEWAY, behind)), Drop(No::ForeignIpv4));
    assert_eq!(send(&mut switch, GW, &from(GATEWAY, next)), Forward(GUEST));
    assert_eq!(send(&mut switch, GUEST, &to(ALICE, [172, 16, 0, 1].into())), Drop(No::Hairpin));
    // A port that is plugged in later knows them, too.
    switch.set_port(GUEST, port(PortKind::Attachment, &[STATION])).unwrap();
    assert_eq!(send(&mut switch, GUEST, &to(BOB, behind)), Forward(PEER));
    switch.set_routes(&[]);
    assert_eq!(send(&mut switch, GUEST, &to(BOB, behind)), Drop(No::OutsideSegment));
}

#[test]
fn ports_with_conflicts_are_refused_and_change_nothing() {
    let mut switch = switch();
    let before = format!("{:?}", switch.stations(GUEST));
    let mut refuse = |id, stations: &[Station], error| {
        let result = switch.set_port(id, port(PortKind::Uplink, stations));
        assert_eq!(result, Err(error));
    };
    let other = Station { mac: MacAddr([2; 6]), ipv4: NOBODY4, ipv6: NOBODY6 };
    refuse(PortId(1024), &[], PortError::Number(PortId(1024)));
    refuse(PortId(1), &[STATION], PortError::MacTaken(STATION.mac, GUEST));
    refuse(PortId(1), &[other, other], PortError::MacTaken(other.mac, PortId(1)));
    let group = Station { mac: MacAddr::BROADCAST, ..other };
    refuse(GUEST, &[group], PortError::NotAStation(MacAddr::BROADCAST));
    let service = Station { mac: SERVICE_MAC, ..other };
    refuse(GUEST, &[service], PortError::NotAStation(SERVICE_MAC));
    let same4 = Station { ipv4: BOB4, ..other };
    refuse(GUEST, &[same4], PortError::AddressTaken(BOB4.into(), PEER));
    let same6 = Station { ipv6: BOB6, ..other };
    refuse(GUEST, &[same6], PortError::AddressTaken(BOB6.into(), PEER));
    refuse(GUEST, &[other; STATIONS_MAX + 1], PortError::Stations(STATIONS_MAX + 1));
    let learning = PortConfig { learning: Learning::On, ..port(PortKind::Uplink, &[bob()]) };
    assert_eq!(switch.set_port(PEER, learning), Err(PortError::LearningUplink));
    assert_eq!(format!("{:?}", switch.stations(GUEST)), before);
    assert_eq!(send(&mut switch, GUEST, &chat()), Forward(PEER));
}

#[test]
fn a_port_that_is_set_again_keeps_its_counters_limits_and_claims() {
    let mut switch = switch();
    let spent = (0..500).filter(|_| send(&mut switch, GUEST, &beacon()) == Flood(FloodTo::All));
    assert_eq!(spent.count(), GROUPS.burst as usize);
    let hello = alice6_from(ALICE_LINK, BOB6, UDP, &udp(1, 2, b"x"));
    assert_eq!(send(&mut switch, GUEST, &hello), Forward(PEER));
    let before = switch.port_counters(GUEST);
    switch.set_port(GUEST, port(PortKind::Attachment, &[STATION])).unwrap();
    assert_eq!(switch.port_counters(GUEST), before);
    assert_eq!(send(&mut switch, GUEST, &beacon()), Drop(No::GroupRate));
    let stolen = nd_of_bob(&alice6_from(ALICE_LINK, ALL_NODES, UDP, &udp(1, 2, b"x")));
    assert_eq!(send(&mut switch, PEER, &stolen), Drop(No::LinkLocalTaken));
    switch.remove_port(GUEST);
    assert_eq!(send(&mut switch, GUEST, &chat()), Drop(No::NoSuchPort));
}
