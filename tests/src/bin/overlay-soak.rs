//! `make soak`: the simulation over many seeds, or one of them again; or, by the real programs in a
//! lab, kills of any of their processes for so many seconds or at one in so many of their steps, or
//! storms of a guest.
//!
//! ```text
//! overlay-soak [--seeds 200000] [--from 0] [--threads 2] [--seed N]
//! overlay-soak --kills SECONDS | --machine-kills SECONDS [--seed N]
//! overlay-soak --steps EVERY
//! overlay-soak --storms SECONDS
//! ```

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use overlay_tests::kills::{Kind as Guest, Report, kills, steps};
use overlay_tests::sim::many::{Summary, many};
use overlay_tests::sim::run::run;
use overlay_tests::sim::world::Ring;
use overlay_tests::storm::{Kind, Scene};
use overlay_tests::{exit_on_signals, wait_if_interrupted};

/// How many seeds go between two lines.
const ROUND: u64 = 1000;

struct Args {
    seeds: u64,
    from: u64,
    threads: usize,
    seed: Option<u64>,
    in_lab: Option<(InLab, Duration)>,
}

/// What is done by the real programs.
#[derive(Clone, Copy)]
enum InLab {
    Kills(Guest),
    /// At one in so many steps.
    Steps(usize),
    Storms,
}

fn args() -> Result<Args> {
    let mut args = Args { seeds: 200_000, from: 0, threads: 2, seed: None, in_lab: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a number"))?;
        let number: u64 = value.parse().with_context(|| format!("{word} {value}"))?;
        let in_lab = |what| Some((what, Duration::from_secs(number)));
        match word.as_str() {
            "--seeds" => args.seeds = number,
            "--from" => args.from = number,
            "--threads" => args.threads = number as usize,
            "--seed" => args.seed = Some(number),
            "--kills" => args.in_lab = in_lab(InLab::Kills(Guest::Netns)),
            "--machine-kills" => args.in_lab = in_lab(InLab::Kills(Guest::Machine)),
            "--steps" => args.in_lab = in_lab(InLab::Steps(number.max(1) as usize)),
            "--storms" => args.in_lab = in_lab(InLab::Storms),
            _ => bail!("{word} is not known; see the head of this program's source"),
        }
    }
    Ok(args)
}

fn main() -> Result<ExitCode> {
    let args = args()?;
    if let Some((what, time)) = args.in_lab {
        exit_on_signals()?;
        let outcome = in_lab(what, time, args.seed.unwrap_or(1));
        wait_if_interrupted();
        return outcome.map(|is_well| ExitCode::from(u8::from(!is_well)));
    }
    if let Some(seed) = args.seed {
        let outcome = run(seed, Ring::Seeded, None);
        println!("{outcome:#?}");
        return Ok(ExitCode::from(u8::from(outcome.violation.is_some())));
    }
    let started_at = Instant::now();
    let mut total = Summary::default();
    let end = args.from + args.seeds;
    let mut from = args.from;
    while from < end && total.failed.is_none() {
        let seeds = from..end.min(from + ROUND);
        from = seeds.end;
        total.add(many(seeds, args.threads, Ring::Seeded, None));
        println!("{}", total.describe(started_at.elapsed()));
    }
    if let Some((seed, violation)) = &total.failed {
        println!("seed {seed}: {violation}\nreplay: overlay-soak --seed {seed}");
    }
    Ok(ExitCode::from(u8::from(total.failed.is_some())))
}

/// Tells what came of kills, and whether all was well.
fn tell(report: &Report) -> bool {
    println!("\n{}", report.describe());
    report.seen.escaped() == 0 && report.seen.carried() > 0 && report.leftovers.is_empty()
}

/// Plays in a lab; tells whether all was well.
fn in_lab(what: InLab, time: Duration, seed: u64) -> Result<bool> {
    match what {
        InLab::Kills(guest) => Ok(tell(&kills(guest, time, seed, |line| println!("{line}"))?)),
        InLab::Steps(every) => Ok(tell(&steps(every, |line| println!("{line}"))?)),
        InLab::Storms => {
            let scene = Scene::set()?;
            let calm = scene.calm(time)?;
            let mut is_well = true;
            for kind in Kind::ALL {
                let weather = scene.weather(kind, calm, time)?;
                println!("{}", weather.describe());
                is_well &= weather.tracked.unwrap_or(0) == 0;
            }
            Ok(is_well)
        }
    }
}
