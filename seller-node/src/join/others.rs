//! Guests of other programs that share this program's lease.
//!
//! # Theory of operation
//! A program of the same order, the same user and the same conduct asks over the local socket to be
//! let in ([`Share`]) and gets one end of a channel ([`super::share`]). Its ticket is shown to the
//! gateway with this lease's data key; what is granted is told to the program, which makes its
//! guest's wire and hands the data plane's end over. From then on the channel is the guest: when it
//! closes, the guest is unplugged and its slot left. What happens to it is told over the channel.
//!
//! Nothing that such a program says reaches another guest or the lease itself: what cannot be
//! believed ends that guest alone, with a sentence.
//!
//! # Limits
//! [`GUESTS_MAX`] guests, the program's own among them. A cable that is made to block would hold up
//! the lease; only root and this program's own user are let in.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::geteuid;
use overlay::channel::Channel;
use overlay::exit::{Exit, Fault, exit_of, text_of};
use overlay::ipc;
use overlay::local::Answer;
use overlay_proto::control::{LocalPort, PathKind, Slot};
use overlay_proto::membership::Membership;
use overlay_proto::ticket::Ticket;
use serde_json::json;

use super::guest::{Effects, Guest};
use super::link::{Link, LinkEvent};
use super::news::News;
use super::serve::{Lease, plug};
use super::share::{GUESTS_MAX, ToGuest, ToLease, check_cable};
use super::{Evicted, tell};
use crate::api::{Share, Shares};
use crate::helper::ask::{Ask, Wiring};

/// A guest of another program.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) guest: Guest,
    channel: Channel,
    /// What its program was told last of its cable.
    wiring: Option<Wiring>,
    /// Whether its program no longer listens.
    is_gone: bool,
}

/// What happened to such a guest.
#[derive(Debug)]
pub(super) enum OtherEvent {
    /// To its control connection.
    Link(LinkEvent),
    /// Its program says something, with these descriptors beside.
    Said(ToLease, Vec<OwnedFd>),
    /// Its program has ended, or says what is no message.
    Gone(Option<std::io::Error>),
}

/// Why a guest is not taken: for its own sake, or because it was asked for wrongly.
enum No {
    Own(String),
    Wrong(String),
}

impl Other {
    async fn next(&mut self) -> OtherEvent {
        tokio::select! {
            event = self.guest.link.next() => OtherEvent::Link(event),
            said = self.channel.next() => match said {
                Ok(Some((said, fds))) => OtherEvent::Said(said, fds),
                Ok(None) => OtherEvent::Gone(None),
                Err(error) => OtherEvent::Gone(Some(error)),
            },
        }
    }

