//! A frame on its way: the bytes from destination MAC address to payload, and the virtio-net header
//! that came with them.
//!
//! What lies behind the packet is nobody's message: padding to 60 bytes that a driver filled with
//! whatever its memory held, or a channel that no rule looks into. [`Frame::trim`] leaves it out;
//! a tap and a tunnel carry frames of any length, so none is padded again.

use crate::vnet::VnetHdr;

/// Length, in bytes, of the Ethernet header; frames carry no FCS and no tag here.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Largest frame, in bytes, of any kind: a super-frame of 64 KiB as the kernel makes them.
pub const FRAME_LEN_MAX: usize = 65_535 + ETHERNET_HEADER_LEN;

/// Length, in bytes, of an ARP message for Ethernet and IPv4, the only one that is spoken.
pub(crate) const ARP_LEN: usize = 28;

/// One frame, or a TCP super-frame that stands for several.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the sender left to be done: checksum, segmentation.
    pub hdr: VnetHdr,
    /// Destination MAC address, source MAC address, EtherType, payload. Any length, any content.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// Cuts off what lies behind the packet, as the packet's own header has its length; a shorter
    /// slice, and no copy. A frame that carries nothing we know, or less than it says, stays as it
    /// is: [`crate::parse`] refuses it.
    pub fn trim(&mut self) {
        if let Some(bytes) = packet_end(self.bytes).and_then(|end| self.bytes.get(..end)) {
            self.bytes = bytes;
        }
    }
}

/// Returns where the packet ends, in bytes from the frame's start.
fn packet_end(frame: &[u8]) -> Option<usize> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>()?;
    let len = match [ethernet[12], ethernet[13]] {
        [0x08, 0x00] => match *packet.first_chunk::<4>()? {
            [_, _, high, low] => usize::from(u16::from_be_bytes([high, low])),
        },
        [0x86, 0xdd] => match *packet.first_chunk::<6>()? {
            [_, _, _, _, high, low] => 40 + usize::from(u16::from_be_bytes([high, low])),
        },
        [0x08, 0x06] => ARP_LEN,
        _ => return None,
    };
    Some(ETHERNET_HEADER_LEN + len)
}
