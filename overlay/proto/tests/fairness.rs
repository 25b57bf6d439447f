//! A gateway under more than it can do: what is left of a modest member's share when others flood.
//!
//! # Theory of operation
//! Datagrams arrive in the time of a model and wait in a receive buffer of the kernel's size, whose
//! overflow is lost. The gateway is the real one; its thread takes what waits as the shell does,
//! and the time that passes meanwhile is what each of its deeds costs, as measured on a machine of
//! two cores: reading, opening, handing to a tap, sending. The engine is of glass, and counts.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overlay_proto::control::{AddressTrust, Command, Event, Life, Limits, LocalPort, Member, Slot};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::peers::Peers;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::{Carrier, Checked, Engine, Handshaken, Load, Opened};
use overlay_proto::wire::relay::{Direction, RelayHeader};
use overlay_proto::wire::shim::{Flags, Kind, SHIM_LEN, Shim};
use vde_switch::mac::MacAddr;
use vde_switch::station::{Broadcast, Segment, Station};
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

/// What a deed takes, in nanoseconds, and how much more a byte.
const RECEIVE: u64 = 2_000;
const RECEIVE_DATAGRAM: u64 = 25;
const OPEN: u64 = 320;
const OPEN_BYTES: u64 = 2; // bytes a nanosecond
const DELIVER: u64 = 2_000;
const TRANSMIT: u64 = 3_000;
const COPY_BYTES: u64 = 5; // bytes a nanosecond, once in and once out

/// The kernel's receive buffer, in bytes as it counts them, and what it counts a datagram beside
/// its own length.
const BUFFER: usize = 4 << 20;
const BUFFERED: usize = 768;

/// Messages of one receive call, datagrams of one message, and calls of one turn.
const MESSAGES: usize = 4;
const MERGED: usize = 64;
const RECEIVES: usize = 16;

const PORT: LocalPort = LocalPort(0);
const FLOODER: u16 = 1;
const MODEST: u16 = 2;
const FAR: u16 = 3;

const SEGMENT: Segment = Segment {
    ipv4: (Ipv4Addr::new(10, 77, 0, 0), 24),
    ipv6: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64),
    mtu: 1500,
    broadcast: Broadcast::On,
};

#[derive(Debug)]
struct Glass(Arc<AtomicU64>);

impl Engine for Glass {
    fn is_ready(&self) -> bool {
        true
    }
    fn seal(&mut self, payload: &[u8], _: &mut [u8]) -> Option<usize> {
        Some(payload.len() + 32)
    }
    fn open(&mut self, datagram: &[u8], _: u64, out: &mut [u8]) -> Opened {
        self.0.fetch_add(OPEN + datagram.len() as u64 / OPEN_BYTES, Ordering::Relaxed);
        let payload = &datagram[16..datagram.len() - 16];
        if payload.first() != Some(&0x41) {
            return Opened::Refused;
        }
        out[..payload.len()].copy_from_slice(payload);
        Opened::Payload(payload.len())
    }
    fn handle_handshake(&mut self, _: IpAddr, _: &[u8], _: &mut [u8]) -> Handshaken {
        Handshaken::Refused
    }
    fn initiate(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn tick(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
}

#[derive(Debug)]
struct GlassCarrier(Arc<AtomicU64>);

impl Carrier for GlassCarrier {
    fn public(&self) -> [u8; 32] {
        [0; 32]
    }
    fn tunnel(&self, _: [u8; 32], _: u32) -> Box<dyn Engine> {
        Box::new(Glass(Arc::clone(&self.0)))
    }
    fn check(&self, _: IpAddr, _: Load, _: &[u8], _: &mut [u8]) -> Checked {
        Checked::Refused
    }
    fn knock(&self, _: &[u8]) -> Option<[u8; 32]> {
        None
    }
}

/// Counts what the gateway does, and what it costs.
struct Hands<'a> {
    costs: &'a AtomicU64,
    /// Frames delivered and datagrams handed on, by the last byte of whose they are.
    served: &'a mut [u64; 256],
}

impl Io for Hands<'_> {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.costs.fetch_add(DELIVER, Ordering::Relaxed);
        let source = parts.first().and_then(|part| part.get(11)).copied().unwrap_or(0);
        self.served[usize::from(source)] += 1;
        Delivered::Done
    }
    fn transmit(&mut self, _: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.costs.fetch_add(TRANSMIT + datagrams.len() as u64 / COPY_BYTES, Ordering::Relaxed);
        for datagram in datagrams.chunks(stride) {
            if datagram[0] == RelayHeader::FIRST {
                let from = datagram.get(5).copied().unwrap_or(0);
                self.served[usize::from(from)] += 1;
            }
        }
        Sent::Done
    }
}

