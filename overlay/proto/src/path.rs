//! The path agent of one peer: where its datagrams go, and when to look for a better way.
//!
//! # Theory of operation
//! A path is *primary* once data passed both ways on it: the peer's response came back on it, or
//! data of a session did. Whoever authenticates from a new address has roamed and is followed at
//! once, as in WireGuard; only the relay does not displace a direct path heard from within
//! [`RELAY_YIELDS_FOR`], since datagrams in flight may still arrive that way.
//!
//! A tunnel is wanted by its first frame. The first initiation goes to the candidates; the same
//! bytes follow by the relay after [`RELAY_AFTER`], so a direct path wins where there is one and
//! nobody waits where there is none. Later attempts go everywhere at once, ever more slowly.
//!
//! When something was sent and nothing authentic came back for [`URGENT_AFTER`], the path is probed
//! each [`URGENT_INTERVAL`]; after [`DEAD_AFTER`] it is given up: for the relay where there is one,
//! else for new handshakes. From the relay the agent climbs back by trying the candidates again,
//! after [`UPGRADE_AFTER_MIN`] and then ever later.
//!
//! # Limits
//! [`crate::control::CANDIDATES_MAX`] candidates, one primary. Left out: hole punching by both
//! sides at once, and the search for the path's size.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vde_switch::time::Instant;

use crate::control::{AddressTrust, CANDIDATES_MAX, PathKind};
use crate::wire::probe::Token;

/// How long the relay's copy of the first initiation waits for a direct answer: more than the round
/// trip of a continent, less than a person notices.
pub const RELAY_AFTER: Duration = Duration::from_millis(150);

/// First wait between initiations; doubles up to [`RETRY_AFTER_MAX`].
pub const RETRY_AFTER_MIN: Duration = Duration::from_millis(200);

/// Longest wait between initiations: WireGuard's REKEY_TIMEOUT.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// The longest wait where no address has proved the key and no relay helps: fewer tries in five
/// minutes than an unproven address may hear, so that some are left when the peer is back.
pub const RETRY_UNPROVEN_AFTER_MAX: Duration = Duration::from_secs(40);

/// How long a direct path holds against datagrams that still come by the relay.
pub const RELAY_YIELDS_FOR: Duration = Duration::from_secs(1);

/// Silence after something was sent that starts urgent probing.
pub const URGENT_AFTER: Duration = Duration::from_millis(800);

/// Between urgent probes.
pub const URGENT_INTERVAL: Duration = Duration::from_millis(500);

/// Silence after something was sent that ends a path.
pub const DEAD_AFTER: Duration = Duration::from_millis(2500);

/// Between probes of a path in use, for its round trip and to hold a NAT's mapping.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How long after its last frame a path counts as in use.
pub const USED_FOR: Duration = Duration::from_secs(30);

/// First wait before a relayed peer is tried directly; doubles up to [`UPGRADE_AFTER_MAX`].
pub const UPGRADE_AFTER_MIN: Duration = Duration::from_secs(3);

/// Longest wait between such trials.
pub const UPGRADE_AFTER_MAX: Duration = Duration::from_secs(60);

/// Over how many probes the loss is told.
const LOSS_WINDOW: u32 = 20;

/// An address pair: the peer's, and the one of ours that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Where datagrams go.
    pub remote: SocketAddr,
    /// Where they leave from, if it matters.
    pub local: Option<IpAddr>,
}

/// One way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Straight.
    Direct(Via),
    /// By way of the gateway.
    Relay,
}

/// Whether the gateway can hand datagrams on to this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// Both are members.
    Possible,
    /// One of the two is the gateway.
    Impossible,
}

/// Where an initiation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// To all candidates.
    Candidates,
    /// To the gateway for handing on.
    Relay,
    /// To all of them.
    Everywhere,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// Make an initiation and send it there.
    pub initiate: Option<Targets>,
    /// Send the latest initiation once more, by the relay.
    pub repeat_by_relay: bool,
    /// Send a probe on the primary path.
    pub probe: Option<Token>,
}

/// A change of the primary path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// The new path.
    pub path: PathKind,
    /// Why, for the log.
    pub reason: &'static str,
}

