//! Storms at a guest's port: what leaves it, what is answered meanwhile, and that nothing grows.
//!
//! One test, since the allocator counts for the whole program.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

#[path = "../asks/mod.rs"]
mod asks;
#[path = "../frames/mod.rs"]
mod frames;
#[path = "../rows/mod.rs"]
mod rows;
mod sys;

use asks::*;
use frames::*;
use sys::asked;
use vde_switch::flood::Budget;
use vde_switch::frame::Frame;
use vde_switch::mac::MacAddr;
use vde_switch::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, Verdict};
use vde_switch::vnet::VnetHdr;

/// How long a storm lasts, and frames a second: what 10 Gbit/s carry of the smallest are 14 times
/// as many, but no guest makes more.
const SECONDS: u64 = 10;
const PER_SECOND: u64 = 100_000;

const START: u64 = 1 << 40;

fn show(switch: &mut Switch, bytes: &[u8], now: u64) -> Verdict {
    let mut frame = Frame { hdr: VnetHdr::default(), bytes };
    switch.forward(GUEST, &mut frame, Instant::from_nanos(now))
}

/// Returns how many bytes were allocated meanwhile.
fn allocated(act: impl FnOnce()) -> u64 {
    let before = asked();
    act();
    asked() - before
}

/// One frame of each budget.
fn kinds() -> [(Budget, Vec<u8>); 10] {
    let fresh = "fe80::77".parse().unwrap();
    [
        (Budget::Group, alice4(DIRECTED4, UDP, &udp(9, 9, b"storm"))),
        (Budget::Group, alice6(ALL_NODES, UDP, &udp(9, 9, b"storm"))),
        (Budget::Arp, arp(ALICE, BROADCAST, 1, ALICE4, BOB4)),
        (Budget::Arp, arp(ALICE, BOB, 1, ALICE4, SERVICE4)),
        (Budget::Nd, solicitation(ALICE6, BOB6)),
        (Budget::Nd, solicitation(ALICE_LINK, fresh)),
        (Budget::Nd, advertisement(ALICE_LINK, ALL_NODES, ALICE_LINK)),
        (Budget::Dhcp4, dhcp4(DISCOVER, &[])),
        (Budget::Dhcp6, client6(1, &ia_na(1, &[]))),
        (Budget::Router, router_solicitation(ALICE_LINK)),
    ]
}

/// What leaves a port or is answered is within the budget of its kind, none of the others is
/// touched, and no frame allocates.
fn storms_stay_within_their_budgets() {
    for (storming, frame) in kinds() {
        let mut switch = switch();
        // The first frame may claim a link-local address.
        show(&mut switch, &frame, START);
        let (mut served, mut now) = (1, START);
        let grown = allocated(|| {
            for n in 0..SECONDS * PER_SECOND {
                now = START + n * 1_000_000_000 / PER_SECOND;
                served += u64::from(!matches!(show(&mut switch, &frame, now), Verdict::Drop(_)));
            }
        });
        let rate = storming.rate();
        let most = u64::from(rate.burst) + SECONDS * u64::from(rate.per_second);
        assert!((most - 1..=most).contains(&served), "{served} of {most} of {storming:?}");
        assert_eq!(grown, 0, "bytes allocated by a storm of {storming:?}");
        let dropped = switch.counters().dropped(storming.reason());
        assert_eq!(dropped, SECONDS * PER_SECOND + 1 - served, "{storming:?} by its name");
        for (other, frame) in kinds().into_iter().filter(|(other, _)| *other != storming) {
            let verdict = show(&mut switch, &frame, now);
            assert!(!matches!(verdict, Verdict::Drop(_)), "{other:?}: {verdict:?} in {storming:?}");
        }
        let chat = alice4(BOB4, TCP, &tcp(ACK, b"x"));
        assert_eq!(show(&mut switch, &chat, now), Verdict::Forward(OTHER), "unicast has no budget");
    }
}

/// A million source addresses leave no trace.
fn a_mac_flood_grows_nothing() {
    let (mut switch, mut frame) = (switch(), alice4(BOB4, TCP, &tcp(ACK, b"x")));
    let grown = allocated(|| {
        for n in 0..1_000_000_u32 {
            frame[7..11].copy_from_slice(&n.to_be_bytes());
            frame[11] = 1;
            let verdict = show(&mut switch, &frame, START + u64::from(n) * 1000);
            assert_eq!(verdict, Verdict::Drop(DropReason::ForeignMac));
        }
    });
    assert_eq!(grown, 0, "bytes allocated by a million addresses");
    assert_eq!(switch.station_port(MacAddr(BOB)), Some(OTHER));
    // Where strangers are let in, there is room for so many and no more.
    let lan = PortId(7);
    let (kind, learning) = (PortKind::Attachment, Learning::On);
    let config = PortConfig { kind, stations: Vec::new(), learning, hands_on: HandsOn::No };
    switch.set_port(lan, config).unwrap();
    frame[26..30].copy_from_slice(&NOBODY4.octets());
    let mut flood = |from: u32, to: u32| {
        allocated(|| {
            for n in from..to {
                frame[7..11].copy_from_slice(&n.to_be_bytes());
                let mut frame = Frame { hdr: VnetHdr::default(), bytes: &frame };
                let now = Instant::from_nanos(START + u64::from(n) * 1000);
                assert_eq!(switch.forward(lan, &mut frame, now), Verdict::Forward(OTHER));
            }
        })
    };
    let (first, rest) = (flood(0, 10_000), flood(10_000, 1_000_000));
    assert!(first < 1 << 20 && rest == 0, "{first} bytes of 10,000 addresses, {rest} of the rest");
}

/// Once each was heard, no frame of the catalogue allocates.
fn no_frame_allocates() {
    let rows: Vec<_> = rows::legal().into_iter().chain(rows::hostile()).collect();
    let mut switch = switch();
    let mut all = |now: u64| {
        for row in &rows {
            let Ok(hdr) = VnetHdr::parse(&row.vnet) else { continue };
            let mut frame = Frame { hdr, bytes: &row.frame };
            switch.forward(GUEST, &mut frame, Instant::from_nanos(now));
        }
    };
    all(START);
    let grown = allocated(|| (1..1000).for_each(|second| all(START + second * 1_000_000_000)));
    assert_eq!(grown, 0, "bytes allocated by the catalogue");
}

#[test]
fn storms_and_floods_stay_within_budgets_and_grow_nothing() {
    storms_stay_within_their_budgets();
    a_mac_flood_grows_nothing();
    no_frame_allocates();
}
