//! A guest that is a virtual machine of ours.
//!
//! # Theory of operation
//! The cable is a [`LeaseWire`]: QEMU holds one end, the data plane the other. It stays when QEMU
//! ends, so a machine that is started again is at the same place on the segment. Between a crash
//! and the next start there is a pause, twice as long each time, until one has run for a while.
//! The helper looks ([`VmSeat::look`]) whenever a child has ended and when something is due.
//!
//! # Limits
//! A machine that does not end by itself is killed [`END_AFTER_MAX`] after it was asked.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay::clock;
use vde_attach::nft::Counts;
use vde_attach::wire::{GuestEnd, LeaseWire};
use vde_switch::time::Instant;

use super::watch::{Watched, explain};
use crate::helper::ask::Wiring;
use crate::run::launch::{Launch, Started};
use crate::run::scratch::Scratch;
use crate::run::terminal::TerminalBefore;

/// How long a machine may take to end when asked to.
const END_AFTER_MAX: Duration = Duration::from_secs(1);
/// First and longest pause before a crashed machine is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Who ran that long has not crashed at once.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// What a machine did.
#[derive(Debug)]
pub(crate) enum News {
    /// It runs; what it says is to be read.
    Started(Started),
    /// It ended; it is started again after a pause, if there is one.
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// The pause.
        again: Option<Duration>,
    },
}

/// The seat of a virtual machine.
#[derive(Debug)]
pub(crate) struct VmSeat {
    // First, so that it is killed before what it uses goes.
    vm: Option<Vm>,
    launch: Launch,
    restart: bool,
    plugged: Option<Plugged>,
    started_at: Option<Instant>,
    /// When a machine is started again, and how long the next pause will be.
    again_at: Option<Instant>,
    next_pause: Duration,
    /// When a machine that was asked to end is killed.
    kill_at: Option<Instant>,
    _terminal: TerminalBefore,
}

#[derive(Debug)]
struct Plugged {
    tap: OwnedFd,
    wire: Watched,
    scratch: Scratch,
    wiring: Wiring,
}

/// A machine's process; killed when dropped.
#[derive(Debug)]
struct Vm(std::process::Child);

impl VmSeat {
    pub(crate) fn new(launch: Launch, restart: bool) -> Self {
        Self {
            vm: None,
            launch,
            restart,
            plugged: None,
            started_at: None,
            again_at: None,
            next_pause: PAUSE.0,
            kill_at: None,
            _terminal: TerminalBefore::save(),
        }
    }

    pub(super) fn words(&self) -> String {
        format!("vm {}", self.launch.name())
    }

    /// Returns the program's name, how its processor is made, and where its console is.
    pub(crate) fn facts(&self) -> (String, &'static str, Option<String>) {
        (self.launch.name(), self.launch.accel_words(), self.launch.console_path())
    }

    /// Makes the cable; [`VmSeat::start`] is next.
    pub(super) fn plug(&mut self, wiring: &Wiring) -> anyhow::Result<OwnedFd> {
        let scratch = self.launch.scratch()?;
        let (wire, ends) = LeaseWire::open(&wiring.spec(), GuestEnd::Tap).map_err(explain)?;
        let tap = ends.guest.context("a wire for a hypervisor has an end for it")?;
        let wire = Watched::new(wire);
        self.plugged = Some(Plugged { tap, wire, scratch, wiring: wiring.clone() });
        Ok(ends.data)
    }

    /// Follows a segment whose MTU changed; the guest learns of it when it is started again.
    pub(super) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        if let Some(plugged) = self.plugged.as_mut().filter(|plugged| plugged.wiring != *wiring) {
            plugged.wire.follow(wiring)?;
            plugged.wiring = wiring.clone();
        }
        Ok(())
    }

    pub(super) fn open(&mut self) -> anyhow::Result<()> {
        self.plugged.as_mut().map_or(Ok(()), |plugged| plugged.wire.open())
    }

    pub(super) fn counts(&mut self) -> anyhow::Result<Counts> {
        self.plugged.as_mut().map_or(Ok(Counts::default()), |plugged| plugged.wire.counts())
    }

    pub(super) fn fds(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        self.plugged.as_ref().map_or(Vec::new(), |plugged| plugged.wire.fds(now))
    }

    pub(super) fn watch(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        self.plugged.as_mut().map_or(Ok(()), |plugged| plugged.wire.look(heard, now))
    }

    /// Starts the machine. To be called by the helper's one thread, with which it ends.
    pub(crate) fn start(&mut self) -> anyhow::Result<Started> {
        let plugged = self.plugged.as_ref().ok_or_else(|| anyhow::anyhow!("not plugged in"))?;
        let Plugged { tap, scratch, wiring, .. } = plugged;
        let (child, started) =
            self.launch.start(tap, scratch, wiring.station.mac, wiring.segment.mtu)?;
        self.vm = Some(Vm(child));
        self.started_at = Some(clock::now());
        Ok(started)
    }

    /// Returns what happened to the machine, if anything, and does what is due.
    ///
    /// # Errors
    /// When a crashed one cannot be started again.
    pub(crate) fn look(&mut self, now: Instant) -> anyhow::Result<Option<News>> {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            return Ok(Some(News::Started(self.start()?)));
        }
        let Some(vm) = &mut self.vm else { return Ok(None) };
        let Some(status) = vm.0.try_wait()? else {
            if self.kill_at.is_some_and(|at| at <= now) {
                tracing::warn!("the guest's QEMU did not end when asked to and is killed");
                self.kill_at = None;
                vm.signal(Signal::SIGKILL);
            }
            return Ok(None);
        };
        self.vm = None;
        let ran = self.started_at.map_or(Duration::ZERO, |at| now - at);
        if ran > STEADY_AFTER {
            self.next_pause = PAUSE.0;
        }
        let again = (self.restart && !status.success() && self.kill_at.is_none())
            .then_some(self.next_pause);
        if let Some(pause) = again {
            self.again_at = Some(now + pause);
            self.next_pause = (pause * 2).min(PAUSE.1);
        }
        Ok(Some(News::Ended { status, again }))
    }

    /// Returns how long nothing is due, ends of processes aside.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        let due = [self.again_at, self.kill_at].into_iter().flatten().min();
        due.map_or(Duration::MAX, |at| if at > now { at - now } else { Duration::ZERO })
    }

    /// Whether a machine runs.
    pub(crate) fn is_running(&self) -> bool {
        self.vm.is_some()
    }

    /// Asks the machine to end; it is killed if it does not, and not started again.
    pub(crate) fn ask_to_end(&mut self, now: Instant) {
        self.again_at = None;
        self.restart = false;
        if let Some(vm) = self.vm.as_ref().filter(|_| self.kill_at.is_none()) {
            vm.signal(Signal::SIGTERM);
            self.kill_at = Some(now + END_AFTER_MAX);
        }
    }
}

impl Vm {
    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It is a child that nobody has waited for, so the number is its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It has ended already, or does now; its files are free when it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
