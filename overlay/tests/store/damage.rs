//! Stores damaged from outside: refused, or as they were; never another content, never a panic.

use std::path::Path;

use overlay::store::{Change, Entry, Store, StoreError};

use crate::disk::{Disk, Kept};

/// The byte of the file that says which of its two newest commits is the newest; a flip of it after
/// a kill shows the one before, whole.
const LATEST_AT: usize = 9;

const TABLES: [&str; 3] = ["order", "tickets", "slots"];

/// How a store's last user ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
}

/// An undamaged store.
struct Whole {
    bytes: Vec<u8>,
    content: Vec<Vec<Entry>>,
    /// Its content before the last write.
    before: Vec<Vec<Entry>>,
}

/// A store with a few records in each table, written one after the other.
fn whole(end: End) -> Whole {
    let mut before = Vec::new();
    let disk = Disk::default();
    let store = Store::create_on(disk.clone(), Path::new("x")).expect("new");
    for number in 0..40_u8 {
        let table = TABLES[usize::from(number) % TABLES.len()];
        let value = Some(vec![number; 100]);
        before = content(&store).expect("read");
        store.write(&[Change { table, key: vec![number / 2], value }]).expect("written");
    }
    let content = content(&store).expect("read");
    let killed = disk.bytes(Kept::All);
    drop(store);
    let bytes = match end {
        End::Closed => disk.bytes(Kept::All),
        End::Killed => killed,
    };
    Whole { bytes, content, before }
}

fn content(store: &Store) -> Result<Vec<Vec<Entry>>, StoreError> {
    TABLES.iter().map(|table| store.list(table)).collect()
}

/// Opens damaged bytes twice; says whether they were refused, which must not change.
fn is_refused(bytes: Vec<u8>, allowed: &[&Vec<Vec<Entry>>], what: &str) -> bool {
    let disk = Disk::with(bytes);
    let open = || match Store::open_on(disk.clone(), Path::new("x")) {
        Err(StoreError::Damaged(_) | StoreError::Version { .. }) => true,
        Err(error) => panic!("{what}: {error}"),
        Ok(store) => {
            assert!(allowed.contains(&&content(&store).expect(what)), "{what}: other content");
            false
        }
    };
    let is_refused = open();
    assert_eq!(open(), is_refused, "{what}: at the second try");
    is_refused
}

#[test]
fn flipped_bits_are_refused_or_have_no_effect() {
    for end in [End::Closed, End::Killed] {
        let Whole { bytes, content, before } = whole(end);
        assert!(!is_refused(bytes.clone(), &[&content], "undamaged"));
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("not empty");
        let mut refused_count = 0;
        let header = 0..320;
        for at in (0..=used).step_by(97).chain(header) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let what = format!("{end:?}: bit {bit} of byte {at}");
                let both = [&content, &before];
                let allowed = if at == LATEST_AT { &both[..] } else { &both[..1] };
                refused_count += usize::from(is_refused(damaged, allowed, &what));
            }
        }
        assert!(refused_count > 100, "{end:?}: only {refused_count} were noticed");
    }
}

#[test]
fn a_truncated_store_is_refused() {
    for end in [End::Closed, End::Killed] {
        let Whole { bytes, content, .. } = whole(end);
        for len in (0..bytes.len()).step_by(bytes.len() / 200) {
            let what = format!("{end:?}: cut to {len} bytes");
            assert!(is_refused(bytes[..len].to_vec(), &[&content], &what), "{what}");
        }
    }
}
