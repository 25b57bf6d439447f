//! A gateway and two sellers in one thread: whole ways of frames, with real tunnels and moved time.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::control::{
    AddressTrust, Command, Event, GuestConfig, Life, Limits, LocalPort, Member, PathKind, Slot,
    Stats,
};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::Carrier as _;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use overlay_proto::wire::relay::RelayHeader;
use vde_switch::frame::Frame;
use vde_switch::mac::MacAddr;
use vde_switch::station::{Broadcast, Segment, Station};
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

const PORT: LocalPort = LocalPort(0);

const SEGMENT: Segment = Segment {
    ipv4: (Ipv4Addr::new(10, 77, 0, 0), 24),
    ipv6: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64),
    mtu: 1500,
    broadcast: Broadcast::On,
};

struct Host {
    node: Node,
    address: SocketAddr,
    tap: Vec<Vec<u8>>,
}

/// Datagrams on the way: source, destination, stride, bytes.
type Wire = VecDeque<(SocketAddr, SocketAddr, usize, Vec<u8>)>;

struct Net {
    hosts: Vec<Host>,
    wire: Wire,
    blocked: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Every datagram that was sent: source, destination, bytes.
    carried: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    now: Instant,
}

struct Hands<'a> {
    from: SocketAddr,
    tap: &'a mut Vec<Vec<u8>>,
    wire: &'a mut Wire,
}

impl Io for Hands<'_> {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.tap.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        Delivered::Done
    }
    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.wire.push_back((self.from, via.remote, stride, datagrams.to_vec()));
        Sent::Done
    }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 7770))
}

fn station(n: u8) -> Station {
    Station {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ipv4: Ipv4Addr::new(10, 77, 0, n),
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()),
    }
}

fn secret(slot: u16) -> [u8; 32] {
    [slot as u8 + 1; 32]
}

/// Where the gateway and the sellers are on the segment.
const HOST_NUMBERS: [u8; 3] = [2, 10, 11];

impl Net {
    fn new() -> Self {
        let now = Instant::from_nanos(1 << 45);
        let hosts = (0..3_u16).map(|slot| Host {
            node: Node::new(Slot(slot), Arc::new(WireGuardCarrier::new(secret(slot))), now),
            address: address(slot as u8 + 1),
            tap: Vec::new(),
        });
        let mut net = Self {
            hosts: hosts.collect(),
            wire: VecDeque::new(),
            blocked: BTreeSet::new(),
            carried: Vec::new(),
            now,
        };
        for slot in 0..3_u16 {
            let at = usize::from(slot);
            net.command(slot, Command::Live(Life::Unlimited));
            net.command(slot, Command::SetSegment(SEGMENT));
            let stations = vec![station(HOST_NUMBERS[at])];
            net.command(slot, Command::AttachPort { port: PORT, stations, limits: Limits::NONE });
            for other in (0..3_u16).filter(|other| *other != slot) {
                net.command(slot, Command::SetMember(member(other)));
            }
        }
        net
    }

    fn command(&mut self, slot: u16, command: Command) {
        let Host { node, address, tap } = &mut self.hosts[usize::from(slot)];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        node.handle_command(command, self.now, &mut hands).expect("the command is valid");
    }

    fn send(&mut self, slot: u16, frame: &[u8]) {
        let Host { node, address, tap } = &mut self.hosts[usize::from(slot)];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        let frame = Frame { hdr: VnetHdr::default(), bytes: frame };
        let mut outbound = node.outbound();
        outbound.handle_frame(PORT, frame, self.now, &mut hands);
        outbound.flush(&mut hands);
        drop(outbound);
        self.run();
    }

