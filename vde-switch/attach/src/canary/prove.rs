//! Sends canaries through a wire and says whether it did what it is for.
//!
//! # Theory of operation
//! A link that was just brought up may lose frames until the kernel's link watch has run, which a
//! busy host does late: the first frame is sent again until it has come out. From then on no frame
//! may be lost. What must pass is sent one by one, and each must come out as it went in. What must
//! not is sent in one go, with a frame that passes behind it: when that one has come out, nothing
//! else may have. A frame that the kernel refuses to take has been stopped, too.
//!
//! # Limits
//! [`WAIT_MAX`] for each frame that must pass, [`FIRST_TRIES_MAX`] times [`FIRST_PAUSE`] for the
//! first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Canary, Side, catalogue};
use crate::sys;
use crate::tap::VNET_HDR_LEN;
use crate::wire::spec::WireSpec;

/// Longest wait for a frame that must come out, in milliseconds; it takes microseconds.
const WAIT_MAX: u16 = 2000;
/// How often the first frame is sent, and the pause between, in milliseconds.
const FIRST_TRIES_MAX: u32 = 50;
const FIRST_PAUSE: u16 = 100;
/// How long nothing may come behind the last frame, in milliseconds.
const QUIET: u16 = 10;
/// Longest frame with its header, in bytes.
const FRAME_LEN_MAX: usize = 65_549 + VNET_HDR_LEN as usize;

/// The virtio-net header of a packet socket: without the last two bytes, the number of buffers.
const PACKET_HDR_LEN: usize = 10;

/// What the canaries have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Frames that came out, as they must.
    pub passed: usize,
    /// Frames that did not, as they must not.
    pub stopped: usize,
    /// Of those, frames that the kernel did not take.
    pub refused: usize,
}

/// Why a wire is not one.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// Something speaks there by itself.
    #[error("somebody speaks on the guest's wire before the guest: {0:02x?}")]
    Noise(Vec<u8>),
    /// A frame passed that must not.
    #[error("the guest's wire lets pass what it must stop: {0}, {1}")]
    Passed(&'static str, &'static str),
    /// A frame did not pass that must.
    #[error("the guest's wire stops what it must let pass: {0}, {1}")]
    Stopped(&'static str, &'static str),
    /// The system refuses.
    #[error("the guest's wire cannot be tried")]
    System(#[from] io::Error),
}

/// One end of a wire, to speak and to listen at.
pub(crate) trait End {
    /// Sends a frame with its virtio-net header of 12 bytes.
    fn send(&mut self, vnet: &[u8; 12], frame: &[u8]) -> io::Result<()>;
    /// Takes a frame that has come, if one has.
    fn take<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>>;
    /// What to wait for.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// An end whose descriptor is a tap's, with 12-byte virtio-net headers.
#[derive(Debug)]
pub struct TapEnd(File);

impl TapEnd {
    /// Takes a copy of the descriptor, which does not block.
    ///
    /// # Errors
    /// When the system refuses the copy.
    pub fn new(tap: impl AsFd) -> io::Result<Self> {
        Ok(Self(tap.as_fd().try_clone_to_owned()?.into()))
    }
}

impl End for TapEnd {
    fn send(&mut self, vnet: &[u8; 12], frame: &[u8]) -> io::Result<()> {
        self.0.write(&[vnet, frame].concat()).map(drop)
    }

    fn take<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        read(&mut self.0, buffer, VNET_HDR_LEN.into())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An end that is an interface, spoken to by a packet socket.
#[derive(Debug)]
pub(crate) struct PacketEnd(File);

impl PacketEnd {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        let socket: OwnedFd = sys::packet_socket(index)?;
        Ok(Self(socket.into()))
    }
}

impl End for PacketEnd {
    fn send(&mut self, vnet: &[u8; 12], frame: &[u8]) -> io::Result<()> {
        self.0.write(&[&vnet[..PACKET_HDR_LEN], frame].concat()).map(drop)
    }

