//! Who becomes a member, stays one, and stops being one.
//!
//! # Theory of operation
//! A join shows a ticket: one that nobody used makes its key the slot's, one that was used lets the
//! same key come again. A grant is signed for each join and each renewal, and each begins a life.
//! Leaving keeps the ticket good; an eviction voids every ticket by which the key could return.
//! What a refused request says changes nothing.
//!
//! Guests of one seller may share a data plane: their slots then have one key, and each comes, is
//! renewed, leaves and is evicted by itself. A key of another seller's is refused.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vde_switch::time::Instant;

use super::{Former, Joined, Record, Registry, SlotRecord, Standing, TicketRecord, TicketState};
use crate::control::{CANDIDATES_MAX, Slot};
use crate::dial::canonical;
use crate::envelope::Signed;
use crate::grant::{Grant, Suite};
use crate::identity::NodeId;
use crate::messages::{JoinReply, JoinRequest, RefuseReason, Welcome};
use crate::names::Name;
use crate::ticket::Ticket;

/// What a join request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be sent, once the records are written.
    pub reply: JoinReply,
    /// To be written first, in one transaction.
    pub records: Vec<Record>,
    /// Who joined; `None` if refused.
    pub joined: Option<Slot>,
    /// The seller that had the slot until now: his streams are told that he is evicted, and closed.
    pub replaced: Option<NodeId>,
}

impl Registry {
    /// Answers a join request of a peer whose key the stream has proved.
    #[must_use]
    pub fn handle_join(
        &mut self,
        peer: NodeId,
        remote: IpAddr,
        request: &JoinRequest,
        unix_now: u64,
        now: Instant,
    ) -> Outcome {
        self.watch_tickets(unix_now, now);
        match self.join(peer, remote, request, unix_now, now) {
            Ok(outcome) => outcome,
            Err(reason) => {
                let reply = JoinReply::Refused(reason);
                Outcome { reply, records: Vec::new(), joined: None, replaced: None }
            }
        }
    }

