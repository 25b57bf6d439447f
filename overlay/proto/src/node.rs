//! A data plane as a value: both directions, what they share, and the commands that change them.
//!
//! # Theory of operation
//! The outbound half belongs to the thread that reads attachments, the inbound half to the one that
//! reads the socket; each holds its half's lock for a turn. A command takes one lock after the
//! other and leaves both halves with the same members and ports. In a simulation one thread calls
//! all of it.
//!
//! # Limits
//! [`MEMBERS_MAX`](crate::control::MEMBERS_MAX) members, [`LOCAL_PORTS_MAX`] attachments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use vde_switch::port::{HandsOn, Learning, PortConfig, PortKind};
use vde_switch::serve::GuestError;
use vde_switch::station::{Broadcast, Segment, Station};
use vde_switch::switch::Switch;
use vde_switch::time::Instant;

use crate::control::{
    Command, Event, GuestConfig, Limits, LocalPort, Member, MemberStats, PortStats, Slot, Stats,
};
use crate::drop::DropReason;
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::path::Relayed;
use crate::peer::{Common, Out, Peer, lock};
use crate::peers::{Behind, LOCAL_PORTS_MAX, Peers};
use crate::transmit::{Io, TxBatch};
use crate::tunnel::Carrier;

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Node {
    carrier: Arc<dyn Carrier>,
    common: Arc<Common>,
    outbound: Mutex<Outbound>,
    inbound: Mutex<Inbound>,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    peers: Peers,
    generation: u32,
    ports: Vec<LocalPort>,
    /// What guests are told, at most [`LOCAL_PORTS_MAX`].
    guests: BTreeMap<LocalPort, GuestConfig>,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More attachments than a lease has.
    #[error("port {0} is beyond the {LOCAL_PORTS_MAX} of a lease")]
    Port(u16),
    /// Limits for a port without an attachment.
    #[error("port {0} has no attachment that could be limited")]
    Unplugged(u16),
    /// A slot out of range, the gateway's on the gateway, or a key that belongs to another slot.
    #[error("slot {0} cannot be a member here")]
    Slot(u16),
    /// A guest cannot be told so.
    #[error("port {0}: {1}")]
    Guest(u16, GuestError),
    /// The switch does not take its stations.
    #[error("slot or port {0}: {1}")]
    Stations(u16, vde_switch::port::PortError),
}

impl Node {
    /// Makes the data plane of the lease with this slot.
    #[must_use]
    pub fn new(slot: Slot, carrier: Arc<dyn Carrier>, now: Instant) -> Self {
        let common = Arc::new(Common::new(slot, now));
        let nowhere = Segment {
            ipv4: (std::net::Ipv4Addr::UNSPECIFIED, 32),
            ipv6: (std::net::Ipv6Addr::UNSPECIFIED, 128),
            mtu: 0,
            broadcast: Broadcast::Off,
        };
        let switch = || Switch::new(nowhere);
        let inbound = Inbound::new(switch(), Arc::clone(&common), Arc::clone(&carrier), now);
        Self {
            carrier,
            outbound: Mutex::new(Outbound::new(switch(), Arc::clone(&common))),
            inbound: Mutex::new(inbound),
            members: Mutex::default(),
            common,
        }
    }