    /// Says something to its program; one that does not take it is as good as gone.
    fn say(&mut self, message: &ToGuest, fds: &[std::os::fd::BorrowedFd<'_>]) {
        if let Err(error) = self.channel.say(message, fds) {
            let guest = self.guest.name();
            tracing::debug!(%error, %guest, "a guest's program does not listen");
            self.is_gone = true;
        }
    }

    /// Tells its user what happened; before the guest has joined there is nothing to tell.
    pub(super) fn say_news(&mut self, news: Vec<News>) {
        for news in news {
            if self.guest.is_joined {
                self.say(&ToGuest::News(news), &[]);
            }
        }
    }

    /// Tells its user that it has joined, once it is plugged in and there is a path to the buyer.
    pub(super) fn look_joined(&mut self, path: PathKind) {
        if !self.guest.is_joined && self.guest.is_attached && path != PathKind::None {
            self.guest.is_joined = true;
            self.say(&ToGuest::News(News::Joined(path)), &[]);
        }
    }

    /// Tells its program what its cable is to carry.
    fn say_wiring(&mut self) {
        let Some(wiring) = self.guest.wiring() else { return };
        if self.wiring.as_ref() == Some(&wiring) {
            return;
        }
        let message = match self.wiring.replace(wiring.clone()) {
            None => ToGuest::Granted(wiring),
            Some(_) => ToGuest::Follow(wiring),
        };
        self.say(&message, &[]);
    }
}

/// Returns what happens next to any of them. Dropped and called again, nothing is lost.
pub(super) async fn next_of(others: &mut BTreeMap<LocalPort, Other>) -> (LocalPort, OtherEvent) {
    type Next<'a> = Pin<Box<dyn Future<Output = OtherEvent> + 'a>>;
    let mut waits: Vec<(LocalPort, Next<'_>)> = others
        .iter_mut()
        .map(|(port, other)| (*port, Box::pin(other.next()) as Next<'_>))
        .collect();
    poll_fn(|context| {
        for (port, wait) in &mut waits {
            if let Poll::Ready(event) = wait.as_mut().poll(context) {
                return Poll::Ready((*port, event));
            }
        }
        Poll::Pending
    })
    .await
}

impl Lease {
    /// Answers a program that wants its guest to share this lease.
    pub(super) fn share(&mut self, share: &Share, uid: u32) -> Answer {
        match self.take_in(share, uid) {
            Ok(fd) => {
                let of = Some(self.ticket.body().guest.to_string());
                Answer { value: json!(Shares { of, why: None }), fd: Some(fd) }
            }
            Err(No::Own(why)) => json!(Shares { of: None, why: Some(why) }).into(),
            Err(No::Wrong(text)) => json!({ "error": text }).into(),
        }
    }

    fn take_in(&mut self, share: &Share, uid: u32) -> Result<OwnedFd, No> {
        if uid != 0 && uid != geteuid().as_raw() {
            return Err(No::Wrong(format!("user {uid} may not add a guest to this lease")));
        }
        let ticket = Ticket::decode(&share.ticket).map_err(|error| No::Wrong(error.to_string()))?;
        let (own, body) = (self.ticket.body(), ticket.body());
        if ticket.order() != self.ticket.order() || ticket.buyer() != self.ticket.buyer() {
            let text = format!(
                "this lease is of order {}, the ticket is of order {}: they share nothing",
                own.order_name, body.order_name
            );
            return Err(No::Wrong(text));
        }
        let others = self.others.values().map(|other| &other.guest);
        if self.own.iter().chain(others).any(|guest| guest.slot() == body.slot) {
            let text =
                format!("guest {} of this ticket is joined already on this host", body.guest);
            return Err(No::Wrong(text));
        }
        if (share.only_buyer, share.lan) != (self.conduct.only_buyer, self.conduct.lan) {
            let why = "the lease that runs has other options: --only-buyer or --lan";
            return Err(No::Own(why.to_owned()));
        }
        let count = self.others.len() + 1;
        let free = (1..).map(LocalPort).find(|port| !self.others.contains_key(port));
        let Some(port) = free.filter(|_| count < GUESTS_MAX) else {
            return Err(No::Own(format!("the lease that runs has {GUESTS_MAX} guests, its most")));
        };
        let failed = |error: std::io::Error| No::Own(error.to_string());
        let (ours, theirs) = ipc::pair().map_err(failed)?;
        let channel = Channel::over(ours).map_err(failed)?;
        let link = Link::new(self.key.clone(), self.seller.gateway.clone(), ticket.buyer());
        let membership = Membership::beside(ticket, self.seller.clone(), port);
        let keep = Duration::from_secs(share.keep_s);
        let guest = Guest::new(port, membership, link, self.candidates.clone(), keep);
        tracing::info!(guest = %guest.name(), "a guest of another program shares this lease");
        self.others.insert(port, Other { guest, channel, wiring: None, is_gone: false });
        Ok(theirs)
    }

    /// Takes what happened to a guest of another program; its mistakes are its own end.
    pub(super) fn handle_other(&mut self, port: LocalPort, event: OtherEvent) {
        let handled = match event {
            OtherEvent::Link(event) => self.handle_other_link(port, event),
            OtherEvent::Said(said, fds) => self.handle_said(port, said, fds),
            OtherEvent::Gone(None) => return self.end_other(port, None),
            OtherEvent::Gone(Some(error)) => {
                let text = format!("what the guest's program says is not understood: {error}");
                Err(Fault::new(Exit::Failed, text).into())
            }
        };
        if let Err(error) = handled {
            self.end_other(port, Some(&error));
        }
    }

    fn handle_other_link(&mut self, port: LocalPort, event: LinkEvent) -> anyhow::Result<()> {
        let Some(other) = self.others.get_mut(&port) else { return Ok(()) };
        let mut effects = Effects::default();
        other.guest.handle_link(event, &mut effects)?;
        if effects.is_granted {
            // Whoever had the guest's place before makes room for its port.
            self.tell_local()?;
        }
        self.take_other(port, effects)
    }

    /// Does what follows from what such a guest's gateway said.
    fn take_other(&mut self, port: LocalPort, effects: Effects) -> anyhow::Result<()> {
        let Effects { commands, news, proved, .. } = effects;
        if let Some(addr) = proved {
            self.host.say(&Ask::Joined(addr))?;
        }
        tell(&self.dataplane, &commands)?;
        if let Some(other) = self.others.get_mut(&port) {
            other.say_wiring();
            other.say_news(news);
        }
        Ok(())
    }

    fn handle_said(
        &mut self,
        port: LocalPort,
        said: ToLease,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let Some(other) = self.others.get_mut(&port) else { return Ok(()) };
        match said {
            ToLease::Cable => {
                if other.wiring.is_none() || other.guest.cable.is_some() {
                    let text = "the guest's cable comes out of turn";
                    return Err(Fault::new(Exit::Failed, text).into());
                }
                let cable = check_cable(fds).map_err(|text| Fault::new(Exit::Failed, text))?;
                let flags = OFlag::from_bits_retain(fcntl(&cable, FcntlArg::F_GETFL)?);
                fcntl(&cable, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
                other.guest.cable = Some(cable);
                plug(&self.dataplane, &mut other.guest)?;
                let path = self.paths.get(&Slot::GATEWAY).copied().unwrap_or(PathKind::None);
                other.look_joined(path);
            }
            ToLease::Status => {
                let status = self.status_of(port);
                let status = json!(status).to_string();
                if let Some(other) = self.others.get_mut(&port) {
                    other.say(&ToGuest::Status(status), &[]);
                }
            }
            ToLease::Pcap(detail) => {
                let Answer { value, fd } = self.capture(port, detail);
                if let Some(other) = self.others.get_mut(&port) {
                    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                    other.say(&ToGuest::Captured(value.to_string()), &fds);
                }
            }
        }
        Ok(())
    }

    /// A port that the data plane could not use any more.
    pub(super) fn lose(&mut self, port: LocalPort, reason: &str) {
        if let Some(other) = self.others.get_mut(&port) {
            other.guest.is_attached = false;
            let text = format!("the guest's interface is gone: {reason}");
            self.end_other(port, Some(&Fault::new(Exit::Failed, text).into()));
        }
    }

    /// Lets a guest of another program go, and tells that program why.
    fn end_other(&mut self, port: LocalPort, why: Option<&anyhow::Error>) {
        let Some(mut other) = self.others.remove(&port) else { return };
        if let Some(error) = why {
            let over = ToGuest::Over {
                exit: exit_of(error.chain()) as u8,
                text: text_of(error.chain()),
                is_evicted: error.is::<Evicted>(),
            };
            other.say(&over, &[]);
        }
        tracing::info!(guest = %other.guest.name(), "a guest of another program has ended");
        let mut forget = || -> anyhow::Result<()> {
            if other.guest.membership.drives() {
                self.drive_on(Some(&mut other.guest))?;
            }
            self.unplug(&mut other.guest)?;
            self.tell_local()
        };
        if let Err(error) = forget() {
            tracing::error!(%error, "the data plane is not told that a guest has ended");
        }
        self.say_goodbye(other.guest);
    }

    /// Lets their timers run.
    pub(super) fn tick_others(&mut self) {
        for port in self.others.keys().copied().collect::<Vec<_>>() {
            let Some(other) = self.others.get_mut(&port) else { continue };
            let mut effects = Effects::default();
            let is_gone = other.is_gone;
            match other.guest.handle_tick(&mut effects) {
                Ok(()) if is_gone => self.end_other(port, None),
                Ok(()) => {
                    if let Err(error) = self.take_other(port, effects) {
                        self.end_other(port, Some(&error));
                    }
                }
                Err(error) => self.end_other(port, Some(&error)),
            }
        }
    }

    /// Names those for whom the lease goes on.
    pub(super) fn others_alive(&self) -> Vec<String> {
        let now = overlay::clock::now();
        let alive = self.others.values().filter(|other| other.guest.is_alive(now));
        alive.map(|other| other.guest.name().to_string()).collect()
    }
}
