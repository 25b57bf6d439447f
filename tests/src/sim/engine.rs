//! The seeded engine: stands for WireGuard, repeats from a seed, refuses what WireGuard refuses.
//!
//! # Theory of operation
//! The handshake has WireGuard's shape: an initiation that names its sender and bears a timestamp
//! which must grow, a response, and data messages with counters and a replay window. A static key
//! is a Diffie-Hellman key modulo 2^61 - 1, so whoever lacks the secret makes no session; tags are
//! keyed BLAKE3 cut to 16 bytes. Nothing is encrypted: what the simulation asks is who is believed,
//! not who can read. The timestamp is wall time at the start plus time since, as in boringtun, so a
//! host whose clock was set back has the same trouble here.
//!
//! # Limits
//! Not secure, and no cookies: the front door's limits are tested elsewhere. [`SESSIONS_MAX`]
//! sessions, window of 128 messages.
//!
//! Source: WireGuard whitepaper, 5.4 and 6.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overlay_proto::tunnel::wireguard::COUNTER_MAX;
use overlay_proto::tunnel::{Carrier, Checked, Engine, Handshaken, Load, Opened};
use overlay_proto::wire::SEAL_LEN;
use overlay_proto::wire::demux::{DATA_LEN_MIN, INITIATION_LEN, RESPONSE_LEN};
use overlay_proto::wire::shim::{Kind, Shim};

use super::rng::mix;
use super::session::{GENERATOR, PRIME, Session, first_u64, key_of, mac1, power, tag};

/// Sessions kept by one tunnel.
pub const SESSIONS_MAX: usize = 4;

const SECOND: u64 = 1_000_000_000;
const REKEY_AFTER: u64 = 120 * SECOND;
const REJECT_AFTER: u64 = 180 * SECOND;
const REKEY_TIMEOUT: u64 = 5 * SECOND;
const REKEY_ATTEMPT: u64 = 90 * SECOND;
const KEEPALIVE: u64 = 10 * SECOND;
/// Where the first MAC and the tag of an initiation begin.
const INITIATION_MAC: usize = INITIATION_LEN - 32;
const INITIATION_TAG: usize = INITIATION_LEN - 16;
const RESPONSE_TAG: usize = RESPONSE_LEN - 16;

/// Whether the engine looks at counters; not to is a planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replays {
    /// As it must be.
    Refused,
    /// Planted.
    Taken,
}

/// What one data plane's tunnels have sealed and opened, in frames; probes are left out.
#[derive(Debug, Default)]
pub struct Tally {
    /// Frames and group frames that were opened.
    pub opened: AtomicU64,
    /// Pieces of frames that were.
    pub pieces: AtomicU64,
}

/// A node's static key and clock, shared by all its tunnels.
#[derive(Clone, Debug)]
pub struct SimCarrier {
    secret: u64,
    public: [u8; 32],
    /// The host's clock, in nanoseconds; it stands still while the host sleeps.
    clock: Arc<AtomicU64>,
    /// Wall time less boot time when the process started.
    stamp_base: u64,
    /// Differs from start to start, as a process's randomness does.
    start: u64,
    replays: Replays,
    /// Counts what is opened.
    pub tally: Arc<Tally>,
}

impl SimCarrier {
    /// Makes the carrier of a process that starts with this secret at wall time `wall`.
    #[must_use]
    pub fn new(secret: [u8; 32], clock: Arc<AtomicU64>, wall: u64, start: u64) -> Self {
        let secret = first_u64(&secret) % (PRIME - 2) + 1;
        let mut public = key_of(&[power(GENERATOR, secret)]);
        public[..8].copy_from_slice(&power(GENERATOR, secret).to_le_bytes());
        let stamp_base = wall.wrapping_sub(clock.load(Ordering::Relaxed));
        let (replays, tally) = (Replays::Refused, Arc::default());
        Self { secret, public, clock, stamp_base, start, replays, tally }
    }

    /// Takes replays: a planted bug.
    pub const fn plant_replays(&mut self) {
        self.replays = Replays::Taken;
    }
}

impl Carrier for SimCarrier {
    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn tunnel(&self, peer: [u8; 32], number: u32) -> Box<dyn Engine> {
        let static_key = power(first_u64(&peer), self.secret);
        Box::new(SimEngine {
            node: self.clone(),
            peer,
            static_key,
            number,
            count: 0,
            stamp_seen: 0,
            sessions: Vec::new(),
            current: None,
            handshake: None,
            attempt_at: None,
            heard_at: 0,
            sent_at: 0,
            data_sent_at: None,
        })
    }

    fn check(&self, _: IpAddr, _: Load, datagram: &[u8], _: &mut [u8]) -> Checked {
        // A response has no MAC here: its tag says as much.
        let split = datagram.split_at_checked(INITIATION_MAC);
        let known = split.is_none_or(|(signed, rest)| rest[..16] == mac1(&self.public, signed));
        if known { Checked::Passed } else { Checked::Refused }
    }

