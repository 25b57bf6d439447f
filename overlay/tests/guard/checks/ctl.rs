//! Attacks by the control process: sockets that it opens itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use overlay::host::guard::{DNS_BURST_MAX, DNS_RATE, SYN_MAX};
use overlay_proto::dial::GIVEN_BYTES_MAX;
use socket2::{Protocol, Type};

use super::{Outcome, at_most, key, path, resolver};
use crate::attack::{INITIATION_LEN, PORT, as_ctl, dial, over_and_over, pour, send, udp_socket};
use crate::net::{Family, HOST_V4, HOST_V6, Lab};

pub(super) fn datagrams(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    lab.open("proven", family, &path(PORT, to));
    lab.open("tcp_proven", family, &key(to));
    let resolver = resolver(family);
    lab.reset();
    as_ctl(lab, || {
        let socket = udp_socket(family);
        send(&socket, over_and_over(to), INITIATION_LEN);
        send(&socket, [(lab.fresh(family), 53).into(), (resolver, 54).into()], INITIATION_LEN);
        let raw = socket2::Socket::new(
            if family == Family::V4 { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 },
            Type::RAW,
            Some(if family == Family::V4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 }),
        );
        let first = if family == Family::V4 { 8 } else { 128 };
        let raw = raw.expect("this one keeps its privileges");
        let _ = raw.send_to(&[first, 0, 0, 0, 0, 0, 0, 0], &SocketAddr::new(to.ip(), 0).into());
    });
    at_most("packets", lab.seen().packets, 0)
}

pub(super) fn syn(lab: &Lab, family: Family) -> Outcome {
    let given = SocketAddr::from((lab.fresh(family), PORT));
    lab.open("tcp_given", family, &key(given));
    let never = if family == Family::V4 { "169.254.169.254" } else { "fd00:ec2::254" };
    let never = SocketAddr::from((never.parse::<IpAddr>().expect("an address"), 80));
    for set in ["tcp_given", "tcp_proven"] {
        lab.open(set, family, &key(never));
    }
    lab.reset();
    as_ctl(lab, || {
        let others =
            [SocketAddr::new(given.ip(), PORT + 1), (lab.fresh(family), PORT).into(), never];
        let _dialled: Vec<_> = others.iter().map(|to| dial(*to)).collect();
        lab.world.run(|| thread::sleep(Duration::from_millis(20)));
    });
    at_most("SYNs", lab.seen().packets, 0)
}

pub(super) fn syn_ticket(lab: &Lab, family: Family) -> Outcome {
    // Answers nothing: a network that leads to nobody.
    let to = SocketAddr::from((lab.silent(family), PORT));
    lab.open("tcp_given", family, &key(to));
    lab.reset();
    as_ctl(lab, || drop((0..20).map(|_| dial(to)).collect::<Vec<_>>()));
    at_most("SYNs", lab.seen().syns, SYN_MAX as u64)
}

/// Listens in the world while code runs, and reads all there is for as long as the flag is set.
pub(super) fn while_listening<T: Send>(
    lab: &Lab,
    family: Family,
    code: impl FnOnce(SocketAddr, &AtomicBool) -> T + Send,
) -> T {
    let at = SocketAddr::from((lab.fresh(family), PORT));
    let listener = lab.world.run(|| TcpListener::bind(at).expect("an address of the world"));
    let (done, reads) = (AtomicBool::new(false), AtomicBool::new(true));
    listener.set_nonblocking(true).expect("set");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut streams = Vec::new();
            while !done.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("set");
                    streams.push(stream);
                }
                let mut buffer = [0; 65_536];
                for stream in streams.iter_mut().filter(|_| reads.load(Ordering::Relaxed)) {
                    while std::io::Read::read(stream, &mut buffer).is_ok_and(|len| len > 0) {}
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = code(at, &reads);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// More than TCP's headers of as much as an unproven address may get.
const TCP_BYTES_MAX: u64 = GIVEN_BYTES_MAX as u64 + SYN_MAX as u64 * 80;

pub(super) fn bytes(lab: &Lab, family: Family) -> Outcome {
    let seen = while_listening(lab, family, |to, _| {
        lab.open("tcp_given", family, &key(to));
        lab.reset();
        let _stream = as_ctl(lab, || pour(to, 1 << 20, Duration::from_millis(500)));
        lab.seen()
    });
    at_most("bytes", seen.bytes, TCP_BYTES_MAX)
}

pub(super) fn orphan(lab: &Lab, family: Family) -> Outcome {
    let seen = while_listening(lab, family, |to, _| {
        lab.open("tcp_given", family, &key(to));
        lab.reset();
        // Closed with all of it in the socket's buffer.
        as_ctl(lab, || drop(pour(to, 1 << 20, Duration::from_millis(500))));
        // Retransmissions come at 200 ms, 400 ms and so on.
        let mut bytes = 0;
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(100));
            bytes += lab.seen().bytes;
        }
        bytes
    });
    at_most("bytes", seen, TCP_BYTES_MAX)
}

pub(super) fn own_host(lab: &Lab, family: Family) -> Outcome {
    let loopback: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let own: IpAddr = if family == Family::V4 { HOST_V4.into() } else { HOST_V6.into() };
    // Even where somebody opened it.
    let listener = lab.host.run(|| TcpListener::bind((own, 0)).expect("a free port"));
    let addr = listener.local_addr().expect("bound");
    lab.open("tcp_given", family, &key(addr));
    lab.open("tcp_proven", family, &key(addr));
    lab.reset();
    as_ctl(lab, || {
        let _dialled = [dial(addr), dial((loopback, addr.port()).into())];
        send(&udp_socket(family), [(loopback, 54).into(), (loopback, 9).into()], 10);
    });
    at_most("packets", lab.looped().packets, 0)
}

pub(super) fn names(lab: &Lab, family: Family) -> Outcome {
    let resolver = resolver(family);
    lab.reset();
    let start = Instant::now();
    as_ctl(lab, || send(&udp_socket(family), over_and_over((resolver, 53).into()), 50));
    let most = u64::from(DNS_BURST_MAX) + u64::from(DNS_RATE) * (start.elapsed().as_secs() + 1);
    at_most("questions", lab.seen().packets, most)
}
