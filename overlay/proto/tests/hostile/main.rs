//! A seller without any filter of its own, with a member's key and session: what it sends through
//! its real tunnels, the attack catalogue and changes of it without end, is delivered only as its
//! grant says; what it sends too often is limited; nobody else's address becomes its own.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

#[path = "../../../../vde-switch/tests/frames/mod.rs"]
mod frames;
#[path = "../../../../vde-switch/tests/mutate/mod.rs"]
mod mutate;
mod net;
#[path = "../../../../vde-switch/tests/oracle/mod.rs"]
mod oracle;
#[path = "../../../../vde-switch/tests/rows/mod.rs"]
mod rows;
mod storm;

use std::time::Duration;

use frames::*;
use mutate::{Noise, mutated};
use net::{BOBS, GW, Heard, Net};
use overlay_proto::cut::Cut;
use overlay_proto::wire::shim::{Flags, Kind, Shim};
use rows::{Row, hostile, legal};
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::vnet::{Layout, VnetHdr};

/// Longer than one frame of any kind takes at its budget, 50 a second: limits stop nothing here.
const STEP: Duration = Duration::from_millis(21);

/// The shim of a whole frame whose virtio-net header asks for this.
fn frame_shim(vnet: &[u8; 12]) -> Shim {
    let (flags, csum_start, csum_offset) = asked(vnet);
    Shim { kind: Kind::Frame { csum_offset }, flags, csum_start }
}

fn asked(vnet: &[u8; 12]) -> (Flags, u16, u8) {
    let flags = if vnet[0] & 1 == 0 { Flags::default() } else { Flags::CSUM };
    (flags, u16::from_le_bytes([vnet[6], vnet[7]]), vnet[8])
}

/// How a frame travels.
#[derive(Clone, Copy, Debug)]
enum As {
    /// Whole.
    Frame,
    /// For the gateway to hand on to all but so many slots.
    Group(u8),
    /// In so many pieces, the last one first, to be handed on or not.
    Pieces(u8, Flags),
    /// As a segment of a super-frame by itself.
    Segment,
}

fn send(net: &mut Net, to: usize, how: As, vnet: &[u8; 12], bytes: &[u8], number: u16) {
    let (flags, csum_start, csum_offset) = asked(vnet);
    match how {
        As::Frame => net.inject(to, [(frame_shim(vnet), bytes)]),
        As::Group(served) => {
            let slots = [0, 9].repeat(served.into());
            let kind = Kind::Group { served, csum_offset };
            let rest = [&slots, bytes].concat();
            net.inject(to, [(Shim { kind, flags, csum_start }, &rest[..])]);
        }
        As::Pieces(count, also) => {
            let len = bytes.len().div_ceil(count.into()).max(1);
            let count = bytes.len().div_ceil(len).max(1) as u8;
            let flags = flags.with(also);
            let piece = |(index, piece)| {
                let kind = Kind::Piece { number, index: index as u8, count, csum_offset };
                (Shim { kind, flags, csum_start }, piece)
            };
            let pieces: Vec<_> = bytes.chunks(len).enumerate().map(piece).rev().collect();
            net.inject(to, pieces);
        }
        As::Segment => {
            let kind = Kind::Segment { number, index: 0, gso_size: 1400 };
            net.inject(to, [(Shim { kind, flags: flags.with(Flags::LAST), csum_start }, bytes)]);
        }
    }
}

/// What is said to Bob, and in his name, as if it were the gateway.
fn about_gateway(mut frame: Vec<u8>) -> Vec<u8> {
    let mut replace = |old: &[u8], new: &[u8]| {
        for at in 0..frame.len().saturating_sub(old.len() - 1) {
            if frame[at..].starts_with(old) {
                frame[at..at + old.len()].copy_from_slice(new);
            }
        }
    };
    replace(&BOB, &GATEWAY);
    replace(&BOB4.octets(), &GATEWAY4.octets());
    replace(&BOB6.octets(), &GATEWAY6.octets());
    // A solicitation is sent to the group of its target.
    replace(&group6(solicited_node(BOB6)), &group6(solicited_node(GATEWAY6)));
    replace(&solicited_node(BOB6).octets(), &solicited_node(GATEWAY6).octets());
    frame
}

