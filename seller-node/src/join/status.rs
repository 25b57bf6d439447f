//! How a running lease answers other commands: `status` and `pcap`.

use std::io;

use overlay::capture::{self, Captured};
use overlay::clock;
use overlay::drops;
use overlay::local::Answer;
use overlay_proto::control::{Detail, LocalPort, PathKind, Slot};
use overlay_proto::ticket::Ticket;
use serde_json::json;

use super::guest::Guest;
use super::report::path_words;
use super::serve::Lease;
use crate::api::LeaseStatus;

/// Adds what is known where the guest is plugged in: its place, and what its wire has stopped.
pub(super) fn complete(status: &mut LeaseStatus, place: String, stopped: Vec<(String, u64)>) {
    status.attached = place;
    status.drops.extend(stopped.into_iter().map(|(name, frames)| (drops::of_wire(&name), frames)));
    status.reasons = drops::all_words(&status.drops);
}

/// Describes a guest that is between two leases.
pub(super) fn away(ticket: &Ticket, place: String) -> LeaseStatus {
    let body = ticket.body();
    LeaseStatus {
        order: body.order_name.to_string(),
        id: ticket.order().to_string(),
        guest: body.guest.to_string(),
        attached: place,
        path: "none".to_owned(),
        state: "away".to_owned(),
        ..LeaseStatus::default()
    }
}

impl Lease {
    /// Describes the program's own guest.
    pub(super) async fn status(&mut self) -> anyhow::Result<LeaseStatus> {
        let stopped = self.host.counts().await?;
        let mut status = self.describe(&self.ticket, self.own.as_ref());
        complete(&mut status, self.host.words(), stopped);
        Ok(status)
    }

    /// Describes a guest of another program, which knows where it is plugged in.
    pub(super) fn status_of(&self, port: LocalPort) -> Option<LeaseStatus> {
        let guest = &self.others.get(&port)?.guest;
        Some(self.describe(guest.membership.ticket(), Some(guest)))
    }

    fn describe(&self, ticket: &Ticket, guest: Option<&Guest>) -> LeaseStatus {
        let body = ticket.body();
        let path = self.paths.get(&Slot::GATEWAY).copied().unwrap_or(PathKind::None);
        let buyer = self.stats.members.iter().find(|stats| stats.slot == Slot::GATEWAY);
        let rtt_us = buyer.and_then(|stats| stats.rtt_us);
        let state = guest.map_or("left", |guest| guest.state(path));
        let (path, remote) = path_words(path);
        let now = clock::now();
        let mut status = LeaseStatus {
            order: body.order_name.to_string(),
            id: ticket.order().to_string(),
            guest: body.guest.to_string(),
            port: self.port,
            path: path.to_owned(),
            remote,
            rtt_ms: rtt_us.map(|us| f64::from(us) / 1000.0),
            state: state.to_owned(),
            drops: self.stats.drops.iter().cloned().collect(),
            ..LeaseStatus::default()
        };
        let Some(Guest { port, membership, story, .. }) = guest else { return status };
        if let Some(grant) = membership.grant() {
            status.ipv4 = grant.station.ipv4.to_string();
            status.ipv6 = grant.station.ipv6.to_string();
        }
        status.members = membership.view().entries().len();
        status.lease_left_s = membership.expires_at().map(|at| (at - now).as_secs());
        status.first_frame_s = story.first_frame_at.map(|at| (now - at).as_secs());
        status.addresses_given = story.addresses_given;
        (status.in_bps, status.in_fps) = (story.from.bps(), story.from.fps());
        (status.out_bps, status.out_fps) = (story.to.bps(), story.to.fps());
        if let Some(counters) = self.stats.ports.iter().find(|counters| counters.port == *port) {
            (status.in_frames, status.in_bytes) = (counters.in_frames, counters.in_bytes);
            (status.out_frames, status.out_bytes) = (counters.out_frames, counters.out_bytes);
        }
        status
    }

    /// Begins a capture at a port.
    pub(super) fn capture(&self, port: LocalPort, detail: Detail) -> Answer {
        let other = self.others.get(&port).map(|other| other.guest.membership.ticket());
        let body = other.unwrap_or(&self.ticket).body();
        let begin = || -> io::Result<Answer> {
            let (records, readers) = capture::pair()?;
            self.dataplane.capture(port, detail, None, records)?;
            let name = format!("{}/{}", body.order_name, body.guest);
            let captured = Captured { name, words: self.host.words() };
            Ok(Answer { value: json!(captured), fd: Some(readers) })
        };
        begin().unwrap_or_else(|error| json!({ "error": error.to_string() }).into())
    }
}
