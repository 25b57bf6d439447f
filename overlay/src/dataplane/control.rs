//! The control thread: commands in, timers, events out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_proto::control::{Command, Event, LocalPort};

use super::process::{Shared, Tap};
use super::threads::Mover;
use crate::{clock, ipc};

/// Between runs of the timers. WireGuard's want 100 to 250 ms.
const TICK: Duration = Duration::from_millis(100);

/// Runs until the other end closes.
pub(super) fn serve(shared: &Shared, socket: OwnedFd) {
    let mut ticked_at = clock::now();
    let mut unsent = None;
    while !shared.is_stopped() {
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(shared.wake_ctl.as_fd(), PollFlags::POLLIN),
        ];
        let left = TICK.saturating_sub(clock::now() - ticked_at);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if let Err(error) = poll(&mut fds, timeout)
            && error != Errno::EINTR
        {
            tracing::error!(%error, "the control thread cannot wait");
            break;
        }
        while shared.wake_ctl.read().is_ok() {}
        if !handle_commands(shared, &socket) {
            break;
        }
        if clock::now() - ticked_at >= TICK {
            ticked_at = clock::now();
            shared.node.tick(ticked_at, &mut Mover::new(shared));
            shared.tee.tend();
        }
        hand_out(shared, &socket, &mut unsent);
    }
    shared.stop();
    shared.taps.store(Default::default());
}

/// Carries out what has come; says no when the other end is gone.
fn handle_commands(shared: &Shared, socket: &impl AsRawFd) -> bool {
    loop {
        let (bytes, fds) = match ipc::receive(socket) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                tracing::error!(%error, "the control socket failed");
                return false;
            }
        };
        if bytes.is_empty() {
            return false;
        }
        let command = match ipc::decode::<Command>(&bytes) {
            Ok(Command::Shutdown) => return false,
            Ok(command) => command,
            Err(error) => {
                let reason = format!("a command of {} bytes is not one: {error}", bytes.len());
                shared.tell(Event::Refused { reason });
                continue;
            }
        };
        handle_command(shared, command, fds.into_iter().next());
    }
}

fn handle_command(shared: &Shared, command: Command, fd: Option<OwnedFd>) {
    let tap = match (&command, fd) {
        (Command::Capture { port, detail, station }, fd) => {
            let known = shared.taps.load().iter().any(|tap| tap.port == *port);
            let begun = fd.filter(|_| known);
            let begun = begun.is_some_and(|fd| shared.tee.begin(*port, *detail, *station, fd));
            if !begun {
                let reason = format!("no capture of port {} begins: too many, or no port", port.0);
                shared.tell(Event::Refused { reason });
            }
            return;
        }
        (Command::AttachPort { port, .. }, Some(fd)) => Some((*port, fd)),
        (Command::AttachPort { port, .. }, None) => {
            let reason = format!("port {} came without a descriptor", port.0);
            return shared.tell(Event::Refused { reason });
        }
        _ => None,
    };
    let detached = match &command {
        Command::DetachPort(port) => Some(*port),
        _ => None,
    };
    match shared.node.handle_command(command, clock::now(), &mut Mover::new(shared)) {
        Err(refused) => shared.tell(Event::Refused { reason: refused.to_string() }),
        Ok(()) => {
            if let Some((port, fd)) = tap {
                let (out_frames, out_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
                shared.add_tap(Tap { port, fd, out_frames, out_bytes });
            }
            if let Some(port) = detached {
                shared.remove_tap(port);
            }
        }
    }
}

/// Sends events until the other end's queue is full; the rest waits in the node.
fn hand_out(shared: &Shared, socket: &impl AsRawFd, unsent: &mut Option<Vec<u8>>) {
    shared.node.has_news();
    loop {
        let bytes = match unsent.take() {
            Some(bytes) => bytes,
            None => {
                let Some(mut event) = shared.node.poll_event() else { return };
                if let Event::Stats(stats) = &mut event {
                    for port in &mut stats.ports {
                        (port.out_frames, port.out_bytes) = delivered(shared, port.port);
                    }
                }
                match ipc::encode(&event) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!(%error, "an event cannot be encoded");
                        continue;
                    }
                }
            }
        };
        match ipc::send(socket, &bytes, &[]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *unsent = Some(bytes);
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "an event could not be handed out");
                return;
            }
        }
    }
}

fn delivered(shared: &Shared, port: LocalPort) -> (u64, u64) {
    let taps = shared.taps.load();
    taps.iter().find(|tap| tap.port == port).map_or((0, 0), |tap| {
        (tap.out_frames.load(Ordering::Relaxed), tap.out_bytes.load(Ordering::Relaxed))
    })
}
