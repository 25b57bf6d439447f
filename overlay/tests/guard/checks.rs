//! What must hold of the guard, each as a check that fails where it does not.
//!
//! Half of them are attacks: they see the escape where there is no guard. The others are what must
//! still work; they fail where the guard is too strict.

mod ctl;
mod legal;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::ControlMessage;
use overlay_proto::dial::{
    GIVEN_BYTES_MAX, GIVEN_PACKETS_MAX, HEARSAY_BURST_MAX, HEARSAY_PACKETS_MAX, HEARSAY_RATE,
    Reach, special_ranges,
};
use socket2::{Protocol, SockRef, Type};

use crate::attack::{
    INITIATION_LEN, MANY, PORT, as_ctl, dp_socket, marked, over_and_over, send, send_with,
    tcp_socket, try_option,
};
use crate::net::{Family, HOST_V4, HOST_V6, Lab, RESOLVERS, Seen};

/// A sentence that says what was seen, and what was to be.
pub(crate) type Outcome = Result<(), String>;

/// One check.
pub(crate) struct Check {
    /// What it is called in the catalogue of attacks, or `legal`.
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Lab, Family) -> Outcome,
    pub(crate) families: &'static [Family],
}

const fn check(id: &'static str, name: &'static str, run: fn(&Lab, Family) -> Outcome) -> Check {
    Check { id, name, run, families: &[Family::V4, Family::V6] }
}

/// All attacks.
pub(crate) const ATTACKS: [Check; 27] = [
    check("C01", "all ports of a silent victim", one_victim),
    check("C02", "10,000 endpoints", many_victims),
    check("C03", "ranges of special use", special_use),
    check("C03", "ports of other services", low_ports),
    Check {
        families: &[Family::V4],
        ..check("C03", "a broadcast address of the host's network", broadcast)
    },
    check("C05", "a victim that echoes", echo),
    check("C05", "a victim that answers like a name server", dns_echo),
    check("C06", "several leases at one victim", several_leases),
    check("G9", "datagrams longer than unproven addresses get", long),
    check("G9", "datagrams that may be fragmented", fragments),
    check("G9", "one buffer in 128 segments", segments),
    check("G9", "a ticket's address, packets", ticket_packets),
    check("G9", "a ticket's address, bytes", ticket_bytes),
    check("G9", "another port of a ticket's address", ticket_other_port),
    check("E13", "TCP and ICMP by marked sockets", other_protocols),
    check("E13", "another lease's addresses", other_lease),
    check("G2", "the host itself", own_host),
    check("G10", "a source of another", foreign_source),
    check("G10", "options that lead elsewhere", options),
    check("--lan", "beyond the host's networks", beyond_lan),
    check("E13", "ctl: UDP and ICMP", ctl::datagrams),
    check("C08", "ctl: SYN outside the ticket", ctl::syn),
    check("C08", "ctl: SYN to a ticket's address", ctl::syn_ticket),
    check("C08", "ctl: bytes to a ticket's address", ctl::bytes),
    check("C08", "ctl: a closed socket's bytes", ctl::orphan),
    check("G2", "ctl: the host itself", ctl::own_host),
    check("G9", "ctl: a flood of names", ctl::names),
];

/// All that must still work.
pub(crate) const LEGAL: [Check; 6] = [
    check("legal", "a proven peer gets everything", legal::proven),
    check("legal", "unproven ones hear the first datagrams", legal::first_datagrams),
    check("legal", "ctl: a proven address is dialled and talked to", legal::ctl_proven),
    check("legal", "ctl: names are asked for", legal::ctl_resolves),
    check("legal", "who was heard is remembered", legal::heard),
    check("legal", "other programs are left alone", legal::others),
];

fn at_most(what: &str, seen: u64, most: u64) -> Outcome {
    if seen <= most { Ok(()) } else { Err(format!("{what}: {seen} where {most} are the most")) }
}

fn at_least(what: &str, seen: u64, least: u64) -> Outcome {
    if seen >= least { Ok(()) } else { Err(format!("{what}: {seen} where {least} are due")) }
}

fn dp<T: Send>(lab: &Lab, attack: impl FnOnce(&UdpSocket) -> T + Send) -> Seen {
    lab.reset();
    lab.host.run(|| attack(&dp_socket(PORT)));
    lab.seen()
}

const HEARSAY: u64 = HEARSAY_PACKETS_MAX as u64;

