//! Finds another program of this host whose lease a guest may share.
//!
//! # Theory of operation
//! Whoever begins, asks every program that has a guest of the order in the same state directory;
//! the first that takes the guest in has its lease. One that is about to begin, and has a lower
//! slot, is waited for, so that of several that are started together one has the lease. Nobody
//! waits for a higher slot, so no two wait for each other.
//!
//! A guest whose lease has ended under it asks the lower slots alone: the lowest that is there
//! finds nobody and has a lease of its own, the others share it.
//!
//! # Limits
//! [`BEGIN_AFTER_MAX`] for those that begin. A program that does not answer, or says no, is none:
//! the guest then has a lease of its own, which costs a detour and nothing else.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use overlay::clock;
use overlay::local::Client;
use overlay::state::{Kind, StateDir};
use overlay_proto::control::Slot;
use overlay_proto::ticket::Ticket;

use super::{Start, Way, lease};
use crate::api::{Request, Share, Shares};
use crate::args::Conduct;

/// How long a program of a lower slot that is about to begin is waited for: as long as a join may
/// take that comes to an end.
const BEGIN_AFTER_MAX: Duration = Duration::from_secs(15);
/// Between two looks at those.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A lease that a guest was let into.
#[derive(Debug)]
pub(super) struct Shared {
    /// The channel to the program that has it.
    pub(super) channel: OwnedFd,
    /// That program's own guest.
    pub(super) of: String,
}

/// Finds a lease for a guest that begins. To be called by root, outside of a runtime.
pub(super) fn lease(state: &StateDir, ticket: &Ticket, conduct: &Conduct) -> Option<Shared> {
    if conduct.listen.is_some() {
        return None; // its own port was asked for
    }
    let (order, own) = (ticket.order(), ticket.body().slot);
    let request = request(ticket, conduct);
    let began_at = clock::now();
    let mut declined = Vec::new();
    loop {
        let mut begins = false;
        for slot in lease::slots_of(state, order) {
            if slot == own || declined.contains(&slot) {
                continue;
            }
            match Client::connect(&state.socket_path(Kind::Lease, &lease::name_of(order, slot))) {
                Ok(Some(client)) => match ask(client, &request) {
                    Some(shared) => return Some(shared),
                    None => declined.push(slot),
                },
                Ok(None) => begins |= slot < own && lease::is_open(state, order, slot),
                Err(error) => tracing::info!(%error, "a program of this host is not asked"),
            }
        }
        if !begins || clock::now() - began_at > BEGIN_AFTER_MAX {
            return None;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

impl Start<'_> {
    /// Finds the next way for a guest whose lease has ended under it.
    pub(super) async fn next_way(&mut self) -> anyhow::Result<Way> {
        let own = self.ticket.body().slot;
        for slot in (1..own.0).map(Slot) {
            let Some(stream) = self.host.call(slot).await? else { continue };
            let request = request(&self.ticket, self.place);
            let asked = tokio::task::spawn_blocking(move || ask_over(stream, &request));
            if let Some(shared) = asked.await? {
                self.report.lease(Some(&shared.of))?;
                return Ok(Way::Shared(shared));
            }
        }
        let (port, guarded) = self.host.open_socket().await?;
        // Open as long as this process is there: it keeps the host's guard standing.
        std::mem::forget(guarded);
        self.report.lease(None)?;
        Ok(Way::Own(port))
    }
}

fn request(ticket: &Ticket, conduct: &Conduct) -> Request {
    Request::Share(Share {
        ticket: ticket.encode(),
        only_buyer: conduct.only_buyer,
        lan: conduct.lan,
        keep_s: conduct.keep.as_secs(),
    })
}

fn ask_over(stream: UnixStream, request: &Request) -> Option<Shared> {
    ask(Client::over(stream).ok()?, request)
}

fn ask(mut client: Client, request: &Request) -> Option<Shared> {
    let answer = client.ask_for_fd(request).map(|(value, fd)| {
        let shares =
            serde_json::from_value::<Shares>(value).unwrap_or(Shares { of: None, why: None });
        (shares, fd)
    });
    match answer {
        Ok((Shares { of: Some(of), .. }, Some(channel))) => Some(Shared { channel, of }),
        Ok((Shares { why, .. }, _)) => {
            tracing::info!(why = why.unwrap_or_default(), "a lease of this host is not shared");
            None
        }
        Err(error) => {
            tracing::info!(%error, "a lease of this host is not shared");
            None
        }
    }
}
