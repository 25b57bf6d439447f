//! What a guest tries, and what the buyer does with guests.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use etherparse::{IcmpEchoHeader, Icmpv4Type, IpNumber, PacketBuilder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::bench::{BUYER4, BUYER6, Bench, GUEST4, GUEST6, HOME4, HOME6, LAN4, LAN6, Side, udp};

/// One thing that is tried.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    /// Whether it is to get through.
    pub(crate) is_legal: bool,
    pub(crate) passes: fn(&Bench) -> bool,
}

const fn legal(name: &'static str, passes: fn(&Bench) -> bool) -> Probe {
    Probe { name, is_legal: true, passes }
}

const fn attack(name: &'static str, passes: fn(&Bench) -> bool) -> Probe {
    Probe { name, is_legal: false, passes }
}

/// Long enough for what takes microseconds.
const WAIT_MAX: Duration = Duration::from_millis(60);
const EXPOSED_UDP: u16 = 5000;
const EXPOSED_TCP: u16 = 80;
const TCP: u8 = 6;
const SYN_ACK: u8 = 0x12;

/// The guest's next port: each connection is one of its own.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

pub(crate) const PROBES: [Probe; 24] = [
    legal("a ping", |bench| answers_ping(bench, BUYER4)),
    legal("a ping over IPv6", |bench| {
        let ping =
            PacketBuilder::ipv6(GUEST6.octets(), BUYER6.octets(), 9).icmpv6_echo_request(1, 1);
        let mut packet = Vec::new();
        ping.write(&mut packet, b"hello").unwrap();
        bench.put(Side::Guest, &packet);
        bench.take(Side::Guest, |reply| reply[0] >> 4 == 6 && reply.get(40) == Some(&129)).is_some()
    }),
    legal("TCP to an exposed port", |bench| answers_tcp(bench, BUYER4, EXPOSED_TCP)),
    legal("UDP to an exposed port", |bench| hears(bench, GUEST4, BUYER4, EXPOSED_UDP)),
    legal("UDP over IPv6 to an exposed port", |bench| hears(bench, GUEST6, BUYER6, EXPOSED_UDP)),
    legal("broadcast to an exposed port", |bench| {
        hears(bench, GUEST4, Ipv4Addr::new(10, 77, 0, 255), EXPOSED_UDP)
    }),
    legal("the buyer connects to a guest", connects),
    legal("a guest answers the buyer by UDP", |bench| {
        let socket = UdpSocket::bind((BUYER4, 4243)).unwrap();
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        socket.send_to(b"question", (GUEST4, 4242)).unwrap();
        let asked = bench.take(Side::Guest, |packet| packet[9] == 17).is_some();
        bench.put(Side::Guest, &udp(GUEST4.into(), BUYER4.into(), 4243));
        asked && socket.recv(&mut [0; 64]).is_ok()
    }),
    legal("a guest's connection is not tracked", |bench| {
        let before = tracked();
        answers_tcp(bench, BUYER4, EXPOSED_TCP) && tracked() <= before
    }),
    legal("the buyer's connection is not tracked", |bench| {
        let before = tracked();
        connects(bench) && tracked() <= before
    }),
    attack("TCP to a port that is not exposed", |bench| answers_tcp(bench, BUYER4, 22)),
    attack("UDP to a port that is not exposed", |bench| hears(bench, GUEST4, BUYER4, 53)),
    attack("UDP over IPv6 to one", |bench| hears(bench, GUEST6, BUYER6, 53)),
    attack("an exposed port at another address of his", |bench| {
        hears(bench, GUEST4, HOME4, EXPOSED_UDP)
    }),
    attack("the same over IPv6", |bench| hears(bench, GUEST6, HOME6, EXPOSED_UDP)),
    attack("a ping of another address of his", |bench| answers_ping(bench, HOME4)),
    attack("an exposed port from a foreign address", |bench| {
        hears(bench, Ipv4Addr::new(198, 51, 100, 7), BUYER4, EXPOSED_UDP)
    }),
    attack("the same over IPv6, from his LAN's", |bench| hears(bench, LAN6, BUYER6, EXPOSED_UDP)),
    attack("ICMP that asks for the time", |bench| {
        let kind = Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0, 1, 0, 1] };
        let mut packet = Vec::new();
        let stamp = PacketBuilder::ipv4(GUEST4.octets(), BUYER4.octets(), 9).icmpv4(kind);
        stamp.write(&mut packet, &[0; 12]).unwrap();
        bench.put(Side::Guest, &packet);
        bench.take(Side::Guest, |reply| reply[9] == 1 && reply.get(20) == Some(&14)).is_some()
    }),
    attack("another protocol", |bench| {
        let gre = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(47))).unwrap();
        gre.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(GUEST4.octets(), BUYER4.octets(), 9);
        builder.write(&mut packet, IpNumber(47), &[0; 16]).unwrap();
        bench.put(Side::Guest, &packet);
        let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
        gre.recv(&mut buffer).is_ok()
    }),
    attack("his LAN, by his forwarding", |bench| {
        bench.put(Side::Guest, &udp(GUEST4.into(), LAN4.into(), 53));
        bench.take(Side::Uplink, |packet| packet[12..16] == GUEST4.octets()).is_some()
    }),
    attack("his LAN over IPv6", |bench| {
        bench.put(Side::Guest, &udp(GUEST6.into(), LAN6.into(), 53));
        bench.take(Side::Uplink, |packet| packet[8..24] == GUEST6.octets()).is_some()
    }),
    attack("a guest, from his LAN", |bench| {
        bench.put(Side::Uplink, &udp(LAN4.into(), GUEST4.into(), 53));
        bench.take(Side::Guest, |packet| packet[12..16] == LAN4.octets()).is_some()
    }),
    attack("a guest, from his LAN over IPv6", |bench| {
        bench.put(Side::Uplink, &udp(LAN6.into(), GUEST6.into(), 53));
        bench.take(Side::Guest, |packet| packet[8..24] == LAN6.octets()).is_some()
    }),
];

