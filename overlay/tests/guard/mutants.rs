//! The guard with one rule missing, for each of its rules: some check must notice.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay::host::guard::{Guard, TABLE};

use crate::attack::{CTL_UID, PORT};
use crate::checks::{ATTACKS, Check, LEGAL, Outcome};
use crate::net::{Family, Lab, RESOLVERS};
use crate::spec;

/// A listing without one of its rules.
struct Mutant {
    chain: String,
    rule: String,
    text: String,
}

fn mutants(listing: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = listing.lines().collect();
    let mut chain = None;
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words = line.trim();
        if let Some(name) = words.strip_prefix("chain ") {
            chain = Some(name.trim_end_matches(" {").to_owned());
        } else if words == "}" {
            chain = None;
        } else if let Some(chain) = &chain
            && !words.is_empty()
            && !words.starts_with("type filter hook")
        {
            let others = lines.iter().enumerate().filter(|(i, _)| *i != at);
            let text = others.map(|(_, line)| format!("{line}\n")).collect();
            found.push(Mutant { chain: chain.clone(), rule: words.to_owned(), text });
        }
    }
    found
}

/// Puts a table in the place of the guard's, with what the lease brought.
fn load(lab: &Lab, text: &str) {
    let mut script = format!("table inet {TABLE}\ndelete table inet {TABLE}\n{text}");
    let mut add = |set: &str, key: &str| {
        let _ = writeln!(script, "add element inet {TABLE} {set} {{ {key} }}");
    };
    add("ctl_uids", &CTL_UID.to_string());
    add("ports", &PORT.to_string());
    for ip in RESOLVERS {
        add(if ip.contains(':') { "resolvers6" } else { "resolvers4" }, ip);
    }
    assert!(lab.host.nft(&script), "not taken:\n{script}");
}

/// Ends the interactive nft of this process that holds a latch in the lab's host.
pub(crate) fn break_latch(lab: &Lab) {
    let netns =
        lab.host.run(|| fs::metadata("/proc/thread-self/ns/net").expect("it has one").ino());
    let mut broken = 0;
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let path = entry.path();
        let is_ours = fs::read_to_string(path.join("status")).is_ok_and(|text| {
            text.lines().any(|line| line == format!("PPid:\t{}", std::process::id()))
        });
        let is_latch = fs::read(path.join("cmdline")).is_ok_and(|words| words == b"nft\0-i\0")
            && fs::metadata(path.join("ns/net")).is_ok_and(|found| found.ino() == netns);
        if let (true, true, Ok(pid)) =
            (is_ours, is_latch, entry.file_name().to_string_lossy().parse())
        {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is a child of ours");
            broken += 1;
        }
    }
    assert_eq!(broken, 1, "there is one latch");
    while lab.host.sh("nft list tables").contains("ovl_latch") {}
}

fn lets_pass(rule: &str) -> bool {
    !rule.ends_with("drop")
}

/// Runs the checks until one fails, the likely ones first: those of the rule's family, those that
/// want something to pass if the rule lets it, and those near the last that failed.
fn noticed(
    lab: &Lab,
    checks: &[(&Check, Family)],
    (rule, last): (&str, usize),
    text: &str,
) -> Option<(usize, String)> {
    let lets_pass = lets_pass(rule);
    let other = if rule.contains("ip6") { Family::V4 } else { Family::V6 };
    let mut order: Vec<usize> = (0..checks.len()).collect();
    order.sort_by_key(|at| {
        let (check, family) = checks[*at];
        ((check.id == "legal") != lets_pass, family == other, at.abs_diff(last))
    });
    order.into_iter().find_map(|at| {
        let (check, family) = checks[at];
        load(lab, text);
        lab.begin();
        let outcome: Outcome = (check.run)(lab, family);
        outcome.err().map(|text| (at, text))
    })
}

#[test]
fn no_rule_of_the_guard_can_be_missing_unnoticed() {
    let start = Instant::now();
    let mut lab = Lab::new();
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("the guard stands");
    break_latch(&lab);
    let listing = lab.host.sh(&format!("nft -s -t list table inet {TABLE}"));
    let checks: Vec<(&Check, Family)> = ATTACKS
        .iter()
        .chain(&LEGAL)
        .flat_map(|check| check.families.iter().map(move |family| (check, *family)))
        .collect();
    assert_eq!(
        noticed(&lab, &checks, ("", 0), &listing),
        None,
        "something is amiss in the whole guard"
    );

    // What a mutant prevents is waited for in vain.
    lab.patience = Duration::from_millis(1500);
    let mutants = mutants(&listing);
    assert!(mutants.len() > 40, "only {} rules were found", mutants.len());
    let mut last = [0; 2];
    let mut missed = Vec::new();
    let mut row = |chain: &str, rule: &str, found: Option<(usize, String)>| match found {
        Some((at, text)) => {
            let (check, family) = checks[at];
            println!(
                "{chain:9} {rule:.60}\n          {} {} {family:?}: {text}",
                check.id, check.name
            );
        }
        None => missed.push(format!("{chain}: {rule}")),
    };
    for mutant in &mutants {
        let last = &mut last[usize::from(lets_pass(&mutant.rule))];
        let found = noticed(&lab, &checks, (&mutant.rule, *last), &mutant.text);
        *last = found.as_ref().map_or(*last, |(at, _)| *at);
        row(&mutant.chain, &mutant.rule, found);
    }
    lab.host.run(|| drop(guard));
    // The program that refuses segments has gone with the guard.
    row("(bpf)", "segments", noticed(&lab, &checks, ("drop", 20), &listing));
    println!("{} rules and one program, in {:?}", mutants.len(), start.elapsed());
    assert!(missed.is_empty(), "nobody misses\n{}", missed.join("\n"));
}
