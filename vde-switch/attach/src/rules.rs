//! The rules between a guest and its data plane, as text for nft: what may pass, and by which name
//! the rest is counted.
//!
//! # Theory of operation
//! Two interfaces are joined like a cable, by an nftables table of family netdev with a chain at
//! the ingress of each: before the host's own stack, its bridges, and its packet filters of other
//! families. A frame that passes is handed to the other interface whole, offloads included, by
//! `fwd`; both policies are to drop, and nothing is ever accepted, so that no frame goes on to the
//! stack, whatever it is. What the guest says is looked at closely (`guest`, `ip4`, `ip6`), what
//! the data plane says only for shape and destination: it has been judged before.
//!
//! The rules are the second wall. `vde_switch::policy` is the reference for what is legal, and
//! these stop nothing that it admits, but for rates. They stop of the rest what nft can see. Left
//! to the port policy: bytes behind the packet, the length of UDP against IP's, the low bits of a
//! multicast MAC address, what a list of options or of extension headers hides behind its first
//! element, and whether a long TCP or UDP frame is a super-frame.
//!
//! nft compares only bytes that it could load: a rule that would drop does not match a frame that
//! is too short for it. So whatever passes does so by a rule that loads what must be there: the
//! protocol above IP, which the kernel knows only of a packet whose version and lengths are sound,
//! or the last field of a message.
//!
//! Text in a ruleset comes from constants of this module and from the `Display` of addresses,
//! numbers, [`IfName`] and [`TableName`], whose alphabets have no quotes, spaces or signs of nft's.
//!
//! # Limits
//! The rates below, for all that a guest says of a kind. The kernel remembers the far interface by
//! its index: when one is deleted and made again, the table is to be loaded again.
//!
//! Source: nftables 1.0.6; the attack catalogue's rows F01 to F31.

use std::fmt;
use std::str::FromStr;

use crate::tap::{IF_NAME_LEN_MAX, IfName};
use crate::wire::spec::WireSpec;

mod guest;
mod ip4;
mod ip6;
pub mod stack;
mod stops;

pub use stops::{STOPS, Stop};

/// ARP and neighbour discovery of one guest, each: packets a second, and at once. As many as the
/// switch answers.
pub(crate) const NEIGHBOUR_RATE: (u32, u32) = (50, 100);
/// Its DHCP and router solicitations, all together: as many as the switch answers.
pub(crate) const ASK_RATE: (u32, u32) = (5, 10);
/// Its IP packets to groups: as many as the switch floods.
pub(crate) const GROUP_RATE: (u32, u32) = (100, 200);

/// What a frame from the data plane bears on a host's own interfaces, to be told from what the
/// host itself says there: `ovl` and a number.
const DATA_MARK: u32 = 0x6f76_6c02;

/// Longest table name, in bytes: `ovl_` and twice an interface name; the kernel takes 255.
pub const TABLE_NAME_LEN_MAX: usize = 4 + 2 * IF_NAME_LEN_MAX;

/// The name of a table that nft takes unquoted: a letter, then letters, digits and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName(String);

/// A text that is no table name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no table name: a letter, then letters, digits and underscores")]
pub struct TableNameError(String);

impl TableName {
    /// Names the table of an interface: `ovl_` and the name, what nft does not take as `_`.
    ///
    /// Two names that differ only in dots, dashes and underscores would share a table, so those
    /// characters are followed by which one it was.
    ///
    /// ```
    /// # use vde_attach::rules::TableName;
    /// let of = |name: &str| TableName::of(&name.parse().unwrap()).to_string();
    /// assert_eq!(of("vnet0"), "ovl_vnet0");
    /// assert_ne!(of("vm-1"), of("vm.1"));
    /// ```
    #[must_use]
    pub fn of(name: &IfName) -> Self {
        let mut table = "ovl_".to_owned();
        for c in name.as_str().chars() {
            match c {
                '.' => table.push_str("_d"),
                '-' => table.push_str("_m"),
                '_' => table.push_str("__"),
                c => table.push(c),
            }
        }
        Self(table)
    }
}

impl FromStr for TableName {
    type Err = TableNameError;

    fn from_str(text: &str) -> Result<Self, TableNameError> {
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let fits = text.len() <= TABLE_NAME_LEN_MAX
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if starts && fits {
            return Ok(Self(text.to_owned()));
        }
        Err(TableNameError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which two interfaces are joined, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// The table that joins them.
    pub table: TableName,
    /// Where the guest's frames come in.
    pub guest: IfName,
    /// Where the data plane's come in.
    pub data: IfName,
    /// In whose namespace.
    pub place: Place,
}

/// In whose network namespace a cable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In one of its own, where nobody else speaks.
    Lease,
    /// In the host's, whose stack and programs are kept from speaking to the guest.
    Host,
}

/// A table of the rules of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    table: TableName,
    chains: Vec<Chain>,
}

