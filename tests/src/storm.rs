//! A guest that sends as fast as it can, and what becomes of the others meanwhile.
//!
//! # Theory of operation
//! [`Scene`] is a buyer with two orders and a seller's host that serves three guests: the stormer
//! and a second of the same order, and one of the other order. The seller's host tracks connections
//! as hosts with docker do. [`Scene::weather`] measures how much of a steady flow of each of the
//! other two arrives, and how fast one bulk flow is, first in calm and then in a storm; and what
//! the storm leaves behind in memory and in the connection table.
//!
//! # Limits
//! The stormer's own processor time is taken from the same machine, as a guest's is. A storm ends
//! by itself after [`STORM_MAX`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, send};

use crate::cast::{Gateway, Guest};
use crate::home::frames::Station;
use crate::home::mac_of;
use crate::home::packet::*;
use crate::home::seats::buyer_of;
use crate::lab::{Host, Wire, masquerade};
use crate::stage::Stage;
use crate::sys;
use crate::traffic::{ping, wait_reach};
use crate::tree::sysctl;
use crate::vitals::Vitals;

/// Longest storm, if nobody stops it.
pub const STORM_MAX: Duration = Duration::from_secs(120);
/// Datagrams a second of a steady flow, and the payload of each: 8 Mbit/s.
const STEADY: (u32, usize) = (1000, 1000);
/// The port that both orders expose.
const PORT: u16 = 5001;
/// Longest wait of one read, write or connect.
const STALL_MAX: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames of 64 bytes, checksum included, to the buyer.
    Small,
    /// Broadcasts.
    Broadcast,
    /// Frames of which each has another source MAC address.
    Macs,
    /// ARP, neighbour and router solicitations, DHCP, DHCPv6.
    Questions,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Small, Self::Broadcast, Self::Macs, Self::Questions];

    /// Returns frames to be sent again and again, and where the source MAC address is counted up.
    fn frames(self, own: Station, to: Station) -> Vec<Vec<u8>> {
        let four = |dst: Ipv4Addr, ports, payload: &[u8]| {
            let (src, dst) = (own.ipv4.into(), IpAddr::from(dst));
            ip(src, dst, UDP, &udp(src, dst, ports, payload))
        };
        let small = ethernet(to.mac, own.mac, IPV4, &four(to.ipv4, [9, PORT], &[7; 18]));
        match self {
            Self::Small | Self::Macs => vec![small],
            Self::Broadcast => {
                let packet = four(Ipv4Addr::BROADCAST, [9, 9], &[7; 18]);
                vec![ethernet(BROADCAST, own.mac, IPV4, &packet)]
            }
            Self::Questions => questions(own),
        }
    }
}

fn questions(own: Station) -> Vec<Vec<u8>> {
    let link = link_local(own.mac);
    let mut frames = Vec::new();
    for n in 0..64 {
        let [a, b, c, _] = own.ipv4.octets();
        let target = Ipv4Addr::new(a, b, c, n * 4);
        let message = arp(1, (own.mac, own.ipv4), ([0; 6], target));
        frames.push(ethernet(BROADCAST, own.mac, ARP, &[&message[..], &[0; 18]].concat()));
        let prefix = u128::from(own.ipv6) & !0xffff;
        let target = Ipv6Addr::from(prefix | u128::from(n) << 4);
        let group6 = solicited_node(target);
        let rest = neighbour(0, target, &link_option(1, own.mac));
        let packet = ipv6(own.ipv6, group6, ICMPV6, 255, &icmpv6(own.ipv6, group6, 135, &rest));
        frames.push(ethernet(group(group6.into()), own.mac, IPV6, &packet));
    }
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let packet = ipv6(link, routers, ICMPV6, 255, &icmpv6(link, routers, 133, &[0; 4]));
    frames.push(ethernet(group(routers.into()), own.mac, IPV6, &packet));
    let zero = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let all = IpAddr::from(Ipv4Addr::BROADCAST);
    let mut discover = vec![1, 1, 6, 0, 0, 0, 0, 7];
    discover.extend([0; 20]);
    discover.extend(own.mac);
    discover.extend([0; 202]);
    discover.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    let packet = ip(zero, all, UDP, &udp(zero, all, [68, 67], &discover));
    frames.push(ethernet(BROADCAST, own.mac, IPV4, &packet));
    let agents = IpAddr::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2));
    let solicit = [&[1, 0, 0, 7, 0, 1, 0, 10, 0, 3, 0, 1][..], &own.mac, &[0, 8, 0, 2, 0, 0]];
    let message = udp(link.into(), agents, [546, 547], &solicit.concat());
    let packet = ip(link.into(), agents, UDP, &message);
    frames.push(ethernet(group(agents), own.mac, IPV6, &packet));
    frames
}

