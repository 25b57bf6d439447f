//! A datagram's way in: demultiplexer → tunnel → receiving port policy and switch → attachment.
//!
//! # Theory of operation
//! [`Inbound::handle_datagrams`] takes what one receive call gave: datagrams of one source and one
//! length. Runs that belong to one tunnel are opened under one lock into the arena; then each
//! payload becomes a frame, is admitted by the switch for the port that the *session's key* stands
//! for, and is handed to its attachment; consecutive segments of a super-frame leave joined. On the
//! gateway, sealed datagrams for other members are handed on unread, and group frames are handed on
//! to the members that the sender could not reach.
//!
//! # Limits
//! The arena holds one receive call. Incomplete frames: `piece`. Handshakes: `limiter`. More than
//! the thread can do: `fair`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use vde_switch::frame::Frame;
use vde_switch::switch::Switch;
use vde_switch::time::Instant;
use vde_switch::verdict::Verdict;
use vde_switch::vnet::{Layout, VnetHdr};

use crate::control::{LocalPort, Slot};
use crate::drop::DropReason;
use crate::fair::{Account, FairShare};
use crate::join::{Joiner, Segment};
use crate::limiter::{HandshakeLimiter, Source};
use crate::outbound::{count_delivery, deliver};
use crate::path::{Route, Via};
use crate::peer::{Common, Out, Peer, destination_by};
use crate::peers::{Behind, Peers};
use crate::piece::{Pieced, Pieces};
use crate::transmit::{Destination, Io, TxBatch};
use crate::tunnel::{Carrier, Checked, Handshaken, Load, OUTPUT_LEN_MIN, Opened};
use crate::wire::demux::{COOKIE_LEN, Family, classify};
use crate::wire::relay::{Direction, RelayHeader};
use crate::wire::shim::{Flags, Kind, Shim};

/// Room for the payloads of one receive call, in bytes; when it runs out what is joined leaves
/// early.
const ARENA_LEN: usize = 256 * 1024;

/// Most bytes of one receive call, and the slack that the engine wants behind each payload.
const DATAGRAMS_LEN_MAX: usize = 65_536 + OUTPUT_LEN_MIN;

/// Stands for the address of what comes by the relay.
const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The inbound half of a data plane.
#[derive(Debug)]
pub struct Inbound {
    /// Admits what members send.
    pub switch: Switch,
    /// The members, as last set.
    pub peers: Arc<Peers>,
    common: Arc<Common>,
    carrier: Arc<dyn Carrier>,
    limiter: HandshakeLimiter,
    fair: FairShare,
    arena: Vec<u8>,
    used: usize,
    opened: Vec<Range<usize>>,
    joiner: Joiner,
    joined_from: Slot,
    pieces: BTreeMap<Slot, Pieces>,
    whole: Vec<u8>,
    remotes: BTreeMap<SocketAddr, Slot>,
    batch: TxBatch,
}

/// One classified datagram of a receive call.
struct Arrival<'a> {
    route: Route,
    source: Source,
    family: Family,
    sealed: &'a [u8],
}

impl Inbound {
    /// Makes it with a switch that has no ports yet.
    #[must_use]
    pub fn new(
        switch: Switch,
        common: Arc<Common>,
        carrier: Arc<dyn Carrier>,
        now: Instant,
    ) -> Self {
        Self {
            switch,
            peers: Arc::default(),
            common,
            carrier,
            limiter: HandshakeLimiter::new(now),
            fair: FairShare::default(),
            arena: vec![0; ARENA_LEN],
            used: 0,
            opened: Vec::with_capacity(128),
            joiner: Joiner::default(),
            joined_from: Slot::GATEWAY,
            pieces: BTreeMap::new(),
            whole: Vec::new(),
            remotes: BTreeMap::new(),
            batch: TxBatch::default(),
        }
    }

