//! The seller's side of an order, and what both sides tell their data planes.
//!
//! # Theory of operation
//! A [`Membership`] is made from a ticket. It writes the [`JoinRequest`], verifies everything that
//! comes back against the ticket (buyer, order), the host (seller key, data-plane key) and its own
//! question (nonce), keeps the [`RosterView`], and turns each change into [`Command`]s.
//! The gateway's own data plane is told by a [`GatewayPlane`] from the registry. Both compare what
//! should be known with what was told, so nothing is said twice and nobody is forgotten.
//!
//! A grant is believed for its life, counted from when the question that it answers was *asked*;
//! the data plane is told what is left of it and stops by itself. Nothing else moves that end: no
//! roster, no config, no grant that answers another question, no clock of the wall. A newer config
//! has the grant renewed at once, since limits travel in grants. What is older than what is known
//! (grant, roster, config) is refused and changes nothing.
//!
//! Addresses from the roster are hearsay and pass the user's [`DialRules`]; the gateway's come with
//! the ticket. Under `--only-buyer` no other member is dialled: what is for them goes to the
//! gateway.
//!
//! Guests of one lease share its data plane, which has one port for each: each has a membership of
//! its own ([`Membership::beside`]), whose limits and answers are its port's. One of them drives
//! the data plane, which is told of members and of life by that one alone; another takes that over
//! ([`Membership::take_over`]) when the first goes.
//!
//! # Limits
//! One membership, one slot. The life that the data plane counts down is the driving one's; the
//! port of another whose grant ran out is its owner's to detach.

mod told;

use std::net::SocketAddr;
use std::time::Duration;

use vde_switch::station::{Segment, Station};
use vde_switch::time::Instant;

pub use self::told::GatewayPlane;
use self::told::{Plane, Port, gather};
use crate::control::{AddressTrust, Command, GuestConfig, Life, LocalPort, Member, Slot};
use crate::dial::DialRules;
use crate::envelope::{EnvelopeError, Signed};
use crate::grant::{Expected, Grant, GrantError};
use crate::identity::NodeId;
use crate::messages::{JOIN_VERSION, JoinRequest, ToGateway, ToMember, Welcome};
use crate::order::{Config, ConfigError, OrderId};
use crate::roster::{RosterError, RosterView};
use crate::ticket::Ticket;

/// Who a seller's host is, and what its user allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SellerHost {
    /// The host's node key, public half.
    pub seller: NodeId,
    /// X25519 public key of this lease's data plane.
    pub data_key: [u8; 32],
    /// Whether it speaks to the buyer's address alone.
    pub only_buyer: bool,
    /// What others' addresses may do.
    pub rules: DialRules,
    /// The ticket's addresses, names looked up.
    pub gateway: Vec<SocketAddr>,
}

/// What the buyer granted.
#[derive(Debug)]
struct Granted {
    config: Config,
    grant: Grant,
    asked_at: Instant,
}

impl Granted {
    fn expires_at(&self) -> Instant {
        self.asked_at + Duration::from_secs(self.grant.life_s.into())
    }
}

/// What became of a grant's life, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeChange {
    /// It ran out: nothing flows until there is another.
    Expired,
    /// There is another.
    Resumed,
}

/// One slot of one order, as its seller knows it.
#[derive(Debug)]
pub struct Membership {
    ticket: Ticket,
    order: OrderId,
    host: SellerHost,
    view: RosterView,
    granted: Option<Granted>,
    asked: Option<([u8; 16], Instant)>,
    /// Whether the config changed since the last question was asked.
    is_outdated: bool,
    /// Whether the last thing that was said of the grant's life is that it ran out.
    said_expired: bool,
    /// Which port of the data plane the guest is at.
    port: LocalPort,
    told: Port,
    /// What the data plane was told of the order, if this one drives it.
    plane: Option<Plane>,
}

impl Membership {
    /// Knows the ticket and the host, nothing else.
    #[must_use]
    pub fn new(ticket: Ticket, host: SellerHost) -> Self {
        Self { plane: Some(Plane::default()), ..Self::beside(ticket, host, LocalPort::GUEST) }
    }

