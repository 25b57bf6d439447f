//! The rules of one cable, loaded, read back and counted.

use super::WireError;
use crate::nft::{self, Counts, Nft};
use crate::rules::{Cable, Ruleset, stack};
use crate::wire::spec::WireSpec;

/// How much of a namespace's rules is the cable's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All: nobody else has any.
    Namespace,
    /// The tables of its name: others have theirs.
    Tables,
}

/// The families of a host that have a table of the cable's name.
const FAMILIES: [&str; 3] = ["netdev", stack::HOST_FAMILIES[0].0, stack::HOST_FAMILIES[1].0];

/// A loaded table. All of its work is done in the calling thread's namespace.
#[derive(Debug)]
pub(crate) struct Loaded {
    nft: Nft,
    cable: Cable,
    scope: Scope,
    listing: String,
    hooks: String,
    /// What was counted before the guest spoke.
    before: Counts,
    /// What was counted by rules that have been replaced.
    earlier: Counts,
}

impl Loaded {
    /// Loads the rules and reads them back.
    pub(crate) fn load(
        nft: Nft,
        spec: &WireSpec,
        cable: Cable,
        scope: Scope,
    ) -> Result<Self, WireError> {
        let (before, earlier) = Default::default();
        let (listing, hooks) = Default::default();
        let mut loaded = Self { nft, cable, scope, listing, hooks, before, earlier };
        loaded.put(spec)?;
        Ok(loaded)
    }

    /// Replaces the rules; counts go on.
    pub(crate) fn replace(&mut self, spec: &WireSpec) -> Result<(), WireError> {
        self.earlier = self.counts()?;
        self.before = Counts::default();
        self.put(spec)
    }

    fn put(&mut self, spec: &WireSpec) -> Result<(), WireError> {
        let rules = Ruleset::new(spec, &self.cable);
        let beside = match self.scope {
            Scope::Namespace => String::new(),
            Scope::Tables => stack::host_ruleset(&self.cable),
        };
        self.nft.load(&format!("{beside}{rules}"))?;
        let listing = self.nft.list_table("netdev", &self.cable.table)?.unwrap_or_default();
        let shape = rules.shape().map(|(chain, rules)| (chain.to_owned(), rules));
        if !nft::shape(&listing).into_iter().eq(shape) {
            return Err(WireError::Unlike);
        }
        self.listing = self.list()?;
        self.hooks = self.nft.hooks()?;
        Ok(())
    }

    fn list(&self) -> Result<String, WireError> {
        Ok(match self.scope {
            Scope::Namespace => self.nft.list()?,
            Scope::Tables => {
                let mut all = String::new();
                for family in FAMILIES {
                    let table = self.nft.list_table(family, &self.cable.table)?;
                    all.push_str(&table.unwrap_or_default());
                }
                all
            }
        })
    }

    /// Says whether the rules are those that were loaded.
    pub(crate) fn is_listed(&self) -> Result<bool, WireError> {
        Ok(self.list()? == self.listing)
    }

    /// Says whether the kernel calls them where it did. Others' hooks change as they like.
    pub(crate) fn is_hooked(&self) -> Result<bool, WireError> {
        Ok(match self.scope {
            Scope::Namespace => self.nft.hooks()? == self.hooks,
            Scope::Tables => {
                let now = self.nft.hooks()?;
                let word = format!(" {} ", self.cable.table);
                let own = |text: &str| text.lines().filter(|l| l.contains(&word)).count();
                own(&now) == own(&self.hooks)
            }
        })
    }

    /// Forgets what was counted so far.
    pub(crate) fn start_counting(&mut self) -> Result<(), WireError> {
        self.before = self.nft.counts(&self.cable.table)?;
        Ok(())
    }

    /// Returns what was counted since, by rules that have been replaced, too.
    pub(crate) fn counts(&self) -> Result<Counts, WireError> {
        let mut counts = self.nft.counts(&self.cable.table)?;
        for (stop, count) in &mut counts {
            let before = self.before.get(stop).copied().unwrap_or_default();
            let earlier = self.earlier.get(stop).copied().unwrap_or_default();
            count.packets = count.packets.saturating_sub(before.packets) + earlier.packets;
            count.bytes = count.bytes.saturating_sub(before.bytes) + earlier.bytes;
        }
        Ok(counts)
    }

    /// Returns how many frames have reached the stack past the rules.
    pub(crate) fn reached(&self) -> Result<u64, WireError> {
        let mut count = 0;
        match self.scope {
            Scope::Namespace => count += self.nft.count_all(stack::REACHED, None)?,
            Scope::Tables => {
                for (family, _) in stack::HOST_FAMILIES {
                    let table = Some((family, &self.cable.table));
                    count += self.nft.count_all(stack::REACHED, table)?;
                }
            }
        }
        Ok(count)
    }

    /// Deletes a host's tables.
    pub(crate) fn delete(&self) -> Result<(), WireError> {
        Ok(self.nft.delete(&FAMILIES, &self.cable.table)?)
    }
}
