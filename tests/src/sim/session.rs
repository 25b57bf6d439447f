//! What the seeded engine's sessions are made of: a toy group, keyed tags, a replay window.

use overlay_proto::tunnel::wireguard::COUNTER_STEP_MAX;

/// The group's modulus, a Mersenne prime, and a generator of a large part of it.
pub(super) const PRIME: u64 = (1 << 61) - 1;
pub(super) const GENERATOR: u64 = 37;

pub(super) fn power(base: u64, mut exponent: u64) -> u64 {
    let multiply = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let (mut result, mut base) = (1, base % PRIME);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

pub(super) fn first_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}

pub(super) fn tag(key: &[u8; 32], bytes: &[u8]) -> [u8; 16] {
    *blake3::keyed_hash(key, bytes).as_bytes().first_chunk().expect("32 bytes are more than 16")
}

pub(super) fn mac1(public: &[u8; 32], bytes: &[u8]) -> [u8; 16] {
    tag(public, bytes)
}

pub(super) fn key_of(words: &[u64]) -> [u8; 32] {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    *blake3::hash(&bytes).as_bytes()
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) ours: u32,
    pub(super) theirs: u32,
    pub(super) send_key: [u8; 32],
    pub(super) open_key: [u8; 32],
    pub(super) sent: u64,
    /// Highest counter opened, plus one, and a bit for each below it.
    pub(super) next: u64,
    pub(super) window: u128,
    pub(super) made_at: u64,
    pub(super) initiator: bool,
}

impl Session {
    /// Says whether the counter is fresh.
    pub(super) const fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter - self.next <= COUNTER_STEP_MAX;
        }
        let age = self.next - 1 - counter;
        age < 128 && self.window >> age & 1 == 0
    }

    pub(super) const fn note(&mut self, counter: u64) {
        if counter >= self.next {
            let step = counter - self.next + 1;
            self.window = if step < 128 { self.window << step } else { 0 };
            self.next = counter + 1;
            self.window |= 1;
        } else {
            self.window |= 1 << (self.next - 1 - counter);
        }
    }
}
