//! The part of a program that stays root, and the part that does not.
//!
//! # Theory of operation
//! [`split`] makes one process two. The first goes on as the *helper*: root, one thread, no async
//! runtime, no byte from any network. The second, *control*, is everything else; it opens what only
//! root may open, tells the helper what to remove in the end ([`Leftovers`]), leaves root for good
//! and from then on asks. The helper takes it for hostile: what it may ask is a type of its
//! program's, and each question is checked before it is carried out.
//!
//! The helper starts the data plane, a third process ([`Helper::start_data_plane`]), and outlives
//! both. All die with the helper (PDEATHSIG): a lease without one is no lease.
//!
//! # Limits
//! One control process and one data plane. Signals that end programs reach the helper, which passes
//! them on to control and waits for its end.

mod hands;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::hands::{Hands, HandsError};
use crate::confine::{self, Confinement};
use crate::dataplane::process::ROLE;
use crate::exit::Exit;
use crate::ipc;

/// Most memory of a process that moves frames, in bytes: 512 peers, the buffers of all cables, and
/// room.
const MEMORY_MAX: u64 = 256 << 20;
/// Most descriptors of a process that moves frames: cables, captures, and its own few.
const DESCRIPTORS_MAX: u64 = 64;
/// What the process is called in lists.
const DATA_PLANE_NAME: &str = "overlay-dp";
/// How long control may take to end after a signal: it says goodbye, and waits for a machine.
const CONTROL_END_AFTER_MAX: Duration = Duration::from_secs(5);

/// The signals that the helper waits for.
const SIGNALS: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Which of the two a process has become.
#[derive(Debug)]
pub enum Part {
    /// The helper.
    Helper(Helper),
    /// Control, still root.
    Control(Hands),
}

/// What is removed when all processes of the program are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// Files that are there while the program runs.
    pub always: Vec<PathBuf>,
    /// Files that stay if the program gets as far as [`Helper::keep`].
    pub unless_kept: Vec<PathBuf>,
    /// Files that go if the program gets as far as [`Helper::forget`].
    pub if_forgotten: Vec<PathBuf>,
}

/// The helper's side of the two.
#[derive(Debug)]
pub struct Helper {
    control: Pid,
    ended: Option<WaitStatus>,
    socket: OwnedFd,
    signals: SignalFd,
    /// Whether a signal told the program to end.
    told: bool,
    data_plane: Option<Child>,
    leftovers: Leftovers,
}

/// Splits this process, which must have one thread.
///
/// All descriptors but the first three stay the helper's: in control they are closed. Whatever
/// owned them is to be forgotten there, not dropped.
///
/// # Errors
/// The system's.
pub fn split() -> io::Result<Part> {
    let (ours, theirs) = ipc::pair()?;
    let mut set = SigSet::empty();
    SIGNALS.into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    let parent = Pid::this();
    match confine::fork()? {
        Some(control) => {
            drop(theirs);
            let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
            let signals = SignalFd::with_flags(&set, flags)?;
            Ok(Part::Helper(Helper {
                control,
                ended: None,
                socket: ours,
                signals,
                told: false,
                data_plane: None,
                leftovers: Leftovers::default(),
            }))
        }
        None => {
            crate::sys::close_all_but(theirs.as_fd())?;
            set.thread_unblock()?;
            Ok(Part::Control(Hands::new(theirs, parent)))
        }
    }
}

