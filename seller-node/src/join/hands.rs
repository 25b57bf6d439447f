//! What control asks of its helper, and what becomes of the guest's machine meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::exit::{Exit, Fault};
use overlay::helper::Hands;
use overlay_proto::control::Slot;
use tokio::time::timeout;

use crate::helper::ask::{Ask, Tell};
use crate::run::console;

/// How long the end of a machine is waited for: it is killed by then.
const MACHINE_END_AFTER_MAX: Duration = Duration::from_millis(1500);

/// The guest's machine as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The program's name.
    pub(crate) program: String,
    /// How its processor is made.
    pub(crate) accel: &'static str,
    /// Its console's file.
    pub(crate) console: Option<String>,
}

/// What the helper tells of itself.
#[derive(Debug)]
pub(super) enum HostEvent {
    /// The machine runs, with this process.
    MachineStarted(u32),
    /// The machine has ended.
    MachineEnded {
        /// How, in the system's words.
        status: String,
        /// Whether that was its own wish.
        success: bool,
        /// The pause until it is started again, if it is.
        again: Option<Duration>,
        /// QEMU's last words, on one line.
        words: String,
    },
    /// The lease ends.
    Over(Fault),
}

/// The helper, and threads that read what the machine says.
#[derive(Debug)]
pub(super) struct Host {
    hands: Hands,
    /// What it told while an answer was waited for.
    waiting: VecDeque<(Tell, Vec<OwnedFd>)>,
    /// Where the guest is, for people.
    place: String,
    facts: Option<Facts>,
    machine: Option<Said>,
}

#[derive(Debug)]
struct Said {
    pid: u32,
    copier: JoinHandle<()>,
    listener: JoinHandle<String>,
}

impl Host {
    pub(super) fn new(hands: Hands, place: String, facts: Option<Facts>) -> Self {
        Self { hands, waiting: VecDeque::new(), place, facts, machine: None }
    }

    /// Says where the guest is, for people.
    pub(super) fn words(&self) -> String {
        match (&self.facts, &self.machine) {
            (None, _) => self.place.clone(),
            (Some(_), Some(said)) => format!("{} pid {}", self.place, said.pid),
            (Some(_), None) => format!("{} (not running)", self.place),
        }
    }

    /// Whether the guest's machine runs.
    pub(super) fn has_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// Returns the machine, if the guest is one.
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Asks for something that is not answered.
    pub(super) fn say(&self, question: &Ask) -> anyhow::Result<()> {
        Ok(self.hands.ask(question, &[])?)
    }

    /// Asks and waits for the answer: descriptors, or a reason for the user.
    pub(super) async fn ask(&mut self, question: &Ask) -> anyhow::Result<Vec<OwnedFd>> {
        Ok(self.answer(question).await?.1)
    }

    async fn answer(&mut self, question: &Ask) -> anyhow::Result<(Option<u16>, Vec<OwnedFd>)> {
        self.hands.ask(question, &[])?;
        loop {
            match self.hands.next::<Tell>().await? {
                (Tell::Done, fds) => return Ok((None, fds)),
                (Tell::Listening(port), fds) => return Ok((Some(port), fds)),
                (Tell::Refused { exit, text }, _) => return Err(fault(exit, text).into()),
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Has a socket opened for a lease of its own; returns its port, and what keeps the host's
    /// guard standing while it is open.
    pub(super) async fn open_socket(&mut self) -> anyhow::Result<(u16, Option<OwnedFd>)> {
        let (port, fds) = self.answer(&Ask::Listen).await?;
        let port = port.context("the helper process has opened no socket")?;
        Ok((port, fds.into_iter().next()))
    }

    /// Returns a connection to the program that has a slot of the order, if there is one.
    pub(super) async fn call(&mut self, slot: Slot) -> anyhow::Result<Option<UnixStream>> {
        let fd = self.ask(&Ask::Call(slot)).await?.into_iter().next();
        Ok(fd.map(UnixStream::from))
    }

    /// As [`Host::ask`], for the one descriptor that comes with the answer.
    pub(super) async fn ask_fd(&mut self, question: &Ask) -> anyhow::Result<OwnedFd> {
        let fd = self.ask(question).await?.into_iter().next();
        fd.context("the helper process has handed nothing over")
    }

    /// Asks what the rules of the guest's cable have stopped; nothing, if they cannot be read.
    pub(super) async fn counts(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        self.hands.ask(&Ask::Counts, &[])?;
        loop {
            match self.hands.next::<Tell>().await? {
                (Tell::Counts(counts), _) => return Ok(counts),
                (Tell::Refused { text, .. }, _) => {
                    tracing::warn!("the guest's wire does not say what it has stopped: {text}");
                    return Ok(Vec::new());
                }
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Returns what the helper tells next. Dropped and called again, nothing is lost.
    pub(super) async fn next(&mut self) -> anyhow::Result<HostEvent> {
        loop {
            let (told, fds) = match self.waiting.pop_front() {
                Some(told) => told,
                None => self.hands.next::<Tell>().await?,
            };
            match told {
                Tell::MachineStarted(machine) => {
                    self.listen(machine.pid, machine.has_file, fds)?;
                    return Ok(HostEvent::MachineStarted(machine.pid));
                }
                Tell::MachineEnded { status, success, again_s } => {
                    let again = again_s.map(Duration::from_secs);
                    let words = self.machine.take().map_or(String::new(), Said::last_words);
                    return Ok(HostEvent::MachineEnded { status, success, again, words });
                }
                Tell::Over { exit, text } | Tell::Refused { exit, text } => {
                    return Ok(HostEvent::Over(fault(exit, text)));
                }
                Tell::Done | Tell::Listening(_) | Tell::Counts(_) => {
                    tracing::debug!("the helper process answers nobody");
                }
            }
        }
    }

    /// Reads what a machine says from now on.
    fn listen(&mut self, pid: u32, has_file: bool, fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        let mut fds = fds.into_iter().map(File::from);
        let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
            bail!("the machine's console was not handed over");
        };
        let file = fds.next().filter(|_| has_file);
        let copier = thread::spawn(move || {
            if let Err(error) = console::copy(stdout, file) {
                tracing::warn!(%error, "the guest's console is no longer shown");
            }
        });
        let listener = thread::spawn(move || console::heed(stderr));
        self.machine = Some(Said { pid, copier, listener });
        Ok(())
    }

    /// Waits for the end of a machine that was asked to end, so that its console is whole.
    pub(super) async fn machine_gone(&mut self) {
        let gone = async { while self.machine.is_some() && self.next().await.is_ok() {} };
        // Otherwise the helper ends it when this process has ended.
        let _ = timeout(MACHINE_END_AFTER_MAX, gone).await;
    }
}

impl Said {
    /// Waits until all was read, which it has when the machine has ended.
    fn last_words(self) -> String {
        // A panic of either has been printed where it happened.
        let _ = self.copier.join();
        self.listener.join().unwrap_or_default()
    }
}

pub(super) fn fault(exit: u8, text: String) -> Fault {
    let exit = Exit::ALL.into_iter().find(|known| *known as u8 == exit).unwrap_or(Exit::Failed);
    Fault::new(exit, text)
}
