//! Leases with several guests, and sellers that lie: whose frames the gateway delivers.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::book::*;
use common::*;
use overlay_proto::control::{AddressTrust, Command, Life, Limits, LocalPort, Member, Slot};
use overlay_proto::membership::{GatewayPlane, Membership, SellerHost};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::registry::Registry;
use overlay_proto::ticket::Ticket;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::Carrier as _;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use proptest::collection::vec;
use proptest::prelude::*;
use vde_switch::frame::Frame;
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

const PORT: LocalPort = LocalPort(0);
/// Guests of the order; each may be anywhere.
const GUESTS: usize = 4;
/// Hosts: the gateway, two leases of seller 1, one of seller 2.
const SELLERS: [u8; 4] = [0, 1, 1, 2];

struct Host {
    node: Node,
    key: [u8; 32],
    heard: Vec<Vec<u8>>,
}

struct Net {
    hosts: Vec<Host>,
    wire: VecDeque<(SocketAddr, SocketAddr, usize, Vec<u8>)>,
    now: Instant,
    book: Registry,
    plane: GatewayPlane,
    tickets: Vec<Ticket>,
}

struct Hands<'a> {
    from: SocketAddr,
    heard: &'a mut Vec<Vec<u8>>,
    wire: &'a mut VecDeque<(SocketAddr, SocketAddr, usize, Vec<u8>)>,
}

impl Io for Hands<'_> {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.heard.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        Delivered::Done
    }
    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.wire.push_back((self.from, via.remote, stride, datagrams.to_vec()));
        Sent::Done
    }
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([44, 128, 2, host as u8 + 1], 7770))
}

/// A UDP packet of a guest's to the buyer.
fn frame(from: u16) -> Vec<u8> {
    let (source, to) = (station(from), station(0));
    let mut frame = [to.mac.0, source.mac.0].concat();
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.ipv4.octets());
    frame.extend(to.ipv4.octets());
    overlay_proto::cut::sum_ipv4_header(&mut frame[14..34]);
    frame.extend([0x12, 0x34, 0x56, 0x78, 0, 20, 0, 0]);
    frame.extend([from as u8; 12]);
    frame
}

impl Net {
    fn new() -> Self {
        let now = Instant::from_nanos(1 << 45);
        let mut book = registry();
        let tickets = (0..GUESTS).map(|n| invite(&mut book, n as u8 + 1)).collect();
        let hosts = (0..SELLERS.len()).map(|host| {
            let carrier = WireGuardCarrier::new([host as u8 + 1; 32]);
            let key = carrier.public();
            // No filter of a seller's own holds: its slot is whatever, its guest is everybody.
            Host { node: Node::new(Slot(host as u16), Arc::new(carrier), now), key, heard: vec![] }
        });
        let (hosts, plane) = (hosts.collect(), GatewayPlane::default());
        let mut net = Self { hosts, wire: VecDeque::new(), now, book, plane, tickets };
        let segment = net.book.order_record().segment();
        for host in 0..SELLERS.len() {
            net.command(host, Command::Live(Life::Unlimited));
            net.command(host, Command::SetSegment(segment));
            let stations = match host {
                0 => vec![station(0)],
                _ => (1..=GUESTS as u16).map(station).collect(),
            };
            net.command(host, Command::AttachPort { port: PORT, stations, limits: Limits::NONE });
            if host > 0 {
                let gateway = Member {
                    slot: Slot::GATEWAY,
                    key: net.hosts[0].key,
                    stations: vec![station(0)],
                    candidates: vec![address(0)],
                    trust: AddressTrust::Given,
                };
                net.command(host, Command::SetMember(gateway));
            }
        }
        net
    }

    fn command(&mut self, host: usize, command: Command) {
        let Host { node, heard, .. } = &mut self.hosts[host];
        let mut hands = Hands { from: address(host), heard, wire: &mut self.wire };
        node.handle_command(command, self.now, &mut hands).expect("a data plane takes it");
    }

    fn spread(&mut self) {
        for command in self.plane.sync(&self.book, &rules()) {
            self.command(0, command);
        }
    }

    fn join(&mut self, guest: usize, host: usize) -> bool {
        let number = SELLERS[host];
        let own = SellerHost { data_key: self.hosts[host].key, ..common::book::host(number) };
        let mut member = Membership::new(self.tickets[guest].clone(), own);
        let request = member.request([1; 16], Instant::ZERO);
        let seller = seller(number).id();
        let outcome = self.book.handle_join(seller, REMOTE, &request, NOW, Instant::ZERO);
        self.spread();
        outcome.joined.is_some()
    }

