//! Replays the fuzz corpora: inputs that once showed something, and seeds of each kind.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::path::PathBuf;

use overlay_proto::envelope::{Envelope, Kind, Signed};
use overlay_proto::grant::Grant;
use overlay_proto::order::{Config, Order};
use overlay_proto::roster::Roster;
use overlay_proto::ticket::Ticket;

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// A seed called `good-…` is taken, everything else is refused, nothing panics.
#[test]
fn envelopes_are_taken_or_refused_as_their_names_say() {
    for (path, bytes) in inputs("envelope") {
        let taken = Kind::ALL.into_iter().any(|kind| Envelope::open(&bytes, kind).is_ok());
        let good = path.file_name().unwrap().to_str().unwrap().starts_with("good-");
        assert_eq!(taken, good, "{}", path.display());
        let _ = Signed::<Order>::open(&bytes);
        let _ = Signed::<Config>::open(&bytes);
        let _ = Signed::<Grant>::open(&bytes);
        let _ = Signed::<Roster>::open(&bytes);
        let _ = Ticket::open(&bytes);
    }
}

/// As for envelopes; what is taken comes back as the same text.
#[test]
fn tickets_are_taken_or_refused_as_their_names_say() {
    for (path, bytes) in inputs("ticket") {
        let text = String::from_utf8_lossy(&bytes);
        let good = path.file_name().unwrap().to_str().unwrap().starts_with("good-");
        match Ticket::decode(&text) {
            Ok(ticket) => {
                assert!(good, "{}", path.display());
                assert_eq!(Ticket::decode(&ticket.encode()).unwrap(), ticket);
            }
            Err(error) => {
                assert!(!good && !error.to_string().is_empty(), "{}: {error}", path.display());
            }
        }
    }
}
