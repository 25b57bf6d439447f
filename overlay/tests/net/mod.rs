//! Gateways and sellers on loopback, honest and raw.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use overlay::p2p::{self, GatewayEvent, GatewayNet, SellerNet};
use overlay_proto::addressing::Subnet;
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::order::Order;
use overlay_proto::registry::{OrderRecord, Registry};
use overlay_proto::ticket::{DialAddr, Ticket, TicketSecret};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use vde_switch::time::Instant;

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed(&[seed; 32])
}

pub(crate) fn registry() -> Registry {
    let order = Order { buyer: key(1).id(), nonce: [3; 16] };
    let subnet = Subnet::new(Ipv4Addr::new(10, 77, 0, 0), 24).unwrap();
    let record = OrderRecord::new(order, "farm".parse().unwrap(), subnet, [5; 32]);
    let mut registry =
        Registry::open(key(1), record, Vec::new(), Vec::new(), NOW, Instant::ZERO).unwrap();
    let reach = DialAddr::Ip(SocketAddr::from(([44, 128, 1, 2], 7770)));
    registry.set_reach(vec![reach], Vec::new(), 7770);
    registry
}

pub(crate) fn ticket(registry: &mut Registry) -> Ticket {
    registry.invite(None, TicketSecret([9; 16]), NOW + 3600, NOW, Instant::ZERO).unwrap().0
}

pub(crate) fn membership(ticket: &Ticket, seller: NodeId) -> Membership {
    let host = SellerHost {
        seller,
        data_key: seller.0,
        only_buyer: false,
        rules: DialRules { lan: Lan::Refused, links: Vec::new() },
        gateway: vec![SocketAddr::from(([44, 128, 1, 2], 7770))],
    };
    Membership::new(ticket.clone(), host)
}

pub(crate) async fn serve(key: &NodeKey) -> (GatewayNet, Receiver<GatewayEvent>) {
    p2p::serve(key, vec![SocketAddr::from(([127, 0, 0, 1], 0))]).await.unwrap()
}

pub(crate) async fn dial(seller: u8, gateway: &GatewayNet) -> SellerNet {
    p2p::dial(&key(seller), gateway.listening().to_vec(), key(1).id()).await.unwrap()
}

pub(crate) async fn next(events: &mut Receiver<GatewayEvent>) -> GatewayEvent {
    timeout(Duration::from_secs(10), events.recv()).await.expect("an event in time").unwrap()
}

/// Answers joins from a registry until the test ends.
pub(crate) fn answer_joins(mut registry: Registry, mut events: Receiver<GatewayEvent>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let GatewayEvent::Join { peer, remote, request, reply } = event {
                let outcome = registry.handle_join(peer, remote.ip(), &request, NOW, Instant::ZERO);
                reply.send(outcome.reply).unwrap();
            }
        }
    });
}

/// Answers pings, or the gateway would hang up.
#[derive(libp2p::swarm::NetworkBehaviour)]
pub(crate) struct Raw {
    ping: libp2p::ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A libp2p node that may say anything.
pub(crate) async fn raw_swarm(gateway: &GatewayNet) -> (libp2p::PeerId, libp2p_stream::Control) {
    use futures::StreamExt;
    use libp2p::swarm::SwarmEvent;
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| Raw {
            ping: libp2p::ping::Behaviour::default(),
            streams: libp2p_stream::Behaviour::new(),
        })
        .unwrap()
        .build();
    let at = gateway.listening()[0];
    let addr = libp2p::Multiaddr::from(at.ip()).with(libp2p::multiaddr::Protocol::Tcp(at.port()));
    swarm.dial(addr).unwrap();
    let control = swarm.behaviour().streams.new_control();
    let peer = loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            break peer_id;
        }
    };
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    (peer, control)
}
