//! Orders and leases as the store keeps them.
//!
//! An order's store holds the [`Record`]s of its registry and the data plane's secret; a lease's
//! the ticket and the data plane's secret, so that the same ticket gives the same place again.

use overlay_proto::envelope::{self, encode};
use overlay_proto::registry::{OrderRecord, Record, SlotRecord, TicketRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::datakey::DataKey;
use crate::store::{Change, Store, StoreError, Table};

const ORDER: Table = "order";
const TICKETS: Table = "tickets";
const SLOTS: Table = "slots";
const LEASE: Table = "lease";

/// An order as it was stored.
#[derive(Debug)]
pub struct StoredOrder {
    /// Its own record.
    pub order: OrderRecord,
    /// The secret of the gateway's data plane.
    pub data_key: DataKey,
    /// Its tickets.
    pub tickets: Vec<TicketRecord>,
    /// Its slots.
    pub slots: Vec<SlotRecord>,
}

/// Reads an order.
///
/// # Errors
/// [`RecordError`]; a store is published with its order in it, so one that lacks it is unreadable.
pub fn load_order(store: &Store) -> Result<StoredOrder, RecordError> {
    Ok(StoredOrder {
        order: decode(&get(store, ORDER, b"record")?)?,
        data_key: data_key(&get(store, ORDER, b"secret")?)?,
        tickets: list(store, TICKETS)?,
        slots: list(store, SLOTS)?,
    })
}

/// Writes the secret of a new order's data plane; the order's record must be written with it.
#[must_use]
pub fn order_secret(data_key: &DataKey) -> Change {
    Change { table: ORDER, key: b"secret".to_vec(), value: Some(data_key.secret().to_vec()) }
}

/// Returns what stores a registry's records.
#[must_use]
pub fn changes(records: &[Record]) -> Vec<Change> {
    let change = |table, key: &[u8], value| Change { table, key: key.to_vec(), value: Some(value) };
    let stored = |record: &Record| match record {
        Record::Order(order) => change(ORDER, b"record", encode(order)),
        Record::Ticket(ticket) => change(TICKETS, &ticket.slot.0.to_be_bytes(), encode(ticket)),
        Record::Slot(slot) => change(SLOTS, &slot.slot.0.to_be_bytes(), encode(slot)),
    };
    records.iter().map(stored).collect()
}

/// A lease as it was stored.
#[derive(Debug)]
pub struct StoredLease {
    /// The text of its ticket.
    pub ticket: String,
    /// The secret of its data plane.
    pub data_key: DataKey,
    /// The port it used last; 0 for none.
    pub port: u16,
}

/// Reads a lease.
///
/// # Errors
/// [`RecordError`], as [`load_order`].
pub fn load_lease(store: &Store) -> Result<StoredLease, RecordError> {
    let ticket = get(store, LEASE, b"ticket")?;
    Ok(StoredLease {
        ticket: String::from_utf8(ticket).map_err(|_| RecordError::Unreadable)?,
        data_key: data_key(&get(store, LEASE, b"secret")?)?,
        port: decode(&get(store, LEASE, b"port")?)?,
    })
}

/// Writes a lease.
///
/// # Errors
/// [`RecordError::Store`].
pub fn save_lease(store: &Store, lease: &StoredLease) -> Result<(), RecordError> {
    let change = |key: &[u8], value| Change { table: LEASE, key: key.to_vec(), value: Some(value) };
    Ok(store.write(&[
        change(b"ticket", lease.ticket.clone().into_bytes()),
        change(b"secret", lease.data_key.secret().to_vec()),
        change(b"port", encode(&lease.port)),
    ])?)
}

fn get(store: &Store, table: Table, key: &[u8]) -> Result<Vec<u8>, RecordError> {
    store.get(table, key)?.ok_or(RecordError::Unreadable)
}

fn list<T: Serialize + DeserializeOwned>(
    store: &Store,
    table: Table,
) -> Result<Vec<T>, RecordError> {
    store.list(table)?.iter().map(|(_, value)| decode(value)).collect()
}

fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    envelope::decode(bytes).ok_or(RecordError::Unreadable)
}

fn data_key(bytes: &[u8]) -> Result<DataKey, RecordError> {
    bytes.try_into().map(DataKey::from_bytes).map_err(|_| RecordError::Unreadable)
}

/// Why records are not known.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Bytes of another version, or none.
    #[error("the stored records are of another version of this program: use that version")]
    Unreadable,
}

#[cfg(test)]
mod tests {
    use overlay_proto::identity::NodeKey;
    use overlay_proto::order::Order;
    use overlay_proto::registry::Registry;
    use overlay_proto::ticket::TicketSecret;
    use vde_switch::time::Instant;

    use super::*;

    #[test]
    fn an_order_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::create(&folder.path().join("x.redb")).expect("new");
        assert!(matches!(load_order(&store), Err(RecordError::Unreadable)), "no order in it");
        let key = NodeKey::from_seed(&[1; 32]);
        let data_key = DataKey::from_bytes([2; 32]);
        let order = OrderRecord::new(
            Order { buyer: key.id(), nonce: [3; 16] },
            "farm".parse().expect("a name"),
            "10.77.0.0/24".parse().expect("a subnet"),
            data_key.public(),
        );
        let now = Instant::ZERO;
        let mut registry =
            Registry::open(key, order, Vec::new(), Vec::new(), 4, now).expect("a new book");
        let at = "198.51.100.7:7770".parse().expect("an address");
        let mut records = registry.set_reach(vec![at], Vec::new(), 7770);
        let (_, more) = registry.invite(None, TicketSecret([4; 16]), 5, 4, now).expect("room");
        records.extend(more);
        let mut all = changes(&records);
        all.push(order_secret(&data_key));
        store.write(&all).expect("written");
        let stored = load_order(&store).expect("readable");
        assert_eq!(&stored.order, registry.order_record());
        assert_eq!(stored.tickets, registry.tickets().cloned().collect::<Vec<_>>());
        assert_eq!(stored.data_key.secret(), [2; 32]);
    }

    #[test]
    fn a_lease_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::create(&folder.path().join("x.redb")).expect("new");
        assert!(matches!(load_lease(&store), Err(RecordError::Unreadable)), "no lease in it");
        let data_key = DataKey::from_bytes([2; 32]);
        let lease = StoredLease { ticket: "ovl1x".into(), data_key, port: 7771 };
        save_lease(&store, &lease).expect("written");
        let stored = load_lease(&store).expect("readable");
        assert_eq!((stored.ticket.as_str(), stored.port), ("ovl1x", 7771));
        assert_eq!(stored.data_key.public(), lease.data_key.public());
    }
}
