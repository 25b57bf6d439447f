//! The control plane's network: libp2p over TCP, with the node key as PeerId.
//!
//! # Theory of operation
//! A gateway [`serve`]s and gets [`GatewayEvent`]s; a seller [`dial`]s the addresses of a ticket
//! and gets a [`SellerNet`] only if one of them proves the buyer's key. One task drives each swarm,
//! one each stream; what they say to the program goes through bounded channels. Nothing is decided
//! here: requests are decoded, answers are encoded, and who may say what is the registry's
//! business.
//!
//! A peer that answers no ping for [`PING_TIMEOUT`] is disconnected, so that a cut cable ends a
//! stream as surely as a closed one. On a member stream the seller says something every
//! [`HEARTBEAT_INTERVAL`], if only an empty message: pings are a connection's, and of two hosts
//! with one key only the streams tell which is there.
//!
//! # Limits
//! All are constants below. libp2p-stream queues a single new stream and drops the next, so a
//! seller tries a stream that ends without an answer [`STREAM_TRIES_MAX`] times: a join repeated
//! with the same key and ticket gives the same slot, and a hello is answered by an empty message
//! before anything else. One address, or one /64 of IPv6, has a part of all places at most. Left
//! out: relays, WebSocket, QUIC, DHT, mDNS.

mod crowd;
mod frame;
mod gateway;
mod seller;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    Multiaddr, PeerId, connection_limits, identify, identity, memory_connection_limits, noise,
    ping, tcp, yamux,
};
use overlay_proto::identity::{NodeId, NodeKey};

pub use self::gateway::{GatewayEvent, GatewayNet, ServeError, StreamId, serve};
pub use self::seller::{DialError, JoinError, SellerNet, dial};

/// Connections that a gateway lets be in the middle of their handshake.
pub const PENDING_INCOMING_MAX: u32 = 256;

/// Of these, from one address: less, and a site's hosts that start together would be refused.
pub const PENDING_PER_ADDRESS_MAX: usize = 64;

/// Connections that a gateway has at once: two for each member of the largest order.
pub const CONNECTIONS_MAX: u32 = 1024;

/// Of these, from one address: a site behind one NAT with all guests of a /24.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;

/// Connections of one key: guests of one host in one order, and some more while they reconnect.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 16;

/// Streams that one connection may have open: join, member, identify, ping, each twice, and as many
/// that are still closing.
pub const STREAMS_MAX: usize = 16;

/// Memory of the process, in bytes, above which no connection is accepted.
pub const MEMORY_MAX: usize = 2 << 30;

/// Largest message, in bytes, that a gateway reads: a join request with a ticket of many addresses.
pub const REQUEST_LEN_MAX: usize = 16 * 1024;

/// How long one address may take to connect and prove its key: three SYNs.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a message may take from its first byte, or a new stream to its first message.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection without a stream stays.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a member says nothing before it says that it is there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// How long a member may say nothing: ten heartbeats.
pub const MEMBER_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two messages of one member, at least, in the long run.
pub const MEMBER_MESSAGE_INTERVAL: Duration = Duration::from_millis(20);

/// How often a connection is asked whether it lives.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take to say so.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a seller opens a stream that ends without an answer.
pub const STREAM_TRIES_MAX: u32 = 5;

/// Messages that wait for a stream; a program that finds it full drops the stream.
pub const QUEUE_LEN: usize = 32;

/// Events that wait for the gateway's program; then streams wait.
pub const EVENTS_LEN: usize = 256;

/// What both ends run on every connection.
#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    crowd: crowd::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// Which limits a swarm has.
#[derive(Clone, Copy)]
enum Side {
    Gateway,
    Seller,
}

type Swarm = libp2p::Swarm<Behaviour>;

/// Builds a swarm; needs a tokio runtime around it.
fn swarm(key: &NodeKey, side: Side) -> Result<Swarm, noise::Error> {
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established_incoming(Some(match side {
            Side::Gateway => CONNECTIONS_MAX,
            Side::Seller => 0,
        }))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let behaviour = |keypair: &identity::Keypair| {
        let identify = identify::Config::new("/overlay/1".to_owned(), keypair.public())
            .with_agent_version(concat!("overlay/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_hide_listen_addrs(true)
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT);
        Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            crowd: crowd::Behaviour::default(),
            memory: memory_connection_limits::Behaviour::with_max_bytes(MEMORY_MAX),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            streams: libp2p_stream::Behaviour::new(),
        }
    };
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        config
    };
    let swarm = libp2p::SwarmBuilder::with_existing_identity(keypair(key))
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, muxer)?
        .with_behaviour(behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(DIAL_TIMEOUT)
        .build();
    Ok(swarm)
}

/// Returns libp2p's form of a node key.
fn keypair(key: &NodeKey) -> identity::Keypair {
    identity::Keypair::ed25519_from_bytes(*key.seed()).expect("32 bytes are an Ed25519 seed")
}

/// Returns the key that a PeerId contains; only Ed25519 keys are nodes.
fn node_id(peer: &PeerId) -> Option<NodeId> {
    let key = identity::PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// Returns the PeerId that contains a key, `None` if it is no point on the curve.
fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

fn multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// Returns the IP address and port that a multiaddr begins with.
fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