/// Starts this program in another role, as `user` and confined, with a few descriptors whose
/// numbers are its arguments; `name` is for lists of processes.
///
/// # Errors
/// The system's.
pub fn start_role(
    name: &str,
    role: &str,
    fds: &[BorrowedFd<'_>],
    user: (u32, u32),
) -> io::Result<Child> {
    start_role_with(name, role, fds, user, None)
}

fn start_role_with(
    name: &str,
    role: &str,
    fds: &[BorrowedFd<'_>],
    user: (u32, u32),
    held: Option<BorrowedFd<'_>>,
) -> io::Result<Child> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).arg(role).args(fds.iter().map(RawFd::to_string));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    for name in ["RUST_LOG", "RUST_BACKTRACE"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let confinement = Confinement {
        user,
        group: None,
        dir: None,
        keep: fds.into_iter().chain(held.map(|fd| fd.as_raw_fd())).collect(),
        file_size_max: u64::MAX, // it can open none; its log may be one
        data_max: Some(MEMORY_MAX),
        descriptors_max: Some(DESCRIPTORS_MAX),
    };
    confine::confine(&mut command, confinement);
    command.spawn()
}

impl Helper {
    /// Waits until control says something, a child ends, one of `others` can be read, or the time
    /// is over; says of each of `others` whether it can.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<Vec<bool>> {
        let ours = [self.socket.as_fd(), self.signals.as_fd()];
        let all = ours.iter().chain(others);
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<_> = fds[2..].iter().map(|fd| fd.any() == Some(true)).collect();
        self.take_signals()?;
        Ok(ready)
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.told = true;
                let by_hand = signal.ssi_signo == Signal::SIGINT as u32;
                self.signal_control(if by_hand { Signal::SIGINT } else { Signal::SIGTERM });
            }
        }
        if self.ended.is_none() {
            match waitpid(self.control, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => {}
                status => self.ended = Some(status),
            }
        }
        Ok(())
    }

    fn signal_control(&self, signal: Signal) {
        if self.ended.is_none() {
            // It is a child that nobody has waited for, so the number is its own.
            let _ = kill(self.control, signal);
        }
    }

    /// Whether control has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Returns the next thing that control asks, with its descriptors; `None` if there is nothing.
    /// One that is no question ends control.
    pub fn asked<Q: DeserializeOwned>(&mut self) -> Option<(Q, Vec<OwnedFd>)> {
        let received = match ipc::receive(&self.socket) {
            Ok((bytes, _)) if bytes.is_empty() => return None,
            Ok((bytes, fds)) => ipc::decode(&bytes).map(|question| (question, fds)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // It has ended and left unread what it was told.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => Err(error),
        };
        match received {
            Ok(question) => Some(question),
            Err(error) => {
                tracing::error!(%error, "the control process asks what is no question");
                self.signal_control(Signal::SIGKILL);
                None
            }
        }
    }

    /// Says something to control, which may have ended.
    pub fn tell(&self, answer: &impl Serialize, fds: &[BorrowedFd<'_>]) {
        let sent = ipc::encode(answer).and_then(|bytes| ipc::send(&self.socket, &bytes, fds));
        if let Err(error) = sent
            && error.kind() == io::ErrorKind::WouldBlock
        {
            // It does not read what it asked for; one that has closed its end is about to end.
            tracing::error!(%error, "the control process cannot be answered");
            self.signal_control(Signal::SIGKILL);
        }
    }

    /// Remembers what to remove in the end.
    pub fn set_leftovers(&mut self, leftovers: Leftovers) {
        self.leftovers = leftovers;
    }

    /// Lets stay what was to be removed unless the program got this far.
    pub fn keep(&mut self) {
        self.leftovers.unless_kept.clear();
    }

    /// Removes in the end what is of no use any more.
    pub fn forget(&mut self) {
        let mut forgotten = std::mem::take(&mut self.leftovers.if_forgotten);
        self.leftovers.always.append(&mut forgotten);
    }

    /// Starts the data plane on the lease's socket, as `user`; returns control's end of its socket.
    ///
    /// The process has `held` open as long as it lives, without knowing of it.
    ///
    /// # Errors
    /// The system's.
    pub fn start_data_plane(
        &mut self,
        udp: &OwnedFd,
        user: (u32, u32),
        held: Option<BorrowedFd<'_>>,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = ipc::pair()?;
        let fds = [theirs.as_fd(), udp.as_fd()];
        self.data_plane = Some(start_role_with(DATA_PLANE_NAME, ROLE, &fds, user, held)?);
        Ok(ours)
    }

    /// Returns how the data plane ended, once, if it has.
    pub fn data_plane_ended(&mut self) -> Option<ExitStatus> {
        let status = self.data_plane.as_mut()?.try_wait().ok().flatten()?;
        self.data_plane = None;
        Some(status)
    }

    /// Stops the data plane at once, as long as the rules that guard it are not in place.
    pub fn pause_data_plane(&self) {
        self.signal_data_plane(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume_data_plane(&self) {
        self.signal_data_plane(Signal::SIGCONT);
    }

    fn signal_data_plane(&self, signal: Signal) {
        let pid = self.data_plane.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid {
            // It is a child that nobody has waited for, so the number is its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Ends control, for a reason that it cannot know of itself.
    pub fn end_control(&self) {
        self.signal_control(Signal::SIGTERM);
    }

    /// Ends all that still runs, removes what is to be removed and says how the program ends.
    pub fn finish(mut self) -> Exit {
        let mut left = CONTROL_END_AFTER_MAX;
        let step = Duration::from_millis(50);
        while !self.is_over() && left > Duration::ZERO && self.wait(&[], step).is_ok() {
            left = left.saturating_sub(step);
        }
        self.signal_control(Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = waitpid(self.control, None).ok();
        }
        if let Some(mut child) = self.data_plane.take() {
            // Nothing of it is worth waiting for.
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in self.leftovers.always.iter().chain(&self.leftovers.unless_kept) {
            // Gone already, or in a folder that is: nothing is left behind either way.
            let _ = fs::remove_file(path);
        }
        match self.ended {
            Some(WaitStatus::Exited(_, code)) => {
                let known = Exit::ALL.into_iter().find(|exit| *exit as i32 == code);
                known.unwrap_or(Exit::Failed)
            }
            Some(WaitStatus::Signaled(_, signal, _)) => {
                if !self.told {
                    tracing::error!("the control process was ended by {signal}");
                }
                Exit::Failed
            }
            _ => Exit::Failed,
        }
    }
}
