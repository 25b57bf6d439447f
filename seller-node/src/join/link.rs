//! The control connection to the gateway: dialled, joined, kept, dialled again.
//!
//! # Theory of operation
//! A [`Link`] is in one of four states: waiting for the next try, joining (dial, ticket, answer),
//! opening the member stream, or open. [`Link::next`] drives the state it is in and says what
//! happened; what to do about it is its caller's. Data goes on flowing in each of them.
//!
//! # Limits
//! Tries are [`RETRY_AFTER_MIN`] to [`RETRY_AFTER_MAX`] apart, twice as long after each failure.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use overlay::p2p::{self, DialError, JoinError, SellerNet};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::messages::{JoinReply, JoinRequest, ToGateway, ToMember};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};

/// First pause after a failure.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(500);
/// Longest pause between two tries: a gateway that is back is to be found within 5 s.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(4);
/// Longest wait for a last message to be taken.
const LEAVE_AFTER_MAX: Duration = Duration::from_millis(500);

/// What happened to the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// It is time to [`Link::join`] again.
    Due,
    /// The gateway answered; [`Link::open`] is next if it let us in.
    Joined(JoinReply),
    /// The member stream is open.
    Open,
    /// The gateway says something.
    Message(ToMember),
    /// There is no connection; [`LinkEvent::Due`] follows.
    Lost(LinkError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The gateway was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It was reached and gave no answer.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The connection ended.
    #[error("the control connection to the gateway has ended")]
    Ended,
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, LinkError>> + Send>>;
type Streams = (mpsc::Sender<ToGateway>, mpsc::Receiver<ToMember>);

enum State {
    Waiting(Pin<Box<Sleep>>),
    Joining(Work<(SellerNet, JoinReply)>),
    Joined(SellerNet),
    Opening(Work<(SellerNet, Streams)>),
    Open { net: SellerNet, streams: Streams },
    Moving,
}

/// The control connection of one lease.
pub(crate) struct Link {
    key: NodeKey,
    addresses: Vec<SocketAddr>,
    buyer: NodeId,
    state: State,
    retry_after: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(to {}, open: {})", self.buyer, self.is_open())
    }
}

impl Link {
    /// Knows whom to dial; [`LinkEvent::Due`] is the first event.
    pub(crate) fn new(key: NodeKey, addresses: Vec<SocketAddr>, buyer: NodeId) -> Self {
        let state = State::Waiting(Box::pin(sleep(Duration::ZERO)));
        Self { key, addresses, buyer, state, retry_after: RETRY_AFTER_MIN }
    }

    /// Dials and shows the ticket.
    pub(crate) fn join(&mut self, request: JoinRequest) {
        let (key, addresses, buyer) = (self.key.clone(), self.addresses.clone(), self.buyer);
        self.state = State::Joining(Box::pin(async move {
            let mut net = p2p::dial(&key, addresses, buyer).await?;
            let reply = net.join(&request).await?;
            Ok((net, reply))
        }));
    }

    /// Opens the member stream of the connection that just joined.
    pub(crate) fn open(&mut self, hello: ToGateway) {
        match std::mem::replace(&mut self.state, State::Moving) {
            State::Joined(mut net) => {
                self.state = State::Opening(Box::pin(async move {
                    let streams = net.member(hello).await?;
                    Ok((net, streams))
                }));
            }
            other => self.state = other,
        }
    }

    /// Gives the connection up; the next try comes after a pause.
    pub(crate) fn close(&mut self) {
        self.state = State::Waiting(Box::pin(sleep(self.retry_after)));
        self.retry_after = (self.retry_after * 2).min(RETRY_AFTER_MAX);
    }

    /// Returns where the gateway has proved its key, as long as there is a connection.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Joined(net) | State::Open { net, .. } => Some(net.remote()),
            State::Waiting(_) | State::Joining(_) | State::Opening(_) | State::Moving => None,
        }
    }

    /// Says whether messages flow.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Returns what happens next. Dropped and called again, nothing is lost.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let result = match &mut self.state {
            State::Waiting(pause) => {
                pause.await;
                Ok((State::Moving, LinkEvent::Due))
            }
            State::Joining(work) => {
                work.await.map(|(net, reply)| (State::Joined(net), LinkEvent::Joined(reply)))
            }
            State::Opening(work) => {
                work.await.map(|(net, streams)| (State::Open { net, streams }, LinkEvent::Open))
            }
            State::Open { net, streams: (_, receiver) } => tokio::select! {
                message = receiver.recv() => match message {
                    Some(message) => return LinkEvent::Message(message),
                    None => Err(LinkError::Ended),
                },
                () = net.disconnected() => Err(LinkError::Ended),
            },
            State::Joined(_) | State::Moving => std::future::pending().await,
        };
        match result {
            Ok((state, event)) => {
                if matches!(event, LinkEvent::Open) {
                    self.retry_after = RETRY_AFTER_MIN;
                }
                self.state = state;
                event
            }
            Err(error) => {
                self.close();
                LinkEvent::Lost(error)
            }
        }
    }

    /// Says something; one who does not take it is given up.
    pub(crate) fn send(&mut self, message: ToGateway) {
        if let State::Open { streams: (sender, _), .. } = &self.state
            && sender.try_send(message).is_err()
        {
            self.close();
        }
    }

    /// Says goodbye if there is a connection, or one is about to open, and waits shortly until it
    /// is heard.
    pub(crate) async fn leave(self) {
        let goodbye = async {
            let (net, (sender, mut receiver)) = match self.state {
                State::Open { net, streams } => (net, streams),
                State::Opening(work) => work.await.ok()?,
                State::Waiting(_) | State::Joining(_) | State::Joined(_) | State::Moving => {
                    return None;
                }
            };
            sender.send(ToGateway::Leave).await.ok()?;
            drop(sender);
            while receiver.recv().await.is_some() {}
            Some(net)
        };
        let _ = timeout(LEAVE_AFTER_MAX, goodbye).await;
    }
}
