//! DHCPv4, decoded by `dhcproto`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use vde_switch::fuzz::SEGMENT;
use vde_switch::serve::GuestConfig;
use vde_switch::station::Segment;
use vde_switch::time::Instant;
use vde_switch::verdict::DropReason;

use crate::asks::*;
use crate::frames::*;

/// An answer to Alice: its MAC address, its IP address, its message.
fn told(frame: &[u8]) -> (Mac, Ipv4Addr, Message) {
    let (src, IpAddr::V4(dst), ports, payload) = crate::udp_answer(frame) else { panic!("IPv6") };
    assert_eq!((src, ports), (SERVICE4.into(), (67, 68)));
    assert!(payload.len() >= 300 && payload.ends_with(&[0]) || payload.ends_with(&[255]));
    let message = Message::decode(&mut Decoder::new(&payload)).unwrap();
    assert_eq!((message.xid(), message.chaddr()), (0xdead_beef, &ALICE[..]));
    assert!(!message.opts().contains(OptionCode::Router), "a default route");
    (frame[..6].try_into().unwrap(), dst, message)
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

/// A request and what it is answered with.
fn request(message: &[u8]) -> (Mac, Ipv4Addr, Message) {
    told(&ask(&broadcast4(message)).unwrap())
}

#[test]
fn a_guest_is_offered_and_given_its_address_with_all_that_the_order_says() {
    let (mac, dst, offer) = told(&ask(&dhcp4(DISCOVER, &[])).unwrap());
    assert_eq!(
        (mac, dst, offer.yiaddr(), kind(&offer)),
        (ALICE, ALICE4, ALICE4, MessageType::Offer)
    );
    let chosen: [(u8, &[u8]); 2] = [(50, &[10, 77, 0, 10]), (54, &[10, 77, 0, 1])];
    let (_, _, ack) = told(&ask(&dhcp4(REQUEST, &chosen)).unwrap());
    assert_eq!((ack.yiaddr(), kind(&ack)), (ALICE4, MessageType::Ack));
    for message in [offer, ack] {
        let route = ("192.168.9.0/24".parse().unwrap(), GATEWAY4);
        for expected in [
            DhcpOption::SubnetMask([255, 255, 255, 0].into()),
            DhcpOption::BroadcastAddr(DIRECTED4),
            DhcpOption::InterfaceMtu(1500),
            DhcpOption::DomainNameServer(vec![GATEWAY4]),
            DhcpOption::Hostname("g1".to_owned()),
            DhcpOption::DomainName("farm.internal".to_owned()),
            DhcpOption::ServerIdentifier(SERVICE4),
            DhcpOption::AddressLeaseTime(3600),
            DhcpOption::Renewal(1800),
            DhcpOption::Rebinding(3150),
            DhcpOption::ClasslessStaticRoute(vec![route]),
        ] {
            assert_eq!(message.opts().get(OptionCode::from(&expected)), Some(&expected));
        }
        let Some(DhcpOption::Unknown(microsoft)) = message.opts().get(OptionCode::from(249)) else {
            panic!("no routes for Windows")
        };
        assert_eq!(microsoft.data(), [24, 192, 168, 9, 10, 77, 0, 2]);
        assert_eq!((message.giaddr(), message.siaddr()), (ZERO4, ZERO4));
    }
}

#[test]
fn what_the_order_does_not_say_is_not_told() {
    let mut switch = switch();
    switch.serve(GUEST, GuestConfig::default()).unwrap();
    switch.set_segment(Segment { mtu: 9000, ..SEGMENT });
    let (_, _, offer) = told(&ask_at(&mut switch, &dhcp4(DISCOVER, &[]), Instant::ZERO).unwrap());
    for code in [3, 6, 12, 15, 33, 121, 249] {
        assert!(!offer.opts().contains(OptionCode::from(code)), "{code}");
    }
    let mtu = offer.opts().get(OptionCode::InterfaceMtu);
    assert_eq!(mtu, Some(&DhcpOption::InterfaceMtu(9000)));
}

#[test]
fn each_way_to_ask_for_an_address_is_answered_where_the_client_hears_it() {
    let options = |others: &[(u8, &[u8])]| options4(REQUEST, others);
    let own: (u8, &[u8]) = (50, &[10, 77, 0, 10]);
    let foreign: (u8, &[u8]) = (50, &[192, 168, 1, 7]);
    let server: (u8, &[u8]) = (54, &[10, 77, 0, 1]);
    let all = (BROADCAST, Ipv4Addr::BROADCAST);
    // Rebooted: it remembers; the broadcast flag is honoured.
    for (flags, heard) in [(0, (ALICE, ALICE4)), (0x8000, all), (0x7fff, (ALICE, ALICE4))] {
        let (mac, dst, ack) = request(&message4(flags, ZERO4, &options(&[own])));
        assert_eq!(((mac, dst), kind(&ack)), (heard, MessageType::Ack));
        assert_eq!(u16::from(ack.flags()), flags & 0x8000);
    }
    // A foreign address, remembered or chosen, is refused for all to hear.
    for others in [&[foreign][..], &[foreign, server]] {
        let (mac, dst, nak) = request(&message4(0, ZERO4, &options(others)));
        assert_eq!(((mac, dst), kind(&nak)), (all, MessageType::Nak));
        assert_eq!((nak.yiaddr(), nak.ciaddr()), (ZERO4, ZERO4));
        let codes: Vec<_> = nak.opts().iter().map(|(code, _)| u8::from(*code)).collect();
        assert!(codes.iter().all(|code| [53, 54, 255].contains(code)), "{codes:?}");
    }
    // Renewing by unicast, rebinding by broadcast.
    let renewal = message4(0, ALICE4, &options(&[]));
    let rebinding = {
        let packet = packet4(ALICE4, Ipv4Addr::BROADCAST, UDP, 0, &udp(68, 67, &renewal));
        ethernet(BROADCAST, ALICE, 0x0800, &packet)
    };
    for frame in [unicast4(&renewal), rebinding] {
        let (mac, dst, ack) = told(&ask(&frame).unwrap());
        assert_eq!((mac, dst, kind(&ack)), (ALICE, ALICE4, MessageType::Ack));
        assert_eq!((ack.ciaddr(), ack.yiaddr()), (ALICE4, ALICE4));
    }
    let (mac, _, nak) = request(&message4(0, BOB4, &options(&[])));
    assert_eq!((mac, kind(&nak)), (BROADCAST, MessageType::Nak));
    // Who has an address by hand asks for the rest, and is given no lease.
    for ciaddr in [ALICE4, ZERO4] {
        let inform = message4(0, ciaddr, &options4(INFORM, &[]));
        let (mac, dst, ack) = told(&ask(&unicast4(&inform)).unwrap());
        assert_eq!((mac, dst, ack.yiaddr()), (ALICE, ALICE4, ZERO4));
        assert!(!ack.opts().contains(OptionCode::AddressLeaseTime));
        assert!(ack.opts().contains(OptionCode::InterfaceMtu));
    }
}

#[test]
fn a_client_identifier_of_any_length_is_given_back_and_room_is_kept_for_it() {
    let long = [7; 255];
    let (_, _, offer) = told(&ask(&dhcp4(DISCOVER, &[(61, &long), (12, &[b'h'; 255])])).unwrap());
    let client = offer.opts().get(OptionCode::ClientIdentifier);
    assert_eq!(client, Some(&DhcpOption::ClientIdentifier(long.to_vec())));
    let lease = offer.opts().get(OptionCode::AddressLeaseTime);
    assert_eq!(lease, Some(&DhcpOption::AddressLeaseTime(3600)));

    // A client takes 576 bytes unless it says more; what has no room is left out, not cut.
    let mut switch = switch();
    let routes = vec![([192, 168, 9, 0].into(), 24, GATEWAY4); 8];
    let domain = "a".repeat(63) + "." + &"b".repeat(63);
    let hostname = "h".repeat(63);
    let full = GuestConfig { hostname, domain, dns: vec![GATEWAY4.into(); 4], routes };
    switch.serve(GUEST, full).unwrap();
    for (size, len_max, count) in
        [(0_u16, 576, 1), (576, 576, 1), (1280, 1280, 6), (u16::MAX, 1280, 6)]
    {
        let question = dhcp4(DISCOVER, &[(61, &long), (57, &size.to_be_bytes())]);
        let frame = ask_at(&mut switch, &question, Instant::ZERO).unwrap();
        let (_, _, offer) = told(&frame);
        assert!(frame.len() <= 14 + len_max, "{}", frame.len());
        let optional = [6, 12, 15, 26, 121, 249].map(OptionCode::from);
        let found = optional.iter().filter(|code| offer.opts().contains(**code)).count();
        assert!(found >= count, "{size}: {found}");
        assert!(offer.opts().contains(OptionCode::ServerIdentifier));
    }
}

#[test]
fn the_services_address_is_found_by_arp_at_the_guests_port() {
    let mut switch = switch();
    let answer = ask(&arp(ALICE, BROADCAST, 1, ALICE4, SERVICE4)).unwrap();
    assert_eq!((&answer[22..28], &answer[28..32]), (&SERVICE[..], &SERVICE4.octets()[..]));
    // Nobody else sees them: not a guest that is not served, not a member.
    let question = dhcp4(DISCOVER, &[]);
    for (port, mac) in [(OTHER, BOB), (UPLINK, GATEWAY)] {
        let mut frame = question.clone();
        frame[6..12].copy_from_slice(&mac);
        let mut frame = vde_switch::frame::Frame { hdr: Default::default(), bytes: &frame };
        let verdict = switch.forward(port, &mut frame, Instant::ZERO);
        assert_eq!(verdict, vde_switch::verdict::Verdict::Drop(DropReason::DhcpClient));
    }
    let counters = switch.port_counters(GUEST).unwrap();
    assert_eq!((counters.dhcp4_leases, counters.frames_in), (0, 0));
}

#[test]
fn leases_are_counted_and_questions_limited() {
    let mut switch = switch();
    let request = dhcp4(REQUEST, &[(50, &[10, 77, 0, 10])]);
    let asked = (0..100).filter(|_| ask_at(&mut switch, &request, Instant::ZERO).is_ok()).count();
    assert_eq!(asked, 10);
    assert_eq!(ask_at(&mut switch, &request, Instant::ZERO), Err(DropReason::Dhcp4Rate));
    assert_eq!(switch.port_counters(GUEST).unwrap().dhcp4_leases, 10);
    let later = Instant::ZERO + Duration::from_millis(200);
    assert!(ask_at(&mut switch, &request, later).is_ok());
    let nak = dhcp4(REQUEST, &[(50, &[10, 77, 0, 11])]);
    assert!(ask_at(&mut switch, &nak, later + Duration::from_secs(1)).is_ok());
    assert_eq!(switch.port_counters(GUEST).unwrap().dhcp4_leases, 11);
}
