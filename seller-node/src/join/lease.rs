//! A lease on disk: the ticket and the data plane's key, so that joining again resumes.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use overlay::clock;
use overlay::datakey::DataKey;
use overlay::exit::{Exit, Fault};
use overlay::records::{self, StoredLease};
use overlay::state::{Kind, StateDir};
use overlay::store::{Store, StoreError};
use overlay_proto::control::Slot;
use overlay_proto::order::OrderId;
use overlay_proto::ticket::Ticket;

use crate::api::LeaseStatus;

/// How often a lease that is in use is tried, and the pause between two tries.
const BUSY_TRIES: u32 = 20;
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// A lease that this process alone has open.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    /// Where its file is.
    pub(crate) path: PathBuf,
    /// Whether the file was made now.
    pub(crate) is_new: bool,
    /// What is stored of it.
    pub(crate) stored: StoredLease,
}

impl Lease {
    /// Opens the lease of a ticket, made if it is new; then the ticket must still be good.
    ///
    /// A new one is on disk when this returns, so that a ticket is never shown with a key that a
    /// crash would lose; it goes again unless the join succeeds.
    pub(crate) fn open(state: &StateDir, ticket: &Ticket) -> anyhow::Result<Self> {
        let path = state.store_path(Kind::Lease, &name(ticket));
        match open_patiently(&path) {
            Ok(store) => {
                let stored = records::load_lease(&store)?;
                Ok(Self { store, path, is_new: false, stored })
            }
            Err(StoreError::Absent(_)) => Self::create(&path, ticket),
            Err(error) => Err(explain(error, ticket)),
        }
    }

    fn create(path: &Path, ticket: &Ticket) -> anyhow::Result<Self> {
        ticket
            .check_expiry(clock::unix_seconds())
            .map_err(|error| Fault::new(Exit::Refused, error.to_string()))?;
        let data_key = DataKey::random().context("the system has no randomness")?;
        let stored = StoredLease { ticket: ticket.encode(), data_key, port: 0 };
        let mut store = Store::create(path)?;
        records::save_lease(&store, &stored)?;
        store.publish().map_err(|error| explain(error, ticket))?;
        Ok(Self { store, path: path.to_owned(), is_new: true, stored })
    }

    /// Keeps a new lease from here on, with the port it uses and the ticket that opened it.
    pub(crate) fn keep(&mut self, ticket: &Ticket, port: u16) -> anyhow::Result<()> {
        self.stored.ticket = ticket.encode();
        self.stored.port = port;
        records::save_lease(&self.store, &self.stored)?;
        Ok(self.store.keep()?)
    }
}

/// Opens a store, waiting shortly for the processes of a killed program to be gone.
fn open_patiently(path: &Path) -> Result<Store, StoreError> {
    for _ in 0..BUSY_TRIES {
        match Store::open(path) {
            Err(StoreError::Busy(_)) => thread::sleep(BUSY_INTERVAL),
            opened => return opened,
        }
    }
    Store::open(path)
}

fn explain(error: StoreError, ticket: &Ticket) -> anyhow::Error {
    match error {
        StoreError::Busy(_) => {
            let guest = &ticket.body().guest;
            let text = format!("guest {guest} of this ticket is joined already on this host");
            Fault::new(Exit::Failed, text).into()
        }
        error => error.into(),
    }
}

/// Returns the name of a ticket's lease: order and slot.
pub(crate) fn name(ticket: &Ticket) -> String {
    name_of(ticket.order(), ticket.body().slot)
}

/// Returns the name of the lease of a slot.
pub(crate) fn name_of(order: OrderId, slot: Slot) -> String {
    format!("{order}-{}", slot.0)
}

/// Returns the slots of an order of which this host has a lease, running or not, lowest first.
pub(crate) fn slots_of(state: &StateDir, order: OrderId) -> Vec<Slot> {
    let start = format!("{order}-");
    let names = state.names(Kind::Lease);
    let slots = names.iter().filter_map(|name| name.strip_prefix(&start)?.parse().ok());
    let mut slots: Vec<_> = slots.map(Slot).collect();
    slots.sort();
    slots
}

/// Whether a process has a lease open.
pub(crate) fn is_open(state: &StateDir, order: OrderId, slot: Slot) -> bool {
    let path = state.store_path(Kind::Lease, &name_of(order, slot));
    matches!(Store::open(&path), Err(StoreError::Busy(_)))
}

/// Finds the ticket of the one lease that an order's name or id means, `/GUEST` behind it if given.
pub(crate) fn ticket_of(state: &StateDir, wanted: &str) -> anyhow::Result<Ticket> {
    let (order, guest) = match wanted.split_once('/') {
        Some((order, guest)) => (order, Some(guest)),
        None => (wanted, None),
    };
    let mut found = Vec::new();
    for _ in 0..BUSY_TRIES {
        let mut is_busy = false;
        for name in state.names(Kind::Lease) {
            let store = match Store::open(&state.store_path(Kind::Lease, &name)) {
                // Running ones need not be resumed; of a killed one the last process may be there.
                Err(StoreError::Busy(_)) => {
                    is_busy = true;
                    continue;
                }
                Err(StoreError::Absent(_)) => continue,
                store => store?,
            };
            let ticket = Ticket::decode(&records::load_lease(&store)?.ticket)?;
            let body = ticket.body();
            let is_order = body.order_name.as_str() == order || ticket.order().to_string() == order;
            if is_order && guest.is_none_or(|guest| body.guest.as_str() == guest) {
                found.push(ticket);
            }
        }
        if !found.is_empty() || !is_busy {
            break;
        }
        thread::sleep(BUSY_INTERVAL);
    }
    if found.len() > 1 {
        let guests: Vec<_> = found.iter().map(|ticket| ticket.body().guest.as_str()).collect();
        let text = format!(
            "this host has {} guests of order {order}: write {order}/ and one of {}",
            found.len(),
            guests.join(", ")
        );
        return Err(Fault::new(Exit::Usage, text).into());
    }
    found.pop().ok_or_else(|| {
        let text = format!("no lease of {wanted} can be resumed: see `overlay-seller status`");
        Fault::new(Exit::Failed, text).into()
    })
}

/// Says what is known of a lease that does not run; `None` if another process has it open.
pub(crate) fn stopped_status(state: &StateDir, name: &str) -> anyhow::Result<Option<LeaseStatus>> {
    let store = match Store::open(&state.store_path(Kind::Lease, name)) {
        Err(StoreError::Busy(_) | StoreError::Absent(_)) => return Ok(None),
        store => store?,
    };
    let stored = records::load_lease(&store)?;
    let ticket = Ticket::decode(&stored.ticket)?;
    Ok(Some(LeaseStatus {
        order: ticket.body().order_name.to_string(),
        id: ticket.order().to_string(),
        guest: ticket.body().guest.to_string(),
        port: stored.port,
        path: "none".to_owned(),
        state: "stopped".to_owned(),
        ..LeaseStatus::default()
    }))
}
