//! The system calls that a data plane may make; any other ends it.
//!
//! # Theory of operation
//! An allow-list, applied to all threads at once, after which nothing can be opened, connected,
//! started or looked up: what the process holds is what it gets. Memory may be mapped and changed,
//! but never made executable. What is not listed kills the whole process (SIGSYS), so that a
//! probing intruder has one try and the host's log a line.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Calls that are allowed with any arguments, and what they are for.
const ALLOWED: [libc::c_long; 35] = [
    // cables, events, messages, the log
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    // waiting
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    // time and randomness
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // memory; making it executable is looked at below
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // the ends of threads and of the process
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    // signals: a panic that aborts, a stop that goes on
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_getaffinity,
];

/// Calls that are allowed as long as they make nothing executable: their third argument says so.
const ALLOWED_UNLESS_EXECUTABLE: [libc::c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// Gives up all other system calls, on all threads of this process, for good.
///
/// # Errors
/// When the kernel has no seccomp, or a thread has a filter of its own.
pub fn enter() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let exec = libc::PROT_EXEC as u64;
    for call in ALLOWED_UNLESS_EXECUTABLE {
        let none = SeccompCmpOp::MaskedEq(exec);
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, none, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    // What a socket had no room for, and nothing else of its options.
    let meminfo = libc::SO_MEMINFO as u64;
    let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, meminfo)?;
    rules.insert(libc::SYS_getsockopt, vec![SeccompRule::new(vec![condition])?]);
    // SIGABRT to oneself, as `abort` sends it.
    let abort = libc::SIGABRT as u64;
    let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, abort)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![condition])?]);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_that_opens_connects_or_starts_is_on_the_list() {
        let allowed: BTreeSet<_> = ALLOWED.into_iter().chain(ALLOWED_UNLESS_EXECUTABLE).collect();
        assert_eq!(allowed.len(), ALLOWED.len() + ALLOWED_UNLESS_EXECUTABLE.len());
        for call in [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_sendto,
            libc::SYS_setsockopt,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ioctl,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_kill,
            libc::SYS_prctl,
        ] {
            assert!(!allowed.contains(&call), "system call {call} is allowed");
        }
        assert!(program().is_ok());
    }
}
