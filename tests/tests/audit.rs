//! `overlay-seller audit` finds a host that leaks, says what came out, and lets no guest start
//! there (G1).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use overlay::host::guard::PASSED;
use overlay_tests::cast::{Guest, Programs, wrapped};
use overlay_tests::lab::{Host, Lab};
use overlay_tests::stage::Stage;
use serde_json::Value;

/// Longest audit, on a machine that is busy besides.
const AUDIT_MAX: Duration = Duration::from_secs(60);
/// The exit code of a host that does not confine guests.
const CONFINEMENT: i32 = 5;

/// Which rules a host's packet filter loads without what they drop.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// None of them.
    None,
    /// The guard's: what it would drop is sent.
    Guard,
    /// A wire's: what they would drop goes on to the segment.
    Wire,
}

/// A program on a host that has not been audited, whose `nft` may be broken.
fn on_new_host(program: &Path, host: &Host, broken: Broken) -> Result<PathBuf> {
    let bin = host.dir().join("bin");
    fs::create_dir_all(&bin)?;
    // A script's words, and how it is changed when it has them.
    let (words, change) = match broken {
        Broken::None => ("table", String::new()),
        Broken::Guard => {
            ("table inet ovl_guard", format!("s/counter drop$/meta mark set {PASSED} accept/"))
        }
        Broken::Wire => ("type filter hook ingress", "s/ drop$/ fwd to \"data\"/".to_owned()),
    };
    let nft = format!(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\ncase \"$*\" in *'-f -'*) ;; \
         *) exec nft \"$@\" ;; esac\ntext=$(cat)\ncase $text in *'{words}'*) \
         text=$(echo \"$text\" | sed '{change}') ;; esac\necho \"$text\" | nft \"$@\"\n"
    );
    fs::write(bin.join("nft"), nft)?;
    fs::set_permissions(bin.join("nft"), Permissions::from_mode(0o755))?;
    let mount = "mkdir -p /run/overlay && mount -t tmpfs -o mode=0700 tmpfs /run/overlay";
    let by =
        format!("unshare --mount sh -c '{mount} && PATH={}:$PATH exec \"$@\"' -", bin.display());
    wrapped(program, host.dir(), &by)
}

/// Audits a host; returns the rows, the verdict, and how it ended.
fn audit(host: &Host, broken: Broken) -> Result<(Vec<Value>, Option<Value>, Output)> {
    let program = on_new_host(&Programs::find()?.seller, host, broken)?;
    let output = host.output(program, ["audit", "--json"])?;
    let text = String::from_utf8(output.stdout.clone())?;
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let (rows, verdict): (Vec<_>, Vec<_>) =
        lines?.into_iter().partition(|line| line["event"] == "audit");
    Ok((rows, verdict.into_iter().next(), output))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn keys(object: &Value) -> Vec<String> {
    object.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect()
}

/// The keys of an event's example in docs/events.md.
fn documented(event: &str) -> Result<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md");
    let start = format!("{{\"event\":\"{event}\",");
    let text = fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.starts_with(&start)).context("an example")?;
    Ok(keys(&serde_json::from_str(line)?))
}

#[test]
fn a_decent_host_passes_with_every_kind_of_attempt_held() -> Result<()> {
    let mut lab = Lab::new()?;
    let host = lab.host("seller")?;
    let before = host.interfaces()?;
    let (rows, verdict, output) = audit(&host, Broken::None)?;
    ensure!(output.status.success(), "{}: {}", output.status, said(&output));
    let verdict = verdict.context("a verdict")?;
    ensure!(verdict["verdict"] == "held" && verdict["failed"] == 0, "{verdict}");
    ensure!(verdict["rows"] == rows.len() && rows.len() > 30, "{} rows, {verdict}", rows.len());
    ensure!(keys(&verdict) == documented("verdict")?, "{verdict} is not as in docs/events.md");
    for row in &rows {
        ensure!(keys(row) == documented("audit")?, "{row} is not as in docs/events.md");
        ensure!(row["held"] == true && row["tried"].as_u64() > Some(0), "{row}");
    }
    ensure!(host.interfaces()? == before, "left behind: {:?}", host.interfaces()?);
    ensure!(host.must("nft list tables")?.is_empty(), "tables are left");
    Ok(())
}

#[test]
fn a_host_whose_guard_drops_nothing_is_found_and_starts_no_guest() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let seller = stage.host("seller1").clone();
    let (rows, verdict, output) = audit(&seller, Broken::Guard)?;
    eprintln!("{}", said(&output));
    ensure!(output.status.code() == Some(CONFINEMENT), "{}: {}", output.status, said(&output));
    let out: Vec<_> = rows.iter().filter(|row| row["held"] == false).collect();
    ensure!(out.iter().any(|row| row["seen"].as_u64() > Some(0)), "what came out? {out:?}");
    ensure!(verdict.context("a verdict")?["failed"] == out.len(), "{} rows failed", out.len());

    let seat = stage.lab.guest("guest1")?;
    let ticket = gateway.invite_file()?;
    let program = on_new_host(&stage.programs.seller, &seller, Broken::Guard)?;
    let programs = Programs { seller: program, ..stage.programs.clone() };
    let mut process = Guest::start(&programs, &seller, &seat, &ticket, &[])?;
    let status = process.wait_end(AUDIT_MAX)?;
    ensure!(status.code() == Some(CONFINEMENT), "join: {status}: {}", process.log());
    ensure!(process.log().contains("no guest starts here"), "{}", process.log());
    ensure!(seat.interfaces()?.is_empty(), "the guest has {:?}", seat.interfaces()?);
    let tables = seller.must("nft list tables")?;
    ensure!(!tables.contains("ovl_latch"), "left behind: {tables}");
    Ok(())
}

#[test]
fn a_host_whose_rules_on_wires_drop_nothing_is_found() -> Result<()> {
    let mut lab = Lab::new()?;
    let host = lab.host("seller")?;
    let (_, _, output) = audit(&host, Broken::Wire)?;
    let said = said(&output);
    ensure!(output.status.code() == Some(CONFINEMENT), "{}: {said}", output.status);
    ensure!(said.contains("lets pass what it must stop"), "{said}");
    Ok(())
}
