//! Joins two interfaces like a cable: what comes in by one goes out by the other, and nowhere else.
//!
//! # Theory of operation
//! One nftables table of family netdev with a chain at each interface's ingress, before the host's
//! own stack, its bridges and its packet filters of other families: the frame is handed to the
//! other interface whole, offloads included, and the stack never sees it. The policy is to drop, so
//! that a frame which cannot be handed on (the other interface is gone) does not fall through to
//! the stack. Tagged frames go first: the kernel takes a VLAN tag off before the chain sees the
//! frame, and a host with VLAN interfaces would otherwise have them fed by the guest.
//!
//! The table replaces one of the same name in one transaction, as a killed program has left it. It
//! is removed when its [`Forward`] is dropped, in the namespace where it was made.
//!
//! # Limits
//! The kernel remembers the far interface by its index: when one of the two is deleted and made
//! again, the table is to be installed again ([`Forward::stands`] tells). Nothing here keeps the
//! host itself from sending into the interfaces: they need no address, no bridge and no IPv6.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::tap::{IF_NAME_LEN_MAX, IfName};

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
    /// # use vde_attach::forward::TableName;
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

/// Returns the rules that join two interfaces, replacing a table of that name.
#[must_use]
pub fn ruleset(table: &TableName, a: &IfName, b: &IfName) -> String {
    let chain = |name: &str, from: &IfName, to: &IfName| {
        format!(
            "  chain {name} {{
    type filter hook ingress device \"{from}\" priority -500; policy drop;
    ether type {{ 8021q, 8021ad }} drop
    fwd to \"{to}\"
  }}
"
        )
    };
    let (from_a, from_b) = (chain("from_a", a, b), chain("from_b", b, a));
    format!(
        "table netdev {table}\ndelete table netdev {table}\n\
         table netdev {table} {{\n{from_a}{from_b}}}\n"
    )
}

/// Two joined interfaces; parted when dropped.
#[derive(Debug)]
pub struct Forward {
    table: TableName,
    /// Names and indexes as they were joined.
    ends: [(IfName, u32); 2],
    /// Where the interfaces are: it may be dropped by a thread that is elsewhere.
    netns: File,
}

impl Forward {
    /// Joins two interfaces of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`ForwardError::Absent`] if one of the two is not there; otherwise the words of `nft`.
    pub fn install(table: TableName, a: &IfName, b: &IfName) -> Result<Self, ForwardError> {
        let netns = File::open("/proc/thread-self/ns/net").map_err(ForwardError::Namespace)?;
        let end = |name: &IfName| match if_nametoindex(name.as_str()) {
            Ok(index) => Ok((name.clone(), index)),
            Err(_) => Err(ForwardError::Absent(name.clone())),
        };
        let ends = [end(a)?, end(b)?];
        nft(&["-f", "-"], &ruleset(&table, a, b))?;
        Ok(Self { table, ends, netns })
    }

    /// Tells whether the table is still there and both interfaces are those that were joined.
    ///
    /// # Errors
    /// When `nft` cannot be run or the namespace cannot be entered.
    pub fn stands(&self) -> Result<bool, ForwardError> {
        let table = self.table.to_string();
        self.inside(|| {
            let same = |(name, index): &(IfName, u32)| {
                if_nametoindex(name.as_str()).is_ok_and(|now| now == *index)
            };
            if !self.ends.iter().all(same) {
                return Ok(false);
            }
            match nft(&["list", "table", "netdev", &table], "") {
                Ok(()) => Ok(true),
                Err(ForwardError::Refused(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Runs in the namespace of the interfaces, on a thread of its own.
    fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, ForwardError> + Send,
    ) -> Result<T, ForwardError> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| ForwardError::Namespace(errno.into()))?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let table = self.table.to_string();
        // Nobody is left to be told; the next start with this name replaces the table.
        let _ = self.inside(|| nft(&["delete", "table", "netdev", &table], ""));
    }
}

/// Runs `nft` in the calling thread's namespace.
fn nft(args: &[&str], script: &str) -> Result<(), ForwardError> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ForwardError::NoNft,
            _ => ForwardError::Run(error),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on stderr, which is read below.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(ForwardError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().next().unwrap_or("no reason given");
    Err(ForwardError::Refused(first.chars().take(200).collect()))
}

/// Why two interfaces are not joined.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// One of them is not there.
    #[error("there is no interface named {0}")]
    Absent(IfName),
    /// The program is not installed.
    #[error("the program `nft` is missing: run `apt-get install nftables`")]
    NoNft,
    /// The program cannot be run.
    #[error("the program `nft` cannot be run")]
    Run(#[source] io::Error),
    /// The program or the kernel refused; its own words.
    #[error("the two interfaces cannot be joined: {0}")]
    Refused(String),
    /// The system refuses the namespace of the interfaces.
    #[error("the network namespace of the interfaces cannot be entered")]
    Namespace(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().expect(text)
    }

    #[test]
    fn the_ruleset_drops_all_that_it_does_not_hand_on() {
        let table = "ovl_x".parse().expect("a name");
        let text = ruleset(&table, &name("tapg"), &name("tapd"));
        assert_eq!(
            text,
            "table netdev ovl_x
delete table netdev ovl_x
table netdev ovl_x {
  chain from_a {
    type filter hook ingress device \"tapg\" priority -500; policy drop;
    ether type { 8021q, 8021ad } drop
    fwd to \"tapd\"
  }
  chain from_b {
    type filter hook ingress device \"tapd\" priority -500; policy drop;
    ether type { 8021q, 8021ad } drop
    fwd to \"tapg\"
  }
}
"
        );
    }

    #[test]
    fn table_names_are_nfts_and_one_for_each_interface() {
        let names =
            ["a", "a.", "a-", "a_", "a__", "a_d", "a.d", "123456789012345", "..............x"];
        let mut tables: Vec<_> = names.iter().map(|one| TableName::of(&name(one))).collect();
        for table in &tables {
            assert!(table.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{table}");
        }
        tables.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        tables.dedup();
        assert_eq!(tables.len(), names.len());
        for bad in ["", "1a", "_a", "a b", "a;", "a\n", "é", &"x".repeat(35)] {
            assert!(bad.parse::<TableName>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn interfaces_that_are_not_there_are_named() {
        let table = "ovl_none".parse().expect("a name");
        let error = Forward::install(table, &name("no-such-tap"), &name("lo"));
        assert!(matches!(error, Err(ForwardError::Absent(_))), "{error:?}");
    }
}
