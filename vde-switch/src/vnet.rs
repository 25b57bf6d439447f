//! The 12-byte virtio-net header that travels with a frame (virtio 1.2, 5.1.6; `struct
//! virtio_net_hdr_v1`, little-endian).
//!
//! ```text
//! +-------+----------+-----------+-----------+-------------+--------------+--------------+
//! | flags | gso type | hdr_len   | gso_size  | csum_start  | csum_offset  | num_buffers  |
//! +-------+----------+-----------+-----------+-------------+--------------+--------------+
//! ```
//!
//! A kernel that is handed such a header computes with it, so a guest or a peer could make it read
//! and write where no header is. [`VnetHdr::parse`] refuses every bit we do not speak,
//! [`VnetHdr::check`] compares the rest with the frame itself: what it says must be what we would
//! have said.

use crate::frame::{ETHERNET_HEADER_LEN, FRAME_LEN_MAX};

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Least bytes a segment carries. Linux sends none smaller than an MSS of 536 without being told
/// to; fewer would make one super-frame thousands of frames.
pub const GSO_SIZE_MIN: u16 = 256;

/// Which segmentation the frame still needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoType {
    /// None: one frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP (`UDP_L4`), over either.
    UdpL4,
}

/// A virtio-net header, decoded. Decoded is not checked: see [`VnetHdr::check`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// The L4 checksum field holds the pseudo-header sum only; the rest is to be added from
    /// `csum_start` to the end.
    pub needs_csum: bool,
    /// The kernel has verified the checksum.
    pub data_valid: bool,
    /// How to cut the frame.
    pub gso: GsoType,
    /// TCP super-frame whose first segment alone carries CWR.
    pub ecn: bool,
    /// Length of the headers, in bytes, as the sender says. Never believed.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum starts, in bytes from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`.
    pub csum_offset: u16,
}

/// Why a virtio-net header is refused. The sender's doing, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Flags we do not speak, or two that exclude each other.
    #[error("flags {0:#04x} are not spoken here")]
    Flags(u8),
    /// A segmentation we do not speak: UFO, tunnels, ECN without TCP.
    #[error("segmentation type {0:#04x} is not spoken here")]
    GsoType(u8),
    /// A frame of so many bytes that is no super-frame, or one beyond all bounds.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Something is to be computed, but the frame is no whole TCP or UDP packet.
    #[error("there is no transport header to compute with")]
    NoTransport,
    /// The checksum is not where the frame's own headers put it.
    #[error("the checksum at {start} + {offset} is not the frame's")]
    Checksum {
        /// As the header says.
        start: u16,
        /// As the header says.
        offset: u16,
    },
    /// To be cut, but checksums are not to be filled in.
    #[error("segmentation without checksum")]
    NoChecksum,
    /// The segmentation is not that of the frame's protocol.
    #[error("the segmentation is not for this protocol")]
    Protocol,
    /// SYN, RST or URG, which cannot be cut.
    #[error("TCP flags {0:#04x} cannot be segmented")]
    TcpFlags(u8),
    /// Segments would be too small, or too large for the segment's MTU.
    #[error("segments of {0} bytes do not suit the mtu")]
    GsoSize(u16),
    /// The super-frame is not exactly one packet, or has nothing to cut.
    #[error("the super-frame is not one whole packet with a payload")]
    Extent,
}

