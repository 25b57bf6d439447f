//! Frames by which a guest tries to get off its segment (E01 to E11): to every address it has heard
//! of, by every MAC address it has heard of, in every protocol.

use std::net::{IpAddr, Ipv6Addr};

use super::frames::Station;
use super::marker::{By, Row, mark};
use super::packet::*;
use super::plan::{Plan, Target, mac_text};

/// Frames that belong together: one target, one next hop.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its row.
    pub row: Row,
    /// To whom, and by whom.
    pub what: String,
    /// All its frames.
    pub frames: Vec<Vec<u8>>,
}

/// EtherType of Wake-on-LAN without IP.
const WAKE: u16 = 0x0842;
/// Source port of everything.
const PORT: u16 = 40_077;

/// Returns all attempts of a plan.
#[must_use]
pub fn escapes(plan: &Plan) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let members = plan.members.iter().map(|one| one.mac);
    let next_hops: Vec<Mac> = plan.macs.iter().copied().chain(members).chain([BROADCAST]).collect();
    for target in &plan.targets {
        let hops = if is_group(target.ip) { vec![group(target.ip)] } else { next_hops.clone() };
        for hop in hops {
            let what = format!("{} via {}", target.ip, mac_text(hop));
            let frames = to(plan, target, hop);
            attempts.push(Attempt { row: target.row, what, frames });
        }
    }
    attempts.push(wake(plan));
    attempts
}

/// Everything to one target by one next hop.
fn to(plan: &Plan, target: &Target, hop: Mac) -> Vec<Vec<u8>> {
    let mark = mark(target.row, By::Frame);
    let framed = |packet: Vec<u8>| ethernet(hop, plan.own.mac, ethertype(target.ip), &packet);
    let mut frames = Vec::new();
    for src in sources(plan, target) {
        let payload = [&mark[..], b" GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n"].concat();
        frames.push(framed(echo(src, target.ip, &payload)));
        for port in &target.ports {
            let ports = [PORT, *port];
            let datagram = udp(src, target.ip, ports, &payload);
            frames.push(framed(ip(src, target.ip, UDP, &datagram)));
            if !is_group(target.ip) {
                let segment = tcp(src, target.ip, ports, SYN, &payload);
                frames.push(framed(ip(src, target.ip, TCP, &segment)));
            }
        }
    }
    frames.extend(question(plan, target, hop, &mark));
    frames
}

/// The attacker's own address of the right kind, and some that he has no right to.
fn sources(plan: &Plan, target: &Target) -> Vec<IpAddr> {
    let Station { mac, ipv4, ipv6 } = plan.own;
    let same = |ip: &IpAddr| ip.is_ipv4() == target.ip.is_ipv4() && !is_group(*ip);
    let mut others = plan.targets.iter().map(|other| other.ip);
    let lie = others.find(|ip| same(ip) && *ip != target.ip);
    let own = match target.ip {
        IpAddr::V4(_) => ipv4.into(),
        IpAddr::V6(ip) if is_link_local(ip) => link_local(mac).into(),
        IpAddr::V6(_) => ipv6.into(),
    };
    let loopback: IpAddr = match target.ip {
        IpAddr::V4(_) => [127, 0, 0, 1].into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let loopback = (target.row == Row(*b"E07")).then_some(loopback);
    [own].into_iter().chain(lie).chain(loopback).collect()
}

/// Asks who has the address, in a way that a host with it would answer.
fn question(plan: &Plan, target: &Target, hop: Mac, mark: &[u8]) -> Option<Vec<u8>> {
    let own = plan.own;
    match target.ip {
        ip if is_group(ip) => None,
        IpAddr::V4(ip) => {
            let message = arp(1, (own.mac, own.ipv4), ([0; 6], ip));
            Some([&ethernet(hop, own.mac, ARP, &message), mark, &[0; 4]].concat())
        }
        IpAddr::V6(ip) => {
            let (src, dst) = (link_local(own.mac), solicited_node(ip));
            let options = [link_option(1, own.mac), nonce_option(mark)].concat();
            let message = icmpv6(src, dst, 135, &neighbour(0, ip, &options));
            let hop = if hop == BROADCAST { group(dst.into()) } else { hop };
            Some(ethernet(hop, own.mac, IPV6, &ipv6(src, dst, ICMPV6, 255, &message)))
        }
    }
}

/// Wakes sleeping computers of a LAN, with and without IP.
fn wake(plan: &Plan) -> Attempt {
    let row = Row(*b"E08");
    let mut frames = Vec::new();
    for mac in &plan.macs {
        let magic = [&[0xff; 6][..], &mac.repeat(16), &mark(row, By::Frame)].concat();
        frames.push(ethernet(BROADCAST, plan.own.mac, WAKE, &magic));
        frames.push(ethernet(*mac, plan.own.mac, WAKE, &magic));
        let [src, dst] = [plan.own.ipv4.into(), IpAddr::from([255; 4])];
        let packet = ip(src, dst, UDP, &udp(src, dst, [PORT, 9], &magic));
        frames.push(ethernet(BROADCAST, plan.own.mac, IPV4, &packet));
    }
    Attempt { row, what: "wake-on-LAN".to_owned(), frames }
}

/// Tells whether an address is of many: a group, or a network's broadcast address.
#[must_use]
pub fn is_group(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.octets()[3] == 255,
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

/// Tells whether an address is of one link.
#[must_use]
pub fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80 || ip.segments()[0] & 0xff0f == 0xff02
}
