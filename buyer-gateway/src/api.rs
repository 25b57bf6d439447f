//! What other commands ask a running `overlay-gw up`, over its local socket.

use overlay_proto::control::Detail;
use overlay_proto::names::Name;
use serde::{Deserialize, Serialize};

use crate::manage::Change;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Answered by an [`OrderStatus`].
    Status,
    /// Answered by [`Tickets`].
    Invite {
        /// How many.
        slots: u16,
        /// Name of the one guest, if not by number.
        guest: Option<Name>,
        /// Whether that guest is known, and whoever uses the ticket is to take its place.
        replace: bool,
        /// Seconds until they expire.
        expires_s: u64,
    },
    /// Answered by `{}` when it is made and members are told.
    Change(Change),
    /// Answered by a [`Pong`].
    Ping {
        /// Whom.
        guest: Name,
    },
    /// Answered by a [`Captured`](overlay::capture::Captured) and the descriptor of its records.
    Pcap {
        /// Frames between the buyer's port and whom.
        guest: Name,
        /// How much of each.
        detail: Detail,
    },
    /// Answered by `{}`; then the program ends.
    Down,
}

/// An order as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OrderStatus {
    /// Its name.
    pub(crate) order: String,
    /// Its id.
    pub(crate) id: String,
    /// The segment's IPv4 network.
    pub(crate) subnet: String,
    /// The segment's IPv6 prefix.
    pub(crate) ipv6: String,
    /// This computer's address on the segment.
    pub(crate) you: String,
    /// UDP and TCP port; 0 if not known.
    pub(crate) port: u16,
    /// `running` or `stopped`.
    pub(crate) state: String,
    /// All guests that joined and did not leave.
    pub(crate) guests: Vec<GuestStatus>,
    /// Frames dropped, by reason.
    pub(crate) drops: std::collections::BTreeMap<String, u64>,
    /// Those reasons in words.
    pub(crate) reasons: std::collections::BTreeMap<String, String>,
}

/// A guest as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GuestStatus {
    /// Its name.
    pub(crate) guest: String,
    /// Its IPv4 address.
    pub(crate) ipv4: String,
    /// Its IPv6 address.
    pub(crate) ipv6: String,
    /// The seller's key, short.
    pub(crate) seller: String,
    /// `direct`, `relay` or `none`.
    pub(crate) path: String,
    /// Where its data plane is heard, if the path is direct.
    pub(crate) remote: Option<String>,
    /// Latest round trip.
    pub(crate) rtt_ms: Option<f64>,
    /// Loss of the last minute.
    pub(crate) loss_percent: u8,
    /// Seconds that its grant still lives; `None` for one that ran out or was evicted.
    pub(crate) lease_left_s: Option<u64>,
    /// When it joined last, in unix seconds.
    pub(crate) joined_at: u64,
    /// Milliseconds since its data plane was heard last.
    pub(crate) heard_ms: Option<u64>,
    /// Whether a frame of its came here since this program runs.
    pub(crate) has_spoken: bool,
    /// Bits a second, both directions together, over the last seconds.
    pub(crate) rate_bps: f64,
    /// Bits a second of frames sent to it.
    pub(crate) sent_bps: f64,
    /// Frames a second sent to it.
    pub(crate) sent_fps: f64,
    /// Bits a second of frames that came from it.
    pub(crate) received_bps: f64,
    /// Frames a second that came from it.
    pub(crate) received_fps: f64,
    /// `up`: path and control; `data`: the path alone; `control`: the stream alone; `away`:
    /// neither; `suspended`: its grant ran out; `evicted`.
    pub(crate) state: String,
    /// Frames from it or to it that were dropped.
    pub(crate) dropped: u64,
    /// Frames sent to it.
    pub(crate) sent_frames: u64,
    /// Bytes of frames sent to it.
    pub(crate) sent_bytes: u64,
    /// Frames that came from it.
    pub(crate) received_frames: u64,
    /// Bytes of frames that came from it.
    pub(crate) received_bytes: u64,
}

/// Tickets as text.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tickets {
    /// Guest names and ticket texts.
    pub(crate) tickets: Vec<(String, String)>,
}

/// A round trip, or none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pong {
    /// The guest's address.
    pub(crate) ipv4: String,
    /// Milliseconds; `None` when nothing came back within a second.
    pub(crate) rtt_ms: Option<f64>,
}
