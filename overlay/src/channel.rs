//! One end of a pair of [`ipc`] sockets, inside a runtime: typed messages with descriptors beside.
//!
//! The other end is another program's, or another process of this one. What it says is bounded and
//! strict as all of [`ipc`] is; what it does not take in time is an error, never waited for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::ipc;

/// See the module.
#[derive(Debug)]
pub struct Channel {
    /// SEQPACKET; the type only lends it tokio's readiness.
    socket: UnixDatagram,
}

impl Channel {
    /// Takes one end of an [`ipc::pair`]. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)? })
    }

    /// Says something.
    ///
    /// # Errors
    /// When the other end is gone or does not read what it is told.
    pub fn say(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        ipc::send(&self.socket, &ipc::encode(message)?, fds)
    }

    /// Returns what the other end says next and the descriptors beside it; `None` is its end.
    /// Dropped and called again, nothing is lost.
    ///
    /// # Errors
    /// The system's; `InvalidData` for what is no such message.
    pub async fn next<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let received = self.socket.async_io(Interest::READABLE, || ipc::receive(&self.socket));
        match received.await {
            Ok((bytes, _)) if bytes.is_empty() => Ok(None),
            Ok((bytes, fds)) => Ok(Some((ipc::decode(&bytes)?, fds))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn what_one_end_says_the_other_hears_until_it_is_gone() {
        let (ours, theirs) = ipc::pair().expect("a pair");
        let theirs = Channel::over(theirs).expect("inside a runtime");
        let ours = Channel::over(ours).expect("inside a runtime");
        let (beside, _) = ipc::pair().expect("a pair");
        ours.say(&7_u16, &[beside.as_fd()]).expect("taken");
        let (message, fds) = theirs.next::<u16>().await.expect("one").expect("no end");
        assert_eq!((message, fds.len()), (7, 1));
        ours.say(&"words", &[]).expect("taken");
        assert!(theirs.next::<u16>().await.is_err(), "words are no number");
        drop(ours);
        assert!(theirs.next::<u16>().await.expect("an end").is_none());
        assert!(theirs.say(&7_u16, &[]).is_err(), "nobody hears");
    }
}
