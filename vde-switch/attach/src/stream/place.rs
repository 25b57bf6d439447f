//! Where a stream's peer is met: the path, who may be there, and who calls whom.
//!
//! # Theory of operation
//! A lock file beside the path (`PATH.lock`) keeps a second program of this kind away; it is
//! locked, not only there, so that one left by a kill hinders nobody. The socket file of our own is
//! told from others by its inode.
//!
//! # Limits
//! Whoever may write to the folder may put a socket of his own at the path: folders that all may
//! write to are refused, those of the owner's group are his decision.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Longest path of a socket, in bytes: the kernel's `sun_path` without the final zero.
const PATH_LEN_MAX: usize = 107;

/// Peers that wait until the first has left.
const BACKLOG: i32 = 4;

/// Permission to write for everybody.
const WRITE_FOR_ALL: u32 = 0o002;

/// A path that is ours to meet a peer at.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    lock: File,
    lock_path: PathBuf,
    /// Our listener and the inode of its file.
    listening: Option<(UnixListener, (u64, u64))>,
    /// A peer that was there from the start.
    first: Option<UnixStream>,
}

impl Place {
    /// Takes the path, and listens there unless somebody else does.
    pub(super) fn take(path: &Path) -> Result<Self, StreamError> {
        let shown = || path.display().to_string();
        let system = |source| StreamError::System { path: path.display().to_string(), source };
        if path.as_os_str().len() > PATH_LEN_MAX || path.file_name().is_none() {
            return Err(StreamError::NoPath(shown().chars().take(200).collect()));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let about = fs::metadata(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StreamError::NoFolder(folder.display().to_string()),
            _ => system(error),
        })?;
        if about.st_mode() & WRITE_FOR_ALL != 0 {
            return Err(StreamError::OpenFolder(folder.display().to_string()));
        }
        match fs::symlink_metadata(path) {
            Ok(about) if !about.file_type().is_socket() => {
                return Err(StreamError::NoSocket(shown()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
            _ => {}
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path).map_err(system)?.ok_or_else(|| StreamError::InUse(shown()))?;
        let mut place =
            Self { path: path.to_owned(), lock, lock_path, listening: None, first: None };
        match call(path) {
            Ok(peer) => place.first = Some(peer),
            // Busy with somebody else: it will be called again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if is_absent(&error) => place.listen().map_err(system)?,
            Err(error) => return Err(system(error)),
        }
        Ok(place)
    }

    /// Returns what is to be polled for a peer that calls.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listening.as_ref().map(|(listener, _)| listener.as_fd())
    }

    /// Meets a peer if there is one: accepts it, or calls it.
    pub(super) fn look(&mut self) -> Option<UnixStream> {
        if let Some(peer) = self.first.take() {
            return Some(peer);
        }
        if let Some((listener, id)) = &self.listening {
            if let Ok((peer, _)) = listener.accept() {
                return Some(peer);
            }
            if self.id().is_some_and(|now| now == *id) {
                return None;
            }
            self.listening = None; // deleted, or another's in its place
        }
        match call(&self.path) {
            Ok(peer) => Some(peer),
            Err(error) if is_absent(&error) => {
                // The folder may be gone for a while; the next look tries again.
                let _ = self.listen();
                None
            }
            Err(_) => None,
        }
    }

    /// Listens at the path, in place of a socket file that nobody listens at.
    fn listen(&mut self) -> io::Result<()> {
        if fs::symlink_metadata(&self.path).is_ok_and(|about| about.file_type().is_socket()) {
            fs::remove_file(&self.path)?;
        }
        let listener = unix_socket()?;
        // Before the file is there, so that nobody else can be quicker.
        fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        let listener = UnixListener::from(listener);
        let id = self.id().ok_or(io::ErrorKind::NotFound)?;
        self.listening = Some((listener, id));
        Ok(())
    }

    fn id(&self) -> Option<(u64, u64)> {
        let about = fs::symlink_metadata(&self.path).ok()?;
        Some((about.st_dev(), about.st_ino()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((_, id)) = &self.listening
            && self.id().is_some_and(|now| now == *id)
        {
            let _ = fs::remove_file(&self.path); // the next start replaces it
        }
        // Removed while it is locked: nobody else can have it open as theirs.
        let _ = fs::remove_file(&self.lock_path);
        let _ = self.lock.unlock();
    }
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// Calls whoever listens at the path; one whose backlog is full is not waited for.
fn call(path: &Path) -> io::Result<UnixStream> {
    let socket = unix_socket()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Opens and locks a file; `None` if another process holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held it before may have removed it between our two steps.
        let id = |about: fs::Metadata| (about.st_dev(), about.st_ino());
        let is_it = fs::metadata(path)
            .map(id)
            .is_ok_and(|now| file.metadata().map(id).is_ok_and(|ours| ours == now));
        if is_it {
            return Ok(Some(file));
        }
    }
}

/// Why a path is no place for a peer.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It is no path of a file, or too long for a socket.
    #[error("{0:?} is no path of a socket: a file's, of at most {PATH_LEN_MAX} bytes")]
    NoPath(String),
    /// Its folder is missing.
    #[error("the folder {0} is missing: make it first")]
    NoFolder(String),
    /// Anybody could take the guest's place.
    #[error("anybody may write to {0}: put the socket into a folder of your own")]
    OpenFolder(String),
    /// Something else is there.
    #[error("{0} is there and is no socket: choose another path")]
    NoSocket(String),
    /// Another process serves it.
    #[error("{0} is in use by another overlay-seller")]
    InUse(String),
    /// The system refuses.
    #[error("the socket {path} cannot be used")]
    System {
        /// Which.
        path: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}
