//! A guest in a network namespace: a container, or whatever else runs there.

use std::os::fd::OwnedFd;

use vde_attach::link::{self, Link, Place};
use vde_attach::netns::Netns;
use vde_attach::tap::{IfName, Tap, TapOptions};

use crate::helper::ask::Wiring;

/// A namespace and the interface in it, which goes when the data plane closes its descriptor.
#[derive(Debug)]
pub(crate) struct NetnsSeat {
    netns: Netns,
    name: IfName,
    mtu: u16,
}

impl NetnsSeat {
    /// Finds the namespace, which has nothing in it.
    pub(super) fn find(netns: &str, ifname: &IfName) -> anyhow::Result<Self> {
        let netns = Netns::open(netns)?;
        netns.check_empty()?;
        Ok(Self { netns, name: ifname.clone(), mtu: 0 })
    }

    pub(super) fn words(&self) -> String {
        format!("{} in netns {}", self.name, self.netns.name())
    }

    /// Makes the guest's interface, with what the grant says.
    pub(super) fn plug(&mut self, wiring: &Wiring) -> anyhow::Result<OwnedFd> {
        let Wiring { station, segment } = wiring;
        let interface = Link {
            name: self.name.clone(),
            mac: station.mac,
            ipv4: (station.ipv4, segment.ipv4.1),
            ipv6: (station.ipv6, segment.ipv6.1),
            mtu: segment.mtu,
            place: Place::Guest,
        };
        let fd = self.netns.run(|| -> anyhow::Result<OwnedFd> {
            let tap = Tap::open(&interface.name, TapOptions::default())?;
            interface.configure()?;
            Ok(tap.into_fd())
        })??;
        self.mtu = segment.mtu;
        Ok(fd)
    }

    pub(super) fn follow(&mut self, wiring: &Wiring) -> anyhow::Result<()> {
        let mtu = wiring.segment.mtu;
        if mtu != self.mtu {
            self.netns.run(|| link::set_mtu(&self.name, mtu))??;
            self.mtu = mtu;
        }
        Ok(())
    }
}
