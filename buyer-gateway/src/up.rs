//! `overlay-gw up`: runs an order in the foreground until it is told to stop.
//!
//! # Theory of operation
//! Everything that can be refused is checked first, in an order that leaves nothing behind: host,
//! state, routes, port. Then the parts are started, each undone by its destructor: the tap with its
//! filter, the data plane, the control plane, the local socket. [`serve::Gateway`] is the one event
//! loop that moves messages between them.
//!
//! # Limits
//! One order a process. A killed process leaves its packet filter, which the next start of the
//! order replaces; its tap goes with it.

mod answer;
pub(crate) mod guests;
mod reach;
mod report;
mod segment;
mod sellers;
mod serve;
mod streams;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use overlay::dataplane::{DataPlane, DataPlaneConfig};
use overlay::exit::{Exit, Fault};
use overlay::host::addresses::own_addresses;
use overlay::host::filter::EXPOSED_MAX;
use overlay::host::routes;
use overlay::local::{Client, Server};
use overlay::p2p;
use overlay::ports::{self, Listening};
use overlay::preflight::{self, Need};
use overlay::signals::Signals;
use overlay::state::{Kind, StateDir, give_to_sudo_user};
use overlay_proto::control::{Limits, LocalPort, Slot};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::ticket::ADDRESSES_MAX;
use tokio::runtime;
use vde_attach::tap::IfName;

use self::reach::Reach;
use self::report::Report;
use self::serve::Gateway;
use crate::args::Up;
use crate::invite::{self, For};
use crate::order::Book;

/// Longest wait for tasks that do not end by themselves.
const SHUTDOWN_AFTER: Duration = Duration::from_millis(500);

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
    let state = StateDir::open(state)?;
    let socket = state.socket_path(Kind::Order, args.name.as_str());
    if Client::connect(&socket)?.is_some() {
        let name = &args.name;
        let text =
            format!("order {name} is running already: stop it with `overlay-gw down {name}`");
        return Err(Fault::new(Exit::Failed, text).into());
    }
    let book = Book::open_or_create(&state, &args.name, args.subnet, &routes::routes()?)?;
    let remembered = Some(book.registry.order_record().port).filter(|port| *port != 0);
    let listening = ports::listen(&args.listen, remembered)?;
    // One worker for the control plane's tasks; the event loop runs on this thread.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(serve(&socket, &args, book, listening));
    runtime.shutdown_timeout(SHUTDOWN_AFTER);
    ended.map(|()| Exit::Done)
}

async fn serve(
    socket: &Path,
    args: &Up,
    mut book: Book,
    listening: Listening,
) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let lan = if args.lan { Lan::Allowed } else { Lan::Refused };
    let own_addresses = own_addresses();
    let ips: Vec<IpAddr> = own_addresses.iter().map(|(ip, _)| *ip).collect();
    let Listening { udp, tcp, port } = listening;
    let reach = Reach::find(&args.advertise, &args.listen, &ips, port, lan);

    let own = book.registry.order_record().station(Slot::GATEWAY);
    let own = own.context("the order's subnet has no address for this computer")?;
    let tap = args.tap.clone().unwrap_or_else(|| IfName::fit(&format!("ovl-{}", args.name)));
    let order_segment = book.registry.order_record().segment();
    let (buyers_end, fd) =
        segment::make(&args.name, tap.clone(), own, &order_segment, &args.expose)?;

    let config = DataPlaneConfig { key: book.data_key.secret(), slot: Slot::GATEWAY, udp };
    let dataplane = DataPlane::start(config).context("the data plane does not start")?;
    let (_net, events) = p2p::serve(&book.key, tcp).await?;
    book.publish()?; // whoever has the store may take the local socket
    let mut local = Server::listen(socket)
        .with_context(|| format!("{} cannot be listened on", socket.display()))?;

    let records = book.registry.set_reach(reach.addresses.clone(), Vec::new(), port);
    book.commit(&records)?;
    book.keep()?;
    let report = if args.json { Report::Json } else { Report::Text };
    let rules = DialRules { lan, links: own_addresses };
    let mut gateway = Gateway::new(book, dataplane, rules, report, tap);
    gateway.start()?;
    gateway.dataplane.attach(LocalPort::GUEST, vec![own], Limits::NONE, fd)?;

    // Whoever reads the order's line may use the tickets.
    let tickets = write_tickets(&mut gateway.book, args)?;
    report.ready(gateway.book.registry.order_record(), &own, &reach.said)?;
    for (guest, file) in &tickets {
        report.ticket(guest, file)?;
    }
    overlay::notify::ready();
    let ended = gateway.run(events, &mut local, signals).await;
    // The order of ends: tap, filter, local socket, and last the store's lock.
    let book = gateway.stop();
    drop(buyers_end);
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
