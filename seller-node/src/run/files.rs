//! The files of a machine: opened, looked at and locked by this program, which QEMU cannot.
//!
//! # Theory of operation
//! QEMU runs as a user who may read none of them. A disk is handed to it as descriptors, one for
//! reading and, if it is written, one for writing; a file that it starts with (kernel, firmware)
//! as a sealed copy in memory, since QEMU opens those by name. Disks are locked with QEMU's own
//! record locks, from here until the machine ends, so that no other QEMU uses them meanwhile.
//!
//! A line is often pasted, so each file must look like what it is said to be: a guest is to get no
//! key or password file as its disk. Only formats that name no other file are read.
//!
//! # Limits
//! A file that happens to look like a disk (any 512 bytes do) is taken for one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use overlay::exit::{Exit, Fault};

use super::vet::{Access, FileKind, FileWanted, Format};

/// Largest file that is copied into memory, in bytes.
const COPY_LEN_MAX: u64 = 512 << 20;
/// How much of a file is looked at, in bytes.
const HEAD_LEN: usize = 1024;
/// What a disk's length is a multiple of, in bytes.
const SECTOR_LEN: u64 = 512;
/// What firmware's length is a multiple of, in bytes.
const FIRMWARE_STEP: u64 = 4096;
/// Most that a qcow2 file has beside its contents, in bytes, and as a part of them.
const QCOW2_EXTRA: (u64, u64) = (64 << 20, 32);

/// QEMU's lock bytes (block/file-posix.c): who holds a right, and who denies it to others.
const HOLDS_READ: i64 = 100;
const HOLDS_WRITE: i64 = 101;
const DENIES_WRITE: i64 = 201;

/// An open file of a machine.
#[derive(Debug)]
pub(super) struct Opened {
    fds: Vec<OwnedFd>,
    is_disk: bool,
    /// The largest size, in bytes, that it may get by being written; 0 if it is not.
    pub(super) grows_to: u64,
    /// Whether what is written is thrown away.
    pub(super) is_snapshot: bool,
}

impl Opened {
    /// Opens a file.
    ///
    /// # Errors
    /// One sentence that names it.
    pub(super) fn open(wanted: &FileWanted) -> anyhow::Result<Self> {
        let path = &wanted.path;
        let reader = regular(path, false)?;
        let mut head = vec![0; HEAD_LEN];
        let len = reader.metadata()?.len();
        let read = read_head(&reader, &mut head)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        head.truncate(read);
        looks_like(wanted.kind, &head, len).map_err(|why| fault(path, &why))?;
        let FileKind::Disk(format, access) = wanted.kind else {
            let copy = copy(&reader)
                .with_context(|| format!("{} cannot be copied to memory", path.display()))?;
            let (grows_to, is_snapshot) = (0, false);
            return Ok(Self { fds: vec![copy], is_disk: false, grows_to, is_snapshot });
        };
        let is_snapshot = access == Access::Snapshot;
        if access != Access::Write {
            lock(&reader, &[HOLDS_READ, DENIES_WRITE], &[HOLDS_WRITE])
                .map_err(|e| locked(path, e))?;
            return Ok(Self { fds: vec![reader.into()], is_disk: true, grows_to: 0, is_snapshot });
        }
        let writer = regular(path, true)?;
        let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        if id(&reader)? != id(&writer)? {
            return Err(fault(path, "it is being replaced by another file"));
        }
        let held = [HOLDS_READ, HOLDS_WRITE, DENIES_WRITE];
        lock(&writer, &held, &[HOLDS_WRITE, DENIES_WRITE]).map_err(|e| locked(path, e))?;
        let grows_to = match format {
            Format::Raw => len,
            Format::Qcow2 => {
                let disk = be64(&head, 24);
                let extra = QCOW2_EXTRA.0.saturating_add(disk / QCOW2_EXTRA.1);
                disk.saturating_add(extra).max(len)
            }
        };
        Ok(Self { fds: vec![writer.into(), reader.into()], is_disk: true, grows_to, is_snapshot })
    }

    /// Returns the name under which QEMU opens it; `number` is that of the file on the line.
    pub(super) fn place(&self, number: usize) -> String {
        match self.fds.first() {
            Some(fd) if !self.is_disk => format!("/dev/fd/{}", fd.as_raw_fd()),
            _ => format!("/dev/fdset/{}", number + 1),
        }
    }

