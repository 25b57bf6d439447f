//! What other commands ask a running `overlay-seller join`, over its local socket.

use std::fmt;

use overlay_proto::control::Detail;
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Answered by a [`LeaseStatus`].
    Status,
    /// Answered by a [`Captured`](overlay::capture::Captured) and the descriptor of its records.
    Pcap {
        /// How much of each frame.
        detail: Detail,
    },
    /// Answered by `{}`; then the program leaves the order and ends.
    Leave,
    /// Asked by the program of another guest of the order: to take that guest into this lease.
    /// Answered by [`Shares`], with one end of a channel (`join::share`) if it does.
    Share(Share),
}

/// The guest that is to share a lease.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Share {
    /// The text of its ticket.
    pub(crate) ticket: String,
    /// Whether its seller's host is to speak to the buyer alone.
    pub(crate) only_buyer: bool,
    /// Whether addresses of the local network may be dialled and named.
    pub(crate) lan: bool,
    /// For how many seconds the guest waits for a gateway that is not heard.
    pub(crate) keep_s: u64,
}

/// Leaves the ticket out, since its secret is in it.
impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticket: _, only_buyer, lan, keep_s } = self;
        write!(f, "Share(only_buyer: {only_buyer}, lan: {lan}, keep_s: {keep_s})")
    }
}

/// Whether a guest is taken into a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shares {
    /// Whose lease it is; `None` if the guest is to have a lease of its own.
    pub(crate) of: Option<String>,
    /// Why not, in words.
    pub(crate) why: Option<String>,
}

/// A lease as it is now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeaseStatus {
    /// Its order's name.
    pub(crate) order: String,
    /// Its order's id.
    pub(crate) id: String,
    /// The guest's name.
    pub(crate) guest: String,
    /// The guest's IPv4 address; empty if the lease does not run.
    pub(crate) ipv4: String,
    /// The guest's IPv6 address; empty if the lease does not run.
    pub(crate) ipv6: String,
    /// Where the guest is: `eth0 in netns guest1`.
    pub(crate) attached: String,
    /// UDP port; 0 if not known.
    pub(crate) port: u16,
    /// Path to the buyer: `direct`, `relay` or `none`.
    pub(crate) path: String,
    /// Where the buyer's data plane is heard, if the path is direct.
    pub(crate) remote: Option<String>,
    /// Latest round trip to the buyer.
    pub(crate) rtt_ms: Option<f64>,
    /// Other members of the order, the buyer included.
    pub(crate) members: usize,
    /// `up`, `data` (no control connection), `control` (no data yet), `away` (neither), `suspended`
    /// (the grant ran out), `left` (its guest has ended, others share its lease) or `stopped`.
    pub(crate) state: String,
    /// Seconds that its grant still lives; `None` if it ran out or the lease does not run.
    pub(crate) lease_left_s: Option<u64>,
    /// Seconds since the guest's first frame; `None` if it never sent one.
    pub(crate) first_frame_s: Option<u64>,
    /// How often its address was handed out by DHCP.
    pub(crate) addresses_given: u64,
    /// Frames that came from the guest.
    pub(crate) in_frames: u64,
    /// Bytes of frames that came from the guest.
    pub(crate) in_bytes: u64,
    /// Bits a second of them, over the last seconds.
    pub(crate) in_bps: f64,
    /// Frames a second of them.
    pub(crate) in_fps: f64,
    /// Frames handed to the guest.
    pub(crate) out_frames: u64,
    /// Bytes of frames handed to the guest.
    pub(crate) out_bytes: u64,
    /// Bits a second of them, over the last seconds.
    pub(crate) out_bps: f64,
    /// Frames a second of them.
    pub(crate) out_fps: f64,
    /// Frames dropped, by reason.
    pub(crate) drops: std::collections::BTreeMap<String, u64>,
    /// Those reasons in words.
    pub(crate) reasons: std::collections::BTreeMap<String, String>,
}
