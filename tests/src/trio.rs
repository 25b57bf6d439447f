//! A gateway and two sellers in one thread, with real tunnels and a wire that a test may handle.
//!
//! # Theory of operation
//! What a node sends waits on the [`Trio::wire`] until [`Trio::run`] delivers it; each datagram is
//! also recorded. A test takes datagrams off, changes them, repeats them, puts in its own.
//!
//! # Limits
//! Time is moved by the test for all but the engine, which reads its own clock.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::control::{
    AddressTrust, Command, Event, Life, Limits, LocalPort, Member, PathKind, Slot, Stats,
};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::wireguard::{Identity, WireGuard, WireGuardCarrier};
use overlay_proto::tunnel::{Carrier as _, Engine as _};
use vde_switch::frame::Frame;
use vde_switch::mac::MacAddr;
use vde_switch::station::{Broadcast, Segment, Station};
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

const PORT: LocalPort = LocalPort(0);

/// Where the gateway and the sellers are on the segment.
const HOST_NUMBERS: [u8; 3] = [2, 10, 11];

/// One datagram between two addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// From where.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// One of the three.
#[derive(Debug)]
pub struct Seat {
    /// Its data plane.
    pub node: Node,
    address: SocketAddr,
    tap: Vec<Vec<u8>>,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Trio {
    /// The gateway, then the sellers.
    pub seats: Vec<Seat>,
    /// Datagrams on their way.
    pub wire: VecDeque<Datagram>,
    /// Every datagram that was delivered or lost.
    pub carried: Vec<Datagram>,
    /// Pairs of addresses between which nothing passes.
    pub blocked: BTreeSet<(SocketAddr, SocketAddr)>,
    /// What time it is for all three.
    pub now: Instant,
}

struct Hands<'a> {
    from: SocketAddr,
    tap: &'a mut Vec<Vec<u8>>,
    wire: &'a mut VecDeque<Datagram>,
}

impl Io for Hands<'_> {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.tap.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        Delivered::Done
    }

    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        let (from, to) = (self.from, via.remote);
        let each = datagrams.chunks(stride).map(|bytes| Datagram { from, to, bytes: bytes.into() });
        self.wire.extend(each);
        Sent::Done
    }
}

/// Returns the underlay address of a slot; other numbers are strangers.
#[must_use]
pub fn address(slot: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, slot as u8 + 1], 7770))
}

/// Returns the secret of a slot's data plane.
#[must_use]
pub fn secret(slot: u16) -> [u8; 32] {
    [slot as u8 + 1; 32]
}

fn station(slot: u16) -> Station {
    let n = HOST_NUMBERS[usize::from(slot)];
    Station {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ipv4: Ipv4Addr::new(10, 77, 0, n),
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()),
    }
}