    /// As [`Membership::new`], for one more port of a data plane that another membership drives.
    #[must_use]
    pub fn beside(ticket: Ticket, host: SellerHost, port: LocalPort) -> Self {
        let (order, buyer) = (ticket.order(), ticket.buyer());
        let view = RosterView::new(order, buyer);
        let (granted, asked, told) = Default::default();
        let (is_outdated, said_expired, plane) = (false, false, None);
        Self {
            ticket,
            order,
            host,
            view,
            granted,
            asked,
            is_outdated,
            said_expired,
            port,
            told,
            plane,
        }
    }

    /// Says whether the data plane hears of the order by this one.
    #[must_use]
    pub const fn drives(&self) -> bool {
        self.plane.is_some()
    }

    /// Drives the data plane from here on, in place of `from`; says what is new by that.
    pub fn take_over(&mut self, from: &mut Self, now: Instant) -> Vec<Command> {
        match from.plane.take() {
            Some(plane) => self.plane = Some(plane),
            None => return Vec::new(),
        }
        if self.granted.is_some() { self.tell_life(now) } else { Vec::new() }
    }

    /// Takes which guests' ports the driven data plane has; says what is new by that. Their
    /// addresses are free for their ports from then on, whoever had them before.
    pub fn set_local(&mut self, slots: &[Slot]) -> Vec<Command> {
        let Some(plane) = &mut self.plane else { return Vec::new() };
        plane.local = slots.to_vec();
        self.tell()
    }

    /// Writes the join request; the same again after a connection was lost, with a fresh nonce.
    #[must_use]
    pub fn request(&mut self, nonce: [u8; 16], now: Instant) -> JoinRequest {
        (self.asked, self.is_outdated) = (Some((nonce, now)), false);
        JoinRequest {
            version: JOIN_VERSION,
            order: self.order,
            ticket: self.ticket.envelope().to_vec(),
            data_key: self.host.data_key,
            nonce,
            only_buyer: self.host.only_buyer,
        }
    }

    /// Takes the gateway's welcome: the segment, everyone in it, and the tunnel to the gateway.
    ///
    /// # Errors
    /// [`MembershipError`], the first thing in it that cannot be believed; nothing changed then.
    pub fn handle_welcome(
        &mut self,
        welcome: &Welcome,
        now: Instant,
    ) -> Result<Vec<Command>, MembershipError> {
        let config = self.check_config(&welcome.config)?;
        let (grant, asked_at) = self.check_grant(&welcome.grant, &config)?;
        let mut view = self.view.clone();
        view.apply(&welcome.roster)?;
        let own = view.entries().get(&grant.slot);
        if own.is_none_or(|own| own.grant.data_key != grant.data_key) {
            return Err(MembershipError::Missing);
        }
        if view.config_version() != config.version {
            return Err(MembershipError::Config(config.version));
        }
        self.view = view;
        self.believe(Granted { config, grant, asked_at });
        let mut commands = self.tell_life(now);
        // The gateway is there, whatever its silence has led the data plane to think.
        let connect = Command::Connect(Slot::GATEWAY);
        if self.drives() && !commands.contains(&connect) {
            commands.push(connect);
        }
        Ok(commands)
    }

    /// Takes a message of the member stream.
    ///
    /// # Errors
    /// [`MembershipError::Evicted`] if that is what it says, otherwise what cannot be believed and
    /// has changed nothing: close the stream and join again.
    pub fn handle_message(
        &mut self,
        message: ToMember,
        now: Instant,
    ) -> Result<Vec<Command>, MembershipError> {
        let Some(granted) = &self.granted else {
            return Err(match message {
                ToMember::Evicted => MembershipError::Evicted,
                ToMember::Roster(_) | ToMember::Grant(_) | ToMember::Config(_) => {
                    MembershipError::Missing
                }
            });
        };
        match message {
            ToMember::Roster(bytes) => {
                let mut view = self.view.clone();
                view.apply(&bytes)?;
                if granted.config.version < view.config_version() {
                    return Err(MembershipError::Config(view.config_version()));
                }
                self.view = view;
            }
            ToMember::Grant(bytes) => {
                let config = granted.config.clone();
                let (grant, asked_at) = self.check_grant(&bytes, &config)?;
                self.believe(Granted { config, grant, asked_at });
                return Ok(self.tell_life(now));
            }
            ToMember::Config(bytes) => {
                let known = granted.config.version;
                let config = self.check_config(&bytes)?;
                self.is_outdated |= config.version > known;
                if let Some(granted) = &mut self.granted {
                    granted.config = config;
                }
            }
            ToMember::Evicted => return Err(MembershipError::Evicted),
        }
        Ok(self.tell())
    }

