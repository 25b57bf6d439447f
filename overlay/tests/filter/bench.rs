//! A buyer's computer in a namespace: his tap, whose other end is a guest's, and an uplink.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;

use etherparse::PacketBuilder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vde_attach::tap::{Tap, TapOptions, VNET_HDR_LEN};

pub(crate) const TAP: &str = "ovl-farm";
const UPLINK: &str = "uplink0";

pub(crate) const BUYER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
pub(crate) const BUYER6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 9);
/// The buyer's other address, and a host of his LAN.
pub(crate) const HOME4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const LAN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(crate) const HOME6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Longest wait for a packet, in milliseconds; it takes microseconds.
const WAIT_MAX: u16 = 60;

/// An end of a cable of the buyer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where guests are.
    Guest,
    /// His LAN.
    Uplink,
}

pub(crate) struct Bench {
    guest: File,
    uplink: File,
}

impl Bench {
    /// Makes it in the calling thread's namespace; he forwards, as many do.
    pub(crate) fn new() -> Self {
        let open = |name: &str| -> File {
            let tap = Tap::open(&name.parse().unwrap(), TapOptions::default()).expect("a tap");
            tap.into_fd().into()
        };
        let (guest, uplink) = (open(TAP), open(UPLINK));
        sh("ip link set lo up");
        for (name, v4, v6) in [(TAP, BUYER4, BUYER6), (UPLINK, HOME4, HOME6)] {
            sh(&format!("ip link set {name} address 02:00:00:00:00:02"));
            sh(&format!("ip addr add {v4}/24 brd + dev {name}"));
            sh(&format!("ip link set {name} up"));
            sh(&format!("ip addr add {v6}/64 dev {name} nodad"));
        }
        for (name, ip) in [
            (TAP, IpAddr::from(GUEST4)),
            (TAP, GUEST6.into()),
            (UPLINK, LAN4.into()),
            (UPLINK, LAN6.into()),
        ] {
            sh(&format!("ip neigh replace {ip} lladdr 02:00:00:00:00:09 dev {name} nud permanent"));
        }
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
            net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.ovl-farm.rp_filter=0 \
            net.ipv4.conf.uplink0.rp_filter=0 net.ipv4.icmp_ratelimit=0 \
            net.ipv6.icmp.ratelimit=0");
        Self { guest, uplink }
    }

    /// Lets a frame come in, which begins with its IP header.
    pub(crate) fn put(&self, side: Side, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let to = match packet[0] >> 4 {
            4 if packet[16..20] == [10, 77, 0, 255] => [0xff; 6],
            _ => OWN,
        };
        let header = [0; VNET_HDR_LEN as usize];
        let frame = [&header[..], &to, &GUEST, &kind, packet].concat();
        let mut end = self.end(side);
        let len = end.write(&frame).expect("the tap is up");
        assert_eq!(len, frame.len());
    }

    const fn end(&self, side: Side) -> &File {
        match side {
            Side::Guest => &self.guest,
            Side::Uplink => &self.uplink,
        }
    }

    /// Returns the first packet that goes out there and that `wanted` accepts, its IP header first.
    pub(crate) fn take(&self, side: Side, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut end = self.end(side);
        let mut buffer = vec![0; 70_000];
        loop {
            match end.read(&mut buffer) {
                Ok(len) => {
                    let packet = buffer.get(VNET_HDR_LEN as usize + 14..len).unwrap_or_default();
                    if packet.len() >= 20 && wanted(packet) {
                        return Some(packet.to_vec());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
                    if poll(&mut fds, PollTimeout::from(WAIT_MAX)) == Ok(0) {
                        return None;
                    }
                }
                Err(error) => panic!("a tap cannot be read: {error}"),
            }
        }
    }

    /// Forgets what went out.
    pub(crate) fn drain(&self) {
        let mut buffer = vec![0; 70_000];
        for mut end in [&self.guest, &self.uplink] {
            while end.read(&mut buffer).is_ok() {}
        }
    }
}

/// Runs a command, which must succeed.
pub(crate) fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect("it can be run");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A packet of UDP.
pub(crate) fn udp(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 9).udp(4242, port);
            builder.write(&mut packet, b"hello").unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = PacketBuilder::ipv6(from.octets(), to.octets(), 9).udp(4242, port);
            builder.write(&mut packet, b"hello").unwrap();
        }
        _ => panic!("one family"),
    }
    packet
}
