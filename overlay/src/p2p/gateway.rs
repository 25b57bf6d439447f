//! The gateway's end: listens, answers joins, keeps member streams.
//!
//! # Theory of operation
//! One task drives the swarm, one each stream. A join stream carries one request and its reply; a
//! member stream stays and carries messages both ways until either end drops it. What comes in is
//! an event in one bounded queue; who is a member is not decided here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt, StreamExt};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{PeerId, Stream, StreamProtocol};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::messages::{
    JOIN_PROTOCOL, JOIN_VERSION, JoinReply, JoinRequest, MEMBER_PROTOCOL, Message, MessageError,
    RefuseReason, ToGateway, ToMember,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vde_switch::time::Instant;

use super::{
    BehaviourEvent, EVENTS_LEN, MEMBER_IDLE_TIMEOUT, MEMBER_MESSAGE_INTERVAL, MESSAGE_TIMEOUT,
    QUEUE_LEN, REQUEST_LEN_MAX, Side, Swarm, frame, multiaddr, node_id, socket_addr, swarm,
};
use crate::clock;

/// How long a listener may take to say where it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the log says that no connection can be accepted: strangers can bring that about.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Names a member stream, so that an old one of the same peer is not mistaken for its new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// Returns the number by which the registry tells streams apart.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What happened at the gateway's end.
#[derive(Debug)]
pub enum GatewayEvent {
    /// A seller shows a ticket. Dropping `reply` closes the stream without an answer.
    Join {
        /// The key it proved.
        peer: NodeId,
        /// From where its connection comes.
        remote: SocketAddr,
        /// What it said.
        request: JoinRequest,
        /// Takes the answer.
        reply: oneshot::Sender<JoinReply>,
    },
    /// A member stream is open; its hello follows as [`GatewayEvent::Message`].
    Opened {
        /// Which.
        stream: StreamId,
        /// The key it proved.
        peer: NodeId,
        /// From where its connection comes.
        remote: SocketAddr,
        /// Sends to it; dropping it closes the stream.
        sender: mpsc::Sender<ToMember>,
    },
    /// A member says something.
    Message {
        /// On which stream.
        stream: StreamId,
        /// The key it proved.
        peer: NodeId,
        /// What.
        message: ToGateway,
    },
    /// A member says that it is there.
    Heard {
        /// On which stream.
        stream: StreamId,
    },
    /// A member stream ended, whoever ended it.
    Closed {
        /// Which.
        stream: StreamId,
        /// Whose.
        peer: NodeId,
    },
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No address given.
    #[error("no address to listen at")]
    NoAddress,
    /// The system refused an address.
    #[error("cannot listen at {addr} (TCP)")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The key cannot be used.
    #[error("cannot use the node key")]
    Key(#[from] libp2p::noise::Error),
}

/// A serving gateway; dropping it closes all connections.
#[derive(Debug)]
pub struct GatewayNet {
    listening: Vec<SocketAddr>,
    task: JoinHandle<()>,
}

impl GatewayNet {
    /// Returns where it listens, each address as it was given, with the port the system chose for
    /// 0.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}

impl Drop for GatewayNet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens at the given addresses; `[::]` stands for all of IPv4 too.
///
/// # Errors
/// [`ServeError`] with the first address that the system refuses. `[::]` may be missing on a host
/// without IPv6 if its IPv4 half can be had.
pub async fn serve(
    key: &NodeKey,
    listen: Vec<SocketAddr>,
) -> Result<(GatewayNet, mpsc::Receiver<GatewayEvent>), ServeError> {
    let mut swarm = swarm(key, Side::Gateway)?;
    let mut listening = Vec::new();
    for addr in listen {
        let half = addr.is_ipv6() && addr.ip().is_unspecified();
        match listen_at(&mut swarm, addr).await {
            Ok(at) => listening.push(at),
            Err(source) if half => tracing::info!(%addr, %source, "no IPv6 here"),
            Err(source) => return Err(ServeError::Listen { addr, source }),
        }
        if half {
            let port = listening.last().map_or(addr.port(), SocketAddr::port);
            let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
            match listen_at(&mut swarm, addr).await {
                Ok(at) => listening.push(at),
                Err(source) => return Err(ServeError::Listen { addr, source }),
            }
        }
    }
    if listening.is_empty() {
        return Err(ServeError::NoAddress);
    }
    let (events, receiver) = mpsc::channel(EVENTS_LEN);
    let task = tokio::spawn(run(swarm, events));
    Ok((GatewayNet { listening, task }, receiver))
}

/// Opens one listener and returns its address with the port it got.
async fn listen_at(swarm: &mut Swarm, addr: SocketAddr) -> io::Result<SocketAddr> {
    let listener = swarm.listen_on(multiaddr(addr)).map_err(io::Error::other)?;
    if addr.port() != 0 {
        return Ok(addr);
    }
    let opened = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } if listener_id == listener => {
                    let port = socket_addr(&address).map_or(0, |at| at.port());
                    return Ok(SocketAddr::new(addr.ip(), port));
                }
                SwarmEvent::ListenerError { error, .. } => return Err(error),
                _ => {}
            }
        }
    };
    timeout(LISTEN_TIMEOUT, opened).await?
}

