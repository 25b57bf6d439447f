//! The seller's event loop: between gateway, data plane, helper, local commands and the guests that
//! share the lease.
//!
//! # Theory of operation
//! A lease has one data plane and one port for each of its guests: the program's own, and those of
//! other programs of the same order ([`super::others`]). Each has a control connection of its own
//! ([`Guest`]); one of them drives the data plane, and when that one ends or its grant has run out,
//! another does. A guest whose grant ran out is unplugged until it is renewed, as long as another
//! lives; when none does, the data plane has no life left, and nothing flows at all.
//!
//! When the program's own guest has ended and others share the lease, it goes on for them.
//!
//! # Limits
//! Clocks of a host that slept are noticed within [`STATS_INTERVAL`]. A lease that ends otherwise
//! than by its guests' ends leaves the others to themselves: each then has a lease of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use overlay::clock;
use overlay::dataplane::DataPlane;
use overlay::exit::{Exit, Fault};
use overlay::local::{Call, Server};
use overlay::signals::{Signals, Told as Signal};
use overlay_proto::control::{Command, Event, LocalPort, PathKind, Slot, Stats};
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::SellerHost;
use overlay_proto::ticket::Ticket;
use serde_json::json;
use tokio::task::JoinSet;
use vde_switch::time::Instant;

use super::guest::{Effects, Guest};
use super::hands::{Facts, Host, HostEvent};
use super::news::News;
use super::others::{Other, next_of};
use super::report::Report;
use super::{Evicted, tell};
use crate::api::Request;
use crate::args::Conduct;
use crate::helper::ask::{Ask, Wiring};

/// How often the data plane's counters are asked for.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the helper is told which addresses are in use.
const ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Most addresses that it is told of.
const ALIVE_MAX: usize = 64;
/// How long the first path may take until the log says so.
const PATH_AFTER_MAX: Duration = Duration::from_secs(10);
/// How long after ^C another signal is the same one, which a terminal and the helper both send.
const SAME_SIGNAL_FOR: Duration = Duration::from_secs(1);

/// What a running lease is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) own: Guest,
    pub(super) dataplane: DataPlane,
    pub(super) host: Host,
    /// What the guest's cable carries, as the helper was told last.
    pub(super) wiring: Wiring,
    pub(super) report: Report,
    pub(super) port: u16,
    pub(super) seller: SellerHost,
    pub(super) key: NodeKey,
    pub(super) conduct: Conduct,
    pub(super) candidates: Vec<SocketAddr>,
}

/// A running lease.
#[derive(Debug)]
pub(super) struct Lease {
    /// The program's own guest; `None` once it has ended and others go on.
    pub(super) own: Option<Guest>,
    /// Its ticket.
    pub(super) ticket: Ticket,
    /// The guests of other programs.
    pub(super) others: BTreeMap<LocalPort, Other>,
    pub(super) dataplane: DataPlane,
    pub(super) host: Host,
    wiring: Wiring,
    pub(super) report: Report,
    pub(super) port: u16,
    pub(super) seller: SellerHost,
    pub(super) key: NodeKey,
    pub(super) conduct: Conduct,
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) started_at: Instant,
    pub(super) paths: BTreeMap<Slot, PathKind>,
    pub(super) stats: Stats,
    /// Whether the log complained that no data passes.
    is_late: bool,
    /// When the helper was told last which addresses are in use.
    named_at: Instant,
    /// Why the guest's own end is a failure.
    guest_fault: Option<Fault>,
    /// When the user asked for the end, and the lease went on for others.
    interrupted_at: Option<Instant>,
    /// What is still being said to the gateway for guests that have ended.
    goodbyes: JoinSet<()>,
}

impl Lease {
    pub(super) fn new(parts: Parts, started_at: Instant) -> Self {
        let Parts { own, dataplane, host, wiring, report, port, seller, key, conduct, candidates } =
            parts;
        Self {
            ticket: own.membership.ticket().clone(),
            own: Some(own),
            others: BTreeMap::new(),
            dataplane,
            host,
            wiring,
            report,
            port,
            seller,
            key,
            conduct,
            candidates,
            started_at,
            paths: BTreeMap::new(),
            stats: Stats::default(),
            is_late: false,
            named_at: started_at,
            guest_fault: None,
            interrupted_at: None,
            goodbyes: JoinSet::new(),
        }
    }

