//! The body of a control message inside a tunnel: a probe and its reply.
//!
//! ```text
//! +-----------+----------+-----------------------+------------------------------+
//! | kind 1, 2 | zero x 3 | sequence number, BE   | sender's clock, 8 bytes      |
//! +-----------+----------+-----------------------+------------------------------+
//! ```
//!
//! A reply returns the probe's bytes with another kind, so the asker needs no table to know the
//! round trip. It is believed only as far as the asker's own doing: see `path`.

use vde_switch::time::Instant;

/// A probe or its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Asks for a reply.
    Ask(Token),
    /// Answers one.
    Reply(Token),
}

/// What comes back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Counts the asker's probes.
    pub sequence: u32,
    /// The asker's clock when it asked; meaningless to everyone else.
    pub sent_at: Instant,
}

impl Probe {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// Reads a body. Any bytes give a value, none a panic.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body: &[u8; Self::LEN] = body.try_into().ok()?;
        let [kind, 0, 0, 0, a, b, c, d, at @ ..] = *body else { return None };
        let token = Token {
            sequence: u32::from_be_bytes([a, b, c, d]),
            sent_at: Instant::from_nanos(u64::from_be_bytes(at)),
        };
        match kind {
            1 => Some(Self::Ask(token)),
            2 => Some(Self::Reply(token)),
            _ => None,
        }
    }

    /// Writes the body.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        let (kind, token) = match self {
            Self::Ask(token) => (1, token),
            Self::Reply(token) => (2, token),
        };
        out[..4].copy_from_slice(&[kind, 0, 0, 0]);
        out[4..8].copy_from_slice(&token.sequence.to_be_bytes());
        out[8..].copy_from_slice(&token.sent_at.as_nanos().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_is_parsed() {
        let token = Token { sequence: 7, sent_at: Instant::from_nanos(1 << 40) };
        for probe in [Probe::Ask(token), Probe::Reply(token)] {
            let mut bytes = [0; Probe::LEN];
            probe.emit(&mut bytes);
            assert_eq!(Probe::parse(&bytes), Some(probe));
            assert_eq!(Probe::parse(&bytes[1..]), None);
        }
    }
}
