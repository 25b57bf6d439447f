//! One guest of a lease as control has it: its place in the order, its connection to the gateway,
//! its port, its story.
//!
//! # Theory of operation
//! What the gateway says is verified by the [`Membership`]. A method hands out what follows from it
//! as [`Effects`]: commands for the lease's data plane and news for the guest's user. When the
//! control connection is lost, data goes on; the gateway is dialled again and the ticket shown
//! again, which gives the same place. A grant is renewed at half its life. An error is the guest's
//! end.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use overlay::clock;
use overlay::duration;
use overlay::exit::{Exit, Fault};
use overlay_proto::control::{Command, LocalPort, PathKind, PortStats, Slot};
use overlay_proto::membership::{LifeChange, Membership, MembershipError};
use overlay_proto::messages::{JoinReply, RefuseReason, ToMember, Welcome};
use overlay_proto::names::Name;
use vde_switch::time::Instant;

use super::link::{Link, LinkEvent};
use super::news::News;
use super::story::{self, Story};
use super::{IN_USE_AFTER_MAX, nonce, refused};
use crate::helper::ask::Wiring;

/// What follows from what a guest's gateway said.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// For the data plane.
    pub(super) commands: Vec<Command>,
    /// For the guest's user.
    pub(super) news: Vec<News>,
    /// Where the gateway has proved its key, over TCP.
    pub(super) proved: Option<SocketAddr>,
    /// Whether the guest was let in for the first time.
    pub(super) is_granted: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) port: LocalPort,
    pub(super) membership: Membership,
    pub(super) link: Link,
    pub(super) story: Story,
    /// The data plane's end of its cable, to be plugged in again after its grant had run out.
    pub(super) cable: Option<OwnedFd>,
    pub(super) is_attached: bool,
    /// Whether the user was told that it has joined.
    pub(super) is_joined: bool,
    pub(super) suspended_at: Option<Instant>,
    candidates: Vec<SocketAddr>,
    /// How long it waits for the gateway when it is suspended.
    keep: Duration,
    since: Instant,
    /// Whether the loss of the control connection was told.
    control_lost: bool,
}

impl Guest {
    pub(super) fn new(
        port: LocalPort,
        membership: Membership,
        link: Link,
        candidates: Vec<SocketAddr>,
        keep: Duration,
    ) -> Self {
        Self {
            port,
            membership,
            link,
            story: Story::default(),
            cable: None,
            is_attached: false,
            is_joined: false,
            suspended_at: None,
            candidates,
            keep,
            since: clock::now(),
            control_lost: false,
        }
    }

    pub(super) fn slot(&self) -> Slot {
        self.membership.ticket().body().slot
    }

    pub(super) fn name(&self) -> &Name {
        &self.membership.ticket().body().guest
    }

    /// What its cable carries, `None` before it was let in.
    pub(super) fn wiring(&self) -> Option<Wiring> {
        let (grant, config) = (self.membership.grant()?, self.membership.config()?);
        let routes = config.routes.clone();
        Some(Wiring { station: grant.station, segment: config.segment, routes })
    }

