//! A program and everything that it has started: who they are, what they use, where they live.
//!
//! # Limits
//! A process is found by its parent, so one whose parent has ended is no longer part of the tree:
//! whoever wants to know about those that are left behind remembers the tree from before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::lab::must;

/// A process, as long as it is the same: a number alone may become another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its number.
    pub pid: u32,
    /// When it began, in the kernel's ticks.
    pub started_at: u64,
    /// What it is called.
    pub name: String,
}

impl Member {
    /// Looks at a process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        read(pid).map(|(member, _)| member)
    }

    /// Tells whether it still runs; a dead one that waits to be collected does not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// Reads a process's line: itself, and its parent. A zombie is none.
fn read(pid: u32) -> Option<(Member, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once(" (")?.1.to_owned();
    let fields: Vec<_> = rest.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    let started_at = fields.get(19)?.parse().ok()?;
    Some((Member { pid, started_at, name }, fields.get(1)?.parse().ok()?))
}

/// Returns all processes that run, with their parents.
fn all() -> Vec<(Member, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Returns a process and all its descendants, parents first; nothing if it is gone.
#[must_use]
pub fn tree(root: u32) -> Vec<Member> {
    let mut children = BTreeMap::<u32, Vec<Member>>::new();
    for (member, parent) in all() {
        children.entry(parent).or_default().push(member);
    }
    let mut found: Vec<_> = Member::of(root).into_iter().collect();
    let mut next = 0;
    while let Some(member) = found.get(next) {
        let own = children.remove(&member.pid).unwrap_or_default();
        found.extend(own);
        next += 1;
    }
    found
}

/// A network namespace that processes hold, which has no name.
#[derive(Debug)]
pub struct Netns {
    file: File,
    /// Its number, as in `net:[4026532000]`.
    pub inode: u64,
}

impl Netns {
    /// Makes a handle of a descriptor.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let inode = file.metadata()?.st_ino();
        Ok(Self { file, inode })
    }

    /// Runs `work` on a thread in the namespace.
    ///
    /// # Errors
    /// When it cannot be entered, or as `work` says.
    ///
    /// # Panics
    /// When `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command line, split at spaces, and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed.
    pub fn must(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        self.within(|| must(Command::new(program).args(words)))
    }

    /// Returns its interfaces other than lo.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        self.within(|| {
            let all = nix::net::if_::if_nameindex()?;
            let names = all.iter().map(|one| one.name().to_string_lossy().into_owned());
            Ok(names.filter(|name| name != "lo").collect())
        })
    }
}

/// Returns the namespaces of processes, those that they only hold included, but none that has a
/// name, nor that of the machine itself.
///
/// # Errors
/// When one is there but cannot be opened.
pub fn namespaces(pids: &[u32]) -> Result<Vec<Netns>> {
    let mut known = named()?;
    let mut found = Vec::new();
    for pid in pids {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let mut paths = vec![proc.join("ns/net")];
        paths.extend(entries(&proc.join("task")).into_iter().map(|task| task.join("ns/net")));
        let is_netns = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("net:["))
        };
        paths.extend(entries(&proc.join("fd")).into_iter().filter(is_netns));
        for path in paths {
            // Threads and descriptors come and go while they are looked at.
            let Ok(file) = File::open(&path) else { continue };
            let inode = file.metadata()?.st_ino();
            if known.insert(inode) {
                found.push(Netns { file, inode });
            }
        }
    }
    Ok(found)
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The namespaces with a name, and the machine's own.
fn named() -> Result<BTreeSet<u64>> {
    let mut known = BTreeSet::new();
    for path in entries(Path::new("/run/netns")) {
        known.extend(fs::metadata(path).map(|meta| meta.st_ino()));
    }
    for own in ["/proc/1/ns/net", "/proc/self/ns/net"] {
        known.extend(fs::metadata(own).map(|meta| meta.st_ino()));
    }
    ensure!(!known.is_empty(), "/proc names no network namespace");
    Ok(known)
}

/// Returns a count from a file of the calling thread's namespace in /proc/sys.
///
/// # Errors
/// When it is not there, or no number.
pub fn sysctl(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")))?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;
    use crate::traffic::eventually;

    #[test]
    fn a_tree_is_a_program_and_what_it_started() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & sleep 61 & (sleep 62; true) & wait"])
            .stdin(Stdio::null())
            .spawn()
            .expect("a shell");
        let count = |name: &str| tree(shell.id()).iter().filter(|one| one.name == name).count();
        eventually("all have started", Duration::from_secs(10), || {
            Ok(count("sleep") == 3 && count("sh") == 2)
        })
        .expect("a shell with children");
        let members = tree(shell.id());
        assert_eq!(members[0].pid, shell.id(), "the root is first");
        assert!(members.iter().all(Member::is_running));
        assert!(tree(std::process::id()).iter().any(|one| one.pid == shell.id()));
        for member in members.iter().rev() {
            let pid = nix::unistd::Pid::from_raw(member.pid.cast_signed());
            // A shell whose children are gone ends by itself.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let dead = || Ok(!members.iter().any(Member::is_running));
        eventually("all are gone", Duration::from_secs(10), dead).expect("killed");
        shell.wait().expect("a shell");
        assert!(tree(shell.id()).is_empty());
    }
}
