//! A frame on its way: the bytes from destination MAC address to payload, and the virtio-net header
//! that came with them.

use crate::vnet::VnetHdr;

/// Length, in bytes, of the Ethernet header; frames carry no FCS and no tag here.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Largest frame, in bytes, of any kind: a super-frame of 64 KiB as the kernel makes them.
pub const FRAME_LEN_MAX: usize = 65_535 + ETHERNET_HEADER_LEN;

/// One frame, or a TCP super-frame that stands for several.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the sender left to be done: checksum, segmentation.
    pub hdr: VnetHdr,
    /// Destination MAC address, source MAC address, EtherType, payload. Any length, any content.
    pub bytes: &'a [u8],
}
