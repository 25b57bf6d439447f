//! A seller's host and the rest of the world, joined by one cable: two namespaces without a name.
//!
//! # Theory of operation
//! The world answers for all addresses of [`WORLD_V4`] and [`WORLD_V6`] and counts what arrives;
//! all the host's other routes lead there as well. The host's kernel cuts segments itself, as for a
//! network card that cannot, so what is counted is what would be on a wire. The namespaces go with
//! their last descriptor, whatever becomes of the test.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(44, 128, 0, 1);
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 1, 0, 0, 0, 0, 0, 1);
const WORLD_V4: Ipv4Addr = Ipv4Addr::new(44, 0, 0, 0);
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2a01, 0, 0, 0, 0, 0, 0, 0);
/// The bits that make an address of the world one that does not answer.
const SILENT_V4: u32 = 0x0040_0000;
const SILENT_V6: u128 = 1 << 96;
/// The host's network at home, and a name server behind its router.
pub(crate) const LAN: [&str; 2] = ["192.168.7.1/24", "fd00:7::1/64"];
pub(crate) const RESOLVERS: [&str; 3] = ["192.168.7.53", "2a01:53::53", "127.0.0.53"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What the world saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) syns: u64,
}

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
            Self(File::open("/proc/thread-self/ns/net").expect("it has a file"))
        };
        let netns = thread::spawn(make).join().expect("made");
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs code in it, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
            code()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs commands, one a line, which must succeed; returns what they print.
    pub(crate) fn sh(&self, commands: &str) -> String {
        let run = |line: &str| {
            let mut words = line.split_whitespace();
            let mut command = Command::new(words.next().expect("a program"));
            let output = command.args(words).output().expect("it can be run");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let lines = commands.lines().filter(|line| !line.trim().is_empty());
        self.run(|| lines.map(run).collect())
    }

    /// Runs an nft script; says whether it was taken.
    pub(crate) fn nft(&self, script: &str) -> bool {
        self.run(|| {
            let mut nft = Command::new("nft");
            nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::null());
            let mut child = nft.spawn().expect("nft");
            let mut input = child.stdin.take().expect("a pipe");
            let _ = input.write_all(script.as_bytes());
            drop(input);
            child.wait().expect("it ends").success()
        })
    }
}

