//! How much passes between two hosts, by iperf3.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Host;

/// How long a server may take until it listens.
const LISTENS_AFTER_MAX: Duration = Duration::from_secs(5);

/// Runs iperf3 for some seconds from `near` to a server of its own at `far`, and returns what it
/// reports.
///
/// # Errors
/// When either cannot be run, or as the report says.
pub fn iperf(near: &Host, far: &Host, to: IpAddr, secs: u32, more: &[&str]) -> Result<Value> {
    let mut server = far.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_line(LISTENS_AFTER_MAX, |line| line.contains("listening"))?;
    let (to, secs) = (to.to_string(), secs.to_string());
    let words = ["-c", &to, "-t", &secs, "-J"].into_iter().chain(more.iter().copied());
    let output = near.output("iperf3", words)?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 -J")?;
    ensure!(report.get("error").is_none(), "iperf3 {more:?}: {}", report["error"]);
    Ok(report)
}

/// Returns what arrived, in bits a second.
///
/// # Errors
/// When the report has no such figure.
pub fn bits_per_second(report: &Value) -> Result<f64> {
    report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gives a rate")
}

/// Returns how many packets of UDP arrived in a second.
///
/// # Errors
/// When the report has no such figure.
pub fn packets_per_second(report: &Value) -> Result<f64> {
    let number = |name: &str| report["end"]["sum"][name].as_f64().context("iperf3 counts packets");
    Ok((number("packets")? - number("lost_packets")?) / number("seconds")?)
}
