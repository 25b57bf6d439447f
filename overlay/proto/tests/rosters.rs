//! Rosters and grants that are rightly signed and still lie: nothing of them is followed.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::time::Duration;

use common::book::*;
use common::*;
use overlay_proto::control::{Limits, Slot};
use overlay_proto::envelope::{Envelope, Kind, Signed, encode};
use overlay_proto::grant::Grant;
use overlay_proto::membership::MembershipError;
use overlay_proto::messages::ToMember;
use overlay_proto::roster::{Roster, RosterEntry};
use vde_switch::time::Instant;

/// A grant whose name is any bytes, signed by the buyer.
fn named(slot: u16, name: &[u8]) -> Vec<u8> {
    let grant = encode(&grant(slot));
    let own = [&[2][..], format!("g{slot}").as_bytes()].concat();
    let at = grant.windows(own.len()).position(|bytes| bytes == own).unwrap();
    let len = postcard_len(name.len());
    let payload = [&grant[..at], &len, name, &grant[at + own.len()..]].concat();
    Envelope::seal(Kind::Grant, &buyer(), &payload)
}

fn postcard_len(len: usize) -> Vec<u8> {
    encode(&(len as u64))
}

#[test]
fn names_that_are_none_are_refused_with_their_roster() {
    let good = RosterEntry { grant: named(3, b"g3"), ..entry(3) };
    let delta = |entry| Roster { version: 6, base: Some(5), entries: vec![entry], ..roster() };
    let apply = |roster: Roster| {
        let mut view = overlay_proto::roster::RosterView::new(order().id(), buyer().id());
        view.apply(Signed::seal(&buyer(), self::roster()).bytes()).unwrap();
        let before = view.clone();
        let applied = view.apply(Signed::seal(&buyer(), roster).bytes());
        assert_eq!(applied.is_err(), view == before);
        applied
    };
    assert_eq!(apply(delta(good.clone())), Ok(()), "the forged form is not the form");
    let ten_kb = vec![b'a'; 10_000];
    let names: [&[u8]; 9] = [
        b"",
        b"g3\n",
        b"\x1b[2Jg3",
        b"g\x003",
        b"../g3",
        b"G3",
        b"g3\xff\xfe",
        "g３".as_bytes(),
        &ten_kb,
    ];
    for name in names {
        let bad = RosterEntry { grant: named(3, name), ..entry(3) };
        assert!(apply(delta(bad)).is_err(), "{:?}", String::from_utf8_lossy(name));
    }
}

#[test]
fn a_lying_roster_leaves_a_member_with_what_it_had() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let mut a = member(&first, 1);
    join(&mut book, &mut a, 1);
    join(&mut book, &mut member(&second, 2), 2);
    update(&book, &mut a);
    let known = a.view().version().unwrap();
    let config_version = book.order_record().config_version;
    let before = (a.view().clone(), a.expires_at(), a.grant().cloned());
    let serial = before.0.entries()[&Slot(2)].grant.serial + 10;
    let forge = |change: &dyn Fn(&mut Grant)| {
        let mut grant = Grant { serial, ..grant(3) };
        change(&mut grant);
        RosterEntry { grant: Signed::seal(&buyer(), grant).bytes().to_vec(), ..entry(3) }
    };
    let lies: Vec<(&str, Vec<RosterEntry>)> = vec![
        ("a MAC address twice", vec![forge(&|g| g.station.mac = station(2).mac)]),
        ("an IPv4 address twice", vec![forge(&|g| g.station.ipv4 = station(1).ipv4)]),
        ("an IPv6 address twice", vec![forge(&|g| g.station.ipv6 = station(2).ipv6)]),
        ("a name twice", vec![forge(&|g| g.name = name("g2"))]),
        ("a key twice", vec![forge(&|g| g.data_key = grant(2).data_key)]),
        ("a slot twice", vec![forge(&|_| ()), forge(&|g| g.name = name("other"))]),
        ("the gateway's slot", vec![forge(&|g| g.slot = Slot::GATEWAY)]),
        ("a slot beyond all", vec![forge(&|g| g.slot = Slot(512))]),
        ("a life without end", vec![forge(&|g| g.life_s = u16::MAX)]),
        ("another order's grant", vec![forge(&|g| g.order.0[0] ^= 1)]),
        ("a group address", vec![forge(&|g| g.station.mac = vde_switch::mac::MacAddr([1; 6]))]),
    ];
    for (what, entries) in lies {
        let lie =
            Roster { version: known + 1, base: Some(known), config_version, entries, ..roster() };
        let message = ToMember::Roster(Signed::seal(&buyer(), lie).bytes().to_vec());
        let told = a.handle_message(message, at(1));
        assert!(matches!(told, Err(MembershipError::Roster(_))), "{what}: {told:?}");
        assert_eq!(
            (a.view(), a.expires_at(), a.grant().cloned()),
            (&before.0, before.1, before.2.clone()),
            "{what}"
        );
    }
}

#[test]
fn a_member_cannot_be_told_to_be_the_buyer_or_to_leave_the_segment() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    type Lie = (&'static str, fn(&mut Grant));
    let lies: [Lie; 7] = [
        ("the buyer's addresses", |g| g.station = station(0)),
        ("an address outside", |g| g.station.ipv4 = [10, 78, 0, 10].into()),
        ("another prefix", |g| g.station.ipv6 = "2a00:1450::1".parse().unwrap()),
        ("another slot", |g| g.slot = Slot(2)),
        ("another name", |g| g.name = name("g2")),
        ("another key", |g| g.data_key = [9; 32]),
        ("another seller", |g| g.seller = seller(2).id()),
    ];
    for (what, lie) in lies {
        let mut a = member(&ticket, 1);
        let request = a.request([1; 16], Instant::ZERO);
        let mut good = welcome(ask(&mut book, 1, &request, NOW, Instant::ZERO));
        let (_, mut grant) = Signed::<Grant>::open(&good.grant).unwrap().into_parts();
        lie(&mut grant);
        good.grant = Signed::seal(&buyer(), grant).bytes().to_vec();
        assert!(a.handle_welcome(&good, Instant::ZERO).is_err(), "{what}");
        assert_eq!((a.grant(), a.expires_at()), (None, None), "{what}");
    }
}

#[test]
fn ten_thousand_changes_keep_tables_and_deltas_small() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    let base = book.version();
    for n in 0..10_000_u64 {
        let now = at(n * 1000);
        book.expire(NOW, now);
        book.renew(seller(1).id(), Slot(1), [1; 16], now).unwrap();
        let addr = std::net::SocketAddr::from(([44, 128, 1, 2], 1 + (n % 60_000) as u16));
        book.set_heard(Slot(1), addr);
    }
    let delta = book.roster_since(base).unwrap();
    assert!(delta.len() < 1000, "{} bytes", delta.len());
    assert_eq!(Limits::NONE, a.grant().unwrap().limits);
    assert!(book.next_expiry().unwrap() > Instant::ZERO + Duration::from_secs(900));
}
