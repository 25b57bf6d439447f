//! One other member: its tunnel, its path, and the frames that wait for them.
//!
//! # Theory of operation
//! [`Tunnel::send_frame`] is the outbound half of a frame's way: cut it to the path, seal, append
//! to the transmit buffer. Without a session the frame waits, and the path agent makes one; when it
//! is up the waiting frames leave in order. [`Tunnel::tick`] lets the agent and the engine's timers
//! do what is due. The tunnel is behind one lock, taken once a frame outbound and once a batch
//! inbound, never while the shell writes to a tap.
//!
//! # Limits
//! [`PENDING_FRAMES_MAX`] frames of [`PENDING_BYTES_MAX`] bytes wait, for [`PENDING_WAIT`]; what
//! comes after that is dropped and counted. [`PINGS_MAX`] pings are under way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vde_switch::frame::Frame;
use vde_switch::time::Instant;
use vde_switch::vnet::{GsoType, Layout, Transport, VnetHdr};

use crate::claims::Claims;
use crate::control::{AddressTrust, Event, Life, PathKind, Slot};
use crate::cut::{Cut, PIECES_MAX, clamp_mss};
use crate::dial::{DialBudget, Lan, may_dial};
use crate::drop::{DropReason, Drops};
use crate::path::{PathAgent, Relayed, Route, Targets, Via};
use crate::transmit::{Destination, Io, TxBatch};
use crate::tunnel::Engine;
use crate::wire::demux::INITIATION_LEN;
use crate::wire::probe::{Probe, Token};
use crate::wire::relay::{Direction, RelayHeader};
use crate::wire::shim::{Flags, Kind, PAYLOAD_LEN_MIN, SERVED_MAX, SHIM_LEN, SHIM_LONG_LEN, Shim};
use crate::wire::{SEAL_LEN, UDP_PAYLOAD_MIN, UNDERLAY_MTU, UNDERLAY_V4_LEN, UNDERLAY_V6_LEN};

/// Frames that wait for one tunnel.
pub const PENDING_FRAMES_MAX: usize = 64;

/// Bytes of them.
pub const PENDING_BYTES_MAX: usize = 256 * 1024;

/// How long a frame waits: longer, and its sender has sent it again anyway.
pub const PENDING_WAIT: Duration = Duration::from_secs(3);

/// Pings under way at a time.
pub const PINGS_MAX: usize = 16;

/// How long a ping waits for its reply.
pub const PING_WAIT: Duration = Duration::from_secs(1);

/// Marks the sequence numbers of pings apart from the path agent's probes.
const PING_BIT: u32 = 1 << 31;

/// Underlay sizes to fall back to, in bytes, when the first hop refuses a larger one.
const UNDERLAY_MTUS: [usize; 5] = [UNDERLAY_MTU, 1492, 1460, 1400, 1280];

/// What both directions need of a data plane: counters, budget, the way to the relay.
#[derive(Debug)]
pub struct Common {
    /// This node's own slot.
    pub slot: Slot,
    /// Drops of both directions.
    pub drops: Drops,
    budget: Mutex<DialBudget>,
    relay: Mutex<Option<Via>>,
    /// Link-local addresses that local guests took.
    pub claims: Claims,
    events: Mutex<VecDeque<Event>>,
    told: AtomicBool,
    /// When the lease's life ends, in nanoseconds of the data plane's clock.
    expires_at: AtomicU64,
}

/// Events that wait to be fetched; beyond that the oldest is lost.
pub const EVENTS_MAX: usize = 4096;

impl Common {
    /// Makes it for the node with this slot.
    #[must_use]
    pub fn new(slot: Slot, now: Instant) -> Self {
        Self {
            slot,
            drops: Drops::default(),
            budget: Mutex::new(DialBudget::new(now)),
            relay: Mutex::new(None),
            claims: Claims::default(),
            events: Mutex::new(VecDeque::new()),
            told: AtomicBool::new(false),
            expires_at: AtomicU64::new(0),
        }
    }

    /// Sets how long the lease lives from `now`.
    pub fn live(&self, life: Life, now: Instant) {
        let expires_at = match life {
            Life::Millis(ms) => (now + Duration::from_millis(ms.into())).as_nanos(),
            Life::Unlimited => u64::MAX,
        };
        self.expires_at.store(expires_at, Ordering::Relaxed);
    }

