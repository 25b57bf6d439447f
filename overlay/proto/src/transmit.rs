//! The transmit buffer: datagrams are sealed into it side by side and leave by one system call.
//!
//! # Theory of operation
//! Datagrams of one destination are appended as long as they are as long as the first (the
//! *stride*); a shorter one ends the batch, as `UDP_SEGMENT` wants it. Super-frames, runs of small
//! frames and relayed datagrams all use this one routine. A batch leaves when the destination
//! changes, when it is full, and when its owner's turn ends.
//!
//! # Limits
//! [`BATCH_COUNT_MAX`] datagrams, [`BATCH_LEN_MAX`] bytes. What the socket does not take is dropped
//! and counted; nothing is queued here.
//!
//! Source: Linux `udp(7)`, UDP_SEGMENT.

use std::io::IoSlice;

use vde_switch::vnet::VnetHdr;

use crate::control::{LocalPort, Slot};
use crate::drop::{DropReason, Drops};
use crate::path::Via;
use crate::tunnel::{Engine, OUTPUT_LEN_MIN, sealed_len};
use crate::wire::relay::RelayHeader;

/// Most datagrams of one send: Linux's UDP_MAX_SEGMENTS before 6.x raised it.
pub const BATCH_COUNT_MAX: usize = 64;

/// Most bytes of one send: the largest IPv4 UDP payload.
pub const BATCH_LEN_MAX: usize = 65_507;

/// A batch above this leaves at the end of a frame rather than of the turn, so that the wire is
/// busy while the next super-frame is sealed. Bytes; a third of a super-frame.
pub const BATCH_LEN_EARLY: usize = 20_000;

/// What a core asks of its shell. Nothing here blocks; nothing fails silently.
pub trait Io {
    /// Hands a frame, in parts, to a local port.
    fn deliver(&mut self, port: LocalPort, hdr: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered;

    /// Sends datagrams of `stride` bytes each, the last one perhaps shorter.
    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent;
}

/// What became of a frame at a local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The attachment has it.
    Done,
    /// Its queue is full.
    Full,
    /// There is no such attachment any more.
    Gone,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The socket has it.
    Done,
    /// Its buffer is full.
    Full,
    /// Larger than the path's first hop carries.
    TooLong,
    /// The system refused.
    Failed,
}

/// Where a sealed datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which tunnel.
    pub slot: Slot,
    /// Address pair.
    pub via: Via,
    /// Header in front, when the gateway hands it on.
    pub relay: Option<RelayHeader>,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct TxBatch {
    buffer: Vec<u8>,
    used: usize,
    stride: usize,
    count: usize,
    closed: bool,
    to: Option<Destination>,
    payload: Vec<u8>,
    narrowed: Option<Slot>,
}

/// Room for one payload, in bytes: an underlay of 9000 bytes and some.
const PAYLOAD_ROOM: usize = 9_216;

impl Default for TxBatch {
    fn default() -> Self {
        Self {
            buffer: vec![0; BATCH_LEN_MAX + PAYLOAD_ROOM],
            used: 0,
            stride: 0,
            count: 0,
            closed: false,
            to: None,
            payload: vec![0; PAYLOAD_ROOM],
            narrowed: None,
        }
    }
}

impl TxBatch {
    /// Seals a payload of `payload_len` bytes, written by `fill`, behind the ones before it.
    ///
    /// # Errors
    /// [`DropReason::TooLong`] and [`DropReason::NotSealed`]; the caller counts.
    pub fn push(
        &mut self,
        engine: &mut dyn Engine,
        to: Destination,
        payload_len: usize,
        fill: impl FnOnce(&mut [u8]),
        drops: &Drops,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let Some(payload) = self.payload.get_mut(..payload_len) else {
            return Err(DropReason::TooLong);
        };
        fill(payload);
        let len = to.relay.map_or(0, |_| RelayHeader::LEN) + sealed_len(payload_len);
        self.make_room(to, len, drops, io);
        let header_len = self.emit_relay(to);
        let end = self.used + header_len + sealed_len(payload_len).max(OUTPUT_LEN_MIN);
        let out = &mut self.buffer[self.used + header_len..end];
        match engine.seal(&self.payload[..payload_len], out) {
            Some(sealed) => {
                self.commit(to, header_len + sealed);
                Ok(())
            }
            None => Err(DropReason::NotSealed),
        }
    }

