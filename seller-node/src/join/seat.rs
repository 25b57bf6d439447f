//! The guest's end of the cable: its namespace and the interface in it.

use std::os::fd::OwnedFd;

use overlay_proto::grant::Grant;
use overlay_proto::order::Config;
use vde_attach::link::{self, Link, Place};
use vde_attach::netns::Netns;
use vde_attach::tap::{IfName, Tap, TapOptions};

use crate::args::{self, Attach};

/// Where a guest is plugged in. Its interface is gone when the data plane closes its descriptor.
#[derive(Debug)]
pub(crate) struct Seat {
    netns: Netns,
    name: IfName,
    mtu: u16,
}

impl Seat {
    /// Finds the namespace, which has nothing in it.
    pub(crate) fn find(place: &args::Place) -> anyhow::Result<Self> {
        let Attach::Netns(netns) = &place.attach;
        let netns = Netns::open(netns)?;
        netns.check_empty()?;
        Ok(Self { netns, name: place.ifname.clone(), mtu: 0 })
    }

    /// Says where it is, for people.
    pub(crate) fn words(&self) -> String {
        format!("{} in netns {}", self.name, self.netns.name())
    }

    /// Makes the guest's interface, with what the grant says.
    pub(crate) fn plug(&mut self, grant: &Grant, config: &Config) -> anyhow::Result<OwnedFd> {
        let interface = Link {
            name: self.name.clone(),
            mac: grant.station.mac,
            ipv4: (grant.station.ipv4, config.segment.ipv4.1),
            ipv6: (grant.station.ipv6, config.segment.ipv6.1),
            mtu: config.segment.mtu,
            place: Place::Guest,
        };
        let fd = self.netns.run(|| -> anyhow::Result<OwnedFd> {
            let tap = Tap::open(&interface.name, TapOptions::default())?;
            interface.configure()?;
            Ok(tap.into_fd())
        })??;
        self.mtu = config.segment.mtu;
        Ok(fd)
    }

    /// Follows a config whose MTU changed; connections over the interface live on.
    pub(crate) fn follow(&mut self, config: &Config) -> anyhow::Result<()> {
        let mtu = config.segment.mtu;
        if mtu != self.mtu {
            self.netns.run(|| link::set_mtu(&self.name, mtu))??;
            self.mtu = mtu;
        }
        Ok(())
    }
}
