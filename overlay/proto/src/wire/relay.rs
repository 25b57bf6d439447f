//! The clear header of a sealed datagram that goes by way of the gateway.
//!
//! ```text
//! +----+-----+-----+------+-----------+-----------+
//! | 06 | 'o' | 'v' | kind | slot, BE  | zero      |  then the sealed datagram, unread
//! +----+-----+-----+------+-----------+-----------+
//! ```
//!
//! A member names the slot it wants to reach ([`Direction::ToMember`]); the gateway finds the
//! sender by its proven address, and hands the datagram on with the *sender's* slot
//! ([`Direction::FromMember`]). Sizes are equal both ways: a relay amplifies nothing.

use crate::control::Slot;

/// Which way a relayed datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Member to gateway; the slot is the receiver's.
    ToMember,
    /// Gateway to member; the slot is the sender's.
    FromMember,
}

/// The header, eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// Which way it travels.
    pub direction: Direction,
    /// The other member's slot.
    pub slot: Slot,
}

impl RelayHeader {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// First byte: clear of WireGuard's 1 to 4 and of QUIC's fixed bit.
    pub const FIRST: u8 = 6;

    /// Splits a datagram into header and sealed part. Any bytes give a value, none a panic.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (header, sealed) = datagram.split_first_chunk::<{ Self::LEN }>()?;
        let [Self::FIRST, b'o', b'v', kind, high, low, 0, 0] = *header else { return None };
        let direction = match kind {
            1 => Direction::ToMember,
            2 => Direction::FromMember,
            _ => return None,
        };
        Some((Self { direction, slot: Slot(u16::from_be_bytes([high, low])) }, sealed))
    }

    /// Writes the header; the array type is the length check.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        let kind = match self.direction {
            Direction::ToMember => 1,
            Direction::FromMember => 2,
        };
        let [high, low] = self.slot.0.to_be_bytes();
        *out = [Self::FIRST, b'o', b'v', kind, high, low, 0, 0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_is_parsed_and_nothing_else_is() {
        let header = RelayHeader { direction: Direction::FromMember, slot: Slot(0x1234) };
        let mut bytes = [0; RelayHeader::LEN];
        header.emit(&mut bytes);
        assert_eq!(RelayHeader::parse(&bytes), Some((header, &[][..])));
        for bit in 0..RelayHeader::LEN * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(RelayHeader::parse(&other), Some((header, &[][..])), "bit {bit}");
        }
        assert_eq!(RelayHeader::parse(&bytes[..7]), None);
    }
}