struct Waiting {
    from: SocketAddr,
    bytes: Arc<[u8]>,
}

/// A member that sends one datagram again and again, every so many nanoseconds.
#[derive(Clone)]
struct Sender {
    slot: u16,
    interval: u64,
    bytes: Arc<[u8]>,
    due: u64,
}

struct Gateway {
    node: Node,
    costs: Arc<AtomicU64>,
    queue: VecDeque<Waiting>,
    queued: usize,
    lost: u64,
    served: [u64; 256],
    now: u64,
}

fn station(slot: u16) -> Station {
    let n = if slot == 0 { 2 } else { 9 + slot as u8 };
    Station {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ipv4: Ipv4Addr::new(10, 77, 0, n),
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()),
    }
}

fn address(slot: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, slot as u8], 7770))
}

/// A data message of a member's; any payload.
fn message(slot: u16, payload: &[u8]) -> Arc<[u8]> {
    // Members are set in the order of their slots, so the slot is the generation as well.
    let index = Peers::number(Slot(slot), slot.into()) << 8;
    let mut bytes = [&[4, 0, 0, 0], &index.to_le_bytes()[..], &[0; 8], payload].concat();
    bytes.extend([0; 16]);
    bytes.into()
}

/// UDP over IPv4 to the gateway's guest, or to all.
fn frame(slot: u16, as_slot: u16, group: bool, len: usize) -> Vec<u8> {
    let (from, to) = (station(slot), station(0));
    let mac = if group { MacAddr::BROADCAST } else { to.mac };
    let ipv4 = if group { Ipv4Addr::BROADCAST } else { to.ipv4 };
    let mut frame = [mac.0, from.mac.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((len as u16 - 14).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(station(as_slot).ipv4.octets());
    frame.extend(ipv4.octets());
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend((len as u16 - 34).to_be_bytes());
    frame.resize(len, 0);
    frame
}

fn carrying(slot: u16, frame: &[u8]) -> Arc<[u8]> {
    let kind = Kind::Frame { csum_offset: 0 };
    let shim = Shim { kind, flags: Flags::default(), csum_start: 0 };
    let mut payload = vec![0; SHIM_LEN + frame.len()];
    shim.emit(&mut payload, (SHIM_LEN + frame.len()) as u16);
    payload[SHIM_LEN..].copy_from_slice(frame);
    message(slot, &payload)
}

fn relayed(len: usize) -> Arc<[u8]> {
    let mut bytes = vec![0; RelayHeader::LEN + len];
    let header = RelayHeader { direction: Direction::ToMember, slot: Slot(FAR) };
    header.emit(bytes.first_chunk_mut().expect("a header's length"));
    bytes[RelayHeader::LEN] = 4;
    bytes.into()
}

impl Gateway {
    fn new() -> Self {
        let (costs, start) = (Arc::new(AtomicU64::new(0)), 1 << 45);
        let carrier = Arc::new(GlassCarrier(Arc::clone(&costs)));
        let node = Node::new(Slot::GATEWAY, carrier, Instant::from_nanos(start));
        let (queue, queued, served, now) = (VecDeque::new(), 0, [0; 256], start);
        let mut gateway = Self { node, costs, queue, queued, lost: 0, served, now };
        gateway.command(Command::Live(Life::Unlimited));
        gateway.command(Command::SetSegment(SEGMENT));
        let (stations, limits) = (vec![station(0)], Limits::NONE);
        gateway.command(Command::AttachPort { port: PORT, stations, limits });
        for slot in [FLOODER, MODEST, FAR] {
            gateway.command(Command::SetMember(Member {
                slot: Slot(slot),
                key: [slot as u8; 32],
                stations: vec![station(slot)],
                candidates: vec![address(slot)],
                trust: AddressTrust::Given,
            }));
            // Heard once, it is where it is.
            gateway.arrive(slot, &carrying(slot, &frame(slot, slot, false, 60)));
            gateway.turn(&mut []);
        }
        gateway.served = [0; 256];
        gateway
    }

    fn command(&mut self, command: Command) {
        let mut hands = Hands { costs: &self.costs, served: &mut self.served };
        let now = Instant::from_nanos(self.now);
        self.node.handle_command(command, now, &mut hands).expect("the command is valid");
    }

    fn arrive(&mut self, slot: u16, bytes: &Arc<[u8]>) {
        let size = bytes.len() + BUFFERED;
        if self.queued + size <= BUFFER {
            self.queued += size;
            self.queue.push_back(Waiting { from: address(slot), bytes: Arc::clone(bytes) });
        } else {
            self.lost += 1;
        }
    }

    /// Takes what waits as the shell does, one turn; time goes on by what it costs, and members
    /// go on sending meanwhile.
    fn turn(&mut self, senders: &mut [Sender]) {
        for _ in 0..RECEIVES {
            if self.queue.is_empty() {
                return;
            }
            self.receive();
            self.now += self.costs.swap(0, Ordering::Relaxed);
            self.fill(senders);
        }
        if std::mem::take(&mut self.lost) > 0 {
            self.node.inbound().handle_overflow();
        }
    }

    fn receive(&mut self) {
        let mut inbound = self.node.inbound();
        let mut hands = Hands { costs: &self.costs, served: &mut self.served };
        hands.costs.fetch_add(RECEIVE, Ordering::Relaxed);
        for _ in 0..MESSAGES {
            let Some(Waiting { from, bytes }) = self.queue.pop_front() else { break };
            self.queued -= bytes.len() + BUFFERED;
            let (stride, mut merged) = (bytes.len(), bytes.to_vec());
            while let Some(next) = self.queue.front()
                && next.from == from
                && next.bytes.len() == stride
                && merged.len() < MERGED.min(65_000 / stride) * stride
            {
                merged.extend_from_slice(&next.bytes);
                self.queued -= stride + BUFFERED;
                self.queue.pop_front();
            }
            let read = merged.len() as u64 / COPY_BYTES
                + (merged.len() / stride) as u64 * RECEIVE_DATAGRAM;
            hands.costs.fetch_add(read, Ordering::Relaxed);
            let via = Via { remote: from, local: None };
            let now = Instant::from_nanos(self.now);
            inbound.handle_datagrams(via, stride, &merged, now, &mut hands);
        }
        inbound.flush(&mut hands);
    }

    /// Lets what has been sent by now arrive.
    fn fill(&mut self, senders: &mut [Sender]) {
        while let Some(sender) = senders.iter_mut().min_by_key(|sender| sender.due)
            && sender.due <= self.now
        {
            sender.due += sender.interval;
            let (slot, bytes) = (sender.slot, Arc::clone(&sender.bytes));
            self.arrive(slot, &bytes);
        }
    }

    /// Lets members send for a time.
    fn run(&mut self, time: Duration, senders: &mut [Sender]) {
        let end = self.now + time.as_nanos() as u64;
        senders.iter_mut().for_each(|sender| sender.due = self.now);
        while self.now < end {
            self.fill(senders);
            self.turn(senders);
            let due = senders.iter().map(|sender| sender.due).min().expect("a sender");
            self.now = self.now.max(if self.queue.is_empty() { due } else { 0 });
        }
    }

    fn served(&self, slot: u16) -> u64 {
        self.served[usize::from(station(slot).mac.0[5])] + self.served[usize::from(slot)]
    }

    fn drops(&mut self) -> Vec<(String, u64)> {
        self.command(Command::GetStats);
        let events = std::iter::from_fn(|| self.node.poll_event());
        let stats = events.filter_map(|event| match event {
            Event::Stats(stats) => Some(stats.drops),
            _ => None,
        });
        stats.last().unwrap_or_default()
    }
}

fn sender(slot: u16, interval: u64, bytes: Arc<[u8]>) -> Sender {
    Sender { slot, interval, bytes, due: 0 }
}

/// How long everyone sends.
const TIME: Duration = Duration::from_millis(500);

/// A modest member's frames, 1400 bytes each, at 100 Mbit/s.
fn modest() -> Sender {
    sender(MODEST, 112_000, carrying(MODEST, &frame(MODEST, MODEST, false, 1400)))
}

/// What a member gets of what it sent in [`TIME`].
fn share(gateway: &Gateway, sender: &Sender) -> f64 {
    gateway.served(sender.slot) as f64 * sender.interval as f64 / TIME.as_nanos() as f64
}

#[test]
fn a_flood_of_whatever_kind_leaves_a_modest_member_nine_tenths_of_its_share() {
    for (kind, bytes) in [
        ("small frames", carrying(FLOODER, &frame(FLOODER, FLOODER, false, 60))),
        ("large frames", carrying(FLOODER, &frame(FLOODER, FLOODER, false, 1400))),
        ("spoofed frames", carrying(FLOODER, &frame(FLOODER, MODEST, false, 60))),
        ("broadcast", carrying(FLOODER, &frame(FLOODER, FLOODER, true, 60))),
        ("noise in its own tunnel", message(FLOODER, &[0; 64])),
        ("small relayed datagrams", relayed(96)),
        ("large relayed datagrams", relayed(1400)),
    ] {
        for (kpps, interval) in [(250, 4000), (500, 2000), (1000, 1000), (2000, 500)] {
            let (mut gateway, modest) = (Gateway::new(), modest());
            gateway.run(TIME, &mut [modest.clone(), sender(FLOODER, interval, bytes.clone())]);
            let kept = share(&gateway, &modest);
            eprintln!(
                "{kind} at {kpps} kpps: the modest member keeps {:.0} %, of the flood {} kpps are \
                 served; {:?}",
                100.0 * kept,
                gateway.served(FLOODER) / TIME.as_millis() as u64,
                gateway.drops(),
            );
            assert!(kept >= 0.9, "{kind} at {kpps} kpps leaves {kept}");
        }
    }
}

#[test]
fn an_index_that_is_written_into_forged_datagrams_costs_its_owner_nothing() {
    // From elsewhere, in the name of the modest member's tunnel.
    let forged = Sender { bytes: message(MODEST, &[0; 1400]), ..sender(99, 500, relayed(1)) };
    let (mut gateway, modest) = (Gateway::new(), modest());
    gateway.run(TIME, &mut [modest.clone(), forged]);
    let kept = share(&gateway, &modest);
    assert!(kept >= 0.9, "the owner keeps {kept}: {:?}", gateway.drops());
}

#[test]
fn many_floods_share_and_the_modest_among_them_are_served() {
    let flood = |slot| sender(slot, 2000, carrying(slot, &frame(slot, slot, false, 60)));
    let (mut gateway, modest) = (Gateway::new(), modest());
    gateway.run(TIME, &mut [modest.clone(), flood(FLOODER), flood(FAR)]);
    let kept = share(&gateway, &modest);
    let (one, other) = (gateway.served(FLOODER), gateway.served(FAR));
    eprintln!("beside two floods the modest member keeps {kept:.2}, they {one} and {other}");
    assert!(kept >= 0.9, "{kept}");
    assert!(one < 2 * other && other < 2 * one, "{one} and {other} frames of two equal floods");
}

#[test]
fn nobody_is_held_back_while_the_thread_keeps_up() {
    // 90 % of what it can do, by one member; then more than all of it.
    let large = carrying(FLOODER, &frame(FLOODER, FLOODER, false, 1400));
    let mut gateway = Gateway::new();
    let busy = sender(FLOODER, 3750, large.clone());
    gateway.run(TIME, &mut [busy.clone(), modest()]);
    assert!(share(&gateway, &busy) > 0.99, "{:?}", gateway.drops());
    assert_eq!(gateway.drops(), []);

    let mut gateway = Gateway::new();
    let greedy = sender(FLOODER, 2500, large);
    gateway.run(TIME, &mut [greedy.clone()]);
    let served = share(&gateway, &greedy) * 3400.0 / 2500.0;
    eprintln!("of what the thread can do, a member alone that sends more gets {served:.2}");
    assert!(served > 0.75, "{served} of it is used: {:?}", gateway.drops());
    // When the flood is over, all is as before.
    gateway.served = [0; 256];
    let before = gateway.drops();
    gateway.run(TIME, &mut [busy.clone(), modest()]);
    assert!(share(&gateway, &busy) > 0.97, "{before:?}, {:?}", gateway.drops());
}
