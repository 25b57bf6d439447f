//! What is known of each guest right now, for `status`.

use std::collections::BTreeMap;

use overlay_proto::control::{MemberStats, PathKind, Slot, Stats};
use overlay_proto::identity::NodeId;
use overlay_proto::names::Name;
use overlay_proto::registry::{MemberInfo, Registry, SlotRecord, Standing};
use vde_switch::station::Station;
use vde_switch::time::Instant;

use crate::api::GuestStatus;

/// The live side of one guest; what is stored of it is the registry's.
#[derive(Debug)]
struct Live {
    path: PathKind,
    stats: Option<MemberStats>,
    rate_bps: f64,
    has_stream: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self { path: PathKind::None, stats: None, rate_bps: 0.0, has_stream: false }
    }
}

/// The live side of all guests.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    live: BTreeMap<Slot, Live>,
    drops: Vec<(String, u64)>,
    measured_at: Option<Instant>,
}

impl Guests {
    /// Takes a path of the data plane; returns the one before.
    pub(crate) fn set_path(&mut self, slot: Slot, path: PathKind) -> PathKind {
        std::mem::replace(&mut self.live.entry(slot).or_default().path, path)
    }

    /// Notes whether a guest's control stream is open.
    pub(crate) fn set_stream(&mut self, slot: Slot, open: bool) {
        self.live.entry(slot).or_default().has_stream = open;
    }

    /// Says whether neither data nor control of a guest that was there is left.
    pub(crate) fn is_away(&self, slot: Slot) -> bool {
        self.live.get(&slot).is_some_and(|live| live.path == PathKind::None && !live.has_stream)
    }

    /// Forgets a guest.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.live.remove(&slot);
    }

    /// Takes the data plane's counters; rates are over the time since the last ones.
    pub(crate) fn set_stats(&mut self, stats: Stats, now: Instant) {
        let seconds = self.measured_at.map(|at| (now - at).as_secs_f64());
        self.measured_at = Some(now);
        self.drops = stats.drops;
        for stats in stats.members {
            let Some(live) = self.live.get_mut(&stats.slot) else { continue };
            let bytes = |stats: &MemberStats| stats.sent_bytes.saturating_add(stats.received_bytes);
            let before = live.stats.as_ref().map_or(0, bytes);
            let new = bytes(&stats).saturating_sub(before);
            live.rate_bps = match seconds {
                // Exact below 2^53 bytes in a second.
                Some(seconds) if seconds > 0.0 => new as f64 * 8.0 / seconds,
                _ => 0.0,
            };
            live.stats = Some(stats);
        }
    }

    /// Returns the drops by reason.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        self.drops.iter().cloned().collect()
    }

    /// Describes all members of the registry.
    ///
    /// Guests that were evicted are listed behind them, as long as nobody has their place.
    pub(crate) fn status(&self, registry: &Registry) -> Vec<GuestStatus> {
        let members: Vec<_> = registry.members().collect();
        let is_member = |slot| members.iter().any(|member| member.record.slot == slot);
        let evicted = registry.tickets().filter(|ticket| !is_member(ticket.slot));
        let evicted = evicted.filter_map(|ticket| {
            ticket.void_at?;
            let station = registry.order_record().station(ticket.slot)?;
            let mut status = bare(&ticket.name, ticket.claimed_by?, &station);
            status.state = "evicted".to_owned();
            Some(status)
        });
        members.iter().map(|member| self.one(member)).chain(evicted).collect()
    }

    fn one(&self, member: &MemberInfo) -> GuestStatus {
        let mut status = silent(&member.record, &member.station);
        let Some(live) = self.live.get(&member.record.slot) else { return status };
        let up = live.path != PathKind::None;
        (status.path, status.remote) = match live.path {
            PathKind::None => ("none".to_owned(), None),
            PathKind::Direct(remote) => ("direct".to_owned(), Some(remote.to_string())),
            PathKind::Relay => ("relay".to_owned(), None),
        };
        status.state = match (member.standing, up, live.has_stream) {
            (Standing::Suspended, _, _) => "suspended",
            (Standing::Live, true, true) => "up",
            (Standing::Live, true, false) => "data",
            (Standing::Live, false, true) => "control",
            (Standing::Live, false, false) => "away",
        }
        .to_owned();
        if let Some(stats) = &live.stats {
            status.rtt_ms = stats.rtt_us.map(|us| f64::from(us) / 1000.0);
            status.loss_percent = stats.loss_percent;
            status.rate_bps = live.rate_bps;
            status.dropped = stats.dropped;
            status.sent_bytes = stats.sent_bytes;
            status.received_bytes = stats.received_bytes;
        }
        status
    }
}

/// Describes a guest of which nothing is heard.
pub(crate) fn silent(record: &SlotRecord, station: &Station) -> GuestStatus {
    bare(&record.name, record.seller, station)
}

fn bare(guest: &Name, seller: NodeId, station: &Station) -> GuestStatus {
    GuestStatus {
        guest: guest.to_string(),
        ipv4: station.ipv4.to_string(),
        ipv6: station.ipv6.to_string(),
        seller: seller.to_string(),
        path: "none".to_owned(),
        remote: None,
        rtt_ms: None,
        loss_percent: 0,
        rate_bps: 0.0,
        state: "away".to_owned(),
        dropped: 0,
        sent_bytes: 0,
        received_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stats(bytes: u64) -> Stats {
        let member = MemberStats {
            slot: Slot(1),
            path: PathKind::Relay,
            rtt_us: Some(1500),
            loss_percent: 2,
            heard_ms: None,
            sent_frames: 0,
            sent_bytes: bytes,
            received_frames: 0,
            received_bytes: 0,
            dropped: 3,
        };
        Stats { members: vec![member], ports: Vec::new(), drops: vec![("policy".into(), 3)] }
    }

    #[test]
    fn rates_are_what_was_new_since_the_last_look() {
        let mut guests = Guests::default();
        assert_eq!(guests.set_path(Slot(1), PathKind::Relay), PathKind::None);
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        guests.set_stats(stats(1000), at(1));
        guests.set_stats(stats(3000), at(3));
        let live = &guests.live[&Slot(1)];
        assert!((live.rate_bps - 8000.0).abs() < 1e-6, "{}", live.rate_bps);
        assert_eq!(guests.drops()["policy"], 3);
        guests.set_stats(stats(0), at(4)); // a data plane that started anew
        assert!(guests.live[&Slot(1)].rate_bps.abs() < 1e-6);
    }
}
