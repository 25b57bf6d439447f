//! The roster: the signed, versioned list of who is in an order and where each may be tried.
//!
//! # Theory of operation
//! The gateway signs a full roster for whoever joins and deltas for whoever has the version before.
//! A member keeps a [`RosterView`]; [`RosterView::apply`] takes a roster as a whole or not at all,
//! so a view is always one that the buyer signed. Each entry is the member's own grant, verified by
//! itself, so the roster adds only candidates to what the buyer said before.
//!
//! # Limits
//! [`MEMBERS_MAX`] entries, [`CANDIDATES_MAX`] candidates each: 244 kB of envelope at worst, below
//! [`ENVELOPE_LEN_MAX`](crate::envelope::ENVELOPE_LEN_MAX). No two members share a slot, a name or
//! an address; a data-plane key is shared by guests of one seller's lease at most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::control::{CANDIDATES_MAX, MEMBERS_MAX, Slot};
use crate::envelope::{Document, EnvelopeError, Kind, Signed};
use crate::grant::{Grant, GrantError};
use crate::identity::NodeId;
use crate::order::OrderId;

/// One member as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Envelope of the member's grant.
    pub grant: Vec<u8>,
    /// Addresses where its data plane may be heard, best first.
    pub candidates: Vec<SocketAddr>,
    /// Whether its host speaks to the buyer's address alone; then it has no candidates.
    pub only_buyer: bool,
}

/// All members of an order, or what changed among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Whose members.
    pub order: OrderId,
    /// The config that was in force.
    pub config_version: u32,
    /// Grows with each change.
    pub version: u64,
    /// The version that these are changes to; `None` if this is everyone.
    pub base: Option<u64>,
    /// Members, or those that came or changed.
    pub entries: Vec<RosterEntry>,
    /// Those that went; empty if this is everyone.
    pub removed: Vec<Slot>,
}

impl Document for Roster {
    const KIND: Kind = Kind::Roster;
}

/// One member as a view holds it: verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewEntry {
    /// What it may do.
    pub grant: Grant,
    /// Where it may be tried, as heard; ask `dial` first.
    pub candidates: Vec<SocketAddr>,
    /// Whether its host speaks to the buyer's address alone.
    pub only_buyer: bool,
}

/// What a member knows of an order's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterView {
    order: OrderId,
    buyer: NodeId,
    version: Option<u64>,
    config_version: u32,
    entries: BTreeMap<Slot, ViewEntry>,
}

impl RosterView {
    /// Knows nobody yet.
    #[must_use]
    pub const fn new(order: OrderId, buyer: NodeId) -> Self {
        Self { order, buyer, version: None, config_version: 0, entries: BTreeMap::new() }
    }

