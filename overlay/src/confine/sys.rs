//! The system calls by which a process gives things up.
#![expect(
    unsafe_code,
    reason = "code between fork and exec, and capabilities, have no safe wrapper"
)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchdir, getppid, setgroups, setresgid, setresuid};

/// First descriptor that is not standard input, output or error.
const FIRST_OTHER_FD: libc::c_uint = 3;

/// Numbers of capabilities end before this one.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// The capability to listen at ports below 1024 (linux/capability.h).
const CAP_NET_BIND_SERVICE: u32 = 10;

/// The form of capability sets with 64 bits (linux/capability.h).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// How many descriptors control may have if the system lets it: a gateway's 1024 connections, local
/// commands, and room. Shells give 1024.
const CONTROL_DESCRIPTORS: u64 = 8192;

/// What a program that is started is left with.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// Its user and primary group; not root.
    pub user: (u32, u32),
    /// One more group, for `/dev/kvm`.
    pub group: Option<u32>,
    /// Its working directory; `/` if none.
    pub dir: Option<RawFd>,
    /// The descriptors that it gets beside the first three, under the same numbers.
    pub keep: Vec<RawFd>,
    /// The largest file that it may write, in bytes; more is an I/O error to it.
    pub file_size_max: u64,
    /// The most memory that it may write to, in bytes, stacks aside.
    pub data_max: Option<u64>,
    /// How many descriptors it may have.
    pub descriptors_max: Option<u64>,
}

/// Lets a command run confined: no network, no rights, no descriptors but those named; killed when
/// the *thread* that starts it ends.
///
/// The descriptors are to be open when it is started.
pub fn confine(command: &mut Command, confinement: Confinement) {
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
    if let Some(max) = confinement.data_max {
        setrlimit(Resource::RLIMIT_DATA, max, max)?;
    }
    if let Some(max) = confinement.descriptors_max {
        setrlimit(Resource::RLIMIT_NOFILE, max, max)?;
    }
    // SAFETY: no handler of ours is installed, the signal is only ignored.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    drop_bounding_set(None)?;
    let (uid, gid) = (Uid::from_raw(confinement.user.0), Gid::from_raw(confinement.user.1));
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_no_new_privs()?;
    die_with(parent)?;
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

/// Has this process killed when its parent ends. After the change of user, which would undo it.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Whoever died before is not noticed by it.
    if getppid() != parent { Err(Errno::ESRCH.into()) } else { Ok(()) }
}

/// Empties the set of capabilities that this process or its children could ever have.
fn drop_bounding_set(keep: Option<u32>) -> io::Result<()> {
    let keep = keep.map(libc::c_ulong::from);
    for capability in (0..CAPABILITIES_MAX).filter(|one| Some(*one) != keep) {
        // SAFETY: the call takes numbers and touches no memory.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(done) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break, // the kernel knows no more of them
            // Whoever may not empty it has one that was emptied for him, as a service manager does;
            // without a way to more rights it means nothing.
            Err(Errno::EPERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// How a process leaves root.
#[derive(Clone, Copy, Debug)]
pub struct Leave {
    /// Its user and primary group from then on, and no others; not root.
    pub user: (u32, u32),
    /// Its parent, with whom it dies.
    pub parent: Pid,
    /// Whether it may still listen at ports below 1024.
    pub low_ports: bool,
}

/// Leaves root for good. To be called by a process with one thread.
///
/// # Errors
/// The system's; the process must end then.
pub fn leave_root(leave: Leave) -> io::Result<()> {
    let Leave { user: (uid, gid), parent, low_ports } = leave;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(CONTROL_DESCRIPTORS)), hard)?;
    drop_bounding_set(low_ports.then_some(CAP_NET_BIND_SERVICE))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    if low_ports {
        prctl::set_keepcaps(true)?;
    }
    setresuid(uid, uid, uid)?;
    if low_ports {
        keep_low_ports()?;
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    die_with(parent)
}

/// Makes this process two: returns the other one's number here, and nothing there.
///
/// # Errors
/// When this process has several threads, of which the other one would have the locks but not the
/// threads; otherwise the system's.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a program with several threads cannot be split"));
    }
    // SAFETY: there is no other thread that could hold a lock which the child then waits for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Gives up all capabilities but one.
fn keep_low_ports() -> io::Result<()> {
    let bit = 1_u32 << CAP_NET_BIND_SERVICE;
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted, inheritable: low halves, then high ones.
    let sets = [bit, bit, 0, 0, 0, 0];
    // SAFETY: the call reads a header of 8 and sets of 24 bytes, which live until it returns.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    Errno::result(done)?;
    Ok(())
}
