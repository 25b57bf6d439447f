//! Kills and stops of any process of the programs at random moments, or at each step, while a guest
//! attacks.
//!
//! # Theory of operation
//! In a [`Home`] a guest attacks again and again and everybody is watched, as in any attack. Every
//! second or so a process is picked by dice from the tree that the seller's command or the buyer's
//! has started ([`crate::tree`]), and killed, or stopped for a while and then killed or let go on.
//! If the command has ended, what it leaves is compared with what was there before its first start,
//! and it is typed again; the time until the buyer reaches the guest again is the recovery. If the
//! command lives, it is given time to recover by itself.
//!
//! # Limits
//! One guest. A firewall table of the buyer's stays after a kill by design: it shuts the tap, and
//! the next start replaces it. Without his tap the buyer's computer sends what is for a guest by
//! its default route, in the clear, as it would without us: that is shown, but not counted. It is
//! the guest that asks whether all is well; where it is a machine, the buyer's side is spared.

mod steps;
mod traces;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use self::steps::steps;
use self::traces::{Traces, named};
use crate::cast::{Gateway, Guest};
use crate::home::frames::Station;
use crate::home::load::{Load, of_machine};
use crate::home::plan;
use crate::home::seats::{buyer_of, machine};
use crate::home::watch::{Places, Sightings, Suspect, Watch};
use crate::home::{Home, mac_of};
use crate::lab::Host;
use crate::lab::process::Process;
use crate::sim::rng::Rng;
use crate::traffic::{reaches, wait_reach};
use crate::tree::{self, namespaces, tree};
use crate::vm::member::{Member, command};
use crate::vm::{self, Vm};

/// Longest pause between two blows, in milliseconds.
const CALM_MAX_MS: u64 = 1500;
/// Longest stop, in milliseconds.
const STOP_MAX_MS: u64 = 2500;
/// One blow in so many falls on the buyer's side.
const BUYERS: u64 = 4;
/// How long what a dead command had may take to be gone: the kernel takes namespaces down later.
const GONE_MAX: Duration = Duration::from_secs(10);
/// Longest recovery that is waited for.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// How long a command whose process was killed may take to end, or to be well again.
const SELF_MAX: Duration = Duration::from_secs(20);
/// How long a command that is asked to end may take.
const END_MAX: Duration = Duration::from_secs(10);
/// How often what is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What sits at the seller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A namespace.
    Netns,
    /// An emulated machine.
    Machine,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Processes killed, by name.
    pub kills: BTreeMap<String, u32>,
    /// Processes stopped, by name.
    pub stops: BTreeMap<String, u32>,
    /// How often a command was typed again.
    pub restarts: u32,
    /// From typing it, or from the end of a stop, until the buyer reached the guest; sorted.
    pub recoveries: Vec<Duration>,
    /// What was left behind.
    pub leftovers: Vec<String>,
    /// Who saw what.
    pub seen: Sightings,
}

impl Report {
    /// Returns how many processes were killed.
    #[must_use]
    pub fn kill_count(&self) -> u32 {
        self.kills.values().sum()
    }

    /// Says it in a few lines.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { kills, stops, restarts, recoveries, leftovers, seen } = self;
        let at = |percent: usize| recoveries.get((recoveries.len() * percent / 100).max(1) - 1);
        format!(
            "kills {kills:?}, stops {stops:?}, {restarts} commands typed again; recovery p50 {:?}, \
             worst {:?}; leftovers {leftovers:?}; {}",
            at(50).copied().unwrap_or_default(),
            at(100).copied().unwrap_or_default(),
            seen.describe()
        )
    }
}

/// Whose command is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Seller,
    Buyer,
}

/// The seller's command.
enum Served {
    Netns(Process),
    Machine(Box<Vm>),
}

/// What stands in the lab.
struct Scene {
    kind: Kind,
    ticket: String,
    seat: Host,
    gateway: Option<Gateway>,
    served: Option<Served>,
    /// The guest's address, the same after every start.
    ipv4: Ipv4Addr,
    /// What was there before the first start: at the seller's, at the buyer's.
    before: [Traces; 2],
    report: Report,
    home: Home,
}

