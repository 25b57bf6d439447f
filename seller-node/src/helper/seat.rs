//! The guest's end of the cable, by how it is plugged in.

mod host_tap;
mod netns;
pub(crate) mod stream;
mod vm;
pub(crate) mod watch;

use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::bail;
use overlay::preflight::Need;
use overlay_proto::addressing;
use overlay_proto::ticket::Ticket;
use vde_attach::nft::Counts;
use vde_switch::time::Instant;

use self::host_tap::HostTapSeat;
use self::netns::NetnsSeat;
use self::stream::SocketSeat;
pub(crate) use self::vm::{News, VmSeat};
use super::ask::Wiring;
use crate::args::{Attach, Place};

/// Where a guest is plugged in. What it has made is gone when it is dropped, after the data plane.
#[derive(Debug)]
pub(crate) enum Seat {
    /// In a network namespace.
    Netns(Box<NetnsSeat>),
    /// At a tap that somebody else's hypervisor holds.
    HostTap(Box<HostTapSeat>),
    /// At a unix socket.
    Stream(SocketSeat),
    /// In a virtual machine that this program runs.
    Vm(Box<VmSeat>),
    /// Nowhere any more: it has ended.
    Gone,
}

impl Seat {
    /// Returns what this host must have for a kind of attachment.
    pub(crate) fn needs(attach: &Attach) -> &'static [Need] {
        match attach {
            Attach::Netns(_) | Attach::Tap(_) => &[Need::Root, Need::Ip, Need::Nft, Need::Tun],
            Attach::Stream(_) => &[Need::Root, Need::Nft],
        }
    }

    /// Finds the place and checks that it can hold the guest of a ticket; nothing is made yet.
    pub(crate) fn find(place: &Place, ticket: &Ticket) -> anyhow::Result<Self> {
        let mac = addressing::mac(ticket.order(), ticket.body().slot);
        match &place.attach {
            Attach::Netns(name) => Ok(Self::Netns(Box::new(NetnsSeat::find(name, &place.ifname)?))),
            Attach::Tap(name) => Ok(Self::HostTap(Box::new(HostTapSeat::find(name, mac)?))),
            Attach::Stream(path) => Ok(Self::Stream(SocketSeat::find(path, mac)?)),
        }
    }

    /// Says where it is, for people; a machine's process is added by whoever knows it.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Netns(seat) => seat.words(),
            Self::HostTap(seat) => seat.words(),
            Self::Stream(seat) => seat.words(),
            Self::Vm(seat) => seat.words(),
            Self::Gone => "nowhere".to_owned(),
        }
    }

    /// Plugs the guest in; returns the data plane's end of the cable, whose links are down.
    ///
    /// `port` is the lease's UDP port, which makes its users' numbers; `None` if that is another
    /// program's.
    pub(crate) fn plug(&mut self, wiring: &Wiring, port: Option<u16>) -> anyhow::Result<OwnedFd> {
        match self {
            Self::Netns(seat) => seat.plug(wiring),
            Self::HostTap(seat) => seat.plug(wiring),
            Self::Stream(seat) => seat.plug(wiring, port),
            Self::Vm(seat) => seat.plug(wiring),
            Self::Gone => bail!("the guest has ended"),
        }
    }

    /// Follows a segment that changed; connections over the cable live on.
    pub(crate) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        match self {
            Self::Netns(seat) => seat.follow(wiring),
            Self::HostTap(seat) => seat.follow(wiring),
            Self::Stream(seat) => {
                seat.follow(wiring);
                Ok(())
            }
            Self::Vm(seat) => seat.follow(wiring),
            Self::Gone => Ok(()),
        }
    }

    /// Brings the links of the cable up, which has been verified.
    pub(crate) fn open(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Netns(seat) => seat.open(),
            Self::Vm(seat) => seat.open(),
            // Up since it was joined, behind its rules; no link at all.
            Self::HostTap(_) | Self::Stream(_) | Self::Gone => Ok(()),
        }
    }

    /// Returns what the rules of the cable have stopped: reasons and frames.
    pub(crate) fn counts(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let counts = match self {
            Self::Netns(seat) => seat.counts()?,
            Self::HostTap(seat) => seat.counts()?,
            Self::Vm(seat) => seat.counts()?,
            // No kernel, no rules.
            Self::Stream(_) | Self::Gone => Counts::default(),
        };
        let stopped = counts.into_iter().filter(|(_, count)| count.packets > 0);
        Ok(stopped.map(|(stop, count)| (stop.to_string(), count.packets)).collect())
    }

    /// Looks whether the guest is confined and can still be there, `heard` that there is a reason;
    /// an error ends the lease, whose links are down.
    pub(crate) fn look(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        match self {
            Self::Netns(seat) => seat.look(heard, now),
            Self::HostTap(seat) => seat.check(heard, now),
            Self::Stream(seat) => seat.look(now),
            Self::Vm(seat) => seat.watch(heard, now),
            Self::Gone => Ok(()),
        }
    }

    /// Returns what is to be polled: when one of them can be read, [`Seat::look`].
    pub(crate) fn fds(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Netns(seat) => seat.fds(now),
            Self::HostTap(seat) => seat.fds(now),
            Self::Stream(seat) => seat.fds(),
            Self::Vm(seat) => seat.fds(now),
            Self::Gone => Vec::new(),
        }
    }

    /// Returns the machine, if there is one.
    pub(crate) fn machine(&mut self) -> Option<&mut VmSeat> {
        match self {
            Self::Vm(seat) => Some(seat),
            Self::Netns(_) | Self::HostTap(_) | Self::Stream(_) | Self::Gone => None,
        }
    }

    /// Returns how long nothing is due.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        match self {
            Self::Vm(seat) => seat.idle_for(now),
            Self::Stream(seat) => seat.idle_for(now),
            Self::Netns(_) | Self::HostTap(_) | Self::Gone => Duration::MAX,
        }
    }
}

/// Tells the user something that is no event: on stderr, whatever the level of the log.
fn note(text: &str) {
    // With stderr closed nobody is left to be told.
    let _ = writeln!(std::io::stderr(), "overlay-seller: {text}");
}
