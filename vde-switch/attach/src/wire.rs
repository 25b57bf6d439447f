//! The wire between a guest and its data plane: a network namespace without a name, an address, a
//! route or an uplink, in which two interfaces are joined by the guest's rules.
//!
//! # Theory of operation
//! [`LeaseWire::open`] makes it in an order in which nothing is ever open that is not yet filtered:
//!
//! 1. the namespace, its loopback down and its stack silenced by switches and by tables that drop
//!    whatever reaches a hook of it;
//! 2. the two ends, down, without ARP: a tap for the data plane, and for the guest a tap whose
//!    descriptor a hypervisor gets, or one side of a pair whose other goes to the guest's own
//!    namespace;
//! 3. the guest's rules ([`crate::rules`]), read back chain by chain;
//! 4. links, addresses, routes and switches, looked at;
//! 5. up, and the canaries ([`crate::canary`]) through it, while nobody else holds an end; down.
//!
//! What is read back is what [`LeaseWire::check`] compares with from then on. The kernel tells by
//! [`LeaseWire::watch_fds`] that a link, an address, a route or a rule has changed. On any
//! difference, and whenever it cannot be looked, all links there go down first; then it is said.
//! Links are taken down by their index and by a socket that was opened at the start: that needs no
//! program, no new descriptor, and no name that somebody may have changed.
//!
//! Kernels before 6.13 forget a chain together with its interface, and a new interface of that name
//! has none. Here that opens nothing: an interface that has no rules is joined to nothing, frames
//! of it end in a stack that drops them, and the missing chain and the other index are differences.
//!
//! # Limits
//! The namespace lives as long as the wire or anybody's descriptor of an end; dropping the wire
//! deletes both ends whoever holds them. The host's kernel parses a tap's virtio-net header before
//! the rules see the frame. Root of the host can do everything to it, and is seen doing it. A guest
//! in a namespace can make its end flap: whoever is woken by it does well to look at most ten times
//! a second.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::canary::{CanaryError, Proof};
use crate::netlink::generation::Rules;
use crate::netlink::route::{Change, Links};
use crate::netns::{Netns, run_in};
use crate::nft::{Counts, Nft, NftError};
use crate::sysctl;
use crate::tap::{IfName, TapError};

mod build;
pub mod difference;
pub(crate) mod loaded;
pub mod ranges;
pub mod spec;

pub use difference::Difference;
use difference::{Expected, stranger};
use loaded::Loaded;
pub use spec::{SpecError, WireSpec};

/// What the guest plugs into.
#[derive(Clone, Copy, Debug)]
pub enum GuestEnd<'a> {
    /// A tap: its descriptor is for a hypervisor.
    Tap,
    /// An interface in a namespace of its own, of this name: whoever made the wire configures it
    /// there, with [`crate::link::Link`].
    Netns {
        /// Where.
        netns: &'a Netns,
        /// What it is called there.
        name: &'a IfName,
    },
}

/// The descriptors of a wire's ends. Neither blocks, and each frame has a virtio-net header of
/// [`VNET_HDR_LEN`](crate::tap::VNET_HDR_LEN) bytes in front.
#[derive(Debug)]
pub struct Ends {
    /// For the hypervisor; none where the guest has an interface.
    pub guest: Option<OwnedFd>,
    /// For the data plane.
    pub data: OwnedFd,
}

/// A guest's wire; gone when dropped.
#[derive(Debug)]
pub struct LeaseWire {
    netns: File,
    links: Links,
    rules: Rules,
    loaded: Loaded,
    /// The guest's end and the data plane's.
    ends: [Expected; 2],
    switches: sysctl::Present,
    generation: u32,
    proof: Proof,
}

impl LeaseWire {
    /// Makes a wire and proves that it stops what it must and lets pass what it must. Its links are
    /// down: [`LeaseWire::up`] is for when the guest may speak.
    ///
    /// # Errors
    /// [`WireError`] says what is in the way; nothing is left then.
    pub fn open(spec: &WireSpec, guest: GuestEnd<'_>) -> Result<(Self, Ends), WireError> {
        Self::open_with(Nft::default(), spec, guest)
    }

