//! How much of a frame is headers: what a capture may show without showing what was said.
//!
//! Any bytes give a length, none a panic; where a header cannot be read, what came before it is
//! all. Nothing is believed beyond the frame's own bytes.
//!
//! Source: RFC 791, 8200, 4302 (headers), 9293, 768, 792, 4443, 4861 (what follows them).

/// Longest headers that are shown, in bytes: Ethernet, two tags, IPv6 with a chain, and TCP.
pub const HEADERS_LEN_MAX: usize = 256;

/// Most IPv6 extension headers that are passed.
const CHAIN_MAX: usize = 8;

/// Returns how many bytes at the start of a frame are headers, Ethernet to transport; at most
/// [`HEADERS_LEN_MAX`] and at most the frame.
///
/// An ARP message is a header as a whole, so is the fixed part of neighbour discovery. Of a
/// fragment that is not the first, only the IP header is one.
///
/// ```
/// # use overlay::capture::headers_len;
/// let mut frame = [0; 60];
/// frame[12..14].copy_from_slice(&[0x08, 0x00]);
/// frame[14] = 0x45; // IPv4 without options
/// frame[23] = 17; // UDP
/// assert_eq!(headers_len(&frame), 14 + 20 + 8);
/// ```
#[must_use]
pub fn headers_len(frame: &[u8]) -> usize {
    let mut at = 12;
    let mut ethertype = two(frame, at);
    for _ in 0..2 {
        if !matches!(ethertype, Some(0x8100 | 0x88a8)) {
            break;
        }
        at += 4;
        ethertype = two(frame, at);
    }
    at += 2;
    let len = match ethertype {
        Some(0x0800) => at + ipv4(frame.get(at..).unwrap_or_default()),
        Some(0x86dd) => at + ipv6(frame.get(at..).unwrap_or_default()),
        Some(0x0806) => at + 28,
        _ => at,
    };
    len.min(frame.len()).min(HEADERS_LEN_MAX)
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn ipv4(packet: &[u8]) -> usize {
    let (Some(first), Some(protocol)) = (packet.first(), packet.get(9)) else { return 20 };
    let len = usize::from(first & 0x0f) * 4;
    let is_first = two(packet, 6).is_some_and(|offset| offset & 0x1fff == 0);
    if len < 20 || !is_first {
        return len.max(20);
    }
    len + transport(*protocol, packet.get(len..).unwrap_or_default())
}

fn ipv6(packet: &[u8]) -> usize {
    let Some(mut next) = packet.get(6).copied() else { return 40 };
    let mut at = 40;
    for _ in 0..CHAIN_MAX {
        let Some([following, units]) = packet.get(at..).and_then(<[u8]>::first_chunk).copied()
        else {
            return at;
        };
        let len = match next {
            0 | 43 | 60 | 135 => (usize::from(units) + 1) * 8,
            44 if two(packet, at + 2).is_none_or(|offset| offset & 0xfff8 != 0) => return at + 8,
            44 => 8,
            51 => (usize::from(units) + 2) * 4,
            _ => return at + transport(next, packet.get(at..).unwrap_or_default()),
        };
        at += len;
        next = following;
    }
    at
}

/// Length of a transport header by its protocol number, 0 for one that is not known.
fn transport(protocol: u8, bytes: &[u8]) -> usize {
    match protocol {
        6 => bytes.get(12).map_or(20, |offset| (usize::from(offset >> 4) * 4).max(20)),
        1 | 17 | 136 => 8, // ICMP, UDP, UDP-Lite
        58 => match bytes.first() {
            Some(134) => 16,
            Some(135 | 136) => 24,
            Some(137) => 40,
            _ => 8,
        },
        132 => 12, // SCTP: its chunks are payload
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of an EtherType and what follows, with a marked payload behind it.
    fn frame(ethertype: u16, headers: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(headers);
        frame.extend([0xee; 400]);
        frame
    }

    fn v4(protocol: u8, offset: u16) -> Vec<u8> {
        let mut packet = vec![0x45; 20];
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        packet[9] = protocol;
        packet
    }

    #[test]
    fn no_byte_of_a_payload_is_a_header() {
        let mut tcp = v4(6, 0x4000);
        tcp.extend([0x11; 12]);
        tcp.push(0x80);
        tcp.extend([0x22; 19]);
        let mut udp6 = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        udp6.extend([0x33; 32]);
        udp6.extend([17, 0, 0, 0, 0, 0, 0, 0]); // destination options
        udp6.extend([0x44; 8]);
        let mut later6 = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
        later6.extend([0x33; 32]);
        later6.extend([17, 0, 5, 0, 0, 0, 0, 0]);
        let mut options = v4(17, 0);
        options[0] = 0x46;
        options.extend([0x55; 4 + 8]);
        let mut echo = v4(1, 0);
        echo.extend([8; 8]);
        let tagged: Vec<u8> = [0, 5, 8, 0].into_iter().chain(echo.clone()).collect();
        for (name, ethertype, headers) in [
            ("tcp", 0x0800, tcp),
            ("later fragment", 0x0800, v4(17, 0x0001)),
            ("udp behind ip options", 0x0800, options),
            ("echo", 0x0800, echo),
            ("tagged echo", 0x8100, tagged),
            ("gre", 0x0800, v4(47, 0)),
            ("udp behind an extension", 0x86dd, udp6),
            ("later ipv6 fragment", 0x86dd, later6),
            ("arp", 0x0806, vec![0x66; 28]),
            ("unknown", 0x88cc, vec![]),
        ] {
            let shown = headers_len(&frame(ethertype, &headers));
            assert_eq!(shown, 14 + headers.len(), "{name}");
        }
    }

    #[test]
    fn any_bytes_give_a_length_within_them() {
        let mut byte = 1_u8;
        for len in 0..300 {
            for ethertype in [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6], [0, 3]] {
                let mut frame: Vec<u8> = (0..len)
                    .map(|_| {
                        byte = byte.wrapping_mul(77).wrapping_add(13);
                        byte
                    })
                    .collect();
                if let Some(two) = frame.get_mut(12..14) {
                    two.copy_from_slice(&ethertype);
                }
                assert!(headers_len(&frame) <= frame.len().min(HEADERS_LEN_MAX));
            }
        }
    }
}
