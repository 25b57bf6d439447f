//! bpf(2): loads a program and links it to a control group.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of the kernel's virtual machine.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    /// What is done.
    pub(super) code: u8,
    /// Destination in the lower four bits, source in the upper.
    pub(super) registers: u8,
    /// Of a load or a jump.
    pub(super) offset: i16,
    /// The constant.
    pub(super) immediate: i32,
}

const PROG_LOAD: c_long = 5;
const LINK_CREATE: c_long = 28;
const TYPE_CGROUP_SKB: u32 = 8;
const ATTACH_INET_EGRESS: u32 = 1;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Calls bpf(2) with one of the two structures above.
fn bpf<T>(command: c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the pointer and the length are those of a live structure of plain numbers, which the
    // command reads; the pointers in it are to arrays that outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a program that looks at what leaves the sockets of a control group.
pub(super) fn load(name: [u8; 16], program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    bpf(
        PROG_LOAD,
        &ProgLoad {
            prog_type: TYPE_CGROUP_SKB,
            instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kernel_version: 0,
            flags: 0,
            name,
            ifindex: 0,
            expected_attach_type: ATTACH_INET_EGRESS,
        },
    )
}

/// Runs a program for a control group for as long as the returned descriptor is open.
pub(super) fn link(program: &OwnedFd, group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    bpf(
        LINK_CREATE,
        &LinkCreate {
            prog_fd: number(program.as_raw_fd())?,
            target_fd: number(group.as_raw_fd())?,
            attach_type: ATTACH_INET_EGRESS,
            flags: 0,
        },
    )
}