    /// Delivers datagrams until none is on the way.
    fn run(&mut self) {
        while let Some((from, to, stride, bytes)) = self.wire.pop_front() {
            let datagrams = bytes.chunks(stride).map(|datagram| (from, to, datagram.to_vec()));
            self.carried.extend(datagrams);
            if self.blocked.contains(&(from, to)) {
                continue;
            }
            let Some(host) = self.hosts.iter_mut().find(|host| host.address == to) else {
                continue;
            };
            let mut hands = Hands { from: to, tap: &mut host.tap, wire: &mut self.wire };
            let via = Via { remote: from, local: None };
            let mut inbound = host.node.inbound();
            inbound.handle_datagrams(via, stride, &bytes, self.now, &mut hands);
            inbound.flush(&mut hands);
        }
    }

    /// Moves time in steps of a tick.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(100);
            for Host { node, address, tap } in &mut self.hosts {
                node.tick(self.now, &mut Hands { from: *address, tap, wire: &mut self.wire });
            }
            self.run();
        }
    }

    fn join_sellers(&mut self) {
        for slot in [1, 2] {
            self.command(slot, Command::Connect(Slot::GATEWAY));
        }
        self.run();
        self.pass(Duration::from_millis(200));
    }

    fn block(&mut self, a: u8, b: u8) {
        self.blocked.insert((address(a), address(b)));
        self.blocked.insert((address(b), address(a)));
    }

    fn stats(&mut self, slot: u16) -> Stats {
        self.command(slot, Command::GetStats);
        let mut latest = None;
        while let Some(event) = self.hosts[usize::from(slot)].node.poll_event() {
            if let Event::Stats(stats) = event {
                latest = Some(stats);
            }
        }
        latest.expect("stats were asked for")
    }

    fn path(&mut self, slot: u16, to: u16) -> PathKind {
        let stats = self.stats(slot);
        stats.members.iter().find(|m| m.slot == Slot(to)).expect("a member").path
    }

    fn heard(&mut self, slot: u16) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[usize::from(slot)].tap)
    }
}

fn member(slot: u16) -> Member {
    Member {
        slot: Slot(slot),
        key: WireGuardCarrier::new(secret(slot)).public(),
        stations: vec![station(HOST_NUMBERS[usize::from(slot)])],
        candidates: vec![address(slot as u8 + 1)],
        trust: if slot == 0 { AddressTrust::Given } else { AddressTrust::Hearsay },
    }
}

/// A UDP packet between two stations, `payload_len` bytes of it payload.
fn udp(from: u8, to: u8, payload_len: usize) -> Vec<u8> {
    let (source, destination) = (station(from), station(to));
    ipv4(source, destination.mac, destination.ipv4, payload_len)
}

fn broadcast(from: u8) -> Vec<u8> {
    broadcast_of(from, 40)
}

fn broadcast_of(from: u8, payload_len: usize) -> Vec<u8> {
    ipv4(station(from), MacAddr::BROADCAST, Ipv4Addr::BROADCAST, payload_len)
}

