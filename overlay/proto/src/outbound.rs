//! A frame's way out: attachment → port policy and switch → tunnel → transmit buffer.
//!
//! # Theory of operation
//! [`Outbound::handle_frame`] takes one frame from a local port and brings it to its one outcome:
//! sealed for a member, handed to another local port, answered, flooded or dropped by name. A group
//! frame goes over the tunnels that are up; for the members without one a single copy goes to the
//! gateway, which hands it on. Group frames never make a tunnel.
//!
//! A port with limits is held to them here, before the switch, so that what is above them costs
//! nobody anything.
//!
//! # Limits
//! No frame is kept here: what has to wait, waits in its peer.

use std::io::IoSlice;
use std::sync::Arc;

use vde_switch::frame::Frame;
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::{FloodTo, Verdict};
use vde_switch::vnet::VnetHdr;

use crate::control::{Limits, LocalPort, Slot};
use crate::drop::DropReason;
use crate::peer::{Common, Out};
use crate::peers::{Behind, Peers};
use crate::rate::RateLimit;
use crate::transmit::{Delivered, Io, TxBatch};
use crate::wire::shim::{GROUP_FRAME_LEN_MAX, SERVED_MAX};

/// The outbound half of a data plane.
#[derive(Debug)]
pub struct Outbound {
    /// Admits what local ports send.
    pub switch: Switch,
    /// The members, as last set.
    pub peers: Arc<Peers>,
    common: Arc<Common>,
    batch: TxBatch,
    /// Ports that have limits; at most as many as there are ports.
    rates: Vec<(LocalPort, RateLimit)>,
}

impl Outbound {
    /// Makes it with a switch that has no ports yet.
    #[must_use]
    pub fn new(switch: Switch, common: Arc<Common>) -> Self {
        let (batch, rates) = Default::default();
        Self { switch, peers: Arc::default(), common, batch, rates }
    }

    /// Sets what a local port may send; what it has sent already counts under the new limits.
    pub fn set_limits(&mut self, port: LocalPort, limits: Limits, now: Instant) {
        let known = self.rates.iter().position(|(other, _)| *other == port);
        match (known, limits == Limits::NONE) {
            (Some(at), true) => {
                self.rates.swap_remove(at);
            }
            (Some(at), false) => self.rates[at].1.set(limits, now),
            (None, true) => {}
            (None, false) => self.rates.push((port, RateLimit::new(limits, now))),
        }
    }

    /// Takes what a tap gave: a virtio-net header and a frame.
    pub fn handle_read(&mut self, port: LocalPort, bytes: &[u8], now: Instant, io: &mut impl Io) {
        let split = bytes.split_first_chunk::<{ VnetHdr::LEN }>();
        match split.and_then(|(hdr, bytes)| Some((VnetHdr::parse(hdr).ok()?, bytes))) {
            Some((hdr, bytes)) => self.handle_frame(port, Frame { hdr, bytes }, now, io),
            None => self.common.drops.add(DropReason::BadHeader, 1),
        }
    }

    /// Takes one frame from a local port.
    pub fn handle_frame(
        &mut self,
        port: LocalPort,
        mut frame: Frame<'_>,
        now: Instant,
        io: &mut impl Io,
    ) {
        if self.common.is_expired(now) {
            return self.common.drops.add(DropReason::Expired, 1);
        }
        if let Some((_, rate)) = self.rates.iter_mut().find(|(limited, _)| *limited == port)
            && !rate.admit(&frame, now)
        {
            return self.common.drops.add(DropReason::RateLimit, 1);
        }
        let ingress = Behind::Local(port).port_id();
        let verdict = self.switch.forward(ingress, &mut frame, now);
        while let Some((address, mac)) = self.switch.poll_link_local() {
            self.common.claims.tell(address, mac); // before anybody can hear of it and contest it
        }
        match verdict {
            Verdict::Forward(egress) => match Behind::of(egress) {
                Behind::Member(slot) => self.send(slot, frame, now, io),
                Behind::Local(port) => deliver(port, frame, &self.common, io),
            },
            Verdict::Flood(to) => self.flood(port, frame, to, now, io),
            Verdict::Answer => {
                let answer = Frame { hdr: VnetHdr::default(), bytes: self.switch.answer() };
                deliver(port, answer, &self.common, io);
            }
            Verdict::Drop(_) => {} // counted by the switch, by its reason
        }
        self.batch.flush_early(&self.common.drops, io);
    }

