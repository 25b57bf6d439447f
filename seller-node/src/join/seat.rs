//! The guest's end of the cable, by how it is plugged in.

mod host_tap;
mod netns;
mod stream;
mod vm;

use std::io::Write;
use std::os::fd::OwnedFd;

use overlay::preflight::Need;
use overlay_proto::addressing;
use overlay_proto::grant::Grant;
use overlay_proto::order::Config;
use overlay_proto::ticket::Ticket;
use vde_attach::wire::WireSpec;

use self::host_tap::HostTapSeat;
use self::netns::NetnsSeat;
use self::stream::SocketSeat;
pub(crate) use self::vm::{VmEvent, VmSeat};
use crate::args::{Attach, Place};

/// Where a guest is plugged in. What it has made is gone when it is dropped, after the data plane.
#[derive(Debug)]
pub(crate) enum Seat {
    /// In a network namespace.
    Netns(NetnsSeat),
    /// At a tap that somebody else's hypervisor holds.
    HostTap(Box<HostTapSeat>),
    /// At a unix socket.
    Stream(SocketSeat),
    /// In a virtual machine that this program runs.
    Vm(Box<VmSeat>),
}

impl Seat {
    /// Returns what this host must have for a kind of attachment.
    pub(crate) fn needs(attach: &Attach) -> &'static [Need] {
        match attach {
            Attach::Netns(_) => &[Need::Root, Need::Ip, Need::Tun],
            Attach::Tap(_) => &[Need::Root, Need::Ip, Need::Nft, Need::Tun],
            Attach::Stream(_) => &[Need::Root],
        }
    }

    /// Finds the place and checks that it can hold the guest of a ticket; nothing is made yet.
    pub(crate) fn find(place: &Place, ticket: &Ticket) -> anyhow::Result<Self> {
        let mac = addressing::mac(ticket.order(), ticket.body().slot);
        match &place.attach {
            Attach::Netns(name) => Ok(Self::Netns(NetnsSeat::find(name, &place.ifname)?)),
            Attach::Tap(name) => Ok(Self::HostTap(Box::new(HostTapSeat::find(name, mac)?))),
            Attach::Stream(path) => Ok(Self::Stream(SocketSeat::find(path, mac)?)),
        }
    }

    /// Says where it is, for people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Netns(seat) => seat.words(),
            Self::HostTap(seat) => seat.words(),
            Self::Stream(seat) => seat.words(),
            Self::Vm(seat) => seat.words(),
        }
    }

    /// Plugs the guest in, with what the grant says; returns the data plane's end of the cable.
    pub(crate) fn plug(&mut self, grant: &Grant, config: &Config) -> anyhow::Result<OwnedFd> {
        match self {
            Self::Netns(seat) => seat.plug(grant, config),
            Self::HostTap(seat) => seat.plug(grant, config),
            Self::Stream(seat) => seat.plug(config),
            Self::Vm(seat) => seat.plug(grant, config),
        }
    }

    /// Follows a config whose MTU or networks changed; connections over the interface live on.
    pub(crate) fn follow(&mut self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Netns(seat) => seat.follow(config),
            Self::HostTap(seat) => seat.follow(config),
            Self::Stream(seat) => {
                seat.follow(config);
                Ok(())
            }
            Self::Vm(seat) => seat.follow(config),
        }
    }

    /// Looks, once a second, whether the guest can still be there; an error ends the lease.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self {
            Self::HostTap(seat) => seat.check(),
            Self::Vm(seat) => seat.check(),
            // The data plane notices.
            Self::Netns(_) | Self::Stream(_) => Ok(()),
        }
    }

    /// Returns what a machine of ours does next; never, if there is none.
    pub(crate) async fn next(&mut self) -> VmEvent {
        match self {
            Self::Vm(seat) => seat.next().await,
            Self::Netns(_) | Self::HostTap(_) | Self::Stream(_) => std::future::pending().await,
        }
    }

    /// Asks a machine of ours to end.
    pub(crate) fn ask_to_end(&self) {
        match self {
            Self::Vm(seat) => seat.ask_to_end(),
            Self::Netns(_) | Self::HostTap(_) | Self::Stream(_) => {}
        }
    }

    /// Waits for its end, which is near.
    pub(crate) async fn end(&mut self) {
        match self {
            Self::Vm(seat) => seat.end().await,
            Self::Netns(_) | Self::HostTap(_) | Self::Stream(_) => {}
        }
    }
}

/// Returns what a guest's wire is made from.
fn wire_spec(grant: &Grant, config: &Config) -> WireSpec {
    WireSpec { station: grant.station, segment: config.segment, routes: config.routes.clone() }
}

/// Tells the user something that is no event: on stderr, whatever the level of the log.
fn note(text: &str) {
    // With stderr closed nobody is left to be told.
    let _ = writeln!(std::io::stderr(), "overlay-seller: {text}");
}
