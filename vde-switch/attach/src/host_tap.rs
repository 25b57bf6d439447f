//! A tap that somebody else's hypervisor holds: looked at, taken out of the host's network, and
//! joined to a tap of our own.
//!
//! # Theory of operation
//! A tap has one descriptor, and the hypervisor has it. So ours stands beside it, and the two are
//! joined by [`Forward`]: the host's stack sees no frame of either. Super-frames and checksums that
//! are left undone pass as they are; the kernel finishes what the hypervisor's side cannot take.
//!
//! Our tap is named after the index of theirs: a second program that serves the same tap finds the
//! name taken. It goes with its descriptor, also after a kill; the table stays then, which keeps
//! the guest from the host, and is replaced by the next. At a regular end the hypervisor's tap is
//! set down before the table goes.
//!
//! # Limits
//! The host keeps its power over the interface: who is root may put it into a bridge, give it an
//! address or send into it by a packet socket. [`HostTap::check`] notices the bridge and a tap that
//! has gone, when asked. What the guest sends reaches the host's kernel first, virtio-net header
//! and all.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::net::if_::if_nametoindex;
use serde_json::Value;

use crate::forward::{Forward, ForwardError, TableName};
use crate::link::{self, LinkError};
use crate::tap::{IfName, Tap, TapError, TapOptions};

/// A tap of the host that may be joined.
#[derive(Debug)]
pub struct HostTap {
    name: IfName,
    index: u32,
    own: IfName,
    joined: Option<Joined>,
}

/// What is undone at the end.
#[derive(Debug)]
struct Joined {
    _forward: Forward,
    /// What the hypervisor's tap had before.
    mtu: Option<u16>,
    ipv6: Option<String>,
}

impl HostTap {
    /// Finds a tap of the calling thread's namespace and checks that it is nobody else's.
    ///
    /// # Errors
    /// [`HostTapError`] says what is in the way.
    pub fn find(name: &IfName) -> Result<Self, HostTapError> {
        let index = index_of(name).ok_or_else(|| HostTapError::Missing(name.clone()))?;
        let look = Look::read(name)?;
        look.check(name)?;
        let own = IfName::fit(&format!("ovlt-{index}"));
        if index_of(&own).is_some() {
            return Err(HostTapError::InUse(name.clone()));
        }
        Ok(Self { name: name.clone(), index, own, joined: None })
    }

    /// Returns the tap's name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        &self.name
    }

    /// Joins the tap to one of our own, brings both up and returns ours; `mtu` in bytes of L3.
    ///
    /// # Errors
    /// [`HostTapError`]; nothing is left behind.
    pub fn join(&mut self, mtu: u16) -> Result<Tap, HostTapError> {
        let look = Look::read(&self.name)?;
        look.check(&self.name)?;
        let ours = Tap::open(&self.own, TapOptions::default()).map_err(|error| match error {
            TapError::Exists(_) => HostTapError::InUse(self.name.clone()),
            error => HostTapError::Tap(error),
        })?;
        set_ipv6_disabled(&self.own, "1");
        // Before either is up: no frame passes that the rules have not seen.
        let forward = Forward::install(TableName::of(&self.name), &self.name, &self.own)?;
        let ipv6 = ipv6_disabled(&self.name);
        set_ipv6_disabled(&self.name, "1");
        self.joined = Some(Joined { _forward: forward, mtu: look.mtu, ipv6 });
        for name in [&self.own, &self.name] {
            link::set_mtu_and_up(name, mtu)?;
        }
        Ok(ours)
    }

    /// Follows the segment's MTU, in bytes of L3.
    ///
    /// # Errors
    /// [`LinkError`], with the words of `ip`.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), LinkError> {
        link::set_mtu(&self.own, mtu)?;
        link::set_mtu(&self.name, mtu)
    }

    /// Looks whether the tap is still there, and still in no bridge. Costs two system calls.
    ///
    /// # Errors
    /// [`HostTapError::Gone`], [`HostTapError::Bridged`].
    pub fn check(&self) -> Result<(), HostTapError> {
        if index_of(&self.name) != Some(self.index) {
            return Err(HostTapError::Gone(self.name.clone()));
        }
        let master = Path::new("/sys/class/net").join(self.name.as_str()).join("master");
        match fs::read_link(master) {
            Ok(bridge) => {
                let bridge = bridge.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Err(HostTapError::Bridged { name: self.name.clone(), bridge })
            }
            Err(_) => Ok(()),
        }
    }
}

impl Drop for HostTap {
    fn drop(&mut self) {
        let Some(joined) = self.joined.take() else { return };
        if index_of(&self.name) != Some(self.index) {
            return;
        }
        // Down: a guest that lives on must not find the host behind its tap now that the rules go.
        // It may be deleted at this very moment, so nothing here is an error.
        let _ = link::set_down(&self.name, joined.mtu);
        if let Some(ipv6) = &joined.ipv6 {
            set_ipv6_disabled(&self.name, ipv6);
        }
    }
}

fn index_of(name: &IfName) -> Option<u32> {
    if_nametoindex(name.as_str()).ok()
}

fn ipv6_key(name: &IfName) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

fn ipv6_disabled(name: &IfName) -> Option<String> {
    fs::read_to_string(ipv6_key(name)).ok().map(|text| text.trim().to_owned())
}

/// Absent where the kernel has no IPv6; then there is nothing to switch off.
fn set_ipv6_disabled(name: &IfName, value: &str) {
    let _ = fs::write(ipv6_key(name), value);
}

