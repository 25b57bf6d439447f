//! Guests that are not ours: a whole Debian, and two firmwares with network stacks of their own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fat::floppy;
use super::{cache_dir, plain, run, unpacked_dir};

/// Debian's release.
const SUITE: &str = "bookworm";
/// What Debian is made of, beside its essential packages.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,dbus,iproute2,iputils-ping,zstd,\
                        nftables";
/// Size of Debian's disk; what is not used takes no room.
const DISK_SIZE: &str = "700M";
/// Files that Debian gets beside its packages.
const FILES: [(&str, &str); 4] = [
    ("etc/systemd/system/gate.service", include_str!("guest/debian/gate.service")),
    ("etc/systemd/network/10-lan.network", include_str!("guest/debian/lan.network")),
    ("etc/systemd/system/lan-report.service", include_str!("guest/debian/lan-report.service")),
    ("usr/local/sbin/lan-report", include_str!("guest/debian/lan-report.sh")),
];
/// Services that start with it.
const SERVICES: [&str; 3] = ["systemd-networkd", "lan-report", "gate"];

/// Returns the command line, without network, of a Debian with systemd-networkd as its packages
/// make it. What it writes is thrown away. When it is not in the cache it is made now, which takes
/// a minute or two and a Debian mirror.
///
/// # Errors
/// When it cannot be made; the text ends with what mmdebstrap says.
pub fn debian(append: &str) -> Result<Vec<String>> {
    let dir = debian_dir()?;
    let file = |name: &str| dir.join(name).display().to_string();
    let mut words = plain(384);
    words.extend(["-kernel".to_owned(), file("vmlinuz"), "-initrd".to_owned(), file("initrd.img")]);
    let drive = format!("file={},format=raw,if=virtio,snapshot=on", file("root.ext4"));
    words.extend(["-drive".to_owned(), drive, "-append".to_owned()]);
    words.push(format!("console=ttyS0 quiet root=/dev/vda rw {append}").trim().to_owned());
    Ok(words)
}

/// Makes Debian's disk, kernel and initrd. Without loop devices, so that it works in a container.
fn debian_dir() -> Result<PathBuf> {
    let mut recipe = blake3::Hasher::new();
    for text in [SUITE, PACKAGES, DISK_SIZE].into_iter().chain(FILES.iter().map(|(_, text)| *text))
    {
        recipe.update(text.as_bytes()).update(b"\0");
    }
    let key = recipe.finalize().to_hex();
    let dir = cache_dir()?.join(format!("debian-{}", &key[..16]));
    if dir.is_dir() {
        return Ok(dir);
    }
    let new = cache_dir()?.join(format!("new-{}", std::process::id()));
    // What an earlier run with this number left when it was killed.
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new)?;
    let made = make_debian(&new).and_then(|()| Ok(fs::rename(&new, &dir)?));
    let _ = fs::remove_dir_all(&new);
    made.context("make a Debian disk").map(|()| dir)
}

fn make_debian(dir: &Path) -> Result<()> {
    let root = dir.join("root");
    let root_text = root.display().to_string();
    let include = format!("--include={PACKAGES}");
    run("mmdebstrap", &["--quiet", "--variant=minbase", &include, SUITE, &root_text])?;
    for (path, text) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file in the root has a directory")?)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    // Without a name of its own it takes the one that DHCP gives.
    let _ = fs::remove_file(root.join("etc/hostname"));
    let enable = [&[&root_text, "systemctl", "--quiet", "enable"][..], &SERVICES].concat();
    run("chroot", &enable)?;
    for (start, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let mut files = fs::read_dir(root.join("boot"))?.flatten();
        let found = files.find(|file| file.file_name().to_string_lossy().starts_with(start));
        let found = found.with_context(|| format!("the new Debian has no {name}"))?;
        fs::copy(found.path(), dir.join(name))?;
    }
    let disk = dir.join("root.ext4").display().to_string();
    run("mke2fs", &["-q", "-t", "ext4", "-d", &root_text, &disk, DISK_SIZE])?;
    Ok(fs::remove_dir_all(&root)?)
}

/// Returns the command line, without network, of iPXE: DHCP, then a page by HTTP. The script is
/// written into `dir`.
///
/// # Errors
/// When iPXE is not installed, or the script cannot be written.
pub fn ipxe(dir: &Path, url: &str) -> Result<Vec<String>> {
    let script = dir.join("script.ipxe");
    let text = format!(
        "#!ipxe\nifopen net0\n\
         dhcp net0 && echo GUEST IP4 ${{net0/ip}}/${{net0/netmask}} mtu ${{net0/mtu}} host \
         ${{hostname}} dns ${{net0/dns}} || echo GUEST FAILED dhcp\n\
         imgfetch --name page {url} && echo GUEST FETCHED || echo GUEST FAILED http\n\
         imgstat\nreboot\n"
    );
    fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
    let image = ipxe_image()?;
    // Only then does the BIOS, and by it iPXE, speak on the serial port.
    let mut words = plain(256);
    words.extend(["-machine", "graphics=off", "-kernel", &image, "-initrd"].map(str::to_owned));
    words.push(script.display().to_string());
    Ok(words)
}

/// Returns the command line, without network, of EDK2's UEFI firmware, whose shell asks DHCP and
/// DHCPv6, pings two addresses and fetches a page. The script's disk is written into `dir`.
///
/// # Errors
/// When OVMF is not installed, or the disk cannot be written.
pub fn uefi(dir: &Path, url: &str, pinged: [&str; 2]) -> Result<Vec<String>> {
    let disk = dir.join("script.img");
    let [four, six] = pinged;
    let script = [
        "connect -r",
        "ifconfig -s eth0 dhcp",
        "ifconfig6 -s eth0 auto",
        // In microseconds: its DHCP takes four seconds, and DHCPv6 begins after detection of
        // duplicates.
        "stall 9000000",
        "ifconfig -l eth0",
        "ifconfig6 -l eth0",
        &format!("ping -n 3 {four}"),
        &format!("ping6 -n 3 {six}"),
        "fs0:",
        &format!("http -m {url} got.txt"),
        "type got.txt",
        "echo GUEST READY",
        "reset -s",
    ];
    fs::write(&disk, floppy(b"STARTUP NSH", (script.join("\r\n") + "\r\n").as_bytes()))?;
    let firmware = found("usr/share/ovmf/OVMF.fd")?;
    let mut words = plain(256);
    let drive = format!("file={},format=raw,if=none,id=script,snapshot=on", disk.display());
    words.extend(["-bios".to_owned(), firmware, "-drive".to_owned(), drive, "-device".to_owned()]);
    // With a boot order it does not try the network before the shell.
    words.push("virtio-blk-pci,drive=script,bootindex=0".to_owned());
    Ok(words)
}

/// Returns the path of iPXE as a kernel.
///
/// # Errors
/// When it is not installed.
pub fn ipxe_image() -> Result<String> {
    found("boot/ipxe.lkrn")
}

/// Returns the path of busybox.
///
/// # Errors
/// When it is not installed.
pub fn busybox() -> Result<String> {
    found("bin/busybox")
}

/// Returns where a file of a package is: unpacked in the cache, or installed.
fn found(path: &str) -> Result<String> {
    let mut paths = [unpacked_dir()?.join(path), Path::new("/").join(path)].into_iter();
    let path = paths
        .find(|path| path.is_file())
        .with_context(|| format!("/{path} is not installed: run deploy/preflight.sh"))?;
    Ok(path.display().to_string())
}
