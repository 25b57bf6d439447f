//! Whatever comes in by whatever port: each frame ends once, and speaks for nobody else.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

use proptest::prelude::*;
use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
use vde_switch::serve::GuestConfig;
use vde_switch::station::{Broadcast, Segment, Station};
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, FloodTo, Verdict};
use vde_switch::vnet::VnetHdr;

mod frames;
mod oracle;
mod rows;

use frames::*;

/// Who speaks at the ports 0 (gateway), 1 and 2 (guests), 3 and 4 (members).
fn stations() -> [Station; 5] {
    let station = |mac, ipv4, ipv6| Station { mac: MacAddr(mac), ipv4, ipv6 };
    let other = |n: u8| Station {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ipv4: [10, 77, 0, n].into(),
        ipv6: format!("fd3a::{n:x}").parse().unwrap(),
    };
    [
        station(GATEWAY, GATEWAY4, GATEWAY6),
        STATION,
        other(0x20),
        station(BOB, BOB4, BOB6),
        other(0x21),
    ]
}

fn config(port: u16) -> PortConfig {
    PortConfig {
        kind: if matches!(port, 1 | 2) { PortKind::Attachment } else { PortKind::Uplink },
        stations: vec![stations()[usize::from(port)]],
        learning: Learning::Off,
        hands_on: if port == 0 { HandsOn::Yes } else { HandsOn::No },
    }
}

fn switch() -> Switch {
    let mut switch = Switch::new(SEGMENT);
    (0..5).for_each(|port| switch.set_port(PortId(port), config(port)).unwrap());
    switch.serve(PortId(1), GuestConfig::default()).unwrap(); // and port 2 is not
    switch
}

/// `frame` of Alice's, as if the station of `port` had sent it.
fn spoken_by(port: u16, mut frame: Vec<u8>) -> Vec<u8> {
    let replace = |frame: &mut [u8], from: &[u8], to: &[u8]| {
        for at in 0..frame.len().saturating_sub(from.len() - 1) {
            if frame[at..].starts_with(from) {
                frame[at..at + from.len()].copy_from_slice(to);
            }
        }
    };
    let speaker = stations()[usize::from(port)];
    replace(&mut frame, &ALICE, &speaker.mac.0);
    replace(&mut frame, &ALICE4.octets(), &speaker.ipv4.octets());
    replace(&mut frame, &ALICE6.octets(), &speaker.ipv6.octets());
    frame
}

