//! A guest in a network namespace: a container, or whatever else runs there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use vde_attach::link::{self, Link, Place};
use vde_attach::netns::{Netns, NetnsError};
use vde_attach::nft::Counts;
use vde_attach::tap::IfName;
use vde_attach::wire::{GuestEnd, LeaseWire};
use vde_switch::time::Instant;

use super::watch::{Watched, explain};
use crate::helper::ask::Wiring;

/// How often an interface of our name is looked at again, and the pause between two looks: the
/// kernel takes its time to clean up after a killed program.
const LEFT_TRIES: u32 = 60;
const LEFT_INTERVAL: Duration = Duration::from_millis(50);

/// A namespace, the interface in it, and the wire behind that, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct NetnsSeat {
    netns: Netns,
    name: IfName,
    plugged: Option<(Watched, Wiring)>,
}

impl NetnsSeat {
    /// Finds the namespace, which has nothing in it.
    pub(super) fn find(netns: &str, ifname: &IfName) -> anyhow::Result<Self> {
        let netns = Netns::open(netns)?;
        for _ in 0..LEFT_TRIES {
            match netns.check_empty() {
                Err(NetnsError::NotEmpty { interface, .. }) if interface == ifname.as_str() => {
                    thread::sleep(LEFT_INTERVAL);
                }
                _ => break,
            }
        }
        netns.check_empty()?;
        Ok(Self { netns, name: ifname.clone(), plugged: None })
    }

    pub(super) fn words(&self) -> String {
        format!("{} in netns {}", self.name, self.netns.name())
    }

    /// Makes the guest's wire and interface, with what the grant says.
    pub(super) fn plug(&mut self, wiring: &Wiring) -> anyhow::Result<OwnedFd> {
        let Wiring { station, segment, .. } = wiring;
        let interface = Link {
            name: self.name.clone(),
            mac: station.mac,
            ipv4: (station.ipv4, segment.ipv4.1),
            ipv6: (station.ipv6, segment.ipv6.1),
            mtu: segment.mtu,
            place: Place::Guest,
        };
        let guest = GuestEnd::Netns { netns: &self.netns, name: &self.name };
        let (wire, ends) = LeaseWire::open(&wiring.spec(), guest).map_err(explain)?;
        self.netns.run(|| interface.configure())??;
        self.plugged = Some((Watched::new(wire), wiring.clone()));
        Ok(ends.data)
    }

    pub(super) fn open(&mut self) -> anyhow::Result<()> {
        self.plugged.as_mut().map_or(Ok(()), |(wire, _)| wire.open())
    }

    pub(super) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        if let Some((wire, known)) = self.plugged.as_mut().filter(|(_, known)| known != wiring) {
            let mtu = wiring.segment.mtu;
            wire.follow(wiring)?;
            if known.segment.mtu != mtu {
                self.netns.run(|| link::set_mtu(&self.name, mtu))??;
            }
            *known = wiring.clone();
        }
        Ok(())
    }

    pub(super) fn counts(&mut self) -> anyhow::Result<Counts> {
        self.plugged.as_mut().map_or(Ok(Counts::default()), |(wire, _)| wire.counts())
    }

    pub(super) fn fds(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        self.plugged.as_ref().map_or(Vec::new(), |(wire, _)| wire.fds(now))
    }

    pub(super) fn look(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        self.plugged.as_mut().map_or(Ok(()), |(wire, _)| wire.look(heard, now))
    }
}
