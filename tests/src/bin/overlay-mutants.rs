//! `make mutants`: takes one defence out at a time and runs the test that owns it.
//!
//! ```text
//! overlay-mutants [--dir DIR] [FILTER]
//! ```
//!
//! Prints a line for each: what was taken out, which tests failed without it, how long it took.
//! Ends with failure if one is missed. `DIR` keeps the copy of the sources and what is built; only
//! mutants whose name begins with `FILTER` are tried.
//!
//! Rules of the packet filter are taken out by tests of their own, which print such tables as well:
//! `cargo test --release -p overlay --test guard no_rule -- --nocapture` (the egress guard) and
//! `cargo test --release -p vde-attach --lib mutants -- --nocapture` (a guest's wire).

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use overlay_tests::mutants::{Copy, Fate, Mutant};

/// How long one may take, a build of all programs included.
const ONE_MAX: Duration = Duration::from_secs(600);
/// How long the first build may take, of everything there is.
const FIRST_MAX: Duration = Duration::from_secs(3600);

fn main() -> Result<ExitCode> {
    let (mut dir, mut filter) = (None, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--dir" => dir = Some(PathBuf::from(words.next().context("--dir wants a directory")?)),
            word if word.starts_with('-') => {
                bail!("{word} is not known; see the head of this program's source")
            }
            word => word.clone_into(&mut filter),
        }
    }
    let scratch = tempfile::tempdir()?;
    let dir = dir.unwrap_or_else(|| scratch.path().to_owned());
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let text = fs::read_to_string(repository.join("tests/mutants.txt"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mutants: Vec<Mutant<'_>> = lines
        .map(|line| Mutant::parse(line).with_context(|| format!("no mutant: {line}")))
        .collect::<Result<_>>()?;
    let mutants: Vec<_> = mutants.iter().filter(|one| one.id.starts_with(&filter)).collect();

    let started = Instant::now();
    let copy = Copy::of(repository, dir.join("sources"), dir.join("target"))?;
    let commands: BTreeSet<_> = mutants.iter().map(|mutant| mutant.command).collect();
    for command in commands {
        copy.passes(command, FIRST_MAX)?;
    }
    let mut missed = 0;
    for mutant in &mutants {
        let (fate, took) = copy.try_out(mutant, ONE_MAX).with_context(|| mutant.id.to_owned())?;
        missed += u32::from(matches!(fate, Fate::Missed | Fate::NotCompiled(_)));
        println!("{:28} {:>4} s  {fate}", mutant.id, took.as_secs());
    }
    println!("{} defences taken out, {missed} missed, in {:?}", mutants.len(), started.elapsed());
    Ok(ExitCode::from(u8::from(missed > 0)))
}