    /// Appends a datagram that is sealed already: a handshake message, or one to be handed on.
    pub fn push_sealed(&mut self, to: Destination, sealed: &[u8], drops: &Drops, io: &mut impl Io) {
        let len = to.relay.map_or(0, |_| RelayHeader::LEN) + sealed.len();
        if len > BATCH_LEN_MAX {
            return drops.add(DropReason::TooLong, 1);
        }
        self.make_room(to, len, drops, io);
        let header_len = self.emit_relay(to);
        let start = self.used + header_len;
        self.buffer[start..start + sealed.len()].copy_from_slice(sealed);
        self.commit(to, len);
    }

    /// Sends what is there.
    pub fn flush(&mut self, drops: &Drops, io: &mut impl Io) {
        let Some(to) = self.to.take() else { return };
        let count = self.count as u64;
        match io.transmit(to.via, self.stride, &self.buffer[..self.used]) {
            Sent::Done => {}
            Sent::Full => drops.add(DropReason::SocketFull, count),
            Sent::Failed => drops.add(DropReason::SocketError, count),
            Sent::TooLong => {
                drops.add(DropReason::PathNarrowed, count);
                self.narrowed = Some(to.slot);
            }
        }
        (self.used, self.stride, self.count, self.closed) = (0, 0, 0, false);
    }

    /// Sends what is there if it is enough to keep the wire busy.
    pub fn flush_early(&mut self, drops: &Drops, io: &mut impl Io) {
        if self.used > BATCH_LEN_EARLY {
            self.flush(drops, io);
        }
    }

    /// Returns the member whose path proved too narrow for the latest batch, once.
    pub const fn take_narrowed(&mut self) -> Option<Slot> {
        self.narrowed.take()
    }

    fn make_room(&mut self, to: Destination, len: usize, drops: &Drops, io: &mut impl Io) {
        let fits = self.count < BATCH_COUNT_MAX
            && self.used + len <= BATCH_LEN_MAX
            && len <= self.stride
            && !self.closed
            && self.to.is_some_and(|current| current.via == to.via);
        if self.count > 0 && !fits {
            self.flush(drops, io);
        }
    }

    fn emit_relay(&mut self, to: Destination) -> usize {
        let Some(header) = to.relay else { return 0 };
        let out = self.buffer[self.used..].first_chunk_mut();
        header.emit(out.expect("make_room left room for a header"));
        RelayHeader::LEN
    }

    const fn commit(&mut self, to: Destination, len: usize) {
        if self.count == 0 {
            self.stride = len;
            self.to = Some(to);
        } else if len < self.stride {
            self.closed = true;
        }
        self.used += len;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Wire(Vec<(usize, usize)>);

    impl Io for Wire {
        fn deliver(&mut self, _: LocalPort, _: &VnetHdr, _: &[IoSlice<'_>]) -> Delivered {
            Delivered::Gone
        }
        fn transmit(&mut self, _: Via, stride: usize, datagrams: &[u8]) -> Sent {
            self.0.push((stride, datagrams.len()));
            Sent::Done
        }
    }

    fn to(last: u8) -> Destination {
        let remote = ([192, 0, 2, last], 7770).into();
        Destination { slot: Slot(1), via: Via { remote, local: None }, relay: None }
    }

    #[test]
    fn equal_lengths_share_a_send_and_a_shorter_one_ends_it() {
        let (mut batch, mut wire, drops) = (TxBatch::default(), Wire::default(), Drops::default());
        for len in [100, 100, 40, 40, 100, 120] {
            batch.push_sealed(to(1), &vec![0; len], &drops, &mut wire);
        }
        batch.flush(&drops, &mut wire);
        assert_eq!(wire.0, [(100, 240), (40, 40), (100, 100), (120, 120)]);
    }

    #[test]
    fn another_destination_and_a_full_batch_start_a_new_send() {
        let (mut batch, mut wire, drops) = (TxBatch::default(), Wire::default(), Drops::default());
        for _ in 0..=BATCH_COUNT_MAX {
            batch.push_sealed(to(1), &[0; 64], &drops, &mut wire);
        }
        batch.push_sealed(to(2), &[0; 64], &drops, &mut wire);
        batch.push_sealed(to(2), &[0; 60_000], &drops, &mut wire);
        batch.push_sealed(to(2), &[0; 60_000], &drops, &mut wire);
        batch.flush(&drops, &mut wire);
        let lens: Vec<_> = wire.0.iter().map(|(_, len)| *len).collect();
        assert_eq!(lens, [64 * BATCH_COUNT_MAX, 64, 64, 60_000, 60_000]);
        batch.push_sealed(to(1), &vec![0; BATCH_LEN_MAX + 1], &drops, &mut wire);
        assert_eq!(drops.get(DropReason::TooLong), 1);
    }
}
