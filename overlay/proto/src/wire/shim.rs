//! The shim: first bytes of every sealed payload, so that it looks like IPv4 to the WireGuard
//! engine and says what follows.
//!
//! ```text
//! +-----------+------+---------------+-------+--------+--------------+
//! | 0x40|ver  | kind | length, BE    | flags | detail | csum start   |   8 bytes
//! +-----------+------+---------------+-------+--------+--------------+
//! | number, BE       | size or count, BE     |                           4 more: Segment, Piece
//! +------------------+-----------------------+
//! ```
//!
//! `length` counts the whole payload, shim included, without what the engine pads; the engine cuts
//! to it. `detail` is the checksum's offset from `csum start` for a whole frame, and the index for
//! a segment or a piece. Source of the shape: the engine accepts only payloads whose first nibble
//! is 4, whose length field fits, and that have at least [`PAYLOAD_LEN_MIN`] bytes.

/// Version in the low nibble of the first byte. Another one is dropped.
pub const SHIM_VERSION: u8 = 1;

/// Shim of a frame, a group frame or a control message, in bytes.
pub const SHIM_LEN: usize = 8;

/// Shim of a segment or a piece, in bytes.
pub const SHIM_LONG_LEN: usize = 12;

/// Shortest payload that the engine takes for IPv4, in bytes; shorter ones are padded.
pub const PAYLOAD_LEN_MIN: usize = 20;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole frame. `csum_offset` counts when [`Flags::CSUM`] is set.
    Frame {
        /// Offset of the checksum field from `csum_start`.
        csum_offset: u8,
    },
    /// One complete frame, cut from super-frame `number` as its part `index`.
    Segment {
        /// Counts the sender's super-frames, to join only what was one.
        number: u16,
        /// Position in it.
        index: u8,
        /// Payload bytes of each segment but the last.
        gso_size: u16,
    },
    /// Part `index` of `count` of a frame too large for the path.
    Piece {
        /// Counts the sender's split frames.
        number: u16,
        /// Position in it.
        index: u8,
        /// How many pieces there are.
        count: u8,
        /// Offset of the checksum field from `csum_start`, of the whole frame.
        csum_offset: u8,
    },
    /// A probe or reply (`wire::probe`).
    Control,
    /// A group frame for the gateway to hand on to all but the `served` slots that follow the shim,
    /// two bytes each, before the frame.
    Group {
        /// How many slots follow.
        served: u8,
        /// Offset of the checksum field from `csum_start`.
        csum_offset: u8,
    },
}

/// Properties of the frame that travel beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The L4 checksum is still to be completed, as in virtio-net's NEEDS_CSUM.
    pub const CSUM: Self = Self(1);
    /// The segment is the last of its super-frame.
    pub const LAST: Self = Self(2);
    /// The pieces' frame is a group frame for the gateway to hand on to all but the sender.
    pub const HAND_ON: Self = Self(2);
    /// The super-frame was IPv6.
    pub const V6: Self = Self(4);
    /// The super-frame carried CWR in its first segment alone.
    pub const ECN: Self = Self(8);

    /// Says whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the union.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A decoded shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shim {
    /// What follows.
    pub kind: Kind,
    /// Its properties.
    pub flags: Flags,
    /// Where the checksum starts, in bytes from the start of the frame.
    pub csum_start: u16,
}

const KIND_FRAME: u8 = 0;
const KIND_SEGMENT: u8 = 2;
const KIND_CONTROL: u8 = 4;
const KIND_PIECE: u8 = 5;
const KIND_GROUP: u8 = 6;

impl Shim {
    /// Bytes that this shim takes, without the slots of a group frame.
    #[must_use]
    pub const fn wire_len(&self) -> usize {
        match self.kind {
            Kind::Segment { .. } | Kind::Piece { .. } => SHIM_LONG_LEN,
            Kind::Frame { .. } | Kind::Control | Kind::Group { .. } => SHIM_LEN,
        }
    }

