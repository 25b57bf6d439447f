//! What hostile members and strangers do: everything here goes past the attacker's own filters.
//!
//! # Theory of operation
//! An attacker has what he may have: his own keys and sessions, tickets that he saw, and all
//! datagrams and signed words that ever were on the wire. He forges joins, seals frames with
//! sources that are not his, and sends again what was sent, from anywhere to anywhere.

use std::net::Ipv4Addr;

use overlay_proto::control::Slot;
use overlay_proto::identity::NodeKey;
use overlay_proto::messages::{JOIN_VERSION, JoinReply, JoinRequest, Message as _};
use overlay_proto::path::Route;
use overlay_proto::ticket::Ticket;
use overlay_proto::wire::shim::{Flags, Kind, SHIM_LEN, Shim};
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;

use super::frames;
use super::host::Role;
use super::model::Invariant;
use super::stream::{Parcel, Way};
use super::world::{Event, World};

/// A station that no grant names.
pub const FOREIGN: Station = Station {
    mac: MacAddr([2, 0x66, 0x66, 0x66, 0x66, 0x66]),
    ipv4: Ipv4Addr::new(10, 77, 0, 200),
    ipv6: std::net::Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 0x66),
};

impl World {
    /// Does one hostile thing.
    pub fn attack(&mut self) {
        self.faults.attacks += 1;
        match self.rng.below(8) {
            0 | 1 => self.replay_datagram(),
            2 | 3 => self.spoof(),
            4 | 5 => self.forge_join(),
            6 => self.replay_word(),
            _ => self.alter_datagram(),
        }
    }

    /// Sends a datagram again: to its receiver or anyone, from its sender or anyone.
    fn replay_datagram(&mut self) {
        let at = self.rng.below(self.recorded.len().max(1) as u64) as usize;
        let Some((from, to, bytes)) = self.recorded.get(at).cloned() else { return };
        let anyone = |world: &mut Self| {
            let p = world.rng.below(world.procs.len() as u64) as usize;
            world.procs[p].address
        };
        let to = if self.rng.permille(700) { to } else { anyone(self) };
        let from = if self.rng.permille(600) { from } else { anyone(self) };
        self.schedule(self.now, Event::Datagram(from, to, bytes));
    }

    /// Changes a bit of a datagram on its way.
    fn alter_datagram(&mut self) {
        let at = self.rng.below(self.recorded.len().max(1) as u64) as usize;
        let Some((from, to, mut bytes)) = self.recorded.get(at).cloned() else { return };
        let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.schedule(self.now, Event::Datagram(from, to, bytes));
    }

    /// Says a gateway's old word again on the member's own stream.
    fn replay_word(&mut self) {
        let at = self.rng.below(self.words.len().max(1) as u64) as usize;
        let Some((p, word)) = self.words.get(at).cloned() else { return };
        let id = self.conns.iter().find(|(_, conn)| conn.seller.0 == p).map(|(id, _)| *id);
        if let Some(id) = id {
            self.send(id, Way::Down, Parcel::Member(word.encode()));
        }
    }

    /// Lets a rogue seal a frame with another's addresses.
    fn spoof(&mut self) {
        let rogues: Vec<usize> = (0..self.procs.len())
            .filter(|p| self.procs[*p].seller().is_some_and(|seller| seller.rogue))
            .collect();
        let Some(p) = self.rng.pick(&rogues) else { return };
        let order = self.procs[p].order;
        let slots: Vec<Slot> = (0..self.procs.len())
            .filter(|other| self.procs[*other].order == order && *other != p)
            .map(|other| self.procs[other].slot)
            .collect();
        let (Some(to), Some(victim)) = (self.rng.pick(&slots), self.rng.pick(&slots)) else {
            return;
        };
        let own = self.procs[p].slot;
        let foreign = self.rng.permille(500);
        let source = if foreign { Some(FOREIGN) } else { self.model.station(order, victim) };
        let source = source.filter(|_| foreign || victim != own);
        let target = self.model.station(order, to);
        let (Some(source), Some(target)) = (source, target) else { return };
        let group = self.rng.permille(300);
        let target = (!group).then_some(target);
        let frame = frames::make(&source, target.as_ref(), self.flight_next(), 0);
        self.take_off(p, (!group).then_some(to));
        self.seal_to(p, to, &frame);
    }

