//! `overlay-seller join`: a guest's place on a buyer's segment, in the foreground until it ends.
//!
//! # Theory of operation
//! Everything that can be refused on this host is checked before anybody is contacted: programs,
//! ticket, namespace, state, port, dial rules. Then the program becomes two: the helper
//! ([`crate::helper`]) stays root, the rest opens what is the node's (key, lease, port, local
//! socket) and leaves root. It dials the gateway and shows it the ticket; what that grants is
//! verified; only then the guest gets its interface. [`serve::Lease`] is the one event loop that
//! moves messages between control connection, helper, data plane and local commands.
//!
//! Where another program of this host has a lease of the same order, the guest shares it ([`find`],
//! [`beside`]): that program shows the ticket and has the data plane, this one has the guest and
//! its wire. When the other's lease ends, the guest gets a place by another way ([`Way`]): that of
//! whoever was first to have a lease of its own, or by its own.
//!
//! # Limits
//! One guest a process. Several processes share a state directory: each has its own lease file.

mod beside;
mod dial;
mod find;
mod guest;
mod hands;
pub(crate) mod lease;
mod link;
mod news;
mod others;
mod own;
mod report;
mod serve;
mod share;
mod status;
mod story;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::clock;
use overlay::confine::service_user;
use overlay::dataplane::DataPlane;
use overlay::exit::{Exit, Fault};
use overlay::helper::{self, Leftovers, Part};
use overlay::host::addresses::own_addresses;
use overlay::local::{Bound, Server};
use overlay::ports::{self, Listening};
use overlay::preflight;
use overlay::signals::Signals;
use overlay::state::{Kind, StateDir};
use overlay_proto::control::Command;
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::NodeKey;
use overlay_proto::messages::RefuseReason;
use overlay_proto::names::Name;
use overlay_proto::ticket::Ticket;
use tokio::runtime;
use vde_switch::time::Instant;

use self::beside::Left;
use self::find::Shared;
use self::hands::{Facts, Host};
use self::lease::Lease;
use self::report::Report;
use crate::api::Request;
use crate::args::{Conduct, Join, Place, Resume};
use crate::helper::Desk;
use crate::helper::ask::{Ask, Tell, Wiring};
use crate::helper::seat::Seat;

/// Longest wait for tasks that do not end by themselves.
const SHUTDOWN_AFTER: Duration = Duration::from_millis(500);
/// How long a place that seems to be in use is asked for: longer than the gateway takes to notice
/// that a host died (10 s).
const IN_USE_AFTER_MAX: Duration = Duration::from_secs(12);

pub(crate) fn run(state: Option<&Path>, args: &Join) -> anyhow::Result<Exit> {
    let ticket = crate::ticket::read(args.ticket.as_deref())?;
    join_at(state, ticket, &args.place)
}

pub(crate) fn resume(state: Option<&Path>, args: &Resume) -> anyhow::Result<Exit> {
    let ticket = lease::ticket_of(&StateDir::find(state)?, &args.order)?;
    join_at(state, ticket, &args.place)
}

fn join_at(state: Option<&Path>, ticket: Ticket, place: &Place) -> anyhow::Result<Exit> {
    preflight::check(Seat::needs(&place.attach))?;
    let seat = Seat::find(place, &ticket)?;
    join(state, ticket, &place.conduct, seat)
}

