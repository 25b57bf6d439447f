//! The records of one order or lease: a transactional file that survives a crash at any moment.
//!
//! # Theory of operation
//! Records are bytes under a key in a named table; what they mean is their writer's. All changes
//! that belong together go into one [`Store::write`], which returns when they are on disk: only
//! then may they be acted on. One process has a store open at a time; that lock also tells whether
//! an order is running.
//!
//! # Limits
//! [`RECORD_LEN_MAX`] bytes a record, [`CACHE_LEN`] of memory. A file damaged from outside is
//! refused, not repaired.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};

/// Largest record, in bytes.
pub const RECORD_LEN_MAX: usize = 1024 * 1024;
/// Memory for pages, in bytes; stores are small and seldom read.
pub const CACHE_LEN: usize = 1024 * 1024;

/// A table's name; equal ones are the same table.
pub type Table = &'static str;

/// A record's key and value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// One record as it is to be: `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which table.
    pub table: Table,
    /// Under which key.
    pub key: Vec<u8>,
    /// The new value.
    pub value: Option<Vec<u8>>,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens a store, made if new, for this process alone.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process has it open, [`StoreError::Damaged`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, true)
    }

    /// As [`Store::open`], for a store that must be there.
    ///
    /// # Errors
    /// As [`Store::open`], and [`StoreError::Absent`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, false)
    }

    fn open_with(path: &Path, create: bool) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !create => StoreError::Absent(path.to_owned()),
            _ => StoreError::Io { path: path.to_owned(), source: error },
        })?;
        // The library says that it may panic over a file damaged from outside.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| {
            let backend = FileBackend::new(file)?;
            redb::Builder::new().set_cache_size(CACHE_LEN).create_with_backend(backend)
        }));
        match opened {
            Ok(Ok(db)) => Ok(Self { db, path: path.to_owned() }),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::Busy(path.to_owned())),
            Ok(Err(DatabaseError::Storage(StorageError::Io(source))))
                if source.kind() != io::ErrorKind::InvalidData =>
            {
                Err(StoreError::Io { path: path.to_owned(), source })
            }
            Ok(Err(_)) | Err(_) => Err(StoreError::Damaged(path.to_owned())),
        }
    }

    /// Reads one record.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.db.begin_read()?;
            let table = match transaction.open_table(definition(table)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|error| self.failed(error))
    }

    /// Reads a whole table, in the order of its keys.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn list(&self, table: Table) -> Result<Vec<Entry>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.db.begin_read()?;
            let table = match transaction.open_table(definition(table)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut records = Vec::new();
            for record in table.iter()? {
                let (key, value) = record?;
                records.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(records)
        };
        read().map_err(|error| self.failed(error))
    }

    /// Makes all changes or none, and returns when they are on disk.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Failed`].
    pub fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let len = |change: &Change| change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        if let Some(len) = changes.iter().map(len).find(|len| *len > RECORD_LEN_MAX) {
            return Err(StoreError::TooLarge(len));
        }
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            for Change { table, key, value } in changes {
                let mut table = transaction.open_table(definition(table))?;
                match value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        StoreError::Failed { path: self.path.clone(), source: Box::new(error) }
    }
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table)
}

/// Why records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none of that name.
    #[error("{} is not there", .0.display())]
    Absent(PathBuf),
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// Not a store, or no longer one.
    #[error("{} is damaged: restore it from a backup or move it away", .0.display())]
    Damaged(PathBuf),
    /// A record beyond [`RECORD_LEN_MAX`].
    #[error("a record of {0} bytes is longer than {RECORD_LEN_MAX}")]
    TooLarge(usize),
    /// The file cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A transaction failed; nothing of it holds.
    #[error("{} cannot be read or written", path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// The library's reason.
        #[source]
        source: Box<redb::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &[u8], value: Option<&[u8]>) -> Change {
        Change { table: "t", key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.redb");
        let store = Store::open(&path).expect("new");
        assert_eq!(store.get("t", b"a").expect("empty"), None);
        store.write(&[change(b"b", Some(b"2")), change(b"a", Some(b"1"))]).expect("written");
        store.write(&[change(b"b", None), change(b"c", Some(b"3"))]).expect("written");
        drop(store);
        let store = Store::open_existing(&path).expect("there");
        assert_eq!(
            store.list("t").expect("read"),
            [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec())]
        );
    }

    #[test]
    fn one_process_at_a_time_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.redb");
        let _store = Store::open(&path).expect("new");
        assert!(matches!(Store::open(&path), Err(StoreError::Busy(_))));
    }

    #[test]
    fn absence_and_damage_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.redb");
        assert!(matches!(Store::open_existing(&path), Err(StoreError::Absent(_))));
        for damage in [vec![7; 100], vec![0; 100_000]] {
            std::fs::write(&path, damage).expect("written");
            assert!(matches!(Store::open(&path), Err(StoreError::Damaged(_))));
        }
    }
}
