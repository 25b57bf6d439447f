//! The seller's event loop: between gateway, data plane and local commands.
//!
//! # Theory of operation
//! What the gateway says is verified by the [`Membership`], and what follows from it is told to the
//! data plane. When the control connection is lost, data goes on; the gateway is dialled again and
//! the ticket shown again, which gives the same place. A grant is renewed at half its life. One
//! that ran out suspends the guest: nothing flows, the gateway is dialled on, and everything
//! resumes with the next grant, or ends when none came for the time that the user chose.
//!
//! # Limits
//! Clocks of a host that slept are noticed within [`STATS_INTERVAL`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use overlay::capture::{self, Captured};
use overlay::clock;
use overlay::dataplane::DataPlane;
use overlay::drops;
use overlay::duration;
use overlay::exit::{Exit, Fault};
use overlay::local::{Answer, Call, Server};
use overlay::signals::Signals;
use overlay_proto::control::{Command, Detail, Event, LocalPort, PathKind, Slot, Stats};
use overlay_proto::membership::{LifeChange, Membership, MembershipError};
use overlay_proto::messages::{JoinReply, RefuseReason, ToMember};
use serde_json::json;
use vde_switch::time::Instant;

use super::hands::{Facts, Host, HostEvent};
use super::link::{Link, LinkEvent};
use super::report::{Report, path_words};
use super::story::{News, Story};
use super::{Evicted, nonce, refused, tell};
use crate::api::{LeaseStatus, Request};
use crate::helper::ask::{Ask, Wiring};

/// How often the data plane's counters are asked for.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the helper is told which addresses are in use.
const ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Most addresses that it is told of.
const ALIVE_MAX: usize = 64;
/// How long the first path may take until the log says so.
const PATH_AFTER_MAX: Duration = Duration::from_secs(10);

/// What a running lease is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) membership: Membership,
    pub(super) link: Link,
    pub(super) dataplane: DataPlane,
    pub(super) host: Host,
    pub(super) wiring: Wiring,
    pub(super) report: Report,
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) port: u16,
    /// How long a suspended guest waits for the gateway.
    pub(super) keep: Duration,
}

/// A running lease.
#[derive(Debug)]
pub(super) struct Member {
    membership: Membership,
    link: Link,
    dataplane: DataPlane,
    host: Host,
    /// What the guest's cable carries, as the helper was told last.
    wiring: Wiring,
    report: Report,
    candidates: Vec<SocketAddr>,
    port: u16,
    keep: Duration,
    started_at: Instant,
    /// When the grant ran out, as noticed.
    suspended_at: Option<Instant>,
    paths: BTreeMap<Slot, PathKind>,
    stats: Stats,
    story: Story,
    /// Whether the guest's line was printed, and whether the log complained that it was not.
    told: Told,
    /// When the helper was told last which addresses are in use.
    named_at: Instant,
    /// Whether the loss of the control connection was told.
    control_lost: bool,
    /// Why the guest's own end is a failure.
    guest_fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Late,
    Joined,
}

impl Member {
    pub(super) fn new(parts: Parts, started_at: Instant) -> Self {
        let Parts { membership, link, dataplane, host, wiring, report, candidates, port, keep } =
            parts;
        Self {
            membership,
            link,
            dataplane,
            host,
            wiring,
            report,
            candidates,
            port,
            keep,
            started_at,
            suspended_at: None,
            paths: BTreeMap::new(),
            stats: Stats::default(),
            story: Story::default(),
            told: Told::Nothing,
            named_at: started_at,
            control_lost: false,
            guest_fault: None,
        }
    }

    /// Serves until a signal, a `leave`, an eviction, the guest's end, or that of a part.
    pub(super) async fn run(
        mut self,
        local: &mut Server<Request>,
        signals: Signals,
    ) -> anyhow::Result<()> {
        let ended = self.serve(local, signals).await;
        let Self { link, mut host, guest_fault, .. } = self;
        // A helper that is gone has taken all with it.
        let _ = host.say(&Ask::EndMachine);
        if ended.as_ref().is_err_and(|error| error.is::<Evicted>()) {
            let _ = host.say(&Ask::Forget);
        }
        if ended.is_ok() {
            link.leave().await;
        }
        host.machine_gone().await;
        guest_fault.map_or(ended, |fault| Err(fault.into()))
    }

