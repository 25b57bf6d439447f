//! An order and its config: who rents, and what every member of the segment must know.
//!
//! An [`Order`] never changes, so its id is a name for ever. Everything that may change is in the
//! [`Config`], signed by the same key, with a version that only grows.

mod guests;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vde_switch::station::{Segment, Station};

pub use self::guests::*;
use crate::addressing::{PREFIX_V4_MAX, PREFIX_V4_MIN, Subnet};
use crate::envelope::{Document, Kind, Signed, encode};
use crate::identity::{self, NodeId};
use crate::names::Name;
use crate::ticket::{ADDRESSES_MAX, DialAddr};

/// Smallest MTU of a segment: IPv6 needs it (RFC 8200, 5).
pub const MTU_MIN: u16 = 1280;

/// Largest MTU of a segment: jumbo frames, and what fits a buffer beside its headers.
pub const MTU_MAX: u16 = 9000;

/// Characters of an order's short form.
const SHORT_LEN: usize = 8;

/// An order's birth certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Whose it is; the key that signs everything in it.
    pub buyer: NodeId,
    /// Makes it differ from the buyer's other orders.
    pub nonce: [u8; 16],
}

impl Order {
    /// Returns its id: BLAKE3 of the payload, whose 48 bytes have one form only.
    #[must_use]
    pub fn id(&self) -> OrderId {
        OrderId(*blake3::hash(&encode(self)).as_bytes())
    }
}

impl Document for Order {
    const KIND: Kind = Kind::Order;
}

/// Names an order for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub [u8; 32]);

impl OrderId {
    /// Returns all 52 characters; `{}` shows the first eight.
    #[must_use]
    pub fn full(&self) -> String {
        identity::base32(&self.0)
    }

    /// Reads the full form.
    #[must_use]
    pub fn from_full(text: &str) -> Option<Self> {
        identity::from_base32(text).map(Self)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.full()[..SHORT_LEN])
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What may change about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Which order.
    pub order: OrderId,
    /// Grows with each change.
    pub version: u32,
    /// The buyer's word for it.
    pub name: Name,
    /// Addresses, MTU and options of the segment.
    pub segment: Segment,
    /// X25519 key of the gateway's data plane.
    pub gateway_key: [u8; 32],
    /// Addresses of slot 0, the buyer's own computer.
    pub buyer_station: Station,
    /// Relays besides the gateway itself, at most [`ADDRESSES_MAX`].
    pub relays: Vec<DialAddr>,
    /// How long grants of this order live, in seconds.
    pub life_s: u16,
    /// Whom guests are to ask for names, best first; at most [`DNS_MAX`], all on the segment.
    pub dns: Vec<IpAddr>,
    /// Networks behind stations of the segment, at most [`ROUTES_MAX`].
    pub routes: Vec<Route>,
}

impl Document for Config {
    const KIND: Kind = Kind::Config;
}

impl Config {
    /// Returns the domain that the order's guests are in.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("{}.internal", self.name)
    }

    /// Says whether a signed config is this buyer's, for this order, and makes sense.
    ///
    /// # Errors
    /// [`ConfigError`], the first that applies.
    pub fn check(signed: &Signed<Self>, order: OrderId, buyer: NodeId) -> Result<(), ConfigError> {
        let config = signed.body();
        if signed.signer() != buyer {
            return Err(ConfigError::Signer(signed.signer()));
        }
        if config.order != order {
            return Err(ConfigError::Order(config.order));
        }
        let Segment { ipv4: (network, prefix), ipv6: (network6, prefix6), mtu, broadcast: _ } =
            config.segment;
        let subnet = Subnet::new(network, prefix).filter(|subnet| subnet.network() == network);
        let sized = (PREFIX_V4_MIN..=PREFIX_V4_MAX).contains(&prefix);
        let Some(subnet) = subnet.filter(|subnet| sized && subnet.is_unicast()) else {
            return Err(ConfigError::Segment);
        };
        let ula = network6.octets()[0] & 0xfe == 0xfc && network6.octets()[8..] == [0; 8];
        let station = config.buyer_station;
        let same_prefix = station.ipv6.octets()[..8] == network6.octets()[..8];
        if prefix6 != 64 || !ula || !subnet.contains(station.ipv4) || !same_prefix {
            return Err(ConfigError::Segment);
        }
        if !station.mac.is_station() {
            return Err(ConfigError::Segment);
        }
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(ConfigError::Mtu(mtu));
        }
        if config.relays.len() > ADDRESSES_MAX {
            return Err(ConfigError::Relays(config.relays.len()));
        }
        if !(1..=crate::grant::LIFE_MAX_S).contains(&config.life_s) {
            return Err(ConfigError::Life(config.life_s));
        }
        check_guests(&config.segment, &config.dns, &config.routes)?;
        Ok(())
    }
}

/// Why a config is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Signed by another key than the buyer's.
    #[error("the config is signed by {0}, not by the buyer")]
    Signer(NodeId),
    /// Of another order.
    #[error("the config is of order {0}")]
    Order(OrderId),
    /// Addresses that cannot be a segment.
    #[error("the config's addresses are no segment: a subnet of /8 to /28 and a local /64")]
    Segment,
    /// Such an MTU.
    #[error("the config's MTU of {0} is not within {MTU_MIN} to {MTU_MAX}")]
    Mtu(u16),
    /// So many relays.
    #[error("the config names {0} relays, more than {ADDRESSES_MAX}")]
    Relays(usize),
    /// Grants that live too long or not at all.
    #[error("the config lets grants live {0} s")]
    Life(u16),
    /// What guests cannot be told.
    #[error("the config is of no use to guests: {0}")]
    Guests(#[from] GuestsError),
}
