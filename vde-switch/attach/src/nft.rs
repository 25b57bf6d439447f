//! The program `nft`: loads rulesets, lists them, reads counters, and says what a kernel lacks.
//!
//! All of it happens in the network namespace of the calling thread, by one run of the program
//! each.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use crate::rules::{Stop, TableName};

/// Oldest version that is spoken to: the first that lists hooks and compares what the rules
/// compare. 1.0.6 is the oldest that they have been tried with.
const VERSION_MIN: [u32; 3] = [1, 0, 0];

/// Longest text of the program's that is repeated, in characters.
const WORDS_LEN_MAX: usize = 200;

/// What the rules need of a kernel: its name, the family and the chain that ask for it alone.
const FEATURES: [(&str, &str, &str); 8] = [
    ("tables of family netdev (CONFIG_NF_TABLES_NETDEV)", "netdev", INGRESS),
    ("rules that hand frames to an interface (CONFIG_NFT_FWD_NETDEV)", "netdev", "fwd to \"lo\""),
    ("counters", "netdev", "counter name \"n\""),
    ("rates (CONFIG_NFT_LIMIT)", "netdev", "limit rate over 5/second drop"),
    ("maps of ranges", "netdev", "ip saddr vmap { 10.0.0.0/8 : drop, 11.0.0.1 : drop }"),
    ("extension headers in rules", "netdev", "exthdr frag exists drop"),
    ("tables of family inet (CONFIG_NF_TABLES_INET)", "inet", INPUT),
    ("tables of family arp (CONFIG_NF_TABLES_ARP)", "arp", INPUT),
];
const INGRESS: &str = "type filter hook ingress device \"lo\" priority -500; policy drop;";
const INPUT: &str = "type filter hook input priority -500; policy drop;";

/// What only a cable among the host's own interfaces needs.
const EGRESS: (&str, &str, &str) = (
    "the hook egress of family netdev (CONFIG_NETFILTER_EGRESS, Linux 5.16)",
    "netdev",
    "type filter hook egress device \"lo\" priority -500; policy drop;",
);

/// Packets and bytes that a counter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many frames.
    pub packets: u64,
    /// Their bytes, as the kernel counts them.
    pub bytes: u64,
}

/// What the rules of one cable have counted, by name.
pub type Counts = BTreeMap<Stop, Count>;

/// The program, found on the path unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Nft {
    program: OsString,
}

impl Default for Nft {
    fn default() -> Self {
        Self { program: "nft".into() }
    }
}

impl Nft {
    /// Uses another program in its place.
    #[cfg(test)]
    pub(crate) fn at(program: impl Into<OsString>) -> Self {
        Self { program: program.into() }
    }

    /// Checks that the program is there and new enough.
    pub(crate) fn check(&self) -> Result<(), NftError> {
        let words = self.run(&["--version"], "")?;
        match version(&words) {
            Some(version) if version >= VERSION_MIN => Ok(()),
            _ => Err(NftError::TooOld(shorten(words.trim()))),
        }
    }

    /// Loads a ruleset, in one transaction.
    pub(crate) fn load(&self, ruleset: &str) -> Result<(), NftError> {
        let error = match self.run(&["-f", "-"], ruleset) {
            Err(error @ NftError::Refused(_)) => error,
            other => return other.map(drop),
        };
        let egress = ruleset.contains("hook egress").then_some(EGRESS);
        let lacks = |(_, family, chain): &(&str, &str, &str)| {
            let text = format!(
                "table {family} ovl_try {{\n counter n {{ }}\n chain c {{\n{chain}\n}}\n}}\n"
            );
            self.run(&["-c", "-f", "-"], &text).is_err()
        };
        match FEATURES.into_iter().chain(egress).find(lacks) {
            Some((feature, ..)) => Err(NftError::Kernel(feature)),
            None => Err(error),
        }
    }

