//! The commands that ask running leases and end: `status`, `leave`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use overlay::clock;
use overlay::exit::{Exit, Fault};
use overlay::local::Client;
use overlay::output::{line, table};
use overlay::state::{Kind, StateDir};
use serde_json::json;

use crate::api::{LeaseStatus, Request};
use crate::args::{Leave, Status};
use crate::join::lease;

/// Longest wait for a lease that was told to leave to be gone.
const LEAVE_AFTER_MAX: Duration = Duration::from_secs(5);

fn ask_status(client: &mut Client) -> anyhow::Result<LeaseStatus> {
    serde_json::from_value(client.ask(&Request::Status)?)
        .context("the running program is of another version than this command")
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
                lease.state.clone(),
                lease.drops.values().sum::<u64>().to_string(),
            ]
        })
        .collect();
    let titles = ["order", "guest", "address", "attached", "path", "rtt", "state", "drops"];
    line(&table(&titles, &rows))?;
    Ok(Exit::Done)
}

pub(crate) fn leave(state: Option<&Path>, args: &Leave) -> anyhow::Result<Exit> {
    let state = StateDir::find(state)?;
    let mut left = 0;
    for name in state.names(Kind::Lease) {
        let socket = state.socket_path(Kind::Lease, &name);
        let Some(mut client) = Client::connect(&socket)? else { continue };
        let lease = ask_status(&mut client)?;
        let meant = |order: &String| *order == lease.order || *order == lease.id;
        if !args.order.as_ref().is_none_or(meant) {
            continue;
        }
        client.ask(&Request::Leave)?;
        left += 1;
        let asked_at = clock::now();
        while Client::connect(&socket)?.is_some() {
            if clock::now() - asked_at > LEAVE_AFTER_MAX {
                let text = format!("guest {} was told to leave and is still there", lease.guest);
                return Err(Fault::new(Exit::Failed, text).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    match (&args.order, left) {
        (Some(order), 0) => {
            let text =
                format!("no guest of order {order} is joined here: see overlay-seller status");
            Err(Fault::new(Exit::Failed, text).into())
        }
        _ => Ok(Exit::Done),
    }
}