    fn open_with(
        nft: Nft,
        spec: &WireSpec,
        guest: GuestEnd<'_>,
    ) -> Result<(Self, Ends), WireError> {
        spec.check()?;
        // On a thread of its own: a namespace is a property of the thread that made it.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nft.check()?;
                unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                    nix::Error::EPERM => WireError::Privilege,
                    errno => WireError::Namespace(errno.into()),
                })?;
                build::open(nft, spec, guest)
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets frames through.
    ///
    /// # Errors
    /// [`WireError`]; all is down then.
    pub fn up(&mut self) -> Result<(), WireError> {
        self.check()?;
        self.or_down(|wire| wire.set_up())
    }

    fn set_up(&mut self) -> Result<(), WireError> {
        // The far end first, so that no frame is lost between the two.
        for end in self.ends.iter_mut().rev() {
            let change = Change { up: Some(true), ..Change::default() };
            self.links.change(end.link.index, change).map_err(WireError::Netlink)?;
            end.link.is_up = true;
        }
        Ok(())
    }

    /// Takes both ends down, and whatever else is there.
    ///
    /// # Errors
    /// [`WireError::Netlink`], if a link is there that cannot be taken down.
    pub fn down(&mut self) -> Result<(), WireError> {
        let mut result = Ok(());
        for end in &mut self.ends {
            end.link.is_up = false;
        }
        let ends = self.ends.iter().map(|end| end.link.index).collect();
        // A list that cannot be read must not keep the two from going down.
        let all = match self.links.list() {
            Ok(list) => list.iter().map(|link| link.index).collect(),
            Err(error) => {
                result = Err(error);
                ends
            }
        };
        let all: Vec<u32> = all;
        for index in all {
            match self.links.down(index) {
                // One that has gone meanwhile is down.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => result = Err(error),
                Ok(()) => {}
            }
        }
        result.map_err(WireError::Netlink)
    }

    /// Follows an order whose MTU or networks have changed: the rules are replaced in one step and
    /// read back, the counts go on, and connections live on.
    ///
    /// # Errors
    /// [`WireError`]; all is down then.
    pub fn retarget(&mut self, spec: &WireSpec) -> Result<(), WireError> {
        spec.check()?;
        self.or_down(|wire| {
            wire.look_at_links()?;
            wire.inside(|wire| wire.loaded.replace(spec))?;
            wire.generation = wire.rules.generation().map_err(WireError::Netlink)?;
            let mtu = spec.segment.mtu;
            for end in &mut wire.ends {
                let change = Change { mtu: Some(mtu), ..Change::default() };
                wire.links.change(end.link.index, change).map_err(WireError::Netlink)?;
                end.link.mtu = mtu.into();
            }
            Ok(())
        })?;
        self.check()
    }

    /// Compares everything with how it was made: links, addresses, routes, switches, rules, hooks.
    /// Runs `nft` three times.
    ///
    /// # Errors
    /// [`WireError::Changed`] names the difference; all is down then, also if it could not be
    /// looked.
    pub fn check(&mut self) -> Result<(), WireError> {
        self.or_down(|wire| {
            wire.links.heard.drain();
            wire.rules.heard.drain();
            wire.look_at_links()?;
            wire.inside(|wire| {
                wire.look_at_switches()?;
                wire.look_at_rules()
            })
        })
    }

    /// The same, but for the rules where the kernel says that they are of the same generation: some
    /// hundred microseconds, for a look each second.
    ///
    /// # Errors
    /// As [`LeaseWire::check`].
    pub fn glance(&mut self) -> Result<(), WireError> {
        self.or_down(|wire| {
            wire.links.heard.drain();
            let heard = wire.rules.heard.drain();
            wire.look_at_links()?;
            let generation = wire.rules.generation().map_err(WireError::Netlink)?;
            wire.inside(|wire| {
                wire.look_at_switches()?;
                let same = !heard && generation == wire.generation;
                if same { Ok(()) } else { wire.look_at_rules() }
            })?;
            wire.generation = generation;
            Ok(())
        })
    }

    /// Returns what becomes readable when something has changed there: time for
    /// [`LeaseWire::check`] or [`LeaseWire::glance`], which read it.
    #[must_use]
    pub fn watch_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.heard.as_fd(), self.rules.heard.as_fd()]
    }

    /// Returns what the rules have stopped since the guest was plugged in, by name.
    ///
    /// # Errors
    /// [`WireError`], when they cannot be read.
    pub fn counters(&mut self) -> Result<Counts, WireError> {
        self.inside(|wire| wire.loaded.counts())
    }

    /// Returns what the canaries have shown.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Returns the namespace, for whoever watches it from outside.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    fn look_at_links(&mut self) -> Result<(), WireError> {
        self.look_at_links_beside(None)
    }

    /// The same, while the other side of a pair is still here.
    fn look_at_links_beside(&mut self, far: Option<u32>) -> Result<(), WireError> {
        let links = self.links.list().map_err(WireError::Netlink)?;
        let [guest, data] = &self.ends;
        guest.compare(&links)?;
        data.compare(&links)?;
        let ours = [Some(guest.link.index), Some(data.link.index), far];
        if let Some(link) = stranger(&links, &ours) {
            return Err(Difference::Added(link.name.clone()).into());
        }
        let addresses = self.links.addresses().map_err(WireError::Netlink)?;
        if let Some((_, address)) = addresses.first() {
            return Err(Difference::Address(*address).into());
        }
        match self.links.route_count().map_err(WireError::Netlink)? {
            0 => Ok(()),
            count => Err(Difference::Routes(count).into()),
        }
    }

    fn look_at_switches(&mut self) -> Result<(), WireError> {
        match sysctl::check(&mut self.switches).map_err(WireError::Switch)? {
            Ok(()) => Ok(()),
            Err(sysctl::Changed { name, value }) => Err(Difference::Switch(name, value).into()),
        }
    }

    fn look_at_rules(&self) -> Result<(), WireError> {
        if !self.loaded.is_listed()? {
            return Err(Difference::Rules.into());
        }
        if !self.loaded.is_hooked()? {
            return Err(Difference::Hooks.into());
        }
        match self.loaded.reached()? {
            0 => Ok(()),
            count => Err(Difference::Reached(count).into()),
        }
    }

    /// Takes all down if something fails; what failed is what is said.
    fn or_down(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let result = work(self);
        if result.is_err() {
            let _ = self.down();
        }
        result
    }

    /// Runs in the wire's namespace, on a thread of its own.
    fn inside<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, WireError> + Send,
    ) -> Result<T, WireError> {
        let netns = self.netns.try_clone().map_err(WireError::Namespace)?;
        run_in(netns.as_fd(), || work(self)).map_err(WireError::Namespace)?
    }
}

