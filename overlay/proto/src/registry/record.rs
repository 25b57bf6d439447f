//! What outlives the gateway's process: plain values, written before they are acted on.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vde_switch::station::{Broadcast, Segment, Station};

use crate::addressing::{self, Subnet};
use crate::control::{Limits, Slot};
use crate::grant::LIFE_MAX_S;
use crate::identity::NodeId;
use crate::names::Name;
use crate::order::{Config, Order, OrderId, Route};
use crate::ticket::DialAddr;

/// What the store keeps of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Its birth certificate.
    pub order: Order,
    /// The buyer's word for it.
    pub name: Name,
    /// Its subnet.
    pub subnet: Subnet,
    /// Its MTU.
    pub mtu: u16,
    /// Whether group traffic is carried.
    pub broadcast: Broadcast,
    /// X25519 public key of the gateway's data plane; the secret is stored beside it.
    pub gateway_key: [u8; 32],
    /// Where members may dial, as put into tickets.
    pub addresses: Vec<DialAddr>,
    /// Relays besides the gateway.
    pub relays: Vec<DialAddr>,
    /// UDP and TCP port of the gateway.
    pub port: u16,
    /// Life of grants, in seconds.
    pub life_s: u16,
    /// Version of the config that all this makes.
    pub config_version: u32,
    /// The last slot that was given out.
    pub slot_last: Slot,
    /// How often a gateway started with it.
    pub starts: u32,
    /// Generation of its grants.
    pub epoch: u32,
    /// What each guest may send.
    pub limits: Limits,
    /// Whom guests are to ask for names.
    pub dns: Vec<IpAddr>,
    /// Networks that guests are told.
    pub routes: Vec<Route>,
}

impl OrderRecord {
    /// Makes an order with default options, no address and no guest.
    #[must_use]
    pub const fn new(order: Order, name: Name, subnet: Subnet, gateway_key: [u8; 32]) -> Self {
        Self {
            order,
            name,
            subnet,
            mtu: 1500,
            broadcast: Broadcast::On,
            gateway_key,
            addresses: Vec::new(),
            relays: Vec::new(),
            port: 0,
            life_s: LIFE_MAX_S,
            config_version: 1,
            slot_last: Slot::GATEWAY,
            starts: 0,
            epoch: 0,
            limits: Limits::NONE,
            dns: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Returns the order's id.
    #[must_use]
    pub fn id(&self) -> OrderId {
        self.order.id()
    }

    /// Returns the segment's addresses and options.
    #[must_use]
    pub fn segment(&self) -> Segment {
        Segment {
            ipv4: (self.subnet.network(), self.subnet.prefix()),
            ipv6: (addressing::prefix_v6(self.id()), 64),
            mtu: self.mtu,
            broadcast: self.broadcast,
        }
    }

    /// Returns a slot's addresses, `None` if the subnet has none for it.
    #[must_use]
    pub fn station(&self, slot: Slot) -> Option<Station> {
        let id = self.id();
        addressing::station(id, self.subnet, addressing::prefix_v6(id), slot)
    }

    pub(super) fn config(&self) -> Option<Config> {
        Some(Config {
            order: self.id(),
            version: self.config_version,
            name: self.name.clone(),
            segment: self.segment(),
            gateway_key: self.gateway_key,
            buyer_station: self.station(Slot::GATEWAY)?,
            relays: self.relays.clone(),
            life_s: self.life_s,
            dns: self.dns.clone(),
            routes: self.routes.clone(),
        })
    }
}

/// What a ticket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TicketState {
    /// Nobody used it yet.
    Open,
    /// Somebody used it, and may come again.
    Claimed,
    /// Nobody may use it: the buyer took it back, or evicted who used it.
    Void,
}

/// What the store keeps of the newest ticket of a slot, and of those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// The slot it opens.
    pub slot: Slot,
    /// The guest's name there.
    pub name: Name,
    /// Hash of its secret.
    pub secret_hash: [u8; 32],
    /// When it was made, in unix seconds.
    pub made_at: u64,
    /// Unix seconds after which it is void if unused.
    pub expires_at: u64,
    /// Who used it.
    pub claimed_by: Option<NodeId>,
    /// When, in unix seconds.
    pub claimed_at: u64,
    /// When the buyer took it back or evicted who used it, in unix seconds.
    pub void_at: Option<u64>,
    /// Those before it, newest last.
    pub former: Vec<Former>,
}

impl TicketRecord {
    /// Says what it is good for; its expiry aside.
    #[must_use]
    pub const fn state(&self) -> TicketState {
        match (self.void_at, self.claimed_by) {
            (Some(_), _) => TicketState::Void,
            (None, Some(_)) => TicketState::Claimed,
            (None, None) => TicketState::Open,
        }
    }
}

/// A ticket in whose place another was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Hash of its secret.
    pub secret_hash: [u8; 32],
    /// Who used it.
    pub claimed_by: Option<NodeId>,
    /// Claimed until another key has the slot, else void.
    pub state: TicketState,
}

/// What the store keeps of a slot that somebody joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// Its number.
    pub slot: Slot,
    /// The guest's name.
    pub name: Name,
    /// Whose host.
    pub seller: NodeId,
    /// X25519 key of its data plane.
    pub data_key: [u8; 32],
    /// Whether its host speaks to the buyer's address alone.
    pub only_buyer: bool,
    /// When it joined last, in unix seconds.
    pub joined_at: u64,
    /// When it left, in unix seconds.
    pub left_at: Option<u64>,
    /// When the buyer took it out, in unix seconds.
    pub evicted_at: Option<u64>,
}

/// Something to write before acting on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Replaces the order's record.
    Order(OrderRecord),
    /// Replaces the record of the ticket for its slot.
    Ticket(TicketRecord),
    /// Replaces the record of its slot.
    Slot(SlotRecord),
}
