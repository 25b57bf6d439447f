//! Limits handshake messages by their source, before any of them costs a computation.
//!
//! # Theory of operation
//! A token bucket for each source address ([`RATE`] a second, [`BURST`] at once), and one for all
//! that are not in the table.
//!
//! # Limits
//! [`SOURCES_MAX`] sources. When the table is full, sources whose bucket is full again make room;
//! if there is none, the shared bucket decides, so a flood of forged sources cannot grow the table
//! and known sources keep their own share.
//!
//! Source: the limits of wireguard-go's `ratelimiter`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use vde_switch::time::Instant;

/// Handshake messages a second from one source.
pub const RATE: u32 = 20;

/// Handshake messages at once from one source.
pub const BURST: u32 = 10;

/// Handshake messages a second from all sources beyond the table.
pub const SHARED_RATE: u32 = 100;

/// Sources with a bucket of their own.
pub const SOURCES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of a token.
    tokens: u64,
    at: Instant,
}

impl Bucket {
    const fn full(burst: u32, at: Instant) -> Self {
        Self { tokens: burst as u64 * 1000, at }
    }

    fn refill(&mut self, rate: u32, burst: u32, now: Instant) {
        let new = (now - self.at).as_millis().min(60_000) as u64 * u64::from(rate);
        if new > 0 {
            self.tokens = (self.tokens + new).min(u64::from(burst) * 1000);
            self.at = now;
        }
    }

    const fn take(&mut self) -> bool {
        match self.tokens.checked_sub(1000) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct SourceLimiter {
    sources: BTreeMap<IpAddr, Bucket>,
    shared: Bucket,
    swept_at: Instant,
}

impl SourceLimiter {
    /// Makes it with full buckets.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        let shared = Bucket::full(SHARED_RATE, now);
        Self { sources: BTreeMap::new(), shared, swept_at: now }
    }

    /// Says whether one more handshake message of this source is looked at.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if let Some(bucket) = self.sources.get_mut(&source) {
            bucket.refill(RATE, BURST, now);
            return bucket.take();
        }
        if self.sources.len() >= SOURCES_MAX && now - self.swept_at > Duration::from_secs(1) {
            self.swept_at = now;
            self.sources.retain(|_, bucket| {
                bucket.refill(RATE, BURST, now);
                bucket.tokens < u64::from(BURST) * 1000
            });
        }
        if self.sources.len() >= SOURCES_MAX {
            self.shared.refill(SHARED_RATE, SHARED_RATE, now);
            return self.shared.take();
        }
        let mut bucket = Bucket::full(BURST, now);
        let admitted = bucket.take();
        self.sources.insert(source, bucket);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1 << 40);

    fn source(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn one_source_gets_its_rate_and_no_more() {
        let mut limiter = SourceLimiter::new(START);
        let admitted = (0..10_000_u32)
            .filter(|ms| limiter.admit(source(1), START + Duration::from_millis(u64::from(*ms))))
            .count();
        assert!((200..=215).contains(&admitted), "{admitted} in ten seconds");
    }

    #[test]
    fn forged_sources_fill_the_table_and_then_share() {
        let mut limiter = SourceLimiter::new(START);
        assert!(limiter.admit(source(0), START));
        let admitted = (1..100_000).filter(|n| limiter.admit(source(*n), START)).count();
        assert_eq!(admitted, SOURCES_MAX - 1 + SHARED_RATE as usize);
        assert!(limiter.sources.len() <= SOURCES_MAX);
        assert!(limiter.admit(source(0), START), "a known source has lost its share");
        let later = START + Duration::from_secs(3);
        assert!(limiter.admit(source(500_000), later));
        assert!(limiter.sources.len() < SOURCES_MAX, "idle sources were not forgotten");
    }
}
