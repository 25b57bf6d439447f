//! What a guest's user is told, wherever his program is: here, or at the other end of a channel.

use std::time::Duration;

use overlay_proto::control::PathKind;
use serde::{Deserialize, Serialize};

/// Something that happened to one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// Data has passed both ways with the gateway, and the guest is plugged in.
    Joined(PathKind),
    /// The guest's first frame came.
    FirstFrame,
    /// The guest asked for its address and has it.
    Address,
    /// The path to another member changed.
    Path {
        /// `buyer`, or the other's name.
        to: String,
        /// The new path.
        path: PathKind,
        /// Why, in words.
        reason: String,
    },
    /// The grant ran out, after this life.
    Suspended(Duration),
    /// The grant was renewed.
    Resumed,
    /// The control connection went or came back.
    Control {
        /// Whether it is there.
        up: bool,
        /// Why, in words.
        reason: String,
    },
}