/// Asserts that a frame which came from Alice's seller is one that she may send, and no byte more.
/// Link-local addresses that others had first are theirs.
fn assert_granted(heard: &Heard, what: &str) {
    let Heard { vnet, bytes } = heard;
    let granted = oracle::admits(bytes, vnet, &[STATION], &SEGMENT);
    assert!(granted, "{what} was delivered: {vnet:02x?} {bytes:02x?}");
    assert_eq!(oracle::without_padding(bytes), bytes, "{what} has bytes behind its packet");
    let claims = |at: usize| bytes.get(at..at + 16).is_some_and(|a| *a == BOB_LINK.octets());
    let advertises = bytes.get(20) == Some(&ICMPV6) && bytes.get(54) == Some(&136);
    let v6 = bytes[12..14] == [0x86, 0xdd];
    assert!(!(v6 && (claims(22) || advertises && claims(62))), "{what} is in Bob's name");
}

/// Says whether a legal frame leaves its port: what is answered there never does.
fn travels(name: &str, frame: &[u8]) -> bool {
    let global_nd = frame.get(20) == Some(&ICMPV6)
        && matches!(frame.get(54), Some(135 | 136))
        && frame.get(62..64) != Some(&[0xfe, 0x80]);
    !(name.starts_with("asks") || frame[12..14] == [8, 6] || global_nd)
}

/// A net where Bob has spoken from his link-local address, so that it is his.
fn net() -> Net {
    let mut net = Net::new();
    let mut hello = alice6_from(BOB_LINK, ALL_NODES, UDP, &udp(5353, 5353, b"hello"));
    hello[6..12].copy_from_slice(&BOB);
    net.send(BOBS, &hello);
    assert_eq!(net.heard(GW).len(), 1, "Bob is not heard");
    net
}

#[test]
fn each_row_of_the_catalogue_is_refused_at_the_receiving_end_and_each_legal_one_arrives() {
    let hows = [As::Frame, As::Group(0), As::Pieces(2, Flags::default()), As::Segment];
    let hows = [&hows[..], &[As::Group(15), As::Pieces(3, Flags::HAND_ON)]].concat();
    let (mut net, mut sent, mut delivered, mut number) = (net(), 0, 0, 0);
    for Row { name, vnet, frame, expected } in legal().into_iter().chain(hostile()) {
        // No shim can ask for segmentation, and no datagram is longer; see the super-frames below.
        if vnet[1] != 0 || frame.len() > 60_000 {
            continue;
        }
        for to in [GW, BOBS] {
            for how in &hows {
                // A segment's shim has no place for the offset; TCP's is taken.
                if matches!(how, As::Segment) && vnet[8] != 16 && vnet[0] != 0 {
                    continue;
                }
                number += 1;
                net.pass(STEP);
                let frame = if to == GW { about_gateway(frame.clone()) } else { frame.clone() };
                send(&mut net, to, *how, &vnet, &frame, number);
                sent += 1;
                let mut arrived = 0;
                for at in [GW, BOBS] {
                    for heard in net.heard(at) {
                        assert!(expected.is_ok(), "{name} as {how:?} was delivered to {at}");
                        assert_granted(&heard, name);
                        arrived += usize::from(at == to);
                        delivered += 1;
                    }
                }
                let travels = expected.is_ok() && travels(name, &frame);
                let lost = matches!(how, As::Frame) && travels && arrived != 1;
                assert!(!lost, "{name} as {how:?} arrived {arrived} times at {to}");
            }
        }
        let Err(reason) = expected else { continue };
        let counted = |net: &mut Net, at| net.dropped(at, reason.name());
        assert!(counted(&mut net, GW) > 0 && counted(&mut net, BOBS) > 0, "{name}: {reason}");
    }
    eprintln!("{sent} messages with the catalogue, {delivered} legal frames delivered");
    assert!(delivered > 100, "{delivered} delivered: the way is not open");
}

