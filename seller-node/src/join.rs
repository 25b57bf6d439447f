//! `overlay-seller join`: a guest's place on a buyer's segment, in the foreground until it ends.
//!
//! # Theory of operation
//! Everything that can be refused on this host is checked before anybody is contacted: programs,
//! ticket, namespace, state, port, dial rules. Then the gateway is dialled and shown the ticket;
//! what it grants is verified; only then the guest gets its interface. [`serve::Member`] is the
//! one event loop that moves messages between control connection, data plane and local commands.
//!
//! # Limits
//! One guest a process. Several processes share a state directory: each has its own lease file.

mod dial;
pub(crate) mod lease;
mod link;
mod report;
mod serve;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::clock;
use overlay::dataplane::{DataPlane, DataPlaneConfig};
use overlay::exit::{Exit, Fault};
use overlay::host::addresses::own_addresses;
use overlay::keyfile;
use overlay::local::Server;
use overlay::ports::{self, Listening};
use overlay::preflight::{self, Need};
use overlay::signals::Signals;
use overlay::state::{Kind, StateDir};
use overlay_proto::control::{CANDIDATES_MAX, Command, LocalPort};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::grant::Grant;
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JoinReply, Welcome};
use overlay_proto::order::Config;
use overlay_proto::ticket::Ticket;
use tokio::runtime;
use vde_attach::link::{Link as Interface, Place};
use vde_attach::netns::Netns;
use vde_attach::tap::{IfName, Tap, TapOptions};

use self::lease::Lease;
use self::link::{Link, LinkEvent};
use self::report::Report;
use self::serve::Member;
use crate::args::{Attach, Join};

/// Longest wait for tasks that do not end by themselves.
const SHUTDOWN_AFTER: Duration = Duration::from_millis(500);

pub(crate) fn run(state: Option<&Path>, args: &Join) -> anyhow::Result<Exit> {
    let ticket = crate::ticket::read(args.ticket.as_deref())?;
    preflight::check(&[Need::Root, Need::Ip, Need::Tun])?;
    let Attach::Netns(netns) = &args.attach;
    let netns = Netns::open(netns)?;
    netns.check_empty()?;
    let state = StateDir::open(state)?;
    let key = keyfile::load_or_create(&state.key_path())?;
    let lease = Lease::open(&state, &ticket)?;
    let remembered = Some(lease.stored.port).filter(|port| *port != 0);
    let listening = ports::listen(args.listen.as_slice(), remembered)?;
    let socket = state.socket_path(Kind::Lease, &lease::name(&ticket));
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(serve(&socket, args, ticket, netns, key, lease, listening));
    runtime.shutdown_timeout(SHUTDOWN_AFTER);
    ended.map(|()| Exit::Done)
}

async fn serve(
    socket: &Path,
    args: &Join,
    ticket: Ticket,
    netns: Netns,
    key: NodeKey,
    mut lease: Lease,
    listening: Listening,
) -> anyhow::Result<()> {
    let started_at = clock::now();
    let mut signals = Signals::listen()?;
    let Listening { udp, tcp: _, port } = listening;
    let lan = if args.lan { Lan::Allowed } else { Lan::Refused };
    let rules = DialRules { lan, links: own_addresses() };
    let gateway = dial::gateway_addresses(&ticket.body().addresses, &rules).await?;
    let candidates = own_candidates(args, &rules, port);
    let (buyer, slot) = (ticket.buyer(), ticket.body().slot);
    let host = SellerHost {
        seller: key.id(),
        data_key: lease.stored.data_key.public(),
        only_buyer: args.only_buyer,
        rules,
        gateway: gateway.clone(),
    };
    let mut membership = Membership::new(ticket, host);
    let mut link = Link::new(key, gateway, buyer);
    let welcome = tokio::select! {
        welcome = first_join(&mut membership, &mut link) => welcome?,
        () = signals.any() => return Ok(()),
    };
    let commands = membership.handle_welcome(&welcome)?;
    let (Some(grant), Some(config)) = (membership.grant(), membership.config()) else {
        bail!("the gateway granted nothing");
    };
    let tap = make_interface(&netns, &args.ifname, grant, config)?;
    let station = grant.station;
    lease.keep(port)?;

    let config = DataPlaneConfig { key: lease.stored.data_key.secret(), slot, udp };
    let dataplane = DataPlane::start(config).context("the data plane does not start")?;
    tell(&dataplane, &commands)?;
    dataplane.attach(LocalPort(0), vec![station], tap)?;
    let hello = membership.hello(candidates.clone()).context("the gateway granted nothing")?;
    link.open(hello);
    let mut local = Server::listen(socket)
        .with_context(|| format!("{} cannot be listened on", socket.display()))?;
    let attached = format!("{} in netns {}", args.ifname, netns.name());
    let report = if args.json { Report::Json } else { Report::Text };
    let member =
        Member::new(membership, link, dataplane, report, attached, candidates, port, started_at);
    let ended = member.run(&mut local, signals).await;
    // The interface is gone with the data plane; the local socket and the lease's lock go last.
    drop(local);
    drop(lease);
    ended
}

/// Joins for the first time: here a failure ends the program.
async fn first_join(membership: &mut Membership, link: &mut Link) -> anyhow::Result<Welcome> {
    loop {
        match link.next().await {
            LinkEvent::Due => link.join(membership.request(nonce()?, clock::now())),
            LinkEvent::Joined(JoinReply::Welcome(welcome)) => return Ok(welcome),
            LinkEvent::Joined(JoinReply::Refused(reason)) => {
                return Err(Fault::new(Exit::Refused, reason.to_string()).into());
            }
            LinkEvent::Lost(error) => {
                return Err(Fault::new(Exit::Unreachable, error.to_string()).into());
            }
            LinkEvent::Open | LinkEvent::Message(_) => {} // not before the welcome
        }
    }
}

/// Draws the nonce of a question to the gateway.
fn nonce() -> anyhow::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("the system has no randomness")?;
    Ok(nonce)
}

/// Makes the guest's interface in its namespace, with what the grant says.
fn make_interface(
    netns: &Netns,
    name: &IfName,
    grant: &Grant,
    config: &Config,
) -> anyhow::Result<OwnedFd> {
    let interface = Interface {
        name: name.clone(),
        mac: grant.station.mac,
        ipv4: (grant.station.ipv4, config.segment.ipv4.1),
        ipv6: (grant.station.ipv6, config.segment.ipv6.1),
        mtu: config.segment.mtu,
        place: Place::Guest,
    };
    netns.run(|| -> anyhow::Result<OwnedFd> {
        let tap = Tap::open(name, TapOptions::default())?;
        interface.configure()?;
        Ok(tap.into_fd())
    })?
}

/// Returns where others of the local network may try this lease: nowhere without `--lan`.
fn own_candidates(args: &Join, rules: &DialRules, port: u16) -> Vec<SocketAddr> {
    if rules.lan == Lan::Refused || args.only_buyer {
        return Vec::new();
    }
    let given = args.listen.map(|at| at.ip()).filter(|ip| !ip.is_unspecified());
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
