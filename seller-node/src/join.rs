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
mod report;
mod serve;
mod share;
mod status;
mod story;

use std::net::SocketAddr;
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
use overlay_proto::control::{CANDIDATES_MAX, Command, LocalPort};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JoinReply, RefuseReason, Welcome};
use overlay_proto::names::Name;
use overlay_proto::ticket::Ticket;
use serde_json::json;
use tokio::runtime;
use vde_switch::time::Instant;

use self::beside::Left;
use self::find::Shared;
use self::guest::Guest;
use self::hands::{Facts, Host};
use self::lease::Lease;
use self::link::{Link, LinkEvent};
use self::report::Report;
use self::serve::{Lease as Running, Parts};
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

    /// Makes the guest's cable, or has it follow, and keeps the lease's file from here on.
    async fn plug(&mut self, wiring: Wiring, port: Option<u16>) -> anyhow::Result<OwnedFd> {
        let cable = match self.guest.cable.take() {
            Some((known, _)) if known.station != wiring.station => {
                bail!("the guest has other addresses than before");
            }
            Some((known, cable)) => {
                if known != wiring {
                    self.host.say(&Ask::Follow(wiring.clone()))?;
                }
                if let Some(port) = port {
                    self.lease.keep(&self.ticket, port)?;
                }
                cable
            }
            None => {
                let cable = self.host.ask_fd(&Ask::Plug(wiring.clone())).await?;
                let port = port.unwrap_or(self.lease.stored.port);
                self.lease.keep(&self.ticket, port)?;
                self.host.say(&Ask::Keep)?;
                cable
            }
        };
        let handed = cable.try_clone()?;
        self.guest.cable = Some((wiring, cable));
        Ok(handed)
    }

    /// Has a lease of its own from here on.
    async fn own(mut self, port: u16) -> anyhow::Result<()> {
        let is_new = self.guest.cable.is_none();
        let gateway = dial::gateway_addresses(&self.ticket.body().addresses, &self.rules).await?;
        self.host.say(&Ask::Dial(gateway.clone()))?;
        let candidates = own_candidates(self.place, &self.rules, port);
        let seller = SellerHost {
            seller: self.key.id(),
            data_key: self.lease.stored.data_key.public(),
            only_buyer: self.place.only_buyer,
            rules: self.rules.clone(),
            gateway: gateway.clone(),
        };
        let mut membership = Membership::new(self.ticket.clone(), seller.clone());
        let mut link = Link::new(self.key.clone(), gateway, self.ticket.buyer());
        // One whose guest runs already has the time that its user gave it.
        let patience = if is_new { Duration::ZERO } else { self.place.keep };
        let mut held = Vec::new();
        let welcome = {
            let joining = first_join(&mut membership, &mut link, &self.host, patience);
            tokio::pin!(joining);
            loop {
                tokio::select! {
                    welcome = &mut joining => break Some(welcome),
                    () = self.signals.any() => break None,
                    call = beside::next_call(&mut self.local) => match call.request {
                        Request::Leave => {
                            let _ = call.answer.send(json!({}).into());
                            break None;
                        }
                        Request::Status => {
                            let status = status::away(&self.ticket, self.host.words());
                            let _ = call.answer.send(json!(status).into());
                        }
                        // They can be answered once there is a lease.
                        Request::Share(_) | Request::Pcap { .. } => held.push(call),
                    },
                }
            }
        };
        let Some(welcome) = welcome else {
            let _ = self.host.say(&Ask::EndMachine);
            self.host.machine_gone().await;
            return Ok(());
        };
        let welcome = match welcome {
            Err(error) if error.is::<Evicted>() => {
                self.host.say(&Ask::Forget)?;
                return Err(error);
            }
            welcome => welcome?,
        };
        let commands = membership.handle_welcome(&welcome, clock::now())?;
        let mut own =
            Guest::new(LocalPort::GUEST, membership, link, candidates.clone(), self.place.keep);
        let wiring = own.wiring().context("the gateway granted nothing")?;
        own.cable = Some(self.plug(wiring.clone(), Some(port)).await?);
        own.is_joined = self.guest.is_joined;

        let (socket, slot) = (self.host.ask_fd(&Ask::Start).await?, own.slot());
        let dataplane = DataPlane::over(socket, &self.lease.stored.data_key, slot)
            .context("the data plane does not start")?;
        tell(&dataplane, &commands)?;
        serve::plug(&dataplane, &mut own)?;
        let hello = own.membership.hello(candidates.clone());
        own.link.open(hello.context("the gateway granted nothing")?);
        let Self { host, place, key, lease, report, signals, mut local, started_at, .. } = self;
        let conduct = place.clone();
        let parts =
            Parts { own, dataplane, host, wiring, report, port, seller, key, conduct, candidates };
        let mut running = Running::new(parts, started_at);
        for call in held {
            running.answer(call).await?;
        }
        let ended = running.run(local.open()?, signals).await;
        drop(local);
        // The lease's lock goes last.
        drop(lease);
        ended
    }
}

/// Joins for the first time: here a failure ends the program, except that a gateway that is not
/// there is dialled for as long as `patience` says.
async fn first_join(
    membership: &mut Membership,
    link: &mut Link,
    host: &Host,
    patience: Duration,
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
            LinkEvent::Lost(error) if clock::now() - started_at < patience => {
                tracing::info!(%error, "the gateway is dialled again");
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
