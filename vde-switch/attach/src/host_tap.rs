//! A tap that somebody else's hypervisor holds: looked at, taken out of the host's network, and
//! joined to a tap of our own by the guest's rules.
//!
//! # Theory of operation
//! A tap has one descriptor, and the hypervisor has it. So ours stands beside it, and the two are
//! joined by [`crate::rules`], in the host's own namespace: the host's stack sees no frame of
//! either, and what the host itself would say by the hypervisor's tap ends at a rule of its own.
//! Behind these stand tables of other families that drop what comes in by the two names, should
//! the first ever be gone.
//! Nobody can try the wire through a descriptor that another holds, so the canaries are sent first
//! through a [`LeaseWire`] of the same guest, whose rules are the same.
//!
//! Our tap is named after the index of theirs: a second program that serves the same tap finds the
//! name taken. It goes with its descriptor, also after a kill; the table stays then, which keeps
//! the guest from the host, and is replaced by the next. At a regular end the hypervisor's tap is
//! set down before the table goes.
//!
//! [`HostTap::check`] compares with what was made: both taps, their addresses, the rules. On a
//! difference the hypervisor's tap goes down, then ours, then it is said.
//!
//! # Limits
//! The host keeps its power over the interface: who is root may put it into a bridge or give it an
//! address, and the guest is unplugged for it; a packet socket of his can listen, and cannot speak.
//! Whoever flushes all rules of the host opens the tap to the host's stack until it is noticed:
//! the kernel tells at once by [`HostTap::watch_fds`], and not by itself. A hypervisor that deletes
//! its tap and makes it again has ended the lease; of a kernel before 6.13, which forgets the
//! chain with the interface, the new tap has the tables behind alone, until they go. What the guest
//! sends reaches the host's kernel first, virtio-net header and all.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::netlink::generation::Rules;
use crate::netlink::route::{Change, Link, Links};
use crate::netns::run_in;
use crate::nft::{Counts, Nft};
use crate::rules::{Cable, Place, TableName};
use crate::sysctl;
use crate::tap::{IfName, Tap, TapError, TapOptions};
use crate::wire::difference::{Difference, Expected};
use crate::wire::loaded::{Loaded, Scope};
use crate::wire::{GuestEnd, LeaseWire, WireError, WireSpec};

/// A tap of the host that may be joined.
#[derive(Debug)]
pub struct HostTap {
    name: IfName,
    /// The hypervisor's.
    theirs: Link,
    own: IfName,
    netns: File,
    links: Links,
    rules: Rules,
    joined: Option<Joined>,
}

/// What is undone at the end.
#[derive(Debug)]
struct Joined {
    loaded: Loaded,
    generation: u32,
    /// The hypervisor's and ours.
    ends: [Expected; 2],
    /// What the hypervisor's tap had before.
    ipv6: Option<String>,
}

impl HostTap {
    /// Finds a tap of the calling thread's namespace and checks that it is nobody else's.
    ///
    /// # Errors
    /// [`HostTapError`] says what is in the way.
    pub fn find(name: &IfName) -> Result<Self, HostTapError> {
        let netns = File::open("/proc/thread-self/ns/net").map_err(WireError::Namespace)?;
        let mut links = Links::open_among_others().map_err(WireError::Netlink)?;
        let rules = Rules::open().map_err(WireError::Netlink)?;
        let list = links.list().map_err(WireError::Netlink)?;
        let theirs = list.iter().find(|link| link.name == name.as_str());
        let theirs = theirs.ok_or_else(|| HostTapError::Missing(name.clone()))?.clone();
        let addresses = links.addresses().map_err(WireError::Netlink)?;
        look(&theirs, name, &list, &addresses)?;
        let own = IfName::fit(&format!("ovlt-{}", theirs.index));
        if list.iter().any(|link| link.name == own.as_str()) {
            return Err(HostTapError::InUse(name.clone()));
        }
        let joined = None;
        Ok(Self { name: name.clone(), theirs, own, netns, links, rules, joined })
    }

