//! Real machines as guests: QEMU, mostly without KVM, with kernels and systems of this machine.
//!
//! # Theory of operation
//! [`small`] is a Debian kernel with an initramfs of our own: it is up in seconds, asks for its
//! addresses by DHCP and DHCPv6 (or takes those of the kernel's command line), answers ssh and
//! iperf3, and says in lines beginning with `GUEST` on its serial console how far it is. What is
//! expensive to make lies in [`cache_dir`], outside the clone.
//!
//! A [`Vm`] is whatever program has the guest's serial console on its stdout: QEMU itself, or
//! `overlay-seller run … -- qemu-system-x86_64 …`.
//!
//! # Limits
//! A guest is killed when its handle is dropped, and by the lab's reaper. A [`Vm`] keeps all of the
//! console's text; guests here say little.

pub mod cpio;
pub mod fat;
pub mod images;
pub mod initramfs;
pub mod kernel;
pub mod member;
pub mod page;
pub mod rate;
pub mod release;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Host;
use crate::lab::process::Process;

use kernel::Kernel;

/// The program that runs guests.
pub const QEMU: &str = "qemu-system-x86_64";
/// Longest wait for a small guest to be up: a hundred times what it needs by itself, as others may
/// use the machine.
pub const BOOT_MAX: Duration = Duration::from_secs(90);

/// Returns the directory for kernels, images and keys, made now if it is missing:
/// `OVERLAY_LAB_CACHE`, else `overlay-lab` in the user's cache directory.
///
/// # Errors
/// When it cannot be made.
pub fn cache_dir() -> Result<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || of("HOME").map_or("/root".into(), PathBuf::from);
    let dir = of("OVERLAY_LAB_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let user = of("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
        user.join("overlay-lab")
    });
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Returns the root below which deploy/preflight.sh unpacks packages that guests are made of. To
/// install them would change the machine: its /boot, its busybox, its DHCP client.
///
/// # Errors
/// When the cache's directory cannot be made.
pub fn unpacked_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("root"))
}

/// Returns the private key that opens the ssh of the small guest; `.pub` beside it is the public.
///
/// # Errors
/// When ssh-keygen or dropbearkey are not installed.
pub fn keys() -> Result<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let dir = cache_dir()?.join("keys");
    if !dir.is_dir() {
        let new = dir.with_extension(std::process::id().to_string());
        std::fs::create_dir_all(&new)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&new, private)?;
        initramfs::make_keys(&new)?;
        // Whoever was faster has made them for both.
        if std::fs::rename(&new, &dir).is_err() {
            std::fs::remove_dir_all(&new)?;
        }
    }
    Ok(dir.join("key"))
}

/// Returns the command line of a small guest without any network: program first, `append` at the
/// end of the kernel's own command line.
///
/// # Errors
/// When this machine lacks a kernel, or a program that goes into the guest.
pub fn small(append: &str) -> Result<Vec<String>> {
    let kernel = Kernel::find()?;
    let initrd = initramfs::initramfs(&kernel)?;
    let image = kernel.image.display().to_string();
    let initrd = initrd.display().to_string();
    let append = format!("console=ttyS0 quiet panic=-1 {append}");
    let mut words = plain(192);
    words.extend(["-kernel", &image, "-initrd", &initrd, "-append", append.trim()].map(Into::into));
    Ok(words)
}

