//! The way of a frame through the switch, in order: `judge` first, then what it calls.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Port, Switch};
use crate::flood::Budget;
use crate::frame::Frame;
use crate::link_local::{SERVICE_LINK_LOCAL, eui64_mac};
use crate::mac::{MacAddr, SERVICE_MAC};
use crate::neighbour::{advertisement, arp_reply};
use crate::parse::{Arp, ArpOp, Body, Ipv6, Nd, Packet, Parsed, Question, is_link_local};
use crate::policy::form;
use crate::port::{HandsOn, Learning, PortId, PortKind};
use crate::serve;
use crate::station::Broadcast;
use crate::time::Instant;
use crate::verdict::{DropReason, FloodTo, Verdict};

impl Switch {
    pub(super) fn judge(
        &mut self,
        ingress: PortId,
        frame: &mut Frame<'_>,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let port = self.port(ingress).ok_or(DropReason::NoSuchPort)?;
        let (kind, learning) = (port.kind, port.learning);
        let form = form(frame, self.segment.mtu); // borrowed below: moving it out would cost more
        let parsed = form.as_ref().map_err(|reason| *reason)?;
        let speaker = self.speaker(ingress, port, parsed)?;
        self.port(speaker).ok_or(DropReason::NoSuchPort)?.policy.admit(parsed)?;
        if learning == Learning::On {
            self.admit_stranger(ingress, parsed, now)?;
        }
        match &parsed.packet {
            Packet::Ipv4(packet) => self.check_router(speaker, parsed.dst, packet.dst)?,
            Packet::Arp(message) => {
                if kind == PortKind::Uplink {
                    return Err(DropReason::NeighbourOnUplink);
                }
                if let Some(way) = self.arp(ingress, learning, parsed.src, message, now)? {
                    return Ok(way);
                }
                self.spend(speaker, Budget::Arp, 1, now)?;
            }
            Packet::Ipv6(packet) => {
                self.claim_link_locals(parsed.src, packet, now)?;
                if let Body::Nd(nd) = packet.body {
                    if let Some(way) = self.nd(ingress, parsed.src, packet, nd, now)? {
                        return Ok(way);
                    }
                    self.spend(speaker, Budget::Nd, 1, now)?;
                }
            }
        }
        if let Some(question) = parsed.question() {
            return self.serve_question(ingress, frame, parsed, question, now);
        }
        if parsed.dst.is_group() {
            self.flood(speaker, frame, parsed, now)
        } else {
            self.unicast(ingress, kind, frame, parsed.dst, now)
        }
    }

    /// Sees to it that a packet for a network behind a station goes to that station.
    fn check_router(&self, id: PortId, dst_mac: MacAddr, dst: Ipv4Addr) -> Result<(), DropReason> {
        if self.routes.is_empty() || dst_mac.is_group() {
            return Ok(());
        }
        let Some(via) = self.port(id).and_then(|port| port.policy.router(dst)) else {
            return Ok(());
        };
        match self.neighbours.ipv4(via) {
            Some(router) if router.mac == dst_mac => Ok(()),
            Some(_) | None => Err(DropReason::MacMismatch),
        }
    }

    /// Returns the port whose rules the frame is under: the ingress port, or, for a group frame
    /// that the gateway hands on, that of the member who sent it.
    fn speaker(&self, id: PortId, port: &Port, parsed: &Parsed) -> Result<PortId, DropReason> {
        let hands_on = port.hands_on == HandsOn::Yes && port.kind == PortKind::Uplink;
        if !hands_on || !parsed.dst.is_group() || port.policy.station(parsed.src).is_some() {
            return Ok(id);
        }
        let Some(owner) = self.fdb.fixed(parsed.src) else { return Ok(id) };
        match self.port(owner).map(|port| port.kind) {
            Some(PortKind::Attachment) => Err(DropReason::Reflected),
            Some(PortKind::Uplink) | None => Ok(owner),
        }
    }

