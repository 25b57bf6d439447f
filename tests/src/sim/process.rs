//! Processes begin, act and end; clocks step and hosts sleep.

use std::sync::Arc;

use overlay_proto::control::{Command, Event as Told, PathKind, Slot};
use overlay_proto::identity::NodeKey;
use overlay_proto::node::Node;
use overlay_proto::order::Order;
use overlay_proto::registry::OrderRecord;
use overlay_proto::ticket::DialAddr;
use overlay_proto::tunnel::Carrier;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use vde_switch::time::Instant;

use super::engine::{SimCarrier, Tally};
use super::gateway::Gateway;
use super::host::{Hands, Plane, Role, WALL_START};
use super::plant::Plant;
use super::run::SECOND;
use super::seller::Link;
use super::world::{Ring, World};

impl World {
    /// Starts a process's data plane.
    pub fn start_plane(&mut self, p: usize) {
        let (wall, now, start) = (self.wall(p), self.instant(p), self.rng.next());
        let proc = &mut self.procs[p];
        let secret = match &proc.role {
            Role::Gateway(gateway) => gateway.secret,
            Role::Seller(seller) => seller.secret,
        };
        let (carrier, tally): (Arc<dyn Carrier>, Option<Arc<Tally>>) = match self.ring {
            Ring::Seeded => {
                let clock = Arc::clone(&self.hosts[proc.host].clock);
                let wall_nanos = wall * 1_000_000_000;
                let mut carrier = SimCarrier::new(secret, clock, wall_nanos, start);
                if self.plant == Some(Plant::TakesReplays) {
                    carrier.plant_replays();
                }
                let tally = Arc::clone(&carrier.tally);
                (Arc::new(carrier), Some(tally))
            }
            Ring::WireGuard => (Arc::new(WireGuardCarrier::new(secret)), None),
        };
        proc.starts += 1;
        proc.calm_since = None;
        let node = Node::new(proc.slot, carrier, now);
        proc.plane = Some(Plane { node, tally, station: None });
    }

    /// Ends a process; what is not on its disk is gone.
    pub fn stop(&mut self, p: usize) {
        let proc = &mut self.procs[p];
        proc.plane = None;
        proc.inbox.clear();
        proc.calm_since = None;
        proc.stopped_until = 0;
        match &mut proc.role {
            Role::Gateway(gateway) => gateway.live = None,
            Role::Seller(seller) => seller.membership = None,
        }
    }

    /// Kills a process.
    pub fn crash(&mut self, p: usize) {
        self.faults.crashes += 1;
        self.stop(p);
    }

    /// Lets a core act and puts what it hands out on its way. Returns what was heard.
    pub fn act(&mut self, p: usize, how: impl FnOnce(&Node, Instant, &mut Hands)) -> usize {
        let now = self.instant(p);
        let Some(plane) = &self.procs[p].plane else { return 0 };
        let mut hands = Hands::default();
        how(&plane.node, now, &mut hands);
        if self.plant == Some(Plant::LosesFrames) && self.rng.permille(50) {
            hands.heard.pop();
        }
        let heard = hands.heard.len();
        for (to, stride, bytes) in hands.sent {
            for datagram in bytes.chunks(stride.max(1)) {
                self.transmit(p, to, datagram);
            }
        }
        for frame in hands.heard {
            self.deliver(p, &frame);
        }
        self.check_switches(p);
        while let Some(told) =
            self.procs[p].plane.as_ref().and_then(|plane| plane.node.poll_event())
        {
            if let Told::Path { slot, path: PathKind::Direct(from), .. } = told {
                self.handle_path(p, slot, from);
            }
        }
        heard
    }

    /// Carries out a command.
    pub fn command(&mut self, p: usize, command: Command) {
        self.act(p, |node, now, hands| {
            // What is refused changes nothing; a slot's stations may be another's for a moment.
            let _ = node.handle_command(command, now, hands);
        });
    }
}

/// Makes a buyer with an order, and starts its gateway.
pub fn add_gateway(world: &mut World, order: usize, host: usize, large: bool) {
    let key = NodeKey::from_seed(&world.rng.bytes());
    let secret = world.rng.bytes();
    let nonce = world.rng.bytes();
    let subnet = "10.77.0.0/24".parse().expect("a subnet");
    let name = "farm".parse().expect("a name");
    let certificate = Order { buyer: key.id(), nonce };
    let mut record = OrderRecord::new(certificate, name, subnet, world.public(secret));
    record.life_s = if large { 60 } else { world.rng.pick(&[10, 20, 60, 120]).unwrap_or(60) };
    let life = u64::from(record.life_s) * SECOND;
    let gateway = Gateway::new(key, secret, record);
    let p = world.add_proc(order, Slot::GATEWAY, host, Role::Gateway(Box::new(gateway)));
    let address = world.procs[p].address;
    if let Some(gateway) = world.procs[p].gateway_mut() {
        gateway.store.order.addresses = vec![DialAddr::Ip(address)];
        gateway.store.order.port = address.port();
    }
    world.gateways.push(p);
    world.tickets.push(Vec::new());
    world.model.add_order(life);
    world.start_gateway(p);
}

/// Starts a process that does not run and has not ended for good.
pub fn start(world: &mut World, p: usize) {
    if world.procs[p].plane.is_some() {
        return;
    }
    match &mut world.procs[p].role {
        Role::Gateway(gateway) => {
            gateway.crash_in = 0;
            world.start_gateway(p);
        }
        Role::Seller(seller) if seller.ended.is_none() => {
            seller.link = Link::Idle(0);
            world.start_seller(p);
        }
        Role::Seller(_) => {}
    }
}

pub(super) fn step_clock(world: &mut World, host: usize) {
    const HOUR: i64 = 3600;
    const YEAR: i64 = 365 * 24 * HOUR;
    world.faults.clock_steps += 1;
    let since_1970 = WALL_START as i64;
    let offsets = [HOUR, -HOUR, -since_1970, 10 * YEAR, 0];
    world.hosts[host].wall_offset = world.rng.pick(&offsets).unwrap_or(0);
}

pub(super) fn put_to_sleep(world: &mut World, host: usize) {
    let sleep = world.rng.range(SECOND, 90 * SECOND);
    if world.hosts[host].asleep_until > world.now {
        return;
    }
    world.hosts[host].asleep_until = world.now + sleep;
    let stands_still = world.plant == Some(Plant::ClockSleeps);
    let now = world.now;
    world.hosts[host].slept.push((now, now + sleep));
    world.hosts[host].stands_still = stands_still;
    for proc in &mut world.procs {
        if proc.host == host {
            proc.inbox.clear();
        }
    }
}
