//! The frame that the switch gives back to the port that asked, and the sums in its headers.
//!
//! # Theory of operation
//! An answer is written front to back: headers by a `begin`, whatever follows by [`Answer::put`],
//! and then the `finish` that belongs to them fills in lengths and checksums. Sums are complete,
//! though the guest's own kernel could do without: an answer goes with a plain virtio-net header.
//!
//! # Limits
//! [`ANSWER_LEN_MAX`]. Whoever writes bounds the parts, so that no question makes an answer longer.
//!
//! Source: RFC 791, 768, 8200 8.1 (headers and their sums), 1071 (how to sum).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use crate::frame::ETHERNET_HEADER_LEN;
use crate::mac::{MacAddr, SERVICE_MAC};

/// Largest answer, in bytes: a packet that fits every link (RFC 8200, 5) and its Ethernet header.
pub const ANSWER_LEN_MAX: usize = 1280 + ETHERNET_HEADER_LEN;

/// Least Ethernet frame, in bytes.
const FRAME_LEN_MIN: usize = 60;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;

/// A frame that answers the one that came in, a plain virtio-net header to go with it.
///
/// A switch has one and writes each answer over the last, so that an answer costs no allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    len: usize,
    bytes: Box<[u8; ANSWER_LEN_MAX]>,
}

impl Default for Answer {
    fn default() -> Self {
        Self { len: 0, bytes: Box::new([0; ANSWER_LEN_MAX]) }
    }
}

impl Answer {
    /// Starts anew with an Ethernet header.
    pub(crate) fn begin(&mut self, dst: MacAddr, src: MacAddr, ethertype: u16) -> &mut Self {
        self.len = 0;
        self.put(&dst.0).put(&src.0).put(&ethertype.to_be_bytes())
    }

    /// Appends; whoever writes an answer bounds its parts, so that they fit.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    /// Appends zeros up to `len` bytes in all.
    pub(crate) fn fill(&mut self, len: usize) {
        if self.len < len {
            self.bytes[self.len..len].fill(0);
            self.len = len;
        }
    }

    /// Appends zeros up to the least length of a frame.
    pub(crate) fn pad(&mut self) {
        self.fill(FRAME_LEN_MIN);
    }

    /// Starts a UDP packet over IPv4 from the services; [`Answer::finish_udp4`] ends it.
    pub(crate) fn begin_udp4(
        &mut self,
        dst_mac: MacAddr,
        (src, src_port): (Ipv4Addr, u16),
        (dst, dst_port): (Ipv4Addr, u16),
    ) -> &mut Self {
        self.begin(dst_mac, SERVICE_MAC, 0x0800)
            .put(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0]) // not to be fragmented
            .put(&src.octets())
            .put(&dst.octets())
            .put(&src_port.to_be_bytes())
            .put(&dst_port.to_be_bytes())
            .put(&[0; 4])
    }

    /// Fills in lengths and sums of a packet that [`Answer::begin_udp4`] started.
    pub(crate) fn finish_udp4(&mut self) {
        const L4: usize = ETHERNET_HEADER_LEN + IPV4_LEN;
        let len = self.len - ETHERNET_HEADER_LEN;
        self.set(ETHERNET_HEADER_LEN + 2, len);
        let header = fold(sum(&self.bytes[ETHERNET_HEADER_LEN..L4]));
        self.set(ETHERNET_HEADER_LEN + 10, usize::from(header));
        let udp_len = len - IPV4_LEN;
        self.set(L4 + 4, udp_len);
        let pseudo = sum(&self.bytes[ETHERNET_HEADER_LEN + 12..L4]);
        self.set_udp_sum(L4, pseudo + u32::from(UDP) + udp_len as u32);
    }

    /// Starts an IPv6 packet; one of the two `finish` ends it.
    pub(crate) fn begin_ipv6(
        &mut self,
        (dst_mac, dst): (MacAddr, Ipv6Addr),
        (src_mac, src): (MacAddr, Ipv6Addr),
        next_header: u8,
        hop_limit: u8,
    ) -> &mut Self {
        self.begin(dst_mac, src_mac, 0x86dd)
            .put(&[0x60, 0, 0, 0, 0, 0, next_header, hop_limit])
            .put(&src.octets())
            .put(&dst.octets())
    }

    /// Starts a UDP packet over IPv6 from the services; [`Answer::finish_udp6`] ends it.
    pub(crate) fn begin_udp6(
        &mut self,
        dst: (MacAddr, Ipv6Addr),
        (src, src_port): (Ipv6Addr, u16),
        dst_port: u16,
    ) -> &mut Self {
        self.begin_ipv6(dst, (SERVICE_MAC, src), UDP, 64)
            .put(&src_port.to_be_bytes())
            .put(&dst_port.to_be_bytes())
            .put(&[0; 4])
    }

    /// Fills in lengths and sum of a packet that [`Answer::begin_udp6`] started.
    pub(crate) fn finish_udp6(&mut self) {
        const L4: usize = ETHERNET_HEADER_LEN + IPV6_LEN;
        let len = self.len - L4;
        self.set(ETHERNET_HEADER_LEN + 4, len);
        self.set(L4 + 4, len);
        let pseudo = self.pseudo6(UDP, len);
        self.set_udp_sum(L4, pseudo);
    }

    /// Fills in length and sum of an ICMPv6 message behind [`Answer::begin_ipv6`].
    pub(crate) fn finish_icmp6(&mut self) {
        const L4: usize = ETHERNET_HEADER_LEN + IPV6_LEN;
        const ICMPV6: u8 = 58;
        let len = self.len - L4;
        self.set(ETHERNET_HEADER_LEN + 4, len);
        let total = self.pseudo6(ICMPV6, len) + sum(&self.bytes[L4..self.len]);
        self.set(L4 + 2, usize::from(fold(total)));
    }

    fn pseudo6(&self, next_header: u8, len: usize) -> u32 {
        let addresses = &self.bytes[ETHERNET_HEADER_LEN + 8..ETHERNET_HEADER_LEN + IPV6_LEN];
        sum(addresses) + u32::from(next_header) + len as u32
    }

    fn set_udp_sum(&mut self, l4: usize, pseudo: u32) {
        let checksum = fold(pseudo + sum(&self.bytes[l4..self.len]));
        // Zero would say that there is no sum.
        self.set(l4 + UDP_LEN - 2, usize::from(if checksum == 0 { u16::MAX } else { checksum }));
    }

    /// Writes a 16-bit field; lengths fit, since a whole answer does.
    fn set(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    }
}

impl Deref for Answer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:02x?})", &**self)
    }
}

/// Sums 16-bit words; of at most [`ANSWER_LEN_MAX`] bytes, so that nothing overflows.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

/// Ends an Internet checksum (RFC 1071).
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}
