//! A cable between two taps' descriptors: the part of a hypervisor that matters here.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{read, write};
use vde_attach::tap::{IfName, Tap, TapOptions};

use crate::lab::Host;

/// Longest super-frame with its virtio-net header, rounded up.
const FRAME_LEN_MAX: usize = 70_000;
/// Frames of one side before the other has its turn.
const TURN: usize = 64;
/// Pause of a cable that carries nothing.
const PAUSE: Duration = Duration::from_micros(200);

/// Copies frames, virtio-net headers included, both ways until dropped.
#[derive(Debug)]
pub struct Patch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Patch {
    /// Joins two taps.
    #[must_use]
    pub fn between(a: OwnedFd, b: OwnedFd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut buffer = vec![0; FRAME_LEN_MAX];
                while !stop.load(Ordering::Relaxed) {
                    let moved = carry(&a, &b, &mut buffer) + carry(&b, &a, &mut buffer);
                    if moved == 0 {
                        thread::sleep(PAUSE);
                    }
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

/// Carries what is there; a full or absent side loses frames.
fn carry(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> usize {
    let mut moved = 0;
    while moved < TURN
        && let Ok(len) = read(from, buffer)
    {
        let _ = write(to, &buffer[..len]);
        moved += 1;
    }
    moved
}

impl Drop for Patch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a tap with a virtio-net header in a namespace; it does not block.
///
/// # Errors
/// When the name is none, or the kernel refuses.
pub fn tap(host: &Host, name: &str) -> Result<OwnedFd> {
    let name: IfName = name.parse()?;
    let open = || Tap::open(&name, TapOptions::default()).map_err(std::io::Error::other);
    Ok(host.within(open).with_context(|| format!("a tap in {}", host.name()))?.into_fd())
}
