//! A whole order without a network: tickets, joins, rosters, and what the data planes are told.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::net::SocketAddr;

use common::book::*;
use common::*;
use overlay_proto::control::{AddressTrust, Command, Life, LocalPort, Slot};
use overlay_proto::membership::{GatewayPlane, Membership, SellerHost};
use overlay_proto::messages::{JoinReply, JoinRequest, RefuseReason, ToGateway, Welcome};
use overlay_proto::order::Order;
use overlay_proto::registry::{InviteError, Record, Registry, RegistryError};
use overlay_proto::ticket::{Ticket, TicketSecret};
use vde_switch::time::Instant;

#[test]
fn a_member_is_told_the_segment_the_gateway_and_each_other() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let (mut a, mut b) = (member(&first, 1), member(&second, 2));
    let told = join(&mut book, &mut a, 1);
    assert_eq!(told[0], Command::Live(Life::Millis(900_000)));
    assert_eq!(told[1], Command::SetSegment(book.order_record().segment()));
    let gateway = set_members(&told)[0];
    assert_eq!((gateway.slot, gateway.trust), (Slot::GATEWAY, AddressTrust::Given));
    assert_eq!(gateway.stations, [station(0)]);
    let Command::Serve { port: LocalPort::GUEST, guest } = &told[2] else { panic!("{told:?}") };
    assert_eq!((&guest.hostname[..], &guest.domain[..]), ("g1", "farm.internal"));
    assert_eq!(told[4..], [Command::Connect(Slot::GATEWAY)]);
    assert_eq!(a.grant().unwrap().station, station(1));

    let at: SocketAddr = "44.128.3.2:7770".parse().unwrap();
    let told = join(&mut book, &mut b, 2);
    assert_eq!(set_members(&told)[1].slot, Slot(1));
    assert!(book.set_candidates(Slot(2), &[at, "10.9.9.9:7770".parse().unwrap(), at]));
    assert!(!book.set_candidates(Slot(2), &[at, "10.9.9.9:7770".parse().unwrap()]));
    let told = update(&book, &mut a);
    let [news] = set_members(&told)[..] else { panic!("{told:?}") };
    assert_eq!(
        (news.slot, &news.candidates[..], news.trust),
        (Slot(2), &[at][..], AddressTrust::Hearsay)
    );

    let heard: SocketAddr = "[::ffff:44.128.3.9]:4000".parse().unwrap();
    assert!(book.set_heard(Slot(2), heard));
    let told = update(&book, &mut a);
    let heard: SocketAddr = "44.128.3.9:4000".parse().unwrap();
    assert_eq!(set_members(&told)[0].candidates, [heard, at]);
    assert_eq!(book.roster_since(book.version()), None);

    book.leave(seller(2).id(), Slot(2), NOW).unwrap();
    assert_eq!(update(&book, &mut a), [Command::RemoveMember(Slot(2))]);
    assert_eq!(
        book.renew(seller(2).id(), Slot(2), [0; 16], Instant::ZERO),
        Err(RefuseReason::TicketUnknown)
    );
    join(&mut book, &mut b, 2);
    assert_eq!(set_members(&update(&book, &mut a))[0].slot, Slot(2));
    assert_eq!(b.grant().unwrap().station, station(2));
}

#[test]
fn the_gateways_plane_is_told_the_same_members_once() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut plane = GatewayPlane::default();
    let segment = book.order_record().segment();
    let first = [Command::Live(Life::Unlimited), Command::SetSegment(segment)];
    assert_eq!(plane.sync(&book, &rules()), first);
    join(&mut book, &mut member(&ticket, 1), 1);
    let told = plane.sync(&book, &rules());
    assert_eq!(set_members(&told)[0].stations, [station(1)]);
    assert_eq!(plane.sync(&book, &rules()), []);
    book.leave(seller(1).id(), Slot(1), NOW).unwrap();
    assert_eq!(plane.sync(&book, &rules()), [Command::RemoveMember(Slot(1))]);
}

#[test]
fn where_a_member_proved_its_key_is_no_hearsay_and_anywhere_else_is() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    join(&mut book, &mut member(&ticket, 1), 1);
    let trust = |book: &Registry| book.members().next().unwrap().trust;
    book.set_candidates(Slot(1), &[(REMOTE, 7770).into()]);
    assert_eq!(trust(&book), AddressTrust::Given);
    let elsewhere = "44.128.9.9:7770".parse().unwrap();
    book.set_candidates(Slot(1), &[(REMOTE, 7770).into(), elsewhere]);
    assert_eq!(trust(&book), AddressTrust::Hearsay);
}

