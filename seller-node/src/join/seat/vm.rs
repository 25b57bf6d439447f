//! A guest that is a virtual machine of ours.
//!
//! # Theory of operation
//! The cable is a [`LeaseWire`]: QEMU holds one end, the data plane the other. It stays when QEMU
//! ends, so a machine that is started again is at the same place on the segment. Between a crash
//! and the next start there is a pause, twice as long each time, until one has run for a while.
//!
//! # Limits
//! A machine that does not end by itself is killed [`END_AFTER_MAX`] after it was asked.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlay::clock;
use overlay_proto::grant::Grant;
use overlay_proto::order::Config;
use tokio::time::{Sleep, sleep, timeout};
use vde_attach::wire::{GuestEnd, LeaseWire, WireSpec};
use vde_switch::time::Instant;

use crate::run::launch::{Ended, Launch, Vm};
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
pub(crate) enum VmEvent {
    /// It ended; it is started again after a pause, if there is one.
    Ended(Ended, Option<Duration>),
    /// It was started again, or not.
    Again(anyhow::Result<()>),
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
    /// The pause that is on, and how long the next will be.
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    _terminal: TerminalBefore,
}

#[derive(Debug)]
struct Plugged {
    tap: OwnedFd,
    wire: LeaseWire,
    spec: WireSpec,
    scratch: Scratch,
    grant: Grant,
}

impl VmSeat {
    pub(crate) fn new(launch: Launch, restart: bool) -> Self {
        Self {
            vm: None,
            launch,
            restart,
            plugged: None,
            started_at: None,
            pause: None,
            next_pause: PAUSE.0,
            _terminal: TerminalBefore::save(),
        }
    }

    /// Says where it is, for people.
    pub(crate) fn words(&self) -> String {
        let name = self.launch.name();
        match &self.vm {
            Some(vm) => format!("vm {name} pid {}", vm.pid),
            None => format!("vm {name} (not running)"),
        }
    }

    /// Returns the program's name, its process, how its processor is made, where its console is.
    pub(crate) fn facts(&self) -> (String, Option<u32>, &'static str, Option<String>) {
        let pid = self.vm.as_ref().map(|vm| vm.pid);
        (self.launch.name(), pid, self.launch.accel_words(), self.launch.console_path())
    }

    /// Makes the cable and starts the machine.
    pub(super) fn plug(&mut self, grant: &Grant, config: &Config) -> anyhow::Result<OwnedFd> {
        let spec = super::wire_spec(grant, config);
        let scratch = self.launch.scratch()?;
        let (mut wire, ends) = LeaseWire::open(&spec, GuestEnd::Tap)?;
        wire.up()?;
        let tap = ends.guest.expect("a wire for a hypervisor has a tap for it");
        self.plugged = Some(Plugged { tap, wire, spec, scratch, grant: grant.clone() });
        self.start()?;
        Ok(ends.data)
    }

    /// Follows a config whose MTU or networks changed; the guest learns of its MTU when it is
    /// started again.
    pub(super) fn follow(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(plugged) = &mut self.plugged else { return Ok(()) };
        let spec = super::wire_spec(&plugged.grant, config);
        if plugged.spec != spec {
            plugged.wire.retarget(&spec)?;
            plugged.spec = spec;
        }
        Ok(())
    }

    /// Looks whether the cable is as it was made; it is cut if not.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        self.plugged.as_mut().map_or(Ok(()), |plugged| plugged.wire.glance())?;
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let plugged = self.plugged.as_ref().ok_or_else(|| anyhow::anyhow!("not plugged in"))?;
        let Plugged { tap, spec, scratch, grant, .. } = plugged;
        self.vm = Some(self.launch.start(tap, scratch, grant, spec.segment.mtu)?);
        self.started_at = Some(clock::now());
        Ok(())
    }

    /// Returns what happens next. Dropped and called again, nothing is lost.
    pub(super) async fn next(&mut self) -> VmEvent {
        if let Some(pause) = &mut self.pause {
            pause.await;
            self.pause = None;
            return VmEvent::Again(self.start());
        }
        let Some(vm) = &mut self.vm else {
            return std::future::pending().await;
        };
        let ended = vm.ended().await;
        self.vm = None;
        let ran = self.started_at.map_or(Duration::ZERO, |at| clock::now() - at);
        if ran > STEADY_AFTER {
            self.next_pause = PAUSE.0;
        }
        let pause = (self.restart && !ended.status.success()).then_some(self.next_pause);
        if let Some(pause) = pause {
            self.pause = Some(Box::pin(sleep(pause)));
            self.next_pause = (pause * 2).min(PAUSE.1);
        }
        VmEvent::Ended(ended, pause)
    }

    /// Asks the machine to end.
    pub(super) fn ask_to_end(&self) {
        if let Some(vm) = &self.vm {
            vm.signal(Signal::SIGTERM);
        }
    }

    /// Waits for the machine's end, which is near: it was asked, or it is killed.
    pub(super) async fn end(&mut self) {
        if let Some(mut vm) = self.vm.take()
            && timeout(END_AFTER_MAX, vm.ended()).await.is_err()
        {
            tracing::warn!("the guest's QEMU did not end when asked to and is killed");
            vm.signal(Signal::SIGKILL);
            // Its files are free when it is gone; a kernel that keeps it is not waited for.
            let _ = timeout(END_AFTER_MAX / 4, vm.ended()).await;
        }
    }
}
