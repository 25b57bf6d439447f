//! Who gets in by a ticket, and who does not any more: claims, ends, revocation, eviction.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::book::*;
use common::*;
use overlay_proto::control::{Command, Slot};
use overlay_proto::membership::GatewayPlane;
use overlay_proto::messages::{JoinReply, RefuseReason};
use overlay_proto::registry::{
    EvictError, FORMER_MAX, InviteError, Registry, RevokeError, Standing, TicketState,
};
use overlay_proto::ticket::{Ticket, TicketSecret};
use vde_switch::time::Instant;

const HOUR: u64 = 3600;

fn replace(registry: &mut Registry, secret: u8) -> Ticket {
    let secret = TicketSecret([secret; 16]);
    registry.replace(Slot(1), secret, NOW + 60, NOW, Instant::ZERO).unwrap().0
}

/// What a seller is told who shows a ticket now.
fn shows(registry: &mut Registry, ticket: &Ticket, number: u8) -> Result<(), RefuseReason> {
    shows_at(registry, ticket, number, NOW, Instant::ZERO)
}

fn shows_at(
    registry: &mut Registry,
    ticket: &Ticket,
    number: u8,
    unix_now: u64,
    now: Instant,
) -> Result<(), RefuseReason> {
    let request = member(ticket, number).request([number; 16], now);
    match ask(registry, number, &request, unix_now, now) {
        JoinReply::Welcome(_) => Ok(()),
        JoinReply::Refused(reason) => Err(reason),
    }
}

#[test]
fn of_a_thousand_joins_with_one_ticket_one_key_wins_and_may_come_again() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut won = Vec::new();
    for n in 0..1000_u16 {
        let number = (n % 250) as u8 / 2; // some keys try more often than others
        let mut request = member(&ticket, 1).request([1; 16], Instant::ZERO);
        request.data_key = [number; 32];
        let peer = overlay_proto::identity::NodeKey::from_seed(&[number; 32]).id();
        let outcome = book.handle_join(peer, REMOTE, &request, NOW, Instant::ZERO);
        match outcome.reply {
            JoinReply::Welcome(_) => won.push(number),
            JoinReply::Refused(reason) => assert!(
                matches!(reason, RefuseReason::TicketUsed | RefuseReason::KeyInUse),
                "{reason}"
            ),
        }
        assert_eq!(outcome.records.is_empty(), outcome.joined.is_none());
    }
    won.dedup();
    assert_eq!(won, [0], "one key alone, as often as it came");
    assert_eq!(book.members().count(), 1);
}

#[test]
fn an_evicted_key_does_not_come_back_without_a_new_ticket() {
    let mut store = Store { order: Some(record()), ..Store::default() };
    let mut book = store.open(NOW, Instant::ZERO);
    store.write(book.set_reach(vec!["44.128.1.2:7770".parse().unwrap()], Vec::new(), 7770));
    let mut tickets = Vec::new();
    for secret in 1..=2 {
        let secret = TicketSecret([secret; 16]);
        let (ticket, records) = book.invite(None, secret, NOW + 60, NOW, Instant::ZERO).unwrap();
        store.write(records);
        tickets.push(ticket);
    }
    let (mut a, mut b) = (member(&tickets[0], 1), member(&tickets[1], 2));
    for (number, member) in [(1, &mut a), (2, &mut b)] {
        let request = member.request([number; 16], Instant::ZERO);
        let outcome = book.handle_join(seller(number).id(), REMOTE, &request, NOW, Instant::ZERO);
        store.write(outcome.records);
        member.handle_welcome(&welcome(outcome.reply), Instant::ZERO).unwrap();
    }
    let mut plane = GatewayPlane::default();
    plane.sync(&book, &rules());
    let _ = book.handle_open(seller(1).id(), Slot(1), 7, Instant::ZERO);
    store.write(book.evict(Slot(1), NOW).unwrap());
    assert_eq!(plane.sync(&book, &rules()), [Command::RemoveMember(Slot(1))]);
    assert_eq!(update(&book, &mut b), [Command::RemoveMember(Slot(1))]);
    assert_eq!(
        book.renew(seller(1).id(), Slot(1), [1; 16], at(1)),
        Err(RefuseReason::TicketUnknown),
        "by the stream that is still open"
    );
    assert_eq!(
        book.handle_open(seller(1).id(), Slot(1), 8, at(1)),
        Err(RefuseReason::TicketUnknown)
    );
    assert_eq!(book.evict(Slot(1), NOW), Err(EvictError::Absent(name("g1"))));
    assert_eq!(book.evict(Slot(9), NOW), Err(EvictError::Unknown(9)));

    let mut again = store.open(NOW, Instant::ZERO);
    for book in [&mut book, &mut again] {
        assert_eq!(shows(book, &tickets[0], 1), Err(RefuseReason::Evicted));
        assert_eq!(shows(book, &tickets[0], 3), Err(RefuseReason::TicketUsed));
        assert_eq!(book.members().count(), 1);
        assert!(matches!(book.revoke(Slot(1), NOW), Err(RevokeError::Void(_))));
        let fresh = replace(book, 9);
        assert_eq!(shows(book, &tickets[0], 1), Err(RefuseReason::Evicted), "by the old one");
        assert_eq!(shows(book, &fresh, 1), Ok(()), "by the new one");
        assert_eq!(shows(book, &tickets[0], 1), Err(RefuseReason::Evicted), "by the old one");
    }
}

