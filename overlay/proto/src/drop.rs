//! Why frames and datagrams die on their way between switch and socket. The switch has reasons of
//! its own (`vde_switch::verdict`); each frame ends in exactly one outcome of the two lists.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One named reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the name under which `status` counts it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Says in a sentence what was wrong.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The lease's grant has expired: frames and datagrams of both directions.
    Expired = "grant-expired",
    /// A frame above what its port may send, by the guest's grant.
    RateLimit = "rate-limit",
    /// A frame whose virtio-net header asks for what is not offered.
    BadHeader = "bad-offload-header",
    /// A frame waited for a tunnel and its queue was full.
    PendingFull = "tunnel-queue-full",
    /// A frame waited for a tunnel that did not come up in time.
    NoTunnel = "no-tunnel",
    /// A frame for a member that is no longer known.
    NoMember = "no-member",
    /// The engine did not seal it: the session ended in between.
    NotSealed = "not-sealed",
    /// A frame longer than the tunnel splits.
    TooLong = "too-long-to-split",
    /// The attachment's queue was full: the guest does not drain it.
    PortFull = "port-full",
    /// The attachment is gone.
    PortGone = "port-gone",
    /// Datagrams that the socket did not take: its buffer was full.
    SocketFull = "socket-full",
    /// Datagrams that were larger than the path; the path's size was reduced.
    PathNarrowed = "path-narrowed",
    /// Datagrams that the system refused to send: no route, interface down.
    SocketError = "socket-error",
    /// A datagram of no known family.
    Unknown = "datagram-unknown",
    /// A QUIC datagram; this carrier is not spoken yet.
    QuicNotSpoken = "datagram-quic",
    /// An index that names no live tunnel.
    NoSuchTunnel = "datagram-no-tunnel",
    /// A datagram above its member's share while more came than could be opened.
    FairShare = "fair-share",
    /// Not authentic, replayed, or of an ended session.
    NotAuthentic = "datagram-not-authentic",
    /// A handshake message above the source's rate.
    HandshakeLimited = "handshake-limited",
    /// A handshake message that is not for us, not authentic or replayed.
    HandshakeRefused = "handshake-refused",
    /// A relayed datagram from an address that is no member's.
    RelayStranger = "relay-stranger",
    /// A relayed datagram for a member that has no path, or for itself.
    RelayNoPath = "relay-no-path",
    /// A payload whose shim is of another version or lies.
    BadShim = "bad-shim",
    /// A segment that cannot be one: no TCP, no payload, checksum complete.
    BadSegment = "bad-segment",
    /// A piece of a split frame that fits none, or whose others did not come in time.
    PieceLost = "piece-lost",
    /// A control message that says nothing.
    BadControl = "bad-control",
    /// A frame to be handed on that is no group frame, or whose receiver is not the gateway.
    BadGroup = "bad-group",
    /// Dialling budget of an unproven address used up.
    DialBudget = "dial-budget",
}

/// Counts drops by reason; shared by both directions.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// Counts `count` of one reason.
    pub fn add(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the count of one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