    /// Says whether the lease's life has run out: nothing flows then, in either direction.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        now.as_nanos() >= self.expires_at.load(Ordering::Relaxed)
    }

    /// Queues an event for control.
    pub fn tell(&self, event: Event) {
        let mut events = lock(&self.events);
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
        self.told.store(true, Ordering::Release);
    }

    /// Says whether something was told since it was asked last.
    pub fn was_told(&self) -> bool {
        self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::Acquire)
    }

    /// Returns the oldest event.
    pub fn poll_event(&self) -> Option<Event> {
        lock(&self.events).pop_front()
    }

    /// Returns the proven address of the gateway, over which sealed datagrams can be relayed.
    #[must_use]
    pub fn relay(&self) -> Option<Via> {
        *lock(&self.relay)
    }
}

/// Locks; a panic elsewhere has ended the program already, so poison means nothing here.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames and bytes of one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Traffic {
    /// Counts a frame.
    pub fn add(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a dropped frame.
    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns frames, bytes and drops.
    #[must_use]
    pub fn get(&self) -> (u64, u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.frames), get(&self.bytes), get(&self.dropped))
    }
}

/// One other member.
#[derive(Debug)]
pub struct Peer {
    /// Its slot.
    pub slot: Slot,
    /// Its static key.
    pub key: [u8; 32],
    /// The upper 24 bits of every index we hand out for it.
    pub number: u32,
    /// Frames to it.
    pub outbound: Traffic,
    /// Frames from it.
    pub inbound: Traffic,
    tunnel: Mutex<Tunnel>,
}

impl Peer {
    /// Makes a member whose tunnel is still to come up.
    #[must_use]
    pub fn new(
        slot: Slot,
        key: [u8; 32],
        number: u32,
        relayed: Relayed,
        engine: Box<dyn Engine>,
    ) -> Self {
        let tunnel = Tunnel {
            slot,
            engine,
            agent: PathAgent::new(relayed),
            pending: VecDeque::new(),
            pending_bytes: 0,
            pings: Vec::new(),
            initiation: [0; INITIATION_LEN],
            underlay_mtu: UNDERLAY_MTU,
            refused_from: None,
            numbers: 0,
        };
        let (outbound, inbound) = Default::default();
        Self { slot, key, number, outbound, inbound, tunnel: Mutex::new(tunnel) }
    }

    /// Takes the tunnel's lock.
    pub fn tunnel(&self) -> MutexGuard<'_, Tunnel> {
        lock(&self.tunnel)
    }
}

#[derive(Debug)]
struct Pending {
    hdr: VnetHdr,
    bytes: Box<[u8]>,
    queued_at: Instant,
}

#[derive(Debug)]
struct Ping {
    id: u32,
    sequence: u32,
    asked_at: Instant,
    sent: bool,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Tunnel {
    slot: Slot,
    /// The cryptography.
    pub engine: Box<dyn Engine>,
    /// Where datagrams go.
    pub agent: PathAgent,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    pings: Vec<Ping>,
    initiation: [u8; INITIATION_LEN],
    underlay_mtu: usize,
    /// Where a handshake message came from that was refused; tried once.
    refused_from: Option<SocketAddr>,
    /// Counts super-frames and split frames.
    numbers: u16,
}

/// What a frame meets on its way out; bundled since it all travels together.
pub(crate) struct Out<'a, I: Io> {
    pub(crate) batch: &'a mut TxBatch,
    pub(crate) common: &'a Common,
    pub(crate) io: &'a mut I,
    pub(crate) now: Instant,
}