/// Returns a UDP frame between two slots that holds `payload`.
#[must_use]
pub fn frame(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (station(from), station(to));
    let mut frame = [to.mac.0, from.mac.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([from.ipv4.octets(), to.ipv4.octets()].concat());
    overlay_proto::cut::sum_ipv4_header(&mut frame[14..34]);
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

impl Default for Trio {
    fn default() -> Self {
        Self::new()
    }
}

impl Trio {
    /// Makes the three, each told of the others; no tunnel is up.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::from_nanos(1 << 45);
        let seats = (0..3_u16).map(|slot| Seat {
            node: Node::new(Slot(slot), Arc::new(WireGuardCarrier::new(secret(slot))), now),
            address: address(slot),
            tap: Vec::new(),
        });
        let mut trio = Self {
            seats: seats.collect(),
            wire: VecDeque::new(),
            carried: Vec::new(),
            blocked: BTreeSet::new(),
            now,
        };
        let segment = Segment {
            ipv4: (Ipv4Addr::new(10, 77, 0, 0), 24),
            ipv6: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64),
            mtu: 1500,
            broadcast: Broadcast::On,
        };
        for slot in 0..3 {
            trio.command(slot, Command::Live(Life::Unlimited));
            trio.command(slot, Command::SetSegment(segment));
            let stations = vec![station(slot)];
            trio.command(slot, Command::AttachPort { port: PORT, stations, limits: Limits::NONE });
            for other in (0..3).filter(|other| *other != slot) {
                trio.command(slot, Command::SetMember(member(other)));
            }
        }
        trio
    }

    /// Lets the sellers have tunnels to the gateway.
    #[must_use]
    pub fn joined() -> Self {
        let mut trio = Self::new();
        for slot in [1, 2] {
            trio.command(slot, Command::Connect(Slot::GATEWAY));
        }
        trio.run();
        trio.pass(Duration::from_millis(200));
        trio
    }

    /// Gives a node a command.
    ///
    /// # Panics
    /// When it refuses.
    pub fn command(&mut self, slot: u16, command: Command) {
        let Seat { node, address, tap } = &mut self.seats[usize::from(slot)];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        node.handle_command(command, self.now, &mut hands).expect("the command is valid");
    }

    /// Lets a guest send a frame; what follows waits on the wire.
    pub fn send(&mut self, slot: u16, bytes: &[u8]) {
        let Seat { node, address, tap } = &mut self.seats[usize::from(slot)];
        let mut hands = Hands { from: *address, tap, wire: &mut self.wire };
        let mut outbound = node.outbound();
        let frame = Frame { hdr: VnetHdr::default(), bytes };
        outbound.handle_frame(PORT, frame, self.now, &mut hands);
        outbound.flush(&mut hands);
    }

    /// Hands one datagram to whoever has its address; what he answers waits on the wire.
    pub fn deliver(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = &datagram;
        let seat = self.seats.iter_mut().find(|seat| seat.address == *to);
        if let Some(seat) = seat.filter(|_| !self.blocked.contains(&(*from, *to))) {
            let mut hands = Hands { from: *to, tap: &mut seat.tap, wire: &mut self.wire };
            let via = Via { remote: *from, local: None };
            let mut inbound = seat.node.inbound();
            inbound.handle_datagrams(via, bytes.len().max(1), bytes, self.now, &mut hands);
            inbound.flush(&mut hands);
        }
        self.carried.push(datagram);
    }

    /// Delivers until nothing is on its way.
    pub fn run(&mut self) {
        while let Some(datagram) = self.wire.pop_front() {
            self.deliver(datagram);
        }
    }

    /// Moves time by a tick; what is sent then waits on the wire.
    pub fn tick(&mut self) {
        self.now += Duration::from_millis(100);
        for Seat { node, address, tap } in &mut self.seats {
            node.tick(self.now, &mut Hands { from: *address, tap, wire: &mut self.wire });
        }
    }

    /// Moves time in steps of a tick, and delivers.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
            self.run();
        }
    }

    /// Lets nothing pass between two slots.
    pub fn block(&mut self, a: u16, b: u16) {
        self.blocked.extend([(address(a), address(b)), (address(b), address(a))]);
    }

    /// Returns what came out at a slot's guest since it was last asked.
    pub fn heard(&mut self, slot: u16) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.seats[usize::from(slot)].tap)
    }

    /// Returns a node's counters.
    ///
    /// # Panics
    /// When it does not tell.
    pub fn stats(&mut self, slot: u16) -> Stats {
        self.command(slot, Command::GetStats);
        let node = &self.seats[usize::from(slot)].node;
        let events = std::iter::from_fn(|| node.poll_event());
        let stats = events.filter_map(|event| match event {
            Event::Stats(stats) => Some(stats),
            _ => None,
        });
        stats.last().expect("stats were asked for")
    }

    /// Returns how one slot reaches another.
    ///
    /// # Panics
    /// When the other is no member.
    pub fn path(&mut self, slot: u16, to: u16) -> PathKind {
        let stats = self.stats(slot);
        stats.members.iter().find(|m| m.slot == Slot(to)).expect("a member").path
    }
}

fn member(slot: u16) -> Member {
    Member {
        slot: Slot(slot),
        key: WireGuardCarrier::new(secret(slot)).public(),
        stations: vec![station(slot)],
        candidates: vec![address(slot)],
        trust: if slot == 0 { AddressTrust::Given } else { AddressTrust::Hearsay },
    }
}

/// Returns a member's public key.
#[must_use]
pub fn public(slot: u16) -> [u8; 32] {
    Identity::new(secret(slot)).public()
}

/// Makes a second engine of a member's, beside the one in its node.
#[must_use]
pub fn engine(slot: u16, to: u16) -> WireGuard {
    WireGuard::new(Identity::new(secret(slot)), public(to), 77)
}

/// Makes the next initiation of an engine.
#[must_use]
pub fn initiation(engine: &mut WireGuard) -> Vec<u8> {
    let mut buffer = [0; 256];
    let len = engine.initiate(&mut buffer).expect("an engine can always knock");
    buffer[..len].to_vec()
}
