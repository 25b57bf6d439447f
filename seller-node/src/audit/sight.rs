//! Sees what comes out of a guest, on any interface of a network.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use nix::unistd::read;

/// Room for what is seen while nobody looks, in bytes.
const BUFFER_LEN: usize = 16 << 20;
/// Longest time between an attempt and its being seen.
const LATE: Duration = Duration::from_millis(40);
/// How long a look waits, in milliseconds.
const LOOK_MS: u16 = 10;

/// A packet socket that hears all interfaces of the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Sight {
    socket: OwnedFd,
}

impl Sight {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_LEN)?;
        Ok(Self { socket })
    }

    /// Counts the packets that bear the mark while `work` is done and a little longer.
    pub(super) fn during<T>(
        &self,
        mark: &[u8],
        work: impl FnOnce() -> T,
    ) -> io::Result<(T, usize)> {
        let (seen, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let watcher = scope.spawn(|| self.watch(mark, &seen, &over));
            let done = work();
            thread::sleep(LATE);
            over.store(true, Ordering::Release);
            let watched = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            watched.map(|()| (done, seen.load(Ordering::Acquire)))
        })
    }

    fn watch(&self, mark: &[u8], seen: &AtomicUsize, over: &AtomicBool) -> io::Result<()> {
        let mut bytes = vec![0; 1 << 17];
        loop {
            match read(&self.socket, &mut bytes) {
                Ok(len) => {
                    if bytes[..len].windows(mark.len()).any(|window| window == mark) {
                        seen.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Err(Errno::EAGAIN) if over.load(Ordering::Acquire) => return Ok(()),
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::from(LOOK_MS)); // it is read again anyway
                }
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
