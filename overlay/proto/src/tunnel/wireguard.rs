//! The WireGuard engine: boringtun's `Tunn`, with guards in front of it.
//!
//! # Theory of operation
//! One `Tunn` a peer. Its number, 24 bits, is the upper part of every index we hand out, so an
//! incoming message names its tunnel. In front of `Tunn` stand: output buffers that are never too
//! small (it panics otherwise); a counter check, because it computes `counter + 1` unchecked and an
//! authenticated peer may send 2^64 - 1; and payloads that look like IPv4 (the shim), because it
//! refuses others. A `Tunn` that has given up is made anew, since it stays mute otherwise.
//!
//! # Limits
//! Replay window of 1024 messages, eight sessions. boringtun reads the clock and the system's
//! randomness itself: the written exception to "cores act on nothing".
//!
//! Source: WireGuard whitepaper, 5.4 and 6.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Carrier, Checked, Engine, Handshaken, Load, OUTPUT_LEN_MIN, Opened};
use crate::wire::SEAL_LEN;

/// First counter that is refused: WireGuard's REJECT_AFTER_MESSAGES, 2^64 - 2^13 - 1.
pub const COUNTER_MAX: u64 = u64::MAX - (1 << 13);

/// Largest step, in messages, from the highest counter seen: no honest peer loses four billion
/// messages in a session of 180 s.
pub const COUNTER_STEP_MAX: u64 = 1 << 32;

/// Sessions that boringtun keeps; it files them by the low bits of our index.
const SESSIONS: usize = 8;

/// A node's static key, shared by all its tunnels.
#[derive(Clone)]
pub struct Identity {
    secret: StaticSecret,
    public: PublicKey,
    /// Checks the first MAC alone: when cookies are asked for is decided in front of the tunnels.
    mac: Arc<RateLimiter>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Makes it from the 32 secret bytes.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        let mac = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self { secret, public, mac }
    }

    /// Returns the public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }
}

/// A node's key, and the check of handshake messages before any costs a Diffie-Hellman computation.
pub struct WireGuardCarrier {
    identity: Identity,
    /// Asks everyone for a cookie.
    cookies: RateLimiter,
}

impl std::fmt::Debug for WireGuardCarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireGuardCarrier(..)")
    }
}

impl WireGuardCarrier {
    /// Makes the carrier of the node with this X25519 secret.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let identity = Identity::new(secret);
        let cookies = RateLimiter::new(&identity.public, 0);
        Self { identity, cookies }
    }
}

impl Carrier for WireGuardCarrier {
    fn public(&self) -> [u8; 32] {
        self.identity.public()
    }

    fn tunnel(&self, peer: [u8; 32], number: u32) -> Box<dyn Engine> {
        Box::new(WireGuard::new(self.identity.clone(), peer, number))
    }

    fn check(&self, source: IpAddr, load: Load, datagram: &[u8], out: &mut [u8]) -> Checked {
        if out.len() < OUTPUT_LEN_MIN {
            return Checked::Refused;
        }
        let macs = match load {
            Load::Idle => &*self.identity.mac,
            Load::Loaded => &self.cookies,
        };
        match macs.verify_packet(Some(source), datagram, out) {
            Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)) => Checked::Passed,
            Err(TunnResult::WriteToNetwork(cookie)) => Checked::Cookie(cookie.len()),
            Ok(_) | Err(_) => Checked::Refused,
        }
    }

    fn knock(&self, datagram: &[u8]) -> Option<[u8; 32]> {
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let half = parse_handshake_anon(&self.identity.secret, &self.identity.public, &init);
        half.ok().map(|half| half.peer_static_public)
    }
}

/// One peer's tunnel.
pub struct WireGuard {
    identity: Identity,
    peer: PublicKey,
    number: u32,
    tunn: Tunn,
    /// Highest authenticated counter by session, with the index that it belongs to.
    highest: [(u32, u64); SESSIONS],
}

impl std::fmt::Debug for WireGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireGuard").field("number", &self.number).finish_non_exhaustive()
    }
}

impl WireGuard {
    /// Makes the tunnel to the peer with this public key; `number` (24 bits) is unique on this
    /// node.
    #[must_use]
    pub fn new(identity: Identity, peer: [u8; 32], number: u32) -> Self {
        let peer = PublicKey::from(peer);
        let tunn = Self::tunn(&identity, peer, number);
        Self { identity, peer, number, tunn, highest: [(0, 0); SESSIONS] }
    }

