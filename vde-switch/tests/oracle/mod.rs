//! The port policy told a second time: slowly, in the words of the design, on another's parser.
//!
//! A rule is a line that begins with `must`. There are no reasons here, only yes and no, and
//! nothing is shared with the crate but the types of its arguments.

#![allow(dead_code, unreachable_pub, reason = "shared, and each test uses some")]

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, IpAuthHeaderSlice, Ipv4HeaderSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, TcpHeaderSlice,
    UdpHeaderSlice,
};
use std::net::{Ipv4Addr, Ipv6Addr};
use vde_switch::station::{Segment, Station};

/// Says whether a port of these stations may send the frame, with its virtio-net header, once its
/// padding is cut off.
pub fn admits(frame: &[u8], vnet: &[u8; 12], stations: &[Station], segment: &Segment) -> bool {
    let frame = without_padding(frame);
    offload(frame, vnet, segment).is_some() && legal(frame, stations, segment).is_some()
}

fn must(rule: bool) -> Option<()> {
    rule.then_some(())
}

fn legal(frame: &[u8], stations: &[Station], segment: &Segment) -> Option<()> {
    let eth = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let (dst, src) = (eth.destination(), eth.source());
    must(!dst.starts_with(&[0x01, 0x80, 0xc2]))?;
    let station = stations.iter().find(|station| station.mac.0 == src)?;
    let payload = &frame[14..];
    match eth.ether_type().0 {
        0x0800 => ipv4(payload, dst, station, segment),
        0x0806 => arp(payload, dst, station, segment),
        0x86dd => ipv6(payload, dst, station, segment),
        _ => None,
    }
}

/// The frame up to the end of its packet, by the length that the packet itself names.
pub fn without_padding(frame: &[u8]) -> &[u8] {
    let len = || {
        let eth = Ethernet2HeaderSlice::from_slice(frame).ok()?;
        let field =
            |at: usize| Some(usize::from(*frame.get(at)?) * 256 + usize::from(*frame.get(at + 1)?));
        match eth.ether_type().0 {
            0x0800 => Some(14 + field(16)?),
            0x0806 => Some(14 + 28),
            0x86dd => Some(14 + 40 + field(18)?),
            _ => None,
        }
    };
    let len = len().filter(|len| *len <= frame.len()).unwrap_or(frame.len());
    &frame[..len]
}

/// The packet, which is all that there is.
fn packet(payload: &[u8], len: usize) -> Option<&[u8]> {
    must(len == payload.len())?;
    Some(payload)
}

fn arp(payload: &[u8], dst: [u8; 6], station: &Station, segment: &Segment) -> Option<()> {
    let arp = ArpPacketSlice::from_slice(packet(payload, 28)?).ok()?;
    must(arp.hw_addr_type().0 == 1 && arp.proto_addr_type().0 == 0x0800)?;
    must(arp.hw_addr_size() == 6 && arp.proto_addr_size() == 4)?;
    must(matches!(arp.operation().0, 1 | 2))?;
    must(arp.sender_hw_addr() == station.mac.0)?;
    let probe = arp.operation().0 == 1 && arp.sender_protocol_addr() == [0; 4];
    must(probe || arp.sender_protocol_addr() == station.ipv4.octets())?;
    let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
    must(in_subnet(target.into(), segment))?;
    must(dst == [0xff; 6] || !group(dst))
}

fn in_subnet(address: Ipv4Addr, segment: &Segment) -> bool {
    let bits = |address: Ipv4Addr| format!("{:032b}", u32::from(address));
    let (network, len) = segment.ipv4;
    bits(address)[..usize::from(len)] == bits(network)[..usize::from(len)]
}

fn in_prefix(address: Ipv6Addr, segment: &Segment) -> bool {
    let bits = |address: Ipv6Addr| format!("{:0128b}", u128::from(address));
    let (network, len) = segment.ipv6;
    bits(address)[..usize::from(len)] == bits(network)[..usize::from(len)]
}

fn group(mac: [u8; 6]) -> bool {
    mac[0] % 2 == 1
}

fn station_mac(mac: [u8; 6]) -> bool {
    !group(mac) && mac != [0; 6]
}

