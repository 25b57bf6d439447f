//! The directory where a machine writes what is thrown away, gone when it ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Most others that are looked at when cleaning up.
const OTHERS_MAX: usize = 1024;

/// A directory that is this process's alone.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Locked as long as it is used.
    dir: File,
}

impl Scratch {
    /// Makes it for a user, and removes those beside it that killed programs have left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn open(path: &Path, user: u32) -> anyhow::Result<Self> {
        let context = || format!("{} cannot be made", path.display());
        let parent = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(context)?;
        let others = fs::read_dir(parent).with_context(context)?.take(OTHERS_MAX);
        for other in others.filter_map(Result::ok).map(|entry| entry.path()) {
            if lock(&other).is_ok() {
                // It is nobody's; if it cannot be removed, it is in nobody's way.
                let _ = fs::remove_dir_all(&other);
            }
        }
        DirBuilder::new().mode(0o700).create(path).with_context(context)?;
        let dir = lock(path).with_context(context)?;
        // Somebody who cleans up may have been faster than the lock.
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        if fs::metadata(path).map(id).ok() != Some(id(dir.metadata()?)) {
            anyhow::bail!("{} was removed by another program: try again", path.display());
        }
        fchown(&dir, Some(user), Some(user)).with_context(context)?;
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Returns its descriptor.
    pub(crate) fn fd(&self) -> RawFd {
        self.dir.as_raw_fd()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, "{} was not removed", self.path.display());
        }
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    dir.try_lock()?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_programs_left_is_removed_and_what_is_used_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = nix::unistd::getuid().as_raw();
        let [left, used, new] = ["left", "used", "new"].map(|name| dir.path().join(name));
        fs::create_dir_all(left.join("deep")).expect("made");
        fs::write(left.join("vl.x"), "x").expect("written");
        let one = Scratch::open(&used, own).expect("made");
        assert!(!left.exists(), "a dead program's directory stays");
        let two = Scratch::open(&new, own).expect("made");
        assert!(used.exists() && new.exists());
        assert!(Scratch::open(&used, own).is_err(), "two use one directory");
        drop((one, two));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