#[test]
fn a_guest_that_left_or_is_suspended_can_be_evicted() {
    for leaves in [true, false] {
        let mut book = registry();
        let ticket = invite(&mut book, 1);
        join(&mut book, &mut member(&ticket, 1), 1);
        if leaves {
            book.leave(seller(1).id(), Slot(1), NOW).unwrap();
        } else {
            assert!(book.expire(NOW, at(1000)));
        }
        book.evict(Slot(1), NOW).unwrap();
        assert_eq!(shows(&mut book, &ticket, 1), Err(RefuseReason::Evicted));
        assert_eq!(book.members().count(), 0);
    }
}

#[test]
fn a_revoked_ticket_opens_nothing_and_a_used_one_is_not_revoked() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let records = book.revoke(Slot(1), NOW).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(shows(&mut book, &first, 1), Err(RefuseReason::TicketRevoked));
    assert_eq!(book.revoke(Slot(1), NOW), Err(RevokeError::Void(name("g1"))));
    assert_eq!(book.evict(Slot(1), NOW), Err(EvictError::Absent(name("g1"))));
    shows(&mut book, &second, 2).unwrap();
    assert_eq!(book.revoke(Slot(2), NOW), Err(RevokeError::Claimed(name("g2"))));
    assert_eq!(book.revoke(Slot(3), NOW), Err(RevokeError::Unknown(3)));
    shows(&mut book, &second, 2).unwrap();
    let sentences: Vec<_> = [
        RefuseReason::TicketUsed,
        RefuseReason::TicketExpired,
        RefuseReason::TicketRevoked,
        RefuseReason::TicketUnknown,
        RefuseReason::Evicted,
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    let distinct: std::collections::BTreeSet<_> = sentences.iter().collect();
    assert_eq!(distinct.len(), sentences.len(), "{sentences:?}");
}

#[test]
fn a_replacement_gets_the_guests_place_and_puts_the_old_seller_out() {
    let mut book = registry();
    let (old, other) = (invite(&mut book, 1), invite(&mut book, 2));
    let (mut a, mut c) = (member(&old, 1), member(&other, 3));
    join(&mut book, &mut a, 1);
    join(&mut book, &mut c, 3);
    let _ = book.handle_open(seller(1).id(), Slot(1), 7, Instant::ZERO);
    let new = replace(&mut book, 9);
    assert_eq!((new.body().slot, &new.body().guest), (Slot(1), &name("g1")));
    // Until it is claimed the old one stays, and may come again once its stream is gone.
    assert_eq!(shows(&mut book, &old, 1), Err(RefuseReason::InUse));
    book.handle_closed(Slot(1), 7);
    assert_eq!(shows(&mut book, &old, 1), Ok(()));
    assert_eq!(shows(&mut book, &old, 2), Err(RefuseReason::TicketUsed));
    let _ = book.handle_open(seller(1).id(), Slot(1), 8, Instant::ZERO);

    let mut b = member(&new, 2);
    let request = b.request([2; 16], Instant::ZERO);
    let outcome = book.handle_join(seller(2).id(), REMOTE, &request, NOW, Instant::ZERO);
    assert_eq!((outcome.joined, outcome.replaced), (Some(Slot(1)), Some(seller(1).id())));
    b.handle_welcome(&welcome(outcome.reply), Instant::ZERO).unwrap();
    assert_eq!((b.grant().unwrap().station, &b.grant().unwrap().name), (station(1), &name("g1")));
    let told = update(&book, &mut c);
    assert_eq!((set_members(&told)[0].slot, set_members(&told)[0].key), (Slot(1), [0xa2; 32]));
    assert_eq!(shows(&mut book, &old, 1), Err(RefuseReason::Evicted));
    assert_eq!(shows(&mut book, &new, 1), Err(RefuseReason::TicketUsed));
    assert_eq!(
        book.renew(seller(1).id(), Slot(1), [1; 16], at(1)),
        Err(RefuseReason::TicketUnknown)
    );
    assert_eq!(book.handle_open(seller(2).id(), Slot(1), 9, at(1)), Ok(None));
    assert_eq!(book.members().count(), 2);
}