    async fn serve(
        &mut self,
        local: &mut Server<Request>,
        mut signals: Signals,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(STATS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = signals.any() => return Ok(()),
                event = self.link.next() => self.handle_link(event)?,
                event = self.dataplane.event() => match event {
                    Some(event) => self.handle_event(event).await?,
                    None => bail!("the data plane has ended"),
                },
                event = self.host.next() => if self.handle_host(event?)? {
                    return Ok(());
                },
                Call { request, answer } = local.call() => {
                    let (value, is_last) = match request {
                        Request::Status => (json!(self.status().await?).into(), false),
                        Request::Pcap { detail } => (self.capture(detail), false),
                        Request::Leave => (json!({}).into(), true),
                    };
                    let _ = answer.send(value); // whoever asked may have gone
                    if is_last {
                        return Ok(());
                    }
                }
                _ = ticks.tick() => self.handle_tick()?,
            }
        }
    }

    /// Tells what became of the guest's machine, and whether that was its end.
    fn handle_host(&mut self, event: HostEvent) -> anyhow::Result<bool> {
        match event {
            HostEvent::MachineEnded { status, success, again, words } => {
                self.report.guest_exited(&status, again)?;
                if again.is_none() && !success {
                    let words = if words.is_empty() { "no reason given" } else { &words };
                    let text = format!("the guest's QEMU ended with {status}: {words}");
                    self.guest_fault = Some(Fault::new(Exit::Failed, text));
                }
                Ok(again.is_none())
            }
            HostEvent::MachineStarted(pid) => {
                if let Some(Facts { program, accel, console }) = self.host.facts() {
                    self.report.guest_started(program, Some(pid), accel, console.as_deref())?;
                }
                Ok(false)
            }
            HostEvent::Over(fault) => Err(fault.into()),
        }
    }

    fn handle_link(&mut self, event: LinkEvent) -> anyhow::Result<()> {
        match event {
            LinkEvent::Due => self.link.join(self.membership.request(nonce()?, clock::now())),
            LinkEvent::Joined(JoinReply::Welcome(welcome)) => {
                if let Some(addr) = self.link.remote() {
                    self.host.say(&Ask::Joined(addr))?;
                }
                let commands = self.membership.handle_welcome(&welcome, clock::now());
                self.follow(commands)?;
                if let Some(hello) = self.membership.hello(self.candidates.clone()) {
                    self.link.open(hello);
                }
            }
            LinkEvent::Joined(JoinReply::Refused(reason)) => self.handle_refusal(reason)?,
            LinkEvent::Open => {
                if std::mem::take(&mut self.control_lost) {
                    self.report.control(true, "joined again")?;
                }
            }
            LinkEvent::Message(message) => self.handle_message(message)?,
            LinkEvent::Lost(error) => {
                if !std::mem::replace(&mut self.control_lost, true) {
                    self.report.control(false, &error.to_string())?;
                }
                tracing::info!(%error, "no control connection");
            }
        }
        Ok(())
    }

    /// A gateway that is another's, or cannot write, may be right again later; the rest is final.
    fn handle_refusal(&mut self, reason: RefuseReason) -> anyhow::Result<()> {
        match reason {
            RefuseReason::OtherOrder | RefuseReason::Unavailable | RefuseReason::InUse => {
                tracing::warn!(%reason, "the gateway does not let this guest in for now");
                self.link.close();
                Ok(())
            }
            RefuseReason::TicketUsed
            | RefuseReason::TicketExpired
            | RefuseReason::TicketUnknown
            | RefuseReason::TicketRevoked
            | RefuseReason::Version(_)
            | RefuseReason::OrderFull
            | RefuseReason::KeyInUse
            | RefuseReason::Evicted
            | RefuseReason::Malformed => Err(self.refused(reason)),
        }
    }

    fn refused(&self, reason: RefuseReason) -> anyhow::Error {
        refused(&self.membership.ticket().body().guest, reason)
    }

    fn handle_message(&mut self, message: ToMember) -> anyhow::Result<()> {
        let commands = self.membership.handle_message(message, clock::now());
        self.follow(commands)
    }

    /// Does what the gateway's words lead to; one whose words cannot be believed is left.
    fn follow(&mut self, commands: Result<Vec<Command>, MembershipError>) -> anyhow::Result<()> {
        match commands {
            Ok(commands) => {
                tell(&self.dataplane, &commands)?;
                self.follow_config()?;
                self.look_at_life()
            }
            Err(MembershipError::Evicted) => Err(self.refused(RefuseReason::Evicted)),
            Err(error) => {
                tracing::warn!(%error, "the gateway said what cannot be believed");
                self.link.close();
                Ok(())
            }
        }
    }

    /// Has the guest's cable follow a config that changed.
    fn follow_config(&mut self) -> anyhow::Result<()> {
        let Some(config) = self.membership.config() else { return Ok(()) };
        if config.segment != self.wiring.segment || config.routes != self.wiring.routes {
            self.wiring.segment = config.segment;
            self.wiring.routes.clone_from(&config.routes);
            self.host.say(&Ask::Follow(self.wiring.clone()))?;
        }
        Ok(())
    }

    async fn handle_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Path { slot, path, reason } => self.handle_path(slot, path, &reason).await?,
            Event::Stats(stats) => self.handle_stats(stats)?,
            Event::PortLost { port: _, reason } => bail!("the guest's interface is gone: {reason}"),
            Event::Refused { reason } => tracing::warn!(reason, "the data plane refused a command"),
            Event::Pong { .. } => {} // nobody asks here
        }
        Ok(())
    }

    fn handle_stats(&mut self, stats: Stats) -> anyhow::Result<()> {
        if let Some(port) = stats.ports.iter().find(|port| port.port == LocalPort::GUEST) {
            for news in self.story.look(port, clock::now()) {
                match news {
                    News::FirstFrame => self.report.guest_up()?,
                    News::Address => self.report.address_handed_out()?,
                }
            }
        }
        self.stats = stats;
        Ok(())
    }

    async fn handle_path(
        &mut self,
        slot: Slot,
        path: PathKind,
        reason: &str,
    ) -> anyhow::Result<()> {
        if self.paths.insert(slot, path).unwrap_or(PathKind::None) == path {
            return Ok(());
        }
        if let PathKind::Direct(addr) = path {
            self.host.say(&Ask::Proven(addr))?;
        }
        if slot == Slot::GATEWAY && self.told != Told::Joined {
            self.host.ask(&Ask::Open).await?;
            if let (Some(grant), Some(config)) = (self.membership.grant(), self.membership.config())
            {
                self.told = Told::Joined;
                let took = clock::now() - self.started_at;
                self.report.joined(grant, config, &self.host.words(), path, took)?;
            }
            return Ok(());
        }
        let other = self.membership.view().entries().get(&slot);
        let to = match other {
            _ if slot == Slot::GATEWAY => "buyer".to_owned(),
            Some(entry) => entry.grant.name.to_string(),
            None => return Ok(()), // gone from the order meanwhile
        };
        Ok(self.report.path(&to, path, reason)?)
    }

    fn renew(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if self.link.is_open() && self.membership.renew_at().is_some_and(|at| at <= now) {
            let question = self.membership.renew(nonce()?, now);
            self.link.send(question);
        }
        Ok(())
    }

    /// Tells the user when the grant has run out and when it was renewed, and gives up in the end.
    fn look_at_life(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        while let Some(change) = self.membership.poll(now) {
            match change {
                LifeChange::Expired => {
                    self.suspended_at = Some(now);
                    self.report.suspended(self.life())?;
                }
                LifeChange::Resumed => {
                    self.suspended_at = None;
                    self.report.resumed()?;
                }
            }
        }
        match self.suspended_at {
            Some(at) if now - at > self.keep => {
                let text = format!(
                    "the buyer has not been heard for {} and the guest was given up: bring it back \
                     with `overlay-seller resume`",
                    duration::show(self.keep + self.life())
                );
                Err(Fault::new(Exit::Unreachable, text).into())
            }
            _ => Ok(()),
        }
    }

    fn life(&self) -> Duration {
        Duration::from_secs(self.membership.grant().map_or(0, |grant| grant.life_s).into())
    }

    fn handle_tick(&mut self) -> anyhow::Result<()> {
        self.dataplane.send(&Command::GetStats)?;
        self.look_at_life()?;
        self.renew()?;
        self.name_alive()?;
        if self.told == Told::Nothing && clock::now() - self.started_at > PATH_AFTER_MAX {
            self.told = Told::Late;
            tracing::warn!(
                "no data passes to the gateway yet: is UDP open to its port in all firewalls?"
            );
        }
        Ok(())
    }

    /// Names the addresses that are in use, so that the host's guard keeps them open.
    fn name_alive(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if now - self.named_at < ALIVE_INTERVAL {
            return Ok(());
        }
        self.named_at = now;
        let direct = self.paths.values().filter_map(|path| match path {
            PathKind::Direct(addr) => Some(*addr),
            PathKind::None | PathKind::Relay => None,
        });
        let addrs = direct.take(ALIVE_MAX).collect();
        self.host.say(&Ask::Alive(addrs))
    }

    fn capture(&self, detail: Detail) -> Answer {
        let body = self.membership.ticket().body();
        let begin = || -> io::Result<Answer> {
            let (records, readers) = capture::pair()?;
            self.dataplane.capture(LocalPort::GUEST, detail, None, records)?;
            let name = format!("{}/{}", body.order_name, body.guest);
            let captured = Captured { name, words: self.host.words() };
            Ok(Answer { value: json!(captured), fd: Some(readers) })
        };
        begin().unwrap_or_else(|error| json!({ "error": error.to_string() }).into())
    }

    async fn status(&mut self) -> anyhow::Result<LeaseStatus> {
        let stopped = self.host.counts().await?;
        let stopped = stopped.into_iter().map(|(name, frames)| (drops::of_wire(&name), frames));
        let counted = self.stats.drops.iter().cloned().chain(stopped).collect();
        let ticket = self.membership.ticket();
        let station = self.membership.grant().map(|grant| grant.station);
        let path = self.paths.get(&Slot::GATEWAY).copied().unwrap_or(PathKind::None);
        let buyer = self.stats.members.iter().find(|stats| stats.slot == Slot::GATEWAY);
        let rtt_us = buyer.and_then(|stats| stats.rtt_us);
        let state = match (path, self.link.is_open()) {
            _ if self.suspended_at.is_some() => "suspended",
            (PathKind::None, false) => "away",
            (PathKind::None, true) => "control",
            (PathKind::Direct(_) | PathKind::Relay, false) => "data",
            (PathKind::Direct(_) | PathKind::Relay, true) => "up",
        };
        let (path, remote) = path_words(path);
        let now = clock::now();
        Ok(LeaseStatus {
            order: ticket.body().order_name.to_string(),
            id: self.membership.order().to_string(),
            guest: ticket.body().guest.to_string(),
            ipv4: station.map_or(String::new(), |station| station.ipv4.to_string()),
            ipv6: station.map_or(String::new(), |station| station.ipv6.to_string()),
            attached: self.host.words(),
            port: self.port,
            path: path.to_owned(),
            remote,
            rtt_ms: rtt_us.map(|us| f64::from(us) / 1000.0),
            members: self.membership.view().entries().len(),
            state: state.to_owned(),
            lease_left_s: self.membership.expires_at().map(|at| (at - now).as_secs()),
            first_frame_s: self.story.first_frame_at.map(|at| (now - at).as_secs()),
            addresses_given: self.story.addresses_given,
            in_frames: self.stats.ports.iter().map(|port| port.in_frames).sum(),
            in_bytes: self.stats.ports.iter().map(|port| port.in_bytes).sum(),
            in_bps: self.story.from.bps(),
            in_fps: self.story.from.fps(),
            out_frames: self.stats.ports.iter().map(|port| port.out_frames).sum(),
            out_bytes: self.stats.ports.iter().map(|port| port.out_bytes).sum(),
            out_bps: self.story.to.bps(),
            out_fps: self.story.to.fps(),
            reasons: drops::all_words(&counted),
            drops: counted,
        })
    }
}
