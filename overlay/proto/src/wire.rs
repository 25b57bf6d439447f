//! What travels in one UDP datagram, layer by layer, and what each layer costs.
//!
//! ```text
//! UDP payload = [relay header 8] WireGuard header 16 | sealed { shim 8..12 | frame } | tag 16
//! ```
//!
//! | layer | bytes | constant |
//! |---|---|---|
//! | IPv4 / IPv6 and UDP header | 28 / 48 | [`UNDERLAY_V4_LEN`], [`UNDERLAY_V6_LEN`] |
//! | relay header, only on datagrams by way of the gateway | 8 | [`relay::RelayHeader::LEN`] |
//! | WireGuard data header and tag | 32 | [`SEAL_LEN`] |
//! | shim of a frame / segment or piece | 8 / 12 | [`shim::SHIM_LEN`], [`shim::SHIM_LONG_LEN`] |
//!
//! On an IPv4 underlay of 1500 bytes that leaves 1428 bytes for a segment of a TCP super-frame: an
//! inner IP packet of 1414 bytes. All documents cite this table.

pub mod demux;
pub mod probe;
pub mod relay;
pub mod shim;

/// IPv4 and UDP headers of one underlay packet, in bytes.
pub const UNDERLAY_V4_LEN: usize = 20 + 8;

/// IPv6 and UDP headers of one underlay packet, in bytes.
pub const UNDERLAY_V6_LEN: usize = 40 + 8;

/// What sealing adds, in bytes: WireGuard's data header (16) and the Poly1305 tag (16).
pub const SEAL_LEN: usize = 16 + 16;

/// Largest underlay packet that is sent, in bytes. Paths that carry less shrink it by themselves.
pub const UNDERLAY_MTU: usize = 1500;

/// Smallest UDP payload, in bytes, that a path is believed to carry: IPv6's minimum of 1280.
pub const UDP_PAYLOAD_MIN: usize = 1280 - UNDERLAY_V6_LEN;
