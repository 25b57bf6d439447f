//! Kills of a command's root process at each call by which it changes its host, as it starts and as
//! it ends.
//!
//! # Theory of operation
//! The command is run under strace once, which notes those calls of its first process ([`CALLS`]);
//! then again and again, killed each time as it makes another of them. A command that gets as far
//! as being ready is asked to end, so that the later calls are met on its way down. Each time what
//! it leaves is compared with what was there before, while a guest attacks and everybody is
//! watched.
//!
//! # Limits
//! What the first process's other threads and its children do lies between its own calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{END_MAX, Kind, LOOK_INTERVAL, RECOVERY_MAX, Report, Scene, Side};
use crate::cast::{Gateway, Guest, Programs, START_MAX, wrapped};
use crate::lab::Host;
use crate::lab::process::Process;
use crate::traffic::wait_reach;
use crate::tree::{Member, namespaces, tree};

/// The calls by which a process changes its host, or starts who does.
const CALLS: &str = "bind,bpf,clone,clone3,kill,mkdir,sendmsg,sendto,setsockopt,unlink,write";

/// One of them: its name, and which of that name it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    name: String,
    ordinal: u32,
}

/// Kills the seller's and the buyer's command at one in `every` of these calls and tells what came
/// of it; `say` is told each.
///
/// # Errors
/// When a command cannot be started again in the end, or the watch missed a frame.
pub fn steps(every: usize, mut say: impl FnMut(&str)) -> Result<Report> {
    let mut scene = Scene::set(Kind::Netns)?;
    let station = scene.start()?;
    let (watch, words) = scene.watch(&station)?;
    let load = scene.attack(&words)?;
    for side in [Side::Seller, Side::Buyer] {
        let status = scene.process(side)?.terminate(END_MAX)?;
        ensure!(status.success(), "the {side:?} ended with {status}: {}", scene.log(side));
        for call in scene.calls(side)?.iter().step_by(every) {
            let what = scene.step(side, call)?;
            *scene.report.kills.entry(what.to_owned()).or_default() += 1;
            say(&format!("{} {} of the {side:?}: {what}", call.name, call.ordinal));
        }
        scene.again(side)?;
    }
    let (from, to) = scene.pair();
    wait_reach(&from, to, RECOVERY_MAX)?;
    drop(load);
    scene.report.seen = watch.finish()?;
    scene.end()
}

impl Scene {
    /// Returns the calls of a run from its start to its end.
    fn calls(&mut self, side: Side) -> Result<Vec<Call>> {
        let trace = self.home.seller.dir().join(format!("{side:?}.trace"));
        let mut process = self.start_traced(side, &trace, None)?;
        process.wait_line(START_MAX, |line| is_ready(side, line))?;
        process.terminate(END_MAX)?;
        Ok(read(&fs::read_to_string(&trace)?))
    }

