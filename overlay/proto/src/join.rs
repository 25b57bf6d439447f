//! Joins the segments of a super-frame again, so that the receiver's kernel sees one frame of up to
//! 64 KiB instead of 47.
//!
//! # Theory of operation
//! Only what one sender cut, in order, inside one batch is joined: same super-frame number,
//! consecutive indexes, same headers. A gap, a shorter segment or anything else ends the group, so
//! nothing is ever held back to wait. The first segment has passed the receiving port policy as a
//! frame of its own; of the later ones only the payload is used, so a peer cannot smuggle another
//! header in. Payloads stay where they were opened and are handed on as a list of parts.
//!
//! # Limits
//! One group at a time, [`PARTS_MAX`] segments, 64 KiB.

use std::io::IoSlice;
use std::ops::Range;

use vde_switch::vnet::{GSO_SIZE_MIN, GsoType, Ip, Layout, Transport, VnetHdr};

use crate::control::LocalPort;
use crate::cut::{adjust_sum, put16, sum_ipv4_header};
use crate::transmit::{Delivered, Io};
use crate::wire::shim::Flags;

/// Most segments in one frame handed on.
pub const PARTS_MAX: usize = 64;

/// Largest headers that a joined frame has: Ethernet 14, IPv4 60 or IPv6 40, TCP 60.
const HEAD_LEN_MAX: usize = 14 + 60 + 60;

/// Largest IP packet.
const PACKET_LEN_MAX: usize = 65_535;

const FIN_PSH: u8 = 0x09;
/// Flags with which a segment stands alone: FIN and PSH may end a group, the rest may not be in it.
const ALONE: u8 = 0x26;

/// A segment that may start or continue a group.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Where it goes.
    pub port: LocalPort,
    /// Whose super-frame, as the sender counts.
    pub number: u16,
    /// Position in it.
    pub index: u8,
    /// The shim's flags.
    pub flags: Flags,
    /// Where the frame is in the arena.
    pub range: Range<usize>,
}

#[derive(Debug)]
struct Group {
    port: LocalPort,
    number: u16,
    next: u8,
    ecn: bool,
    layout: Layout,
    gso_size: usize,
    total: usize,
    last_flags: u8,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Joiner {
    group: Option<Group>,
    head: [u8; HEAD_LEN_MAX],
    parts: Vec<Range<usize>>,
}

impl Default for Joiner {
    fn default() -> Self {
        Self { group: None, head: [0; HEAD_LEN_MAX], parts: Vec::with_capacity(PARTS_MAX) }
    }
}

impl Joiner {
    /// Appends a segment to the open group if it continues it; says whether it did.
    #[must_use]
    pub fn extend(&mut self, segment: &Segment, arena: &[u8]) -> bool {
        let Some(group) = &mut self.group else { return false };
        let frame = &arena[segment.range.clone()];
        let Layout { l3, l4, payload, ip, .. } = group.layout;
        let continues = segment.number == group.number
            && segment.index == group.next
            && segment.port == group.port
            && self.parts.len() < PARTS_MAX
            && group.total == self.parts.len() * group.gso_size
            && frame.len() > payload
            && frame.len() - payload <= group.gso_size
            && payload - l3 + group.total + frame.len() - payload <= PACKET_LEN_MAX;
        if !continues {
            return false;
        }
        let addresses = match ip {
            Ip::V4 => l3 + 12..l3 + 20,
            Ip::V6 => l3 + 8..l3 + 40,
        };
        let flags = frame[l4 + 13];
        let same = frame[..l3 + 1] == self.head[..l3 + 1]
            && frame[addresses.clone()] == self.head[addresses]
            && frame[l4..l4 + 4] == self.head[l4..l4 + 4]
            && frame[l4 + 12] == self.head[l4 + 12]
            && flags & ALONE == 0;
        if !same {
            return false;
        }
        group.total += frame.len() - payload;
        group.next = group.next.wrapping_add(1);
        group.last_flags = flags;
        self.parts.push(segment.range.start + payload..segment.range.end);
        true
    }

    /// Returns where the open group goes.
    #[must_use]
    pub fn port(&self) -> Option<LocalPort> {
        self.group.as_ref().map(|group| group.port)
    }

    /// Starts a group with a segment that the switch has admitted; whatever was open must have been
    /// finished before. `layout` is the segment's. Says no to what cannot lead a group: other than
    /// TCP, without payload, with a checksum that is complete, SYN, RST or URG.
    #[must_use]
    pub fn start(&mut self, segment: &Segment, layout: Layout, arena: &[u8]) -> bool {
        let frame = &arena[segment.range.clone()];
        let leads = layout.transport == Transport::Tcp
            && layout.end == frame.len()
            && layout.end - layout.payload >= usize::from(GSO_SIZE_MIN)
            && segment.flags.has(Flags::CSUM)
            && frame[layout.l4 + 13] & ALONE == 0;
        if !leads {
            return false;
        }
        self.head[..layout.payload].copy_from_slice(&frame[..layout.payload]);
        let gso_size = layout.end - layout.payload;
        self.parts.clear();
        self.parts.push(segment.range.start + layout.payload..segment.range.start + layout.end);
        self.group = Some(Group {
            port: segment.port,
            number: segment.number,
            next: segment.index.wrapping_add(1),
            ecn: segment.flags.has(Flags::ECN),
            layout,
            gso_size,
            total: gso_size,
            last_flags: frame[layout.l4 + 13],
        });
        true
    }

    /// Hands the open group on, if there is one.
    pub fn finish(&mut self, arena: &[u8], io: &mut impl Io) -> Option<Delivered> {
        let group = self.group.take()?;
        let Layout { l3, l4, payload, ip, .. } = group.layout;
        let head = &mut self.head[..payload];
        let mut hdr = VnetHdr {
            needs_csum: true,
            csum_start: l4 as u16,
            csum_offset: 16,
            ..VnetHdr::default()
        };
        if self.parts.len() > 1 {
            let packet_len = payload - l3 + group.total;
            match ip {
                Ip::V4 => {
                    put16(head, l3 + 2, packet_len);
                    sum_ipv4_header(&mut head[l3..l4]);
                    hdr.gso = GsoType::TcpV4;
                }
                Ip::V6 => {
                    put16(head, l3 + 4, payload - l4 + group.total);
                    hdr.gso = GsoType::TcpV6;
                }
            }
            let tcp_len = payload - l4;
            adjust_sum(
                head,
                l4 + 16,
                (tcp_len + group.gso_size) as u16,
                (tcp_len + group.total) as u16,
            );
            head[l4 + 13] |= group.last_flags & FIN_PSH;
            hdr.ecn = group.ecn;
            hdr.gso_size = group.gso_size as u16;
            hdr.hdr_len = payload as u16;
        }
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
        slices[0] = IoSlice::new(head);
        for (slice, part) in slices[1..].iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(&arena[part.clone()]);
        }
        Some(io.deliver(group.port, &hdr, &slices[..=self.parts.len()]))
    }
}

#[cfg(test)]
mod tests;
