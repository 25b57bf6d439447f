//! Takes one wall of a guest's confinement away, from outside, to see that the others hold.
//!
//! # Theory of operation
//! Between a guest and the world stand three things. The *missing wire*: its interface ends in a
//! namespace from which nothing leads out. The *rules* on that interface, which hand frames to the
//! data plane and to nobody else. The *policy* of the data plane's port. Root of the seller's host
//! can lay the wire and flush the rules, which is what [`lay_wire`] and [`flush_rules`] do to
//! whatever namespaces a running program holds ([`lease_namespaces`]); the policy is in a program's
//! memory, so [`Unpoliced`] puts the real namespace and rules around a data plane that has none.
//!
//! # Limits
//! A program that watches its namespace ends when it sees what was done.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vde_attach::wire::{GuestEnd, LeaseWire, WireSpec};
use vde_switch::mac::MacAddr;
use vde_switch::station::{self, Broadcast, Segment};

use super::Home;
use super::frames::Station;
use super::packet::Mac;
use super::patch::{self, Patch};
use super::plan::{self, mac_text};
use super::seats::{PLAIN, Plain, Seat, strangers};
use crate::lab::Host;
use crate::tree::{Netns, namespaces, tree};

/// The wire's end in the lease's namespace, and in the seller's.
const WIRE: [&str; 2] = ["up0", "down0"];
/// The host's address on a segment where it has none.
const HOST: (Ipv4Addr, &str) = (Ipv4Addr::new(10, 77, 0, 1), "fd3a:77::1");
/// MTU of the order.
const MTU: u16 = 1500;

/// Returns the nameless namespaces with interfaces that a running program holds.
///
/// # Errors
/// When they cannot be looked at.
pub fn lease_namespaces(root: u32) -> Result<Vec<Netns>> {
    let pids: Vec<u32> = tree(root).iter().map(|member| member.pid).collect();
    let mut found = Vec::new();
    for netns in namespaces(&pids)? {
        if !netns.interfaces()?.is_empty() {
            found.push(netns);
        }
    }
    Ok(found)
}

/// Returns the MAC addresses of everything in a namespace.
///
/// # Errors
/// When they cannot be listed.
pub fn macs(netns: &Netns) -> Result<Vec<Mac>> {
    let said = netns.must("ip -o link show")?;
    let words = said.lines().filter_map(|line| line.split("link/ether ").nth(1));
    words.map(|rest| plan::mac(rest.split(' ').next().unwrap_or_default())).collect()
}

/// Leads out of a lease's namespace into the seller's: by forwarding, or straight into the LAN's
/// bridge.
///
/// # Errors
/// When the kernel refuses.
pub fn lay_wire(netns: &Netns, seller: &Host, kind: Plain) -> Result<()> {
    let own = netns.interfaces()?;
    let [up, down] = WIRE;
    netns.must(&format!("ip link add {up} type veth peer name {down} netns {}", seller.netns()))?;
    seller.must(&format!("ip link set {down} up"))?;
    for scope in ["all", "default"].into_iter().chain(own.iter().map(String::as_str)) {
        // Names of interfaces may have dots, paths of sysctl may not.
        let scope = scope.replace('.', "/");
        netns.must(&format!(
            "sysctl -qw net.ipv6.conf.{scope}.disable_ipv6=0 net.ipv6.conf.{scope}.forwarding=1 \
             net.ipv4.conf.{scope}.rp_filter=0 net.ipv4.conf.{scope}.proxy_arp=1 \
             net.ipv4.conf.{scope}.route_localnet=1"
        ))?;
    }
    netns.must("sysctl -qw net.ipv4.ip_forward=1")?;
    netns.must("ip link set lo up")?;
    match kind {
        Plain::Routed => {
            for interface in &own {
                netns.must(&format!("ip addr add {}/24 dev {interface}", HOST.0))?;
                netns.must(&format!("ip addr add {}/64 dev {interface} nodad", HOST.1))?;
            }
            netns.must(&format!("ip addr add 10.66.0.2/24 dev {up}"))?;
            netns.must(&format!("ip addr add fd66::2/64 dev {up} nodad"))?;
            netns.must(&format!("ip link set {up} up"))?;
            netns.must("ip route add default via 10.66.0.1")?;
            netns.must("ip -6 route add default via fd66::1")?;
            seller.must(&format!("ip addr add 10.66.0.1/24 dev {down}"))?;
            seller.must(&format!("ip addr add fd66::1/64 dev {down} nodad"))?;
        }
        Plain::Bridged => {
            seller.must(&format!("ip link set {down} master br0"))?;
            netns.must("ip link add wire0 type bridge")?;
            netns.must("ip link set wire0 up")?;
            for interface in own.iter().map(String::as_str).chain([up]) {
                netns.must(&format!("ip link set {interface} master wire0"))?;
            }
            netns.must(&format!("ip link set {up} up"))?;
        }
    }
    Ok(())
}

