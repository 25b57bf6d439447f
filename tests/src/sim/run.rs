//! One run: a world drawn from a seed, its misfortunes, and the calm in which all must recover.
//!
//! # Theory of operation
//! [`run`] lets guests send and draws a misfortune every second or so: weather, partitions,
//! crashes, clock steps, pauses, evictions, changes of options, attacks. What is broken for a while
//! is put on a list of what is due. Then all faults stop but the wrong clocks, and within
//! [`RECOVERY`] every member must have reached every other.

use std::collections::BTreeMap;

use overlay_proto::control::Slot;
use overlay_proto::identity::NodeKey;

use super::buyer::some_options;
use super::host::Role;
use super::link::{Faults, MS, Weather};
use super::model::{Invariant, Violation};
use super::plant::Plant;
use super::process::{add_gateway, put_to_sleep, start, step_clock};
use super::recovery::{Reached, stop_faults};
use super::seller::Seller;
use super::world::{Done, Ring, World};

/// A second, in nanoseconds.
pub const SECOND: u64 = 1000 * MS;

/// How long members may take to reach each other after faults have stopped.
pub const RECOVERY: u64 = 60 * SECOND;

/// Between two rounds of questions who reaches whom.
const ROUND: u64 = SECOND;

/// Every so many seeds are as large as the product is to be.
const LARGE_EVERY: u64 = 400;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// All events, folded into a number.
    pub trace: u64,
    /// Simulated nanoseconds.
    pub time: u64,
    /// What was done.
    pub done: Done,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// How long the slowest pair took to reach each other again.
    pub recovery: u64,
}

/// What is put right, or goes on, later.
#[derive(Clone, Copy, Debug)]
enum Due {
    Start(usize),
    Uncut(usize),
    Join(usize, usize),
    Weather,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, ring: Ring, plant: Option<Plant>) -> Outcome {
    let mut play = Play::new(seed, ring, plant);
    play.misfortunes();
    play.recover();
    let Play { world, recovery, .. } = play;
    Outcome {
        seed,
        violation: world.violation,
        trace: world.trace,
        time: world.now,
        done: world.done,
        faults: world.faults,
        recovery,
    }
}

struct Play {
    world: World,
    due: BTreeMap<(u64, u64), Due>,
    due_count: u64,
    ends_at: u64,
    weather: Weather,
    traffic_interval: u64,
    recovery: u64,
}

impl Play {
    fn new(seed: u64, ring: Ring, plant: Option<Plant>) -> Self {
        let mut world = World::new(seed, ring, plant);
        let large = ring == Ring::Seeded && seed % LARGE_EVERY == LARGE_EVERY - 1;
        let small = ring == Ring::WireGuard;
        let rng = &mut world.rng;
        let sellers = if large { 50 } else { rng.range(1, if small { 3 } else { 6 }) } as usize;
        let orders = if large { 3 } else { rng.range(1, 2) } as usize;
        let seconds = match (large, small) {
            (true, _) => 20,
            (_, true) => 15,
            (false, false) => rng.range(30, 120),
        };
        let ends_at = seconds * SECOND;
        let traffic_interval = if large { 20 * MS } else { rng.range(30, 300) * MS };
        let weather = Weather {
            loss: rng.below(150),
            dup: rng.below(100),
            reorder: rng.below(150),
            delay: (MS, rng.range(2, 120) * MS),
        };
        let mut play = Self {
            world,
            due: BTreeMap::new(),
            due_count: 0,
            ends_at,
            weather,
            traffic_interval,
            recovery: 0,
        };
        play.world.underlay.weather = weather;
        play.people(sellers, orders, large);
        play
    }

