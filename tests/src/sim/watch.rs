//! What is asked of each frame, and what runs at each tick.
//!
//! # Theory of operation
//! [`World::deliver`] is the end of a frame's way: its number tells who sent it, when and for whom,
//! and the model says whether that may be. Everything here looks at cores from outside.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use overlay_proto::control::{Command, Event as Told, LocalPort, Slot, Stats};
use overlay_proto::path::Via;
use vde_switch::frame::Frame;
use vde_switch::switch::Switch;
use vde_switch::vnet::VnetHdr;

use super::engine::Tally;
use super::frames;
use super::host::Role;
use super::link::MS;
use super::model::{Invariant, Party};
use super::plant::Plant;
use super::seller::Link;
use super::world::{Ring, World};

/// Names under which a frame is counted before it comes to the switch.
const EARLY: [&str; 3] = ["grant-expired", "rate-limit", "bad-offload-header"];

/// Names under which a frame is counted that the switch forwarded and no tunnel took.
const LOST: [&str; 4] = ["tunnel-queue-full", "no-member", "not-sealed", "no-tunnel"];

/// Counts of one data plane's way out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outbound {
    /// Refused before the switch.
    pub(super) early: u64,
    /// Dropped by the switch.
    pub(super) dropped: u64,
    /// Answered, forwarded, flooded by it.
    pub(super) answered: u64,
    /// Forwarded.
    pub(super) forwarded: u64,
    /// Flooded.
    pub(super) flooded: u64,
    /// Given to a tunnel.
    pub(super) sent: u64,
    /// Not taken by one.
    pub(super) lost: u64,
}

impl Outbound {
    /// Says whether the difference from `before` is the one outcome of one frame.
    #[must_use]
    pub(super) const fn is_one_outcome(&self, before: &Self) -> bool {
        let early = self.early - before.early;
        let dropped = self.dropped - before.dropped;
        let answered = self.answered - before.answered;
        let forwarded = self.forwarded - before.forwarded;
        let flooded = self.flooded - before.flooded;
        let tunnel = self.sent + self.lost - before.sent - before.lost;
        early + dropped + answered + forwarded + flooded == 1 && (forwarded == 0 || tunnel == 1)
    }
}

impl World {
    /// Returns a data plane's counters.
    pub fn stats(&mut self, p: usize) -> Option<Stats> {
        let now = self.instant(p);
        let node = &self.procs[p].plane.as_ref()?.node;
        let mut hands = super::host::Hands::default();
        node.handle_command(Command::GetStats, now, &mut hands).ok()?;
        match node.poll_event() {
            Some(Told::Stats(stats)) => Some(stats),
            _ => None,
        }
    }

    /// Returns the counts of a data plane's way out.
    pub(super) fn outbound_counts(&mut self, p: usize) -> Option<Outbound> {
        let stats = self.stats(p)?;
        let node = &self.procs[p].plane.as_ref()?.node;
        let named = |names: &[&str]| {
            let of = stats.drops.iter().filter(|(name, _)| names.contains(&name.as_str()));
            of.map(|(_, count)| count).sum()
        };
        let outbound = node.outbound();
        let counters = outbound.switch.counters();
        Some(Outbound {
            early: named(&EARLY),
            dropped: counters.drops().map(|(_, count)| count).sum(),
            answered: counters.answered,
            forwarded: counters.forwarded,
            flooded: counters.flooded,
            sent: outbound.peers.iter().map(|peer| peer.outbound.get().0).sum(),
            lost: named(&LOST),
        })
    }

