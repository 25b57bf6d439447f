//! Any process of the programs killed or stopped at any moment, and root's at each step of set-up
//! and end: nothing escapes, nothing is left, and the same command brings everything back (G4, G26,
//! K01, K02).

use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::kills::{Kind, kills, steps};

/// How long it is done here; `make soak` does it for longer.
const TIME: Duration = Duration::from_secs(20);
/// Fewest kills in that time, on a machine that is busy besides.
const KILLS_MIN: u32 = 3;
/// Four times what a recovery is meant to take.
const RECOVERY_MAX: Duration = Duration::from_secs(20);
const SEED: u64 = 5;
/// One in so many of the steps; `make soak` takes each.
const EVERY: usize = 2;

#[test]
fn kills_and_stops_of_any_process_leave_nothing_and_let_nothing_out() -> Result<()> {
    let report = kills(Kind::Netns, TIME, SEED, |line| eprintln!("{line}"))?;
    eprintln!("{}", report.describe());
    ensure!(report.kill_count() >= KILLS_MIN, "only {} kills", report.kill_count());
    ensure!(report.seen.escaped() == 0, "escapes: {}", report.describe());
    ensure!(report.seen.carried() > 0, "nothing was carried: {}", report.describe());
    ensure!(report.leftovers.is_empty(), "left behind: {}", report.describe());
    let worst = report.recoveries.last().copied().unwrap_or_default();
    ensure!(worst < RECOVERY_MAX, "a recovery took {worst:?}: {}", report.describe());
    Ok(())
}

#[test]
fn a_kill_at_each_step_of_set_up_and_end_leaves_nothing_and_lets_nothing_out() -> Result<()> {
    let report = steps(EVERY, |line| eprintln!("{line}"))?;
    eprintln!("{}", report.describe());
    let count = |when: &str| report.kills.get(when).copied().unwrap_or_default();
    let (start, end) = (count("killed as it starts"), count("killed when it is up or ends"));
    ensure!(start > 0 && end > 0, "{start} kills as it starts, {end} later");
    ensure!(report.seen.escaped() == 0, "escapes: {}", report.describe());
    ensure!(report.seen.carried() > 0, "nothing was carried: {}", report.describe());
    ensure!(report.leftovers.is_empty(), "left behind: {}", report.describe());
    Ok(())
}