    fn join(
        &mut self,
        peer: NodeId,
        remote: IpAddr,
        request: &JoinRequest,
        unix_now: u64,
        now: Instant,
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
        let mut ticket = self.tickets.get(&slot).ok_or(RefuseReason::TicketUnknown)?.clone();
        let claims = self.check_ticket(&ticket, &hash, peer, now)?;
        let holder = self.joined.get(&slot).map(|joined| joined.record.seller);
        let replaced = holder.filter(|holder| *holder != peer);
        if replaced.is_none() && self.is_present(slot, now) {
            return Err(RefuseReason::InUse);
        }
        // Several guests of one host may share its data plane; nobody else's.
        let taken = |joined: &Joined| {
            let record = &joined.record;
            record.slot != slot && record.seller != peer && record.data_key == request.data_key
        };
        if request.data_key == self.order.gateway_key || self.joined.values().any(taken) {
            return Err(RefuseReason::KeyInUse);
        }
        if claims == Claims::First {
            (ticket.claimed_by, ticket.claimed_at) = (Some(peer), unix_now);
            for former in &mut ticket.former {
                former.state = TicketState::Void;
            }
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
        let observed = canonical((remote, 0).into()).ip();
        let heard = self.kin(&record.data_key).find_map(|(_, kin)| kin.heard);
        let mut joined = self.joined(record, grant, now);
        (joined.remote, joined.heard) = (Some(observed), heard);
        if let Some(old) = before {
            (joined.said, joined.heard) = (old.said, old.heard);
        }
        let grant = joined.grant.bytes().to_vec();
        self.tickets.insert(slot, ticket);
        self.gone.remove(&slot);
        if replaced.is_some() {
            self.streams.remove(&slot);
        }
        self.joined.insert(slot, joined);
        let reply = JoinReply::Welcome(Welcome {
            config: self.config.bytes().to_vec(),
            grant,
            roster: self.roster(),
            observed,
        });
        Ok(Outcome { reply, records, joined: Some(slot), replaced })
    }

    /// Says whether a ticket of this slot lets the peer in, and whether for the first time.
    fn check_ticket(
        &self,
        ticket: &TicketRecord,
        hash: &[u8; 32],
        peer: NodeId,
        now: Instant,
    ) -> Result<Claims, RefuseReason> {
        let newest = Former {
            secret_hash: ticket.secret_hash,
            claimed_by: ticket.claimed_by,
            state: ticket.state(),
        };
        let mut known = ticket.former.iter().chain([&newest]);
        let shown = known.find(|known| known.secret_hash == *hash);
        let shown = shown.ok_or(RefuseReason::TicketUnknown)?;
        match (shown.state, shown.claimed_by) {
            (_, Some(winner)) if winner != peer => Err(RefuseReason::TicketUsed),
            (TicketState::Void, Some(_)) => Err(RefuseReason::Evicted),
            (TicketState::Void, None) => Err(RefuseReason::TicketRevoked),
            (_, Some(_)) => Ok(Claims::Again),
            (_, None) if self.is_over(ticket.slot, now) => Err(RefuseReason::TicketExpired),
            (_, None) => Ok(Claims::First),
        }
    }

    /// Makes a member that was granted something just now.
    pub(super) fn joined(&self, record: SlotRecord, grant: Signed<Grant>, now: Instant) -> Joined {
        Joined {
            record,
            grant,
            said: Vec::new(),
            heard: None,
            remote: None,
            changed_at: self.version,
            standing: Standing::Live,
            expires_at: now + self.life(),
        }
    }

    fn life(&self) -> Duration {
        Duration::from_secs(self.order.life_s.into())
    }

    /// Signs the next grant of a member.
    pub(super) fn grant(&mut self, record: &SlotRecord, nonce: [u8; 16]) -> Option<Signed<Grant>> {
        self.serial += 1;
        let grant = Grant {
            order: self.id,
            seller: record.seller,
            data_key: record.data_key,
            slot: record.slot,
            name: record.name.clone(),
            station: self.order.station(record.slot)?,
            limits: self.order.limits,
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

    /// Takes the address from which the data plane hears a member, and with it all guests of that
    /// lease; says whether the roster changed.
    pub fn set_heard(&mut self, slot: Slot, addr: SocketAddr) -> bool {
        let Some(key) = self.joined.get(&slot).map(|joined| joined.record.data_key) else {
            return false;
        };
        let kin: Vec<_> = self.kin(&key).map(|(slot, _)| slot).collect();
        let hear = |joined: &mut Joined| joined.heard = Some(canonical(addr));
        kin.into_iter().fold(false, |changed, slot| self.change(slot, hear) | changed)
    }

    /// Returns the slots that share a data plane, lowest first.
    pub(super) fn kin(&self, data_key: &[u8; 32]) -> impl Iterator<Item = (Slot, &Joined)> {
        let shares = |joined: &Joined| joined.record.data_key == *data_key;
        self.joined.iter().filter(move |(_, j)| shares(j)).map(|(slot, joined)| (*slot, joined))
    }

    fn change(&mut self, slot: Slot, how: impl FnOnce(&mut Joined)) -> bool {
        let Some(joined) = self.joined.get_mut(&slot) else { return false };
        let before = joined.candidates();
        how(joined);
        let changed = joined.candidates() != before && joined.standing == Standing::Live;
        if changed {
            self.version += 1;
            joined.changed_at = self.version;
        }
        changed
    }

    /// Returns the envelope of a new grant for a member that asks on its stream. A suspended one is
    /// live again, which changes the roster.
    ///
    /// # Errors
    /// As [`Registry::check_member`].
    pub fn renew(
        &mut self,
        peer: NodeId,
        slot: Slot,
        nonce: [u8; 16],
        now: Instant,
    ) -> Result<Vec<u8>, RefuseReason> {
        self.check_member(peer, slot)?;
        let record = self.joined.get(&slot).map(|joined| joined.record.clone());
        let grant = record.and_then(|record| self.grant(&record, nonce));
        let (grant, expires_at) = (grant.ok_or(RefuseReason::TicketUnknown)?, now + self.life());
        let bytes = grant.bytes().to_vec();
        if let Some(joined) = self.joined.get_mut(&slot) {
            (joined.grant, joined.expires_at) = (grant, expires_at);
            if joined.standing == Standing::Suspended {
                joined.standing = Standing::Live;
                self.version += 1;
                joined.changed_at = self.version;
                self.gone.remove(&slot);
            }
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
        let record =
            self.remove(slot).map(|record| SlotRecord { left_at: Some(unix_now), ..record });
        Ok(record.into_iter().map(Record::Slot).collect())
    }

    /// Takes a guest out: its key does not come back by any ticket that it has. Returns what to
    /// write; once that is done, tell the slot's streams and close them, and spread the roster.
    ///
    /// # Errors
    /// [`EvictError`]; nothing changed then.
    pub fn evict(&mut self, slot: Slot, unix_now: u64) -> Result<Vec<Record>, EvictError> {
        let ticket = self.tickets.get_mut(&slot).ok_or(EvictError::Unknown(slot.0))?;
        let mut voided = false;
        if ticket.state() == TicketState::Claimed {
            (ticket.void_at, voided) = (Some(unix_now), true);
        }
        for former in &mut ticket.former {
            voided |= former.state == TicketState::Claimed;
            former.state = TicketState::Void;
        }
        if !voided {
            return Err(EvictError::Absent(ticket.name.clone()));
        }
        let mut records = vec![Record::Ticket(ticket.clone())];
        if let Some(record) = self.remove(slot) {
            records.push(Record::Slot(SlotRecord { evicted_at: Some(unix_now), ..record }));
        }
        Ok(records)
    }

    /// Takes a member off the roster.
    fn remove(&mut self, slot: Slot) -> Option<SlotRecord> {
        let joined = self.joined.remove(&slot)?;
        self.streams.remove(&slot);
        self.version += 1;
        self.gone.insert(slot, self.version);
        Some(joined.record)
    }
}

/// What a ticket is shown for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claims {
    First,
    Again,
}

/// Why nobody is taken out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvictError {
    /// No such slot.
    #[error("the order has no slot {0}")]
    Unknown(u16),
    /// Nobody used the guest's ticket, or who did is out already.
    #[error("{0} is nobody's: an unused ticket is taken back by revoking it")]
    Absent(Name),
}
