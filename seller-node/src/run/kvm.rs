//! Whether a guest really runs with KVM on this host.
//!
//! `/dev/kvm` may be there and open, and guests still not get far: inside of other virtual machines
//! some hosts never come out of the change to 64 bit. So a guest of [`FIRMWARE_LEN`] bytes is run
//! that goes that way, counts for a while and switches itself off.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use overlay::confine::{Confinement, confine};

const DEVICE: &str = "/dev/kvm";
/// Length of the firmware, in bytes.
const FIRMWARE_LEN: usize = 64 << 10;
/// Where a processor starts, from the firmware's beginning, in bytes.
const RESET_AT: usize = 0xfff0;
/// What QEMU ends with when the guest writes 0x10 to its exit device.
const SWITCHED_OFF: i32 = 0x10 << 1 | 1;
/// How often the guest is looked at, and how many times.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 100;

/// `jmp 0xf000:0`
const RESET: [u8; 5] = [0xea, 0, 0, 0, 0xf0];
/// Clears 12 kB from 0x1000 on for page tables that map 2 MiB to itself, goes to 64 bit, counts to
/// 2^20, writes 0x10 to port 0x501, halts.
#[rustfmt::skip]
const PROGRAM: [u8; 142] = [
    0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // cli; cld; ax = ds = es = 0
    0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xf3, 0xab, // di = 0x1000; cx = 0x1800; rep stosw
    0x66, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0x00, 0x00, // [0x1000] = 0x2003
    0x66, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0x00, 0x00, // [0x2000] = 0x3003
    0x66, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x00, 0x00, // [0x3000] = 0x83
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, // cr3 = 0x1000
    0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, // cr4 = PAE
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, // ecx = EFER; rdmsr
    0x0d, 0x00, 0x01, 0x0f, 0x30, // ax |= LME; wrmsr
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x88, 0x00, // lgdt cs:0x88
    0x66, 0xb8, 0x11, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, // cr0 = PG, ET, PE
    0x66, 0xea, 0x62, 0x00, 0x0f, 0x00, 0x08, 0x00, // jmp 8:0xf0062
    0xb9, 0x00, 0x00, 0x10, 0x00, 0xff, 0xc9, 0x75, 0xfc, // ecx = 1 << 20; dec; jnz
    0x66, 0xba, 0x01, 0x05, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd, // out 0x501, 0x10; hlt
    0x0f, 0x1f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // filling, gdt[0]
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00, // gdt[1]: 64-bit code
    0x0f, 0x00, 0x78, 0x00, 0x0f, 0x00, // gdt: 16 bytes at 0xf0078
];

/// Returns the group whose members may use KVM.
pub(super) fn group() -> Option<u32> {
    fs::metadata(DEVICE).ok().map(|meta| meta.gid()).filter(|gid| *gid != 0)
}

/// Tries a guest with KVM as the user `id`.
///
/// # Errors
/// The reason, in a few words, why guests are emulated.
pub(super) fn probe(program: &Path, id: u32) -> Result<(), String> {
    let name = program.file_name().unwrap_or_default();
    if name != "qemu-system-x86_64" || !cfg!(target_arch = "x86_64") {
        return Err("it is another architecture".to_owned());
    }
    if !Path::new(DEVICE).exists() {
        return Err(format!("there is no {DEVICE}"));
    }
    run(program, "kvm", id)
}

/// Runs the guest with an accelerator.
fn run(program: &Path, accel: &str, id: u32) -> Result<(), String> {
    let firmware = firmware().map_err(|error| error.to_string())?;
    let fd = firmware.as_raw_fd();
    let mut command = Command::new(program);
    command.args([
        "-accel",
        accel,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-m",
        "16",
    ]);
    command.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0x501,iosize=2"]);
    command.arg("-bios").arg(format!("/dev/fd/{fd}")).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let confinement = Confinement {
        user: (id, id),
        group: group(),
        dir: None,
        keep: vec![fd],
        file_size_max: 0,
        data_max: None,
        descriptors_max: None,
    };
    confine(&mut command, confinement);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    for _ in 0..LOOKS_MAX {
        match child.try_wait() {
            Ok(None) => thread::sleep(LOOK_INTERVAL),
            Ok(Some(status)) if status.code() == Some(SWITCHED_OFF) => return Ok(()),
            Ok(Some(_)) => return Err(format!("QEMU does not start with {DEVICE}")),
            Err(error) => return Err(error.to_string()),
        }
    }
    // It cannot have ended by itself without being noticed above.
    let _ = child.kill();
    let _ = child.wait();
    Err("a guest does not get to 64 bit with it".to_owned())
}

fn firmware() -> anyhow::Result<File> {
    let mut bytes = vec![0; FIRMWARE_LEN];
    bytes[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    bytes[RESET_AT..RESET_AT + RESET.len()].copy_from_slice(&RESET);
    let mut file = File::from(memfd_create(c"ovl", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&bytes)?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest switches itself off where guests certainly run: by emulation.
    #[test]
    fn the_guest_of_the_probe_gets_to_64_bit() {
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        if !nix::unistd::geteuid().is_root() || !qemu.exists() {
            return;
        }
        assert_eq!(run(qemu, "tcg", 65534), Ok(()));
        assert!(run(qemu, "no-such", 65534).is_err());
    }
}
