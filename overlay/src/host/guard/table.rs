//! The table as a whole: made, listed, tried in a namespace of its own, removed.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::elements::Script;
use super::{GuardError, TABLE, ruleset};
use crate::host::nft::{self, NftError};

pub(super) fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Begins a script that makes the table, in exchange for any that stands.
pub(super) fn anew() -> Script {
    Script::after(removal() + &ruleset::ruleset())
}

/// Lists the table's rules and sets without elements and counters, `None` if there is no table.
pub(super) fn listing(with_version: bool) -> Result<Option<String>, GuardError> {
    match nft::read(&["-s", "-t", "list", "table", "inet", TABLE]) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_missing() => Ok(None),
        Err(words) if with_version => Err(GuardError::Needs { version: nft::version(), words }),
        Err(error) => Err(error.into()),
    }
}

/// Makes the table in an empty namespace and returns its listing: this `nft` and this kernel know
/// all that is needed, and that is how they put it.
pub(super) fn trial() -> Result<String, GuardError> {
    let needs = |words| GuardError::Needs { version: nft::version(), words };
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| GuardError::Namespace(errno.into()))?;
        match nft::run(&ruleset::ruleset()) {
            Err(NftError::Run(error)) => return Err(NftError::Run(error).into()),
            made => made.map_err(needs)?,
        }
        listing(true)?.ok_or_else(|| needs(NftError::Refused("it keeps no table".into())))
    };
    thread::scope(|scope| scope.spawn(alone).join().expect("the trial has nothing to panic about"))
}