    /// Returns the words that hand it to QEMU.
    pub(super) fn words(&self, number: usize) -> Vec<String> {
        if !self.is_disk {
            return Vec::new();
        }
        let word = |fd: &OwnedFd| {
            ["-add-fd".to_owned(), format!("fd={},set={}", fd.as_raw_fd(), number + 1)]
        };
        self.fds.iter().flat_map(word).collect()
    }

    /// Returns the descriptors that QEMU is to inherit.
    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.fds.iter().map(AsRawFd::as_raw_fd)
    }
}

fn fault(path: &Path, why: &str) -> anyhow::Error {
    Fault::new(Exit::Failed, format!("{} cannot be used: {why}", path.display())).into()
}

fn locked(path: &Path, error: LockError) -> anyhow::Error {
    match error {
        LockError::Held => fault(path, "another virtual machine or qemu-img has it open"),
        LockError::System(errno) => fault(path, &format!("it cannot be locked ({errno})")),
    }
}

/// Opens a file that is nothing else than a file; a pipe or a device does not hold us up.
fn regular(path: &Path, write: bool) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(fault(path, "there is no such file"));
        }
        file => file.with_context(|| format!("{} cannot be opened", path.display()))?,
    };
    if !file.metadata()?.is_file() {
        return Err(fault(path, "it is no regular file"));
    }
    Ok(file)
}

fn read_head(file: &File, head: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    loop {
        match file.read_at(&mut head[len..], len as u64)? {
            0 => return Ok(len),
            more => len += more,
        }
    }
}

/// Copies a file into memory that everybody may read and nobody may change.
fn copy(file: &File) -> anyhow::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut memory = File::from(memfd_create(c"ovl", flags)?);
    let copied = io::copy(&mut file.take(COPY_LEN_MAX + 1), &mut memory)?;
    if copied > COPY_LEN_MAX {
        anyhow::bail!("it is larger than {} MiB", COPY_LEN_MAX >> 20);
    }
    memory.set_permissions(Permissions::from_mode(0o444))?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    fcntl(memory.as_fd(), FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
    Ok(memory.into())
}

#[derive(Debug)]
enum LockError {
    Held,
    System(Errno),
}

/// Takes shared locks on the bytes `held`, then looks whether another holds one of `free`: as QEMU
/// does, so that of two who come at once at most one goes on.
fn lock(file: &File, held: &[i64], free: &[i64]) -> Result<(), LockError> {
    let record = |kind: libc::c_int, at: i64| libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: 0, // SEEK_SET
        l_start: at,
        l_len: 1,
        l_pid: 0,
    };
    for at in held {
        let lock = record(libc::F_RDLCK, *at);
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).map_err(|errno| match errno {
            Errno::EAGAIN | Errno::EACCES => LockError::Held,
            errno => LockError::System(errno),
        })?;
    }
    for at in free {
        let mut lock = record(libc::F_WRLCK, *at);
        fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock)).map_err(LockError::System)?;
        if libc::c_int::from(lock.l_type) != libc::F_UNLCK {
            return Err(LockError::Held);
        }
    }
    Ok(())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4))
}

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
/// Beginnings of files that are disks of another format than the two that are read.
const OTHER_DISKS: [(&[u8], &str); 4] = [
    (b"KDMV", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"QED\0", "qed"),
];
/// Beginnings of what a kernel unpacks, and of the script that iPXE takes in its place.
const INITRDS: [&[u8]; 10] = [
    b"07070",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x5d\0\0",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
    b"\x04\x22\x4d\x18",
    b"\x28\xb5\x2f\xfd",
    b"#!ipxe",
];

