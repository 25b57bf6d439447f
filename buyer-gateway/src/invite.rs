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
use crate::manage::{self, Change};
use crate::order::Book;

/// How long the tickets of `up --invite` may be used first.
pub(crate) const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Whose places tickets are for.
#[derive(Clone, Debug)]
pub(crate) enum For {
    /// So many new guests, named by their numbers.
    New(u16),
    /// A new guest of this name.
    Named(Name),
    /// Whoever takes the place of this guest.
    Instead(Name),
}

impl For {
    /// Reads what was asked for; a name goes before a number.
    pub(crate) fn new(slots: u16, guest: Option<Name>, replace: bool) -> Self {
        match (guest, replace) {
            (None, _) => Self::New(slots),
            (Some(guest), false) => Self::Named(guest),
            (Some(guest), true) => Self::Instead(guest),
        }
    }
}

pub(crate) fn run(state: Option<&Path>, args: Invite) -> anyhow::Result<Exit> {
    if let Some(guest) = args.revoke {
        return manage::change(state, &args.name, Change::Revoke { guest });
    }
    let state = StateDir::find(state)?;
    let expires_s = args.expires.as_secs();
    let tickets = match connect(&state, &args.name)? {
        Some(mut client) => {
            let Invite { slots, guest, replace, .. } = args;
            ask(&mut client, &Request::Invite { slots, guest, replace, expires_s })?
        }
        None => {
            let mut book = Book::open_existing(&state, &args.name)?;
            let whose = For::new(args.slots, args.guest, args.replace);
            make(&mut book, whose, args.expires)?
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
    whose: For,
    expires_after: Duration,
) -> anyhow::Result<Tickets> {
    let (unix_now, now) = (clock::unix_seconds(), clock::now());
    let expires_at = unix_now.saturating_add(expires_after.as_secs());
    let (count, name, instead) = match whose {
        For::New(count) => (count, None, None),
        For::Named(guest) => (1, Some(guest), None),
        For::Instead(guest) => (1, None, Some(manage::slot_of(book, &guest)?)),
    };
    let mut tickets = Vec::new();
    for _ in 0..count {
        let mut secret = TicketSecret([0; 16]);
        getrandom::fill(&mut secret.0).context("the system has no randomness")?;
        let made = match instead {
            Some(slot) => book.registry.replace(slot, secret, expires_at, unix_now, now),
            None => book.registry.invite(name.clone(), secret, expires_at, unix_now, now),
        };
        let (ticket, records) = made.map_err(|error| explain(book, error, name.as_ref()))?;
        book.commit(&records)?;
        tickets.push((ticket.body().guest.to_string(), ticket.encode()));
    }
    Ok(Tickets { tickets })
}

fn explain(book: &Book, error: InviteError, name: Option<&Name>) -> anyhow::Error {
    let taken = name.filter(|name| book.registry.slot_of(name.as_str()).is_some());
    match error {
        InviteError::Taken(_) | InviteError::Numbered(_) if let Some(name) = taken => {
            let order = &book.registry.order_record().name;
            let text = format!(
                "order {order} has a guest named {name} already: choose another name, or give its \
                 place to another host with --replace"
            );
            Fault::new(Exit::Failed, text).into()
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_guest_of_a_name_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(Some(&folder.path().join("state"))).expect("a state");
        let farm: Name = "farm".parse().expect("a name");
        let subnet = Some("10.77.0.0/24".parse().expect("a subnet"));
        let mut book = Book::open_or_create(&state, &farm, subnet, &[]).expect("new");
        let reach = vec!["198.51.100.7:7770".parse().expect("an address")];
        book.registry.set_reach(reach, Vec::new(), 7770);
        let mut named = |name: &str| {
            let name = name.parse().expect("a name");
            make(&mut book, For::Named(name), EXPIRES_AFTER)
        };
        named("builder").expect("free");
        named("g2").expect("its own number");
        for name in ["builder", "g2"] {
            let text = named(name).expect_err("taken").to_string();
            assert!(text.contains(&format!("named {name} already")), "{text}");
            assert!(text.contains("--replace"), "{text}");
        }
        let text = named("g9").expect_err("a number to come").to_string();
        assert!(!text.contains("already"), "{text}");
        assert_eq!(named("other").expect("free").tickets.len(), 1);
    }
}
