//! Signed bytes: one envelope for all documents, whose payload is believed only after its
//! signature.
//!
//! ```text
//! +---------+---------+----------+------------+---------+-----------+
//! | version | kind    | key      | length     | payload | signature |
//! | 1 byte  | 2, BE   | 32 bytes | 4, BE      |         | 64 bytes  |
//! +---------+---------+----------+------------+---------+-----------+
//! ```
//!
//! # Theory of operation
//! The signature covers the domain string `ovl/KIND/v1\0` and the payload as received, so nothing
//! is ever encoded again to be hashed or verified; ids are BLAKE3 of the payload as received. A
//! document has one byte form: what [`decode`] reads must be what [`encode`] would have written,
//! which refuses a rest, an overlong number and whatever else the codec tolerates.
//!
//! # Limits
//! [`ENVELOPE_LEN_MAX`] bytes each, checked before anything else.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::identity::{KEY_LEN, NodeId, NodeKey, SIGNATURE_LEN};

/// Largest envelope, in bytes: a roster of the largest order fits, see `roster`.
pub const ENVELOPE_LEN_MAX: usize = 256 * 1024;

/// Version in the first byte.
pub const ENVELOPE_VERSION: u8 = 1;

/// Bytes in front of the payload.
const HEADER_LEN: usize = 1 + 2 + KEY_LEN + 4;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// An order's birth certificate, see `order`.
    Order = 1,
    /// What may change about an order, see `order`.
    Config = 2,
    /// An invitation, see `ticket`.
    Ticket = 3,
    /// What one member may do, see `grant`.
    Grant = 4,
    /// Who is in an order, see `roster`.
    Roster = 5,
}

impl Kind {
    /// All kinds of this version.
    pub const ALL: [Self; 5] = [Self::Order, Self::Config, Self::Ticket, Self::Grant, Self::Roster];

    /// Returns the word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Config => "config",
            Self::Ticket => "ticket",
            Self::Grant => "grant",
            Self::Roster => "roster",
        }
    }

    /// Returns the kind of a number, if this version has it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Returns what is signed: the domain string, then the payload.
    fn message(self, payload: &[u8]) -> Vec<u8> {
        let mut message = format!("ovl/{}/v1\0", self.name()).into_bytes();
        message.extend_from_slice(payload);
        message
    }
}

/// Seals and opens envelopes around raw payloads; [`Signed`] does it for documents.
#[derive(Debug)]
pub enum Envelope {}

impl Envelope {
    /// Signs a payload.
    ///
    /// # Panics
    /// If the payload makes an envelope above [`ENVELOPE_LEN_MAX`]; documents bound themselves.
    #[must_use]
    pub fn seal(kind: Kind, key: &NodeKey, payload: &[u8]) -> Vec<u8> {
        let len = HEADER_LEN + payload.len() + SIGNATURE_LEN;
        assert!(len <= ENVELOPE_LEN_MAX, "a {} of {len} bytes", kind.name());
        let payload_len = u32::try_from(payload.len()).expect("checked against the maximum");
        let mut bytes = Vec::with_capacity(len);
        bytes.push(ENVELOPE_VERSION);
        bytes.extend_from_slice(&(kind as u16).to_be_bytes());
        bytes.extend_from_slice(&key.id().0);
        bytes.extend_from_slice(&payload_len.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&key.sign(&kind.message(payload)));
        bytes
    }

    /// Verifies the signature and hands out what it covers. Says nothing about *who* may sign.
    ///
    /// # Errors
    /// [`EnvelopeError`] unless the bytes are exactly one envelope of this kind, strictly signed.
    pub fn open(bytes: &[u8], kind: Kind) -> Result<Opened<'_>, EnvelopeError> {
        if bytes.len() > ENVELOPE_LEN_MAX {
            return Err(EnvelopeError::TooLong(bytes.len()));
        }
        match bytes.first() {
            Some(&ENVELOPE_VERSION) => {}
            Some(&version) => return Err(EnvelopeError::Version(version)),
            None => return Err(EnvelopeError::Truncated(0)),
        }
        let truncated = || EnvelopeError::Truncated(bytes.len());
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or_else(truncated)?;
        let [_, kind_hi, kind_lo, key_and_len @ ..] = header;
        let number = u16::from_be_bytes([*kind_hi, *kind_lo]);
        if number != kind as u16 {
            return Err(EnvelopeError::Kind { number, wanted: kind });
        }
        let (key, len) = key_and_len.split_first_chunk::<KEY_LEN>().ok_or_else(truncated)?;
        let len = <[u8; 4]>::try_from(len).map_err(|_| truncated())?;
        let len = usize::try_from(u32::from_be_bytes(len)).map_err(|_| truncated())?;
        let (payload, rest) = rest.split_at_checked(len).ok_or_else(truncated)?;
        let (signature, rest) = rest.split_first_chunk::<SIGNATURE_LEN>().ok_or_else(truncated)?;
        if !rest.is_empty() {
            return Err(EnvelopeError::Rest(rest.len()));
        }
        let key = NodeId(*key);
        if !key.verifies(&kind.message(payload), signature) {
            return Err(EnvelopeError::Signature);
        }
        Ok(Opened { key, payload })
    }

    /// Returns the whole length that the header of a cut-off envelope announces.
    #[must_use]
    pub fn announced_len(bytes: &[u8]) -> Option<usize> {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let len = header.last_chunk::<4>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        len.checked_add(HEADER_LEN + SIGNATURE_LEN)
    }
}

