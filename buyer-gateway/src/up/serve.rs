//! The gateway's event loop: between sellers, registry, store, data plane and local commands.
//!
//! # Theory of operation
//! What a seller says goes to the registry; what the registry hands out is written to the store;
//! only then the data plane is told and the seller answered. Whenever the registry has changed,
//! [`Gateway::spread`] tells the data plane and every open member stream what is new, and
//! [`Gateway::tell_standing`] the user who was suspended and who came back.
//!
//! Guests that share a lease share its tunnel, which the data plane knows by the lowest of their
//! slots: its path is all of theirs.
//!
//! # Limits
//! Frames of a shared tunnel are counted at the first of its guests. Pings that wait for an answer
//! are bounded by the data plane's second. Grants that ran out are noticed by the next tick, within
//! [`STATS_INTERVAL`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use overlay::clock;
use overlay::dataplane::DataPlane;
use overlay::helper::Hands;
use overlay::local::{Answer, Call, Server};
use overlay::p2p::GatewayEvent;
use overlay::signals::Signals;
use overlay_proto::control::{Command, Event, MemberStats, PathKind, Slot, Stats};
use overlay_proto::dial::DialRules;
use overlay_proto::membership::GatewayPlane;
use overlay_proto::registry::{MemberInfo, Standing};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use vde_attach::tap::IfName;
use vde_switch::time::Instant;

use super::guests::Guests;
use super::report::Report;
use super::streams::Streams;
use crate::api::{Pong, Request};
use crate::helper::Tell;
use crate::order::Book;

/// How often the data plane's counters are asked for.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a new guest's data path may take until its joining is told without.
const PATH_AFTER_MAX: Duration = Duration::from_secs(5);

/// A guest that was let in and is not yet told of.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) asked_at: Instant,
    pub(super) remote: IpAddr,
}

/// A running order.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) book: Book,
    pub(super) hands: Hands,
    pub(super) dataplane: DataPlane,
    pub(super) plane: GatewayPlane,
    pub(super) rules: DialRules,
    pub(super) report: Report,
    /// This computer's interface on the segment.
    pub(super) tap: IfName,
    pub(super) guests: Guests,
    pub(super) streams: Streams,
    pub(super) arrivals: BTreeMap<Slot, Arrival>,
    /// By which slot the data plane knows each guest: that of the first guest of its lease.
    leads: BTreeMap<Slot, Slot>,
    /// Whose grants ran out, as told to the user.
    suspended: BTreeSet<Slot>,
    /// Who was asked for, and by whom.
    pub(super) pings: BTreeMap<u32, (Slot, oneshot::Sender<Answer>)>,
    pub(super) ping_id_last: u32,
}

impl Gateway {
    pub(super) fn new(
        book: Book,
        hands: Hands,
        dataplane: DataPlane,
        rules: DialRules,
        report: Report,
        tap: IfName,
    ) -> Self {
        Self {
            book,
            hands,
            dataplane,
            plane: GatewayPlane::default(),
            rules,
            report,
            tap,
            guests: Guests::default(),
            streams: Streams::default(),
            arrivals: BTreeMap::new(),
            leads: BTreeMap::new(),
            suspended: BTreeSet::new(),
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
                told = self.hands.next::<Tell>() => told?.0.into_result()?,
                Call { request, answer, .. } = local.call() => {
                    if self.handle_request(request, answer)? {
                        return Ok(());
                    }
                }
                _ = ticks.tick() => self.handle_tick()?,
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Path { slot, path, reason } => self.handle_path(slot, path, &reason)?,
            Event::Pong { slot: _, id, rtt_us } => {
                let rtt_ms = rtt_us.map(|us| f64::from(us) / 1000.0);
                if let Some((guest, answer)) = self.pings.remove(&id) {
                    let member = self.member(guest);
                    let ipv4 = member.map_or(String::new(), |m| m.station.ipv4.to_string());
                    let _ = answer.send(json!(Pong { ipv4, rtt_ms }).into());
                }
            }
            Event::Stats(mut stats) => {
                self.share_stats(&mut stats);
                for slot in self.guests.set_stats(stats, clock::now()) {
                    if let Some(member) = self.member(slot) {
                        self.report.first_frame(member.record.name.as_str())?;
                    }
                }
            }
            Event::PortLost { port: _, reason } => {
                bail!("this computer's interface is gone: {reason}")
            }
            Event::Refused { reason } => tracing::warn!(reason, "the data plane refused a command"),
        }
        Ok(())
    }