/// Whether a datagram arrives at a socket of the buyer's.
fn hears(bench: &Bench, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> bool {
    let socket = UdpSocket::bind(("::", port)).unwrap();
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    bench.put(Side::Guest, &udp(from.into(), to.into(), port));
    match socket.recv(&mut [0; 64]) {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

fn answers_ping(bench: &Bench, to: Ipv4Addr) -> bool {
    let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
    let mut packet = Vec::new();
    let ping = PacketBuilder::ipv4(GUEST4.octets(), to.octets(), 9).icmpv4(kind);
    ping.write(&mut packet, b"hello").unwrap();
    bench.put(Side::Guest, &packet);
    bench.take(Side::Guest, |reply| reply[9] == 1 && reply.get(20) == Some(&0)).is_some()
}

/// Whether a listener's answer comes to the guest.
fn answers_tcp(bench: &Bench, to: Ipv4Addr, port: u16) -> bool {
    let _listener = TcpListener::bind((to, port)).unwrap();
    let mut packet = Vec::new();
    let own = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    let syn = PacketBuilder::ipv4(GUEST4.octets(), to.octets(), 9).tcp(own, port, 7, 1000).syn();
    syn.write(&mut packet, &[]).unwrap();
    bench.put(Side::Guest, &packet);
    bench.take(Side::Guest, |reply| reply[9] == TCP && reply.get(33) == Some(&SYN_ACK)).is_some()
}

/// Whether the buyer's connection to a guest comes about.
fn connects(bench: &Bench) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let to = SockAddr::from(std::net::SocketAddr::from((GUEST4, 22)));
    let begun = socket.connect(&to);
    assert!(begun.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EINPROGRESS)));
    let Some(syn) = bench.take(Side::Guest, |packet| packet[9] == TCP) else { return false };
    let number = |at: usize| u32::from_be_bytes(*syn[at..].first_chunk().unwrap());
    let port = u16::from_be_bytes(*syn[20..].first_chunk().unwrap());
    let mut packet = Vec::new();
    let answer = PacketBuilder::ipv4(GUEST4.octets(), BUYER4.octets(), 9)
        .tcp(22, port, 7, 1000)
        .syn()
        .ack(number(24).wrapping_add(1));
    answer.write(&mut packet, &[]).unwrap();
    bench.put(Side::Guest, &packet);
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(WAIT_MAX).unwrap();
    poll(&mut fds, timeout) == Ok(1) && socket.peer_addr().is_ok()
}

/// How many connections the kernel tracks here.
fn tracked() -> u32 {
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.map_or(0, |count| count.trim().parse().unwrap())
}
