//! The X25519 secret of one data plane: one a lease or order, never derived from the node's key.

use std::fmt;
use std::io;

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// A data plane's secret. Wiped from memory when dropped, shown nowhere.
pub struct DataKey(StaticSecret);

impl DataKey {
    /// Draws a new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
        Ok(Self::from_bytes(*bytes))
    }

    /// Takes a stored one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// Returns the secret, for the store and the data plane.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}
