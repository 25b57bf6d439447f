//! What this host must have before anything starts, all that is missing named at once.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;

use vde_attach::tap;

/// One thing a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be run by root.
    Root,
    /// The program `ip`.
    Ip,
    /// The program `nft`.
    Nft,
    /// The device `/dev/net/tun`.
    Tun,
}

/// What was missing, each with its cure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Missing(Vec<Need>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("missing on this host: ")?;
        for (i, need) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            f.write_str(match need {
                Need::Root => "root (run it with sudo)",
                Need::Ip => "the program `ip` (run `apt-get install iproute2`)",
                Need::Nft => "the program `nft` (run `apt-get install nftables`)",
                Need::Tun => "the device /dev/net/tun (run `modprobe tun`)",
            })?;
        }
        Ok(())
    }
}

/// Checks all of them.
///
/// # Errors
/// [`Missing`] names every one that is not there, not only the first.
pub fn check(needs: &[Need]) -> Result<(), Missing> {
    let missing: Vec<_> = needs.iter().copied().filter(|need| !is_there(*need)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

fn is_there(need: Need) -> bool {
    match need {
        Need::Root => nix::unistd::geteuid().is_root(),
        Need::Ip => is_program("ip"),
        Need::Nft => is_program("nft"),
        Need::Tun => !matches!(tap::check_device(), Err(tap::TapError::NoDevice)),
    }
}

fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| {
        folder
            .join(name)
            .metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_said_in_one_sentence() {
        let text = Missing(vec![Need::Root, Need::Nft]).to_string();
        assert_eq!(
            text,
            "missing on this host: root (run it with sudo), the program `nft` (run `apt-get \
             install nftables`)"
        );
    }

    #[test]
    fn programs_are_looked_for_on_the_path() {
        assert!(is_program("sh") && !is_program("no-such-program-here"));
    }
}
