//! Control connections: ordered, reliable, and they break.
//!
//! # Theory of operation
//! A [`Conn`] carries encoded messages both ways, each direction in order. A message waits while
//! the hosts are apart or its receiver is stopped; a connection that has had no way for
//! [`DEAD_AFTER`] breaks at both ends. When a process ends, the other end hears of it if it can be
//! reached.
//!
//! # Limits
//! No flow control: the real transport's limits have tests of their own.

use std::collections::VecDeque;

use overlay_proto::identity::NodeId;
use overlay_proto::messages::{JoinReply, JoinRequest, Message as _, ToGateway, ToMember};

use super::link::MS;
use super::world::{Event, World};

/// How long a connection lives without a way: the real transport's ping and its time-out.
pub const DEAD_AFTER: u64 = 20_000 * MS;

/// How often a message that cannot be delivered is tried again.
const TRY_INTERVAL: u64 = 250 * MS;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the gateway.
    Up,
    /// To the seller.
    Down,
}

/// A message under way, encoded.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// On the join stream.
    Join(Vec<u8>),
    /// On the member stream.
    Member(Vec<u8>),
    /// A heartbeat of the member stream.
    Heartbeat,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Conn {
    /// The seller's process and its start.
    pub seller: (usize, u64),
    /// The gateway's.
    pub gateway: (usize, u64),
    /// Whom the transport has proved.
    pub peer: NodeId,
    up: VecDeque<(u64, Parcel)>,
    down: VecDeque<(u64, Parcel)>,
    ok_at: u64,
}

impl World {
    /// Dials the gateway of a seller's order, as `peer`.
    pub fn dial(&mut self, seller: usize, peer: NodeId) -> Option<u64> {
        let gateway = self.gateways[self.procs[seller].order];
        if !self.is_running(gateway) || self.are_apart(seller, gateway) {
            return None;
        }
        self.conn_last += 1;
        let conn = Conn {
            seller: (seller, self.procs[seller].starts),
            gateway: (gateway, self.procs[gateway].starts),
            peer,
            up: VecDeque::new(),
            down: VecDeque::new(),
            ok_at: self.now,
        };
        self.conns.insert(self.conn_last, conn);
        Some(self.conn_last)
    }

    /// Puts a message on its way; on a broken connection it is lost.
    pub fn send(&mut self, id: u64, way: Way, parcel: Parcel) {
        let delay = self.underlay.stream_delay(&mut self.rng);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let queue = if way == Way::Up { &mut conn.up } else { &mut conn.down };
        let ready_at = queue.back().map_or(0, |(at, _)| *at).max(self.now + delay);
        queue.push_back((ready_at, parcel));
        self.schedule(ready_at, Event::Pump(id, way));
    }

    /// Delivers the first message of a queue if it can be.
    pub fn pump(&mut self, id: u64, way: Way) {
        let Some(conn) = self.conns.get(&id) else { return };
        let queue = if way == Way::Up { &conn.up } else { &conn.down };
        let ((seller, _), (gateway, _)) = (conn.seller, conn.gateway);
        let receiver = if way == Way::Up { gateway } else { seller };
        let Some((ready_at, _)) = queue.front() else { return };
        if *ready_at > self.now {
            return; // its own event comes
        }
        if self.are_apart(seller, gateway) || !self.is_running(receiver) {
            return self.schedule(self.now + TRY_INTERVAL, Event::Pump(id, way));
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let queue = if way == Way::Up { &mut conn.up } else { &mut conn.down };
        let Some((_, parcel)) = queue.pop_front() else { return };
        let peer = conn.peer;
        let more = !queue.is_empty();
        match way {
            Way::Up => self.deliver_up(id, gateway, peer, parcel),
            Way::Down => self.deliver_down(id, seller, parcel),
        }
        if more {
            self.schedule(self.now, Event::Pump(id, way));
        }
    }

    fn deliver_up(&mut self, id: u64, gateway: usize, peer: NodeId, parcel: Parcel) {
        match parcel {
            Parcel::Join(bytes) => {
                let request = JoinRequest::decode(&bytes).expect("a member encoded it");
                self.handle_join(gateway, id, peer, &request);
            }
            Parcel::Member(bytes) => {
                let message = ToGateway::decode(&bytes).expect("a member encoded it");
                self.handle_member(gateway, id, peer, message);
            }
            Parcel::Heartbeat => self.handle_heartbeat(gateway, id),
        }
    }

    fn deliver_down(&mut self, id: u64, seller: usize, parcel: Parcel) {
        match parcel {
            Parcel::Join(bytes) => {
                let reply = JoinReply::decode(&bytes).expect("a gateway encoded it");
                self.handle_reply(seller, id, reply);
            }
            Parcel::Member(bytes) => {
                let message = ToMember::decode(&bytes).expect("a gateway encoded it");
                self.handle_word(seller, id, message);
            }
            Parcel::Heartbeat => {}
        }
    }

    /// Ends a connection; both ends that still run hear of it.
    pub fn hang_up(&mut self, id: u64) {
        let Some(conn) = self.conns.remove(&id) else { return };
        let ((seller, seller_starts), (gateway, gateway_starts)) = (conn.seller, conn.gateway);
        if self.procs[seller].starts == seller_starts && self.procs[seller].plane.is_some() {
            self.handle_lost(seller, id);
        }
        if self.procs[gateway].starts == gateway_starts && self.procs[gateway].plane.is_some() {
            self.handle_stream_closed(gateway, id);
        }
    }

    /// Ends a connection once what was said on it has arrived; nothing new is said on it.
    pub fn finish(&mut self, id: u64) {
        self.schedule(self.now + 2000 * MS, Event::HangUp(id));
    }

    /// Breaks connections that have had no way for too long; those of a process that has ended,
    /// as soon as the other end can be told.
    pub fn check_conns(&mut self) {
        let mut broken = Vec::new();
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get(&id) else { continue };
            let ((seller, seller_starts), (gateway, gateway_starts)) = (conn.seller, conn.gateway);
            let apart = self.are_apart(seller, gateway);
            let asleep = |p: usize| self.hosts[self.procs[p].host].asleep_until > self.now;
            let gone = |p: usize, starts: u64| {
                self.procs[p].starts != starts || self.procs[p].plane.is_none()
            };
            let gone = gone(seller, seller_starts) || gone(gateway, gateway_starts);
            let no_way = apart || asleep(seller) || asleep(gateway);
            let stopped = !self.is_running(seller) || !self.is_running(gateway);
            if gone && !no_way || self.now > conn.ok_at + DEAD_AFTER {
                broken.push(id);
            } else if !no_way
                && !stopped
                && let Some(conn) = self.conns.get_mut(&id)
            {
                conn.ok_at = self.now;
            }
        }
        for id in broken {
            self.hang_up(id);
        }
    }
}