    /// Returns the version it is at, `None` before the first roster.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        self.version
    }

    /// Returns the config version that the roster was made under.
    #[must_use]
    pub const fn config_version(&self) -> u32 {
        self.config_version
    }

    /// Returns the members, by slot.
    #[must_use]
    pub const fn entries(&self) -> &BTreeMap<Slot, ViewEntry> {
        &self.entries
    }

    /// Takes a roster's envelope, full or delta. A refused one changes nothing.
    ///
    /// # Errors
    /// [`RosterError`], the first that applies.
    pub fn apply(&mut self, bytes: &[u8]) -> Result<(), RosterError> {
        let signed: Signed<Roster> = Signed::open(bytes)?;
        if signed.signer() != self.buyer {
            return Err(RosterError::Signer(signed.signer()));
        }
        let (_, roster) = signed.into_parts();
        if roster.order != self.order {
            return Err(RosterError::Order(roster.order));
        }
        let known = self.version;
        let stale = known.is_some_and(|known| match roster.base {
            None => roster.version < known,
            Some(_) => roster.version <= known,
        });
        if stale || roster.config_version < self.config_version {
            return Err(RosterError::Stale(roster.version));
        }
        if roster.base.is_some() && roster.base != known {
            return Err(RosterError::Base { base: roster.base, known });
        }
        if roster.entries.len() > MEMBERS_MAX || roster.removed.len() > MEMBERS_MAX {
            return Err(RosterError::Members(roster.entries.len().max(roster.removed.len())));
        }
        let mut entries = match roster.base {
            None => BTreeMap::new(),
            Some(_) => self.entries.clone(),
        };
        for slot in &roster.removed {
            entries.remove(slot);
        }
        let mut said = BTreeSet::new();
        for entry in roster.entries {
            let (slot, entry) = self.verified(entry)?;
            if !said.insert(slot) || roster.removed.contains(&slot) {
                return Err(RosterError::Twice { slot: slot.0, what: "slot" });
            }
            let known = self.entries.get(&slot);
            if known.is_some_and(|known| entry.grant.age() < known.grant.age()) {
                return Err(RosterError::Serial { slot: slot.0, serial: entry.grant.serial });
            }
            entries.insert(slot, entry);
        }
        check_unique(&entries)?;
        self.version = Some(roster.version);
        self.config_version = roster.config_version;
        self.entries = entries;
        Ok(())
    }

    fn verified(&self, entry: RosterEntry) -> Result<(Slot, ViewEntry), RosterError> {
        let RosterEntry { grant, candidates, only_buyer } = entry;
        let (_, grant) = Grant::open(&grant, self.order, self.buyer)?.into_parts();
        let count = candidates.len();
        if count > CANDIDATES_MAX || (only_buyer && count > 0) {
            return Err(RosterError::Candidates { slot: grant.slot.0, count });
        }
        Ok((grant.slot, ViewEntry { grant, candidates, only_buyer }))
    }
}

/// Says whether no two members share what must be one's own.
fn check_unique(entries: &BTreeMap<Slot, ViewEntry>) -> Result<(), RosterError> {
    if entries.len() > MEMBERS_MAX {
        return Err(RosterError::Members(entries.len()));
    }
    let (mut macs, mut v4s, mut v6s) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut names, mut sellers) = (BTreeSet::new(), BTreeMap::new());
    for (slot, ViewEntry { grant, .. }) in entries {
        let seller = *sellers.entry(grant.data_key).or_insert(grant.seller);
        let own = [
            ("MAC address", macs.insert(grant.station.mac)),
            ("IPv4 address", v4s.insert(grant.station.ipv4)),
            ("IPv6 address", v6s.insert(grant.station.ipv6)),
            ("name", names.insert(&grant.name)),
            ("data-plane key", seller == grant.seller),
        ];
        if let Some((what, _)) = own.into_iter().find(|(_, new)| !new) {
            return Err(RosterError::Twice { slot: slot.0, what });
        }
    }
    Ok(())
}

/// Why a roster is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Not a signed roster.
    #[error("not a roster: {0}")]
    Envelope(#[from] EnvelopeError),
    /// An entry's grant is none.
    #[error("the roster holds a bad grant: {0}")]
    Grant(#[from] GrantError),
    /// Signed by another key than the buyer's.
    #[error("the roster is signed by {0}, not by the buyer")]
    Signer(NodeId),
    /// Of another order.
    #[error("the roster is of order {0}")]
    Order(OrderId),
    /// Older than what is known.
    #[error("the roster's version {0} is older than what is known")]
    Stale(u64),
    /// Changes to a version that is not the known one.
    #[error("the roster's changes are to version {base:?}, known is {known:?}")]
    Base {
        /// What they are to.
        base: Option<u64>,
        /// What is known.
        known: Option<u64>,
    },
    /// So many members.
    #[error("the roster has {0} members, more than {MEMBERS_MAX}")]
    Members(usize),
    /// Too many candidates, or candidates of one who wants none known.
    #[error("the roster's slot {slot} has {count} candidates")]
    Candidates {
        /// Whose.
        slot: u16,
        /// How many.
        count: usize,
    },
    /// A grant that is older than the one that is known of the slot.
    #[error("the roster's slot {slot} has a grant older than what is known, serial {serial}")]
    Serial {
        /// Whose.
        slot: u16,
        /// The grant's.
        serial: u64,
    },
    /// Two members with one value.
    #[error("the roster's slot {slot} has the {what} of another member")]
    Twice {
        /// The second of them.
        slot: u16,
        /// What they share.
        what: &'static str,
    },
}