#[test]
fn a_ticket_is_one_keys_for_ever_and_nobodys_after_its_time() {
    let mut book = registry();
    let (ticket, late) = (invite(&mut book, 1), invite(&mut book, 2));
    let request = member(&ticket, 1).request([1; 16], Instant::ZERO);
    let outcome = book.handle_join(seller(1).id(), REMOTE, &request, NOW, Instant::ZERO);
    assert_eq!(outcome.joined, Some(Slot(1)));
    let [Record::Ticket(claimed), Record::Slot(slot)] = &outcome.records[..] else {
        panic!("{:?}", outcome.records)
    };
    assert_eq!((claimed.claimed_by, slot.seller), (Some(seller(1).id()), seller(1).id()));
    let other = member(&ticket, 2).request([2; 16], Instant::ZERO);
    let refused = JoinReply::Refused(RefuseReason::TicketUsed);
    assert_eq!(ask(&mut book, 2, &other, NOW, Instant::ZERO), refused);
    welcome(ask(&mut book, 1, &request, NOW + 1_000_000, Instant::ZERO));

    let request = member(&late, 2).request([2; 16], Instant::ZERO);
    let refused = JoinReply::Refused(RefuseReason::TicketExpired);
    assert_eq!(ask(&mut book, 2, &request, NOW + 61, Instant::ZERO), refused);
    assert_eq!(book.members().count(), 1);
}

#[test]
fn a_request_that_fits_nothing_is_refused_by_its_reason() {
    let mut book = registry();
    let (ticket, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let request = member(&ticket, 1).request([1; 16], Instant::ZERO);
    let mut refuse = |request: JoinRequest, reason| {
        assert_eq!(ask(&mut book, 1, &request, NOW, Instant::ZERO), JoinReply::Refused(reason));
    };
    let other = Order { nonce: [9; 16], ..order() }.id();
    refuse(JoinRequest { order: other, ..request.clone() }, RefuseReason::OtherOrder);
    let garbage = JoinRequest { ticket: vec![1; 50], ..request.clone() };
    refuse(garbage, RefuseReason::TicketUnknown);
    let unknown = Ticket::seal(&buyer(), ticket_body()).unwrap().envelope().to_vec();
    refuse(JoinRequest { ticket: unknown, ..request.clone() }, RefuseReason::TicketUnknown);
    let forged = Ticket::seal(&seller(1), ticket.body().clone()).unwrap().envelope().to_vec();
    refuse(JoinRequest { ticket: forged, ..request.clone() }, RefuseReason::TicketUnknown);
    refuse(JoinRequest { data_key: [3; 32], ..request.clone() }, RefuseReason::KeyInUse);
    welcome(ask(&mut book, 1, &request, NOW, Instant::ZERO));
    let thief = member(&second, 2).request([2; 16], Instant::ZERO);
    let thief = JoinRequest { data_key: request.data_key, ..thief };
    assert_eq!(
        ask(&mut book, 2, &thief, NOW, Instant::ZERO),
        JoinReply::Refused(RefuseReason::KeyInUse)
    );
    assert_eq!(book.tickets().filter(|ticket| ticket.claimed_by.is_some()).count(), 1);
}

#[test]
fn a_gateway_that_was_killed_resumes_with_the_same_slots_and_newer_versions() {
    let mut store = Store { order: Some(record()), ..Store::default() };
    let mut book = store.open(NOW, Instant::ZERO);
    store.write(book.set_reach(vec!["44.128.1.2:7770".parse().unwrap()], Vec::new(), 7770));
    let (ticket, records) =
        book.invite(None, TicketSecret([1; 16]), NOW + 60, NOW, Instant::ZERO).unwrap();
    store.write(records);
    let mut a = member(&ticket, 1);
    let request = a.request([1; 16], Instant::ZERO);
    let outcome = book.handle_join(seller(1).id(), REMOTE, &request, NOW, Instant::ZERO);
    store.write(outcome.records);
    a.handle_welcome(&welcome(outcome.reply), Instant::ZERO).unwrap();
    let (version, id) = (book.version(), book.id());
    drop(book);

    let mut book = store.open(NOW, Instant::ZERO);
    assert!(book.version() > version && book.id() == id);
    assert_eq!(book.members().next().unwrap().station, station(1));
    assert_eq!(update(&book, &mut a), [], "a full roster with nothing new");
    assert_eq!(book.slot_of("g1"), Some(Slot(1)));
    assert_eq!(invite(&mut book, 2).body().slot, Slot(2));
    let again = [Command::Live(Life::Millis(900_000)), Command::Connect(Slot::GATEWAY)];
    assert_eq!(join(&mut book, &mut a, 1), again);
}

#[test]
fn a_store_of_another_key_is_not_opened() {
    let error = Registry::open(seller(1), record(), Vec::new(), Vec::new(), NOW, Instant::ZERO)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Buyer { .. }), "{error}");
}

