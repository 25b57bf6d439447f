//! The root part of a running lease: what it makes on this host, and for whom.
//!
//! # Theory of operation
//! [`serve`] is the one loop of a process with one thread ([`overlay::helper`]): it waits for
//! questions of control ([`ask`]), for ends of children and for what is due, and does one thing at
//! a time. It holds what only root can make: the guest's wire and what it ends in ([`seat`]), the
//! lease's part in the egress guard ([`egress`]), the data plane and QEMU as children. It hears no
//! network and reads no byte of a guest.
//!
//! What confines the guest is watched: on any difference the links go down first, then the lease
//! ends with exit code 5. What confines the data plane is watched as well: while the guard does not
//! stand, the data plane is stopped.
//!
//! A guest may share the lease of another program, which has the guard's part and the data plane;
//! the helper then makes the guest's wire alone. When that lease ends, it makes the rest as well.
//!
//! # Limits
//! A question that cannot be carried out is answered by its reason; one that no control process of
//! this program asks ends the lease.

pub(crate) mod ask;
mod egress;
pub(crate) mod seat;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::clock;
use overlay::confine::data_plane_user;
use overlay::exit::{Exit, exit_of, text_of};
use overlay::helper::Helper;
use overlay::local;
use overlay::ports::{self, Listening};
use overlay::state::{Kind, StateDir};
use overlay_proto::dial::DialRules;
use overlay_proto::order::{MTU_MAX, MTU_MIN, OrderId, ROUTES_MAX};
use overlay_proto::ticket::ADDRESSES_MAX;

use self::ask::{Ask, Machine, Tell, Wiring};
use self::egress::Egress;
use self::seat::{News, Seat};
use crate::join::lease;
use crate::run::launch::Started;

/// How often what is plugged in is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Most questions between two looks at what is watched: whoever asks for ever hides nothing by it.
const QUESTIONS_A_TURN: usize = 8;

/// What a lease's helper was started with.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Where the guest is.
    pub(crate) seat: Seat,
    /// Whom this host may dial at all.
    pub(crate) rules: DialRules,
    /// The control process's user.
    pub(crate) user: (u32, u32),
    /// Where the local sockets of other guests are.
    pub(crate) state: StateDir,
    /// Of which order those are that may be called.
    pub(crate) order: OrderId,
}

/// What it has come to.
#[derive(Debug, Default)]
struct Lease {
    /// The lease's socket and its port.
    socket: Option<(OwnedFd, u16)>,
    /// What that may send to.
    egress: Option<Egress>,
    /// Whether the guest began in another program's lease.
    is_shared: bool,
    is_plugged: bool,
    is_started: bool,
}

