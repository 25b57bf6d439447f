//! A gateway's process in the simulation: the real registry, a store in memory, and a shell that
//! writes before it answers.
//!
//! # Theory of operation
//! The shell does what `buyer-gateway` does, in its order: the registry decides, records are
//! written, the data plane is told, the member is answered. Before and after each write the process
//! may die ([`Gateway::crash_in`]); what was written is there at the next start, nothing else is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_proto::control::{Command, Slot};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::membership::GatewayPlane;
use overlay_proto::messages::{JoinReply, JoinRequest, Message as _, ToGateway, ToMember};
use overlay_proto::registry::{OrderRecord, Record, Registry, Seen, SlotRecord, TicketRecord};
use overlay_proto::ticket::Ticket;

use super::model::Invariant;
use super::plant::Plant;
use super::stream::{Parcel, Way};
use super::world::World;

/// What the gateway keeps on disk.
#[derive(Clone, Debug)]
pub struct Store {
    /// The order.
    pub order: OrderRecord,
    /// Tickets.
    pub tickets: BTreeMap<Slot, TicketRecord>,
    /// Slots.
    pub slots: BTreeMap<Slot, SlotRecord>,
}

impl Store {
    fn write(&mut self, record: Record) {
        match record {
            Record::Order(order) => self.order = order,
            Record::Ticket(ticket) => drop(self.tickets.insert(ticket.slot, ticket)),
            Record::Slot(slot) => drop(self.slots.insert(slot.slot, slot)),
        }
    }
}

/// An open member stream.
#[derive(Debug)]
struct Stream {
    peer: NodeId,
    slot: Slot,
    seen: Seen,
}

/// What a gateway holds in memory.
#[derive(Debug)]
pub struct Live {
    /// The book.
    pub registry: Registry,
    plane: GatewayPlane,
    streams: BTreeMap<u64, Stream>,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Gateway {
    /// The buyer's key.
    pub key: NodeKey,
    /// The data plane's.
    pub secret: [u8; 32],
    /// The disk.
    pub store: Store,
    /// `None` while it does not run.
    pub live: Option<Live>,
    /// After how many steps around writes it dies; 0 for never.
    pub crash_in: u32,
    /// Highest roster version and grant serial that members were told.
    pub version_max: u64,
}

impl Gateway {
    /// Makes it with an order that nobody is in.
    #[must_use]
    pub const fn new(key: NodeKey, secret: [u8; 32], order: OrderRecord) -> Self {
        let store = Store { order, tickets: BTreeMap::new(), slots: BTreeMap::new() };
        Self { key, secret, store, live: None, crash_in: 0, version_max: 0 }
    }
}

/// What a host without `--lan` lets others' addresses do.
#[must_use]
pub const fn rules() -> DialRules {
    DialRules { lan: Lan::Refused, links: Vec::new() }
}

impl World {
    /// Starts a gateway with what its disk holds.
    pub fn start_gateway(&mut self, p: usize) {
        let (unix_now, now) = (self.wall(p), self.instant(p));
        let order = self.procs[p].order;
        self.start_plane(p);
        let Some(gateway) = self.procs[p].gateway_mut() else { return };
        let Store { order: record, tickets, slots } = gateway.store.clone();
        let (tickets, slots) = (tickets.into_values().collect(), slots.into_values().collect());
        let opened = Registry::open(gateway.key.clone(), record, tickets, slots, unix_now, now);
        let registry = opened.expect("the store holds what the registry made");
        gateway.store.order = registry.order_record().clone();
        let (version, version_max) = (registry.version(), gateway.version_max);
        let station = registry.order_record().station(Slot::GATEWAY);
        let (plane, streams) = (GatewayPlane::default(), BTreeMap::new());
        gateway.live = Some(Live { registry, plane, streams });
        if version <= version_max {
            self.fail(Invariant::Versions, format!("a gateway began at {version}, not above"));
        }
        self.model.gateway_started(order, self.now);
        self.plug(p, station.expect("a subnet has room for the gateway"));
        self.spread(p);
    }

    pub(super) fn live(&mut self, p: usize) -> Option<&mut Live> {
        self.procs[p].gateway_mut()?.live.as_mut()
    }

