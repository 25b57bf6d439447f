//! Every frame on every interface of a host.
//!
//! # Theory of operation
//! A thread enters the namespace and reads one packet socket bound to no interface, so that it
//! hears all of them, also those that come later. Frames are kept in memory in the order heard;
//! both directions are heard, so a router shows a forwarded frame twice.
//!
//! # Limits
//! [`CAPTURE_LEN_MAX`] bytes. A frame that was missed, here or in the kernel, is an error at the
//! end: a capture that lost something proves nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};

use super::{End, Host};
use crate::sys;

/// Most bytes that one capture keeps.
pub const CAPTURE_LEN_MAX: usize = 512 << 20;

/// Kernel buffer: what a burst may bring while the thread is not running.
const SOCKET_BUFFER_LEN: i32 = 128 << 20;

/// Longest frame there is: a super-frame with its header, rounded up.
const FRAME_LEN_MAX: usize = 68 << 10;

/// Silence after which a stopped capture has heard everything.
const SILENCE_AFTER: Duration = Duration::from_millis(30);

/// Longest wait for that silence.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Frames>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What was captured.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// End of each frame in `bytes`, and its interface's index.
    ends: Vec<(usize, usize)>,
    interfaces: BTreeMap<usize, String>,
    lost: u64,
}

impl Capture {
    pub(super) fn start(host: &Host) -> io::Result<Self> {
        let socket = host.within(|| sys::packet_socket(0, SOCKET_BUFFER_LEN, SILENCE_AFTER))?;
        let frames = Arc::new(Mutex::new(Frames::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("capture".into()).spawn({
            let (frames, stop, host) = (Arc::clone(&frames), Arc::clone(&stop), host.clone());
            move || host.within(|| listen(&socket, &frames, &stop))
        })?;
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// Returns what was captured up to now; do not hold it for long.
    pub fn so_far(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the capture when the wires are silent and returns all of it.
    ///
    /// # Errors
    /// When a frame was missed.
    pub fn finish(mut self) -> Result<Frames> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a capture ends once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the capture's thread panicked"))??;
        let frames = std::mem::take(&mut *self.so_far());
        ensure!(frames.lost == 0, "the capture missed {} frames", frames.lost);
        Ok(frames)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Frames {
    /// Returns every frame with the name of its interface.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, (end, index))| {
            (self.interfaces.get(index).map_or("?", String::as_str), &self.bytes[start..*end])
        })
    }

    /// Returns how many frames hold `marker` somewhere.
    #[must_use]
    pub fn count_of(&self, marker: &[u8]) -> usize {
        self.iter().filter(|(_, frame)| contains(frame, marker)).count()
    }

    /// Returns how many IP packets went from `source` to `destination`.
    #[must_use]
    pub fn count_between(
        &self,
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
    ) -> usize {
        let [source, destination] = [source.into(), destination.into()].map(octets);
        let (ethertype, at) = if source.len() == 4 { ([8, 0], 26) } else { ([0x86, 0xdd], 22) };
        let pair = [source, destination].concat();
        let is_it = |frame: &[u8]| {
            frame.get(12..14) == Some(&ethertype) && frame.get(at..at + pair.len()) == Some(&pair)
        };
        self.iter().filter(|(_, frame)| is_it(frame)).count()
    }

    /// Returns how many IP packets went from the host at one end to that at another, by IPv4 or
    /// IPv6: which of them a path takes is a race.
    #[must_use]
    pub fn count_from_to(&self, source: &End, destination: &End) -> usize {
        self.count_between(source.ipv4, destination.ipv4)
            + self.count_between(source.ipv6, destination.ipv6)
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether nothing was heard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn push(&mut self, frame: &[u8], interface: usize) {
        if self.bytes.len() + frame.len() > CAPTURE_LEN_MAX {
            self.lost += 1;
            return;
        }
        self.interfaces.entry(interface).or_insert_with(|| interface_name(interface));
        self.bytes.extend_from_slice(frame);
        self.ends.push((self.bytes.len(), interface));
    }
}

fn listen(
    socket: &std::os::fd::OwnedFd,
    frames: &Mutex<Frames>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    let mut stop_at = None;
    loop {
        let heard = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer);
        if stop.load(Ordering::Relaxed) {
            let until = *stop_at.get_or_insert_with(|| Instant::now() + DRAIN_MAX);
            if heard == Err(Errno::EAGAIN) || Instant::now() > until {
                break;
            }
        }
        match heard {
            Ok((len, from)) => {
                let interface = from.map_or(0, |from| from.ifindex());
                lock(frames).push(&buffer[..len], interface);
            }
            // The interface went down or away: the socket hears the others on.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN | Errno::ENXIO) => {}
            Err(error) => return Err(error.into()),
        }
    }
    lock(frames).lost += u64::from(sys::packet_drops(socket)?);
    Ok(())
}

fn lock(frames: &Mutex<Frames>) -> MutexGuard<'_, Frames> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the name of an interface of the calling thread's namespace.
fn interface_name(index: usize) -> String {
    let named = nix::net::if_::if_nameindex().ok().and_then(|all| {
        let found = all.iter().find(|one| one.index() as usize == index);
        found.map(|one| one.name().to_string_lossy().into_owned())
    });
    named.unwrap_or_else(|| format!("#{index}"))
}

/// Tells whether `marker` occurs in `frame`, quickly: by its first byte.
fn contains(frame: &[u8], marker: &[u8]) -> bool {
    let Some(first) = marker.first() else { return true };
    let mut rest = frame;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(marker) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
