//! A lease on disk: the ticket and the data plane's key, so that joining again resumes.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use overlay::clock;
use overlay::datakey::DataKey;
use overlay::exit::{Exit, Fault};
use overlay::records::{self, StoredLease};
use overlay::state::{Kind, StateDir};
use overlay::store::{Store, StoreError};
use overlay_proto::ticket::Ticket;

use crate::api::LeaseStatus;

/// A lease that this process alone has open.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    /// What is stored of it.
    pub(crate) stored: StoredLease,
    /// The file of a lease that was not there before, removed again unless the join succeeds.
    new: Option<PathBuf>,
}

impl Lease {
    /// Opens the lease of a ticket, made if it is new; then the ticket must still be good.
    pub(crate) fn open(state: &StateDir, ticket: &Ticket) -> anyhow::Result<Self> {
        let path = state.store_path(Kind::Lease, &name(ticket));
        let is_new = !path.exists();
        let store = match Store::open(&path) {
            Err(StoreError::Busy(_)) => {
                let guest = &ticket.body().guest;
                let text = format!("guest {guest} of this ticket is joined already on this host");
                return Err(Fault::new(Exit::Failed, text).into());
            }
            store => store?,
        };
        let new = is_new.then_some(path);
        if let Some(stored) = records::load_lease(&store)? {
            return Ok(Self { store, stored, new });
        }
        let data_key = DataKey::random().context("the system has no randomness")?;
        let lease =
            Self { store, stored: StoredLease { ticket: ticket.encode(), data_key, port: 0 }, new };
        ticket
            .check_expiry(clock::unix_seconds())
            .map_err(|error| Fault::new(Exit::Refused, error.to_string()))?;
        records::save_lease(&lease.store, &lease.stored)?;
        Ok(lease)
    }

    /// Keeps a new lease from here on, with the port it uses.
    pub(crate) fn keep(&mut self, port: u16) -> anyhow::Result<()> {
        self.stored.port = port;
        records::save_lease(&self.store, &self.stored)?;
        self.new = None;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(path) = self.new.take() {
            // Nobody was joined; a file that stays is found again with its ticket.
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the name of a ticket's lease: order and slot.
pub(crate) fn name(ticket: &Ticket) -> String {
    format!("{}-{}", ticket.order(), ticket.body().slot.0)
}

/// Says what is known of a lease that does not run; `None` if another process has it open.
pub(crate) fn stopped_status(state: &StateDir, name: &str) -> anyhow::Result<Option<LeaseStatus>> {
    let store = match Store::open_existing(&state.store_path(Kind::Lease, name)) {
        Err(StoreError::Busy(_) | StoreError::Absent(_)) => return Ok(None),
        store => store?,
    };
    let Some(stored) = records::load_lease(&store)? else { return Ok(None) };
    let ticket = Ticket::decode(&stored.ticket)?;
    Ok(Some(LeaseStatus {
        order: ticket.body().order_name.to_string(),
        id: ticket.order().to_string(),
        guest: ticket.body().guest.to_string(),
        ipv4: String::new(),
        ipv6: String::new(),
        attached: String::new(),
        port: stored.port,
        path: "none".to_owned(),
        remote: None,
        rtt_ms: None,
        members: 0,
        state: "stopped".to_owned(),
        in_bytes: 0,
        out_bytes: 0,
        drops: std::collections::BTreeMap::new(),
    }))
}
