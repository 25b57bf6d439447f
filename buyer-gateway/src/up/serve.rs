//! The gateway's event loop: between sellers, registry, store, data plane and local commands.
//!
//! # Theory of operation
//! What a seller says goes to the registry; what the registry hands out is written to the store;
//! only then the data plane is told and the seller answered. Whenever the registry has changed,
//! [`Gateway::spread`] tells the data plane and every open member stream what is new.
//!
//! # Limits
//! A member stream that does not take its messages is dropped; its seller comes back. Pings that
//! wait for an answer are bounded by the data plane's second.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use overlay::clock;
use overlay::dataplane::DataPlane;
use overlay::local::{Call, Server};
use overlay::p2p::{GatewayEvent, StreamId};
use overlay::signals::Signals;
use overlay_proto::control::{Command, Event, PathKind, Slot};
use overlay_proto::dial::DialRules;
use overlay_proto::identity::NodeId;
use overlay_proto::membership::GatewayPlane;
use overlay_proto::messages::{JoinReply, JoinRequest, RefuseReason, ToGateway, ToMember};
use overlay_proto::registry::MemberInfo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use vde_switch::time::Instant;

use super::guests::Guests;
use super::report::Report;
use crate::api::{Pong, Request};
use crate::order::Book;

/// How often the data plane's counters are asked for.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a new guest's data path may take until its joining is told without.
const PATH_AFTER_MAX: Duration = Duration::from_secs(5);

/// An open member stream.
#[derive(Debug)]
struct Stream {
    peer: NodeId,
    sender: mpsc::Sender<ToMember>,
    /// Whose, once it said hello, and the roster version it was told.
    member: Option<(Slot, u64)>,
}

/// A guest that was let in and is not yet told of.
#[derive(Debug)]
struct Arrival {
    asked_at: Instant,
    remote: IpAddr,
}

/// A running order.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) book: Book,
    pub(super) dataplane: DataPlane,
    plane: GatewayPlane,
    rules: DialRules,
    report: Report,
    pub(super) guests: Guests,
    streams: BTreeMap<StreamId, Stream>,
    arrivals: BTreeMap<Slot, Arrival>,
    pub(super) pings: BTreeMap<u32, oneshot::Sender<Value>>,
    pub(super) ping_id_last: u32,
}

impl Gateway {
    pub(super) fn new(book: Book, dataplane: DataPlane, rules: DialRules, report: Report) -> Self {
        Self {
            book,
            dataplane,
            plane: GatewayPlane::default(),
            rules,
            report,
            guests: Guests::default(),
            streams: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            pings: BTreeMap::new(),
            ping_id_last: 0,
        }
    }

