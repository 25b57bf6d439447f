//! What a grant lets a guest send, held at its own port.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use overlay_proto::control::{Command, Event, Life, Limits, LocalPort, Slot};
use overlay_proto::node::{Node, Refused};
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use vde_switch::frame::Frame;
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

const START: Instant = Instant::from_nanos(1 << 45);
const FREE: LocalPort = LocalPort(1);
const FRAME_LEN: usize = 1514;

/// Counts the bytes that other ports got.
#[derive(Default)]
struct Taps(usize);

impl Io for Taps {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.0 += parts.iter().map(|part| part.len()).sum::<usize>();
        Delivered::Done
    }

    fn transmit(&mut self, _: Via, _: usize, _: &[u8]) -> Sent {
        Sent::Done
    }
}

/// A lease with two attachments: the guest's, limited, and another.
fn node(limits: Limits) -> Node {
    let node = Node::new(Slot(1), Arc::new(WireGuardCarrier::new([1; 32])), START);
    let attach = |port, slot, limits| {
        let stations = vec![station(slot)];
        command(&node, Command::AttachPort { port, stations, limits }).unwrap();
    };
    command(&node, Command::Live(Life::Unlimited)).unwrap();
    command(&node, Command::SetSegment(config().segment)).unwrap();
    attach(LocalPort::GUEST, 1, limits);
    attach(FREE, 2, Limits::NONE);
    node
}

fn command(node: &Node, command: Command) -> Result<(), Refused> {
    command_at(node, command, START)
}

fn command_at(node: &Node, command: Command, now: Instant) -> Result<(), Refused> {
    node.handle_command(command, now, &mut Taps::default())
}

/// Offers 10,000 frames over a second from one attachment to the other; returns the bytes through.
fn offer(node: &Node, from: u16, to: u16, now: Instant) -> usize {
    let (source, destination) = (station(from), station(to));
    let mut frame = [destination.mac.0, source.mac.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((FRAME_LEN - 14) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.ipv4.octets());
    frame.extend(destination.ipv4.octets());
    overlay_proto::cut::sum_ipv4_header(&mut frame[14..34]);
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend(((FRAME_LEN - 34) as u16).to_be_bytes());
    frame.resize(FRAME_LEN, 0);
    let port = LocalPort(from - 1);
    let mut taps = Taps::default();
    for n in 0..10_000 {
        let frame = Frame { hdr: VnetHdr::default(), bytes: &frame };
        let now = now + Duration::from_micros(n * 100);
        node.outbound().handle_frame(port, frame, now, &mut taps);
    }
    taps.0
}

fn drops(node: &Node, name: &str) -> u64 {
    command(node, Command::GetStats).unwrap();
    let Some(Event::Stats(stats)) = node.poll_event() else { panic!("no counters") };
    stats.drops.iter().find(|(reason, _)| reason == name).map_or(0, |(_, count)| *count)
}

#[test]
fn a_guest_sends_at_its_limit_and_nobody_else_is_held_back() {
    let limited = Limits { bytes_per_s: 1_000_000, frames_per_s: 0 };
    let node = node(limited);
    let through = offer(&node, 1, 2, START);
    assert!((900_000..=1_140_000).contains(&through), "{through} bytes at 1 MB/s");
    let dropped = drops(&node, "rate-limit");
    assert_eq!(dropped as usize, 10_000 - through / FRAME_LEN, "each frame has one outcome");
    assert_eq!(offer(&node, 2, 1, START), 10_000 * FRAME_LEN, "another port was held back");

    let later = START + Duration::from_secs(10);
    let limits = Limits { bytes_per_s: 0, frames_per_s: 2000 };
    command_at(&node, Command::SetLimits { port: LocalPort::GUEST, limits }, later).unwrap();
    let frames = offer(&node, 1, 2, later) / FRAME_LEN;
    assert!((2000..=2257).contains(&frames), "{frames} frames at 2000/s");
    let port = LocalPort::GUEST;
    command_at(&node, Command::SetLimits { port, limits: Limits::NONE }, later).unwrap();
    assert_eq!(offer(&node, 1, 2, later), 10_000 * FRAME_LEN, "no limit is one");
}

#[test]
fn limits_belong_to_an_attachment_and_go_with_it() {
    let limits = Limits { bytes_per_s: 1000, frames_per_s: 1 };
    let node = node(limits);
    let nowhere = Command::SetLimits { port: LocalPort(9), limits };
    assert_eq!(command(&node, nowhere), Err(Refused::Unplugged(9)));
    command(&node, Command::DetachPort(LocalPort::GUEST)).unwrap();
    let stations = vec![station(1)];
    let (port, none) = (LocalPort::GUEST, Limits::NONE);
    command(&node, Command::AttachPort { port, stations, limits: none }).unwrap();
    assert_eq!(offer(&node, 1, 2, START), 10_000 * FRAME_LEN);
}