/// Headers below the payload that a budget in bytes is about.
const fn headers(family: Family) -> u64 {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

fn key(addr: SocketAddr) -> String {
    format!("{} . {}", addr.ip(), addr.port())
}

fn path(port: u16, addr: SocketAddr) -> String {
    format!("{port} . {}", key(addr))
}

fn one_victim(lab: &Lab, family: Family) -> Outcome {
    let victim = lab.fresh(family);
    let ports = (1024..1024 + MANY).map(|port| SocketAddr::from((victim, port)));
    let seen = dp(lab, |socket| send(socket, ports, INITIATION_LEN));
    at_most("packets", seen.packets, HEARSAY)?;
    at_most("bytes", seen.bytes, HEARSAY * (INITIATION_LEN as u64 + headers(family)))
}

fn many_victims(lab: &Lab, family: Family) -> Outcome {
    let victims = (0..10_000_u16).map(|_| SocketAddr::from((lab.fresh(family), PORT)));
    let start = Instant::now();
    let seen = dp(lab, |socket| send(socket, victims, INITIATION_LEN));
    let seconds = start.elapsed().as_secs() + 1;
    at_most(
        "packets",
        seen.packets,
        u64::from(HEARSAY_BURST_MAX) + u64::from(HEARSAY_RATE) * seconds,
    )
}

/// Addresses of special use, in all spellings that a socket takes.
fn special_addresses(lab: &Lab, family: Family) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let ranges = special_ranges(Reach::Nowhere).chain(special_ranges(Reach::Local));
    for (net, len) in ranges.filter(|(net, _)| net.is_ipv4() == (family == Family::V4)) {
        let (first, bits) = match net {
            IpAddr::V4(net) => (u128::from(net.to_bits()), 32 - u32::from(len)),
            IpAddr::V6(net) => (net.to_bits(), 128 - u32::from(len)),
        };
        let last = first | 1_u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
        for bits in [first, first.wrapping_add(1).min(last), first + (last - first) / 2, last] {
            found.push(match family {
                Family::V4 => IpAddr::from(Ipv4Addr::from_bits(bits as u32)),
                Family::V6 => IpAddr::from(Ipv6Addr::from_bits(bits)),
            });
        }
    }
    if family == Family::V6 {
        let others = ["64:ff9b::a00:1", "4000::1", "8000::1", "::a00:1", "2002:a00:1::1", "e000::"];
        found.extend(others.map(|text| text.parse::<IpAddr>().expect("an address")));
    }
    let index = lab.host.run(|| if_nametoindex("va")).expect("the cable");
    let mut addrs: Vec<SocketAddr> = found.into_iter().map(|ip| (ip, PORT).into()).collect();
    for addr in &mut addrs {
        if let SocketAddr::V6(v6) = addr
            && (v6.ip().is_unicast_link_local() || v6.ip().is_multicast())
        {
            v6.set_scope_id(index);
        }
    }
    addrs
}

fn special_use(lab: &Lab, family: Family) -> Outcome {
    let addrs = special_addresses(lab, family);
    let sent = AtomicUsize::new(0);
    let seen = dp(lab, |socket| {
        let mut count = send(socket, addrs.iter().copied(), INITIATION_LEN);
        if family == Family::V4 {
            let plain = marked(family, Type::DGRAM, Protocol::UDP);
            plain.set_broadcast(true).expect("set");
            count += send(&plain.into(), addrs.iter().copied(), INITIATION_LEN);
        }
        sent.store(count, Ordering::Relaxed);
    });
    at_most("packets", seen.packets + lab.looped().packets, 0)?;
    at_most("datagrams that the kernel took", sent.into_inner() as u64, 0)
}

fn low_ports(lab: &Lab, family: Family) -> Outcome {
    let victim = lab.fresh(family);
    let ports = [1, 22, 53, 80, 123, 442, 444, 1023].map(|port| SocketAddr::from((victim, port)));
    let seen = dp(lab, |socket| send(socket, ports, INITIATION_LEN));
    at_most("packets", seen.packets, 0)
}

fn broadcast(lab: &Lab, family: Family) -> Outcome {
    assert_eq!(family, Family::V4, "IPv6 has none");
    let to = SocketAddr::from(([44, 128, 0, 255], PORT));
    let seen = dp(lab, |socket| send(socket, over_and_over(to), INITIATION_LEN));
    at_most("packets", seen.packets, 0)
}