    /// Tells the data plane all that the store remembers.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        self.spread()
    }

    /// Stops the data plane and gives the book back.
    pub(super) fn stop(self) -> Book {
        self.dataplane.stop();
        self.book
    }

    /// Serves until a signal, a `down`, or the end of a part.
    pub(super) async fn run(
        &mut self,
        mut sellers: mpsc::Receiver<GatewayEvent>,
        local: &mut Server<Request>,
        mut signals: Signals,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(STATS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = signals.any() => return Ok(()),
                event = sellers.recv() => match event {
                    Some(event) => self.handle_seller(event)?,
                    None => bail!("the control plane has ended"),
                },
                event = self.dataplane.event() => match event {
                    Some(event) => self.handle_event(event)?,
                    None => bail!("the data plane has ended"),
                },
                Call { request, answer } = local.call() => {
                    if self.handle_request(request, answer) {
                        return Ok(());
                    }
                }
                _ = ticks.tick() => self.handle_tick()?,
            }
        }
    }

    fn handle_seller(&mut self, event: GatewayEvent) -> anyhow::Result<()> {
        match event {
            GatewayEvent::Join { peer, remote, request, reply } => {
                self.handle_join(peer, remote.ip(), &request, reply)
            }
            GatewayEvent::Opened { stream, peer, remote: _, sender } => {
                self.streams.insert(stream, Stream { peer, sender, member: None });
                Ok(())
            }
            GatewayEvent::Message { stream, peer, message } => {
                self.handle_message(stream, peer, message)
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
        let unix_now = clock::unix_seconds();
        let outcome = self.book.registry.handle_join(peer, remote, request, unix_now);
        if let Err(error) = self.book.commit(&outcome.records) {
            // The registry is ahead of its store now: nothing more may be handed out.
            let _ = reply.send(JoinReply::Refused(RefuseReason::Unavailable));
            return Err(error.into());
        }
        if let Some(slot) = outcome.joined {
            self.arrivals.insert(slot, Arrival { asked_at: clock::now(), remote });
            self.spread()?;
        }
        if let JoinReply::Refused(reason) = &outcome.reply {
            tracing::info!(%peer, %reason, "a seller was refused");
        }
        // A seller that went away meanwhile asks again.
        let _ = reply.send(outcome.reply);
        Ok(())
    }

    fn handle_message(
        &mut self,
        id: StreamId,
        peer: NodeId,
        message: ToGateway,
    ) -> anyhow::Result<()> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let member = stream.member.map(|(slot, _)| slot);
        let registry = &mut self.book.registry;
        match (member, message) {
            (None, ToGateway::Hello { slot, roster_version, candidates }) => {
                if let Err(reason) = registry.check_member(peer, slot) {
                    tracing::info!(%peer, slot = slot.0, %reason, "a member stream was refused");
                    self.streams.remove(&id);
                    return Ok(());
                }
                stream.member = Some((slot, roster_version));
                registry.set_candidates(slot, &candidates);
                self.guests.set_stream(slot, true);
                self.spread()
            }
            (Some(slot), ToGateway::Renew { nonce }) => {
                match registry.renew(peer, slot, nonce) {
                    Ok(grant) => self.send(id, ToMember::Grant(grant)),
                    Err(_) => drop(self.drop_stream(id)),
                }
                Ok(())
            }
            (Some(slot), ToGateway::Candidates(candidates)) => {
                registry.set_candidates(slot, &candidates);
                self.spread()
            }
            (Some(slot), ToGateway::Leave) => {
                let member = self.member(slot);
                let left = self.book.registry.leave(peer, slot, clock::unix_seconds());
                self.book.commit(&left.unwrap_or_default())?;
                self.streams.remove(&id);
                self.guests.remove(slot);
                self.arrivals.remove(&slot);
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
        match self.drop_stream(id) {
            Some(slot) => self.tell_if_lost(slot),
            None => Ok(()),
        }
    }

    /// Forgets a stream, which closes it; returns the member that has no other.
    fn drop_stream(&mut self, id: StreamId) -> Option<Slot> {
        let (slot, _) = self.streams.remove(&id)?.member?;
        let same = |stream: &Stream| stream.member.is_some_and(|(other, _)| other == slot);
        if self.streams.values().any(same) {
            return None;
        }
        self.guests.set_stream(slot, false);
        Some(slot)
    }

    fn handle_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Path { slot, path, reason } => self.handle_path(slot, path, &reason)?,
            Event::Pong { slot, id, rtt_us } => {
                let ipv4 = self.member(slot).map_or(String::new(), |m| m.station.ipv4.to_string());
                let rtt_ms = rtt_us.map(|us| f64::from(us) / 1000.0);
                if let Some(answer) = self.pings.remove(&id) {
                    let _ = answer.send(json!(Pong { ipv4, rtt_ms }));
                }
            }
            Event::Stats(stats) => self.guests.set_stats(stats, clock::now()),
            Event::PortLost { port: _, reason } => {
                bail!("this computer's interface is gone: {reason}")
            }
            Event::Refused { reason } => tracing::warn!(reason, "the data plane refused a command"),
        }
        Ok(())
    }

    fn handle_path(&mut self, slot: Slot, path: PathKind, reason: &str) -> anyhow::Result<()> {
        let Some(member) = self.member(slot) else { return Ok(()) };
        if self.guests.set_path(slot, path) == path {
            return Ok(());
        }
        if path != PathKind::None
            && let Some(Arrival { asked_at, remote }) = self.arrivals.remove(&slot)
        {
            self.report.joined(&member, remote, Some(clock::now() - asked_at))?;
        }
        self.report.path(member.record.name.as_str(), path, reason)?;
        if let PathKind::Direct(addr) = path
            && self.book.registry.set_heard(slot, addr)
        {
            self.spread()?;
        }
        self.tell_if_lost(slot)
    }

    fn tell_if_lost(&self, slot: Slot) -> anyhow::Result<()> {
        if let Some(member) = self.member(slot)
            && self.guests.is_away(slot)
        {
            self.report.lost(member.record.name.as_str())?;
        }
        Ok(())
    }

    fn handle_tick(&mut self) -> anyhow::Result<()> {
        self.dataplane.send(&Command::GetStats)?;
        self.pings.retain(|_, answer| !answer.is_closed());
        let now = clock::now();
        let late = |arrival: &Arrival| now - arrival.asked_at > PATH_AFTER_MAX;
        let slots: Vec<_> =
            self.arrivals.iter().filter(|(_, a)| late(a)).map(|(slot, _)| *slot).collect();
        for slot in slots {
            let arrival = self.arrivals.remove(&slot);
            if let Some((arrival, member)) = arrival.zip(self.member(slot)) {
                self.report.joined(&member, arrival.remote, None)?;
            }
        }
        Ok(())
    }

    fn member(&self, slot: Slot) -> Option<MemberInfo> {
        self.book.registry.members().find(|member| member.record.slot == slot)
    }

    /// Tells the data plane and all members what has changed since they were told last.
    fn spread(&mut self) -> anyhow::Result<()> {
        for command in self.plane.sync(&self.book.registry, &self.rules) {
            self.dataplane.send(&command)?;
        }
        let version = self.book.registry.version();
        let mut news = Vec::new();
        for (id, stream) in &mut self.streams {
            let Some((_, told)) = &mut stream.member else { continue };
            if let Some(roster) = self.book.registry.roster_since(*told) {
                *told = version;
                news.push((*id, roster));
            }
        }
        for (id, roster) in news {
            self.send(id, ToMember::Roster(roster));
        }
        Ok(())
    }

    /// Sends to a member; one whose queue is full loses its stream and comes back.
    fn send(&mut self, id: StreamId, message: ToMember) {
        let Some(stream) = self.streams.get(&id) else { return };
        if let Err(error) = stream.sender.try_send(message) {
            tracing::info!(peer = %stream.peer, %error, "a member stream was dropped");
            self.drop_stream(id);
        }
    }
}
