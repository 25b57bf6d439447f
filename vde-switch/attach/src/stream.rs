//! A guest's cable as a unix socket: QEMU's `-netdev stream` and what speaks like it.
//!
//! # Theory of operation
//! Two processes serve it, so that no byte of a guest is read by one with rights. A [`StreamSeat`]
//! has the path: it finds out again and again who calls whom. If somebody listens there, it is
//! called (QEMU with `server=on`); otherwise the path is listened at (QEMU as client, which calls
//! again if told so). A socket file that nobody listens at, left by a killed program, is replaced;
//! one that takes the place of ours, as QEMU's does when it starts later, is called. The connection
//! that comes of it is handed to a [`Pump`], which moves frames between it and a pair of SEQPACKET
//! sockets whose other end is the data plane's: there a datagram is one frame behind a virtio-net
//! header, as with a tap. Towards the peer frames are finished (cut and summed) before they are
//! written; from it they come finished, and their header is empty.
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
mod line;
mod place;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::unistd::{read, write};
use vde_switch::finish::Finisher;
use vde_switch::frame::FRAME_LEN_MAX;
use vde_switch::vnet::VnetHdr;

use self::framing::{Framed, LyingLength, Unframer};
use self::line::{FromPump, ToPump};
use self::place::Place;
pub use self::place::StreamError;

/// How often a peer is looked for while there is none.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// Kernel buffer of each direction of the pair, in bytes: some fifteen super-frames.
const PAIR_LEN: usize = 1 << 20;
/// Frames of one direction before the other has its turn.
const FRAMES_A_TURN: usize = 64;

/// What happened at a port, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamNews {
    /// A peer is there.
    Up,
    /// The peer has gone, or was sent away for a reason.
    Down(Option<LyingLength>),
    /// The pump has ended; the port is dead.
    Lost,
}

/// A place for a peer, found and taken; its socket file goes when this is dropped.
#[derive(Debug)]
pub struct StreamSeat {
    place: Place,
    /// To the pump, once there is one.
    line: Option<OwnedFd>,
    has_peer: bool,
}

/// What a pump is to be started with.
#[derive(Debug)]
pub struct PumpEnds {
    /// Its end of the line to the seat.
    pub line: OwnedFd,
    /// Its end of the pair.
    pub cable: OwnedFd,
}

impl StreamSeat {
    /// Takes the path: nobody else of this program's kind uses it from here on.
    ///
    /// # Errors
    /// [`StreamError`] says what is wrong with the path.
    pub fn take(path: &Path) -> Result<Self, StreamError> {
        Ok(Self { place: Place::take(path)?, line: None, has_peer: false })
    }

    /// Makes what a pump is started with, and the end that a data plane reads and writes.
    ///
    /// `mtu` is the segment's, in bytes of L3.
    ///
    /// # Errors
    /// The system's, when it has no socket left.
    pub fn open(&mut self, mtu: u16) -> io::Result<(PumpEnds, OwnedFd)> {
        let pair = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        };
        let ((ours, line), (cable, theirs)) = (pair()?, pair()?);
        for end in [&cable, &theirs] {
            // Not root, or not allowed: the usual size does, with more drops.
            let _ = setsockopt(end, sockopt::SndBufForce, &PAIR_LEN);
        }
        line::send(&ours, &ToPump::Mtu(mtu))?;
        self.line = Some(ours);
        Ok((PumpEnds { line, cable }, theirs))
    }

    /// Returns what is to be polled: when one of them can be read, [`StreamSeat::look`].
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.place.listener().filter(|_| !self.has_peer && self.line.is_some());
        self.line.as_ref().map(AsFd::as_fd).into_iter().chain(listener)
    }

    /// Hears the pump, and meets a peer if there is none; says what happened.
    ///
    /// To be called when there is something to read, and every [`LOOK_INTERVAL`].
    pub fn look(&mut self) -> Option<StreamNews> {
        let line = self.line.as_ref()?;
        match line::receive_news(line) {
            Ok(Some(FromPump::Gone)) => {
                self.has_peer = false;
                return Some(StreamNews::Down(None));
            }
            Ok(Some(FromPump::Lied(lie))) => {
                self.has_peer = false;
                return Some(StreamNews::Down(Some(lie)));
            }
            Ok(None) => {}
            Err(_) => {
                self.line = None;
                return Some(StreamNews::Lost);
            }
        }
        if self.has_peer {
            return None;
        }
        let peer = self.place.look()?;
        // A pump that does not listen is noticed by the next look.
        self.has_peer =
            peer.set_nonblocking(true).is_ok() && line::send(line, &ToPump::Peer(peer)).is_ok();
        self.has_peer.then_some(StreamNews::Up)
    }

    /// Follows the segment's MTU, in bytes of L3.
    pub fn set_mtu(&self, mtu: u16) {
        if let Some(line) = &self.line {
            // A pump that does not listen is noticed by the next look.
            let _ = line::send(line, &ToPump::Mtu(mtu));
        }
    }
}

