//! Stored inputs of the fuzz targets `port_policy`, `vnet_hdr`, `dhcp4` and `dhcp6`, replayed.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

use std::fs;
use std::path::Path;

use vde_switch::frame::Frame;
use vde_switch::fuzz::{self, SEGMENT, STATION};
use vde_switch::policy::Policy;
use vde_switch::vnet::VnetHdr;

mod frames;
mod oracle;
mod rows;

/// Name and content of each input, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus")).join(target);
    let mut inputs: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 12, "{} has lost its inputs", directory.display());
    inputs
}

/// Inputs whose names say so are legal; those that say they are refused, or are named by a row of
/// the catalogue (`F01` to `F31`), are not; the rest was found by fuzzing and needs only to agree
/// with the oracle.
fn agrees(name: &str, passes: bool) {
    assert!(!name.starts_with("legal") || passes, "{name} is refused");
    let refused = name.starts_with('F') || name.starts_with("refused");
    assert!(!refused || !passes, "{name} passes");
}

#[test]
fn the_port_policy_judges_stored_frames_as_named() {
    for (name, frame) in inputs("port_policy") {
        let passes = fuzz::port_policy(&frame).is_ok();
        agrees(&name, passes);
        assert_eq!(passes, oracle::admits(&frame, &[0; 12], &[STATION], &SEGMENT), "{name}");
    }
}

#[test]
fn questions_are_answered_as_named() {
    for (name, message) in inputs("dhcp4") {
        agrees(&name, fuzz::dhcp4(&message));
    }
    for (name, message) in inputs("dhcp6") {
        agrees(&name, fuzz::dhcp6(&message));
    }
}

#[test]
fn the_vnet_header_is_judged_as_named() {
    for (name, bytes) in inputs("vnet_hdr") {
        agrees(&name, fuzz::vnet_hdr(&bytes));
        let Some((vnet, frame)) = bytes.split_first_chunk() else { continue };
        let admitted = VnetHdr::parse(vnet).is_ok_and(|hdr| {
            Policy::new(&[STATION], SEGMENT).check(&mut Frame { hdr, bytes: frame }).is_ok()
        });
        assert_eq!(admitted, oracle::admits(frame, vnet, &[STATION], &SEGMENT), "{name}");
    }
}
