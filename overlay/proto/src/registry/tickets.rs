//! Tickets: made, given again, taken back, and over in time.
//!
//! # Theory of operation
//! A slot has one ticket that may be claimed, its newest. [`Registry::replace`] makes another for
//! the same slot; the ticket before is kept as a [`Former`], by which its key may still resume
//! until another key claims the newest.
//!
//! A ticket's end is written in it in wall-clock time, which people set. So each open ticket also
//! has a deadline on the monotonic clock: the earliest that any reading of the wall clock implied,
//! and never later than its whole life after the start. A clock that goes back lengthens nothing;
//! one that went ahead ends the tickets that were open then.

use std::time::Duration;

use vde_switch::time::Instant;

use super::{Former, Record, Registry, TicketRecord, TicketState};
use crate::addressing::Subnet;
use crate::control::Slot;
use crate::names::Name;
use crate::ticket::{Ticket, TicketBody, TicketError, TicketSecret};

/// Earlier tickets of a slot that are told apart from unknown ones.
pub const FORMER_MAX: usize = 8;

impl Registry {
    /// Makes a ticket for the next slot, named `gN` unless a name is given.
    ///
    /// # Errors
    /// [`InviteError`]; nothing changed then.
    pub fn invite(
        &mut self,
        name: Option<Name>,
        secret: TicketSecret,
        expires_at: u64,
        unix_now: u64,
        now: Instant,
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
        let ticket = self.seal_ticket(slot, name.clone(), secret, expires_at)?;
        let record = TicketRecord {
            slot,
            name,
            secret_hash,
            made_at: unix_now,
            expires_at,
            claimed_by: None,
            claimed_at: 0,
            void_at: None,
            former: Vec::new(),
        };
        self.order.slot_last = slot;
        self.keep_ticket(record.clone(), unix_now, now);
        Ok((ticket, vec![Record::Order(self.order.clone()), Record::Ticket(record)]))
    }

    /// Makes another ticket for a guest's slot: who claims it has the guest's name and addresses,
    /// and who had them before is out. Until then he stays.
    ///
    /// # Errors
    /// [`InviteError`]; nothing changed then.
    pub fn replace(
        &mut self,
        slot: Slot,
        secret: TicketSecret,
        expires_at: u64,
        unix_now: u64,
        now: Instant,
    ) -> Result<(Ticket, Vec<Record>), InviteError> {
        let old = self.tickets.get(&slot).ok_or(InviteError::Unknown(slot.0))?.clone();
        let secret_hash = secret.hash();
        let ticket = self.seal_ticket(slot, old.name.clone(), secret, expires_at)?;
        let state = match old.state() {
            TicketState::Claimed => TicketState::Claimed,
            TicketState::Open | TicketState::Void => TicketState::Void,
        };
        let mut former = old.former;
        let (hash, claimed_by) = (old.secret_hash, old.claimed_by);
        former.push(Former { secret_hash: hash, claimed_by, state });
        if former.len() > FORMER_MAX {
            let void = former.iter().position(|former| former.state == TicketState::Void);
            former.remove(void.unwrap_or(0));
        }
        let record = TicketRecord {
            secret_hash,
            made_at: unix_now,
            expires_at,
            claimed_by: None,
            claimed_at: 0,
            void_at: None,
            former,
            ..old
        };
        self.keep_ticket(record.clone(), unix_now, now);
        Ok((ticket, vec![Record::Ticket(record)]))
    }

    /// Takes an unused ticket back. Returns what to write.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing changed then.
    pub fn revoke(&mut self, slot: Slot, unix_now: u64) -> Result<Vec<Record>, RevokeError> {
        let ticket = self.tickets.get_mut(&slot).ok_or(RevokeError::Unknown(slot.0))?;
        match ticket.state() {
            TicketState::Open => ticket.void_at = Some(unix_now),
            TicketState::Claimed => return Err(RevokeError::Claimed(ticket.name.clone())),
            TicketState::Void => return Err(RevokeError::Void(ticket.name.clone())),
        }
        Ok(vec![Record::Ticket(ticket.clone())])
    }

    fn seal_ticket(
        &self,
        slot: Slot,
        guest: Name,
        secret: TicketSecret,
        expires_at: u64,
    ) -> Result<Ticket, TicketError> {
        let body = TicketBody {
            nonce: self.order.order.nonce,
            order_name: self.order.name.clone(),
            slot,
            guest,
            addresses: self.order.addresses.clone(),
            relays: self.order.relays.clone(),
            secret,
            expires_at,
        };
        Ticket::seal(&self.key, body)
    }

    fn keep_ticket(&mut self, record: TicketRecord, unix_now: u64, now: Instant) {
        self.deadlines.remove(&record.slot);
        self.tickets.insert(record.slot, record);
        self.watch_tickets(unix_now, now);
    }

    /// Lets both clocks shorten the time of open tickets.
    pub(super) fn watch_tickets(&mut self, unix_now: u64, now: Instant) {
        for (slot, ticket) in &self.tickets {
            if ticket.state() != TicketState::Open {
                self.deadlines.remove(slot);
                continue;
            }
            let whole = ticket.expires_at.saturating_sub(ticket.made_at);
            let left = ticket.expires_at.saturating_sub(unix_now).min(whole);
            // One second more: a ticket is good until its last second is over.
            let deadline = match ticket.expires_at.cmp(&unix_now) {
                std::cmp::Ordering::Less => now,
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {
                    now + Duration::from_secs(left.saturating_add(1))
                }
            };
            let known = self.deadlines.entry(*slot).or_insert(deadline);
            *known = deadline.min(*known);
        }
    }

    /// Says whether a slot's open ticket is over.
    pub(super) fn is_over(&self, slot: Slot, now: Instant) -> bool {
        self.deadlines.get(&slot).is_none_or(|deadline| now >= *deadline)
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
    /// No such slot to replace.
    #[error("the order has no slot {0}")]
    Unknown(u16),
    /// The order has no address, or too many.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Why a ticket is not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// No such slot.
    #[error("the order has no slot {0}")]
    Unknown(u16),
    /// Somebody is in by it.
    #[error("the ticket of {0} was used: take the guest out by evicting it")]
    Claimed(Name),
    /// Nobody can use it anyway.
    #[error("the ticket of {0} is void already")]
    Void(Name),
}