#[test]
fn of_changed_frames_by_any_message_none_in_anothers_name_is_delivered() {
    const MESSAGES: usize = 300_000;
    let rows: Vec<Row> = legal().into_iter().chain(hostile()).collect();
    let (mut net, mut noise) = (net(), Noise(0x5eed_0007));
    let mut delivered = [0; 2];
    for n in 0..MESSAGES {
        let (row, mut bytes, vnet) = mutated(&mut noise, &rows);
        bytes.truncate(9000);
        let how = match noise.below(8) {
            0..4 => As::Frame,
            4 => As::Group(noise.below(16) as u8),
            5 => As::Pieces(2 + noise.below(3) as u8, Flags::default()),
            6 => As::Pieces(2, Flags::HAND_ON),
            _ => As::Segment,
        };
        let to = noise.below(2);
        if to == GW && noise.below(4) > 0 {
            bytes = about_gateway(bytes);
        }
        net.pass(STEP);
        send(&mut net, to, how, &vnet, &bytes, n as u16);
        for at in [GW, BOBS] {
            for heard in net.heard(at) {
                assert_granted(&heard, row.name);
                delivered[at] += 1;
            }
        }
    }
    eprintln!("{MESSAGES} messages with changed frames, {delivered:?} delivered, none spoofed");
    assert!(delivered.iter().all(|count| *count > MESSAGES / 100), "{delivered:?} delivered");
}

#[test]
fn only_the_gateway_hands_on_and_only_what_is_for_a_group() {
    let (mut net, plain) = (net(), [0; 12]);
    let beacon = alice4(DIRECTED4, UDP, &udp(9, 9, &[1; 1000]));
    let to_bob = alice4(BOB4, UDP, &udp(9, 9, &[1; 1000]));
    let hows = [As::Group(0), As::Pieces(2, Flags::HAND_ON)];
    for (n, how) in (0..).zip(hows) {
        net.pass(STEP);
        send(&mut net, BOBS, how, &plain, &beacon, n);
        assert!(net.heard(GW).is_empty(), "Bob handed on {how:?}");
        assert!(net.heard(BOBS).is_empty(), "Bob took what is not for him, {how:?}");
        send(&mut net, GW, how, &plain, &to_bob, n + 8);
        assert!(net.heard(BOBS).is_empty(), "the gateway handed on a unicast, {how:?}");
        assert_eq!(net.dropped(BOBS, "bad-group"), u64::from(n) + 1);
        // The way is open.
        send(&mut net, GW, how, &plain, &beacon, n + 16);
        assert_eq!((net.heard(GW).len(), net.heard(BOBS).len()), (1, 1), "{how:?}");
    }
}

#[test]
fn nobody_denies_or_takes_a_link_local_address_that_a_guest_has() {
    let (mut net, plain) = (net(), [0; 12]);
    let own = "fe80::77".parse().unwrap();
    let mut probe = solicitation(ZERO6, own);
    probe[6..12].copy_from_slice(&BOB);
    net.send(BOBS, &probe);
    assert_eq!(net.heard(GW).len(), 1, "the others hear the question");
    let denial = advertisement(own, ALL_NODES, own);
    let answer = advertisement(own, BOB_LINK, own);
    let speech = alice6_from(own, ALL_NODES, UDP, &udp(1, 2, b"x"));
    for (n, frame) in (0..).zip([&denial, &answer, &speech]) {
        for to in [GW, BOBS] {
            net.pass(STEP);
            send(&mut net, to, As::Frame, &plain, frame, n);
            send(&mut net, to, As::Group(0), &plain, frame, n);
            assert!(net.heard(GW).is_empty() && net.heard(BOBS).is_empty(), "{frame:02x?}");
        }
    }
    assert_eq!(net.dropped(BOBS, "link-local-taken"), 3);
    // An address that Alice had before is hers, and Bob is told so.
    let hers = advertisement(ALICE_LINK, ALL_NODES, ALICE_LINK);
    send(&mut net, BOBS, As::Frame, &plain, &hers, 9);
    assert_eq!(net.heard(BOBS).len(), 1);
    let mut probe = solicitation(ZERO6, ALICE_LINK);
    probe[6..12].copy_from_slice(&BOB);
    net.send(BOBS, &probe);
    send(&mut net, BOBS, As::Frame, &plain, &hers, 9);
    assert_eq!(net.heard(BOBS).len(), 1, "the first comer cannot say that she is");
}

