//! Control's way to its helper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::confine::{self, Leave};
use crate::ipc;

/// The helper as control sees it.
#[derive(Debug)]
pub struct Hands {
    socket: OwnedFd,
    helper: Pid,
    /// Inside a runtime; the type only lends the socket tokio's readiness.
    ready: Option<UnixDatagram>,
}

/// Why the helper does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// It has ended, and with it the lease.
    #[error("the helper process has ended")]
    Gone,
    /// Its words cannot be read.
    #[error("the helper process cannot be asked")]
    Io(#[from] io::Error),
}

impl Hands {
    pub(super) fn new(socket: OwnedFd, helper: Pid) -> Self {
        Self { socket, helper, ready: None }
    }

    /// Leaves root for good, for `user`. To be called before any thread is started.
    ///
    /// # Errors
    /// The system's; the program must end then.
    pub fn leave_root(&self, user: (u32, u32), low_ports: bool) -> io::Result<()> {
        confine::leave_root(Leave { user, parent: self.helper, low_ports })
    }

    /// Asks for something; what is answered comes by [`Hands::next`] or [`Hands::wait`].
    ///
    /// # Errors
    /// [`HandsError`].
    pub fn ask(&self, question: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), HandsError> {
        match ipc::send(&self.socket, &ipc::encode(question)?, fds) {
            Err(error) if is_gone(&error) => Err(HandsError::Gone),
            sent => Ok(sent?),
        }
    }

    /// Waits for the next words of the helper, outside of a runtime.
    ///
    /// # Errors
    /// [`HandsError`].
    pub fn wait<A: DeserializeOwned>(&self) -> Result<(A, Vec<OwnedFd>), HandsError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        understand(ipc::receive(&self.socket))
    }

    /// Returns the next words of the helper, inside a runtime. Dropped and called again, nothing is
    /// lost.
    ///
    /// # Errors
    /// [`HandsError`].
    pub async fn next<A: DeserializeOwned>(&mut self) -> Result<(A, Vec<OwnedFd>), HandsError> {
        let ready = match &self.ready {
            Some(ready) => ready,
            None => {
                let socket = self.socket.try_clone()?;
                self.ready.insert(UnixDatagram::from_std(socket.into())?)
            }
        };
        understand(ready.async_io(Interest::READABLE, || ipc::receive(ready)).await)
    }
}

fn understand<A: DeserializeOwned>(
    received: io::Result<(Vec<u8>, Vec<OwnedFd>)>,
) -> Result<(A, Vec<OwnedFd>), HandsError> {
    match received {
        Ok((bytes, _)) if bytes.is_empty() => Err(HandsError::Gone),
        Ok((bytes, fds)) => Ok((ipc::decode(&bytes)?, fds)),
        Err(error) if is_gone(&error) => Err(HandsError::Gone),
        Err(error) => Err(error.into()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