    /// Makes the buyers, their orders, and the sellers with a lease of each.
    fn people(&mut self, sellers: usize, orders: usize, large: bool) {
        let world = &mut self.world;
        let buyer_host = world.add_host();
        for order in 0..orders {
            let host =
                if order > 0 && world.rng.permille(500) { world.add_host() } else { buyer_host };
            add_gateway(world, order, host, large);
        }
        for _ in 0..sellers {
            let host = self.world.add_host();
            let key = NodeKey::from_seed(&self.world.rng.bytes());
            for order in 0..orders {
                self.add_seller(order, host, key.clone(), None);
            }
        }
        let world = &mut self.world;
        for a in 1..world.hosts.len() {
            for b in 1..a {
                let gateway = world.gateways.iter().any(|p| [a, b].contains(&world.procs[*p].host));
                if !gateway && world.rng.permille(200) {
                    world.underlay.set_natted(a, b);
                }
            }
        }
        let rogue = world.rng.below(world.procs.len() as u64) as usize;
        let (order, slot) = (world.procs[rogue].order, world.procs[rogue].slot);
        if sellers > 1
            && world.rng.permille(500)
            && let Some(seller) = world.procs[rogue].seller_mut()
        {
            seller.rogue = true;
            world.rogues.insert((order, slot));
        }
    }

    /// Adds a seller with a ticket for a new slot, or for one that he takes over.
    fn add_seller(&mut self, order: usize, host: usize, key: NodeKey, replaced: Option<Slot>) {
        let world = &mut self.world;
        let gateway = world.gateways[order];
        let Some((ticket, number)) = world.invite(gateway, replaced) else { return };
        let slot = ticket.body().slot;
        let secret = world.rng.bytes();
        let data_key = world.public(secret);
        world.tickets[order].push((slot, number, ticket.clone()));
        let mut seller = Seller::new(key, secret, data_key, ticket);
        seller.only_buyer = world.rng.permille(80);
        let p = world.add_proc(order, slot, host, Role::Seller(Box::new(seller)));
        let at = world.now + world.rng.below(4 * SECOND);
        self.later(at, Due::Start(p));
    }

    fn later(&mut self, at: u64, due: Due) {
        self.due_count += 1;
        self.due.insert((at, self.due_count), due);
    }

    /// Lets all happen up to a moment, or to the first violation.
    fn pass(&mut self, until: u64) {
        while self.world.violation.is_none() {
            let due_at = self.due.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let next_at = self.world.next_at();
            if due_at.min(next_at) > until {
                break;
            }
            if next_at <= due_at {
                self.world.step();
            } else if let Some(((at, _), due)) = self.due.pop_first() {
                self.world.now = self.world.now.max(at);
                self.put_right(due);
            }
        }
        self.world.now = self.world.now.max(until);
    }

    fn put_right(&mut self, due: Due) {
        match due {
            Due::Start(p) => start(&mut self.world, p),
            Due::Uncut(host) => drop(self.world.underlay.cut.remove(&host)),
            Due::Join(a, b) => self.world.underlay.set_apart(a, b, false),
            Due::Weather => self.world.underlay.weather = self.weather,
        }
    }

    /// Stops all faults and waits until all members have reached each other.
    fn recover(&mut self) {
        self.due.retain(|_, due| matches!(due, Due::Start(_)));
        stop_faults(&mut self.world);
        let from = self.world.now;
        let mut reached = Reached::default();
        while self.world.now < from + RECOVERY && self.world.violation.is_none() {
            let until = self.world.now + ROUND;
            self.pass(until);
            if reached.ask(&mut self.world) {
                self.recovery = self.world.now - from;
                return;
            }
        }
        if self.world.violation.is_none() {
            let what = reached.missing(&mut self.world);
            self.world.fail(Invariant::Liveness, what);
        }
    }

    fn misfortunes(&mut self) {
        let mut traffic_at = 0;
        let mut misfortune_at = 3 * SECOND;
        while self.world.now < self.ends_at && self.world.violation.is_none() {
            self.pass(traffic_at.min(misfortune_at));
            if self.world.now >= traffic_at {
                self.traffic();
                traffic_at = self.world.now + self.traffic_interval;
            }
            if self.world.now >= misfortune_at {
                self.misfortune();
                misfortune_at = self.world.now + self.world.rng.range(50 * MS, 2500 * MS);
            }
        }
    }

