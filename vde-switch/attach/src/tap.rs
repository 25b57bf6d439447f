//! Taps: Ethernet interfaces whose cable ends in a descriptor.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;

use crate::sys;

/// Length, in bytes, of the virtio-net header in front of each frame (virtio 1.0, as QEMU has it).
pub const VNET_HDR_LEN: u8 = 12;

/// Longest interface name, in bytes: the kernel's IFNAMSIZ without the final zero.
pub const IF_NAME_LEN_MAX: usize = libc::IFNAMSIZ - 1;

/// The name of a network interface that the kernel will accept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IfName(String);

/// Why a text is no interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no interface name: 1 to {IF_NAME_LEN_MAX} letters, digits, dots, dashes or \
     underscores, such as ovl0"
)]
pub struct IfNameError(String);

impl IfName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a name from any text: what a name may not hold is left out, the rest is cut to fit.
    ///
    /// ```
    /// # use vde_attach::tap::IfName;
    /// assert_eq!(IfName::fit("ovl-a very long order").as_str(), "ovl-averylongor");
    /// ```
    #[must_use]
    pub fn fit(text: &str) -> Self {
        let name: String =
            text.chars().filter(|c| is_name_char(*c)).take(IF_NAME_LEN_MAX).collect();
        name.parse().unwrap_or_else(|_| Self("ovl".to_owned()))
    }

    fn zero_terminated(&self) -> [u8; libc::IFNAMSIZ] {
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

/// Stricter than the kernel: names also go into `ip` and `nft` scripts, and '%' would be a pattern.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, IfNameError> {
        let fits = (1..=IF_NAME_LEN_MAX).contains(&text.len()) && text.chars().all(is_name_char);
        // A leading dash would be an option to `ip`; "." and ".." are folders in /proc/sys.
        if !fits || text.starts_with('-') || text == "." || text == ".." {
            return Err(IfNameError(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which work the kernel may leave to whoever reads the tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// None: finished frames only.
    None,
    /// Checksums.
    Checksum,
    /// Checksums and the cutting of TCP super-frames.
    #[default]
    Tcp,
}

impl Offload {
    fn flags(self) -> libc::c_uint {
        match self {
            Self::None => 0,
            Self::Checksum => sys::TUN_F_CSUM,
            Self::Tcp => sys::TUN_F_CSUM | sys::TUN_F_TSO4 | sys::TUN_F_TSO6 | sys::TUN_F_TSO_ECN,
        }
    }
}

/// How a tap is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct TapOptions {
    /// The most that is asked for; less where the kernel refuses.
    pub offload: Offload,
}

/// A tap of our making. It is gone when its descriptor is closed.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: IfName,
    offload: Offload,
}

impl Tap {
    /// Makes a tap in the calling thread's network namespace, down and without addresses.
    ///
    /// Its descriptor does not block and is not inherited; each read and write is one frame behind
    /// a virtio-net header of [`VNET_HDR_LEN`] bytes.
    ///
    /// # Errors
    /// [`TapError::Exists`] if an interface of that name is there; the others as the system says.
    pub fn open(name: &IfName, options: TapOptions) -> Result<Self, TapError> {
        let tun = open_tun()?;
        sys::make_tap(tun.as_fd(), &name.zero_terminated()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => TapError::Exists(name.clone()),
                Some(libc::EPERM) => TapError::Privilege,
                _ => TapError::System { name: name.clone(), source: error },
            }
        })?;
        let system = |source| TapError::System { name: name.clone(), source };
        sys::set_vnet_hdr_len(tun.as_fd(), libc::c_int::from(VNET_HDR_LEN)).map_err(system)?;
        let offload = [Offload::Tcp, Offload::Checksum, Offload::None]
            .into_iter()
            .filter(|offload| *offload <= options.offload)
            .find(|offload| sys::set_offload(tun.as_fd(), offload.flags()).is_ok())
            .unwrap_or(Offload::None);
        Ok(Self { fd: tun.into(), name: name.clone(), offload })
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        &self.name
    }

    /// Returns which work the kernel was allowed to leave to the reader.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Gives the descriptor away; the tap lives as long as it does.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Says whether taps can be made at all: the device node exists and may be opened.
///
/// # Errors
/// [`TapError::NoDevice`] or the system's refusal.
pub fn check_device() -> Result<(), TapError> {
    open_tun().map(drop)
}

fn open_tun() -> Result<File, TapError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open("/dev/net/tun").map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDevice,
        Some(libc::EPERM | libc::EACCES) => TapError::Privilege,
        _ => TapError::Device(error),
    })
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is taken.
    #[error("an interface named {0} exists already: choose another name or remove it")]
    Exists(IfName),
    /// The kernel has no tun driver here.
    #[error("/dev/net/tun is missing: run `modprobe tun`")]
    NoDevice,
    /// Not root, or root without CAP_NET_ADMIN.
    #[error("making a tap needs root: run it with sudo")]
    Privilege,
    /// The device cannot be opened for another reason.
    #[error("/dev/net/tun cannot be opened")]
    Device(#[source] io::Error),
    /// The kernel refuses this tap.
    #[error("the kernel makes no tap named {name}")]
    System {
        /// Whose.
        name: IfName,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_kernel_and_scripts_both_take() {
        for good in ["ovl0", "eth0", "a", "br.lan-1_x", "123456789012345"] {
            assert_eq!(good.parse::<IfName>().expect(good).as_str(), good);
        }
        for bad in
            ["", ".", "..", "1234567890123456", "a/b", "a b", "-a", "a\n", "tap%d", "é", "a:b"]
        {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn any_text_fits_into_some_name() {
        assert_eq!(IfName::fit("ovl-lab").as_str(), "ovl-lab");
        assert_eq!(IfName::fit("ovl-123456789012345").as_str().len(), IF_NAME_LEN_MAX);
        assert_eq!(IfName::fit("///").as_str(), "ovl");
    }

    #[test]
    fn the_error_does_not_repeat_a_long_text() {
        let error = "x".repeat(10_000).parse::<IfName>().expect_err("too long");
        assert!(error.to_string().len() < 250);
    }
}
