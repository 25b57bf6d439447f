//! Any process of the programs killed or stopped at any moment: nothing escapes, nothing is left,
//! and the same command brings everything back (G4, G26, K01); at each step of setting up (K02).

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use overlay_tests::cast::Guest;
use overlay_tests::kills::{Kind, kills};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, wait_reach};
use overlay_tests::tree::{Member, tree};

/// How long it is done here; `make soak` does it for longer.
const TIME: Duration = Duration::from_secs(20);
/// Fewest kills in that time, on a machine that is busy besides.
const KILLS_MIN: u32 = 3;
/// Four times what a recovery is meant to take.
const RECOVERY_MAX: Duration = Duration::from_secs(20);
const SEED: u64 = 5;
/// Kills while a lease is set up, spread over twice the time that it takes.
const STEPS: u32 = 20;
/// For what the kernel takes down after a kill.
const GONE_MAX: Duration = Duration::from_secs(10);

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
fn a_kill_at_each_step_of_setting_up_leaves_nothing_open() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let seller = stage.host("seller1").clone();
    let mut guest = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    ensure!(guest.process.terminate(GONE_MAX)?.success(), "{}", guest.process.log());
    let took = guest.took;
    let before = seller.interfaces()?;
    let mut reached = 0;
    for step in 0..STEPS {
        let mut process = Guest::start(&stage.programs, &seller, &seat, &ticket, &[])?;
        thread::sleep(took * 2 * step / STEPS);
        let all = tree(process.pid());
        reached += u32::from(seat.interfaces()?.contains(&"eth0".to_owned()));
        process.signal(Signal::SIGKILL)?;
        process.wait_end(GONE_MAX)?;
        eventually(&format!("all of step {step} is gone"), GONE_MAX, || {
            let is_gone = !all.iter().any(Member::is_running);
            let guests = seat.interfaces()?.into_iter().filter(|name| name != "lo").count();
            Ok(is_gone && guests == 0 && seller.interfaces()? == before)
        })?;
        // The guard is shut by itself or stays shut: what it opens has an end.
        let sets = seller.output("nft", ["list", "table", "inet", "ovl_guard"])?;
        let sets = String::from_utf8_lossy(&sets.stdout).into_owned();
        ensure!(
            sets.lines().filter(|line| line.contains("elements")).all(|line| {
                line.contains("expires") || line.contains("ctl_uids") || is_user(line)
            }),
            "step {step}: something is open for ever: {sets}"
        );
    }
    eprintln!("{reached} of {STEPS} kills came after the guest had its interface");
    ensure!((1..STEPS).contains(&reached), "{reached} of {STEPS} came late: spread them anew");
    let mut guest = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    wait_reach(&gateway.host, guest.ipv4.into(), GONE_MAX)?;
    ensure!(guest.process.terminate(GONE_MAX)?.success(), "{}", guest.process.log());
    let tables = seller.must("nft list tables")?;
    ensure!(!tables.contains("ovl_"), "left behind: {tables}");
    Ok(())
}

/// Elements of the set of control processes' users are numbers alone, and open nothing.
fn is_user(line: &str) -> bool {
    let elements = line.split_once('{').map_or("", |(_, rest)| rest).trim_end_matches([' ', '}']);
    elements.split(',').all(|one| one.trim().parse::<u32>().is_ok() || one.trim() == "overlay")
}
