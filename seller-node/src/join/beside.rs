//! A guest that shares the lease of another program: its wire is here, its place is there.
//!
//! # Theory of operation
//! The other program ([`super::others`]) shows the guest's ticket and says what is granted; here
//! the wire is made and the data plane's end of it handed over. What happens to the guest is told
//! over the channel and printed here as ever. When the channel closes, the other's lease has ended:
//! the guest and its wire stay, and it is for the caller to find them another place.
//!
//! # Limits
//! Questions of local commands that the other program is to answer wait for it, in their order.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use overlay::channel::Channel;
use overlay::clock;
use overlay::exit::{Exit, Fault};
use overlay::local::{Answer, Call};
use overlay_proto::control::PathKind;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::find::Shared;
use super::hands::{Facts, HostEvent, fault};
use super::news::News;
use super::share::{ToGuest, ToLease};
use super::status::complete;
use super::{Local, Start};
use crate::api::{LeaseStatus, Request, Shares};
use crate::helper::ask::{Ask, Wiring};

/// Why a guest no longer shares a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It has ended.
    Ended,
    /// The lease has ended.
    Alone,
}

/// Questions that the other program has not answered yet.
type Waiting = VecDeque<oneshot::Sender<Answer>>;

/// What becomes of the guest after an event.
enum Next {
    Goes,
    Left(Left),
}

impl Start<'_> {
    /// Shares a lease until the guest or the lease ends.
    pub(super) async fn beside(&mut self, shared: Shared) -> anyhow::Result<Left> {
        let channel = Channel::over(shared.channel)?;
        let ended = self.serve_beside(&channel).await;
        if !matches!(ended, Ok(Left::Alone)) {
            // A helper that is gone has taken all with it.
            let _ = self.host.say(&Ask::EndMachine);
            drop(channel); // by which the slot is left
            self.host.machine_gone().await;
        }
        ended
    }

    async fn serve_beside(&mut self, channel: &Channel) -> anyhow::Result<Left> {
        let mut waiting = Waiting::new();
        loop {
            let next = tokio::select! {
                () = self.signals.any() => Next::Left(Left::Ended),
                said = channel.next() => match said {
                    Ok(Some(said)) => self.handle_lease(channel, said, &mut waiting).await?,
                    Ok(None) => Next::Left(Left::Alone),
                    Err(error) => {
                        tracing::warn!(%error, "what the lease's program says is not understood");
                        Next::Left(Left::Alone)
                    }
                },
                event = self.host.next() => self.handle_machine(event?)?,
                call = next_call(&mut self.local) => {
                    handle_call(channel, call, &mut waiting)
                }
            };
            if let Next::Left(left) = next {
                return Ok(left);
            }
        }
    }

    async fn handle_lease(
        &mut self,
        channel: &Channel,
        (said, fds): (ToGuest, Vec<OwnedFd>),
        waiting: &mut Waiting,
    ) -> anyhow::Result<Next> {
        match said {
            ToGuest::Granted(wiring) => {
                let cable = self.plug(wiring, None).await?;
                if let Err(error) = channel.say(&ToLease::Cable, &[cable.as_fd()]) {
                    tracing::info!(%error, "the lease's program does not take the cable");
                    return Ok(Next::Left(Left::Alone));
                }
                self.local.open()?;
            }
            ToGuest::Follow(wiring) => {
                if let Some((known, _)) = &mut self.guest.cable
                    && *known != wiring
                {
                    known.clone_from(&wiring);
                    self.host.say(&Ask::Follow(wiring))?;
                }
            }
            ToGuest::News(News::Joined(path)) if !self.guest.is_joined => {
                self.tell_joined(path).await?;
            }
            ToGuest::News(news) => self.report.news(&news)?,
            ToGuest::Status(status) => {
                let mut status: LeaseStatus = serde_json::from_str(&status).unwrap_or_default();
                let stopped = self.host.counts().await?;
                complete(&mut status, self.host.words(), stopped);
                answer(waiting, json!(status).into());
            }
            ToGuest::Captured(captured) => {
                let mut captured: Value = serde_json::from_str(&captured).unwrap_or(Value::Null);
                if let Some(words) = captured.get_mut("words") {
                    *words = json!(self.host.words());
                }
                answer(waiting, Answer { value: captured, fd: fds.into_iter().next() });
            }
            ToGuest::Over { exit, text, is_evicted } => {
                if is_evicted {
                    self.host.say(&Ask::Forget)?;
                }
                return Err(fault(exit, text).into());
            }
        }
        Ok(Next::Goes)
    }

    /// Opens the guest's links and tells the user that it has joined.
    async fn tell_joined(&mut self, path: PathKind) -> anyhow::Result<()> {
        let Some((wiring, _)) = &self.guest.cable else { return Ok(()) };
        let wiring: Wiring = wiring.clone();
        self.host.ask(&Ask::Open).await?;
        self.guest.is_joined = true;
        let took = clock::now() - self.started_at;
        Ok(self.report.joined(&self.ticket, &wiring, &self.host.words(), path, took)?)
    }

    /// Tells what became of the guest's machine, and whether that was its end.
    fn handle_machine(&mut self, event: HostEvent) -> anyhow::Result<Next> {
        match event {
            HostEvent::MachineEnded { status, success, again, words } => {
                self.report.guest_exited(&status, again)?;
                match (again, success) {
                    (Some(_), _) => Ok(Next::Goes),
                    (None, true) => Ok(Next::Left(Left::Ended)),
                    (None, false) => {
                        let words = if words.is_empty() { "no reason given" } else { &words };
                        let text = format!("the guest's QEMU ended with {status}: {words}");
                        Err(Fault::new(Exit::Failed, text).into())
                    }
                }
            }
            HostEvent::MachineStarted(pid) => {
                if let Some(Facts { program, accel, console }) = self.host.facts() {
                    self.report.guest_started(program, Some(pid), accel, console.as_deref())?;
                }
                Ok(Next::Goes)
            }
            HostEvent::Over(fault) => Err(fault.into()),
        }
    }
}

/// Hands on what only the other program knows, and answers the rest.
fn handle_call(channel: &Channel, call: Call<Request>, waiting: &mut Waiting) -> Next {
    let Call { request, answer: to, .. } = call;
    let question = match request {
        Request::Status => ToLease::Status,
        Request::Pcap { detail } => ToLease::Pcap(detail),
        Request::Leave => {
            let _ = to.send(json!({}).into()); // whoever asked may have gone
            return Next::Left(Left::Ended);
        }
        Request::Share(_) => {
            let why = Some("this guest shares the lease of another".to_owned());
            let _ = to.send(json!(Shares { of: None, why }).into());
            return Next::Goes;
        }
    };
    match channel.say(&question, &[]) {
        Ok(()) => waiting.push_back(to),
        Err(error) => drop(to.send(json!({ "error": error.to_string() }).into())),
    }
    Next::Goes
}

fn answer(waiting: &mut Waiting, value: Answer) {
    if let Some(to) = waiting.pop_front() {
        let _ = to.send(value); // whoever asked may have gone
    }
}

/// Returns the next local command, once they are answered at all.
pub(super) async fn next_call(local: &mut Local) -> Call<Request> {
    match local {
        Local::Open(server) => server.call().await,
        Local::Bound(_) | Local::Moving => std::future::pending().await,
    }
}