    /// Counts a step around a write; says whether the process died there.
    fn dies_here(&mut self, p: usize) -> bool {
        let Some(gateway) = self.procs[p].gateway_mut() else { return true };
        let dies = gateway.crash_in == 1;
        gateway.crash_in = gateway.crash_in.saturating_sub(1);
        if dies {
            self.faults.crashes_at_writes += 1;
            self.crash(p);
        }
        dies
    }

    /// Writes records; says whether the process lives to act on them.
    pub(super) fn commit(&mut self, p: usize, records: Vec<Record>) -> bool {
        if records.is_empty() {
            return true;
        }
        if self.dies_here(p) {
            return false;
        }
        let Some(gateway) = self.procs[p].gateway_mut() else { return false };
        for record in records {
            gateway.store.write(record);
        }
        !self.dies_here(p)
    }

    /// Tells a slot's streams, those of `peer` if named, that they are evicted.
    pub(super) fn part_with(&mut self, p: usize, slot: Slot, peer: Option<NodeId>) {
        let Some(live) = self.live(p) else { return };
        let of_slot =
            |stream: &Stream| stream.slot == slot && peer.is_none_or(|peer| peer == stream.peer);
        let ids: Vec<u64> =
            live.streams.iter().filter(|(_, s)| of_slot(s)).map(|(id, _)| *id).collect();
        for id in ids {
            self.tell(id, &ToMember::Evicted);
            if let Some(live) = self.live(p) {
                live.streams.remove(&id);
                live.registry.handle_closed(slot, id);
            }
            self.finish(id);
        }
    }

    fn tell(&mut self, id: u64, message: &ToMember) {
        self.send(id, Way::Down, Parcel::Member(message.encode()));
    }

    /// Answers a join request.
    pub fn handle_join(&mut self, p: usize, id: u64, peer: NodeId, request: &JoinRequest) {
        let caller = self.conns.get(&id).map_or(p, |conn| conn.seller.0);
        let remote = IpAddr::V4(self.hosts[self.procs[caller].host].ip);
        let reply = self.join(p, remote, peer, request);
        if let Some(reply) = reply {
            self.send(id, Way::Down, Parcel::Join(reply.encode()));
        }
    }

    /// Decides on a join request; `None` if the gateway died over it.
    pub fn join(
        &mut self,
        p: usize,
        remote: IpAddr,
        peer: NodeId,
        request: &JoinRequest,
    ) -> Option<JoinReply> {
        let (unix_now, now) = (self.wall(p), self.instant(p));
        let (order, plant) = (self.procs[p].order, self.plant);
        let registry = &mut self.live(p)?.registry;
        let outcome = registry.handle_join(peer, remote, request, unix_now, now);
        let member = outcome
            .joined
            .and_then(|slot| registry.members().find(|member| member.record.slot == slot));
        let forgets = plant == Some(Plant::ForgetsToWrite);
        if !self.commit(p, if forgets { Vec::new() } else { outcome.records }) {
            return None;
        }
        if let Some(slot) = outcome.joined {
            let shown = Ticket::open(&request.ticket).ok();
            let ticket = shown.and_then(|ticket| self.ticket_number(order, &ticket));
            let now = self.now;
            let taken = self.model.welcomed(order, slot, ticket.unwrap_or(0), peer, now);
            let seen = member.map(|member| {
                self.model.slot_seen(order, slot, &member.record.name, &member.station)
            });
            for checked in [Some(taken), seen].into_iter().flatten() {
                if let Err(violation) = checked {
                    self.fail(violation.invariant, violation.what);
                }
            }
            if let Some(loser) = outcome.replaced {
                self.part_with(p, slot, Some(loser));
            }
            self.spread(p);
        }
        Some(outcome.reply)
    }

