//! The world of one run: hosts, processes, what is under way between them, and what is asked after
//! each event.
//!
//! # Theory of operation
//! All that happens is an [`Event`] at a time; events of one time happen in the order in which they
//! were scheduled. [`World::step`] takes the next one, lets the cores it concerns act, puts what
//! they hand out on its way, and checks the invariants of what was touched. Chance comes from one
//! stream of numbers alone and maps are ordered, so a seed is a run. The trace is one number into
//! which all events are folded.
//!
//! # Limits
//! A tick of [`TICK`] for all processes. Datagrams lately sent are kept for replays,
//! [`RECORDED_MAX`] of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use overlay_proto::control::Slot;
use overlay_proto::ticket::Ticket;
use overlay_proto::tunnel::Carrier;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use vde_switch::time::Instant;

use super::engine::SimCarrier;
use super::host::{Host, INBOX_MAX, Proc, Role};
use super::link::{Faults, MS, Underlay};
use super::model::{Invariant, Model, Violation};
use super::plant::Plant;
use super::rng::{Rng, mix};
use super::stream::{Conn, Way};

/// How often processes look at their timers.
pub const TICK: u64 = 100 * MS;

/// Datagrams kept for replays.
pub const RECORDED_MAX: usize = 512;

/// Words of gateways kept for replays.
const WORDS_MAX: usize = 64;

/// Which engine the tunnels have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The seeded one.
    Seeded,
    /// boringtun, which reads the real clock.
    WireGuard,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A datagram arrives.
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    /// Timers run.
    Tick,
    /// A connection's queue may have a message that is due.
    Pump(u64, Way),
    /// A connection ends.
    HangUp(u64),
}

/// A frame that a guest sent.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Who sent it, and when.
    pub from: usize,
    /// Its sender's standing then.
    pub party: super::model::Party,
    /// When.
    pub sent_at: u64,
    /// For whom; `None` is everyone.
    pub to: Option<Slot>,
    /// Which processes have it.
    pub heard: Vec<usize>,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Events.
    pub events: u64,
    /// Frames sent.
    pub frames: u64,
    /// Frames delivered.
    pub delivered: u64,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct World {
    /// Nanoseconds since the start.
    pub now: u64,
    /// All chance.
    pub rng: Rng,
    /// Which engine.
    pub ring: Ring,
    /// A planted bug.
    pub plant: Option<Plant>,
    /// The network.
    pub underlay: Underlay,
    /// Computers.
    pub hosts: Vec<Host>,
    /// Programs.
    pub procs: Vec<Proc>,
    /// The process of each order's gateway.
    pub gateways: Vec<usize>,
    /// Who disobeys.
    pub rogues: BTreeSet<(usize, Slot)>,
    /// Control connections.
    pub conns: BTreeMap<u64, Conn>,
    /// The last one's number.
    pub conn_last: u64,
    /// Who may hear whom.
    pub model: Model,
    /// Frames by their number.
    pub flights: Vec<Flight>,
    /// Tickets by order: the slot, its count there, the ticket.
    pub tickets: Vec<Vec<(Slot, u32, Ticket)>>,
    /// Datagrams that were sent.
    pub recorded: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Words of gateways, with whom they were for.
    pub words: VecDeque<(usize, overlay_proto::messages::ToMember)>,
    /// What went wrong.
    pub faults: Faults,
    /// What was done.
    pub done: Done,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// All events, folded.
    pub trace: u64,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    addresses: BTreeMap<SocketAddr, usize>,
}

impl World {
    /// Makes a world without anybody.
    #[must_use]
    pub fn new(seed: u64, ring: Ring, plant: Option<Plant>) -> Self {
        let mut world = Self {
            now: 0,
            rng: Rng::new(seed),
            ring,
            plant,
            underlay: Underlay::default(),
            hosts: Vec::new(),
            procs: Vec::new(),
            gateways: Vec::new(),
            rogues: BTreeSet::new(),
            conns: BTreeMap::new(),
            conn_last: 0,
            model: Model::default(),
            flights: Vec::new(),
            tickets: Vec::new(),
            recorded: VecDeque::new(),
            words: VecDeque::new(),
            faults: Faults::default(),
            done: Done::default(),
            violation: None,
            trace: mix(seed),
            queue: BTreeMap::new(),
            scheduled: 0,
            addresses: BTreeMap::new(),
        };
        world.schedule(TICK, Event::Tick);
        world
    }

    /// Notes that an invariant did not hold; the first one counts.
    pub fn fail(&mut self, invariant: Invariant, what: String) {
        let what = format!("{what} (at {:.3} s)", self.now as f64 / 1e9);
        self.violation.get_or_insert(Violation { invariant, what });
    }

    /// Adds a computer.
    pub fn add_host(&mut self) -> usize {
        let number = self.hosts.len();
        let offset = self.rng.range(1 << 34, 1 << 50);
        self.hosts.push(Host::new(number, offset));
        number
    }