    /// Seals a frame for a member without asking any filter.
    pub fn seal_to(&mut self, p: usize, to: Slot, frame: &[u8]) {
        let Some(plane) = &self.procs[p].plane else { return };
        let Some(peer) = plane.node.outbound().peers.get(to).cloned() else { return };
        self.instant(p);
        let mut tunnel = peer.tunnel();
        let Some(Route::Direct(via)) = tunnel.agent.primary() else { return };
        let mut payload = vec![0; SHIM_LEN];
        payload.extend(frame);
        let len = payload.len();
        let shim =
            Shim { kind: Kind::Frame { csum_offset: 0 }, flags: Flags::default(), csum_start: 0 };
        shim.emit(&mut payload, len as u16);
        let mut out = vec![0; len + 256];
        let sealed = tunnel.engine.seal(&payload, &mut out);
        drop(tunnel);
        if let Some(len) = sealed {
            self.transmit(p, via.remote, &out[..len]);
        }
    }

    /// Hands the latest group frame that a gateway heard on once more: a planted bug.
    pub fn hand_on_again(&mut self, p: usize) {
        let Role::Gateway(_) = self.procs[p].role else { return };
        let heard =
            |flight: &super::world::Flight| flight.to.is_none() && flight.heard.contains(&p);
        let recent = self.flights.len().saturating_sub(50);
        let Some(id) = self.flights[recent..].iter().rposition(heard).map(|at| at + recent) else {
            return;
        };
        let (order, slot) = (self.procs[p].order, self.flights[id].party.slot);
        let Some(source) = self.model.station(order, slot) else { return };
        let frame = frames::make(&source, None, id as u64, 0);
        let slots: Vec<Slot> = self.flights[id].heard.iter().map(|p| self.procs[*p].slot).collect();
        for slot in slots {
            self.seal_to(p, slot, &frame);
        }
    }

    /// Shows a gateway a ticket by a key that it must not let in.
    fn forge_join(&mut self) {
        let order = self.rng.below(self.gateways.len() as u64) as usize;
        let gateway = self.gateways[order];
        if !self.is_running(gateway) {
            return;
        }
        let attacker = NodeKey::from_seed(&self.rng.bytes());
        let shown_of = self.rng.below(self.tickets.len() as u64) as usize;
        let at = self.rng.below(self.tickets[shown_of].len().max(1) as u64) as usize;
        let Some((slot, _, ticket)) = self.tickets[shown_of].get(at).cloned() else { return };
        let claimed = self.model.is_claimed(shown_of, slot);
        let mut envelope = ticket.envelope().to_vec();
        let own = self.rng.permille(200);
        if own {
            // A ticket of one's own making, for the buyer's order.
            let made = Ticket::seal(&attacker, ticket.body().clone());
            envelope = made.expect("the body is a ticket's").envelope().to_vec();
        } else if !claimed && shown_of == order {
            return; // a bearer's right: whoever shows it first has it
        }
        let data_key = self.public(self.rng.clone().bytes());
        let request = JoinRequest {
            version: JOIN_VERSION,
            order: self.tickets[order].first().map_or(ticket.order(), |(.., t)| t.order()),
            ticket: envelope,
            data_key,
            nonce: self.rng.bytes(),
            only_buyer: false,
        };
        let elsewhere = Ipv4Addr::new(44, 9, 9, 9).into();
        let reply = self.join(gateway, elsewhere, attacker.id(), &request);
        if let Some(JoinReply::Welcome(_)) = reply {
            let what = format!("a stranger got slot {} of order {order}", slot.0);
            self.fail(Invariant::Tickets, what);
        }
    }
}
