//! The port policy against the attack catalogue, and against an oracle that was written apart.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::parse::Parsed;
use vde_switch::policy::Policy;
use vde_switch::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
use vde_switch::station::Station;
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, Verdict};
use vde_switch::vnet::VnetHdr;

mod frames;
mod oracle;
mod rows;

use frames::*;
use rows::{Row, hostile, hostile_headers, legal};

/// At a guest's port one station may speak, behind a member's key there may be more.
fn stations() -> [Station; 2] {
    let second = Station {
        mac: MacAddr([2, 0, 0, 0, 0, 0x0c]),
        ipv4: "10.77.0.12".parse().unwrap(),
        ipv6: "fd3a::c".parse().unwrap(),
    };
    [STATION, second]
}

fn policy(frame: &[u8], vnet: &[u8; 12], stations: &[Station]) -> Result<(), DropReason> {
    let hdr = VnetHdr::parse(vnet).map_err(|_| DropReason::BadOffload)?;
    Policy::new(stations, SEGMENT).check(&mut Frame { hdr, bytes: frame }).map(|_| ())
}

/// Alice behind a port of the given kind, Bob and the gateway behind others.
fn switch(kind: PortKind) -> Switch {
    let mut switch = Switch::new(SEGMENT);
    let bob = Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 };
    let gateway = Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 };
    let ports = [
        (kind, STATION, HandsOn::No),
        (PortKind::Attachment, bob, HandsOn::No),
        (PortKind::Uplink, gateway, HandsOn::Yes),
    ];
    for (id, (kind, station, hands_on)) in ports.into_iter().enumerate() {
        let config =
            PortConfig { kind, stations: vec![station], learning: Learning::Off, hands_on };
        switch.set_port(PortId(id as u16), config).unwrap();
    }
    switch
}

/// What a learning switch without a policy would admit: anything but runts and group sources.
fn naive(frame: &[u8]) -> bool {
    frame.len() >= 14 && frame.len() < 65_550 && frame[6] & 1 == 0 && frame[6..12] != [0; 6]
}

#[test]
fn each_row_of_the_catalogue_ends_as_it_says() {
    for Row { name, vnet, frame, expected } in legal().into_iter().chain(hostile()) {
        assert_eq!(policy(&frame, &vnet, &[STATION]), expected, "{name}");
        assert_eq!(policy(&frame, &vnet, &stations()), expected, "{name}, two stations");
        let oracle = oracle::admits(&frame, &vnet, &[STATION], &SEGMENT);
        assert_eq!(oracle, expected.is_ok(), "{name}, the oracle");
        assert!(expected.is_ok() || !name.starts_with("legal"), "{name}");
    }
}

#[test]
fn each_hostile_row_would_pass_without_the_policy() {
    let exempt = ["F07-mac-of-group", "F07-mac-zero", "F23-runt", "F23-empty"];
    for Row { name, frame, .. } in hostile() {
        assert_eq!(naive(&frame), !exempt.contains(&name), "{name}");
    }
}

#[test]
fn both_ends_of_a_tunnel_refuse_the_same_frames() {
    for kind in [PortKind::Attachment, PortKind::Uplink] {
        for Row { name, vnet, frame, expected } in legal().into_iter().chain(hostile()) {
            let mut switch = switch(kind);
            let hdr = VnetHdr::parse(&vnet).unwrap();
            let verdict =
                switch.forward(PortId(0), &mut Frame { hdr, bytes: &frame }, Instant::ZERO);
            match expected {
                Err(reason) => assert_eq!(verdict, Verdict::Drop(reason), "{name} at {kind:?}"),
                Ok(()) => assert!(carried_or_answered(verdict, kind), "{name}: {verdict:?}"),
            }
        }
    }
}

/// A legal frame gets where it should, or is one of those that need no carrying.
fn carried_or_answered(verdict: Verdict, kind: PortKind) -> bool {
    match verdict {
        // Nobody is served here.
        Verdict::Drop(DropReason::DhcpClient | DropReason::RouterSolicitation) => true,
        Verdict::Forward(port) => port == PortId(1),
        Verdict::Flood(_) => true,
        Verdict::Answer => kind == PortKind::Attachment,
        Verdict::Drop(reason) => match kind {
            PortKind::Attachment => {
                [DropReason::OwnAddress, DropReason::Unsolicited].contains(&reason)
            }
            PortKind::Uplink => {
                [DropReason::NeighbourOnUplink, DropReason::Unsolicited].contains(&reason)
            }
        },
    }
}