    /// Takes a word on a member stream.
    pub fn handle_member(&mut self, p: usize, id: u64, peer: NodeId, message: ToGateway) {
        let (unix_now, now) = (self.wall(p), self.instant(p));
        let Some(live) = self.live(p) else { return };
        let slot = live.streams.get(&id).map(|stream| stream.slot);
        match (slot, message) {
            (None, ToGateway::Hello { slot, roster_version, candidates }) => {
                match live.registry.handle_open(peer, slot, id, now) {
                    Ok(older) => {
                        let stream = Stream { peer, slot, seen: Seen::new(roster_version) };
                        live.streams.insert(id, stream);
                        live.registry.set_candidates(slot, &candidates);
                        if let Some(older) = older {
                            live.streams.remove(&older);
                            self.hang_up(older);
                        }
                        self.spread(p);
                    }
                    Err(_) => self.hang_up(id),
                }
            }
            (Some(slot), ToGateway::Renew { nonce }) => {
                live.registry.handle_heard(slot, id, now);
                match live.registry.renew(peer, slot, nonce, now) {
                    Ok(grant) => {
                        let (order, now) = (self.procs[p].order, self.now);
                        self.model.granted(order, slot, peer, now);
                        self.spread(p);
                        self.tell(id, &ToMember::Grant(grant));
                    }
                    Err(_) => self.hang_up(id),
                }
            }
            (Some(slot), ToGateway::Candidates(candidates)) => {
                live.registry.handle_heard(slot, id, now);
                live.registry.set_candidates(slot, &candidates);
                self.spread(p);
            }
            (Some(slot), ToGateway::Leave) => {
                let left = live.registry.leave(peer, slot, unix_now).unwrap_or_default();
                live.streams.remove(&id);
                live.registry.handle_closed(slot, id);
                self.faults.departures += 1;
                if self.commit(p, left) {
                    self.hang_up(id);
                    self.spread(p);
                }
            }
            (None, _) | (Some(_), ToGateway::Hello { .. }) => self.hang_up(id),
        }
    }

    /// Notes a heartbeat.
    pub fn handle_heartbeat(&mut self, p: usize, id: u64) {
        let now = self.instant(p);
        let Some(live) = self.live(p) else { return };
        if let Some(stream) = live.streams.get(&id) {
            live.registry.handle_heard(stream.slot, id, now);
        }
    }

    /// Notes the end of a stream.
    pub fn handle_stream_closed(&mut self, p: usize, id: u64) {
        let Some(live) = self.live(p) else { return };
        if let Some(stream) = live.streams.remove(&id) {
            live.registry.handle_closed(stream.slot, id);
        }
    }

    /// Notes where the data plane hears a member.
    pub fn handle_path(&mut self, p: usize, slot: Slot, from: std::net::SocketAddr) {
        if self.live(p).is_some_and(|live| live.registry.set_heard(slot, from)) {
            self.spread(p);
        }
    }

    /// Lets lives run out; each second.
    pub fn gateway_second(&mut self, p: usize) {
        let (unix_now, now) = (self.wall(p), self.instant(p));
        let order = self.procs[p].order;
        let Some(live) = self.live(p) else { return };
        if live.registry.expire(unix_now, now) {
            self.spread(p);
        }
        let Some(live) = self.live(p) else { return };
        let version = live.registry.version();
        let members: Vec<_> = live.registry.members().collect();
        for member in members {
            let (slot, record) = (member.record.slot, &member.record);
            if let Err(wrong) = self.model.slot_seen(order, slot, &record.name, &member.station) {
                self.fail(wrong.invariant, wrong.what);
            }
        }
        let Some(gateway) = self.procs[p].gateway_mut() else { return };
        let before = std::mem::replace(&mut gateway.version_max, version);
        if version < before {
            self.fail(Invariant::Versions, format!("a registry went back to {version}"));
        }
    }

    /// Tells the data plane and all members what has changed since they were told last.
    pub fn spread(&mut self, p: usize) {
        let Some(live) = self.live(p) else { return };
        let commands = live.plane.sync(&live.registry, &rules());
        let mut news = Vec::new();
        for (id, stream) in &mut live.streams {
            news.extend(live.registry.news(&mut stream.seen).into_iter().map(|word| (*id, word)));
        }
        let version = live.registry.version();
        if let Some(gateway) = self.procs[p].gateway_mut() {
            gateway.version_max = gateway.version_max.max(version);
        }
        for command in commands {
            let keeps = matches!(command, Command::RemoveMember(_))
                && self.plant == Some(Plant::KeepsMembers);
            if !keeps {
                self.command(p, command);
            }
        }
        for (id, word) in news {
            self.record_word(id, &word);
            self.tell(id, &word);
        }
    }
}
