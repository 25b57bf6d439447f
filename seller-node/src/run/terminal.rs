//! The terminal, which QEMU makes raw for the guest and may not live to put right again.

use std::io;
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The terminal as it was before QEMU changed it; put right again when dropped.
pub(crate) struct TerminalBefore(Option<Termios>);

impl std::fmt::Debug for TerminalBefore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TerminalBefore({})", self.0.is_some())
    }
}

impl TerminalBefore {
    pub(crate) fn save() -> Self {
        Self(tcgetattr(io::stdin().as_fd()).ok())
    }
}

impl Drop for TerminalBefore {
    fn drop(&mut self) {
        let stdin = io::stdin();
        let is_ours = tcgetpgrp(stdin.as_fd()) == Ok(getpgrp());
        if let Some(before) = self.0.take()
            && is_ours
        {
            // If the terminal is gone there is nothing to restore.
            let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &before);
        }
    }
}
