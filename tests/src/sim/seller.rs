//! A seller's process in the simulation: the real membership, a data plane, and a shell that dials
//! again.
//!
//! # Theory of operation
//! The shell does what `seller-node` does: dial, show the ticket, open the member stream, renew at
//! half-life, dial again after a loss. A final refusal or an eviction ends the process. A *rogue*
//! takes the same code but hears no bad news: it rewrites the life it is told into one without end,
//! stays when it is evicted, and tries its ticket again for ever.

use overlay_proto::control::{CANDIDATES_MAX, Command, Life, LocalPort, MEMBERS_MAX, Slot};
use overlay_proto::envelope::Signed;
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, MembershipError, SellerHost};
use overlay_proto::messages::{JoinReply, Message as _, RefuseReason, ToGateway, ToMember};
use overlay_proto::roster::Roster;
use overlay_proto::ticket::Ticket;

use super::gateway::rules;
use super::link::MS;
use super::model::Invariant;
use super::plant::Plant;
use super::stream::{Parcel, Way};
use super::world::World;

/// First and longest pause between two tries.
const RETRY_AFTER_MIN: u64 = 500 * MS;
const RETRY_AFTER_MAX: u64 = 10_000 * MS;
/// Between two heartbeats of a member stream.
const HEARTBEAT_INTERVAL: u64 = 3000 * MS;

/// The control connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// None until this moment.
    Idle(u64),
    /// The ticket was shown on it.
    Joining(u64, u64),
    /// The member stream is open on it.
    Open(u64),
}

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Seller {
    /// The host's node key.
    pub key: NodeKey,
    /// The lease's data-plane key.
    pub secret: [u8; 32],
    /// Its public half, for the carrier in use.
    pub data_key: [u8; 32],
    /// The ticket.
    pub ticket: Ticket,
    /// Whether it disobeys.
    pub rogue: bool,
    /// Whether it speaks to the buyer's address alone.
    pub only_buyer: bool,
    /// `None` while it does not run.
    pub membership: Option<Membership>,
    /// The control connection.
    pub link: Link,
    /// Why it ended for good.
    pub ended: Option<RefuseReason>,
    retry_after: u64,
    heartbeat_at: u64,
    /// Highest roster version, grant serial and config version seen, over all its starts.
    seen: (u64, u64, u32),
    /// The roster version of a planted bug.
    naive: Option<u64>,
}

impl Seller {
    /// Makes a seller with a ticket.
    #[must_use]
    pub const fn new(key: NodeKey, secret: [u8; 32], data_key: [u8; 32], ticket: Ticket) -> Self {
        Self {
            key,
            secret,
            data_key,
            ticket,
            rogue: false,
            only_buyer: false,
            membership: None,
            link: Link::Idle(0),
            ended: None,
            retry_after: RETRY_AFTER_MIN,
            heartbeat_at: 0,
            seen: (0, 0, 0),
            naive: None,
        }
    }

    fn back_off(&mut self, now: u64) {
        self.link = Link::Idle(now + self.retry_after);
        self.retry_after = (self.retry_after * 2).min(RETRY_AFTER_MAX);
    }
}

impl World {
    fn seller(&mut self, p: usize) -> Option<&mut Seller> {
        self.procs[p].seller_mut()
    }

    /// Starts a seller with its keys and ticket.
    pub fn start_seller(&mut self, p: usize) {
        let gateway = self.procs[self.gateways[self.procs[p].order]].address;
        let now = self.now;
        self.start_plane(p);
        let Some(seller) = self.seller(p) else { return };
        let host = SellerHost {
            seller: seller.key.id(),
            data_key: seller.data_key,
            only_buyer: seller.only_buyer,
            rules: rules(),
            gateway: vec![gateway],
        };
        seller.membership = Some(Membership::new(seller.ticket.clone(), host));
        seller.link = Link::Idle(now);
        seller.retry_after = RETRY_AFTER_MIN;
        seller.naive = None;
    }

