//! How many connections one address may have, so that nobody takes all places alone.
//!
//! # Theory of operation
//! The total limits are libp2p's; this one counts by where a connection comes from: an IPv4 address
//! or a /64 of IPv6, which is what one customer has. Connections that are established stay; only
//! new ones are refused, before their handshake costs anything.
//!
//! # Limits
//! [`PENDING_PER_ADDRESS_MAX`] in handshake, [`CONNECTIONS_PER_ADDRESS_MAX`] after it. The table
//! has an entry for each connection, of which there is a total limit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};

use super::{CONNECTIONS_PER_ADDRESS_MAX, PENDING_PER_ADDRESS_MAX, socket_addr};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Established,
}

/// See the module's theory of operation.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    connections: BTreeMap<ConnectionId, (IpAddr, Stage)>,
}

impl Behaviour {
    fn check(&self, source: IpAddr, stage: Stage, max: usize) -> Result<(), ConnectionDenied> {
        let same = self.connections.values().filter(|known| **known == (source, stage));
        if same.count() < max { Ok(()) } else { Err(ConnectionDenied::new(Crowded(source))) }
    }
}

/// Returns what stands for everything that one customer may call his own.
fn source(addr: &Multiaddr) -> Option<IpAddr> {
    Some(match socket_addr(addr)?.ip().to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    })
}

/// Too many connections of one address.
#[derive(Debug)]
struct Crowded(IpAddr);

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has too many connections", self.0)
    }
}

impl std::error::Error for Crowded {}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if let Some(source) = source(remote) {
            self.check(source, Stage::Pending, PENDING_PER_ADDRESS_MAX)?;
            self.connections.insert(id, (source, Stage::Pending));
        }
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.connections.remove(&id);
        if let Some(source) = source(remote) {
            self.check(source, Stage::Established, CONNECTIONS_PER_ADDRESS_MAX)?;
            self.connections.insert(id, (source, Stage::Established));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _id: ConnectionId,
        _peer: PeerId,
        _addr: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.connections.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        super::super::multiaddr(text.parse().expect("an address"))
    }

    #[test]
    fn one_address_has_its_places_and_others_have_theirs() {
        let mut crowd = Behaviour::default();
        let mut id = 0;
        let mut enter = |crowd: &mut Behaviour, from: &str| {
            id += 1;
            let id = ConnectionId::new_unchecked(id);
            crowd.handle_pending_inbound_connection(id, &addr("192.0.2.1:7770"), &addr(from))
        };
        for port in 1..=PENDING_PER_ADDRESS_MAX {
            enter(&mut crowd, &format!("198.51.100.7:{port}")).expect("a place");
        }
        assert!(enter(&mut crowd, "198.51.100.7:9999").is_err(), "one address has no end");
        assert!(enter(&mut crowd, "[::ffff:198.51.100.7]:9999").is_err(), "the same, in IPv6");
        enter(&mut crowd, "198.51.100.8:9999").expect("another address");
        for host in 1..=PENDING_PER_ADDRESS_MAX {
            enter(&mut crowd, &format!("[2a00:1450:1:2::{host:x}]:1")).expect("a place");
        }
        assert!(enter(&mut crowd, "[2a00:1450:1:2:ffff::1]:1").is_err(), "the same /64");
        enter(&mut crowd, "[2a00:1450:1:3::1]:1").expect("another /64");
    }

    #[test]
    fn a_connection_counts_as_pending_or_as_established_and_not_after_its_end() {
        let mut crowd = Behaviour::default();
        let (local, remote) = (addr("192.0.2.1:7770"), addr("198.51.100.7:1"));
        let peer = PeerId::random();
        let id = |n: usize| ConnectionId::new_unchecked(n);
        for n in 0..CONNECTIONS_PER_ADDRESS_MAX {
            crowd.handle_pending_inbound_connection(id(n), &local, &remote).expect("pending");
            let entered = crowd.handle_established_inbound_connection(id(n), peer, &local, &remote);
            entered.expect("established");
        }
        let n = CONNECTIONS_PER_ADDRESS_MAX;
        crowd.handle_pending_inbound_connection(id(n), &local, &remote).expect("pending");
        let entered = crowd.handle_established_inbound_connection(id(n), peer, &local, &remote);
        assert!(entered.is_err(), "above the limit");
        assert_eq!(crowd.connections.len(), CONNECTIONS_PER_ADDRESS_MAX, "the refused one stays");
    }
}