    /// Sees to it that who is no station of a learning port takes no station's place, and learns
    /// where he is.
    fn admit_stranger(
        &mut self,
        ingress: PortId,
        parsed: &Parsed,
        now: Instant,
    ) -> Result<(), DropReason> {
        match self.fdb.fixed(parsed.src) {
            Some(port) if port == ingress => return Ok(()),
            Some(_) => return Err(DropReason::ForeignMac),
            None if parsed.src == SERVICE_MAC => return Err(DropReason::ForeignMac),
            None => {}
        }
        match &parsed.packet {
            Packet::Arp(message) if self.neighbours.ipv4(message.sender).is_some() => {
                return Err(DropReason::SpoofedArp);
            }
            Packet::Ipv4(packet) if self.neighbours.ipv4(packet.src).is_some() => {
                return Err(DropReason::ForeignIpv4);
            }
            Packet::Ipv6(packet) if self.neighbours.ipv6(packet.src).is_some() => {
                return Err(DropReason::ForeignIpv6);
            }
            Packet::Arp(_) | Packet::Ipv4(_) | Packet::Ipv6(_) => {}
        }
        if let Packet::Ipv6(Ipv6 { body: Body::Nd(Nd::Advertisement(target)), .. }) = parsed.packet
            && self.neighbours.ipv6(target).is_some()
        {
            return Err(DropReason::SpoofedNd);
        }
        self.fdb.learn(parsed.src, ingress, now);
        Ok(())
    }

    /// Takes the link-local addresses that a packet speaks for, or refuses it.
    fn claim_link_locals(
        &mut self,
        src: MacAddr,
        packet: &Ipv6,
        now: Instant,
    ) -> Result<(), DropReason> {
        if is_link_local(packet.src) {
            self.claim_link_local(packet.src, src, now)?;
        }
        match packet.body {
            Body::Nd(Nd::Advertisement(target)) if is_link_local(target) => {
                self.claim_link_local(target, src, now)
            }
            Body::Nd(_) | Body::RouterSolicitation | Body::L4(_) => Ok(()),
        }
    }

    fn claim_link_local(
        &mut self,
        address: Ipv6Addr,
        src: MacAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.link_local_owner(address).is_some_and(|owner| owner != src) {
            return Err(DropReason::LinkLocalTaken);
        }
        if self.fdb.fixed(src).is_none() {
            return Ok(()); // strangers of a bridged LAN come first nowhere
        }
        self.link_locals.claim(address, src, now)
    }

    /// Says whether the MAC address has a place of its own here, a station's or the services'.
    fn is_placed(&self, mac: MacAddr) -> bool {
        mac == SERVICE_MAC || self.fdb.fixed(mac).is_some()
    }