/// Tells whether a file, of which `head` is the beginning, may be what it is said to be.
fn looks_like(kind: FileKind, head: &[u8], len: u64) -> Result<(), String> {
    let is = |magic: &[u8], at: usize| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let fits = match kind {
        FileKind::Kernel => {
            is(b"HdrS", 0x202)
                || is(b"\x7fELF", 0)
                || is(b"MZ", 0)
                || is(b"ARM\x64", 56)
                || is(b"\x1f\x8b", 0)
                || is(b"\x18\x28\x6f\x01", 0x24)
        }
        FileKind::Initrd => INITRDS.iter().any(|magic| is(magic, 0)),
        FileKind::Bios => len > 0 && len.is_multiple_of(FIRMWARE_STEP),
        FileKind::Dtb => is(b"\xd0\x0d\xfe\xed", 0),
        FileKind::Disk(Format::Qcow2, _) => return qcow2(head),
        FileKind::Disk(Format::Raw, _) => {
            if is(QCOW2_MAGIC, 0) {
                return Err("its format is qcow2, not raw".to_owned());
            }
            if let Some((_, name)) = OTHER_DISKS.iter().find(|(magic, _)| is(magic, 0)) {
                return Err(format!(
                    "its format is {name}: convert it with qemu-img convert -O qcow2"
                ));
            }
            len > 0 && len.is_multiple_of(SECTOR_LEN)
        }
    };
    let what = match kind {
        FileKind::Kernel => "it is no kernel",
        FileKind::Initrd => "it is no initial file system",
        FileKind::Bios => "it is no firmware",
        FileKind::Dtb => "it is no device tree",
        FileKind::Disk(..) => "it is no disk, whose length is a multiple of 512",
    };
    if fits { Ok(()) } else { Err(what.to_owned()) }
}

/// Looks at the header of a qcow2 file, which may say that its contents are in other files.
fn qcow2(head: &[u8]) -> Result<(), String> {
    if !head.starts_with(QCOW2_MAGIC) {
        return Err("its format is not qcow2".to_owned());
    }
    let version = be32(head, 4);
    if head.len() < 104 || !(2..=3).contains(&version) {
        return Err("its qcow2 header is broken".to_owned());
    }
    let external = version == 3 && be64(head, 72) & 4 != 0;
    if be64(head, 8) != 0 || external {
        let why = "it is part of another file: make it whole with qemu-img convert -O qcow2";
        return Err(why.to_owned());
    }
    if be32(head, 32) != 0 {
        return Err("it is encrypted".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(format: Format) -> FileKind {
        FileKind::Disk(format, Access::Write)
    }

    fn header(backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(QCOW2_MAGIC);
        head[7] = 3;
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    #[test]
    fn a_disk_that_leads_to_other_files_is_refused() {
        assert_eq!(looks_like(disk(Format::Qcow2), &header(0, 0), 512), Ok(()));
        for head in [header(0x1000, 0), header(0, 4)] {
            let error = looks_like(disk(Format::Qcow2), &head, 512).expect_err("refused");
            assert!(error.contains("another file"), "{error}");
        }
        for short in [&b"QFI\xfb"[..], b"", &[0; 512]] {
            assert!(looks_like(disk(Format::Qcow2), short, 512).is_err());
        }
    }

    #[test]
    fn a_file_is_what_it_is_said_to_be() {
        let raw = disk(Format::Raw);
        assert_eq!(looks_like(raw, &[0; 512], 512), Ok(()));
        let passwd = b"root:x:0:0:root:/root:/bin/bash\n";
        for kind in [raw, FileKind::Kernel, FileKind::Initrd, FileKind::Bios, FileKind::Dtb] {
            assert!(looks_like(kind, passwd, 32).is_err(), "{kind:?} may be a password file");
            assert!(looks_like(kind, b"", 0).is_err(), "{kind:?} may be empty");
        }
        let error = looks_like(raw, &header(0, 0), 512).expect_err("another format");
        assert_eq!(error, "its format is qcow2, not raw");
        assert!(looks_like(raw, b"KDMV", 512).expect_err("another").contains("vmdk"));
        assert_eq!(looks_like(FileKind::Initrd, b"#!ipxe\n", 7), Ok(()));
    }

    #[test]
    fn what_is_no_file_or_not_there_is_named() {
        for bad in ["/dev/null", "/", "/no/such/file"] {
            let kind = disk(Format::Raw);
            let error = Opened::open(&FileWanted { path: bad.into(), kind }).expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn a_disk_is_written_by_one_or_read_by_many() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.img");
        std::fs::write(&path, [0; 1024]).expect("written");
        let open = |access| {
            let kind = FileKind::Disk(Format::Raw, access);
            Opened::open(&FileWanted { path: path.clone(), kind })
        };
        let writer = open(Access::Write).expect("the only one");
        for access in [Access::Write, Access::Read, Access::Snapshot] {
            let error = open(access).expect_err("locked").to_string();
            assert!(error.contains("another virtual machine"), "{error}");
        }
        drop(writer);
        let readers = [Access::Read, Access::Snapshot].map(|access| open(access).expect("shared"));
        assert!(open(Access::Write).is_err(), "readers are ignored");
        drop(readers);
        open(Access::Write).expect("all are gone");
    }
}