    fn take<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        read(&mut self.0, buffer, PACKET_HDR_LEN)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read<'a>(file: &mut File, buffer: &'a mut [u8], skip: usize) -> io::Result<Option<&'a [u8]>> {
    match file.read(buffer) {
        Ok(len) => Ok(Some(buffer[..len].get(skip..).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a guest's canaries through a wire whose links are up and whose ends nobody else holds.
///
/// # Errors
/// [`CanaryError`], the first that is seen.
pub fn prove(spec: &WireSpec, guest: &mut TapEnd, data: &mut TapEnd) -> Result<Proof, CanaryError> {
    prove_ends(&catalogue(spec), guest, data)
}

/// The same for any kinds of ends and any list.
pub(crate) fn prove_ends(
    canaries: &[Canary],
    guest: &mut dyn End,
    data: &mut dyn End,
) -> Result<Proof, CanaryError> {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    silent(guest, &mut buffer)?;
    silent(data, &mut buffer)?;
    let mut proof = Proof::default();
    for side in [Side::Guest, Side::Data] {
        let (from, to): (&mut dyn End, &mut dyn End) = match side {
            Side::Guest => (&mut *guest, &mut *data),
            Side::Data => (&mut *data, &mut *guest),
        };
        let of = |legal: bool| {
            let all = canaries.iter().filter(move |canary| canary.from == side);
            all.filter(move |canary| canary.stopped.is_none() == legal)
        };
        if let Some(first) = of(true).next() {
            pass_at_last(first, from, to, &mut buffer)?;
        }
        for canary in of(true) {
            pass(canary, from, to, &mut buffer)?;
            proof.passed += 1;
        }
        for canary in of(false) {
            proof.stopped += 1;
            proof.refused += usize::from(from.send(&canary.vnet, &canary.frame).is_err());
        }
        let Some(last) = of(true).next() else { continue };
        from.send(&last.vnet, &last.frame)?;
        match wait(to, WAIT_MAX, &mut buffer)? {
            Some(frame) if frame == last.frame => {}
            Some(frame) => return Err(name(frame, of(false))),
            None => return Err(CanaryError::Stopped(last.id, last.name)),
        }
        if let Some(frame) = wait(to, QUIET, &mut buffer)? {
            return Err(name(frame, of(false)));
        }
    }
    Ok(proof)
}

/// Nothing comes before anything was sent.
fn silent(end: &mut dyn End, buffer: &mut [u8]) -> Result<(), CanaryError> {
    match wait(end, QUIET, buffer)? {
        Some(frame) => Err(CanaryError::Noise(frame[..frame.len().min(60)].to_vec())),
        None => Ok(()),
    }
}

/// Sends a frame again and again until it comes out, and takes the copies.
fn pass_at_last(
    canary: &Canary,
    from: &mut dyn End,
    to: &mut dyn End,
    buffer: &mut [u8],
) -> Result<(), CanaryError> {
    for attempt in 0..FIRST_TRIES_MAX {
        // Refused, as long as the link is not quite up.
        let _ = from.send(&canary.vnet, &canary.frame);
        let mut pause = FIRST_PAUSE;
        let mut has_passed = false;
        while let Some(frame) = wait(to, pause, buffer)? {
            if frame != canary.frame {
                return Err(CanaryError::Noise(frame[..frame.len().min(60)].to_vec()));
            }
            // Where one was late, its copies are.
            (pause, has_passed) = (if attempt == 0 { QUIET } else { FIRST_PAUSE }, true);
        }
        if has_passed {
            return Ok(());
        }
    }
    Err(CanaryError::Stopped(canary.id, canary.name))
}

fn pass(
    canary: &Canary,
    from: &mut dyn End,
    to: &mut dyn End,
    buffer: &mut [u8],
) -> Result<(), CanaryError> {
    let stopped = CanaryError::Stopped(canary.id, canary.name);
    if from.send(&canary.vnet, &canary.frame).is_err() {
        return Err(stopped);
    }
    match wait(to, WAIT_MAX, buffer)? {
        Some(frame) if frame == canary.frame => Ok(()),
        _ => Err(stopped),
    }
}

/// Says which frame has come out that must not.
fn name<'a>(frame: &[u8], mut hostile: impl Iterator<Item = &'a Canary>) -> CanaryError {
    match hostile.find(|canary| canary.frame == frame) {
        Some(canary) => CanaryError::Passed(canary.id, canary.name),
        None => CanaryError::Noise(frame[..frame.len().min(60)].to_vec()),
    }
}

/// Takes the next frame, if one comes in so many milliseconds.
fn wait<'a>(
    end: &mut dyn End,
    milliseconds: u16,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a [u8]>> {
    loop {
        let mut polled = [PollFd::new(end.fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(0) => return Ok(None),
            Ok(_) => return end.take(buffer),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