/// Lets a victim answer each datagram; the answers are no proof.
fn answering(lab: &Lab, family: Family, port: u16) -> Outcome {
    let victim = SocketAddr::from((lab.fresh(family), port));
    lab.open("given", family, &path(PORT, victim));
    lab.reset();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            lab.world.run(|| {
                let socket = UdpSocket::bind(victim).expect("an address of the world");
                socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
                let mut buffer = [0; 2048];
                while !done.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..len], from);
                    }
                }
            });
        });
        lab.host.run(|| {
            let socket = dp_socket(PORT);
            for _ in 0..10 {
                send(&socket, over_and_over(victim).take(100), INITIATION_LEN);
                thread::sleep(Duration::from_millis(10));
            }
        });
        done.store(true, Ordering::Relaxed);
        echo.join().expect("the victim lives");
    });
    at_most("packets", lab.seen().packets, GIVEN_PACKETS_MAX as u64)
}

fn echo(lab: &Lab, family: Family) -> Outcome {
    answering(lab, family, PORT)
}

fn dns_echo(lab: &Lab, family: Family) -> Outcome {
    answering(lab, family, 53)
}

fn several_leases(lab: &Lab, family: Family) -> Outcome {
    let victim = SocketAddr::from((lab.fresh(family), PORT));
    lab.reset();
    lab.host.run(|| {
        for port in PORT..PORT + 10 {
            send(&dp_socket(port), over_and_over(victim).take(100), INITIATION_LEN);
        }
    });
    at_most("packets", lab.seen().packets, HEARSAY)
}

fn long(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    let seen = dp(lab, |socket| send(socket, over_and_over(to), 1233));
    at_most("packets", seen.packets, 0)
}

fn fragments(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    let seen = dp(lab, |socket| {
        if family == Family::V4 {
            let dont = libc::IP_PMTUDISC_DONT.to_ne_bytes();
            assert!(try_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &dont));
            send(socket, over_and_over(to), INITIATION_LEN);
        } else {
            // IPv6 fragments at the sender alone; what fits any path is not fragmented.
            let dont = libc::IPV6_PMTUDISC_DONT.to_ne_bytes();
            assert!(try_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &dont));
            send(socket, over_and_over(to), 1400);
        }
    });
    at_most("packets", seen.packets, 0)
}

fn segments(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    let seen = dp(lab, |socket| {
        for _ in 0..20 {
            send_with(socket, to, 120, ControlMessage::UdpGsoSegments(&2));
        }
    });
    at_most("packets", seen.packets, 0)
}

fn ticket(lab: &Lab, family: Family) -> SocketAddr {
    let addr = SocketAddr::from((lab.fresh(family), 80));
    lab.open("given", family, &path(PORT, addr));
    addr
}

fn ticket_packets(lab: &Lab, family: Family) -> Outcome {
    let to = ticket(lab, family);
    let seen = dp(lab, |socket| send(socket, over_and_over(to), INITIATION_LEN));
    at_most("packets", seen.packets, GIVEN_PACKETS_MAX as u64)
}

fn ticket_bytes(lab: &Lab, family: Family) -> Outcome {
    let to = ticket(lab, family);
    let seen = dp(lab, |socket| {
        for len in [1452, 1233, 1232] {
            send(socket, over_and_over(to), len);
        }
    });
    let payload = seen.bytes - seen.packets * headers(family);
    at_most("bytes", payload, GIVEN_BYTES_MAX as u64)
}

fn ticket_other_port(lab: &Lab, family: Family) -> Outcome {
    let mut to = ticket(lab, family);
    to.set_port(PORT);
    let seen = dp(lab, |socket| send(socket, over_and_over(to), INITIATION_LEN));
    at_most("packets", seen.packets, HEARSAY)
}

fn other_protocols(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    lab.reset();
    lab.host.run(|| {
        let tcp = marked(family, Type::STREAM, Protocol::TCP);
        let _ = tcp.connect(&to.into());
        let icmp = if family == Family::V4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let raw = marked(family, Type::RAW, icmp);
        // An echo request: type 8 of ICMP, 128 of ICMPv6.
        let first = if family == Family::V4 { 8 } else { 128 };
        let _ = raw.send_to(&[first, 0, 0, 0, 0, 0, 0, 0], &SocketAddr::new(to.ip(), 0).into());
    });
    at_most("packets", lab.seen().packets, 0)
}

fn other_lease(lab: &Lab, family: Family) -> Outcome {
    let proven = SocketAddr::from((lab.fresh(family), PORT));
    let given = SocketAddr::from((lab.fresh(family), 80));
    lab.open("proven", family, &path(PORT, proven));
    lab.open("given", family, &path(PORT, given));
    lab.reset();
    lab.host.run(|| {
        let socket = dp_socket(PORT + 1);
        send(&socket, over_and_over(given), INITIATION_LEN);
        send(&socket, over_and_over(proven), INITIATION_LEN);
    });
    at_most("packets", lab.seen().packets, HEARSAY)
}

