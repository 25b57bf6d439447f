//! The process that cleans up a lab when its owner is gone, however it went.
//!
//! # Theory of operation
//! A shell in a session of its own reads from a pipe that only the owner holds. The word `done` or
//! the pipe's end makes it kill what runs in the lab's namespaces or carries its mark in the
//! environment, delete the namespaces and remove the lab's directory. At the pipe's end it looks
//! twice, since a command that the owner had just started may still add something.
//!
//! The gate keeps [`reap_all`] and the making of things apart: once it is closed nothing is started
//! any more, and whoever tries waits for the process to exit.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};

const SCRIPT: &str = r#"
trap '' HUP INT TERM PIPE
word=; read -r word
looks=2; [ "$word" = done ] && looks=1
while [ $looks -gt 0 ]; do
  for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    busy=
    for path in /run/netns/"$1"*; do
      [ -e "$path" ] || continue
      pids=$(ip netns pids "${path##*/}" 2>/dev/null)
      [ -n "$pids" ] && busy=1 && kill -9 $pids
    done
    for path in $(grep -lsF "OVERLAY_LAB=$1" /proc/[0-9]*/environ); do
      pid=${path#/proc/}; kill -9 "${pid%/environ}" && busy=1
    done
    [ -z "$busy" ] && break
    sleep 0.05
  done
  for path in /run/netns/"$1"*; do
    [ -e "$path" ] && ip netns del "${path##*/}"
  done
  rm -rf -- "$2"
  looks=$((looks - 1)); [ $looks -gt 0 ] && sleep 0.2
done
exit 0
"#;

/// Environment variable of all programs of a lab; its value is the lab's prefix.
pub(super) const MARK: &str = "OVERLAY_LAB";

/// Reapers of the labs of this process, by prefix.
static REAPERS: Mutex<BTreeMap<String, Child>> = Mutex::new(BTreeMap::new());

static GATE: RwLock<()> = RwLock::new(());

/// Handle of one lab's reaper.
#[derive(Debug)]
pub(super) struct Reaper {
    prefix: String,
}

impl Reaper {
    /// Starts it, before the lab's first namespace is made.
    pub(super) fn start(prefix: &str, dir: &Path) -> Result<Self> {
        let _open = gate();
        let child = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "overlay-reaper", prefix])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the lab's reaper (setsid, sh)")?;
        lock().insert(prefix.to_owned(), child);
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// Cleans up now and returns when nothing is left.
    pub(super) fn reap(&self) {
        let child = lock().remove(&self.prefix);
        if let Some(child) = child {
            finish(child);
        }
    }
}

/// Cleans up all labs of this process; nothing can be started in any of them afterwards. For the
/// moment before an early exit.
pub fn reap_all() {
    std::mem::forget(GATE.write());
    let children = std::mem::take(&mut *lock());
    for child in children.into_values() {
        finish(child);
    }
}

/// Holds off [`reap_all`] while something is being made.
pub(super) fn gate() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

fn finish(mut child: Child) {
    if let Some(mut stdin) = child.stdin.take() {
        // A failure means that the reaper was killed: then nobody is left to hear of it.
        let _ = stdin.write_all(b"done\n");
    }
    let _ = child.wait();
}

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<String, Child>> {
    REAPERS.lock().unwrap_or_else(PoisonError::into_inner)
}