/// What the kernel says of an interface.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    is_tap: bool,
    /// The bridge or bond it is in.
    master: Option<String>,
    /// An address that somebody gave it.
    address: Option<String>,
    mtu: Option<u16>,
}

impl Look {
    fn read(name: &IfName) -> Result<Self, HostTapError> {
        let output = Command::new("ip")
            .args(["-j", "-d", "addr", "show", "dev", name.as_str()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => LinkError::NoIp,
                _ => LinkError::Run(error),
            })?;
        let gone = || HostTapError::Missing(name.clone());
        if !output.status.success() {
            return Err(gone());
        }
        Self::parse(&output.stdout).ok_or_else(gone)
    }

    /// Reads what `ip -j -d addr show dev NAME` prints.
    fn parse(json: &[u8]) -> Option<Self> {
        let all: Value = serde_json::from_slice(json).ok()?;
        // Older versions print an empty object for each interface that was not asked for.
        let one = all.as_array()?.iter().find(|one| one.get("ifname").is_some())?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let info = &one["linkinfo"];
        let addresses = one["addr_info"].as_array().map_or(&[][..], Vec::as_slice);
        // A link-local address comes by itself, and goes when IPv6 is switched off.
        let given = addresses.iter().find(|one| one["scope"] != "link" || one["family"] == "inet");
        Some(Self {
            is_tap: info["info_kind"] == "tun" && info["info_data"]["type"] == "tap",
            master: one.get("master").and_then(text),
            address: given.and_then(|one| text(&one["local"])),
            mtu: one["mtu"].as_u64().and_then(|mtu| u16::try_from(mtu).ok()),
        })
    }

    fn check(&self, name: &IfName) -> Result<(), HostTapError> {
        let name = name.clone();
        match self {
            Self { is_tap: false, .. } => Err(HostTapError::NoTap(name)),
            Self { master: Some(bridge), .. } => {
                Err(HostTapError::Bridged { name, bridge: bridge.clone() })
            }
            Self { address: Some(address), .. } => {
                Err(HostTapError::Addressed { name, address: address.clone() })
            }
            Self { .. } => Ok(()),
        }
    }
}

/// Why a tap of the host cannot hold the guest, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum HostTapError {
    /// There is none.
    #[error(
        "there is no tap named {0} on this host: start the hypervisor that makes it, or make it \
         with `ip tuntap add {0} mode tap vnet_hdr`"
    )]
    Missing(IfName),
    /// It is something else.
    #[error("{0} is no tap: name the tap that the hypervisor holds")]
    NoTap(IfName),
    /// The guest would have a way around the segment.
    #[error("tap {name} is in {bridge}: take it out with `ip link set {name} nomaster`")]
    Bridged {
        /// The tap.
        name: IfName,
        /// What it is in.
        bridge: String,
    },
    /// The guest would speak to the host.
    #[error("tap {name} has the address {address}: remove it with `ip addr flush dev {name}`")]
    Addressed {
        /// The tap.
        name: IfName,
        /// One of its addresses.
        address: String,
    },
    /// Another program like this one has joined it.
    #[error("tap {0} is in use by another overlay-seller")]
    InUse(IfName),
    /// It was deleted while it was joined.
    #[error("tap {0} is gone: has its hypervisor ended?")]
    Gone(IfName),
    /// Our own tap cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The two cannot be joined.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// One of the two cannot be set up.
    #[error(transparent)]
    Link(#[from] LinkError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAP: &str = r#"[{},{"ifindex":7,"ifname":"vnet0","flags":["UP"],"mtu":1500,MASTER
        "linkinfo":{"info_kind":"tun","info_data":{"type":"tap","pi":false,"vnet_hdr":true}},
        "addr_info":[{"family":"inet6","local":"fe80::1","scope":"link"}ADDRESS]}]"#;

    fn judge(master: &str, address: &str) -> Result<(), String> {
        let json = TAP.replace("MASTER", master).replace("ADDRESS", address);
        let look = Look::parse(json.as_bytes()).expect("as ip prints it");
        look.check(&"vnet0".parse().expect("a name")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_free_tap_passes_and_any_other_is_refused_with_a_cure() {
        assert_eq!(judge("", ""), Ok(()));
        let bridged = judge("\"master\":\"vmbr0\",", "").expect_err("in a bridge");
        assert!(bridged.contains("vmbr0") && bridged.contains("nomaster"), "{bridged}");
        let v4 = r#",{"family":"inet","local":"10.0.0.1","scope":"global"}"#;
        let v6 = r#",{"family":"inet6","local":"fd00::1","scope":"global"}"#;
        let link4 = r#",{"family":"inet","local":"169.254.0.1","scope":"link"}"#;
        for (json, address) in [(v4, "10.0.0.1"), (v6, "fd00::1"), (link4, "169.254.0.1")] {
            let text = judge("", json).expect_err(address);
            assert!(text.contains(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_tap_or_not_there_is_said() {
        let veth = r#"[{"ifname":"v","mtu":1500,"linkinfo":{"info_kind":"veth"},"addr_info":[]}]"#;
        let tun = veth.replace("\"veth\"", r#""tun","info_data":{"type":"tun"}"#);
        for json in [veth, &tun] {
            let look = Look::parse(json.as_bytes()).expect("as ip prints it");
            assert!(!look.is_tap, "{json}");
        }
        for json in ["", "[]", "[{}]", "{}", "nonsense"] {
            assert_eq!(Look::parse(json.as_bytes()), None, "{json}");
        }
        let missing = HostTap::find(&"no-such-tap".parse().expect("a name"));
        assert!(matches!(missing, Err(HostTapError::Missing(_))), "{missing:?}");
    }
}