/// A storm that is under way; ends when dropped.
#[derive(Debug)]
pub struct Storm {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, Duration)>>,
}

impl Storm {
    /// Starts to send from a guest's namespace.
    ///
    /// # Errors
    /// When it has no eth0.
    pub fn start(guest: &Host, own: Station, to: Station, kind: Kind) -> Result<Self> {
        let socket = guest.within(|| {
            let index = nix::net::if_::if_nametoindex("eth0")?.cast_signed();
            sys::packet_socket(index, 1 << 20, Duration::from_millis(1))
        });
        let socket = socket.context("a stormer's socket")?;
        let mut frames = kind.frames(own, to);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (started, mut sent) = (Instant::now(), 0_u64);
            while !stopped.load(Ordering::Relaxed) && started.elapsed() < STORM_MAX {
                for frame in &mut frames {
                    if kind == Kind::Macs {
                        let [.., a, b, c] = sent.to_be_bytes();
                        frame[6..12].copy_from_slice(&[2, 0xee, 0, a, b, c]);
                    }
                    // A full queue loses frames: the next follows at once.
                    sent += u64::from(send(socket.as_raw_fd(), frame, MsgFlags::empty()).is_ok());
                }
            }
            (sent, started.elapsed())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and returns how many frames left the guest a second.
    #[must_use]
    pub fn stop(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, took) = self.thread.take().and_then(|t| t.join().ok()).unwrap_or_default();
        sent as f64 / took.as_secs_f64().max(1e-3)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the other guests have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flows {
    /// How much of the steady flow of the second guest of the order arrives: 1 is all.
    pub same_order: f64,
    /// And of that of the other order's guest.
    pub other_order: f64,
    /// Bits a second of one bulk flow of the second guest.
    pub bulk: f64,
    /// The slowest round trip to the second guest but one in a hundred, in milliseconds.
    pub p99_ms: f64,
}

/// What a storm did.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Which one.
    pub kind: Kind,
    /// Frames a second that left the guest.
    pub rate: f64,
    /// Without it.
    pub calm: Flows,
    /// With it.
    pub storm: Flows,
    /// What it added to the memory of all programs together, in bytes.
    pub grown_len: i64,
    /// Entries of the seller's connection table for what is inside the segments; none if the kernel
    /// tracks no connections.
    pub tracked: Option<usize>,
}

impl Weather {
    /// Returns the shares that the other guests keep of what they had in calm: that of the same
    /// order, and that of the other.
    #[must_use]
    pub fn shares(&self) -> [f64; 2] {
        let of = |storm: f64, calm: f64| if calm > 0.0 { storm / calm } else { 0.0 };
        [
            of(self.storm.same_order, self.calm.same_order),
            of(self.storm.other_order, self.calm.other_order),
        ]
    }