    /// Takes datagrams of `stride` bytes each, the last one perhaps shorter, from one source.
    pub fn handle_datagrams(
        &mut self,
        via: Via,
        stride: usize,
        datagrams: &[u8],
        now: Instant,
        io: &mut impl Io,
    ) {
        if self.common.is_expired(now) {
            let count = datagrams.len().div_ceil(stride.max(1)) as u64;
            return self.common.drops.add(DropReason::Expired, count);
        }
        for (address, mac) in self.common.claims.take() {
            self.switch.hold_link_local(address, mac, now);
        }
        let common = Arc::clone(&self.common);
        let mut arrivals = datagrams
            .chunks(stride.max(1))
            .filter_map(move |datagram| classified(&common, via, datagram))
            .peekable();
        while let Some(arrival) = arrivals.next() {
            match arrival.family {
                Family::Data { receiver_index, .. } => {
                    let Some(peer) = self.peers.by_index(receiver_index).cloned() else {
                        self.common.drops.add(DropReason::NoSuchTunnel, 1);
                        continue;
                    };
                    self.open_run(&peer, arrival, &mut arrivals, now, io);
                    self.handle_payloads(&peer, now, io);
                }
                Family::Initiation => self.handle_initiation(&arrival, now, io),
                Family::Answer { receiver_index } => {
                    self.handle_answer(receiver_index, &arrival, now, io);
                }
                Family::Relay(header) => self.hand_on(via, header, arrival.sealed, now, io),
                Family::Quic => self.common.drops.add(DropReason::QuicNotSpoken, 1),
            }
        }
    }

    /// Takes note that the kernel lost datagrams which the shell did not take in time.
    pub const fn handle_overflow(&mut self) {
        self.fair.handle_overflow();
    }

    /// Hands on what is joined and sends what the turn has gathered.
    pub fn flush(&mut self, io: &mut impl Io) {
        self.finish_join(io);
        self.used = 0;
        self.batch.flush(&self.common.drops, io);
        if let Some(slot) = self.batch.take_narrowed()
            && let Some(peer) = self.peers.get(slot)
        {
            peer.tunnel().narrow();
        }
    }

    /// Takes another set of members; forgets what belonged to those that are gone.
    pub fn set_peers(&mut self, peers: Arc<Peers>) {
        self.pieces.retain(|slot, _| peers.get(*slot).is_some());
        self.remotes.retain(|_, slot| peers.get(*slot).is_some());
        self.peers = peers;
    }

    /// Lets the timers of the tunnels run.
    pub fn tick(&mut self, now: Instant, io: &mut impl Io) {
        if self.common.is_expired(now) {
            return;
        }
        let Self { peers, common, batch, .. } = self;
        for peer in peers.iter() {
            peer.tunnel().tick(&mut Out { batch, common, io, now });
        }
        self.flush(io);
    }