    /// Sends what the turn has gathered.
    pub fn flush(&mut self, io: &mut impl Io) {
        self.batch.flush(&self.common.drops, io);
        if let Some(slot) = self.batch.take_narrowed()
            && let Some(peer) = self.peers.get(slot)
        {
            peer.tunnel().narrow();
        }
    }

    fn send(&mut self, slot: Slot, frame: Frame<'_>, now: Instant, io: &mut impl Io) {
        let Self { peers, common, batch, .. } = self;
        let Some(peer) = peers.get(slot) else {
            return common.drops.add(DropReason::NoMember, 1);
        };
        let sent = peer.tunnel().send_frame(frame, &mut Out { batch, common, io, now });
        match sent {
            Ok(()) => peer.outbound.add(frame.bytes.len()),
            Err(reason) => {
                common.drops.add(reason, 1);
                peer.outbound.drop_one();
            }
        }
    }

    fn flood(
        &mut self,
        port: LocalPort,
        frame: Frame<'_>,
        to: FloodTo,
        now: Instant,
        io: &mut impl Io,
    ) {
        let Self { switch, peers, common, batch, .. } = self;
        let (mut served, mut served_count, mut unserved) = ([Slot(0); SERVED_MAX as usize], 0, 0);
        let mut gateway = None;
        for (egress, _) in switch.flood_ports(Behind::Local(port).port_id(), to) {
            let slot = match Behind::of(egress) {
                Behind::Local(other) => {
                    deliver(other, frame, common, io);
                    continue;
                }
                Behind::Member(slot) => slot,
            };
            let Some(peer) = peers.get(slot) else { continue };
            if slot == Slot::GATEWAY {
                gateway = Some(peer);
                continue;
            }
            let mut tunnel = peer.tunnel();
            let nameable = served_count < served.len() && frame.bytes.len() <= GROUP_FRAME_LEN_MAX;
            if !tunnel.is_up() || !(nameable || common.slot == Slot::GATEWAY) {
                unserved += 1;
                continue;
            }
            match tunnel.send_frame(frame, &mut Out { batch, common, io, now }) {
                Ok(()) => peer.outbound.add(frame.bytes.len()),
                Err(reason) => common.drops.add(reason, 1),
            }
            if let Some(place) = served.get_mut(served_count) {
                *place = slot;
                served_count += 1;
            }
        }
        let Some(peer) = gateway else { return };
        let (mut tunnel, out) = (peer.tunnel(), &mut Out { batch, common, io, now });
        let sent = if unserved == 0 {
            tunnel.send_frame(frame, out)
        } else {
            tunnel.send_group(frame, &served[..served_count], out)
        };
        match sent {
            Ok(()) => peer.outbound.add(frame.bytes.len()),
            Err(reason) => common.drops.add(reason, 1),
        }
    }
}

/// Hands a frame to a local port, and counts if it is not taken.
pub(crate) fn deliver(port: LocalPort, frame: Frame<'_>, common: &Common, io: &mut impl Io) {
    let delivered = io.deliver(port, &frame.hdr, &[IoSlice::new(frame.bytes)]);
    count_delivery(delivered, common);
}

/// Counts a frame that its port did not take.
pub(crate) fn count_delivery(delivered: Delivered, common: &Common) {
    match delivered {
        Delivered::Done => {}
        Delivered::Full => common.drops.add(DropReason::PortFull, 1),
        Delivered::Gone => common.drops.add(DropReason::PortGone, 1),
    }
}