/// Joins with a guest at `seat`, until it ends. To be called by the program's first thread, before
/// it has started others.
pub(crate) fn join(
    state: Option<&Path>,
    ticket: Ticket,
    place: &Conduct,
    mut seat: Seat,
) -> anyhow::Result<Exit> {
    let lan = if place.lan { Lan::Allowed } else { Lan::Refused };
    let rules = DialRules { lan, links: own_addresses() };
    let user = service_user()?;
    crate::audit::ensure()?;
    let words = seat.words();
    let facts = seat.machine().map(|machine| {
        let (program, accel, console) = machine.facts();
        Facts { program, accel, console }
    });
    let calls = StateDir::find(state)?;
    let hands = match helper::split()? {
        Part::Helper(helper) => {
            let desk = Desk { seat, rules, user, state: calls, order: ticket.order() };
            return Ok(crate::helper::serve(helper, desk));
        }
        Part::Control(hands) => hands,
    };
    // It is the helper's: what it has taken is not given back here.
    std::mem::forget(seat);

    let state = StateDir::open(state)?;
    let key = state.node_key()?;
    let lease = Lease::open(&state, &ticket)?;
    let shared = find::lease(&state, &ticket, place);
    let socket = state.socket_path(Kind::Lease, &lease::name(&ticket));
    let bound = Bound::at(&socket)
        .with_context(|| format!("{} cannot be listened on", socket.display()))?;
    let file = vec![lease.path.clone()];
    let unless_kept = if lease.is_new { file.clone() } else { Vec::new() };
    let leftovers = Leftovers { always: vec![socket], unless_kept, if_forgotten: file };
    let way = match shared {
        Some(shared) => {
            hands.ask(&Ask::Share { leftovers }, &[])?;
            Way::Shared(shared)
        }
        None => {
            let remembered = Some(lease.stored.port).filter(|port| *port != 0);
            let Listening { udp, tcp: _, port } =
                ports::listen(place.listen.as_slice(), remembered)?;
            hands.ask(&Ask::Ready { port, leftovers }, &[udp.as_fd()])?;
            Way::Own(port)
        }
    };
    // What comes with the answer keeps the host's guard standing until this process is gone.
    let (answer, _guarded) = hands.wait()?;
    if let Tell::Refused { exit, text } = answer {
        return Err(hands::fault(exit, text).into());
    }
    hands.leave_root(user, false).context("this process cannot give up its rights")?;

    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let start = Start {
            host: Host::new(hands, words, facts),
            place,
            rules,
            ticket,
            key,
            lease,
            report: if place.json { Report::Json } else { Report::Text },
            signals: Signals::listen()?,
            local: Local::Bound(bound),
            guest: Plugged::default(),
            started_at: clock::now(),
        };
        start.run(way).await
    });
    runtime.shutdown_timeout(SHUTDOWN_AFTER);
    ended.map(|()| Exit::Done)
}

/// How a guest has its place.
enum Way {
    /// By a lease of its own, at this port.
    Own(u16),
    /// By that of another program.
    Shared(Shared),
}

/// The local socket: nobody is answered before the guest has its place.
enum Local {
    Bound(Bound),
    Open(Server<Request>),
    /// In between.
    Moving,
}

impl Local {
    /// Answers from here on.
    fn open(&mut self) -> anyhow::Result<&mut Server<Request>> {
        let server = match std::mem::replace(self, Self::Moving) {
            Self::Bound(bound) => Server::listen(bound),
            Self::Open(server) => Ok(server),
            Self::Moving => bail!("the local socket is gone"),
        };
        *self = Self::Open(server.context("the local socket cannot be listened on")?);
        match self {
            Self::Open(server) => Ok(server),
            Self::Bound(_) | Self::Moving => bail!("the local socket is gone"),
        }
    }
}

/// What a guest has that is plugged in, whichever lease it is in.
#[derive(Default)]
struct Plugged {
    /// What its cable carries, and the data plane's end of it.
    cable: Option<(Wiring, OwnedFd)>,
    /// Whether its user was told that it has joined.
    is_joined: bool,
}

/// What the control process has when it leaves root.
struct Start<'a> {
    host: Host,
    place: &'a Conduct,
    rules: DialRules,
    ticket: Ticket,
    key: NodeKey,
    /// Its lock is held until the end.
    lease: Lease,
    report: Report,
    signals: Signals,
    local: Local,
    guest: Plugged,
    started_at: Instant,
}

impl Start<'_> {
    /// Serves the guest in whatever lease it has its place by, until its end.
    async fn run(mut self, mut way: Way) -> anyhow::Result<()> {
        loop {
            match way {
                Way::Own(port) => return self.own(port).await,
                Way::Shared(shared) => match self.beside(shared).await? {
                    Left::Ended => return Ok(()),
                    Left::Alone => way = self.next_way().await?,
                },
            }
        }
    }
}

/// Marks that the buyer took the guest out: its ticket opens nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("the buyer has evicted this guest from the order")]
struct Evicted;

/// Says how the program ends over a refusal.
fn refused(guest: &Name, reason: RefuseReason) -> anyhow::Error {
    let fault = Fault::new(Exit::Refused, format!("{guest} is not let in: {reason}"));
    match reason {
        RefuseReason::Evicted => anyhow::Error::from(fault).context(Evicted),
        _ => fault.into(),
    }
}

/// Draws the nonce of a question to the gateway.
fn nonce() -> anyhow::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("the system has no randomness")?;
    Ok(nonce)
}

/// Sends all commands to the data plane.
fn tell(dataplane: &DataPlane, commands: &[Command]) -> anyhow::Result<()> {
    for command in commands {
        dataplane.send(command)?;
    }
    Ok(())
}