    fn believe(&mut self, granted: Granted) {
        self.asked = None;
        self.granted = Some(granted);
    }

    /// Says what became of the grant's life since this was asked last.
    pub fn poll(&mut self, now: Instant) -> Option<LifeChange> {
        let is_expired = self.expires_at().is_some_and(|at| now >= at);
        if std::mem::replace(&mut self.said_expired, is_expired) == is_expired {
            return None;
        }
        Some(if is_expired { LifeChange::Expired } else { LifeChange::Resumed })
    }

    /// Writes the first message of a member stream. `candidates` are this host's own, which stay
    /// unsaid under `--only-buyer`. `None` before the welcome.
    #[must_use]
    pub fn hello(&self, candidates: Vec<SocketAddr>) -> Option<ToGateway> {
        let slot = self.granted.as_ref()?.grant.slot;
        let candidates = if self.host.only_buyer { Vec::new() } else { candidates };
        Some(ToGateway::Hello { slot, roster_version: self.view.version()?, candidates })
    }

    /// Returns when a new grant is to be asked for: half-life after the last question, or at once
    /// if the order changed and no answer is under way.
    #[must_use]
    pub fn renew_at(&self) -> Option<Instant> {
        let granted = self.granted.as_ref()?;
        if self.is_outdated && self.asked.is_none() {
            return Some(granted.asked_at);
        }
        let asked_at = self.asked.map_or(granted.asked_at, |(_, at)| at);
        Some(asked_at + Duration::from_secs(granted.grant.life_s.into()) / 2)
    }

    /// Asks for a new grant.
    #[must_use]
    pub const fn renew(&mut self, nonce: [u8; 16], now: Instant) -> ToGateway {
        (self.asked, self.is_outdated) = (Some((nonce, now)), false);
        ToGateway::Renew { nonce }
    }

