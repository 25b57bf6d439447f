//! Who a node is: an Ed25519 key, also its libp2p PeerId.
//!
//! Nothing here makes randomness; a new key is made from a seed that the shell drew.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Length, in bytes, of a public key, a seed, or any hash here.
pub const KEY_LEN: usize = 32;

/// Length, in bytes, of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// Longest key file, in bytes, that is looked at; a PKCS#8 key needs 119.
pub const PEM_LEN_MAX: usize = 4096;

/// Characters of a node's short form: 50 bits, enough to tell the nodes of an order apart.
const SHORT_LEN: usize = 10;

/// Returns `bytes` in lower-case base32, as ids are shown.
pub(crate) fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Reads what [`base32`] wrote, in either case.
pub(crate) fn from_base32(text: &str) -> Option<[u8; KEY_LEN]> {
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// A node's public key. Any 32 bytes; those that are no point on the curve verify nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; KEY_LEN]);

impl NodeId {
    /// Returns all 52 characters; `{}` shows the first ten.
    #[must_use]
    pub fn full(&self) -> String {
        base32(&self.0)
    }

    /// Reads the full form.
    #[must_use]
    pub fn from_full(text: &str) -> Option<Self> {
        from_base32(text).map(Self)
    }

    /// Says whether this key, and no weak one, signed exactly these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.full()[..SHORT_LEN])
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's secret key. Wiped from memory when dropped, shown nowhere.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Makes the key of a seed; the caller wipes his copy.
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_LEN]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Returns the seed, for libp2p's form of the same key.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Returns the public half.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs exactly these bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }

    /// Returns the key as a PKCS#8 PEM file, which openssl reads too.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("48 bytes of DER fit a PEM file")
    }

    /// Reads a PKCS#8 PEM file.
    ///
    /// # Errors
    /// [`KeyFileError`], which says what the file holds instead.
    pub fn from_pem(text: &str) -> Result<Self, KeyFileError> {
        if text.trim().is_empty() {
            return Err(KeyFileError::Empty);
        }
        if text.len() > PEM_LEN_MAX {
            return Err(KeyFileError::TooLong(text.len()));
        }
        if !text.contains("-----BEGIN PRIVATE KEY-----") {
            return Err(KeyFileError::NotPem);
        }
        if !text.contains("-----END PRIVATE KEY-----") {
            return Err(KeyFileError::Truncated(text.len()));
        }
        let key = SigningKey::from_pkcs8_pem(text).map_err(|_| KeyFileError::NotEd25519)?;
        Ok(Self(key))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.id())
    }
}

/// Why a key file holds no key. The operator's doing; the shell adds the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Nothing but blanks.
    #[error("the key file is empty; restore it from a copy, or remove it to get a new identity")]
    Empty,
    /// So many bytes, more than any key needs.
    #[error("the key file has {0} bytes, a key needs no more than {PEM_LEN_MAX}")]
    TooLong(usize),
    /// No PEM block of the right kind begins here.
    #[error("the key file does not begin with -----BEGIN PRIVATE KEY-----, as a PKCS#8 key does")]
    NotPem,
    /// It begins, but does not end, after so many bytes.
    #[error("the key file breaks off after {0} bytes; restore it from a copy")]
    Truncated(usize),
    /// Damaged, or a key of another kind.
    #[error("the key file is damaged or holds another kind of key than Ed25519")]
    NotEd25519,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_its_short_form_begins_the_full_one() {
        let key = NodeKey::from_seed(&[7; 32]);
        let read = NodeKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(read.id(), key.id());
        let full = key.id().full();
        assert!(full.starts_with(&key.id().to_string()) && full.len() == 52);
        assert_eq!(NodeId::from_full(&full.to_uppercase()), Some(key.id()));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let key = NodeKey::from_seed(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("NodeKey(of {})", key.id()));
    }

    #[test]
    fn every_cut_of_a_key_file_is_refused_in_words() {
        let pem = NodeKey::from_seed(&[9; 32]).to_pem();
        assert_eq!(NodeKey::from_pem("").unwrap_err(), KeyFileError::Empty);
        for len in 0..pem.trim_end().len() {
            assert!(NodeKey::from_pem(&pem[..len]).is_err(), "{len} bytes were taken");
        }
        assert_eq!(NodeKey::from_pem(&pem[..60]).unwrap_err(), KeyFileError::Truncated(60));
    }
}
