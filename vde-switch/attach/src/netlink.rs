//! Netlink: asking the kernel for links, addresses, routes and the rules' generation, without a
//! program and without entering a namespace.
//!
//! # Theory of operation
//! A socket belongs for ever to the network namespace that its maker was in, so one that is opened
//! once inside a guest's namespace goes on asking and telling there, whatever thread holds it. All
//! integers are the machine's own, as the kernel's headers have it; what comes back is cut by
//! lengths that are checked, and what does not fit is left out.
//!
//! Source: linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

pub(crate) mod generation;
pub(crate) mod route;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;

/// Longest answer that is read at once, in bytes; the kernel makes none longer than 32 KiB.
const ANSWER_LEN_MAX: usize = 65_536;
/// Longest wait for an answer, in seconds: the kernel has it ready when the question was sent.
const ANSWER_WAIT_S: i64 = 5;
/// Times a list is asked for again that changed while it was read.
const RETRIES: u32 = 8;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(crate) const CREATE_NEW: u16 = 0x200 | 0x400;
const DUMP: u16 = 0x100 | 0x200;
const DUMP_CHANGED: u16 = 0x10;

/// The type of an attribute, without the flags in its upper bits.
const KIND_MASK: u16 = 0x3fff;

/// A question to the kernel.
#[derive(Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    bytes: Vec<u8>,
}

impl Message {
    /// Starts one of a kind, with the fixed part that the kind has.
    pub(crate) fn new(kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: 0, bytes: fixed.to_vec() }
    }

    pub(crate) fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    /// Appends an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(attribute(kind, value));
        self
    }

    fn finish(self, sequence: u32, flags: u16) -> Vec<u8> {
        let len = (HEADER_LEN + self.bytes.len()) as u32;
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(self.kind.to_ne_bytes());
        message.extend((self.flags | flags | REQUEST).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(self.bytes);
        message
    }
}

/// Writes an attribute, padded to 4 bytes; they nest.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = (ATTRIBUTE_LEN + value.len()) as u16;
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Reads attributes one after the other, each its kind and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk::<ATTRIBUTE_LEN>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(ATTRIBUTE_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND_MASK, value))
    })
}

/// Returns the value of the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A socket that asks the kernel, or hears what happens.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens one in the calling thread's network namespace, to ask with.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = Self::bound(protocol, 0, SockFlag::empty())?;
        setsockopt(&socket.fd, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_WAIT_S, 0))?;
        Ok(socket)
    }

    /// Opens one there that hears of these groups; `groups` has a bit for each.
    pub(crate) fn listen(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        Self::bound(protocol, groups, SockFlag::SOCK_NONBLOCK)
    }

    fn bound(protocol: SockProtocol, groups: u32, flags: SockFlag) -> io::Result<Self> {
        let flags = flags | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Forgets what has been heard, and says whether there was anything.
    pub(crate) fn drain(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut heard = false;
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) => heard = true,
                // More than the socket could hold.
                Err(nix::Error::ENOBUFS) => heard = true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return heard,
            }
        }
    }

    /// Has something done.
    pub(crate) fn order(&mut self, message: Message) -> io::Result<()> {
        let sequence = self.send(message, ACK)?;
        self.answers(sequence, |_, _| ()).map(drop)
    }

    /// Asks for one thing; each answer goes to `take`, with its kind.
    pub(crate) fn ask(&mut self, message: Message, take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let sequence = self.send(message, ACK)?;
        self.answers(sequence, take).map(drop)
    }

    /// Asks for a list.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..RETRIES {
            let mut list = Vec::new();
            let sequence = self.send(Message::new(kind, fixed), DUMP)?;
            if self.answers(sequence, |_, body| list.extend(read(body)))? {
                return Ok(list);
            }
        }
        Err(io::Error::other("the list changes faster than it can be read"))
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence, flags);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(self.sequence)
    }

    /// Reads until the question is answered; says whether the answers belong together.
    fn answers(&self, sequence: u32, mut take: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; ANSWER_LEN_MAX];
        let mut whole = true;
        loop {
            let len = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, flags, number, body) in messages(&buffer[..len]) {
                if number != sequence {
                    continue; // of a question that was given up
                }
                whole &= flags & DUMP_CHANGED == 0;
                match (kind, body.first_chunk::<4>()) {
                    (DONE, _) | (ERROR, Some([0, 0, 0, 0])) => return Ok(whole),
                    (ERROR, Some(code)) => {
                        let errno = i32::from_ne_bytes(*code).saturating_neg();
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => take(kind, body),
                }
            }
        }
    }
}

/// Reads messages one after the other: kind, flags, sequence number, body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, _, _, _, _] = *header;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = bytes.get(HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([k0, k1]);
        let flags = u16::from_ne_bytes([f0, f1]);
        Some((kind, flags, u32::from_ne_bytes([s0, s1, s2, s3]), body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let bytes = [attribute(3, b"eth0\0"), attribute(4, &[1, 2, 3, 4]), attribute(5, b"")];
        let bytes = bytes.concat();
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (4, &[1, 2, 3, 4]), (5, &[])]);
        assert_eq!(find(&bytes, 4).and_then(u32_of), Some(u32::from_ne_bytes([1, 2, 3, 4])));
        assert_eq!(find(&bytes, 6), None);
    }

    #[test]
    fn false_lengths_end_the_list() {
        for len in [0_u16, 3, 9, 0xffff] {
            let mut bytes = attribute(1, &[7; 4]);
            bytes[..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{len}");
        }
        for len in [0_u32, 15, 21, u32::MAX] {
            let mut bytes = Message::new(1, &[0; 4]).finish(1, 0);
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{len}");
        }
        assert_eq!(messages(&Message::new(9, &[5; 4]).finish(7, 0)).count(), 1);
    }
}
