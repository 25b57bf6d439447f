//! The switch: one frame in, one verdict out.
//!
//! # Theory of operation
//! [`Switch::forward`] is the whole way of a frame: form ([`crate::parse`]), speaker, policy,
//! link-local addresses, neighbour queries, limits, destination. Members' stations come from the
//! roster by [`Switch::set_port`], so a unicast destination is one table lookup; only ports with
//! [`Learning::On`] are learned from and flooded with unknown destinations.
//!
//! An uplink leads to another member, and the uplinks form a full mesh or a star around the
//! gateway, so a frame from one never leaves by another (split horizon). The gateway hands group
//! frames on between members who have no tunnel; that is decided outside, over
//! [`Switch::uplinks`]. At the receiving end such a frame comes in by the gateway's uplink
//! ([`HandsOn::Yes`]) and is judged by the rules, and counted against the limits, of the member
//! whose MAC address it bears; a station's own frame that comes back is dropped by name.
//!
//! What a station asks of the segment's services ([`crate::serve`]) is answered at its own port or
//! dropped there; it is never forwarded.
//!
//! # Limits
//! [`PORTS_MAX`] ports, [`STATIONS_MAX`] stations each; the limits of [`crate::fdb`],
//! [`crate::flood`] and [`crate::link_local`]. Left out: VLANs and spanning trees (one switch
//! serves one segment, which has no loops), bandwidth limits, queues.

use std::net::Ipv6Addr;

use crate::answer::Answer;
use crate::counters::{Counters, PortCounters};
use crate::fdb::Fdb;
use crate::flood::Budgets;
use crate::frame::Frame;
use crate::link_local::LinkLocals;
use crate::mac::{MacAddr, SERVICE_MAC};
use crate::neighbour::Neighbours;
use crate::policy::Policy;
use crate::port::{
    HandsOn, Learning, PORTS_MAX, PortConfig, PortError, PortId, PortKind, STATIONS_MAX,
};
use crate::serve::{GuestConfig, GuestError, ROUTES_MAX, Route};
use crate::station::{Segment, Station};
use crate::time::Instant;
use crate::verdict::{FloodTo, Verdict};

mod way;

/// One segment's switch.
#[derive(Clone, Debug)]
pub struct Switch {
    segment: Segment,
    routes: Vec<Route>,
    /// By [`PortId`].
    ports: Vec<Option<Port>>,
    fdb: Fdb,
    neighbours: Neighbours,
    link_locals: LinkLocals,
    counters: Counters,
    answer: Answer,
}

#[derive(Clone, Debug)]
struct Port {
    kind: PortKind,
    learning: Learning,
    hands_on: HandsOn,
    policy: Policy,
    budgets: Budgets,
    /// What its guest is told if it asks; without it nobody answers.
    guest: Option<GuestConfig>,
    counters: PortCounters,
}

impl Switch {
    /// Makes a switch without ports.
    #[must_use]
    pub fn new(segment: Segment) -> Self {
        Self {
            segment,
            routes: Vec::new(),
            ports: Vec::new(),
            fdb: Fdb::default(),
            neighbours: Neighbours::default(),
            link_locals: LinkLocals::default(),
            counters: Counters::default(),
            answer: Answer::default(),
        }
    }

    /// Changes what all stations share, for all ports at once.
    pub fn set_segment(&mut self, segment: Segment) {
        self.segment = segment;
        for port in self.ports.iter_mut().flatten() {
            port.policy.set_segment(segment);
        }
    }

    /// Changes which networks are behind which stations; at most [`ROUTES_MAX`], the rest is not
    /// looked at.
    pub fn set_routes(&mut self, routes: &[Route]) {
        self.routes = routes.iter().copied().take(ROUTES_MAX).collect();
        for port in self.ports.iter_mut().flatten() {
            port.policy.set_routes(&self.routes);
        }
    }

    /// Plugs a port in, or changes it; its counters and limits go on.
    ///
    /// # Errors
    /// A [`PortError`] if the number is too high or a station is no station or another port's.
    pub fn set_port(&mut self, id: PortId, config: PortConfig) -> Result<(), PortError> {
        self.check_config(id, &config)?;
        let PortConfig { kind, stations, learning, hands_on } = config;
        let old = self.unplug(id);
        for station in old.iter().flat_map(|port| port.policy.stations()) {
            if stations.iter().all(|kept| kept.mac != station.mac) {
                self.link_locals.forget(station.mac);
            }
        }
        for station in &stations {
            self.fdb.fix(station.mac, id);
            self.neighbours.insert(station, id);
            self.link_locals.reserve(station.mac);
        }
        let policy = Policy::with_learning(&stations, self.segment, learning);
        let policy = policy.with_routes(&self.routes);
        let port = match old {
            Some(old) => Port { kind, learning, hands_on, policy, ..old },
            None => Port {
                kind,
                learning,
                hands_on,
                policy,
                budgets: Budgets::default(),
                guest: None,
                counters: PortCounters::default(),
            },
        };
        let index = usize::from(id.0);
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        self.ports[index] = Some(port);
        Ok(())
    }

    /// Configures what the stations of an attachment are told when they ask; from then on DHCP and
    /// router solicitations are answered there, and the services' addresses are. A port that is set
    /// again goes on being served.
    ///
    /// # Errors
    /// [`GuestError`]; nothing changed then.
    pub fn serve(&mut self, id: PortId, guest: GuestConfig) -> Result<(), GuestError> {
        guest.check()?;
        let port = self.port_mut(id).filter(|port| port.kind == PortKind::Attachment);
        port.ok_or(GuestError::NoGuest)?.guest = Some(guest);
        Ok(())
    }