fn ipv4(source: Station, mac: MacAddr, to: Ipv4Addr, payload_len: usize) -> Vec<u8> {
    let mut frame = [mac.0, source.mac.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((28 + payload_len) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.ipv4.octets());
    frame.extend(to.octets());
    overlay_proto::cut::sum_ipv4_header(&mut frame[14..34]);
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend(((8 + payload_len) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload_len).map(|i| i as u8));
    frame
}

#[test]
fn a_first_frame_makes_its_tunnel_and_arrives() {
    let mut net = Net::new();
    net.join_sellers();
    let frame = udp(10, 11, 100);
    net.send(1, &frame);
    assert_eq!(net.heard(2), std::slice::from_ref(&frame));
    assert_eq!(net.path(1, 2), PathKind::Direct(address(3)), "two sellers talk directly");
    let to_gateway = udp(10, 2, 100);
    net.send(1, &to_gateway);
    assert_eq!(net.heard(0), [to_gateway]);
    let clear: Vec<_> = net.carried.iter().filter(|(.., b)| contains(b, &frame[42..90])).collect();
    assert!(clear.is_empty(), "a payload was on the wire in the clear");
}

#[test]
fn a_frame_larger_than_the_path_arrives_whole() {
    let mut net = Net::new();
    net.join_sellers();
    for payload_len in [1300, 1390, 1400, 1420, 1472] {
        let frame = udp(10, 2, payload_len);
        net.send(1, &frame);
        assert_eq!(net.heard(0), [frame], "{payload_len}");
    }
    let too_large = net.carried.iter().filter(|(.., bytes)| bytes.len() > 1472);
    assert_eq!(too_large.count(), 0, "a datagram did not fit a wire of 1500 bytes");
}

#[test]
fn a_jumbo_frame_arrives_whole_over_a_wire_of_1500_bytes() {
    let mut net = Net::new();
    for slot in 0..3 {
        net.command(slot, Command::SetSegment(Segment { mtu: 9000, ..SEGMENT }));
    }
    net.join_sellers();
    let frame = udp(10, 2, 9000 - 28);
    assert_eq!(frame.len(), 9014);
    net.send(1, &frame);
    assert_eq!(net.heard(0), [frame]);
    net.send(1, &udp(10, 2, 9001 - 28));
    assert!(net.heard(0).is_empty(), "a frame beyond the order's MTU");
    assert!(net.carried.iter().all(|(.., bytes)| bytes.len() <= 1472));
}

#[test]
fn a_guest_is_served_whether_it_is_plugged_in_before_or_after() {
    let mut net = Net::new();
    net.join_sellers();
    let mut solicitation = [[0x33, 0x33, 0, 0, 0, 2], station(10).mac.0].concat();
    solicitation.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255]);
    solicitation.extend([0; 16]);
    solicitation.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).octets());
    solicitation.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    net.send(1, &solicitation);
    assert!(net.heard(1).is_empty(), "nobody serves yet");
    let serve = |port| Command::Serve { port, guest: GuestConfig::default() };
    net.command(1, serve(PORT));
    net.send(1, &solicitation);
    assert_eq!(net.heard(1).len(), 1);
    // Unplugged and plugged in again, it is served as before.
    net.command(1, Command::DetachPort(PORT));
    let (stations, limits) = (vec![station(10)], Limits::NONE);
    net.command(1, Command::AttachPort { port: PORT, stations, limits });
    net.send(1, &solicitation);
    assert_eq!(net.heard(1).len(), 1);
    assert_eq!(net.stats(1).ports[0].router_adverts, 1);
    assert!((0..3).filter(|slot| *slot != 1).all(|slot| net.heard(slot).is_empty()));

    let Host { node, address, tap } = &mut net.hosts[1];
    let mut hands = Hands { from: *address, tap, wire: &mut net.wire };
    let mut refused = |command| node.handle_command(command, net.now, &mut hands).is_err();
    assert!(refused(serve(LocalPort(64))));
    let guest = GuestConfig { hostname: "no name".to_owned(), ..GuestConfig::default() };
    assert!(refused(Command::Serve { port: PORT, guest }));
}

#[test]
fn sellers_without_a_direct_path_meet_at_the_relay_and_stay_sealed() {
    let mut net = Net::new();
    net.block(2, 3);
    net.join_sellers();
    net.send(1, &udp(10, 11, 100));
    net.pass(Duration::from_secs(1));
    assert_eq!(net.heard(2), [udp(10, 11, 100)]);
    assert_eq!(net.path(1, 2), PathKind::Relay);
    let relayed = net.carried.iter().filter(|(.., bytes)| bytes[0] == RelayHeader::FIRST);
    assert!(relayed.count() > 2);
    net.blocked.clear();
    for _ in 0..80 {
        net.pass(Duration::from_millis(100));
        net.send(1, &udp(10, 11, 100));
    }
    assert_eq!(net.path(1, 2), PathKind::Direct(address(3)), "it climbs back without help");
}

