//! What a seat and its pump say to each other, over a SEQPACKET socket.
//!
//! ```text
//! seat to pump: [0] and a descriptor: a peer    [1, MTU, 2 bytes]    end of the line: the end
//! pump to seat: [0]: the peer has gone          [1, length, 4 bytes]: it announced such a frame
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::framing::LyingLength;
use crate::sys::own;

/// Longest message, in bytes.
const LEN_MAX: usize = 5;

/// What a pump is told.
#[derive(Debug)]
pub(super) enum ToPump {
    /// A peer to serve.
    Peer(UnixStream),
    /// The segment's MTU, in bytes of L3.
    Mtu(u16),
    /// There is no seat any more.
    End,
}

/// What a pump tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromPump {
    /// The peer has gone.
    Gone,
    /// What it said cannot be believed.
    Lied(LyingLength),
}

pub(super) fn send(line: &OwnedFd, message: &ToPump) -> io::Result<()> {
    match message {
        ToPump::Peer(peer) => send_bytes(line, &[0], &[peer.as_raw_fd()]),
        ToPump::Mtu(mtu) => {
            let [high, low] = mtu.to_be_bytes();
            send_bytes(line, &[1, high, low], &[])
        }
        ToPump::End => Ok(()), // said by closing the line
    }
}

/// Returns the next message, if there is one; one of another form is left out.
pub(super) fn receive(line: &OwnedFd) -> io::Result<Option<ToPump>> {
    let mut bytes = [0; LEN_MAX];
    let Some((len, fd)) = receive_bytes(line, &mut bytes)? else { return Ok(None) };
    Ok(match (&bytes[..len], fd) {
        ([], _) => Some(ToPump::End),
        ([0], Some(peer)) => Some(ToPump::Peer(peer.into())),
        ([1, high, low], None) => Some(ToPump::Mtu(u16::from_be_bytes([*high, *low]))),
        _ => None,
    })
}

pub(super) fn send_news(line: &OwnedFd, news: FromPump) -> io::Result<()> {
    match news {
        FromPump::Gone => send_bytes(line, &[0], &[]),
        FromPump::Lied(LyingLength(length)) => {
            let [a, b, c, d] = length.to_be_bytes();
            send_bytes(line, &[1, a, b, c, d], &[])
        }
    }
}

/// Returns the next message of a pump, if there is one.
///
/// # Errors
/// When it says what is no message, or has ended.
pub(super) fn receive_news(line: &OwnedFd) -> io::Result<Option<FromPump>> {
    let mut bytes = [0; LEN_MAX];
    let Some((len, _)) = receive_bytes(line, &mut bytes)? else { return Ok(None) };
    match bytes[..len] {
        [0] => Ok(Some(FromPump::Gone)),
        [1, a, b, c, d] => {
            let lie = LyingLength(u32::from_be_bytes([a, b, c, d]));
            Ok(Some(FromPump::Lied(lie)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send_bytes(line: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
    Ok(())
}

/// Receives a message and its descriptor, if there is one.
fn receive_bytes(line: &OwnedFd, bytes: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    let mut space = cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(line.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(own));
        }
    }
    Ok(Some((message.bytes, fds.into_iter().next())))
}
