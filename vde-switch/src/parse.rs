//! One strict look at a frame: what it is, or why no station may send it.
//!
//! [`Parsed::parse`] knows no addresses of anyone. It refuses what is malformed and what nobody
//! may say on a segment (routers, DHCP servers, redirects), so that `policy` has only to ask who
//! speaks. Each header is read once, by fixed-size chunks; nothing is believed that another field
//! contradicts.
//!
//! Source: RFC 826, 5227 (ARP), 791, 1858 and 3128 (IPv4 and its fragments), 8200 and 7112 (IPv6),
//! 4861, 6980 and 7113 (neighbour discovery).

use std::net::Ipv4Addr;

use crate::frame::ARP_LEN;
use crate::mac::MacAddr;
use crate::verdict::DropReason;
use crate::vnet::Ip;

mod ipv6;
mod transport;

pub use ipv6::{Body, Ipv6, Nd, is_link_local};
use transport::Fragment;
pub use transport::L4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Least value of an EtherType; below, the field is a length and LLC follows.
const ETHERTYPE_MIN: u16 = 0x0600;

const IGMP: u8 = 2;

/// A well-formed frame, addresses and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Destination MAC address.
    pub dst: MacAddr,
    /// Source MAC address; no group.
    pub src: MacAddr,
    /// What it carries.
    pub packet: Packet,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An ARP message.
    Arp(Arp),
    /// An IPv4 packet or fragment.
    Ipv4(Ipv4),
    /// An IPv6 packet or fragment.
    Ipv6(Ipv6),
}

/// An ARP message; its sender MAC address is the frame's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub op: ArpOp,
    /// Whose address the sender claims; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// Who is asked for.
    pub target: Ipv4Addr,
}

/// An ARP operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOp {
    /// Who has this address?
    Request,
    /// I have.
    Reply,
}

/// An IPv4 packet or fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// What follows the header.
    pub l4: L4,
}

/// What a station asks of the segment's own services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its IPv4 configuration, by a DHCP message in a whole UDP datagram right behind the header.
    Dhcp4,
    /// The same for IPv6.
    Dhcp6,
    /// How IPv6 is configured here, by a router solicitation.
    Router,
}

impl Parsed {
    /// Returns what the frame asks of the services, if it does; no other station gets it then.
    #[must_use]
    pub const fn question(&self) -> Option<Question> {
        match self.packet {
            Packet::Ipv4(Ipv4 { l4: L4::Dhcp, .. }) => Some(Question::Dhcp4),
            Packet::Ipv6(Ipv6 { body: Body::L4(L4::Dhcp), .. }) => Some(Question::Dhcp6),
            Packet::Ipv6(Ipv6 { body: Body::RouterSolicitation, .. }) => Some(Question::Router),
            Packet::Arp(_) | Packet::Ipv4(_) | Packet::Ipv6(_) => None,
        }
    }

    /// Reads a frame; any bytes give a value or a reason, none a panic.
    ///
    /// # Errors
    /// The [`DropReason`] of the first rule that the frame breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let Some((dst, src, ethertype, payload)) = split_ethernet(bytes) else {
            return Err(DropReason::Runt);
        };
        if dst.0[..3] == [0x01, 0x80, 0xc2] {
            return Err(DropReason::ReservedGroup);
        }
        if !src.is_station() {
            return Err(DropReason::ForeignMac);
        }
        let packet = match ethertype {
            ETHERTYPE_IPV4 => Packet::Ipv4(Ipv4::parse(payload)?),
            ETHERTYPE_IPV6 => Packet::Ipv6(Ipv6::parse(payload, src)?),
            ETHERTYPE_ARP => Packet::Arp(Arp::parse(payload, src)?),
            0x8100 | 0x88a8 | 0x9100 | 0x9200 => return Err(DropReason::Tagged),
            ..ETHERTYPE_MIN => return Err(DropReason::Llc),
            _ => return Err(DropReason::EtherType),
        };
        Ok(Self { dst, src, packet })
    }
}

impl Arp {
    fn parse(payload: &[u8], src: MacAddr) -> Result<Self, DropReason> {
        let message = exact(payload, ARP_LEN, DropReason::BadArp)?;
        let Some((&[0, 1, 8, 0, 6, 4, 0, op], addresses)) = message.split_first_chunk() else {
            return Err(DropReason::BadArp); // Ethernet, IPv4, lengths 6 and 4
        };
        let op = match op {
            1 => ArpOp::Request,
            2 => ArpOp::Reply,
            _ => return Err(DropReason::BadArp),
        };
        let Some(&[h0, h1, h2, h3, h4, h5, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3]) =
            addresses.first_chunk()
        else {
            return Err(DropReason::BadArp);
        };
        if MacAddr([h0, h1, h2, h3, h4, h5]) != src {
            return Err(DropReason::SpoofedArp);
        }
        let (sender, target) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(t0, t1, t2, t3));
        if op == ArpOp::Reply && sender.is_unspecified() {
            return Err(DropReason::SpoofedArp); // only a probe asks for nobody
        }
        Ok(Self { op, sender, target })
    }
}

impl Ipv4 {
    fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        let Some(header) = payload.first_chunk::<20>() else {
            return Err(DropReason::BadHeader);
        };
        match header[0] {
            0x45..=0x4f if header[9] == IGMP => return Err(DropReason::Igmp),
            0x45 => {}
            0x46..=0x4f => return Err(DropReason::Ipv4Options),
            0x40..0x45 => return Err(DropReason::BadHeader),
            _ => return Err(DropReason::BadVersion),
        }
        let packet_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let packet = exact(payload, packet_len, DropReason::BadLength)?;
        let Some(rest) = packet.get(header.len()..) else {
            return Err(DropReason::BadLength);
        };
        let [h6, h7] = [header[6], header[7]];
        let offset = u16::from_be_bytes([h6 & 0x1f, h7]);
        let more = h6 & 0x20 != 0;
        let fragment = Fragment::new(offset, more, header.len(), rest.len())?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Ok(Self {
            src: Ipv4Addr::new(s0, s1, s2, s3),
            dst: Ipv4Addr::new(d0, d1, d2, d3),
            l4: L4::parse(Ip::V4, header[9], rest, fragment)?,
        })
    }
}

fn split_ethernet(bytes: &[u8]) -> Option<(MacAddr, MacAddr, u16, &[u8])> {
    let (dst, rest) = bytes.split_first_chunk()?;
    let (src, rest) = rest.split_first_chunk()?;
    let (ethertype, payload) = rest.split_first_chunk()?;
    Some((MacAddr(*dst), MacAddr(*src), u16::from_be_bytes(*ethertype), payload))
}

/// Sees to it that a packet of `len` bytes fills the frame: padding was cut off by
/// [`Frame::trim`](crate::frame::Frame::trim). `short` is the reason if there are fewer.
fn exact(payload: &[u8], len: usize, short: DropReason) -> Result<&[u8], DropReason> {
    let packet = payload.get(..len).ok_or(short)?;
    if payload.len() > len { Err(DropReason::TrailingBytes) } else { Ok(packet) }
}
