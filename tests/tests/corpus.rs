//! Stored fuzz inputs, each as it is, cut at every length and with every bit flipped.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use overlay_tests::fuzz::TARGETS;

/// Inputs longer than this are not flipped bit by bit.
const FLIPPED_LEN_MAX: usize = 512;

#[test]
fn stored_inputs_and_their_neighbours_panic_nobody() -> Result<()> {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
            let mut bytes = fs::read(entry?.path())?;
            inputs += 1;
            target(&bytes);
            for len in 0..bytes.len().min(FLIPPED_LEN_MAX) {
                target(&bytes[..len]);
            }
            for bit in 0..8 * bytes.len().min(FLIPPED_LEN_MAX) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                target(&bytes);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        ensure!(inputs > 0, "{} has no inputs", folder.display());
    }
    Ok(())
}
