//! Names of orders and guests: what may stand in a host name, a file name and a command line.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes; with a suffix it still fits a 63-byte DNS label.
pub const NAME_LEN_MAX: usize = 32;

/// A name of 1 to 32 of `a-z`, `0-9` and `-`, the hyphen at neither end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Returns the guest name of a slot that was given none: `g1` for slot 1.
    #[must_use]
    pub fn of_guest(slot: crate::control::Slot) -> Self {
        Self(format!("g{}", slot.0))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=NAME_LEN_MAX).contains(&text.len());
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let framed = text.starts_with('-') || text.ends_with('-');
        if fits && text.bytes().all(known) && !framed {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError(text.chars().take(NAME_LEN_MAX + 8).collect()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: use 1 to {NAME_LEN_MAX} of a-z, 0-9 and '-', with no '-' at either end"
)]
pub struct NameError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_a_host_name_is_a_name() {
        for name in ["a", "g1", "farm-2", &"x".repeat(32)] {
            assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
        }
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a/b", "a\0", &"x".repeat(33)] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            let start: String = text.chars().take(3).collect();
            assert!(error.contains(start.escape_debug().to_string().as_str()), "{error}");
        }
    }
}
