//! Finishes frames in software, for cables that carry no virtio-net header: super-frames are cut
//! into whole packets, checksums that were left to be filled in are filled in.
//!
//! # Theory of operation
//! [`Finisher::finish`] takes a frame behind its virtio-net header, checks the header against the
//! frame as the switch does, and hands out complete frames one after the other, each built in the
//! one buffer that it keeps. Sums are computed from the packet itself, never from what the sender
//! had put into the field. A cut is done as Linux does it: the IPv4 id counts up, the TCP sequence
//! number moves on, FIN and PSH are the last segment's, CWR the first one's.
//!
//! # Limits
//! What [`VnetHdr::check`] refuses is refused here. A frame whose header asks for nothing passes as
//! it is: whether its sums are right is its sender's business.
//!
//! Source: RFC 1071 (sum), RFC 8200 §8.1 (pseudo-header), virtio 1.2, 5.1.6 (what is left undone).

use std::ops::Range;

use crate::vnet::{GsoType, Ip, Layout, Transport, VnetError, VnetHdr};

/// TCP flags of the last segment alone: FIN and PSH.
const FLAGS_LAST: u8 = 0x09;
/// TCP flag of the first segment alone: CWR.
const FLAGS_FIRST: u8 = 0x80;

/// Cuts and sums; keeps one buffer, of one segment's size.
#[derive(Debug, Default)]
pub struct Finisher {
    segment: Vec<u8>,
}

impl Finisher {
    /// Hands out the complete frames that `frame` stands for, in order.
    ///
    /// `hdr` is the frame's header as decoded; `mtu` in bytes, of L3, as for [`VnetHdr::check`].
    ///
    /// # Errors
    /// Those of [`VnetHdr::check`]; nothing is handed out then.
    pub fn finish(
        &mut self,
        hdr: &VnetHdr,
        frame: &[u8],
        mtu: u16,
        mut out: impl FnMut(&[u8]),
    ) -> Result<(), VnetError> {
        hdr.check(frame, mtu)?;
        if !hdr.needs_csum {
            out(frame);
            return Ok(());
        }
        let layout = Layout::of(frame).ok_or(VnetError::NoTransport)?;
        if hdr.gso == GsoType::None {
            self.segment.clear();
            self.segment.extend_from_slice(frame);
            sum_transport(&mut self.segment, &layout);
            out(&self.segment);
            return Ok(());
        }
        let step = usize::from(hdr.gso_size);
        let mut at = layout.payload;
        while at < layout.end {
            let end = layout.end.min(at + step);
            self.cut(frame, &layout, at..end, step);
            out(&self.segment);
            at = end;
        }
        Ok(())
    }

    /// Builds the segment that carries one range of the frame's payload, `step` bytes but the last.
    fn cut(&mut self, frame: &[u8], layout: &Layout, payload: Range<usize>, step: usize) {
        let segment = &mut self.segment;
        segment.clear();
        segment.extend_from_slice(&frame[..layout.payload]);
        segment.extend_from_slice(&frame[payload.clone()]);
        let offset = payload.start - layout.payload;
        let (is_first, is_last) = (offset == 0, payload.end == layout.end);
        let (l3, l4, end) = (layout.l3, layout.l4, segment.len());
        match layout.ip {
            Ip::V4 => {
                put16(segment, l3 + 2, low16(end - l3));
                let id = get16(segment, l3 + 4).wrapping_add(low16(offset / step));
                put16(segment, l3 + 4, id);
                put16(segment, l3 + 10, 0);
                let sum = fold(add(0, &segment[l3..l4]));
                put16(segment, l3 + 10, !sum);
            }
            Ip::V6 => put16(segment, l3 + 4, low16(end - l4)),
        }
        match layout.transport {
            Transport::Tcp => {
                let field: &mut [u8; 4] =
                    (&mut segment[l4 + 4..l4 + 8]).try_into().expect("four bytes are four");
                // At most 64 KiB: it fits.
                let moved = u32::try_from(offset).unwrap_or(u32::MAX);
                *field = u32::from_be_bytes(*field).wrapping_add(moved).to_be_bytes();
                if !is_first {
                    segment[l4 + 13] &= !FLAGS_FIRST;
                }
                if !is_last {
                    segment[l4 + 13] &= !FLAGS_LAST;
                }
            }
            Transport::Udp => put16(segment, l4 + 4, low16(end - l4)),
        }
        sum_transport(segment, &Layout { end, ..*layout });
    }
}

/// Fills in the checksum of the TCP or UDP segment of a frame.
fn sum_transport(frame: &mut [u8], layout: &Layout) {
    let (addresses, protocol) = match (layout.ip, layout.transport) {
        (Ip::V4, Transport::Tcp) => (layout.l3 + 12..layout.l3 + 20, 6),
        (Ip::V4, Transport::Udp) => (layout.l3 + 12..layout.l3 + 20, 17),
        (Ip::V6, Transport::Tcp) => (layout.l3 + 8..layout.l3 + 40, 6),
        (Ip::V6, Transport::Udp) => (layout.l3 + 8..layout.l3 + 40, 17),
    };
    let field = layout.l4 + usize::from(layout.transport.csum_offset());
    put16(frame, field, 0);
    let len = layout.end - layout.l4;
    let pseudo = add(protocol + len as u64, &frame[addresses]);
    let sum = !fold(add(pseudo, &frame[layout.l4..layout.end]));
    let sum = match (sum, layout.transport) {
        (0, Transport::Udp) => 0xffff, // 0 would mean that there is none
        (sum, _) => sum,
    };
    put16(frame, field, sum);
}

/// Adds bytes to a sum of 16-bit words; 64 KiB of them are far from its end.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let whole: u64 = words.by_ref().fold(sum, |sum, word| {
        sum + u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
    });
    words
        .remainder()
        .iter()
        .enumerate()
        .fold(whole, |sum, (i, byte)| sum + (u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 }))
}

/// Folds a sum to 16 bits, carries added back.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    low16(usize::try_from(sum).unwrap_or(0))
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn low16(value: usize) -> u16 {
    (value & 0xffff) as u16
}

#[cfg(test)]
mod tests;