    fn knock(&self, datagram: &[u8]) -> Option<[u8; 32]> {
        datagram.get(8..40)?.first_chunk().copied()
    }
}

#[derive(Debug)]
struct Handshake {
    index: u32,
    secret: u64,
    sent_at: u64,
}

#[derive(Debug)]
struct SimEngine {
    node: SimCarrier,
    peer: [u8; 32],
    static_key: u64,
    number: u32,
    count: u64,
    stamp_seen: u64,
    sessions: Vec<Session>,
    /// Our index of the session that seals.
    current: Option<u32>,
    handshake: Option<Handshake>,
    attempt_at: Option<u64>,
    heard_at: u64,
    sent_at: u64,
    data_sent_at: Option<u64>,
}

impl SimEngine {
    fn now(&self) -> u64 {
        self.node.clock.load(Ordering::Relaxed)
    }

    fn ephemeral(&mut self) -> (u32, u64) {
        self.count += 1;
        let index = (self.number << 8) | (self.count & 0xff) as u32;
        let chance = mix(self.node.secret ^ mix(self.node.start ^ mix(u64::from(index))));
        (index, (chance ^ mix(self.count)) % (PRIME - 2) + 1)
    }

    fn add_session(&mut self, ours: u32, theirs: u32, ephemeral: u64, initiator: bool) {
        let key = |way: bool| key_of(&[self.static_key, ephemeral, u64::from(way)]);
        let (send_key, open_key) = (key(initiator), key(!initiator));
        let made_at = self.now();
        if self.sessions.len() >= SESSIONS_MAX {
            let spare = self.sessions.iter().position(|s| Some(s.ours) != self.current);
            self.sessions.remove(spare.unwrap_or(0));
        }
        let (sent, next, window) = (0, 0, 0);
        self.sessions.push(Session {
            ours,
            theirs,
            send_key,
            open_key,
            sent,
            next,
            window,
            made_at,
            initiator,
        });
    }

    fn current(&mut self) -> Option<&mut Session> {
        let (now, current) = (self.now(), self.current?);
        let session = self.sessions.iter_mut().find(|session| session.ours == current)?;
        (now - session.made_at < REJECT_AFTER).then_some(session)
    }

    fn seal_any(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let now = self.now();
        let session = self.current()?;
        let (body, len) = (payload.len() + 16, payload.len() + SEAL_LEN);
        let out = out.get_mut(..len)?;
        out[..4].copy_from_slice(&[4, 0, 0, 0]);
        out[4..8].copy_from_slice(&session.theirs.to_le_bytes());
        out[8..16].copy_from_slice(&session.sent.to_le_bytes());
        out[16..body].copy_from_slice(payload);
        let seal = tag(&session.send_key, &out[..body]);
        out[body..].copy_from_slice(&seal);
        session.sent += 1;
        self.sent_at = now;
        Some(len)
    }

    fn answer(&mut self, initiation: &[u8], out: &mut [u8]) -> Option<usize> {
        let (signed, seal) = initiation.split_at_checked(INITIATION_TAG)?;
        let stamp = first_u64(&initiation[40..]);
        let named = initiation[8..40] == self.peer;
        if !named
            || *seal != tag(&key_of(&[self.static_key, 1]), signed)
            || stamp <= self.stamp_seen
        {
            return None;
        }
        self.stamp_seen = stamp;
        let (ours, secret) = self.ephemeral();
        let shared = power(first_u64(&initiation[48..]), secret);
        let theirs = first_u64(&initiation[4..]) as u32;
        self.add_session(ours, theirs, shared, false);
        let out = out.get_mut(..RESPONSE_LEN)?;
        out.fill(0);
        out[0] = 2;
        out[4..8].copy_from_slice(&ours.to_le_bytes());
        out[8..12].copy_from_slice(&theirs.to_le_bytes());
        out[12..20].copy_from_slice(&power(GENERATOR, secret).to_le_bytes());
        let seal = tag(&key_of(&[self.static_key, shared, 2]), &out[..RESPONSE_TAG]);
        out[RESPONSE_TAG..].copy_from_slice(&seal);
        Some(RESPONSE_LEN)
    }

    fn establish(&mut self, response: &[u8], out: &mut [u8]) -> Option<usize> {
        let (signed, seal) = response.split_at_checked(RESPONSE_TAG)?;
        let index = first_u64(&response[8..]) as u32;
        let handshake = self.handshake.as_ref().filter(|handshake| handshake.index == index)?;
        let shared = power(first_u64(&response[12..]), handshake.secret);
        if *seal != tag(&key_of(&[self.static_key, shared, 2]), signed) {
            return None;
        }
        self.handshake = None;
        self.attempt_at = None;
        self.add_session(index, first_u64(&response[4..]) as u32, shared, true);
        self.current = Some(index);
        self.heard_at = self.now();
        self.data_sent_at = None;
        self.seal_any(&[], out)
    }
}