#[test]
fn super_frames_whose_segments_differ_are_never_joined_to_what_was_not_granted() {
    const ROUNDS: usize = 30_000;
    let rows: Vec<Row> = legal().into_iter().filter(|row| row.vnet[1] & 0x7f != 0).collect();
    let (mut net, mut noise) = (net(), Noise(0x5eed_0008));
    let (mut joined, mut whole) = (0, 0);
    for n in 0..ROUNDS {
        let row = noise.pick(&rows);
        let hdr = VnetHdr::parse(&row.vnet).unwrap();
        let layout = Layout::of(&row.frame).unwrap();
        let Some(cut) = Cut::plan(layout, 1300, hdr.gso_size.into(), hdr.ecn) else { continue };
        let mut segments: Vec<_> = (0..cut.count)
            .map(|index| {
                let mut bytes = vec![0; cut.segment_len(index)];
                cut.write_segment(&row.frame, index, &mut bytes);
                bytes
            })
            .collect();
        for _ in 0..noise.below(3) {
            let segment = noise.below(segments.len());
            let bytes = &mut segments[segment];
            match noise.below(4) {
                0 => bytes.resize(bytes.len() + 1 + noise.below(100), 0xd5),
                1 => bytes.truncate(noise.below(bytes.len() + 1)),
                2 => {
                    let (at, new) = (noise.below(74).min(bytes.len()), noise.byte());
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = new);
                }
                _ => segments.swap(segment, 0),
            }
        }
        let shim = |index: usize| {
            let kind = Kind::Segment { number: n as u16, index: index as u8, gso_size: 1200 };
            let flags = if hdr.ecn { Flags::CSUM.with(Flags::ECN) } else { Flags::CSUM };
            Shim { kind, flags, csum_start: layout.l4 as u16 }
        };
        net.pass(STEP);
        let payloads = segments.iter().enumerate().map(|(index, bytes)| (shim(index), &bytes[..]));
        net.inject(n % 2, payloads);
        for at in [GW, BOBS] {
            for heard in net.heard(at) {
                assert_granted(&heard, row.name);
                joined += usize::from(heard.vnet[1] != 0);
                whole += 1;
            }
        }
    }
    eprintln!("{ROUNDS} super-frames sent, {whole} frames delivered, {joined} of them joined");
    assert!(joined > ROUNDS / 3, "{joined} joined");
}

#[test]
fn payloads_of_noise_deliver_nothing_but_what_is_granted() {
    let (mut net, mut noise) = (net(), Noise(0x5eed_0009));
    for _ in 0..100_000 {
        let mut payload: Vec<u8> = (0..20 + noise.below(200)).map(|_| noise.byte()).collect();
        payload[0] = 0x41;
        payload[1] = noise.below(8) as u8;
        let len = payload.len() as u16;
        payload[2..4].copy_from_slice(&len.to_be_bytes());
        net.pass(STEP);
        net.inject_raw(noise.below(2), &payload);
        for at in [GW, BOBS] {
            net.heard(at).iter().for_each(|heard| assert_granted(heard, "noise"));
        }
    }
}
