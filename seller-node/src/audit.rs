//! `overlay-seller audit`: proves on this very host that a guest reaches its segment and nothing
//! else.
//!
//! # Theory of operation
//! A throw-away lease is made as a real one is, with the real processes: wire, rules, data plane,
//! egress guard. Then everything in the attack catalogue that a guest, or whoever has taken over
//! its data plane, can try is tried, while packet sockets watch all interfaces of the host for a
//! mark that each frame bears. First the watching is proved: a guest's tap that stands in the
//! watched network is to be seen. Each frame is sent twice, to the rules and past them straight to
//! the port policy, so that each of the two walls is seen to hold alone.
//!
//! It runs by itself before the first guest of a host since its start ([`ensure`]).
//!
//! # Limits
//! Nothing is sent to anybody: that a silent victim hears little from the egress guard is proved by
//! the project's tests. What QEMU itself could do when it is taken over is not tried here.

mod frames;
mod probe;
mod sight;
mod sys;

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use overlay::exit::{Exit, Fault};
use overlay::output::{line, table};
use overlay::preflight::{self, Need};
use serde_json::json;

pub(crate) use self::probe::role;
use crate::args::Audit;

/// Where it is remembered that this host has passed, until it starts anew.
const FOLDER: &str = "/run/overlay";

/// One thing that was tried.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its id in the attack catalogue.
    id: &'static str,
    what: String,
    tried: usize,
    /// How often that came out where it must not.
    seen: usize,
    /// What stopped it, and what would have without that.
    stopped_by: String,
    /// Whether this is as it should be.
    is_held: bool,
}

pub(crate) fn run(args: &Audit) -> anyhow::Result<Exit> {
    preflight::check(&[Need::Root, Need::Ip, Need::Nft, Need::Tun])?;
    let rows = audit()?;
    let failed = rows.iter().filter(|row| !row.is_held).count();
    let tried: usize = rows.iter().map(|row| row.tried).sum();
    for row in rows.iter().filter(|_| args.json) {
        let Row { id, what, tried, seen, stopped_by, is_held } = row;
        line(
            &json!({
                "event": "audit", "id": id, "what": what, "tried": tried, "seen": seen,
                "stopped_by": stopped_by, "held": is_held,
            })
            .to_string(),
        )?;
    }
    let verdict = if failed == 0 { "held" } else { "failed" };
    if args.json {
        let object = json!({
            "event": "verdict", "verdict": verdict, "tried": tried, "rows": rows.len(),
            "failed": failed,
        });
        line(&object.to_string())?;
    } else {
        let titles = ["id", "tried", "times", "came out", "stopped by", "verdict"];
        let cells = rows.iter().map(|row| {
            vec![
                row.id.to_owned(),
                row.what.clone(),
                row.tried.to_string(),
                row.seen.to_string(),
                row.stopped_by.clone(),
                if row.is_held { "held" } else { "FAILED" }.to_owned(),
            ]
        });
        line(&table(&titles, &cells.collect::<Vec<_>>()))?;
        line(&format!("{tried} attempts of {} kinds: {verdict}", rows.len()))?;
    }
    if failed > 0 {
        let first = rows.iter().find(|row| !row.is_held).map_or("", |row| &row.what);
        let text = format!(
            "this host does not confine guests: {failed} of {} kinds of attempts, the first of \
             them: {first}; no guest starts here",
            rows.len()
        );
        return Err(Fault::new(Exit::Confinement, text).into());
    }
    remember()?;
    Ok(Exit::Done)
}

fn audit() -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![frames::prove_sight().context("the audit cannot watch")?];
    if rows.iter().all(|row| row.is_held) {
        rows.extend(frames::try_all().context("the audit's lease cannot be made")?);
        rows.extend(probe::try_all().context("the audit's processes cannot be made")?);
    }
    Ok(rows)
}

/// Names what was found by this version since this host's start.
fn stamp() -> PathBuf {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let name = format!("audited-{}-{}", env!("CARGO_PKG_VERSION"), boot.trim());
    PathBuf::from(FOLDER).join(name)
}

fn remember() -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(FOLDER)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(stamp()).map(drop).context("the audit's result cannot be remembered")
}

/// Audits this host unless it has passed since its start; one at a time.
///
/// # Errors
/// [`Exit::Confinement`] if it does not pass: no guest is to start.
pub(crate) fn ensure() -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(FOLDER)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let lock = options.open(PathBuf::from(FOLDER).join("audit.lock"))?;
    if stamp().exists() {
        return Ok(());
    }
    lock.lock()?;
    if stamp().exists() {
        return Ok(());
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(["audit", "--json"]).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim().trim_start_matches("overlay-seller: ");
    let text = format!("{words} (see `overlay-seller audit`)");
    Err(Fault::new(Exit::Confinement, text).into())
}
