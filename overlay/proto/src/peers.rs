//! The members that a data plane knows, as one immutable value.
//!
//! Control changes it by making another and handing it to both directions, so the data path reads
//! it without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use vde_switch::port::PortId;

use crate::control::{LocalPort, MEMBERS_MAX, Slot};
use crate::peer::Peer;

/// Ports of the switch: members by slot first, then this host's attachments.
pub const LOCAL_PORTS_BASE: u16 = MEMBERS_MAX as u16;

/// Most attachments of one lease.
pub const LOCAL_PORTS_MAX: u16 = 64;

/// Bits of a tunnel's number that hold the slot; the rest tells generations of a slot apart.
const SLOT_BITS: u32 = 10;

/// Who or what is behind a switch port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Another member.
    Member(Slot),
    /// An attachment on this host.
    Local(LocalPort),
}

impl Behind {
    /// Returns the switch port of this.
    #[must_use]
    pub const fn port_id(self) -> PortId {
        match self {
            Self::Member(slot) => PortId(slot.0),
            Self::Local(port) => PortId(LOCAL_PORTS_BASE.saturating_add(port.0)),
        }
    }

    /// Returns what is behind a switch port.
    #[must_use]
    pub const fn of(port: PortId) -> Self {
        match port.0.checked_sub(LOCAL_PORTS_BASE) {
            None => Self::Member(Slot(port.0)),
            Some(local) => Self::Local(LocalPort(local)),
        }
    }
}

/// All members but this node.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    by_slot: Vec<Option<Arc<Peer>>>,
    by_key: BTreeMap<[u8; 32], Slot>,
}

impl Peers {
    /// Returns the member with this slot.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Arc<Peer>> {
        self.by_slot.get(usize::from(slot.0))?.as_ref()
    }

    /// Returns the member with this static key.
    #[must_use]
    pub fn by_key(&self, key: &[u8; 32]) -> Option<&Arc<Peer>> {
        self.get(*self.by_key.get(key)?)
    }

    /// Returns the member whose tunnel has the number in the upper bits of an index.
    #[must_use]
    pub fn by_index(&self, receiver_index: u32) -> Option<&Arc<Peer>> {
        let number = receiver_index >> 8;
        let slot = Slot((number & ((1 << SLOT_BITS) - 1)) as u16);
        self.get(slot).filter(|peer| peer.number == number)
    }

    /// Returns the members in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_slot.iter().flatten()
    }

    /// Returns the number of a slot's `generation`-th tunnel: 24 bits, unique among those in use.
    #[must_use]
    pub const fn number(slot: Slot, generation: u32) -> u32 {
        ((generation << SLOT_BITS) | slot.0 as u32) & 0x00ff_ffff
    }

    /// Adds a member, or puts it in the place of another with its slot. Says whether it could:
    /// slots are bounded by [`MEMBERS_MAX`], and a key belongs to one slot.
    #[must_use]
    pub fn insert(&mut self, peer: Arc<Peer>) -> bool {
        let at = usize::from(peer.slot.0);
        if at >= MEMBERS_MAX || self.by_key.get(&peer.key).is_some_and(|slot| *slot != peer.slot) {
            return false;
        }
        self.remove(peer.slot);
        if self.by_slot.len() <= at {
            self.by_slot.resize(at + 1, None);
        }
        self.by_key.insert(peer.key, peer.slot);
        self.by_slot[at] = Some(peer);
        true
    }

    /// Forgets a member.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(peer) = self.by_slot.get_mut(usize::from(slot.0)).and_then(Option::take) {
            self.by_key.remove(&peer.key);
        }
    }
}
