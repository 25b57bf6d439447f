//! The latch: what the guard's table never saw does not leave the host.
//!
//! # Theory of operation
//! `nft flush ruleset`, which many firewalls run when they are reloaded, takes the guard's table
//! away. A table with the flag `owner` (Linux 5.12) stays, since it belongs to the netlink socket
//! that made it; it also goes with that socket, and only its owner may change it, so it cannot be
//! the guard's own, which several leases share. But it can hold one thing: after the guard's table
//! it drops what still has the mark that the guard would have exchanged. The owner is an `nft` of
//! ours in interactive mode, which ends when its input does.
//!
//! # Limits
//! A latch goes with its helper; the guard's table then still stands. One that somebody kills is
//! noticed by the next check.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{GUARD_MARK, PASSED};
use crate::host::nft::{self, NftError};

/// Right after the guard's table.
const PRIORITY: i32 = -149;
/// How often and how many times it is looked whether the table is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const LOOKS_MAX: u32 = 500;

/// A table that only its owner can remove, and the owner.
#[derive(Debug)]
pub(super) struct Latch {
    owner: Child,
    input: Option<ChildStdin>,
}

impl Latch {
    /// Closes it for all marked sockets and those of one user; returns when it is closed.
    pub(super) fn close(port: u16, uid: u32) -> Result<Self, NftError> {
        let table = format!("ovl_latch_{port}");
        // Editors of its input line would keep a history at home.
        let mut owner = Command::new("nft")
            .arg("-i")
            .env("HOME", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut latch = Self { input: owner.stdin.take(), owner };
        let script = format!(
            "add table inet {table} {{ flags owner; }}\n\
             add chain inet {table} output \
             {{ type filter hook output priority {PRIORITY}; policy accept; }}\n\
             add rule inet {table} output meta mark {GUARD_MARK:#010x} counter drop\n\
             add rule inet {table} output meta skuid {uid} meta mark != {PASSED:#010x} \
             counter drop\n"
        );
        if let Some(input) = &mut latch.input {
            input.write_all(script.as_bytes())?;
            input.flush()?;
        }
        for _ in 0..LOOKS_MAX {
            let listing = nft::read(&["-s", "list", "table", "inet", &table]);
            if listing.is_ok_and(|text| text.contains("owner") && text.matches("drop").count() == 2)
            {
                return Ok(latch);
            }
            if !latch.is_closed()? {
                break;
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Err(NftError::Refused("it keeps no table of its own in interactive mode".into()))
    }

    /// Says whether its owner still runs.
    pub(super) fn is_closed(&mut self) -> io::Result<bool> {
        self.owner.try_wait().map(|ended| ended.is_none())
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        // The end of its input ends it; killed as well, it cannot hold us up.
        drop(self.input.take());
        if let Err(error) = self.owner.kill().and_then(|()| self.owner.wait()) {
            tracing::warn!(%error, "the latch was not opened");
        }
    }
}