/// As many as nothing, the least, ARP's padding, a small packet's and what a driver might leak.
const HIDDEN: [usize; 7] = [0, 1, 6, 18, 26, 1000, 60_000];

#[test]
fn no_byte_behind_a_packet_leaves_its_port_at_either_end() {
    for kind in [PortKind::Attachment, PortKind::Uplink] {
        for Row { name, vnet, frame, .. } in legal() {
            let packet = oracle::without_padding(&frame);
            let hdr = VnetHdr::parse(&vnet).unwrap();
            let verdicts = HIDDEN.map(|count| {
                let hiding = [packet, &vec![rows::MARK; count]].concat();
                let mut cut = Frame { hdr, bytes: &hiding };
                let verdict = switch(kind).forward(PortId(0), &mut cut, Instant::ZERO);
                assert_eq!(cut.bytes, packet, "{name} with {count} bytes behind it");
                verdict
            });
            assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{name}: {verdicts:?}");
            assert!(carried_or_answered(verdicts[0], kind), "{name}: {:?}", verdicts[0]);
        }
    }
}

/// Reasons that only the addresses of stations and segment give, or the virtio-net header.
const OF_THE_PORT: [DropReason; 9] = [
    DropReason::ForeignMac,
    DropReason::ForeignIpv4,
    DropReason::ForeignIpv6,
    DropReason::SpoofedArp,
    DropReason::SpoofedNd,
    DropReason::OutsideSegment,
    DropReason::MacMismatch,
    DropReason::TooLong,
    DropReason::BadOffload,
];

/// Rows with such a reason that depend on nobody's addresses all the same.
const OF_NOBODY: [&str; 10] = [
    "F07-mac-of-group",
    "F07-mac-zero",
    "F08-ipv6-zero",
    "F09-arp-reply-from-zero",
    "F09-arp-other-sender",
    "F11-na-foreign-option",
    "F11-na-second-option-foreign",
    "F11-ns-foreign-option",
    "F15-solicitation-foreign-option",
    "F17-dhcpv6-from-zero",
];

#[test]
fn what_nobody_may_say_is_refused_before_it_is_asked_who_speaks() {
    let mut refused = 0;
    for Row { name, frame, expected, .. } in hostile() {
        let Err(reason) = expected else { panic!("{name} is legal") };
        let parsed = Parsed::parse(&frame).map(|_| ());
        if OF_NOBODY.contains(&name) || !OF_THE_PORT.contains(&reason) {
            // What is cut short is refused for its length where it says another.
            let short = name.starts_with("F20-total-length") && parsed.is_err();
            assert!(parsed == expected || short, "{name}: {parsed:?}");
            refused += 1;
        } else if reason != DropReason::BadOffload {
            assert_eq!(parsed, Ok(()), "{name}");
        }
    }
    assert!(refused > 120, "{refused} rows");
}

#[test]
fn what_was_not_cut_is_refused_by_the_parser() {
    for Row { name, frame, .. } in legal() {
        let packet = oracle::without_padding(&frame);
        assert!(Parsed::parse(packet).is_ok(), "{name}");
        let hiding = [packet, &[0]].concat();
        let expected = match packet[12..14] {
            [8, 6] | [8, 0] | [0x86, 0xdd] => Err(DropReason::TrailingBytes),
            _ => panic!("{name} is of another kind"),
        };
        assert_eq!(Parsed::parse(&hiding), expected, "{name}");
    }
}

#[test]
fn headers_that_we_do_not_speak_are_refused_before_the_frame_is_read() {
    let frame = alice4(BOB4, TCP, &tcp(ACK, &[7; 4000]));
    for (name, vnet) in hostile_headers() {
        assert!(VnetHdr::parse(&vnet).is_err(), "{name}");
        assert!(!oracle::admits(&frame, &vnet, &[STATION], &SEGMENT), "{name}");
    }
}