    /// Does what is due; each tick.
    pub fn seller_tick(&mut self, p: usize) {
        let (now, boot) = (self.now, self.instant(p));
        let plant = self.plant;
        let nonce = self.rng.bytes();
        let Some(seller) = self.seller(p) else { return };
        let peer = seller.key.id();
        let Some(membership) = &mut seller.membership else { return };
        while membership.poll(boot).is_some() {}
        match seller.link {
            Link::Idle(at) if now >= at => {
                let gives_up = plant == Some(Plant::GivesUp) && membership.grant().is_some();
                if gives_up {
                    return;
                }
                let request = membership.request(nonce, boot).encode();
                match self.dial(p, peer) {
                    Some(id) => {
                        self.send(id, Way::Up, Parcel::Join(request));
                        if let Some(seller) = self.seller(p) {
                            seller.link = Link::Joining(id, now);
                        }
                    }
                    None => {
                        if let Some(seller) = self.seller(p) {
                            seller.back_off(now);
                        }
                    }
                }
            }
            Link::Joining(id, since) if now > since + 10_000 * MS => {
                seller.back_off(now);
                self.hang_up(id);
            }
            Link::Open(id) => {
                let renewal = membership
                    .renew_at()
                    .is_some_and(|at| at <= boot)
                    .then(|| membership.renew(nonce, boot).encode());
                let beats = now >= seller.heartbeat_at;
                if beats {
                    seller.heartbeat_at = now + HEARTBEAT_INTERVAL;
                }
                if let Some(renewal) = renewal {
                    self.send(id, Way::Up, Parcel::Member(renewal));
                }
                if beats {
                    self.send(id, Way::Up, Parcel::Heartbeat);
                }
            }
            Link::Idle(_) | Link::Joining(..) => {}
        }
        self.check_versions(p);
    }

    /// Takes the answer to a join request.
    pub fn handle_reply(&mut self, p: usize, id: u64, reply: JoinReply) {
        let (now, boot, address) = (self.now, self.instant(p), self.procs[p].address);
        let Some(seller) = self.seller(p) else { return };
        if !matches!(seller.link, Link::Joining(joining, _) if joining == id) {
            return;
        }
        match reply {
            JoinReply::Welcome(welcome) => {
                let Some(membership) = &mut seller.membership else { return };
                let commands = membership.handle_welcome(&welcome, boot);
                let hello = membership.hello(vec![address]);
                let station = membership.grant().map(|grant| grant.station);
                seller.link = Link::Open(id);
                seller.retry_after = RETRY_AFTER_MIN;
                if let Some(station) = station {
                    self.plug(p, station);
                }
                self.follow(p, id, commands);
                if let Some(hello) = hello {
                    self.send(id, Way::Up, Parcel::Member(hello.encode()));
                }
            }
            JoinReply::Refused(reason) => {
                let final_ = !matches!(
                    reason,
                    RefuseReason::InUse | RefuseReason::Unavailable | RefuseReason::OtherOrder
                );
                seller.back_off(now);
                if final_ && !seller.rogue {
                    seller.ended = Some(reason);
                    self.stop(p);
                }
                self.hang_up(id);
            }
        }
    }

    /// Takes a word of the gateway.
    pub fn handle_word(&mut self, p: usize, id: u64, word: ToMember) {
        let (boot, plant) = (self.instant(p), self.plant);
        let Some(seller) = self.seller(p) else { return };
        if seller.link != Link::Open(id) {
            return;
        }
        if let (Some(Plant::OldRosters), ToMember::Roster(bytes)) = (plant, &word) {
            seller.naive = Signed::<Roster>::open(bytes).ok().map(|roster| roster.body().version);
        }
        let Some(membership) = &mut seller.membership else { return };
        let commands = membership.handle_message(word, boot);
        self.follow(p, id, commands);
        self.check_versions(p);
    }

