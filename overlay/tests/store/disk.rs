//! Storage that stops when told to, and keeps what a disk might have kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// What of the unsynced writes survives the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All: the process was killed, the system lives.
    All,
    /// None: the power went.
    None,
    /// Some, chosen by a seed: the power went while the disk was writing.
    Some(u64),
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    changes: usize,
    stop_at: Option<usize>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// Holds these bytes.
    pub(crate) fn with(bytes: Vec<u8>) -> Self {
        let state = State { seen: bytes.clone(), synced: bytes, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Fails the change of this number and everything after it.
    pub(crate) fn stop_at(&self, change: usize) {
        self.state().stop_at = Some(change);
    }

    /// Returns how many writes, resizes and syncs were tried.
    pub(crate) fn changes(&self) -> usize {
        self.state().changes
    }

    /// Returns what is on the disk after the stop.
    pub(crate) fn bytes(&self, kept: Kept) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.synced.clone();
        let mut seed = match kept {
            Kept::All => return state.seen.clone(),
            Kept::None => return bytes,
            Kept::Some(seed) => seed,
        };
        for change in &state.unsynced {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // The length is the file system's own, kept in order by its journal.
            if seed >> 63 == 1 || matches!(change, Unsynced::SetLen(_)) {
                apply(&mut bytes, change);
            }
        }
        bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    fn change(&self, change: Option<Unsynced>) -> io::Result<()> {
        let mut state = self.state();
        let number = state.changes;
        state.changes += 1;
        if state.stop_at.is_some_and(|stop_at| number >= stop_at) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match change {
            Some(change) => {
                apply(&mut state.seen, &change);
                state.unsynced.push(change);
            }
            None => {
                state.synced = state.seen.clone();
                state.unsynced.clear();
            }
        }
        Ok(())
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a small disk")
}

fn apply(bytes: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Write(at, data) => {
            let (start, end) = (index(*at), index(*at) + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Unsynced::SetLen(len) => bytes.resize(index(*len), 0),
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = index(offset);
        let bytes = state.seen.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Some(Unsynced::SetLen(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Some(Unsynced::Write(offset, data.to_vec())))
    }
}