#[test]
fn a_replaced_ticket_that_nobody_used_is_void_and_old_ones_do_not_pile_up() {
    let mut book = registry();
    let first = invite(&mut book, 1);
    let second = replace(&mut book, 100);
    assert_eq!(shows(&mut book, &first, 1), Err(RefuseReason::TicketRevoked));
    shows(&mut book, &second, 1).unwrap();
    for secret in 101..140 {
        let unused = replace(&mut book, secret);
        book.revoke(Slot(1), NOW).unwrap();
        assert_eq!(shows(&mut book, &unused, 2), Err(RefuseReason::TicketRevoked));
    }
    let record = book.tickets().next().unwrap();
    assert!(record.former.len() <= FORMER_MAX && record.state() == TicketState::Void);
    assert_eq!(shows(&mut book, &second, 1), Ok(()), "the present guest's own was forgotten");
    let error = book.replace(Slot(7), TicketSecret([1; 16]), NOW, NOW, Instant::ZERO).unwrap_err();
    assert_eq!(error, InviteError::Unknown(7));
}

#[test]
fn a_step_of_the_wall_clock_revives_no_ticket() {
    let day = 24 * HOUR;
    // What the wall clock said before and says now, each with the monotonic one's seconds; whether
    // a ticket of an hour opens then.
    type Case<'a> = (&'a str, &'a [(u64, u64)], u64, u64, bool);
    let cases: [Case<'_>; 7] = [
        ("in time", &[], NOW + 1800, 1800, true),
        ("over", &[], NOW + HOUR + 1, HOUR + 1, false),
        ("an hour back", &[], NOW - HOUR + 1800, 1800, true),
        ("an hour back, and over", &[], NOW + 1, HOUR + 1, false),
        ("1970, and over", &[], 0, HOUR + 1, false),
        ("ten years on", &[], NOW + 3650 * day, 60, false),
        ("ten years on and back", &[(NOW + 3650 * day, 60)], NOW + 120, 120, false),
    ];
    for (what, steps, unix_now, seconds, opens) in cases {
        let mut book = registry();
        let secret = TicketSecret([1; 16]);
        let (ticket, _) = book.invite(None, secret, NOW + HOUR, NOW, Instant::ZERO).unwrap();
        for (unix, seconds) in steps {
            book.expire(*unix, at(*seconds));
        }
        let shown = shows_at(&mut book, &ticket, 1, unix_now, at(seconds));
        let expected = if opens { Ok(()) } else { Err(RefuseReason::TicketExpired) };
        assert_eq!(shown, expected, "{what}");
        let (fresh, _) =
            book.invite(None, TicketSecret([2; 16]), unix_now + 60, unix_now, at(seconds)).unwrap();
        let shown = shows_at(&mut book, &fresh, 2, unix_now + 1, at(seconds + 1));
        assert_eq!(shown, Ok(()), "a ticket made after: {what}");
    }
}

#[test]
fn a_start_with_a_clock_of_1970_gives_a_ticket_its_own_time_once_and_no_more() {
    let mut store = Store { order: Some(record()), ..Store::default() };
    let mut book = store.open(NOW, Instant::ZERO);
    store.write(book.set_reach(vec!["44.128.1.2:7770".parse().unwrap()], Vec::new(), 7770));
    let secret = TicketSecret([1; 16]);
    let (ticket, records) = book.invite(None, secret, NOW + HOUR, NOW, Instant::ZERO).unwrap();
    store.write(records);
    let mut book = store.open(5, at(10));
    let shown = shows_at(&mut book, &ticket, 1, 5 + HOUR + 2, at(10 + HOUR + 2));
    assert_eq!(shown, Err(RefuseReason::TicketExpired));
}

#[test]
fn steps_of_the_wall_clock_do_not_touch_grants() {
    for unix_now in [NOW - HOUR, 0, NOW + HOUR, NOW + 10 * 365 * 24 * HOUR, u64::MAX] {
        let mut book = registry();
        let ticket = invite(&mut book, 1);
        join(&mut book, &mut member(&ticket, 1), 1);
        assert!(!book.expire(unix_now, at(899)), "{unix_now}");
        assert_eq!(book.members().next().unwrap().standing, Standing::Live);
        assert!(book.expire(unix_now, at(900)), "{unix_now}");
        shows_at(&mut book, &ticket, 1, unix_now, at(901)).unwrap();
    }
}
