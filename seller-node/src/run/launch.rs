//! Starts a machine, and knows when it has ended.
//!
//! # Theory of operation
//! [`Launch`] holds what was checked and opened before anybody was contacted; [`Launch::start`]
//! adds what the grant says (MAC, MTU, the tap's descriptor) and runs QEMU confined: see
//! [`super::sys`].
//! One thread copies the console, one listens to QEMU's own words, one waits for its end and
//! reports it once, with the last of those words.
//!
//! # Limits
//! A machine is killed with the thread that starts it, so that must be the program's first. Threads
//! that copy end with the machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use overlay_proto::grant::Grant;
use tokio::sync::oneshot;

use super::console::{self, Console};
use super::files::Opened;
use super::kvm;
use super::scratch::Scratch;
use super::sys::{Confinement, confine};
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

/// How a machine ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// QEMU's last words, on one line.
    pub(crate) words: String,
}

/// A machine that was started; killed when dropped.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) pid: u32,
    /// Its process, as long as that number is its own.
    process: Arc<Mutex<Option<Pid>>>,
    ended: oneshot::Receiver<Ended>,
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
        grant: &Grant,
        mtu: u16,
    ) -> anyhow::Result<Vm> {
        let tap = tap.as_raw_fd();
        let console = self.console.file()?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments());
        command.args(["-netdev".to_owned(), format!("tap,id=ovl0,fd={tap},vhost=off")]);
        let card = format!("virtio-net-pci,netdev=ovl0,mac={},host_mtu={mtu}", grant.station.mac);
        command.args(["-device", &card]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", ".").env("LANG", "C.UTF-8");
        command.stdin(self.console.stdin()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let keep = self.files.iter().flat_map(Opened::fds).chain([tap]).collect();
        let group = match self.accel {
            Accel::Kvm | Accel::Given { kvm: true } => kvm::group(),
            Accel::Tcg | Accel::Given { kvm: false } => None,
        };
        let (id, dir) = (self.user, Some(scratch.fd()));
        let file_size_max = self.file_size_max();
        confine(&mut command, Confinement { id, group, dir, keep, file_size_max });
        let child = command.spawn().with_context(|| format!("{} cannot be run", self.name()))?;
        Vm::watch(child, console)
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

impl Vm {
    fn watch(mut child: Child, console: Option<std::fs::File>) -> anyhow::Result<Self> {
        let pid = child.id();
        let process = Arc::new(Mutex::new(Some(Pid::from_raw(i32::try_from(pid)?))));
        let (sender, ended) = oneshot::channel();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let copier = thread::spawn(move || {
            if let Err(error) = console::copy(stdout, console) {
                tracing::warn!(%error, "the guest's console is no longer shown");
            }
        });
        let listener = thread::spawn(move || console::heed(stderr));
        let own = Arc::clone(&process);
        thread::spawn(move || {
            let status = reap(child, &own);
            let words = listener.join().unwrap_or_default();
            let _ = copier.join();
            if let Ok(status) = status {
                // Whoever no longer listens has no use for it.
                let _ = sender.send(Ended { status, words });
            }
        });
        Ok(Self { pid, process, ended })
    }

    /// Waits for its end. Dropped and called again, nothing is lost; after the end it waits on.
    pub(crate) async fn ended(&mut self) -> Ended {
        match (&mut self.ended).await {
            Ok(ended) => ended,
            Err(_) => std::future::pending().await,
        }
    }

    /// Sends it a signal unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *process {
            // It is a child that nobody has waited for, so the number is its own.
            let _ = kill(pid, signal);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Waits for a process; its number is taken back before it can become another's.
fn reap(mut child: Child, process: &Mutex<Option<Pid>>) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while let Err(errno) = waitid(Id::Pid(pid), flags) {
        if errno != nix::errno::Errno::EINTR {
            return Err(errno.into());
        }
    }
    *process.lock().unwrap_or_else(PoisonError::into_inner) = None;
    child.wait()
}
