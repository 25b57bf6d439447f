//! The commands that ask a running order and end: `status`, `orders`, `ping`, `down`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use overlay::capture::{self, Captured};
use overlay::clock;
use overlay::drops;
use overlay::exit::{Exit, Fault};
use overlay::local::Client;
use overlay::output::{line, rate, table};
use overlay::state::{Kind, StateDir};
use overlay_proto::names::Name;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{GuestStatus, OrderStatus, Pong, Request};
use crate::args::{Down, Orders, Pcap, Ping, Status};
use crate::order;

/// Says that an answer was not understood.
const OTHER_VERSION: &str = "the running program is of another version than this command";
/// Time between two pings, as ping(8) has it.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a stopped order to be gone.
const DOWN_AFTER_MAX: Duration = Duration::from_secs(5);

/// Connects to a running order; `None` if it is known and stopped.
///
/// # Errors
/// A sentence if there is no such order at all.
pub(crate) fn connect(state: &StateDir, name: &Name) -> anyhow::Result<Option<Client>> {
    let client = Client::connect(&state.socket_path(Kind::Order, name.as_str()))?;
    if client.is_none() && !state.store_path(Kind::Order, name.as_str()).exists() {
        let text = format!(
            "there is no order named {name} in {}: start it with `overlay-gw up {name}`",
            state.path().display()
        );
        return Err(Fault::new(Exit::Failed, text).into());
    }
    Ok(client)
}

fn running(state: &StateDir, name: &Name) -> anyhow::Result<Client> {
    connect(state, name)?.with_context(|| {
        format!("order {name} is not running: start it with `overlay-gw up {name}`")
    })
}

/// Asks and reads the answer as what it is to be.
pub(crate) fn ask<T: DeserializeOwned>(
    client: &mut Client,
    request: &Request,
) -> anyhow::Result<T> {
    serde_json::from_value(client.ask(request)?).context(OTHER_VERSION)
}

pub(crate) fn status(state: Option<&Path>, args: &Status) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let mut clients = Vec::new();
    match &args.name {
        Some(name) => clients.push(running(&state, name)?),
        None => {
            for name in state.names(Kind::Order) {
                clients.extend(Client::connect(&state.socket_path(Kind::Order, &name))?);
            }
        }
    }
    let mut orders: Vec<OrderStatus> = Vec::new();
    for client in &mut clients {
        orders.push(ask(client, &Request::Status)?);
    }
    if args.json {
        for order in &orders {
            for guest in &order.guests {
                line(&guest_object(order, guest)?.to_string())?;
            }
        }
        return Ok(Exit::Done);
    }
    if orders.is_empty() {
        line("no order is running")?;
    }
    for order in &orders {
        if args.name.is_none() {
            line(&format!("{}  {}  {}", order.order, order.subnet, order.ipv6))?;
        }
        let rows: Vec<_> = order.guests.iter().map(row).collect();
        line(&table(&TITLES, &rows))?;
        for text in drops::lines(&order.drops) {
            line(&format!("dropped {text}"))?;
        }
    }
    Ok(Exit::Done)
}

const TITLES: [&str; 11] = [
    "guest", "address", "seller", "path", "rtt", "loss", "sent", "received", "lease", "state",
    "drops",
];

fn row(guest: &GuestStatus) -> Vec<String> {
    let path = match (guest.path.as_str(), &guest.remote) {
        ("direct", Some(remote)) => format!("direct {remote}"),
        ("none", _) => "–".to_owned(),
        (path, _) => path.to_owned(),
    };
    vec![
        guest.guest.clone(),
        guest.ipv4.clone(),
        guest.seller.clone(),
        path,
        guest.rtt_ms.map_or("–".to_owned(), |rtt| format!("{rtt:.1} ms")),
        format!("{} %", guest.loss_percent),
        rate(guest.sent_bps, guest.sent_fps),
        if guest.has_spoken {
            rate(guest.received_bps, guest.received_fps)
        } else {
            "no frame yet".to_owned()
        },
        guest.lease_left_s.map_or("–".to_owned(), |left| format!("{left} s left")),
        guest.state.clone(),
        guest.dropped.to_string(),
    ]
}

