//! A guest at a unix socket: QEMU's `-netdev stream`, or what speaks like it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::confine::{self, lone_pump_user, pump_user, seccomp};
use overlay::exit::{Exit, Fault};
use overlay::helper::start_role;
use vde_attach::stream::{LOOK_INTERVAL, Pump, PumpEnds, StreamError, StreamNews, StreamSeat};
use vde_switch::mac::MacAddr;
use vde_switch::time::Instant;

use crate::helper::ask::Wiring;

/// First word of the command line of a pump's process; two descriptors' numbers follow.
const ROLE: &str = "--stream-pump";
/// What the process is called in lists.
const NAME: &str = "overlay-stream";

/// A socket's path, taken, and the process that serves it.
#[derive(Debug)]
pub(crate) struct SocketSeat {
    path: PathBuf,
    mac: MacAddr,
    seat: StreamSeat,
    pump: Option<Child>,
    looked_at: Instant,
}

/// Runs as a pump if this process was started as one; says how it ended.
pub(crate) fn role() -> Option<ExitCode> {
    let [line, cable] = match confine::role(ROLE)? {
        Ok(fds) => fds,
        Err(exit) => return Some(exit),
    };
    let mut pump = Pump::new(PumpEnds { line, cable });
    match seccomp::enter().and_then(|()| pump.run()) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "the guest's stream is lost");
            Some(ExitCode::FAILURE)
        }
    }
}

impl SocketSeat {
    /// Takes the path, and says what the user has to know.
    pub(super) fn find(path: &Path, mac: MacAddr) -> anyhow::Result<Self> {
        let seat = StreamSeat::take(path).map_err(explain)?;
        super::note(&format!("the guest's network card must have the address {mac}"));
        Ok(Self { path: path.to_owned(), mac, seat, pump: None, looked_at: Instant::ZERO })
    }

    pub(super) fn words(&self) -> String {
        format!("stream {} mac {}", self.path.display(), self.mac)
    }

    pub(super) fn plug(&mut self, wiring: &Wiring, port: Option<u16>) -> anyhow::Result<OwnedFd> {
        let (ends, cable) = self.seat.open(wiring.segment.mtu).context("no socket pair")?;
        let fds = [ends.line.as_fd(), ends.cable.as_fd()];
        let user = port.map_or_else(|| lone_pump_user(process::id()), pump_user)?;
        let pump = start_role(NAME, ROLE, &fds, user);
        self.pump = Some(pump.context("the guest's stream cannot be served")?);
        Ok(cable)
    }

    pub(super) fn follow(&self, wiring: &Wiring) {
        self.seat.set_mtu(wiring.segment.mtu);
    }

    /// Returns what is to be polled.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.seat.fds().collect()
    }

    /// Looks for a peer; an error ends the lease.
    pub(super) fn look(&mut self, now: Instant) -> anyhow::Result<()> {
        self.looked_at = now;
        match self.seat.look() {
            Some(StreamNews::Up) => tracing::info!("the guest's stream is connected"),
            Some(StreamNews::Down(None)) => tracing::info!("the guest's stream has ended"),
            Some(StreamNews::Down(Some(lie))) => {
                tracing::warn!("the guest's stream was closed: {lie}");
            }
            Some(StreamNews::Lost) => bail!("the process that serves the guest's stream has ended"),
            None => {}
        }
        Ok(())
    }

    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        LOOK_INTERVAL.saturating_sub(now - self.looked_at)
    }
}

impl Drop for SocketSeat {
    fn drop(&mut self) {
        if let Some(pump) = &mut self.pump {
            // Nothing of it is worth waiting for.
            let _ = pump.kill();
            let _ = pump.wait();
        }
    }
}

/// Says how the program ends over it.
fn explain(error: StreamError) -> anyhow::Error {
    match &error {
        StreamError::NoPath(_) | StreamError::NoSocket(_) => {
            Fault::new(Exit::Usage, error.to_string()).into()
        }
        StreamError::OpenFolder(_) => Fault::new(Exit::Confinement, error.to_string()).into(),
        StreamError::NoFolder(_) | StreamError::InUse(_) | StreamError::System { .. } => {
            error.into()
        }
    }
}
