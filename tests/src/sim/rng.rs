//! The only source of chance in a run: xoshiro256**, filled from the seed by splitmix64.
//!
//! Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2021).

/// A stream of numbers that its seed determines.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// Returns a number that looks unlike its input.
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// Starts the stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        Self(std::array::from_fn(|i| mix(seed.wrapping_add(step.wrapping_mul(i as u64)))))
    }

    /// Returns the next 64 bits.
    pub const fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// Returns a number from 0 to below `end`; 0 if there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Returns a number from `start` to `last`.
    pub fn range(&mut self, start: u64, last: u64) -> u64 {
        start + self.below(last - start + 1)
    }

    /// Says yes in so many of a thousand cases.
    pub fn permille(&mut self, of: u64) -> bool {
        self.below(1000) < of
    }

    /// Returns one of some, `None` of none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u64) as usize).copied()
    }

    /// Returns so many bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
