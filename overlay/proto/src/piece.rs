//! Puts frames together that were split because they do not fit their path.
//!
//! # Theory of operation
//! A split frame travels as up to [`PIECES_MAX`] pieces of one length, the last one perhaps
//! shorter. Pieces may come in any order. When a frame's pieces do not all come within
//! [`PIECES_WAIT`], or [`FRAMES_MAX`] others are begun, it is forgotten.
//!
//! # Limits
//! Per peer [`FRAMES_MAX`] frames of [`FRAME_LEN_MAX`] bytes: 75 kB, allocated on first use.

use std::time::Duration;

use vde_switch::time::Instant;

use crate::cut::PIECES_MAX;

/// Frames of one peer that may be incomplete at a time; the oldest makes room.
pub const FRAMES_MAX: usize = 8;

/// Largest frame that is put together: an order's largest MTU, 9000, and its header.
pub const FRAME_LEN_MAX: usize = 9_014;

/// How long a frame waits for its other pieces.
pub const PIECES_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Partial {
    number: u16,
    count: u8,
    arrived: u16,
    piece_len: usize,
    body: Vec<u8>,
    last: Vec<u8>,
    begun_at: Instant,
}

/// The incomplete frames of one peer.
#[derive(Debug, Default)]
pub struct Pieces {
    frames: Vec<Partial>,
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Pieced {
    /// Others are missing; so many incomplete frames were forgotten to make room.
    Waiting(u32),
    /// The frame is complete, in the buffer that was handed in.
    Complete,
    /// The piece fits no frame.
    Refused,
}

impl Pieces {
    /// Takes piece `index` of `count`; writes the frame to `out` once it is complete.
    pub fn handle_piece(
        &mut self,
        number: u16,
        index: u8,
        count: u8,
        bytes: &[u8],
        out: &mut Vec<u8>,
        now: Instant,
    ) -> Pieced {
        let valid = (2..=PIECES_MAX).contains(&usize::from(count))
            && index < count
            && !bytes.is_empty()
            && bytes.len() * usize::from(count - 1) <= FRAME_LEN_MAX;
        if !valid {
            return Pieced::Refused;
        }
        let before = self.frames.len();
        self.frames.retain(|partial| now - partial.begun_at < PIECES_WAIT);
        let mut forgotten = before - self.frames.len();
        let at = match self.frames.iter().position(|p| p.number == number && p.count == count) {
            Some(at) => at,
            None => {
                if self.frames.len() == FRAMES_MAX {
                    self.frames.remove(0);
                    forgotten += 1;
                }
                self.frames.push(Partial { number, count, begun_at: now, ..Partial::default() });
                self.frames.len() - 1
            }
        };
        let partial = &mut self.frames[at];
        if !partial.put(index, bytes) {
            return Pieced::Refused;
        }
        if partial.arrived.count_ones() < u32::from(count) {
            return Pieced::Waiting(forgotten as u32);
        }
        let partial = self.frames.remove(at);
        out.clear();
        out.extend_from_slice(&partial.body);
        out.extend_from_slice(&partial.last);
        if out.len() > FRAME_LEN_MAX { Pieced::Refused } else { Pieced::Complete }
    }
}

impl Partial {
    /// Files a piece; says whether it fits the others. A duplicate changes nothing.
    fn put(&mut self, index: u8, bytes: &[u8]) -> bool {
        if self.arrived & (1 << index) != 0 {
            return true;
        }
        if index + 1 == self.count {
            if self.piece_len != 0 && bytes.len() > self.piece_len {
                return false;
            }
            self.last.extend_from_slice(bytes);
        } else {
            if self.piece_len == 0 {
                self.piece_len = bytes.len();
                self.body.resize(bytes.len() * usize::from(self.count - 1), 0);
            }
            if bytes.len() != self.piece_len || self.last.len() > self.piece_len {
                return false;
            }
            let start = self.piece_len * usize::from(index);
            self.body[start..start + bytes.len()].copy_from_slice(bytes);
        }
        self.arrived |= 1 << index;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_nanos(1 << 40);

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_frame(
            len in 2..FRAME_LEN_MAX, count in 2..=PIECES_MAX as u8, seed in any::<u64>(),
        ) {
            let frame: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let piece_len = len.div_ceil(usize::from(count));
            let mut pieces: Vec<_> = frame.chunks(piece_len).enumerate().collect();
            let count = pieces.len() as u8;
            prop_assume!(count >= 2);
            let turn = seed as usize % pieces.len();
            pieces.rotate_left(turn);
            let (mut table, mut out) = (Pieces::default(), Vec::new());
            for (sent, (index, bytes)) in pieces.iter().enumerate() {
                let pieced = table.handle_piece(5, *index as u8, count, bytes, &mut out, NOW);
                if sent + 1 < pieces.len() {
                    prop_assert_eq!(pieced, Pieced::Waiting(0));
                } else {
                    prop_assert_eq!(pieced, Pieced::Complete);
                }
            }
            prop_assert_eq!(out, frame);
        }

        #[test]
        fn hostile_pieces_never_panic_and_stay_within_bounds(
            pieces in proptest::collection::vec(
                (any::<u16>(), any::<u8>(), any::<u8>(), 0..2000_usize), 1..200),
        ) {
            let (mut table, mut out) = (Pieces::default(), Vec::new());
            for (number, index, count, len) in pieces {
                let bytes = vec![0; len];
                table.handle_piece(number % 4, index % 20, count % 20, &bytes, &mut out, NOW);
                prop_assert!(table.frames.len() <= FRAMES_MAX);
                prop_assert!(table.frames.iter().all(|p| p.body.len() <= FRAME_LEN_MAX));
            }
        }
    }

    #[test]
    fn late_pieces_are_forgotten() {
        let (mut table, mut out) = (Pieces::default(), Vec::new());
        assert_eq!(table.handle_piece(1, 0, 2, &[1; 9], &mut out, NOW), Pieced::Waiting(0));
        let late = NOW + PIECES_WAIT;
        assert_eq!(table.handle_piece(1, 1, 2, &[1; 9], &mut out, late), Pieced::Waiting(1));
    }
}