    /// Returns the tap's name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        &self.name
    }

    /// Joins the tap to one of our own by the rules of a guest, brings both up and returns ours.
    ///
    /// # Errors
    /// [`HostTapError`]; nothing is left behind.
    pub fn join(&mut self, spec: &WireSpec) -> Result<Tap, HostTapError> {
        LeaseWire::open(spec, GuestEnd::Tap)?;
        let Self { name, theirs, own, links, .. } = &mut *self;
        let list = links.list().map_err(WireError::Netlink)?;
        if !list.iter().any(|link| link.index == theirs.index && link.name == theirs.name) {
            return Err(HostTapError::Gone(name.clone()));
        }
        let addresses = links.addresses().map_err(WireError::Netlink)?;
        look(theirs, name, &list, &addresses)?;
        let cable = Cable {
            table: TableName::of(name),
            guest: name.clone(),
            data: own.clone(),
            place: Place::Host,
        };
        let (name, own) = (name.clone(), own.clone());
        let (ours, loaded, ipv6) = run_in(self.netns.as_fd(), || {
            let ours = Tap::open(&own, TapOptions::default()).map_err(|error| match error {
                TapError::Exists(_) => HostTapError::InUse(name.clone()),
                error => WireError::Tap(error).into(),
            })?;
            silence(&own, "1").map_err(WireError::Switch)?;
            // Before either is up: no frame passes that the rules have not seen.
            let loaded = Loaded::load(Nft::default(), spec, cable, Scope::Tables)?;
            let ipv6 = sysctl::get(&ipv6_switch(&name));
            silence(&name, "1").map_err(WireError::Switch)?;
            Ok::<_, HostTapError>((ours, loaded, ipv6))
        })
        .map_err(WireError::Namespace)??;
        let found = self.links.find(&self.own).map_err(WireError::Netlink)?;
        let found = found.ok_or_else(|| Difference::Gone(self.own.to_string()))?;
        let ends = [Expected { link: self.theirs.clone() }, Expected { link: found }];
        let generation = 0;
        self.joined = Some(Joined { loaded, generation, ends, ipv6 });
        self.set(Some(true), Some(spec.segment.mtu))?;
        self.check()?;
        Ok(ours)
    }

    /// Follows an order whose MTU or networks have changed; connections live on.
    ///
    /// # Errors
    /// [`HostTapError`]; the guest is unplugged then.
    pub fn retarget(&mut self, spec: &WireSpec) -> Result<(), HostTapError> {
        spec.check()?;
        let Some(joined) = &mut self.joined else { return Ok(()) };
        let replaced = run_in(self.netns.as_fd(), || joined.loaded.replace(spec));
        let replaced = replaced.map_err(WireError::Namespace).and_then(|result| result);
        if let Err(error) = replaced.and_then(|()| self.set(None, Some(spec.segment.mtu))) {
            self.down();
            return Err(error.into());
        }
        self.check()
    }

    /// Looks whether both taps are there, in no bridge and without addresses, and the rules as they
    /// were loaded; `nft` is run only where the kernel says that there are other rules.
    ///
    /// # Errors
    /// [`HostTapError::Gone`], [`HostTapError::Bridged`], [`HostTapError::Addressed`] or
    /// [`WireError::Changed`]; the guest is unplugged then, also if it could not be looked.
    pub fn check(&mut self) -> Result<(), HostTapError> {
        self.links.heard.drain();
        let heard = self.rules.heard.drain();
        let result = self.look_again(heard);
        if result.is_err() && self.joined.is_some() {
            self.down();
        }
        result
    }

    fn look_again(&mut self, heard: bool) -> Result<(), HostTapError> {
        let list = self.links.list().map_err(WireError::Netlink)?;
        let addresses = self.links.addresses().map_err(WireError::Netlink)?;
        let theirs = Expected { link: self.theirs.clone() };
        match theirs.compare_place(&list) {
            Ok(_) => {}
            Err(Difference::Gone(_)) => return Err(HostTapError::Gone(self.name.clone())),
            Err(Difference::Enslaved(_, bridge)) => {
                return Err(HostTapError::Bridged { name: self.name.clone(), bridge });
            }
            Err(other) => return Err(WireError::Changed(other).into()),
        }
        let Some(joined) = &mut self.joined else { return Ok(()) };
        let [_, ours] = &joined.ends;
        ours.compare(&list).map_err(WireError::Changed)?;
        for end in &joined.ends {
            let own = addresses.iter().find(|(index, _)| *index == end.link.index);
            if let Some((_, address)) = own {
                let (name, address) = (end.link.name.clone(), address.to_string());
                return Err(HostTapError::Addressed { name: IfName::fit(&name), address });
            }
        }
        let generation = self.rules.generation().map_err(WireError::Netlink)?;
        let same = !heard && generation == joined.generation;
        let names = [&self.name, &self.own];
        run_in(self.netns.as_fd(), || {
            for name in names {
                let switch = ipv6_switch(name);
                if let Some(value) = sysctl::get(&switch).filter(|value| value != "1") {
                    return Err(Difference::Switch("disable_ipv6", value).into());
                }
            }
            if !same && !joined.loaded.is_listed()? {
                return Err(Difference::Rules.into());
            }
            if !same && !joined.loaded.is_hooked()? {
                return Err(Difference::Hooks.into());
            }
            if !same && let count @ 1.. = joined.loaded.reached()? {
                return Err(Difference::Reached(count).into());
            }
            Ok::<_, WireError>(())
        })
        .map_err(WireError::Namespace)??;
        joined.generation = generation;
        Ok(())
    }

    /// Returns what becomes readable when something has changed on the host: time for
    /// [`HostTap::check`], which reads it. On a busy host that is often.
    #[must_use]
    pub fn watch_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.heard.as_fd(), self.rules.heard.as_fd()]
    }

    /// Returns what the rules have stopped, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn counters(&self) -> Result<Counts, HostTapError> {
        let Some(joined) = &self.joined else { return Ok(Counts::default()) };
        let counts = run_in(self.netns.as_fd(), || joined.loaded.counts());
        Ok(counts.map_err(WireError::Namespace)??)
    }

    /// Sets both taps; ours is to be found so from then on.
    fn set(&mut self, up: Option<bool>, mtu: Option<u16>) -> Result<(), WireError> {
        let Some(joined) = &mut self.joined else { return Ok(()) };
        for end in joined.ends.iter_mut().rev() {
            let change = Change { up, mtu, no_arp: None };
            self.links.change(end.link.index, change).map_err(WireError::Netlink)?;
            end.link.is_up = up.unwrap_or(end.link.is_up);
            end.link.mtu = mtu.map_or(end.link.mtu, u32::from);
        }
        Ok(())
    }

    /// Unplugs the guest, whatever the taps are called by now; one that is gone is down.
    fn down(&mut self) {
        let ours = self.joined.iter_mut().flat_map(|joined| joined.ends.get_mut(1));
        let mut indexes = vec![self.theirs.index];
        for end in ours {
            end.link.is_up = false;
            indexes.push(end.link.index);
        }
        for index in indexes {
            // It is an error already that is on its way.
            let _ = self.links.down(index);
        }
    }
}

