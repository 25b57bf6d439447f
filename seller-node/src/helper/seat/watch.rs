//! A guest's wire under the helper's eyes.
//!
//! # Theory of operation
//! The kernel tells when a link, an address, a route or a rule of the wire's namespace changes;
//! whatever differs from what was verified has the links down first and the lease end. Beside that
//! it is looked at each second, cheaply, and every [`CHECK_INTERVAL`] as a whole.
//!
//! # Limits
//! A guest can make its own end flap: the wire is looked at [`GLANCE_INTERVAL_MIN`] apart at most.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use overlay::clock;
use overlay::exit::{Exit, Fault};
use vde_attach::nft::Counts;
use vde_attach::wire::{LeaseWire, WireError};
use vde_switch::time::Instant;

use crate::helper::ask::Wiring;

/// How often all of it is read back.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked at without a reason.
pub(super) const GLANCE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks, at least.
pub(super) const GLANCE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// A wire that is looked at.
#[derive(Debug)]
pub(super) struct Watched {
    wire: LeaseWire,
    checked_at: Instant,
    looked_at: Instant,
}

impl Watched {
    pub(super) fn new(wire: LeaseWire) -> Self {
        let now = clock::now();
        Self { wire, checked_at: now, looked_at: now }
    }

    /// Brings its links up, if it is still as it was verified.
    pub(super) fn open(&mut self) -> anyhow::Result<()> {
        self.wire.up().map_err(explain)
    }

    /// Follows a segment that changed.
    pub(super) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        self.wire.retarget(&wiring.spec()).map_err(explain)
    }

    /// Returns what its rules have stopped.
    pub(super) fn counts(&mut self) -> anyhow::Result<Counts> {
        self.wire.counters().map_err(explain)
    }

    /// Returns what is to be polled: nothing while it was looked at just now.
    pub(super) fn fds(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        match now - self.looked_at >= GLANCE_INTERVAL_MIN {
            true => self.wire.watch_fds().to_vec(),
            false => Vec::new(),
        }
    }

    /// Looks, if it is time or something was `heard`; an error ends the lease, whose links are
    /// down.
    pub(super) fn look(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        if now - self.checked_at >= CHECK_INTERVAL {
            (self.checked_at, self.looked_at) = (now, now);
            return self.wire.check().map_err(explain);
        }
        if heard || now - self.looked_at >= GLANCE_INTERVAL {
            self.looked_at = now;
            return self.wire.glance().map_err(explain);
        }
        Ok(())
    }
}

/// Says how the program ends over it.
pub(crate) fn explain(error: WireError) -> anyhow::Error {
    match error {
        WireError::Changed(_)
        | WireError::Canary(_)
        | WireError::Unlike
        | WireError::Switch(_)
        | WireError::Netlink(_) => {
            let text = overlay::exit::text_of(anyhow::Error::from(error).chain());
            Fault::new(Exit::Confinement, text).into()
        }
        error => error.into(),
    }
}
