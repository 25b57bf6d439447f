//! Starts a machine.
//!
//! # Theory of operation
//! [`Launch`] holds what was checked and opened before anybody was contacted; [`Launch::start`]
//! adds what the grant says (MAC, MTU, the tap's descriptor) and runs QEMU confined: see
//! [`overlay::confine`]. What it says, on its console and of itself, is read by the control
//! process: see [`super::console`].
//!
//! # Limits
//! A machine is killed with the thread that starts it, so that must be the helper's one.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use overlay::confine::{Confinement, confine};
use vde_switch::mac::MacAddr;

use super::console::Console;
use super::files::Opened;
use super::kvm;
use super::scratch::Scratch;
use super::vet::{Machine, Word};

/// How the guest's processor is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// As the line says, perhaps by KVM.
    Given {
        /// Whether it names KVM.
        kvm: bool,
    },
    /// By KVM.
    Kvm,
    /// By emulation.
    Tcg,
}

/// A machine that can be started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(super) program: PathBuf,
    pub(super) machine: Machine,
    pub(super) files: Vec<Opened>,
    pub(super) accel: Accel,
    pub(super) console: Console,
    /// Where what is thrown away is written, and how much of it, in bytes.
    pub(super) scratch_path: PathBuf,
    pub(super) scratch_max: u64,
    /// Whose user QEMU is.
    pub(super) user: u32,
}

/// What a machine that was started says, to be read by whoever has no rights.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    /// Its serial console.
    pub(crate) stdout: OwnedFd,
    /// QEMU's own words.
    pub(crate) stderr: OwnedFd,
    /// Where the console is written, unless on the terminal.
    pub(crate) console: Option<File>,
}

impl Launch {
    /// Returns the program's name.
    pub(crate) fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Says how the guest's processor is made.
    pub(crate) fn accel_words(&self) -> &'static str {
        match self.accel {
            Accel::Given { .. } => "as given",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// Returns the file of the console, if it is in one.
    pub(crate) fn console_path(&self) -> Option<String> {
        self.console.path().map(|path| path.display().to_string())
    }

    /// Makes the directory that the machine writes to.
    pub(crate) fn scratch(&self) -> anyhow::Result<Scratch> {
        Scratch::open(&self.scratch_path, self.user)
    }

    /// Starts the machine on the guest's tap, from the program's first thread.
    pub(crate) fn start(
        &self,
        tap: &OwnedFd,
        scratch: &Scratch,
        mac: MacAddr,
        mtu: u16,
    ) -> anyhow::Result<(Child, Started)> {
        let tap = tap.as_raw_fd();
        let console = self.console.file()?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments());
        command.args(["-netdev".to_owned(), format!("tap,id=ovl0,fd={tap},vhost=off")]);
        let card = format!("virtio-net-pci,netdev=ovl0,mac={mac},host_mtu={mtu}");
        command.args(["-device", &card]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", ".").env("LANG", "C.UTF-8");
        command.stdin(self.console.stdin()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let keep = self.files.iter().flat_map(Opened::fds).chain([tap]).collect();
        let group = match self.accel {
            Accel::Kvm | Accel::Given { kvm: true } => kvm::group(),
            Accel::Tcg | Accel::Given { kvm: false } => None,
        };
        let confinement = Confinement {
            user: (self.user, self.user),
            group,
            dir: Some(scratch.fd()),
            keep,
            file_size_max: self.file_size_max(),
            data_max: None,
            descriptors_max: None,
        };
        confine(&mut command, confinement);
        let mut child =
            command.spawn().with_context(|| format!("{} cannot be run", self.name()))?;
        let (stdout, stderr) = child.stdout.take().zip(child.stderr.take()).context("piped")?;
        let (stdout, stderr) = (stdout.into(), stderr.into());
        let pid = child.id();
        Ok((child, Started { pid, stdout, stderr, console }))
    }

    /// Returns QEMU's words, all but the card's.
    fn arguments(&self) -> Vec<String> {
        let place =
            |number: usize| self.files.get(number).map_or(String::new(), |file| file.place(number));
        let word = |word: &Word| match word {
            Word::Text(text) => text.clone(),
            Word::File(before, number, after) => format!("{before}{}{after}", place(*number)),
        };
        let fixed = "-no-user-config -nodefaults -display none -monitor none \
                     -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,\
                     resourcecontrol=deny -serial chardev:ovlcon -chardev";
        let console = match self.console {
            Console::Terminal => "stdio,id=ovlcon,mux=on,signal=off",
            Console::File(_) => "stdio,id=ovlcon,signal=off",
        };
        let mut words: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        words.push(console.to_owned());
        let accel = match self.accel {
            Accel::Given { .. } => None,
            Accel::Kvm => Some("kvm"),
            Accel::Tcg => Some("tcg"),
        };
        words.extend(accel.iter().flat_map(|accel| ["-accel", accel]).map(str::to_owned));
        let numbered = self.files.iter().enumerate();
        words.extend(numbered.flat_map(|(number, file)| file.words(number)));
        words.extend(self.machine.words.iter().map(word));
        words
    }

    /// Returns the largest file that the machine may write: its part of the scratch for each
    /// throw-away disk, or more if an image that it writes is larger.
    fn file_size_max(&self) -> u64 {
        let snapshots = self.files.iter().filter(|file| file.is_snapshot).count() as u64;
        let images = self.files.iter().map(|file| file.grows_to).max().unwrap_or(0);
        (self.scratch_max / snapshots.max(1)).max(images)
    }
}
