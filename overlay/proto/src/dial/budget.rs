//! How many packets an unproven address is worth.
//!
//! # Theory of operation
//! Counting is by address, not by port, so that a list of all ports of a victim is worth as little
//! as one of them; it is strict for any five minutes, not from one mark to the next. All hearsay
//! together draws from one bucket of tokens. Addresses whose handshake proved a key are not asked
//! about any more.
//!
//! # Limits
//! [`ADDRESSES_TRACKED_MAX`] addresses; when full, new ones are refused until old ones are
//! forgotten. [`GIVEN_RESERVED`] places are kept from hearsay.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vde_switch::time::Instant;

use super::canonical;
use crate::control::AddressTrust;

/// The time over which packets and bytes are counted.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(300);

/// Packets to one hearsay address in any [`BUDGET_WINDOW`].
pub const HEARSAY_PACKETS_MAX: usize = 8;

/// Bytes of UDP payload to one hearsay address in any [`BUDGET_WINDOW`]: 8 WireGuard initiations.
pub const HEARSAY_BYTES_MAX: usize = 1300;

/// Packets to one ticket address in any [`BUDGET_WINDOW`].
pub const GIVEN_PACKETS_MAX: usize = 16;

/// Bytes to one ticket address in any [`BUDGET_WINDOW`].
pub const GIVEN_BYTES_MAX: usize = 20_000;

/// Packets to all hearsay addresses at once.
pub const HEARSAY_BURST_MAX: u32 = 32;

/// Packets a second to all hearsay addresses in the long run.
pub const HEARSAY_RATE: u32 = 2;

/// Most addresses that are counted.
pub const ADDRESSES_TRACKED_MAX: usize = 256;

/// Places that hearsay leaves free.
pub const GIVEN_RESERVED: usize = 8;

/// Counts what is sent to addresses that have not proved a key yet.
#[derive(Debug)]
pub struct DialBudget {
    sent: BTreeMap<(IpAddr, bool), VecDeque<(Instant, u16)>>,
    /// Hearsay packets left, and since when.
    tokens: u32,
    refilled_at: Instant,
}

impl DialBudget {
    /// Starts with nothing sent and a full burst.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { sent: BTreeMap::new(), tokens: HEARSAY_BURST_MAX, refilled_at: now }
    }

    /// Takes one packet of `len` bytes of UDP payload to an address, or refuses it.
    ///
    /// # Errors
    /// [`BudgetSpent`]; nothing is counted then.
    pub fn take(
        &mut self,
        addr: SocketAddr,
        trust: AddressTrust,
        len: usize,
        now: Instant,
    ) -> Result<(), BudgetSpent> {
        self.refill(now);
        let hearsay = trust == AddressTrust::Hearsay;
        let (packets_max, bytes_max, addresses_max) = if hearsay {
            let addresses_max = ADDRESSES_TRACKED_MAX - GIVEN_RESERVED;
            (HEARSAY_PACKETS_MAX, HEARSAY_BYTES_MAX, addresses_max)
        } else {
            (GIVEN_PACKETS_MAX, GIVEN_BYTES_MAX, ADDRESSES_TRACKED_MAX)
        };
        let Ok(len) = u16::try_from(len) else { return Err(BudgetSpent::Address) };
        if hearsay && self.tokens == 0 {
            return Err(BudgetSpent::Total);
        }
        let key = (canonical(addr).ip(), hearsay);
        if !self.sent.contains_key(&key) && self.sent.len() >= addresses_max {
            self.forget(now);
            if self.sent.len() >= addresses_max {
                return Err(BudgetSpent::Addresses);
            }
        }
        let sent = self.sent.entry(key).or_default();
        while sent.front().is_some_and(|(at, _)| now - *at >= BUDGET_WINDOW) {
            sent.pop_front();
        }
        let bytes: usize = sent.iter().map(|(_, len)| usize::from(*len)).sum();
        if sent.len() >= packets_max || bytes + usize::from(len) > bytes_max {
            return Err(BudgetSpent::Address);
        }
        sent.push_back((now, len));
        self.tokens -= u32::from(hearsay);
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        const TOKEN_EVERY: Duration = Duration::from_millis(1000 / HEARSAY_RATE as u64);
        let new = (now - self.refilled_at).as_nanos() / TOKEN_EVERY.as_nanos();
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        if new >= HEARSAY_BURST_MAX - self.tokens {
            self.tokens = HEARSAY_BURST_MAX;
            self.refilled_at = self.refilled_at.max(now);
        } else {
            self.tokens += new;
            self.refilled_at += TOKEN_EVERY * new;
        }
    }

    /// Drops addresses whose last packet is out of the window.
    fn forget(&mut self, now: Instant) {
        self.sent.retain(|_, sent| sent.back().is_some_and(|(at, _)| now - *at < BUDGET_WINDOW));
    }
}

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetSpent {
    /// This address had its packets or bytes.
    #[error("the address has had its packets for now")]
    Address,
    /// All hearsay addresses together had theirs.
    #[error("unproven addresses have had their packets for now")]
    Total,
    /// Too many addresses.
    #[error("too many unproven addresses are being tried")]
    Addresses,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_victim_gets_eight_packets_whatever_ports_and_spellings_are_listed() {
        let mut budget = DialBudget::new(at(0));
        let mut sent_at = Vec::new();
        for second in 0..1200 {
            for text in ["44.0.0.1:7770", "44.0.0.1:7771", "[::ffff:44.0.0.1]:9999"] {
                let taken = budget.take(addr(text), AddressTrust::Hearsay, 148, at(second));
                sent_at.extend(taken.is_ok().then_some(second));
            }
        }
        for start in 0..900 {
            let within = sent_at.iter().filter(|s| (start..start + 300).contains(*s)).count();
            assert!(within <= HEARSAY_PACKETS_MAX, "{within} packets from second {start} on");
        }
        assert!(sent_at.len() >= 24, "{}", sent_at.len());
    }

    #[test]
    fn all_hearsay_together_is_a_burst_and_a_trickle() {
        let mut budget = DialBudget::new(at(0));
        let mut sent = 0_u32;
        for second in 0..600 {
            for host in 0..10_000 {
                let ip = Ipv4Addr::from_bits(0x2c00_0000 | (second * 10_000 + host));
                let to = SocketAddr::from((ip, 7770));
                sent += u32::from(
                    budget.take(to, AddressTrust::Hearsay, 148, at(second.into())).is_ok(),
                );
                assert!(sent <= HEARSAY_BURST_MAX + HEARSAY_RATE * second);
            }
        }
        assert!(budget.sent.len() <= ADDRESSES_TRACKED_MAX);
        let ticket = budget.take(addr("44.0.0.1:7770"), AddressTrust::Given, 148, at(600));
        assert_eq!(ticket, Ok(()), "hearsay left no place for the ticket's address");
    }

    #[test]
    fn large_packets_spend_the_bytes_first() {
        let mut budget = DialBudget::new(at(0));
        let to = addr("44.0.0.1:7770");
        let mut take = |trust, len| budget.take(to, trust, len, at(1)).is_ok();
        assert!(take(AddressTrust::Hearsay, 1300) && !take(AddressTrust::Hearsay, 1));
        assert_eq!((0..20).filter(|_| take(AddressTrust::Given, 1400)).count(), 14);
        assert!(!take(AddressTrust::Given, 1_000_000));
    }
}
