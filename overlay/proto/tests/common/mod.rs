//! Documents with fixed seeds that several tests look at.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod book;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use overlay_proto::addressing::{self, Subnet};
use overlay_proto::control::Slot;
use overlay_proto::envelope::Signed;
use overlay_proto::grant::{Grant, Limits, Suite};
use overlay_proto::identity::NodeKey;
use overlay_proto::names::Name;
use overlay_proto::order::{Config, Order};
use overlay_proto::roster::{Roster, RosterEntry};
use overlay_proto::ticket::{DialAddr, Ticket, TicketBody, TicketSecret};
use vde_switch::station::{Broadcast, Segment, Station};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn buyer() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

pub(crate) fn seller(number: u8) -> NodeKey {
    NodeKey::from_seed(&[0x50 + number; 32])
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn order() -> Order {
    Order { buyer: buyer().id(), nonce: [2; 16] }
}

pub(crate) fn subnet() -> Subnet {
    Subnet::new(Ipv4Addr::new(10, 77, 0, 0), 24).unwrap()
}

pub(crate) fn station(slot: u16) -> Station {
    let id = order().id();
    addressing::station(id, subnet(), addressing::prefix_v6(id), Slot(slot)).unwrap()
}

pub(crate) fn config() -> Config {
    Config {
        order: order().id(),
        version: 1,
        name: name("farm"),
        segment: Segment {
            ipv4: (subnet().network(), 24),
            ipv6: (addressing::prefix_v6(order().id()), 64),
            mtu: 1500,
            broadcast: Broadcast::On,
        },
        gateway_key: [3; 32],
        buyer_station: station(0),
        relays: vec!["relay.example:443".parse().unwrap()],
        life_s: 900,
        dns: vec![IpAddr::V4(station(0).ipv4), IpAddr::V6(station(0).ipv6)],
        routes: vec![(Ipv4Addr::new(192, 168, 9, 0), 24, station(0).ipv4)],
    }
}

pub(crate) fn ticket_body() -> TicketBody {
    TicketBody {
        nonce: [2; 16],
        order_name: name("farm"),
        slot: Slot(1),
        guest: name("g1"),
        addresses: vec![
            "44.128.1.2:7770".parse().unwrap(),
            "[2a00:1450::7]:7770".parse().unwrap(),
            DialAddr::Name("gw.example".to_owned(), 7770),
        ],
        relays: Vec::new(),
        secret: TicketSecret([4; 16]),
        expires_at: NOW,
    }
}

pub(crate) fn ticket() -> Ticket {
    Ticket::seal(&buyer(), ticket_body()).unwrap()
}

pub(crate) fn grant(slot: u16) -> Grant {
    let number = u8::try_from(slot).unwrap();
    Grant {
        order: order().id(),
        seller: seller(number).id(),
        data_key: [0xa0 + number; 32],
        slot: Slot(slot),
        name: Name::of_guest(Slot(slot)),
        station: station(slot),
        limits: Limits { bytes_per_s: 125_000_000, frames_per_s: 0 },
        engines: vec![Suite::WIREGUARD],
        serial: 1 << 32,
        epoch: 0,
        life_s: 900,
        nonce: [6; 16],
    }
}

pub(crate) fn entry(slot: u16) -> RosterEntry {
    RosterEntry {
        grant: Signed::seal(&buyer(), grant(slot)).bytes().to_vec(),
        candidates: vec![SocketAddr::from(([44, 128, 2, slot as u8], 7770))],
        only_buyer: false,
    }
}

pub(crate) fn roster() -> Roster {
    Roster {
        order: order().id(),
        config_version: 1,
        version: 5,
        base: None,
        entries: vec![entry(1), entry(2)],
        removed: Vec::new(),
    }
}
