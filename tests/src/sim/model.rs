//! The reference model: who may hear whom now, and what may never change.
//!
//! # Theory of operation
//! The model is told what the gateway *handed out* (a welcome, a grant), whom the buyer evicted and
//! when a gateway started; it looks at no registry. All its times are the simulation's own, so no
//! host's clock can move them. From that follow the latest moments at which a key may be heard:
//!
//! | who is heard | by whom | until |
//! |---|---|---|
//! | a member that obeys | anyone | one life after its latest grant |
//! | anyone | a member that obeys | one life after *that* member's latest grant |
//! | an evicted key | a member of undisturbed stream | [`CUT_AFTER`] after the eviction |
//! | an evicted key | any other member | one life and [`CUT_AFTER`] after the eviction |
//! | a key whose grants ended | likewise | likewise, one life after the latest grant or start |
//!
//! # Limits
//! Times are exact to [`SKEW`].

use std::collections::BTreeMap;
use std::fmt;

use overlay_proto::control::Slot;
use overlay_proto::identity::NodeId;
use overlay_proto::names::Name;
use vde_switch::station::Station;

/// Latest moment at which a connected member still hears an evicted one (guarantee G15).
pub const CUT_AFTER: u64 = 5_000_000_000;

/// Datagrams under way when a life ends, and the step in which ends are looked at.
pub const SKEW: u64 = 1_500_000_000;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// A frame vanished or came from nowhere.
    Conservation,
    /// A frame came twice, or to whom it was not sent.
    OneDelivery,
    /// A frame of one order was delivered in another.
    Segments,
    /// A frame bore an address that its sender's key does not own.
    Addresses,
    /// A frame came from or to who was no member any more.
    Membership,
    /// A table outgrew its bound.
    Tables,
    /// A version or serial went back.
    Versions,
    /// A ticket opened its slot to a second key, or an evicted key came back.
    Tickets,
    /// A slot's name or address changed.
    Slots,
    /// Members did not reach each other after faults had stopped.
    Liveness,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What happened, and when.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// What is known of one key in one order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// When it was handed its latest grant.
    pub granted_at: Option<u64>,
    /// When the buyer took it out.
    pub evicted_at: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct OrderModel {
    life: u64,
    started_at: u64,
    /// Since when the gateway runs without a pause.
    calm_since: Option<u64>,
    keys: BTreeMap<(Slot, NodeId), Standing>,
    /// Who claimed a slot's latest ticket, and how many tickets the slot has had.
    claimed: BTreeMap<Slot, (u32, NodeId)>,
    tickets: BTreeMap<Slot, u32>,
    slots: BTreeMap<Slot, (Name, Station)>,
}

/// See the module's theory of operation.
#[derive(Clone, Debug, Default)]
pub struct Model {
    orders: Vec<OrderModel>,
}

/// Who is heard or hears: a key in an order.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    /// Its slot; the gateway is bound by nothing.
    pub slot: Slot,
    /// Whose host.
    pub seller: NodeId,
    /// Whether its programs do as they are told.
    pub obeys: bool,
    /// Since when its member stream was up without a pause.
    pub calm_since: Option<u64>,
}

impl Model {
    /// Adds an order with this life of grants, in nanoseconds.
    pub fn add_order(&mut self, life: u64) {
        self.orders.push(OrderModel { life, ..OrderModel::default() });
    }

    /// Notes that an order's gateway has started.
    pub fn gateway_started(&mut self, order: usize, now: u64) {
        self.orders[order].started_at = now;
    }

    /// Notes since when an order's gateway runs without a pause.
    pub fn gateway_calm(&mut self, order: usize, calm_since: Option<u64>) {
        self.orders[order].calm_since = calm_since;
    }

    /// Notes a ticket, the slot's first or one that replaces who has it; returns its number.
    pub fn ticket_made(&mut self, order: usize, slot: Slot) -> u32 {
        let count = self.orders[order].tickets.entry(slot).or_default();
        *count += 1;
        *count
    }

    /// Notes that a welcome was handed out for the slot's `ticket`-th ticket.
    ///
    /// # Errors
    /// [`Violation`] if another key had that ticket, or the key was evicted.
    pub fn welcomed(
        &mut self,
        order: usize,
        slot: Slot,
        ticket: u32,
        seller: NodeId,
        now: u64,
    ) -> Result<(), Violation> {
        let book = &mut self.orders[order];
        let tickets = |what: &str| Violation {
            invariant: Invariant::Tickets,
            what: format!("order {order} slot {}: {what}", slot.0),
        };
        if let Some((claimed, winner)) = book.claimed.get(&slot) {
            if *claimed == ticket && *winner != seller {
                return Err(tickets("a ticket opened the slot to a second key"));
            }
            if *claimed > ticket {
                return Err(tickets("an older ticket opened the slot again"));
            }
        }
        let earlier = book.claimed.insert(slot, (ticket, seller));
        if let Some((claimed, loser)) = earlier
            && claimed < ticket
            && loser != seller
        {
            book.keys.entry((slot, loser)).or_default().evicted_at.get_or_insert(now);
        }
        let standing = book.keys.entry((slot, seller)).or_default();
        if standing.evicted_at.is_some() && earlier.is_some_and(|(claimed, _)| claimed == ticket) {
            return Err(tickets("an evicted key came back without a new ticket"));
        }
        *standing = Standing { granted_at: Some(now), evicted_at: None };
        Ok(())
    }

