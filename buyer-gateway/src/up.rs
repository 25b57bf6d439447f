//! `overlay-gw up`: runs an order in the foreground until it is told to stop.
//!
//! # Theory of operation
//! The program becomes two: the helper ([`crate::helper`]) stays root, the rest is control.
//! Everything that can be refused is checked first, in an order that leaves nothing behind: host,
//! state, routes, port. Control opens what is the node's (key, store, port, local socket), writes
//! tickets, has the helper make the tap with its filter and start the data plane, and leaves root:
//! from then on it is the buyer himself. [`serve::Gateway`] is the one event loop that moves
//! messages between sellers, helper, data plane and local commands.
//!
//! # Limits
//! One order a process. A killed process leaves its packet filter, which the next start of the
//! order replaces; its tap goes with it.

mod answer;
pub(crate) mod guests;
mod reach;
mod report;
mod sellers;
mod serve;
mod streams;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use overlay::confine::service_user;
use overlay::dataplane::DataPlane;
use overlay::exit::{Exit, Fault};
use overlay::helper::{self, Hands, Leftovers, Part};
use overlay::host::addresses::own_addresses;
use overlay::host::filter::EXPOSED_MAX;
use overlay::host::routes;
use overlay::local::{Bound, Client, Server};
use overlay::p2p;
use overlay::ports::{self, Listening};
use overlay::preflight::{self, Need};
use overlay::signals::Signals;
use overlay::state::{Kind, StateDir, give_to_sudo_user, sudo_user};
use overlay_proto::control::{Limits, LocalPort, Slot};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::ticket::ADDRESSES_MAX;
use tokio::runtime;
use vde_attach::tap::IfName;
use vde_switch::station::Station;

use self::reach::Reach;
use self::report::Report;
use self::serve::Gateway;
use crate::args::Up;
use crate::helper::{Ask, Desk, Tell};
use crate::invite::{self, For};
use crate::order::Book;

/// Longest wait for tasks that do not end by themselves.
const SHUTDOWN_AFTER: Duration = Duration::from_millis(500);
/// Ports below this one are for root, or by its leave.
const LOW_PORTS_END: u16 = 1024;

pub(crate) fn run(state: Option<&Path>, args: Up) -> anyhow::Result<Exit> {
    preflight::check(&[Need::Root, Need::Ip, Need::Nft, Need::Tun])?;
    for (count, max, flag) in [
        (args.advertise.len(), ADDRESSES_MAX, "--advertise"),
        (args.listen.len(), ADDRESSES_MAX, "--listen"),
        (args.expose.len(), EXPOSED_MAX, "--expose"),
    ] {
        if count > max {
            let text = format!("{flag} was given {count} times, it may be at most {max} times");
            return Err(Fault::new(Exit::Usage, text).into());
        }
    }
    let user = match sudo_user() {
        Some(user) => user,
        None => service_user()?,
    };
    let tap = args.tap.clone().unwrap_or_else(|| IfName::fit(&format!("ovl-{}", args.name)));
    let order = args.name.clone();
    let desk = Desk { order, tap: tap.clone(), exposed: args.expose.clone() };
    let hands = match helper::split()? {
        Part::Helper(helper) => return Ok(crate::helper::serve(helper, &desk)),
        Part::Control(hands) => hands,
    };

    let state = StateDir::open(state)?;
    let socket = state.socket_path(Kind::Order, args.name.as_str());
    if Client::connect(&socket)?.is_some() {
        let name = &args.name;
        let text =
            format!("order {name} is running already: stop it with `overlay-gw down {name}`");
        return Err(Fault::new(Exit::Failed, text).into());
    }
    let mut book = Book::open_or_create(&state, &args.name, args.subnet, &routes::routes()?)?;
    let remembered = Some(book.registry.order_record().port).filter(|port| *port != 0);
    let Listening { udp, tcp, port } = ports::listen(&args.listen, remembered)?;
    let own = book.registry.order_record().station(Slot::GATEWAY);
    let own = own.context("the order's subnet has no address for this computer")?;
    let segment = book.registry.order_record().segment();
    book.publish()?; // whoever has the store may take the local socket
    let bound = Bound::at(&socket)
        .with_context(|| format!("{} cannot be listened on", socket.display()))?;
    let lan = if args.lan { Lan::Allowed } else { Lan::Refused };
    let links = own_addresses();
    let ips: Vec<IpAddr> = links.iter().map(|(ip, _)| *ip).collect();
    let reach = Reach::find(&args.advertise, &args.listen, &ips, port, lan);
    let rules = DialRules { lan, links };

    let unless_kept = book.is_new.then(|| state.store_path(Kind::Order, args.name.as_str()));
    let unless_kept = unless_kept.into_iter().collect();
    let mut leftovers = Leftovers { always: vec![socket], unless_kept, if_forgotten: Vec::new() };
    let ask = |question: &Ask, fds: &[BorrowedFd<'_>]| -> anyhow::Result<Vec<OwnedFd>> {
        hands.ask(question, fds)?;
        let (answer, fds) = hands.wait::<Tell>()?;
        answer.into_result()?;
        Ok(fds)
    };
    ask(&Ask::Ready { port, leftovers: leftovers.clone() }, &[udp.as_fd()])?;
    let cable = ask(&Ask::Plug { own, segment }, &[])?.into_iter().next();
    let cable = cable.context("the helper process has handed no cable over")?;
    let plane = ask(&Ask::Start, &[])?.into_iter().next();
    let plane = plane.context("the helper process has handed no data plane over")?;
    drop(udp);
    let records = book.registry.set_reach(reach.addresses.clone(), Vec::new(), port);
    book.commit(&records)?;
    let tickets = write_tickets(&mut book, &args)?;
    leftovers.unless_kept.extend(tickets.iter().map(|(_, file)| file.into()));
    ask(&Ask::Remove(leftovers), &[])?;
    let low_ports = tcp.iter().any(|at| at.port() < LOW_PORTS_END);
    hands.leave_root(user, low_ports).context("this process cannot give up its rights")?;

    let start = Start { hands, book, own, cable, plane, tcp, bound, rules, reach, tickets, tap };
    // One worker for the control plane's tasks; the event loop runs on this thread.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(serve(start, &args));
    runtime.shutdown_timeout(SHUTDOWN_AFTER);
    ended.map(|()| Exit::Done)
}