/// Returns the start of any guest's command line: memory in MiB, the serial console on stdio, no
/// network, no monitor, no screen.
#[must_use]
pub fn plain(memory_mib: u32) -> Vec<String> {
    let memory = memory_mib.to_string();
    let fixed = [QEMU, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m"];
    fixed.into_iter().chain([memory.as_str()]).map(str::to_owned).collect()
}

/// Returns QEMU's words for a card on a tap that is there in QEMU's namespace.
#[must_use]
pub fn tap(interface: &str, mac: &str) -> Vec<String> {
    vec![
        "-netdev".to_owned(),
        format!("tap,id=lan,ifname={interface},script=no,downscript=no"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=lan,mac={mac},romfile="),
    ]
}

/// A running guest; killed when dropped.
#[derive(Debug)]
pub struct Vm {
    /// The program whose stdout is the console.
    pub process: Process,
    console: Vec<String>,
    started: Instant,
}

impl Vm {
    /// Starts a command line in a host's namespace: QEMU's, or one that ends in QEMU's.
    ///
    /// # Errors
    /// When it is empty or cannot be started.
    pub fn start(host: &Host, words: &[String]) -> Result<Self> {
        let (program, args) = words.split_first().context("an empty command line")?;
        let started = Instant::now();
        Ok(Self { process: host.spawn(program, args)?, console: Vec::new(), started })
    }

    /// Returns the first line of the console that holds `marker`, from there on; waits for it if it
    /// is still to come.
    ///
    /// # Errors
    /// When it does not come within `timeout` or the program ends before; with the console's end.
    pub fn wait(&mut self, marker: &str, timeout: Duration) -> Result<String> {
        let until = Instant::now() + timeout;
        let mut next = 0;
        loop {
            for line in &self.console[next..] {
                if let Some(at) = line.find(marker) {
                    return Ok(line[at..].trim_end().to_owned());
                }
            }
            next = self.console.len();
            let left = until.saturating_duration_since(Instant::now());
            match self.process.wait_line(left, |_| true) {
                Ok(line) => self.console.push(without_escapes(&line)),
                Err(error) => {
                    let end = self.console[next.saturating_sub(12)..].join("\n  ");
                    bail!("no {marker:?} on the console, which ends so:\n  {end}\n{error:#}");
                }
            }
        }
    }

    /// Returns how long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the console's text up to now, without what moves the cursor or changes colours.
    pub fn console(&mut self) -> String {
        let lines = self.process.take_lines();
        self.console.extend(lines.iter().map(|line| without_escapes(line)));
        self.console.join("\n")
    }

    /// Kills it, and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.process.wait_end(Duration::from_secs(5)).map(drop)
    }
}

/// Leaves out what firmwares say to a terminal: ESC, `[`, parameters, one letter.
fn without_escapes(line: &str) -> String {
    let mut parts = line.trim_end_matches('\r').split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        text + end.map_or("", |at| &part[at + 1..])
    })
}

/// Runs a command in a small guest by ssh from a host; how it ended is in the [`Output`].
///
/// # Errors
/// When ssh is not installed.
pub fn ssh(from: &Host, to: IpAddr, command: &str) -> Result<Output> {
    let key = keys()?.display().to_string();
    let to = format!("root@{to}");
    let options = "-F none -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR \
                   -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i";
    let words = options.split_whitespace().chain([key.as_str(), &to, command]);
    from.output("ssh", words)
}

/// Runs a command in a small guest by ssh from a host and returns what it printed.
///
/// # Errors
/// When it does not succeed.
pub fn must_ssh(from: &Host, to: IpAddr, command: &str) -> Result<String> {
    let output = ssh(from, to, command)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ssh {to} {command}: {} {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a bridge of the kernel's in a host, with a tap for each name: what any guest would have
/// without us, to compare with. `address` (with its length) is the host's own on it.
///
/// # Errors
/// When the kernel refuses one of them.
pub fn bridge(host: &Host, address: &str, taps: &[&str]) -> Result<()> {
    host.must("ip link add lan type bridge forward_delay 0")?;
    host.must(&format!("ip addr add {address} dev lan"))?;
    host.must("ip link set lan up")?;
    for tap in taps {
        host.must(&format!("ip tuntap add {tap} mode tap vnet_hdr"))?;
        host.must(&format!("ip link set {tap} master lan up"))?;
    }
    Ok(())
}

/// Runs a command of this machine to its end; for what is made once.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    crate::lab::must(Command::new(initramfs::find(program)?).args(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_without_its_colours() {
        let line = "\x1b[1m\x1b[37mipv4 address :\x1b[0m 10.77.0.10\x1b[6n\r";
        assert_eq!(without_escapes(line), "ipv4 address : 10.77.0.10");
        assert_eq!(without_escapes("no \x1b[ end, \x1b[12"), "no nd, ");
    }
}
