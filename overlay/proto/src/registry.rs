//! The gateway's book of one order: tickets, slots, members, and what it signs for them.
//!
//! # Theory of operation
//! A [`Registry`] is a value without I/O. Each call that changes what must outlive the process
//! hands out [`Record`]s; the shell writes them in one transaction *before* it sends the reply that
//! came with them, and stops the gateway if it cannot, since the value is ahead of its store then.
//! All calls take `&mut self`, so of any number of joins with one ticket exactly one key wins.
//!
//! Who changed since which version is kept in the entries themselves, so a delta costs no log.
//! Versions and serials begin with the count of starts in their upper half: they grow across a kill
//! without being written at each change.
//!
//! # Limits
//! One slot a ticket, at most [`Subnet::slot_max`] of them, never given to another guest in the
//! order's life. Left out so far: eviction and expiry have their fields, nobody sets them; a join
//! restores a member that left.

mod record;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use vde_switch::station::Station;

pub use self::record::*;
use crate::addressing::Subnet;
use crate::control::{CANDIDATES_MAX, Slot};
use crate::dial::canonical;
use crate::envelope::Signed;
use crate::grant::{Grant, Limits, Suite};
use crate::identity::{NodeId, NodeKey};
use crate::messages::{JoinReply, JoinRequest, RefuseReason, Welcome};
use crate::names::Name;
use crate::order::{Config, OrderId};
use crate::roster::{Roster, RosterEntry};
use crate::ticket::{ADDRESSES_MAX, DialAddr, Ticket, TicketBody, TicketError, TicketSecret};

/// Bits of a version or serial below the count of starts.
const STARTS_SHIFT: u32 = 32;

/// What a join request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be sent, once the records are written.
    pub reply: JoinReply,
    /// To be written first, in one transaction.
    pub records: Vec<Record>,
    /// Who joined; `None` if refused.
    pub joined: Option<Slot>,
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
}

#[derive(Debug)]
struct Joined {
    record: SlotRecord,
    grant: Signed<Grant>,
    said: Vec<SocketAddr>,
    heard: Option<SocketAddr>,
    changed_at: u64,
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
}

