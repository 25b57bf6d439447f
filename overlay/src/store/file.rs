//! A store's file: opened, or made under another name first.
//!
//! A crash between creation and publishing leaves a file `NAME.new-…`, which the next creation of
//! that name removes, unless its maker still has it open.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that its maker has not decided to keep; it is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Fresh {
    path: Option<PathBuf>,
}

impl Fresh {
    /// Makes an empty file beside `path`.
    pub(super) fn create(path: &Path) -> io::Result<(Self, File)> {
        remove_abandoned(path);
        let mut tag = [0; 8];
        getrandom::fill(&mut tag).map_err(io::Error::other)?;
        let beside = path.with_extension(format!("new-{:016x}", u64::from_be_bytes(tag)));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&beside)?;
        Ok((Self { path: Some(beside) }, file))
    }

    /// Lets a file go that was to stay.
    pub(super) fn of(path: PathBuf) -> Self {
        Self { path: Some(path) }
    }

    /// Gives it its own name; whatever has that name already stays.
    pub(super) fn publish(&mut self, path: &Path) -> io::Result<()> {
        let Some(beside) = self.path.as_deref().filter(|beside| *beside != path) else {
            return Ok(()); // published already
        };
        fs::hard_link(beside, path)?;
        // A second name that stays is removed by the next creation.
        let _ = fs::remove_file(beside);
        self.path = Some(path.to_owned());
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Lets it stay.
    pub(super) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Nothing was acted on yet; a file that stays says nothing wrong.
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens a file that is there; a symbolic link is none.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Removes what creations of this name that were killed have left.
fn remove_abandoned(path: &Path) {
    let Some((folder, stem)) = path.parent().zip(path.file_stem()) else { return };
    let start = format!("{}.new-", stem.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_one = entry.file_name().to_string_lossy().starts_with(&start);
        // Whoever makes one has it locked.
        if is_one && open(&entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
