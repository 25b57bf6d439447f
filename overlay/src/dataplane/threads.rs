//! The two threads that move frames, and the hands they lend to the core.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd::read;
use overlay_proto::control::{Event, LocalPort};
use overlay_proto::join::PARTS_MAX;
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use vde_switch::frame::FRAME_LEN_MAX;
use vde_switch::vnet::VnetHdr;

use super::process::{FRAMES_A_TURN, Shared, Tap};
use crate::capture::Way;
use crate::clock;
use crate::udp::Receiver;

/// Receive calls of one turn before the thread looks whether it is to stop.
const RECEIVES_A_TURN: usize = 16;

/// Parts of one write: the virtio-net header, the frame's headers, its payloads.
const WRITE_PARTS_MAX: usize = PARTS_MAX + 2;

/// Moves what a core decides: writes taps, sends datagrams.
pub(super) struct Mover<'a> {
    shared: &'a Shared,
    taps: Guard<Arc<Vec<Arc<Tap>>>>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, taps: shared.taps.load() }
    }
}

impl Io for Mover<'_> {
    fn deliver(&mut self, port: LocalPort, hdr: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        let Some(tap) = self.taps.iter().find(|tap| tap.port == port) else {
            return Delivered::Gone;
        };
        let mut header = [0; VnetHdr::LEN];
        hdr.emit(&mut header);
        let mut slices = [IoSlice::new(&[]); WRITE_PARTS_MAX];
        slices[0] = IoSlice::new(&header);
        let Some(rest) = slices.get_mut(1..=parts.len()) else { return Delivered::Full };
        rest.copy_from_slice(parts);
        match writev(&tap.fd, &slices[..=parts.len()]) {
            Ok(written) => {
                self.shared.tee.copy(port, Way::ToGuest, parts);
                tap.out_frames.fetch_add(1, Ordering::Relaxed);
                let len = written.saturating_sub(VnetHdr::LEN) as u64;
                tap.out_bytes.fetch_add(len, Ordering::Relaxed);
                Delivered::Done
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => Delivered::Full,
            Err(_) => Delivered::Gone, // the interface is down or deleted
        }
    }

    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.shared.udp.transmit(via, stride, datagrams)
    }
}

/// Reads taps until stopped.
pub(super) fn transmit(shared: &Shared) {
    let mut buffer = vec![0; VnetHdr::LEN + FRAME_LEN_MAX];
    while !shared.is_stopped() {
        let mut mover = Mover::new(shared);
        let taps = Arc::clone(&mover.taps);
        let mut fds: Vec<_> =
            taps.iter().map(|tap| PollFd::new(tap.fd.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(shared.wake_tx.as_fd(), PollFlags::POLLIN));
        // Until the set of taps changes, the descriptors are polled as they are.
        loop {
            if let Err(error) = poll(&mut fds, PollTimeout::NONE)
                && error != Errno::EINTR
            {
                tracing::error!(%error, "the sending thread cannot wait");
                return shared.stop();
            }
            if fds.last().is_some_and(|wake| wake.any() == Some(true)) {
                while shared.wake_tx.read().is_ok() {}
                break;
            }
            for (tap, fd) in taps.iter().zip(&fds) {
                if fd.any() == Some(true) {
                    drain(shared, tap, &mut buffer, &mut mover);
                }
            }
            shared.hand_over();
        }
    }
}

/// Takes what one tap has, at most a turn's worth.
fn drain(shared: &Shared, tap: &Tap, buffer: &mut [u8], mover: &mut Mover<'_>) {
    let mut outbound = shared.node.outbound();
    let now = clock::now();
    for _ in 0..FRAMES_A_TURN {
        match read(&tap.fd, buffer) {
            Ok(len @ 1..) => {
                let frame = IoSlice::new(buffer.get(VnetHdr::LEN..len).unwrap_or_default());
                shared.tee.copy(tap.port, Way::FromGuest, &[frame]);
                outbound.handle_read(tap.port, &buffer[..len], now, mover);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => break,
            // No tap is ever at its end; the far end of a socket pair may close.
            ended @ (Ok(0) | Err(_)) => {
                drop(outbound);
                shared.node.detach(tap.port);
                shared.remove_tap(tap.port);
                let reason = ended.err().map_or("its far end was closed", |error| error.desc());
                let reason = reason.to_owned();
                return shared.tell(Event::PortLost { port: tap.port, reason });
            }
        }
    }
    outbound.flush(mover);
}

/// Receives datagrams until stopped.
pub(super) fn receive(shared: &Shared) {
    let mut receiver = Receiver::default();
    let mut lost = shared.udp.lost();
    while !shared.is_stopped() {
        let mut fds = [
            PollFd::new(shared.udp.socket().as_fd(), PollFlags::POLLIN),
            PollFd::new(shared.wake_rx.as_fd(), PollFlags::POLLIN),
        ];
        if let Err(error) = poll(&mut fds, PollTimeout::NONE)
            && error != Errno::EINTR
        {
            tracing::error!(%error, "the receiving thread cannot wait");
            return shared.stop();
        }
        let mut mover = Mover::new(shared);
        let mut emptied = false;
        for _ in 0..RECEIVES_A_TURN {
            let mut inbound = shared.node.inbound();
            let now = clock::now();
            let received = receiver.receive(&shared.udp, |via, stride, datagrams| {
                inbound.handle_datagrams(via, stride, datagrams, now, &mut mover);
            });
            inbound.flush(&mut mover);
            drop(inbound);
            emptied = !matches!(received, Ok(1..));
            if let Err(error) = received {
                tracing::debug!(%error, "receiving");
            }
            if emptied {
                break;
            }
        }
        if !emptied && lost != shared.udp.lost() {
            lost = shared.udp.lost();
            shared.node.inbound().handle_overflow();
        }
        shared.hand_over();
    }
}
