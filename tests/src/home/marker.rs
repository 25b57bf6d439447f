//! What attackers put into everything they send, so that it is known wherever it turns up.
//!
//! A marker is short enough for the padding of an ARP message and says of which row of the attack
//! catalogue it is: `<ovl7c21 E05r>`.

use std::fmt;

/// How every marker begins; nobody else's bytes do.
const PREFIX: &[u8] = b"<ovl7c21 ";

/// Length of a marker, in bytes: the padding of an ARP message has 18.
pub const MARKER_LEN: usize = 14;

/// A row of the attack catalogue: `E05`, `F13`; what a segment is to carry is `L..`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub [u8; 3]);

/// How it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// As a frame of the attacker's own making.
    Frame,
    /// As such a frame with something changed by dice.
    Dice,
    /// By an ordinary socket.
    Socket,
}

impl Row {
    /// Tells whether the segment is to carry it.
    #[must_use]
    pub fn is_legal(self) -> bool {
        self.0[0] == b'L'
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Row {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.as_bytes() {
            [a, b, c] if text.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(Self([*a, *b, *c])),
            _ => anyhow::bail!("{text:?} is no row of the catalogue, such as E05"),
        }
    }
}

/// Returns the marker of a row.
#[must_use]
pub fn mark(row: Row, by: By) -> [u8; MARKER_LEN] {
    let [a, b, c] = row.0;
    let by = match by {
        By::Frame => b'r',
        By::Dice => b'm',
        By::Socket => b's',
    };
    let mut marker = [0; MARKER_LEN];
    marker[..PREFIX.len()].copy_from_slice(PREFIX);
    marker[PREFIX.len()..].copy_from_slice(&[a, b, c, by, b'>']);
    marker
}

/// Finds the first marker in any bytes.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<(Row, By)> {
    at(bytes).map(|(_, row, by)| (row, by))
}

/// Finds the first marker in any bytes, and where it is.
#[must_use]
pub fn at(bytes: &[u8]) -> Option<(usize, Row, By)> {
    let mut from = 0;
    while let Some(next) = bytes[from..].iter().position(|byte| *byte == PREFIX[0]) {
        from += next;
        let rest = bytes.get(from..from + MARKER_LEN)?;
        if let Some([a, b, c, by, b'>']) = rest.strip_prefix(PREFIX) {
            let by = match by {
                b'r' => Some(By::Frame),
                b'm' => Some(By::Dice),
                b's' => Some(By::Socket),
                _ => None,
            };
            if let Some(by) = by {
                return Some((from, Row([*a, *b, *c]), by));
            }
        }
        from += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_wherever_it_stands_and_nothing_else_is() {
        let row: Row = "E05".parse().expect("a row");
        for by in [By::Frame, By::Dice, By::Socket] {
            for around in [0, 1, 9, 700] {
                let noise = b"<<ovl7c2".repeat(around);
                let bytes = [&noise, &mark(row, by)[..], &noise].concat();
                assert_eq!(find(&bytes), Some((row, by)));
                assert_eq!(find(&bytes[..noise.len() + MARKER_LEN - 1]), None);
            }
        }
        assert_eq!(find(b""), None);
        assert!("E5".parse::<Row>().is_err() && "E\n5".parse::<Row>().is_err());
    }
}
