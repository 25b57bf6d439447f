//! Canaries: frames whose way through a wire proves what it lets pass.
//!
//! [`catalogue`] is the public list, made for one guest: what a decent guest says and must get
//! through, and what the attack catalogue (F: frames, E: escapes) has in store and must not, each
//! with the counter that must have seen it. [`prove()`] sends them by the guest's end and by the
//! data plane's, and watches the other.
//!
//! Left out is what the rules leave to the port policy, and F25 and F26: what a virtio-net header
//! lies about, nft does not see.

use std::net::{Ipv4Addr, Ipv6Addr};

use vde_switch::mac::MacAddr;

use crate::rules::Stop;
use crate::wire::spec::WireSpec;

mod frames;
mod prove;

use frames::*;
#[cfg(test)]
pub(crate) use prove::End;
pub use prove::{CanaryError, Proof, TapEnd, prove};
pub(crate) use prove::{PacketEnd, prove_ends};

/// One frame, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Its row of the attack catalogue, such as `F08`; `ok` for what must pass.
    pub id: &'static str,
    /// What it is.
    pub name: &'static str,
    /// Who sends it.
    pub from: Side,
    /// The virtio-net header in front of it.
    pub vnet: [u8; 12],
    /// The frame.
    pub frame: Vec<u8>,
    /// Which counter sees it; `None` if it passes.
    pub stopped: Option<Stop>,
}

/// An end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest's.
    Guest,
    /// The data plane's.
    Data,
}

/// Who is who around a guest.
struct Cast {
    mac: MacAddr,
    own4: Ipv4Addr,
    own6: Ipv6Addr,
    own_link: Ipv6Addr,
    /// Another station of the segment.
    other: MacAddr,
    other4: Ipv4Addr,
    other6: Ipv6Addr,
    other_link: Ipv6Addr,
    all4: Ipv4Addr,
    mtu: usize,
}

impl Cast {
    fn new(spec: &WireSpec) -> Self {
        let WireSpec { station, segment, .. } = spec;
        let neighbour =
            |own: u128, first: u128| if own == first + 1 { first + 2 } else { first + 1 };
        let other4 = neighbour(station.ipv4.to_bits().into(), segment.ipv4.0.to_bits().into());
        let other6 = neighbour(station.ipv6.to_bits(), segment.ipv6.0.to_bits());
        let beside = |bit: u8| {
            let mut mac = station.mac;
            mac.0[5] ^= bit;
            mac
        };
        let other = [beside(1), beside(2)].into_iter().find(|mac| mac.is_station());
        let other = other.unwrap_or(MacAddr([2, 0, 0, 0, 0, 1]));
        let link =
            |mac: MacAddr| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(mac.0[5]) | 1 << 40);
        Self {
            mac: station.mac,
            own4: station.ipv4,
            own6: station.ipv6,
            own_link: link(station.mac),
            other,
            other4: Ipv4Addr::from_bits(other4 as u32),
            other6: other6.into(),
            other_link: link(other),
            all4: segment.broadcast_ipv4(),
            mtu: segment.mtu.into(),
        }
    }

    /// A frame of the guest's.
    fn say(&self, dst: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(dst, self.mac, ethertype, payload)
    }

    fn arp(&self, op: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let dst = if op == 1 { MacAddr::BROADCAST } else { self.other };
        self.say(dst, 0x0806, &arp(op, self.mac, sender, target))
    }

    /// An IPv4 frame of the guest's, by the MAC address that suits the destination.
    fn ip4_from(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let group = dst.is_multicast() || dst.is_broadcast() || dst == self.all4;
        let mac = if group { group4(dst) } else { self.other };
        self.say(mac, 0x0800, &ip4((src, dst), protocol, 0, rest))
    }

    fn ip4(&self, dst: Ipv4Addr, protocol: u8, rest: &[u8]) -> Vec<u8> {
        self.ip4_from(self.own4, dst, protocol, rest)
    }

    fn part4(&self, protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let packet = ip4((self.own4, self.other4), protocol, fragment, rest);
        self.say(self.other, 0x0800, &packet)
    }

    fn ip6_from(&self, src: Ipv6Addr, dst: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
        let mac = if dst.is_multicast() { group6(dst) } else { self.other };
        self.say(mac, 0x86dd, &ip6((src, dst), next, rest))
    }

    fn ip6(&self, dst: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
        self.ip6_from(self.own6, dst, next, rest)
    }

    fn solicit(&self, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let known = !src.is_unspecified();
        let option = if known { link_option(1, self.mac) } else { Vec::new() };
        self.ip6_from(src, solicited_node(target), ICMPV6, &nd(135, 0, target, &option))
    }

    fn advert(&self, dst: Ipv6Addr, flags: u8, target: Ipv6Addr) -> Vec<u8> {
        self.ip6(dst, ICMPV6, &nd(136, flags, target, &link_option(2, self.mac)))
    }
}

/// Returns the canaries of a guest, what passes first.
#[must_use]
pub fn catalogue(spec: &WireSpec) -> Vec<Canary> {
    let cast = Cast::new(spec);
    let mut all = legal::guest(&cast);
    all.extend(legal::data(&cast));
    all.extend(hostile::shapes(&cast));
    all.extend(hostile::addresses(&cast));
    all.extend(hostile::protocols(&cast));
    all.extend(hostile::neighbours(&cast));
    all.extend(hostile::data(&cast));
    all.extend(hostile::escapes(&cast, spec));
    all
}

mod hostile;
mod legal;
