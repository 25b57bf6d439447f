//! What seller and gateway say on the control streams.
//!
//! A message is one postcard value behind its length (4 bytes, big-endian), at most
//! [`MESSAGE_LEN_MAX`] bytes, which the shell checks before it allocates. On [`JOIN_PROTOCOL`] the
//! seller sends one [`JoinRequest`] and gets one [`JoinReply`]. On [`MEMBER_PROTOCOL`], open for as
//! long as both live, [`ToGateway`] and [`ToMember`] flow; the first is [`ToGateway::Hello`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::{CANDIDATES_MAX, Slot};
use crate::envelope::{self, ENVELOPE_LEN_MAX};
use crate::order::OrderId;

/// Protocol of the join stream.
pub const JOIN_PROTOCOL: &str = "/overlay/join/1";

/// Protocol of the member stream.
pub const MEMBER_PROTOCOL: &str = "/overlay/member/1";

/// Version in the first bytes of a join request.
pub const JOIN_VERSION: u16 = 1;

/// Largest message, in bytes, without its length.
pub const MESSAGE_LEN_MAX: usize = ENVELOPE_LEN_MAX;

/// A value that travels on a control stream.
pub trait Message: Serialize + DeserializeOwned {
    /// Encodes the message, without its length.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        envelope::encode(self)
    }

    /// Decodes the one byte form of the message.
    ///
    /// # Errors
    /// [`MessageError`] for anything else, a rest included.
    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let message: Self = envelope::decode(bytes).ok_or(MessageError::Malformed)?;
        message.check()?;
        Ok(message)
    }

    /// Says whether lists in it keep their bounds.
    ///
    /// # Errors
    /// [`MessageError::Candidates`].
    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}

/// A seller shows his ticket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`JOIN_VERSION`].
    pub version: u16,
    /// Which order, so that a gateway of another one can say so.
    pub order: OrderId,
    /// Envelope of the ticket, secret included: the stream's other end has proved the buyer's key.
    pub ticket: Vec<u8>,
    /// X25519 public key of the lease's data plane.
    pub data_key: [u8; 32],
    /// Comes back in the grant.
    pub nonce: [u8; 16],
    /// Whether the seller's host speaks to the buyer's address alone.
    pub only_buyer: bool,
}

impl Message for JoinRequest {
    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (version, _) =
            postcard::take_from_bytes::<u16>(bytes).map_err(|_| MessageError::Malformed)?;
        if version != JOIN_VERSION {
            return Err(MessageError::Version(version));
        }
        envelope::decode(bytes).ok_or(MessageError::Malformed)
    }
}

/// Leaves the ticket out, since its secret is in it.
impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinRequest(order {}, version {})", self.order, self.version)
    }
}

/// What a seller gets for his ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// He is a member.
    Welcome(Welcome),
    /// He is not.
    Refused(RefuseReason),
}

impl Message for JoinReply {}

/// All that a new member needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Envelope of the order's config.
    pub config: Vec<u8>,
    /// Envelope of his grant.
    pub grant: Vec<u8>,
    /// Envelope of a full roster, himself included.
    pub roster: Vec<u8>,
    /// From where the gateway sees his control connection come.
    pub observed: IpAddr,
}

/// Why a ticket opens nothing. Told to the seller in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum RefuseReason {
    /// Another key showed it first.
    #[error("the ticket was used by another seller; ask the buyer for a new one")]
    TicketUsed,
    /// Nobody showed it in time.
    #[error("the ticket has expired; ask the buyer for a new one")]
    TicketExpired,
    /// Genuine or not, the gateway has no such ticket.
    #[error("the gateway does not know this ticket; ask the buyer for a new one")]
    TicketUnknown,
    /// The gateway at this address serves another order.
    #[error("the gateway serves another order of the buyer; ask him for the right address")]
    OtherOrder,
    /// The request's version is not spoken there, but this one.
    #[error(
        "the gateway speaks version {0}, this program version {JOIN_VERSION}; update the older of \
         the two"
    )]
    Version(u16),
    /// The subnet has no more addresses.
    #[error("the order is full")]
    OrderFull,
    /// Another member's data plane has this key.
    #[error("the data-plane key is another member's; remove the lease's key and join again")]
    KeyInUse,
    /// The buyer took the guest out of the order.
    #[error("the buyer has evicted this guest from the order")]
    Evicted,
    /// Nothing that this gateway understands.
    #[error("the gateway did not understand the request; update the older of the two")]
    Malformed,
    /// The gateway cannot write its store.
    #[error("the gateway has a problem of its own; the buyer's log says which")]
    Unavailable,
    /// Another host with the same keys is there and alive.
    #[error(
        "this guest runs on another host with the same keys right now; stop it there, or ask the \
         buyer for a ticket of this host's own"
    )]
    InUse,
    /// The buyer took the ticket back before anybody used it.
    #[error("the buyer has taken the ticket back; ask him for a new one")]
    TicketRevoked,
}

/// What a member says to the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGateway {
    /// First of all: who speaks, what he knows, where his data plane may be heard.
    Hello {
        /// His slot, by his grant.
        slot: Slot,
        /// The roster version he is at.
        roster_version: u64,
        /// His candidates, none under `--only-buyer`.
        candidates: Vec<SocketAddr>,
    },
    /// Asks for a new grant.
    Renew {
        /// Comes back in the grant.
        nonce: [u8; 16],
    },
    /// His addresses changed.
    Candidates(Vec<SocketAddr>),
    /// He goes, of his own will.
    Leave,
}

impl Message for ToGateway {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Hello { candidates, .. } | Self::Candidates(candidates) => {
                if candidates.len() > CANDIDATES_MAX {
                    return Err(MessageError::Candidates(candidates.len()));
                }
                Ok(())
            }
            Self::Renew { .. } | Self::Leave => Ok(()),
        }
    }
}

/// What the gateway says to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMember {
    /// Envelope of a roster, full or delta.
    Roster(Vec<u8>),
    /// Envelope of a grant, as asked for.
    Grant(Vec<u8>),
    /// Envelope of a new config, sent before a roster that names it.
    Config(Vec<u8>),
    /// The buyer took the guest out of the order.
    Evicted,
}

impl Message for ToMember {}

/// Why bytes are no message. The other side's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// So many bytes.
    #[error("{0} bytes are more than a message's {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// Not the one byte form of any message.
    #[error("not a message of this version")]
    Malformed,
    /// A join request of another version.
    #[error("version {0} is not spoken here, only {JOIN_VERSION}")]
    Version(u16),
    /// So many candidates.
    #[error("{0} candidates are more than {CANDIDATES_MAX}")]
    Candidates(usize),
}
