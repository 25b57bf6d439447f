//! Why the guard does not do what it is asked.

use std::io;
use std::net::SocketAddr;

use overlay_proto::dial::DialRefused;

use super::{GIVEN_MAX, LAN_MAX, PROVEN_MAX, TABLE};
use crate::host::nft::NftError;

/// Why an address is not opened. The asker's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody may dial it.
    #[error(transparent)]
    Dial(#[from] DialRefused),
    /// No datagram from there reached the lease's port lately.
    #[error("nothing was heard from {0}")]
    NotHeard(SocketAddr),
    /// Asked for too often.
    #[error("{0} is one address too many within a second")]
    TooFast(SocketAddr),
    /// [`PROVEN_MAX`] are.
    #[error("{0} is not proven: {PROVEN_MAX} addresses of the lease are already")]
    TooManyProven(SocketAddr),
    /// [`GIVEN_MAX`] are.
    #[error("{0} is not taken from the ticket: {GIVEN_MAX} addresses are already")]
    TooManyGiven(SocketAddr),
    /// The ticket does not name it.
    #[error("{0} is not an address of the ticket")]
    NotGiven(SocketAddr),
}

/// Why the guard does not stand, or does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The asker's doing; the guard stands.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A port or user that cannot be meant.
    #[error("the egress guard needs a port and a user for the control process, neither of them 0")]
    Spec,
    /// More than [`LAN_MAX`].
    #[error("{0} networks are too many for --lan: the egress guard takes {LAN_MAX}")]
    Networks(usize),
    /// Too old, or built without something.
    #[error("the egress guard cannot be made by {version} and this kernel: {words}")]
    Needs {
        /// What `nft` calls itself.
        version: String,
        /// What it said.
        words: NftError,
    },
    /// No program, no root, or no kernel support.
    #[error("the egress guard cannot be tried in a namespace of its own")]
    Namespace(#[source] io::Error),
    /// Segments cannot be refused.
    #[error("the egress guard needs Linux 5.7 with control groups and BPF")]
    Segments(#[source] io::Error),
    /// A table that its owner alone can remove cannot be had.
    #[error("the egress guard cannot be latched (Linux 5.12 and an interactive nft are needed)")]
    Latch(#[source] NftError),
    /// The locks cannot be had.
    #[error("the egress guard cannot be shared between leases")]
    Lock(#[source] io::Error),
    /// The packet filter cannot be watched.
    #[error("changes to the packet filter cannot be watched")]
    Watch(#[source] io::Error),
    /// Other rules under our name.
    #[error(
        "the table inet {TABLE} has other rules than this version's, and leases that need them"
    )]
    Foreign,
    /// The program or the kernel refused.
    #[error("the egress guard was not changed")]
    Nft(#[from] NftError),
}