    fn traffic(&mut self) {
        let world = &mut self.world;
        let p = world.rng.below(world.procs.len() as u64) as usize;
        let order = world.procs[p].order;
        let others: Vec<Slot> = (0..world.procs.len())
            .filter(|other| world.procs[*other].order == order && *other != p)
            .map(|other| world.procs[other].slot)
            .collect();
        let to = if world.rng.permille(150) { None } else { world.rng.pick(&others) };
        let len = if world.rng.permille(100) { 1400 } else { world.rng.below(200) as usize };
        world.guest_sends(p, to, if to.is_none() { len.min(1000) } else { len });
    }

    fn misfortune(&mut self) {
        let world = &mut self.world;
        let now = world.now;
        let p = world.rng.below(world.procs.len() as u64) as usize;
        let host = world.procs[p].host;
        let gateway = world.rng.pick(&world.gateways.clone()).unwrap_or(0);
        match world.rng.below(30) {
            0 => {
                world.underlay.weather.loss = world.rng.range(200, 900);
                let at = now + world.rng.range(SECOND, 6 * SECOND);
                self.later(at, Due::Weather);
            }
            1 | 2 => {
                world.faults.partitions += 1;
                world.underlay.cut.insert(host);
                let at = now + world.rng.range(200 * MS, 40 * SECOND);
                self.later(at, Due::Uncut(host));
            }
            3 | 4 => {
                world.faults.partitions += 1;
                let other = world.rng.below(world.hosts.len() as u64) as usize;
                world.underlay.set_apart(host, other, true);
                let at = now + world.rng.range(200 * MS, 60 * SECOND);
                self.later(at, Due::Join(host, other));
            }
            5 | 6 if world.procs[p].plane.is_some() => {
                world.crash(p);
                let at = now + world.rng.range(100 * MS, 15 * SECOND);
                self.later(at, Due::Start(p));
            }
            7 => {
                if world.procs[gateway].plane.is_some() {
                    world.crash(gateway);
                }
                let at = now + world.rng.range(100 * MS, 45 * SECOND);
                self.later(at, Due::Start(gateway));
            }
            8 => {
                let steps = world.rng.range(1, 4) as u32;
                if let Some(gateway) = world.procs[gateway].gateway_mut() {
                    gateway.crash_in = steps;
                }
                let at = now + world.rng.range(5 * SECOND, 12 * SECOND);
                self.later(at, Due::Start(gateway));
            }
            9..=11 => step_clock(world, host),
            12 | 13 => {
                world.faults.pauses += 1;
                world.procs[p].stopped_until = now + world.rng.range(100 * MS, 40 * SECOND);
            }
            14 | 15 => {
                world.faults.pauses += 1;
                put_to_sleep(world, host);
            }
            16 if p != gateway => {
                let (slot, order) = (world.procs[p].slot, world.procs[p].order);
                let gateway = world.gateways[order];
                if world.is_running(gateway) && slot != Slot::GATEWAY {
                    world.evict(gateway, slot);
                }
            }
            17 | 18 => self.hand_over(p),
            19 => {
                world.leave(p);
                let at = now + world.rng.range(SECOND, 10 * SECOND);
                self.later(at, Due::Start(p));
            }
            20 => {
                let options = some_options(&mut world.rng);
                if world.is_running(gateway) {
                    world.set_options(gateway, &options);
                }
            }
            _ => world.attack(),
        }
    }

    /// Gives a slot, or a new one, to a seller who was not there before.
    fn hand_over(&mut self, p: usize) {
        let (order, slot) = (self.world.procs[p].order, self.world.procs[p].slot);
        let many = self.world.procs.len() > 24;
        if many || !self.world.is_running(self.world.gateways[order]) {
            return;
        }
        let host = self.world.add_host();
        let key = NodeKey::from_seed(&self.world.rng.bytes());
        let rogue = self.world.rogues.contains(&(order, slot));
        let replaced = (slot != Slot::GATEWAY && !rogue).then_some(slot);
        self.add_seller(order, host, key, replaced);
    }
}