    /// Unplugs a port and forgets its stations; one that is not there stays so.
    pub fn remove_port(&mut self, id: PortId) {
        for station in self.unplug(id).iter().flat_map(|port| port.policy.stations()) {
            self.link_locals.forget(station.mac);
        }
    }

    /// Judges a frame that came in by a port, and cuts off what lies behind its packet. This is the
    /// data path; `way` has its steps.
    pub fn forward(&mut self, ingress: PortId, frame: &mut Frame<'_>, now: Instant) -> Verdict {
        let len = frame.bytes.len();
        let verdict = self.judge(ingress, frame, now).unwrap_or_else(Verdict::Drop);
        self.counters.count(&verdict);
        if let Some(port) = self.port_mut(ingress) {
            port.counters.count(&verdict, len);
        }
        verdict
    }

    /// Returns the frame that the last [`Verdict::Answer`] gives back, until the next frame.
    #[must_use]
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// Returns a link-local address, and the station whose it became with the last frame. A node
    /// with a switch for each direction tells it to the other by [`Switch::hold_link_local`].
    pub fn poll_link_local(&mut self) -> Option<(Ipv6Addr, MacAddr)> {
        self.link_locals.poll_new()
    }

    /// Takes a link-local address for a station that claimed it at another switch of this node.
    pub fn hold_link_local(&mut self, address: Ipv6Addr, mac: MacAddr, now: Instant) {
        if self.fdb.fixed(mac).is_some() && self.link_local_owner(address).is_none() {
            self.link_locals.hold(address, mac, now);
        }
    }

    /// Returns the ports that a flooded frame is to leave by, uplinks not if it came by one.
    pub fn flood_ports(
        &self,
        ingress: PortId,
        to: FloodTo,
    ) -> impl Iterator<Item = (PortId, PortKind)> {
        let from_uplink = self.port(ingress).is_some_and(|port| port.kind == PortKind::Uplink);
        self.numbered().filter_map(move |(id, port)| {
            let wanted = to == FloodTo::All || port.learning == Learning::On;
            let back = id == ingress || from_uplink && port.kind == PortKind::Uplink;
            (wanted && !back).then_some((id, port.kind))
        })
    }

    /// Returns all uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = PortId> {
        self.numbered().filter(|(_, port)| port.kind == PortKind::Uplink).map(|(id, _)| id)
    }

    /// Returns the port that a station is behind.
    #[must_use]
    pub fn station_port(&self, mac: MacAddr) -> Option<PortId> {
        self.fdb.fixed(mac)
    }

    /// Returns the stations that may speak at a port; none if there is no such port.
    #[must_use]
    pub fn stations(&self, id: PortId) -> &[Station] {
        self.port(id).map_or(&[], |port| port.policy.stations())
    }

    /// Returns the counters of all ports together.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the counters of one port.
    #[must_use]
    pub fn port_counters(&self, id: PortId) -> Option<PortCounters> {
        self.port(id).map(|port| port.counters)
    }
}

/// Upkeep of the tables.
impl Switch {
    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(id.0))?.as_mut()
    }

    fn numbered(&self) -> impl Iterator<Item = (PortId, &Port)> {
        (0..).map(PortId).zip(&self.ports).filter_map(|(id, port)| Some((id, port.as_ref()?)))
    }

    fn unplug(&mut self, id: PortId) -> Option<Port> {
        let port = self.ports.get_mut(usize::from(id.0))?.take()?;
        for station in port.policy.stations() {
            self.fdb.unfix(station.mac);
            self.neighbours.remove(station);
        }
        if port.learning == Learning::On {
            self.fdb.unlearn(id);
        }
        Some(port)
    }

    fn check_config(&self, id: PortId, config: &PortConfig) -> Result<(), PortError> {
        if usize::from(id.0) >= PORTS_MAX {
            return Err(PortError::Number(id));
        }
        if config.kind == PortKind::Uplink && config.learning == Learning::On {
            return Err(PortError::LearningUplink);
        }
        if config.stations.len() > STATIONS_MAX {
            return Err(PortError::Stations(config.stations.len()));
        }
        for (index, station) in config.stations.iter().enumerate() {
            let earlier = &config.stations[..index];
            let Station { mac, ipv4, ipv6 } = *station;
            if !mac.is_station() || mac == SERVICE_MAC {
                return Err(PortError::NotAStation(mac));
            }
            let twice = earlier.iter().any(|other| other.mac == mac);
            if let Some(port) = taken(id, twice, self.fdb.fixed(mac)) {
                return Err(PortError::MacTaken(mac, port));
            }
            let twice = !ipv4.is_unspecified() && earlier.iter().any(|other| other.ipv4 == ipv4);
            let holder = self.neighbours.ipv4(ipv4).map(|neighbour| neighbour.port);
            if let Some(port) = taken(id, twice, holder) {
                return Err(PortError::AddressTaken(ipv4.into(), port));
            }
            let twice = !ipv6.is_unspecified() && earlier.iter().any(|other| other.ipv6 == ipv6);
            let holder = self.neighbours.ipv6(ipv6).map(|neighbour| neighbour.port);
            if let Some(port) = taken(id, twice, holder) {
                return Err(PortError::AddressTaken(ipv6.into(), port));
            }
        }
        Ok(())
    }
}

/// Returns the port that has an address already: this one, if named `twice`, or another.
fn taken(id: PortId, twice: bool, holder: Option<PortId>) -> Option<PortId> {
    if twice { Some(id) } else { holder.filter(|holder| *holder != id) }
}

#[cfg(test)]
mod tests;
