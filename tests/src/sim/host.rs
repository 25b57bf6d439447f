//! Hosts and processes: what runs where, and by which clocks.
//!
//! # Theory of operation
//! A [`Host`] has an address and three clocks. Boot time goes on while it sleeps and never back;
//! the engine's stands still meanwhile, as the clock does that boringtun reads; wall time may step
//! anywhere. A [`Proc`] is one program: a gateway, or a seller's lease of one order. What it keeps
//! on disk is in its role; its data plane and everything else volatile is gone when it ends. A
//! stopped process (SIGSTOP, or its host asleep) does nothing; datagrams for it wait in its socket,
//! [`INBOX_MAX`] at most, or are lost with a sleeping host.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overlay_proto::control::{LocalPort, Slot};
use overlay_proto::node::Node;
use overlay_proto::path::Via;
use overlay_proto::transmit::{Delivered, Io, Sent};
use vde_switch::station::Station;
use vde_switch::time::Instant;
use vde_switch::vnet::VnetHdr;

use super::engine::Tally;
use super::gateway::Gateway;
use super::model::Party;
use super::seller::Seller;

/// Datagrams that wait in a stopped process's socket.
pub const INBOX_MAX: usize = 128;

/// Wall time at the start of a run, in unix seconds.
pub const WALL_START: u64 = 1_800_000_000;

/// A computer.
#[derive(Debug)]
pub struct Host {
    /// Where it is on the underlay.
    pub ip: Ipv4Addr,
    /// The clock that its tunnels' engines read: boot time without sleep.
    pub clock: Arc<AtomicU64>,
    /// Boot time less the simulation's.
    pub offset: u64,
    /// Wall time less the simulation's, in seconds.
    pub wall_offset: i64,
    /// Until when it sleeps.
    pub asleep_until: u64,
    /// When it slept: the engine's clock stood still then, as CLOCK_MONOTONIC does.
    pub slept: Vec<(u64, u64)>,
    /// Whether boot time stood still, too: a planted bug.
    pub stands_still: bool,
}

impl Host {
    /// Makes a host that booted at some time.
    #[must_use]
    pub fn new(number: usize, offset: u64) -> Self {
        let ip = Ipv4Addr::from_bits(0x2c01_0001 + number as u32);
        let clock = Arc::new(AtomicU64::new(offset));
        Self {
            ip,
            clock,
            offset,
            wall_offset: 0,
            asleep_until: 0,
            slept: Vec::new(),
            stands_still: false,
        }
    }

    /// Sets the clock and returns boot time.
    pub fn instant(&self, now: u64) -> Instant {
        let lost = |(from, until): &(u64, u64)| now.min(*until).saturating_sub(*from);
        let lost: u64 = self.slept.iter().map(lost).sum();
        let boot = now + self.offset;
        self.clock.store(boot - lost, Ordering::Relaxed);
        Instant::from_nanos(if self.stands_still { boot - lost } else { boot })
    }

    /// Returns wall time, in unix seconds.
    #[must_use]
    pub fn wall(&self, now: u64) -> u64 {
        let wall = (WALL_START + now / 1_000_000_000) as i64 + self.wall_offset;
        wall.max(0) as u64
    }
}

/// A data plane that runs.
#[derive(Debug)]
pub struct Plane {
    /// The real thing.
    pub node: Node,
    /// What its engine counts; a real engine counts nothing.
    pub tally: Option<Arc<Tally>>,
    /// Its guest's addresses, once plugged in.
    pub station: Option<Station>,
}

/// What a process does.
#[derive(Debug)]
pub enum Role {
    /// Serves an order.
    Gateway(Box<Gateway>),
    /// Holds a lease.
    Seller(Box<Seller>),
}

/// A program.
#[derive(Debug)]
pub struct Proc {
    /// Which order.
    pub order: usize,
    /// Its slot.
    pub slot: Slot,
    /// Where it runs.
    pub host: usize,
    /// Its data plane's address.
    pub address: SocketAddr,
    /// `None` while it does not run.
    pub plane: Option<Plane>,
    /// Until when it is stopped.
    pub stopped_until: u64,
    /// What waits in its socket.
    pub inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Counts its starts.
    pub starts: u64,
    /// Since when its member stream is up without a pause.
    pub calm_since: Option<u64>,
    /// What it does.
    pub role: Role,
}

impl Proc {
    /// Returns the seller's part.
    #[must_use]
    pub fn seller(&self) -> Option<&Seller> {
        match &self.role {
            Role::Seller(seller) => Some(seller),
            Role::Gateway(_) => None,
        }
    }

    /// Returns the seller's part.
    pub fn seller_mut(&mut self) -> Option<&mut Seller> {
        match &mut self.role {
            Role::Seller(seller) => Some(seller),
            Role::Gateway(_) => None,
        }
    }

    /// Returns the gateway's part.
    pub fn gateway_mut(&mut self) -> Option<&mut Gateway> {
        match &mut self.role {
            Role::Gateway(gateway) => Some(gateway),
            Role::Seller(_) => None,
        }
    }

    /// Returns whom the model sees here.
    #[must_use]
    pub fn party(&self) -> Party {
        let (seller, obeys) = match &self.role {
            Role::Gateway(gateway) => (gateway.key.id(), true),
            Role::Seller(seller) => (seller.key.id(), !seller.rogue),
        };
        Party { slot: self.slot, seller, obeys, calm_since: self.calm_since }
    }
}

/// What a core hands out during a turn.
#[derive(Debug, Default)]
pub struct Hands {
    /// Batches: destination, stride, bytes.
    pub sent: Vec<(SocketAddr, usize, Vec<u8>)>,
    /// Frames for the attachment.
    pub heard: Vec<Vec<u8>>,
}

impl Io for Hands {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.heard.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        Delivered::Done
    }

    fn transmit(&mut self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        self.sent.push((via.remote, stride, datagrams.to_vec()));
        Sent::Done
    }
}