fn ipv4(payload: &[u8], dst_mac: [u8; 6], station: &Station, segment: &Segment) -> Option<()> {
    let ip = Ipv4HeaderSlice::from_slice(payload).ok()?;
    must(ip.ihl() == 5 && ip.protocol().0 != 2)?;
    let rest = packet(payload, ip.total_len().into())?.get(20..)?;
    let dst = ip.destination_addr();
    let to_server = UdpHeaderSlice::from_slice(rest).is_ok_and(|udp| udp.destination_port() == 67);
    let asks = ip.protocol().0 == 17 && !ip.is_fragmenting_payload() && to_server;
    let asks = asks && ip.source_addr() == Ipv4Addr::UNSPECIFIED && dst == Ipv4Addr::BROADCAST;
    must(asks || ip.source_addr() == station.ipv4)?;
    let directed = in_subnet(dst, segment) && {
        let hosts = 32 - u32::from(segment.ipv4.1);
        u64::from(u32::from(dst)) % (1 << hosts) == (1 << hosts) - 1
    };
    let [a, b, c, d] = dst.octets();
    match dst.octets() {
        [255, 255, 255, 255] => must(dst_mac == [0xff; 6])?,
        _ if directed => must(dst_mac == [0xff; 6])?,
        [224, 0, 0, _] | [239, ..] => must(dst_mac == [1, 0, 0x5e, b % 128, c, d])?,
        _ => must(a < 224 && in_subnet(dst, segment) && station_mac(dst_mac))?,
    }

    let offset = usize::from(ip.fragments_offset().value()) * 8;
    let (fragment, more) = (ip.is_fragmenting_payload(), ip.more_fragments());
    if fragment {
        must(!rest.is_empty() && (!more || rest.len() % 8 == 0))?;
        must(20 + offset + rest.len() <= 65_535)?;
    }
    if offset > 0 {
        return must(!(ip.protocol().0 == 6 && offset == 8));
    }
    match ip.protocol().0 {
        1 => {
            must(rest.len() >= 8)?;
            must(![5, 9, 10, 17, 18].contains(&rest[0]))
        }
        6 => tcp(rest),
        17 => udp(rest, fragment, 67, 68),
        _ => Some(()),
    }
}

fn tcp(rest: &[u8]) -> Option<()> {
    let tcp = TcpHeaderSlice::from_slice(rest).ok()?;
    must(!(tcp.syn() && tcp.fin()))
}

/// No DHCP from a server, nor to a client; to a server, whole.
fn udp(rest: &[u8], fragment: bool, server: u16, client: u16) -> Option<()> {
    let udp = UdpHeaderSlice::from_slice(rest).ok()?;
    must(udp.length() >= 8)?;
    must(fragment || usize::from(udp.length()) <= rest.len())?;
    must(udp.source_port() != server)?;
    must(udp.destination_port() != client && !(fragment && udp.destination_port() == server))
}

fn ipv6(payload: &[u8], dst_mac: [u8; 6], station: &Station, segment: &Segment) -> Option<()> {
    let ip = Ipv6HeaderSlice::from_slice(payload).ok()?;
    let mut rest = packet(payload, 40 + usize::from(ip.payload_length()))?.get(40..)?;
    must(!(ip.payload_length() == 0 && ip.next_header().0 == 0))?;

    let (src, dst) = (ip.source_addr(), ip.destination_addr());
    let link_local = |address: Ipv6Addr| address.segments()[0] & 0xffc0 == 0xfe80;
    let own = |address: Ipv6Addr| address == station.ipv6 || link_local(address);
    let [.., a, b, c, d] = dst.octets();
    match dst.segments()[0] {
        0xff02 => {
            must(dst_mac == [0x33, 0x33, a, b, c, d])?;
        }
        0xff00.. => return None,
        _ => must((in_prefix(dst, segment) || link_local(dst)) && station_mac(dst_mac))?,
    }

    // The chain of extension headers, at most eight.
    let (mut next, mut others, mut fragment, mut later) = (ip.next_header().0, 0, false, false);
    for count in 0.. {
        let extension = matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140);
        if !extension || later {
            break;
        }
        must(next != 0 || count == 0)?;
        if next == 44 {
            must(!fragment)?;
            let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
            let offset = usize::from(header.fragment_offset().value()) * 8;
            fragment = true;
            later = offset > 0;
            next = header.next_header().0;
            rest = &rest[8..];
            if later || header.more_fragments() {
                must(!rest.is_empty() && offset + rest.len() <= 65_535)?;
                must(!header.more_fragments() || rest.len() % 8 == 0)?;
            }
            if later {
                must(!(next == 6 && offset == 8))?;
            }
        } else if next == 51 {
            let header = IpAuthHeaderSlice::from_slice(rest).ok()?;
            others += 1;
            next = header.next_header().0;
            rest = &rest[header.slice().len()..];
        } else {
            let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
            must(!(next == 43 && rest[2] == 0))?;
            others += 1;
            next = header.next_header().0;
            rest = &rest[header.slice().len()..];
        }
        // The header that is one too many is refused whatever follows.
        must(count < 8 || later)?;
    }

    let solicitation = !later && next == 58 && matches!(rest.first(), Some(133 | 135));
    must(own(src) || src.is_unspecified() && solicitation)?;
    if next == 58 {
        must(others == 0)?;
    }
    if later {
        return Some(());
    }
    match next {
        6 => tcp(rest),
        17 => {
            udp(rest, fragment, 547, 546)?;
            let to_server = UdpHeaderSlice::from_slice(rest).ok()?.destination_port() == 547;
            must(!(to_server && others > 0))
        }
        58 => {
            must(rest.len() >= 8)?;
            match rest[0] {
                130..=132 | 134 | 137 | 143 => None,
                133 => {
                    must(!fragment && ip.hop_limit() == 255 && rest[1] == 0)?;
                    nd_options(&rest[8..], src, station)
                }
                135 | 136 => {
                    must(!fragment && ip.hop_limit() == 255 && rest[1] == 0)?;
                    nd(rest, src, dst, own, station)
                }
                _ => Some(()),
            }
        }
        _ => Some(()),
    }
}