/// Strikes for so long and tells what came of it; `say` is told each blow.
///
/// # Errors
/// When a command cannot be typed again, nothing recovers, or the watch missed a frame.
pub fn kills(kind: Kind, time: Duration, seed: u64, mut say: impl FnMut(&str)) -> Result<Report> {
    let mut scene = Scene::set(kind)?;
    let station = scene.start()?;
    let (watch, words) = scene.watch(&station)?;
    let load = scene.attack(&words)?;
    let mut rng = Rng::new(seed);
    let until = Instant::now() + time;
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(rng.below(CALM_MAX_MS)));
        let is_buyers = kind == Kind::Netns && rng.below(BUYERS) == 0;
        let side = if is_buyers { Side::Buyer } else { Side::Seller };
        let line = scene.strike(side, &mut rng)?;
        say(&line);
        if kind == Kind::Machine {
            scene.attack(&words)?;
        }
    }
    drop(load);
    scene.report.seen = watch.finish()?;
    scene.end()
}

impl Scene {
    fn set(kind: Kind) -> Result<Self> {
        let mut home = Home::build()?;
        let seat = home.lab.guest("guest")?;
        let before = [Traces::of(&home.seller)?, Traces::of(&home.buyer)?];
        let gateway = home.open("farm")?;
        let ticket = gateway.invite_file()?;
        Ok(Self {
            kind,
            ticket,
            seat,
            gateway: Some(gateway),
            served: None,
            ipv4: Ipv4Addr::UNSPECIFIED,
            before,
            report: Report::default(),
            home,
        })
    }

    /// Types the seller's command, and waits until the buyer reaches the guest.
    fn start(&mut self) -> Result<Station> {
        let (programs, seller) = (&self.home.programs, &self.home.seller);
        let (ipv4, ipv6, mac) = match self.kind {
            Kind::Netns => {
                let guest = Guest::join(programs, seller, &self.seat, &self.ticket, &[])?;
                self.served = Some(Served::Netns(guest.process));
                (guest.ipv4, guest.ipv6, mac_of(&self.seat, "eth0")?)
            }
            Kind::Machine => {
                let words = machine(&self.home, "")?;
                let line = command(programs, seller, &self.ticket, &[], words);
                let member = Member::up(Vm::start(seller, &line)?)?;
                let said = "cat /sys/class/net/eth0/address";
                let said = vm::must_ssh(&self.home.buyer, member.ipv4.into(), said)?;
                self.served = Some(Served::Machine(Box::new(member.vm)));
                (member.ipv4, member.ipv6, plan::mac(&said)?)
            }
        };
        let is_new = self.ipv4.is_unspecified();
        ensure!(is_new || ipv4 == self.ipv4, "the guest was {} and is {ipv4}", self.ipv4);
        self.ipv4 = ipv4;
        let (from, to) = self.pair();
        wait_reach(&from, to, RECOVERY_MAX)?;
        Ok(Station { mac, ipv4, ipv6 })
    }

    /// Returns who asks whom whether all is well.
    fn pair(&self) -> (Host, IpAddr) {
        match (self.kind, &self.gateway) {
            (Kind::Netns, Some(gateway)) => (self.seat.clone(), gateway.ipv4.into()),
            _ => (self.home.buyer.clone(), self.ipv4.into()),
        }
    }

    /// Watches everybody; returns the words by which the guest attacks, too.
    fn watch(&self, station: &Station) -> Result<(Watch, Vec<String>)> {
        let buyer = self.gateway.as_ref().context("the order is open")?;
        let members = [buyer_of(buyer)?];
        let place = |host: &str, interface: &str| (host.to_owned(), interface.to_owned());
        let places =
            Places { cable: vec![place("buyer", "lo")], inside: vec![place("buyer", "ovl-farm")] };
        let mut plan = self.home.plan(*station, &members, &[])?;
        plan.mutations = 1;
        let wan = &self.home.buyer_cable.host;
        let buyer =
            vec![members[0].ipv4.into(), members[0].ipv6.into(), wan.ipv4.into(), wan.ipv6.into()];
        let suspect = Suspect { buyer, ..Suspect::of(station) };
        Ok((Watch::keep(&self.home.hosts(), &suspect, &places)?, plan.words()))
    }

    /// Lets the guest attack on and on; a machine has to be told after each start.
    fn attack(&self, words: &[String]) -> Result<Option<Load>> {
        match self.kind {
            Kind::Netns => Load::of_netns(&self.seat, words.to_vec()).map(Some),
            Kind::Machine => of_machine(&self.home.buyer, self.ipv4.into(), words).map(|()| None),
        }
    }

    fn process(&mut self, side: Side) -> Result<&mut Process> {
        let process = match side {
            Side::Buyer => self.gateway.as_mut().map(|gateway| &mut gateway.process),
            Side::Seller => self.served.as_mut().map(|served| match served {
                Served::Netns(process) => process,
                Served::Machine(vm) => &mut vm.process,
            }),
        };
        process.context("a command that runs")
    }