    /// Opens this data message and those behind it that belong to the same tunnel and route.
    fn open_run<'a>(
        &mut self,
        peer: &Peer,
        first: Arrival<'a>,
        arrivals: &mut Peekable<impl Iterator<Item = Arrival<'a>>>,
        now: Instant,
        io: &mut impl Io,
    ) {
        self.opened.clear();
        if self.used + DATAGRAMS_LEN_MAX > ARENA_LEN {
            self.finish_join(io);
            self.used = 0;
        }
        let (route, account) = (first.route, self.account(&first));
        let mut heard = false;
        let mut next = Some(first);
        let mut tunnel = peer.tunnel();
        while let Some(Arrival { family: Family::Data { counter, .. }, sealed, .. }) = next {
            let room = sealed.len().max(OUTPUT_LEN_MIN);
            if self.fair.admit(account, sealed.len(), now) {
                let opened = match self.arena.get_mut(self.used..self.used + room) {
                    Some(out) => tunnel.engine.open(sealed, counter, out),
                    None => Opened::Refused,
                };
                match opened {
                    Opened::Payload(len) => {
                        heard = true;
                        self.opened.push(self.used..self.used + len);
                        self.used += len;
                    }
                    Opened::Keepalive => heard = true,
                    Opened::Refused => self.common.drops.add(DropReason::NotAuthentic, 1),
                }
            } else {
                self.common.drops.add(DropReason::FairShare, 1);
            }
            next = arrivals.next_if(|arrival| {
                arrival.route == route
                    && matches!(arrival.family, Family::Data { receiver_index, .. }
                        if receiver_index >> 8 == peer.number)
            });
        }
        if heard {
            let Self { common, batch, .. } = self;
            tunnel.handle_heard(route, &mut Out { batch, common, io, now });
            if !self.opened.is_empty() {
                tunnel.agent.handle_used(now);
            }
            drop(tunnel);
            self.note_remote(peer.slot, route);
        }
    }

    /// Brings each opened payload to its one outcome.
    fn handle_payloads(&mut self, peer: &Peer, now: Instant, io: &mut impl Io) {
        let opened = std::mem::take(&mut self.opened);
        for range in &opened {
            let Some((shim, rest)) = Shim::parse(&self.arena[range.clone()]) else {
                self.common.drops.add(DropReason::BadShim, 1);
                continue;
            };
            let rest = range.start + shim.wire_len()..range.start + shim.wire_len() + rest.len();
            match shim.kind {
                Kind::Frame { csum_offset } => {
                    let hdr = header(&shim, csum_offset);
                    self.handle_frame(peer, hdr, rest, now, io);
                }
                Kind::Segment { number, index, .. } => {
                    // The switch says the port of the first; the others go where that went.
                    let port = self.joiner.port().unwrap_or(LocalPort(0));
                    let segment = Segment { port, number, index, flags: shim.flags, range: rest };
                    self.handle_segment(peer, &shim, segment, now, io);
                }
                Kind::Piece { number, index, count, csum_offset } => {
                    self.finish_join(io);
                    let pieces = self.pieces.entry(peer.slot).or_default();
                    let bytes = &self.arena[rest];
                    match pieces.handle_piece(number, index, count, bytes, &mut self.whole, now) {
                        Pieced::Waiting(forgotten) => {
                            self.common.drops.add(DropReason::PieceLost, forgotten.into());
                        }
                        Pieced::Refused => self.common.drops.add(DropReason::PieceLost, 1),
                        Pieced::Complete => {
                            let whole = std::mem::take(&mut self.whole);
                            let frame = Frame { hdr: header(&shim, csum_offset), bytes: &whole };
                            let hand_on = shim.flags.has(Flags::HAND_ON);
                            let served: Option<&[u8]> = hand_on.then_some(&[]);
                            if hand_on && self.common.slot != Slot::GATEWAY {
                                self.common.drops.add(DropReason::BadGroup, 1);
                            } else {
                                self.admit(peer, frame, served, now, io);
                            }
                            self.whole = whole;
                        }
                    }
                }
                Kind::Control => {
                    let Self { common, batch, arena, .. } = self;
                    let out = &mut Out { batch, common, io, now };
                    peer.tunnel().handle_control(&arena[rest], out);
                }
                Kind::Group { served, csum_offset } => {
                    self.finish_join(io);
                    let arena = std::mem::take(&mut self.arena);
                    match arena[rest].split_at_checked(2 * usize::from(served)) {
                        Some((served, bytes)) if self.common.slot == Slot::GATEWAY => {
                            let frame = Frame { hdr: header(&shim, csum_offset), bytes };
                            self.admit(peer, frame, Some(served), now, io);
                        }
                        _ => self.common.drops.add(DropReason::BadGroup, 1),
                    }
                    self.arena = arena;
                }
            }
        }
        self.opened = opened;
    }

    fn handle_frame(
        &mut self,
        peer: &Peer,
        hdr: VnetHdr,
        range: Range<usize>,
        now: Instant,
        io: &mut impl Io,
    ) {
        self.finish_join(io);
        let arena = std::mem::take(&mut self.arena);
        self.admit(peer, Frame { hdr, bytes: &arena[range] }, None, now, io);
        self.arena = arena;
    }

    /// Lets the switch decide on a frame for the port that the peer's key stands for. `served`: it
    /// is a group frame to be handed on to all but these slots, two bytes each.
    fn admit(
        &mut self,
        peer: &Peer,
        mut frame: Frame<'_>,
        served: Option<&[u8]>,
        now: Instant,
        io: &mut impl Io,
    ) {
        let ingress = Behind::Member(peer.slot).port_id();
        match (self.switch.forward(ingress, &mut frame, now), served) {
            (Verdict::Forward(egress), None) => match Behind::of(egress) {
                Behind::Local(port) => {
                    peer.inbound.add(frame.bytes.len());
                    deliver(port, frame, &self.common, io);
                }
                Behind::Member(_) => self.common.drops.add(DropReason::NoMember, 1),
            },
            (Verdict::Forward(_) | Verdict::Answer, Some(_)) => {
                self.common.drops.add(DropReason::BadGroup, 1);
            }
            (Verdict::Flood(to), served) => {
                peer.inbound.add(frame.bytes.len());
                for (egress, _) in self.switch.flood_ports(ingress, to) {
                    if let Behind::Local(port) = Behind::of(egress) {
                        deliver(port, frame, &self.common, io);
                    }
                }
                if let Some(served) = served {
                    self.hand_on_group(peer.slot, frame, served, now, io);
                }
            }
            (Verdict::Answer, None) => {} // counted by the switch; nobody here asked
            (Verdict::Drop(_), _) => peer.inbound.drop_one(),
        }
    }

    fn hand_on_group(
        &mut self,
        from: Slot,
        frame: Frame<'_>,
        served: &[u8],
        now: Instant,
        io: &mut impl Io,
    ) {
        let Self { peers, common, batch, .. } = self;
        let is_served =
            |slot: Slot| served.chunks_exact(2).any(|pair| *pair == slot.0.to_be_bytes());
        for peer in peers.iter().filter(|peer| peer.slot != from && !is_served(peer.slot)) {
            let mut tunnel = peer.tunnel();
            if tunnel.is_up() {
                match tunnel.send_frame(frame, &mut Out { batch, common, io, now }) {
                    Ok(()) => peer.outbound.add(frame.bytes.len()),
                    Err(reason) => common.drops.add(reason, 1),
                }
            }
        }
    }

    fn handle_segment(
        &mut self,
        peer: &Peer,
        shim: &Shim,
        mut segment: Segment,
        now: Instant,
        io: &mut impl Io,
    ) {
        let len = segment.range.len();
        if self.joined_from == peer.slot && self.joiner.extend(&segment, &self.arena) {
            peer.inbound.add(len);
            if shim.flags.has(Flags::LAST) {
                self.finish_join(io);
            }
            return;
        }
        self.finish_join(io);
        let mut frame = Frame { hdr: header(shim, 16), bytes: &self.arena[segment.range.clone()] };
        let ingress = Behind::Member(peer.slot).port_id();
        match self.switch.forward(ingress, &mut frame, now) {
            Verdict::Forward(egress) => {
                let layout = Layout::of(frame.bytes);
                let (Behind::Local(port), Some(layout)) = (Behind::of(egress), layout) else {
                    return self.common.drops.add(DropReason::BadSegment, 1);
                };
                peer.inbound.add(len);
                segment.port = port;
                segment.range.end = segment.range.start + frame.bytes.len();
                if !self.joiner.start(&segment, layout, &self.arena) {
                    deliver(port, frame, &self.common, io);
                    return;
                }
                self.joined_from = peer.slot;
                if shim.flags.has(Flags::LAST) {
                    self.finish_join(io);
                }
            }
            Verdict::Flood(_) | Verdict::Answer => {
                self.common.drops.add(DropReason::BadSegment, 1);
            }
            Verdict::Drop(_) => peer.inbound.drop_one(),
        }
    }

    fn finish_join(&mut self, io: &mut impl Io) {
        if let Some(delivered) = self.joiner.finish(&self.arena, io) {
            count_delivery(delivered, &self.common);
        }
    }

    fn handle_initiation(&mut self, arrival: &Arrival<'_>, now: Instant, io: &mut impl Io) {
        if !self.check(arrival, now, io) {
            return;
        }
        match self.carrier.knock(arrival.sealed).and_then(|key| self.peers.by_key(&key)).cloned() {
            Some(peer) => self.handshake(&peer, arrival, now, io),
            None => self.common.drops.add(DropReason::HandshakeRefused, 1),
        }
    }

    fn handle_answer(
        &mut self,
        receiver_index: u32,
        arrival: &Arrival<'_>,
        now: Instant,
        io: &mut impl Io,
    ) {
        let Some(peer) = self.peers.by_index(receiver_index).cloned() else {
            return self.common.drops.add(DropReason::NoSuchTunnel, 1);
        };
        // A cookie reply has no MACs and costs no more than a data message.
        if arrival.sealed.len() == COOKIE_LEN || self.check(arrival, now, io) {
            self.handshake(&peer, arrival, now, io);
        }
    }

    /// Says whether an initiation or a response is looked at; counts it if not.
    fn check(&mut self, arrival: &Arrival<'_>, now: Instant, io: &mut impl Io) -> bool {
        let Self { carrier, limiter, common, batch, .. } = self;
        let (address, load) = match arrival.route {
            Route::Direct(via) => (via.remote.ip(), limiter.load(now)),
            Route::Relay => (RELAYED, Load::Idle),
        };
        let mut buffer = [0; 256];
        match (carrier.check(address, load, arrival.sealed, &mut buffer), arrival.route, load) {
            (Checked::Passed, Route::Direct(_), Load::Idle) => {
                limiter.count_unproven();
                true
            }
            (Checked::Passed, ..) => {
                let admitted = limiter.admit(arrival.source, now);
                if !admitted {
                    common.drops.add(DropReason::HandshakeLimited, 1);
                }
                admitted
            }
            (Checked::Cookie(len), Route::Direct(via), _) => {
                common.drops.add(DropReason::HandshakeLimited, 1);
                if let Some(cookie) = buffer.get(..len) {
                    let to = Destination { slot: Slot::GATEWAY, via, relay: None };
                    batch.push_sealed(to, cookie, &common.drops, io);
                }
                false
            }
            (Checked::Cookie(_), Route::Relay, _) | (Checked::Refused, ..) => {
                common.drops.add(DropReason::HandshakeRefused, 1);
                false
            }
        }
    }

    fn handshake(&mut self, peer: &Peer, arrival: &Arrival<'_>, now: Instant, io: &mut impl Io) {
        let Self { common, batch, .. } = self;
        let mut buffer = [0; 256];
        let mut tunnel = peer.tunnel();
        let address = match arrival.route {
            Route::Direct(via) => via.remote.ip(),
            Route::Relay => RELAYED,
        };
        let handshaken = tunnel.engine.handle_handshake(address, arrival.sealed, &mut buffer);
        let (len, established) = match handshaken {
            Handshaken::Answer(len) => (len, false),
            Handshaken::Established(len) => (len, true),
            Handshaken::Noted => return,
            Handshaken::Refused => {
                tunnel.handle_refused(arrival.route, &mut Out { batch, common, io, now });
                return common.drops.add(DropReason::HandshakeRefused, 1);
            }
        };
        if let (Some(to), Some(answer)) =
            (destination_by(peer.slot, arrival.route, common), buffer.get(..len))
        {
            batch.push_sealed(to, answer, &common.drops, io);
        }
        if established {
            tunnel.handle_heard(arrival.route, &mut Out { batch, common, io, now });
            drop(tunnel);
            self.note_remote(peer.slot, arrival.route);
        }
    }

    /// Returns whose account a datagram is for.
    fn account(&self, arrival: &Arrival<'_>) -> Account {
        let slot = match (arrival.source, arrival.route) {
            (Source::Member(slot), _) => Some(slot),
            (Source::Address(_), Route::Direct(via)) => self.remotes.get(&via.remote).copied(),
            (Source::Address(_), Route::Relay) => None,
        };
        slot.map_or(Account::STRANGERS, Account::of)
    }

    /// Remembers which member speaks from an address, for the relay and for fair shares.
    fn note_remote(&mut self, slot: Slot, route: Route) {
        if let Route::Direct(via) = route
            && self.remotes.get(&via.remote) != Some(&slot)
        {
            self.remotes.retain(|_, other| *other != slot);
            self.remotes.insert(via.remote, slot);
        }
    }

    /// Hands a sealed datagram of one member on to another, unread.
    fn hand_on(
        &mut self,
        via: Via,
        header: RelayHeader,
        sealed: &[u8],
        now: Instant,
        io: &mut impl Io,
    ) {
        let Some(from) = self.remotes.get(&via.remote).copied() else {
            return self.common.drops.add(DropReason::RelayStranger, 1);
        };
        if !self.fair.admit(Account::of(from), sealed.len(), now) {
            return self.common.drops.add(DropReason::FairShare, 1);
        }
        let to = self.peers.get(header.slot).filter(|peer| peer.slot != from);
        let Some(Route::Direct(via)) = to.and_then(|peer| peer.tunnel().agent.primary()) else {
            return self.common.drops.add(DropReason::RelayNoPath, 1);
        };
        let relay = Some(RelayHeader { direction: Direction::FromMember, slot: from });
        let to = Destination { slot: header.slot, via, relay };
        self.batch.push_sealed(to, sealed, &self.common.drops, io);
    }
}

