//! The packet filter of the buyer's tap against real frames: what a guest reaches on the buyer's
//! computer, and behind it.
//!
//! Each probe is made without the filter, where it must get through, so that there is something to
//! stop; with the filter; and with each of its rules missing in turn, which some probe must notice.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]
#![expect(clippy::print_stdout, reason = "a table for whoever asks with --nocapture")]

mod bench;
mod probes;

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use overlay::host::filter::TapFilter;

use crate::bench::{BUYER4, BUYER6, Bench, TAP};
use crate::probes::PROBES;

fn filter() -> TapFilter {
    TapFilter {
        order: "farm".to_owned(),
        tap: TAP.parse().unwrap(),
        ipv4: (BUYER4, 24),
        ipv6: (BUYER6, 64),
        exposed: vec!["80".parse().unwrap(), "5000/udp".parse().unwrap()],
    }
}

/// Runs in a network of its own.
fn alone(code: impl FnOnce() + Send) {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
        code();
    };
    thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Names the probes that do not end as they are to, `legal` and the others.
fn wrong(bench: &Bench, is_to_pass: impl Fn(bool) -> bool) -> Vec<&'static str> {
    let odd = PROBES.iter().filter(|probe| {
        bench.drain();
        (probe.passes)(bench) != is_to_pass(probe.is_legal)
    });
    odd.map(|probe| probe.name).collect()
}

#[test]
fn guests_reach_ping_and_exposed_ports_and_without_the_filter_everything() {
    alone(|| {
        let bench = Bench::new();
        assert_eq!(wrong(&bench, |_| true), [""; 0], "nothing to stop");
        let installed = filter().install().expect("it stands");
        assert_eq!(wrong(&bench, |is_legal| is_legal), [""; 0]);
        drop(installed);
        assert_eq!(wrong(&bench, |_| true), [""; 0], "it is still there");
    });
}

#[test]
fn no_rule_of_the_filter_can_be_missing_unnoticed() {
    alone(|| {
        let bench = Bench::new();
        let mut missed = Vec::new();
        let installed = filter().install().expect("it stands");
        let rules = rules();
        assert!(rules.len() >= 15, "only {} rules were found", rules.len());
        for at in 0..rules.len() {
            // The first one removes the table in the end.
            std::mem::forget(filter().install().expect("in exchange"));
            let all = self::rules();
            let Rule { chain, handle, text } = &all[at];
            nft(&format!("delete rule inet ovl_farm {chain} handle {handle}"));
            let noticed = wrong(&bench, |is_legal| is_legal);
            match noticed.first() {
                Some(name) => println!("{chain:13} {text:.60}\n              {name}"),
                None => missed.push(format!("{chain}: {text}")),
            }
        }
        drop(installed);
        assert!(missed.is_empty(), "nobody misses\n{}", missed.join("\n"));
    });
}

struct Rule {
    chain: String,
    handle: String,
    text: String,
}

fn nft(words: &str) -> String {
    let output = Command::new("nft").args(words.split(' ')).output().expect("nft");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rules() -> Vec<Rule> {
    let mut chain = String::new();
    let mut found = Vec::new();
    for line in nft("-a list table inet ovl_farm").lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("chain ") {
            name.split(' ').next().unwrap().clone_into(&mut chain);
        } else if let Some((text, handle)) = line.split_once(" # handle ")
            && !text.starts_with("table")
        {
            let (text, handle) = (text.to_owned(), handle.to_owned());
            found.push(Rule { chain: chain.clone(), handle, text });
        }
    }
    found
}
