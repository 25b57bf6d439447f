//! `make soak`: the simulation over many seeds, or one of them again.
//!
//! ```text
//! overlay-soak [--seeds 200000] [--from 0] [--threads 2] [--seed N]
//! ```

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use overlay_tests::sim::many::{Summary, many};
use overlay_tests::sim::run::run;
use overlay_tests::sim::world::Ring;

/// How many seeds go between two lines.
const ROUND: u64 = 1000;

struct Args {
    seeds: u64,
    from: u64,
    threads: usize,
    seed: Option<u64>,
}

fn args() -> Result<Args> {
    let mut args = Args { seeds: 200_000, from: 0, threads: 2, seed: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a number"))?;
        let number: u64 = value.parse().with_context(|| format!("{word} {value}"))?;
        match word.as_str() {
            "--seeds" => args.seeds = number,
            "--from" => args.from = number,
            "--threads" => args.threads = number as usize,
            "--seed" => args.seed = Some(number),
            _ => bail!("{word} is not known; see the head of this program's source"),
        }
    }
    Ok(args)
}

fn main() -> Result<ExitCode> {
    let args = args()?;
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