    fn tunn(identity: &Identity, peer: PublicKey, number: u32) -> Tunn {
        let mac = Some(Arc::clone(&identity.mac));
        Tunn::new(identity.secret.clone(), peer, None, None, number & 0x00ff_ffff, mac)
    }
}

impl Engine for WireGuard {
    fn is_ready(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        if !self.is_ready() || out.len() < OUTPUT_LEN_MIN.max(payload.len() + SEAL_LEN) {
            return None;
        }
        match self.tunn.encapsulate(payload, out) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    fn open(&mut self, datagram: &[u8], counter: u64, out: &mut [u8]) -> Opened {
        if out.len() < OUTPUT_LEN_MIN.max(datagram.len()) || counter >= COUNTER_MAX {
            return Opened::Refused;
        }
        let Some(index) = datagram.get(4..8).and_then(|b| b.first_chunk::<4>()) else {
            return Opened::Refused;
        };
        let index = u32::from_le_bytes(*index);
        let highest = &mut self.highest[index as usize % SESSIONS];
        let seen = if highest.0 == index { highest.1 } else { 0 };
        if counter.saturating_sub(seen) > COUNTER_STEP_MAX {
            return Opened::Refused;
        }
        let opened = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(payload, _) => Opened::Payload(payload.len()),
            TunnResult::Done => Opened::Keepalive,
            TunnResult::Err(_)
            | TunnResult::WriteToNetwork(_)
            | TunnResult::WriteToTunnelV6(..) => return Opened::Refused,
        };
        *highest = (index, seen.max(counter));
        opened
    }

