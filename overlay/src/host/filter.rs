//! The packet filter of the buyer's tap: guests reach his exposed ports and ping, nothing else.
//!
//! # Theory of operation
//! One nftables table per order. The buyer reaches guests freely, so what answers him passes: UDP
//! by connection tracking; TCP by its flags, untracked, since tracking costs a fifth of a fast
//! flow: a guest's segment that could open a connection (SYN without ACK) is dropped unless the
//! port is exposed, all others only answer what the buyer opened. Nothing is forwarded from the tap
//! or to it. Addresses are checked here although the switch has done so already: this is the
//! second wall.
//!
//! The table stands before the tap is made and goes after it. One that a killed program left is
//! replaced by the next start of its order, in the same transaction.
//!
//! # Limits
//! [`EXPOSED_MAX`] ports. A stricter filter of the host's own still applies.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use vde_attach::tap::IfName;

use super::nft::{self, NftError};

/// Most exposed ports.
pub const EXPOSED_MAX: usize = 64;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the buyer's computer that guests may reach: `22`, `53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// Its number, not 0.
    pub port: u16,
    /// Its protocol.
    pub transport: Transport,
}

/// A text that names no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port: write a number from 1 to 65535, with /udp behind it for UDP")]
pub struct ExposedError(String);

impl FromStr for Exposed {
    type Err = ExposedError;

    fn from_str(text: &str) -> Result<Self, ExposedError> {
        let error = || ExposedError(text.chars().take(32).collect());
        let (number, transport) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Transport::Tcp),
            Some((number, "udp")) => (number, Transport::Udp),
            Some(_) => return Err(error()),
        };
        match number.parse() {
            Ok(port) if port != 0 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self { port, transport })
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.port),
            Transport::Udp => write!(f, "{}/udp", self.port),
        }
    }
}

/// What the filter of one tap depends on.
#[derive(Clone, Debug)]
pub struct TapFilter {
    /// The order's name.
    pub order: String,
    /// The tap.
    pub tap: IfName,
    /// The buyer's IPv4 address and the prefix length of the subnet.
    pub ipv4: (Ipv4Addr, u8),
    /// The buyer's IPv6 address and its prefix length.
    pub ipv6: (Ipv6Addr, u8),
    /// What guests may reach beside ping.
    pub exposed: Vec<Exposed>,
}

impl TapFilter {
    /// Puts the filter in place, in exchange for a dead program's of the same order.
    ///
    /// # Errors
    /// [`FilterError`], with the words of `nft`.
    pub fn install(&self) -> Result<Installed, FilterError> {
        nft::run(&self.script())?;
        Ok(Installed { table: self.table() })
    }

    fn table(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        format!("ovl_{}", self.order.chars().map(safe).collect::<String>())
    }

