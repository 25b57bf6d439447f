//! A guest's story at its port, from the data plane's counters: addresses, first frame, rates.

use overlay::meter::Meter;
use overlay_proto::control::PortStats;
use vde_switch::time::Instant;

/// Something that happened for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The guest sent a frame: it runs, and its interface is up.
    FirstFrame,
    /// The guest asked for its address by DHCP, and has it.
    Address,
}

/// What is known of the guest at its port.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// Frames from it.
    pub(super) from: Meter,
    /// Frames to it.
    pub(super) to: Meter,
    /// When the first one from it was noticed.
    pub(super) first_frame_at: Option<Instant>,
    /// How often its address was handed out.
    pub(super) addresses_given: u64,
}

impl Story {
    /// Takes the counters of the guest's port; says what is new.
    pub(super) fn look(&mut self, port: &PortStats, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        self.from.look(port.in_frames, port.in_bytes, now);
        self.to.look(port.out_frames, port.out_bytes, now);
        if self.first_frame_at.is_none() && port.in_frames > 0 {
            self.first_frame_at = Some(now);
            news.push(News::FirstFrame);
        }
        let given = addresses_given(port);
        if self.addresses_given == 0 && given > 0 {
            news.push(News::Address);
        }
        self.addresses_given = given;
        news
    }
}

/// How often DHCP handed an address of the guest's out at this port, IPv4 or IPv6.
const fn addresses_given(port: &PortStats) -> u64 {
    port.dhcp4_leases + port.dhcp6_leases
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use overlay_proto::control::LocalPort;

    use super::*;

    fn port(in_frames: u64) -> PortStats {
        PortStats {
            port: LocalPort::GUEST,
            in_frames,
            in_bytes: in_frames * 100,
            out_frames: 0,
            out_bytes: 0,
            dropped: 0,
            dhcp4_leases: 0,
            dhcp6_leases: 0,
            router_adverts: 0,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_address_is_news_once() {
        let mut story = Story::default();
        let asked = PortStats { router_adverts: 1, ..port(1) };
        assert_eq!(story.look(&asked, at(1)), [News::FirstFrame]);
        let given = PortStats { dhcp6_leases: 1, ..asked };
        assert_eq!(story.look(&given, at(2)), [News::Address]);
        let renewed = PortStats { dhcp4_leases: 1, dhcp6_leases: 2, ..given };
        assert!(story.look(&renewed, at(3)).is_empty());
        assert_eq!(story.addresses_given, 3);
    }

    #[test]
    fn the_first_frame_is_news_once() {
        let mut story = Story::default();
        assert!(story.look(&port(0), at(1)).is_empty());
        assert_eq!(story.first_frame_at, None);
        assert_eq!(story.look(&port(3), at(2)), [News::FirstFrame]);
        assert!(story.look(&port(9), at(3)).is_empty());
        assert_eq!(story.first_frame_at, Some(at(2)));
        assert!((story.from.bps() - 3600.0).abs() < 1e-6);
    }
}
