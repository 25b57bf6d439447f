//! Where a node may be dialled, as a ticket says it and as a user types it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest DNS name in a dial address, in bytes.
pub const HOST_LEN_MAX: usize = 64;

/// Where a node may be dialled: an address, or a name that the dialler looks up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "WireAddr", into = "WireAddr")]
pub enum DialAddr {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A DNS name and a port.
    Name(String, u16),
}

/// As it travels, not yet believed.
#[derive(Serialize, Deserialize)]
enum WireAddr {
    Ip(SocketAddr),
    Name(String, u16),
}

impl From<DialAddr> for WireAddr {
    fn from(addr: DialAddr) -> Self {
        match addr {
            DialAddr::Ip(addr) => Self::Ip(addr),
            DialAddr::Name(host, port) => Self::Name(host, port),
        }
    }
}

impl TryFrom<WireAddr> for DialAddr {
    type Error = DialAddrError;

    fn try_from(addr: WireAddr) -> Result<Self, DialAddrError> {
        let (addr, port) = match addr {
            WireAddr::Ip(addr) => (Self::Ip(addr), addr.port()),
            WireAddr::Name(host, port) if is_host(&host) => (Self::Name(host, port), port),
            WireAddr::Name(host, _) => return Err(DialAddrError::new(&host)),
        };
        if port == 0 { Err(DialAddrError::new(&addr.to_string())) } else { Ok(addr) }
    }
}

/// Says whether a text is a DNS name that is no address in disguise (RFC 1123, 2.1).
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= HOST_LEN_MAX
        && host.split('.').all(label)
        && !last.starts_with(|first: char| first.is_ascii_digit())
}

impl FromStr for DialAddr {
    type Err = DialAddrError;

    fn from_str(text: &str) -> Result<Self, DialAddrError> {
        let addr = match text.parse() {
            Ok(addr) => WireAddr::Ip(addr),
            Err(_) => {
                let (host, port) = text.rsplit_once(':').ok_or_else(|| DialAddrError::new(text))?;
                let port = port.parse().map_err(|_| DialAddrError::new(text))?;
                WireAddr::Name(host.to_ascii_lowercase(), port)
            }
        };
        addr.try_into().map_err(|_| DialAddrError::new(text))
    }
}

impl fmt::Display for DialAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => fmt::Display::fmt(addr, f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// A text that names no dial address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address such as 198.51.100.7:7770, [2001:db8::7]:7770 or gw.example:7770")]
pub struct DialAddrError(String);

impl DialAddrError {
    fn new(text: &str) -> Self {
        Self(text.chars().take(HOST_LEN_MAX + 8).collect())
    }
}
