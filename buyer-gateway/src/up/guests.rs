//! What is known of each guest right now, for `status`.

use std::collections::BTreeMap;

use overlay::meter::Meter;
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
    sent: Meter,
    received: Meter,
    has_stream: bool,
}

impl Default for Live {
    fn default() -> Self {
        let (sent, received) = (Meter::default(), Meter::default());
        Self { path: PathKind::None, stats: None, sent, received, has_stream: false }
    }
}

/// The live side of all guests.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    live: BTreeMap<Slot, Live>,
    drops: Vec<(String, u64)>,
}

impl Guests {
    /// Takes a path of the data plane; returns the one before.
    pub(crate) fn set_path(&mut self, slot: Slot, path: PathKind) -> PathKind {
        std::mem::replace(&mut self.live.entry(slot).or_default().path, path)
    }

    /// Returns a guest's path.
    pub(crate) fn path(&self, slot: Slot) -> PathKind {
        self.live.get(&slot).map_or(PathKind::None, |live| live.path)
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

    /// Takes the data plane's counters; returns whose first frame came since the last ones.
    pub(crate) fn set_stats(&mut self, stats: Stats, now: Instant) -> Vec<Slot> {
        let mut first = Vec::new();
        self.drops = stats.drops;
        for stats in stats.members {
            let Some(live) = self.live.get_mut(&stats.slot) else { continue };
            live.sent.look(stats.sent_frames, stats.sent_bytes, now);
            live.received.look(stats.received_frames, stats.received_bytes, now);
            let was_silent = live.stats.as_ref().is_none_or(|old| old.received_frames == 0);
            if was_silent && stats.received_frames > 0 {
                first.push(stats.slot);
            }
            live.stats = Some(stats);
        }
        first
    }

    /// Returns the drops by reason.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        self.drops.iter().cloned().collect()
    }

    /// Describes all members of the registry.
    ///
    /// Guests that were evicted are listed behind them, as long as nobody has their place.
    pub(crate) fn status(&self, registry: &Registry, now: Instant) -> Vec<GuestStatus> {
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
        members.iter().map(|member| self.one(member, now)).chain(evicted).collect()
    }

    fn one(&self, member: &MemberInfo, now: Instant) -> GuestStatus {
        let mut status = silent(&member.record, &member.station);
        if member.standing == Standing::Live {
            status.lease_left_s = Some((member.expires_at - now).as_secs());
        }
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
            status.heard_ms = stats.heard_ms;
            status.has_spoken = stats.received_frames > 0;
            (status.sent_bps, status.sent_fps) = (live.sent.bps(), live.sent.fps());
            (status.received_bps, status.received_fps) = (live.received.bps(), live.received.fps());
            status.rate_bps = status.sent_bps + status.received_bps;
            status.dropped = stats.dropped;
            status.sent_frames = stats.sent_frames;
            status.received_frames = stats.received_frames;
            status.sent_bytes = stats.sent_bytes;
            status.received_bytes = stats.received_bytes;
        }
        status
    }
}

/// Describes a guest of which nothing is heard.
pub(crate) fn silent(record: &SlotRecord, station: &Station) -> GuestStatus {
    let mut status = bare(&record.name, record.seller, station);
    status.joined_at = record.joined_at;
    status
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
        lease_left_s: None,
        joined_at: 0,
        heard_ms: None,
        has_spoken: false,
        rate_bps: 0.0,
        sent_bps: 0.0,
        sent_fps: 0.0,
        received_bps: 0.0,
        received_fps: 0.0,
        state: "away".to_owned(),
        dropped: 0,
        sent_frames: 0,
        sent_bytes: 0,
        received_frames: 0,
        received_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stats(received_frames: u64, sent_bytes: u64) -> Stats {
        let member = MemberStats {
            slot: Slot(1),
            path: PathKind::Relay,
            rtt_us: Some(1500),
            loss_percent: 2,
            heard_ms: None,
            sent_frames: 0,
            sent_bytes,
            received_frames,
            received_bytes: 0,
            dropped: 3,
        };
        Stats { members: vec![member], ports: Vec::new(), drops: vec![("policy".into(), 3)] }
    }

    #[test]
    fn a_guests_first_frame_is_news_once_and_rates_are_recent() {
        let mut guests = Guests::default();
        assert_eq!(guests.set_path(Slot(1), PathKind::Relay), PathKind::None);
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        assert!(guests.set_stats(stats(0, 1000), at(1)).is_empty());
        assert_eq!(guests.set_stats(stats(2, 3000), at(3)), [Slot(1)]);
        assert!(guests.set_stats(stats(3, 3000), at(4)).is_empty());
        let live = &guests.live[&Slot(1)];
        assert!((live.received.fps() - 1.0).abs() < 1e-6, "{}", live.received.fps());
        assert!((live.sent.bps() - 16_000.0 / 3.0).abs() < 1e-6, "{}", live.sent.bps());
        assert_eq!(guests.drops()["policy"], 3);
    }
}
