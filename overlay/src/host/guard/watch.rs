//! Word of changes to the host's packet filter, by netlink.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::TABLE;

/// NFNLGRP_NFTABLES, as a bit of a mask.
const GROUP: u32 = 1 << (7 - 1);
/// Longer than the kernel's longest message of the group.
const MESSAGE_LEN_MAX: usize = 1 << 16;
/// Most messages that are read in a row, so that a flood of them holds nobody.
const MESSAGES_MAX: usize = 4096;

/// A socket that becomes readable when the packet filter changes.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

impl Watch {
    /// Watches the calling thread's network namespace from now on.
    pub(super) fn new() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reads what there is; says whether any of it names our table or was lost. Nothing else is
    /// read from the messages: what became of the table is asked of `nft`.
    pub(super) fn touched(&self) -> io::Result<bool> {
        let mut name = TABLE.as_bytes().to_vec();
        name.push(0);
        let mut touched = false;
        let mut message = vec![0; MESSAGE_LEN_MAX];
        for _ in 0..MESSAGES_MAX {
            match recv(self.0.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(len) => {
                    let message = message.get(..len).unwrap_or(&message);
                    touched |= message.windows(name.len()).any(|part| part == name);
                }
                Err(Errno::EAGAIN) => return Ok(touched),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => touched = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}
