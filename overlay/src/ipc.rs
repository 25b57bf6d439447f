//! Messages between processes of one program: typed, bounded, with descriptors beside them.
//!
//! A message is one datagram of a SEQPACKET socket, postcard-encoded, at most [`MESSAGE_LEN_MAX`]
//! bytes, with at most [`FDS_MAX`] descriptors. The receiver takes the sender for hostile: what is
//! longer, cut, of another form or followed by more bytes is no message, and the descriptors that
//! came with it are closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::own;

/// Largest encoded message, in bytes: a datagram of a local socket stays below its default buffer.
pub const MESSAGE_LEN_MAX: usize = overlay_proto::control::MESSAGE_LEN_MAX;

/// Most descriptors beside one message.
pub const FDS_MAX: usize = 4;

/// Makes the two ends of a socket; neither blocks, neither is inherited.
///
/// # Errors
/// The system's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Returns a message's bytes.
///
/// # Errors
/// When it is longer than [`MESSAGE_LEN_MAX`].
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(bytes)
}

/// Reads a message from its bytes, all of them.
///
/// # Errors
/// When they are no such message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than a message")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Sends the bytes of a message, with descriptors beside it, without waiting.
///
/// # Errors
/// The system's: `WouldBlock` when the other end's queue is full.
pub fn send(socket: &impl AsRawFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
    Ok(())
}

/// Receives the bytes of a message and its descriptors, without waiting; no bytes are the end.
///
/// # Errors
/// The system's; `InvalidData` for one that was cut.
pub fn receive(socket: &impl AsRawFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MESSAGE_LEN_MAX];
    let mut space = cmsg_space!([RawFd; FDS_MAX]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a message that was cut");
    let mut fds = Vec::new();
    for control in message.cmsgs().map_err(|_| cut())? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(own));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(cut());
    }
    let len = message.bytes;
    buffer.truncate(len);
    Ok((buffer, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_and_the_end_is_no_bytes() {
        let (a, b) = pair().expect("a pair");
        let (c, _d) = pair().expect("a pair");
        let fds = [c.as_fd(), c.as_fd()];
        send(&a, &encode(&(7u16, "x")).expect("short"), &fds).expect("sent");
        let (bytes, fds) = receive(&b).expect("there");
        assert_eq!(
            (decode::<(u16, String)>(&bytes).expect("one"), fds.len()),
            ((7, "x".into()), 2)
        );
        assert_eq!(receive(&b).expect_err("none").kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(&b).expect("the end").0, [0; 0]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(encode(&vec![0u8; MESSAGE_LEN_MAX + 1]).is_err());
        assert!(decode::<u16>(&[1, 2]).is_err(), "trailing bytes");
        assert!(decode::<(u8, String)>(&[1, 200]).is_err(), "a length that lies");
        let (a, b) = pair().expect("a pair");
        send(&a, &vec![1; MESSAGE_LEN_MAX + 1], &[]).expect("sent");
        assert_eq!(receive(&b).expect_err("cut").kind(), io::ErrorKind::InvalidData);
        let many = [a.as_fd(); FDS_MAX + 1];
        send(&a, &[1], &many).expect("sent");
        assert_eq!(receive(&b).expect_err("cut").kind(), io::ErrorKind::InvalidData);
    }
}
