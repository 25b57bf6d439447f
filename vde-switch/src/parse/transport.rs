//! What follows an IP header: as much of it as a rule asks for.

use crate::verdict::DropReason;
use crate::vnet::Ip;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The part of a packet above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP, its header whole.
    Tcp,
    /// UDP, its header whole.
    Udp,
    /// UDP from whoever wants to be configured by DHCP, the datagram whole.
    Dhcp,
    /// ICMP or ICMPv6 that is no neighbour discovery; of this type.
    Icmp(u8),
    /// Another protocol, not looked into.
    Other(u8),
    /// A fragment that does not start its packet.
    Later,
}

/// Which part of its packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// All of it.
    Whole,
    /// The start, headers included.
    First,
    /// A part at this offset, in units of 8 bytes, that is not zero.
    Later(u16),
}

impl Fragment {
    /// Judges a fragment of `len` bytes behind a header of `header_len`, `offset` in units of 8.
    pub(super) fn new(
        offset: u16,
        more: bool,
        header_len: usize,
        len: usize,
    ) -> Result<Self, DropReason> {
        if offset == 0 && !more {
            return Ok(Self::Whole);
        }
        let aligned = !more || len.is_multiple_of(8);
        let end = header_len + usize::from(offset) * 8 + len;
        if len == 0 || !aligned || end > usize::from(u16::MAX) {
            return Err(DropReason::BadFragment);
        }
        Ok(if offset == 0 { Self::First } else { Self::Later(offset) })
    }
}

impl L4 {
    /// Reads the header of a known protocol; ICMPv6 of neighbour discovery is not met here.
    pub(super) fn parse(
        ip: Ip,
        protocol: u8,
        bytes: &[u8],
        fragment: Fragment,
    ) -> Result<Self, DropReason> {
        let short = match fragment {
            Fragment::Whole => DropReason::BadHeader,
            Fragment::First => DropReason::TinyFragment,
            // It would overwrite the flags of the header that the first fragment showed.
            Fragment::Later(1) if protocol == TCP => return Err(DropReason::TinyFragment),
            Fragment::Later(_) => return Ok(Self::Later),
        };
        match (ip, protocol) {
            (Ip::V4 | Ip::V6, TCP) => tcp(bytes, short),
            (Ip::V4 | Ip::V6, UDP) => udp(ip, bytes, fragment, short),
            (Ip::V4, ICMP) => match bytes.first_chunk::<8>().ok_or(short)?[0] {
                5 => Err(DropReason::Redirect),
                9 | 10 | 17 | 18 => Err(DropReason::IcmpConfig),
                kind => Ok(Self::Icmp(kind)),
            },
            (Ip::V6, ICMPV6) => Ok(Self::Icmp(bytes.first_chunk::<8>().ok_or(short)?[0])),
            _ => Ok(Self::Other(protocol)),
        }
    }
}

fn tcp(bytes: &[u8], short: DropReason) -> Result<L4, DropReason> {
    let header = bytes.first_chunk::<20>().ok_or(short)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let (syn, fin) = (header[13] & 2 != 0, header[13] & 1 != 0);
    if header_len < header.len() || syn && fin {
        return Err(DropReason::BadTcp);
    }
    if header_len > bytes.len() { Err(short) } else { Ok(L4::Tcp) }
}

fn udp(ip: Ip, bytes: &[u8], fragment: Fragment, short: DropReason) -> Result<L4, DropReason> {
    let [s0, s1, d0, d1, l0, l1, ..] = *bytes.first_chunk::<8>().ok_or(short)?;
    let (src, dst) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let (server, client) = match ip {
        Ip::V4 => (67, 68),
        Ip::V6 => (547, 546),
    };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let whole = fragment == Fragment::Whole;
    if len < 8 || whole && len > bytes.len() {
        return Err(DropReason::BadUdp);
    }
    // Some clients look at the destination port only, so that either port makes a server.
    let (from_server, to_server) = (src == server || dst == client, dst == server);
    match (whole, from_server, to_server) {
        (_, false, false) => Ok(L4::Udp),
        (false, _, _) => Err(DropReason::FragmentedDhcp),
        (true, true, _) => Err(DropReason::DhcpServer),
        (true, false, true) => Ok(L4::Dhcp),
    }
}
