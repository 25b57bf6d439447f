//! The gateway's book of one order: tickets, slots, members, and what it signs for them.
//!
//! # Theory of operation
//! A [`Registry`] is a value without I/O. Each call that changes what must outlive the process
//! hands out [`Record`]s; the shell writes them in one transaction *before* it sends the reply that
//! came with them, and stops the gateway if it cannot, since the value is ahead of its store then.
//! All calls take `&mut self`, so of any number of joins with one ticket exactly one key wins.
//!
//! A member is *live* from a grant handed out on a live stream until that grant's life is over
//! ([`Registry::expire`]). Then it is *suspended*: it leaves roster and data plane, keeps slot,
//! name and addresses, and is live again with its next grant. None of this is stored: whoever was a
//! member before the gateway started has one life from the start.
//!
//! Who changed since which version is kept in the entries themselves, so a delta costs no log.
//! Versions and serials begin with the count of starts in their upper half: they grow across a kill
//! without being written at each change.
//!
//! # Limits
//! One open ticket a slot, at most [`Subnet::slot_max`] slots, never given to another guest in the
//! order's life, and to another seller only by [`Registry::replace`]. A gateway whose store was put
//! back to an older copy signs older versions than members know; they refuse them until they start
//! anew.

mod joining;
mod options;
mod presence;
mod record;
mod tickets;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use vde_switch::station::Station;
use vde_switch::time::Instant;

pub use self::joining::*;
pub use self::options::*;
pub use self::presence::*;
pub use self::record::*;
pub use self::tickets::*;
use crate::addressing::Subnet;
use crate::control::{AddressTrust, CANDIDATES_MAX, Slot};
use crate::envelope::Signed;
use crate::grant::Grant;
use crate::identity::{NodeId, NodeKey};
use crate::messages::ToMember;
use crate::order::{Config, OrderId};
use crate::roster::{Roster, RosterEntry};

/// Bits of a version or serial below the count of starts.
const STARTS_SHIFT: u32 = 32;

/// Whether a member may speak right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its grant lives.
    Live,
    /// Its grant has run out: it is on nobody's roster until it asks for another.
    Suspended,
}

/// A member as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// What is stored of it.
    pub record: SlotRecord,
    /// Its addresses.
    pub station: Station,
    /// Where it may be heard, best first; empty for one that speaks to the buyer alone.
    pub candidates: Vec<SocketAddr>,
    /// How freely the gateway may dial them: as a ticket's if each is where the member proved its
    /// key by the control connection, else as hearsay.
    pub trust: AddressTrust,
    /// Whether its grant lives.
    pub standing: Standing,
    /// When its grant ends, or ended.
    pub expires_at: Instant,
}

/// What one member stream was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    roster: u64,
    config: u32,
}

impl Seen {
    /// Knows the roster version of a hello, and no config: it is told again, in case it changed
    /// between welcome and hello.
    #[must_use]
    pub const fn new(roster_version: u64) -> Self {
        Self { roster: roster_version, config: 0 }
    }
}

#[derive(Debug)]
struct Joined {
    record: SlotRecord,
    grant: Signed<Grant>,
    said: Vec<SocketAddr>,
    heard: Option<SocketAddr>,
    /// From where it proved its key last.
    remote: Option<IpAddr>,
    changed_at: u64,
    standing: Standing,
    expires_at: Instant,
}

impl Joined {
    /// What others are told: where the gateway hears it first, then what it says of itself.
    fn candidates(&self) -> Vec<SocketAddr> {
        if self.record.only_buyer {
            return Vec::new();
        }
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for addr in self.heard.iter().chain(&self.said) {
            if candidates.len() < CANDIDATES_MAX && !candidates.contains(addr) {
                candidates.push(*addr);
            }
        }
        candidates
    }

    fn trust(&self) -> AddressTrust {
        let proven = |addr: &SocketAddr| Some(addr.ip()) == self.remote;
        let all = self.candidates().iter().all(proven);
        if all { AddressTrust::Given } else { AddressTrust::Hearsay }
    }
}

/// The book of one order.
#[derive(Debug)]
pub struct Registry {
    key: NodeKey,
    order: OrderRecord,
    id: OrderId,
    config: Signed<Config>,
    tickets: BTreeMap<Slot, TicketRecord>,
    /// When open tickets end, by this host's own clock.
    deadlines: BTreeMap<Slot, Instant>,
    joined: BTreeMap<Slot, Joined>,
    streams: BTreeMap<Slot, Presence>,
    gone: BTreeMap<Slot, u64>,
    version: u64,
    serial: u64,
}