    /// Loads a ruleset that does without something, and says whether it could.
    pub(crate) fn load_if_known(&self, ruleset: &str) -> Result<bool, NftError> {
        match self.run(&["-f", "-"], ruleset) {
            Ok(_) => Ok(true),
            Err(NftError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists all tables, without what changes by itself.
    pub(crate) fn list(&self) -> Result<String, NftError> {
        self.run(&["-s", "list", "ruleset"], "")
    }

    /// Lists one table, without what changes by itself; `None` if it is not there.
    pub(crate) fn list_table(
        &self,
        family: &str,
        table: &TableName,
    ) -> Result<Option<String>, NftError> {
        match self.run(&["-s", "list", "table", family, &table.to_string()], "") {
            Ok(listing) => Ok(Some(listing)),
            Err(NftError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists what the kernel calls at which device; nothing where it does not say (Linux before
    /// 5.14, or without CONFIG_NETFILTER_NETLINK_HOOK).
    pub(crate) fn hooks(&self) -> Result<String, NftError> {
        match self.run(&["list", "hooks"], "") {
            Err(NftError::Refused(_)) => Ok(String::new()),
            other => other,
        }
    }

    /// Deletes a table of each family, in one transaction; one that is not there stays so.
    pub(crate) fn delete(&self, families: &[&str], table: &TableName) -> Result<(), NftError> {
        let one =
            |family: &&str| format!("table {family} {table}\ndelete table {family} {table}\n");
        let script: String = families.iter().map(one).collect();
        self.run(&["-f", "-"], &script).map(drop)
    }

    /// Reads the named counters of a table.
    pub(crate) fn counts(&self, table: &TableName) -> Result<Counts, NftError> {
        let words = self.run(&["list", "counters", "table", "netdev", &table.to_string()], "")?;
        let known = |(name, count): (&str, Count)| Some((Stop::named(name)?, count));
        Ok(counters(&words).filter_map(known).collect())
    }

    /// Reads all counters of a name together, of whatever table or of a table of one family.
    pub(crate) fn count_all(
        &self,
        name: &str,
        of: Option<(&str, &TableName)>,
    ) -> Result<u64, NftError> {
        let words = match of {
            None => self.run(&["list", "counters"], "")?,
            Some((family, table)) => {
                self.run(&["list", "counters", "table", family, &table.to_string()], "")?
            }
        };
        let all = counters(&words).filter(|(other, _)| *other == name);
        Ok(all.map(|(_, count)| count.packets).sum())
    }

    fn run(&self, args: &[&str], script: &str) -> Result<String, NftError> {
        let mut child = Command::new(&self.program)
            .args(args.iter().map(OsStr::new))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => NftError::Missing,
                _ => NftError::Run(error),
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early says why on stderr, which is read below.
            let _ = stdin.write_all(script.as_bytes());
        }
        let output = child.wait_with_output().map_err(NftError::Run)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Refused(shorten(words.lines().next().unwrap_or("no reason given"))))
    }
}

/// Reads `nftables v1.0.6 (Lester Gooch #5)`.
fn version(words: &str) -> Option<[u32; 3]> {
    let text = words.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut numbers = text.split('.').map_while(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    let first = numbers.next()?;
    Some([first, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)])
}

/// Reads the counters out of a listing: `counter NAME {`, `packets P bytes B`, `}`.
fn counters(listing: &str) -> impl Iterator<Item = (&str, Count)> {
    let mut name = None;
    listing.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["counter", of, "{"] => name = Some(of),
            ["packets", packets, "bytes", bytes] => {
                let count = Count { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? };
                return Some((name.take()?, count));
            }
            _ => {}
        }
        None
    })
}

/// Reads each chain's name and number of rules out of the listing of one table.
pub(crate) fn shape(listing: &str) -> Vec<(String, usize)> {
    let mut chains: Vec<(String, usize)> = Vec::new();
    let mut inside = false;
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chains.push((name.to_owned(), 0));
            inside = true;
        } else if line == "}" {
            inside = false;
        } else if inside
            && !line.is_empty()
            && !line.starts_with("type filter hook ")
            && let Some((_, rules)) = chains.last_mut()
        {
            *rules += 1;
        }
    }
    chains
}

fn shorten(words: &str) -> String {
    words.chars().take(WORDS_LEN_MAX).collect()
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not installed.
    #[error("the program `nft` is missing: run `apt-get install nftables`")]
    Missing,
    /// The program is of another age; what it says of itself.
    #[error("the program `nft` is too old for a guest's rules ({0}): 1.0.0 or newer is needed")]
    TooOld(String),
    /// The program cannot be run.
    #[error("the program `nft` cannot be run")]
    Run(#[source] io::Error),
    /// The kernel lacks something that the rules cannot do without.
    #[error("this kernel cannot confine a guest: it lacks {0}")]
    Kernel(&'static str),
    /// The program or the kernel refused; its own words.
    #[error("the rules for the guest are refused: {0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
