//! The control thread: commands in, timers, events out.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use overlay_proto::control::{Command, Event, LocalPort, MESSAGE_LEN_MAX};

use super::threads::Mover;
use super::{Shared, Tap};
use crate::clock;

/// Between runs of the timers. WireGuard's want 100 to 250 ms.
const TICK: Duration = Duration::from_millis(100);

/// Makes the two ends of the control socket; neither blocks.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends a command, with a descriptor if there is one.
pub(super) fn send_command(
    socket: &impl AsRawFd,
    command: &Command,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(command).map_err(io::Error::other)?;
    let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    send(socket, &bytes, if fds.is_empty() { &[] } else { &rights })
}

/// Receives one event; `None` when the data plane has closed its end.
pub(super) fn receive_event(socket: &impl AsRawFd) -> io::Result<Option<Event>> {
    let (bytes, _) = receive(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}

fn send(socket: &impl AsRawFd, bytes: &[u8], rights: &[ControlMessage<'_>]) -> io::Result<()> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
    Ok(())
}

fn receive(socket: &impl AsRawFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0; MESSAGE_LEN_MAX];
    let mut space = cmsg_space!([i32; 1]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(super::sys::own));
        }
    }
    let len = message.bytes;
    buffer.truncate(len);
    Ok((buffer, fds.into_iter().next()))
}

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
        let (bytes, fd) = match receive(socket) {
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
        let command = match postcard::from_bytes::<Command>(&bytes) {
            Ok(Command::Shutdown) => return false,
            Ok(command) => command,
            Err(error) => {
                let reason = format!("a command of {} bytes is not one: {error}", bytes.len());
                shared.node.tell(Event::Refused { reason });
                continue;
            }
        };
        handle_command(shared, command, fd);
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
                shared.node.tell(Event::Refused { reason });
            }
            return;
        }
        (Command::AttachPort { port, .. }, Some(fd)) => Some((*port, fd)),
        (Command::AttachPort { port, .. }, None) => {
            let reason = format!("port {} came without a descriptor", port.0);
            return shared.node.tell(Event::Refused { reason });
        }
        _ => None,
    };
    let detached = match &command {
        Command::DetachPort(port) => Some(*port),
        _ => None,
    };
    match shared.node.handle_command(command, clock::now(), &mut Mover::new(shared)) {
        Err(refused) => shared.node.tell(Event::Refused { reason: refused.to_string() }),
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
                match postcard::to_stdvec(&event) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!(%error, "an event cannot be encoded");
                        continue;
                    }
                }
            }
        };
        match send(socket, &bytes, &[]) {
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
