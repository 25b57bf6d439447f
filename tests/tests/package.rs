//! The Debian package, as `make deb` builds it: what is in it, what its units run, and a Debian
//! that installs, uses and purges it. This last is the release gate.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use overlay_tests::cast::Programs;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::wait_reach;
use overlay_tests::vm::Vm;
use overlay_tests::vm::release::{Packages, machine, outer_wire, packages};

/// Longest wait for the emulated Debian to be up, and for each later step of it.
const BOOT_MAX: Duration = Duration::from_secs(180);
const STEP_MAX: Duration = Duration::from_secs(120);
/// What `systemd-analyze security` still calls OK; nothing at all is 10.
const EXPOSURE_MAX: f64 = 5.0;
/// Settings of a guest's unit that the audit's has not: it is started once, and speaks to nobody.
const OF_GUESTS_ALONE: [&str; 7] = [
    "Type",
    "EnvironmentFile",
    "ExecStart",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "IPAddressDeny",
];

/// The packages, built by whichever test comes first.
fn built() -> Result<Packages> {
    static BUILT: Mutex<Option<Packages>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_none() {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        fs::create_dir_all(&dir)?;
        *built = Some(packages(&Programs::find()?, &dir)?);
    }
    built.clone().context("they have just been built")
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn must(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    ensure!(output.status.success(), "{program} {args:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// The paths in a package, as they are once it is installed.
fn paths(package: &Path) -> Result<BTreeSet<String>> {
    let listed = must("dpkg-deb", &["-c", &package.display().to_string()])?;
    let path = |line: &str| line.split_whitespace().nth(5).map(|path| path[1..].to_owned());
    Ok(listed.lines().filter_map(path).collect())
}

#[test]
fn the_package_holds_programs_pages_completions_and_units() -> Result<()> {
    let Packages { overlay, debug } = built()?;
    let (held, package) = (paths(&overlay)?, overlay.display().to_string());
    let programs = Programs::find()?;
    for (name, program) in [("overlay-gw", programs.gateway), ("overlay-seller", programs.seller)] {
        let mut wanted = vec![
            format!("/usr/bin/{name}"),
            format!("/usr/share/man/man1/{name}.1.gz"),
            format!("/usr/share/bash-completion/completions/{name}"),
            format!("/usr/share/zsh/vendor-completions/_{name}"),
            format!("/usr/share/fish/vendor_completions.d/{name}.fish"),
            format!("/usr/lib/systemd/system/{name}@.service"),
        ];
        let help = must(&program.display().to_string(), &["--help"])?;
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let commands = listed.take_while(|line| !line.is_empty());
        let names = commands.filter(|line| !line.starts_with("   "));
        let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
        ensure!(names.len() > 5 && names.contains(&"help"), "{names:?}");
        let pages = names.iter().filter(|command| **command != "help");
        wanted.extend(pages.map(|command| format!("/usr/share/man/man1/{name}-{command}.1.gz")));
        for path in wanted {
            ensure!(held.contains(&path), "{path} is missing of {held:?}");
        }
    }
    for path in [
        "/usr/lib/systemd/system/overlay-seller-audit.service",
        "/usr/lib/sysusers.d/overlay.conf",
        "/usr/lib/tmpfiles.d/overlay.conf",
        "/usr/share/doc/overlay/copyright",
        "/usr/share/doc/overlay/third-party.gz",
        "/usr/share/doc/overlay/changelog.Debian.gz",
    ] {
        ensure!(held.contains(path), "{path} is missing of {held:?}");
    }
    // Whatever is in /etc is the administrator's to change, and dpkg knows it.
    let conffiles = must("dpkg-deb", &["-I", &package, "conffiles"])?;
    let etc = held.iter().filter(|path| path.starts_with("/etc/") && !path.ends_with('/'));
    ensure!(etc.eq(conffiles.lines()), "conffiles are {conffiles}");
    let depends = must("dpkg-deb", &["-f", &package, "Depends"])?;
    for needed in ["libc6 (>= 2.", "iproute2", "nftables (>= ", "systemd (>= "] {
        ensure!(depends.contains(needed), "{needed} is not in {depends}");
    }
    // The programs' line tables are in the other package, under the programs' own ids.
    let ids = must("dpkg-deb", &["-f", &debug.display().to_string(), "Build-Ids"])?;
    let tables = paths(&debug)?;
    ensure!(ids.split_whitespace().count() == 2, "the ids are {ids}");
    for id in ids.split_whitespace() {
        let path = format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        ensure!(tables.contains(&path), "{path} is missing of {tables:?}");
    }
    Ok(())
}

#[test]
fn lintian_has_no_complaint_that_is_not_answered() -> Result<()> {
    let Packages { overlay, debug } = built()?;
    let look = |more: &[&str], package: &Path| -> Result<Output> {
        let mut command = Command::new("lintian");
        command.args(["--fail-on", "error,warning", "--allow-root"]).args(more).arg(package);
        command.output().context("lintian is not installed: run deploy/preflight.sh")
    };
    // A package of line tables may hold nothing else, no answer either; the address is the other's.
    for (package, more) in
        [(&overlay, &[][..]), (&debug, &["--suppress-tags", "bogus-mail-host"][..])]
    {
        let looked = look(more, package)?;
        ensure!(looked.status.success(), "{}", said(&looked));
    }
    // And it does look: what the overrides answer are complaints of its own.
    let bare = look(&["--no-override"], &overlay)?;
    ensure!(!bare.status.success() && said(&bare).contains("bogus-mail-host"), "{}", said(&bare));
    Ok(())
}

/// The words that systemd makes of `ARGS="…"` in a file for `EnvironmentFile=`.
fn words(text: &str) -> Result<Vec<String>> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let value = lines.join("\n");
    let value = value.trim().strip_prefix("ARGS=\"").and_then(|value| value.strip_suffix('"'));
    let value = value.context("an example is comments and ARGS=\"…\"")?.replace("\\\n", "");
    ensure!(!value.contains(['"', '\\', '\'', '$', '\n']), "it is split otherwise: {value}");
    Ok(value.split_whitespace().map(str::to_owned).collect())
}

/// What a unit runs for an instance whose file says `args`; its first word is a program's name.
fn exec_start(unit: &str, instance: &str, args: &[String]) -> Result<Vec<String>> {
    let text = fs::read_to_string(deploy("systemd").join(unit))?;
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let line = line.with_context(|| format!("{unit} runs nothing"))?;
    let words = line.split(' ').flat_map(|word| match word {
        "$ARGS" => args.to_vec(),
        word => vec![word.replace("%i", instance)],
    });
    Ok(words.collect())
}

/// Runs a line of ours where it gets past its parser and no further: no program is on the path, and
/// the ticket is not there.
fn parse(line: &[String]) -> Result<Output> {
    let (name, args) = line.split_first().context("an empty line")?;
    let programs = Programs::find()?;
    let program = if name == "overlay-gw" { programs.gateway } else { programs.seller };
    let state = tempfile::tempdir()?;
    let mut command = Command::new(program);
    command.args(args).env("PATH", "/nonexistent").env("OVERLAY_STATE", state.path());
    Ok(command.output()?)
}

#[test]
fn examples_are_lines_that_the_programs_take() -> Result<()> {
    let mut seen = 0;
    for (folder, unit, beyond) in [
        ("seller", "overlay-seller@.service", "ticket file /etc/overlay/tickets/g1.ovl"),
        ("gw", "overlay-gw@.service", "missing on this host: "),
    ] {
        for entry in fs::read_dir(deploy("examples").join(folder))? {
            let path = entry?.path();
            let instance = path.file_stem().context("a file has a name")?.to_string_lossy();
            let args = words(&fs::read_to_string(&path)?)?;
            let taken = parse(&exec_start(unit, &instance, &args)?)?;
            let text = said(&taken);
            ensure!(taken.status.code() == Some(1) && text.contains(beyond), "{path:?}: {text}");
            // One word more, and the same line is refused for what it says.
            let first = args.first().context("an example has words")?;
            let wrong = [args.clone(), vec!["--no-such-option".to_owned()]].concat();
            let wrong = parse(&exec_start(unit, &instance, &wrong)?)?;
            ensure!(wrong.status.code() == Some(2), "{first} …: {}", said(&wrong));
            seen += 1;
        }
    }
    ensure!(seen == 5, "{seen} examples were read");
    Ok(())
}

/// The settings of a unit's `[Service]`, one for each line.
fn settings(unit: &str) -> Result<BTreeSet<(String, String)>> {
    let text = fs::read_to_string(deploy("systemd").join(unit))?;
    let service = text.split("\n[Service]\n").nth(1).context("a service")?;
    let service = service.split("\n[").next().unwrap_or_default();
    let lines = service.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.into(), value.into()));
    lines.map(|line| pair(line).with_context(|| format!("{unit}: {line}"))).collect()
}

