//! What can be wrong with a wire that was right.

use std::net::IpAddr;

use crate::netlink::route::Link;
use crate::netns::MADE_BY_KERNEL;

/// What is not as it was made: somebody else's doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// An end was deleted.
    #[error("interface {0} is gone")]
    Gone(String),
    /// An end has another name.
    #[error("interface {0} is called {1:?} now")]
    Renamed(String, String),
    /// An end was put into a bridge or bond.
    #[error("interface {0} was put into {1:?}")]
    Enslaved(String, String),
    /// An end was set up or down, or has other flags or another MTU.
    #[error("interface {0} was changed: {1}")]
    Altered(String, &'static str),
    /// There is an interface that was not.
    #[error("there is another interface, {0:?}")]
    Added(String),
    /// Somebody has an address.
    #[error("there is an address, {0}")]
    Address(IpAddr),
    /// Packets can be sent somewhere.
    #[error("there are {0} routes")]
    Routes(usize),
    /// A switch of the stack was changed.
    #[error("{0} was set to {1:?}")]
    Switch(&'static str, String),
    /// Rules were added, changed or deleted.
    #[error("the rules are not those that were loaded")]
    Rules,
    /// The kernel calls other rules than it did.
    #[error("the rules are not called where they were")]
    Hooks,
    /// Frames have gone past the rules.
    #[error("{0} frames have passed by the rules")]
    Reached(u64),
}

/// An end of a wire as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) link: Link,
}

impl Expected {
    /// Compares the end with what is there now.
    pub(crate) fn compare(&self, now: &[Link]) -> Result<(), Difference> {
        let same = self.compare_place(now)?;
        let altered = |what| Err(Difference::Altered(self.link.name.clone(), what));
        match (same, &self.link) {
            (now, was) if now.is_up != was.is_up => {
                altered(if now.is_up { "it is up" } else { "it is down" })
            }
            (now, was) if now.mtu != was.mtu => altered("it has another MTU"),
            (now, was) if now.no_arp != was.no_arp => altered("it answers ARP"),
            (now, was) if now != was => altered("it is of another kind"),
            _ => Ok(()),
        }
    }

    /// Compares what it is and where, and returns it; its flags may be another's to change.
    pub(crate) fn compare_place<'a>(&self, now: &'a [Link]) -> Result<&'a Link, Difference> {
        let Self { link } = self;
        let name = || link.name.clone();
        let Some(same) = now.iter().find(|other| other.index == link.index) else {
            return Err(Difference::Gone(name()));
        };
        if same.name != link.name {
            return Err(Difference::Renamed(name(), same.name.clone()));
        }
        if let Some(master) = same.master {
            let master = now.iter().find(|other| other.index == master);
            let master = master.map_or_else(|| "another".to_owned(), |link| link.name.clone());
            return Err(Difference::Enslaved(name(), master));
        }
        Ok(same)
    }
}

/// Says which interface is there that is not ours, by index, nor one that the kernel makes in every
/// namespace and nobody has set up.
pub(crate) fn stranger<'a>(now: &'a [Link], ours: &[Option<u32>]) -> Option<&'a Link> {
    let known = |link: &&Link| {
        let silent = MADE_BY_KERNEL.contains(&link.name.as_str()) && !link.is_up;
        silent || ours.contains(&Some(link.index))
    };
    now.iter().find(|link| !known(link))
}