/// Where the parts of a TCP or UDP frame are, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IP version.
    pub ip: Ip,
    /// Protocol above it.
    pub transport: Transport,
    /// Start of the IP header.
    pub l3: usize,
    /// Start of the TCP or UDP header.
    pub l4: usize,
    /// Start of the payload, which is the end of the headers.
    pub payload: usize,
    /// End of the packet; what follows is padding.
    pub end: usize,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A protocol whose checksum and segmentation can be offloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl VnetHdr {
    /// Length, in bytes, on a tap and in a tunnel.
    pub const LEN: usize = 12;

    /// Decodes a header as a tap or a peer gives it.
    ///
    /// Fields without a meaning (`gso_size` of a frame that is not to be cut, and so on) are read
    /// as zero, so that nothing hidden in them travels on; a tap leaves `num_buffers` as it was.
    ///
    /// # Errors
    /// [`VnetError::Flags`], [`VnetError::GsoType`].
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, VnetError> {
        let [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *bytes;
        let (needs_csum, data_valid) = match flags {
            0 => (false, false),
            FLAG_NEEDS_CSUM => (true, false),
            FLAG_DATA_VALID => (false, true),
            _ => return Err(VnetError::Flags(flags)),
        };
        let (gso, ecn) = match kind {
            GSO_NONE => (GsoType::None, false),
            GSO_TCPV4 => (GsoType::TcpV4, false),
            GSO_TCPV6 => (GsoType::TcpV6, false),
            GSO_UDP_L4 => (GsoType::UdpL4, false),
            0x81 => (GsoType::TcpV4, true),
            0x84 => (GsoType::TcpV6, true),
            _ => return Err(VnetError::GsoType(kind)),
        };
        let mut header = Self {
            needs_csum,
            data_valid,
            gso,
            ecn,
            hdr_len: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
        };
        if !matches!(gso, GsoType::None) {
            header.hdr_len = u16::from_le_bytes([h0, h1]);
            header.gso_size = u16::from_le_bytes([g0, g1]);
        }
        if needs_csum {
            header.csum_start = u16::from_le_bytes([s0, s1]);
            header.csum_offset = u16::from_le_bytes([o0, o1]);
        }
        Ok(header)
    }

    /// Writes the header, `num_buffers` zero as taps have it.
    pub const fn emit(&self, out: &mut [u8; Self::LEN]) {
        let flags = if self.needs_csum {
            FLAG_NEEDS_CSUM
        } else if self.data_valid {
            FLAG_DATA_VALID
        } else {
            0
        };
        let kind = match self.gso {
            GsoType::None => GSO_NONE,
            GsoType::TcpV4 => GSO_TCPV4,
            GsoType::TcpV6 => GSO_TCPV6,
            GsoType::UdpL4 => GSO_UDP_L4,
        };
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let kind = if self.ecn { kind | GSO_ECN } else { kind };
        *out = [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0];
    }

    /// Compares what the header says with the frame, for a segment of this `mtu` (L3 bytes).
    ///
    /// What passes is safe to hand to a kernel: the checksum field is that of the only TCP or UDP
    /// header, and a super-frame is one whole packet whose segments fit the segment.
    ///
    /// # Errors
    /// A [`VnetError`] that says which field lied.
    pub fn check(&self, frame: &[u8], mtu: u16) -> Result<(), VnetError> {
        let limit = match self.gso {
            GsoType::None => ETHERNET_HEADER_LEN + usize::from(mtu),
            GsoType::TcpV4 | GsoType::TcpV6 | GsoType::UdpL4 => FRAME_LEN_MAX,
        };
        if frame.len() > limit {
            return Err(VnetError::TooLong(frame.len()));
        }
        if !self.needs_csum {
            let plain = self.gso == GsoType::None;
            return if plain { Ok(()) } else { Err(VnetError::NoChecksum) };
        }
        let layout = Layout::of(frame).ok_or(VnetError::NoTransport)?;
        if usize::from(self.csum_start) != layout.l4
            || self.csum_offset != layout.transport.csum_offset()
        {
            return Err(VnetError::Checksum { start: self.csum_start, offset: self.csum_offset });
        }
        let cuts = match (layout.ip, layout.transport) {
            (Ip::V4, Transport::Tcp) => GsoType::TcpV4,
            (Ip::V6, Transport::Tcp) => GsoType::TcpV6,
            (Ip::V4 | Ip::V6, Transport::Udp) => GsoType::UdpL4,
        };
        match self.gso {
            GsoType::None => Ok(()),
            gso if gso != cuts => Err(VnetError::Protocol),
            GsoType::TcpV4 | GsoType::TcpV6 | GsoType::UdpL4 => {
                self.check_segments(frame, &layout, mtu)
            }
        }
    }

    fn check_segments(&self, frame: &[u8], layout: &Layout, mtu: u16) -> Result<(), VnetError> {
        let headers = layout.payload - ETHERNET_HEADER_LEN;
        let fits = headers + usize::from(self.gso_size) <= usize::from(mtu);
        if self.gso_size < GSO_SIZE_MIN || !fits {
            return Err(VnetError::GsoSize(self.gso_size));
        }
        let whole = layout.end == frame.len() && layout.payload < layout.end;
        if !whole || usize::from(self.hdr_len) > frame.len() {
            return Err(VnetError::Extent);
        }
        match layout.transport {
            Transport::Tcp => match frame[layout.l4 + 13] {
                flags if flags & 0x26 != 0 => Err(VnetError::TcpFlags(flags)),
                _ => Ok(()),
            },
            Transport::Udp => {
                let len =
                    usize::from(u16::from_be_bytes([frame[layout.l4 + 4], frame[layout.l4 + 5]]));
                if len == layout.end - layout.l4 { Ok(()) } else { Err(VnetError::Extent) }
            }
        }
    }

    /// Returns where the parts of a frame are that this header has passed [`check`](Self::check)
    /// with, or of any plain TCP or UDP frame.
    #[must_use]
    pub fn layout(&self, frame: &[u8]) -> Option<Layout> {
        Layout::of(frame)
    }

    /// Returns how many frames `frame` stands for: 1, or an upper bound for a super-frame.
    #[must_use]
    pub fn segment_count(&self, frame: &[u8]) -> u32 {
        match self.gso {
            GsoType::None => 1,
            GsoType::TcpV4 | GsoType::TcpV6 | GsoType::UdpL4 => {
                let count = frame.len().div_ceil(usize::from(self.gso_size.max(1)));
                u32::try_from(count).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Transport {
    /// Returns where the checksum field is, in bytes from the header's start.
    #[must_use]
    pub const fn csum_offset(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

impl Layout {
    /// Finds the parts of a whole TCP or UDP frame: no fragment, no IPv6 extension headers.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let l3 = ETHERNET_HEADER_LEN;
        let (eth, packet) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>()?;
        let (ip, protocol, header_len, packet_len) = match (eth[12], eth[13]) {
            (0x08, 0x00) => {
                let header = packet.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                if header[0] >> 4 != 4 || header[0] & 15 < 5 || fragment {
                    return None;
                }
                let packet_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
                (Ip::V4, header[9], usize::from(header[0] & 15) * 4, packet_len)
            }
            (0x86, 0xdd) => {
                let header = packet.first_chunk::<40>()?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                (Ip::V6, header[6], 40, 40 + payload_len)
            }
            _ => return None,
        };
        let segment = packet.get(..packet_len)?.get(header_len..)?;
        let (transport, transport_len) = match protocol {
            6 => (Transport::Tcp, usize::from(segment.first_chunk::<20>()?[12] >> 4) * 4),
            17 => (Transport::Udp, 8),
            _ => return None,
        };
        if transport_len > segment.len() || transport == Transport::Tcp && transport_len < 20 {
            return None;
        }
        let l4 = l3 + header_len;
        Some(Self { ip, transport, l3, l4, payload: l4 + transport_len, end: l3 + packet_len })
    }
}

#[cfg(test)]
mod tests;
