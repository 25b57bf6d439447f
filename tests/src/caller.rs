//! Sellers without a data plane, and strangers that speak libp2p.
//!
//! # Theory of operation
//! They call a gateway from inside a lab's namespace and say what the real programs never would.
//! [`call`] runs a scenario's tasks there; [`join`] is the product's own client with any key,
//! [`Raw`] is a libp2p node that opens streams and leaves what it says on them to the scenario.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, noise, ping, tcp, yamux};
use libp2p_stream::{Behaviour, Control};
use overlay::p2p::{self, SellerNet};
use overlay_proto::identity::NodeKey;
use overlay_proto::messages::{JOIN_VERSION, JoinReply, JoinRequest};
use overlay_proto::ticket::Ticket;
use tokio::time::timeout;

use crate::lab::Host;

/// How long a stranger tries to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Runs `work` in a namespace; tasks that it leaves behind end with it.
///
/// # Errors
/// As `work` says, or when the namespace is gone.
pub fn call<T: Send>(from: &Host, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    from.within(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let done = runtime.block_on(work);
        runtime.shutdown_background();
        Ok(done)
    })?
}

/// Returns the `number`-th key of a scenario.
#[must_use]
pub fn key(number: u32) -> NodeKey {
    NodeKey::from_seed(blake3::hash(&number.to_be_bytes()).as_bytes())
}

/// Returns the request with which a key shows a ticket; its data key is the same number.
#[must_use]
pub fn request(ticket: &Ticket, key: &NodeKey) -> JoinRequest {
    JoinRequest {
        version: JOIN_VERSION,
        order: ticket.order(),
        ticket: ticket.envelope().to_vec(),
        data_key: key.id().0,
        nonce: [7; 16],
        only_buyer: false,
    }
}

/// Dials a gateway and shows a ticket.
///
/// # Errors
/// When there is no connection, or no answer.
pub async fn join(
    key: &NodeKey,
    ticket: &Ticket,
    gateway: SocketAddr,
) -> Result<(SellerNet, JoinReply)> {
    let mut net = p2p::dial(key, vec![gateway], ticket.buyer()).await?;
    let reply = net.join(&request(ticket, key)).await?;
    Ok((net, reply))
}

/// Answers pings, or a gateway would hang up.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Stranger {
    ping: ping::Behaviour,
    streams: Behaviour,
}

/// A libp2p node without manners: one connection, as many streams as it likes.
#[derive(Debug)]
pub struct Raw {
    gateway: PeerId,
    control: Peer,
    task: tokio::task::JoinHandle<()>,
}

/// Wraps what has no `Debug` of its own.
struct Peer(Control);

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    /// Connects with this key; bounds none of its own streams.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub async fn connect(key: &NodeKey, gateway: SocketAddr) -> Result<Self> {
        use futures::StreamExt;
        let keypair = libp2p::identity::Keypair::ed25519_from_bytes(*key.seed())?;
        let muxer = || {
            let mut config = yamux::Config::default();
            config.set_max_num_streams(4096); // the most that yamux takes
            config
        };
        let behaviour =
            |_: &_| Stranger { ping: ping::Behaviour::default(), streams: Behaviour::new() };
        let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, muxer)?
            .with_behaviour(behaviour)
            .unwrap_or_else(|never| match never {})
            .build();
        swarm.dial(Multiaddr::from(gateway.ip()).with(Protocol::Tcp(gateway.port())))?;
        let control = Peer(swarm.behaviour().streams.new_control());
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => bail!("{error}"),
                    _ => {}
                }
            }
        };
        let gateway = timeout(CONNECT_MAX, connected).await.context("no connection in time")??;
        let task = tokio::spawn(async move { while swarm.next().await.is_some() {} });
        Ok(Self { gateway, control, task })
    }

    /// Opens one more stream.
    ///
    /// # Errors
    /// When the gateway refuses it or has hung up.
    pub async fn open(&mut self, protocol: &'static str) -> Result<Stream> {
        let opening = self.control.0.open_stream(self.gateway, StreamProtocol::new(protocol));
        Ok(timeout(CONNECT_MAX, opening).await.context("no stream in time")??)
    }
}