#[derive(Debug)]
struct Attempt {
    count: u32,
    next_at: Instant,
    relay_at: Option<Instant>,
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct PathAgent {
    candidates: Vec<SocketAddr>,
    trust: AddressTrust,
    relayed: Relayed,
    keep: bool,
    primary: Option<Route>,
    proven: Vec<SocketAddr>,
    attempt: Option<Attempt>,
    unanswered_since: Option<Instant>,
    heard_at: Option<Instant>,
    direct_heard_at: Option<Instant>,
    used_at: Option<Instant>,
    upgrade_at: Instant,
    upgrade_after: Duration,
    probed_at: Option<Instant>,
    probe_sequence: u32,
    probes_sent: u32,
    probes_lost: u32,
    probe_open: bool,
    rtt: Option<Duration>,
    change: Option<PathChange>,
}

impl PathAgent {
    /// Makes an agent that knows nothing yet.
    #[must_use]
    pub const fn new(relayed: Relayed) -> Self {
        Self {
            candidates: Vec::new(),
            trust: AddressTrust::Hearsay,
            relayed,
            keep: false,
            primary: None,
            proven: Vec::new(),
            attempt: None,
            unanswered_since: None,
            heard_at: None,
            direct_heard_at: None,
            used_at: None,
            upgrade_at: Instant::ZERO,
            upgrade_after: UPGRADE_AFTER_MIN,
            probed_at: None,
            probe_sequence: 0,
            probes_sent: 0,
            probes_lost: 0,
            probe_open: false,
            rtt: None,
            change: None,
        }
    }

    /// Takes the addresses to try, best first; news makes a relayed peer be tried again at once.
    pub fn set_candidates(&mut self, candidates: &[SocketAddr], trust: AddressTrust, now: Instant) {
        let kept = candidates.get(..CANDIDATES_MAX).unwrap_or(candidates);
        if self.candidates != kept {
            self.candidates = kept.to_vec();
            self.upgrade_after = UPGRADE_AFTER_MIN;
            self.upgrade_at = now;
        }
        self.trust = trust;
    }

    /// Keeps the tunnel up from now on, used or not; the peer is said to be there, so the next try
    /// is due at once.
    pub const fn keep(&mut self) {
        self.keep = true;
        self.attempt = None;
    }

    /// Returns the primary path.
    #[must_use]
    pub const fn primary(&self) -> Option<Route> {
        self.primary
    }

    /// Says whether an address may be dialled without a budget: the key was proven from there.
    #[must_use]
    pub fn is_proven(&self, remote: &SocketAddr) -> bool {
        self.proven.contains(remote)
    }

    /// Returns the addresses from which the key was proven.
    #[must_use]
    pub fn proven(&self) -> &[SocketAddr] {
        &self.proven
    }

    /// Returns where the candidates came from.
    #[must_use]
    pub const fn trust(&self) -> AddressTrust {
        self.trust
    }

    /// Returns the addresses to try.
    #[must_use]
    pub fn candidates(&self) -> &[SocketAddr] {
        &self.candidates
    }

    /// Returns the latest round trip.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Returns when something authentic came last.
    #[must_use]
    pub const fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Returns the share of the latest probes that got no reply, in percent.
    #[must_use]
    pub fn loss_percent(&self) -> u8 {
        u8::try_from(self.probes_lost * 100 / self.probes_sent.max(1)).unwrap_or(100)
    }

    /// Notes that a frame left for the peer.
    pub fn handle_sent(&mut self, now: Instant) {
        self.used_at = Some(now);
        self.unanswered_since.get_or_insert(now);
    }

    /// Notes that something authentic came from the peer, by this route.
    pub fn handle_heard(&mut self, route: Route, now: Instant) {
        self.heard_at = Some(now);
        self.unanswered_since = None;
        self.attempt = None;
        if let Route::Direct(_) = route {
            self.direct_heard_at = Some(now);
        }
        if self.primary == Some(route) {
            return;
        }
        let direct_is_fresh = self.direct_heard_at.is_some_and(|at| now - at < RELAY_YIELDS_FOR);
        match (self.primary, route) {
            (Some(Route::Direct(_)), Route::Relay) if direct_is_fresh => {}
            (None, _) => self.change_to(route, "data passed both ways"),
            (Some(Route::Relay), Route::Direct(_)) => self.change_to(route, "direct path found"),
            (Some(Route::Direct(_)), Route::Relay) => self.change_to(route, "peer took the relay"),
            (Some(_), Route::Direct(_)) => self.change_to(route, "peer moved"),
            (Some(Route::Relay), Route::Relay) => {}
        }
    }

    /// Notes that a frame came, not merely a keepalive.
    pub const fn handle_used(&mut self, now: Instant) {
        self.used_at = Some(now);
    }

    /// Takes the reply to a probe; returns the round trip if it is the latest one's.
    pub fn handle_reply(&mut self, token: Token, now: Instant) -> Option<Duration> {
        if !self.probe_open || token.sequence != self.probe_sequence {
            return None;
        }
        self.probe_open = false;
        let rtt = now - token.sent_at;
        self.rtt = Some(rtt);
        Some(rtt)
    }