/// What the control process has when it leaves root.
struct Start {
    hands: Hands,
    book: Book,
    own: Station,
    cable: OwnedFd,
    plane: OwnedFd,
    tcp: Vec<SocketAddr>,
    bound: Bound,
    rules: DialRules,
    reach: Reach,
    tickets: Vec<(String, String)>,
    tap: IfName,
}

async fn serve(start: Start, args: &Up) -> anyhow::Result<()> {
    let Start { hands, mut book, own, cable, plane, tcp, bound, rules, reach, tickets, tap } =
        start;
    let signals = Signals::listen()?;
    let dataplane = DataPlane::over(plane, &book.data_key, Slot::GATEWAY)
        .context("the data plane does not start")?;
    let (_net, events) = p2p::serve(&book.key, tcp).await?;
    let mut local = Server::listen(bound).context("the local socket cannot be listened on")?;
    book.keep()?;
    hands.ask(&Ask::Keep, &[])?;
    let report = if args.json { Report::Json } else { Report::Text };
    let mut gateway = Gateway::new(book, hands, dataplane, rules, report, tap);
    gateway.start()?;
    gateway.dataplane.attach(LocalPort::GUEST, vec![own], Limits::NONE, cable)?;

    report.ready(gateway.book.registry.order_record(), &own, &reach.said)?;
    for (guest, file) in &tickets {
        report.ticket(guest, file)?;
    }
    overlay::notify::ready();
    let ended = gateway.run(events, &mut local, signals).await;
    // The order of ends: data plane, local socket, and last the store's lock; then the helper.
    let book = gateway.stop();
    drop(local);
    drop(book);
    ended
}

/// Writes the tickets of `--invite` into files of the current folder, for their owner's eyes only;
/// returns whose they are, and the files.
fn write_tickets(book: &mut Book, args: &Up) -> anyhow::Result<Vec<(String, String)>> {
    if args.invite == 0 {
        return Ok(Vec::new());
    }
    let mut written = Vec::new();
    let whose = For::New(args.invite);
    for (guest, text) in invite::make(book, whose, invite::EXPIRES_AFTER)?.tickets {
        let name = format!("{}-{guest}.ovl", args.name);
        let path = Path::new(&name);
        let write = || -> std::io::Result<()> {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(format!("{text}\n").as_bytes())?;
            give_to_sudo_user(&file)
        };
        write().with_context(|| format!("ticket file {name} cannot be written"))?;
        written.push((guest.to_string(), name));
    }
    Ok(written)
}
