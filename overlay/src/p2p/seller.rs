//! The seller's end: dials the gateway, joins, keeps one member stream.
//!
//! # Theory of operation
//! All addresses are dialled at once; the first connection whose other end proves the buyer's key
//! wins. One task drives it from then on and says when it is gone; coming back is the caller's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncReadExt, StreamExt};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionId, SwarmEvent};
use libp2p::{PeerId, Stream, StreamProtocol, identify};
use libp2p_stream::{Control, OpenStreamError};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::messages::{
    JOIN_PROTOCOL, JoinReply, JoinRequest, MEMBER_PROTOCOL, MESSAGE_LEN_MAX, Message, ToGateway,
    ToMember,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{
    BehaviourEvent, DIAL_TIMEOUT, HEARTBEAT_INTERVAL, MESSAGE_TIMEOUT, QUEUE_LEN, STREAM_TRIES_MAX,
    Side, Swarm, frame, multiaddr, node_id, peer_id, socket_addr, swarm,
};

/// How long all addresses together may take: they are dialled at once.
const DIAL_ALL_TIMEOUT: Duration = DIAL_TIMEOUT.saturating_add(Duration::from_secs(1));

/// Pause before a stream that ended without an answer is tried again, times the number of the try.
const STREAM_RETRY_AFTER: Duration = Duration::from_millis(50);

/// A connection to the gateway whose key is proved; dropping it closes the connection.
#[derive(Debug)]
pub struct SellerNet {
    buyer: PeerId,
    remote: SocketAddr,
    control: Peer,
    observed: watch::Receiver<Option<SocketAddr>>,
    connected: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Wraps what has no `Debug` of its own.
struct Peer(Control);

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Drop for SellerNet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no connection to the gateway.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address that may be dialled.
    #[error("the ticket has no address that this host may dial")]
    NoAddress,
    /// The ticket's key is none.
    #[error("the buyer's key {0} is not a valid key")]
    Key(NodeId),
    /// Somebody else is there.
    #[error("{addr} answers with another key ({found}) than the ticket's buyer ({buyer})")]
    AnotherKey {
        /// Where.
        addr: SocketAddr,
        /// Who.
        found: String,
        /// Who should be there.
        buyer: NodeId,
    },
    /// Nobody is there.
    #[error("the gateway does not answer: {0}")]
    Unreachable(String),
    /// The seller's own key cannot be used.
    #[error("cannot use the node key")]
    OwnKey(#[from] libp2p::noise::Error),
}

/// Why a stream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The connection is gone.
    #[error("the connection to the gateway was lost")]
    Disconnected,
    /// The gateway is none.
    #[error("the gateway does not speak {0}; update the older of the two")]
    Protocol(&'static str),
    /// It ended before its answer, or answered nonsense.
    #[error("the gateway gave no answer")]
    NoAnswer(#[source] io::Error),
}

/// Dials all addresses at once; the first that proves the buyer's key wins.
///
/// # Errors
/// [`DialError::AnotherKey`] if nobody did but someone answered, else [`DialError::Unreachable`]
/// with the reason of each address.
pub async fn dial(
    key: &NodeKey,
    addrs: Vec<SocketAddr>,
    buyer: NodeId,
) -> Result<SellerNet, DialError> {
    let peer = peer_id(buyer).ok_or(DialError::Key(buyer))?;
    let mut swarm = swarm(key, Side::Seller)?;
    let mut trying = Vec::new();
    let mut failed = Vec::new();
    for addr in addrs {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![multiaddr(addr)])
            .build();
        let id = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => trying.push((id, addr)),
            Err(error) => failed.push(format!("{addr}: {error}")),
        }
    }
    if trying.is_empty() && failed.is_empty() {
        return Err(DialError::NoAddress);
    }
    let unanswered = trying.clone();
    let won = timeout(DIAL_ALL_TIMEOUT, first(&mut swarm, trying, failed, buyer)).await;
    let (winner, remote) = won.unwrap_or_else(|_| {
        let addrs: Vec<_> = unanswered.iter().map(|(_, addr)| addr.to_string()).collect();
        Err(DialError::Unreachable(format!("{}: no answer in time", addrs.join(", "))))
    })?;
    let control = Peer(swarm.behaviour().streams.new_control());
    let (observed_sender, observed) = watch::channel(None);
    let (connected_sender, connected) = watch::channel(true);
    let task = tokio::spawn(run(swarm, winner, observed_sender, connected_sender));
    Ok(SellerNet { buyer: peer, remote, control, observed, connected, task })
}

/// Waits for the first connection, or the last failure.
async fn first(
    swarm: &mut Swarm,
    mut trying: Vec<(ConnectionId, SocketAddr)>,
    mut failed: Vec<String>,
    buyer: NodeId,
) -> Result<(ConnectionId, SocketAddr), DialError> {
    let mut another = None;
    while !trying.is_empty() {
        let (connection_id, error) = match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                let remote = socket_addr(endpoint.get_remote_address());
                let dialled = trying.iter().find(|(id, _)| *id == connection_id);
                if let Some(remote) = remote.or(dialled.map(|(_, addr)| *addr)) {
                    return Ok((connection_id, remote));
                }
                continue;
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                (connection_id, error)
            }
            _ => continue,
        };
        let Some(at) = trying.iter().position(|(id, _)| *id == connection_id) else { continue };
        let (_, addr) = trying.swap_remove(at);
        match error {
            swarm::DialError::WrongPeerId { obtained, .. } => {
                let found = node_id(&obtained)
                    .map_or_else(|| obtained.to_string(), |found| found.to_string());
                another = another.or(Some(DialError::AnotherKey { addr, found, buyer }));
            }
            error => failed.push(format!("{addr}: {}", innermost(&error))),
        }
    }
    Err(another.unwrap_or_else(|| DialError::Unreachable(failed.join("; "))))
}