#[derive(Clone, Debug)]
enum Step {
    Send { ingress: u16, speaker: u16, row: usize, flip: Option<(usize, u8)>, later_ns: u64 },
    Set(u16),
    Remove(u16),
    Broadcast(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let flip = prop::option::weighted(0.4, (0..80usize, 0..8u8));
    let send = (0..6u16, 0..5u16, any::<usize>(), flip, 0..20_000_000u64).prop_map(
        |(ingress, speaker, row, flip, later_ns)| Step::Send {
            ingress,
            speaker,
            row,
            flip,
            later_ns,
        },
    );
    prop_oneof![
        40 => send,
        1 => (0..5u16).prop_map(Step::Set),
        1 => (0..5u16).prop_map(Step::Remove),
        1 => any::<bool>().prop_map(Step::Broadcast),
    ]
}

fn assert_conserved(switch: &Switch, sent: u64) {
    let counters = switch.counters();
    let drops: u64 = counters.drops().map(|(_, count)| count).sum();
    let out = counters.forwarded + counters.flooded + counters.answered;
    assert_eq!((counters.frames_in, out + drops), (sent, sent));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn frames_are_conserved_and_nobody_speaks_for_another(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let rows: Vec<_> = rows::legal().into_iter().chain(rows::hostile()).collect();
        let (mut switch, mut now, mut sent) = (switch(), 0, 0);
        for step in steps {
            let (ingress, speaker, row, flip, later_ns) = match step {
                Step::Send { ingress, speaker, row, flip, later_ns } => {
                    (ingress, speaker, row, flip, later_ns)
                }
                Step::Set(port) => {
                    switch.set_port(PortId(port), config(port)).unwrap();
                    continue;
                }
                Step::Remove(port) => {
                    switch.remove_port(PortId(port));
                    continue;
                }
                Step::Broadcast(on) => {
                    let broadcast = if on { Broadcast::On } else { Broadcast::Off };
                    switch.set_segment(Segment { broadcast, ..SEGMENT });
                    continue;
                }
            };
            let row = &rows[row % rows.len()];
            let asks = row.name.starts_with("asks");
            let mut bytes = spoken_by(speaker, row.frame.clone());
            if let Some((at, bit)) = flip {
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            now += later_ns;
            let hdr = VnetHdr::parse(&row.vnet).unwrap();
            let from = PortId(ingress);
            let verdict =
                switch.forward(from, &mut Frame { hdr, bytes: &bytes }, Instant::from_nanos(now));
            sent += 1;
            assert_conserved(&switch, sent);
            // A question to the services stays where it is asked, unless it is none any more.
            let stays = matches!(verdict, Verdict::Answer | Verdict::Drop(_));
            prop_assert!(!asks || flip.is_some() || stays, "{}: {verdict:?}", row.name);
            let out: Vec<(PortId, PortKind)> = match verdict {
                Verdict::Forward(port) => {
                    let kind = config(port.0).kind;
                    let to = MacAddr(bytes[..6].try_into().unwrap());
                    prop_assert_eq!(switch.station_port(to), Some(port));
                    vec![(port, kind)]
                }
                Verdict::Flood(to) => {
                    prop_assert_eq!(to, FloodTo::All);
                    prop_assert!(bytes[0] & 1 == 1);
                    switch.flood_ports(from, to).collect()
                }
                Verdict::Answer => {
                    prop_assert!(matches!(from.0, 1 | 2), "an answer to an uplink");
                    let answer = switch.answer();
                    prop_assert_ne!(&answer[6..12], &bytes[6..12]);
                    let told = MacAddr(answer[..6].try_into().unwrap());
                    prop_assert!(told.is_group() || told.0 == bytes[6..12]);
                    vec![(from, PortKind::Attachment)]
                }
                Verdict::Drop(_) => continue,
            };
            // The source is the ingress port's own, or handed on by the gateway to a group.
            let src = MacAddr(bytes[6..12].try_into().unwrap());
            let owner = switch.station_port(src);
            let group = bytes[0] & 1 == 1;
            let handed_on = ingress == 0 && group && matches!(owner, Some(PortId(3 | 4)));
            prop_assert!(owner == Some(from) || handed_on, "{src} spoke at {from}");
            let uplink = |port: PortId| config(port.0).kind == PortKind::Uplink;
            for (port, kind) in out {
                prop_assert_eq!(kind == PortKind::Uplink, uplink(port));
                prop_assert!(!(uplink(from) && uplink(port)), "from {from} to {port}");
                prop_assert!(port != from || matches!(verdict, Verdict::Answer));
            }
        }
    }
}

#[test]
fn garbage_of_every_length_is_dropped_and_counted() {
    let mut switch = switch();
    let mut noise = 0x1234_5678_u32;
    let garbage: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(65_535)
    .collect();
    // Behind nothing, and behind the start of each kind of frame, so that parsers are reached.
    let heads = [
        Vec::new(),
        alice4(BOB4, TCP, &tcp(ACK, &[])),
        alice6(BOB6, 60, &extension(60, ICMPV6, &[])),
        arp(ALICE, BROADCAST, 1, ALICE4, BOB4),
    ];
    let mut sent = 0;
    for len in 0..=garbage.len() {
        let head = &heads[len % heads.len()];
        let mut bytes = garbage[..len].to_vec();
        let kept = head.len().min(len);
        bytes[..kept].copy_from_slice(&head[..kept]);
        let mut frame = Frame { hdr: VnetHdr::default(), bytes: &bytes };
        let port = PortId((len % 5) as u16);
        let verdict = switch.forward(port, &mut frame, Instant::from_nanos(len as u64));
        sent += 1;
        // What names its own length is cut to it, and what is cut may be legal.
        if frame.bytes.len() > 1514 {
            assert_eq!(verdict, Verdict::Drop(DropReason::TooLong));
        }
        assert_eq!(frame.bytes, oracle::without_padding(&bytes));
    }
    assert_conserved(&switch, sent);
}