    /// Hands a datagram to a data plane, and asks whether each frame in it had its outcome.
    pub fn open(&mut self, p: usize, from: SocketAddr, bytes: &[u8]) {
        let before = self.inbound_counts(p);
        let heard = self.act(p, |node, now, hands| {
            let via = Via { remote: from, local: None };
            let mut inbound = node.inbound();
            inbound.handle_datagrams(via, bytes.len(), bytes, now, hands);
            inbound.flush(hands);
        });
        let after = self.inbound_counts(p);
        let (Some(before), Some(after)) = (before, after) else { return };
        let [frames, delivered, opened, pieces] = std::array::from_fn(|i| after[i] - before[i]);
        let plugged = self.procs[p].plane.as_ref().is_some_and(|plane| plane.station.is_some());
        if plugged && delivered != heard as u64 {
            let what = format!("{delivered} frames were for the attachment, {heard} reached it");
            self.fail(Invariant::Conservation, what);
        }
        // A group frame for another than the gateway is refused by name before the switch.
        if self.ring == Ring::Seeded && (frames > opened + pieces || frames + 1 < opened) {
            let what = format!("{opened} frames were opened, {frames} came to the switch");
            self.fail(Invariant::Conservation, what);
        }
        if delivered > 0 && self.plant == Some(Plant::HandsOnTwice) {
            self.hand_on_again(p);
        }
    }

    /// Frames in, frames for the attachment, frames opened, pieces opened.
    fn inbound_counts(&self, p: usize) -> Option<[u64; 4]> {
        let plane = self.procs[p].plane.as_ref()?;
        let inbound = plane.node.inbound();
        let counters = inbound.switch.counters();
        let count = |of: fn(&Tally) -> u64| plane.tally.as_ref().map_or(0, |tally| of(tally));
        Some([
            counters.frames_in,
            counters.forwarded + counters.flooded,
            count(|tally| tally.opened.load(Ordering::Relaxed)),
            count(|tally| tally.pieces.load(Ordering::Relaxed)),
        ])
    }

    pub(super) fn check_switches(&mut self, p: usize) {
        let Some(plane) = &self.procs[p].plane else { return };
        let sums = |switch: &Switch| {
            let counters = switch.counters();
            let drops: u64 = counters.drops().map(|(_, count)| count).sum();
            let out = counters.forwarded + counters.flooded + counters.answered + drops;
            (counters.frames_in, out)
        };
        let sums = [sums(&plane.node.outbound().switch), sums(&plane.node.inbound().switch)];
        for (frames_in, out) in sums {
            if frames_in != out {
                let what = format!("{frames_in} frames went into a switch, {out} were counted");
                self.fail(Invariant::Conservation, what);
            }
        }
    }

    /// Lets a guest send a frame, and asks whether it had its one outcome.
    pub fn guest_sends(&mut self, p: usize, to: Option<Slot>, payload_len: usize) {
        let order = self.procs[p].order;
        let station = self.procs[p].plane.as_ref().and_then(|plane| plane.station);
        let (Some(station), true) = (station, self.is_running(p)) else { return };
        let target = to.map(|to| self.model.station(order, to));
        let frame = match target {
            Some(None) => return,
            Some(Some(target)) => {
                frames::make(&station, Some(&target), self.flight_next(), payload_len)
            }
            None => frames::make(&station, None, self.flight_next(), payload_len),
        };
        self.take_off(p, to);
        let before = self.outbound_counts(p);
        self.act(p, |node, now, hands| {
            let mut outbound = node.outbound();
            let frame = Frame { hdr: VnetHdr::default(), bytes: &frame };
            outbound.handle_frame(LocalPort::GUEST, frame, now, hands);
            outbound.flush(hands);
        });
        let after = self.outbound_counts(p);
        if let (Some(before), Some(after)) = (before, after)
            && !after.is_one_outcome(&before)
        {
            let what = format!("one frame led from {before:?} to {after:?}");
            self.fail(Invariant::Conservation, what);
        }
    }

