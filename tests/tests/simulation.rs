//! Whole orders in moved time, from seeds: what must never happen, and that all recover.
//!
//! `SEED=n cargo test --release -p overlay-tests --test simulation` runs one seed again; `SEEDS=n`
//! runs so many. Each planted bug shows that some invariant can fail.

use std::time::Instant;

use overlay_proto::control::Slot;
use overlay_proto::identity::NodeKey;
use overlay_tests::sim::host::Role;
use overlay_tests::sim::link::Weather;
use overlay_tests::sim::many::{Summary, many};
use overlay_tests::sim::model::Invariant;
use overlay_tests::sim::plant::Plant;
use overlay_tests::sim::process::add_gateway;
use overlay_tests::sim::run::{SECOND, run};
use overlay_tests::sim::seller::Seller;
use overlay_tests::sim::world::{Ring, World};

/// Seeds of the first ring in each run of the tests.
const SEEDS: u64 = 2000;
/// Seeds of the ring with the real engine.
const REAL_SEEDS: u64 = 50;
/// Seeds within which a planted bug is to be found.
const PLANT_SEEDS: u64 = 400;
/// Threads: the smallest machine that this is tested on has two cores.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn hold(summary: &Summary, started_at: Instant) {
    eprintln!("simulation: {}", summary.describe(started_at.elapsed()));
    if let Some((seed, violation)) = &summary.failed {
        panic!("seed {seed}: {violation}; SEED={seed} replays it");
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let started_at = Instant::now();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    hold(&many(seeds, THREADS, Ring::Seeded, None), started_at);
}

#[test]
fn no_seed_breaks_an_invariant_with_the_real_engine() {
    let started_at = Instant::now();
    hold(&many(0..REAL_SEEDS, THREADS, Ring::WireGuard, None), started_at);
}

#[test]
fn a_seed_is_a_run() {
    for seed in [1, 7, 42, 399] {
        let (first, second) = (run(seed, Ring::Seeded, None), run(seed, Ring::Seeded, None));
        assert_eq!(first.trace, second.trace, "seed {seed} went another way the second time");
        assert_eq!(first.done.events, second.done.events);
    }
    let other = run(2, Ring::Seeded, None);
    assert_ne!(run(1, Ring::Seeded, None).trace, other.trace, "the trace says nothing");
}

/// Asserts that a planted bug breaks one of these invariants.
fn catches(plant: Plant, expected: &[Invariant]) {
    let summary = many(0..PLANT_SEEDS, THREADS, Ring::Seeded, Some(plant));
    let (seed, violation) = summary.failed.unwrap_or_else(|| panic!("{plant:?} is not noticed"));
    eprintln!(
        "simulation: {plant:?} is caught after {} seeds by {seed}: {violation}",
        summary.runs
    );
    assert!(expected.contains(&violation.invariant), "{plant:?} broke {violation}");
}

#[test]
fn a_gateway_that_answers_before_it_writes_is_caught() {
    catches(Plant::ForgetsToWrite, &[Invariant::Tickets, Invariant::Liveness]);
}

#[test]
fn planes_that_keep_members_who_are_gone_are_caught() {
    catches(Plant::KeepsMembers, &[Invariant::Membership]);
}

#[test]
fn a_member_that_outlives_its_grant_is_caught() {
    catches(Plant::LivesForever, &[Invariant::Membership]);
}

#[test]
fn a_clock_that_stands_still_while_the_host_sleeps_is_caught() {
    catches(Plant::ClockSleeps, &[Invariant::Membership]);
}

#[test]
fn a_receiver_that_takes_a_key_for_another_station_is_caught() {
    catches(Plant::ForeignStation, &[Invariant::Addresses]);
}

#[test]
fn an_engine_that_takes_replays_is_caught() {
    catches(Plant::TakesReplays, &[Invariant::OneDelivery]);
}

#[test]
fn a_member_that_follows_old_rosters_is_caught() {
    catches(Plant::OldRosters, &[Invariant::Versions]);
}

#[test]
fn a_gateway_that_hands_on_twice_is_caught() {
    catches(Plant::HandsOnTwice, &[Invariant::OneDelivery]);
}

#[test]
fn a_gateway_that_forgets_evictions_is_caught() {
    catches(Plant::ForgetsEvictions, &[Invariant::Tickets, Invariant::Membership]);
}

#[test]
fn a_shell_that_mixes_orders_up_is_caught() {
    catches(Plant::MixesOrders, &[Invariant::Segments]);
}

#[test]
fn a_member_that_never_comes_back_is_caught() {
    catches(Plant::GivesUp, &[Invariant::Liveness]);
}

#[test]
fn a_frame_that_vanishes_is_caught() {
    catches(Plant::LosesFrames, &[Invariant::Conservation]);
}