    /// Says it in a line.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { kind, rate, calm, storm, grown_len, tracked } = self;
        let percent = |storm: f64, calm: f64| 100.0 * storm / calm.max(1e-9);
        format!(
            "{kind:?}: {:.0} frames/s; others keep {:.1} % (same order) and {:.1} % (other order) \
             of a steady flow, {:.0} % of a bulk flow of {:.2} Gbit/s; ping p99 {:.1} → {:.1} ms; \
             memory {:+.1} MB; {tracked:?} connections tracked",
            rate,
            percent(storm.same_order, calm.same_order),
            percent(storm.other_order, calm.other_order),
            percent(storm.bulk, calm.bulk),
            calm.bulk / 1e9,
            calm.p99_ms,
            storm.p99_ms,
            *grown_len as f64 / 1e6,
        )
    }
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Scene {
    orders: [Gateway; 2],
    /// The stormer, the second of its order, and the other order's.
    guests: [Guest; 3],
    stage: Stage,
}

impl Scene {
    /// Sets it.
    ///
    /// # Errors
    /// As [`Gateway::up`] and [`Guest::join`].
    pub fn set() -> Result<Self> {
        let mut stage = Stage::build(&["buyer", "seller"])?;
        // Whoever masquerades tracks connections.
        masquerade(stage.host("seller"), &stage.cable("seller").host)?;
        let expose = ["--expose", "5001", "--expose", "5001/udp"];
        let open = |order: &str, subnet: &str| {
            stage.open("buyer", order, &[&["--subnet", subnet][..], &expose].concat())
        };
        let orders = [open("farm", "10.77.0.0/24")?, open("barn", "10.78.0.0/24")?];
        // Who has a port of its own shares no lease: it is a stranger to the stormer but for the
        // order, as a guest of another seller would be.
        let mut join = |order: usize, name: &str, port: u16| -> Result<Guest> {
            let (ticket, seat) = (orders[order].invite_file()?, stage.lab.guest(name)?);
            let listen = format!("[::]:{port}");
            let (programs, seller) = (&stage.programs, stage.host("seller"));
            let guest = Guest::join(programs, seller, &seat, &ticket, &["--listen", &listen])?;
            wait_reach(&guest.seat, orders[order].ipv4.into(), PATIENCE)?;
            Ok(guest)
        };
        let guests = [join(0, "stormer", 7781)?, join(0, "second", 7782)?, join(1, "other", 7783)?];
        Ok(Self { orders, guests, stage })
    }

    /// Looks at the others for so long while there is no storm.
    ///
    /// # Errors
    /// When something does not flow.
    pub fn calm(&self, time: Duration) -> Result<Flows> {
        self.flows(time).context("in calm")
    }

    /// Limits what each guest of the stormer's order may send; `rate` as users write it.
    ///
    /// # Errors
    /// When the gateway refuses it.
    pub fn limit(&self, rate: &str) -> Result<()> {
        self.orders[0].ask(&["set", "farm", &format!("rate={rate}")])?;
        // Sellers hear of it in the next message.
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// Looks at the others for so long in a storm, and at what it leaves behind.
    ///
    /// # Errors
    /// When the stormer is gone.
    pub fn weather(&self, kind: Kind, calm: Flows, time: Duration) -> Result<Weather> {
        let before = self.memory_len()?;
        let [stormer, ..] = &self.guests;
        let mac = mac_of(&stormer.seat, "eth0")?;
        let own = Station { mac, ipv4: stormer.ipv4, ipv6: stormer.ipv6 };
        let storm = Storm::start(&stormer.seat, own, buyer_of(&self.orders[0])?, kind)?;
        thread::sleep(Duration::from_millis(300));
        let flows = self.flows(time).with_context(|| format!("in a storm of {kind:?}"))?;
        let rate = storm.stop();
        let grown_len = self.memory_len()?.cast_signed() - before.cast_signed();
        Ok(Weather { kind, rate, calm, storm: flows, grown_len, tracked: self.tracked()? })
    }

    fn flows(&self, time: Duration) -> Result<Flows> {
        let [_, second, other] = &self.guests;
        let ends =
            |guest: &Guest, order: &Gateway| (guest.seat.clone(), order.host.clone(), order.ipv4);
        let [same, other] = [ends(second, &self.orders[0]), ends(other, &self.orders[1])]
            .map(|(from, to, at)| thread::spawn(move || steady(&from, &to, at.into(), time)));
        let count = (time.as_millis() / 20) as u32;
        let to = second.ipv4.into();
        let pings = ping(&self.orders[0].host, to, count, Duration::from_millis(20))?;
        let join = |thread: JoinHandle<Result<f64>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a steady flow panicked"))?
        };
        let (same_order, other_order) = (join(same)?, join(other)?);
        let bulk = bulk(&second.seat, &self.orders[0].host, self.orders[0].ipv4.into(), time / 2)?;
        Ok(Flows {
            same_order,
            other_order,
            bulk,
            p99_ms: pings.percentile(99).unwrap_or(f64::NAN),
        })
    }

    /// Memory of all programs and what they have started.
    fn memory_len(&self) -> Result<u64> {
        let sellers = self.guests.iter().map(|guest| &guest.process);
        let mut sum = 0;
        for process in sellers.chain(self.orders.iter().map(|order| &order.process)) {
            sum += Vitals::of_tree(process)?.memory_len;
        }
        Ok(sum)
    }

