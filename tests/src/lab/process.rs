//! A program that runs in a lab, and what it says.
//!
//! # Theory of operation
//! A thread reads stdout line by line into a queue, so that the program never waits for its
//! reader. [`Process::wait_line`] takes the first line that is wanted and keeps the others for
//! later questions: events may come in any order. stderr goes to a file, quoted when a wait fails.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::reaper;

/// How often an ending program is looked at.
const WAIT_INTERVAL: Duration = Duration::from_millis(5);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    lines: Receiver<String>,
    /// Lines that nobody has asked for yet.
    pending: Vec<String>,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let what = command.get_args().skip(2).map(|arg| arg.to_string_lossy()).collect::<Vec<_>>();
        let what = what.join(" ");
        let stderr = File::options().create(true).append(true).open(&log)?;
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut child = {
            let _open = reaper::gate();
            command.spawn().with_context(|| format!("start {what}"))?
        };
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, what, lines, pending: Vec::new(), log })
    }

    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it wrote to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the next line of stdout that `wanted` accepts; lines it refuses are kept for later.
    ///
    /// # Errors
    /// When there is none within `timeout` or the program ends before; with its log.
    pub fn wait_line(
        &mut self,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let until = Instant::now() + timeout;
        let mut next = 0;
        loop {
            if let Some(at) = self.pending[next..].iter().position(|line| wanted(line)) {
                return Ok(self.pending.remove(next + at));
            }
            next = self.pending.len();
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.pending.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{}: nothing of the kind on stdout in {timeout:?}; {}",
                        self.what,
                        self.said()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{}: ended ({status}) before; {}", self.what, self.said())
                }
            }
        }
    }

    /// Returns the lines that nobody asked for, up to now.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.pending.extend(self.lines.try_iter());
        std::mem::take(&mut self.pending)
    }

    /// Tells whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns the numbers of its processes: its own, then those of its children and theirs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.pid()];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            pids.extend(children.split_whitespace().flat_map(str::parse::<u32>));
            next += 1;
        }
        pids
    }

    /// Sends a signal to each of its processes, those that have ended meanwhile aside.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        for pid in self.pids().into_iter().skip(1) {
            let _ = kill(Pid::from_raw(i32::try_from(pid)?), signal);
        }
        self.signal(signal)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is still running after `timeout`; it is killed then.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + timeout;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(WAIT_INTERVAL);
        }
        self.child.kill()?;
        bail!("{}: still running after {timeout:?}; {}", self.what, self.said())
    }

    /// Asks it to end by SIGTERM and waits.
    ///
    /// # Errors
    /// When it is still running after `timeout`; it is killed then.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(timeout)
    }

    fn said(&self) -> String {
        let log = self.log();
        let mut tail: Vec<&str> = log.lines().rev().take(8).collect();
        tail.reverse();
        format!("stdout: {:?}; log: {:?}", self.pending, tail)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
