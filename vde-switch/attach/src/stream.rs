//! A guest's cable as a unix socket: QEMU's `-netdev stream` and what speaks like it.
//!
//! # Theory of operation
//! A [`StreamPort`] is a thread between the peer's socket and a pair of SEQPACKET sockets whose
//! other end is the data plane's: there a datagram is one frame behind a virtio-net header, as with
//! a tap. Towards the peer frames are finished (cut and summed) before they are written; from it
//! they come finished, and their header is empty.
//!
//! Who calls whom is found out again and again: if somebody listens at the path, it is called (QEMU
//! with `server=on`); otherwise the path is listened at (QEMU as client, which calls again if told
//! so). A socket file that nobody listens at, left by a killed program, is replaced; one that takes
//! the place of ours, as QEMU's does when it starts later, is called.
//!
//! Nothing waits for the peer: while it does not read, or is not there, the pair fills up and the
//! data plane counts its drops. While the data plane does not read, the peer's socket is not read.
//!
//! # Limits
//! One peer at a time; the next one waits in the listener's backlog until the first has left.
//! Memory is two frames and [`framing::QUEUE_LEN_MAX`] towards the peer, and [`PAIR_LEN`] in the
//! kernel for each direction of the pair. Whoever may connect to the socket (mode 0600) is the
//! guest.

pub mod framing;
mod place;

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};
use vde_switch::finish::Finisher;
use vde_switch::frame::FRAME_LEN_MAX;
use vde_switch::vnet::VnetHdr;

use self::framing::{Framed, LyingLength, Unframer};
use self::place::Place;
pub use self::place::StreamError;

/// How often a peer is looked for while there is none.
const LOOK_INTERVAL_MS: u16 = 300;
/// Kernel buffer of each direction of the pair, in bytes: some fifteen super-frames.
const PAIR_LEN: usize = 1 << 20;
/// Frames of one direction before the other has its turn.
const FRAMES_A_TURN: usize = 64;

/// What happened at a port, for the log.
#[derive(Debug)]
pub enum StreamNews {
    /// A peer is there.
    Up,
    /// The peer has gone, or was sent away for a reason.
    Down(Option<LyingLength>),
    /// There is no way to wait for one any more; the port is dead.
    Lost(io::Error),
}

/// A place for a peer, found and taken; no thread runs yet.
#[derive(Debug)]
pub struct StreamSeat {
    place: Place,
}

impl StreamSeat {
    /// Takes the path: nobody else of this program's kind uses it from here on.
    ///
    /// # Errors
    /// [`StreamError`] says what is wrong with the path.
    pub fn take(path: &Path) -> Result<Self, StreamError> {
        Ok(Self { place: Place::take(path)? })
    }

    /// Starts to serve; returns the port and the end that a data plane reads and writes.
    ///
    /// `mtu` is the segment's, in bytes of L3. `tell` is called on the port's own thread.
    ///
    /// # Errors
    /// The system's, when it has no socket or thread left.
    pub fn start(
        self,
        mtu: u16,
        tell: impl Fn(StreamNews) + Send + 'static,
    ) -> io::Result<(StreamPort, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        for end in [&ours, &theirs] {
            // Not root, or not allowed: the usual size does, with more drops.
            let _ = setsockopt(end, sockopt::SndBufForce, &PAIR_LEN);
        }
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let mtu = Arc::new(AtomicU16::new(mtu));
        let mut pump = Pump {
            cable: ours,
            stop: Arc::clone(&stop),
            mtu: Arc::clone(&mtu),
            place: self.place,
            finisher: Finisher::default(),
            datagram: vec![0; VnetHdr::LEN + FRAME_LEN_MAX].into(),
            unframer: Unframer::default(),
            framed: Framed::default(),
        };
        let thread = thread::Builder::new().name("ovl-stream".to_owned()).spawn(move || {
            if let Err(error) = pump.run(&tell) {
                tell(StreamNews::Lost(error));
            }
        })?;
        Ok((StreamPort { stop, mtu, thread: Some(thread) }, theirs))
    }
}

/// A running port; dropping it ends its thread and removes its socket file.
#[derive(Debug)]
pub struct StreamPort {
    stop: Arc<EventFd>,
    mtu: Arc<AtomicU16>,
    thread: Option<JoinHandle<()>>,
}

impl StreamPort {
    /// Follows the segment's MTU, in bytes of L3.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}

impl Drop for StreamPort {
    fn drop(&mut self) {
        // It can only fail when it is already as good as infinite.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed where it happened.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Pump {
    cable: OwnedFd,
    stop: Arc<EventFd>,
    mtu: Arc<AtomicU16>,
    place: Place,
    finisher: Finisher,
    datagram: Box<[u8]>,
    unframer: Unframer,
    framed: Framed,
}

/// Why a peer is not served any more.
enum End {
    /// The port is to end, or the data plane has gone.
    Stopped,
    /// The peer is gone.
    Gone,
    /// What it says cannot be believed.
    Lied(LyingLength),
}

impl Pump {
    fn run(&mut self, tell: &impl Fn(StreamNews)) -> io::Result<()> {
        while let Some(peer) = self.wait_peer()? {
            peer.set_nonblocking(true)?;
            self.unframer = Unframer::default();
            self.framed.clear();
            // What was meant for a guest that was not there is not for one that is.
            while recv(self.cable.as_raw_fd(), &mut self.datagram, MsgFlags::MSG_DONTWAIT)
                .is_ok_and(|len| len > 0)
            {}
            tell(StreamNews::Up);
            match self.serve(&peer)? {
                End::Stopped => return Ok(()),
                End::Gone => tell(StreamNews::Down(None)),
                End::Lied(lie) => tell(StreamNews::Down(Some(lie))),
            }
        }
        Ok(())
    }

