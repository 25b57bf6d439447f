//! Sets of IPv4 addresses, as networks are added to them and taken away.

use std::fmt;
use std::net::Ipv4Addr;

/// Addresses one after the other, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest.
    pub last: Ipv4Addr,
}

impl fmt::Display for Range {
    /// As an element of an nft set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// Ranges without overlap, from low to high.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Says whether an address is in one of them.
    #[must_use]
    pub fn contain(&self, address: Ipv4Addr) -> bool {
        self.0.iter().any(|range| range.first <= address && address <= range.last)
    }

    /// Returns them, from low to high.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        self.0.iter().copied()
    }

    pub(super) fn add(&mut self, new: Option<Range>) {
        let Some(new) = new else { return };
        self.remove(Some(new));
        self.0.push(new);
        self.0.sort_by_key(|range| range.first);
    }

    pub(super) fn remove(&mut self, gone: Option<Range>) {
        let Some(gone) = gone else { return };
        let (low, high) = (gone.first.to_bits(), gone.last.to_bits());
        let kept = self.0.iter().flat_map(|range| {
            let (first, last) = (range.first.to_bits(), range.last.to_bits());
            let below = (low > first).then(|| (first, last.min(low - 1)));
            let above = (high < last).then(|| (first.max(high + 1), last));
            [below, above]
        });
        self.0 = kept
            .flatten()
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| Range {
                first: Ipv4Addr::from_bits(first),
                last: Ipv4Addr::from_bits(last),
            })
            .collect();
    }
}

impl fmt::Display for Ranges {
    /// As the elements of an nft set, without its braces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.iter().enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Returns the addresses of the network that an address is in; `None` for a prefix length that is
/// none.
pub(super) fn range(address: Ipv4Addr, len: u8) -> Option<Range> {
    let hosts = match len {
        0 => u32::MAX,
        1..=32 => u32::MAX.checked_shr(len.into()).unwrap_or(0),
        33.. => return None,
    };
    let first = Ipv4Addr::from_bits(address.to_bits() & !hosts);
    Some(Range { first, last: Ipv4Addr::from_bits(first.to_bits() | hosts) })
}
