//! What must still work; these fail where the guard is too strict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::sys::socket::ControlMessage;
use socket2::{Protocol, Type};

use super::ctl::while_listening;
use super::{Outcome, at_least, dp, key, path, resolver, ticket};
use crate::attack::{
    MANY, PORT, as_ctl, dial, marked, over_and_over, pour, send, send_with, udp_socket,
};
use crate::net::{Family, Lab, RESOLVERS};

pub(super) fn proven(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), PORT));
    lab.open("proven", family, &path(PORT, to));
    let seen = dp(lab, |socket| send(socket, over_and_over(to), 1400));
    at_least("packets", seen.packets, MANY.into())?;
    let seen = dp(lab, |socket| {
        for _ in 0..10 {
            send_with(socket, to, 60_000, ControlMessage::UdpGsoSegments(&1200));
        }
    });
    at_least("segments", seen.packets, 500)?;
    // The same from a socket of IPv4 alone.
    let Family::V4 = family else { return Ok(()) };
    lab.open("proven", family, &path(PORT + 1, to));
    lab.reset();
    lab.host.run(|| {
        let socket = marked(family, Type::DGRAM, Protocol::UDP);
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT + 1)).into()).expect("free");
        send(&socket.into(), over_and_over(to), 1400)
    });
    at_least("packets", lab.seen().packets, MANY.into())
}

pub(super) fn first_datagrams(lab: &Lab, family: Family) -> Outcome {
    let hearsay = lab.fresh(family);
    let given = ticket(lab, family);
    let near: IpAddr = match family {
        Family::V4 => [192, 168, 7, 2].into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2).into(),
    };
    lab.open("lan", family, &format!("{PORT} . {near}"));
    let seen = dp(lab, |socket| {
        send(socket, [443, 1024, 51820].map(|port| SocketAddr::from((hearsay, port))), 1232);
        send(socket, [given; 8], 1232);
        send(socket, [(near, PORT).into(); 4], 1232);
    });
    at_least("packets", seen.packets, 3 + 8 + 4)
}

pub(super) fn ctl_proven(lab: &Lab, family: Family) -> Outcome {
    while_listening(lab, family, |to, reads| {
        lab.open("tcp_given", family, &key(to));
        lab.reset();
        let (first, _) = as_ctl(lab, || pour(to, 4000, lab.patience))
            .map_err(|error| format!("the first connection: {error}"))?;
        at_least("bytes before it is proven", lab.seen().bytes, 4000)?;
        lab.open("tcp_proven", family, &key(to));
        lab.reset();
        let dialled: Vec<_> = as_ctl(lab, || (0..20).map(|_| dial(to)).collect());
        at_least("SYNs", lab.seen().syns, 20)?;
        drop((first, dialled));
        // All of it arrives, also what is left when the socket is closed and nobody's any more.
        reads.store(false, Ordering::Relaxed);
        lab.reset();
        let poured = as_ctl(lab, || pour(to, 1 << 20, lab.patience));
        let (stream, written) = poured.map_err(|error| format!("the proven one: {error}"))?;
        at_least("bytes written", written as u64, 1 << 20)?;
        drop(stream);
        reads.store(true, Ordering::Relaxed);
        let (mut bytes, start) = (0, Instant::now());
        while bytes < 1 << 20 && start.elapsed() < lab.patience {
            bytes += lab.seen().bytes;
        }
        at_least("bytes", bytes, 1 << 20)
    })
}

pub(super) fn ctl_resolves(lab: &Lab, family: Family) -> Outcome {
    let resolver = resolver(family);
    lab.reset();
    as_ctl(lab, || {
        send(&udp_socket(family), [(resolver, 53).into(); 10], 50);
        drop(dial((resolver, 53).into()));
        let stub: IpAddr = RESOLVERS[2].parse().expect("an address");
        send(&udp_socket(Family::V4), [(stub, 53).into(); 10], 50);
    });
    at_least("questions", lab.seen().packets, 11)?;
    at_least("questions to the host's own", lab.looped().packets, 10)
}

pub(super) fn heard(lab: &Lab, family: Family) -> Outcome {
    let addr = |lab: &Lab| SocketAddr::from((lab.fresh(family), 5000));
    let (stranger, proven, awaited) = (addr(lab), addr(lab), addr(lab));
    lab.open("proven", family, &path(PORT, proven));
    lab.open("awaited", family, &path(PORT, awaited));
    lab.reset();
    for from in [stranger, proven, awaited] {
        lab.say(from, PORT);
    }
    let v = if family == Family::V4 { 4 } else { 6 };
    let list = |set: &str| {
        let command = format!("nft list set inet ovl_guard {set}{v}");
        let has = lab.host.run(|| {
            let mut words = command.split(' ');
            let nft = std::process::Command::new(words.next().expect("nft")).args(words).output();
            nft.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        });
        has.unwrap_or_default()
    };
    for (set, addr) in [("heard", stranger), ("live", proven)] {
        if !list(set).contains(&path(PORT, addr)) {
            return Err(format!("{addr} is not in {set}{v}"));
        }
    }
    if !list("awaited").contains("counter packets 1 ") {
        return Err(format!("{awaited} was not counted"));
    }
    if list("heard").contains(&path(PORT, proven)) {
        return Err("a proven one takes a stranger's place".to_owned());
    }
    Ok(())
}

pub(super) fn others(lab: &Lab, family: Family) -> Outcome {
    let to = SocketAddr::from((lab.fresh(family), 53));
    let near: IpAddr = match family {
        Family::V4 => [192, 168, 7, 2].into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2).into(),
    };
    lab.reset();
    lab.host.run(|| {
        let socket = udp_socket(family);
        send(&socket, over_and_over(to), 1400);
        send(&socket, over_and_over((near, 22).into()), 1400);
    });
    at_least("packets", lab.seen().packets, 2 * u64::from(MANY))?;
    while_listening(lab, family, |to, _| {
        // A ticket may name whom others know as well.
        lab.open("tcp_given", family, &key(to));
        lab.reset();
        let poured = lab.host.run(|| pour(to, 1 << 20, lab.patience));
        let (_stream, written) = poured.map_err(|error| format!("another's TCP: {error}"))?;
        at_least("bytes", written as u64, 1 << 20)
    })
}
