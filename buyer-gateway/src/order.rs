//! An order on disk and its registry in memory, kept in step: written first, acted on after.

use std::thread;
use std::time::Duration;

use anyhow::Context;
use overlay::clock;
use overlay::datakey::DataKey;
use overlay::exit::{Exit, Fault};
use overlay::host::routes::Route;
use overlay::records::{self, StoredOrder};
use overlay::state::{Kind, StateDir};
use overlay::store::{Store, StoreError};
use overlay_proto::addressing::Subnet;
use overlay_proto::control::Slot;
use overlay_proto::identity::NodeKey;
use overlay_proto::names::Name;
use overlay_proto::order::Order;
use overlay_proto::registry::{OrderRecord, Record, Registry};

use crate::api::OrderStatus;
use crate::up::guests;

/// How long a store that is in use is waited for: `invite` of a stopped order holds it shortly.
const BUSY_AFTER_MAX: Duration = Duration::from_secs(2);

/// An order that this process alone has open.
#[derive(Debug)]
pub(crate) struct Book {
    store: Store,
    /// Whether its file was made now.
    pub(crate) is_new: bool,
    /// What it says.
    pub(crate) registry: Registry,
    /// The secret of the gateway's data plane.
    pub(crate) data_key: DataKey,
    /// The node's key.
    pub(crate) key: NodeKey,
}

impl Book {
    /// Opens an order, made if it is new.
    ///
    /// `routes` are the host's: the subnet must not meet them, whether given, chosen or stored.
    pub(crate) fn open_or_create(
        state: &StateDir,
        name: &Name,
        subnet: Option<Subnet>,
        routes: &[Route],
    ) -> anyhow::Result<Self> {
        let key = state.node_key()?;
        let path = state.store_path(Kind::Order, name.as_str());
        let (store, stored, is_new) = match open_patiently(|| Store::open(&path)) {
            Err(StoreError::Absent(_)) => {
                let made = create(&key, name, subnet, routes)?;
                (Store::create(&path)?, made, true)
            }
            store => {
                let store = store?;
                let stored = records::load_order(&store)?;
                (store, stored, false)
            }
        };
        let known = stored.order.subnet;
        if let Some(given) = subnet.filter(|given| *given != known) {
            let text = format!(
                "order {name} has the subnet {known} for life, not {given}: leave --subnet out"
            );
            return Err(Fault::new(Exit::Usage, text).into());
        }
        check_free(known, routes, "remove that route, or make another order with --subnet")?;
        Self::new(store, is_new, key, stored)
    }

    /// Opens an order that is there and does not run.
    pub(crate) fn open_existing(state: &StateDir, name: &Name) -> anyhow::Result<Self> {
        let path = state.store_path(Kind::Order, name.as_str());
        let store = open_patiently(|| Store::open(&path))?;
        let stored = records::load_order(&store)?;
        let key = state.node_key()?;
        Self::new(store, false, key, stored)
    }

    fn new(store: Store, is_new: bool, key: NodeKey, stored: StoredOrder) -> anyhow::Result<Self> {
        let StoredOrder { order, data_key, tickets, slots } = stored;
        let (unix_now, now) = (clock::unix_seconds(), clock::now());
        let registry = Registry::open(key.clone(), order, tickets, slots, unix_now, now)?;
        let book = Self { store, is_new, registry, data_key, key };
        let mut changes = records::changes(&[Record::Order(book.registry.order_record().clone())]);
        changes.push(records::order_secret(&book.data_key));
        book.store.write(&changes)?;
        Ok(book)
    }

    /// Writes what the registry handed out; when this returns, it may be acted on.
    pub(crate) fn commit(&self, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() { Ok(()) } else { self.store.write(&records::changes(records)) }
    }

    /// Gives a new order its file, which goes again unless the start succeeds.
    pub(crate) fn publish(&mut self) -> Result<(), StoreError> {
        self.store.publish()
    }

    /// Keeps a new order from here on.
    pub(crate) fn keep(&mut self) -> Result<(), StoreError> {
        self.store.keep()
    }
}

fn create(
    key: &NodeKey,
    name: &Name,
    subnet: Option<Subnet>,
    routes: &[Route],
) -> anyhow::Result<StoredOrder> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("the system has no randomness")?;
    let order = Order { buyer: key.id(), nonce };
    let nets: Vec<_> = routes.iter().map(|route| route.net).collect();
    let subnet = match subnet {
        Some(subnet) => subnet,
        None => Subnet::choose(order.id(), &nets)
            .context("this host has routes to all private networks: choose one with --subnet")?,
    };
    check_free(subnet, routes, "choose another with --subnet")?;
    let data_key = DataKey::random().context("the system has no randomness")?;
    let order = OrderRecord::new(order, name.clone(), subnet, data_key.public());
    Ok(StoredOrder { order, data_key, tickets: Vec::new(), slots: Vec::new() })
}

