//! A seller's home with a hostile guest in it: what it reaches from a plain cable, and from ours.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use overlay_tests::home::attack::Tally;
use overlay_tests::home::frames::Station;
use overlay_tests::home::intruders::{Grabber, Middle};
use overlay_tests::home::layers::{Unpoliced, flush_rules, lay_wire, lease_namespaces, macs};
use overlay_tests::home::marker::Row;
use overlay_tests::home::seats::{PLAIN_PORT, Plain, Seat, buyer_of, plain, strangers};
use overlay_tests::home::watch::Sightings;
use overlay_tests::home::{Home, mac_of};
use overlay_tests::traffic::eventually;
use overlay_tests::tree::Netns;

const PATIENCE: Duration = Duration::from_secs(10);
/// Where each escape is to be seen from a plain cable: by which kind of it, and at whom.
const SEEN: [(&str, Plain, &str); 16] = [
    ("E01", Plain::Routed, "seller service udp [::]:22"),
    ("E01", Plain::Routed, "seller service tcp [::]:22"),
    ("E02", Plain::Routed, "seller service udp"),
    ("E03", Plain::Routed, "neighbour service udp"),
    ("E03", Plain::Routed, "router service tcp [::]:80"),
    ("E03", Plain::Routed, "tenant service udp"),
    ("E04", Plain::Routed, "metadata service udp"),
    ("E05", Plain::Routed, "internet service udp"),
    ("E06", Plain::Routed, "seller service udp"),
    ("E07", Plain::Routed, "seller service udp 127.0.0.1"),
    ("E09", Plain::Routed, "router service tcp [::]:80"),
    ("E11", Plain::Routed, "buyer service udp"),
    ("E03", Plain::Bridged, "neighbour service udp"),
    ("E04", Plain::Bridged, "metadata lan0"),
    ("E08", Plain::Bridged, "neighbour lan0"),
    ("E06", Plain::Bridged, "seller service udp"),
];
/// Rows that a bridge carries to its whole LAN. F24 and F25 do not leave a kernel by themselves,
/// runts (F23) have no marker, rings (F27) are no frames.
const CARRIED: std::ops::RangeInclusive<u32> = 1..=31;
const NOT_CARRIED: [u32; 6] = [21, 22, 23, 24, 25, 27];

/// Says what came of an attack.
fn report(what: &str, tally: Tally, seen: &Sightings) {
    let Tally { attempts, frames, calls, answers, .. } = tally;
    eprintln!(
        "{what}: {attempts} attempts, {frames} frames, {calls} calls, {answers} answered; {}",
        seen.describe()
    );
}

/// Asserts that from a plain cable everything escapes that can.
fn escapes(kind: Plain, seen: &Sightings) -> Result<()> {
    for (row, _, place) in SEEN.iter().filter(|(_, of, _)| *of == kind) {
        let rows = seen.rows_at(place);
        ensure!(rows.contains(&row.parse()?), "{kind:?}: {row} is not seen at {place}: {rows:?}");
    }
    if kind == Plain::Bridged {
        let rows = seen.rows_at("neighbour lan0");
        for n in CARRIED.filter(|n| !NOT_CARRIED.contains(n)) {
            let row: Row = format!("F{n:02}").parse()?;
            ensure!(rows.contains(&row), "{row} is not seen at the neighbour: {rows:?}");
        }
    }
    Ok(())
}

/// Asserts that nothing is outside, what is legal is inside, and nobody answers but members.
fn confined(seat: &Seat, members: &[[u8; 6]], seen: &Sightings) -> Result<()> {
    ensure!(seen.escaped() == 0, "escapes: {}", seen.describe());
    ensure!(seen.forbidden_inside().is_empty(), "delivered: {:?}", seen.forbidden_inside());
    let carried: BTreeSet<_> = seen.inside.keys().map(|(row, ..)| *row).collect();
    for row in ["L00", "L11", "L19", "L21", "L22", "L24", "L25"] {
        ensure!(carried.contains(&row.parse()?), "{row} is not carried: {carried:?}");
    }
    let others: Vec<_> =
        seat.answered_from().into_iter().filter(|mac| !members.contains(mac)).collect();
    ensure!(others.is_empty(), "answers come from {others:02x?}");
    Ok(())
}

