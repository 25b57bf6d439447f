//! Who still needs the table: locks on two files for each network namespace.
//!
//! # Theory of operation
//! Each guard holds a share of the *life* file; whoever can have it for himself alone is the last
//! and takes the table away. The *turn* file is held by one at a time, while the table is made,
//! changed in its rules, or taken away. The kernel drops both when their holder dies.
//!
//! The files are named after the namespace's inode. Those that a killed helper left are removed by
//! the next one of any namespace, unless somebody holds them: whoever has just opened one, and
//! finds it removed when it is locked, opens it again.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Where the files are.
const DIR: &str = "/run/overlay";
/// The calling thread's network namespace.
const NETNS: &str = "/proc/thread-self/ns/net";
/// How often it is asked whether a share is the only one, and the pause between.
const LAST_TRIES_MAX: u32 = 3;
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// The paths of one namespace's locks.
#[derive(Debug)]
pub(super) struct Locks {
    life: PathBuf,
    turn: PathBuf,
}

impl Locks {
    /// Finds the locks of the calling thread's network namespace.
    pub(super) fn of_this_namespace() -> io::Result<Self> {
        let netns = fs::metadata(NETNS)?.ino();
        prepare(Path::new(DIR))?;
        sweep(Path::new(DIR));
        let path = |kind| Path::new(DIR).join(format!("guard-{netns}.{kind}"));
        Ok(Self { life: path("life"), turn: path("turn") })
    }

    /// Takes a share of the life lock.
    pub(super) fn share(&self) -> io::Result<File> {
        locked(&self.life, File::lock_shared)
    }

    /// Waits for the turn.
    pub(super) fn turn(&self) -> io::Result<File> {
        locked(&self.turn, File::lock)
    }

    /// Says whether `life` is the only share, and makes it so. Only with the turn in hand.
    ///
    /// Asked [`LAST_TRIES_MAX`] times: a program that is being started has for a moment whatever
    /// its parent has open.
    pub(super) fn is_last(life: &File) -> io::Result<bool> {
        for _ in 0..LAST_TRIES_MAX {
            match life.try_lock() {
                Ok(()) => return Ok(true),
                // The kernel lets go of the share before it tries, and may not give it back.
                Err(TryLockError::WouldBlock) => life.lock_shared()?,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            thread::sleep(LAST_PAUSE);
        }
        Ok(false)
    }

    /// Removes the files, for the last one, who holds both.
    pub(super) fn remove(&self) {
        for path in [&self.life, &self.turn].into_iter().filter(|path| path.exists()) {
            if let Err(error) = fs::remove_file(path) {
                tracing::debug!(%error, path = %path.display(), "a lock file was not removed");
            }
        }
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is not a directory of root's alone", dir.display())))
}

/// Removes the files that nobody holds.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for life in entries.flatten().map(|entry| entry.path()) {
        let is_life = life.extension().is_some_and(|extension| extension == "life");
        let turn = life.with_extension("turn");
        let free = |path: &Path| File::open(path).ok().filter(|file| file.try_lock().is_ok());
        let held_turn = free(&turn);
        if is_life
            && (held_turn.is_some() || !turn.exists())
            && let Some(_life) = free(&life)
        {
            Locks { life, turn }.remove();
        }
    }
}

/// Opens and locks a file; once more if the last holder removed it meanwhile.
fn locked(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> io::Result<File> {
    loop {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        lock(&file)?;
        if fs::metadata(path)
            .is_ok_and(|now| file.metadata().is_ok_and(|had| now.ino() == had.ino()))
        {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(dir: &Path) -> Locks {
        Locks { life: dir.join("life"), turn: dir.join("turn") }
    }

    #[test]
    fn only_the_last_of_several_is_told_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let locks = locks(dir.path());
        let (first, second) = (locks.share().expect("a share"), locks.share().expect("another"));
        let _turn = locks.turn().expect("the turn");
        assert!(!Locks::is_last(&first).expect("asked"));
        assert!(!Locks::is_last(&second).expect("asked"), "the first lost its share by asking");
        drop(second);
        assert!(Locks::is_last(&first).expect("asked"));
    }

    #[test]
    fn a_removed_file_locks_nobody_out_and_nobody_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let locks = locks(dir.path());
        let old = locks.share().expect("a share");
        locks.remove();
        let new = locks.share().expect("a share of the new file");
        assert_ne!(old.metadata().expect("old").ino(), new.metadata().expect("new").ino());
        assert!(Locks::is_last(&new).expect("asked"));
    }

    #[test]
    fn what_nobody_holds_is_swept_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let named = |name: &str| Locks {
            life: dir.path().join(format!("guard-{name}.life")),
            turn: dir.path().join(format!("guard-{name}.turn")),
        };
        let (left, shared, turned) = (named("1"), named("2"), named("3"));
        for locks in [&left, &shared, &turned] {
            drop((locks.share().expect("a share"), locks.turn().expect("the turn")));
        }
        let _held = (shared.share().expect("a share"), turned.turn().expect("the turn"));
        sweep(dir.path());
        let is_there = |locks: &Locks| locks.life.exists() && locks.turn.exists();
        assert!(!left.life.exists() && !left.turn.exists());
        drop(left.share().expect("a share"));
        sweep(dir.path());
        assert!(!left.life.exists(), "the one without the other");
        assert!(is_there(&shared) && is_there(&turned));
    }

    #[test]
    fn a_directory_that_others_may_write_holds_no_locks() {
        let dir = tempfile::tempdir().expect("a directory");
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        prepare(&good).expect("made");
        prepare(&good).expect("found");
        DirBuilder::new().mode(0o777).create(&bad).expect("made");
        let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&bad, open).expect("opened");
        assert!(prepare(&bad).is_err() && prepare(Path::new("/proc/version")).is_err());
    }
}
