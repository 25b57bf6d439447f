//! The process that moves the frames of one lease, and nothing else.
//!
//! # Theory of operation
//! Three threads and no async runtime: `ovl-tx` reads cables and sends datagrams, `ovl-rx` receives
//! datagrams and writes cables, `ovl-ctl` reads commands, lets timers run and hands events out.
//! What they do is decided by [`Node`]; they only wait and move.
//!
//! The process starts with a user of its own, in an empty network namespace, without capabilities
//! or a way to them, and with two descriptors. When its threads are there and before the first byte
//! from outside is looked at, it gives up all system calls but those that move bytes
//! ([`crate::confine::seccomp`]). Whoever takes it over then has the frames of this lease, its
//! session keys and its one socket, whose packets the host's egress guard counts.
//!
//! # Limits
//! A turn of `ovl-tx` takes at most [`FRAMES_A_TURN`] frames of one cable before it looks at the
//! next. A panic of one thread ends the process, and so the lease's frames, at once.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use arc_swap::ArcSwap;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use overlay_proto::control::{Event, LocalPort};
use overlay_proto::node::Node;
use overlay_proto::tunnel::wireguard::WireGuardCarrier;
use zeroize::Zeroizing;

use super::{Init, control, threads};
use crate::capture::Tee;
use crate::confine::seccomp;
use crate::udp::Udp;
use crate::{clock, ipc};

/// Frames of one cable in one turn: a third of a millisecond of small ones.
pub(super) const FRAMES_A_TURN: usize = 32;

/// First word of the command line of a data plane's process; two descriptors' numbers follow.
pub const ROLE: &str = "--data-plane";

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) udp: Udp,
    pub(super) taps: ArcSwap<Vec<Arc<Tap>>>,
    pub(super) tee: Tee,
    stop: AtomicBool,
    pub(super) wake_tx: EventFd,
    pub(super) wake_rx: EventFd,
    pub(super) wake_ctl: EventFd,
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) port: LocalPort,
    pub(super) fd: OwnedFd,
    pub(super) out_frames: AtomicU64,
    pub(super) out_bytes: AtomicU64,
}

/// Runs as a data plane if this process was started as one; says how it ended.
#[must_use]
pub fn role() -> Option<ExitCode> {
    let [socket, udp] = match crate::confine::role(ROLE)? {
        Ok(fds) => fds,
        Err(exit) => return Some(exit),
    };
    match run(socket, udp.into()) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "the data plane does not run");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Runs until the other end of `socket` is closed.
fn run(socket: OwnedFd, udp: UdpSocket) -> io::Result<()> {
    let init = receive_init(&socket)?;
    let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let shared = Arc::new(Shared {
        node: Node::new(init.slot, Arc::new(WireGuardCarrier::new(init.key)), clock::now()),
        udp: Udp::new(udp)?,
        taps: ArcSwap::default(),
        tee: Tee::default(),
        stop: AtomicBool::new(false),
        wake_tx: eventfd()?,
        wake_rx: eventfd()?,
        wake_ctl: eventfd()?,
    });
    drop(init);
    // A thread that panics has left the node in a state nobody knows.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        process::abort();
    }));
    let [there, confined] = [(); 2].map(|()| Arc::new(Barrier::new(4)));
    let start = |name: &str, work: Box<dyn FnOnce(&Shared) + Send>| {
        let (there, confined) = (Arc::clone(&there), Arc::clone(&confined));
        let shared = Arc::clone(&shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            there.wait();
            confined.wait();
            work(&shared);
        })
    };
    let threads = [
        start("ovl-tx", Box::new(threads::transmit))?,
        start("ovl-rx", Box::new(threads::receive))?,
        start("ovl-ctl", Box::new(move |shared| control::serve(shared, socket)))?,
    ];
    // A thread that begins makes calls that one which runs has no use for.
    there.wait();
    seccomp::enter()?;
    confined.wait();
    for thread in threads {
        // One that panics ends the process before it could be noticed here.
        let _ = thread.join();
    }
    Ok(())
}

/// Waits for the first message.
fn receive_init(socket: &OwnedFd) -> io::Result<Init> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    let (bytes, _) = ipc::receive(socket)?;
    ipc::decode(&Zeroizing::new(bytes))
}

impl Shared {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        for wake in [&self.wake_tx, &self.wake_rx, &self.wake_ctl] {
            notify(wake);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Wakes control if the turn made news.
    pub(super) fn hand_over(&self) {
        if self.node.has_news() {
            notify(&self.wake_ctl);
        }
    }

    /// Says something to control.
    pub(super) fn tell(&self, event: Event) {
        self.node.tell(event);
    }

    /// Adds a tap, in place of one with its number.
    pub(super) fn add_tap(&self, tap: Tap) {
        let mut taps: Vec<_> = self.taps.load().iter().cloned().collect();
        taps.retain(|other| other.port != tap.port);
        taps.push(Arc::new(tap));
        self.taps.store(Arc::new(taps));
        notify(&self.wake_tx);
    }

    /// Removes a tap; its descriptor closes when no thread uses it any more.
    pub(super) fn remove_tap(&self, port: LocalPort) {
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
