//! Captures: copies of a port's frames, for `pcap`.
//!
//! # Theory of operation
//! The asking command is handed one end of a SEQPACKET socket by the running program; the other
//! goes to the data plane, whose threads send each frame of the port there as one [`Record`] (see
//! `tee`). The command writes what comes as pcapng. Frames are cut to their headers by the data
//! plane, so that a payload which nobody asked for never leaves it. Closing either end ends it.
//!
//! # Limits
//! [`CAPTURES_MAX`] captures a lease. A command that reads too slowly misses records, and is told
//! how many; frames never wait.

mod headers;
mod pcapng;
mod save;
mod tee;

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::SndBuf,
    sockopt::SndBufForce,
};
use serde::{Deserialize, Serialize};

pub use headers::{HEADERS_LEN_MAX, headers_len};
pub use pcapng::{SNAPLEN_MAX, Writer};
pub use save::{PcapArgs, save};
pub(crate) use tee::Tee;
pub use tee::{CAPTURES_MAX, Way};

/// Bytes of records that wait for their reader: 20 ms of a port at 1.6 Gbit/s, whole.
const WAITING_LEN_MAX: usize = 4 << 20;

/// What the running program says of a port that it lets be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// A name for the port: `farm/g1`.
    pub name: String,
    /// Where it is, for people: `eth0 in netns g1`.
    pub words: String,
}

/// Makes both ends of a capture: the data plane's, which does not block, and the reader's.
///
/// # Errors
/// The system's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    // Without the right to force it, the system's limit is what it gets.
    setsockopt(&ours, SndBufForce, &WAITING_LEN_MAX)
        .or_else(|_| setsockopt(&ours, SndBuf, &WAITING_LEN_MAX))?;
    Ok((ours, theirs))
}

/// What stands before the bytes of a frame in one record.
///
/// ```text
/// +--------+-----------+--------------+--------------+---------------------+
/// | way, 1 | zero, 3   | frame len, 4 | left out, 8  | unix time in ns, 8  |   little-endian
/// +--------+-----------+--------------+--------------+---------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which way the frame went; `None` in a record without a frame, which only counts.
    pub way: Option<Way>,
    /// Bytes of the frame as it was, without FCS; a super-frame's, whole.
    pub frame_len: u32,
    /// Records that the reader has missed since the capture began.
    pub left_out: u64,
    /// When the frame passed, in nanoseconds since 1970.
    pub unix_ns: u64,
}

impl Record {
    /// Its bytes.
    pub const LEN: usize = 24;

    /// Reads a record and what follows; `None` if the bytes are none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, frame) = bytes.split_first_chunk::<{ Self::LEN }>()?;
        let (&[way, ..], rest) = header.split_first_chunk::<4>()?;
        let (frame_len, rest) = rest.split_first_chunk()?;
        let (left_out, rest) = rest.split_first_chunk()?;
        let (unix_ns, _) = rest.split_first_chunk()?;
        let way = match way {
            0 => None,
            1 => Some(Way::FromGuest),
            2 => Some(Way::ToGuest),
            _ => return None,
        };
        let record = Self {
            way,
            frame_len: u32::from_le_bytes(*frame_len),
            left_out: u64::from_le_bytes(*left_out),
            unix_ns: u64::from_le_bytes(*unix_ns),
        };
        Some((record, frame))
    }

    /// Writes it.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self.way {
            None => 0,
            Some(Way::FromGuest) => 1,
            Some(Way::ToGuest) => 2,
        };
        out[4..8].copy_from_slice(&self.frame_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.left_out.to_le_bytes());
        out[16..].copy_from_slice(&self.unix_ns.to_le_bytes());
        out
    }
}