#[test]
fn a_namespace_reaches_everything_from_a_plain_cable_and_nothing_from_ours() -> Result<()> {
    let mut home = Home::build()?;
    for kind in [Plain::Routed, Plain::Bridged] {
        let mut seat = Seat::plain(&mut home, &format!("plain-{kind:?}"), kind)?;
        let port = mac_of(&home.seller, PLAIN_PORT)?;
        let plan = home.plan(seat.station, &strangers(), &[port])?;
        let (tally, seen) = home.attack(&mut seat, &plan)?;
        report(&format!("{kind:?}"), tally, &seen);
        escapes(kind, &seen)?;
        home.seller.must(&format!("ip link del {PLAIN_PORT}"))?;
    }
    // What hosts remember of a guest at a plain cable, they go on asking for.
    let mut home = Home::build()?;
    let gateway = home.open("farm")?;
    let other = Seat::joined(&mut home, &gateway, "other")?;
    let mut seat = Seat::joined(&mut home, &gateway, "guest")?;
    if let Some(netns) = other.netns() {
        seat.add_member(netns);
    }
    let members = [buyer_of(&gateway)?, other.station];
    let plan = home.plan(seat.station, &members, &[])?;
    let (tally, seen) = home.attack(&mut seat, &plan)?;
    report("joined", tally, &seen);
    confined(&seat, &members.map(|member| member.mac), &seen)
}

#[test]
fn a_real_machine_reaches_everything_from_a_plain_cable_and_nothing_from_ours() -> Result<()> {
    let home = Home::build()?;
    let mut seat = Seat::plain_machine(&home, Plain::Routed)?;
    let port = mac_of(&home.seller, PLAIN_PORT)?;
    let plan = home.plan(seat.station, &strangers(), &[port])?;
    for kind in [Plain::Routed, Plain::Bridged] {
        plain(&home.seller, kind)?;
        let (tally, seen) = home.attack(&mut seat, &plan)?;
        report(&format!("machine, {kind:?}"), tally, &seen);
        escapes(kind, &seen)?;
    }
    drop(seat);
    let home = Home::build()?;
    let gateway = home.open("farm")?;
    let mut seat = Seat::machine(&home, &gateway)?;
    let members = [buyer_of(&gateway)?];
    let plan = home.plan(seat.station, &members, &[])?;
    let (tally, seen) = home.attack(&mut seat, &plan)?;
    report("run", tally, &seen);
    confined(&seat, &members.map(|member| member.mac), &seen)
}

#[test]
fn a_hypervisors_tap_reaches_nothing_by_ours() -> Result<()> {
    let mut home = Home::build()?;
    let gateway = home.open("farm")?;
    let mut seat = Seat::at_tap(&mut home, &gateway, "guest")?;
    let port = mac_of(&home.seller, PLAIN_PORT)?;
    let members = [buyer_of(&gateway)?];
    let plan = home.plan(seat.station, &members, &[port])?;
    let (tally, seen) = home.attack(&mut seat, &plan)?;
    report("tap", tally, &seen);
    confined(&seat, &members.map(|member| member.mac), &seen)
}

#[test]
fn wire_and_rules_each_hold_without_the_other_and_without_a_policy() -> Result<()> {
    let mut home = Home::build()?;
    // Whether a wire leads out, whether the rules stand, and whether anything may come out then.
    let rows = [
        (None, true, true),
        (None, false, true),
        (Some(Plain::Routed), true, true),
        (Some(Plain::Bridged), true, true),
        (Some(Plain::Routed), false, false),
        (Some(Plain::Bridged), false, false),
    ];
    for (n, (wire, rules, holds)) in rows.into_iter().enumerate() {
        let what = format!("no policy, wire {wire:?}, rules {rules}");
        let mut built = Unpoliced::build(&mut home, &format!("guest{n}"))?;
        let mut known = Vec::new();
        for netns in &built.leases {
            known.extend(macs(netns)?);
        }
        let lease = built.leases.first().context("a lease")?;
        if let Some(kind) = wire {
            lay_wire(lease, &home.seller, kind)?;
        }
        if !rules {
            for netns in &built.leases {
                flush_rules(netns)?;
            }
        }
        let mut plan = home.plan(built.seat.station, &strangers(), &known)?;
        plan.mutations = 1;
        let (tally, seen) = home.attack(&mut built.seat, &plan)?;
        report(&what, tally, &seen);
        ensure!((seen.escaped() == 0) == holds, "{what}: {}", seen.describe());
        // The segment carries everything, as there is no policy, while the rules stand.
        ensure!((seen.carried() > 0) == rules, "{what}: {} inside", seen.carried());
    }
    Ok(())
}

