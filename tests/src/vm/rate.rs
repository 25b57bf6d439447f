//! How fast a small guest's network is, by iperf3 between it and a host: on the segment, and on a
//! bridge of the kernel's for comparison.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::member::Member;
use super::{BOOT_MAX, Vm, bridge, small, tap};
use crate::cast::{Gateway, Programs};
use crate::lab::{Host, Lab, Wire};
use crate::traffic::wait_reach;

/// How often, and how far apart, a server in the guest is asked until it listens.
const SERVER_TRIES_MAX: u32 = 20;
const SERVER_PAUSE: Duration = Duration::from_millis(500);

/// Rates in Gbit/s.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// One flow from the guest.
    pub out: f64,
    /// Eight flows from the guest, together.
    pub out_8: f64,
    /// One flow to the guest.
    pub back: f64,
}

/// Measures between a host and a guest that are both on a bridge of the kernel's.
///
/// # Errors
/// When the guest does not start or iperf3 fails.
pub fn on_a_bridge(secs: u32) -> Result<Rates> {
    let mut lab = Lab::new()?;
    let host = lab.host("host")?;
    bridge(&host, "10.99.0.2/24", &["tap0"])?;
    let mut words = small("ovl.ip=10.99.0.10/24")?;
    words.extend(tap("tap0", "02:00:00:00:99:10"));
    let mut vm = Vm::start(&host, &words)?;
    vm.wait("GUEST READY", BOOT_MAX)?;
    measure(&host, "10.99.0.10".parse()?, secs)
}

/// Measures between a buyer and a guest of his at a seller, with one cable of wire mode N between
/// the two.
///
/// # Errors
/// When the guest does not become a member or iperf3 fails.
pub fn on_the_segment(programs: &Programs, secs: u32) -> Result<Rates> {
    let mut lab = Lab::new()?;
    let (buyer, seller) = (lab.host("buyer")?, lab.host("seller")?);
    lab.connect(&seller, &buyer, Wire::N)?;
    let gateway = Gateway::up(programs, &buyer, "lab", &["--subnet", "10.99.0.0/24"])?;
    let ticket = gateway.invite_file()?;
    let member = Member::up(Member::start(programs, &seller, &ticket, &[])?)?;
    measure(&buyer, member.ipv4.into(), secs)
}

fn measure(near: &Host, guest: IpAddr, secs: u32) -> Result<Rates> {
    wait_reach(near, guest, Duration::from_secs(15))?;
    let rate = |more: &[&str]| {
        let (to, secs) = (guest.to_string(), secs.to_string());
        let words = ["-c", &to, "-t", &secs, "-J"].into_iter().chain(more.iter().copied());
        let words: Vec<_> = words.collect();
        // The server in the guest, an emulated one, takes a while until it listens again.
        let mut report = Value::Null;
        for _ in 0..SERVER_TRIES_MAX {
            let output = near.output("iperf3", &words)?;
            report = serde_json::from_slice(&output.stdout).context("iperf3 -J")?;
            let Some(error) = report["error"].as_str() else { break };
            let is_late = error.contains("refused") || error.contains("reset by peer");
            ensure!(is_late, "iperf3 {more:?}: {error}");
            std::thread::sleep(SERVER_PAUSE);
        }
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        anyhow::Ok(bits.context("iperf3 gives a rate")? / 1e9)
    };
    Ok(Rates { out: rate(&["-R"])?, out_8: rate(&["-R", "-P", "8"])?, back: rate(&[])? })
}