    /// Adds a program that does not run yet.
    pub fn add_proc(&mut self, order: usize, slot: Slot, host: usize, role: Role) -> usize {
        let address = SocketAddr::from((self.hosts[host].ip, 7770 + order as u16));
        let p = self.procs.len();
        self.addresses.insert(address, p);
        self.procs.push(Proc {
            order,
            slot,
            host,
            address,
            plane: None,
            stopped_until: 0,
            inbox: VecDeque::new(),
            starts: 0,
            calm_since: None,
            role,
        });
        p
    }

    /// Gives a program's host another address.
    pub fn readdress(&mut self, p: usize, address: SocketAddr) {
        let old = std::mem::replace(&mut self.procs[p].address, address);
        self.addresses.remove(&old);
        self.addresses.insert(address, p);
    }

    /// Makes something happen later.
    pub fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at.max(self.now), self.scheduled), event);
    }

    /// Returns when the next event is.
    #[must_use]
    pub fn next_at(&self) -> u64 {
        self.queue.first_key_value().map_or(u64::MAX, |((at, _), _)| *at)
    }

    /// Lets the next event happen.
    pub fn step(&mut self) {
        let Some(((at, _), event)) = self.queue.pop_first() else { return };
        self.now = at;
        self.done.events += 1;
        self.fold(at);
        match event {
            Event::Datagram(from, to, bytes) => self.receive(from, to, bytes),
            Event::Tick => {
                self.schedule(at + TICK, Event::Tick);
                self.tick();
            }
            Event::Pump(id, way) => self.pump(id, way),
            Event::HangUp(id) => self.hang_up(id),
        }
    }

    /// Folds a number into the trace.
    pub const fn fold(&mut self, number: u64) {
        self.trace = mix(self.trace ^ number);
    }

    /// Says whether a process runs and is not stopped.
    #[must_use]
    pub fn is_running(&self, p: usize) -> bool {
        let proc = &self.procs[p];
        let asleep = self.hosts[proc.host].asleep_until > self.now;
        proc.plane.is_some() && proc.stopped_until <= self.now && !asleep
    }

    /// Says whether nothing passes between the hosts of two processes.
    #[must_use]
    pub fn are_apart(&self, a: usize, b: usize) -> bool {
        self.underlay.is_apart(self.procs[a].host, self.procs[b].host)
    }

    /// Returns boot time at a process's host.
    pub fn instant(&self, p: usize) -> Instant {
        self.hosts[self.procs[p].host].instant(self.now)
    }

    /// Returns wall time there.
    #[must_use]
    pub fn wall(&self, p: usize) -> u64 {
        self.hosts[self.procs[p].host].wall(self.now)
    }

    /// Returns which of its slot's tickets this is.
    #[must_use]
    pub fn ticket_number(&self, order: usize, ticket: &Ticket) -> Option<u32> {
        let of_order = self.tickets.get(order)?;
        of_order.iter().find(|(.., known)| known == ticket).map(|(_, number, _)| *number)
    }

    /// Returns the public half of a data-plane key.
    #[must_use]
    pub fn public(&self, secret: [u8; 32]) -> [u8; 32] {
        match self.ring {
            Ring::Seeded => SimCarrier::new(secret, Arc::default(), 0, 0).public(),
            Ring::WireGuard => WireGuardCarrier::new(secret).public(),
        }
    }

    /// Puts a datagram on its way.
    pub fn transmit(&mut self, p: usize, to: SocketAddr, bytes: &[u8]) {
        let from = self.procs[p].address;
        if self.recorded.len() >= RECORDED_MAX {
            self.recorded.pop_front();
        }
        self.recorded.push_back((from, to, bytes.to_vec()));
        let Some(receiver) = self.addresses.get(&to) else { return };
        let (a, b) = (self.procs[p].host, self.procs[*receiver].host);
        let fates = self.underlay.fates(a, b, &mut self.rng, &mut self.faults);
        for fate in fates {
            self.schedule(self.now + fate, Event::Datagram(from, to, bytes.to_vec()));
        }
    }

    /// Keeps a gateway's word for replays.
    pub fn record_word(&mut self, conn: u64, word: &overlay_proto::messages::ToMember) {
        let Some(conn) = self.conns.get(&conn) else { return };
        if self.words.len() >= WORDS_MAX {
            self.words.pop_front();
        }
        self.words.push_back((conn.seller.0, word.clone()));
    }

    fn receive(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some(p) = self.addresses.get(&to).copied() else { return };
        let asleep = self.hosts[self.procs[p].host].asleep_until > self.now;
        if self.procs[p].plane.is_none() || asleep {
            return;
        }
        if !self.is_running(p) {
            let inbox = &mut self.procs[p].inbox;
            if inbox.len() < INBOX_MAX {
                inbox.push_back((from, bytes));
            }
            return;
        }
        self.open(p, from, &bytes);
    }

    /// Returns the number of the next frame.
    #[must_use]
    pub fn flight_next(&self) -> u64 {
        self.flights.len() as u64
    }

    /// Notes a frame that is about to be sent.
    pub fn take_off(&mut self, p: usize, to: Option<Slot>) {
        self.done.frames += 1;
        let (party, sent_at) = (self.procs[p].party(), self.now);
        self.flights.push(Flight { from: p, party, sent_at, to, heard: Vec::new() });
    }
}
