//! Changed frames without end, from a seed: the attack catalogue and legal traffic, bit by bit,
//! byte by byte, cut, spliced, lengthened, and with one address in the place of another.
//!
//! # Theory of operation
//! One seed is one sequence: a frame of the catalogue or of legal traffic is taken and changed once
//! or a few times. What a frame has become is for the oracle to say, not for this.

#![allow(dead_code, unreachable_pub, reason = "shared, and each test uses some")]

use crate::frames::*;
use crate::rows::Row;

/// Numbers that repeat from their seed (splitmix64).
pub struct Noise(pub u64);

impl Noise {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn byte(&mut self) -> u8 {
        self.word() as u8
    }
}

/// Values with a meaning somewhere: protocols, ICMP types, flags, UDP ports, lengths.
const BYTES: [u8; 26] = [
    0, 1, 2, 4, 5, 6, 8, 16, 17, 41, 43, 44, 45, 47, 50, 51, 58, 60, 67, 68, 128, 133, 134, 135,
    136, 255,
];
const WORDS: [u16; 20] = [
    0, 7, 8, 20, 28, 40, 46, 67, 68, 546, 547, 1500, 1514, 0x0800, 0x0806, 0x8100, 0x86dd, 0x88a8,
    0x8000, 0xffff,
];

/// Header bytes are at most so far from a frame's start.
const HEADERS: usize = 110;

/// Takes a row, and changes its frame and its virtio-net header: often a little, at times not.
pub fn mutated<'a>(noise: &mut Noise, rows: &'a [Row]) -> (&'a Row, Vec<u8>, [u8; 12]) {
    let row = noise.pick(rows);
    let (mut frame, mut vnet) = (row.frame.clone(), row.vnet);
    for _ in 0..noise.below(4) {
        change(noise, &mut frame, rows);
    }
    if noise.below(2) == 0 {
        repair(&mut frame);
    }
    if noise.below(5) == 0 {
        let at = noise.below(10);
        vnet[at] ^= 1 << noise.below(8);
    }
    (row, frame, vnet)
}

fn change(noise: &mut Noise, frame: &mut Vec<u8>, rows: &[Row]) {
    match noise.below(16) {
        0..4 => {
            let (at, bit) = (noise.below(HEADERS), noise.below(8));
            frame.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        4..6 => {
            let (at, byte) = (12 + noise.below(HEADERS - 12), *noise.pick(&BYTES));
            frame.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
        }
        6 => {
            let (at, byte) = (noise.below(HEADERS), noise.byte());
            frame.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
        }
        7 => {
            let (at, word) = (12 + noise.below(HEADERS - 12), noise.pick(&WORDS).to_be_bytes());
            frame.iter_mut().skip(at).zip(word).for_each(|(old, new)| *old = new);
        }
        8 => frame.truncate(noise.below(frame.len() + 1)),
        9 => frame.resize(frame.len() + 1 + noise.below(60), noise.byte()),
        10 => {
            let at = noise.below(100);
            let tail = noise.pick(rows).frame.get(at..).unwrap_or_default();
            frame.truncate(at);
            frame.extend_from_slice(tail);
        }
        11 => {
            let at = (14 + noise.below(66)).min(frame.len());
            frame.splice(at..at, noise.word().to_be_bytes());
        }
        12 => {
            let kind = *noise.pick(&[0, 43, 51, 60]);
            behind_extension(frame, kind);
        }
        _ => readdress(noise, frame),
    }
}

/// Puts an extension header behind the IPv6 header, if there is one.
fn behind_extension(frame: &mut Vec<u8>, kind: u8) {
    if frame.len() >= 54 && frame[12..14] == [0x86, 0xdd] {
        let header = extension(kind, frame[20], &[]);
        frame[20] = kind;
        frame.splice(54..54, header);
    }
}

/// Puts one known address, at one place where it stands, in the place of another.
fn readdress(noise: &mut Noise, frame: &mut [u8]) {
    let macs = [ALICE, BOB, GATEWAY, BROADCAST].map(|mac| mac.to_vec());
    let v4 = [ALICE4, BOB4, GATEWAY4, NOBODY4, DIRECTED4, ZERO4].map(|a| a.octets().to_vec());
    let v6 = [ALICE6, BOB6, GATEWAY6, ALICE_LINK, BOB_LINK, ALL_NODES, ZERO6]
        .map(|a| a.octets().to_vec());
    let known: &[Vec<u8>] = match noise.below(3) {
        0 => &macs,
        1 => &v4,
        _ => &v6,
    };
    let new = noise.pick(known);
    let start = noise.below(HEADERS).min(frame.len());
    let found = (start..frame.len()).find(|at| known.iter().any(|a| frame[*at..].starts_with(a)));
    if let Some(at) = found {
        frame[at..at + new.len()].copy_from_slice(new);
    }
}

/// Puts the length right again, so that what lies behind it is reached.
fn repair(frame: &mut [u8]) {
    let Some(len) = u16::try_from(frame.len()).ok().and_then(|len| len.checked_sub(14)) else {
        return;
    };
    match frame.get(12..14) {
        Some([0x08, 0x00]) if len >= 20 => frame[16..18].copy_from_slice(&len.to_be_bytes()),
        Some([0x86, 0xdd]) if len >= 40 => {
            frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
        }
        _ => {}
    }
}