/// What `status --json` prints of a guest; the drops are its order's.
pub(crate) fn guest_object(order: &OrderStatus, guest: &GuestStatus) -> anyhow::Result<Value> {
    let mut object = serde_json::to_value(guest)?;
    object["order"] = json!(order.order);
    object["drops"] = json!(order.drops);
    object["reasons"] = json!(order.reasons);
    Ok(object)
}

/// What `orders --json` prints of an order: itself, and how many guests it has.
pub(crate) fn order_object(order: &OrderStatus) -> anyhow::Result<Value> {
    let mut object = serde_json::to_value(order)?;
    object["guests"] = json!(order.guests.len());
    Ok(object)
}

pub(crate) fn orders(state: Option<&Path>, args: &Orders) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let mut orders = Vec::new();
    for name in state.names(Kind::Order) {
        let running = Client::connect(&state.socket_path(Kind::Order, &name))?;
        let status = match running {
            Some(mut client) => Some(ask(&mut client, &Request::Status)?),
            None => order::stopped_status(&state, &name)?,
        };
        orders.extend(status);
    }
    if args.json {
        for order in orders {
            line(&order_object(&order)?.to_string())?;
        }
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = orders
        .iter()
        .map(|order| {
            let port = if order.port == 0 { "–".to_owned() } else { order.port.to_string() };
            let guests = order.guests.len().to_string();
            vec![order.order.clone(), order.subnet.clone(), guests, order.state.clone(), port]
        })
        .collect();
    line(&table(&["name", "subnet", "guests", "state", "port"], &rows))?;
    Ok(Exit::Done)
}

pub(crate) fn ping(state: Option<&Path>, args: &Ping) -> anyhow::Result<Exit> {
    let mut client = running(&StateDir::find(state)?, &args.name)?;
    let mut times = Vec::new();
    for seq in 1..=args.count {
        let asked_at = clock::now();
        let pong: Pong = ask(&mut client, &Request::Ping { guest: args.guest.clone() })?;
        match pong.rtt_ms {
            Some(rtt) => {
                line(&format!(
                    "reply from {} ({}): seq={seq} time={rtt:.3} ms",
                    args.guest, pong.ipv4
                ))?;
                times.push(rtt);
            }
            None => line(&format!("no reply from {} ({}): seq={seq}", args.guest, pong.ipv4))?,
        }
        if seq < args.count {
            thread::sleep(PING_INTERVAL.saturating_sub(clock::now() - asked_at));
        }
    }
    let received = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let lost = f64::from(args.count - received) * 100.0 / f64::from(args.count);
    line(&format!("{} sent, {received} received, {lost:.0}% loss", args.count))?;
    if times.is_empty() {
        return Ok(Exit::Failed);
    }
    let min = times.iter().copied().fold(f64::INFINITY, f64::min);
    let max = times.iter().copied().fold(0.0, f64::max);
    let mean = times.iter().sum::<f64>() / f64::from(received);
    line(&format!("rtt min/avg/max = {min:.3}/{mean:.3}/{max:.3} ms"))?;
    Ok(Exit::Done)
}

pub(crate) fn pcap(state: Option<&Path>, args: &Pcap) -> anyhow::Result<Exit> {
    args.how.check()?;
    let mut client = running(&StateDir::find(state)?, &args.name)?;
    let (guest, detail) = (args.guest.clone(), args.how.detail());
    let (captured, records) = client.ask_fd(&Request::Pcap { guest, detail })?;
    let captured: Captured = serde_json::from_value(captured).context(OTHER_VERSION)?;
    drop(client);
    capture::save("overlay-gw", &args.how, &captured, &records)?;
    Ok(Exit::Done)
}

pub(crate) fn down(state: Option<&Path>, args: &Down) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let Some(mut client) = connect(&state, &args.name)? else {
        return Ok(Exit::Done); // stopped already, as asked
    };
    client.ask(&Request::Down)?;
    let socket = state.socket_path(Kind::Order, args.name.as_str());
    let asked_at = clock::now();
    while Client::connect(&socket)?.is_some() {
        if clock::now() - asked_at > DOWN_AFTER_MAX {
            let text = format!("order {} was told to stop and still runs", args.name);
            return Err(Fault::new(Exit::Failed, text).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Exit::Done)
}
