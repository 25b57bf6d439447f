//! What an order tells its guests beside their addresses, and which of it makes sense.

use std::net::{IpAddr, Ipv4Addr};

pub use vde_switch::serve::{DNS_MAX, ROUTES_MAX, Route};
use vde_switch::station::Segment;

use crate::addressing::{PREFIX_V4_MIN, Subnet};

/// Says whether guests of a segment can be told these DNS servers and routes.
///
/// # Errors
/// [`GuestsError`], the first that applies.
pub fn check_guests(
    segment: &Segment,
    dns: &[IpAddr],
    routes: &[Route],
) -> Result<(), GuestsError> {
    let (network, prefix) = segment.ipv4;
    let subnet = Subnet::new(network, prefix).ok_or(GuestsError::Segment)?;
    let is_host = |address: Ipv4Addr| {
        let ends = [subnet.network(), segment.broadcast_ipv4()];
        subnet.contains(address) && !ends.contains(&address)
    };
    if dns.len() > DNS_MAX {
        return Err(GuestsError::DnsCount(dns.len()));
    }
    let reached = |address: &IpAddr| match *address {
        IpAddr::V4(address) => is_host(address),
        IpAddr::V6(address) => segment.contains_ipv6(address),
    };
    if let Some(&server) = dns.iter().find(|address| !reached(address)) {
        return Err(GuestsError::Dns { server, subnet });
    }
    if routes.len() > ROUTES_MAX {
        return Err(GuestsError::RouteCount(routes.len()));
    }
    for &(network, prefix, via) in routes {
        let bad = GuestsError::Route { network, prefix };
        let net = Subnet::new(network, prefix).filter(|net| net.network() == network);
        let sized = (PREFIX_V4_MIN..=32).contains(&prefix);
        let net = net.filter(|net| sized && net.is_unicast()).ok_or(bad)?;
        if net.overlaps(subnet) {
            return Err(GuestsError::RouteOverlaps { net, subnet });
        }
        if !is_host(via) {
            return Err(GuestsError::Via { via, subnet });
        }
    }
    Ok(())
}

/// Why guests cannot be told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestsError {
    /// A segment without a subnet.
    #[error("there is no subnet")]
    Segment,
    /// So many DNS servers.
    #[error("{0} DNS servers are more than {DNS_MAX}")]
    DnsCount(usize),
    /// One that guests cannot reach.
    #[error("the DNS server {server} is not on the segment; name a station of {subnet}")]
    Dns {
        /// Which.
        server: IpAddr,
        /// Where it should be.
        subnet: Subnet,
    },
    /// So many routes.
    #[error("{0} routes are more than {ROUTES_MAX}")]
    RouteCount(usize),
    /// A route to no network, or to one that is none for hosts; a default route is one.
    #[error("a route to {network}/{prefix} cannot be; name a network such as 192.168.9.0/24")]
    Route {
        /// Its network.
        network: Ipv4Addr,
        /// Its prefix length.
        prefix: u8,
    },
    /// A route that would lead away from the segment.
    #[error("a route to {net} overlaps the segment {subnet}; choose another network")]
    RouteOverlaps {
        /// Where it leads.
        net: Subnet,
        /// What it takes.
        subnet: Subnet,
    },
    /// A route over nobody.
    #[error("a route via {via} leads nowhere; name a station of {subnet}")]
    Via {
        /// Over whom.
        via: Ipv4Addr,
        /// Where that should be.
        subnet: Subnet,
    },
}
