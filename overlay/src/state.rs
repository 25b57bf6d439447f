//! The state directory: where a node keeps its key, its orders and leases, and its local sockets.
//!
//! ```text
//! node.pem            the node's Ed25519 key, mode 0600
//! orders/NAME.redb    one order of a buyer's
//! leases/ID.redb      one lease of a seller's
//! run/*.sock          local control sockets of running programs
//! ```
//!
//! The directory itself may be passed through, never listed, by the user who ran sudo, so that he
//! reaches `run`, which is his.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown,
};
use std::path::{Path, PathBuf};
use std::{env, process};

use overlay_proto::identity::NodeKey;

use crate::keyfile::{self, KeyError};

/// Default for root.
const STATE_OF_ROOT: &str = "/var/lib/overlay";
/// Default below a user's home.
const STATE_OF_USER: &str = ".local/state/overlay";
/// Most files that [`StateDir::names`] looks at.
const NAMES_MAX: usize = 4096;

/// What kinds of records there are, one subfolder each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A buyer's orders.
    Order,
    /// A seller's leases.
    Lease,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Order => "orders",
            Self::Lease => "leases",
        }
    }

    fn socket_prefix(self) -> &'static str {
        match self {
            Self::Order => "gw",
            Self::Lease => "seller",
        }
    }
}

/// A state directory that exists and may be written.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, made if new: the given one, or the default of this user.
    ///
    /// # Errors
    /// [`StateError`] names the directory and what to change.
    pub fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        let state = Self { path };
        state
            .prepare()
            .map_err(|source| StateError::Unwritable { path: state.path.clone(), source })?;
        let mode = fs::metadata(&state.path).map_or(0, |metadata| metadata.mode());
        if mode & 0o022 != 0 {
            return Err(StateError::Shared { path: state.path, mode: mode & 0o7777 });
        }
        Ok(state)
    }

    /// Finds the directory that a command for a running program is about, making nothing.
    ///
    /// A user without one of his own looks into root's, whose sockets may be his.
    ///
    /// # Errors
    /// [`StateError::NoHome`].
    pub fn find(given: Option<&Path>) -> Result<Self, StateError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        let roots = Path::new(STATE_OF_ROOT);
        if given.is_none() && !path.exists() && roots.join("run").exists() {
            return Ok(Self { path: roots.to_owned() });
        }
        Ok(Self { path })
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the node's key is.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.path.join("node.pem")
    }

    /// Reads the node's key, made on first use.
    ///
    /// # Errors
    /// [`KeyError`]; also when there is none beside orders or leases, which were another key's.
    pub fn node_key(&self) -> Result<NodeKey, KeyError> {
        let path = self.key_path();
        let stored = [Kind::Order, Kind::Lease].map(|kind| self.path.join(kind.folder()));
        let has_any = |folder: &PathBuf| {
            file_names(folder)
                .iter()
                .any(|name| Path::new(name).extension() == Some("redb".as_ref()))
        };
        let is_absent =
            fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_absent && stored.iter().any(has_any) {
            return Err(KeyError::Lost(path));
        }
        keyfile::load_or_create(&path)
    }

    /// Returns where the records of one order or lease are.
    #[must_use]
    pub fn store_path(&self, kind: Kind, name: &str) -> PathBuf {
        self.path.join(kind.folder()).join(format!("{name}.redb"))
    }

    /// Returns where the program that runs it listens.
    #[must_use]
    pub fn socket_path(&self, kind: Kind, name: &str) -> PathBuf {
        self.path.join("run").join(format!("{}-{name}.sock", kind.socket_prefix()))
    }

    /// Lists the names of all orders or leases, sorted, stored ones and running ones.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let stored = file_names(&self.path.join(kind.folder()));
        let stored = stored.iter().filter_map(|name| name.strip_suffix(".redb"));
        let prefix = format!("{}-", kind.socket_prefix());
        let running = file_names(&self.path.join("run"));
        let running = running.iter().filter_map(|name| {
            name.strip_suffix(".sock").and_then(|name| name.strip_prefix(&prefix))
        });
        let mut names: Vec<_> = stored.chain(running).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        for folder in ["orders", "leases", "run"] {
            let path = self.path.join(folder);
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        }
        if let Some((uid, gid)) = sudo_user() {
            chown(self.path.join("run"), Some(uid), Some(gid))?;
            fs::set_permissions(&self.path, Permissions::from_mode(0o711))?;
        }
        // A read-only file system lets the folders above be, since they are there already.
        let probe = self.path.join(format!(".probe-{}", process::id()));
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe)?;
        fs::remove_file(probe)
    }
}

