//! Which generation of rules a namespace has: a number that grows with each transaction.

use std::io;

use nix::sys::socket::SockProtocol;

use super::{Message, Socket, find};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GET: u16 = 10 << 8 | 16;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const IS: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`, big-endian.
const ID: u16 = 1;
/// `struct nfgenmsg`: any family, version 0.
const FIXED: [u8; 4] = [0; 4];
/// `NFNLGRP_NFTABLES`, 7, as a bit.
const CHANGES: u32 = 1 << 6;

/// Asks for the generation, and hears of changes.
#[derive(Debug)]
pub(crate) struct Rules {
    ask: Socket,
    pub(crate) heard: Socket,
}

impl Rules {
    /// Opens the sockets in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let ask = Socket::open(SockProtocol::NetlinkNetFilter)?;
        let heard = Socket::listen(SockProtocol::NetlinkNetFilter, CHANGES)?;
        Ok(Self { ask, heard })
    }

    /// Returns the number of the last transaction.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let mut id = None;
        self.ask.ask(Message::new(GET, &FIXED), |kind, body| {
            if kind == IS {
                let value = body.get(FIXED.len()..).and_then(|rest| find(rest, ID));
                id = value.and_then(|value| value.first_chunk()).map(|b| u32::from_be_bytes(*b));
            }
        })?;
        id.ok_or_else(|| io::Error::other("the kernel does not say which rules it has"))
    }
}