/// Does something to the namespace of an attacking guest: nothing may come out, and the lease ends.
fn ends_over(
    home: &Home,
    seat: &mut Seat,
    members: &[Station],
    what: &str,
    done: impl FnOnce(&Netns) -> Result<()>,
) -> Result<()> {
    let process = seat.process().context("a program of ours")?.pid();
    let leases = lease_namespaces(process)?;
    let lease = leases.first().context("a guest's wire is in a namespace")?;
    let known = macs(lease)?;
    ensure!(!known.is_empty(), "a lease's namespace has interfaces");
    let mut plan = home.plan(seat.station, members, &known)?;
    plan.mutations = 1;
    let seen = home.attack_meanwhile(seat, &plan, || done(lease))?;
    eprintln!("{what}: {}", seen.describe());
    ensure!(seen.escaped() == 0, "{what}: {}", seen.describe());
    ensure!(seen.carried() > 0, "{what}: the attack was not under way");
    let process = seat.process_mut().context("a program of ours")?;
    let status = process.wait_end(PATIENCE)?;
    ensure!(status.code() == Some(5), "{what}: ended with {status}: {}", process.log());
    Ok(())
}

#[test]
fn a_guest_to_which_a_wire_is_laid_and_one_without_rules_lose_their_lease_first() -> Result<()> {
    let mut home = Home::build()?;
    let gateway = home.open("farm")?;
    let members = [buyer_of(&gateway)?];
    let seller = home.seller.clone();
    for (n, wire) in [Some(Plain::Routed), Some(Plain::Bridged), None].into_iter().enumerate() {
        let mut seat = Seat::joined(&mut home, &gateway, &format!("guest{n}"))?;
        let what = wire.map_or("rules flushed".to_owned(), |kind| format!("wire {kind:?}"));
        ends_over(&home, &mut seat, &members, &what, |lease| match wire {
            Some(kind) => lay_wire(lease, &seller, kind),
            None => flush_rules(lease).map(drop),
        })?;
    }
    let mut seat = Seat::machine(&home, &gateway)?;
    let lay = |lease: &Netns| lay_wire(lease, &seller, Plain::Bridged);
    ends_over(&home, &mut seat, &members, "machine, wire", lay)
}

#[test]
fn a_careless_host_that_grabs_interfaces_and_drops_its_rules_gets_no_frame() -> Result<()> {
    let mut home = Home::build()?;
    let gateway = home.open("farm")?;
    let grabber = Grabber::start(&home.seller, "br0")?;
    home.seller.must("ip tuntap add probe0 mode tap")?;
    eventually("a new interface is grabbed", PATIENCE, || {
        Ok(home.seller.must("ip link show probe0")?.contains("master br0"))
    })?;
    let mut seat = Seat::joined(&mut home, &gateway, "guest")?;
    let members = [buyer_of(&gateway)?];
    let plan = home.plan(seat.station, &members, &[])?;
    let seller = home.seller.clone();
    let careless = || {
        seller.must("nft flush ruleset")?;
        seller.must("sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv4.conf.all.proxy_arp=1")?;
        Ok(())
    };
    let (tally, seen) = home.attack_after(&mut seat, &plan, careless)?;
    report("careless", tally, &seen);
    confined(&seat, &members.map(|member| member.mac), &seen)?;
    let grabbed = grabber.stop();
    ensure!(grabbed == ["probe0"], "the host got hold of {grabbed:?}");
    Ok(())
}

#[test]
fn a_neighbour_in_the_middle_sees_nothing_in_the_clear() -> Result<()> {
    let mut home = Home::build()?;
    let gateway = home.open("farm")?;
    let mut seat = Seat::joined(&mut home, &gateway, "guest")?;
    let middle = Middle::between(&home)?;
    let buyer = home.buyer_cable.host.ipv4;
    home.seller.must(&format!("ip route add {buyer}/32 via {} dev br0", middle.ipv4))?;
    let members = [buyer_of(&gateway)?];
    let plan = home.plan(seat.station, &members, &[])?;
    let capture = home.neighbour.capture()?;
    let (tally, seen) = home.attack(&mut seat, &plan)?;
    report("in the middle", tally, &seen);
    confined(&seat, &members.map(|member| member.mac), &seen)?;
    let through = capture.finish()?.count_between(middle.seller, buyer);
    ensure!(through > 20, "only {through} datagrams came through the neighbour");
    Ok(())
}
