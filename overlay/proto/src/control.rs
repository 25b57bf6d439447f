//! The only door between control and data plane: [`Command`] in, [`Event`] out, as bytes.
//!
//! The data plane is handed descriptors and these messages, nothing else. Each message is one
//! datagram of a local socket, postcard-encoded, at most [`MESSAGE_LEN_MAX`] bytes; a command that
//! carries a descriptor has it attached (SCM_RIGHTS). Both sides are one program today; neither
//! believes the other's lengths or numbers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use vde_switch::mac::MacAddr;
pub use vde_switch::serve::{GuestConfig, Route};
use vde_switch::station::{Segment, Station};

/// Largest encoded message, in bytes: a datagram of a local socket stays below its default buffer.
pub const MESSAGE_LEN_MAX: usize = 32 * 1024;

/// Most candidate addresses kept for one member; the rest is ignored.
pub const CANDIDATES_MAX: usize = 8;

/// Most members of an order, slot numbers included: what a /24 has room for, doubled.
pub const MEMBERS_MAX: usize = 512;

/// A member's number in its order, also its index at the relay. Slot 0 is the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u16);

impl Slot {
    /// The gateway's own slot: relay, and the one that may hand group frames on.
    pub const GATEWAY: Self = Self(0);
}

/// A local attachment's number at this lease's switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalPort(pub u16);

impl LocalPort {
    /// The port of the slot's guest, whose limits its grant sets.
    pub const GUEST: Self = Self(0);
}

/// What a local port may send; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of frames a second.
    pub bytes_per_s: u64,
    /// Frames a second; a super-frame counts as all that it stands for.
    pub frames_per_s: u32,
}

impl Limits {
    /// No limit.
    pub const NONE: Self = Self { bytes_per_s: 0, frames_per_s: 0 };
}

/// One other member, as the roster and the local dial rules allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its slot in the order.
    pub slot: Slot,
    /// Its data-plane X25519 public key.
    pub key: [u8; 32],
    /// The stations its key may speak for, from its grants.
    pub stations: Vec<Station>,
    /// Addresses that may be dialled, best first; already filtered by the dial rules.
    pub candidates: Vec<SocketAddr>,
    /// Whether the candidates are hearsay (from the roster: few packets) or the user's own and the
    /// ticket's.
    pub trust: AddressTrust,
}

/// How freely an unproven address may be dialled (guarantee G9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressTrust {
    /// From the user's own configuration or the ticket.
    Given,
    /// Heard from others.
    Hearsay,
}

/// A lease's remaining life, counted on the data plane's own clock from when it hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// So many milliseconds, from a grant that was renewed on a live stream.
    Millis(u32),
    /// No end: the buyer's own lease.
    Unlimited,
}

/// What control asks of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The segment's addresses and options, first of all, and again when the order changes.
    SetSegment(Segment),
    /// Plugs in the tap whose descriptor is attached to this message.
    AttachPort {
        /// Number for it, chosen by control.
        port: LocalPort,
        /// Who may speak there.
        stations: Vec<Station>,
        /// How much.
        limits: Limits,
    },
    /// Unplugs it and closes the descriptor.
    DetachPort(LocalPort),
    /// Adds a member or replaces what is known of it; a live tunnel stays if the key is the same.
    SetMember(Member),
    /// Forgets a member: its tunnel is closed at once.
    RemoveMember(Slot),
    /// Makes the tunnel to a member now instead of on first use, and keeps it alive.
    Connect(Slot),
    /// Asks the member one round trip through its tunnel; answered by [`Event::Pong`].
    Ping {
        /// Whom.
        slot: Slot,
        /// Returned in the answer.
        id: u32,
    },
    /// Asks for [`Event::Stats`].
    GetStats,
    /// Stops all threads; the socket closes when they are gone.
    Shutdown,
    /// How long the lease lives from now on. A data plane starts without life: nothing flows until
    /// this came, and nothing does once it has run out, whatever has become of control.
    Live(Life),
    /// Changes how much a local port may send.
    SetLimits {
        /// Which.
        port: LocalPort,
        /// From now on.
        limits: Limits,
    },
    /// What a local port's guest is told when it asks for its configuration; kept for a port that
    /// is not plugged in yet, or is plugged in again.
    Serve {
        /// Which.
        port: LocalPort,
        /// Beside its addresses and the segment's options.
        guest: GuestConfig,
    },
    /// Which networks are behind which stations; replaces those that were set before.
    SetRoutes(Vec<Route>),
    /// Copies the frames of a local port to the descriptor attached to this message, until its
    /// other end closes. The shell's alone: no frame goes another way for it.
    Capture {
        /// Which.
        port: LocalPort,
        /// How much of each frame.
        detail: Detail,
        /// Only frames from or to this station, group frames of the port included.
        station: Option<MacAddr>,
    },
}

/// How much of a frame a capture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Its headers, Ethernet to transport: no byte that a program wrote.
    Headers,
    /// All of it.
    Frames,
}

/// How datagrams reach a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// No tunnel, or none that has carried data both ways yet.
    None,
    /// Straight to this address.
    Direct(SocketAddr),
    /// Sealed datagrams handed on by the gateway.
    Relay,
}

/// What the data plane tells control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The path to a member changed; sent first when data has passed both ways.
    Path {
        /// Whose path.
        slot: Slot,
        /// Its new path.
        path: PathKind,
        /// Why, in a few words for the log.
        reason: String,
    },
    /// Answers [`Command::Ping`]; `None` after a second without a reply.
    Pong {
        /// Whom.
        slot: Slot,
        /// As asked.
        id: u32,
        /// Round trip in microseconds.
        rtt_us: Option<u32>,
    },
    /// Answers [`Command::GetStats`].
    Stats(Stats),
    /// A port's descriptor failed (its namespace is gone); the port is unplugged.
    PortLost {
        /// Which.
        port: LocalPort,
        /// The system's words.
        reason: String,
    },
    /// A command could not be carried out.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// Counters of one lease since its start. Each frame is in exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// One entry a member.
    pub members: Vec<MemberStats>,
    /// One entry a local port.
    pub ports: Vec<PortStats>,
    /// Drops by name of the reason, zero ones left out.
    pub drops: Vec<(String, u64)>,
}

/// Counters of one member's tunnel, payload bytes of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStats {
    /// Whose.
    pub slot: Slot,
    /// How it is reached.
    pub path: PathKind,
    /// Latest round trip, in microseconds.
    pub rtt_us: Option<u32>,
    /// Probes of the last minute without a reply, in percent.
    pub loss_percent: u8,
    /// Milliseconds since the last authenticated datagram.
    pub heard_ms: Option<u64>,
    /// Frames sent to it.
    pub sent_frames: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Frames that came from it and were delivered.
    pub received_frames: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames from it or to it that were dropped.
    pub dropped: u64,
}

/// Counters of one local port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Which.
    pub port: LocalPort,
    /// Frames that came from the attachment.
    pub in_frames: u64,
    /// Bytes of them.
    pub in_bytes: u64,
    /// Frames handed to the attachment.
    pub out_frames: u64,
    /// Bytes of them.
    pub out_bytes: u64,
    /// Frames from it that were dropped.
    pub dropped: u64,
    /// Leases of its IPv4 address confirmed by DHCP, renewals among them.
    pub dhcp4_leases: u64,
    /// The same of its IPv6 address.
    pub dhcp6_leases: u64,
    /// Router advertisements given to it.
    pub router_adverts: u64,
}