    /// Returns when the present grant ends.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.granted.as_ref().map(Granted::expires_at)
    }

    /// Returns the ticket it was made from.
    #[must_use]
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Returns the order.
    #[must_use]
    pub const fn order(&self) -> OrderId {
        self.order
    }

    /// Returns the order's config, `None` before the welcome.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        Some(&self.granted.as_ref()?.config)
    }

    /// Returns this slot's grant, `None` before the welcome.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        Some(&self.granted.as_ref()?.grant)
    }

    /// Returns everyone in the order.
    #[must_use]
    pub const fn view(&self) -> &RosterView {
        &self.view
    }

    /// Says all again to a data plane that was started anew.
    pub fn tell_again(&mut self, now: Instant) -> Vec<Command> {
        self.told = Port::default();
        if let Some(plane) = &mut self.plane {
            plane.forget();
        }
        self.tell_life(now)
    }

    fn check_config(&self, bytes: &[u8]) -> Result<Config, MembershipError> {
        let signed: Signed<Config> = Signed::open(bytes)?;
        Config::check(&signed, self.order, self.ticket.buyer())?;
        let (_, config) = signed.into_parts();
        let Some(Granted { config: known, .. }) = &self.granted else { return Ok(config) };
        if config.version < known.version {
            return Err(MembershipError::Config(config.version));
        }
        let addresses = |config: &Config| (config.segment.ipv4, config.segment.ipv6);
        if addresses(&config) != addresses(known) {
            return Err(MembershipError::Moved);
        }
        Ok(config)
    }

    fn check_grant(
        &self,
        bytes: &[u8],
        config: &Config,
    ) -> Result<(Grant, Instant), MembershipError> {
        let (nonce, asked_at) = self.asked.ok_or(GrantError::Nonce)?;
        let expected = Expected {
            order: self.order,
            buyer: self.ticket.buyer(),
            seller: self.host.seller,
            data_key: self.host.data_key,
            nonce,
        };
        let (_, grant) = Grant::open_own(bytes, &expected)?.into_parts();
        let body = self.ticket.body();
        if grant.slot != body.slot || grant.name != body.guest {
            return Err(MembershipError::Moved);
        }
        if !within(&grant.station, &config.segment) || grant.station == config.buyer_station {
            return Err(MembershipError::Outside);
        }
        if let Some(Granted { grant: known, .. }) = &self.granted {
            if grant.age() < known.age() {
                return Err(GrantError::Stale(grant.serial).into());
            }
            if grant.station != known.station {
                return Err(MembershipError::Moved);
            }
        }
        Ok((grant, asked_at))
    }

    /// Tells what is left of the grant's life, and what else is new.
    fn tell_life(&mut self, now: Instant) -> Vec<Command> {
        let left = self.expires_at().map_or(0, |at| (at - now).as_millis());
        let life = Life::Millis(u32::try_from(left).unwrap_or(u32::MAX));
        let live = self.drives().then_some(Command::Live(life));
        live.into_iter().chain(self.tell()).collect()
    }

    fn tell(&mut self) -> Vec<Command> {
        let Some(Granted { config, grant, .. }) = &self.granted else { return Vec::new() };
        let guest = GuestConfig {
            hostname: grant.name.to_string(),
            domain: config.domain(),
            dns: config.dns.clone(),
            routes: config.routes.clone(),
        };
        let of_port = self.told.tell(self.port, grant.limits, guest);
        let Some(plane) = &self.plane else { return of_port };
        let gateway = Member {
            slot: Slot::GATEWAY,
            key: config.gateway_key,
            stations: vec![config.buyer_station],
            candidates: self.host.rules.filter(&self.host.gateway, AddressTrust::Given),
            trust: AddressTrust::Given,
        };
        let mut members = vec![gateway];
        for (slot, entry) in self.view.entries() {
            let theirs = &entry.grant;
            let own = *slot == grant.slot
                || theirs.data_key == grant.data_key
                || plane.local.contains(slot);
            let odd = theirs.data_key == config.gateway_key
                || !within(&theirs.station, &config.segment)
                || shares(&theirs.station, &config.buyer_station);
            if own || odd {
                continue;
            }
            let candidates = if self.host.only_buyer {
                Vec::new()
            } else {
                self.host.rules.filter(&entry.candidates, AddressTrust::Hearsay)
            };
            let member = Member {
                slot: *slot,
                key: theirs.data_key,
                stations: vec![theirs.station],
                candidates,
                trust: AddressTrust::Hearsay,
            };
            members.push(member);
        }
        let (segment, routes, members) = (config.segment, &config.routes, gather(members));
        let Some(plane) = &mut self.plane else { return of_port };
        let mut commands = plane.tell_segment(segment, routes);
        commands.extend(of_port);
        commands.extend(plane.tell_members(members));
        commands
    }
}

/// Says whether a station's addresses lie in the segment's.
fn within(station: &Station, segment: &Segment) -> bool {
    let (network, prefix) = segment.ipv4;
    let subnet = crate::addressing::Subnet::new(network, prefix);
    let (network6, _) = segment.ipv6;
    subnet.is_some_and(|subnet| subnet.contains(station.ipv4))
        && station.ipv6.octets()[..8] == network6.octets()[..8]
}

/// Says whether two stations have an address in common.
fn shares(a: &Station, b: &Station) -> bool {
    a.mac == b.mac || a.ipv4 == b.ipv4 || a.ipv6 == b.ipv6
}

/// Why what the gateway says is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The buyer took the guest out.
    #[error("the buyer has evicted this guest from the order")]
    Evicted,
    /// Not a signed document.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A config that cannot be followed.
    #[error(transparent)]
    ConfigRefused(#[from] ConfigError),
    /// A grant that grants nothing.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// A roster that cannot be followed.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// A config of another version than the roster needs.
    #[error("the roster and the config of version {0} do not fit each other")]
    Config(u32),
    /// No grant of one's own where there must be one.
    #[error("the roster lacks this guest, or a message came before the welcome")]
    Missing,
    /// Slot, name or addresses changed under way.
    #[error("the grant is for another slot, name or address than before")]
    Moved,
    /// A station that is not of the segment, or is the buyer's.
    #[error("the grant's addresses are not of the order's segment")]
    Outside,
}
