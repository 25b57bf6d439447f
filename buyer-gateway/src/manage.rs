//! Changes to an order by its buyer: `invite --revoke`, `evict`, `set`, whether it runs or not.
//!
//! Each is decided by the registry and written to the store; a running program then tells members.

use std::path::Path;

use anyhow::Context;
use overlay::clock;
use overlay::exit::{Exit, Fault};
use overlay::state::StateDir;
use overlay_proto::control::Slot;
use overlay_proto::names::Name;
use overlay_proto::registry::Options;
use serde::{Deserialize, Serialize};

use crate::api::Request;
use crate::args::{Evict, Set};
use crate::ask::connect;
use crate::order::Book;
use crate::setting::{self, Setting};

/// A change of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub(crate) enum Change {
    /// Takes a guest out.
    Evict {
        /// Whom.
        guest: Name,
    },
    /// Takes an unused ticket back.
    Revoke {
        /// Whose.
        guest: Name,
    },
    /// Changes options.
    Set {
        /// Which.
        settings: Vec<Setting>,
    },
}

pub(crate) fn evict(state: Option<&Path>, args: Evict) -> anyhow::Result<Exit> {
    change(state, &args.name, Change::Evict { guest: args.guest })
}

pub(crate) fn set(state: Option<&Path>, args: Set) -> anyhow::Result<Exit> {
    change(state, &args.name, Change::Set { settings: args.settings })
}

/// Lets the running program make a change, or makes it where none runs.
pub(crate) fn change(state: Option<&Path>, order: &Name, change: Change) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    match connect(&state, order)? {
        Some(mut client) => drop(client.ask(&Request::Change(change))?),
        None => make(&mut Book::open_existing(&state, order)?, &change)?,
    }
    Ok(Exit::Done)
}

/// Makes a change in registry and store; when this returns, it may be acted on.
pub(crate) fn make(book: &mut Book, change: &Change) -> anyhow::Result<()> {
    let unix_now = clock::unix_seconds();
    let records = match change {
        Change::Evict { guest } => {
            let slot = slot_of(book, guest)?;
            book.registry.evict(slot, unix_now)?
        }
        Change::Revoke { guest } => {
            let slot = slot_of(book, guest)?;
            book.registry.revoke(slot, unix_now)?
        }
        Change::Set { settings } => {
            let options: Options = setting::options(settings);
            book.registry.set(&options)?
        }
    };
    book.commit(&records).context("the change is not made")
}

/// Finds the slot of a guest that was invited.
pub(crate) fn slot_of(book: &Book, guest: &Name) -> anyhow::Result<Slot> {
    book.registry.slot_of(guest.as_str()).ok_or_else(|| {
        let order = &book.registry.order_record().name;
        let text = format!("order {order} has no guest named {guest}: see `overlay-gw status`");
        Fault::new(Exit::Failed, text).into()
    })
}