    /// Waits until a peer is there; `None` when the port is to end.
    fn wait_peer(&mut self) -> io::Result<Option<UnixStream>> {
        loop {
            if let Some(peer) = self.place.look() {
                return Ok(Some(peer));
            }
            let mut fds = vec![
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.cable.as_fd(), PollFlags::empty()),
            ];
            fds.extend(self.place.listener().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            wait(&mut fds, PollTimeout::from(LOOK_INTERVAL_MS))?;
            if fds[..2].iter().any(|fd| fd.any() == Some(true)) {
                return Ok(None);
            }
        }
    }

    /// Moves frames both ways until one side ends.
    fn serve(&mut self, peer: &UnixStream) -> io::Result<End> {
        loop {
            // A whole frame that is still there is one that the cable had no room for.
            let stuck = match self.unframer.frame() {
                Ok(frame) => frame.is_some(),
                Err(lie) => return Ok(End::Lied(lie)),
            };
            let when = |condition: bool, flag| if condition { flag } else { PollFlags::empty() };
            let on_cable =
                when(stuck, PollFlags::POLLOUT) | when(self.framed.has_room(), PollFlags::POLLIN);
            let on_peer = when(!stuck, PollFlags::POLLIN)
                | when(!self.framed.unwritten().is_empty(), PollFlags::POLLOUT);
            let mut fds = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.cable.as_fd(), on_cable),
                PollFd::new(peer.as_fd(), on_peer),
            ];
            wait(&mut fds, PollTimeout::NONE)?;
            let [stop, cable, outside] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if !stop.is_empty() || cable.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(End::Stopped);
            }
            if cable.contains(PollFlags::POLLIN) && !self.take_from_cable()? {
                return Ok(End::Stopped);
            }
            if !self.write_out(peer) {
                return Ok(End::Gone);
            }
            if stuck && cable.contains(PollFlags::POLLOUT) {
                if let Err(lie) = self.hand_in()? {
                    return Ok(End::Lied(lie));
                }
            } else if outside.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) && !stuck {
                let mut source = peer;
                match source.read(self.unframer.room()) {
                    Ok(0) => return Ok(End::Gone),
                    Ok(len) => self.unframer.add(len),
                    Err(error) if is_later(&error) => {}
                    Err(_) => return Ok(End::Gone),
                }
                if let Err(lie) = self.hand_in()? {
                    return Ok(End::Lied(lie));
                }
            } else if outside.contains(PollFlags::POLLHUP) {
                return Ok(End::Gone); // it has closed while the cable was full
            }
        }
    }

    /// Finishes frames of the data plane; says no when it has gone.
    fn take_from_cable(&mut self) -> io::Result<bool> {
        for _ in 0..FRAMES_A_TURN {
            if !self.framed.has_room() {
                break;
            }
            let flags = MsgFlags::MSG_DONTWAIT;
            let len = match recv(self.cable.as_raw_fd(), &mut self.datagram, flags) {
                Ok(0) => return Ok(false),
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(errno) => return Err(errno.into()),
            };
            let Some((header, frame)) = self.datagram[..len].split_first_chunk() else { continue };
            let Ok(header) = VnetHdr::parse(header) else { continue };
            let framed = &mut self.framed;
            let mtu = self.mtu.load(Ordering::Relaxed);
            // The switch lets nothing through that this refuses, but for a change of the MTU.
            let _ = self.finisher.finish(&header, frame, mtu, |done| framed.push(done));
        }
        Ok(true)
    }

    /// Writes what the peer takes; says no when it has gone.
    fn write_out(&mut self, mut peer: &UnixStream) -> bool {
        while !self.framed.unwritten().is_empty() {
            match peer.write(self.framed.unwritten()) {
                Ok(0) => return false,
                Ok(len) => self.framed.wrote(len),
                Err(error) if is_later(&error) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Gives whole frames to the data plane, as many as the cable takes.
    fn hand_in(&mut self) -> io::Result<Result<(), LyingLength>> {
        let header = [0; VnetHdr::LEN];
        loop {
            let frame = match self.unframer.frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(Ok(())),
                Err(lie) => return Ok(Err(lie)),
            };
            let parts = [IoSlice::new(&header), IoSlice::new(frame)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.cable.as_raw_fd(), &parts, &[], flags, None) {
                Ok(_) => self.unframer.advance(),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => return Ok(Ok(())),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
