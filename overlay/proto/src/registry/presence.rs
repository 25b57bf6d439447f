//! Who is heard: one live stream a slot, and grants that run out.

use std::time::Duration;

use vde_switch::time::Instant;

use super::{Registry, Standing};
use crate::control::Slot;
use crate::identity::NodeId;
use crate::messages::RefuseReason;

/// How long a member stream counts as alive after something was heard on it: three heartbeats, and
/// what a slow path adds. While it does, a second host with the same keys is refused.
pub const STREAM_ALIVE_AFTER: Duration = Duration::from_secs(10);

/// The member stream of a slot.
#[derive(Debug)]
pub(super) struct Presence {
    stream: u64,
    heard_at: Instant,
}

impl Registry {
    /// Takes the hello of a member stream, which the shell has given a number. Returns the dead
    /// stream in whose place it comes, which is to be closed.
    ///
    /// # Errors
    /// As [`Registry::check_member`], and [`RefuseReason::InUse`] if another stream of the slot is
    /// alive: close this one.
    pub fn handle_open(
        &mut self,
        peer: NodeId,
        slot: Slot,
        stream: u64,
        now: Instant,
    ) -> Result<Option<u64>, RefuseReason> {
        self.check_member(peer, slot)?;
        if self.is_present(slot, now) {
            return Err(RefuseReason::InUse);
        }
        let before = self.streams.insert(slot, Presence { stream, heard_at: now });
        Ok(before.map(|before| before.stream))
    }

    /// Notes that a member stream is alive.
    pub fn handle_heard(&mut self, slot: Slot, stream: u64, now: Instant) {
        if let Some(presence) = self.streams.get_mut(&slot).filter(|at| at.stream == stream) {
            presence.heard_at = presence.heard_at.max(now);
        }
    }

    /// Notes that a member stream has ended; an earlier one of the slot changes nothing.
    pub fn handle_closed(&mut self, slot: Slot, stream: u64) {
        if self.streams.get(&slot).is_some_and(|at| at.stream == stream) {
            self.streams.remove(&slot);
        }
    }

    pub(super) fn is_present(&self, slot: Slot, now: Instant) -> bool {
        self.streams.get(&slot).is_some_and(|at| now - at.heard_at < STREAM_ALIVE_AFTER)
    }

    /// Suspends members whose grants have run out, and lets open tickets age. Says whether the
    /// roster changed. To be called each second, or at [`Registry::next_expiry`].
    pub fn expire(&mut self, unix_now: u64, now: Instant) -> bool {
        self.watch_tickets(unix_now, now);
        let mut changed = false;
        for (slot, joined) in &mut self.joined {
            if joined.standing == Standing::Live && now >= joined.expires_at {
                joined.standing = Standing::Suspended;
                self.version += 1;
                self.gone.insert(*slot, self.version);
                changed = true;
            }
        }
        changed
    }

    /// Returns when the next member is to be suspended.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let live = self.joined.values().filter(|joined| joined.standing == Standing::Live);
        live.map(|joined| joined.expires_at).min()
    }
}