/// Classifies a datagram and takes a relay header off where one belongs; counts what is dropped.
fn classified<'a>(common: &Common, via: Via, datagram: &'a [u8]) -> Option<Arrival<'a>> {
    let direct = Route::Direct(via);
    let source = Source::of(via.remote.ip());
    let Some(family) = classify(datagram) else {
        common.drops.add(DropReason::Unknown, 1);
        return None;
    };
    let Family::Relay(header) = family else {
        return Some(Arrival { route: direct, source, family, sealed: datagram });
    };
    let sealed = datagram.get(RelayHeader::LEN..).unwrap_or_default();
    match header.direction {
        Direction::ToMember if common.slot == Slot::GATEWAY => {
            Some(Arrival { route: direct, source, family, sealed })
        }
        // Only the gateway's proven address may hand datagrams on to us.
        Direction::FromMember if common.relay().is_some_and(|r| r.remote == via.remote) => {
            match classify(sealed) {
                Some(
                    family @ (Family::Initiation | Family::Answer { .. } | Family::Data { .. }),
                ) => {
                    let source = Source::Member(header.slot);
                    Some(Arrival { route: Route::Relay, source, family, sealed })
                }
                Some(Family::Relay(_) | Family::Quic) | None => {
                    common.drops.add(DropReason::Unknown, 1);
                    None
                }
            }
        }
        Direction::ToMember | Direction::FromMember => {
            common.drops.add(DropReason::RelayStranger, 1);
            None
        }
    }
}

const fn header(shim: &Shim, csum_offset: u8) -> VnetHdr {
    let needs_csum = shim.flags.has(Flags::CSUM);
    VnetHdr {
        needs_csum,
        data_valid: false,
        gso: vde_switch::vnet::GsoType::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: if needs_csum { shim.csum_start } else { 0 },
        csum_offset: if needs_csum { csum_offset as u16 } else { 0 },
    }
}