impl Engine for SimEngine {
    fn is_ready(&self) -> bool {
        let now = self.now();
        let current = self.sessions.iter().find(|session| Some(session.ours) == self.current);
        current.is_some_and(|session| now - session.made_at < REJECT_AFTER)
    }

    fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = self.seal_any(payload, out)?;
        let now = self.now();
        self.data_sent_at.get_or_insert(now);
        Some(len)
    }

    fn open(&mut self, datagram: &[u8], counter: u64, out: &mut [u8]) -> Opened {
        let now = self.now();
        let body = datagram.len().saturating_sub(16);
        if datagram.len() < DATA_LEN_MIN || counter >= COUNTER_MAX {
            return Opened::Refused;
        }
        let index = first_u64(&datagram[4..]) as u32;
        let Some(session) = self.sessions.iter_mut().find(|session| session.ours == index) else {
            return Opened::Refused;
        };
        let fresh = session.is_fresh(counter) || self.node.replays == Replays::Taken;
        if now - session.made_at >= REJECT_AFTER
            || !fresh
            || datagram[body..] != tag(&session.open_key, &datagram[..body])
        {
            return Opened::Refused;
        }
        if self.node.replays == Replays::Refused {
            session.note(counter);
        }
        let newer = session.made_at;
        let is_newer = self.current().is_none_or(|current| current.made_at <= newer);
        if is_newer {
            self.current = Some(index);
        }
        self.heard_at = now;
        self.data_sent_at = None;
        let payload = &datagram[16..body];
        if payload.is_empty() {
            return Opened::Keepalive;
        }
        let len = payload.get(2..4).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
        let (Some(payload), Some(out)) = (payload.get(..len), out.get_mut(..len)) else {
            return Opened::Refused;
        };
        out.copy_from_slice(payload);
        let tally = &self.node.tally;
        match Shim::parse(payload).map(|(shim, _)| shim.kind) {
            Some(Kind::Frame { .. } | Kind::Group { .. }) => {
                tally.opened.fetch_add(1, Ordering::Relaxed);
            }
            Some(Kind::Piece { .. }) => {
                tally.pieces.fetch_add(1, Ordering::Relaxed);
            }
            Some(Kind::Segment { .. } | Kind::Control) | None => {}
        }
        Opened::Payload(len)
    }

    fn handle_handshake(&mut self, _: IpAddr, datagram: &[u8], out: &mut [u8]) -> Handshaken {
        match datagram.first() {
            Some(1) => self.answer(datagram, out).map_or(Handshaken::Refused, Handshaken::Answer),
            Some(2) => {
                let established = self.establish(datagram, out);
                established.map_or(Handshaken::Refused, Handshaken::Established)
            }
            _ => Handshaken::Refused,
        }
    }

    fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        let now = self.now();
        let (index, secret) = self.ephemeral();
        self.handshake = Some(Handshake { index, secret, sent_at: now });
        self.attempt_at.get_or_insert(now);
        let out = out.get_mut(..INITIATION_LEN)?;
        out.fill(0);
        out[0] = 1;
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..40].copy_from_slice(&self.node.public);
        let stamp = self.node.stamp_base.wrapping_add(now).wrapping_add(self.count);
        out[40..48].copy_from_slice(&stamp.to_le_bytes());
        out[48..56].copy_from_slice(&power(GENERATOR, secret).to_le_bytes());
        let mac = mac1(&self.peer, &out[..INITIATION_MAC]);
        out[INITIATION_MAC..INITIATION_TAG].copy_from_slice(&mac);
        let seal = tag(&key_of(&[self.static_key, 1]), &out[..INITIATION_TAG]);
        out[INITIATION_TAG..].copy_from_slice(&seal);
        Some(INITIATION_LEN)
    }

    fn tick(&mut self, out: &mut [u8]) -> Option<usize> {
        let now = self.now();
        self.sessions.retain(|session| now - session.made_at < REJECT_AFTER);
        if let Some(handshake) = &self.handshake {
            let started_at = self.attempt_at.unwrap_or(now);
            if now - started_at > REKEY_ATTEMPT {
                (self.handshake, self.attempt_at) = (None, None);
                return None;
            }
            return (now - handshake.sent_at >= REKEY_TIMEOUT).then(|| self.initiate(out))?;
        }
        let silent = self.data_sent_at.is_some_and(|at| now - at >= KEEPALIVE + REKEY_TIMEOUT);
        let (heard_at, sent_at) = (self.heard_at, self.sent_at);
        let session = self.current()?;
        let old = session.initiator && now - session.made_at >= REKEY_AFTER && session.sent > 1;
        if old || silent {
            self.data_sent_at = None;
            return self.initiate(out);
        }
        (heard_at > sent_at && now - heard_at >= KEEPALIVE).then(|| self.seal_any(&[], out))?
    }
}