#[test]
fn a_ticket_needs_an_address_a_free_name_and_a_free_slot() {
    let mut book =
        Registry::open(buyer(), record(), Vec::new(), Vec::new(), NOW, Instant::ZERO).unwrap();
    let invite = |book: &mut Registry, text: &str| {
        let name = (!text.is_empty()).then(|| name(text));
        book.invite(name, TicketSecret([1; 16]), NOW, NOW, Instant::ZERO).map(|(ticket, _)| ticket)
    };
    assert!(matches!(invite(&mut book, ""), Err(InviteError::Ticket(_))), "no address");
    book.set_reach(vec!["gw.example:7770".parse().unwrap()], Vec::new(), 7770);
    assert_eq!(invite(&mut book, "build").unwrap().body().slot, Slot(1));
    assert_eq!(invite(&mut book, "build").unwrap_err(), InviteError::Taken(name("build")));
    assert_eq!(invite(&mut book, "g7").unwrap_err(), InviteError::Numbered(name("g7")));
    assert_eq!(invite(&mut book, "").unwrap().body().guest, name("g2"));
    let mut tickets = 2;
    while invite(&mut book, "").is_ok() {
        tickets += 1;
    }
    assert_eq!(tickets, 245);
    assert!(invite(&mut book, "").unwrap_err().to_string().contains("245 guests"));
}

#[test]
fn only_buyer_publishes_nothing_and_dials_nobody_else() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let mut shy = Membership::new(
        first,
        SellerHost {
            seller: seller(1).id(),
            data_key: [0xa1; 32],
            only_buyer: true,
            rules: rules(),
            gateway: vec!["44.128.1.2:7770".parse().unwrap()],
        },
    );
    join(&mut book, &mut shy, 1);
    let at: SocketAddr = "44.128.2.2:7770".parse().unwrap();
    let hello = shy.hello(vec![at]).unwrap();
    assert!(matches!(hello, ToGateway::Hello { candidates, .. } if candidates.is_empty()));
    assert!(!book.set_candidates(Slot(1), &[at]) && !book.set_heard(Slot(1), at));
    let mut open = member(&second, 2);
    let told = join(&mut book, &mut open, 2);
    assert_eq!(set_members(&told)[1].candidates, []);
    assert!(book.set_candidates(Slot(2), &[at]));
    let told = update(&book, &mut shy);
    assert_eq!(set_members(&told)[0].candidates, []);
}

#[test]
fn a_welcome_with_any_bit_changed_is_not_followed() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    let request = a.request([1; 16], Instant::ZERO);
    let good = welcome(ask(&mut book, 1, &request, NOW, Instant::ZERO));
    let fields: [fn(&mut Welcome) -> &mut Vec<u8>; 3] =
        [|w| &mut w.config, |w| &mut w.grant, |w| &mut w.roster];
    for field in fields {
        for bit in 0..field(&mut good.clone()).len() * 8 {
            let mut changed = good.clone();
            field(&mut changed)[bit / 8] ^= 1 << (bit % 8);
            assert!(a.handle_welcome(&changed, Instant::ZERO).is_err(), "bit {bit}");
            assert_eq!(a.grant(), None);
        }
    }
    let mut stale = member(&ticket, 1);
    let _ = stale.request([2; 16], Instant::ZERO);
    assert!(
        stale.handle_welcome(&good, Instant::ZERO).is_err(),
        "an answer to another question was taken"
    );
    assert!(a.handle_welcome(&good, Instant::ZERO).is_ok());
}
