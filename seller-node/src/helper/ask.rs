//! What control and helper say to each other: the only door to root on a seller's host.
//!
//! Only control asks, and each question is checked before it is carried out:
//!
//! - [`Ask::Ready`], said as root before any byte from outside: the lease's socket, what to remove
//!   in the end. Once.
//! - [`Ask::Share`], in its place: this guest shares the lease of another program, which has the
//!   socket and the data plane. What to remove in the end, nothing else. Once.
//! - [`Ask::Listen`], after that: a socket of its own, when the other lease has ended. Where it
//!   listens is the helper's to choose. Once.
//! - [`Ask::Call`], likewise: a connection to the local socket of another guest of the same order,
//!   by a number. The helper says and hears nothing on it.
//! - [`Ask::Start`]: a data plane on the lease's socket.
//! - [`Ask::Dial`]: the addresses of the ticket. By the dial rules, at most [`ADDRESSES_MAX`].
//! - [`Ask::Plug`], [`Ask::Follow`]: the guest's cable, with rules for one station. Once; each
//!   number within its bounds.
//! - [`Ask::Open`]: the cable's links up. It was verified, and is once more.
//! - [`Ask::Proven`], [`Ask::Alive`], [`Ask::Joined`]: addresses that proved their keys. The kernel
//!   heard them; their ranges, rate and number.
//! - [`Ask::Counts`]: what the cable's rules have stopped.
//! - [`Ask::EndMachine`], [`Ask::Unplug`], [`Ask::Keep`], [`Ask::Forget`]: of this lease alone,
//!   without a name.
//!
//! A data plane and a machine have no way to ask the helper anything.

use std::net::SocketAddr;

use overlay::helper::Leftovers;
use overlay_proto::control::Slot;
use serde::{Deserialize, Serialize};
use vde_attach::wire::WireSpec;
use vde_switch::serve::Route;
use vde_switch::station::{Segment, Station};

#[cfg(doc)]
use overlay_proto::ticket::ADDRESSES_MAX;

/// What control asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The first words, said as root; the lease's UDP socket is beside them. Answered, with what
    /// keeps the host's guard standing while it is open.
    Ready {
        /// The socket's port.
        port: u16,
        /// What to remove in the end.
        leftovers: Leftovers,
    },
    /// To be let dial the ticket's addresses; replaces those that were asked for before.
    Dial(Vec<SocketAddr>),
    /// A data plane. Answered, with control's end of its socket.
    Start,
    /// The guest's cable, for one station. Answered, with the data plane's end.
    Plug(Wiring),
    /// The same cable, for a segment that changed.
    Follow(Wiring),
    /// The cable's links up: the grant is verified and data passed both ways. Answered.
    Open,
    /// That this address of a member has proved its key, and still does: to be let send there.
    Proven(SocketAddr),
    /// That these addresses, proven before, are in use still; others may be forgotten.
    Alive(Vec<SocketAddr>),
    /// That the gateway has proved its key at this address, over TCP.
    Joined(SocketAddr),
    /// What the rules of the guest's cable have stopped. Answered by [`Tell::Counts`].
    Counts,
    /// The machine's end, which is waited for.
    EndMachine,
    /// The lease stays when the program ends.
    Keep,
    /// The lease's file goes when the program ends: its ticket opens nothing any more.
    Forget,
    /// In place of [`Ask::Ready`]: the guest shares another program's lease. Answered.
    Share {
        /// What to remove in the end.
        leftovers: Leftovers,
    },
    /// A socket of its own, for a guest that has shared a lease until now. Answered by
    /// [`Tell::Listening`], with what keeps the host's guard standing.
    Listen,
    /// A connection to the program that has this slot of the order on this host. Answered, with its
    /// descriptor if there is such a program.
    Call(Slot),
    /// The guest's end: its cable goes, and what it ended in. The lease goes on for others.
    Unplug,
}

/// What a guest's cable carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wiring {
    /// Who speaks there.
    pub(crate) station: Station,
    /// On which segment.
    pub(crate) segment: Segment,
    /// Networks behind stations of it.
    pub(crate) routes: Vec<Route>,
}

impl Wiring {
    /// Returns what rules are made from.
    pub(crate) fn spec(&self) -> WireSpec {
        let Self { station, segment, routes } = self;
        WireSpec { station: *station, segment: *segment, routes: routes.clone() }
    }
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Tell {
    /// What was asked is done.
    Done,
    /// The socket that was asked for is open, at this port.
    Listening(u16),
    /// What was asked is not done.
    Refused {
        /// How the program ends over it.
        exit: u8,
        /// Why, for the user.
        text: String,
    },
    /// What the rules of the guest's cable have stopped: the names of reasons, and frames.
    Counts(Vec<(String, u64)>),
    /// The machine runs; its console, its own words and perhaps the console's file are beside this.
    MachineStarted(Machine),
    /// The machine has ended.
    MachineEnded {
        /// How, in the system's words.
        status: String,
        /// Whether that was its own wish.
        success: bool,
        /// In how many seconds it is started again, if it is.
        again_s: Option<u64>,
    },
    /// The lease ends: what confines the guest no longer stands, or a part is gone.
    Over {
        /// How the program ends over it.
        exit: u8,
        /// Why, for the user.
        text: String,
    },
}

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its process.
    pub(crate) pid: u32,
    /// Whether its console goes to the file whose descriptor is beside.
    pub(crate) has_file: bool,
}
