//! The only reader of clocks.
//!
//! Cores are handed [`Instant`]s of CLOCK_BOOTTIME, which runs on while the host sleeps, so that
//! what is granted for minutes ends in minutes. Wall time serves only where a signed document names
//! a date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use vde_switch::time::Instant;

/// Returns the time since boot, sleep included.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("Linux has had CLOCK_BOOTTIME since 2.6.39, and this is Linux");
    Instant::ZERO + Duration::from(time)
}

/// Returns the seconds since 1970 as the host's wall clock has them, right or wrong.
#[must_use]
pub fn unix_seconds() -> u64 {
    unix_time().as_secs()
}

/// Returns the time since 1970, as [`unix_seconds`] but exact: for captures, which others compare.
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
