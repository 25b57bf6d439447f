//! The system calls of this crate that no safe wrapper covers: signals and packet sockets.
#![expect(unsafe_code, reason = "sigaction and sockaddr_ll have no safe wrapper in nix")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Exit status after a signal, as shells have it for Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

/// Write end of the pipe that carries signals from the handler to the thread.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    let fd = SIGNAL_PIPE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe; the byte outlives the call, the pipe is never closed.
    unsafe { libc::write(fd, [1_u8].as_ptr().cast(), 1) };
}

/// Makes SIGINT, SIGTERM and SIGHUP clean up all labs of this process and then exit with 130.
///
/// # Errors
/// The system's, when there is no descriptor or thread left.
pub fn exit_on_signals() -> io::Result<()> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    SIGNAL_PIPE.store(write.as_raw_fd(), Ordering::Relaxed);
    std::mem::forget(write);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut byte = [0];
        while nix::unistd::read(&read, &mut byte) == Err(nix::errno::Errno::EINTR) {}
        INTERRUPTED.store(true, Ordering::Release);
        crate::lab::reap_all();
        exit(EXIT_INTERRUPTED);
    })?;
    let action =
        SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to a pipe, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Waits for the end if a signal came: what fails meanwhile is the signal's doing, no verdict.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Opens a packet socket in the calling thread's network namespace: of one interface by index, or
/// of all that are and will be there when `ifindex` is 0. Reads time out after `read_timeout`.
pub(crate) fn packet_socket(
    ifindex: i32,
    rcvbuf_len: libc::c_int,
    read_timeout: std::time::Duration,
) -> io::Result<OwnedFd> {
    const PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers are passed.
    let fd = check(unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, PROTOCOL.into())
    })?;
    // SAFETY: the descriptor was just returned to us and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let timeout = libc::timeval {
        tv_sec: read_timeout.as_secs().cast_signed(),
        tv_usec: read_timeout.subsec_micros().into(),
    };
    set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &rcvbuf_len)?;
    set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: PROTOCOL,
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll and outlives the call.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(fd)
}

/// Makes each message of a packet socket begin with a virtio-net header.
pub(crate) fn enable_vnet_header(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)
}

/// Returns how many frames the kernel dropped on this packet socket since it was last asked.
pub(crate) fn packet_drops(fd: &OwnedFd) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `stats` has room for `len` bytes, and both outlive the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    })?;
    Ok(stats.tp_drops)
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is `size_of::<T>()` bytes long and outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes a copy of another process's descriptor, as root may.
///
/// # Errors
/// The system's.
pub fn steal_fd(pid: u32, fd: RawFd) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the call takes numbers and returns a descriptor that is nobody else's.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(returned).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for the caller, who has it nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