impl Registry {
    /// Opens the book with what the store holds, or with a new order and nothing else. The order's
    /// record changes: write [`Registry::order_record`] before anything is handed out.
    ///
    /// # Errors
    /// [`RegistryError`] if the records are not this key's or contradict themselves.
    pub fn open(
        key: NodeKey,
        mut order: OrderRecord,
        tickets: Vec<TicketRecord>,
        slots: Vec<SlotRecord>,
        unix_now: u64,
        now: Instant,
    ) -> Result<Self, RegistryError> {
        if order.order.buyer != key.id() {
            return Err(RegistryError::Buyer { order: order.order.buyer, key: key.id() });
        }
        order.starts = order.starts.wrapping_add(1);
        let first = u64::from(order.starts) << STARTS_SHIFT;
        let id = order.id();
        let config = order.config().ok_or(RegistryError::Subnet(order.subnet))?;
        let config = Signed::seal(&key, config);
        Config::check(&config, id, key.id()).map_err(|_| RegistryError::Subnet(order.subnet))?;
        let mut registry = Self {
            id,
            config,
            tickets: tickets.into_iter().map(|ticket| (ticket.slot, ticket)).collect(),
            deadlines: BTreeMap::new(),
            joined: BTreeMap::new(),
            streams: BTreeMap::new(),
            gone: BTreeMap::new(),
            version: first,
            serial: first,
            key,
            order,
        };
        for record in slots {
            if record.left_at.is_some() || record.evicted_at.is_some() {
                continue;
            }
            let grant = registry
                .grant(&record, [0; 16])
                .ok_or(RegistryError::Slot(record.slot.0, registry.order.subnet))?;
            let joined = registry.joined(record, grant, now);
            registry.joined.insert(joined.record.slot, joined);
        }
        registry.watch_tickets(unix_now, now);
        Ok(registry)
    }

    /// Returns what the store must hold of the order.
    #[must_use]
    pub const fn order_record(&self) -> &OrderRecord {
        &self.order
    }

    /// Returns the order's id.
    #[must_use]
    pub const fn id(&self) -> OrderId {
        self.id
    }

    /// Returns the signed config.
    #[must_use]
    pub const fn config(&self) -> &Signed<Config> {
        &self.config
    }

    /// Returns the roster's version.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Returns the newest ticket of each slot.
    pub fn tickets(&self) -> impl Iterator<Item = &TicketRecord> {
        self.tickets.values()
    }

    /// Returns the members, by slot, suspended ones too.
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> {
        self.joined.values().map(|joined| MemberInfo {
            record: joined.record.clone(),
            station: joined.grant.body().station,
            candidates: joined.candidates(),
            trust: joined.trust(),
            standing: joined.standing,
            expires_at: joined.expires_at,
        })
    }

    /// Returns the live slots of the lease that a live slot belongs to, lowest first: its data
    /// plane goes by the first of them. Empty for a slot that is not live.
    #[must_use]
    pub fn lease_of(&self, slot: Slot) -> Vec<Slot> {
        let is_live = |joined: &Joined| joined.standing == Standing::Live;
        let Some(own) = self.joined.get(&slot).filter(|joined| is_live(joined)) else {
            return Vec::new();
        };
        let live = self.kin(&own.record.data_key).filter(|(_, joined)| is_live(joined));
        live.map(|(slot, _)| slot).collect()
    }

    /// Returns the slot of a guest that has a ticket, by its name.
    #[must_use]
    pub fn slot_of(&self, guest: &str) -> Option<Slot> {
        self.tickets.values().find(|ticket| ticket.name.as_str() == guest).map(|t| t.slot)
    }

    /// Returns the envelope of a roster with everyone.
    #[must_use]
    pub fn roster(&self) -> Vec<u8> {
        self.sign_roster(None)
    }

    /// Returns the envelope that brings a member from a version to this one, `None` if it is there.
    #[must_use]
    pub fn roster_since(&self, version: u64) -> Option<Vec<u8>> {
        let ours = version >> STARTS_SHIFT == u64::from(self.order.starts);
        if version == self.version {
            return None;
        }
        Some(self.sign_roster((ours && version < self.version).then_some(version)))
    }

    /// Returns what a member stream is still to be told, in this order, and notes that it was.
    pub fn news(&self, seen: &mut Seen) -> Vec<ToMember> {
        let config = (seen.config != self.order.config_version)
            .then(|| ToMember::Config(self.config.bytes().to_vec()));
        let roster = self.roster_since(seen.roster).map(ToMember::Roster);
        *seen = Seen { roster: self.version, config: self.order.config_version };
        config.into_iter().chain(roster).collect()
    }

    fn sign_roster(&self, base: Option<u64>) -> Vec<u8> {
        let newer = |at: u64| base.is_none_or(|base| at > base);
        let live = self.joined.values().filter(|joined| joined.standing == Standing::Live);
        let entries = live.filter(|joined| newer(joined.changed_at)).map(|joined| RosterEntry {
            grant: joined.grant.bytes().to_vec(),
            candidates: joined.candidates(),
            only_buyer: joined.record.only_buyer,
        });
        let removed = self.gone.iter().filter(|(_, at)| base.is_some() && newer(**at));
        let roster = Roster {
            order: self.id,
            config_version: self.order.config_version,
            version: self.version,
            base,
            entries: entries.collect(),
            removed: removed.map(|(slot, _)| *slot).collect(),
        };
        Signed::seal(&self.key, roster).into_parts().0
    }
}

/// Why a store's records make no book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Another key made the order.
    #[error("the order was made by {order}, this state directory's key is {key}")]
    Buyer {
        /// Who made it.
        order: NodeId,
        /// Who opens it.
        key: NodeId,
    },
    /// A config that no member would follow.
    #[error("the stored order with subnet {0} has options that no member would accept")]
    Subnet(Subnet),
    /// A slot without an address.
    #[error("the stored slot {0} has no address in {1}")]
    Slot(u16, Subnet),
}
