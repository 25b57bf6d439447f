//! Bytes from strangers and from guests: dropped and counted, no reply, nobody harmed.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, send};
use overlay_tests::cast::{Gateway, state_of};
use overlay_tests::inject;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, wait_reach};

const PATIENCE: Duration = Duration::from_secs(10);

/// Longest payload of a UDP datagram.
const DATAGRAM_LEN_MAX: usize = 65_507;
/// Longest frame that a tap with offloads takes.
const FRAME_LEN_MAX: usize = 65_535;

/// A small generator, so that a failure repeats.
struct Dice(u64);

impl Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = (self.0 >> 32) as u8;
        }
    }
}

/// Returns the sum of the gateway's drop counters.
fn drops(gateway: &Gateway) -> Result<u64> {
    sum_drops(&gateway.ask(&["orders", "--json"])?)
}

fn sum_drops(lines: &str) -> Result<u64> {
    let mut sum = 0;
    for line in lines.lines() {
        add_drops(&serde_json::from_str(line).context("--json")?, false, &mut sum);
    }
    Ok(sum)
}

/// Adds all numbers below any key that begins with `drop`.
fn add_drops(value: &serde_json::Value, inside: bool, sum: &mut u64) {
    if let (true, Some(number)) = (inside, value.as_u64()) {
        *sum += number;
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        add_drops(value, inside || key.starts_with("drop"), sum);
    }
    for value in value.as_array().into_iter().flatten() {
        add_drops(value, inside, sum);
    }
}

#[test]
fn datagrams_of_every_length_and_first_byte_get_no_reply() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1", "stranger"])?;
    let mut gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    let before = drops(&gateway)?;
    let capture = stage.host("stranger").capture()?;
    let socket = stage.host("stranger").within(|| UdpSocket::bind("0.0.0.0:0"))?;
    socket.connect((stage.cable("buyer").host.ipv4, 7770))?;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut bytes = vec![0; DATAGRAM_LEN_MAX];
    let mut sent = 0_u64;
    let mut shoot = |len: usize, first: u8| -> Result<()> {
        dice.fill(&mut bytes[..len.min(256)]);
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        // ICMP errors of earlier datagrams come back here; the gateway's own answers do not.
        if socket.send(&bytes[..len]).is_ok() {
            sent += 1;
        }
        if sent.is_multiple_of(64) {
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    };
    for len in 0..=1500 {
        // The messages of the protocols we speak begin with these; the rest takes turns.
        for first in [0, 1, 2, 3, 4, 0x40, 0x80, 0xc0, (len % 256) as u8] {
            shoot(len, first)?;
        }
    }
    for first in 0..=255 {
        for len in [1, 3, 4, 12, 16, 20, 31, 32, 48, 64, 92, 148, 149, 1200, 1472] {
            shoot(len, first)?;
        }
    }
    for len in (1501..=DATAGRAM_LEN_MAX).step_by(997).chain([DATAGRAM_LEN_MAX]) {
        shoot(len, 4)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    let [stranger, buyer] = ["stranger", "buyer"].map(|name| stage.cable(name).host.ipv4);
    let frames = capture.finish()?;
    let (shots, replies) =
        (frames.count_between(stranger, buyer), frames.count_between(buyer, stranger));
    ensure!(shots > 15_000 && replies == 0, "{replies} replies to {shots} datagrams");
    ensure!(gateway.process.is_running(), "the gateway is gone: {}", gateway.process.log());
    wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
    eventually("the drops are counted", PATIENCE, || Ok(drops(&gateway)? > before + sent / 2))
}

#[test]
fn frames_of_every_length_from_a_guest_harm_nobody() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let mut guest = stage.join(&gateway, "seller1", "guest1")?;
    let socket = guest.seat.within(|| inject::frame_socket("eth0"))?;
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut sent = 0;
    for len in 0..=FRAME_LEN_MAX {
        if len > 1600 && len % 251 != 0 && len != FRAME_LEN_MAX {
            continue;
        }
        for ether_type in [0x0800_u16, 0x0806, 0x86dd, 0x8100, 0x88cc, 0x05dc] {
            let mut frame = vec![0; len];
            dice.fill(&mut frame);
            for (at, byte) in (12..).zip(ether_type.to_be_bytes()) {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            sent += u32::from(shoot(&socket, &frame));
        }
        if len % 16 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ensure!(sent > 5000, "the kernel let only {sent} frames out");
    ensure!(guest.process.is_running(), "the seller is gone: {}", guest.process.log());
    ensure!(gateway.process.is_running(), "the gateway is gone: {}", gateway.process.log());
    wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
    wait_reach(&guest.seat, gateway.ipv6.into(), PATIENCE)?;
    let state = state_of(&guest.seller);
    let words = ["status", "--json", "--state", &state];
    eventually("the drops are counted", PATIENCE, || {
        let status = guest.seller.output(&stage.programs.seller, words)?;
        Ok(sum_drops(&String::from_utf8_lossy(&status.stdout))? > u64::from(sent) / 2)
    })
}

/// Sends a frame as it is, or as a super-frame when it is longer than the interface's MTU.
fn shoot(socket: &OwnedFd, frame: &[u8]) -> bool {
    let bytes = inject::with_vnet_header(frame);
    send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT).is_ok()
}
