//! A lab with hosts around one router: where most scenarios play.

use anyhow::Result;

use crate::cast::{Gateway, Guest, Programs};
use crate::lab::{Cable, Host, Lab, Wire};

/// Hosts with a cable each to one router.
#[derive(Debug)]
pub struct Stage {
    /// The lab that owns all of it.
    pub lab: Lab,
    /// The programs that play.
    pub programs: Programs,
    /// What the hosts are connected to: its captures hear every underlay wire.
    pub router: Host,
    hosts: Vec<(Host, Cable)>,
}

impl Stage {
    /// Makes the router and the named hosts.
    ///
    /// # Errors
    /// When the programs are not built, or the lab cannot be made.
    pub fn build(names: &[&str]) -> Result<Self> {
        let programs = Programs::find()?;
        let mut lab = Lab::new()?;
        let router = lab.router("router")?;
        let mut hosts = Vec::new();
        for name in names {
            let host = lab.host(name)?;
            let cable = lab.connect(&host, &router, Wire::P)?;
            hosts.push((host, cable));
        }
        Ok(Self { lab, programs, router, hosts })
    }

    /// Returns the host of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        &self.find(name).0
    }

    /// Returns the cable of the host of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn cable(&self, name: &str) -> &Cable {
        &self.find(name).1
    }

    /// Opens an order at a host.
    ///
    /// # Errors
    /// As [`Gateway::up`].
    pub fn open(&self, buyer: &str, order: &str, args: &[&str]) -> Result<Gateway> {
        Gateway::up(&self.programs, self.host(buyer), order, args)
    }

    /// Makes a guest's namespace and lets a host join it to an order, with a ticket of its own.
    ///
    /// # Errors
    /// As [`Guest::join`].
    pub fn join(&mut self, gateway: &Gateway, seller: &str, seat: &str) -> Result<Guest> {
        let ticket = gateway.invite_file()?;
        let seat = self.lab.guest(seat)?;
        Guest::join(&self.programs, self.host(seller), &seat, &ticket, &[])
    }

    fn find(&self, name: &str) -> &(Host, Cable) {
        let found = self.hosts.iter().find(|(host, _)| host.name() == name);
        found.expect("a scenario names only hosts that it has built")
    }
}
