//! A gateway and a seller that are what they should be, and Alice's seller, who is not: a member's
//! key and a tunnel engine, and no switch, no policy and no limits in front of it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::control::{
    AddressTrust, Command, Event, Life, Limits, LocalPort, Member, Slot, Stats,
};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::wireguard::{Identity, WireGuard, WireGuardCarrier};
use overlay_proto::tunnel::{Carrier as _, Engine as _, Handshaken};
use overlay_proto::wire::shim::{PAYLOAD_LEN_MIN, Shim};
use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

use crate::frames::*;

pub(crate) const GW: usize = 0;
pub(crate) const BOBS: usize = 1;
/// Slots: of the gateway, of Alice's seller, of Bob's.
const SLOTS: [u16; 3] = [0, 1, 2];
const ALICES_SLOT: Slot = Slot(1);
const PORT: LocalPort = LocalPort(0);

/// A frame as a guest gets it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) vnet: [u8; 12],
    pub(crate) bytes: Vec<u8>,
}

struct Host {
    slot: Slot,
    node: Node,
    address: SocketAddr,
    tap: Vec<Heard>,
    /// Alice's seller's tunnel to it.
    tunnel: WireGuard,
}

/// Datagrams on the way: source, destination, stride, bytes.
type Wire = VecDeque<(SocketAddr, SocketAddr, usize, Vec<u8>)>;

pub(crate) struct Net {
    hosts: [Host; 2],
    wire: Wire,
    pub(crate) now: Instant,
}

struct Hands<'a> {
    from: SocketAddr,
    tap: &'a mut Vec<Heard>,
    wire: &'a mut Wire,
}

impl Io for Hands<'_> {
    fn deliver(&mut self, _: LocalPort, hdr: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        let mut vnet = [0; VnetHdr::LEN];
        hdr.emit(&mut vnet);
        let bytes = parts.iter().flat_map(|part| part.to_vec()).collect();
        self.tap.push(Heard { vnet, bytes });
        Delivered::Done
    }
    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.wire.push_back((self.from, via.remote, stride, datagrams.to_vec()));
        Sent::Done
    }
}

fn address(slot: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1 + slot as u8), 7770))
}

fn secret(slot: u16) -> [u8; 32] {
    [slot as u8 + 1; 32]
}

fn public(slot: u16) -> [u8; 32] {
    WireGuardCarrier::new(secret(slot)).public()
}

fn station(slot: u16) -> Station {
    match slot {
        0 => Station { mac: MacAddr(GATEWAY), ipv4: GATEWAY4, ipv6: GATEWAY6 },
        1 => STATION,
        _ => Station { mac: MacAddr(BOB), ipv4: BOB4, ipv6: BOB6 },
    }
}

impl Net {
    /// Brings all tunnels up.
    pub(crate) fn new() -> Self {
        let now = Instant::from_nanos(1 << 45);
        let hosts = [0, 2].map(|slot| Host {
            slot: Slot(slot),
            node: Node::new(Slot(slot), Arc::new(WireGuardCarrier::new(secret(slot))), now),
            address: address(slot),
            tap: Vec::new(),
            tunnel: WireGuard::new(Identity::new(secret(1)), public(slot), slot.into()),
        });
        let mut net = Self { hosts, wire: VecDeque::new(), now };
        for at in [GW, BOBS] {
            let slot = net.hosts[at].slot.0;
            net.command(at, Command::Live(Life::Unlimited));
            net.command(at, Command::SetSegment(SEGMENT));
            let (stations, limits) = (vec![station(slot)], Limits::NONE);
            net.command(at, Command::AttachPort { port: PORT, stations, limits });
            for other in SLOTS.into_iter().filter(|other| *other != slot) {
                net.command(at, Command::SetMember(member(other)));
            }
        }
        net.command(BOBS, Command::Connect(Slot::GATEWAY));
        net.run();
        for at in [GW, BOBS] {
            net.shake_hands(at);
        }
        net
    }

    /// Makes the session between Alice's seller and a host.
    fn shake_hands(&mut self, at: usize) {
        let mut buffer = [0; 256];
        let len = self.hosts[at].tunnel.initiate(&mut buffer).expect("an initiation");
        self.datagram(at, &buffer[..len]);
        let answers: Vec<_> = std::iter::from_fn(|| self.wire.pop_front()).collect();
        let to_alice = |(_, to, stride, _): &&(_, SocketAddr, usize, _)| {
            *to == address(ALICES_SLOT.0) && *stride == 92
        };
        let (.., answer) = answers.iter().find(to_alice).expect("a response");
        let source = self.hosts[at].address.ip();
        let shaken = self.hosts[at].tunnel.handle_handshake(source, answer, &mut buffer);
        let Handshaken::Established(len) = shaken else { panic!("{shaken:?}") };
        self.datagram(at, &buffer[..len]);
        self.run();
    }

