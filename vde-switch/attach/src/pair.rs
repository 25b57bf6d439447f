//! A cable with a tap at each end, in a network namespace that has nothing else.
//!
//! # Theory of operation
//! A hypervisor is handed the descriptor of one tap, `tapg`; the data plane reads and writes the
//! other, `tapd`; [`crate::forward`] hands frames across, offloads included. The guest's tap is
//! the hypervisor's own, with whatever offloads it agrees with its guest; the kernel cuts and sums
//! for the side that cannot. The namespace has no name, no address, no route and no IPv6, so that
//! nothing of the host answers, forwards or speaks there, whatever the guest says.
//!
//! # Limits
//! The namespace lives as long as its [`PairWire`]; the taps as long as their descriptors. The
//! host's kernel parses the guest's virtio-net header before the data plane does.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::forward::{Forward, ForwardError};
use crate::link::{self, LinkError};
use crate::tap::{IfName, Tap, TapError, TapOptions};

/// The tap whose descriptor the hypervisor gets.
const GUEST_TAP: &str = "tapg";
/// The tap whose descriptor the data plane gets.
const DATA_TAP: &str = "tapd";
/// The rules that join them.
const TABLE: &str = "ovl_pair";

/// Two joined taps, both up, each with a virtio-net header in front of its frames.
#[derive(Debug)]
pub struct TapPair {
    guest: OwnedFd,
    data: OwnedFd,
    wire: PairWire,
}

/// What joins the two, and the namespace where they are.
#[derive(Debug)]
pub struct PairWire {
    netns: File,
    _forward: Forward,
}

impl TapPair {
    /// Makes the namespace, the taps and what joins them; `mtu`, in bytes, is that of both.
    ///
    /// # Errors
    /// [`PairError`]; nothing is left then.
    pub fn open(mtu: u16) -> Result<Self, PairError> {
        // On a thread of its own: a namespace is a property of the thread that made it.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                    nix::Error::EPERM => PairError::Privilege,
                    errno => PairError::Namespace(errno.into()),
                })?;
                Self::open_here(mtu)
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn open_here(mtu: u16) -> Result<Self, PairError> {
        let netns = File::open("/proc/thread-self/ns/net").map_err(PairError::Namespace)?;
        for scope in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
            if Path::new(&path).exists() {
                fs::write(&path, "1").map_err(PairError::Namespace)?;
            }
        }
        let [guest, data] = [GUEST_TAP, DATA_TAP].map(name);
        let taps =
            [Tap::open(&guest, TapOptions::default())?, Tap::open(&data, TapOptions::default())?];
        let table = TABLE.parse().expect("a constant that is a table's name");
        let forward = Forward::install(table, &guest, &data)?;
        link::set_mtu_and_up(&guest, mtu)?;
        link::set_mtu_and_up(&data, mtu)?;
        let [guest, data] = taps.map(Tap::into_fd);
        Ok(Self { guest, data, wire: PairWire { netns, _forward: forward } })
    }

    /// Takes it apart: the hypervisor's descriptor, the data plane's, and what joins them.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, PairWire) {
        (self.guest, self.data, self.wire)
    }
}

impl PairWire {
    /// Changes the MTU of both taps, in bytes; they may be in use.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn set_mtu(&self, mtu: u16) -> Result<(), PairError> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| PairError::Namespace(errno.into()))?;
                for tap in [GUEST_TAP, DATA_TAP] {
                    link::set_mtu(&name(tap), mtu)?;
                }
                Ok(())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn name(text: &str) -> IfName {
    text.parse().expect("a constant that is an interface's name")
}

/// Why there is no cable.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// Not root.
    #[error("making a guest's network needs root: run it with sudo")]
    Privilege,
    /// The system refuses the namespace.
    #[error("the guest's network namespace cannot be made")]
    Namespace(#[source] io::Error),
    /// No tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The taps cannot be joined.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// They cannot be brought up.
    #[error(transparent)]
    Link(#[from] LinkError),
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A frame behind an empty virtio-net header.
    fn frame(ethertype: [u8; 2], len: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        frame.extend(ethertype);
        frame.resize(12 + len, 0x5a);
        frame
    }

    /// Reads frames until none comes for a while.
    fn drain(tap: &mut File) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut quiet = 0;
        while quiet < 50 {
            let mut bytes = vec![0; 70_000];
            match tap.read(&mut bytes) {
                Ok(len) => frames.push(bytes[..len].to_vec()),
                Err(_) => {
                    quiet += 1;
                    thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        frames
    }

    #[test]
    fn frames_cross_both_ways_and_nothing_else_speaks() {
        if !nix::unistd::geteuid().is_root() {
            return; // making taps is root's
        }
        let (guest, data, wire) = TapPair::open(1500).expect("a pair").into_parts();
        let [mut guest, mut data] = [guest, data].map(File::from);
        assert_eq!(drain(&mut data), Vec::<Vec<u8>>::new(), "the namespace speaks");
        let ip = frame([8, 0], 60);
        guest.write_all(&ip).expect("taken");
        assert_eq!(drain(&mut data), std::slice::from_ref(&ip));
        data.write_all(&ip).expect("taken");
        assert_eq!(drain(&mut guest), std::slice::from_ref(&ip));
        // A tagged frame would be untagged on the way.
        let tag = frame([0x81, 0], 60);
        guest.write_all(&tag).expect("taken");
        assert_eq!(drain(&mut data), Vec::<Vec<u8>>::new(), "a tagged frame crossed");
        wire.set_mtu(9000).expect("a larger MTU");
        guest.write_all(&frame([8, 0], 9000)).expect("taken");
        assert_eq!(drain(&mut data).len(), 1, "a large frame did not cross");
        // Nothing comes back by itself, as from a stack that answers.
        assert_eq!(drain(&mut guest), Vec::<Vec<u8>>::new(), "somebody answered");
    }
}