    /// Strikes one process, and waits until all is well again.
    fn strike(&mut self, side: Side, rng: &mut Rng) -> Result<String> {
        let root = self.process(side)?.pid();
        let members = tree(root);
        ensure!(!members.is_empty(), "the command of the {side:?} is gone: {}", self.log(side));
        let pids: Vec<_> = members.iter().map(|member| member.pid).collect();
        let inodes: Vec<_> = namespaces(&pids)?.iter().map(|netns| netns.inode).collect();
        let victim = members[rng.below(members.len() as u64) as usize].clone();
        let signal = |signal| {
            let pid = Pid::from_raw(victim.pid.cast_signed());
            // It may have ended a moment ago: then somebody else was faster.
            let _ = kill(pid, signal);
        };
        let is_stop = rng.below(3) == 0;
        let mut what = format!("{} of {} processes of the {side:?}", victim.name, members.len());
        if is_stop {
            signal(Signal::SIGSTOP);
            let pause = Duration::from_millis(rng.below(STOP_MAX_MS));
            *self.report.stops.entry(victim.name.clone()).or_default() += 1;
            what += &format!(" stopped for {pause:?}");
            thread::sleep(pause);
        }
        let mut from = Instant::now();
        if is_stop && rng.below(2) == 0 {
            signal(Signal::SIGCONT);
        } else {
            signal(Signal::SIGKILL);
            *self.report.kills.entry(victim.name.clone()).or_default() += 1;
            what += " killed";
            if self.ends(side)? {
                self.inspect(side, &members, &inodes)?;
                from = Instant::now();
                self.report.restarts += 1;
                self.again(side)?;
            }
        }
        let (from_host, to) = self.pair();
        wait_reach(&from_host, to, RECOVERY_MAX)
            .with_context(|| format!("{what}; {}", self.log(side)))?;
        let recovery = from.elapsed();
        self.report.recoveries.push(recovery);
        Ok(format!("{what}; well after {recovery:.2?}"))
    }

    /// Waits until a command whose process was killed has ended, or is well without it.
    fn ends(&mut self, side: Side) -> Result<bool> {
        let until = Instant::now() + SELF_MAX;
        while Instant::now() < until {
            thread::sleep(LOOK_INTERVAL);
            if !self.process(side)?.is_running() {
                return Ok(true);
            }
            let (from, to) = self.pair();
            if reaches(&from, to)? {
                // What is about to end may still answer.
                thread::sleep(LOOK_INTERVAL);
                return Ok(!self.process(side)?.is_running());
            }
        }
        anyhow::bail!("neither ended nor well after {SELF_MAX:?}: {}", self.log(side))
    }

    /// Notes what a command that has ended leaves behind, if it is still there after a while.
    fn inspect(&mut self, side: Side, members: &[tree::Member], inodes: &[u64]) -> Result<()> {
        let until = Instant::now() + GONE_MAX;
        loop {
            let running = members.iter().filter(|member| member.is_running());
            let mut left: Vec<_> =
                running.map(|member| format!("process {} {}", member.name, member.pid)).collect();
            left.extend(named(inodes));
            let (host, before) = match side {
                Side::Seller => (&self.home.seller, &self.before[0]),
                Side::Buyer => (&self.home.buyer, &self.before[1]),
            };
            left.extend(Traces::of(host)?.left_of(before));
            if side == Side::Seller {
                left.extend(
                    self.seat.interfaces()?.into_iter().map(|name| format!("guest's {name}")),
                );
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                self.report.leftovers.extend(left);
                return Ok(());
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Types a command again.
    fn again(&mut self, side: Side) -> Result<()> {
        match side {
            Side::Seller => {
                self.served = None;
                self.start().map(drop)
            }
            Side::Buyer => {
                self.gateway = None;
                self.gateway = Some(self.home.open("farm")?);
                Ok(())
            }
        }
    }

    fn log(&mut self, side: Side) -> String {
        let log = self.process(side).map(|process| process.log()).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(6).collect();
        format!("its log ends, latest first: {tail:?}")
    }

    /// Ends both commands as users do; then nothing at all may be left.
    fn end(mut self) -> Result<Report> {
        for side in [Side::Seller, Side::Buyer] {
            let members = tree(self.process(side)?.pid());
            let status = self.process(side)?.terminate(END_MAX)?;
            ensure!(status.success(), "the {side:?} ended with {status}: {}", self.log(side));
            self.inspect(side, &members, &[])?;
        }
        for (host, before) in [&self.home.seller, &self.home.buyer].into_iter().zip(&self.before) {
            self.report.leftovers.extend(Traces::of(host)?.more_than(before));
        }
        self.report.recoveries.sort_unstable();
        Ok(self.report)
    }
}
