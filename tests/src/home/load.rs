//! A guest that attacks on and on, whatever happens to its interface meanwhile.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::cast::beside;
use crate::lab::Host;
use crate::vm;

/// Pause between two attacks.
const PAUSE: Duration = Duration::from_millis(10);

/// Attacks of a namespace; they end when this is dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts to attack from a guest's namespace, by the words of a plan.
    ///
    /// # Errors
    /// When the attacker is not built.
    pub fn of_netns(guest: &Host, words: Vec<String>) -> Result<Self> {
        let (program, guest) = (beside("overlay-attack")?, guest.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // While the guest has no interface there is nothing to attack by.
                let _ = guest.output(&program, &words);
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lets a machine attack until it ends, unless it does so already.
///
/// # Errors
/// When there is no way into it.
pub fn of_machine(from: &Host, machine: IpAddr, words: &[String]) -> Result<()> {
    let script = format!(
        "pidof overlay-attack || \
         (while :; do overlay-attack {}; done) </dev/null >/dev/null 2>&1 &",
        words.join(" ")
    );
    vm::must_ssh(from, machine, &script).map(drop)
}