/// Removes all packet filter rules of a namespace, as a firewall's reload does; returns them.
///
/// # Errors
/// When there were none: then nothing is proved.
pub fn flush_rules(netns: &Netns) -> Result<String> {
    let rules = netns.must("nft list ruleset")?;
    ensure!(rules.contains("table"), "there are no rules to flush");
    netns.must("nft flush ruleset")?;
    Ok(rules)
}

/// The real namespace and rules of a lease for each of two guests, and between the two a data plane
/// that lets everything pass.
#[derive(Debug)]
pub struct Unpoliced {
    /// The attacker's seat.
    pub seat: Seat,
    /// The namespaces of both leases.
    pub leases: Vec<Netns>,
    _wires: [LeaseWire; 2],
}

impl Unpoliced {
    /// Puts it together; `name` is that of the attacker's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn build(home: &mut Home, name: &str) -> Result<Self> {
        let other = strangers()[1];
        let (guest, guest_data, guest_wire, patch) = lease(home, name, PLAIN)?;
        let (member, data, wire, member_patch) = lease(home, &format!("{name}-other"), other)?;
        let between = Patch::between(guest_data, data);
        let mut seat = Seat::of_parts(PLAIN, guest, vec![patch, member_patch, between]);
        seat.add_member(&member);
        let leases = [&guest_wire, &wire].map(|wire| Netns::of(wire.netns()));
        let leases = leases.into_iter().collect::<std::io::Result<_>>()?;
        Ok(Self { seat, leases, _wires: [guest_wire, wire] })
    }
}

/// A guest's namespace with a tap, joined to the guest's end of a lease's cable.
fn lease(
    home: &mut Home,
    name: &str,
    station: Station,
) -> Result<(Host, std::os::fd::OwnedFd, LeaseWire, Patch)> {
    let guest = home.lab.guest(name)?;
    guest.must("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
    let own =
        station::Station { mac: MacAddr(station.mac), ipv4: station.ipv4, ipv6: station.ipv6 };
    let segment = Segment {
        ipv4: (Ipv4Addr::new(10, 77, 0, 0), 24),
        ipv6: (std::net::Ipv6Addr::from_bits(station.ipv6.to_bits() >> 64 << 64), 64),
        mtu: MTU,
        broadcast: Broadcast::On,
    };
    let spec = WireSpec { station: own, segment, routes: Vec::new() };
    let (mut wire, ends) = LeaseWire::open(&spec, GuestEnd::Tap).context("a lease's wire")?;
    let (theirs, data) = (ends.guest.context("a hypervisor's end")?, ends.data);
    wire.up()?;
    for fd in [&theirs, &data] {
        let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    let patch = Patch::between(theirs, patch::tap(&guest, "eth0")?);
    guest.must("ip link set lo up")?;
    guest.must(&format!("ip link set eth0 address {} mtu {MTU} up", mac_text(station.mac)))?;
    guest.must(&format!("ip addr add {}/24 dev eth0", station.ipv4))?;
    guest.must(&format!("ip addr add {}/64 dev eth0 nodad", station.ipv6))?;
    Ok((guest, data, wire, patch))
}
