//! Tickets: what a buyer hands to a seller, as text that survives mail, chat and paper.
//!
//! # Theory of operation
//! A ticket is an envelope written in bech32m with the prefix `ovl`. Its payload holds the order's
//! nonce instead of the order's id: the id follows from it and from the key that signed, so a
//! ticket cannot name another buyer's order. The text's checksum finds typing errors, the signature
//! finds everything else.
//!
//! # Limits
//! [`TEXT_LEN_MAX`] characters of text, looked at before anything is done with them;
//! [`ADDRESSES_MAX`] dial addresses and as many relays. Beyond 1023 characters the checksum is only
//! very likely, no longer sure, to find a changed character; the signature does.

mod addr;

use std::fmt;

use bech32::primitives::decode::{CheckedHrpstring, UncheckedHrpstring};
use bech32::{Bech32m, Checksum, Hrp, NoChecksum};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use self::addr::*;
use crate::control::{MEMBERS_MAX, Slot};
use crate::envelope::{Document, Envelope, EnvelopeError, Kind, Signed};
use crate::identity::{NodeId, NodeKey};
use crate::names::Name;
use crate::order::{Order, OrderId};

/// Longest text, in bytes, that is looked at; blanks and line breaks count.
pub const TEXT_LEN_MAX: usize = 4096;

/// Most dial addresses of a ticket (guarantee G9), and most relays.
pub const ADDRESSES_MAX: usize = 4;

/// What a ticket's text begins with, before the `1`.
const HRP: Hrp = Hrp::parse_unchecked("ovl");

/// Bech32m over more than the 1023 characters for which it finds every short error.
#[derive(Clone, Copy, Debug)]
enum LongBech32m {}

impl Checksum for LongBech32m {
    type MidstateRepr = <Bech32m as Checksum>::MidstateRepr;
    type CorrectionField = <Bech32m as Checksum>::CorrectionField;
    const ROOT_GENERATOR: Self::CorrectionField = Bech32m::ROOT_GENERATOR;
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = Bech32m::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = TEXT_LEN_MAX;
    const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32m::TARGET_RESIDUE;
}

/// A ticket's one-time secret: whoever shows it first has the slot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct TicketSecret(pub [u8; 16]);

impl TicketSecret {
    /// Returns what the gateway keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("ovl ticket secret v1", &self.0)
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// The signed part of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketBody {
    /// The order's nonce; with the signer's key it gives the order's id.
    pub nonce: [u8; 16],
    /// The buyer's word for the order.
    pub order_name: Name,
    /// The slot it opens.
    pub slot: Slot,
    /// The guest's name there.
    pub guest: Name,
    /// Where the gateway may be dialled, best first: 1 to [`ADDRESSES_MAX`].
    pub addresses: Vec<DialAddr>,
    /// Relays that lead to it, at most [`ADDRESSES_MAX`].
    pub relays: Vec<DialAddr>,
    /// Shown to the gateway once.
    pub secret: TicketSecret,
    /// Unix seconds after which an unused ticket is void.
    pub expires_at: u64,
}

impl Document for TicketBody {
    const KIND: Kind = Kind::Ticket;
}

/// A verified ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket(Signed<TicketBody>);

impl Ticket {
    /// Signs a ticket.
    ///
    /// # Errors
    /// [`TicketError::Addresses`] with none or too many of them.
    pub fn seal(key: &NodeKey, body: TicketBody) -> Result<Self, TicketError> {
        check(&body)?;
        Ok(Self(Signed::seal(key, body)))
    }

    /// Opens the envelope of a ticket, as a gateway gets it back.
    ///
    /// # Errors
    /// [`TicketError`] for anything but a ticket signed by the key it names.
    pub fn open(envelope: &[u8]) -> Result<Self, TicketError> {
        let signed: Signed<TicketBody> = Signed::open(envelope)?;
        check(signed.body())?;
        Ok(Self(signed))
    }