    fn follow(&mut self, p: usize, id: u64, commands: Result<Vec<Command>, MembershipError>) {
        let now = self.now;
        match commands {
            Ok(commands) => {
                for command in commands {
                    self.obey(p, command);
                }
            }
            Err(error) => {
                let Some(seller) = self.seller(p) else { return };
                seller.back_off(now);
                if error == MembershipError::Evicted && !seller.rogue {
                    seller.ended = Some(RefuseReason::Evicted);
                    self.stop(p);
                }
                self.hang_up(id);
            }
        }
    }

    /// Hands a command to the data plane, unless a rogue or a planted bug has it otherwise.
    fn obey(&mut self, p: usize, command: Command) {
        let order = self.procs[p].order;
        let rogue = self.procs[p].seller().is_some_and(|seller| seller.rogue);
        let command = match (command, self.plant) {
            (Command::Live(_), _) if rogue => Command::Live(Life::Unlimited),
            (Command::Live(_), Some(Plant::LivesForever)) => Command::Live(Life::Unlimited),
            (Command::RemoveMember(_), Some(Plant::KeepsMembers)) => return,
            (Command::SetMember(mut member), Some(Plant::ForeignStation)) => {
                if self.rogues.contains(&(order, member.slot)) {
                    member.stations.push(super::hostile::FOREIGN);
                }
                Command::SetMember(member)
            }
            (command, _) => command,
        };
        self.command(p, command);
    }

    /// Notes that a connection is gone.
    pub fn handle_lost(&mut self, p: usize, id: u64) {
        let now = self.now;
        let Some(seller) = self.seller(p) else { return };
        if matches!(seller.link, Link::Open(own) | Link::Joining(own, _) if own == id) {
            seller.back_off(now);
        }
    }

    /// Leaves the order in peace, for a while.
    pub fn leave(&mut self, p: usize) {
        let Some(seller) = self.seller(p) else { return };
        let link = seller.link;
        if let Link::Open(id) = link {
            self.send(id, Way::Up, Parcel::Member(ToGateway::Leave.encode()));
            self.stop(p);
            self.finish(id);
        }
    }

    fn check_versions(&mut self, p: usize) {
        let Some(seller) = self.seller(p) else { return };
        let Some(membership) = &seller.membership else { return };
        let Some((grant, config)) = membership.grant().zip(membership.config()) else { return };
        let view = membership.view();
        let version = seller.naive.or(view.version()).unwrap_or(0);
        let now = (version, grant.serial, config.version);
        let old = seller.seen;
        let back = now.0 < old.0 || now.1 < old.1 || now.2 < old.2;
        let many = view.entries().len() > MEMBERS_MAX
            || view.entries().values().any(|entry| entry.candidates.len() > CANDIDATES_MAX);
        seller.seen = (old.0.max(now.0), old.1.max(now.1), old.2.max(now.2));
        if back {
            self.fail(Invariant::Versions, format!("a member went from {old:?} back to {now:?}"));
        }
        if many {
            self.fail(Invariant::Tables, "a member's roster outgrew its bounds".to_owned());
        }
    }

    /// Plugs the guest in.
    pub fn plug(&mut self, p: usize, station: vde_switch::station::Station) {
        let Some(plane) = &mut self.procs[p].plane else { return };
        if plane.station.replace(station).is_none() {
            let limits = overlay_proto::control::Limits::NONE;
            let (port, stations) = (LocalPort::GUEST, vec![station]);
            self.command(p, Command::AttachPort { port, stations, limits });
        }
        let (order, slot) = (self.procs[p].order, self.procs[p].slot);
        if slot == Slot::GATEWAY
            && let Err(wrong) =
                self.model.slot_seen(order, slot, &"buyer".parse().expect("a name"), &station)
        {
            self.fail(wrong.invariant, wrong.what);
        }
    }
}
