//! `overlay-seller join`: a guest's place on a buyer's segment, in the foreground until it ends.
//!
//! # Theory of operation
//! Everything that can be refused on this host is checked before anybody is contacted: programs,
//! ticket, namespace, state, port, dial rules. Then the program becomes two: the helper
//! ([`crate::helper`]) stays root, the rest opens what is the node's (key, lease, port, local
//! socket) and leaves root. It dials the gateway and shows it the ticket; what that grants is
//! verified; only then the guest gets its interface. [`serve::Member`] is the one event loop that
//! moves messages between control connection, helper, data plane and local commands.
//!
//! # Limits
//! One guest a process. Several processes share a state directory: each has its own lease file.

mod dial;
mod hands;
pub(crate) mod lease;
mod link;
mod report;
mod serve;
mod story;

use std::net::SocketAddr;
use std::os::fd::AsFd;
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
use overlay_proto::control::{CANDIDATES_MAX, Command, LocalPort};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JoinReply, RefuseReason, Welcome};
use overlay_proto::names::Name;
use overlay_proto::ticket::Ticket;
use tokio::runtime;

use self::hands::{Facts, Host};
use self::lease::Lease;
use self::link::{Link, LinkEvent};
use self::report::Report;
use self::serve::{Member, Parts};
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
    let hands = match helper::split()? {
        Part::Helper(helper) => {
            return Ok(crate::helper::serve(helper, Desk { seat, rules, user }));
        }
        Part::Control(hands) => hands,
    };
    // It is the helper's: what it has taken is not given back here.
    std::mem::forget(seat);

    let state = StateDir::open(state)?;
    let key = state.node_key()?;
    let lease = Lease::open(&state, &ticket)?;
    let remembered = Some(lease.stored.port).filter(|port| *port != 0);
    let listening = ports::listen(place.listen.as_slice(), remembered)?;
    let socket = state.socket_path(Kind::Lease, &lease::name(&ticket));
    let bound = Bound::at(&socket)
        .with_context(|| format!("{} cannot be listened on", socket.display()))?;
    let file = vec![lease.path.clone()];
    let unless_kept = if lease.is_new { file.clone() } else { Vec::new() };
    let leftovers = Leftovers { always: vec![socket], unless_kept, if_forgotten: file };
    let Listening { udp, tcp: _, port } = listening;
    hands.ask(&Ask::Ready { port, leftovers }, &[udp.as_fd()])?;
    if let (Tell::Refused { exit, text }, _) = hands.wait()? {
        return Err(hands::fault(exit, text).into());
    }
    drop(udp);
    hands.leave_root(user, false).context("this process cannot give up its rights")?;

    let host = Host::new(hands, words, facts);
    let start = Start { host, place, rules, ticket, key, lease, bound, port };
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(serve(start));
    runtime.shutdown_timeout(SHUTDOWN_AFTER);
    ended.map(|()| Exit::Done)
}

/// What the control process has when it leaves root.
struct Start<'a> {
    host: Host,
    place: &'a Conduct,
    rules: DialRules,
    ticket: Ticket,
    key: NodeKey,
    lease: Lease,
    bound: Bound,
    port: u16,
}

