//! A hash without a seed, so that the same run has the same tables.
//!
//! One multiplication by the golden ratio, folded. Keys come from signed rosters, or sit in tables
//! too small for chosen collisions to matter.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A hash map that is never iterated, only asked.
pub(crate) type Table<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

#[derive(Clone, Copy, Default)]
pub(crate) struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64((word >> 64) as u64);
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
