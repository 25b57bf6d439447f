//! Datagrams at a steady rate, from one source or from many forged ones.
//!
//! # Theory of operation
//! A thread in the flooder's namespace sends what is due since it started, then sleeps for half a
//! millisecond. It also hears what comes back, because what a forged source is made to hear is half
//! of the harm. Forged are the addresses of [`FORGED`]: [`own_forged`] routes that network to the
//! flooder, so the kernel lets it send from there and one neighbour entry serves them all.
//!
//! # Limits
//! A flood ends by itself after [`FLOOD_MAX`].

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use crate::lab::{Cable, Host};

/// The network, a /16, from which forged datagrams come.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(44, 129, 0, 0);

/// Longest flood, if nobody stops it.
pub const FLOOD_MAX: Duration = Duration::from_secs(60);

/// A flood that is under way; stops when dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Flooded>>>,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flooded {
    /// Datagrams that left.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams that came back.
    pub replies: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// From the first to the last.
    pub took: Duration,
}

/// Lets a host send from, and hear at, every address of [`FORGED`].
///
/// # Errors
/// When a route is refused.
pub fn own_forged(router: &Host, flooder: &Host, cable: &Cable) -> Result<()> {
    flooder.must(&format!("ip route add local {FORGED}/16 dev lo"))?;
    router.must(&format!("ip route add {FORGED}/16 via {}", cable.host.ipv4)).map(drop)
}

/// Returns the addresses of [`FORGED`] in an order that repeats none of them soon.
#[must_use]
pub fn forged() -> Vec<Ipv4Addr> {
    let [a, b, ..] = FORGED.octets();
    let address = |n: u16| {
        let [c, d] = n.wrapping_mul(40_503).to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    (0..=u16::MAX).map(address).collect()
}

impl Flood {
    /// Starts to send `datagrams` in turn from `sources` in turn; none are the host's own address.
    ///
    /// # Errors
    /// When the host opens no socket.
    pub fn start(
        host: &Host,
        sources: Vec<Ipv4Addr>,
        to: SocketAddrV4,
        datagrams: Vec<Vec<u8>>,
        per_second: u32,
    ) -> Result<Self> {
        let socket = host.within(|| UdpSocket::bind("0.0.0.0:0")).context("a flooder's socket")?;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut turns = datagrams.iter().cycle().zip(sources.iter().map(Some).cycle());
            let mut alone = datagrams.iter().cycle().map(|datagram| (datagram, None));
            let next = || turns.next().or_else(|| alone.next()).expect("a flood has datagrams");
            pour(&socket, next, to, per_second, &stopped)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops it.
    ///
    /// # Errors
    /// The first that was not the network's.
    pub fn stop(mut self) -> Result<Flooded> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a flood is stopped once")?;
        let flooded = thread.join().map_err(|_| anyhow::anyhow!("the flooder panicked"))?;
        flooded.context("flood")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pour<'a>(
    socket: &UdpSocket,
    mut next: impl FnMut() -> (&'a Vec<u8>, Option<&'a Ipv4Addr>),
    to: SocketAddrV4,
    per_second: u32,
    stop: &AtomicBool,
) -> io::Result<Flooded> {
    let started = Instant::now();
    let mut flooded = Flooded::default();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) && started.elapsed() < FLOOD_MAX {
        let due = started.elapsed().as_micros() as u64 * u64::from(per_second) / 1_000_000;
        for _ in flooded.sent..due {
            let (datagram, source) = next();
            match send(socket, datagram, source, to) {
                Ok(len) => flooded.sent_bytes += len as u64,
                // ICMP errors of earlier datagrams, or a full queue: what is due is due.
                Err(nix::Error::ECONNREFUSED | nix::Error::EAGAIN | nix::Error::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
            flooded.sent += 1;
        }
        while let Ok(len) = socket.recv(&mut buffer) {
            flooded.replies += 1;
            flooded.reply_bytes += len as u64;
        }
        thread::sleep(Duration::from_micros(500));
    }
    flooded.took = started.elapsed();
    Ok(flooded)
}

fn send(
    socket: &UdpSocket,
    datagram: &[u8],
    source: Option<&Ipv4Addr>,
    to: SocketAddrV4,
) -> nix::Result<usize> {
    let to = SockaddrIn::from(to);
    let info = source.map(|source| libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    });
    let messages: Vec<_> = info.iter().map(ControlMessage::Ipv4PacketInfo).collect();
    let parts = [io::IoSlice::new(datagram)];
    sendmsg(socket.as_raw_fd(), &parts, &messages, MsgFlags::empty(), Some(&to))
}
