//! A tunnel's engine: what turns payloads into sealed datagrams and back.
//!
//! One trait, so that a carrier is a value: WireGuard by boringtun in the real programs, later
//! others. The rest of this crate knows neither keys nor nonces. Which engine two members use
//! follows from their signed roster entries; nothing is negotiated on the wire.

pub mod wireguard;

use std::fmt;
use std::net::IpAddr;

use crate::wire::SEAL_LEN;

/// Room, in bytes, that a caller leaves behind a payload when it seals, and the least size of any
/// output buffer: a handshake initiation of 148 bytes must fit wherever a payload might.
pub const OUTPUT_LEN_MIN: usize = 160;

/// What became of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Authentic; so many bytes of payload are at the front of the output.
    Payload(usize),
    /// Authentic, and empty on purpose.
    Keepalive,
    /// Not authentic, replayed, of no live session, or with a counter no honest peer sends.
    Refused,
}

/// What became of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshaken {
    /// The peer's initiation is authentic; the answer, of so many bytes, goes back to its source.
    Answer(usize),
    /// The peer's response is authentic: the session is up; the keepalive of so many bytes that
    /// confirms it goes back to its source.
    Established(usize),
    /// A cookie was taken note of.
    Noted,
    /// Not authentic, replayed, or nobody asked.
    Refused,
}

/// One tunnel's cryptography. All sizes are bytes; `out` is at least [`OUTPUT_LEN_MIN`] and
/// [`SEAL_LEN`] more than the payload.
pub trait Engine: Send + fmt::Debug {
    /// Says whether [`Engine::seal`] has a session to seal with.
    fn is_ready(&self) -> bool;

    /// Seals a payload of at least [`crate::wire::shim::PAYLOAD_LEN_MIN`] bytes to the front of
    /// `out`; adds [`SEAL_LEN`]. `None` without a session.
    fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize>;

    /// Opens a data message with this `counter`, as the demultiplexer read it.
    fn open(&mut self, datagram: &[u8], counter: u64, out: &mut [u8]) -> Opened;

    /// Takes an initiation, response or cookie from `source`.
    fn handle_handshake(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Handshaken;

    /// Writes a new initiation, in place of one that is under way.
    fn initiate(&mut self, out: &mut [u8]) -> Option<usize>;

    /// Lets timers run, every 100 to 250 ms; a rekey or keepalive of so many bytes may be due.
    fn tick(&mut self, out: &mut [u8]) -> Option<usize>;
}

/// How much is asked of a handshake message before it costs a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// That its sender knows our public key.
    Idle,
    /// Also that he is heard at the address he sends from.
    Loaded,
}

/// What the MACs of a handshake message say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// As much as was asked.
    Passed,
    /// The source is not proven: the cookie reply of so many bytes goes back to it.
    Cookie(usize),
    /// Its sender does not even know our key.
    Refused,
}

/// A node's side of one kind of tunnel: its static key, and the door at which strangers knock.
///
/// The real programs have one, WireGuard; the simulation brings one of its own that repeats from a
/// seed.
pub trait Carrier: Send + Sync + fmt::Debug {
    /// Returns the node's public key.
    fn public(&self) -> [u8; 32];

    /// Makes the tunnel to the peer with this public key; `number` (24 bits) is unique on this
    /// node.
    fn tunnel(&self, peer: [u8; 32], number: u32) -> Box<dyn Engine>;

    /// Looks at the MACs of an initiation or a response, which costs a hash or two.
    fn check(&self, source: IpAddr, load: Load, datagram: &[u8], out: &mut [u8]) -> Checked;

    /// Says which key an initiation claims to come from; only that key's tunnel can tell. Costs a
    /// Diffie-Hellman computation.
    fn knock(&self, datagram: &[u8]) -> Option<[u8; 32]>;
}

/// Returns the length of a payload once sealed.
#[must_use]
pub const fn sealed_len(payload_len: usize) -> usize {
    payload_len + SEAL_LEN
}