    /// Takes a frame that reached a process's attachment.
    pub fn deliver(&mut self, p: usize, frame: &[u8]) {
        let mut p = p;
        if self.plant == Some(Plant::MixesOrders) && self.rng.permille(50) {
            let order = self.procs[p].order;
            let others: Vec<usize> =
                (0..self.procs.len()).filter(|other| self.procs[*other].order != order).collect();
            p = self.rng.pick(&others).unwrap_or(p);
        }
        self.done.delivered += 1;
        let Some((mac, ipv4, id)) = frames::read(frame) else {
            return self.fail(Invariant::Conservation, "a frame came from nowhere".to_owned());
        };
        self.fold(id ^ (p as u64) << 48);
        let Some(flight) = self.flights.get_mut(id as usize) else {
            return self.fail(Invariant::Conservation, format!("nobody sent frame {id}"));
        };
        let again = flight.heard.contains(&p);
        flight.heard.push(p);
        let (from, party, sent_at, to) = (flight.from, flight.party, flight.sent_at, flight.to);
        let (order, slot) = (self.procs[p].order, self.procs[p].slot);
        let of = format!(
            "frame {id} of order {} slot {} to {}",
            self.procs[from].order,
            party.slot.0,
            to.map_or("all".to_owned(), |to| to.0.to_string()),
        );
        if self.procs[from].order != order {
            return self.fail(Invariant::Segments, format!("{of} was delivered in order {order}"));
        }
        if again || from == p || to.is_some_and(|to| to != slot) {
            return self.fail(Invariant::OneDelivery, format!("{of} came to {} again", slot.0));
        }
        let owned = self.model.station(order, party.slot);
        if owned.is_none_or(|station| station.mac != mac || station.ipv4 != ipv4) {
            return self.fail(Invariant::Addresses, format!("{of} came from {mac} {ipv4}"));
        }
        let receiver = self.procs[p].party();
        if let Err(why) = self.model.may_hear(order, party, receiver, sent_at, self.now) {
            self.fail(Invariant::Membership, format!("{of} came to {}: {why}", slot.0));
        }
    }

    /// Runs the timers of all that run.
    pub fn tick(&mut self) {
        let second = self.now.is_multiple_of(1000 * MS);
        for p in 0..self.procs.len() {
            let calm = self.is_calm(p);
            let proc = &mut self.procs[p];
            proc.calm_since = if calm { proc.calm_since.or(Some(self.now)) } else { None };
            if let Role::Gateway(_) = proc.role {
                self.model.gateway_calm(proc.order, proc.calm_since);
            }
            if !self.is_running(p) {
                continue;
            }
            while let Some((from, bytes)) = self.procs[p].inbox.pop_front() {
                self.open(p, from, &bytes);
            }
            self.act(p, |node, now, hands| node.tick(now, hands));
            match &self.procs[p].role {
                Role::Gateway(_) if second => self.gateway_second(p),
                Role::Gateway(_) => {}
                Role::Seller(_) => self.seller_tick(p),
            }
        }
        if second {
            self.check_conns();
        }
    }

    /// Says whether a process hears its gateway's words at once: gateways hear themselves.
    fn is_calm(&self, p: usize) -> bool {
        let gateway = self.gateways[self.procs[p].order];
        let open = match &self.procs[p].role {
            Role::Gateway(_) => true,
            Role::Seller(seller) => match seller.link {
                Link::Open(id) => self.conns.contains_key(&id) && !self.are_apart(p, gateway),
                Link::Idle(_) | Link::Joining(..) => false,
            },
        };
        open && self.is_running(p) && self.is_running(gateway)
    }

    /// Returns who is a member and can be expected to reach the others: obeying, running, not out.
    #[must_use]
    pub fn members(&self, order: usize) -> Vec<usize> {
        let is_member = |p: &usize| {
            let proc = &self.procs[*p];
            let Party { slot, seller, obeys, .. } = proc.party();
            let holds = slot == Slot::GATEWAY || self.model.holder(order, slot) == Some(seller);
            proc.order == order && holds && obeys
        };
        (0..self.procs.len()).filter(is_member).collect()
    }
}
