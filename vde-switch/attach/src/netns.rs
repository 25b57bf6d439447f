//! A guest's network namespace: found by name, checked, entered.
//!
//! # Theory of operation
//! A namespace is a property of a *thread*, so each [`Netns::run`] enters it on a thread of its own
//! that ends with the closure; no other thread ever moves. Descriptors and child processes that the
//! closure makes belong to the namespace and outlive the thread.
//!
//! # Limits
//! [`Netns::check_empty`] looks once: whoever is root in the guest's namespace can add interfaces
//! later. That is the host's own doing, not the guest's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Where `ip netns add` keeps names.
const NAMED_NETNS_FOLDER: &str = "/run/netns";

/// What a new namespace has without anybody's doing: the loopback, and the unconfigured fallback
/// devices of tunnel modules that the host has loaded.
pub(crate) const MADE_BY_KERNEL: [&str; 10] = [
    "lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0",
    "ip6_vti0",
];

/// An open network namespace that is not the caller's.
#[derive(Debug)]
pub struct Netns {
    file: File,
    name: String,
}

impl Netns {
    /// Opens a namespace by the name that `ip netns` gave it, or by a path such as
    /// `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Missing`], [`NetnsError::NotOne`] for any other file, and [`NetnsError::Own`]
    /// for the namespace of the caller or of the host's first process.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let path = match name {
            path if path.starts_with('/') => PathBuf::from(path),
            "" | "." | ".." => return Err(NetnsError::NotOne(name.to_owned())),
            name if name.contains('/') => return Err(NetnsError::NotOne(name.to_owned())),
            name => Path::new(NAMED_NETNS_FOLDER).join(name),
        };
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NetnsError::Missing(name.to_owned()),
            _ => NetnsError::System { name: name.to_owned(), source: error },
        })?;
        let netns = Self { file, name: name.to_owned() };
        let id = netns.id().map_err(|source| netns.system(source))?;
        for own in ["/proc/thread-self/ns/net", "/proc/1/ns/net"] {
            let own = fs::metadata(own).map(|own| (own.st_dev(), own.st_ino()));
            if own.is_ok_and(|own| own == id) {
                return Err(NetnsError::Own(netns.name));
            }
        }
        match netns.run(|| ()) {
            Err(NetnsError::System { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Err(NetnsError::NotOne(netns.name))
            }
            entered => entered.map(|()| netns),
        }
    }

    /// Returns the name it was opened by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure inside, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// [`NetnsError::System`] if the namespace cannot be entered.
    ///
    /// # Panics
    /// When the closure does.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        run_in(self.file.as_fd(), inside).map_err(|source| self.system(source))
    }

    /// Checks that nothing but `lo` leads anywhere from there.
    ///
    /// # Errors
    /// [`NetnsError::NotEmpty`] names the first other interface.
    pub fn check_empty(&self) -> Result<(), NetnsError> {
        let devices = self
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?
            .map_err(|source| self.system(source))?;
        match interfaces(&devices).find(|name| !MADE_BY_KERNEL.contains(name)) {
            None => Ok(()),
            Some(other) => {
                Err(NetnsError::NotEmpty { name: self.name.clone(), interface: other.to_owned() })
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn id(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.st_dev(), metadata.st_ino()))
    }

    fn system(&self, source: io::Error) -> NetnsError {
        NetnsError::System { name: self.name.clone(), source }
    }
}

/// Runs a closure in a network namespace, on a thread of its own, and waits for it.
pub(crate) fn run_in<T: Send>(
    netns: BorrowedFd<'_>,
    inside: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let result = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(inside())
        });
        thread.join()
    });
    match result {
        Ok(result) => Ok(result?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Reads the names out of `/proc/net/dev`: two lines of titles, then `  name: counters`.
fn interfaces(devices: &str) -> impl Iterator<Item = &str> {
    devices.lines().skip(2).filter_map(|line| line.rsplit_once(':')).map(|(name, _)| name.trim())
}

/// Why a namespace cannot hold the guest.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is none.
    #[error("there is no network namespace named {0}: make it with `ip netns add {0}`")]
    Missing(String),
    /// The name or path is something else.
    #[error("{0:?} is neither the name of a network namespace nor a path such as /proc/PID/ns/net")]
    NotOne(String),
    /// The guest would stand in the host's own network.
    #[error("network namespace {0} is this host's own: give the guest one of its own")]
    Own(String),
    /// The guest would have a way around the segment.
    #[error(
        "network namespace {name} has another interface, {interface}: the guest needs one with \
         nothing but lo in it"
    )]
    NotEmpty {
        /// Which namespace.
        name: String,
        /// What else is in it.
        interface: String,
    },
    /// The system refuses.
    #[error("network namespace {name} cannot be entered")]
    System {
        /// Which namespace.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_the_kernels_table() {
        let table = "Inter-|   Receive  | Transmit\n face |bytes packets|bytes\n\
                     \x20   lo:       0       0    0\n  eth0.1: 1 2 3\n";
        assert_eq!(interfaces(table).collect::<Vec<_>>(), ["lo", "eth0.1"]);
        assert_eq!(interfaces("").count(), 0);
    }

    #[test]
    fn the_callers_own_namespace_is_refused() {
        let own = Netns::open("/proc/thread-self/ns/net");
        assert!(matches!(own, Err(NetnsError::Own(_))), "{own:?}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let missing = Netns::open("no-such-namespace-here");
        assert!(matches!(missing, Err(NetnsError::Missing(_))), "{missing:?}");
        for bad in ["", "..", "a/b"] {
            assert!(matches!(Netns::open(bad), Err(NetnsError::NotOne(_))), "{bad:?}");
        }
    }
}