    /// Reads a ticket's text; blanks, line breaks and case do not matter.
    ///
    /// # Errors
    /// [`TicketError`]: a sentence for whoever pasted it. Expiry is asked by
    /// [`Ticket::check_expiry`], since a used ticket may still resume.
    pub fn decode(text: &str) -> Result<Self, TicketError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(TicketError::TooLong(text.len()));
        }
        let mut text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        text.make_ascii_lowercase();
        if text.is_empty() {
            return Err(TicketError::Empty);
        }
        let Some(data) = text.strip_prefix("ovl1") else {
            let start = text.chars().take(8).collect();
            return Err(if "ovl1".starts_with(&text) {
                TicketError::Truncated
            } else {
                TicketError::NotTicket(start)
            });
        };
        let foreign = |c: &char| !c.is_ascii() || bech32::Fe32::from_char(*c).is_err();
        if let Some(foreign) = data.chars().find(foreign) {
            return Err(TicketError::Character(foreign));
        }
        let unchecked = UncheckedHrpstring::new(&text).map_err(|_| TicketError::Truncated)?;
        match unchecked.validate_and_remove_checksum::<LongBech32m>() {
            Ok(checked) => Self::open(&checked.byte_iter().collect::<Vec<_>>()),
            Err(_) => {
                Err(if is_cut(&text) { TicketError::Truncated } else { TicketError::Changed })
            }
        }
    }

    /// Writes the ticket's text: one line, lower case.
    #[must_use]
    pub fn encode(&self) -> String {
        bech32::encode_lower::<LongBech32m>(HRP, self.0.bytes())
            .expect("four addresses and four relays are far below the longest text")
    }

    /// Says whether an unused ticket is still good.
    ///
    /// # Errors
    /// [`TicketError::Expired`], which says for how long.
    pub const fn check_expiry(&self, unix_now: u64) -> Result<(), TicketError> {
        match unix_now.checked_sub(self.0.body().expires_at) {
            None | Some(0) => Ok(()),
            Some(ago) => Err(TicketError::Expired(ago.div_ceil(60))),
        }
    }

    /// Returns what it says.
    #[must_use]
    pub const fn body(&self) -> &TicketBody {
        self.0.body()
    }

    /// Returns who invites; the key that the gateway must prove.
    #[must_use]
    pub const fn buyer(&self) -> NodeId {
        self.0.signer()
    }

    /// Returns the order it invites to, which only its buyer can have.
    #[must_use]
    pub fn order(&self) -> OrderId {
        Order { buyer: self.buyer(), nonce: self.body().nonce }.id()
    }

    /// Returns its envelope, as the gateway wants to see it.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Says whether a text has fewer characters than the envelope in it needs.
fn is_cut(text: &str) -> bool {
    let Ok(raw) = CheckedHrpstring::new::<NoChecksum>(text) else { return true };
    let bytes: Vec<u8> = raw.byte_iter().collect();
    let data_len = raw.data_part_ascii_no_checksum().len();
    Envelope::announced_len(&bytes)
        .is_none_or(|len| data_len < (len * 8).div_ceil(5) + LongBech32m::CHECKSUM_LENGTH)
}

fn check(body: &TicketBody) -> Result<(), TicketError> {
    let count = body.addresses.len();
    if count == 0 || count > ADDRESSES_MAX || body.relays.len() > ADDRESSES_MAX {
        return Err(TicketError::Addresses(count.max(body.relays.len())));
    }
    if body.slot == Slot::GATEWAY || usize::from(body.slot.0) >= MEMBERS_MAX {
        return Err(TicketError::Envelope(EnvelopeError::Payload(Kind::Ticket)));
    }
    Ok(())
}

/// Why a text is not a ticket, for the person who pasted it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Nothing but blanks.
    #[error("the ticket is empty; paste the whole text that begins with ovl1")]
    Empty,
    /// So many bytes.
    #[error("{0} bytes are no ticket, which has at most {TEXT_LEN_MAX}")]
    TooLong(usize),
    /// Something else altogether.
    #[error("{0:?}… is not a ticket, which begins with ovl1")]
    NotTicket(String),
    /// A character that tickets do not have.
    #[error("the ticket has a character {0:?} that no ticket has; copy it again")]
    Character(char),
    /// The end is missing.
    #[error("the ticket is cut off: its end is missing; copy the whole text")]
    Truncated,
    /// Its checksum does not fit.
    #[error(
        "the ticket is damaged: at least one character differs from what was sent; copy it again"
    )]
    Changed,
    /// None or too many.
    #[error("a ticket has 1 to {ADDRESSES_MAX} addresses, not {0}")]
    Addresses(usize),
    /// Void for so many minutes.
    #[error("the ticket expired {0} min ago; ask the buyer for a new one")]
    Expired(u64),
    /// Of a version this build does not speak.
    #[error("the ticket is of version {0}, which this program does not speak; update it")]
    Version(u8),
    /// Not what its signer signed.
    #[error("the ticket is not genuine: {0}")]
    Envelope(EnvelopeError),
}

impl From<EnvelopeError> for TicketError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Version(version) => Self::Version(version),
            EnvelopeError::TooLong(_)
            | EnvelopeError::Truncated(_)
            | EnvelopeError::Kind { .. }
            | EnvelopeError::Rest(_)
            | EnvelopeError::Signature
            | EnvelopeError::Payload(_) => Self::Envelope(error),
        }
    }
}