/// Returns the system's words inside libp2p's many.
fn innermost(error: &swarm::DialError) -> String {
    if let swarm::DialError::Transport(errors) = error
        && let Some((_, error)) = errors.first()
    {
        let mut inner: &dyn std::error::Error = error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        return inner.to_string();
    }
    error.to_string()
}

/// Drives the swarm until the winner's connection ends; later ones are closed.
async fn run(
    mut swarm: Swarm,
    winner: ConnectionId,
    observed: watch::Sender<Option<SocketAddr>>,
    connected: watch::Sender<bool>,
) {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                swarm.close_connection(connection_id);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. }
                if connection_id == winner =>
            {
                tracing::debug!(?cause, "the connection to the gateway ended");
                let _ = connected.send(false);
                return;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) if ping.result.is_err() => {
                swarm.close_connection(ping.connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => {
                let _ = observed.send(socket_addr(&info.observed_addr));
            }
            _ => {}
        }
    }
}

impl SellerNet {
    /// Returns the gateway's address that won.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Returns this host's address as the gateway sees it, TCP port included, once it said so.
    #[must_use]
    pub fn observed(&self) -> Option<SocketAddr> {
        *self.observed.borrow()
    }

    /// Waits until the connection is gone.
    pub async fn disconnected(&mut self) {
        let _ = self.connected.wait_for(|connected| !connected).await;
    }

    /// Shows the ticket. Repeated after a stream that ended without an answer.
    ///
    /// # Errors
    /// [`JoinError`], when there is no answer at all; a refusal is an answer.
    pub async fn join(&mut self, request: &JoinRequest) -> Result<JoinReply, JoinError> {
        let mut tries = 1;
        loop {
            let mut stream = self.open(JOIN_PROTOCOL).await?;
            let answer = async {
                frame::write(&mut stream, request).await?;
                let within = MESSAGE_TIMEOUT.saturating_mul(2);
                let bytes = frame::read(&mut stream, MESSAGE_LEN_MAX, within).await?;
                JoinReply::decode(&bytes).map_err(frame::invalid)
            };
            match answer.await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.pause(&mut tries, error).await?,
            }
        }
    }

    /// Opens the member stream; `hello` is its first message. The receiver ends with the stream:
    /// the program then dials again.
    ///
    /// # Errors
    /// [`JoinError`] if there is no such stream to be had.
    pub async fn member(
        &mut self,
        hello: ToGateway,
    ) -> Result<(mpsc::Sender<ToGateway>, mpsc::Receiver<ToMember>), JoinError> {
        let mut tries = 1;
        let stream = loop {
            let mut stream = self.open(MEMBER_PROTOCOL).await?;
            let taken = async {
                frame::write(&mut stream, &hello).await?;
                frame::read(&mut stream, 0, MESSAGE_TIMEOUT).await
            };
            match taken.await {
                Ok(_) => break stream,
                Err(error) => self.pause(&mut tries, error).await?,
            }
        };
        let (sender, outbox) = mpsc::channel(QUEUE_LEN);
        let (inbox, receiver) = mpsc::channel(QUEUE_LEN);
        tokio::spawn(member(stream, outbox, inbox));
        Ok((sender, receiver))
    }

    /// Waits before a stream that ended is tried again, or says that it was tried enough.
    async fn pause(&self, tries: &mut u32, error: io::Error) -> Result<(), JoinError> {
        if !*self.connected.borrow() {
            return Err(JoinError::Disconnected);
        }
        if *tries >= STREAM_TRIES_MAX {
            return Err(JoinError::NoAnswer(error));
        }
        tracing::debug!(%error, tries, "a stream ended without an answer");
        sleep(STREAM_RETRY_AFTER * *tries).await;
        *tries += 1;
        Ok(())
    }

    async fn open(&mut self, protocol: &'static str) -> Result<Stream, JoinError> {
        if !*self.connected.borrow() {
            return Err(JoinError::Disconnected);
        }
        let opening = self.control.0.open_stream(self.buyer, StreamProtocol::new(protocol));
        match timeout(MESSAGE_TIMEOUT, opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(OpenStreamError::UnsupportedProtocol(_))) => Err(JoinError::Protocol(protocol)),
            Ok(Err(_)) => Err(JoinError::Disconnected),
            Err(elapsed) => Err(JoinError::NoAnswer(elapsed.into())),
        }
    }
}

/// Serves the member stream until either side ends it.
async fn member(
    stream: Stream,
    mut outbox: mpsc::Receiver<ToGateway>,
    inbox: mpsc::Sender<ToMember>,
) {
    let (mut input, mut output) = stream.split();
    let read = async {
        loop {
            let bytes = frame::read(&mut input, MESSAGE_LEN_MAX, Duration::MAX).await?;
            let message = ToMember::decode(&bytes).map_err(frame::invalid)?;
            inbox.send(message).await.map_err(io::Error::other)?;
        }
    };
    let write = async {
        loop {
            match timeout(HEARTBEAT_INTERVAL, outbox.recv()).await {
                Ok(Some(message)) => frame::write(&mut output, &message).await?,
                Ok(None) => {
                    // The last words are heard when the gateway ends the stream.
                    futures::AsyncWriteExt::close(&mut output).await?;
                    std::future::pending::<()>().await;
                }
                Err(_) => frame::write_empty(&mut output).await?,
            }
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = read => ended,
        ended = write => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "the member stream ended");
    }
}