impl Drop for HostTap {
    fn drop(&mut self) {
        let Some(joined) = self.joined.take() else { return };
        // Down: a guest that lives on must not find the host behind its tap now that the rules go.
        // It may be deleted at this very moment, so nothing here is an error.
        let mtu = u16::try_from(self.theirs.mtu).ok();
        let change = Change { up: Some(false), no_arp: None, mtu };
        let _ = self.links.change(self.theirs.index, change);
        let list = self.links.list().unwrap_or_default();
        let now = list.iter().find(|link| link.index == self.theirs.index);
        let _ = run_in(self.netns.as_fd(), || {
            if let (Some(now), Some(value)) = (now, &joined.ipv6) {
                let _ = silence(&IfName::fit(&now.name), value);
            }
            joined.loaded.delete()
        });
    }
}

fn ipv6_switch(name: &IfName) -> String {
    format!("ipv6/conf/{name}/disable_ipv6")
}

/// Absent where the kernel has no IPv6; then there is nothing to switch off.
fn silence(name: &IfName, value: &str) -> io::Result<()> {
    sysctl::set(&ipv6_switch(name), value).map(drop)
}

/// Checks that a tap is one, and nobody's.
fn look(
    link: &Link,
    name: &IfName,
    list: &[Link],
    addresses: &[(u32, IpAddr)],
) -> Result<(), HostTapError> {
    let name = name.clone();
    if !link.is_tap {
        return Err(HostTapError::NoTap(name));
    }
    if let Some(master) = link.master {
        let bridge = list.iter().find(|other| other.index == master);
        let bridge = bridge.map_or_else(|| "a bridge".to_owned(), |link| link.name.clone());
        return Err(HostTapError::Bridged { name, bridge });
    }
    // A link-local address comes by itself, and goes when IPv6 is switched off.
    let given = |(index, address): &&(u32, IpAddr)| {
        let by_itself = match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        *index == link.index && !by_itself
    };
    match addresses.iter().find(given) {
        Some((_, address)) => Err(HostTapError::Addressed { name, address: address.to_string() }),
        None => Ok(()),
    }
}

/// Why a tap of the host cannot hold the guest, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum HostTapError {
    /// There is none.
    #[error(
        "there is no tap named {0} on this host: start the hypervisor that makes it, or make it \
         with `ip tuntap add {0} mode tap vnet_hdr`"
    )]
    Missing(IfName),
    /// It is something else.
    #[error("{0} is no tap: name the tap that the hypervisor holds")]
    NoTap(IfName),
    /// The guest would have a way around the segment.
    #[error("tap {name} is in {bridge}: take it out with `ip link set {name} nomaster`")]
    Bridged {
        /// The tap.
        name: IfName,
        /// What it is in.
        bridge: String,
    },
    /// The guest would speak to the host.
    #[error("tap {name} has the address {address}: remove it with `ip addr flush dev {name}`")]
    Addressed {
        /// The tap.
        name: IfName,
        /// One of its addresses.
        address: String,
    },
    /// Another program like this one has joined it.
    #[error("tap {0} is in use by another overlay-seller")]
    InUse(IfName),
    /// It was deleted while it was joined.
    #[error("tap {0} is gone: has its hypervisor ended?")]
    Gone(IfName),
    /// The two cannot be joined, or somebody has changed what joins them.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<Difference> for HostTapError {
    fn from(difference: Difference) -> Self {
        Self::Wire(difference.into())
    }
}

impl From<crate::wire::SpecError> for HostTapError {
    fn from(error: crate::wire::SpecError) -> Self {
        Self::Wire(error.into())
    }
}

#[cfg(test)]
mod tests;
