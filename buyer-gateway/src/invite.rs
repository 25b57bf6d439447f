//! `overlay-gw invite`: tickets on stdout, by the running program or, if there is none, by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use overlay::clock;
use overlay::exit::{Exit, Fault};
use overlay::output::line;
use overlay::state::StateDir;
use overlay_proto::names::Name;
use overlay_proto::registry::InviteError;
use overlay_proto::ticket::{TicketError, TicketSecret};

use crate::api::{Request, Tickets};
use crate::args::Invite;
use crate::ask::{ask, connect};
use crate::order::Book;

/// How long the tickets of `up --invite` may be used first.
pub(crate) const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run(state: Option<&Path>, args: &Invite) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let expires_s = args.expires.as_secs();
    let tickets = match connect(&state, &args.name)? {
        Some(mut client) => {
            let (slots, guest) = (args.slots, args.guest.clone());
            ask(&mut client, &Request::Invite { slots, guest, expires_s })?
        }
        None => {
            let mut book = Book::open_existing(&state, &args.name)?;
            make(&mut book, args.slots, args.guest.as_ref(), args.expires)?
        }
    };
    for (_, text) in tickets.tickets {
        line(&text)?;
    }
    Ok(Exit::Done)
}

/// Makes tickets, each written to the store before anyone sees it.
pub(crate) fn make(
    book: &mut Book,
    count: u16,
    guest: Option<&Name>,
    expires_after: Duration,
) -> anyhow::Result<Tickets> {
    let expires_at = clock::unix_seconds().saturating_add(expires_after.as_secs());
    let mut tickets = Vec::new();
    for _ in 0..count {
        let mut secret = TicketSecret([0; 16]);
        getrandom::fill(&mut secret.0).context("the system has no randomness")?;
        let made = book.registry.invite(guest.cloned(), secret, expires_at);
        let (ticket, records) = made.map_err(|error| explain(book, error))?;
        book.commit(&records)?;
        tickets.push((ticket.body().guest.to_string(), ticket.encode()));
    }
    Ok(Tickets { tickets })
}

fn explain(book: &Book, error: InviteError) -> anyhow::Error {
    match error {
        InviteError::Ticket(TicketError::Addresses(0)) => {
            let text = format!(
                "order {} has no address that sellers could dial: name one by `up --advertise \
                 HOST:PORT`, or use `up --lan` in a local network",
                book.registry.order_record().name
            );
            Fault::new(Exit::Failed, text).into()
        }
        other => other.into(),
    }
}