    /// Whether it is granted something right now.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.membership.expires_at().is_some_and(|at| now < at)
    }

    /// Takes the welcome and opens the member stream.
    pub(super) fn enter(&mut self, welcome: &Welcome, effects: &mut Effects) -> anyhow::Result<()> {
        effects.is_granted = self.membership.grant().is_none();
        let commands = self.membership.handle_welcome(welcome, clock::now());
        self.follow(commands, effects)?;
        if let Some(hello) = self.membership.hello(self.candidates.clone()) {
            self.link.open(hello);
        }
        effects.is_granted &= self.membership.grant().is_some();
        Ok(())
    }

    /// Takes what happened to its control connection.
    pub(super) fn handle_link(
        &mut self,
        event: LinkEvent,
        effects: &mut Effects,
    ) -> anyhow::Result<()> {
        match event {
            LinkEvent::Due => self.link.join(self.membership.request(nonce()?, clock::now())),
            LinkEvent::Joined(JoinReply::Welcome(welcome)) => {
                effects.proved = self.link.remote();
                self.enter(&welcome, effects)?;
            }
            LinkEvent::Joined(JoinReply::Refused(reason)) => self.handle_refusal(reason)?,
            LinkEvent::Open => {
                if std::mem::take(&mut self.control_lost) {
                    let reason = "joined again".to_owned();
                    effects.news.push(News::Control { up: true, reason });
                }
            }
            LinkEvent::Message(message) => self.handle_message(message, effects)?,
            LinkEvent::Lost(error) if self.membership.grant().is_none() => {
                return Err(Fault::new(Exit::Unreachable, error.to_string()).into());
            }
            LinkEvent::Lost(error) => {
                if !std::mem::replace(&mut self.control_lost, true) {
                    let reason = error.to_string();
                    effects.news.push(News::Control { up: false, reason });
                }
                tracing::info!(%error, "no control connection");
            }
        }
        Ok(())
    }

    /// A gateway that is another's, or cannot write, may be right again later; the rest is final.
    fn handle_refusal(&mut self, reason: RefuseReason) -> anyhow::Result<()> {
        let is_new = self.membership.grant().is_none();
        let is_late = clock::now() - self.since >= IN_USE_AFTER_MAX;
        match reason {
            RefuseReason::InUse if is_new && is_late => Err(refused(self.name(), reason)),
            RefuseReason::OtherOrder | RefuseReason::Unavailable if is_new => {
                Err(refused(self.name(), reason))
            }
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
            | RefuseReason::Malformed => Err(refused(self.name(), reason)),
        }
    }

    fn handle_message(&mut self, message: ToMember, effects: &mut Effects) -> anyhow::Result<()> {
        let commands = self.membership.handle_message(message, clock::now());
        self.follow(commands, effects)
    }

    /// Does what the gateway's words lead to; one whose words cannot be believed is left.
    fn follow(
        &mut self,
        commands: Result<Vec<Command>, MembershipError>,
        effects: &mut Effects,
    ) -> anyhow::Result<()> {
        match commands {
            Ok(commands) => {
                effects.commands.extend(commands);
                self.look_at_life(effects)
            }
            Err(MembershipError::Evicted) => Err(refused(self.name(), RefuseReason::Evicted)),
            Err(error) => {
                tracing::warn!(%error, "the gateway said what cannot be believed");
                self.link.close();
                Ok(())
            }
        }
    }

    /// Does what is due: tells what became of the grant, and asks for the next.
    pub(super) fn handle_tick(&mut self, effects: &mut Effects) -> anyhow::Result<()> {
        self.look_at_life(effects)?;
        let now = clock::now();
        if self.link.is_open() && self.membership.renew_at().is_some_and(|at| at <= now) {
            let question = self.membership.renew(nonce()?, now);
            self.link.send(question);
        }
        Ok(())
    }

    /// Tells the user when the grant has run out and when it was renewed, and gives up in the end.
    fn look_at_life(&mut self, effects: &mut Effects) -> anyhow::Result<()> {
        let now = clock::now();
        while let Some(change) = self.membership.poll(now) {
            match change {
                LifeChange::Expired => {
                    self.suspended_at = Some(now);
                    effects.news.push(News::Suspended(self.life()));
                }
                LifeChange::Resumed => {
                    self.suspended_at = None;
                    effects.news.push(News::Resumed);
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

    /// Takes the counters of its port.
    pub(super) fn handle_stats(&mut self, port: &PortStats, effects: &mut Effects) {
        effects.news.extend(self.story.look(port, clock::now()).into_iter().map(
            |news| match news {
                story::News::FirstFrame => News::FirstFrame,
                story::News::Address => News::Address,
            },
        ));
    }

    /// Says in a word how it is, by the lease's path to the buyer.
    pub(super) fn state(&self, path: PathKind) -> &'static str {
        match (path, self.link.is_open()) {
            _ if self.suspended_at.is_some() => "suspended",
            (PathKind::None, false) => "away",
            (PathKind::None, true) => "control",
            (PathKind::Direct(_) | PathKind::Relay, false) => "data",
            (PathKind::Direct(_) | PathKind::Relay, true) => "up",
        }
    }
}