    /// Splits a payload into shim and rest; `None` for an unknown version or kind, or lengths that
    /// do not fit. Any bytes give a value, none a panic.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (head, _) = payload.split_first_chunk::<SHIM_LEN>()?;
        let [first, kind, len_high, len_low, flags, detail, start_high, start_low] = *head;
        if first != 0x40 | SHIM_VERSION {
            return None;
        }
        let payload = payload.get(..usize::from(u16::from_be_bytes([len_high, len_low])))?;
        let long = || payload.get(SHIM_LEN..)?.first_chunk::<4>();
        let kind = match kind {
            KIND_FRAME => Kind::Frame { csum_offset: detail },
            KIND_SEGMENT => {
                let [a, b, c, d] = *long()?;
                let (number, gso_size) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Kind::Segment { number, index: detail, gso_size }
            }
            KIND_PIECE => {
                let [a, b, count, csum_offset] = *long()?;
                let number = u16::from_be_bytes([a, b]);
                Kind::Piece { number, index: detail, count, csum_offset }
            }
            KIND_CONTROL => Kind::Control,
            KIND_GROUP => Kind::Group { served: flags >> 4, csum_offset: detail },
            _ => return None,
        };
        let flags = Flags(flags & 0x0f);
        let shim = Self { kind, flags, csum_start: u16::from_be_bytes([start_high, start_low]) };
        Some((shim, payload.get(shim.wire_len()..)?))
    }

    /// Writes the shim of a payload of `payload_len` bytes, shim included, to the front of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than [`Shim::wire_len`] or a group names more than 15 slots.
    pub fn emit(&self, out: &mut [u8], payload_len: u16) {
        let (kind, detail, long) = match self.kind {
            Kind::Frame { csum_offset } => (KIND_FRAME, csum_offset, None),
            Kind::Segment { number, index, gso_size } => {
                let ([a, b], [c, d]) = (number.to_be_bytes(), gso_size.to_be_bytes());
                (KIND_SEGMENT, index, Some([a, b, c, d]))
            }
            Kind::Piece { number, index, count, csum_offset } => {
                let [a, b] = number.to_be_bytes();
                (KIND_PIECE, index, Some([a, b, count, csum_offset]))
            }
            Kind::Control => (KIND_CONTROL, 0, None),
            Kind::Group { csum_offset, .. } => (KIND_GROUP, csum_offset, None),
        };
        let mut flags = self.flags.0 & 0x0f;
        if let Kind::Group { served, .. } = self.kind {
            assert!(served <= SERVED_MAX, "a group names at most {SERVED_MAX} slots");
            flags |= served << 4;
        }
        let ([len_high, len_low], [start_high, start_low]) =
            (payload_len.to_be_bytes(), self.csum_start.to_be_bytes());
        out[..SHIM_LEN].copy_from_slice(&[
            0x40 | SHIM_VERSION,
            kind,
            len_high,
            len_low,
            flags,
            detail,
            start_high,
            start_low,
        ]);
        if let Some(long) = long {
            out[SHIM_LEN..SHIM_LONG_LEN].copy_from_slice(&long);
        }
    }
}

/// Most slots that a group frame may name as served; with more live tunnels the rest is served by
/// the gateway, and members must not hear twice, so the sender then serves only these.
pub const SERVED_MAX: u8 = 15;

/// Longest group frame, in bytes, that carries its served slots on any path. Longer ones go to the
/// gateway alone, in pieces if need be, which hands them on to everyone.
pub const GROUP_FRAME_LEN_MAX: usize =
    super::UDP_PAYLOAD_MIN - super::SEAL_LEN - SHIM_LEN - 2 * SERVED_MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_is_parsed() {
        let kinds = [
            Kind::Frame { csum_offset: 16 },
            Kind::Segment { number: 0xabcd, index: 46, gso_size: 1360 },
            Kind::Piece { number: 7, index: 1, count: 2, csum_offset: 6 },
            Kind::Control,
            Kind::Group { served: 15, csum_offset: 0 },
        ];
        for kind in kinds {
            let shim = Shim { kind, flags: Flags::CSUM.with(Flags::LAST), csum_start: 34 };
            let mut payload = [0xee; 64];
            shim.emit(&mut payload, 40);
            let (parsed, rest) = Shim::parse(&payload).unwrap();
            assert_eq!(parsed, shim);
            assert_eq!(rest.len(), 40 - shim.wire_len());
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let shim = Shim {
            kind: Kind::Segment { number: 1, index: 0, gso_size: 1 },
            flags: Flags::default(),
            csum_start: 0,
        };
        for len in 0..SHIM_LONG_LEN {
            let mut payload = [0; SHIM_LONG_LEN];
            shim.emit(&mut payload, u16::try_from(len).unwrap());
            assert_eq!(Shim::parse(&payload), None);
        }
        let mut payload = [0; 16];
        shim.emit(&mut payload, 17);
        assert_eq!(Shim::parse(&payload), None);
    }
}
