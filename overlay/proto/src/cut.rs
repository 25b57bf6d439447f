//! Cuts frames to what a path carries: TCP super-frames into complete segments, others into pieces.
//!
//! Each segment is a whole frame with headers of its own, so a lost datagram costs one segment, as
//! on a real wire. Headers are patched, never summed: the checksum is completed by the receiver's
//! kernel, so only the pseudo-header's length changes (RFC 1624). A SYN has its MSS clamped to what
//! the path carries, so that later super-frames need no second cut.

use vde_switch::vnet::{Ip, Layout};

/// Most segments of a super-frame: their index is one byte.
pub const SEGMENTS_MAX: usize = 256;

/// Most pieces of a frame: 9000 bytes on a path of 1280 are 8.
pub const PIECES_MAX: usize = 16;

/// TCP flags: FIN and PSH belong to the last segment, CWR to the first.
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
const SYN: u8 = 0x02;

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    layout: Layout,
    /// Payload bytes of each segment but the last.
    pub gso_size: usize,
    /// How many segments there are.
    pub count: usize,
    payload_len: usize,
    ecn: bool,
}

impl Cut {
    /// Plans the cut of a TCP frame whose segments may have `frame_len_max` bytes, header included.
    /// `gso_size` is what the sender's kernel wants, 0 for a single frame. `None` if it cannot be
    /// done: nothing to cut, or more than [`SEGMENTS_MAX`].
    #[must_use]
    pub fn plan(layout: Layout, frame_len_max: usize, gso_size: usize, ecn: bool) -> Option<Self> {
        let payload_len = layout.end.checked_sub(layout.payload)?;
        let room = frame_len_max.checked_sub(layout.payload)?;
        let gso_size = if gso_size == 0 { room } else { gso_size.min(room) };
        if gso_size == 0 || payload_len == 0 {
            return None;
        }
        let count = payload_len.div_ceil(gso_size);
        (count <= SEGMENTS_MAX).then_some(Self { layout, gso_size, count, payload_len, ecn })
    }

    /// Returns the length of segment `index`, headers included, in bytes.
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        let start = index * self.gso_size;
        self.layout.payload + self.gso_size.min(self.payload_len - start)
    }

    /// Writes segment `index` of `frame` to `out`, which has exactly its length.
    pub fn write_segment(&self, frame: &[u8], index: usize, out: &mut [u8]) {
        let Layout { l3, l4, payload, end, .. } = self.layout;
        let start = index * self.gso_size;
        let len = out.len() - payload;
        out[..payload].copy_from_slice(&frame[..payload]);
        out[payload..].copy_from_slice(&frame[payload + start..payload + start + len]);
        match self.layout.ip {
            Ip::V4 => {
                put16(out, l3 + 2, out.len() - l3);
                let id = get16(frame, l3 + 4).wrapping_add(index as u16);
                out[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
                sum_ipv4_header(&mut out[l3..l4]);
            }
            Ip::V6 => put16(out, l3 + 4, out.len() - l4),
        }
        let sequence = get32(frame, l4 + 4).wrapping_add(start as u32);
        out[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < self.count {
            out[l4 + 13] &= !FIN_PSH;
        }
        if index > 0 && self.ecn {
            out[l4 + 13] &= !CWR;
        }
        adjust_sum(out, l4 + 16, (end - l4) as u16, (payload - l4 + len) as u16);
    }
}

/// Lowers the MSS option of a SYN to what segments of `frame_len_max` bytes carry. `csum` says
/// whether the checksum is still to be completed, in which case it covers no payload or option yet.
pub fn clamp_mss(frame: &mut [u8], layout: Layout, frame_len_max: usize, needs_csum: bool) {
    let Layout { l4, payload, .. } = layout;
    if frame[l4 + 13] & SYN == 0 {
        return;
    }
    // MSS counts payload without options (RFC 6691).
    let mss_max = frame_len_max.saturating_sub(l4 + 20);
    let mut at = l4 + 20;
    while at + 1 < payload {
        match (frame[at], frame[at + 1]) {
            (0, _) => return,
            (1, _) => at += 1,
            (2, 4) if at + 4 <= payload => {
                let mss = get16(frame, at + 2);
                if usize::from(mss) > mss_max {
                    put16(frame, at + 2, mss_max);
                    if !needs_csum {
                        // An option may start at an odd offset; the sum then sees its bytes
                        // swapped.
                        let (old, new) = (mss, mss_max as u16);
                        let odd = (at + 2 - l4) % 2 == 1;
                        let (old, new) =
                            if odd { (old.swap_bytes(), new.swap_bytes()) } else { (old, new) };
                        let sum = !get16(frame, l4 + 16);
                        let sum = !fold(u32::from(sum) + u32::from(!old) + u32::from(new));
                        frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
                    }
                }
                return;
            }
            (_, len) if len >= 2 => at += usize::from(len),
            _ => return,
        }
    }
}

/// Changes the length in a pseudo-header's sum, which is stored uncomplemented until completed.
pub fn adjust_sum(frame: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = fold(u32::from(get16(frame, at)) + u32::from(!old) + u32::from(new));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Computes the checksum of an IPv4 header in place.
pub fn sum_ipv4_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = header.chunks_exact(2).map(|pair| u32::from(get16(pair, 0))).sum();
    let sum = !fold(sum);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a length that is known to fit, since frames are bounded by 64 KiB.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("lengths inside a frame fit 16 bits");
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