#[test]
fn a_direct_path_that_dies_is_replaced_by_the_relay_within_three_seconds() {
    let mut net = Net::new();
    net.join_sellers();
    net.send(1, &udp(10, 11, 100));
    net.send(2, &udp(11, 10, 100));
    net.heard(2);
    net.block(2, 3);
    let mut waited = Duration::ZERO;
    while net.heard(2).is_empty() {
        assert!(waited <= Duration::from_secs(3), "nothing arrived for {waited:?}");
        net.pass(Duration::from_millis(100));
        waited += Duration::from_millis(100);
        net.send(1, &udp(10, 11, 100));
    }
    assert_eq!(net.path(1, 2), PathKind::Relay);
}

#[test]
fn a_broadcast_is_heard_once_by_everyone_whatever_tunnels_are_up() {
    for direct in [false, true] {
        let mut net = Net::new();
        net.join_sellers();
        if direct {
            net.send(1, &udp(10, 11, 100));
            net.heard(2);
        }
        net.send(1, &broadcast(10));
        assert_eq!(net.heard(0), [broadcast(10)]);
        assert_eq!(net.heard(2), [broadcast(10)], "direct tunnel: {direct}");
        assert!(net.heard(1).is_empty(), "its own broadcast came back");
        net.send(0, &broadcast(2));
        assert_eq!(net.heard(1), [broadcast(2)]);
        assert_eq!(net.heard(2), [broadcast(2)]);
        if !direct {
            assert_eq!(net.path(1, 2), PathKind::None, "a broadcast made a tunnel");
        }
    }
}

#[test]
fn a_broadcast_of_any_size_is_heard_once() {
    for direct in [false, true] {
        let mut net = Net::new();
        net.join_sellers();
        if direct {
            net.send(1, &udp(10, 11, 100));
            net.heard(2);
        }
        for payload_len in [1000, 1100, 1130, 1380, 1400, 1472] {
            let frame = broadcast_of(10, payload_len);
            net.send(1, &frame);
            assert_eq!(net.heard(0), std::slice::from_ref(&frame), "{payload_len}");
            assert_eq!(net.heard(2), [frame], "{payload_len}, direct tunnel: {direct}");
        }
    }
}

#[test]
fn a_member_that_moves_is_followed_by_its_next_datagram() {
    let mut net = Net::new();
    net.join_sellers();
    net.send(1, &udp(10, 2, 100));
    net.hosts[1].address = address(99);
    net.send(1, &udp(10, 2, 100));
    assert_eq!(net.path(0, 1), PathKind::Direct(address(99)));
    net.heard(1);
    net.send(0, &udp(2, 10, 100));
    assert_eq!(net.heard(1), [udp(2, 10, 100)]);
}

#[test]
fn a_replay_from_elsewhere_moves_nobody() {
    let mut net = Net::new();
    net.join_sellers();
    net.send(1, &udp(10, 2, 100));
    let (.., old) = net.carried.iter().rfind(|(from, ..)| *from == address(2)).unwrap().clone();
    net.wire.push_back((address(66), address(1), old.len(), old));
    net.run();
    assert_eq!(net.path(0, 1), PathKind::Direct(address(2)));
}

#[test]
fn a_seller_without_filters_of_its_own_delivers_no_spoofed_frame() {
    let mut net = Net::new();
    net.join_sellers();
    net.send(1, &udp(10, 11, 100));
    for slot in 0..3 {
        net.heard(slot);
    }
    // The seller's own switch is told that its guest may be anybody.
    let stations = vec![station(10), station(77)];
    net.command(1, Command::AttachPort { port: PORT, stations, limits: Limits::NONE });
    net.send(1, &udp(77, 2, 100));
    net.send(1, &udp(77, 11, 100));
    assert!(net.heard(0).is_empty() && net.heard(2).is_empty());
    let drops = net.stats(0).drops;
    assert!(drops.iter().any(|(name, count)| name == "foreign-mac" && *count == 1), "{drops:?}");
    // The same frame from its owner's key is admitted: the check above can fail.
    net.send(1, &udp(10, 2, 100));
    assert_eq!(net.heard(0).len(), 1);
}

