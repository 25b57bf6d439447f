//! The log: to stderr, since stdout is the programs' contract.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// Starts the log. `RUST_LOG` decides if set; otherwise warnings, more with each `-v`.
///
/// Libraries stay at warnings up to `-vv`: what they say at `info` is of no use to an operator.
pub fn init(verbosity: u8) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(match verbosity {
            0 => "warn,libp2p=error",
            1 => "warn,overlay=info,overlay_gw=info,overlay_seller=info,libp2p=error",
            2 => "warn,overlay=debug,overlay_gw=debug,overlay_seller=debug,overlay_proto=debug",
            _ => "debug,overlay=trace,overlay_gw=trace,overlay_seller=trace",
        })
    });
    // A second call, as tests in one process make, leaves the first log in place.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Quiet)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// Writes to stderr what that takes: a log on a full disk is no reason to stop.
struct Quiet;

impl Write for Quiet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
