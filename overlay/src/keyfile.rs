//! The node key on disk: an Ed25519 key as PKCS#8 PEM, made on first use, never silently again.
//!
//! A new key is written to a file beside it, flushed, and linked into place, so that a crash leaves
//! either no key or a whole one, and of two programs that start at once both use the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use overlay_proto::identity::{KeyFileError, NodeKey, PEM_LEN_MAX};
use zeroize::Zeroizing;

/// Reads the key, or makes one if there is no file of that name.
///
/// # Errors
/// [`KeyError`] names the file and the cure; a file that is there is never replaced.
pub fn load_or_create(path: &Path) -> Result<NodeKey, KeyError> {
    match load(path) {
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded,
    }
    create(path).map_err(|source| KeyError::Create { path: path.to_owned(), source })?;
    load(path)
}

fn load(path: &Path) -> Result<NodeKey, KeyError> {
    let read = |source| KeyError::Read { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => KeyError::NotAFile(path.to_owned()),
        _ => read(error),
    })?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(KeyError::NotAFile(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let mut pem = Zeroizing::new(String::new());
    let damaged = |source| KeyError::Damaged { path: path.to_owned(), source };
    let read_to_end = file.take(PEM_LEN_MAX as u64 + 1).read_to_string(&mut pem);
    read_to_end.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => damaged(KeyFileError::NotPem),
        _ => read(error),
    })?;
    NodeKey::from_pem(&pem).map_err(damaged)
}

fn create(path: &Path) -> io::Result<()> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(io::Error::other)?;
    let pem = NodeKey::from_seed(&seed).to_pem();
    let beside = path.with_extension(format!("new-{}", process::id()));
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    fs::remove_file(&beside)?;
    linked?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Why the node's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is gone, and what it made is still there.
    #[error(
        "node key {} is gone, though orders or leases of it are there: restore it from a backup, \
         or move them away",
        .0.display()
    )]
    Lost(PathBuf),
    /// A symbolic link, a folder or a device.
    #[error("node key {} is not a regular file: put the file itself there", .0.display())]
    NotAFile(PathBuf),
    /// Other users may have read it.
    #[error(
        "node key {0} is open to others (mode {mode:04o}): run `chmod 600 {0}`",
        path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No key in it.
    #[error("node key {} cannot be used", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is in it instead.
        #[source]
        source: KeyFileError,
    },
    /// It cannot be read.
    #[error("node key {} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be made.
    #[error("node key {} cannot be made", path.display())]
    Create {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder_with_key() -> (tempfile::TempDir, PathBuf, NodeKey) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.pem");
        let key = load_or_create(&path).expect("a new key");
        (folder, path, key)
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let (folder, path, key) = folder_with_key();
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path).expect("the same key").id(), key.id());
        assert_eq!(fs::read_dir(folder.path()).expect("a list").count(), 1, "nothing beside it");
    }

    #[test]
    fn a_truncated_key_is_refused_and_left_alone() {
        let (_folder, path, _) = folder_with_key();
        let whole = fs::read(&path).expect("a file");
        for len in [0, 1, whole.len() / 2, whole.len() - 10] {
            fs::write(&path, &whole[..len]).expect("written");
            let error = load_or_create(&path).expect_err("damaged");
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&path).expect("still there"), &whole[..len]);
        }
    }

    #[test]
    fn a_readable_key_is_refused_with_the_command_that_cures_it() {
        let (_folder, path, _) = folder_with_key();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = load_or_create(&path).expect_err("exposed");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_symbolic_link_is_refused_even_to_a_good_key() {
        let (folder, path, _) = folder_with_key();
        for target in [path, folder.path().join("nothing")] {
            let link = folder.path().join("link.pem");
            symlink(&target, &link).expect("a link");
            let error = load_or_create(&link).expect_err("a link");
            assert!(matches!(error, KeyError::NotAFile(_)), "{error}");
            fs::remove_file(link).expect("gone");
        }
    }
}
