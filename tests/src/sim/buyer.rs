//! What a buyer does to his order while it runs: invitations, evictions, options.

use overlay_proto::control::{Limits, Slot};
use overlay_proto::registry::Options;
use overlay_proto::ticket::{Ticket, TicketSecret};
use vde_switch::station::Broadcast;

use super::plant::Plant;
use super::rng::Rng;
use super::world::World;

/// For how long tickets are good, in seconds.
const TICKET_LIFE_S: u64 = 86_400;

impl World {
    /// Makes a ticket for a new slot, or one that replaces who is in it.
    pub fn invite(&mut self, p: usize, replaced: Option<Slot>) -> Option<(Ticket, u32)> {
        let (unix_now, now) = (self.wall(p), self.instant(p));
        let secret = TicketSecret(self.rng.bytes());
        let order = self.procs[p].order;
        let expires_at = unix_now + TICKET_LIFE_S;
        let registry = &mut self.live(p)?.registry;
        let made = match replaced {
            None => registry.invite(None, secret, expires_at, unix_now, now),
            Some(slot) => registry.replace(slot, secret, expires_at, unix_now, now),
        };
        let (ticket, records) = made.ok()?;
        let slot = ticket.body().slot;
        if !self.commit(p, records) {
            return None;
        }
        let number = self.model.ticket_made(order, slot);
        self.spread(p);
        Some((ticket, number))
    }

    /// Takes a slot's guest out.
    pub fn evict(&mut self, p: usize, slot: Slot) {
        let unix_now = self.wall(p);
        let Some(live) = self.live(p) else { return };
        let Ok(records) = live.registry.evict(slot, unix_now) else { return };
        let forgets = self.plant == Some(Plant::ForgetsEvictions);
        let before = self.procs[p].gateway_mut().and_then(|g| g.store.tickets.get(&slot).cloned());
        let lives = self.commit(p, if forgets { Vec::new() } else { records });
        let (order, now) = (self.procs[p].order, self.now);
        let Some(gateway) = self.procs[p].gateway_mut() else { return };
        let written = gateway.store.tickets.get(&slot) != before.as_ref();
        if lives || written {
            self.model.evicted(order, slot, now);
        }
        if !lives {
            return;
        }
        self.faults.departures += 1;
        self.part_with(p, slot, None);
        self.spread(p);
    }

    /// Changes options of the order.
    pub fn set_options(&mut self, p: usize, options: &Options) {
        let Some(live) = self.live(p) else { return };
        let Ok(records) = live.registry.set(options) else { return };
        self.faults.settings += 1;
        if self.commit(p, records) {
            self.spread(p);
        }
    }
}

/// Draws options to change.
pub fn some_options(rng: &mut Rng) -> Options {
    match rng.below(3) {
        0 => Options { mtu: rng.pick(&[1280, 1400, 1500]), ..Options::default() },
        1 => {
            let broadcast = rng.pick(&[Broadcast::On, Broadcast::Off]);
            Options { broadcast, ..Options::default() }
        }
        _ => {
            let limits = Limits { bytes_per_s: 1_000_000, frames_per_s: 0 };
            Options { limits: Some(limits), ..Options::default() }
        }
    }
}