impl Drop for LeaseWire {
    fn drop(&mut self) {
        // Nobody is left to be told. What cannot be deleted is at least down, and goes with the
        // namespace when its last descriptor is closed.
        let _ = self.down();
        for end in &self.ends {
            let _ = self.links.delete(end.link.index);
        }
    }
}

/// Why there is no wire, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not root.
    #[error("making a guest's network needs root: run it with sudo")]
    Privilege,
    /// The system refuses the namespace.
    #[error("the guest's network namespace cannot be made or entered")]
    Namespace(#[source] io::Error),
    /// The kernel does not answer about links or rules, or does not change them.
    #[error("the links of the guest's network namespace cannot be seen or changed")]
    Netlink(#[source] io::Error),
    /// A switch of the stack cannot be set.
    #[error("the stack in the guest's network namespace cannot be silenced")]
    Switch(#[source] io::Error),
    /// No tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// No pair of interfaces.
    #[error("this kernel makes no pair of interfaces: it lacks veth (CONFIG_VETH)")]
    Pair(#[source] io::Error),
    /// The guest's interface cannot go where it should.
    #[error("interface {name} cannot be moved into network namespace {netns}")]
    Move {
        /// What it should be called.
        name: IfName,
        /// Where it should go.
        netns: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No rules.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// What was loaded is not what is listed.
    #[error("the guest's rules do not read back as they were loaded")]
    Unlike,
    /// The rules do not do what they must.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// Somebody has changed it; its links are down.
    #[error("the guest's wire was changed: {0}")]
    Changed(#[from] Difference),
}

#[cfg(test)]
mod tests;
