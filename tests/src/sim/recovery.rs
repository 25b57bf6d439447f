//! The calm after the faults: everybody must reach everybody.
//!
//! # Theory of operation
//! [`stop_faults`] makes the network fair, wakes who sleeps and starts who crashed; wrong clocks
//! stay wrong. [`Reached`] then lets members ask each other, round by round, until no pair is
//! missing.

use std::collections::BTreeMap;

use super::link::Weather;
use super::process::start;
use super::world::World;

/// Most pairs that are asked for; of more, some.
const PAIRS_MAX: usize = 300;

/// Ends all that is wrong but the clocks.
pub fn stop_faults(world: &mut World) {
    world.underlay.weather = Weather::FAIR;
    world.underlay.cut.clear();
    world.underlay.apart.clear();
    for p in 0..world.procs.len() {
        world.procs[p].stopped_until = 0;
        if let Some(gateway) = world.procs[p].gateway_mut() {
            gateway.crash_in = 0;
        }
    }
    for host in &mut world.hosts {
        host.asleep_until = host.asleep_until.min(world.now);
        if let Some((_, until)) = host.slept.last_mut() {
            *until = world.now.min(*until);
        }
    }
    for p in 0..world.procs.len() {
        start(world, p);
    }
}

/// Who has reached whom since faults stopped.
#[derive(Debug, Default)]
pub struct Reached {
    asked: BTreeMap<(usize, usize), Vec<usize>>,
}

impl Reached {
    /// Asks the pairs that are missing; says whether there are none.
    pub fn ask(&mut self, world: &mut World) -> bool {
        let mut pairs = Vec::new();
        for order in 0..world.gateways.len() {
            let members = world.members(order);
            for a in &members {
                pairs.extend(members.iter().filter(|b| *b != a).map(|b| (*a, *b)));
            }
        }
        let stride = pairs.len().div_ceil(PAIRS_MAX).max(1);
        let mut missing = 0;
        for (a, b) in pairs.into_iter().step_by(stride) {
            let asked = self.asked.entry((a, b)).or_default();
            if asked.iter().any(|id| world.flights[*id].heard.contains(&b)) {
                continue;
            }
            missing += 1;
            asked.push(world.flights.len());
            let (before, to) = (world.flights.len(), world.procs[b].slot);
            world.guest_sends(a, Some(to), 0);
            if world.flights.len() == before {
                asked.pop(); // it has no data plane to send by yet
            }
        }
        missing == 0
    }

    /// Says who does not reach whom, and what the first two know.
    pub fn missing(&self, world: &mut World) -> String {
        let heard =
            |ids: &Vec<usize>, b: usize| ids.iter().any(|id| world.flights[*id].heard.contains(&b));
        let missing: Vec<String> = self
            .asked
            .iter()
            .filter(|((_, b), ids)| !heard(ids, *b))
            .map(|((a, b), ids)| {
                let (from, to) = (&world.procs[*a], &world.procs[*b]);
                let states = [from, to].map(|proc| match proc.seller() {
                    Some(seller) => format!("{:?} {:?}", seller.link, seller.ended),
                    None => "gateway".to_owned(),
                });
                let (order, asked) = (from.order, ids.len());
                let (from, to) = (from.slot.0, to.slot.0);
                format!("order {order}: {from} to {to}, {asked} asked, {states:?}")
            })
            .collect();
        let first = self.asked.iter().find(|((_, b), ids)| !heard(ids, *b)).map(|(pair, _)| *pair);
        let ends: Vec<_> = first.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let stats: Vec<_> = ends.into_iter().filter_map(|p| world.stats(p)).collect();
        let missing = (missing.len(), missing.join("; "));
        format!("{} pairs do not reach each other: {}; {stats:?}", missing.0, missing.1)
    }
}
