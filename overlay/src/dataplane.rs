//! The data plane of one lease: a process of its own, seen from the control side.
//!
//! # Theory of operation
//! The process ([`process`]) is handed two descriptors, one end of a SEQPACKET socket and the
//! lease's UDP socket, and opens nothing itself. What it is to do comes as [`Command`]s, with the
//! descriptors of cables and captures beside them; what it has to say goes back as [`Event`]s.
//! [`DataPlane`] is the other end: closing it ends the process.
//!
//! # Limits
//! Neither side waits for the other: a command that does not fit into the socket is an error, and
//! events that control does not read wait in the node's bounded queue.

mod control;
pub mod process;
mod threads;

use std::io;
use std::net::{Shutdown, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_proto::control::{Command, Detail, Event, Limits, LocalPort, Slot};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;
use zeroize::{Zeroize, Zeroizing};

use crate::datakey::DataKey;
use crate::ipc;

/// How long a full socket is waited for, in milliseconds.
pub(crate) const WRITABLE_WAIT: u16 = 2;

/// What a data plane hears first.
#[derive(Serialize, Deserialize)]
struct Init {
    /// X25519 secret of this lease.
    key: [u8; 32],
    /// This node's own slot.
    slot: Slot,
}

impl Drop for Init {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The control side of a running data plane; dropping it stops that.
#[derive(Debug)]
pub struct DataPlane {
    /// SEQPACKET; the type only lends it tokio's readiness.
    socket: UnixDatagram,
}

impl DataPlane {
    /// Takes the other end of a process's control socket, and tells it who it is. To be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// The system's, also when the process is gone already.
    pub fn over(socket: OwnedFd, key: &DataKey, slot: Slot) -> io::Result<Self> {
        let init = Init { key: key.secret(), slot };
        let bytes = Zeroizing::new(ipc::encode(&init)?);
        ipc::send(&socket, &bytes, &[])?;
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)? })
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the data plane is gone or its queue is full.
    pub fn send(&self, command: &Command) -> io::Result<()> {
        self.send_fd(command, None)
    }

    /// Plugs in a cable, whose descriptor must not block.
    ///
    /// # Errors
    /// As [`DataPlane::send`].
    pub fn attach(
        &self,
        port: LocalPort,
        stations: Vec<Station>,
        limits: Limits,
        cable: OwnedFd,
    ) -> io::Result<()> {
        let command = Command::AttachPort { port, stations, limits };
        self.send_fd(&command, Some(cable.as_fd()))
    }

    /// Begins a capture of a port to `records`, one end of a [`pair`](crate::capture::pair).
    ///
    /// With a `station`, only frames between the port and that one. The other end is closed if the
    /// data plane has no such port or too many captures.
    ///
    /// # Errors
    /// As [`DataPlane::send`].
    pub fn capture(
        &self,
        port: LocalPort,
        detail: Detail,
        station: Option<MacAddr>,
        records: OwnedFd,
    ) -> io::Result<()> {
        let command = Command::Capture { port, detail, station };
        self.send_fd(&command, Some(records.as_fd()))
    }

    fn send_fd(&self, command: &Command, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sent = ipc::send(&self.socket, &ipc::encode(command)?, fd.as_slice());
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                io::Error::new(error.kind(), "the data plane has ended")
            }
            _ => error,
        })
    }

    /// Returns the next event, `None` once the data plane has stopped.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            self.socket.readable().await.ok()?;
            match self.socket.try_io(Interest::READABLE, || ipc::receive(&self.socket)) {
                Ok((bytes, _)) if bytes.is_empty() => return None,
                Ok((bytes, _)) => match ipc::decode(&bytes) {
                    Ok(event) => return Some(event),
                    Err(error) => tracing::error!(%error, "the data plane said nothing sensible"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => {
                    tracing::error!(%error, "the data plane's socket failed");
                    return None;
                }
            }
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Waits a moment until the socket takes more.
pub(crate) fn wait_writable(socket: &UdpSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if let Err(error) = poll(&mut fds, PollTimeout::from(WRITABLE_WAIT)) {
        tracing::trace!(%error, "waiting for the socket");
    }
}
