//! The underlay: datagrams get lost, doubled, late and out of order, and hosts are cut off.
//!
//! # Theory of operation
//! [`Underlay::fates`] says for one datagram when its copies arrive: none if it is lost or the
//! hosts are apart, two if it is doubled. Two hosts are apart when either is cut off, when their
//! pair is, or, for datagrams alone, when no direct way leads from one to the other (two NATs).
//!
//! # Limits
//! No queues and no bandwidth; streams see only partitions and delay.

use std::collections::BTreeSet;

use super::rng::Rng;

/// A millisecond, in nanoseconds.
pub const MS: u64 = 1_000_000;

/// What a network does to datagrams, in thousandths and nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Lost.
    pub loss: u64,
    /// Doubled.
    pub dup: u64,
    /// Held back past later ones.
    pub reorder: u64,
    /// Shortest and longest way.
    pub delay: (u64, u64),
}

impl Weather {
    /// Nothing but a short way.
    pub const FAIR: Self = Self { loss: 0, dup: 0, reorder: 0, delay: (MS, 5 * MS) };
}

/// See the module's theory of operation.
#[derive(Clone, Debug, Default)]
pub struct Underlay {
    /// What it does now.
    pub weather: Weather,
    /// Hosts that are cut off.
    pub cut: BTreeSet<usize>,
    /// Pairs that are.
    pub apart: BTreeSet<(usize, usize)>,
    /// Pairs without a direct way for datagrams, always.
    pub natted: BTreeSet<(usize, usize)>,
}

/// What became of datagrams and hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Datagrams lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Held back.
    pub reordered: u64,
    /// Sent to a host that was apart.
    pub cut: u64,
    /// Partitions made.
    pub partitions: u64,
    /// Processes ended at any moment.
    pub crashes: u64,
    /// Crashes between a write and what follows it.
    pub crashes_at_writes: u64,
    /// Clock steps.
    pub clock_steps: u64,
    /// Processes stopped and hosts put to sleep.
    pub pauses: u64,
    /// Guests evicted, replaced, or gone by themselves.
    pub departures: u64,
    /// Changes of the order's options.
    pub settings: u64,
    /// Datagrams, rosters and tickets used again or forged.
    pub attacks: u64,
}

impl Faults {
    /// Adds another run's.
    pub const fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.cut += other.cut;
        self.partitions += other.partitions;
        self.crashes += other.crashes;
        self.crashes_at_writes += other.crashes_at_writes;
        self.clock_steps += other.clock_steps;
        self.pauses += other.pauses;
        self.departures += other.departures;
        self.settings += other.settings;
        self.attacks += other.attacks;
    }
}

const fn pair(a: usize, b: usize) -> (usize, usize) {
    if a < b { (a, b) } else { (b, a) }
}

impl Underlay {
    /// Says whether nothing passes between two hosts.
    #[must_use]
    pub fn is_apart(&self, a: usize, b: usize) -> bool {
        let cut = self.cut.contains(&a) || self.cut.contains(&b);
        a != b && (cut || self.apart.contains(&pair(a, b)))
    }

    /// Cuts a pair of hosts, or joins them again.
    pub fn set_apart(&mut self, a: usize, b: usize, apart: bool) {
        if apart {
            self.apart.insert(pair(a, b));
        } else {
            self.apart.remove(&pair(a, b));
        }
    }

    /// Takes the direct way from a pair for good.
    pub fn set_natted(&mut self, a: usize, b: usize) {
        self.natted.insert(pair(a, b));
    }

    /// Says after how long a datagram's copies arrive.
    pub fn fates(&self, from: usize, to: usize, rng: &mut Rng, faults: &mut Faults) -> Vec<u64> {
        if self.is_apart(from, to) || self.natted.contains(&pair(from, to)) {
            faults.cut += 1;
            return Vec::new();
        }
        let Weather { loss, dup, reorder, delay } = self.weather;
        if rng.permille(loss) {
            faults.lost += 1;
            return Vec::new();
        }
        let mut fates = vec![rng.range(delay.0, delay.1)];
        if rng.permille(reorder) {
            faults.reordered += 1;
            fates[0] += rng.range(20 * MS, 400 * MS);
        }
        if rng.permille(dup) {
            faults.doubled += 1;
            fates.push(fates[0] + rng.below(500 * MS));
        }
        fates
    }

    /// Returns how long a message of a stream is under way.
    pub fn stream_delay(&self, rng: &mut Rng) -> u64 {
        let Weather { loss, delay, .. } = self.weather;
        // A lost packet is sent again.
        let again = if rng.permille(loss) { 200 * MS } else { 0 };
        rng.range(delay.0, delay.1) + again
    }
}
