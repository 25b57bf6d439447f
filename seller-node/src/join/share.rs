//! What the program that has a lease and the program of a guest that shares it say to each other.
//!
//! The local socket of the first hands one end of this channel to the second
//! ([`Request::Share`](crate::api::Request)). From then on the channel is the guest: whoever closes
//! it ends the sharing. Each message is typed and bounded ([`overlay::ipc`]); a descriptor comes
//! beside those that say so, exactly one, and beside no other.

use std::os::fd::OwnedFd;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat, major, minor};
use overlay_proto::control::Detail;
use serde::{Deserialize, Serialize};

use super::news::News;
use crate::helper::ask::Wiring;

/// Most guests of one lease: each has a control connection of its own, of which a gateway takes 16
/// from one key, some while others are still closing.
pub(super) const GUESTS_MAX: usize = 12;
/// Device number of `/dev/net/tun`.
const TUN: (u64, u64) = (10, 200);

/// What the guest's program says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToLease {
    /// The guest is plugged in; the data plane's end of its cable is beside this.
    Cable,
    /// Asks for [`ToGuest::Status`].
    Status,
    /// Asks for [`ToGuest::Captured`].
    Pcap(Detail),
}

/// What the lease's program says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToGuest {
    /// The buyer has granted this; [`ToLease::Cable`] is next.
    Granted(Wiring),
    /// The segment has changed.
    Follow(Wiring),
    /// Something that the guest's user is told.
    News(News),
    /// A `LeaseStatus`, as JSON.
    Status(String),
    /// What is captured, as JSON, with the records' descriptor beside; without one, why not.
    Captured(String),
    /// The guest's end.
    Over {
        /// How its program ends.
        exit: u8,
        /// Why, for its user.
        text: String,
        /// Whether its ticket opens nothing any more.
        is_evicted: bool,
    },
}

/// Says why a descriptor is no cable, if it is none: a tap, or one end of a pump's pair.
pub(super) fn check_cable(fds: Vec<OwnedFd>) -> Result<OwnedFd, String> {
    let count = fds.len();
    let Ok([fd]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err(format!("the guest's cable came with {count} descriptors, not one"));
    };
    let is_tap = fstat(&fd).is_ok_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFCHR && (major(stat.st_rdev), minor(stat.st_rdev)) == TUN
    });
    let is_pair = getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket);
    if is_tap || is_pair { Ok(fd) } else { Err("the guest's cable is no cable".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use overlay::ipc;

    use super::*;

    #[test]
    fn a_cable_is_one_descriptor_of_a_tap_or_a_pair() {
        let (a, b) = ipc::pair().expect("a pair");
        let null = || OwnedFd::from(File::open("/dev/null").expect("there"));
        assert!(check_cable(Vec::new()).expect_err("none").contains("0 descriptors"));
        assert!(check_cable(vec![a, b]).expect_err("two").contains("2 descriptors"));
        assert!(check_cable(vec![null()]).is_err());
        let (stream, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(check_cable(vec![stream.into()]).is_err());
        assert!(check_cable(vec![ipc::pair().expect("a pair").0]).is_ok());
        if let Ok(tun) = File::open("/dev/net/tun") {
            assert!(check_cable(vec![tun.into()]).is_ok());
        }
    }
}