    fn handle_handshake(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Handshaken {
        if out.len() < OUTPUT_LEN_MIN.max(datagram.len()) {
            return Handshaken::Refused;
        }
        match (self.tunn.decapsulate(Some(source), datagram, out), datagram.first()) {
            (TunnResult::WriteToNetwork(answer), Some(1)) => Handshaken::Answer(answer.len()),
            (TunnResult::WriteToNetwork(keepalive), Some(2)) => {
                Handshaken::Established(keepalive.len())
            }
            (TunnResult::Done, Some(3)) => Handshaken::Noted,
            _ => Handshaken::Refused,
        }
    }

    fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        if out.len() < OUTPUT_LEN_MIN {
            return None;
        }
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    fn tick(&mut self, out: &mut [u8]) -> Option<usize> {
        if out.len() < OUTPUT_LEN_MIN {
            return None;
        }
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => {
                self.tunn = Self::tunn(&self.identity, self.peer, self.number);
                None
            }
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn pair() -> (WireGuard, WireGuard) {
        let (a, b) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let (a_public, b_public) = (a.public(), b.public());
        (WireGuard::new(a, b_public, 7), WireGuard::new(b, a_public, 9))
    }

    /// Runs the handshake from `a`; both ends are ready afterwards.
    fn establish(a: &mut WireGuard, b: &mut WireGuard) {
        let (mut x, mut y) = ([0; 2048], [0; 2048]);
        let len = a.initiate(&mut x).unwrap();
        let Handshaken::Answer(len) = b.handle_handshake(SOURCE, &x[..len], &mut y) else {
            panic!("no answer")
        };
        let Handshaken::Established(len) = a.handle_handshake(SOURCE, &y[..len], &mut x) else {
            panic!("not established")
        };
        assert_eq!(b.open(&x[..len], counter(&x), &mut y), Opened::Keepalive);
        assert!(a.is_ready() && b.is_ready());
    }

    fn counter(datagram: &[u8]) -> u64 {
        u64::from_le_bytes(datagram[8..16].try_into().unwrap())
    }

    /// A payload that looks like IPv4 to the engine.
    fn payload(len: usize) -> Vec<u8> {
        let mut payload = vec![0x5a; len];
        payload[..4].copy_from_slice(&[0x41, 0, (len >> 8) as u8, len as u8]);
        payload
    }

    #[test]
    fn payloads_pass_both_ways_at_their_length() {
        let (mut a, mut b) = pair();
        establish(&mut a, &mut b);
        for len in [20, 21, 60, 1400, 1440, 9000] {
            let (mut sealed, mut open) = (vec![0; len + 200], vec![0; len + 200]);
            let n = a.seal(&payload(len), &mut sealed).unwrap();
            assert_eq!(n, super::super::sealed_len(len));
            assert_eq!(b.open(&sealed[..n], counter(&sealed), &mut open), Opened::Payload(len));
            assert_eq!(open[..len], payload(len));
        }
    }

    #[test]
    fn a_replayed_or_altered_message_is_refused() {
        let (mut a, mut b) = pair();
        establish(&mut a, &mut b);
        let (mut sealed, mut open) = ([0; 300], [0; 300]);
        let n = a.seal(&payload(40), &mut sealed).unwrap();
        for bit in 0..n * 8 {
            let mut other = sealed;
            other[bit / 8] ^= 1 << (bit % 8);
            let opened = b.open(&other[..n], counter(&other), &mut open);
            // The three reserved bytes and the type are the demultiplexer's to check.
            assert!(bit < 32 || opened == Opened::Refused, "bit {bit}");
        }
        for len in 0..n {
            assert_eq!(b.open(&sealed[..len], 0, &mut open), Opened::Refused, "{len} bytes");
        }
        assert_eq!(b.open(&sealed[..n], counter(&sealed), &mut open), Opened::Payload(40));
        assert_eq!(b.open(&sealed[..n], counter(&sealed), &mut open), Opened::Refused);
    }

    #[test]
    fn counters_that_no_honest_peer_sends_never_reach_the_engine() {
        let (mut a, mut b) = pair();
        establish(&mut a, &mut b);
        let (mut sealed, mut open) = ([0; 300], [0; 300]);
        let n = a.seal(&payload(40), &mut sealed).unwrap();
        for counter in [u64::MAX, COUNTER_MAX, COUNTER_STEP_MAX + 2] {
            let mut other = sealed;
            other[8..16].copy_from_slice(&counter.to_le_bytes());
            assert_eq!(b.open(&other[..n], counter, &mut open), Opened::Refused);
        }
        assert_eq!(b.open(&sealed[..n], counter(&sealed), &mut open), Opened::Payload(40));
    }

    #[test]
    fn short_buffers_give_nothing_instead_of_a_panic() {
        let (mut a, mut b) = pair();
        establish(&mut a, &mut b);
        for len in 0..OUTPUT_LEN_MIN {
            let mut out = vec![0; len];
            assert_eq!(a.seal(&payload(20), &mut out), None);
            assert_eq!(a.initiate(&mut out), None);
            assert_eq!(a.tick(&mut out), None);
            assert_eq!(a.open(&[4; 40], 0, &mut out), Opened::Refused);
            assert_eq!(a.handle_handshake(SOURCE, &[1; 148], &mut out), Handshaken::Refused);
        }
    }

    #[test]
    fn the_front_door_names_the_key_and_refuses_who_does_not_know_ours() {
        let (mut a, _) = pair();
        let (mut x, mut out) = ([0; 2048], [0; 2048]);
        let len = a.initiate(&mut x).unwrap();
        let door = WireGuardCarrier::new([2; 32]);
        assert_eq!(door.check(SOURCE, Load::Idle, &x[..len], &mut out), Checked::Passed);
        assert_eq!(door.knock(&x[..len]), Some(a.identity.public()));
        let other = WireGuardCarrier::new([3; 32]);
        assert_eq!(other.check(SOURCE, Load::Idle, &x[..len], &mut out), Checked::Refused);
        assert_eq!(other.knock(&x[..len]), None);
        x[len - 20] ^= 1; // the first MAC
        for load in [Load::Idle, Load::Loaded] {
            assert_eq!(door.check(SOURCE, load, &x[..len], &mut out), Checked::Refused);
        }
    }

    #[test]
    fn under_load_a_source_must_have_seen_its_cookie() {
        let (mut a, _) = pair();
        let (mut x, mut out) = ([0; 2048], [0; 2048]);
        let door = WireGuardCarrier::new([2; 32]);
        let len = a.initiate(&mut x).unwrap();
        let Checked::Cookie(cookie) = door.check(SOURCE, Load::Loaded, &x[..len], &mut out) else {
            panic!("no cookie was asked for")
        };
        assert!(cookie < len, "a forged source hears more than was said in its name");
        assert_eq!(a.handle_handshake(SOURCE, &out[..cookie], &mut [0; 2048]), Handshaken::Noted);
        let len = a.initiate(&mut x).unwrap();
        assert_eq!(door.check(SOURCE, Load::Loaded, &x[..len], &mut out), Checked::Passed);
        let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
        let checked = door.check(elsewhere, Load::Loaded, &x[..len], &mut out);
        assert!(matches!(checked, Checked::Cookie(_)), "another's cookie was taken");
    }
}
