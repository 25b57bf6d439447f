//! A guest at a tap that somebody else's hypervisor holds, or will hold.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use overlay::exit::{Exit, Fault};
use vde_attach::host_tap::{HostTap, HostTapError};
use vde_attach::nft::Counts;
use vde_attach::tap::IfName;
use vde_attach::wire::WireError;
use vde_switch::mac::MacAddr;
use vde_switch::time::Instant;

use super::watch::{GLANCE_INTERVAL, GLANCE_INTERVAL_MIN};
use crate::helper::ask::Wiring;

/// How often a tap that is not there yet is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Looks until it is given up: a minute, in which a hypervisor can be started by hand.
const LOOKS_MAX: u32 = 240;

/// A tap of this host and what joins it to the segment.
#[derive(Debug)]
pub(crate) struct HostTapSeat {
    tap: HostTap,
    mac: MacAddr,
    wiring: Option<Wiring>,
    looked_at: Instant,
}

impl HostTapSeat {
    /// Finds the tap, or waits until it appears, and says what the user has to know.
    pub(super) fn find(name: &IfName, mac: MacAddr) -> anyhow::Result<Self> {
        super::note(&format!(
            "the guest's network card must have the address {mac}; with tap:{name} only what \
             passes the tap is confined, not the hypervisor, and root of this host can still \
             reach the guest"
        ));
        let mut tap = HostTap::find(name);
        if matches!(tap, Err(HostTapError::Missing(_))) {
            super::note(&format!("waiting for a tap named {name} to appear"));
        }
        for _ in 0..LOOKS_MAX {
            if !matches!(tap, Err(HostTapError::Missing(_))) {
                break;
            }
            thread::sleep(LOOK_INTERVAL);
            tap = HostTap::find(name);
        }
        Ok(Self { tap: tap.map_err(explain)?, mac, wiring: None, looked_at: Instant::ZERO })
    }

    pub(super) fn words(&self) -> String {
        format!("tap {} mac {}", self.tap.name(), self.mac)
    }

    pub(super) fn plug(&mut self, wiring: &Wiring) -> anyhow::Result<OwnedFd> {
        let ours = self.tap.join(&wiring.spec()).map_err(explain)?;
        self.wiring = Some(wiring.clone());
        Ok(ours.into_fd())
    }

    pub(super) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        if self.wiring.as_ref().is_some_and(|known| known != wiring) {
            self.tap.retarget(&wiring.spec()).map_err(explain)?;
            self.wiring = Some(wiring.clone());
        }
        Ok(())
    }

    pub(super) fn counts(&self) -> anyhow::Result<Counts> {
        self.tap.counters().map_err(explain)
    }

    /// Returns what is to be polled: nothing while it was looked at just now, on a busy host.
    pub(super) fn fds(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        match now - self.looked_at >= GLANCE_INTERVAL_MIN {
            true => self.tap.watch_fds().to_vec(),
            false => Vec::new(),
        }
    }

    pub(super) fn check(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        if !heard && now - self.looked_at < GLANCE_INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        self.tap.check().map_err(explain)
    }
}

/// Says how the program ends over it.
fn explain(error: HostTapError) -> anyhow::Error {
    let exit = match &error {
        HostTapError::Bridged { .. }
        | HostTapError::Addressed { .. }
        | HostTapError::Wire(WireError::Changed(_) | WireError::Canary(_)) => Exit::Confinement,
        HostTapError::NoTap(_) => Exit::Usage,
        HostTapError::Missing(_)
        | HostTapError::InUse(_)
        | HostTapError::Gone(_)
        | HostTapError::Wire(_) => return error.into(),
    };
    Fault::new(exit, error.to_string()).into()
}
