//! The frames of the attack catalogue (F01 to F31) and some that a segment is to carry, each with
//! its marker, from one station to another.
//!
//! # Theory of operation
//! A maker goes from row to row and adds frames that are right but for one thing. What a switch
//! must refuse is of a row `F..`; what it must carry, of a row `L..`. Runts are too short for a
//! marker. Made without any code of the product's, so that it errs in its own way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::marker::{By, Row, mark};
use super::packet::*;

/// An address triple on the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Ethernet address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Ipv4Addr,
    /// IPv6 address.
    pub ipv6: Ipv6Addr,
}

/// Who speaks, to whom, and in whose name he lies.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// The attacker's own addresses.
    pub own: Station,
    /// To whom he speaks.
    pub to: Station,
    /// Whose addresses he pretends to have.
    pub other: Station,
}

/// A frame that was made.
#[derive(Clone, Debug)]
pub struct Crafted {
    /// Its row.
    pub row: Row,
    /// What is special about it.
    pub what: &'static str,
    /// All of it.
    pub frame: Vec<u8>,
    /// The virtio-net header that goes with it, if it is to have one.
    pub vnet: Option<[u8; 10]>,
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Ports of no meaning.
const PORTS: [u16; 2] = [40_000, 40_001];
/// Payload of a segment of a super-frame, in bytes.
const SEGMENT_LEN: u16 = 1400;

/// Makes frames of one row after the other.
struct Maker {
    roles: Roles,
    made: Vec<Crafted>,
    row: Row,
}

/// Returns all of them.
#[must_use]
pub fn catalogue(roles: &Roles) -> Vec<Crafted> {
    let mut maker = Maker { roles: *roles, made: Vec::new(), row: Row(*b"L00") };
    maker.legal();
    maker.encapsulation();
    maker.spoofed();
    maker.arp();
    maker.neighbours();
    maker.services();
    maker.headers();
    maker.transports();
    maker.lengths();
    maker.made
}

fn changed(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

fn tagged(tag: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

fn padded(frame: Vec<u8>, marker: &[u8]) -> Vec<u8> {
    let mut frame = [frame, marker.to_vec()].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

impl Maker {
    fn row(&mut self, row: &[u8; 3]) {
        self.row = Row(*row);
    }

    fn marker(&self) -> [u8; 14] {
        mark(self.row, By::Frame)
    }

    /// A payload of so many bytes, the marker first.
    fn payload(&self, len: usize) -> Vec<u8> {
        let mut payload = self.marker().to_vec();
        payload.resize(len.max(payload.len()), 7);
        payload
    }

    fn add(&mut self, what: &'static str, frame: Vec<u8>) {
        self.made.push(Crafted { row: self.row, what, frame, vnet: None });
    }

    fn add_vnet(&mut self, what: &'static str, vnet: [u8; 10], frame: Vec<u8>) {
        self.made.push(Crafted { row: self.row, what, frame, vnet: Some(vnet) });
    }

    fn to(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(self.roles.to.mac, self.roles.own.mac, ethertype, payload)
    }

    /// An IPv4 frame to the other end.
    fn four(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.fragment(protocol, 0, payload)
    }

    fn fragment(&self, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        self.to(IPV4, &ipv4(own.ipv4, to.ipv4, protocol, fragment, payload))
    }

    /// An IPv6 frame to the other end, or to a group.
    fn six(&self, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        let mac = if dst.is_multicast() { group(dst.into()) } else { to.mac };
        ethernet(mac, own.mac, IPV6, &ipv6(own.ipv6, dst, next, 255, payload))
    }

    fn udp4(&self, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        self.four(UDP, &udp(own.ipv4.into(), to.ipv4.into(), ports, payload))
    }

    fn udp6(&self, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        self.six(to.ipv6, UDP, &udp(own.ipv6.into(), to.ipv6.into(), ports, payload))
    }

    fn tcp4(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        self.four(TCP, &tcp(own.ipv4.into(), to.ipv4.into(), PORTS, flags, payload))
    }

    /// UDP from and to any addresses, framed for the other end or a group.
    fn between(&self, src: IpAddr, dst: IpAddr, ports: [u16; 2]) -> Vec<u8> {
        let Roles { own, to, .. } = self.roles;
        let grouped = match dst {
            IpAddr::V4(dst) => dst.is_multicast() || dst.is_broadcast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        };
        let mac = if grouped { group(dst) } else { to.mac };
        let packet = ip(src, dst, UDP, &udp(src, dst, ports, &self.payload(48)));
        ethernet(mac, own.mac, ethertype(dst), &packet)
    }

    fn legal(&mut self) {
        let Roles { own, to, .. } = self.roles;
        let payload = self.payload(48);
        self.add("UDP", self.udp4(PORTS, &payload));
        self.add("UDP over IPv6", self.udp6(PORTS, &payload));
        self.add("TCP SYN", self.tcp4(SYN, &payload));
        for [src, dst] in
            [[own.ipv4, to.ipv4].map(IpAddr::from), [own.ipv6, to.ipv6].map(IpAddr::from)]
        {
            let packet = echo(src, dst, &payload);
            self.add("ping", self.to(ethertype(dst), &packet));
        }
        let all = Ipv4Addr::BROADCAST.into();
        self.add("broadcast", self.between(own.ipv4.into(), all, PORTS));
        self.row(b"L19");
        let payload = self.payload(1464);
        self.add("first fragment", self.fragment(UDP, 0x2000, &payload));
        self.row(b"L21");
        let payload = self.payload(64);
        self.add("GRE", self.four(47, &payload));
        self.add("IP in IP", self.four(4, &ipv4(to.ipv4, own.ipv4, UDP, 0, &payload)));
        self.row(b"L22");
        let payload = self.payload(64);
        self.add("VXLAN", self.udp4([49_152, 4789], &payload));
        self.add("WireGuard", self.udp6([51_820, 51_820], &payload));
        self.row(b"L24");
        let payload = self.payload(1472);
        self.add("of exactly the MTU", self.udp4(PORTS, &payload));
        self.row(b"L25");
        let payload = self.payload(8000);
        self.add_vnet("super-frame", gso(1, 54, 34), self.tcp4(0x10, &payload));
    }

    fn encapsulation(&mut self) {
        self.row(b"F01");
        for ethertype in [0x88b5, 0x8847, 0x8863, 0x4305, 0x88f7, 0x8035, 0x0842, 0x22ea] {
            let payload = self.payload(46);
            self.add("foreign EtherType", self.to(ethertype, &payload));
        }
        let rows: [(&[u8; 3], &'static str, &[u8]); 7] = [
            (b"F02", "priority tag", &[0x81, 0, 0xe0, 0]),
            (b"F03", "VLAN 1", &[0x81, 0, 0, 1]),
            (b"F03", "VLAN 4095", &[0x81, 0, 0x0f, 0xff]),
            (b"F04", "service tag", &[0x88, 0xa8, 0, 5]),
            (b"F04", "tag 9100", &[0x91, 0, 0, 5]),
            (b"F04", "tag 9200", &[0x92, 0, 0, 5]),
            (b"F05", "two tags", &[0x81, 0, 0, 0, 0x81, 0, 0, 5]),
        ];
        for (row, what, tag) in rows {
            self.row(row);
            let payload = self.payload(48);
            self.add(what, tagged(tag, &self.udp4(PORTS, &payload)));
            self.add(what, tagged(tag, &self.udp6(PORTS, &payload)));
        }
        let advertisement = self.advertisement();
        for count in 2..=10 {
            let tags = [0x81, 0, 0, 0].repeat(count);
            self.add("stacked tags around an RA", tagged(&tags, &advertisement));
        }
        self.row(b"F06");
        let packet = self.udp4(PORTS, &self.payload(48))[14..].to_vec();
        let inner = self.advertisement()[14..].to_vec();
        for (what, snap, packet) in [
            ("SNAP around IPv4", [0xaa, 0xaa, 3, 0, 0, 0, 8, 0], packet),
            ("SNAP around an RA", [0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd], inner),
        ] {
            let right = (8 + packet.len()) as u16;
            for len in [right, 3, 0, 1500] {
                self.add(what, self.to(len, &[&snap[..], &packet].concat()));
            }
        }
    }

    /// An RA to all, with the marker in an option.
    fn advertisement(&self) -> Vec<u8> {
        let own = self.roles.own.mac;
        let src = link_local(own);
        let rest = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], &nonce_option(&self.marker())[..]];
        let message = icmpv6(src, ALL_NODES, 134, &rest.concat());
        let packet = ipv6(src, ALL_NODES, ICMPV6, 255, &message);
        ethernet(group(ALL_NODES.into()), own, IPV6, &packet)
    }

    fn spoofed(&mut self) {
        let Roles { own, to, other } = self.roles;
        self.row(b"F07");
        for mac in [other.mac, [3, 0, 0, 0, 0, 1], [0; 6], [2, 0xee, 0, 0, 0, 9]] {
            let mut frame = self.udp4(PORTS, &self.payload(48));
            frame[6..12].copy_from_slice(&mac);
            self.add("foreign source MAC", frame);
        }
        self.row(b"F08");
        let four = [[0; 4], [127, 0, 0, 1], [240, 0, 0, 1], [255; 4], [8; 4]].map(Ipv4Addr::from);
        for src in four.into_iter().chain([other.ipv4, to.ipv4]) {
            self.add("foreign IPv4 source", self.between(src.into(), to.ipv4.into(), PORTS));
        }
        let mapped = own.ipv4.to_ipv6_mapped();
        for src in [other.ipv6, to.ipv6, Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, mapped] {
            self.add("foreign IPv6 source", self.between(src.into(), to.ipv6.into(), PORTS));
        }
    }

    fn arp(&mut self) {
        let Roles { own, to, other } = self.roles;
        let marked = |maker: &Self, dst: Mac, message: Vec<u8>| {
            padded(ethernet(dst, own.mac, ARP, &message), &maker.marker())
        };
        self.row(b"F09");
        let gratuitous = arp(1, (own.mac, other.ipv4), ([0; 6], other.ipv4));
        self.add("gratuitous ARP", marked(self, BROADCAST, gratuitous));
        let reply = arp(2, (own.mac, other.ipv4), (to.mac, to.ipv4));
        self.add("ARP reply for another", marked(self, to.mac, reply));
        let sender = arp(1, (other.mac, own.ipv4), ([0; 6], to.ipv4));
        self.add("other sender in ARP", marked(self, BROADCAST, sender));
        let abroad = arp(1, (own.mac, own.ipv4), ([0; 6], [8; 4].into()));
        self.add("ARP for an address abroad", marked(self, BROADCAST, abroad));
        self.row(b"F10");
        let message = arp(1, (own.mac, own.ipv4), ([0; 6], to.ipv4));
        let lies: [(usize, u8); 6] = [(1, 6), (2, 0x86), (4, 7), (5, 16), (7, 0), (6, 1)];
        for (at, byte) in lies.into_iter().chain((3..=10).map(|op| (7, op))) {
            let frame = marked(self, BROADCAST, changed(message.clone(), at, byte));
            self.add("ARP that lies", frame);
        }
        let short = ethernet(BROADCAST, own.mac, ARP, &message[..27]);
        self.add("truncated ARP", short);
    }

    /// A neighbour message: its type, flags, source, destination, target and options.
    fn nd(
        &self,
        kind: u8,
        flags: u8,
        [src, dst, target]: [Ipv6Addr; 3],
        option: Option<Vec<u8>>,
    ) -> Vec<u8> {
        let options = [option.unwrap_or_default(), nonce_option(&self.marker())].concat();
        let message = icmpv6(src, dst, kind, &neighbour(flags, target, &options));
        let mac = if dst.is_multicast() { group(dst.into()) } else { self.roles.to.mac };
        ethernet(mac, self.roles.own.mac, IPV6, &ipv6(src, dst, ICMPV6, 255, &message))
    }

    fn neighbours(&mut self) {
        let Roles { own, to, other } = self.roles;
        self.row(b"F11");
        let named = |kind, mac| Some(link_option(kind, mac));
        let lies = [own.ipv6, to.ipv6, other.ipv6];
        self.add("NA for another", self.nd(136, 0x60, lies, named(2, own.mac)));
        let own_target = [own.ipv6, to.ipv6, own.ipv6];
        self.add("NA with another's MAC", self.nd(136, 0x60, own_target, named(2, other.mac)));
        let asks = [own.ipv6, to.ipv6, to.ipv6];
        self.add("NS with another's MAC", self.nd(135, 0, asks, named(1, other.mac)));
        let solicits = [own.ipv6, solicited_node(to.ipv6), to.ipv6];
        let far = changed(self.nd(135, 0, solicits, named(1, own.mac)), 21, 64);
        self.add("NS from afar", far);
        self.row(b"F12");
        let denies = [own.ipv6, ALL_NODES, other.ipv6];
        self.add("DAD denial", self.nd(136, 0x20, denies, named(2, own.mac)));
        self.row(b"F15");
        let advertisement = self.advertisement();
        self.add("RA", advertisement);
        let rest = [&[0; 4], &to.ipv6.octets()[..], &other.ipv6.octets(), &self.marker()].concat();
        let redirect = icmpv6(link_local(own.mac), to.ipv6, 137, &rest);
        let redirect = ipv6(link_local(own.mac), to.ipv6, ICMPV6, 255, &redirect);
        self.add("redirect", self.to(IPV6, &redirect));
        self.row(b"F16");
        let message = self.advertisement()[54..].to_vec();
        let ah = [&[ICMPV6, 4, 0, 0, 0, 0, 0, 1][..], &[0; 16], &message].concat();
        for (what, next, rest) in [
            ("RA behind hop-by-hop", 0, extension(0, ICMPV6, &message)),
            ("RA behind options", 60, extension(60, ICMPV6, &message)),
            ("RA behind options twice", 60, extension(60, 60, &extension(60, ICMPV6, &message))),
            ("RA behind routing", 43, extension(43, ICMPV6, &message)),
            ("RA behind AH", 51, ah),
            ("RA in a fragment", 44, fragment6(ICMPV6, 0, true, &message)),
            ("RA in an atomic fragment", 44, fragment6(ICMPV6, 0, false, &message)),
        ] {
            self.add(what, self.six(ALL_NODES, next, &rest));
        }
    }

    fn services(&mut self) {
        let Roles { own, to, other } = self.roles;
        let all: IpAddr = Ipv4Addr::BROADCAST.into();
        self.row(b"F13");
        let offer = dhcp(2, own.mac, &self.marker());
        let [own4, to4] = [own.ipv4, to.ipv4].map(IpAddr::from);
        let broadcast = ip(own4, all, UDP, &udp(own4, all, [67, 68], &offer));
        self.add("DHCP offer to all", ethernet(BROADCAST, own.mac, IPV4, &broadcast));
        let name = ip(other.ipv4.into(), all, UDP, &udp(other.ipv4.into(), all, [67, 68], &offer));
        self.add("DHCP offer in another's name", ethernet(BROADCAST, own.mac, IPV4, &name));
        for ports in [[67, 68], [67, 67], [1067, 68]] {
            self.add("DHCP offer", self.four(UDP, &udp(own4, to4, ports, &offer)));
        }
        self.row(b"F14");
        for (what, kind) in [("DHCPv6 advertise", 2), ("DHCPv6 reply", 7), ("reconfigure", 10)] {
            let message = [&[kind, 0, 0, 7, 0, 99, 0, 14], &self.marker()[..]].concat();
            for ports in [[547, 546], [1547, 546]] {
                self.add(what, self.udp6(ports, &message));
            }
        }
        self.row(b"F17");
        for (what, chaddr) in [("discover of another", other.mac), ("long options", own.mac)] {
            let mut message = dhcp(1, chaddr, &self.marker());
            message.extend([12, 255, b'x', b'y']);
            let zero = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            let packet = ip(zero, all, UDP, &udp(zero, all, [68, 67], &message));
            self.add(what, ethernet(BROADCAST, own.mac, IPV4, &packet));
        }
        self.row(b"F30");
        for dst in [[224, 0, 1, 1], [232, 1, 1, 1]].map(Ipv4Addr::from) {
            self.add("routed multicast", self.between(own4, dst.into(), PORTS));
        }
        let site = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);
        self.add("site multicast", self.between(own.ipv6.into(), site.into(), PORTS));
        let reports = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        let report = icmpv6(own.ipv6, reports, 143, &[&[0; 4], &self.marker()[..]].concat());
        self.add("MLD report", self.six(reports, 0, &extension(0, ICMPV6, &report)));
    }

    fn headers(&mut self) {
        self.row(b"F18");
        let payload = self.payload(60);
        let udp4 = self.udp4(PORTS, &payload);
        for (what, byte) in [("options", 0x46), ("no header", 0x40), ("short header", 0x44)] {
            self.add(what, changed(udp4.clone(), 14, byte));
        }
        self.add("header beyond the frame", changed(self.tcp4(SYN, &payload[..14]), 14, 0x4f));
        self.row(b"F19");
        let payload = self.payload(96);
        self.add("overlapping fragment", self.fragment(TCP, 0x2001, &payload[..16]));
        self.add("tiny first fragment", self.fragment(TCP, 0x2000, &payload[..16]));
        self.add("fragment beyond 65535", self.fragment(UDP, 0x1fff, &payload));
        let to = self.roles.to.ipv6;
        let tiny = fragment6(TCP, 0, true, &payload[..16]);
        self.add("tiny first fragment", self.six(to, 44, &tiny));
        let beyond = fragment6(UDP, 0xfff8, false, &payload);
        self.add("fragment beyond 65535", self.six(to, 44, &beyond));
        self.row(b"F20");
        let payload = self.payload(48);
        let (udp4, udp6) = (self.udp4(PORTS, &payload), self.udp6(PORTS, &payload));
        self.add("IPv6 as IPv4", changed(udp4.clone(), 14, 0x65));
        self.add("IPv4 as IPv6", changed(udp6.clone(), 14, 0x45));
        self.add("total length too long", changed(udp4.clone(), 17, 0xf0));
        self.add("total length too short", changed(udp4, 17, 19));
        self.add("payload length too long", changed(udp6, 19, 0xf0));
        let jumbo = self.six(to, 0, &extension(0, UDP, &payload));
        self.add("jumbogram", changed(changed(jumbo, 18, 0), 19, 0));
    }

    fn transports(&mut self) {
        self.row(b"F28");
        for last in [0, 1, 2, 3, 0x0e] {
            let mut frame = self.to(0x88cc, &self.payload(46));
            frame[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, last]);
            self.add("for bridges alone", frame);
        }
        let mut frame = self.to(0x20, &self.payload(46));
        frame[..6].copy_from_slice(&[1, 0, 0x0c, 0xcc, 0xcc, 0xcc]);
        self.add("CDP", frame);
        let payload = self.payload(46);
        self.add("EAPOL", self.to(0x888e, &payload));
        self.row(b"F29");
        let payload = self.payload(48);
        self.add("SYN with FIN", self.tcp4(3, &payload));
        self.add("data offset 4", changed(self.tcp4(SYN, &payload), 46, 0x40));
        self.add("UDP length 7", changed(self.udp4(PORTS, &payload), 39, 7));
        self.add("UDP length beyond", changed(self.udp4(PORTS, &payload), 39, 0xf0));
        for (what, kind, code) in [("redirect", 5, 1), ("mask request", 17, 0), ("router", 9, 0)] {
            self.add(what, self.four(ICMP, &icmp(kind, code, &payload)));
        }
    }

    fn lengths(&mut self) {
        let Roles { own, other, .. } = self.roles;
        self.row(b"F23");
        let payload = self.payload(48);
        let udp4 = self.udp4(PORTS, &payload);
        for len in [0, 6, 13, 14, 33] {
            self.add("runt", udp4[..len].to_vec());
        }
        self.row(b"F24");
        for len in [1473, 3000] {
            let payload = self.payload(len);
            self.add("giant", self.udp4(PORTS, &payload));
        }
        self.row(b"F25");
        let payload = self.payload(8000);
        let mut frame = self.tcp4(0x10, &payload);
        frame[6..12].copy_from_slice(&other.mac);
        self.add_vnet("super-frame of another", gso(1, 54, 34), frame);
        self.row(b"F26");
        let payload = self.payload(8000);
        let frame = self.tcp4(0x10, &payload);
        for (what, vnet) in [
            ("UFO", gso(3, 42, 34)),
            ("GSO for IPv6", gso(4, 54, 34)),
            ("start outside", gso(1, 54, 0xfff0)),
            ("header length that wraps", gso(1, 0xffff, 34)),
        ] {
            self.add_vnet(what, vnet, frame.clone());
        }
        self.row(b"F31");
        let hidden = self.marker();
        let plain = udp(own.ipv4.into(), self.roles.to.ipv4.into(), PORTS, &[7; 48]);
        let frame = self.four(UDP, &plain);
        self.add("bytes behind the packet", [&frame[..], &hidden].concat());
        self.add("a page behind the packet", [&frame[..], &hidden, &[9; 900]].concat());
    }
}

/// A virtio-net header of a super-frame.
fn gso(kind: u8, header_len: u16, start: u16) -> [u8; 10] {
    let mut vnet = [1, kind, 0, 0, 0, 0, 0, 0, 16, 0];
    for (at, field) in [(2, header_len), (4, SEGMENT_LEN), (6, start)] {
        vnet[at..at + 2].copy_from_slice(&field.to_le_bytes());
    }
    vnet
}

/// A BOOTP message with the marker where the server's name stands, and classless routes to
/// everywhere (option 121).
fn dhcp(op: u8, chaddr: Mac, marker: &[u8]) -> Vec<u8> {
    let mut message = vec![op, 1, 6, 0, 0, 0, 0, 7];
    message.extend([0; 20]);
    message.extend(chaddr);
    message.extend([0; 10]);
    let mut name = marker.to_vec();
    name.resize(192, 0);
    message.extend(name);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, if op == 1 { 1 } else { 5 }]);
    message.extend([121, 5, 0, 10, 77, 0, 66]);
    message.push(255);
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::home::marker::find;

    fn station(n: u8) -> Station {
        Station {
            mac: [2, 0, 0, 0, 0, n],
            ipv4: Ipv4Addr::new(10, 77, 0, n),
            ipv6: Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, n.into()),
        }
    }

    #[test]
    fn each_row_of_the_catalogue_has_frames_that_bear_its_marker() {
        let [own, to, other] = [10, 2, 11].map(station);
        let all = catalogue(&Roles { own, to, other });
        let rows: BTreeSet<_> = all.iter().map(|one| one.row.to_string()).collect();
        // F22 is legal; F27 is about rings, which are no frames.
        let missing: Vec<_> = (1..=31)
            .filter(|n| ![21, 22, 27].contains(n))
            .map(|n| format!("F{n:02}"))
            .filter(|row| !rows.contains(row))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        for Crafted { row, what, frame, .. } in &all {
            let short = *what == "runt" || *what == "truncated ARP";
            match find(frame) {
                Some((found, By::Frame)) => assert_eq!(found, *row, "{what}"),
                _ => assert!(short, "{row} {what} has no marker"),
            }
        }
    }
}