    /// Serves until a signal, a `leave`, an eviction, the end of its last guest, or that of a part.
    pub(super) async fn run(
        mut self,
        local: &mut Server<Request>,
        signals: Signals,
    ) -> anyhow::Result<()> {
        let ended = self.serve(local, signals).await;
        let Self { own, others, mut host, guest_fault, mut goodbyes, .. } = self;
        // A helper that is gone has taken all with it.
        let _ = host.say(&Ask::EndMachine);
        if ended.as_ref().is_err_and(|error| error.is::<Evicted>()) {
            let _ = host.say(&Ask::Forget);
        }
        drop(others); // which have leases of their own from here on
        if let Some(own) = own.filter(|_| ended.is_ok()) {
            goodbyes.spawn(own.link.leave());
        }
        while goodbyes.join_next().await.is_some() {}
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
            let is_over = tokio::select! {
                told = signals.next() => self.handle_signal(told)?,
                event = next_own(&mut self.own) => {
                    let mut effects = Effects::default();
                    let Some(own) = &mut self.own else { continue };
                    own.handle_link(event, &mut effects)?;
                    self.take_own(effects)?;
                    false
                }
                (port, event) = next_of(&mut self.others) => {
                    self.handle_other(port, event);
                    false
                }
                event = self.dataplane.event() => match event {
                    Some(event) => {
                        self.handle_event(event).await?;
                        false
                    }
                    None => bail!("the data plane has ended"),
                },
                event = self.host.next() => self.handle_host(event?)?,
                call = local.call() => self.answer(call).await?,
                _ = ticks.tick() => {
                    self.handle_tick()?;
                    false
                }
            };
            if is_over || (self.own.is_none() && self.others.is_empty()) {
                return Ok(());
            }
            self.settle()?;
        }
    }

    /// Answers a local command; says whether it ends the lease.
    pub(super) async fn answer(&mut self, call: Call<Request>) -> anyhow::Result<bool> {
        let Call { request, uid, answer } = call;
        let is_last = matches!(request, Request::Leave);
        let value = match request {
            Request::Status => json!(self.status().await?).into(),
            Request::Pcap { detail } => self.capture(LocalPort::GUEST, detail),
            Request::Share(share) => self.share(&share, uid),
            Request::Leave => json!({}).into(),
        };
        let _ = answer.send(value); // whoever asked may have gone
        if is_last { self.end_own() } else { Ok(false) }
    }

    /// ^C ends the guest, and once more the lease; any other signal ends the lease.
    fn handle_signal(&mut self, told: Signal) -> anyhow::Result<bool> {
        let now = clock::now();
        match (told, self.interrupted_at) {
            (Signal::End, _) => Ok(true),
            (Signal::Interrupt, Some(at)) => Ok(now - at > SAME_SIGNAL_FOR),
            (Signal::Interrupt, None) => {
                self.interrupted_at = Some(now);
                self.end_own()
            }
        }
    }

    /// Lets the program's own guest go; says whether that is the lease's end.
    fn end_own(&mut self) -> anyhow::Result<bool> {
        let names = self.others_alive();
        if names.is_empty() {
            return Ok(true);
        }
        let Some(mut own) = self.own.take() else { return Ok(false) };
        // Whoever drives the data plane from here on says what is still to be said.
        self.drive_on(Some(&mut own))?;
        self.unplug(&mut own)?;
        self.tell_local()?;
        // A machine has to end before its cable can go.
        let end = if self.host.has_machine() { Ask::EndMachine } else { Ask::Unplug };
        self.host.say(&end)?;
        self.say_goodbye(own);
        self.report.goes_on(&names)?;
        Ok(false)
    }

    /// Lets the gateway know that a guest has ended; the lease does not end before it does.
    pub(super) fn say_goodbye(&mut self, guest: Guest) {
        while self.goodbyes.try_join_next().is_some() {}
        self.goodbyes.spawn(guest.link.leave());
    }

    /// Tells what became of the guest's machine, and whether that was the lease's end.
    fn handle_host(&mut self, event: HostEvent) -> anyhow::Result<bool> {
        match event {
            HostEvent::MachineEnded { status, success, again, words } => {
                self.report.guest_exited(&status, again)?;
                if again.is_none() && !success && self.own.is_some() {
                    let words = if words.is_empty() { "no reason given" } else { &words };
                    let text = format!("the guest's QEMU ended with {status}: {words}");
                    self.guest_fault = Some(Fault::new(Exit::Failed, text));
                }
                match (&self.own, again) {
                    (_, Some(_)) => Ok(false),
                    (Some(_), None) => self.end_own(),
                    (None, None) => {
                        self.host.say(&Ask::Unplug)?;
                        Ok(false)
                    }
                }
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

    /// Does what follows from what the own guest's gateway said.
    fn take_own(&mut self, effects: Effects) -> anyhow::Result<()> {
        let Effects { commands, news, proved, .. } = effects;
        if let Some(addr) = proved {
            self.host.say(&Ask::Joined(addr))?;
        }
        tell(&self.dataplane, &commands)?;
        for news in &news {
            self.report.news(news)?;
        }
        let wiring = self.own.as_ref().and_then(Guest::wiring);
        if let Some(wiring) = wiring.filter(|wiring| *wiring != self.wiring) {
            self.wiring = wiring;
            self.host.say(&Ask::Follow(self.wiring.clone()))?;
        }
        Ok(())
    }

    async fn handle_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Path { slot, path, reason } => self.handle_path(slot, path, reason).await?,
            Event::Stats(stats) => self.handle_stats(stats)?,
            Event::PortLost { port: LocalPort::GUEST, reason } if self.own.is_some() => {
                bail!("the guest's interface is gone: {reason}")
            }
            Event::PortLost { port, reason } => self.lose(port, &reason),
            Event::Refused { reason } => tracing::warn!(reason, "the data plane refused a command"),
            Event::Pong { .. } => {} // nobody asks here
        }
        Ok(())
    }

    fn handle_stats(&mut self, stats: Stats) -> anyhow::Result<()> {
        for port in &stats.ports {
            let mut effects = Effects::default();
            if let Some(own) = self.own.as_mut().filter(|own| own.port == port.port) {
                own.handle_stats(port, &mut effects);
                self.take_own(effects)?;
            } else if let Some(other) = self.others.get_mut(&port.port) {
                other.guest.handle_stats(port, &mut effects);
                other.say_news(effects.news);
            }
        }
        self.stats = stats;
        Ok(())
    }

    async fn handle_path(
        &mut self,
        slot: Slot,
        path: PathKind,
        reason: String,
    ) -> anyhow::Result<()> {
        if self.paths.insert(slot, path).unwrap_or(PathKind::None) == path {
            return Ok(());
        }
        if let PathKind::Direct(addr) = path {
            self.host.say(&Ask::Proven(addr))?;
        }
        if slot == Slot::GATEWAY {
            self.others.values_mut().for_each(|other| other.look_joined(path));
        }
        let to = match self.driver().and_then(|guest| guest.membership.view().entries().get(&slot))
        {
            _ if slot == Slot::GATEWAY => "buyer".to_owned(),
            Some(entry) => entry.grant.name.to_string(),
            None => return Ok(()), // gone from the order meanwhile
        };
        let news = News::Path { to, path, reason };
        for other in self.others.values_mut() {
            other.say_news(vec![news.clone()]);
        }
        let Some(own) = self.own.as_mut() else { return Ok(()) };
        if slot != Slot::GATEWAY || own.is_joined {
            return Ok(self.report.news(&news)?);
        }
        self.host.ask(&Ask::Open).await?;
        own.is_joined = true;
        let took = clock::now() - self.started_at;
        if let Some(wiring) = own.wiring() {
            self.report.joined(own.membership.ticket(), &wiring, &self.host.words(), path, took)?;
        }
        Ok(())
    }

    fn handle_tick(&mut self) -> anyhow::Result<()> {
        self.dataplane.send(&Command::GetStats)?;
        let mut effects = Effects::default();
        if let Some(own) = &mut self.own {
            own.handle_tick(&mut effects)?;
            self.take_own(effects)?;
        }
        self.tick_others();
        self.name_alive()?;
        let is_silent = self.paths.is_empty() && !self.is_late;
        if is_silent && clock::now() - self.started_at > PATH_AFTER_MAX {
            self.is_late = true;
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

    /// Returns the guest that drives the data plane.
    fn driver(&self) -> Option<&Guest> {
        let others = self.others.values().map(|other| &other.guest);
        self.own.iter().chain(others).find(|guest| guest.membership.drives())
    }

    /// Has the data plane driven by a guest that lives, and ports plugged in whose guests do.
    fn settle(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if self.driver().is_none_or(|driver| !driver.is_alive(now)) {
            self.drive_on(None)?;
        }
        let any_lives = self.driver().is_some_and(|driver| driver.is_alive(now));
        let dataplane = &self.dataplane;
        let others = self.others.values_mut().map(|other| &mut other.guest);
        for guest in self.own.iter_mut().chain(others) {
            match (guest.is_alive(now), guest.is_attached) {
                (true, false) => plug(dataplane, guest)?,
                (false, true) if any_lives => {
                    dataplane.send(&Command::DetachPort(guest.port))?;
                    guest.is_attached = false;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets a guest that lives drive the data plane, in place of the present one or of `from`.
    pub(super) fn drive_on(&mut self, from: Option<&mut Guest>) -> anyhow::Result<()> {
        let now = clock::now();
        let goes = from.is_some();
        let others = self.others.values_mut().map(|other| &mut other.guest);
        let mut guests: Vec<_> =
            from.into_iter().chain(self.own.iter_mut()).chain(others).collect();
        let from = guests.iter().position(|guest| guest.membership.drives());
        let may = |guest: &Guest| !guest.membership.drives() && guest.membership.grant().is_some();
        let alive = guests.iter().position(|guest| may(guest) && guest.is_alive(now));
        // Where nobody lives, one that goes leaves it to anybody.
        let any = guests.iter().position(|guest| may(guest)).filter(|_| goes);
        let Some((from, to)) = from.zip(alive.or(any)) else { return Ok(()) };
        let Ok([from, to]) = guests.get_disjoint_mut([from, to]) else { return Ok(()) };
        let commands = to.membership.take_over(&mut from.membership, now);
        tell(&self.dataplane, &commands)
    }

    /// Unplugs a guest for good.
    pub(super) fn unplug(&self, guest: &mut Guest) -> anyhow::Result<()> {
        if std::mem::take(&mut guest.is_attached) {
            self.dataplane.send(&Command::DetachPort(guest.port))?;
        }
        guest.cable = None;
        Ok(())
    }

    /// Tells whose ports the data plane has.
    pub(super) fn tell_local(&mut self) -> anyhow::Result<()> {
        let granted = |guest: &&mut Guest| guest.membership.grant().is_some();
        let others = self.others.values_mut().map(|other| &mut other.guest);
        let mut guests: Vec<_> = self.own.iter_mut().chain(others).filter(granted).collect();
        let slots: Vec<_> = guests.iter().map(|guest| guest.slot()).collect();
        for guest in &mut guests {
            tell(&self.dataplane, &guest.membership.set_local(&slots))?;
        }
        Ok(())
    }
}

/// Plugs a guest in whose cable is there.
pub(super) fn plug(dataplane: &DataPlane, guest: &mut Guest) -> anyhow::Result<()> {
    let (Some(cable), Some(grant)) = (&guest.cable, guest.membership.grant()) else {
        return Ok(());
    };
    let cable = cable.try_clone()?;
    dataplane.attach(guest.port, vec![grant.station], grant.limits, cable)?;
    guest.is_attached = true;
    Ok(())
}

async fn next_own(own: &mut Option<Guest>) -> super::link::LinkEvent {
    match own {
        Some(own) => own.link.next().await,
        None => std::future::pending().await,
    }
}