/// A gateway and one seller on a fair network, up for ten seconds.
fn pair(only_buyer: bool) -> (World, usize, usize) {
    let mut world = World::new(7, Ring::Seeded, None);
    world.underlay.weather = Weather::FAIR;
    let (buyer_host, host) = (world.add_host(), world.add_host());
    add_gateway(&mut world, 0, buyer_host, false);
    let gateway = world.gateways[0];
    let (ticket, number) = world.invite(gateway, None).expect("the order has room");
    world.tickets[0].push((Slot(1), number, ticket.clone()));
    let key = NodeKey::from_seed(&[5; 32]);
    let mut seller = Seller::new(key, [6; 32], world.public([6; 32]), ticket);
    seller.only_buyer = only_buyer;
    let p = world.add_proc(0, Slot(1), host, Role::Seller(Box::new(seller)));
    world.start_seller(p);
    pass(&mut world, 10);
    (world, gateway, p)
}

fn pass(world: &mut World, seconds: u64) {
    let until = world.now + seconds * SECOND;
    while world.next_at() <= until {
        world.step();
    }
    world.now = until;
}

/// Lets a guest send once a second and says after how many seconds a frame arrived.
fn reaches_after(world: &mut World, from: usize, to: usize) -> Option<usize> {
    let slot = world.procs[to].slot;
    (1..30).find(|_| {
        let id = world.flights.len();
        world.guest_sends(from, Some(slot), 0);
        pass(world, 1);
        world.flights[id..].iter().any(|flight| flight.heard.contains(&to))
    })
}

/// The handshake bears a time, and who has seen a later one refuses it as a replay.
#[test]
fn a_seller_that_starts_anew_with_its_clock_set_back_reaches_the_buyer() {
    for only_buyer in [false, true] {
        let (mut world, gateway, p) = pair(only_buyer);
        assert_eq!(reaches_after(&mut world, p, gateway), Some(1));
        world.crash(p);
        world.hosts[world.procs[p].host].wall_offset = -3600;
        world.start_seller(p);
        let after = reaches_after(&mut world, p, gateway);
        assert!(after.is_some_and(|after| after <= 10), "{after:?}, only buyer: {only_buyer}");
        assert!(world.violation.is_none(), "{:?}", world.violation);
    }
}

/// The same at another address, which no session of the gateway's leads to.
#[test]
fn a_seller_that_starts_anew_elsewhere_with_its_clock_set_back_reaches_the_buyer() {
    let (mut world, gateway, p) = pair(true);
    assert_eq!(reaches_after(&mut world, p, gateway), Some(1));
    world.crash(p);
    world.hosts[world.procs[p].host].wall_offset = -3600;
    world.readdress(p, "44.1.0.200:7770".parse().expect("an address"));
    world.start_seller(p);
    let after = reaches_after(&mut world, p, gateway);
    assert!(after.is_some_and(|after| after <= 15), "{after:?}");
    assert!(world.violation.is_none(), "{:?}", world.violation);
}

/// A forged source makes nobody of special use hear from us, and anybody else a few packets.
#[test]
fn a_replayed_initiation_sends_nothing_to_special_addresses_and_little_to_others() {
    let (mut world, gateway, p) = pair(true);
    let (from, to) = (world.procs[p].address, world.procs[gateway].address);
    let of_seller = |sent: &&(_, _, Vec<u8>)| (sent.0, sent.1, sent.2[0]) == (from, to, 1);
    let initiation = world.recorded.iter().rfind(of_seller).expect("it shook hands").2.clone();
    world.crash(p);
    let forged = ["192.168.1.1:7770", "169.254.169.254:7770", "127.0.0.1:7770", "44.9.9.9:7770"];
    let forged = forged.map(|text| text.parse().expect("an address"));
    let mut heard = [0; 4];
    for second in 0..240 {
        let victim = second % forged.len();
        world.recorded.clear();
        world.open(gateway, forged[victim], &initiation);
        pass(&mut world, 1);
        for (victim, heard) in forged.iter().zip(&mut heard) {
            *heard += world.recorded.iter().filter(|(_, to, _)| to == victim).count();
        }
    }
    assert_eq!(heard[..3], [0; 3], "special addresses heard so many datagrams");
    assert!((1..=8).contains(&heard[3]), "a stranger heard {} datagrams", heard[3]);
}

/// An old initiation, sent again to a gateway that has just started, must not keep its sender out.
#[test]
fn a_replayed_initiation_of_a_later_time_shuts_nobody_out() {
    let (mut world, gateway, p) = pair(true);
    world.crash(p);
    world.hosts[world.procs[p].host].wall_offset = 3600;
    world.start_seller(p);
    pass(&mut world, 10);
    let (from, to) = (world.procs[p].address, world.procs[gateway].address);
    let of_seller = |sent: &&(_, _, Vec<u8>)| (sent.0, sent.1, sent.2[0]) == (from, to, 1);
    let initiation = world.recorded.iter().rfind(of_seller).expect("it shook hands").2.clone();
    world.crash(p);
    world.crash(gateway);
    world.start_gateway(gateway);
    world.open(gateway, from, &initiation);
    world.hosts[world.procs[p].host].wall_offset = 0;
    world.start_seller(p);
    let after = reaches_after(&mut world, p, gateway);
    assert!(after.is_some_and(|after| after <= 10), "{after:?}");
    assert!(world.violation.is_none(), "{:?}", world.violation);
}
