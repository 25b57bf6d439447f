//! Gives an interface its addresses, by one call of `ip -batch -` (iproute2).

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use vde_switch::mac::MacAddr;

use crate::tap::IfName;

/// What an interface is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface, there already.
    pub name: IfName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its IPv4 address and the prefix length of its subnet.
    pub ipv4: (Ipv4Addr, u8),
    /// Its IPv6 address and the prefix length of its subnet.
    pub ipv6: (Ipv6Addr, u8),
    /// Largest IP packet it sends, in bytes.
    pub mtu: u16,
    /// Where it is.
    pub place: Place,
}

/// In whose network namespace an interface stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's: `lo` is left alone.
    Host,
    /// A guest's own: `lo` is brought up, too.
    Guest,
}

impl Link {
    /// Sets addresses and MTU and brings the interface up, in the calling thread's namespace.
    ///
    /// Router advertisements are ignored on it: the segment has none, and a forged one must not
    /// become a route.
    ///
    /// # Errors
    /// [`LinkError`], with the words of `ip`.
    pub fn configure(&self) -> Result<(), LinkError> {
        for key in ["accept_ra", "autoconf"] {
            let path = format!("/proc/sys/net/ipv6/conf/{}/{key}", self.name);
            // Absent where the kernel has no IPv6; then there is nothing to switch off.
            let _ = fs::write(path, "0");
        }
        run_ip(&self.script())
    }

    /// Returns the commands, one a line.
    fn script(&self) -> String {
        let Self { name, mac, mtu, .. } = self;
        let mut script = format!("link set dev {name} address {mac} mtu {mtu}\n");
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(script, "{text}").expect("a String takes any text");
        };
        line(format_args!("addr add {}/{} brd + dev {name}", self.ipv4.0, self.ipv4.1));
        line(format_args!("addr add {}/{} dev {name} nodad", self.ipv6.0, self.ipv6.1));
        if self.place == Place::Guest {
            line(format_args!("link set dev lo up"));
        }
        line(format_args!("link set dev {name} up"));
        script
    }
}

/// Changes the MTU of an interface that is in use, in the calling thread's namespace; connections
/// over it live on.
///
/// # Errors
/// As [`Link::configure`].
pub fn set_mtu(name: &IfName, mtu: u16) -> Result<(), LinkError> {
    run_ip(&format!("link set dev {name} mtu {mtu}\n"))
}

/// Sets the MTU of an interface and brings it up, in the calling thread's namespace.
///
/// # Errors
/// As [`Link::configure`].
pub fn set_mtu_and_up(name: &IfName, mtu: u16) -> Result<(), LinkError> {
    run_ip(&format!("link set dev {name} mtu {mtu} up\n"))
}

/// Takes an interface down, with the MTU that it is to have from now on, if any.
///
/// # Errors
/// As [`Link::configure`].
pub fn set_down(name: &IfName, mtu: Option<u16>) -> Result<(), LinkError> {
    let mtu = mtu.map_or(String::new(), |mtu| format!(" mtu {mtu}"));
    run_ip(&format!("link set dev {name}{mtu} down\n"))
}

fn run_ip(script: &str) -> Result<(), LinkError> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LinkError::NoIp,
            _ => LinkError::Run(error),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on stderr, which is read below.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(LinkError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().next().unwrap_or("no reason given");
    Err(LinkError::Refused(first.chars().take(200).collect()))
}

/// Why an interface has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The program is not installed.
    #[error("the program `ip` is missing: run `apt-get install iproute2`")]
    NoIp,
    /// The program cannot be run.
    #[error("the program `ip` cannot be run")]
    Run(#[source] io::Error),
    /// The program refused; its own words.
    #[error("the interface cannot be set up: {0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_interface_is_set_up_in_one_script() {
        let link = Link {
            name: "eth0".parse().expect("a name"),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ipv4: (Ipv4Addr::new(10, 77, 0, 10), 24),
            ipv6: ("fd00::a".parse().expect("an address"), 64),
            mtu: 1500,
            place: Place::Guest,
        };
        assert_eq!(
            link.script(),
            "link set dev eth0 address 02:00:00:00:00:01 mtu 1500\n\
             addr add 10.77.0.10/24 brd + dev eth0\n\
             addr add fd00::a/64 dev eth0 nodad\n\
             link set dev lo up\n\
             link set dev eth0 up\n"
        );
    }
}
