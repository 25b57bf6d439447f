//! Runs the data plane of one lease on threads of its own.
//!
//! # Theory of operation
//! Three threads and no async runtime: `ovl-tx` reads taps and sends datagrams, `ovl-rx` receives
//! datagrams and writes taps, `ovl-ctl` reads commands, lets timers run and hands events out. What
//! they do is decided by [`Node`]; they only wait and move. Control holds the other end of a
//! SEQPACKET socket and nothing else of it, so the threads can become a process of their own.
//!
//! # Limits
//! A turn of `ovl-tx` takes at most [`FRAMES_A_TURN`] frames of one tap before it looks at the
//! next. Events that control does not read wait in the node's bounded queue.

mod control;
pub(crate) mod sys;
mod threads;

use std::io;
use std::net::{Shutdown, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use overlay_proto::control::{Command, Detail, Event, Limits, LocalPort, Slot};
use overlay_proto::node::Node;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;

use crate::capture::Tee;
use crate::clock;
use crate::udp::Udp;

/// Frames of one tap in one turn: a third of a millisecond of small ones.
const FRAMES_A_TURN: usize = 32;

/// How long a full socket is waited for, in milliseconds.
pub(crate) const WRITABLE_WAIT: u16 = 2;

/// What a data plane starts with.
#[derive(Debug)]
pub struct DataPlaneConfig {
    /// X25519 secret of this lease.
    pub key: [u8; 32],
    /// This node's own slot.
    pub slot: Slot,
    /// The lease's one socket.
    pub udp: UdpSocket,
}

/// A running data plane; dropping it stops it.
#[derive(Debug)]
pub struct DataPlane {
    /// SEQPACKET; the type only lends it tokio's readiness.
    socket: UnixDatagram,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    node: Node,
    udp: Udp,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    tee: Tee,
    stop: AtomicBool,
    wake_tx: EventFd,
    wake_rx: EventFd,
    wake_ctl: EventFd,
}

/// One attachment.
#[derive(Debug)]
struct Tap {
    port: LocalPort,
    fd: OwnedFd,
    out_frames: AtomicU64,
    out_bytes: AtomicU64,
}

impl DataPlane {
    /// Starts the threads. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's, when sockets or threads cannot be made.
    pub fn start(config: DataPlaneConfig) -> io::Result<Self> {
        let (ours, theirs) = control::socket_pair()?;
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let carrier = Arc::new(WireGuardCarrier::new(config.key));
        let shared = Arc::new(Shared {
            node: Node::new(config.slot, carrier, clock::now()),
            udp: Udp::new(config.udp)?,
            taps: ArcSwap::default(),
            tee: Tee::default(),
            stop: AtomicBool::new(false),
            wake_tx: eventfd()?,
            wake_rx: eventfd()?,
            wake_ctl: eventfd()?,
        });
        let spawn = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))
        };
        let threads = vec![
            spawn("ovl-tx", Box::new(threads::transmit))?,
            spawn("ovl-rx", Box::new(threads::receive))?,
            spawn("ovl-ctl", Box::new(move |shared| control::serve(shared, theirs)))?,
        ];
        let socket = UnixDatagram::from_std(ours.into())?;
        Ok(Self { socket, threads })
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the data plane is gone or its queue is full.
    pub fn send(&self, command: &Command) -> io::Result<()> {
        control::send_command(&self.socket, command, None)
    }

    /// Plugs in a tap, whose descriptor must not block.
    ///
    /// # Errors
    /// As [`DataPlane::send`].
    pub fn attach(
        &self,
        port: LocalPort,
        stations: Vec<Station>,
        limits: Limits,
        tap: OwnedFd,
    ) -> io::Result<()> {
        let command = Command::AttachPort { port, stations, limits };
        control::send_command(&self.socket, &command, Some(tap.as_fd()))
    }

    /// Begins a capture of a port to `records`, one end of a [`pair`](crate::capture::pair).
    ///
    /// With a `station`, only frames between the port and that one. The other end is closed if the
    /// data plane has no such port or too many captures.
    ///
    /// # Errors
    /// As [`DataPlane::send`].
    pub fn capture(
        &self,
        port: LocalPort,
        detail: Detail,
        station: Option<MacAddr>,
        records: OwnedFd,
    ) -> io::Result<()> {
        let command = Command::Capture { port, detail, station };
        control::send_command(&self.socket, &command, Some(records.as_fd()))
    }

    /// Returns the next event, `None` once the data plane has stopped.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            self.socket.readable().await.ok()?;
            let receive = || control::receive_event(&self.socket);
            match self.socket.try_io(Interest::READABLE, receive) {
                Ok(event) => return event,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::error!(%error, "the data plane's socket failed");
                    return None;
                }
            }
        }
    }

    /// Stops the threads and waits for them.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            tracing::warn!(%error, "closing the data plane's socket");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the data plane panicked");
            }
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        for wake in [&self.wake_tx, &self.wake_rx, &self.wake_ctl] {
            notify(wake);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Wakes control if the turn made news.
    fn hand_over(&self) {
        if self.node.has_news() {
            notify(&self.wake_ctl);
        }
    }

    /// Adds a tap, in place of one with its number.
    fn add_tap(&self, tap: Tap) {
        let mut taps: Vec<_> = self.taps.load().iter().cloned().collect();
        taps.retain(|other| other.port != tap.port);
        taps.push(Arc::new(tap));
        self.taps.store(Arc::new(taps));
        notify(&self.wake_tx);
    }

    /// Removes a tap; its descriptor closes when no thread uses it any more.
    fn remove_tap(&self, port: LocalPort) {
        let taps = self.taps.load().iter().filter(|tap| tap.port != port).cloned().collect();
        self.taps.store(Arc::new(taps));
        self.tee.end(port);
        notify(&self.wake_tx);
    }
}

/// Adds one to an event counter; it can only fail when it is already as good as infinite.
fn notify(wake: &EventFd) {
    if let Err(error) = wake.write(1) {
        tracing::trace!(%error, "a wake-up is pending already");
    }
}

/// Waits a moment until the socket takes more.
pub(crate) fn wait_writable(socket: &UdpSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if let Err(error) = poll(&mut fds, PollTimeout::from(WRITABLE_WAIT)) {
        tracing::trace!(%error, "waiting for the socket");
    }
}
