//! The commands that ask running leases and end: `status`, `leave`.

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
use serde_json::json;

use crate::api::{LeaseStatus, Request};
use crate::args::{Leave, Pcap, Status};
use crate::join::lease;

/// Says that an answer was not understood.
const OTHER_VERSION: &str = "the running program is of another version than this command";
/// Longest wait for a lease that was told to leave to be gone.
const LEAVE_AFTER_MAX: Duration = Duration::from_secs(5);

fn ask_status(client: &mut Client) -> anyhow::Result<LeaseStatus> {
    serde_json::from_value(client.ask(&Request::Status)?).context(OTHER_VERSION)
}

pub(crate) fn status(state: Option<&Path>, args: &Status) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let mut leases = Vec::new();
    for name in state.names(Kind::Lease) {
        match Client::connect(&state.socket_path(Kind::Lease, &name))? {
            Some(mut client) => leases.push(ask_status(&mut client)?),
            None => leases.extend(lease::stopped_status(&state, &name)?),
        }
    }
    if args.json {
        for lease in &leases {
            line(&json!(lease).to_string())?;
        }
        return Ok(Exit::Done);
    }
    let dash = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
    let rows: Vec<_> = leases
        .iter()
        .map(|lease| {
            let path = match (lease.path.as_str(), &lease.remote) {
                ("direct", Some(remote)) => format!("direct {remote}"),
                ("none", _) => "–".to_owned(),
                (path, _) => path.to_owned(),
            };
            vec![
                lease.order.clone(),
                lease.guest.clone(),
                dash(&lease.ipv4),
                dash(&lease.attached),
                path,
                lease.rtt_ms.map_or("–".to_owned(), |rtt| format!("{rtt:.1} ms")),
                rate(lease.out_bps, lease.out_fps),
                match lease.first_frame_s {
                    Some(_) => rate(lease.in_bps, lease.in_fps),
                    None => "no frame yet".to_owned(),
                },
                lease.lease_left_s.map_or("–".to_owned(), |left| format!("{left} s left")),
                lease.state.clone(),
                lease.drops.values().sum::<u64>().to_string(),
            ]
        })
        .collect();
    let titles = [
        "order",
        "guest",
        "address",
        "attached",
        "path",
        "rtt",
        "to guest",
        "from guest",
        "lease",
        "state",
        "drops",
    ];
    line(&table(&titles, &rows))?;
    for lease in &leases {
        let name = format!("{}/{}", lease.order, lease.guest);
        match lease.addresses_given {
            0 => {}
            1 => line(&format!("{name} was given its address by dhcp once"))?,
            times => line(&format!("{name} was given its address by dhcp {times} times"))?,
        }
        for text in drops::lines(&lease.drops) {
            line(&format!("{name} dropped {text}"))?;
        }
    }
    Ok(Exit::Done)
}

pub(crate) fn pcap(state: Option<&Path>, args: &Pcap) -> anyhow::Result<Exit> {
    args.how.check()?;
    let state = StateDir::find(state)?;
    let (order, guest) = match args.lease.as_deref().map(|lease| lease.split_once('/')) {
        Some(Some((order, guest))) => (Some(order), Some(guest)),
        _ => (args.lease.as_deref(), None),
    };
    let mut found = Vec::new();
    for name in state.names(Kind::Lease) {
        let socket = state.socket_path(Kind::Lease, &name);
        let Some(mut client) = Client::connect(&socket)? else { continue };
        let lease = ask_status(&mut client)?;
        let is_order = order.is_none_or(|order| order == lease.order || order == lease.id);
        if is_order && guest.is_none_or(|guest| guest == lease.guest) {
            found.push((format!("{}/{}", lease.order, lease.guest), client));
        }
    }
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!("name the guest that is meant: one of {}", names.join(", "));
        return Err(Fault::new(Exit::Usage, text).into());
    }
    let Some((_, mut client)) = found.pop() else {
        let meant = args.lease.as_ref().map_or(String::new(), |lease| format!(" of {lease}"));
        let text = format!("no guest{meant} is joined here: see overlay-seller status");
        return Err(Fault::new(Exit::Failed, text).into());
    };
    let (captured, records) = client.ask_fd(&Request::Pcap { detail: args.how.detail() })?;
    let captured: Captured = serde_json::from_value(captured).context(OTHER_VERSION)?;
    drop(client);
    capture::save("overlay-seller", &args.how, &captured, &records)?;
    Ok(Exit::Done)
}

pub(crate) fn leave(state: Option<&Path>, args: &Leave) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    // All are told before any is waited for: one may have the lease that others share.
    let mut left = Vec::new();
    for name in state.names(Kind::Lease) {
        let socket = state.socket_path(Kind::Lease, &name);
        let Some(mut client) = Client::connect(&socket)? else { continue };
        let lease = ask_status(&mut client)?;
        let meant = |order: &String| *order == lease.order || *order == lease.id;
        if args.order.as_ref().is_none_or(meant) {
            client.ask(&Request::Leave)?;
            left.push((lease.guest, socket));
        }
    }
    let asked_at = clock::now();
    for (guest, socket) in &left {
        while Client::connect(socket)?.is_some() {
            if clock::now() - asked_at > LEAVE_AFTER_MAX {
                let text = format!("guest {guest} was told to leave and is still there");
                return Err(Fault::new(Exit::Failed, text).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    match (&args.order, left.len()) {
        (Some(order), 0) => {
            let text =
                format!("no guest of order {order} is joined here: see overlay-seller status");
            Err(Fault::new(Exit::Failed, text).into())
        }
        _ => Ok(Exit::Done),
    }
}
