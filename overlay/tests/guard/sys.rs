//! Socket options that no library wraps.
#![expect(unsafe_code, reason = "setsockopt of any option has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an option to bytes.
pub(crate) fn set_option(
    socket: &impl AsFd,
    level: i32,
    option: i32,
    value: &[u8],
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length are those of a live slice, which the call reads.
    let result = unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
