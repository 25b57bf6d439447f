//! Millions of changed frames at a port: what the policy admits, the oracle admits, byte for byte,
//! and what the oracle admits is never dropped.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

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
mod mutate;
mod oracle;
mod rows;

use frames::*;
use mutate::{Noise, mutated};
use rows::{Row, hostile, legal};

/// Frames of the first test, which takes some seconds.
const FRAMES: u64 = 2_000_000;
/// Fewest of them that must be admitted, or the changes are so rough that nothing is tested.
const ADMITTED_MIN: u64 = FRAMES / 20;

/// A longer time than anything is remembered: the switch judges each frame as if it were the first.
const LATER: u64 = 301_000_000_000;

/// At a guest's port one station may speak, behind a member's key there may be more.
fn stations() -> [Station; 2] {
    let second = Station {
        mac: MacAddr([2, 0, 0, 0, 0, 0x0c]),
        ipv4: "10.77.0.12".parse().unwrap(),
        ipv6: "fd3a::c".parse().unwrap(),
    };
    [STATION, second]
}

/// Alice's station, or both, behind a port of this kind; Bob and the gateway behind others.
fn switch(kind: PortKind, stations: &[Station]) -> Switch {
    let mut switch = Switch::new(SEGMENT);
    let bob = Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 };
    let gateway = Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 };
    for (id, kind, stations, hands_on) in [
        (0, kind, stations.to_vec(), HandsOn::No),
        (1, PortKind::Attachment, vec![bob], HandsOn::No),
        (2, PortKind::Uplink, vec![gateway], HandsOn::Yes),
    ] {
        let config = PortConfig { kind, stations, learning: Learning::Off, hands_on };
        switch.set_port(PortId(id), config).unwrap();
    }
    switch
}

/// Why a switch drops what the policy admits: it has nowhere to go, or needs no carrying. Another's
/// link-local address is refused by the switch as well, which alone knows whose it is.
fn may_end_here(reason: DropReason) -> bool {
    [
        DropReason::DhcpClient,
        DropReason::RouterSolicitation,
        DropReason::OwnAddress,
        DropReason::NoSuchStation,
        DropReason::Unsolicited,
        DropReason::NeighbourOnUplink,
        DropReason::UnknownDestination,
        DropReason::Hairpin,
        DropReason::NotForUs,
        DropReason::LinkLocalTaken,
    ]
    .contains(&reason)
}

#[test]
fn of_two_million_changed_frames_none_passes_and_none_is_dropped_against_the_oracle() {
    let rows: Vec<Row> = legal().into_iter().chain(hostile()).collect();
    let both = stations();
    let policies = [&both[..1], &both[..]].map(|stations| Policy::new(stations, SEGMENT));
    let mut switches = [PortKind::Attachment, PortKind::Uplink].map(|kind| switch(kind, &both));
    let mut noise = Noise(0x5eed_0005);
    let (mut admitted, mut padded, mut now) = (0, 0, 0);
    let mut wrong: Vec<String> = Vec::new();
    for n in 0..FRAMES {
        let (row, bytes, vnet) = mutated(&mut noise, &rows);
        let stations = &both[..if n % 4 == 0 { 1 } else { 2 }];
        let policy = &policies[stations.len() - 1];
        let expected = oracle::admits(&bytes, &vnet, stations, &SEGMENT);
        let hdr = VnetHdr::parse(&vnet);
        let mut frame = Frame { hdr: hdr.unwrap_or_default(), bytes: &bytes };
        let verdict = match hdr {
            Ok(_) => policy.check(&mut frame).map(|_| ()),
            Err(_) => Err(DropReason::BadOffload),
        };
        let mut ends = verdict.is_ok() == expected;
        if verdict.is_ok() {
            admitted += 1;
            padded += u64::from(frame.bytes.len() < bytes.len());
            ends &= frame.bytes == oracle::without_padding(&bytes);
        }
        // The switch says the same, at either end of a tunnel.
        if hdr.is_ok() && stations.len() == 2 {
            now += LATER;
            let mut whole = Frame { hdr: frame.hdr, bytes: &bytes };
            let switch = &mut switches[n as usize / 2 % 2];
            let said = switch.forward(PortId(0), &mut whole, Instant::from_nanos(now));
            ends &= match (said, verdict) {
                (Verdict::Drop(reason), Err(expected)) => reason == expected,
                (Verdict::Drop(reason), Ok(())) => may_end_here(reason),
                (Verdict::Forward(_) | Verdict::Flood(_) | Verdict::Answer, _) => verdict.is_ok(),
            };
            ends &= whole.bytes == oracle::without_padding(&bytes);
        }
        if !ends {
            wrong.push(format!("{n}, {}: {verdict:?} {vnet:02x?} {bytes:02x?}", row.name));
        }
    }
    eprintln!(
        "{FRAMES} changed frames tried, {admitted} admitted ({padded} of them cut), {} judged \
         otherwise than by the oracle",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    assert!(admitted >= ADMITTED_MIN, "{admitted} admitted");
    assert!(padded >= ADMITTED_MIN / 20, "{padded} had anything to cut");
}

/// Bytes that no rule looks at, by the kind of frame: whoever changes them is as legal as before.
fn free(frame: &[u8]) -> Vec<usize> {
    let end = oracle::without_padding(frame).len();
    let header: &[usize] = match frame[12..14] {
        [8, 0] => &[15, 18, 19, 22, 24, 25], // TOS, id, TTL, checksum
        [8, 6] => &[32, 33, 34, 35, 36, 37], // who is asked for is not known yet
        _ => &[15, 16, 17],                  // flow label
    };
    let l4 = if frame[12] == 8 { 34 } else { 54 };
    let protocol = if frame[12] == 8 { frame[23] } else { frame[20] };
    let arp = frame[12..14] == [8, 6];
    // Behind TCP's flags and UDP's checksum; other protocols are not looked into at all.
    let behind = match protocol {
        _ if arp => end,
        TCP => l4 + 14,
        UDP => l4 + 6,
        ICMP | ICMPV6 | 0 | 43 | 44 | 60 => end,
        _ => l4,
    };
    header.iter().copied().chain(behind..end.min(behind + 64)).collect()
}

#[test]
fn legal_frames_stay_legal_whatever_their_free_fields_say() {
    let rows: Vec<Row> = legal().into_iter().filter(|row| row.vnet == [0; 12]).collect();
    let policy = Policy::new(&[STATION], SEGMENT);
    let mut noise = Noise(0x5eed_0006);
    let mut tried = 0;
    for n in 0..600_000 {
        let row = &rows[n % rows.len()];
        let mut bytes = row.frame.clone();
        let free = free(&bytes);
        for _ in 0..1 + noise.below(8) {
            bytes[*noise.pick(&free)] = noise.byte();
        }
        tried += 1;
        let judged = policy.check(&mut Frame { hdr: VnetHdr::default(), bytes: &bytes });
        assert!(judged.is_ok(), "{}: {judged:?} {bytes:02x?}", row.name);
    }
    eprintln!("{tried} legal frames with other bytes in their free fields, 0 dropped");
}