#[test]
fn what_is_proved_by_the_audit_is_proved_of_guests_as_they_run() -> Result<()> {
    let proved = settings("overlay-seller-audit.service")?;
    let guests = settings("overlay-seller@.service")?;
    let differ: Vec<_> = guests.difference(&proved).map(|(key, _)| key.as_str()).collect();
    ensure!(differ.iter().all(|key| OF_GUESTS_ALONE.contains(key)), "guests have {differ:?} alone");
    ensure!(differ.contains(&"ExecStart") && guests.len() > 30, "{guests:?}");
    let narrow = |(key, _): &(String, String)| {
        ["Capability", "SystemCall", "Restrict", "Protect", "Device"]
            .iter()
            .any(|start| key.starts_with(start))
    };
    let more: Vec<_> = proved.difference(&guests).filter(|pair| narrow(pair)).collect();
    ensure!(more.is_empty(), "the audit alone has {more:?}");
    Ok(())
}

/// The rest of the first line of a console that begins so.
fn after<'a>(console: &'a str, start: &str) -> Result<&'a str> {
    let found = console.lines().find_map(|line| line.strip_prefix(start));
    found.with_context(|| format!("no {start:?} in {console}"))
}

#[test]
fn a_debian_installs_the_package_joins_a_segment_and_purges_it() -> Result<()> {
    let stage = Stage::build(&["buyer"])?;
    let package = built()?.overlay;
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    outer_wire(&stage.router)?;
    let buyer = gateway.ipv4.to_string();
    let words = machine(stage.lab.dir(), &package, &gateway.invite()?, &buyer)?;
    let mut debian = Vm::start(&stage.router, &words)?;
    debian.wait("GATE HOST", BOOT_MAX)?;
    for step in ["INSTALLED", "EXPOSURE", "REFUSED", "AUDIT", "JOINED"] {
        debian.wait(&format!("GATE {step}"), STEP_MAX)?;
    }
    wait_reach(&gateway.host, "10.77.0.10".parse::<IpAddr>()?, STEP_MAX)?;
    for step in ["ASKED", "CONFINED", "RESTARTED", "UPGRADED", "READY", "PURGED", "END"] {
        debian.wait(&format!("GATE {step}"), STEP_MAX)?;
    }
    let console = debian.console();
    for line in console.lines().filter(|line| line.starts_with("GATE ")) {
        eprintln!("{line}");
    }
    // In a unit works what is to work there; without one, all of it does for root.
    let free = "clock cgroup disk files home log metadata modules mount namespace netns \
                personality realtime router setuid state user";
    ensure!(after(&console, "GATE FREE ")?.trim() == free, "root cannot try all: {console}");
    for (unit, lets) in [("seller", "netns router state"), ("gw", "metadata netns router state")] {
        let found = after(&console, &format!("GATE LETS {unit} "))?.trim();
        ensure!(found == lets, "in overlay-{unit}@ works {found}");
    }
    for unit in ["overlay-seller@g1", "overlay-seller-audit", "overlay-gw@barn"] {
        let exposure: f64 = after(&console, &format!("GATE EXPOSURE {unit} "))?.trim().parse()?;
        ensure!(exposure < EXPOSURE_MAX, "{unit}: {exposure}");
    }
    let has_audit = {
        let seller = Command::new(&stage.programs.seller).args(["audit", "--help"]).output()?;
        seller.status.success()
    };
    match (after(&console, "GATE AUDIT ")?.trim(), has_audit) {
        ("passed", true) | ("missing", false) => Ok(()),
        (audit, _) => bail!("the program has an audit: {has_audit}; in Debian it {audit}"),
    }
}