    fn ports(&self, transport: Transport) -> String {
        let mut ports: Vec<_> = self
            .exposed
            .iter()
            .filter(|exposed| exposed.transport == transport)
            .map(|exposed| exposed.port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Returns the ruleset, which replaces the table in one transaction.
    fn script(&self) -> String {
        let (table, tap) = (self.table(), &self.tap);
        let accept = |protocol: &str, ports: String| match ports.as_str() {
            "" => String::new(),
            ports => format!("\n    {protocol} dport {{ {ports} }} accept"),
        };
        let tcp = accept("tcp", self.ports(Transport::Tcp));
        let udp = accept("udp", self.ports(Transport::Udp));
        let (ip4, len4) = self.ipv4;
        let mask = u32::MAX.checked_shl(32 - u32::from(len4)).unwrap_or(0);
        let net4 = Ipv4Addr::from(u32::from(ip4) & mask);
        let broadcast = Ipv4Addr::from(u32::from(ip4) | !mask);
        let (ip6, len6) = self.ipv6;
        let mask = u128::MAX.checked_shl(128 - u32::from(len6)).unwrap_or(0);
        let net6 = Ipv6Addr::from(u128::from(ip6) & mask);
        format!(
            "table inet {table}
delete table inet {table}
table inet {table} {{
  chain untracked_in {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{tap}\" meta l4proto tcp notrack
  }}
  chain untracked_out {{
    type filter hook output priority raw; policy accept;
    oifname \"{tap}\" meta l4proto tcp notrack
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname \"{tap}\" jump from_guests
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{tap}\" counter drop
    oifname \"{tap}\" counter drop
  }}
  chain from_guests {{
    ip saddr != {net4}/{len4} counter drop
    ip daddr != {{ {ip4}, {broadcast}, 255.255.255.255, 224.0.0.0/4 }} counter drop
    ip6 saddr != {{ {net6}/{len6}, fe80::/10, ::/128 }} counter drop
    ip6 daddr != {{ {ip6}, fe80::/10, ff00::/8 }} counter drop
    icmp type {{ echo-request, echo-reply, destination-unreachable, time-exceeded, \
                 parameter-problem }} accept
    icmpv6 type {{ echo-request, echo-reply, destination-unreachable, packet-too-big, \
                   time-exceeded, parameter-problem, nd-neighbor-solicit, \
                   nd-neighbor-advert }} accept{tcp}
    tcp flags & (syn | ack) == syn counter drop
    meta l4proto tcp accept{udp}
    meta l4proto udp ct state established,related accept
    counter drop
  }}
}}
"
        )
    }
}

/// A filter in place; removed when dropped, which must be after its tap is gone.
#[derive(Debug)]
pub struct Installed {
    table: String,
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Err(error) = nft::run(&format!("delete table inet {}\n", self.table)) {
            tracing::warn!(%error, table = self.table, "the packet filter was not removed");
        }
    }
}

/// Why the filter does not stand.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The program cannot be run.
    #[error("the program `nft` cannot be run (is nftables installed?)")]
    Run(#[source] io::Error),
    /// The program or the kernel refused; its own words.
    #[error("the packet filter of the tap cannot be set: {0}")]
    Refused(String),
}

impl From<NftError> for FilterError {
    fn from(error: NftError) -> Self {
        match error {
            NftError::Run(error) => Self::Run(error),
            NftError::Refused(words) => Self::Refused(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(exposed: &[&str]) -> TapFilter {
        TapFilter {
            order: "my-farm".into(),
            tap: "ovl-my-farm".parse().expect("a name"),
            ipv4: (Ipv4Addr::new(10, 77, 0, 2), 24),
            ipv6: ("fd00:1::2".parse().expect("an address"), 64),
            exposed: exposed.iter().map(|text| text.parse().expect("a port")).collect(),
        }
    }

    #[test]
    fn the_script_replaces_the_table_and_names_what_it_lets_in() {
        let script = filter(&["22", "53/udp", "80/tcp", "22"]).script();
        assert!(script.starts_with("table inet ovl_my_farm\ndelete table inet ovl_my_farm\n"));
        for line in [
            "iifname \"ovl-my-farm\" jump from_guests",
            "tcp dport { 22, 80 } accept",
            "udp dport { 53 } accept",
            "ip saddr != 10.77.0.0/24 counter drop",
            "ip daddr != { 10.77.0.2, 10.77.0.255, 255.255.255.255, 224.0.0.0/4 } counter drop",
            "ip6 saddr != { fd00:1::/64, fe80::/10, ::/128 } counter drop",
        ] {
            assert!(script.contains(line), "{line} is not in\n{script}");
        }
        let exposed_at = script.find("tcp dport").expect("there");
        assert!(exposed_at < script.find("== syn counter drop").expect("there"));
    }

    #[test]
    fn nothing_exposed_means_no_rule_for_it() {
        let script = filter(&[]).script();
        assert!(!script.contains("dport"), "{script}");
    }

    #[test]
    fn ports_are_numbers_with_a_protocol() {
        for good in ["1", "65535", "53/udp"] {
            assert_eq!(good.parse::<Exposed>().expect(good).to_string(), good);
        }
        assert_eq!("80/tcp".parse::<Exposed>().expect("tcp").to_string(), "80");
        for bad in ["", "0", "65536", "-1", "+22", "22/sctp", "/udp", "ssh", "22/tcp/tcp"] {
            assert!(bad.parse::<Exposed>().is_err(), "{bad:?} passed");
        }
    }
}