    /// Notes that a grant was handed out.
    pub fn granted(&mut self, order: usize, slot: Slot, seller: NodeId, now: u64) {
        let standing = self.orders[order].keys.entry((slot, seller)).or_default();
        standing.granted_at = Some(now);
    }

    /// Notes that the buyer took a slot's guest out.
    pub fn evicted(&mut self, order: usize, slot: Slot, now: u64) {
        let book = &mut self.orders[order];
        if let Some((_, seller)) = book.claimed.get(&slot) {
            book.keys.entry((slot, *seller)).or_default().evicted_at = Some(now);
        }
    }

    /// Returns who has a slot, if he is a member.
    #[must_use]
    pub fn holder(&self, order: usize, slot: Slot) -> Option<NodeId> {
        let book = &self.orders[order];
        let (_, seller) = book.claimed.get(&slot)?;
        let standing = book.keys.get(&(slot, *seller))?;
        standing.evicted_at.is_none().then_some(*seller)
    }

    /// Notes a slot's name and addresses.
    ///
    /// # Errors
    /// [`Violation`] if they were others before.
    pub fn slot_seen(
        &mut self,
        order: usize,
        slot: Slot,
        name: &Name,
        station: &Station,
    ) -> Result<(), Violation> {
        let slots = &mut self.orders[order].slots;
        match slots.get(&slot) {
            Some((old_name, old)) if old_name != name || old != station => Err(Violation {
                invariant: Invariant::Slots,
                what: format!("order {order} slot {}: {old:?} became {station:?}", slot.0),
            }),
            Some(_) => Ok(()),
            None => {
                slots.insert(slot, (name.clone(), *station));
                Ok(())
            }
        }
    }

    /// Says whether the slot's latest ticket, or an earlier one, was used.
    #[must_use]
    pub fn is_claimed(&self, order: usize, slot: Slot) -> bool {
        let book = &self.orders[order];
        let tickets = book.tickets.get(&slot);
        book.claimed.get(&slot).is_some_and(|(claimed, _)| Some(claimed) == tickets)
    }

    /// Returns a slot's addresses.
    #[must_use]
    pub fn station(&self, order: usize, slot: Slot) -> Option<Station> {
        self.orders[order].slots.get(&slot).map(|(_, station)| *station)
    }

    /// Says whether a frame sent at `sent_at` may be delivered now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_hear(
        &self,
        order: usize,
        from: Party,
        to: Party,
        sent_at: u64,
        now: u64,
    ) -> Result<(), String> {
        let book = &self.orders[order];
        for (party, at, who) in [(from, sent_at, "sender"), (to, now, "receiver")] {
            if party.slot == Slot::GATEWAY || !party.obeys {
                continue;
            }
            let standing = book.keys.get(&(party.slot, party.seller));
            let granted_at = standing.and_then(|standing| standing.granted_at);
            let Some(granted_at) = granted_at else { return Err(format!("{who} has no grant")) };
            if at > granted_at + book.life + SKEW {
                return Err(format!("the {who}'s own grant had ended"));
            }
        }
        self.cut(order, from, to, now).map_err(|why| format!("the sender {why}"))?;
        self.cut(order, to, from, sent_at).map_err(|why| format!("the receiver {why}"))
    }

    /// Says whether `judge` may still deal with `party` at this moment.
    fn cut(&self, order: usize, party: Party, judge: Party, at: u64) -> Result<(), String> {
        let book = &self.orders[order];
        if party.slot == Slot::GATEWAY || !judge.obeys {
            return Ok(());
        }
        let standing = book.keys.get(&(party.slot, party.seller)).copied().unwrap_or_default();
        let lapsed_at = standing.granted_at.unwrap_or(0).max(book.started_at) + book.life;
        // A gateway that was stopped when a life ended acts on it once it goes on.
        let running_since = book.calm_since.unwrap_or(at);
        let cuts = [
            (standing.evicted_at, "was evicted"),
            (Some(lapsed_at.max(running_since)), "had lapsed"),
        ];
        for (cut_at, why) in cuts {
            let Some(cut_at) = cut_at else { continue };
            let calm = judge.slot == Slot::GATEWAY
                || judge.calm_since.is_some_and(|calm_since| calm_since < cut_at);
            let ends_at = if calm { cut_at } else { cut_at + book.life };
            if at > ends_at + CUT_AFTER + SKEW {
                let [cut_s, calm_s, life_s] =
                    [cut_at, judge.calm_since.unwrap_or(0), book.life].map(|ns| ns / 1_000_000);
                return Err(format!(
                    "{why} at {cut_s} ms; the other calm since {calm_s} ms, a life is {life_s} ms"
                ));
            }
        }
        Ok(())
    }
}
