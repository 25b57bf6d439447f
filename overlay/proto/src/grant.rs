//! Grants: what one member may do in an order, signed by the buyer.
//!
//! A grant is never believed for longer than [`LIFE_MAX_S`] and is never read back from a disk: it
//! is asked for over a live authenticated stream, and the nonce of the question is in the answer.

use serde::{Deserialize, Serialize};
use vde_switch::station::Station;

pub use crate::control::Limits;
use crate::control::{MEMBERS_MAX, Slot};
use crate::envelope::{Document, EnvelopeError, Kind, Signed};
use crate::identity::NodeId;
use crate::names::Name;
use crate::order::OrderId;

/// Longest remaining life of a grant, in seconds: how late a revocation may reach a lone member.
pub const LIFE_MAX_S: u16 = 900;

/// Shortest life that a buyer may choose, in seconds: time for a renewal that gets lost once.
pub const LIFE_MIN_S: u16 = 10;

/// Most engine suites in a grant.
pub const SUITES_MAX: usize = 8;

/// An engine and its cipher. A number, so that an older node reads a roster that names newer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Suite(pub u16);

impl Suite {
    /// WireGuard's handshake and ChaCha20-Poly1305.
    pub const WIREGUARD: Self = Self(1);
}

/// What one member may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// In which order.
    pub order: OrderId,
    /// Whose host.
    pub seller: NodeId,
    /// X25519 key of its data plane: who holds it speaks for the station.
    pub data_key: [u8; 32],
    /// Its number in the order.
    pub slot: Slot,
    /// Its guest's name.
    pub name: Name,
    /// The addresses it may use.
    pub station: Station,
    /// How much it may send.
    pub limits: Limits,
    /// Engines it may be reached by, best first; 1 to [`SUITES_MAX`].
    pub engines: Vec<Suite>,
    /// Grows with each grant of the order; revocation names it together with the key.
    pub serial: u64,
    /// Grows when all earlier grants of the order are revoked at once.
    pub epoch: u32,
    /// Seconds it may be believed from the moment the question was sent.
    pub life_s: u16,
    /// Nonce of the question that it answers.
    pub nonce: [u8; 16],
}

impl Grant {
    /// Returns what only grows from one grant of a slot to the next.
    #[must_use]
    pub const fn age(&self) -> (u32, u64) {
        (self.epoch, self.serial)
    }
}

impl Document for Grant {
    const KIND: Kind = Kind::Grant;
}

/// What a seller expects of the grant he asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The order of his ticket.
    pub order: OrderId,
    /// The buyer of his ticket.
    pub buyer: NodeId,
    /// Himself.
    pub seller: NodeId,
    /// His data plane.
    pub data_key: [u8; 32],
    /// The nonce he sent.
    pub nonce: [u8; 16],
}

impl Grant {
    /// Opens a grant of this order by this buyer, as every member does with the roster's.
    ///
    /// # Errors
    /// [`GrantError`], the first that applies.
    pub fn open(bytes: &[u8], order: OrderId, buyer: NodeId) -> Result<Signed<Self>, GrantError> {
        let signed: Signed<Self> = Signed::open(bytes)?;
        let grant = signed.body();
        if signed.signer() != buyer {
            return Err(GrantError::Signer(signed.signer()));
        }
        if grant.order != order {
            return Err(GrantError::Order(grant.order));
        }
        if grant.slot == Slot::GATEWAY || usize::from(grant.slot.0) >= MEMBERS_MAX {
            return Err(GrantError::Slot(grant.slot.0));
        }
        if !(1..=LIFE_MAX_S).contains(&grant.life_s) {
            return Err(GrantError::Life(grant.life_s));
        }
        if !(1..=SUITES_MAX).contains(&grant.engines.len()) {
            return Err(GrantError::Suites(grant.engines.len()));
        }
        if !grant.station.mac.is_station() {
            return Err(GrantError::Station);
        }
        Ok(signed)
    }

    /// Opens the grant that a seller asked for.
    ///
    /// # Errors
    /// [`GrantError`], the first that applies.
    pub fn open_own(bytes: &[u8], expected: &Expected) -> Result<Signed<Self>, GrantError> {
        let signed = Self::open(bytes, expected.order, expected.buyer)?;
        let grant = signed.body();
        if grant.seller != expected.seller {
            return Err(GrantError::Seller(grant.seller));
        }
        if grant.data_key != expected.data_key {
            return Err(GrantError::DataKey);
        }
        if grant.nonce != expected.nonce {
            return Err(GrantError::Nonce);
        }
        if !grant.engines.contains(&Suite::WIREGUARD) {
            return Err(GrantError::NoSuite);
        }
        Ok(signed)
    }
}

/// Why a grant allows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a signed grant.
    #[error("not a grant: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Signed by another key than the buyer's.
    #[error("the grant is signed by {0}, not by the buyer")]
    Signer(NodeId),
    /// For another order.
    #[error("the grant is for order {0}")]
    Order(OrderId),
    /// For another seller.
    #[error("the grant is for seller {0}")]
    Seller(NodeId),
    /// For another data plane.
    #[error("the grant is for another data-plane key")]
    DataKey,
    /// Older than the one that is known.
    #[error("the grant's serial {0} is older than what is known")]
    Stale(u64),
    /// Answers another question, perhaps an old one.
    #[error("the grant does not answer the question that was asked")]
    Nonce,
    /// A slot that is nobody's or the gateway's.
    #[error("the grant's slot {0} cannot be a member's")]
    Slot(u16),
    /// A life of none or of more than [`LIFE_MAX_S`].
    #[error("the grant lives {0} s, not 1 to {LIFE_MAX_S}")]
    Life(u16),
    /// None or too many engines.
    #[error("the grant names {0} engines, not 1 to {SUITES_MAX}")]
    Suites(usize),
    /// No engine that this node has.
    #[error("the grant names no engine that this program has; update it")]
    NoSuite,
    /// Addresses that no station may have.
    #[error("the grant's station has a group address or none")]
    Station,
}