/// Rules that are tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where the kernel starts a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hook {
    at: &'static str,
    device: IfName,
    policy: &'static str,
}

/// One rule: if all of `when` holds, count and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) when: Vec<String>,
    pub(crate) counter: Option<Stop>,
    pub(crate) then: String,
}

impl Ruleset {
    /// Makes the rules of a guest.
    #[must_use]
    pub fn new(spec: &WireSpec, cable: &Cable) -> Self {
        let mut chains = guest::chains(spec, cable);
        chains.extend(ip4::chains(spec));
        chains.extend(ip6::chains(spec));
        Self { table: cable.table.clone(), chains }
    }

    /// Leaves the rates out, to see what the other rules do.
    #[must_use]
    pub fn without_limits(mut self) -> Self {
        for chain in &mut self.chains {
            chain.rules.retain(|rule| !rule.is_limit());
        }
        self
    }

    /// Returns its table.
    #[must_use]
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Returns each chain's name with the number of its rules, as a listing must have them.
    pub fn shape(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.chains.iter().map(|chain| (chain.name, chain.rules.len()))
    }

    /// Returns what its rules count.
    #[must_use]
    pub fn stops(&self) -> Vec<Stop> {
        let used: Vec<Stop> = self.rules().filter_map(|rule| rule.counter).collect();
        STOPS.iter().map(|(stop, ..)| *stop).filter(|stop| used.contains(stop)).collect()
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.iter().flat_map(|chain| &chain.rules)
    }

    #[cfg(test)]
    pub(crate) fn chains_mut(&mut self) -> &mut Vec<Chain> {
        &mut self.chains
    }
}

impl fmt::Display for Ruleset {
    /// As `nft -f` takes it: one transaction, which replaces a table of that name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chains } = self;
        writeln!(f, "table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{")?;
        for stop in self.stops() {
            writeln!(f, "  counter {stop} {{ }}")?;
        }
        for chain in chains {
            write!(f, "{chain}")?;
        }
        f.write_str("}\n")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  chain {} {{", self.name)?;
        if let Some(Hook { at, device, policy }) = &self.hook {
            let hook = format!("type filter hook {at} device \"{device}\" priority -500");
            writeln!(f, "    {hook}; policy {policy};")?;
        }
        for rule in &self.rules {
            writeln!(f, "    {rule}")?;
        }
        f.write_str("  }\n")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.counter.map(|stop| format!("counter name \"{stop}\""));
        let then = Some(self.then.clone()).filter(|then| !then.is_empty());
        let words: Vec<_> = self.when.iter().cloned().chain(counter).chain(then).collect();
        f.write_str(&words.join(" "))
    }
}

impl Rule {
    fn is_limit(&self) -> bool {
        self.when.iter().any(|part| part.starts_with("limit "))
    }
}

/// Building blocks: each takes a condition whose parts are joined by `" and "`.
impl Chain {
    fn new(name: &'static str) -> Self {
        Self { name, hook: None, rules: Vec::new() }
    }

    fn at(name: &'static str, at: &'static str, device: &IfName) -> Self {
        let hook = Some(Hook { at, device: device.clone(), policy: "drop" });
        Self { name, hook, rules: Vec::new() }
    }

    fn rule(mut self, when: &str, counter: Option<Stop>, then: impl Into<String>) -> Self {
        let when = when.split(" and ").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        self.rules.push(Rule { when, counter, then: then.into() });
        self
    }

    /// Frames that match end here, counted.
    fn stop(self, stop: Stop, when: &str) -> Self {
        self.rule(when, Some(stop), "drop")
    }

    /// Frames beyond a rate end here, counted.
    fn limit(self, stop: Stop, (rate, burst): (u32, u32)) -> Self {
        let when = format!("limit rate over {rate}/second burst {burst} packets");
        self.stop(stop, &when)
    }

    /// Whatever has come so far ends here, counted.
    fn rest(self, stop: Stop) -> Self {
        self.stop(stop, "")
    }

    /// Frames that match go on in another chain, and do not come back.
    fn goto(self, when: &str, chain: &str) -> Self {
        self.rule(when, None, format!("goto {chain}"))
    }

    /// Frames that match go through another chain, and come back if it says nothing.
    fn jump(self, when: &str, chain: &str) -> Self {
        self.rule(when, None, format!("jump {chain}"))
    }

    /// Frames that match have passed this chain.
    fn back(self, when: &str) -> Self {
        self.rule(when, None, "return")
    }

    /// Frames go on by the value of a field; others continue here.
    fn fork(self, field: &str, ways: &[(&str, &str)]) -> Self {
        let ways: Vec<_> =
            ways.iter().map(|(value, chain)| format!("{value} : goto {chain}")).collect();
        self.rule(&format!("{field} vmap {{ {} }}", ways.join(", ")), None, "")
    }
}

#[cfg(test)]
mod tests;
