//! The records of one order or lease: a transactional file that survives a crash at any moment.
//!
//! # Theory of operation
//! Records are bytes under a key in a named table; what they mean is their writer's. All changes
//! that belong together go into one [`Store::write`], which returns when they are on disk: only
//! then may they be acted on. One process has a store open at a time; that lock also tells whether
//! an order is running.
//!
//! A store is there whole or not at all: it is made under another name ([`Store::create`]) and gets
//! its own when its first records are in it ([`Store::publish`]). So a file that is empty, or lacks
//! what the first write put there, was damaged, and nothing is made anew in its place. Each commit
//! is two-phased and every page's checksum is verified on opening: what cannot be had as it was
//! written last is refused, not rolled back and not repaired.
//!
//! # Limits
//! One bit of the file is guarded by nothing: which of the two newest commits counts. Flipped after
//! a kill, it shows the commit before, as a copy of the file from then would.
//! [`RECORD_LEN_MAX`] bytes a record, [`CACHE_LEN`] of memory. After a write that failed, nothing
//! more can be written until the store is opened again.

mod file;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableDefinition, TableError,
};

use self::file::Fresh;

/// Largest record, in bytes.
pub const RECORD_LEN_MAX: usize = 1024 * 1024;
/// Memory for pages, in bytes; stores are small and seldom read.
pub const CACHE_LEN: usize = 1024 * 1024;
/// Version of tables and records, written into each store. One of another version is refused.
pub const STORE_VERSION: u32 = 1;

/// Where [`STORE_VERSION`] is.
const META: Table = "store";
const VERSION: &[u8] = b"version";

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
    /// Set until [`Store::keep`]: the file goes when this is dropped.
    fresh: Option<Fresh>,
}

impl Store {
    /// Makes a store that nobody else sees until [`Store::publish`].
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Failed`].
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        let (fresh, file) = Fresh::create(path).map_err(io)?;
        let mut store = start(path, || FileBackend::new(file), Start::New)?;
        store.fresh = Some(fresh);
        Ok(store)
    }

    /// Opens a store that is there, for this process alone.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::Busy`] if another process has it open,
    /// [`StoreError::Damaged`], [`StoreError::Version`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = file::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Absent(path.to_owned()),
            _ => StoreError::Io { path: path.to_owned(), source },
        })?;
        start(path, || FileBackend::new(file), Start::Existing)
    }

    /// As [`Store::create`] on other storage, such as one that fails when told to; `path` names it
    /// in errors.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create_on(backend: impl StorageBackend, path: &Path) -> Result<Self, StoreError> {
        start(path, || Ok(backend), Start::New)
    }

    /// As [`Store::open`] on other storage.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(backend: impl StorageBackend, path: &Path) -> Result<Self, StoreError> {
        start(path, || Ok(backend), Start::Existing)
    }

    /// Gives a new store its name, durably; one that was there before is left alone.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process published one meanwhile, [`StoreError::Io`].
    pub fn publish(&mut self) -> Result<(), StoreError> {
        let Some(fresh) = &mut self.fresh else { return Ok(()) };
        fresh.publish(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Busy(self.path.clone()),
            _ => StoreError::Io { path: self.path.clone(), source },
        })
    }

    /// Lets a new store stay when this is dropped, published if it is not yet.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn keep(&mut self) -> Result<(), StoreError> {
        self.publish()?;
        if let Some(fresh) = self.fresh.take() {
            fresh.keep();
        }
        Ok(())
    }

    /// Removes the store's file, for good.
    pub fn remove(mut self) {
        self.fresh = Some(Fresh::of(self.path.clone()));
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
            let mut transaction = self.db.begin_write()?;
            transaction.set_two_phase_commit(true);
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

enum Start {
    New,
    Existing,
}

/// Opens the database of a backend and looks for its version, or writes it.
fn start<B: StorageBackend>(
    path: &Path,
    backend: impl FnOnce() -> Result<B, DatabaseError>,
    how: Start,
) -> Result<Store, StoreError> {
    let is_new = matches!(how, Start::New);
    // The library says that it may panic over a file damaged from outside.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| {
        let backend = backend()?;
        if !is_new && backend.len().map_err(StorageError::Io)? == 0 {
            return Ok(None); // the library would make a new one of it
        }
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_LEN).set_check_integrity_on_open(true);
        builder.create_with_backend(backend).map(Some)
    }));
    let damaged = || StoreError::Damaged(path.to_owned());
    let db = match opened {
        Ok(Ok(Some(db))) => db,
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            return Err(StoreError::Busy(path.to_owned()));
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(source))))
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            return Err(StoreError::Io { path: path.to_owned(), source });
        }
        Ok(Ok(None) | Err(_)) | Err(_) => return Err(damaged()),
    };
    let store = Store { db, path: path.to_owned(), fresh: None };
    if is_new {
        let value = Some(STORE_VERSION.to_be_bytes().to_vec());
        store.write(&[Change { table: META, key: VERSION.to_vec(), value }])?;
        return Ok(store);
    }
    let version = store.get(META, VERSION)?.ok_or_else(damaged)?;
    match version.try_into().map(u32::from_be_bytes) {
        Ok(STORE_VERSION) => Ok(store),
        Ok(found) => Err(StoreError::Version { path: path.to_owned(), found }),
        Err(_) => Err(damaged()),
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
    /// Another version of this program wrote it.
    #[error(
        "{} is of version {found}, this program knows {STORE_VERSION}: use the program that wrote \
         it",
        path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
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
mod tests;