async fn serve(start: Start<'_>) -> anyhow::Result<()> {
    let Start { mut host, place, rules, ticket, key, mut lease, bound, port } = start;
    let started_at = clock::now();
    let mut signals = Signals::listen()?;
    let gateway = dial::gateway_addresses(&ticket.body().addresses, &rules).await?;
    host.say(&Ask::Dial(gateway.clone()))?;
    let candidates = own_candidates(place, &rules, port);
    let (buyer, slot) = (ticket.buyer(), ticket.body().slot);
    let own = SellerHost {
        seller: key.id(),
        data_key: lease.stored.data_key.public(),
        only_buyer: place.only_buyer,
        rules,
        gateway: gateway.clone(),
    };
    let mut membership = Membership::new(ticket.clone(), own);
    let mut link = Link::new(key, gateway, buyer);
    let welcome = tokio::select! {
        welcome = first_join(&mut membership, &mut link, &host) => welcome,
        () = signals.any() => return Ok(()),
    };
    let welcome = match welcome {
        Err(error) if error.is::<Evicted>() => {
            host.say(&Ask::Forget)?;
            return Err(error);
        }
        welcome => welcome?,
    };
    let commands = membership.handle_welcome(&welcome, clock::now())?;
    let (Some(grant), Some(config)) = (membership.grant(), membership.config()) else {
        bail!("the gateway granted nothing");
    };
    let (station, limits) = (grant.station, grant.limits);
    let wiring = Wiring { station, segment: config.segment, routes: config.routes.clone() };
    let cable = host.ask_fd(&Ask::Plug(wiring.clone())).await?;
    lease.keep(&ticket, port)?;
    host.say(&Ask::Keep)?;

    let socket = host.ask_fd(&Ask::Start).await?;
    let dataplane = DataPlane::over(socket, &lease.stored.data_key, slot)
        .context("the data plane does not start")?;
    tell(&dataplane, &commands)?;
    dataplane.attach(LocalPort::GUEST, vec![station], limits, cable)?;
    let hello = membership.hello(candidates.clone()).context("the gateway granted nothing")?;
    link.open(hello);
    let mut local = Server::listen(bound).context("the local socket cannot be listened on")?;
    let report = if place.json { Report::Json } else { Report::Text };
    let keep = place.keep;
    let parts = Parts { membership, link, dataplane, host, wiring, report, candidates, port, keep };
    let ended = Member::new(parts, started_at).run(&mut local, signals).await;
    drop(local);
    // The lease's lock goes last.
    drop(lease);
    ended
}

/// Joins for the first time: here a failure ends the program.
async fn first_join(
    membership: &mut Membership,
    link: &mut Link,
    host: &Host,
) -> anyhow::Result<Welcome> {
    let started_at = clock::now();
    loop {
        let event = link.next().await;
        // Whatever it answers: its key is proved there.
        if let Some(addr) = link.remote().filter(|_| matches!(event, LinkEvent::Joined(_))) {
            host.say(&Ask::Joined(addr))?;
        }
        match event {
            LinkEvent::Due => link.join(membership.request(nonce()?, clock::now())),
            LinkEvent::Joined(JoinReply::Welcome(welcome)) => return Ok(welcome),
            // Perhaps this host itself, whose connection of before a crash is not yet over.
            LinkEvent::Joined(JoinReply::Refused(RefuseReason::InUse))
                if clock::now() - started_at < IN_USE_AFTER_MAX =>
            {
                link.close();
            }
            LinkEvent::Joined(JoinReply::Refused(reason)) => {
                let guest = &membership.ticket().body().guest;
                return Err(refused(guest, reason));
            }
            LinkEvent::Lost(error) => {
                return Err(Fault::new(Exit::Unreachable, error.to_string()).into());
            }
            LinkEvent::Open | LinkEvent::Message(_) => {} // not before the welcome
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

/// Returns where others of the local network may try this lease: nowhere without `--lan`.
fn own_candidates(place: &Conduct, rules: &DialRules, port: u16) -> Vec<SocketAddr> {
    if rules.lan == Lan::Refused || place.only_buyer {
        return Vec::new();
    }
    let given = place.listen.map(|at| at.ip()).filter(|ip| !ip.is_unspecified());
    let own = rules.links.iter().map(|(ip, _)| *ip);
    let ips = given.map_or_else(|| own.collect(), |ip| vec![ip]);
    ips.into_iter().take(CANDIDATES_MAX).map(|ip| SocketAddr::new(ip, port)).collect()
}

/// Sends all commands to the data plane.
fn tell(dataplane: &DataPlane, commands: &[Command]) -> anyhow::Result<()> {
    for command in commands {
        dataplane.send(command)?;
    }
    Ok(())
}