/// The book of one order.
#[derive(Debug)]
pub struct Registry {
    key: NodeKey,
    order: OrderRecord,
    id: OrderId,
    config: Signed<Config>,
    tickets: BTreeMap<Slot, TicketRecord>,
    joined: BTreeMap<Slot, Joined>,
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
            joined: BTreeMap::new(),
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
            let changed_at = registry.version;
            let slot = record.slot;
            let joined = Joined { record, grant, said: Vec::new(), heard: None, changed_at };
            registry.joined.insert(slot, joined);
        }
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

    /// Returns all tickets, used or not, by slot.
    pub fn tickets(&self) -> impl Iterator<Item = &TicketRecord> {
        self.tickets.values()
    }

    /// Returns the members, by slot.
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> {
        self.joined.values().map(|joined| MemberInfo {
            record: joined.record.clone(),
            station: joined.grant.body().station,
            candidates: joined.candidates(),
        })
    }

    /// Returns the slot of a guest that has a ticket, by its name.
    #[must_use]
    pub fn slot_of(&self, guest: &str) -> Option<Slot> {
        self.tickets.values().find(|ticket| ticket.name.as_str() == guest).map(|t| t.slot)
    }

    /// Sets where the gateway is reached; returns what to write.
    pub fn set_reach(
        &mut self,
        addresses: Vec<DialAddr>,
        relays: Vec<DialAddr>,
        port: u16,
    ) -> Vec<Record> {
        let mut order = self.order.clone();
        order.addresses = addresses;
        order.addresses.truncate(ADDRESSES_MAX);
        order.port = port;
        let relays_changed = order.relays != relays;
        order.relays = relays;
        order.relays.truncate(ADDRESSES_MAX);
        if order == self.order {
            return Vec::new();
        }
        if relays_changed {
            order.config_version += 1;
            self.version += 1;
        }
        self.order = order;
        if let Some(config) = self.order.config() {
            self.config = Signed::seal(&self.key, config);
        }
        vec![Record::Order(self.order.clone())]
    }

    /// Makes a ticket for the next slot, named `gN` unless a name is given.
    ///
    /// # Errors
    /// [`InviteError`]; nothing changed then.
    pub fn invite(
        &mut self,
        name: Option<Name>,
        secret: TicketSecret,
        expires_at: u64,
    ) -> Result<(Ticket, Vec<Record>), InviteError> {
        let slot = Slot(self.order.slot_last.0 + 1);
        if slot.0 > self.order.subnet.slot_max() {
            let (subnet, count) = (self.order.subnet, self.order.subnet.slot_max());
            return Err(InviteError::Full { subnet, count });
        }
        let own = Name::of_guest(slot);
        let name = name.unwrap_or_else(|| own.clone());
        let number = name.as_str().strip_prefix('g').unwrap_or_default();
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if numbered && name != own {
            return Err(InviteError::Numbered(name));
        }
        if self.slot_of(name.as_str()).is_some() {
            return Err(InviteError::Taken(name));
        }
        let secret_hash = secret.hash();
        let body = TicketBody {
            nonce: self.order.order.nonce,
            order_name: self.order.name.clone(),
            slot,
            guest: name.clone(),
            addresses: self.order.addresses.clone(),
            relays: self.order.relays.clone(),
            secret,
            expires_at,
        };
        let ticket = Ticket::seal(&self.key, body)?;
        let record =
            TicketRecord { slot, name, secret_hash, expires_at, claimed_by: None, claimed_at: 0 };
        self.order.slot_last = slot;
        self.tickets.insert(slot, record.clone());
        Ok((ticket, vec![Record::Order(self.order.clone()), Record::Ticket(record)]))
    }

    /// Answers a join request of a peer whose key the stream has proved.
    #[must_use]
    pub fn handle_join(
        &mut self,
        peer: NodeId,
        remote: IpAddr,
        request: &JoinRequest,
        unix_now: u64,
    ) -> Outcome {
        match self.join(peer, remote, request, unix_now) {
            Ok(outcome) => outcome,
            Err(reason) => {
                Outcome { reply: JoinReply::Refused(reason), records: Vec::new(), joined: None }
            }
        }
    }

    fn join(
        &mut self,
        peer: NodeId,
        remote: IpAddr,
        request: &JoinRequest,
        unix_now: u64,
    ) -> Result<Outcome, RefuseReason> {
        if request.order != self.id {
            return Err(RefuseReason::OtherOrder);
        }
        let shown = Ticket::open(&request.ticket).map_err(|_| RefuseReason::TicketUnknown)?;
        if shown.order() != self.id {
            return Err(RefuseReason::TicketUnknown);
        }
        let slot = shown.body().slot;
        let hash = shown.body().secret.hash();
        let known = self.tickets.get(&slot).filter(|ticket| ticket.secret_hash == hash);
        let mut ticket = known.ok_or(RefuseReason::TicketUnknown)?.clone();
        match ticket.claimed_by {
            Some(winner) if winner != peer => return Err(RefuseReason::TicketUsed),
            Some(_) => {}
            None if unix_now > ticket.expires_at => return Err(RefuseReason::TicketExpired),
            None => (ticket.claimed_by, ticket.claimed_at) = (Some(peer), unix_now),
        }
        let taken = |joined: &Joined| {
            joined.record.slot != slot && joined.record.data_key == request.data_key
        };
        if request.data_key == self.order.gateway_key || self.joined.values().any(taken) {
            return Err(RefuseReason::KeyInUse);
        }
        let record = SlotRecord {
            slot,
            name: ticket.name.clone(),
            seller: peer,
            data_key: request.data_key,
            only_buyer: request.only_buyer,
            joined_at: unix_now,
            left_at: None,
            evicted_at: None,
        };
        let grant = self.grant(&record, request.nonce).ok_or(RefuseReason::OrderFull)?;
        let records = vec![Record::Ticket(ticket.clone()), Record::Slot(record.clone())];
        self.version += 1;
        let before = self.joined.remove(&slot).filter(|old| old.record.data_key == record.data_key);
        let (said, heard) = before.map_or((Vec::new(), None), |old| (old.said, old.heard));
        let welcome_grant = grant.bytes().to_vec();
        let joined = Joined { record, grant, said, heard, changed_at: self.version };
        self.tickets.insert(slot, ticket);
        self.gone.remove(&slot);
        self.joined.insert(slot, joined);
        let reply = JoinReply::Welcome(Welcome {
            config: self.config.bytes().to_vec(),
            grant: welcome_grant,
            roster: self.roster(),
            observed: canonical((remote, 0).into()).ip(),
        });
        Ok(Outcome { reply, records, joined: Some(slot) })
    }

    /// Signs the next grant of a member.
    fn grant(&mut self, record: &SlotRecord, nonce: [u8; 16]) -> Option<Signed<Grant>> {
        self.serial += 1;
        let grant = Grant {
            order: self.id,
            seller: record.seller,
            data_key: record.data_key,
            slot: record.slot,
            name: record.name.clone(),
            station: self.order.station(record.slot)?,
            limits: Limits::default(),
            engines: vec![Suite::WIREGUARD],
            serial: self.serial,
            epoch: self.order.epoch,
            life_s: self.order.life_s,
            nonce,
        };
        Some(Signed::seal(&self.key, grant))
    }

    /// Says whether a slot is this peer's, as a member stream's hello claims.
    ///
    /// # Errors
    /// [`RefuseReason::TicketUnknown`] if not: close the stream.
    pub fn check_member(&self, peer: NodeId, slot: Slot) -> Result<(), RefuseReason> {
        let joined = self.joined.get(&slot).ok_or(RefuseReason::TicketUnknown)?;
        if joined.record.seller == peer { Ok(()) } else { Err(RefuseReason::TicketUnknown) }
    }

    /// Takes a member's own candidates; says whether the roster changed.
    pub fn set_candidates(&mut self, slot: Slot, candidates: &[SocketAddr]) -> bool {
        let said = candidates.iter().take(CANDIDATES_MAX).map(|addr| canonical(*addr)).collect();
        self.change(slot, |joined| joined.said = said)
    }

    /// Takes the address from which the data plane hears a member; says whether the roster changed.
    pub fn set_heard(&mut self, slot: Slot, addr: SocketAddr) -> bool {
        self.change(slot, |joined| joined.heard = Some(canonical(addr)))
    }

    fn change(&mut self, slot: Slot, how: impl FnOnce(&mut Joined)) -> bool {
        let Some(joined) = self.joined.get_mut(&slot) else { return false };
        let before = joined.candidates();
        how(joined);
        let changed = joined.candidates() != before;
        if changed {
            self.version += 1;
            joined.changed_at = self.version;
        }
        changed
    }

    /// Returns the envelope of a new grant for a member that asks on its stream.
    ///
    /// # Errors
    /// As [`Registry::check_member`].
    pub fn renew(
        &mut self,
        peer: NodeId,
        slot: Slot,
        nonce: [u8; 16],
    ) -> Result<Vec<u8>, RefuseReason> {
        self.check_member(peer, slot)?;
        let record = self.joined.get(&slot).map(|joined| joined.record.clone());
        let grant = record.and_then(|record| self.grant(&record, nonce));
        let grant = grant.ok_or(RefuseReason::TicketUnknown)?;
        let bytes = grant.bytes().to_vec();
        if let Some(joined) = self.joined.get_mut(&slot) {
            joined.grant = grant;
        }
        Ok(bytes)
    }

    /// Lets a member go; its ticket brings it back. Returns what to write.
    ///
    /// # Errors
    /// As [`Registry::check_member`].
    pub fn leave(
        &mut self,
        peer: NodeId,
        slot: Slot,
        unix_now: u64,
    ) -> Result<Vec<Record>, RefuseReason> {
        self.check_member(peer, slot)?;
        let Some(joined) = self.joined.remove(&slot) else { return Ok(Vec::new()) };
        self.version += 1;
        self.gone.insert(slot, self.version);
        Ok(vec![Record::Slot(SlotRecord { left_at: Some(unix_now), ..joined.record })])
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

    fn sign_roster(&self, base: Option<u64>) -> Vec<u8> {
        let newer = |at: u64| base.is_none_or(|base| at > base);
        let entries = self.joined.values().filter(|joined| newer(joined.changed_at));
        let entries = entries.map(|joined| RosterEntry {
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

/// Why no ticket is made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// No address left.
    #[error("{subnet} has room for {count} guests and all have tickets; make another order")]
    Full {
        /// The order's subnet.
        subnet: Subnet,
        /// How many fit.
        count: u16,
    },
    /// Another guest is called that.
    #[error("another guest of the order is called {0}; choose another name")]
    Taken(Name),
    /// Would clash with a name that slots get by themselves.
    #[error("{0} is a name that guests get by their number; choose another")]
    Numbered(Name),
    /// The order has no address, or too many.
    #[error(transparent)]
    Ticket(#[from] TicketError),
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