    /// Takes the outbound half for a turn.
    pub fn outbound(&self) -> MutexGuard<'_, Outbound> {
        lock(&self.outbound)
    }

    /// Takes the inbound half for a turn.
    pub fn inbound(&self) -> MutexGuard<'_, Inbound> {
        lock(&self.inbound)
    }

    /// Returns the oldest event that control has not seen.
    pub fn poll_event(&self) -> Option<Event> {
        self.common.poll_event()
    }

    /// Says whether there is news for control since this was asked last.
    pub fn has_news(&self) -> bool {
        self.common.was_told()
    }

    /// Queues an event of the shell's, in order with the others.
    pub fn tell(&self, event: Event) {
        self.common.tell(event);
    }

    /// Counts drops that the shell saw.
    pub fn count(&self, reason: DropReason, count: u64) {
        self.common.drops.add(reason, count);
    }

    /// Carries out a command; those that concern descriptors or threads are the shell's.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn handle_command(
        &self,
        command: Command,
        now: Instant,
        io: &mut impl Io,
    ) -> Result<(), Refused> {
        match command {
            Command::SetSegment(segment) => {
                self.outbound().switch.set_segment(segment);
                self.inbound().switch.set_segment(segment);
            }
            Command::AttachPort { port, stations, limits } => {
                return self.attach(port, stations, limits, now);
            }
            Command::SetLimits { port, limits } => {
                if !lock(&self.members).ports.contains(&port) {
                    return Err(Refused::Unplugged(port.0));
                }
                self.outbound().set_limits(port, limits, now);
            }
            Command::DetachPort(port) => self.detach(port),
            Command::SetRoutes(routes) => {
                self.outbound().switch.set_routes(&routes);
                self.inbound().switch.set_routes(&routes);
            }
            Command::Serve { port, guest } => return self.serve(port, guest),
            Command::SetMember(member) => return self.set_member(member, now),
            Command::RemoveMember(slot) => self.remove_member(slot),
            // What is due while the lease is suspended is done once it lives again.
            Command::Connect(slot) => self.with_tunnel(slot, now, io, |peer, out| {
                let mut tunnel = peer.tunnel();
                tunnel.agent.keep();
                if !self.common.is_expired(now) {
                    tunnel.attend(out);
                }
            }),
            Command::Ping { slot, id } => {
                let unknown = lock(&self.members).peers.get(slot).is_none();
                if unknown || self.common.is_expired(now) {
                    self.common.tell(Event::Pong { slot, id, rtt_us: None });
                    return Ok(());
                }
                self.with_tunnel(slot, now, io, |peer, out| peer.tunnel().ping(id, out));
            }
            Command::GetStats => self.common.tell(Event::Stats(self.stats(now))),
            Command::Live(life) => self.common.live(life, now),
            Command::Shutdown | Command::Capture { .. } => {}
        }
        Ok(())
    }

    /// Lets all timers run; to be called every 100 ms.
    pub fn tick(&self, now: Instant, io: &mut impl Io) {
        self.inbound().tick(now, io);
    }

    fn attach(
        &self,
        port: LocalPort,
        stations: Vec<Station>,
        limits: Limits,
        now: Instant,
    ) -> Result<(), Refused> {
        if port.0 >= LOCAL_PORTS_MAX {
            return Err(Refused::Port(port.0));
        }
        self.set_port(Behind::Local(port), PortKind::Attachment, HandsOn::No, stations)?;
        self.outbound().set_limits(port, limits, now);
        let mut members = lock(&self.members);
        if !members.ports.contains(&port) {
            members.ports.push(port);
        }
        match members.guests.get(&port).cloned() {
            Some(guest) => self.tell_guest(port, guest),
            None => Ok(()),
        }
    }

    fn serve(&self, port: LocalPort, guest: GuestConfig) -> Result<(), Refused> {
        if port.0 >= LOCAL_PORTS_MAX {
            return Err(Refused::Port(port.0));
        }
        guest.check().map_err(|error| Refused::Guest(port.0, error))?;
        let mut members = lock(&self.members);
        members.guests.insert(port, guest.clone());
        if members.ports.contains(&port) { self.tell_guest(port, guest) } else { Ok(()) }
    }

    /// The inbound half's switch is never asked: guests speak to the other.
    fn tell_guest(&self, port: LocalPort, guest: GuestConfig) -> Result<(), Refused> {
        let id = Behind::Local(port).port_id();
        let told = self.outbound().switch.serve(id, guest);
        told.map_err(|error| Refused::Guest(port.0, error))
    }

    /// Unplugs a local port.
    pub fn detach(&self, port: LocalPort) {
        lock(&self.members).ports.retain(|other| *other != port);
        let id = Behind::Local(port).port_id();
        self.outbound().set_limits(port, Limits::NONE, Instant::ZERO);
        self.outbound().switch.remove_port(id);
        self.inbound().switch.remove_port(id);
    }

    fn set_member(&self, member: Member, now: Instant) -> Result<(), Refused> {
        let Member { slot, key, stations, candidates, trust } = member;
        // A lease may outlive the slot that it began with, so that another may have it by now.
        let is_own = slot == Slot::GATEWAY && self.common.slot == Slot::GATEWAY;
        if is_own || key == self.carrier.public() {
            return Err(Refused::Slot(slot.0));
        }
        let mut members = lock(&self.members);
        let known = members.peers.get(slot).filter(|peer| peer.key == key).cloned();
        let peer = match known {
            Some(peer) => peer,
            None => {
                members.generation += 1;
                let number = Peers::number(slot, members.generation);
                let gateway = slot == Slot::GATEWAY || self.common.slot == Slot::GATEWAY;
                let relayed = if gateway { Relayed::Impossible } else { Relayed::Possible };
                let engine = self.carrier.tunnel(key, number);
                Arc::new(Peer::new(slot, key, number, relayed, engine))
            }
        };
        let mut peers = members.peers.clone();
        if !peers.insert(Arc::clone(&peer)) {
            return Err(Refused::Slot(slot.0));
        }
        if members.peers.get(slot).is_some_and(|old| old.key != key) {
            // Whoever had the slot is forgotten first: it never speaks for the new stations.
            let mut without = members.peers.clone();
            without.remove(slot);
            self.publish(&mut members, without);
        }
        let hands_on = if slot == Slot::GATEWAY { HandsOn::Yes } else { HandsOn::No };
        self.set_port(Behind::Member(slot), PortKind::Uplink, hands_on, stations)?;
        peer.tunnel().agent.set_candidates(&candidates, trust, now);
        self.publish(&mut members, peers);
        Ok(())
    }

    fn remove_member(&self, slot: Slot) {
        let mut members = lock(&self.members);
        let mut peers = members.peers.clone();
        peers.remove(slot);
        let id = Behind::Member(slot).port_id();
        self.outbound().switch.remove_port(id);
        self.inbound().switch.remove_port(id);
        self.publish(&mut members, peers);
    }

    fn publish(&self, members: &mut Members, peers: Peers) {
        let shared = Arc::new(peers.clone());
        self.outbound().peers = Arc::clone(&shared);
        self.inbound().set_peers(shared);
        members.peers = peers;
    }

    fn set_port(
        &self,
        behind: Behind,
        kind: PortKind,
        hands_on: HandsOn,
        stations: Vec<Station>,
    ) -> Result<(), Refused> {
        let id = behind.port_id();
        let config = PortConfig { kind, stations, learning: Learning::Off, hands_on };
        let refused = |error| Refused::Stations(id.0, error);
        self.outbound().switch.set_port(id, config.clone()).map_err(refused)?;
        self.inbound().switch.set_port(id, config).map_err(refused)
    }

    fn with_tunnel<I: Io>(
        &self,
        slot: Slot,
        now: Instant,
        io: &mut I,
        act: impl FnOnce(&Peer, &mut Out<'_, I>),
    ) {
        let Some(peer) = lock(&self.members).peers.get(slot).cloned() else { return };
        let mut batch = TxBatch::default();
        act(&peer, &mut Out { batch: &mut batch, common: &self.common, io, now });
        batch.flush(&self.common.drops, io);
    }

    fn stats(&self, now: Instant) -> Stats {
        let members = lock(&self.members);
        let member = |peer: &Arc<Peer>| {
            let tunnel = peer.tunnel();
            let (sent_frames, sent_bytes, dropped) = peer.outbound.get();
            let (received_frames, received_bytes, refused) = peer.inbound.get();
            let rtt = tunnel.agent.rtt().map(|rtt| rtt.as_micros());
            let heard = tunnel.agent.heard_at().map(|at| (now - at).as_millis());
            MemberStats {
                slot: peer.slot,
                path: tunnel.path(),
                rtt_us: rtt.map(|us| u32::try_from(us).unwrap_or(u32::MAX)),
                loss_percent: tunnel.agent.loss_percent(),
                heard_ms: heard.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
                sent_frames,
                sent_bytes,
                received_frames,
                received_bytes,
                dropped: dropped + refused,
            }
        };
        let listed = members.peers.iter().map(member).collect();
        let ports = members.ports.clone();
        drop(members);
        let (outbound, inbound) = (self.outbound(), self.inbound());
        let port = |port: &LocalPort| {
            let counters = outbound.switch.port_counters(Behind::Local(*port).port_id());
            let counters = counters.unwrap_or_default();
            PortStats {
                port: *port,
                in_frames: counters.frames_in,
                in_bytes: counters.bytes_in,
                out_frames: 0,
                out_bytes: 0,
                dropped: counters.dropped,
                dhcp4_leases: counters.dhcp4_leases,
                dhcp6_leases: counters.dhcp6_leases,
                router_adverts: counters.router_adverts,
            }
        };
        let ports = ports.iter().map(port).collect();
        let own = DropReason::ALL.iter().map(|r| (r.name(), self.common.drops.get(*r)));
        let switch = vde_switch::verdict::DropReason::ALL.iter().map(|reason| {
            let count = |switch: &Switch| switch.counters().dropped(*reason);
            (reason.name(), count(&outbound.switch) + count(&inbound.switch))
        });
        let drops = own.chain(switch).filter(|(_, count)| *count > 0);
        let drops = drops.map(|(name, count)| (name.to_owned(), count)).collect();
        Stats { members: listed, ports, drops }
    }
}