/// What moves the frames.
pub struct Pump {
    line: OwnedFd,
    cable: OwnedFd,
    mtu: u16,
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

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pump(mtu {})", self.mtu)
    }
}

impl Pump {
    /// Takes what its seat has made for it.
    #[must_use]
    pub fn new(ends: PumpEnds) -> Self {
        Self {
            line: ends.line,
            cable: ends.cable,
            mtu: 0,
            finisher: Finisher::default(),
            datagram: vec![0; VnetHdr::LEN + FRAME_LEN_MAX].into(),
            unframer: Unframer::default(),
            framed: Framed::default(),
        }
    }

    /// Serves one peer after the other until the seat or the data plane is gone.
    ///
    /// # Errors
    /// The system's, when it cannot wait or write any more.
    pub fn run(&mut self) -> io::Result<()> {
        while let Some(peer) = self.wait_peer()? {
            self.unframer = Unframer::default();
            self.framed.clear();
            // What was meant for a guest that was not there is not for one that is.
            while read(&self.cable, &mut self.datagram).is_ok_and(|len| len > 0) {}
            let news = match self.serve(&peer)? {
                End::Stopped => return Ok(()),
                End::Gone => FromPump::Gone,
                End::Lied(lie) => FromPump::Lied(lie),
            };
            line::send_news(&self.line, news)?;
        }
        Ok(())
    }

    /// Waits until a peer is there; `None` when the port is to end.
    fn wait_peer(&mut self) -> io::Result<Option<UnixStream>> {
        loop {
            match line::receive(&self.line)? {
                Some(ToPump::Peer(peer)) => return Ok(Some(peer)),
                Some(ToPump::Mtu(mtu)) => self.mtu = mtu,
                Some(ToPump::End) => return Ok(None),
                None => {
                    let mut fds = [
                        PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
                        PollFd::new(self.cable.as_fd(), PollFlags::empty()),
                    ];
                    wait(&mut fds, PollTimeout::NONE)?;
                    if fds[1].any() == Some(true) {
                        return Ok(None);
                    }
                }
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
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.cable.as_fd(), on_cable),
                PollFd::new(peer.as_fd(), on_peer),
            ];
            wait(&mut fds, PollTimeout::NONE)?;
            let [line, cable, outside] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if cable.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(End::Stopped);
            }
            if !line.is_empty() {
                match line::receive(&self.line)? {
                    Some(ToPump::Mtu(mtu)) => self.mtu = mtu,
                    Some(ToPump::End) => return Ok(End::Stopped),
                    Some(ToPump::Peer(_)) | None => {} // there is one
                }
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
                match read(peer, self.unframer.room()) {
                    Ok(0) => return Ok(End::Gone),
                    Ok(len) => self.unframer.add(len),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
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
            let len = match read(&self.cable, &mut self.datagram) {
                Ok(0) => return Ok(false),
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(errno) => return Err(errno.into()),
            };
            let Some((header, frame)) = self.datagram[..len].split_first_chunk() else { continue };
            let Ok(header) = VnetHdr::parse(header) else { continue };
            let framed = &mut self.framed;
            let mtu = self.mtu;
            // The switch lets nothing through that this refuses, but for a change of the MTU.
            let _ = self.finisher.finish(&header, frame, mtu, |done| framed.push(done));
        }
        Ok(true)
    }

    /// Writes what the peer takes; says no when it has gone.
    fn write_out(&mut self, peer: &UnixStream) -> bool {
        while !self.framed.unwritten().is_empty() {
            match write(peer, self.framed.unwritten()) {
                Ok(0) => return false,
                Ok(len) => self.framed.wrote(len),
                Err(Errno::EAGAIN | Errno::EINTR) => return true,
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

#[cfg(test)]
mod tests;
