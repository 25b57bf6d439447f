//! A fault at every write: an order lived through once for each change that its disk is asked for,
//! stopped at that change, and read again from what the disk kept.
//!
//! Whatever was acted on is there; identity and addresses are the same; nothing is half. The
//! gateway's rule is what is tested: decide, write, act.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use overlay::datakey::DataKey;
use overlay::records::{self, StoredOrder};
use overlay::store::{Store, StoreError};
use overlay_proto::control::Slot;
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::messages::{JOIN_VERSION, JoinReply, JoinRequest};
use overlay_proto::order::Order;
use overlay_proto::registry::{Options, OrderRecord, Record, Registry, TicketState};
use overlay_proto::ticket::{Ticket, TicketSecret};
use vde_switch::time::Instant;

use crate::disk::{Disk, Kept};

const NOW: u64 = 1_800_000_000;
const START: Instant = Instant::ZERO;

/// What the outside world was told, and may rely on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Promised {
    tickets: BTreeMap<u16, TicketState>,
    claimed: BTreeMap<u16, NodeId>,
    members: BTreeMap<u16, NodeId>,
    mtu: u16,
}

/// A gateway without its network: decides, writes, then promises.
struct Gateway {
    store: Store,
    registry: Registry,
    promised: Promised,
}

fn path() -> &'static Path {
    Path::new("farm.redb")
}

