//! The switches of a guest's namespace that keep the host's stack silent there.
//!
//! They are the calling thread's namespace's. One that the kernel does not have yet is set when it
//! appears: a host may load IPv6 or the bridge's filter while guests run.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Each with its value, below `/proc/sys/net`.
pub(crate) const SILENCE: [(&str, &str); 10] = [
    // No address comes by itself, and no answer to neighbours.
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // A new namespace has the host's value of this.
    ("ipv4/ip_forward", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    // Nobody is answered by ARP, whatever he asks for.
    ("ipv4/conf/all/arp_ignore", "8"),
    // Should there ever be a bridge, it is asked by its own family's rules alone.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// Which of them the kernel had, in order.
pub(crate) type Present = [bool; SILENCE.len()];

/// A switch that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// Sets them all; returns which are there.
pub(crate) fn silence() -> io::Result<Present> {
    let mut present = Present::default();
    for ((name, value), present) in SILENCE.into_iter().zip(&mut present) {
        *present = set(name, value)?;
    }
    Ok(present)
}

/// Looks at them; sets those that have appeared.
pub(crate) fn check(present: &mut Present) -> io::Result<Result<(), Changed>> {
    for ((name, value), present) in SILENCE.into_iter().zip(present) {
        if !*present {
            *present = set(name, value)?;
        }
        match get(name) {
            Some(now) if now != value => return Ok(Err(Changed { name, value: now })),
            Some(_) | None => {}
        }
    }
    Ok(Ok(()))
}

/// Reads one; `None` if the kernel does not have it.
pub(crate) fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_owned())
}

/// Sets one, and says whether the kernel has it.
pub(crate) fn set(name: &str, value: &str) -> io::Result<bool> {
    match fs::write(path(name), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}
