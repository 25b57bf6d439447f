//! A registry and its members in one process, without a network or a store that could fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use overlay_proto::control::{Command, Member};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::envelope::{decode, encode};
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JoinReply, JoinRequest, RefuseReason, ToGateway, ToMember, Welcome};
use overlay_proto::registry::{OrderRecord, Record, Registry, SlotRecord, TicketRecord};
use overlay_proto::ticket::{Ticket, TicketSecret};
use vde_switch::time::Instant;

use super::*;

pub(crate) const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(44, 128, 2, 2));

/// Life of grants in all tests that do not set it.
pub(crate) const LIFE: Duration = Duration::from_secs(900);

pub(crate) fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

pub(crate) fn record() -> OrderRecord {
    OrderRecord::new(order(), name("farm"), subnet(), [3; 32])
}

pub(crate) fn registry() -> Registry {
    let opened = Registry::open(buyer(), record(), Vec::new(), Vec::new(), NOW, Instant::ZERO);
    let mut registry = opened.unwrap();
    registry.set_reach(vec!["44.128.1.2:7770".parse().unwrap()], Vec::new(), 7770);
    registry
}

/// A ticket that is good for a minute.
pub(crate) fn invite(registry: &mut Registry, secret: u8) -> Ticket {
    let secret = TicketSecret([secret; 16]);
    registry.invite(None, secret, NOW + 60, NOW, Instant::ZERO).unwrap().0
}

pub(crate) fn rules() -> DialRules {
    DialRules { lan: Lan::Refused, links: Vec::new() }
}

pub(crate) fn host(number: u8) -> SellerHost {
    SellerHost {
        seller: seller(number).id(),
        data_key: [0xa0 + number; 32],
        only_buyer: false,
        rules: rules(),
        gateway: vec![SocketAddr::from(([44, 128, 1, 2], 7770))],
    }
}

pub(crate) fn member(ticket: &Ticket, number: u8) -> Membership {
    Membership::new(ticket.clone(), host(number))
}

pub(crate) fn ask(
    registry: &mut Registry,
    number: u8,
    request: &JoinRequest,
    unix_now: u64,
    now: Instant,
) -> JoinReply {
    registry.handle_join(seller(number).id(), REMOTE, request, unix_now, now).reply
}

pub(crate) fn welcome(reply: JoinReply) -> Welcome {
    match reply {
        JoinReply::Welcome(welcome) => welcome,
        JoinReply::Refused(reason) => panic!("{reason}"),
    }
}

#[track_caller]
pub(crate) fn refused(reply: JoinReply) -> RefuseReason {
    match reply {
        JoinReply::Welcome(_) => panic!("a seller was let in"),
        JoinReply::Refused(reason) => reason,
    }
}

/// Joins at some time and returns what the data plane was told.
pub(crate) fn join_at(
    registry: &mut Registry,
    member: &mut Membership,
    number: u8,
    now: Instant,
) -> Vec<Command> {
    let request = member.request([number; 16], now);
    let welcome = welcome(ask(registry, number, &request, NOW, now));
    member.handle_welcome(&welcome, now).unwrap()
}

/// Joins at the start of time and returns what the data plane was told.
pub(crate) fn join(registry: &mut Registry, member: &mut Membership, number: u8) -> Vec<Command> {
    join_at(registry, member, number, Instant::ZERO)
}

/// Renews a grant over a live stream and returns what the data plane was told.
pub(crate) fn renew(
    registry: &mut Registry,
    member: &mut Membership,
    number: u8,
    now: Instant,
) -> Vec<Command> {
    let ToGateway::Renew { nonce } = member.renew([number ^ 0xff; 16], now) else {
        panic!("no question")
    };
    let slot = member.grant().unwrap().slot;
    let grant = registry.renew(seller(number).id(), slot, nonce, now).unwrap();
    member.handle_message(ToMember::Grant(grant), now).unwrap()
}

/// Brings a member to the registry's roster and returns what the data plane was told.
pub(crate) fn update(registry: &Registry, member: &mut Membership) -> Vec<Command> {
    let version = member.view().version().unwrap();
    let roster = registry.roster_since(version).unwrap();
    member.handle_message(ToMember::Roster(roster), Instant::ZERO).unwrap()
}

pub(crate) fn set_members(commands: &[Command]) -> Vec<&Member> {
    let member = |command: &'_ Command| matches!(command, Command::SetMember(_));
    let members = commands.iter().filter(|command| member(command));
    members.filter_map(|c| if let Command::SetMember(m) = c { Some(m) } else { None }).collect()
}

/// What a store would hold: the last record of each key, through its bytes.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) order: Option<OrderRecord>,
    pub(crate) tickets: Vec<TicketRecord>,
    pub(crate) slots: Vec<SlotRecord>,
}

impl Store {
    pub(crate) fn write(&mut self, records: Vec<Record>) {
        for record in records {
            match decode::<Record>(&encode(&record)).unwrap() {
                Record::Order(order) => self.order = Some(order),
                Record::Ticket(new) => {
                    self.tickets.retain(|ticket| ticket.slot != new.slot);
                    self.tickets.push(new);
                }
                Record::Slot(new) => {
                    self.slots.retain(|slot| slot.slot != new.slot);
                    self.slots.push(new);
                }
            }
        }
    }

    pub(crate) fn open(&mut self, unix_now: u64, now: Instant) -> Registry {
        let order = self.order.clone().unwrap();
        let (tickets, slots) = (self.tickets.clone(), self.slots.clone());
        let book = Registry::open(buyer(), order, tickets, slots, unix_now, now).unwrap();
        self.order = Some(book.order_record().clone());
        book
    }
}
