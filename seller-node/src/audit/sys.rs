//! System calls by number, to see whether they are refused.
#![expect(unsafe_code, reason = "a call by number is the point")]

/// Makes a system call with arguments that mean nothing; returns if it was let through.
pub(super) fn call(number: libc::c_long) {
    // SAFETY: all pointers are null and all descriptors are none, so that whichever call it is
    // fails before it touches memory.
    unsafe { libc::syscall(number, -1_i64, 0_i64, 0_i64, 0_i64, 0_i64, 0_i64) };
}