/// The verified inside of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Who signed.
    pub key: NodeId,
    /// What was signed, as received.
    pub payload: &'a [u8],
}

/// A payload type that travels in an envelope of its own kind.
pub trait Document: Serialize + DeserializeOwned {
    /// The kind its envelopes carry.
    const KIND: Kind;
}

/// A document together with its envelope: who signed which bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed<T> {
    body: T,
    signer: NodeId,
    id: [u8; 32],
    bytes: Vec<u8>,
}

impl<T: Document> Signed<T> {
    /// Signs a document.
    #[must_use]
    pub fn seal(key: &NodeKey, body: T) -> Self {
        let payload = encode(&body);
        let bytes = Envelope::seal(T::KIND, key, &payload);
        Self { body, signer: key.id(), id: *blake3::hash(&payload).as_bytes(), bytes }
    }

    /// Verifies, then decodes. The caller still asks whether [`Signed::signer`] may say such
    /// things.
    ///
    /// # Errors
    /// [`EnvelopeError`] for anything but one envelope with one document of this kind.
    pub fn open(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let Opened { key, payload } = Envelope::open(bytes, T::KIND)?;
        let body = decode(payload).ok_or(EnvelopeError::Payload(T::KIND))?;
        let id = *blake3::hash(payload).as_bytes();
        Ok(Self { body, signer: key, id, bytes: bytes.to_vec() })
    }
}

impl<T> Signed<T> {
    /// Returns the document.
    pub const fn body(&self) -> &T {
        &self.body
    }

    /// Returns who signed it.
    pub const fn signer(&self) -> NodeId {
        self.signer
    }

    /// Returns BLAKE3 of the payload as received.
    pub const fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Returns the envelope, as it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the envelope and the document.
    pub fn into_parts(self) -> (Vec<u8>, T) {
        (self.bytes, self.body)
    }
}

/// Leaves the bytes out: a ticket's hold a secret.
impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("signer", &self.signer).field("body", &self.body).finish()
    }
}

/// Encodes a value of our own, which cannot fail.
///
/// # Panics
/// Never for types of this crate: all their lengths are known before they are written.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("sequences of known length always encode")
}

/// Decodes the one byte form of a value; `None` for anything else, a rest included.
#[must_use]
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).ok()?;
    (rest.is_empty() && encode(&value) == bytes).then_some(value)
}

/// Why bytes are not the signed document they claim to be. The sender's doing, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// So many bytes, more than any envelope has.
    #[error("{0} bytes are more than an envelope's {ENVELOPE_LEN_MAX}")]
    TooLong(usize),
    /// So many bytes, fewer than the header announces.
    #[error("the envelope breaks off after {0} bytes")]
    Truncated(usize),
    /// A version this build does not speak.
    #[error("envelope version {0} is not spoken here, only {ENVELOPE_VERSION}")]
    Version(u8),
    /// Another kind than the one asked for.
    #[error("kind {number} instead of a {}", wanted.name())]
    Kind {
        /// What the envelope says.
        number: u16,
        /// What belongs here.
        wanted: Kind,
    },
    /// So many bytes behind the signature.
    #[error("{0} bytes behind the signature")]
    Rest(usize),
    /// Not signed by the key it names, or by a weak one.
    #[error("the signature is not of the key that the envelope names")]
    Signature,
    /// Rightly signed, but no document of this version, or not in its one byte form.
    #[error("the signed bytes are not a {} of this version", .0.name())]
    Payload(Kind),
}