    /// Says whether the port's guest is served, so that it may ask for the services' addresses.
    fn is_served(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.guest.is_some())
    }

    /// Answers what a station asks of the segment's services.
    fn serve_question(
        &mut self,
        ingress: PortId,
        frame: &Frame<'_>,
        parsed: &Parsed,
        question: Question,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let Self { ports, segment, answer, .. } = self;
        let port = ports.get_mut(usize::from(ingress.0)).and_then(Option::as_mut);
        let port = port.ok_or(DropReason::NoSuchPort)?;
        let Some((guest, station)) = port.guest.as_ref().zip(port.policy.station(parsed.src))
        else {
            return Err(serve::unserved(question));
        };
        let budget = match question {
            Question::Dhcp4 => Budget::Dhcp4,
            Question::Dhcp6 => Budget::Dhcp6,
            Question::Router => Budget::Router,
        };
        port.budgets.spend(budget, 1, now)?;
        let served = serve::answer(frame, parsed, station, segment, guest, answer)?;
        port.counters.count_served(served);
        Ok(Verdict::Answer)
    }

    /// Returns the station that claimed the address, or whose MAC address it is made from.
    pub(super) fn link_local_owner(&self, address: Ipv6Addr) -> Option<MacAddr> {
        self.link_locals
            .owner(address)
            .or_else(|| eui64_mac(address).filter(|mac| self.is_placed(*mac)))
    }

    /// Answers an ARP request; `None` is left to the forwarding of a bridged LAN's replies.
    fn arp(
        &mut self,
        ingress: PortId,
        learning: Learning,
        src: MacAddr,
        message: &Arp,
        now: Instant,
    ) -> Result<Option<Verdict>, DropReason> {
        let gratuitous = message.sender == message.target;
        match message.op {
            ArpOp::Reply if learning == Learning::On && !gratuitous => return Ok(None),
            ArpOp::Reply => return Err(DropReason::Unsolicited),
            ArpOp::Request => {}
        }
        let mac = match self.neighbours.ipv4(message.target) {
            Some(target) if target.port == ingress => return Err(DropReason::OwnAddress),
            Some(target) => target.mac,
            None if gratuitous => return Err(DropReason::Unsolicited),
            None if self.is_served(ingress)
                && self.segment.service_ipv4() == Some(message.target) =>
            {
                SERVICE_MAC
            }
            None => return self.ask_strangers(ingress, Budget::Arp, now).map(Some),
        };
        self.spend(ingress, Budget::Arp, 1, now)?;
        let target = (mac, message.target);
        arp_reply(&mut self.answer, (src, message.sender), target);
        Ok(Some(Verdict::Answer))
    }

    /// Answers a solicitation; `None` is left to forwarding: link-local addresses are the
    /// stations' own business.
    fn nd(
        &mut self,
        ingress: PortId,
        src: MacAddr,
        packet: &Ipv6,
        nd: Nd,
        now: Instant,
    ) -> Result<Option<Verdict>, DropReason> {
        let (kind, learning) = match self.port(ingress) {
            Some(port) => (port.kind, port.learning),
            None => return Err(DropReason::NoSuchPort),
        };
        let target = match nd {
            Nd::Advertisement(target) => {
                let stranger = learning == Learning::On && !packet.dst.is_multicast();
                return if is_link_local(target) || stranger {
                    Ok(None)
                } else {
                    Err(DropReason::Unsolicited)
                };
            }
            Nd::Solicitation(target) => target,
        };
        let link_local = is_link_local(target);
        let probe = packet.src.is_unspecified();
        if link_local && probe && self.link_local_owner(target).is_none() {
            self.claim_link_local(target, src, now)?;
            return Ok(None);
        }
        if kind == PortKind::Uplink {
            return if link_local { Ok(None) } else { Err(DropReason::NeighbourOnUplink) };
        }
        let known = if link_local {
            let owner = self.link_locals.owner(target);
            owner.and_then(|mac| Some((mac, self.fdb.fixed(mac)?)))
        } else {
            self.neighbours.ipv6(target).map(|neighbour| (neighbour.mac, neighbour.port))
        };
        let service = target == SERVICE_LINK_LOCAL || target == self.segment.service_ipv6();
        let known = match known {
            Some((_, port)) if port == ingress => return Err(DropReason::OwnAddress),
            Some((mac, _)) => Some(mac),
            None if service && self.is_served(ingress) => Some(SERVICE_MAC),
            None => None,
        };
        match known {
            Some(mac) => {
                self.spend(ingress, Budget::Nd, 1, now)?;
                advertisement(&mut self.answer, (src, packet.src), (mac, target));
                Ok(Some(Verdict::Answer))
            }
            None if link_local => Ok(None),
            None => self.ask_strangers(ingress, Budget::Nd, now).map(Some),
        }
    }

    /// Asks bridged LANs for an address that no station has.
    fn ask_strangers(
        &mut self,
        ingress: PortId,
        budget: Budget,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        if self.flood_ports(ingress, FloodTo::Learning).next().is_none() {
            return Err(DropReason::NoSuchStation);
        }
        self.spend(ingress, budget, 1, now)?;
        Ok(Verdict::Flood(FloodTo::Learning))
    }

    fn flood(
        &mut self,
        speaker: PortId,
        frame: &Frame<'_>,
        parsed: &Parsed,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        if !matches!(parsed.packet, Packet::Ipv6(Ipv6 { body: Body::Nd(_), .. })) {
            if self.segment.broadcast == Broadcast::Off {
                return Err(DropReason::BroadcastOff);
            }
            self.spend(speaker, Budget::Group, frame.hdr.segment_count(frame.bytes), now)?;
        }
        Ok(Verdict::Flood(FloodTo::All))
    }

    fn unicast(
        &mut self,
        ingress: PortId,
        kind: PortKind,
        frame: &Frame<'_>,
        dst: MacAddr,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let Some(egress) = self.fdb.lookup(dst, now) else {
            if self.flood_ports(ingress, FloodTo::Learning).next().is_none() {
                return Err(DropReason::UnknownDestination);
            }
            self.spend(ingress, Budget::Group, frame.hdr.segment_count(frame.bytes), now)?;
            return Ok(Verdict::Flood(FloodTo::Learning));
        };
        if egress == ingress {
            return Err(DropReason::Hairpin);
        }
        if kind == PortKind::Uplink
            && self.port(egress).is_some_and(|port| port.kind == PortKind::Uplink)
        {
            return Err(DropReason::NotForUs);
        }
        Ok(Verdict::Forward(egress))
    }

    fn spend(
        &mut self,
        id: PortId,
        budget: Budget,
        count: u32,
        now: Instant,
    ) -> Result<(), DropReason> {
        let port = self.port_mut(id).ok_or(DropReason::NoSuchPort)?;
        port.budgets.spend(budget, count, now)
    }
}