    /// Counts what the seller's host tracks of the segments.
    fn tracked(&self) -> Result<Option<usize>> {
        tracked(self.stage.host("seller"), &["10.77.0.", "10.78.0."])
    }

    /// Makes sure that a guest at a plain cable would be tracked: else nothing is proved.
    ///
    /// # Errors
    /// When the kernel refuses the cable.
    pub fn plain_is_tracked(&mut self) -> Result<Option<usize>> {
        let (seller, plain) = (self.stage.host("seller").clone(), self.stage.lab.host("plain")?);
        let cable = self.stage.lab.connect(&plain, &seller, Wire::P)?;
        seller.must("sysctl -qw net.ipv4.ip_forward=1")?;
        let socket = plain.within(|| UdpSocket::bind("0.0.0.0:0"))?;
        for port in 1000..1100 {
            socket
                .send_to(b"plain", SocketAddr::from((self.stage.cable("buyer").host.ipv4, port)))?;
        }
        thread::sleep(Duration::from_millis(100));
        tracked(&seller, &[&cable.host.ipv4.to_string()])
    }
}

/// Counts a host's tracked connections that name one of these addresses.
fn tracked(host: &Host, addresses: &[&str]) -> Result<Option<usize>> {
    let (table, count) = host.within(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
        Ok((table, sysctl("net.netfilter.nf_conntrack_count")))
    })?;
    let (Ok(table), Ok(_)) = (table, count) else { return Ok(None) };
    let names = |line: &&str| addresses.iter().any(|address| line.contains(&format!("={address}")));
    Ok(Some(table.lines().filter(names).count()))
}

/// Sends a steady flow from a guest to the buyer and returns how much of it arrives.
fn steady(from: &Host, buyer: &Host, at: IpAddr, time: Duration) -> Result<f64> {
    let (per_second, len) = STEADY;
    let ear = buyer.within(|| UdpSocket::bind((at, PORT))).context("the buyer's port")?;
    ear.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mouth = from.within(|| UdpSocket::bind("0.0.0.0:0")).context("a guest's port")?;
    mouth.connect((at, PORT))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let hears = scope.spawn(|| {
            let (mut buffer, mut heard) = ([0; 2048], 0_u64);
            loop {
                match ear.recv(&mut buffer) {
                    // The storm's own datagrams come to this port, too.
                    Ok(got) if got == len => heard += 1,
                    Ok(_) => {}
                    Err(_) if done.load(Ordering::Relaxed) => return heard,
                    Err(_) => {}
                }
            }
        });
        let (started, mut sent, payload) = (Instant::now(), 0_u64, vec![7; len]);
        while started.elapsed() < time {
            let due = started.elapsed().as_micros() as u64 * u64::from(per_second) / 1_000_000;
            for _ in sent..due {
                // A full queue loses it: it was due all the same.
                let _ = mouth.send(&payload);
            }
            sent = sent.max(due);
            thread::sleep(Duration::from_micros(500));
        }
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let heard = hears.join().map_err(|_| anyhow::anyhow!("an ear panicked"))?;
        Ok(heard as f64 / sent.max(1) as f64)
    })
}

/// Sends as much as goes by TCP and returns what arrives, in bits a second.
fn bulk(from: &Host, buyer: &Host, at: IpAddr, time: Duration) -> Result<f64> {
    let at = SocketAddr::new(at, PORT);
    let listener = buyer.within(|| TcpListener::bind(at)).context("the buyer's port")?;
    let sender = from.within(|| TcpStream::connect_timeout(&at, STALL_MAX)).context("connect")?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(STALL_MAX))?;
    receiver.set_read_timeout(Some(STALL_MAX))?;
    let writes = thread::spawn(move || -> io::Result<()> {
        let (started, block) = (Instant::now(), vec![7; 64 << 10]);
        while started.elapsed() < time {
            (&sender).write_all(&block)?;
        }
        Ok(())
    });
    let (started, mut buffer, mut len) = (Instant::now(), vec![0; 256 << 10], 0_u64);
    loop {
        match receiver.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(got) => len += got as u64,
        }
    }
    let took = started.elapsed();
    // A flow that a storm has stalled ends with what came.
    let _ = writes.join();
    Ok(len as f64 * 8.0 / took.as_secs_f64())
}