/// The two of them.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) host: Netns,
    pub(crate) world: Netns,
    /// How long is waited for what must come about.
    pub(crate) patience: Duration,
    next: AtomicU32,
    begun: AtomicU32,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let (host, world) = (Netns::new(), Netns::new());
        let pid = std::process::id();
        host.sh(&format!(
            "ip link add va type veth peer name vb netns /proc/{pid}/fd/{}
             ip link set va gso_max_segs 1
             sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.va.accept_dad=0
             ip addr add {HOST_V4}/24 dev va
             ip addr add {HOST_V6}/64 dev va nodad
             ip addr add {} dev va
             ip addr add {} dev va nodad",
            world.0.as_raw_fd(),
            LAN[0],
            LAN[1],
        ));
        world.sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.vb.accept_dad=0
             ip addr add 44.128.0.2/24 dev vb
             ip addr add 2a00:1::2/64 dev vb nodad
             ip addr add 192.168.7.2/24 dev vb
             ip addr add 192.168.7.53/24 dev vb
             ip addr add fd00:7::2/64 dev vb nodad
             sysctl -qw net.ipv6.ip_nonlocal_bind=1
             ip link set vb up");
        world.sh(&format!(
            "ip route add local {WORLD_V4}/10 dev lo
             ip -6 route add local {WORLD_V6}/32 dev lo"
        ));
        host.sh("ip link set va up
             ip route add 44.63.0.0/16 dev lo
             ip -6 route add 2a01:63::/32 dev lo
             ip route add default via 44.128.0.2
             ip -6 route add default via 2a00:1::2");
        let patience = Duration::from_secs(20);
        let lab = Self { host, world, patience, next: AtomicU32::new(1), begun: AtomicU32::new(0) };
        lab.settle();
        lab.begin();
        lab
    }

    /// Waits until both ends know each other's hardware addresses, so that nothing is lost later.
    fn settle(&self) {
        for to in ["44.128.0.2", "2a00:1::2", "192.168.7.2", "fd00:7::2"] {
            self.host.sh(&format!("ping -q -c 1 -W 5 {to}"));
        }
    }

    /// Returns an address of the world that nothing was sent to before.
    pub(crate) fn fresh(&self, family: Family) -> IpAddr {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match family {
            Family::V4 => Ipv4Addr::from_bits(WORLD_V4.to_bits() + number).into(),
            Family::V6 => Ipv6Addr::from_bits(WORLD_V6.to_bits() + u128::from(number)).into(),
        }
    }

    /// Makes the world not count what is still sent to the addresses of earlier checks.
    pub(crate) fn begin(&self) {
        self.begun.store(self.next.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        self.count();
    }

    /// Makes both count, as [`Self::begin`] left it.
    pub(crate) fn count(&self) {
        let last = self.begun.load(Ordering::Relaxed);
        let v4 = |base: u32| {
            let base = WORLD_V4.to_bits() | base;
            format!("{}-{}", Ipv4Addr::from_bits(base), Ipv4Addr::from_bits(base | last))
        };
        let v6 = |base: u128| {
            let base = WORLD_V6.to_bits() | base;
            let last = Ipv6Addr::from_bits(base | u128::from(last));
            format!("{}-{last}", Ipv6Addr::from_bits(base))
        };
        let count = |iif: &str| {
            format!(
                "table inet count
                 delete table inet count
                 table inet count {{
                   counter total {{}}
                   counter syn {{}}
                   chain in {{
                     type filter hook prerouting priority -400; policy accept;
                     iifname != \"{iif}\" accept
                     icmpv6 type {{ 130-137, 143 }} accept
                     meta l4proto igmp accept
                     ip daddr {{ {}, {} }} accept
                     ip6 daddr {{ {}, {} }} accept
                     counter name total
                     tcp flags & (syn | ack) == syn counter name syn
                   }}
                 }}\n",
                v4(0),
                v4(SILENT_V4),
                v6(0),
                v6(SILENT_V6)
            )
        };
        assert!(self.world.nft(&count("vb")) && self.host.nft(&count("lo")));
    }

    /// Returns an address that nothing was sent to before, behind the world, which answers nothing,
    /// not even with a reset.
    pub(crate) fn silent(&self, family: Family) -> IpAddr {
        match self.fresh(family) {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | SILENT_V4).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | SILENT_V6).into(),
        }
    }

    /// Counts from zero.
    pub(crate) fn reset(&self) {
        let _ = (seen(&self.world), seen(&self.host));
    }

    /// Returns what the world saw since the last reset, once nothing more arrives.
    pub(crate) fn seen(&self) -> Seen {
        total(&self.world)
    }

    /// Returns what came over the host's loopback since the last reset.
    pub(crate) fn looped(&self) -> Seen {
        total(&self.host)
    }

    /// Adds an element to one of the guard's sets by hand; does nothing if there is no guard.
    pub(crate) fn open(&self, set: &str, family: Family, key: &str) {
        let v = if family == Family::V4 { 4 } else { 6 };
        self.host.nft(&format!("add element inet ovl_guard {set}{v} {{ {key} timeout 60s }}"));
    }

    /// Sends a datagram from an address of the world to the host.
    pub(crate) fn say(&self, from: SocketAddr, port: u16) {
        let to = match from {
            SocketAddr::V4(_) => SocketAddr::from((HOST_V4, port)),
            SocketAddr::V6(_) => SocketAddr::from((HOST_V6, port)),
        };
        self.world.run(|| {
            let socket = std::net::UdpSocket::bind(from).expect("an address of the world");
            socket.send_to(b"hello", to).expect("the host is on the cable")
        });
    }
}

/// Reads the counters of a namespace and sets them to zero.
fn seen(netns: &Netns) -> Seen {
    let text = netns.sh("nft reset counters table inet count");
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [packets, bytes, syns, _] = *numbers else { panic!("not two counters: {text}") };
    Seen { packets, bytes, syns }
}

fn total(netns: &Netns) -> Seen {
    let mut total = Seen::default();
    loop {
        thread::sleep(Duration::from_millis(10));
        let more = seen(netns);
        total.packets += more.packets;
        total.bytes += more.bytes;
        total.syns += more.syns;
        if more.packets == 0 {
            return total;
        }
    }
}