fn check_free(subnet: Subnet, routes: &[Route], cure: &str) -> anyhow::Result<()> {
    match routes.iter().find(|route| route.net.overlaps(subnet)) {
        None => Ok(()),
        Some(Route { net, dev }) => {
            let text = format!(
                "subnet {subnet} overlaps {net}, to which this host has a route over {dev}: {cure}"
            );
            Err(Fault::new(Exit::Failed, text).into())
        }
    }
}

/// Opens a store, waiting shortly for a command that has it.
fn open_patiently(open: impl Fn() -> Result<Store, StoreError>) -> Result<Store, StoreError> {
    let started_at = clock::now();
    loop {
        match open() {
            Err(StoreError::Busy(_)) if clock::now() - started_at < BUSY_AFTER_MAX => {
                thread::sleep(Duration::from_millis(50));
            }
            opened => return opened,
        }
    }
}

/// Says what is known of an order that does not run; `None` if another process has it open.
pub(crate) fn stopped_status(state: &StateDir, name: &str) -> anyhow::Result<Option<OrderStatus>> {
    let store = match Store::open(&state.store_path(Kind::Order, name)) {
        Err(StoreError::Busy(_) | StoreError::Absent(_)) => return Ok(None),
        store => store?,
    };
    let StoredOrder { order, slots, .. } = records::load_order(&store)?;
    let segment = order.segment();
    let guests = slots.iter().filter(|slot| slot.left_at.is_none());
    let guests = guests.filter_map(|slot| {
        let mut guest = guests::silent(slot, &order.station(slot.slot)?);
        if slot.evicted_at.is_some() {
            guest.state = "evicted".to_owned();
        }
        Some(guest)
    });
    Ok(Some(OrderStatus {
        order: order.name.to_string(),
        id: order.id().to_string(),
        subnet: order.subnet.to_string(),
        ipv6: format!("{}/{}", segment.ipv6.0, segment.ipv6.1),
        you: order.station(Slot::GATEWAY).map_or(String::new(), |own| own.ipv4.to_string()),
        port: order.port,
        state: "stopped".to_owned(),
        guests: guests.collect(),
        drops: std::collections::BTreeMap::new(),
        reasons: std::collections::BTreeMap::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(Some(&folder.path().join("state"))).expect("a state");
        (folder, state)
    }

    fn route(net: &str) -> Route {
        Route { net: net.parse().expect("a net"), dev: "eth0".into() }
    }

    #[test]
    fn an_order_keeps_its_addresses_and_key() {
        let (_folder, state) = state();
        let name: Name = "farm".parse().expect("a name");
        let mut book = Book::open_or_create(&state, &name, None, &[]).expect("new");
        book.keep().expect("its name is free");
        let (id, subnet) = (book.registry.id(), book.registry.order_record().subnet);
        let data_key = book.data_key.public();
        drop(book);
        let book = Book::open_or_create(&state, &name, Some(subnet), &[]).expect("known");
        assert_eq!((book.registry.id(), book.data_key.public()), (id, data_key));
        assert_eq!(book.registry.order_record().starts, 2);
    }

    #[test]
    fn a_new_order_that_does_not_start_leaves_nothing() {
        let (_folder, state) = state();
        let name: Name = "farm".parse().expect("a name");
        let given: Subnet = "10.77.0.0/24".parse().expect("a subnet");
        let refused = Book::open_or_create(&state, &name, Some(given), &[route("10.0.0.0/8")]);
        let text = refused.expect_err("an overlap").to_string();
        assert!(
            text.contains("10.77.0.0/24 overlaps 10.0.0.0/8") && text.contains("eth0"),
            "{text}"
        );
        assert!(state.names(Kind::Order).is_empty());
        drop(Book::open_or_create(&state, &name, Some(given), &[]).expect("made, not kept"));
        assert!(state.names(Kind::Order).is_empty());
    }

    #[test]
    fn a_known_order_does_not_move() {
        let (_folder, state) = state();
        let name: Name = "farm".parse().expect("a name");
        let subnet = |text: &str| Some(text.parse().expect("a subnet"));
        let mut book =
            Book::open_or_create(&state, &name, subnet("10.77.0.0/24"), &[]).expect("new");
        book.keep().expect("its name is free");
        drop(book);
        let moved = Book::open_or_create(&state, &name, subnet("10.78.0.0/24"), &[]);
        assert!(moved.expect_err("moved").to_string().contains("for life"));
    }
}
