//! What each wall around a guest costs: the same traffic with all of them, and with one after the
//! other taken away from a running lease.
//!
//! # Theory of operation
//! The seller's helper, which would end the lease over it, is stopped first. Then root of the
//! seller's host removes the egress guard with its latch, and in the guest's wire replaces the
//! rules by two that forward everything. The processes and the port policy stay: they are the
//! program.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cast::{Gateway, Guest, Programs};
use crate::home::layers::lease_namespaces;
use crate::iperf::{bits_per_second, iperf, packets_per_second};
use crate::lab::{Host, Lab, Wire};
use crate::traffic::{eventually, wait_reach};
use crate::tree::{Netns, tree};

/// For what takes no time.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a wire is without rules.
const PLAIN: &str = "flush ruleset
table netdev plain {
  chain a { type filter hook ingress device \"guest\" priority 0; fwd to \"data\"; }
  chain b { type filter hook ingress device \"data\" priority 0; fwd to \"guest\"; }
}
";

/// What passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// One flow from the buyer, Gbit/s.
    pub to_guest: f64,
    /// One flow from the guest, Gbit/s.
    pub from_guest: f64,
    /// UDP of 64 bytes from the guest, thousands a second.
    pub small: f64,
}

/// Measures a lease as it is, without the egress guard, and without the rules of its wire besides;
/// each for three times some seconds.
///
/// # Errors
/// When the lease cannot be made or taken apart, or iperf3 fails.
pub fn toll(programs: &Programs, secs: u32) -> Result<[(&'static str, Passed); 3]> {
    let mut lab = Lab::new()?;
    let (buyer, seller, seat) = (lab.host("buyer")?, lab.host("seller")?, lab.guest("guest")?);
    lab.connect(&seller, &buyer, Wire::N)?;
    let gateway = Gateway::up(programs, &buyer, "lab", &["--subnet", "10.99.0.0/24"])?;
    let ticket = gateway.invite_file()?;
    let guest = Guest::join(programs, &seller, &seat, &ticket, &[])?;
    let wires = lease_namespaces(guest.process.pid())?;
    let wire = wires.first().context("a lease has a wire")?;
    let helper = Pid::from_raw(i32::try_from(guest.process.pid())?);

    let all = measure(&buyer, &guest, secs)?;
    kill(helper, Signal::SIGSTOP)?;
    let without = || -> Result<_> {
        remove_guard(&seller, &guest)?;
        let unguarded = measure(&buyer, &guest, secs)?;
        load(wire, &seller)?;
        Ok([unguarded, measure(&buyer, &guest, secs)?])
    };
    let without = without();
    kill(helper, Signal::SIGCONT)?;
    let [unguarded, open] = without?;
    Ok([("all", all), ("no guard", unguarded), ("no guard, no rules", open)])
}

fn measure(buyer: &Host, guest: &Guest, secs: u32) -> Result<Passed> {
    let to = guest.ipv4.into();
    wait_reach(buyer, to, PATIENCE)?;
    let run = |more: &[&str]| iperf(buyer, &guest.seat, to, secs, more);
    Ok(Passed {
        to_guest: bits_per_second(&run(&[])?)? / 1e9,
        from_guest: bits_per_second(&run(&["-R"])?)? / 1e9,
        small: packets_per_second(&run(&["-R", "-u", "-b", "0", "-l", "64"])?)? / 1e3,
    })
}

/// Its latch first, which would keep everything in.
fn remove_guard(seller: &Host, guest: &Guest) -> Result<()> {
    for latch in tree(guest.process.pid()).iter().filter(|member| member.name == "nft") {
        kill(Pid::from_raw(latch.pid.try_into()?), Signal::SIGKILL)?;
    }
    eventually("the latch is gone", PATIENCE, || {
        Ok(!seller.must("nft list tables")?.contains("ovl_latch"))
    })?;
    seller.must("nft delete table inet ovl_guard").map(drop)
}

fn load(wire: &Netns, seller: &Host) -> Result<()> {
    let script = seller.dir().join("plain.nft");
    fs::write(&script, PLAIN)?;
    let before = wire.must("nft list ruleset")?;
    ensure!(before.contains("source-mac"), "there are no rules to remove: {before}");
    wire.must(&format!("nft -f {}", script.display())).map(drop)
}