impl Tunnel {
    /// Says whether a frame would leave at once.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.engine.is_ready() && self.agent.primary().is_some()
    }

    /// Seals a frame into the batch, or lets it wait for the tunnel to come up.
    pub(crate) fn send_frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Out<'_, impl Io>,
    ) -> Result<(), DropReason> {
        if self.is_up() {
            self.agent.handle_sent(out.now);
            return self.seal_frame(frame, None, out);
        }
        let len = frame.bytes.len();
        if self.pending.len() >= PENDING_FRAMES_MAX || self.pending_bytes + len > PENDING_BYTES_MAX
        {
            return Err(DropReason::PendingFull);
        }
        self.pending_bytes += len;
        let (hdr, bytes, queued_at) = (frame.hdr, frame.bytes.into(), out.now);
        self.pending.push_back(Pending { hdr, bytes, queued_at });
        self.attend(out);
        Ok(())
    }

    /// Seals a group frame for the gateway to hand on to all but the `served` slots.
    pub(crate) fn send_group(
        &mut self,
        frame: Frame<'_>,
        served: &[Slot],
        out: &mut Out<'_, impl Io>,
    ) -> Result<(), DropReason> {
        if !self.is_up() {
            return Err(DropReason::NoTunnel);
        }
        self.agent.handle_sent(out.now);
        self.seal_frame(frame, Some(served), out)
    }

    fn seal_frame(
        &mut self,
        frame: Frame<'_>,
        served: Option<&[Slot]>,
        out: &mut Out<'_, impl Io>,
    ) -> Result<(), DropReason> {
        let to = self.destination(out.common).ok_or(DropReason::NoTunnel)?;
        let payload_max = self.payload_max(&to);
        let Frame { hdr, bytes } = frame;
        let layout = hdr.layout(bytes).filter(|layout| layout.transport == Transport::Tcp);
        let whole_len = SHIM_LEN + served.map_or(0, |slots| 2 * slots.len()) + bytes.len();
        if let Some(layout) = layout
            && hdr.needs_csum
            && (hdr.gso != GsoType::None || whole_len > payload_max)
        {
            return self.seal_segments(frame, layout, payload_max, to, out);
        }
        if hdr.gso != GsoType::None {
            return Err(DropReason::TooLong);
        }
        let flags = if hdr.needs_csum { Flags::CSUM } else { Flags::default() };
        let csum_offset = hdr.csum_offset as u8;
        if whole_len > payload_max {
            let flags = match served {
                Some([]) => flags.with(Flags::HAND_ON),
                Some(_) => return Err(DropReason::TooLong),
                None => flags,
            };
            return self.seal_pieces(frame, flags, payload_max, to, out);
        }
        let kind = match served {
            None => Kind::Frame { csum_offset },
            Some(slots) => {
                Kind::Group { served: slots.len().min(SERVED_MAX.into()) as u8, csum_offset }
            }
        };
        let shim = Shim { kind, flags, csum_start: hdr.csum_start };
        let frame_len_max = payload_max - SHIM_LONG_LEN;
        self.seal(to, shim, whole_len, out, |rest| {
            let rest = served.unwrap_or_default().iter().fold(rest, |rest, slot| {
                let (number, rest) = rest.split_at_mut(2);
                number.copy_from_slice(&slot.0.to_be_bytes());
                rest
            });
            rest[..bytes.len()].copy_from_slice(bytes);
            if let Some(layout) = layout {
                clamp_mss(&mut rest[..bytes.len()], layout, frame_len_max, hdr.needs_csum);
            }
        })
    }

    fn seal_segments(
        &mut self,
        Frame { hdr, bytes }: Frame<'_>,
        layout: Layout,
        payload_max: usize,
        to: Destination,
        out: &mut Out<'_, impl Io>,
    ) -> Result<(), DropReason> {
        let frame_len_max = payload_max - SHIM_LONG_LEN;
        let cut = Cut::plan(layout, frame_len_max, hdr.gso_size.into(), hdr.ecn)
            .ok_or(DropReason::TooLong)?;
        self.numbers = self.numbers.wrapping_add(1);
        let number = self.numbers;
        let flags = if hdr.ecn { Flags::CSUM.with(Flags::ECN) } else { Flags::CSUM };
        for index in 0..cut.count {
            let len = cut.segment_len(index);
            let flags = if index + 1 == cut.count { flags.with(Flags::LAST) } else { flags };
            let gso_size = cut.gso_size as u16;
            let kind = Kind::Segment { number, index: index as u8, gso_size };
            let shim = Shim { kind, flags, csum_start: hdr.csum_start };
            self.seal(to, shim, SHIM_LONG_LEN + len, out, |rest| {
                cut.write_segment(bytes, index, &mut rest[..len]);
            })?;
        }
        Ok(())
    }

    fn seal_pieces(
        &mut self,
        Frame { hdr, bytes }: Frame<'_>,
        flags: Flags,
        payload_max: usize,
        to: Destination,
        out: &mut Out<'_, impl Io>,
    ) -> Result<(), DropReason> {
        let count = bytes.len().div_ceil(payload_max - SHIM_LONG_LEN);
        if count > PIECES_MAX {
            return Err(DropReason::TooLong);
        }
        self.numbers = self.numbers.wrapping_add(1);
        let (number, csum_offset) = (self.numbers, hdr.csum_offset as u8);
        for (index, piece) in bytes.chunks(bytes.len().div_ceil(count)).enumerate() {
            let (index, count) = (index as u8, count as u8);
            let kind = Kind::Piece { number, index, count, csum_offset };
            let shim = Shim { kind, flags, csum_start: hdr.csum_start };
            self.seal(to, shim, SHIM_LONG_LEN + piece.len(), out, |rest| {
                rest[..piece.len()].copy_from_slice(piece);
            })?;
        }
        Ok(())
    }

    /// Seals one payload: `len` bytes with the shim, the rest written by `fill`.
    fn seal(
        &mut self,
        to: Destination,
        shim: Shim,
        len: usize,
        out: &mut Out<'_, impl Io>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), DropReason> {
        let wire_len = u16::try_from(len).map_err(|_| DropReason::TooLong)?;
        let write = |payload: &mut [u8]| {
            shim.emit(payload, wire_len);
            let (body, padding) = payload[shim.wire_len()..].split_at_mut(len - shim.wire_len());
            fill(body);
            padding.fill(0); // or the receiver would read what was sealed for others before
        };
        let engine = self.engine.as_mut();
        let drops = &out.common.drops;
        out.batch.push(engine, to, len.max(PAYLOAD_LEN_MIN), write, drops, out.io)
    }

    fn send_probe(&mut self, probe: Probe, out: &mut Out<'_, impl Io>) {
        let Some(to) = self.destination(out.common) else { return };
        let shim = Shim { kind: Kind::Control, flags: Flags::default(), csum_start: 0 };
        let sealed = self.seal(to, shim, SHIM_LEN + Probe::LEN, out, |rest| {
            probe.emit(rest.first_chunk_mut().expect("the payload was made for a probe"));
        });
        if let Err(reason) = sealed {
            out.common.drops.add(reason, 1);
        }
    }

    /// Takes an authenticated control message.
    pub(crate) fn handle_control(&mut self, body: &[u8], out: &mut Out<'_, impl Io>) {
        match Probe::parse(body) {
            Some(Probe::Ask(token)) => self.send_probe(Probe::Reply(token), out),
            Some(Probe::Reply(token)) if token.sequence & PING_BIT != 0 => {
                let asked = self.pings.iter().position(|p| p.sent && p.sequence == token.sequence);
                if let Some(at) = asked {
                    let ping = self.pings.swap_remove(at);
                    let rtt = (out.now - ping.asked_at).as_micros();
                    let rtt_us = Some(u32::try_from(rtt).unwrap_or(u32::MAX));
                    out.common.tell(Event::Pong { slot: self.slot, id: ping.id, rtt_us });
                }
            }
            Some(Probe::Reply(token)) => {
                self.agent.handle_reply(token, out.now);
            }
            None => out.common.drops.add(DropReason::BadControl, 1),
        }
    }

    /// Notes an authentic datagram and does what it makes possible.
    pub(crate) fn handle_heard(&mut self, route: Route, out: &mut Out<'_, impl Io>) {
        self.agent.handle_heard(route, out.now);
        self.tell_change(out.common);
        if !self.pending.is_empty() && self.is_up() {
            self.attend(out);
        }
    }

    /// Takes note of a handshake message that names the peer's key and was refused. Perhaps the
    /// peer started anew with a clock that was set back: its timestamps are old for a long time,
    /// and only a handshake of ours helps. With a session, silence leads to one; without, it is the
    /// agent's next try. Either also goes to where the message came from, within that address's
    /// budget, since the peer may have moved meanwhile.
    pub(crate) fn handle_refused(&mut self, route: Route, out: &mut Out<'_, impl Io>) {
        if let Route::Direct(via) = route
            && self.may_answer_at(via.remote)
        {
            self.refused_from = Some(via.remote);
        }
        if self.engine.is_ready() {
            return self.agent.handle_sent(out.now);
        }
        if let Some(targets) = self.agent.poll(false, true, out.now).initiate {
            self.initiate(targets, out);
        }
    }

    /// Says whether an address that only an unproven message names may hear from us: one of no
    /// special use, or one that was dialled before. Sources are forged easily.
    fn may_answer_at(&self, remote: SocketAddr) -> bool {
        let known = self.agent.candidates().iter().chain(self.agent.proven());
        may_dial(remote, AddressTrust::Hearsay, Lan::Refused, false).is_ok()
            || known.map(SocketAddr::ip).any(|ip| ip == remote.ip())
    }

    /// Asks for one round trip; at most [`PINGS_MAX`] at a time, the oldest gives up.
    pub(crate) fn ping(&mut self, id: u32, out: &mut Out<'_, impl Io>) {
        if self.pings.len() >= PINGS_MAX {
            let ping = self.pings.remove(0);
            out.common.tell(Event::Pong { slot: self.slot, id: ping.id, rtt_us: None });
        }
        self.numbers = self.numbers.wrapping_add(1);
        let sequence = PING_BIT | u32::from(self.numbers);
        self.pings.push(Ping { id, sequence, asked_at: out.now, sent: false });
        self.attend(out);
    }

    /// Does what is due: timers of the engine and of the path, what waits for a session.
    pub(crate) fn tick(&mut self, out: &mut Out<'_, impl Io>) {
        let mut buffer = [0; 256];
        if let Some(len) = self.engine.tick(&mut buffer)
            && let Some(datagram) = buffer.get(..len)
        {
            if let Ok(initiation) = datagram.try_into() {
                self.initiation = initiation;
                // Without a path the agent alone says when an address is asked again: the
                // engine's own 5 s would spend what unproven addresses may hear.
                if let Some(route) = self.agent.primary() {
                    self.send_initiation_by(route, out);
                }
            } else if let Some(to) = self.destination(out.common) {
                out.batch.push_sealed(to, datagram, &out.common.drops, out.io);
            }
        }
        while let Some(pending) = self.pending.front()
            && out.now - pending.queued_at > PENDING_WAIT
        {
            self.pending_bytes -= pending.bytes.len();
            self.pending.pop_front();
            out.common.drops.add(DropReason::NoTunnel, 1);
        }
        let slot = self.slot;
        self.pings.retain(|ping| {
            let waits = out.now - ping.asked_at < PING_WAIT;
            if !waits {
                out.common.tell(Event::Pong { slot, id: ping.id, rtt_us: None });
            }
            waits
        });
        self.attend(out);
    }

    /// Lets the agent decide, sends what it wants, and what waited if the tunnel is up.
    pub(crate) fn attend(&mut self, out: &mut Out<'_, impl Io>) {
        let demand = !self.pending.is_empty() || self.pings.iter().any(|ping| !ping.sent);
        let todo = self.agent.poll(self.engine.is_ready(), demand, out.now);
        self.tell_change(out.common);
        if let Some(targets) = todo.initiate {
            self.initiate(targets, out);
        }
        if todo.repeat_by_relay {
            self.send_initiation(Targets::Relay, out);
        }
        if let Some(token) = todo.probe {
            self.send_probe(Probe::Ask(token), out);
        }
        if !self.is_up() {
            return;
        }
        let waiting: Vec<_> = self
            .pings
            .iter_mut()
            .filter(|ping| !ping.sent)
            .map(|ping| ping.send(out.now))
            .collect();
        for token in waiting {
            self.send_probe(Probe::Ask(token), out);
        }
        self.pending_bytes = 0;
        for Pending { hdr, bytes, .. } in std::mem::take(&mut self.pending) {
            self.agent.handle_sent(out.now);
            if let Err(reason) = self.seal_frame(Frame { hdr, bytes: &bytes }, None, out) {
                out.common.drops.add(reason, 1);
            }
        }
    }

    /// Goes down to the next smaller size after the first hop refused one.
    pub fn narrow(&mut self) {
        let smaller = UNDERLAY_MTUS.iter().copied().find(|mtu| *mtu < self.underlay_mtu);
        self.underlay_mtu = smaller.unwrap_or(UDP_PAYLOAD_MIN + UNDERLAY_V6_LEN);
    }

    fn initiate(&mut self, targets: Targets, out: &mut Out<'_, impl Io>) {
        let mut buffer = [0; 256];
        let len = self.engine.initiate(&mut buffer).unwrap_or(0);
        if let Some(initiation) = buffer.get(..len).and_then(|b| b.try_into().ok()) {
            self.initiation = initiation;
            self.send_initiation(targets, out);
        }
    }

    fn send_initiation(&mut self, targets: Targets, out: &mut Out<'_, impl Io>) {
        if matches!(targets, Targets::Candidates | Targets::Everywhere) {
            let mut candidates = self.agent.candidates().to_vec();
            // Where the peer was heard last may be no candidate: with `--only-buyer` none is told.
            let primary = match self.agent.primary() {
                Some(Route::Direct(via)) => Some(via.remote),
                Some(Route::Relay) | None => None,
            };
            for remote in primary.into_iter().chain(self.refused_from.take()) {
                if !candidates.contains(&remote) {
                    candidates.push(remote);
                }
            }
            for remote in candidates {
                self.send_initiation_by(Route::Direct(Via { remote, local: None }), out);
            }
        }
        if matches!(targets, Targets::Relay | Targets::Everywhere) {
            self.send_initiation_by(Route::Relay, out);
        }
    }

    fn send_initiation_by(&mut self, route: Route, out: &mut Out<'_, impl Io>) {
        let Some(to) = destination_by(self.slot, route, out.common) else { return };
        if let Route::Direct(Via { remote, .. }) = route
            && !self.agent.is_proven(&remote)
            && lock(&out.common.budget)
                .take(remote, self.trust(remote), INITIATION_LEN, out.now)
                .is_err()
        {
            return out.common.drops.add(DropReason::DialBudget, 1);
        }
        out.batch.push_sealed(to, &self.initiation, &out.common.drops, out.io);
    }

    /// Says how freely an address may be dialled; one that nobody named as the peer's is hearsay.
    fn trust(&self, remote: SocketAddr) -> AddressTrust {
        let named = self.agent.candidates().contains(&remote);
        if named { self.agent.trust() } else { AddressTrust::Hearsay }
    }

    fn destination(&self, common: &Common) -> Option<Destination> {
        destination_by(self.slot, self.agent.primary()?, common)
    }

    fn payload_max(&self, to: &Destination) -> usize {
        let headers = match to.via.remote {
            SocketAddr::V4(_) => UNDERLAY_V4_LEN,
            SocketAddr::V6(a) if a.ip().to_ipv4_mapped().is_some() => UNDERLAY_V4_LEN,
            SocketAddr::V6(_) => UNDERLAY_V6_LEN,
        };
        let relay = to.relay.map_or(0, |_| RelayHeader::LEN);
        self.underlay_mtu - headers - relay - SEAL_LEN
    }

    fn tell_change(&mut self, common: &Common) {
        let Some(change) = self.agent.poll_change() else { return };
        if self.slot == Slot::GATEWAY
            && let Some(Route::Direct(via)) = self.agent.primary()
        {
            *lock(&common.relay) = Some(via);
        }
        common.tell(Event::Path {
            slot: self.slot,
            path: change.path,
            reason: change.reason.to_owned(),
        });
    }

    /// Returns how the peer is reached, for `status`.
    #[must_use]
    pub fn path(&self) -> PathKind {
        match self.agent.primary() {
            Some(Route::Direct(via)) if self.engine.is_ready() => PathKind::Direct(via.remote),
            Some(Route::Relay) if self.engine.is_ready() => PathKind::Relay,
            Some(_) | None => PathKind::None,
        }
    }
}

impl Ping {
    const fn send(&mut self, now: Instant) -> Token {
        self.sent = true;
        self.asked_at = now;
        Token { sequence: self.sequence, sent_at: now }
    }
}

/// Resolves a route to an address; `None` while the gateway has none.
pub(crate) fn destination_by(slot: Slot, route: Route, common: &Common) -> Option<Destination> {
    match route {
        Route::Direct(via) => Some(Destination { slot, via, relay: None }),
        Route::Relay => {
            let header = RelayHeader { direction: Direction::ToMember, slot };
            common.relay().map(|via| Destination { slot, via, relay: Some(header) })
        }
    }
}

#[cfg(test)]
mod tests;
