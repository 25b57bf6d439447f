//! One packet counted is one packet sent: unproven addresses get no segments.
//!
//! # Theory of operation
//! With `UDP_SEGMENT` a socket hands the kernel one buffer that the network card sends as up to
//! 128 packets. The packet filter sees and counts one, and has no way to see more. A program of the
//! kernel's virtual machine does: linked to the control group in which the sockets are opened, it
//! drops what bears the mark [`ASKING`] and has more than one segment. The link lives as long as
//! its descriptor.
//!
//! # Limits
//! Sockets of other control groups: the helper stays in the one it joined in. Needs the version 2
//! hierarchy to be mounted, and Linux 5.7.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::ASKING;
use super::sys::{self, Instruction};

/// Offset of `mark` in `struct __sk_buff`, in bytes.
const MARK_AT: i16 = 8;
/// Offset of `gso_segs` in it.
const SEGMENTS_AT: i16 = 164;

/// Load four bytes from the context, BPF_LDX | BPF_MEM | BPF_W.
const LOAD: u8 = 0x61;
/// Set to a constant, BPF_ALU64 | BPF_MOV | BPF_K.
const SET: u8 = 0xb7;
/// Jump if the lower 32 bits are not a constant, BPF_JMP32 | BPF_JNE | BPF_K.
const JUMP_UNLESS: u8 = 0x56;
/// Jump if they are not above a constant, BPF_JMP32 | BPF_JLE | BPF_K.
const JUMP_UP_TO: u8 = 0xb6;
const EXIT: u8 = 0x95;
/// The register of the result, and of one value; that of the context in the upper half of a byte.
const RESULT: u8 = 0;
const VALUE: u8 = 2;
const CONTEXT: u8 = 1 << 4;

const fn step(code: u8, registers: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction { code, registers, offset, immediate: immediate.cast_signed() }
}

/// Returns 1, let it out, unless it asks in several segments: 0.
const PROGRAM: [Instruction; 7] = [
    step(SET, RESULT, 0, 1),
    step(LOAD, VALUE | CONTEXT, MARK_AT, 0),
    step(JUMP_UNLESS, VALUE, 3, ASKING),
    step(LOAD, VALUE | CONTEXT, SEGMENTS_AT, 0),
    step(JUMP_UP_TO, VALUE, 1, 1),
    step(SET, RESULT, 0, 0),
    step(EXIT, 0, 0, 0),
];

/// The program at work; ends with the value.
#[derive(Debug)]
pub(super) struct Segments {
    _link: OwnedFd,
}

impl Segments {
    /// Starts for what is opened in the caller's control group from now on and was before.
    pub(super) fn refuse() -> io::Result<Self> {
        let group = File::open(own_group()?)?;
        let program = sys::load(*b"ovl_guard\0\0\0\0\0\0\0", &PROGRAM)?;
        Ok(Self { _link: sys::link(&program, group.as_fd())? })
    }
}

fn own_group() -> io::Result<PathBuf> {
    let none = || io::Error::other("the version 2 hierarchy of control groups is not mounted");
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).ok_or_else(none)?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then_some(path)
    });
    Ok(Path::new(mount.ok_or_else(none)?).join(group))
}