/// Gives a file that root made for the user who ran sudo to that user; for others does nothing.
///
/// By descriptor: in a folder of that user's, a name may mean another file by now.
///
/// # Errors
/// The system's.
pub fn give_to_sudo_user(file: &File) -> io::Result<()> {
    sudo_user().map_or(Ok(()), |(uid, gid)| fchown(file, Some(uid), Some(gid)))
}

/// As [`give_to_sudo_user`], for a local socket, which has no descriptor of its file; a symbolic
/// link in its place is not followed.
pub(crate) fn give_socket_to_sudo_user(path: &Path) -> io::Result<()> {
    sudo_user().map_or(Ok(()), |(uid, gid)| lchown(path, Some(uid), Some(gid)))
}

/// Returns who ran sudo, if this is root by sudo.
#[must_use]
pub fn sudo_user() -> Option<(u32, u32)> {
    let id = |name| env::var(name).ok()?.parse().ok();
    nix::unistd::geteuid().is_root().then_some((id("SUDO_UID")?, id("SUDO_GID")?))
}

fn default_path() -> Result<PathBuf, StateError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from(STATE_OF_ROOT));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(StateError::NoHome)?;
    Ok(PathBuf::from(home).join(STATE_OF_USER))
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(NAMES_MAX).flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or written.
    #[error(
        "state directory {} cannot be written (choose another with --state)",
        path.display()
    )]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Others may write in it.
    #[error(
        "state directory {0} may be written by others (mode {mode:04o}): run `chmod 700 {0}`",
        path.display()
    )]
    Shared {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No HOME to put it in.
    #[error("no HOME is set: choose a state directory with --state")]
    NoHome,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(Some(&folder.path().join("a/b"))).expect("it is made");
        assert_eq!(mode(&state.path().join("orders")), 0o700);
        assert_eq!(mode(&state.path().join("run")), 0o700);
        assert!(state.names(Kind::Order).is_empty());
        assert!(!fs::read_dir(state.path()).expect("a list").any(|entry| {
            entry.expect("an entry").file_name().to_string_lossy().starts_with(".probe")
        }));
    }

    #[test]
    fn a_lost_key_is_not_made_anew_beside_orders() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(Some(&folder.path().join("s"))).expect("it is made");
        let key = state.node_key().expect("a new key");
        fs::write(state.store_path(Kind::Lease, "x"), "").expect("a file");
        assert_eq!(state.node_key().expect("the same").id(), key.id());
        fs::remove_file(state.key_path()).expect("gone");
        assert!(matches!(state.node_key(), Err(KeyError::Lost(_))));
        fs::remove_file(state.store_path(Kind::Lease, "x")).expect("gone");
        assert_ne!(state.node_key().expect("nothing hangs on it").id(), key.id());
    }

    #[test]
    fn stored_and_running_orders_are_listed_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(Some(&folder.path().join("s"))).expect("it is made");
        for path in [
            state.store_path(Kind::Order, "farm"),
            state.socket_path(Kind::Order, "farm"),
            state.socket_path(Kind::Order, "lab"),
            state.socket_path(Kind::Lease, "x"),
        ] {
            fs::write(path, "").expect("a file");
        }
        assert_eq!(state.names(Kind::Order), ["farm", "lab"]);
        assert_eq!(state.names(Kind::Lease), ["x"]);
    }

    #[test]
    fn a_path_through_a_file_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        let error = StateDir::open(Some(&file.join("state"))).expect_err("no folder");
        assert!(error.to_string().contains("--state"), "{error}");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("chmod");
        let error = StateDir::open(Some(folder.path())).expect_err("shared");
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }
}
