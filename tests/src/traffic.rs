//! Traffic between hosts of a lab, made by code of ours on sockets of their namespaces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Host;

/// Longest wait of one read, write or connect.
const STALL_MAX: Duration = Duration::from_secs(20);

/// What ping(8) saw.
#[derive(Clone, Debug, Default)]
pub struct Pings {
    /// Round trips in milliseconds, sorted.
    pub rtts_ms: Vec<f64>,
}

impl Pings {
    /// Returns the round trip that so many percent are not longer than.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let at = (self.rtts_ms.len() * percent / 100).min(self.rtts_ms.len().saturating_sub(1));
        self.rtts_ms.get(at).copied()
    }
}

/// Pings `count` times, `interval` apart, and waits at most a second for the last reply.
///
/// # Errors
/// When ping(8) cannot be run; no reply is a result like any other.
pub fn ping(from: &Host, to: IpAddr, count: u32, interval: Duration) -> Result<Pings> {
    let line = format!("ping -n -c {count} -i {} -W 1 {to}", interval.as_secs_f64());
    let output = from.run(&line)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let replies = said.split("time=").skip(1).filter_map(|rest| rest.split(' ').next());
    let mut rtts_ms: Vec<f64> = replies.filter_map(|number| number.parse().ok()).collect();
    rtts_ms.sort_by(f64::total_cmp);
    Ok(Pings { rtts_ms })
}

/// Tells whether one of a few quick pings is answered.
///
/// # Errors
/// As [`ping`].
pub fn reaches(from: &Host, to: IpAddr) -> Result<bool> {
    Ok(!ping(from, to, 3, Duration::from_millis(20))?.rtts_ms.is_empty())
}

/// Pings every 50 ms or so until there is an answer, and returns how long that took.
///
/// # Errors
/// When there is none within `timeout`.
pub fn wait_reach(from: &Host, to: IpAddr, timeout: Duration) -> Result<Duration> {
    let started = Instant::now();
    while started.elapsed() < timeout {
        if from.run(&format!("ping -n -q -c 1 -W 0.2 {to}"))?.status.success() {
            return Ok(started.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("{} did not reach {to} in {timeout:?}", from.name())
}

/// Asks again and again until the answer is yes.
///
/// # Errors
/// When it still is no after `timeout`, or a question fails.
pub fn eventually(
    what: &str,
    timeout: Duration,
    mut question: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while !question()? {
        ensure!(started.elapsed() < timeout, "{what}: not within {timeout:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How a [`transfer`] went.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes that arrived.
    pub len: usize,
    /// From connect to the last byte.
    pub took: Duration,
    /// Whether both ends computed the same BLAKE3.
    pub equal: bool,
}

/// Sends `len` random bytes over TCP and compares hashes. Every 4096 bytes begin with `marker`.
///
/// # Errors
/// When no connection comes about or it stalls.
pub fn transfer(
    from: &Host,
    to: &Host,
    at: SocketAddr,
    len: usize,
    marker: &[u8],
) -> Result<Transfer> {
    let mut sent = vec![0; len];
    File::open("/dev/urandom")?.read_exact(&mut sent)?;
    for block in sent.chunks_exact_mut(4096.max(marker.len())) {
        block[..marker.len()].copy_from_slice(marker);
    }
    let listener = to.within(|| TcpListener::bind(at)).with_context(|| format!("listen {at}"))?;
    let started = Instant::now();
    let receiver = thread::spawn(move || -> io::Result<Vec<u8>> {
        let mut stream = accept(&listener, STALL_MAX)?;
        let mut received = Vec::with_capacity(len);
        stream.read_to_end(&mut received)?;
        Ok(received)
    });
    from.within(|| {
        let mut stream = TcpStream::connect_timeout(&at, STALL_MAX)?;
        stream.set_write_timeout(Some(STALL_MAX))?;
        stream.write_all(&sent)
    })
    .with_context(|| format!("send from {} to {at}", from.name()))?;
    let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    Ok(Transfer {
        len: received.len(),
        took: started.elapsed(),
        equal: blake3::hash(&received) == blake3::hash(&sent),
    })
}

/// Tells whether TCP to `at` is answered by a handshake within `timeout`.
#[must_use]
pub fn connects(from: &Host, at: SocketAddr, timeout: Duration) -> bool {
    from.within(|| TcpStream::connect_timeout(&at, timeout)).is_ok()
}

/// Waits for one connection; gives up after `timeout`.
fn accept(listener: &TcpListener, timeout: Duration) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + timeout;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A UDP socket that hears one port of a host, unicast and broadcast.
#[derive(Debug)]
pub struct Ear {
    socket: UdpSocket,
}

impl Ear {
    /// Opens it.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open(host: &Host, port: u16) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = host.within(|| UdpSocket::bind(any)).context("open a UDP port")?;
        Ok(Self { socket })
    }

    /// Tells whether a datagram that holds `marker` comes within `timeout`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn hears(&self, marker: &[u8], timeout: Duration) -> Result<bool> {
        let until = Instant::now() + timeout;
        let mut buffer = [0; 2048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(len) if buffer[..len].windows(marker.len()).any(|part| part == marker) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sends one datagram from a host's address; to a broadcast address too.
///
/// # Errors
/// When there is no way to it.
pub fn say(host: &Host, from: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Result<()> {
    let sent = host.within(|| {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_broadcast(true)?;
        socket.send_to(payload, to)
    });
    sent.with_context(|| format!("send from {} to {to}", host.name())).map(drop)
}