    /// Says what is due. `ready`: there is a session; `demand`: frames wait for one.
    pub fn poll(&mut self, ready: bool, demand: bool, now: Instant) -> Todo {
        if ready { self.poll_session(now) } else { self.poll_handshake(demand, now) }
    }

    /// Makes the next probe; the caller sends it.
    pub fn next_probe(&mut self, now: Instant) -> Token {
        if self.probe_open {
            self.probes_lost += 1;
        }
        if self.probes_sent >= LOSS_WINDOW {
            self.probes_sent /= 2;
            self.probes_lost /= 2;
        }
        self.probes_sent += 1;
        self.probe_open = true;
        self.probed_at = Some(now);
        self.probe_sequence = self.probe_sequence.wrapping_add(1);
        self.unanswered_since.get_or_insert(now);
        Token { sequence: self.probe_sequence, sent_at: now }
    }

    /// Returns the latest change of the primary path, once.
    pub const fn poll_change(&mut self) -> Option<PathChange> {
        self.change.take()
    }

    fn poll_handshake(&mut self, demand: bool, now: Instant) -> Todo {
        if !demand && !self.keep {
            self.attempt = None;
            return Todo::default();
        }
        let relayed = self.relayed == Relayed::Possible;
        let Some(attempt) = &mut self.attempt else {
            let targets = if self.candidates.is_empty() && relayed {
                Targets::Relay
            } else {
                Targets::Candidates
            };
            let relay_at = (relayed && targets == Targets::Candidates).then(|| now + RELAY_AFTER);
            self.attempt = Some(Attempt { count: 1, next_at: now + RETRY_AFTER_MIN, relay_at });
            return Todo { initiate: Some(targets), ..Todo::default() };
        };
        if now >= attempt.next_at {
            let after = RETRY_AFTER_MIN.saturating_mul(1 << attempt.count.min(8));
            attempt.count += 1;
            let unproven = self.proven.is_empty() && !relayed;
            let longest = if unproven { RETRY_UNPROVEN_AFTER_MAX } else { RETRY_AFTER_MAX };
            attempt.next_at = now + after.min(longest);
            attempt.relay_at = None;
            let targets = if relayed { Targets::Everywhere } else { Targets::Candidates };
            return Todo { initiate: Some(targets), ..Todo::default() };
        }
        let repeat_by_relay = attempt.relay_at.is_some_and(|at| now >= at);
        if repeat_by_relay {
            attempt.relay_at = None;
        }
        Todo { repeat_by_relay, ..Todo::default() }
    }

    fn poll_session(&mut self, now: Instant) -> Todo {
        let mut todo = Todo::default();
        let Some(primary) = self.primary else { return todo };
        let silence = self.unanswered_since.map_or(Duration::ZERO, |since| now - since);
        let in_use = self.keep || self.used_at.is_some_and(|at| now - at < USED_FOR);
        if silence > DEAD_AFTER {
            if let (Route::Direct(_), Relayed::Possible) = (primary, self.relayed) {
                self.change_to(Route::Relay, "no answer on the direct path");
                self.unanswered_since = Some(now);
                self.upgrade_after = UPGRADE_AFTER_MIN;
                self.upgrade_at = now + self.upgrade_after;
            } else {
                todo.initiate = self.poll_handshake(true, now).initiate;
            }
        } else if primary == Route::Relay
            && !self.candidates.is_empty()
            && in_use
            && now >= self.upgrade_at
        {
            todo.initiate = Some(Targets::Candidates);
            self.upgrade_after = (self.upgrade_after * 2).min(UPGRADE_AFTER_MAX);
            self.upgrade_at = now + self.upgrade_after;
        }
        let interval = if silence > URGENT_AFTER { URGENT_INTERVAL } else { PROBE_INTERVAL };
        let due = self.probed_at.is_none_or(|at| now - at >= interval);
        if due && (in_use || silence > URGENT_AFTER || self.probed_at.is_none()) {
            todo.probe = Some(self.next_probe(now));
        }
        todo
    }

    fn change_to(&mut self, route: Route, reason: &'static str) {
        self.primary = Some(route);
        if let Route::Direct(via) = route
            && !self.proven.contains(&via.remote)
        {
            if self.proven.len() >= CANDIDATES_MAX {
                self.proven.remove(0);
            }
            self.proven.push(via.remote);
        }
        let path = match route {
            Route::Direct(via) => PathKind::Direct(via.remote),
            Route::Relay => PathKind::Relay,
        };
        self.change = Some(PathChange { path, reason });
    }
}

#[cfg(test)]
mod tests;
