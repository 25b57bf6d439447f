//! Tells the service manager when the program is ready (sd_notify(3)).

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to `$NOTIFY_SOCKET`; without one, or when it fails, nothing happens.
pub fn ready() {
    if let Err(error) = send(b"READY=1") {
        tracing::warn!(%error, "the service manager was not told that this is ready");
    }
}

fn send(state: &[u8]) -> std::io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}
