//! System calls that no library wraps.
#![expect(unsafe_code, reason = "SO_RCVBUFFORCE, SO_MEMINFO and SCM_RIGHTS have no safe wrapper")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
