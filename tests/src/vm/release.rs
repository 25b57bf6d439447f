//! A Debian that gets the package as its users do, and says on its console what it makes of it.
//!
//! # Theory of operation
//! The machine is [`super::images::debian`] with a second disk: a tar archive with the package, a
//! ticket and `gate.sh`, which the image runs when its kernel was told `ovl.gate`. So the image
//! stays as it is in the cache, whatever the script does. Its card is a tap in a host of the lab,
//! which is its router.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::images::debian;
use super::{run, tap};
use crate::cast::Programs;
use crate::lab::{Host, must};

/// What runs in the machine, and what that runs in units of ours.
const SCRIPTS: [(&str, &str); 2] = [
    ("gate.sh", include_str!("guest/debian/gate.sh")),
    ("probe.sh", include_str!("guest/debian/probe.sh")),
];
/// The machine's card, and its router's end.
const TAP: &str = "outer0";
const MAC: &str = "02:00:00:00:fb:02";
/// Both ends' addresses, behind the last cable of a lab.
const OUTER: &str = "44.128.251.2/24";
const ROUTER: &str = "44.128.251.1";

/// The packages that `make deb` builds.
#[derive(Clone, Debug)]
pub struct Packages {
    /// With the programs.
    pub overlay: PathBuf,
    /// With their line tables.
    pub debug: PathBuf,
}

/// Builds the packages into a directory, from the programs beside the caller's own.
///
/// # Errors
/// When deploy/deb.sh does not succeed; with its words.
pub fn packages(programs: &Programs, dir: &Path) -> Result<Packages> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/deb.sh");
    let from = programs.gateway.parent().context("a program is in a directory")?;
    let said = must(Command::new(script).arg(from).arg(dir))?;
    match said.lines().collect::<Vec<_>>()[..] {
        [overlay, debug] => Ok(Packages { overlay: overlay.into(), debug: debug.into() }),
        _ => bail!("deploy/deb.sh prints {said}"),
    }
}

/// Gives a host of the lab a tap for the machine's card, and the address of the machine's router.
///
/// # Errors
/// When the kernel refuses it.
pub fn outer_wire(router: &Host) -> Result<()> {
    router.must(&format!("ip tuntap add {TAP} mode tap vnet_hdr"))?;
    router.must(&format!("ip addr add {ROUTER}/24 dev {TAP}"))?;
    router.must(&format!("ip link set {TAP} up")).map(drop)
}

/// Returns the command line of the machine, to be run where [`outer_wire`] was; its second disk is
/// written into `dir`. `ticket` is of an order whose buyer has the address `buyer` on the segment.
///
/// # Errors
/// When Debian's image cannot be made, or the disk cannot be written.
pub fn machine(dir: &Path, package: &Path, ticket: &str, buyer: &str) -> Result<Vec<String>> {
    let files = dir.join("gate");
    fs::create_dir_all(&files)?;
    for (name, text) in SCRIPTS {
        fs::write(files.join(name), text)?;
    }
    let env = format!("OUTER={OUTER}\nROUTER={ROUTER}\nBUYER={buyer}\n");
    fs::write(files.join("gate.env"), env)?;
    fs::write(files.join("g1.ovl"), ticket)?;
    fs::copy(package, files.join("overlay.deb")).context("copy the package")?;
    let disk = dir.join("gate.tar").display().to_string();
    run("tar", &["-cf", &disk, "-C", &files.display().to_string(), "."])?;
    // Neither a login on the console nor what Debian does by the clock is to meet the script.
    let masked = "systemd.mask=serial-getty@ttyS0.service systemd.mask=timers.target";
    let mut words = debian(&format!("ovl.gate {masked}"))?;
    words.extend(["-drive".to_owned(), format!("file={disk},format=raw,if=virtio,readonly=on")]);
    words.extend(tap(TAP, MAC));
    Ok(words)
}
