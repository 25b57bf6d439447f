//! Changes frames by dice, so that rules that look at one form only are found out.
//!
//! The marker stays whole: a frame that nobody recognises proves nothing.

use super::marker::{self, By, MARKER_LEN};
use super::packet::{BROADCAST, Mac};
use crate::sim::rng::Rng;

/// The longest frame that an interface with an MTU of 1500 takes.
const FRAME_LEN_MAX: usize = 1514;
/// Bytes of headers among which one is changed.
const HEADER_LEN: u64 = 62;

/// What a changed frame may be made of.
#[derive(Debug)]
pub struct Dice<'a> {
    rng: Rng,
    macs: &'a [Mac],
}

impl<'a> Dice<'a> {
    /// Starts with a seed; the addresses are put where they do not belong.
    #[must_use]
    pub fn new(seed: u64, macs: &'a [Mac]) -> Self {
        Self { rng: Rng::new(seed), macs }
    }

    /// Returns a changed copy, marked as one.
    #[must_use]
    pub fn change(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if let Some((at, row, _)) = marker::at(&frame) {
            frame[at..at + MARKER_LEN].copy_from_slice(&marker::mark(row, By::Dice));
        }
        for _ in 0..=self.rng.below(2) {
            frame = self.once(frame);
        }
        frame
    }

    fn once(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        if frame.len() < 14 {
            return frame;
        }
        match self.rng.below(9) {
            0 => self.put_mac(&mut frame, 0),
            1 => self.put_mac(&mut frame, 6),
            2 => {
                const TAGS: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x8847];
                let tag = TAGS[self.rng.below(TAGS.len() as u64) as usize].to_be_bytes();
                let vlan = [0, 1, 5, 0xff][self.rng.below(4) as usize];
                for _ in 0..=self.rng.below(2) {
                    frame.splice(12..12, [tag[0], tag[1], 0, vlan]);
                }
            }
            3 => {
                let len = (frame.len() - 14 + 8) as u16;
                let [l0, l1] = len.to_be_bytes();
                let [t0, t1] = [frame[12], frame[13]];
                frame.splice(12..14, [l0, l1, 0xaa, 0xaa, 3, 0, 0, 0, t0, t1]);
            }
            4 => {
                let len = 1 + self.rng.below(40) as usize;
                frame.resize(frame.len() + len, 0x5a);
            }
            _ => {
                let at = self.rng.below(HEADER_LEN.min(frame.len() as u64)) as usize;
                let is_marker = marker::at(&frame)
                    .is_some_and(|(start, ..)| (start..start + MARKER_LEN).contains(&at));
                if !is_marker {
                    frame[at] = self.rng.next() as u8;
                }
            }
        }
        frame.truncate(FRAME_LEN_MAX);
        frame
    }

    fn put_mac(&mut self, frame: &mut [u8], at: usize) {
        let pick = self.rng.below(self.macs.len() as u64 + 1) as usize;
        let mac = self.macs.get(pick).unwrap_or(&BROADCAST);
        frame[at..at + 6].copy_from_slice(mac);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::marker::{Row, find, mark};

    #[test]
    fn a_changed_frame_keeps_its_marker_and_repeats_with_its_seed() {
        let row = Row(*b"E05");
        let frame = [&[7; 40][..], &mark(row, By::Frame), &[9; 30]].concat();
        let macs = [[2, 0, 0, 0, 0, 1]];
        let run = |seed| {
            let mut dice = Dice::new(seed, &macs);
            (0..2000).map(|_| dice.change(&frame)).collect::<Vec<_>>()
        };
        let changed = run(3);
        assert!(changed.iter().all(|frame| find(frame) == Some((row, By::Dice))));
        let different: std::collections::BTreeSet<_> = changed.iter().collect();
        assert!(different.len() > 1000, "only {} differ", different.len());
        assert_eq!(changed, run(3));
        assert_ne!(changed, run(4));
    }
}
