//! The port policy against the attack catalogue, and against an oracle that was written apart.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

use std::sync::LazyLock;

use proptest::prelude::*;
use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
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
    Policy::new(stations, SEGMENT).check(&Frame { hdr, bytes: frame }).map(|_| ())
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
            let verdict = switch.forward(PortId(0), Frame { hdr, bytes: &frame }, Instant::ZERO);
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

#[test]
fn headers_that_we_do_not_speak_are_refused_before_the_frame_is_read() {
    let frame = alice4(BOB4, TCP, &tcp(ACK, &[7; 4000]));
    for (name, vnet) in hostile_headers() {
        assert!(VnetHdr::parse(&vnet).is_err(), "{name}");
        assert!(!oracle::admits(&frame, &vnet, &[STATION], &SEGMENT), "{name}");
    }
}

/// One change of a frame on its way to the policy.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(usize, u8),
    Set(usize, u8),
    Truncate(usize),
    Extend(usize),
    Splice(usize, usize),
    Insert(usize, Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let interesting = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![0, 1, 2, 6, 17, 43, 44, 50, 51, 58, 60, 67, 128, 134, 135, 255]),
    ];
    prop_oneof![
        4 => (0..110usize, 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        3 => (12..110usize, interesting).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (0..1600usize).prop_map(Mutation::Truncate),
        1 => (1..60usize).prop_map(Mutation::Extend),
        1 => (0..100usize, any::<usize>()).prop_map(|(at, other)| Mutation::Splice(at, other)),
        1 => (14..80usize, prop::collection::vec(any::<u8>(), 8))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
    ]
}

fn mutate(frame: &mut Vec<u8>, mutation: &Mutation, others: &[Row]) {
    match mutation {
        Mutation::Flip(at, bit) => frame.iter_mut().skip(*at).take(1).for_each(|b| *b ^= 1 << bit),
        Mutation::Set(at, byte) => frame.iter_mut().skip(*at).take(1).for_each(|b| *b = *byte),
        Mutation::Truncate(len) => frame.truncate(*len),
        Mutation::Extend(count) => frame.resize(frame.len() + count, 0xee),
        Mutation::Splice(at, other) => {
            let tail = others[other % others.len()].frame.get(*at..).unwrap_or_default();
            frame.truncate(*at);
            frame.extend_from_slice(tail);
        }
        Mutation::Insert(at, bytes) => {
            let at = (*at).min(frame.len());
            frame.splice(at..at, bytes.iter().copied());
        }
    }
}

/// Puts the lengths right again, so that what lies behind them is reached.
fn repair(frame: &mut [u8]) {
    let Some(len) = u16::try_from(frame.len()).ok().and_then(|len| len.checked_sub(14)) else {
        return;
    };
    match frame.get(12..14) {
        Some([0x08, 0x00]) if len >= 20 => frame[16..18].copy_from_slice(&len.to_be_bytes()),
        Some([0x86, 0xdd]) if len >= 40 => {
            frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200_000, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn policy_and_oracle_agree_on_changed_frames(
        number: prop::sample::Index,
        mutations in prop::collection::vec(mutation(), 0..4),
        repaired: bool,
        header in prop::option::weighted(0.2, (0..10usize, 0..8u8)),
        two_stations: bool,
    ) {
        static ROWS: LazyLock<Vec<Row>> =
            LazyLock::new(|| legal().into_iter().chain(hostile()).collect());
        let row = &ROWS[number.index(ROWS.len())];
        let (mut frame, mut vnet) = (row.frame.clone(), row.vnet);
        for mutation in &mutations {
            mutate(&mut frame, mutation, &ROWS);
        }
        if repaired {
            repair(&mut frame);
        }
        if let Some((at, bit)) = header {
            vnet[at] ^= 1 << bit;
        }
        let all = stations();
        let stations = if two_stations { &all[..] } else { &all[..1] };
        let verdict = policy(&frame, &vnet, stations);
        let oracle = oracle::admits(&frame, &vnet, stations, &SEGMENT);
        prop_assert_eq!(verdict.is_ok(), oracle, "{}: {:?} {:02x?}", row.name, verdict, frame);
    }
}