fn node(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

fn data_key() -> DataKey {
    DataKey::from_bytes([9; 32])
}

fn new_order() -> OrderRecord {
    let order = Order { buyer: node(1).id(), nonce: [2; 16] };
    let subnet = "10.77.0.0/24".parse().expect("a subnet");
    OrderRecord::new(order, "farm".parse().expect("a name"), subnet, data_key().public())
}

impl Gateway {
    fn create(disk: &Disk) -> Result<Self, StoreError> {
        let store = Store::create_on(disk.clone(), path())?;
        Self::start(store, new_order(), Vec::new(), Vec::new())
    }

    fn open(disk: &Disk) -> Result<Self, StoreError> {
        let store = Store::open_on(disk.clone(), path())?;
        let StoredOrder { order, tickets, slots, .. } =
            records::load_order(&store).expect("a published store has its order");
        Self::start(store, order, tickets, slots)
    }

    fn start(
        store: Store,
        order: OrderRecord,
        tickets: Vec<overlay_proto::registry::TicketRecord>,
        slots: Vec<overlay_proto::registry::SlotRecord>,
    ) -> Result<Self, StoreError> {
        let registry = Registry::open(node(1), order, tickets, slots, NOW, START).expect("ours");
        let mut changes = records::changes(&[Record::Order(registry.order_record().clone())]);
        changes.push(records::order_secret(&data_key()));
        store.write(&changes)?;
        let promised = Promised { mtu: registry.order_record().mtu, ..Promised::default() };
        Ok(Self { store, registry, promised })
    }

    fn commit(&self, records: &[Record]) -> Result<(), StoreError> {
        self.store.write(&records::changes(records))
    }

    fn invite(&mut self, number: u8) -> Result<Ticket, StoreError> {
        let secret = TicketSecret([number; 16]);
        let invited = self.registry.invite(None, secret, NOW + 60, NOW, START);
        let (ticket, records) = invited.expect("room");
        self.commit(&records)?;
        self.promised.tickets.insert(ticket.body().slot.0, TicketState::Open);
        Ok(ticket)
    }

    fn join(&mut self, ticket: &Ticket, seller: u8) -> Result<(), StoreError> {
        let request = JoinRequest {
            version: JOIN_VERSION,
            order: self.registry.id(),
            ticket: ticket.envelope().to_vec(),
            data_key: DataKey::from_bytes([seller; 32]).public(),
            nonce: [0; 16],
            only_buyer: false,
        };
        let (peer, ip) = (node(seller).id(), IpAddr::from([198, 51, 100, seller]));
        let outcome = self.registry.handle_join(peer, ip, &request, NOW, START);
        assert!(matches!(outcome.reply, JoinReply::Welcome(_)), "{:?}", outcome.reply);
        self.commit(&outcome.records)?;
        let slot = ticket.body().slot.0;
        self.promised.tickets.insert(slot, TicketState::Claimed);
        self.promised.claimed.insert(slot, peer);
        self.promised.members.insert(slot, peer);
        Ok(())
    }

    fn leave(&mut self, slot: u16, seller: u8) -> Result<(), StoreError> {
        let records = self.registry.leave(node(seller).id(), Slot(slot), NOW).expect("a member");
        self.commit(&records)?;
        self.promised.members.remove(&slot);
        Ok(())
    }

    fn evict(&mut self, slot: u16) -> Result<(), StoreError> {
        let records = self.registry.evict(Slot(slot), NOW).expect("a member");
        self.commit(&records)?;
        self.promised.tickets.insert(slot, TicketState::Void);
        self.promised.members.remove(&slot);
        Ok(())
    }

    fn revoke(&mut self, slot: u16) -> Result<(), StoreError> {
        let records = self.registry.revoke(Slot(slot), NOW).expect("unclaimed");
        self.commit(&records)?;
        self.promised.tickets.insert(slot, TicketState::Void);
        Ok(())
    }

    fn set(&mut self, mtu: u16) -> Result<(), StoreError> {
        let options = Options { mtu: Some(mtu), ..Options::default() };
        let records = self.registry.set(&options).expect("within bounds");
        self.commit(&records)?;
        self.promised.mtu = mtu;
        Ok(())
    }

    /// Everything that an order's life has, in one order.
    fn live(&mut self) -> Result<(), StoreError> {
        let at = "198.51.100.7:7770".parse().expect("an address");
        let records = self.registry.set_reach(vec![at], Vec::new(), 7770);
        self.commit(&records)?;
        let tickets = [self.invite(11)?, self.invite(12)?, self.invite(13)?];
        self.join(&tickets[0], 21)?;
        self.join(&tickets[1], 22)?;
        self.set(1400)?;
        self.leave(1, 21)?;
        self.join(&tickets[0], 21)?;
        self.evict(2)?;
        self.revoke(3)
    }

    /// What the registry says now, in the words of a promise.
    fn says(&self) -> Promised {
        let tickets = self.registry.tickets();
        let claimed =
            self.registry.tickets().filter_map(|t| Some((t.slot.0, t.claimed_by?))).collect();
        Promised {
            tickets: tickets.map(|ticket| (ticket.slot.0, ticket.state())).collect(),
            claimed,
            members: self
                .registry
                .members()
                .map(|member| (member.record.slot.0, member.record.seller))
                .collect(),
            mtu: self.registry.order_record().mtu,
        }
    }
}

/// Lives until the disk stops; returns what was promised and what one step more would have been.
fn live_until_it_stops(disk: &Disk) -> Option<(Promised, Promised)> {
    let mut gateway = Gateway::create(disk).ok()?;
    let ended = gateway.live();
    // The registry is one decision ahead of the store where a write failed.
    let decided = gateway.says();
    assert!(ended.is_err() || decided == gateway.promised, "a whole life promises all");
    Some((gateway.promised, decided))
}

#[test]
fn whatever_was_acted_on_survives_a_stop_at_every_change_of_the_disk() {
    let whole = Disk::default();
    let (promised, _) = live_until_it_stops(&whole).expect("an unstopped disk");
    assert_eq!(promised.tickets[&2], TicketState::Void);
    let total = whole.changes();
    let mut reopened_count = 0;
    for stop_at in 0..total {
        let disk = Disk::default();
        disk.stop_at(stop_at);
        let Some((promised, decided)) = live_until_it_stops(&disk) else {
            continue; // the order was never published: nobody has seen anything of it
        };
        for kept in [Kept::All, Kept::None, Kept::Some(stop_at as u64), Kept::Some(!0)] {
            let what = format!("stopped at change {stop_at} of {total}, kept {kept:?}");
            let gateway = Gateway::open(&Disk::with(disk.bytes(kept))).expect(&what);
            let order = gateway.registry.order_record();
            assert_eq!((order.id(), order.gateway_key), (new_order().id(), data_key().public()));
            let found = gateway.says();
            // Either the last decision was written whole, or nothing of it.
            assert!(found == promised || found == decided, "{what}: {found:?}\n{promised:?}");
            reopened_count += 1;
        }
    }
    assert!(reopened_count > 4 * 50, "only {reopened_count} stops were after the publishing");
}

#[test]
fn a_store_that_failed_stays_refused_until_it_is_opened_again() {
    let disk = Disk::default();
    let mut gateway = Gateway::create(&disk).expect("new");
    disk.stop_at(disk.changes());
    assert!(matches!(gateway.set(1400), Err(StoreError::Failed { .. })));
    let again = gateway.set(1300).expect_err("the registry is ahead of the store");
    assert!(again.to_string().contains("farm.redb"), "{again}");
}
