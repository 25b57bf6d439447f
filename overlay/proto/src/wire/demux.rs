//! Tells apart what arrives on the lease's one UDP socket, by more than the first byte.
//!
//! | first bytes | family |
//! |---|---|
//! | `1..=4`, then three zero bytes, and the length of that type | WireGuard (whitepaper 5.4) |
//! | `06 6f 76`, then a kind | relay, ours |
//! | bit `0x40` set (QUIC's fixed bit; greasing is off) | QUIC (RFC 9000 17, RFC 9443) |
//! | anything else, and anything shorter | nobody's: dropped |

use super::relay::RelayHeader;

/// WireGuard's handshake initiation, in bytes.
pub const INITIATION_LEN: usize = 148;
/// WireGuard's handshake response, in bytes.
pub const RESPONSE_LEN: usize = 92;
/// WireGuard's cookie reply, in bytes.
pub const COOKIE_LEN: usize = 64;
/// The shortest WireGuard data message, a keepalive, in bytes.
pub const DATA_LEN_MIN: usize = 32;
/// The shortest datagram that can be QUIC for us: a short header, a connection id of 8, a tag of
/// 16.
pub const QUIC_LEN_MIN: usize = 25;

/// The family of one datagram, with what is needed to find its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A handshake initiation: its sender is named inside, encrypted.
    Initiation,
    /// A response or cookie reply to our handshake with this index.
    Answer {
        /// Our index: the tunnel's number in the upper 24 bits.
        receiver_index: u32,
    },
    /// A data message.
    Data {
        /// Our index: the tunnel's number in the upper 24 bits.
        receiver_index: u32,
        /// The message's counter, not yet authenticated.
        counter: u64,
    },
    /// A sealed datagram to be handed on, or one that was; the sealed part follows the header.
    Relay(RelayHeader),
    /// The second carrier.
    Quic,
}

/// Classifies a datagram; `None` if it is nobody's.
#[must_use]
pub fn classify(datagram: &[u8]) -> Option<Family> {
    let (first, _) = datagram.split_first_chunk::<4>()?;
    match (first, datagram.len()) {
        ([1, 0, 0, 0], INITIATION_LEN) => Some(Family::Initiation),
        ([2, 0, 0, 0], RESPONSE_LEN) => {
            Some(Family::Answer { receiver_index: u32_at(datagram, 8)? })
        }
        ([3, 0, 0, 0], COOKIE_LEN) => Some(Family::Answer { receiver_index: u32_at(datagram, 4)? }),
        ([4, 0, 0, 0], DATA_LEN_MIN..) => Some(Family::Data {
            receiver_index: u32_at(datagram, 4)?,
            counter: u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?),
        }),
        ([RelayHeader::FIRST, ..], _) => {
            RelayHeader::parse(datagram).map(|(h, _)| Family::Relay(h))
        }
        ([b, ..], QUIC_LEN_MIN..) if b & 0x40 != 0 => Some(Family::Quic),
        _ => None,
    }
}

/// WireGuard's integers are little-endian.
fn u32_at(datagram: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*datagram.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_and_length_has_at_most_one_family() {
        for first in 0..=255_u8 {
            for len in 0..200 {
                let mut datagram = vec![0; len];
                if let Some(byte) = datagram.first_mut() {
                    *byte = first;
                }
                let family = classify(&datagram);
                match (first, len) {
                    (1, INITIATION_LEN) => assert_eq!(family, Some(Family::Initiation)),
                    (2, RESPONSE_LEN) | (3, COOKIE_LEN) => {
                        assert_eq!(family, Some(Family::Answer { receiver_index: 0 }));
                    }
                    (4, DATA_LEN_MIN..) => assert!(matches!(family, Some(Family::Data { .. }))),
                    (_, QUIC_LEN_MIN..) if first & 0x40 != 0 => {
                        assert_eq!(family, Some(Family::Quic));
                    }
                    _ => assert_eq!(family, None, "first byte {first}, {len} bytes"),
                }
            }
        }
    }

    #[test]
    fn a_quic_short_header_that_starts_like_wireguard_is_not_quic() {
        // Greasing would allow a first byte of 1 to 4 for QUIC; it is off on both ends.
        assert_eq!(classify(&[4, 9, 9, 9, 0, 0, 0, 0].repeat(8)), None);
    }

    #[test]
    fn reserved_bytes_of_wireguard_must_be_zero() {
        let mut datagram = [0; INITIATION_LEN];
        datagram[0] = 1;
        assert!(classify(&datagram).is_some());
        for at in 1..4 {
            let mut odd = datagram;
            odd[at] = 1;
            assert_eq!(classify(&odd), None);
        }
    }
}
