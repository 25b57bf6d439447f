//! The small guest's whole system: an initramfs of a few megabytes, made in Rust.
//!
//! busybox does what it can; dropbear, iperf3 and dhclient (busybox here has no DHCPv6) are copied
//! from this machine with their libraries. It is made once and kept in the cache under a name that
//! changes with anything that goes into it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::{cache_dir, keys, unpacked_dir};
use crate::lab::must;

/// What the guest's kernel loads, before what these rest on.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "virtio_rng"];
/// Programs beside busybox.
const PROGRAMS: [&str; 3] = ["dropbear", "iperf3", "dhclient"];
/// Where programs are looked for.
const PLACES: [&str; 6] = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"];

/// Returns the file of the initramfs for this kernel, made now if it is not in the cache.
///
/// # Errors
/// When a program is not installed, or a file cannot be read or written.
pub fn initramfs(kernel: &Kernel) -> Result<PathBuf> {
    let bytes = build(kernel)?;
    let name = format!("initramfs-{}.cpio", &blake3::hash(&bytes).to_hex()[..16]);
    let path = cache_dir()?.join(name);
    if !path.is_file() {
        // Others may be making the same one: each writes its own, the last rename wins.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, &bytes).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}

fn build(kernel: &Kernel) -> Result<Vec<u8>> {
    let keys = keys()?;
    let mut root = Archive::default();
    for dir in ["bin", "dev", "etc", "lib", "lib64", "lib/modules", "proc", "sys", "tmp", "root"] {
        root.directory(dir, 0o755);
    }
    root.directory("root/.ssh", 0o700);
    root.file("root/.ssh/authorized_keys", 0o600, &fs::read(keys.with_extension("pub"))?);
    root.file("etc/dropbear_host_key", 0o600, &fs::read(keys.with_file_name("host_key"))?);
    root.file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n");
    root.file("etc/group", 0o644, b"root:x:0:\n");
    root.file("etc/shells", 0o644, b"/bin/sh\n");
    root.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
    root.file("init", 0o755, include_bytes!("guest/init.sh"));
    root.file("etc/udhcpc", 0o755, include_bytes!("guest/udhcpc.sh"));
    root.file("etc/dhclient6", 0o755, include_bytes!("guest/dhclient6.sh"));

    let mut names = String::new();
    for module in kernel.modules(&MODULES)? {
        let name = file_name(&module)?;
        root.file(&format!("lib/modules/{name}"), 0o644, &fs::read(&module)?);
        names += &format!("{name}\n");
    }
    root.file("modules", 0o644, names.as_bytes());

    let busybox = find("busybox")?;
    ensure!(libraries(&busybox)?.is_empty(), "busybox is not static: install busybox-static");
    root.file("bin/busybox", 0o755, &fs::read(busybox)?);
    root.link("bin/sh", "busybox");
    let mut all = BTreeSet::new();
    for program in PROGRAMS {
        let path = find(program)?;
        all.extend(libraries(&path)?);
        root.file(&format!("bin/{program}"), 0o755, &fs::read(path)?);
    }
    put(&mut root, &all)?;
    Ok(root.finish())
}

/// Returns an initramfs with one more program in its `bin`, without its debugging symbols, and the
/// libraries that it needs: the kernel unpacks one archive after the other.
///
/// # Errors
/// When a file cannot be read, or strip(1) is not installed.
pub fn with_program(initramfs: &Path, program: &Path) -> Result<Vec<u8>> {
    let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
    must(Command::new("strip").arg("-o").args([stripped.as_ref(), program]))?;
    let mut more = Archive::default();
    more.file(&format!("bin/{}", file_name(program)?), 0o755, &fs::read(&stripped)?);
    put(&mut more, &libraries(program)?.into_iter().collect())?;
    Ok([fs::read(initramfs)?, more.finish()].concat())
}

/// Adds libraries. The loader has a fixed place; it looks for the others in /lib.
fn put(root: &mut Archive, libraries: &BTreeSet<PathBuf>) -> Result<()> {
    for library in libraries {
        let place = if library.starts_with("/lib64") { "lib64" } else { "lib" };
        root.file(&format!("{place}/{}", file_name(library)?), 0o755, &fs::read(library)?);
    }
    Ok(())
}

/// Finds a program: one that deploy/preflight.sh has unpacked, or one of this machine.
///
/// # Errors
/// When there is neither.
pub fn find(program: &str) -> Result<PathBuf> {
    for root in [unpacked_dir()?, PathBuf::from("/")] {
        let mut paths = PLACES.iter().map(|dir| root.join(dir).join(program));
        if let Some(path) = paths.find(|path| path.is_file()) {
            return Ok(path);
        }
    }
    bail!("{program} is not installed: run deploy/preflight.sh")
}

/// Asks ldd(1) which libraries a program needs; none if it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Makes the key that opens guests' ssh, and theirs, in a directory that only the user reads.
pub(super) fn make_keys(dir: &Path) -> Result<()> {
    let quiet = ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"];
    must(Command::new("ssh-keygen").args(quiet).arg(dir.join("key")))?;
    let host = dir.join("host_key");
    must(Command::new(find("dropbearkey")?).args(["-t", "ed25519", "-f"]).arg(host)).map(drop)
}