    fn run(&mut self) {
        while let Some((from, to, stride, bytes)) = self.wire.pop_front() {
            let Some(at) = (0..self.hosts.len()).find(|host| address(*host) == to) else {
                continue;
            };
            let Host { node, heard, .. } = &mut self.hosts[at];
            let mut hands = Hands { from: to, heard, wire: &mut self.wire };
            let via = Via { remote: from, local: None };
            let mut inbound = node.inbound();
            inbound.handle_datagrams(via, stride, &bytes, self.now, &mut hands);
            inbound.flush(&mut hands);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(100);
            for (host, Host { node, heard, .. }) in self.hosts.iter_mut().enumerate() {
                let from = address(host);
                node.tick(self.now, &mut Hands { from, heard, wire: &mut self.wire });
            }
            self.run();
        }
    }

    /// Lets a host say a frame of each guest, and returns whose the buyer heard.
    fn say_all(&mut self, host: usize) -> Vec<u16> {
        self.hosts[0].heard.clear();
        for guest in 1..=GUESTS as u16 {
            let Host { node, heard, .. } = &mut self.hosts[host];
            let mut hands = Hands { from: address(host), heard, wire: &mut self.wire };
            let bytes = frame(guest);
            let mut outbound = node.outbound();
            let frame = Frame { hdr: VnetHdr::default(), bytes: &bytes };
            outbound.handle_frame(PORT, frame, self.now, &mut hands);
            outbound.flush(&mut hands);
            drop(outbound);
            self.run();
        }
        std::mem::take(&mut self.hosts[0].heard).iter().map(|frame| frame[42].into()).collect()
    }

    fn granted(&self, host: usize) -> Vec<u16> {
        let key = self.hosts[host].key;
        let its = self.book.members().filter(|member| member.record.data_key == key);
        its.map(|member| member.record.slot.0).collect()
    }

    /// A tunnel whose other end is another member now is noticed and made anew.
    fn settle(&mut self) {
        for host in 1..SELLERS.len() {
            self.say_all(host);
        }
        self.pass(Duration::from_secs(9));
    }
}

#[test]
fn a_lease_speaks_for_its_guests_and_for_no_other() {
    let mut net = Net::new();
    assert!(net.join(0, 1) && net.join(1, 3) && net.join(2, 1));
    net.settle();
    assert_eq!(net.say_all(1), [1, 3]);
    assert_eq!(net.say_all(3), [2]);
    assert_eq!(net.say_all(2), [0; 0], "a host without a guest");
    // One is taken out: its station is refused at once, the other goes on in the same tunnel.
    net.book.evict(Slot(3), NOW).unwrap();
    net.spread();
    assert_eq!(net.say_all(1), [1]);
    assert!(!net.join(2, 1), "it does not come back");
    // The lowest slot goes, another stays: its tunnel is another's, and soon made anew.
    assert!(net.join(3, 1));
    assert_eq!(net.say_all(1), [1, 4]);
    net.book.leave(seller(1).id(), Slot(1), NOW).unwrap();
    net.spread();
    assert_eq!(net.say_all(1), [0; 0], "sealed for a member that is no more");
    net.settle();
    assert_eq!(net.say_all(1), [4]);
    assert_eq!(station(4).ipv4, Ipv4Addr::new(10, 77, 0, 13));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Wherever guests come and go, no frame is delivered that the speaker's key is not granted at
    /// that moment, and in the end all are that it is.
    #[test]
    fn no_frame_is_delivered_that_its_key_is_not_granted(
        steps in vec((0..GUESTS, 0..SELLERS.len()), 1..12),
    ) {
        let mut net = Net::new();
        for (guest, host) in steps {
            let slot = Slot(guest as u16 + 1);
            match host {
                0 => {
                    let whose = net.book.members().find(|m| m.record.slot == slot);
                    if let Some(member) = whose {
                        net.book.leave(member.record.seller, slot, NOW).unwrap();
                    }
                    net.spread();
                }
                host => drop(net.join(guest, host)),
            }
            for host in 1..SELLERS.len() {
                let granted = net.granted(host);
                let heard = net.say_all(host);
                prop_assert!(heard.iter().all(|guest| granted.contains(guest)), "{heard:?}");
            }
        }
        net.settle();
        for host in 1..SELLERS.len() {
            let granted = net.granted(host);
            prop_assert_eq!(net.say_all(host), granted);
        }
    }
}
