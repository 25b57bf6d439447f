//! Frames on a byte stream, as QEMU's `-netdev stream` has them: a length of four bytes,
//! big-endian, then the frame.
//!
//! # Theory of operation
//! [`Unframer`] is one buffer with room for the longest frame: bytes are read into
//! [`Unframer::room`] and frames taken from its front one by one, the rest moved down when the end
//! comes near.
//! [`Framed`] is the way back: whole frames go in until it is full, bytes are taken as the socket
//! takes them.
//!
//! # Limits
//! A length of 0 or beyond [`FRAME_LEN_MAX`] is a lie after which nothing on the stream can be
//! believed. Both buffers are of fixed size; what a `Framed` has no room for is not taken.

use vde_switch::frame::FRAME_LEN_MAX;

/// Length, in bytes, of the length in front of each frame.
const PREFIX_LEN: usize = 4;

/// Longest frame with its length.
const RECORD_LEN_MAX: usize = PREFIX_LEN + FRAME_LEN_MAX;

/// A length that no frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes was announced")]
pub struct LyingLength(pub u32);

/// Takes bytes in, hands frames out.
#[derive(Debug)]
pub struct Unframer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Unframer {
    fn default() -> Self {
        Self { buffer: vec![0; 2 * RECORD_LEN_MAX].into(), start: 0, end: 0 }
    }
}

impl Unframer {
    /// Returns where to read bytes into; never empty as long as [`Unframer::frame`] is drained.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.start < RECORD_LEN_MAX {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that so many bytes were read into the room.
    pub fn add(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end.saturating_add(len));
    }

    /// Returns the frame at the front, if it is whole; it stays there until [`Unframer::advance`].
    ///
    /// # Errors
    /// [`LyingLength`]; the stream is to be given up.
    pub fn frame(&self) -> Result<Option<&[u8]>, LyingLength> {
        let Some((prefix, rest)) = self.buffer[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*prefix);
        match usize::try_from(announced) {
            Ok(len @ 1..=FRAME_LEN_MAX) => Ok(rest.get(..len)),
            _ => Err(LyingLength(announced)),
        }
    }

    /// Goes on to the next frame.
    pub fn advance(&mut self) {
        if let Ok(Some(frame)) = self.frame() {
            self.start += PREFIX_LEN + frame.len();
        }
    }
}

/// Takes frames in, hands bytes out.
#[derive(Debug, Default)]
pub struct Framed {
    bytes: Vec<u8>,
    written: usize,
}

/// Bytes that wait for the peer: at 1 Gbit/s a millisecond and a half.
pub const QUEUE_LEN_MAX: usize = 192 << 10;

impl Framed {
    /// Tells whether one more frame, or the segments of one super-frame, may come.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.written < QUEUE_LEN_MAX
    }

    /// Adds a frame; an empty one or one beyond all bounds is left out.
    pub fn push(&mut self, frame: &[u8]) {
        if frame.is_empty() || frame.len() > FRAME_LEN_MAX {
            return;
        }
        if self.written == self.bytes.len() {
            self.clear();
        } else if self.written > QUEUE_LEN_MAX {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        let len = u32::try_from(frame.len()).unwrap_or(0);
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(frame);
    }

    /// Returns what is still to be written.
    #[must_use]
    pub fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Says that so many bytes were written.
    pub fn wrote(&mut self, len: usize) {
        self.written = self.bytes.len().min(self.written.saturating_add(len));
    }

    /// Forgets everything, as for a new peer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(unframer: &mut Unframer, bytes: &[u8]) -> usize {
        let room = unframer.room();
        let len = room.len().min(bytes.len());
        room[..len].copy_from_slice(&bytes[..len]);
        unframer.add(len);
        len
    }

    /// Reads a stream in pieces of a size and returns its frames.
    fn frames(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, LyingLength> {
        let (mut unframer, mut all) = (Unframer::default(), Vec::new());
        for mut piece in stream.chunks(piece) {
            while !piece.is_empty() {
                let len = feed(&mut unframer, piece);
                assert!(len > 0, "no room");
                piece = &piece[len..];
                while let Some(frame) = unframer.frame()? {
                    all.push(frame.to_vec());
                    unframer.advance();
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let lens = [1, 2, 13, 60, 1514, 9014, FRAME_LEN_MAX, 3, FRAME_LEN_MAX, 700];
        let sent: Vec<Vec<u8>> = lens.iter().map(|len| vec![*len as u8; *len]).collect();
        let mut stream = Vec::new();
        let mut framed = Framed::default();
        for frame in &sent {
            framed.push(frame);
            while !framed.unwritten().is_empty() {
                let len = framed.unwritten().len().min(777);
                stream.extend_from_slice(&framed.unwritten()[..len]);
                framed.wrote(len);
            }
        }
        for piece in [1, 3, 1000, 65_536, 1 << 20] {
            assert!(frames(&stream, piece).expect("no lie") == sent, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_lying_length_is_an_error_at_once() {
        for lie in [0, FRAME_LEN_MAX as u32 + 1, 1 << 31, u32::MAX] {
            let mut unframer = Unframer::default();
            feed(&mut unframer, &lie.to_be_bytes());
            assert_eq!(unframer.frame(), Err(LyingLength(lie)));
        }
    }

    #[test]
    fn a_peer_that_never_reads_fills_a_queue_that_has_an_end() {
        let mut framed = Framed::default();
        let mut count = 0;
        while framed.has_room() {
            framed.push(&[0; 1514]);
            count += 1;
        }
        assert!(framed.unwritten().len() < QUEUE_LEN_MAX + 1600 && count > 100);
        // One that reads a little at a time does not make it grow either.
        for _ in 0..10_000 {
            framed.wrote(1518);
            while framed.has_room() {
                framed.push(&[0; 1514]);
            }
        }
        assert!(framed.bytes.capacity() <= 8 * QUEUE_LEN_MAX, "{}", framed.bytes.capacity());
    }

    #[test]
    fn half_a_frame_is_none() {
        let mut unframer = Unframer::default();
        feed(&mut unframer, &[0, 0, 0]);
        assert_eq!(unframer.frame(), Ok(None));
        feed(&mut unframer, &[5, 1, 2, 3, 4]);
        assert_eq!(unframer.frame(), Ok(None));
        unframer.advance();
        feed(&mut unframer, &[5]);
        assert_eq!(unframer.frame(), Ok(Some(&[1, 2, 3, 4, 5][..])));
    }
}
