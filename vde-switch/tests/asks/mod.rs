//! Questions to a segment's services, byte by byte, and a switch whose guest asks them.

#![allow(dead_code, unreachable_pub, reason = "shared, and each test uses some")]

use std::net::{Ipv4Addr, Ipv6Addr};

use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
use vde_switch::serve::GuestConfig;
use vde_switch::station::Station;
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, Verdict};
use vde_switch::vnet::VnetHdr;

use crate::frames::*;

pub const SERVICE: Mac = [2, b'o', b'v', b'l', 0, 1];
pub const SERVICE4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 1);
pub const SERVICE_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f, 0x76ff, 0xfe6c, 1);
pub const AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

pub const GUEST: PortId = PortId(0);
pub const OTHER: PortId = PortId(1);
pub const UPLINK: PortId = PortId(2);

pub const DISCOVER: u8 = 1;
pub const REQUEST: u8 = 3;
pub const RELEASE: u8 = 7;
pub const INFORM: u8 = 8;

pub fn guest() -> GuestConfig {
    GuestConfig {
        hostname: "g1".to_owned(),
        domain: "farm.internal".to_owned(),
        dns: vec![GATEWAY4.into(), GATEWAY6.into()],
        routes: vec![(Ipv4Addr::new(192, 168, 9, 0), 24, GATEWAY4)],
    }
}

/// Alice is a served guest, Bob one who is not, and the gateway is behind an uplink.
pub fn switch() -> Switch {
    let mut switch = Switch::new(SEGMENT);
    let bob = Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 };
    let gateway = Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 };
    for (id, kind, station) in [
        (GUEST, PortKind::Attachment, STATION),
        (OTHER, PortKind::Attachment, bob),
        (UPLINK, PortKind::Uplink, gateway),
    ] {
        let (stations, learning, hands_on) = (vec![station], Learning::Off, HandsOn::No);
        switch.set_port(id, PortConfig { kind, stations, learning, hands_on }).unwrap();
    }
    switch.serve(GUEST, guest()).unwrap();
    switch
}

/// Shows the switch a frame of Alice's; returns what she is answered.
pub fn ask_at(switch: &mut Switch, bytes: &[u8], now: Instant) -> Result<Vec<u8>, DropReason> {
    let mut frame = Frame { hdr: VnetHdr::default(), bytes };
    match switch.forward(GUEST, &mut frame, now) {
        Verdict::Answer => Ok(switch.answer().to_vec()),
        Verdict::Drop(reason) => Err(reason),
        Verdict::Forward(_) | Verdict::Flood(_) => panic!("a question left its port: {bytes:02x?}"),
    }
}

/// Asks a fresh switch.
pub fn ask(bytes: &[u8]) -> Result<Vec<u8>, DropReason> {
    ask_at(&mut switch(), bytes, Instant::ZERO)
}

/// A DHCPv4 message of Alice's: options behind the cookie, as they are.
pub fn message4(flags: u16, ciaddr: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 3];
    message.extend(flags.to_be_bytes());
    message.extend(ciaddr.octets());
    message.extend([0; 12]);
    message.extend(ALICE);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63]);
    message.extend(options);
    message
}

/// Options: message type, the others, the end.
pub fn options4(kind: u8, others: &[(u8, &[u8])]) -> Vec<u8> {
    let mut options = vec![53, 1, kind];
    for (code, value) in others {
        options.extend([*code, value.len() as u8]);
        options.extend(*value);
    }
    options.push(255);
    options
}

/// What a client sends that has no address yet.
pub fn broadcast4(message: &[u8]) -> Vec<u8> {
    let packet = packet4(ZERO4, Ipv4Addr::BROADCAST, UDP, 0, &udp(68, 67, message));
    ethernet(BROADCAST, ALICE, 0x0800, &packet)
}

/// What a client sends that has one.
pub fn unicast4(message: &[u8]) -> Vec<u8> {
    let packet = packet4(ALICE4, SERVICE4, UDP, 0, &udp(68, 67, message));
    ethernet(SERVICE, ALICE, 0x0800, &packet)
}

pub fn dhcp4(kind: u8, others: &[(u8, &[u8])]) -> Vec<u8> {
    broadcast4(&message4(0, ZERO4, &options4(kind, others)))
}

pub fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), &(value.len() as u16).to_be_bytes(), value].concat()
}

pub fn duid_of(mac: Mac) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac[..]].concat()
}

/// An association of addresses, with those that the client says it has.
pub fn ia_na(id: u32, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut value = id.to_be_bytes().to_vec();
    value.extend([0; 8]);
    for address in addresses {
        value.extend(option6(5, &[&address.octets()[..], &[0; 8]].concat()));
    }
    option6(3, &value)
}

/// A DHCPv6 message of Alice's: options as they are.
pub fn dhcp6(kind: u8, options: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0xab, 0xcd, 0xef], options].concat();
    alice6_from(ALICE_LINK, AGENTS, UDP, &udp(546, 547, &message))
}

/// The same with Alice's identifier in front.
pub fn client6(kind: u8, options: &[u8]) -> Vec<u8> {
    dhcp6(kind, &[&option6(1, &duid_of(ALICE))[..], options].concat())
}

/// The same with the server's, too.
pub fn to_server6(kind: u8, options: &[u8]) -> Vec<u8> {
    client6(kind, &[&option6(2, &duid_of(SERVICE))[..], options].concat())
}

pub fn router_solicitation(src: Ipv6Addr) -> Vec<u8> {
    let option = if src.is_unspecified() { Vec::new() } else { link_option(1, ALICE) };
    let message = [&[133, 0, 0, 0, 0, 0, 0, 0], &option[..]].concat();
    alice6_from(src, ALL_ROUTERS, ICMPV6, &message)
}