/// Drives the swarm until it is dropped. One task polls connections before streams, so the remote
/// address of a stream's connection is always known.
async fn run(mut swarm: Swarm, events: mpsc::Sender<GatewayEvent>) {
    let mut control = swarm.behaviour().streams.new_control();
    let mut accept = |protocol| {
        control.accept(StreamProtocol::new(protocol)).expect("a new swarm accepts nothing yet")
    };
    let mut joins = accept(JOIN_PROTOCOL);
    let mut members = accept(MEMBER_PROTOCOL);
    let mut remotes: BTreeMap<PeerId, Vec<(ConnectionId, SocketAddr)>> = BTreeMap::new();
    let last_id = AtomicU64::new(0);
    let mut complained_at = None;
    loop {
        tokio::select! {
            biased;
            event = swarm.select_next_some() => match event {
                SwarmEvent::ListenerError { error, .. } => complain(&error, &mut complained_at),
                event => handle_swarm(&mut swarm, &mut remotes, event),
            },
            Some((peer, stream)) = joins.next() => {
                if let Some((peer, remote)) = known(&remotes, &peer) {
                    tokio::spawn(join(peer, remote, stream, events.clone()));
                }
            }
            Some((peer, stream)) = members.next() => {
                if let Some((peer, remote)) = known(&remotes, &peer) {
                    let id = StreamId(last_id.fetch_add(1, Ordering::Relaxed));
                    tokio::spawn(member(id, peer, remote, stream, events.clone()));
                }
            }
            () = events.closed() => return,
        }
    }
}

fn known(
    remotes: &BTreeMap<PeerId, Vec<(ConnectionId, SocketAddr)>>,
    peer: &PeerId,
) -> Option<(NodeId, SocketAddr)> {
    Some((node_id(peer)?, remotes.get(peer)?.last()?.1))
}

fn handle_swarm(
    swarm: &mut Swarm,
    remotes: &mut BTreeMap<PeerId, Vec<(ConnectionId, SocketAddr)>>,
    event: SwarmEvent<BehaviourEvent>,
) {
    match event {
        SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
            if let Some(remote) = socket_addr(endpoint.get_remote_address()) {
                tracing::debug!(%peer_id, %remote, "connected");
                remotes.entry(peer_id).or_default().push((connection_id, remote));
            }
        }
        SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
            tracing::debug!(%peer_id, ?cause, "disconnected");
            if let Some(connections) = remotes.get_mut(&peer_id) {
                connections.retain(|(id, _)| *id != connection_id);
                if connections.is_empty() {
                    remotes.remove(&peer_id);
                }
            }
        }
        SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) if ping.result.is_err() => {
            swarm.close_connection(ping.connection);
        }
        SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
            tracing::debug!(remote = %send_back_addr, %error, "a connection failed");
        }
        _ => {}
    }
}

