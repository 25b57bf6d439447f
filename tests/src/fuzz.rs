//! The fuzz targets: any bytes go in, nothing panics, and what is accepted keeps its properties.
//!
//! `tests/fuzz` hands them to cargo-fuzz; `tests/tests/corpus.rs` replays the stored inputs of
//! `tests/corpus` with plain `cargo test`.

use overlay_proto::envelope::{Envelope, Kind};
use overlay_proto::ticket::Ticket;
use overlay_proto::wire::demux::{Family, classify};
use overlay_proto::wire::shim::Shim;

mod ruleset;

pub use ruleset::ruleset;

/// A target: its name, which is also its corpus' folder, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("envelope", envelope),
    ("ticket", ticket),
    ("shim", shim),
    ("demultiplexer", demultiplexer),
    ("port_policy", port_policy),
    ("vnet_hdr", vnet_hdr),
    ("dhcp4", dhcp4),
    ("dhcp6", dhcp6),
    ("ruleset", ruleset),
];

/// Highest number of an envelope's kind that is tried.
const KINDS_TRIED: u16 = 64;

/// Opens an envelope as every kind there is.
///
/// # Panics
/// When bytes are accepted as two kinds.
pub fn envelope(bytes: &[u8]) {
    let kinds = (0..KINDS_TRIED).filter_map(Kind::from_number);
    let opened = kinds.filter(|kind| Envelope::open(bytes, *kind).is_ok());
    assert!(opened.count() <= 1, "an envelope is of one kind");
}

/// Reads a ticket's text and a ticket's envelope.
///
/// # Panics
/// When what was accepted is written as something else.
pub fn ticket(bytes: &[u8]) {
    let read = std::str::from_utf8(bytes).ok().and_then(|text| Ticket::decode(text).ok());
    for ticket in read.into_iter().chain(Ticket::open(bytes)) {
        let again = Ticket::decode(&ticket.encode());
        assert_eq!(again.as_ref(), Ok(&ticket), "a ticket reads as it was written");
    }
}

/// Splits a tunnel's payload.
///
/// # Panics
/// When what was accepted does not read the same again.
pub fn shim(bytes: &[u8]) {
    let Some((shim, rest)) = Shim::parse(bytes) else { return };
    let len = shim.wire_len() + rest.len();
    assert!(len <= bytes.len(), "a shim makes nothing longer");
    let mut again = vec![0; shim.wire_len()];
    shim.emit(&mut again, u16::try_from(len).expect("its length was read from 16 bits"));
    again.extend_from_slice(rest);
    assert_eq!(Shim::parse(&again), Some((shim, rest)), "a shim reads as it was written");
}

/// Tells whose a datagram is.
///
/// # Panics
/// When one that is too short for its family is accepted.
pub fn demultiplexer(bytes: &[u8]) {
    let len_min = match classify(bytes) {
        Some(Family::Initiation) => 148,
        Some(Family::Answer { .. }) => 64,
        Some(Family::Data { .. }) => 32,
        Some(Family::Relay(_)) => 8,
        Some(Family::Quic) => 25,
        None => 0,
    };
    assert!(bytes.len() >= len_min, "{} bytes are too few for their family", bytes.len());
}

/// Shows a frame to a guest's port.
///
/// # Panics
/// When a frame passes that is not its station's.
pub fn port_policy(bytes: &[u8]) {
    if vde_switch::fuzz::port_policy(bytes).is_ok() {
        assert_eq!(bytes.get(6..12), Some(&vde_switch::fuzz::STATION.mac.0[..]));
    }
}

/// Shows a virtio-net header with its frame to the port of a guest.
pub fn vnet_hdr(bytes: &[u8]) {
    vde_switch::fuzz::vnet_hdr(bytes);
}

/// Asks for an IPv4 configuration at the port of a guest.
pub fn dhcp4(bytes: &[u8]) {
    vde_switch::fuzz::dhcp4(bytes);
}

/// Asks for an IPv6 configuration at the port of a guest.
pub fn dhcp6(bytes: &[u8]) {
    vde_switch::fuzz::dhcp6(bytes);
}
