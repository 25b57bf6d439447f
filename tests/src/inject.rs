//! Frames of any form, put onto an interface as its own host's.

use std::io;
use std::os::fd::OwnedFd;

use crate::sys;

/// Length of the virtio-net header in front of each frame of such a socket.
const VNET_HEADER_LEN: usize = 10;
/// Longest frame that needs no segmentation.
const PLAIN_LEN_MAX: usize = 1514;
/// Segments of a super-frame have this much payload, in bytes.
const SEGMENT_LEN: u16 = 1400;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and the flag that goes with it.
const GSO_TCPV4: u8 = 1;
const NEEDS_CHECKSUM: u8 = 1;

/// Opens a packet socket that sends on one interface of the calling thread's namespace; each
/// message begins with a virtio-net header ([`with_vnet_header`]).
///
/// # Errors
/// When there is no such interface.
pub fn frame_socket(interface: &str) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?.cast_signed();
    let socket = sys::packet_socket(index, 1 << 20, std::time::Duration::from_millis(1))?;
    sys::enable_vnet_header(&socket)?;
    Ok(socket)
}

/// Puts a virtio-net header in front: an empty one, or that of a TCP super-frame if it is long.
#[must_use]
pub fn with_vnet_header(frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    if frame.len() > PLAIN_LEN_MAX {
        let (header_len, start, offset): (u16, u16, u16) = (54, 34, 16);
        bytes[0] = NEEDS_CHECKSUM;
        bytes[1] = GSO_TCPV4;
        bytes[2..4].copy_from_slice(&header_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&SEGMENT_LEN.to_le_bytes());
        bytes[6..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    bytes.extend_from_slice(frame);
    bytes
}