/// Says at most once in [`COMPLAINT_INTERVAL`] that no connection can be accepted.
fn complain(error: &io::Error, complained_at: &mut Option<Instant>) {
    let now = clock::now();
    if complained_at.is_none_or(|at| now - at >= COMPLAINT_INTERVAL) {
        *complained_at = Some(now);
        tracing::warn!(%error, "cannot accept connections; members' data goes on");
    }
}

/// Serves one join stream: a request, an answer, nothing else.
async fn join(
    peer: NodeId,
    remote: SocketAddr,
    mut stream: Stream,
    events: mpsc::Sender<GatewayEvent>,
) {
    let serve = async {
        let bytes = frame::read(&mut stream, REQUEST_LEN_MAX, MESSAGE_TIMEOUT).await?;
        let answer = match JoinRequest::decode(&bytes) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                let event = GatewayEvent::Join { peer, remote, request, reply };
                events.send(event).await.map_err(io::Error::other)?;
                timeout(MESSAGE_TIMEOUT, answer).await?.map_err(io::Error::other)?
            }
            Err(MessageError::Version(version)) => {
                tracing::debug!(%peer, version, "a join request of another version");
                JoinReply::Refused(RefuseReason::Version(JOIN_VERSION))
            }
            Err(
                MessageError::Malformed | MessageError::TooLong(_) | MessageError::Candidates(_),
            ) => JoinReply::Refused(RefuseReason::Malformed),
        };
        frame::write(&mut stream, &answer).await
    };
    let served: io::Result<()> = serve.await;
    match served {
        Ok(()) => frame::close(stream).await,
        Err(error) => tracing::debug!(%peer, %error, "a join stream failed"),
    }
}

/// Serves one member stream until either side ends it.
async fn member(
    id: StreamId,
    peer: NodeId,
    remote: SocketAddr,
    stream: Stream,
    events: mpsc::Sender<GatewayEvent>,
) {
    let (mut input, mut output) = stream.split();
    let (heard, hello) = oneshot::channel();
    let mut heard = Some(heard);
    let (sender, mut outbox) = mpsc::channel::<ToMember>(QUEUE_LEN);
    let opened = GatewayEvent::Opened { stream: id, peer, remote, sender };
    let mut opened = Some(opened);
    let read = async {
        let mut first_within = MESSAGE_TIMEOUT;
        loop {
            let bytes = frame::read(&mut input, REQUEST_LEN_MAX, first_within).await?;
            let message = if bytes.is_empty() && opened.is_none() {
                GatewayEvent::Heard { stream: id }
            } else {
                let message = ToGateway::decode(&bytes).map_err(frame::invalid)?;
                GatewayEvent::Message { stream: id, peer, message }
            };
            heard.take().map(|heard| heard.send(()));
            for event in opened.take().into_iter().chain([message]) {
                events.send(event).await.map_err(io::Error::other)?;
            }
            first_within = MEMBER_IDLE_TIMEOUT;
            tokio::time::sleep(MEMBER_MESSAGE_INTERVAL).await;
        }
    };
    let write = async {
        hello.await.map_err(io::Error::other)?;
        frame::write_empty(&mut output).await?;
        while let Some(message) = outbox.recv().await {
            frame::write(&mut output, &message).await?;
        }
        futures::AsyncWriteExt::close(&mut output).await
    };
    let ended: io::Result<()> = tokio::select! {
        ended = read => ended,
        ended = write => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a member stream ended");
    }
    if opened.is_none() {
        let _ = events.send(GatewayEvent::Closed { stream: id, peer }).await;
    }
}