fn nd(
    message: &[u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    own: impl Fn(Ipv6Addr) -> bool,
    station: &Station,
) -> Option<()> {
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let [.., a, b, c] = target;
    let target = Ipv6Addr::from(target);
    must(!target.is_multicast() && !target.is_unspecified() && !target.is_loopback())?;
    let advertisement = message[0] == 136;
    if advertisement {
        must(own(target))?;
        must(!dst.is_multicast() || message[4] & 0x40 == 0)?;
    } else if src.is_unspecified() {
        let text = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
        must(text.parse() == Ok(dst))?;
    }
    nd_options(&message[24..], src, station)
}

fn nd_options(mut options: &[u8], src: Ipv6Addr, station: &Station) -> Option<()> {
    while !options.is_empty() {
        let len = usize::from(*options.get(1)?) * 8;
        must(len > 0 && len <= options.len())?;
        if options[0] == 1 || options[0] == 2 {
            must(!src.is_unspecified() && len == 8 && options[2..8] == station.mac.0)?;
        }
        options = &options[len..];
    }
    Some(())
}

/// The virtio-net header must say of the frame what the frame says of itself.
fn offload(frame: &[u8], vnet: &[u8; 12], segment: &Segment) -> Option<()> {
    let field = |at: usize| usize::from(u16::from_le_bytes([vnet[at], vnet[at + 1]]));
    let (flags, kind) = (vnet[0], vnet[1]);
    let (hdr_len, gso_size, start, offset) = (field(2), field(4), field(6), field(8));
    must(flags <= 2)?;
    must([0x00, 0x01, 0x81, 0x04, 0x84, 0x05].contains(&kind))?;
    let frame_len_max = usize::from(segment.mtu) + 14;
    if kind == 0 {
        must(frame.len() <= frame_len_max)?;
        if flags != 1 {
            return Some(());
        }
    }
    must(flags == 1 && frame.len() <= 65_549)?;

    let eth = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let (protocol, ip_len, packet_len) = match eth.ether_type().0 {
        0x0800 => {
            let ip = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?;
            must(!ip.is_fragmenting_payload())?;
            (ip.protocol().0, usize::from(ip.ihl()) * 4, usize::from(ip.total_len()))
        }
        0x86dd => {
            let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).ok()?;
            (ip.next_header().0, 40, 40 + usize::from(ip.payload_length()))
        }
        _ => return None,
    };
    let packet = frame[14..].get(..packet_len)?;
    let rest = packet.get(ip_len..)?;
    let (at, header_len) = match protocol {
        6 => (16, TcpHeaderSlice::from_slice(rest).ok()?.slice().len()),
        17 => (6, UdpHeaderSlice::from_slice(rest).ok()?.slice().len()),
        _ => return None,
    };
    must(start == 14 + ip_len && offset == at)?;
    if kind == 0 {
        return Some(());
    }
    match (kind & 0x7f, eth.ether_type().0, protocol) {
        (1, 0x0800, 6) | (4, 0x86dd, 6) => {
            let tcp = TcpHeaderSlice::from_slice(rest).ok()?;
            must(!tcp.syn() && !tcp.rst() && !tcp.urg())?;
        }
        (5, _, 17) => {
            let udp = UdpHeaderSlice::from_slice(rest).ok()?;
            must(usize::from(udp.length()) == rest.len())?;
        }
        _ => return None,
    }
    must(gso_size >= 256 && ip_len + header_len + gso_size <= usize::from(segment.mtu))?;
    must(14 + packet_len == frame.len() && rest.len() > header_len && hdr_len <= frame.len())
}