    pub(crate) fn command(&mut self, at: usize, command: Command) {
        let Host { node, address, tap, .. } = &mut self.hosts[at];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        node.handle_command(command, self.now, &mut hands).expect("the command is valid");
    }

    /// Sends from a host's own guest.
    pub(crate) fn send(&mut self, at: usize, bytes: &[u8]) {
        let Host { node, address, tap, .. } = &mut self.hosts[at];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        let frame = Frame { hdr: VnetHdr::default(), bytes };
        let mut outbound = node.outbound();
        outbound.handle_frame(PORT, frame, self.now, &mut hands);
        outbound.flush(&mut hands);
        drop(outbound);
        self.run();
    }

    /// Seals payloads as Alice's seller likes them, and lets the host have them in one turn.
    /// Whatever follows a shim is `rest`.
    pub(crate) fn inject<'a>(
        &mut self,
        at: usize,
        payloads: impl IntoIterator<Item = (Shim, &'a [u8])>,
    ) {
        let mut turn = Vec::new();
        for (shim, rest) in payloads {
            let len = shim.wire_len() + rest.len();
            let mut payload = vec![0; len.max(PAYLOAD_LEN_MIN)];
            shim.emit(&mut payload, u16::try_from(len).expect("a payload of 64 KiB"));
            payload[shim.wire_len()..len].copy_from_slice(rest);
            turn.push(self.seal(at, &payload));
        }
        self.deliver(at, &turn);
        self.run();
    }

    /// Seals bytes that are no payload of ours.
    pub(crate) fn inject_raw(&mut self, at: usize, payload: &[u8]) {
        let sealed = self.seal(at, payload);
        self.deliver(at, &[sealed]);
        self.run();
    }

    fn seal(&mut self, at: usize, payload: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; payload.len() + 256];
        let len = self.hosts[at].tunnel.seal(payload, &mut sealed).expect("a session");
        sealed.truncate(len);
        sealed
    }

    fn datagram(&mut self, at: usize, datagram: &[u8]) {
        self.deliver(at, &[datagram.to_vec()]);
    }

    fn deliver(&mut self, at: usize, turn: &[Vec<u8>]) {
        let Host { node, address: to, tap, .. } = &mut self.hosts[at];
        let mut hands = Hands { from: *to, tap, wire: &mut self.wire };
        let via = Via { remote: address(ALICES_SLOT.0), local: None };
        let mut inbound = node.inbound();
        for datagram in turn {
            inbound.handle_datagrams(via, datagram.len(), datagram, self.now, &mut hands);
        }
        inbound.flush(&mut hands);
    }

    /// Delivers datagrams between the honest until none is on the way; Alice's seller reads none.
    fn run(&mut self) {
        while let Some((from, to, stride, bytes)) = self.wire.pop_front() {
            let Some(host) = self.hosts.iter_mut().find(|host| host.address == to) else {
                continue;
            };
            let mut hands = Hands { from: to, tap: &mut host.tap, wire: &mut self.wire };
            let mut inbound = host.node.inbound();
            let via = Via { remote: from, local: None };
            inbound.handle_datagrams(via, stride, &bytes, self.now, &mut hands);
            inbound.flush(&mut hands);
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn heard(&mut self, at: usize) -> Vec<Heard> {
        std::mem::take(&mut self.hosts[at].tap)
    }

    pub(crate) fn stats(&mut self, at: usize) -> Stats {
        self.command(at, Command::GetStats);
        let events = std::iter::from_fn(|| self.hosts[at].node.poll_event());
        let stats = events.filter_map(|event| match event {
            Event::Stats(stats) => Some(stats),
            _ => None,
        });
        stats.last().expect("stats were asked for")
    }

    /// Frames that a host dropped by this name.
    pub(crate) fn dropped(&mut self, at: usize, name: &str) -> u64 {
        let drops = self.stats(at).drops;
        drops.iter().find(|(reason, _)| reason == name).map_or(0, |(_, count)| *count)
    }
}

fn member(slot: u16) -> Member {
    Member {
        slot: Slot(slot),
        key: public(slot),
        stations: vec![station(slot)],
        candidates: vec![address(slot)],
        trust: AddressTrust::Given,
    }
}
