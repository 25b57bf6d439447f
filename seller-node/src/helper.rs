//! The root part of a running lease: what it makes on this host, and for whom.
//!
//! # Theory of operation
//! [`serve`] is the one loop of a process with one thread ([`overlay::helper`]): it waits for
//! questions of control ([`ask`]), for ends of children and for what is due, and does one thing at
//! a time. It holds what only root can make: the guest's cable and what it ends in ([`seat`]), the
//! data plane and QEMU as children. It hears no network and reads no byte of a guest.
//!
//! # Limits
//! A question that cannot be carried out is answered by its reason; one that no control process of
//! this program asks ends the lease.

pub(crate) mod ask;
pub(crate) mod seat;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::clock;
use overlay::confine::data_plane_user;
use overlay::exit::{Exit, exit_of, text_of};
use overlay::helper::{Helper, Leftovers};
use overlay_proto::dial::DialRules;
use overlay_proto::order::{MTU_MAX, MTU_MIN};
use overlay_proto::ticket::ADDRESSES_MAX;

use self::ask::{Ask, Machine, Tell, Wiring};
use self::seat::{News, Seat};
use crate::run::launch::Started;

/// How often what is plugged in is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a lease's helper was started with.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Where the guest is.
    pub(crate) seat: Seat,
    /// Whom this host may dial at all.
    pub(crate) rules: DialRules,
}

/// What it has come to.
#[derive(Debug, Default)]
struct Lease {
    /// The lease's socket and its port.
    socket: Option<(OwnedFd, u16)>,
    is_plugged: bool,
}

/// Serves control until it has ended, and ends what still runs; says how the program ends.
pub(crate) fn serve(mut helper: Helper, mut desk: Desk) -> Exit {
    let mut lease = Lease::default();
    let mut verdict = None;
    while !helper.is_over() {
        let now = clock::now();
        let timeout = LOOK_INTERVAL.min(desk.seat.idle_for(now));
        if let Err(error) = helper.wait(&desk.seat.fds(), timeout) {
            tracing::error!(%error, "the helper cannot wait");
            break;
        }
        while let Some((question, fds)) = helper.asked::<Ask>() {
            if let Err(error) = desk.handle(&mut helper, &mut lease, question, fds) {
                helper.tell(&refusal(&error), &[]);
            }
        }
        if let Err(error) = desk.look(&mut helper)
            && verdict.is_none()
        {
            // Control says goodbye and ends; what it prints is the user's last line.
            verdict = Some(error.to_string());
            let (exit, text) = (exit_of(error.chain()) as u8, text_of(error.chain()));
            helper.tell(&Tell::Over { exit, text }, &[]);
        }
    }
    desk.end_machine(&mut helper);
    helper.finish()
}

fn refusal(error: &anyhow::Error) -> Tell {
    Tell::Refused { exit: exit_of(error.chain()) as u8, text: text_of(error.chain()) }
}

impl Desk {
    fn handle(
        &mut self,
        helper: &mut Helper,
        lease: &mut Lease,
        question: Ask,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        match question {
            Ask::Ready { port, leftovers } if lease.socket.is_none() => {
                let udp = fds.into_iter().next().context("no socket came with the first words")?;
                lease.socket = Some((udp, port));
                self.begin(helper, leftovers);
            }
            Ask::Dial(addresses) => self.dial(&addresses),
            Ask::Start if lease.socket.is_some() => {
                let (udp, port) = lease.socket.as_ref().context("no socket yet")?;
                let end = helper
                    .start_data_plane(udp, data_plane_user(*port)?)
                    .context("the data plane does not start")?;
                helper.tell(&Tell::Done, &[end.as_fd()]);
            }
            Ask::Plug(wiring) if !lease.is_plugged => {
                check(&wiring)?;
                let (_, port) = lease.socket.as_ref().context("no socket yet")?;
                lease.is_plugged = true;
                let cable = self.seat.plug(&wiring, *port)?;
                helper.tell(&Tell::Done, &[cable.as_fd()]);
                if let Some(machine) = self.seat.machine() {
                    let started = machine.start()?;
                    tell_started(helper, &started);
                }
            }
            Ask::Follow(wiring) if lease.is_plugged => {
                check(&wiring)?;
                if let Err(error) = self.seat.follow(&wiring) {
                    tracing::warn!("the guest's cable does not follow the order: {error:#}");
                }
            }
            Ask::Open if lease.is_plugged => helper.tell(&Tell::Done, &[]),
            Ask::Proven(_) | Ask::Joined(_) => {}
            Ask::EndMachine => {
                if let Some(machine) = self.seat.machine() {
                    machine.ask_to_end(clock::now());
                }
            }
            Ask::Keep => helper.keep(),
            Ask::Forget => helper.forget(),
            Ask::Ready { .. } | Ask::Start | Ask::Plug(_) | Ask::Follow(_) | Ask::Open => {
                bail!("the control process asks out of turn")
            }
        }
        Ok(())
    }

    fn begin(&mut self, helper: &mut Helper, leftovers: Leftovers) {
        helper.set_leftovers(leftovers);
        helper.tell(&Tell::Done, &[]);
    }

    fn dial(&mut self, addresses: &[SocketAddr]) {
        let _ = (addresses.iter().take(ADDRESSES_MAX), &self.rules);
    }

    /// Looks at what may have ended; an error ends the lease.
    fn look(&mut self, helper: &mut Helper) -> anyhow::Result<()> {
        self.seat.look(clock::now())?;
        if let Some(machine) = self.seat.machine()
            && let Some(news) = machine.look(clock::now())?
        {
            match news {
                News::Started(started) => tell_started(helper, &started),
                News::Ended { status, again } => {
                    let (success, again_s) = (status.success(), again.map(|pause| pause.as_secs()));
                    let status = status.to_string();
                    helper.tell(&Tell::MachineEnded { status, success, again_s }, &[]);
                }
            }
        }
        match helper.data_plane_ended() {
            Some(status) if !status.success() => bail!("the data plane has ended with {status}"),
            _ => Ok(()),
        }
    }

    /// Waits for the machine's end, which is near: it was asked, or it is killed.
    fn end_machine(&mut self, helper: &mut Helper) {
        let Some(machine) = self.seat.machine() else { return };
        machine.ask_to_end(clock::now());
        while machine.is_running() {
            let timeout = LOOK_INTERVAL.min(machine.idle_for(clock::now()));
            if helper.wait(&[], timeout).is_err() || machine.look(clock::now()).is_err() {
                return; // killed when dropped
            }
        }
    }
}

/// Checks what goes into rules and interfaces; addresses are typed and cannot be more than wrong.
fn check(wiring: &Wiring) -> anyhow::Result<()> {
    let segment = &wiring.segment;
    let fits = (MTU_MIN..=MTU_MAX).contains(&segment.mtu)
        && segment.ipv4.1 <= 32
        && segment.ipv6.1 <= 128
        && !wiring.station.mac.is_group();
    if fits { Ok(()) } else { bail!("the control process asks for a cable that no grant means") }
}

fn tell_started(helper: &Helper, started: &Started) {
    let Started { pid, stdout, stderr, console } = started;
    let machine = Machine { pid: *pid, has_file: console.is_some() };
    let fds = [Some(stdout.as_fd()), Some(stderr.as_fd()), console.as_ref().map(AsFd::as_fd)];
    let fds: Vec<_> = fds.into_iter().flatten().collect();
    helper.tell(&Tell::MachineStarted(machine), &fds);
}