#[test]
fn garbage_is_dropped_counted_and_never_answered() {
    let mut net = Net::new();
    net.join_sellers();
    let before = net.stats(0).drops.iter().map(|(_, count)| count).sum::<u64>();
    let mut sent = 0;
    for first in 0..=255_u8 {
        for len in [0, 1, 4, 7, 8, 31, 32, 33, 64, 92, 148, 149, 1472, 65_507] {
            let mut bytes = vec![first; len];
            if let Some(rest) = bytes.get_mut(1..4) {
                rest.fill(0); // the reserved bytes of WireGuard's types
            }
            net.wire.push_back((address(66), address(1), len.max(1), bytes));
            sent += u64::from(len > 0);
        }
    }
    net.run();
    let answers = net.carried.iter().filter(|(_, to, _)| *to == address(66)).count();
    assert_eq!(answers, 0);
    let after = net.stats(0).drops.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(after - before, sent, "each datagram is counted once");
}

#[test]
fn an_expired_lease_carries_nothing_and_resumes_when_it_lives_again() {
    let mut net = Net::new();
    net.join_sellers();
    net.send(1, &udp(10, 2, 100));
    assert_eq!(net.heard(0).len(), 1);
    net.command(1, Command::Live(Life::Millis(5000)));
    net.pass(Duration::from_secs(4));
    net.send(1, &udp(10, 2, 100));
    assert_eq!(net.heard(0).len(), 1, "it lives for five seconds");
    net.pass(Duration::from_secs(1));
    let before = net.carried.iter().filter(|(from, ..)| *from == address(2)).count();
    net.send(1, &udp(10, 2, 100));
    net.send(1, &broadcast(10));
    net.send(0, &udp(2, 10, 100));
    net.pass(Duration::from_secs(60));
    assert!(net.heard(0).is_empty() && net.heard(1).is_empty());
    let after = net.carried.iter().filter(|(from, ..)| *from == address(2)).count();
    assert_eq!(after, before, "an expired lease sent a datagram");
    let drops = net.stats(1).drops;
    assert!(drops.iter().any(|(name, count)| name == "grant-expired" && *count >= 3), "{drops:?}");
    net.command(1, Command::Live(Life::Millis(900_000)));
    net.pass(Duration::from_secs(1));
    net.send(1, &udp(10, 2, 100));
    assert_eq!(net.heard(0).len(), 1, "it resumes by itself");
}

#[test]
fn a_stranger_cannot_use_the_relay() {
    let mut net = Net::new();
    net.join_sellers();
    let mut bytes = vec![0; 200];
    bytes[..8].copy_from_slice(&[RelayHeader::FIRST, b'o', b'v', 1, 0, 1, 0, 0]);
    let before = net.carried.len();
    net.wire.push_back((address(66), address(1), bytes.len(), bytes));
    net.run();
    assert_eq!(net.carried.len(), before + 1, "only the stranger's own datagram was carried");
    let drops = net.stats(0).drops;
    assert!(drops.contains(&("relay-stranger".to_owned(), 1)), "{drops:?}");
}

#[test]
fn a_ping_through_the_tunnel_is_answered_or_given_up() {
    let mut net = Net::new();
    net.join_sellers();
    net.command(0, Command::Ping { slot: Slot(1), id: 7 });
    net.run();
    let pongs = |net: &Net| {
        std::iter::from_fn(|| net.hosts[0].node.poll_event())
            .filter_map(|event| match event {
                Event::Pong { id, rtt_us, .. } => Some((id, rtt_us.is_some())),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(pongs(&net), [(7, true)]);
    net.block(1, 2);
    net.command(0, Command::Ping { slot: Slot(1), id: 8 });
    net.pass(Duration::from_millis(1500));
    assert_eq!(pongs(&net), [(8, false)]);
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