    /// Takes the path of a lease, which the data plane knows by the lowest of its slots.
    fn handle_path(&mut self, slot: Slot, path: PathKind, reason: &str) -> anyhow::Result<()> {
        let lease = self.book.registry.lease_of(slot);
        if lease.first() != Some(&slot) {
            return Ok(()); // of a tunnel that is no more
        }
        for guest in lease {
            self.take_path(guest, path, reason)?;
        }
        if let PathKind::Direct(addr) = path
            && self.book.registry.set_heard(slot, addr)
        {
            self.spread()?;
        }
        Ok(())
    }

    /// Takes the path of one guest.
    fn take_path(&mut self, slot: Slot, path: PathKind, reason: &str) -> anyhow::Result<()> {
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
        self.tell_if_lost(slot)
    }

    /// Notes who shares whose tunnel: a guest that comes to a lease has its path at once, one whose
    /// lease goes by another slot from now on has to wait for its tunnel.
    pub(super) fn follow_leases(&mut self) -> anyhow::Result<()> {
        let mut leads = BTreeMap::new();
        for member in self.book.registry.members() {
            let slot = member.record.slot;
            if let Some(lead) = self.book.registry.lease_of(slot).first() {
                leads.insert(slot, *lead);
            }
        }
        let before = std::mem::replace(&mut self.leads, leads.clone());
        for (slot, lead) in leads {
            let was = before.get(&slot).copied();
            if was == Some(lead) || (was.is_none() && lead == slot) {
                continue;
            }
            let path = match before.get(&lead) == Some(&lead) {
                true if lead != slot => self.guests.path(lead),
                _ => PathKind::None,
            };
            match path {
                PathKind::None => {
                    self.guests.set_path(slot, path);
                }
                path => self.take_path(slot, path, "its host has a tunnel already")?,
            }
        }
        Ok(())
    }

    /// Gives the tunnel of a lease to all its guests; what passed it is counted at the first.
    fn share_stats(&self, stats: &mut Stats) {
        let shared: Vec<_> = self.leads.iter().filter(|(slot, lead)| slot != lead).collect();
        for (slot, lead) in shared {
            let Some(of_lease) = stats.members.iter().find(|stats| stats.slot == *lead) else {
                continue;
            };
            let own = MemberStats {
                slot: *slot,
                sent_frames: 0,
                sent_bytes: 0,
                received_frames: 0,
                received_bytes: 0,
                dropped: 0,
                ..of_lease.clone()
            };
            stats.members.push(own);
        }
    }

    pub(super) fn tell_if_lost(&self, slot: Slot) -> anyhow::Result<()> {
        if let Some(member) = self.member(slot)
            && member.standing == Standing::Live
            && self.guests.is_away(slot)
        {
            self.report.lost(member.record.name.as_str())?;
        }
        Ok(())
    }

    fn handle_tick(&mut self) -> anyhow::Result<()> {
        self.dataplane.send(&Command::GetStats)?;
        self.pings.retain(|_, (_, answer)| !answer.is_closed());
        let now = clock::now();
        if self.book.registry.expire(clock::unix_seconds(), now) {
            self.spread()?;
        }
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

    /// Tells the user whose grants ran out since he was told last, and whose were renewed.
    pub(super) fn tell_standing(&mut self) -> anyhow::Result<()> {
        let life = Duration::from_secs(self.book.registry.order_record().life_s.into());
        let mut suspended = BTreeSet::new();
        for member in self.book.registry.members() {
            let (slot, name) = (member.record.slot, member.record.name.as_str());
            let was = self.suspended.contains(&slot);
            match member.standing {
                Standing::Suspended => {
                    suspended.insert(slot);
                    if !was {
                        self.guests.set_path(slot, PathKind::None);
                        self.report.suspended(name, life)?;
                    }
                }
                Standing::Live if was => self.report.resumed(name)?,
                Standing::Live => {}
            }
        }
        self.suspended = suspended;
        Ok(())
    }

    pub(super) fn member(&self, slot: Slot) -> Option<MemberInfo> {
        self.book.registry.members().find(|member| member.record.slot == slot)
    }
}
