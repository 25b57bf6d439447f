//! `overlay-seller run`: a virtual machine on a buyer's segment, by one line.
//!
//! # Theory of operation
//! Everything that can be refused is refused before anybody is contacted, in this order: the
//! command line ([`vet`]), the ticket, what is missing on this host, the files ([`files`]). Then it
//! is tried whether guests run with KVM here ([`kvm`]), and the rest is [`crate::join`] with a seat
//! that starts QEMU when the buyer has granted a place ([`crate::helper::seat::Seat::Vm`]).
//!
//! QEMU runs with nothing of this host's: as a user that no file belongs to, in an empty network
//! namespace, without a way to more rights, with descriptors of its tap and of its images, and with
//! one directory for what is thrown away. It has no devices but those of the line, the card and one
//! serial port (`-nodefaults`): no screen, no floppy, no second way out. `-nographic`, `-display
//! none`, `-serial stdio` and their like are taken and left out, as they say what is the case.
//!
//! # Limits
//! One machine a process. Its memory and processor time are limited by the line alone.

pub(crate) mod console;
mod files;
mod kvm;
pub(crate) mod launch;
pub(crate) mod scratch;
pub(crate) mod terminal;
mod vet;

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context;
use overlay::confine::is_mapped;
use overlay::exit::{Exit, Fault};
use overlay::preflight::{self, Need};
use overlay::state::StateDir;

use self::console::Console;
use self::files::Opened;
use self::launch::{Accel, Launch};
use crate::args::Run;
use crate::helper::seat::{Seat, VmSeat};
use crate::join::{self, lease};

/// Machines' users begin here, in a range that no distribution gives out; the process's number is
/// added, so that no two machines that run have the same.
const USER_MIN: u32 = 0x7000_0000;
/// The user of machines where that range is not mapped, as in some containers.
const NOBODY: u32 = 65534;
/// Where in the state directory machines have theirs.
const FOLDER: &str = "vm";

pub(crate) fn run(state: Option<&Path>, args: &Run) -> anyhow::Result<Exit> {
    let usage = |error: vet::VetError| Fault::new(Exit::Usage, error.to_string());
    let machine = vet::vet(&args.line).map_err(usage)?;
    let ticket = crate::ticket::read(args.ticket.as_deref())?;
    preflight::check(&[Need::Root, Need::Ip, Need::Nft, Need::Tun])?;
    let program = find(&machine.program)?;
    let opened: anyhow::Result<Vec<_>> = machine.files.iter().map(Opened::open).collect();
    let files = opened?;
    let folder = StateDir::open(state)?.path().join(FOLDER);
    let name = lease::name(&ticket);
    let console = match &args.console {
        Some(path) => Console::File(path.clone()),
        None if args.conduct.json => Console::File(folder.join(format!("{name}.console"))),
        None => Console::Terminal,
    };
    let user = user();
    let accel = match &machine.accel {
        Some(given) => Accel::Given { kvm: given.contains("kvm") },
        None => accel(&program, user),
    };
    let launch = Launch {
        program,
        machine,
        files,
        accel,
        console,
        scratch_path: folder.join(&name),
        scratch_max: args.scratch,
        user,
    };
    let seat = Seat::Vm(Box::new(VmSeat::new(launch, args.restart)));
    join::join(state, ticket, &args.conduct, seat)
}

/// Chooses KVM where guests run with it; the user is told where they do not.
fn accel(program: &Path, user: u32) -> Accel {
    match kvm::probe(program, user) {
        Ok(()) => Accel::Kvm,
        Err(why) => {
            // With stderr closed nobody is left to be told.
            let _ = writeln!(
                std::io::stderr(),
                "kvm: not available ({why}): the guest runs by emulation, slowly"
            );
            Accel::Tcg
        }
    }
}

/// Finds the program, which must be the host's own: a pasted line may name any.
fn find(typed: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = match typed.starts_with('/') {
        true => vec![typed.into()],
        false => env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(typed))
            .collect(),
    };
    let Some((path, meta)) = candidates
        .into_iter()
        .find_map(|path| fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|m| (path, m)))
    else {
        let text = format!("{typed} is not installed: run `apt-get install {}`", package(typed));
        return Err(Fault::new(Exit::Failed, text).into());
    };
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        let text = format!(
            "{} is not run: it is to belong to root and to be written by nobody else",
            path.display()
        );
        return Err(Fault::new(Exit::Failed, text).into());
    }
    path.canonicalize().map(|_| path).context("the program cannot be found")
}

/// Names Debian's package of a QEMU.
fn package(typed: &str) -> &'static str {
    match typed.rsplit("qemu-system-").next().unwrap_or_default() {
        "x86_64" | "i386" => "qemu-system-x86",
        "aarch64" | "arm" => "qemu-system-arm",
        _ => "qemu-system-misc",
    }
}

/// Returns the user that a machine of this process runs as.
fn user() -> u32 {
    let wanted = USER_MIN + process::id();
    if is_mapped(wanted) { wanted } else { NOBODY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_foreign_program_is_named() {
        let error = find("qemu-system-none").expect_err("missing").to_string();
        assert!(error.contains("apt-get install qemu-system-misc"), "{error}");
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("qemu-system-x86_64");
        fs::write(&own, "#!/bin/sh\n").expect("written");
        let shared = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&own, shared).expect("changed");
        let error = find(own.to_str().expect("text")).expect_err("foreign").to_string();
        assert!(error.contains("belong to root"), "{error}");
    }
}