    /// Runs a command until it is killed at a call, or to its end; says when that was.
    fn step(&mut self, side: Side, call: &Call) -> Result<&'static str> {
        let trace = self.home.seller.dir().join(format!("{side:?}.step"));
        let mut process = self.start_traced(side, &trace, Some(call))?;
        let mut members = BTreeMap::new();
        let until = Instant::now() + START_MAX;
        let is_up = loop {
            let found = tree(process.pid()).into_iter();
            members.extend(found.map(|one| ((one.pid, one.started_at), one)));
            if process.wait_line(LOOK_INTERVAL, |line| is_ready(side, line)).is_ok() {
                break true;
            }
            if !process.is_running() {
                break false;
            }
            ensure!(Instant::now() < until, "{call:?}: neither up nor killed: {}", process.log());
        };
        let pids: Vec<_> = tree(process.pid()).iter().map(|member| member.pid).collect();
        let inodes: Vec<_> = namespaces(&pids)?.iter().map(|netns| netns.inode).collect();
        if is_up {
            // At this very call it may be killed.
            let _ = process.signal(Signal::SIGTERM);
        }
        let status = process.wait_end(END_MAX)?;
        // What has changed its name since is the same; what has but its number is not.
        let members: Vec<_> = members
            .into_values()
            .filter_map(|one: Member| {
                Member::of(one.pid).filter(|now| now.started_at == one.started_at)
            })
            .collect();
        self.inspect(side, &members, &inodes)?;
        if side == Side::Seller {
            self.report.leftovers.extend(open_for_ever(&self.home.seller)?);
        }
        Ok(match (is_up, status.success()) {
            (false, _) => "killed as it starts",
            (true, false) => "killed when it is up or ends",
            (true, true) => "not met again",
        })
    }

    fn start_traced(&self, side: Side, trace: &Path, kill: Option<&Call>) -> Result<Process> {
        let programs = &self.home.programs;
        let inject = kill.map_or_else(String::new, |Call { name, ordinal }| {
            format!("-e inject={name}:signal=SIGKILL:when={ordinal}")
        });
        // With -D it is the program that has the number of the process that was started.
        let by = format!("strace -D -qq -e trace={CALLS} {inject} -o '{}'", trace.display());
        let wrap = |program: &Path| wrapped(program, self.home.seller.dir(), &by);
        match side {
            Side::Seller => {
                let programs = Programs { seller: wrap(&programs.seller)?, ..programs.clone() };
                Guest::start(&programs, &self.home.seller, &self.seat, &self.ticket, &[])
            }
            Side::Buyer => {
                let programs = Programs { gateway: wrap(&programs.gateway)?, ..programs.clone() };
                self.home.start(&programs, "farm")
            }
        }
    }
}

fn is_ready(side: Side, line: &str) -> bool {
    match side {
        Side::Seller => Guest::is_there(line),
        Side::Buyer => Gateway::is_ready("farm", line),
    }
}

/// Names what the guard of a host lets out without an end.
fn open_for_ever(host: &Host) -> Result<Vec<String>> {
    let listed = host.output("nft", ["list", "table", "inet", "ovl_guard"])?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let lines = listed.lines().filter(|line| line.contains("elements") && !has_end(line));
    Ok(lines.map(|line| format!("open for ever: {}", line.trim())).collect())
}

/// Whether a set's elements end by themselves, or open nothing, as users of control processes do.
fn has_end(line: &str) -> bool {
    let elements = line.split_once('{').map_or("", |(_, rest)| rest).trim_end_matches([' ', '}']);
    let is_user = |one: &str| one.parse::<u32>().is_ok() || one == "overlay";
    elements.split(',').map(str::trim).all(|one| one.contains("expires") || is_user(one))
}

/// Reads what strace has noted.
fn read(trace: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<&str, u32>::new();
    let names = trace.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name));
    let names = names.filter(|name| CALLS.split(',').any(|call| call == *name));
    names
        .map(|name| {
            let ordinal = counts.entry(name).or_default();
            *ordinal += 1;
            Call { name: name.to_owned(), ordinal: *ordinal }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_without_an_end_is_seen() {
        assert!(has_end("elements = { 7770 timeout 1m expires 59s, 7771 timeout 1m expires 3s }"));
        assert!(has_end("elements = { 990, overlay }"));
        assert!(!has_end("elements = { 7770 . 10.0.0.1 . 7770 }"));
        assert!(!has_end("elements = { 1.2.3.4 timeout 1m expires 59s, 1.2.3.5 }"));
    }

    #[test]
    fn calls_are_counted_by_name() {
        let trace = "mkdir(\"/run\", 0700) = 0\nsendto(3, \"(\", 1) = 1\n\
                     --- SIGCONT {si_signo=SIGCONT} ---\nsendto(3, \"a\", 1) = 1\nread(0) = 0\n";
        let expected = [("mkdir", 1), ("sendto", 1), ("sendto", 2)]
            .map(|(name, ordinal)| Call { name: name.to_owned(), ordinal });
        assert_eq!(read(trace), expected);
    }
}
