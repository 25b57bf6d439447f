//! Hosts, cables, routers and guests in network namespaces of this machine.
//!
//! # Theory of operation
//! A [`Lab`] owns namespaces whose names share a prefix that no other lab has, and a directory. All
//! that plays in it, plays in those namespaces, so there is one way to clean up: kill what runs in
//! them, delete them, remove the directory. The [`reaper`], a process of its own, does that when
//! the lab is dropped and also when its owner panics, is killed or is interrupted.
//!
//! [`Host::spawn`] runs programs in a namespace, [`Host::within`] runs code of the caller there: a
//! socket opened inside stays there and may be used anywhere.
//!
//! # Limits
//! Needs root. At most [`CABLES_MAX`] cables. Delay and reordering are not offered: the kernels we
//! test on have no netem.

pub mod capture;
mod host;
pub mod process;
mod reaper;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

pub use host::Host;
pub use reaper::reap_all;

use reaper::Reaper;

/// Most cables of a lab: one /24 of 44.128.0.0/16 each.
pub const CABLES_MAX: u8 = 250;

/// How a cable treats super-frames; the words are those of the bench lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As veth does: whole super-frames pass.
    P,
    /// Like a NIC: the sender's kernel cuts UDP into packets, the receiver's merges them.
    N,
    /// Like the poorest NIC: no segmentation, no merging.
    W,
}

/// One end of a [`Cable`].
#[derive(Clone, Debug)]
pub struct End {
    /// Interface name in its host.
    pub interface: String,
    /// IPv4 address, of a /24.
    pub ipv4: Ipv4Addr,
    /// IPv6 address, of a /64.
    pub ipv6: Ipv6Addr,
}

/// A cable between two hosts.
#[derive(Clone, Debug)]
pub struct Cable {
    /// The far end: `.2`, in the host.
    pub host: End,
    /// The near end: `.1`, in the router.
    pub router: End,
}

/// Namespaces, cables and a directory; all gone when dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    cable_count: u8,
    reaper: Reaper,
}

impl Lab {
    /// Makes an empty lab.
    ///
    /// # Errors
    /// When the caller is not root, or the system refuses a directory or process.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces and needs root: run it with sudo"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{number}-", prefix_of(std::process::id()));
        let dir = Path::new("/tmp").join(prefix.trim_end_matches('-'));
        std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let reaper = Reaper::start(&prefix, &dir)?;
        Ok(Self { prefix, dir, cable_count: 0, reaper })
    }

    /// Returns the lab's directory: state, logs and tickets go there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what the names of all its namespaces begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Adds a host: a namespace with lo up, and a directory.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        let host = self.guest(name)?;
        host.must("ip link set lo up")?;
        // IPv6 of the cables works at once, not after a second of duplicate address detection.
        host.must("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
        Ok(host)
    }

    /// Adds a guest: a namespace with nothing but lo, which is down.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn guest(&mut self, name: &str) -> Result<Host> {
        let netns = format!("{}{name}", self.prefix);
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        must(Command::new("ip").args(["netns", "add", &netns]))?;
        Ok(Host::new(name, netns, dir))
    }

    /// Adds a host that forwards IPv4 and IPv6.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn router(&mut self, name: &str) -> Result<Host> {
        let host = self.host(name)?;
        host.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        Ok(host)
    }

    /// Joins `host` to `router` by a cable of MTU 1500 with addresses of its own subnet, and makes
    /// it the host's default route.
    ///
    /// # Errors
    /// When the lab has no cable left, or the kernel refuses one.
    pub fn connect(&mut self, host: &Host, router: &Host, wire: Wire) -> Result<Cable> {
        ensure!(self.cable_count < CABLES_MAX, "a lab has at most {CABLES_MAX} cables");
        self.cable_count += 1;
        let n = self.cable_count;
        let end = |number: u8, interface: String| End {
            interface,
            ipv4: Ipv4Addr::new(44, 128, n, number),
            ipv6: Ipv6Addr::new(0x2000, 0x44, 0x128, n.into(), 0, 0, 0, number.into()),
        };
        let cable = Cable { host: end(2, format!("wan{n}")), router: end(1, format!("lan{n}")) };
        must(
            Command::new("ip")
                .args(["link", "add", &cable.host.interface, "netns", host.netns()])
                .args(["type", "veth", "peer", "name", &cable.router.interface])
                .args(["netns", router.netns()]),
        )?;
        host.plug(&cable.host, wire)?;
        router.plug(&cable.router, wire)?;
        host.must(&format!("ip route add default via {}", cable.router.ipv4))?;
        host.must(&format!("ip -6 route add default via {}", cable.router.ipv6))?;
        Ok(cable)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.reaper.reap();
    }
}

/// Returns what the prefixes of all labs of a process begin with.
#[must_use]
pub fn prefix_of(pid: u32) -> String {
    format!("ov{}-", base36(pid))
}

/// Makes `router` a NAT for what is behind it: IPv4 leaving by `uplink` gets its address there.
///
/// # Errors
/// When nft refuses the rule.
pub fn masquerade(router: &Host, uplink: &End) -> Result<()> {
    router.nft(&format!(
        "table ip lab_nat {{ chain post {{ type nat hook postrouting priority 100; \
         oifname \"{}\" masquerade; }}\n}}",
        uplink.interface
    ))
}

/// Drops so many of 1000 packets that come into `host`.
///
/// # Errors
/// When nft refuses the rule.
pub fn lose(host: &Host, per_mille: u16) -> Result<()> {
    host.nft(&format!(
        "table inet lab_loss {{ chain in {{ type filter hook prerouting priority -300; \
         iifname \"wan*\" numgen random mod 1000 < {per_mille} drop; }}\n}}"
    ))
}

/// Drops what `router` would forward between two addresses, either way.
///
/// # Errors
/// When nft refuses the rule.
pub fn block(router: &Host, a: IpAddr, b: IpAddr) -> Result<()> {
    let family = if a.is_ipv4() { "ip" } else { "ip6" };
    router.nft(&format!(
        "table {family} lab_block {{ chain between {{ type filter hook forward priority 0; \
         {family} saddr {a} {family} daddr {b} drop; \
         {family} saddr {b} {family} daddr {a} drop; }}\n}}"
    ))
}

/// Runs a command to its end.
pub(crate) fn must(command: &mut Command) -> Result<String> {
    let output = {
        let _open = reaper::gate();
        command.output().with_context(|| format!("run {command:?}"))?
    };
    if !output.status.success() {
        bail!("{command:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).expect("a remainder of 36 is a digit"));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}
