//! What a machine's process gives up between fork and exec.
#![expect(unsafe_code, reason = "code between fork and exec is the caller's promise")]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, fchdir, getppid, setgroups, setresgid, setresuid};

/// First descriptor that is not standard input, output or error.
const FIRST_OTHER_FD: libc::c_uint = 3;

/// What a process is left with.
#[derive(Clone, Debug)]
pub(super) struct Confinement {
    /// Its user and its only primary group; not root.
    pub(super) id: u32,
    /// One more group, for `/dev/kvm`.
    pub(super) group: Option<u32>,
    /// Its working directory; `/` if none.
    pub(super) dir: Option<RawFd>,
    /// The descriptors that it gets beside the first three, under the same numbers.
    pub(super) keep: Vec<RawFd>,
    /// The largest file that it may write, in bytes; more is an I/O error to it.
    pub(super) file_size_max: u64,
}

/// Lets a command run confined: no network, no rights, no descriptors but those named; killed when
/// the *thread* that starts it ends.
///
/// The descriptors are to be open when it is started.
pub(super) fn confine(command: &mut Command, confinement: Confinement) {
    let parent = Pid::this();
    let groups: Vec<Gid> = confinement.group.map(Gid::from_raw).into_iter().collect();
    let inside = move || enter(&confinement, &groups, parent);
    // SAFETY: `enter` makes system calls alone; it takes no lock and no memory.
    unsafe { command.pre_exec(inside) };
}

fn enter(confinement: &Confinement, groups: &[Gid], parent: Pid) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    match confinement.dir {
        // SAFETY: the caller holds the descriptor open, as `confine` says.
        Some(dir) => fchdir(unsafe { BorrowedFd::borrow_raw(dir) })?,
        None => nix::unistd::chdir(c"/")?,
    }
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let size = confinement.file_size_max;
    setrlimit(Resource::RLIMIT_FSIZE, size, size)?;
    // SAFETY: no handler of ours is installed, the signal is only ignored.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    let (uid, gid) = (Uid::from_raw(confinement.id), Gid::from_raw(confinement.id));
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_no_new_privs()?;
    // After the change of user, which would undo it; whoever died before is not noticed by it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH.into());
    }
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call changes flags of this process's own descriptors, no memory.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER_FD, libc::c_uint::MAX, flags) };
    Errno::result(done)?;
    for fd in &confinement.keep {
        // SAFETY: the caller holds the descriptor open, as `confine` says.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}
