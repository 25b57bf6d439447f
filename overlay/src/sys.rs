//! System calls that no library wraps.
#![expect(
    unsafe_code,
    reason = "sockets' options, passed descriptors and prctl have no safe wrapper"
)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Sets the socket's buffers beyond the system's limits; needs CAP_NET_ADMIN.
pub(crate) fn force_buffers(socket: &UdpSocket, receive: usize, send: usize) -> io::Result<()> {
    for (option, len) in [(libc::SO_RCVBUFFORCE, receive), (libc::SO_SNDBUFFORCE, send)] {
        let value = libc::c_int::try_from(len).map_err(io::Error::other)?;
        let value_len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer is to a live c_int, the length is its size, the descriptor is open.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                value_len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Returns the socket's count of datagrams that it had no room for (`SK_MEMINFO_DROPS`).
pub(crate) fn lost(socket: &UdpSocket) -> io::Result<u32> {
    /// Values of `SO_MEMINFO`, of which the one at `DROPS` is wanted (linux/sock_diag.h).
    const VALUES: usize = 9;
    const DROPS: usize = 8;
    let mut values = [0_u32; VALUES];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the array's size, and the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(values[DROPS]) }
}

/// Takes ownership of a descriptor that a control message has just brought.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us in recvmsg, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes ownership of a descriptor that this process was started with, and whose number it was
/// told; `None` if there is none. To be asked for each number once.
pub(crate) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: the number is only asked about, whether it is open or not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is open, and nothing in this process has opened or taken it before.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes all descriptors but the first three and one more.
///
/// Right after a fork: whoever owned them belongs to the other process.
pub(crate) fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let first = libc::c_uint::try_from(libc::STDERR_FILENO + 1).map_err(io::Error::other)?;
    let kept = libc::c_uint::try_from(kept.as_raw_fd()).map_err(io::Error::other)?;
    for (from, to) in [(first, kept.saturating_sub(1)), (kept + 1, libc::c_uint::MAX)] {
        if from > to {
            continue;
        }
        // SAFETY: no memory is touched; the caller says that nobody uses these descriptors here.
        let done = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        Errno::result(done)?;
    }
    Ok(())
}

/// Forbids core files and looks into this process's memory by others of its user.
pub(crate) fn hide_memory() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}
