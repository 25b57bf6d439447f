//! What sellers say on the control plane, and what follows from it.
//!
//! # Theory of operation
//! The registry decides; its records are written before anybody is told. A slot has one live
//! stream: when the registry lets a new one in, the older one is closed. A stream ends by being
//! dropped, after what was said on it has gone out, so an evicted guest hears why.
//!
//! # Limits
//! A member stream that does not take its messages is dropped; its seller comes back.

use std::net::IpAddr;

use overlay::clock;
use overlay::p2p::{GatewayEvent, StreamId};
use overlay_proto::control::Slot;
use overlay_proto::identity::NodeId;
use overlay_proto::messages::{JoinReply, JoinRequest, RefuseReason, ToGateway, ToMember};
use overlay_proto::registry::Seen;
use tokio::sync::oneshot;

use super::serve::{Arrival, Gateway};

impl Gateway {
    pub(super) fn handle_seller(&mut self, event: GatewayEvent) -> anyhow::Result<()> {
        match event {
            GatewayEvent::Join { peer, remote, request, reply } => {
                self.handle_join(peer, remote.ip(), &request, reply)
            }
            GatewayEvent::Opened { stream, peer, remote: _, sender } => {
                self.streams.open(stream, peer, sender);
                Ok(())
            }
            GatewayEvent::Message { stream, peer, message } => {
                self.handle_message(stream, peer, message)
            }
            GatewayEvent::Heard { stream } => {
                self.hear(stream);
                Ok(())
            }
            GatewayEvent::Closed { stream, peer: _ } => self.handle_closed(stream),
        }
    }

    fn handle_join(
        &mut self,
        peer: NodeId,
        remote: IpAddr,
        request: &JoinRequest,
        reply: oneshot::Sender<JoinReply>,
    ) -> anyhow::Result<()> {
        let (unix_now, now) = (clock::unix_seconds(), clock::now());
        let outcome = self.book.registry.handle_join(peer, remote, request, unix_now, now);
        if let Err(error) = self.book.commit(&outcome.records) {
            // The registry is ahead of its store now: nothing more may be handed out.
            let _ = reply.send(JoinReply::Refused(RefuseReason::Unavailable));
            return Err(error.into());
        }
        if let Some(slot) = outcome.joined {
            if let Some(old) = outcome.replaced {
                self.dismiss(slot, Some(old));
                if let Some(member) = self.member(slot) {
                    self.report.replaced(&member)?;
                }
            }
            self.arrivals.insert(slot, Arrival { asked_at: now, remote });
            self.spread()?;
        }
        if let JoinReply::Refused(reason) = &outcome.reply {
            tracing::info!(%peer, %reason, "a seller was refused");
        }
        // A seller that went away meanwhile asks again.
        let _ = reply.send(outcome.reply);
        Ok(())
    }

    fn hear(&mut self, id: StreamId) {
        if let Some(slot) = self.streams.slot(id) {
            self.book.registry.handle_heard(slot, id.number(), clock::now());
        }
    }

    fn handle_message(
        &mut self,
        id: StreamId,
        peer: NodeId,
        message: ToGateway,
    ) -> anyhow::Result<()> {
        if !self.streams.is_open(id) {
            return Ok(());
        }
        self.hear(id);
        match (self.streams.slot(id), message) {
            (None, ToGateway::Hello { slot, roster_version, candidates }) => {
                match self.book.registry.handle_open(peer, slot, id.number(), clock::now()) {
                    Ok(old) => {
                        let old = old.and_then(|number| self.streams.numbered(number));
                        old.map(|old| self.streams.close(old));
                    }
                    Err(reason) => {
                        tracing::info!(%peer, slot = slot.0, %reason, "a stream was refused");
                        self.streams.close(id);
                        return Ok(());
                    }
                }
                self.streams.set_member(id, slot, Seen::new(roster_version));
                self.book.registry.set_candidates(slot, &candidates);
                self.guests.set_stream(slot, true);
                self.spread()
            }
            (Some(slot), ToGateway::Renew { nonce }) => {
                match self.book.registry.renew(peer, slot, nonce, clock::now()) {
                    Ok(grant) => self.send(id, ToMember::Grant(grant)),
                    Err(_) => self.drop_stream(id),
                }
                self.spread()
            }
            (Some(slot), ToGateway::Candidates(candidates)) => {
                self.book.registry.set_candidates(slot, &candidates);
                self.spread()
            }
            (Some(slot), ToGateway::Leave) => {
                let member = self.member(slot);
                let left = self.book.registry.leave(peer, slot, clock::unix_seconds());
                self.book.commit(&left.unwrap_or_default())?;
                self.streams.close(id);
                self.forget(slot);
                if let Some(member) = member {
                    self.report.left(member.record.name.as_str())?;
                }
                self.spread()
            }
            (None, _) | (Some(_), ToGateway::Hello { .. }) => {
                tracing::debug!(%peer, "a member stream said something out of turn");
                self.handle_closed(id)
            }
        }
    }

    fn handle_closed(&mut self, id: StreamId) -> anyhow::Result<()> {
        let slot = self.streams.slot(id);
        self.drop_stream(id);
        slot.map_or(Ok(()), |slot| self.tell_if_lost(slot))
    }

    /// Forgets a stream, which closes it.
    fn drop_stream(&mut self, id: StreamId) {
        if let Some(slot) = self.streams.close(id) {
            self.book.registry.handle_closed(slot, id.number());
            self.guests.set_stream(slot, self.streams.has(slot));
        }
    }

    /// Tells a slot's streams that they are out, and closes them: all, or those of one seller.
    pub(super) fn dismiss(&mut self, slot: Slot, seller: Option<NodeId>) {
        let its = self.streams.of(slot).filter(|(_, peer)| seller.is_none_or(|s| s == *peer));
        for (id, _) in its.collect::<Vec<_>>() {
            self.streams.send(id, ToMember::Evicted);
            self.drop_stream(id);
        }
        self.forget(slot);
    }

    /// Forgets what was known of a guest's tunnel and streams.
    fn forget(&mut self, slot: Slot) {
        self.guests.remove(slot);
        self.arrivals.remove(&slot);
    }

    /// Tells the data plane and all members what has changed since they were told last.
    pub(super) fn spread(&mut self) -> anyhow::Result<()> {
        for command in self.plane.sync(&self.book.registry, &self.rules) {
            self.dataplane.send(&command)?;
        }
        for id in self.streams.spread(&self.book.registry) {
            self.drop_stream(id);
        }
        self.follow_leases()?;
        self.tell_standing()
    }

    fn send(&mut self, id: StreamId, message: ToMember) {
        if !self.streams.send(id, message) {
            self.drop_stream(id);
        }
    }
}
