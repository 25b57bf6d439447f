//! Decides which handshake messages are looked at, so that a flood of them shuts nobody out.
//!
//! # Theory of operation
//! The order is what matters, and it is WireGuard's. First the carrier checks the MAC that takes
//! our public key: a sender that does not know it costs one hash. While [`HANDSHAKES_PER_SECOND`]
//! have passed within a second, we are under load ([`HandshakeLimiter::load`]) and the carrier asks
//! for a cookie, which only an honest source gets to see. Only sources that are proven in this way
//! have a token bucket ([`RATE`] a second, [`BURST`] at once): nobody can empty another's, and
//! forged sources take no place in the table. What passes costs a Diffie-Hellman computation.
//!
//! What the gateway hands on needs no cookie, since its address is proven; its bucket is that of
//! the member who sent it.
//!
//! # Limits
//! [`SOURCES_MAX`] sources. When the table is full, those whose bucket is full again make room; if
//! there is none, one bucket for all the rest decides. An IPv6 host owns its /64 and is one source.
//!
//! Source: WireGuard whitepaper, 5.3 and 5.4.7; the rates of wireguard-go's `ratelimiter`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use vde_switch::time::Instant;

use crate::control::Slot;
use crate::tunnel::Load;

/// Handshake messages a second that are answered without asking for a cookie first: 10 ms of
/// computation.
pub const HANDSHAKES_PER_SECOND: u32 = 50;

/// Handshake messages a second from one proven source.
pub const RATE: u32 = 20;

/// Handshake messages at once from one proven source.
pub const BURST: u32 = 10;

/// Handshake messages a second from all proven sources beyond the table.
pub const SHARED_RATE: u32 = 100;

/// Sources with a bucket of their own.
pub const SOURCES_MAX: usize = 1024;

/// Whom a handshake message counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Whoever has this address, or any of this /64.
    Address(IpAddr),
    /// The member whose message was handed on.
    Member(Slot),
}

impl Source {
    /// Returns the source that an address stands for.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Address(address),
            IpAddr::V6(v6) => {
                let net = v6.to_bits() & !(u64::MAX as u128);
                Self::Address(IpAddr::V6(Ipv6Addr::from_bits(net)))
            }
        }
    }
}

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
pub struct HandshakeLimiter {
    /// Messages that passed unproven since `counted_from`.
    count: u32,
    counted_from: Instant,
    sources: BTreeMap<Source, Bucket>,
    shared: Bucket,
    swept_at: Instant,
}

impl HandshakeLimiter {
    /// Makes it with full buckets.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        let shared = Bucket::full(SHARED_RATE, now);
        Self { count: 0, counted_from: now, sources: BTreeMap::new(), shared, swept_at: now }
    }

    /// Says whether the next message from an address must show its cookie.
    pub fn load(&mut self, now: Instant) -> Load {
        if now - self.counted_from >= Duration::from_secs(1) {
            self.count = 0;
            self.counted_from = now;
        }
        if self.count < HANDSHAKES_PER_SECOND { Load::Idle } else { Load::Loaded }
    }

    /// Counts a message that passed its check without a cookie.
    pub const fn count_unproven(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Says whether one more message of this proven source is looked at.
    pub fn admit(&mut self, source: Source, now: Instant) -> bool {
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

    fn source(n: u32) -> Source {
        Source::of(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn one_source_gets_its_rate_and_no_more() {
        let mut limiter = HandshakeLimiter::new(START);
        let admitted = (0..10_000_u32)
            .filter(|ms| limiter.admit(source(1), START + Duration::from_millis(u64::from(*ms))))
            .count();
        assert!((200..=215).contains(&admitted), "{admitted} in ten seconds");
    }

    #[test]
    fn many_sources_fill_the_table_and_then_share() {
        let mut limiter = HandshakeLimiter::new(START);
        assert!(limiter.admit(source(0), START));
        let admitted = (1..100_000).filter(|n| limiter.admit(source(*n), START)).count();
        assert_eq!(admitted, SOURCES_MAX - 1 + SHARED_RATE as usize);
        assert!(limiter.sources.len() <= SOURCES_MAX);
        assert!(limiter.admit(source(0), START), "a known source has lost its share");
        let later = START + Duration::from_secs(3);
        assert!(limiter.admit(source(500_000), later));
        assert!(limiter.sources.len() < SOURCES_MAX, "idle sources were not forgotten");
    }

    #[test]
    fn a_second_has_so_many_messages_without_a_cookie() {
        let mut limiter = HandshakeLimiter::new(START);
        let mut unproven = 0;
        for ms in 0..5000 {
            if limiter.load(START + Duration::from_millis(ms)) == Load::Idle {
                limiter.count_unproven();
                unproven += 1;
            }
        }
        assert_eq!(unproven, 5 * HANDSHAKES_PER_SECOND);
    }

    #[test]
    fn the_addresses_of_a_slash_64_are_one_source() {
        let v6 = |text: &str| Source::of(text.parse::<IpAddr>().unwrap());
        assert_eq!(v6("2001:db8:0:1::1"), v6("2001:db8:0:1:ffff::2"));
        assert_ne!(v6("2001:db8:0:1::1"), v6("2001:db8:0:2::1"));
        assert_ne!(source(1), source(2));
    }
}