fn own_host(lab: &Lab, family: Family) -> Outcome {
    let (own, routed): (IpAddr, IpAddr) = match family {
        Family::V4 => (HOST_V4.into(), [44, 63, 0, 1].into()),
        Family::V6 => (HOST_V6.into(), Ipv6Addr::new(0x2a01, 0x63, 0, 0, 0, 0, 0, 1).into()),
    };
    // Even where somebody opened them.
    for ip in [own, routed] {
        lab.open("proven", family, &path(PORT, (ip, 9000).into()));
    }
    let seen = dp(lab, |socket| {
        send(socket, [own, routed].map(|ip| (ip, 9000).into()), INITIATION_LEN);
    });
    at_most("packets", seen.packets + lab.looped().packets, 0)
}

fn foreign_source(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    lab.open("proven", family, &path(PORT, to));
    lab.open("tcp_proven", family, &key(to));
    let source = lab.fresh(family);
    let seen = dp(lab, |socket| match source {
        IpAddr::V4(source) => {
            // Only a privileged program can: IP_TRANSPARENT.
            let socket = marked(family, Type::DGRAM, Protocol::UDP);
            socket.set_ip_transparent_v4(true).expect("root may");
            socket.bind(&SocketAddr::from((source, PORT + 1)).into()).expect("root may");
            lab.open("proven", family, &path(PORT + 1, to));
            send(&socket.into(), [to; 5], INITIATION_LEN);
        }
        IpAddr::V6(source) => {
            assert!(try_option(
                socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_FREEBIND,
                &1_i32.to_ne_bytes()
            ));
            let source = libc::in6_addr { s6_addr: source.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            send_with(socket, to, INITIATION_LEN, ControlMessage::Ipv6PacketInfo(&info));
        }
    });
    let tcp = as_ctl(lab, || {
        let socket = tcp_socket(to);
        match source {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true).expect("root may"),
            IpAddr::V6(_) => socket.set_freebind_v6(true).expect("anyone may"),
        }
        socket.bind(&SocketAddr::new(source, 0).into()).expect("freely bound");
        let _ = socket.connect(&to.into());
        drop(socket);
        lab.seen()
    });
    at_most("packets", seen.packets + tcp.packets, 0)
}

fn options(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    lab.open("proven", family, &path(PORT, to));
    lab.open("tcp_proven", family, &key(to));
    // Record the route; and a destination option that pads.
    let route = [7, 7, 4, 0, 0, 0, 0, 0];
    let padding = [0, 0, 1, 4, 0, 0, 0, 0];
    let set = |socket: BorrowedFd<'_>| match family {
        Family::V4 => try_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &route),
        Family::V6 => try_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &padding),
    };
    let seen = dp(lab, |_| {
        let plain = UdpSocket::from(marked(family, Type::DGRAM, Protocol::UDP));
        let unspecified = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let any: SocketAddr = unspecified.parse().expect("an address");
        SockRef::from(&plain).bind(&any.into()).expect("a free port");
        let port = plain.local_addr().expect("bound").port();
        lab.open("proven", family, &path(port, to));
        assert!(set(plain.as_fd()), "root may set options");
        send(&plain, [to; 5], INITIATION_LEN);
    });
    let tcp = as_ctl(lab, || {
        let socket = tcp_socket(to);
        assert!(set(socket.as_fd()), "root may set options");
        let _ = socket.connect(&to.into());
        drop(socket);
        lab.seen()
    });
    at_most("packets", seen.packets + tcp.packets, 0)
}

fn beyond_lan(lab: &Lab, family: Family) -> Outcome {
    let (near, far, never) = match family {
        Family::V4 => ("192.168.7", "192.168.8.9", "169.254.169.254"),
        Family::V6 => ("fd00:7:", "fd00:8::9", "fd00:ec2::254"),
    };
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let near = ip(&(if family == Family::V4 { format!("{near}.9") } else { format!("{near}:9") }));
    let wide = if family == Family::V4 { "169.254.0.0/16" } else { "fd00:ec2::/32" };
    lab.open("lan", family, &format!("{PORT} . {near}"));
    lab.open("lan", family, &format!("{PORT} . {wide}"));
    lab.reset();
    lab.host.run(|| {
        let socket = dp_socket(PORT);
        send(&socket, [far, never].map(|text| (ip(text), PORT).into()), INITIATION_LEN);
        send(&dp_socket(PORT + 1), [(near, PORT).into()], INITIATION_LEN);
    });
    at_most("packets", lab.seen().packets, 0)
}

fn resolver(family: Family) -> IpAddr {
    RESOLVERS[usize::from(family == Family::V6)].parse().expect("an address")
}