/// Serves control until it has ended, and ends what still runs; says how the program ends.
pub(crate) fn serve(mut helper: Helper, mut desk: Desk) -> Exit {
    let mut lease = Lease::default();
    let mut is_told = false;
    while !helper.is_over() {
        let now = clock::now();
        let timeout = LOOK_INTERVAL.min(desk.seat.idle_for(now));
        let guard = lease.egress.iter().map(Egress::fd);
        let fds: Vec<_> = guard.chain(desk.seat.fds(now)).collect();
        let heard = match helper.wait(&fds, timeout) {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "the helper cannot wait");
                break;
            }
        };
        let (guard, seat) = heard.split_at(usize::from(lease.egress.is_some()).min(heard.len()));
        let (guard, seat) = (guard.contains(&true), seat.contains(&true));
        for _ in 0..QUESTIONS_A_TURN {
            let Some((question, fds)) = helper.asked::<Ask>() else { break };
            if let Err(error) = desk.handle(&mut helper, &mut lease, question, fds) {
                helper.tell(&refusal(&error), &[]);
            }
        }
        let guarded = lease.egress.as_mut().map_or(Ok(()), |egress| egress.look(guard, &helper));
        if let Err(error) = guarded.and_then(|()| desk.look(&mut helper, seat))
            && !is_told
        {
            // Control says goodbye and ends; what it prints is the user's last line.
            is_told = true;
            let (exit, text) = (exit_of(error.chain()) as u8, text_of(error.chain()));
            helper.tell(&Tell::Over { exit, text }, &[]);
        }
    }
    desk.end_machine(&mut helper);
    // The order of ends: processes, then what they could send to, then the guest's wire.
    let exit = helper.finish();
    drop(lease);
    exit
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
            Ask::Ready { port, leftovers } if lease.socket.is_none() && !lease.is_shared => {
                let udp = fds.into_iter().next().context("no socket came with the first words")?;
                helper.set_leftovers(leftovers);
                let egress = Egress::open(&udp, port, self.user.0, &self.rules)?;
                let hold = egress.hold()?;
                (lease.egress, lease.socket) = (Some(egress), Some((udp, port)));
                helper.tell(&Tell::Done, &[hold.as_fd()]);
            }
            Ask::Share { leftovers } if lease.socket.is_none() && !lease.is_shared => {
                helper.set_leftovers(leftovers);
                lease.is_shared = true;
                helper.tell(&Tell::Done, &[]);
            }
            Ask::Listen if lease.socket.is_none() && lease.is_shared => {
                let Listening { udp, port, .. } = ports::listen(&[], None)?;
                let udp = OwnedFd::from(udp);
                let egress = Egress::open(&udp, port, self.user.0, &self.rules)?;
                let hold = egress.hold()?;
                (lease.egress, lease.socket) = (Some(egress), Some((udp, port)));
                helper.tell(&Tell::Listening(port), &[hold.as_fd()]);
            }
            Ask::Call(slot) if lease.is_shared => {
                let name = lease::name_of(self.order, slot);
                let called = local::dial(&self.state.socket_path(Kind::Lease, &name))?;
                let fds: Vec<_> = called.iter().map(AsFd::as_fd).collect();
                helper.tell(&Tell::Done, &fds);
            }
            Ask::Dial(addresses) => {
                if let Some(egress) = &mut lease.egress {
                    addresses.iter().take(ADDRESSES_MAX).for_each(|addr| egress.given(*addr));
                }
            }
            Ask::Start if !lease.is_started => {
                let (udp, port) = lease.socket.as_ref().context("no socket yet")?;
                let hold = lease.egress.as_ref().map(Egress::hold).transpose()?;
                let end = helper
                    .start_data_plane(udp, data_plane_user(*port)?, hold.as_ref().map(AsFd::as_fd))
                    .context("the data plane does not start")?;
                lease.is_started = true;
                helper.tell(&Tell::Done, &[end.as_fd()]);
            }
            Ask::Plug(wiring) if !lease.is_plugged => {
                check(&wiring)?;
                let port = lease.socket.as_ref().map(|(_, port)| *port);
                if port.is_none() && !lease.is_shared {
                    bail!("the control process asks out of turn");
                }
                lease.is_plugged = true;
                let cable = self.seat.plug(&wiring, port)?;
                helper.tell(&Tell::Done, &[cable.as_fd()]);
                if let Some(machine) = self.seat.machine() {
                    let started = machine.start()?;
                    tell_started(helper, &started);
                }
            }
            Ask::Follow(wiring) if lease.is_plugged => {
                check(&wiring)?;
                // A wire that cannot follow has its links down: the lease ends.
                self.seat.follow(&wiring)?;
            }
            Ask::Open if lease.is_plugged => {
                self.seat.open()?;
                helper.tell(&Tell::Done, &[]);
            }
            Ask::Proven(addr) => {
                if let Some(egress) = &mut lease.egress {
                    egress.proven(addr);
                }
            }
            Ask::Joined(addr) => {
                if let Some(egress) = &mut lease.egress {
                    egress.joined(addr);
                }
            }
            Ask::Alive(addrs) => {
                if let Some(egress) = &mut lease.egress {
                    egress.alive(addrs);
                }
            }
            Ask::Counts if lease.is_plugged => {
                helper.tell(&Tell::Counts(self.seat.counts()?), &[]);
            }
            Ask::EndMachine => {
                if let Some(machine) = self.seat.machine() {
                    machine.ask_to_end(clock::now());
                }
            }
            Ask::Unplug => {
                self.end_machine(helper);
                self.seat = Seat::Gone;
            }
            Ask::Keep => helper.keep(),
            Ask::Forget => helper.forget(),
            Ask::Ready { .. }
            | Ask::Share { .. }
            | Ask::Listen
            | Ask::Call(_)
            | Ask::Start
            | Ask::Plug(_)
            | Ask::Follow(_)
            | Ask::Open
            | Ask::Counts => bail!("the control process asks out of turn"),
        }
        Ok(())
    }

    /// Looks at what may have ended; an error ends the lease.
    fn look(&mut self, helper: &mut Helper, heard: bool) -> anyhow::Result<()> {
        self.seat.look(heard, clock::now())?;
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
        && wiring.routes.len() <= ROUTES_MAX
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
