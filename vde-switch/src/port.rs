//! Ports: what the switch is told of them, their numbers, their configuration.

use std::fmt;
use std::net::IpAddr;

use crate::mac::MacAddr;
use crate::station::Station;

/// Most ports of a switch: an order's members twice over, and their guests.
pub const PORTS_MAX: usize = 1024;

/// Most stations of one port. A member runs a few guests; all are searched for each frame.
pub const STATIONS_MAX: usize = 64;

/// A port's number, chosen by whoever plugs it in, below [`PORTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A guest or this computer itself.
    Attachment,
    /// Another member of the order. What comes from there never leaves by another uplink.
    Uplink,
}

/// Whether the port's stations are all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// They are; whoever else speaks there is refused.
    Off,
    /// It bridges a LAN: others may speak as long as they take nobody's place.
    On,
}

/// Whether the port may speak for other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandsOn {
    /// For its own stations only.
    No,
    /// It is the gateway's uplink: its group frames may come from other members' stations.
    Yes,
}

/// One port's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// What is behind it.
    pub kind: PortKind,
    /// Who may speak there.
    pub stations: Vec<Station>,
    /// Whether others may, too.
    pub learning: Learning,
    /// Whether it hands on what others said.
    pub hands_on: HandsOn,
}

/// Why a port cannot be set. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The number is too high.
    #[error("port {0} is beyond the switch's {PORTS_MAX} ports")]
    Number(PortId),
    /// More stations than a port has room for.
    #[error("{0} stations are more than one port's {STATIONS_MAX}")]
    Stations(usize),
    /// An uplink that learns.
    #[error("an uplink cannot learn: whoever speaks there is in the roster")]
    LearningUplink,
    /// A group address, zero, or that of the segment's services.
    #[error("{0} cannot be a station's MAC address")]
    NotAStation(MacAddr),
    /// Another station has the MAC address.
    #[error("{0} belongs to a station of port {1}")]
    MacTaken(MacAddr, PortId),
    /// Another station has the IP address.
    #[error("{0} belongs to a station of port {1}")]
    AddressTaken(IpAddr, PortId),
}
