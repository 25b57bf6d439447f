//! `make storm`: so many sellers join one order at once, as real programs on this machine.
//!
//! The sellers share four hosts, each seller with a state directory and a guest's namespace of its
//! own. Told are how long it took until the last of them had data both ways with the gateway, and
//! what that cost the gateway. The figures also go to `target/bench/storm.json`.

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use overlay_tests::cast::{Gateway, Programs};
use overlay_tests::lab::process::Process;
use overlay_tests::lab::{Lab, Wire};
use overlay_tests::traffic::{eventually, wait_reach};
use overlay_tests::vitals::Vitals;
use overlay_tests::{exit_on_signals, wait_if_interrupted};
use serde_json::{Value, json};

/// Sellers, unless `--sellers` says otherwise.
const SELLERS: usize = 100;
/// Most of them: what a /24 has room for.
const SELLERS_MAX: usize = 200;
/// Hosts that they share: a gateway bounds the handshakes under way from one address.
const HOSTS: usize = 4;
/// Longest wait for the last of them.
const STORM_MAX: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let outcome = exit_on_signals().map_err(Into::into).and_then(|()| run());
    wait_if_interrupted();
    if let Err(error) = &outcome {
        eprintln!("overlay-storm: {error:#}");
    }
    ExitCode::from(u8::from(outcome.is_err()))
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let count = match words.as_slice() {
        [] => SELLERS,
        [word, number] if word == "--sellers" => number.parse().context("--sellers NUMBER")?,
        _ => bail!("usage: overlay-storm [--sellers NUMBER]"),
    };
    ensure!((1..=SELLERS_MAX).contains(&count), "1 to {SELLERS_MAX} sellers, not {count}");
    let figures = play(count)?;
    println!("{count} sellers at once, {} cores", figures["cores"]);
    for (key, heading, unit) in [
        ("joined_all_s", "start of the first to data with the last", "s"),
        ("joined_p50_s", "start of the first to data with half of them", "s"),
        ("known_all_s", "until the gateway calls all of them up", "s"),
        ("gateway_cpu_s", "gateway's CPU", "s"),
        ("gateway_rss_mb", "gateway's memory afterwards", "MB"),
        ("gateway_grown_mb", "of which the storm added", "MB"),
    ] {
        println!("{heading:<46} {:>8.2} {unit}", figures[key].as_f64().unwrap_or(f64::NAN));
    }
    println!("\nwritten to {}", write_json(&figures)?.display());
    Ok(())
}

fn play(count: usize) -> Result<Value> {
    let programs = Programs::find()?;
    let mut lab = Lab::new()?;
    let router = lab.router("router")?;
    let buyer = lab.host("buyer")?;
    lab.connect(&buyer, &router, Wire::P)?;
    let mut hosts = Vec::new();
    for n in 0..HOSTS {
        let host = lab.host(&format!("seller{n}"))?;
        lab.connect(&host, &router, Wire::P)?;
        hosts.push(host);
    }
    let invite = count.to_string();
    let words = ["--subnet", "10.77.0.0/24", "--invite", &invite];
    let gateway = Gateway::up(&programs, &buyer, "farm", &words)?;
    let mut starts = Vec::new();
    for (n, host) in (1..=count).zip(hosts.iter().cycle()) {
        let seat = lab.guest(&format!("guest{n}"))?;
        let (state, attach) = (seat.dir().join("state"), format!("netns:{}", seat.netns()));
        let ticket = gateway.ticket_file(&format!("g{n}"));
        let words = ["join", &ticket, "--attach", &attach, "--state"].map(str::to_owned).to_vec();
        starts.push((host, seat, words, state));
    }
    let before = Vitals::of_tree(&gateway.process)?;
    let started = Instant::now();
    let mut waits = Vec::new();
    for (host, _, words, state) in &starts {
        let state = state.display().to_string();
        let process = host.spawn(&programs.seller, words.iter().chain([&state]))?;
        waits.push(thread::spawn(move || wait(process, started)));
    }
    let mut sellers = Vec::new();
    for wait in waits {
        sellers.push(wait.join().map_err(|_| anyhow::anyhow!("a wait panicked"))??);
    }
    let mut joined: Vec<f64> = sellers.iter().map(|(_, took)| took.as_secs_f64()).collect();
    joined.sort_by(f64::total_cmp);
    eventually("all are up", STORM_MAX, || {
        let status = gateway.ask(&["status", "farm", "--json"])?;
        let lines = status.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|guest| guest["state"] == "up").count() == count)
    })?;
    let known = started.elapsed();
    let after = Vitals::of_tree(&gateway.process)?;
    // The first hears of the last, which joined after it, and reaches it directly.
    let (_, first, ..) = &starts[0];
    let last = [10, 77, 0, u8::try_from(9 + count).context("a /24 has room")?];
    wait_reach(first, std::net::IpAddr::from(last), STORM_MAX)?;
    let mb = |len: u64| len as f64 / 1e6;
    Ok(json!({
        "sellers": count,
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "joined_p50_s": joined[joined.len() / 2],
        "joined_all_s": joined[joined.len() - 1],
        "known_all_s": known.as_secs_f64(),
        "gateway_cpu_s": after.cpu_seconds - before.cpu_seconds,
        "gateway_rss_mb": mb(after.memory_len),
        "gateway_grown_mb": mb(after.memory_len.saturating_sub(before.memory_len)),
    }))
}

/// Waits for a seller's line; returns the program, which must go on, and when the line came.
fn wait(mut process: Process, started: Instant) -> Result<(Process, Duration)> {
    process.wait_line(STORM_MAX, |line| line.contains(" in netns "))?;
    Ok((process, started.elapsed()))
}

fn write_json(figures: &Value) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("programs are in target/PROFILE")?.join("bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join("storm.json");
    fs::write(&path, format!("{figures:#}\n")).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
