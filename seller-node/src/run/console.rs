//! What a machine says: its serial console, and QEMU's own words.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use overlay::exit::{Exit, Fault};
use overlay::state::give_to_sudo_user;

/// Most bytes of the console that are kept in its file.
const FILE_LEN_MAX: u64 = 16 << 20;
/// Lines of QEMU's that are repeated when it has failed.
const TAIL_LINES: usize = 4;
/// Longest of its lines that is kept, in bytes.
const TAIL_LINE_LEN_MAX: u64 = 240;
/// Most of its lines that are passed on to stderr.
const PASSED_LINES_MAX: usize = 200;

/// Where the serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// On stdin and stdout.
    Terminal,
    /// In a file, the guest reading stdin unless that is a terminal.
    File(PathBuf),
}

impl Console {
    /// Returns the file that it is written to, open; `None` for the terminal.
    ///
    /// # Errors
    /// When it is no file, or cannot be made.
    pub(super) fn file(&self) -> anyhow::Result<Option<File>> {
        let Self::File(path) = self else {
            return Ok(None);
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .with_context(|| format!("the console file {} cannot be made", path.display()))?;
        if !file.metadata()?.is_file() {
            let text = format!("the console file {} is no regular file", path.display());
            return Err(Fault::new(Exit::Usage, text).into());
        }
        file.set_len(0)?;
        give_to_sudo_user(&file)?;
        Ok(Some(file))
    }

    /// Returns the file's path.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Terminal => None,
            Self::File(path) => Some(path),
        }
    }

    /// Returns what QEMU reads the guest's keyboard from.
    pub(super) fn stdin(&self) -> Stdio {
        let is_terminal = io::stdin().is_terminal();
        if *self != Self::Terminal && is_terminal {
            return Stdio::null();
        }
        // QEMU makes its end non-blocking, which must not be ours.
        let own =
            OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open("/proc/self/fd/0");
        own.map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

/// Copies the console to where it belongs, until its end.
pub(crate) fn copy(mut from: impl Read, file: Option<File>) -> io::Result<()> {
    match file {
        None => copy_to_stdout(&mut from),
        Some(file) => copy_bounded(&mut from, file, FILE_LEN_MAX),
    }
}

fn copy_to_stdout(from: &mut impl Read) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let len = from.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes[..len])?;
        stdout.flush()?;
    }
}

/// Copies to a file that never gets larger than `max`: what is full begins anew.
fn copy_bounded(from: &mut impl Read, mut file: File, max: u64) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let mut written = 0;
    loop {
        let len = from.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        if written + len as u64 > max {
            file.set_len(0)?;
            file.rewind()?;
            written = 0;
        }
        file.write_all(&bytes[..len])?;
        written += len as u64;
    }
}

/// Passes QEMU's words on to stderr and returns the last of them.
pub(crate) fn heed(from: impl Read) -> String {
    let mut tail = VecDeque::new();
    let mut lines = BufReader::new(from);
    let mut passed = 0;
    loop {
        let mut line = Vec::new();
        let read = lines.by_ref().take(TAIL_LINE_LEN_MAX).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return tail.into_iter().collect::<Vec<_>>().join("; ");
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().flat_map(printable).collect();
        if text.is_empty() {
            continue;
        }
        passed += 1;
        if passed <= PASSED_LINES_MAX {
            // With stderr closed nobody is left to be told.
            let _ = writeln!(io::stderr(), "{text}");
        }
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// A guest can make QEMU say things; they are not to move a terminal's cursor.
fn printable(c: char) -> impl Iterator<Item = char> {
    if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consoles_file_is_private_and_never_larger_than_it_may() {
        let dir = tempfile::tempdir().expect("a directory");
        let console = Console::File(dir.path().join("console"));
        let file = console.file().expect("made").expect("a file");
        let mode = file.metadata().map(|meta| std::os::unix::fs::MetadataExt::mode(&meta));
        assert_eq!(mode.expect("read") & 0o777, 0o600);
        let said = vec![b'x'; 50_000];
        copy_bounded(&mut &said[..], file.try_clone().expect("cloned"), 10_000).expect("copied");
        assert!((1..=10_000).contains(&file.metadata().expect("read").len()));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).expect("linked");
        assert!(Console::File(link).file().is_err(), "a link is followed");
        assert!(Console::File(dir.path().into()).file().is_err(), "a directory is taken");
    }

    #[test]
    fn qemus_last_words_are_kept_short_and_harmless() {
        let said = (0..10).map(|i| format!("line {i}\x1b[2J\n")).collect::<String>();
        let last = heed(said.as_bytes());
        assert!(last.starts_with("line 6\\u{1b}[2J; line 7"), "{last}");
        assert!(heed(&vec![b'a'; 100_000][..]).len() <= 4 * 240 + 6);
    }
}
