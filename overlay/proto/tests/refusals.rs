//! Whatever is changed about a signed document, it is refused in words and nothing panics.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::time::Instant;

use common::*;
use overlay_proto::control::{CANDIDATES_MAX, Slot};
use overlay_proto::envelope::{
    Document, ENVELOPE_LEN_MAX, Envelope, EnvelopeError, Kind, Signed, decode, encode,
};
use overlay_proto::grant::{Expected, Grant, GrantError};
use overlay_proto::messages::{
    JoinReply, JoinRequest, Message, MessageError, RefuseReason, ToGateway, ToMember, Welcome,
};
use overlay_proto::order::{Config, ConfigError, Order};
use overlay_proto::roster::{Roster, RosterEntry, RosterError, RosterView};
use overlay_proto::ticket::{TEXT_LEN_MAX, Ticket, TicketBody, TicketError};

fn refuses_every_change<T: Document + Clone + std::fmt::Debug>(body: T) {
    let bytes = Signed::seal(&buyer(), body).bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Signed::<T>::open(&changed).is_err(), "bit {bit} of {}", T::KIND.name());
    }
    for len in 0..bytes.len() {
        assert!(Signed::<T>::open(&bytes[..len]).is_err(), "{len} bytes of {}", T::KIND.name());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Signed::<T>::open(&longer).unwrap_err(), EnvelopeError::Rest(1));
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != T::KIND) {
        let (number, wanted) = (T::KIND as u16, kind);
        let error = Envelope::open(&bytes, kind).unwrap_err();
        assert_eq!(error, EnvelopeError::Kind { number, wanted });
    }
}

#[test]
fn each_bit_and_each_cut_of_a_document_is_noticed() {
    refuses_every_change(order());
    refuses_every_change(config());
    refuses_every_change(ticket_body());
    refuses_every_change(grant(1));
    refuses_every_change(roster());
}

#[test]
fn a_rightly_signed_payload_that_is_no_document_is_refused() {
    let payload = encode(&order());
    let longer = [&payload[..], &[0]].concat();
    for wrong in [&payload[..payload.len() - 1], &longer, &[]] {
        let bytes = Envelope::seal(Kind::Order, &buyer(), wrong);
        let error = Signed::<Order>::open(&bytes).unwrap_err();
        assert_eq!(error, EnvelopeError::Payload(Kind::Order));
    }
    // postcard itself takes a number that is longer than it needs to be; one form alone is ours
    assert_eq!(decode::<u16>(&[5]), Some(5));
    assert_eq!(decode::<u16>(&[0x85, 0x00]), None);
}

#[test]
fn a_weak_key_signs_nothing() {
    // the identity point: its "signature" of anything verifies unless strict
    let mut bytes = Envelope::seal(Kind::Order, &buyer(), &encode(&order()));
    bytes[3] = 1;
    bytes[4..35].fill(0);
    let len = bytes.len();
    bytes[len - 64..].fill(0);
    bytes[len - 64] = 1;
    assert_eq!(Envelope::open(&bytes, Kind::Order).unwrap_err(), EnvelopeError::Signature);
}

#[test]
fn an_envelope_above_the_limit_is_refused_before_it_is_looked_at() {
    let bytes = vec![1; ENVELOPE_LEN_MAX + 1];
    let error = Envelope::open(&bytes, Kind::Roster).unwrap_err();
    assert_eq!(error, EnvelopeError::TooLong(ENVELOPE_LEN_MAX + 1));
}

#[test]
fn each_change_of_a_tickets_text_is_told_in_words() {
    let text = ticket().encode();
    for (at, old) in text.char_indices() {
        for new in ['q', 'p', '7', 'b', '1', 'ü', '\0'].into_iter().filter(|new| *new != old) {
            let mut changed = text.clone();
            changed.replace_range(at..=at, &new.to_string());
            assert!(Ticket::decode(&changed).is_err(), "{new:?} at {at}");
        }
    }
    for len in 1..text.len() {
        let error = Ticket::decode(&text[..len]).unwrap_err();
        assert_eq!(error, TicketError::Truncated, "{len} characters");
    }
    let swapped = text.replacen("ovl1", "btc1", 1);
    assert!(matches!(Ticket::decode(&swapped), Err(TicketError::NotTicket(_))));
    let mut changed = text.clone();
    let at = text.len() / 2;
    let new = if &text[at..=at] == "q" { "p" } else { "q" };
    changed.replace_range(at..=at, new);
    assert_eq!(Ticket::decode(&changed).unwrap_err(), TicketError::Changed);
    for blank in ["", " ", "\n\t "] {
        assert_eq!(Ticket::decode(blank).unwrap_err(), TicketError::Empty);
    }
    assert!(Ticket::decode("hello").unwrap_err().to_string().contains("begins with ovl1"));
}

#[test]
fn blanks_line_breaks_and_case_of_a_ticket_do_not_matter() {
    let text = ticket().encode();
    let mut folded = String::from("\r\n  ");
    for (number, c) in text.to_uppercase().chars().enumerate() {
        folded.push(c);
        folded.push_str(if number % 40 == 39 { "\r\n\t" } else { "" });
    }
    assert_eq!(Ticket::decode(&folded).unwrap(), ticket());
}

#[test]
fn a_ticket_of_another_version_says_so() {
    let mut bytes = ticket().envelope().to_vec();
    bytes[0] = 2;
    assert_eq!(Ticket::open(&bytes).unwrap_err(), TicketError::Version(2));
}

#[test]
fn a_ticket_ends_when_it_says() {
    assert_eq!(ticket().check_expiry(NOW), Ok(()));
    let error = ticket().check_expiry(NOW + 61).unwrap_err().to_string();
    assert!(error.contains("expired 2 min ago"), "{error}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is the question")]
fn ten_megabytes_are_no_ticket_and_cost_nothing() {
    let text = "q".repeat(10_000_000);
    let started = Instant::now();
    assert_eq!(Ticket::decode(&text).unwrap_err(), TicketError::TooLong(10_000_000));
    assert!(started.elapsed().as_millis() < 10);
    let longest = format!("ovl1{}", "q".repeat(TEXT_LEN_MAX - 4));
    assert!(Ticket::decode(&longest).is_err());
}

#[test]
fn a_ticket_of_the_longest_names_still_has_a_text() {
    let host = format!("{}.{}", "a".repeat(32), "b".repeat(31));
    let addr: overlay_proto::ticket::DialAddr = format!("{host}:65535").parse().unwrap();
    let body = TicketBody {
        order_name: name(&"n".repeat(32)),
        guest: name(&"m".repeat(32)),
        addresses: vec![addr.clone(); 4],
        relays: vec![addr.clone(); 4],
        expires_at: u64::MAX,
        ..ticket_body()
    };
    let text = Ticket::seal(&buyer(), body.clone()).unwrap().encode();
    assert!(text.len() < TEXT_LEN_MAX, "{}", text.len());
    assert_eq!(*Ticket::decode(&text).unwrap().body(), body);
    for addresses in [vec![], vec![addr; 5]] {
        let body = TicketBody { addresses, ..ticket_body() };
        assert!(Ticket::seal(&buyer(), body.clone()).is_err());
        let forged = Signed::seal(&buyer(), body);
        assert!(matches!(Ticket::open(forged.bytes()), Err(TicketError::Addresses(_))));
    }
}

#[test]
fn a_dial_address_is_no_address_in_disguise() {
    use overlay_proto::ticket::DialAddr;
    for text in ["gw.example:7770", "44.128.1.2:1", "[2a00::1]:443", "A-1.example:65535"] {
        assert!(text.parse::<DialAddr>().is_ok(), "{text}");
    }
    for text in [
        "",
        ":",
        "gw.example",
        "gw.example:0",
        "gw.example:65536",
        "-gw:1",
        "gw..example:1",
        "0x7f.1:80",
        "127.1:80",
        "2130706433:80",
        "gw .example:1",
        "[fe80::1%eth0]:1",
        "gw/:1",
        "44.128.1.2:0",
        "gw.example.:7770",
        &format!("{}:1", "a".repeat(65)),
    ] {
        assert!(text.parse::<DialAddr>().is_err(), "{text}");
    }
}

#[test]
fn a_grant_holds_for_whom_it_names_alone() {
    let sealed = Signed::seal(&buyer(), grant(1));
    let expected = Expected {
        order: order().id(),
        buyer: buyer().id(),
        seller: seller(1).id(),
        data_key: grant(1).data_key,
        nonce: grant(1).nonce,
    };
    let open = |grant: Grant, expected: &Expected| {
        Grant::open_own(Signed::seal(&buyer(), grant).bytes(), expected).map(|_| ()).unwrap_err()
    };
    assert!(Grant::open_own(sealed.bytes(), &expected).is_ok());
    let other = Order { nonce: [9; 16], ..order() }.id();
    let wrong = |expected: Expected| Grant::open_own(sealed.bytes(), &expected).unwrap_err();
    assert_eq!(wrong(Expected { order: other, ..expected }), GrantError::Order(order().id()));
    let error = wrong(Expected { buyer: seller(2).id(), ..expected });
    assert_eq!(error, GrantError::Signer(buyer().id()));
    let error = wrong(Expected { seller: seller(2).id(), ..expected });
    assert_eq!(error, GrantError::Seller(seller(1).id()));
    assert_eq!(wrong(Expected { data_key: [0; 32], ..expected }), GrantError::DataKey);
    assert_eq!(wrong(Expected { nonce: [0; 16], ..expected }), GrantError::Nonce);
    for life_s in [0, 901, u16::MAX] {
        assert_eq!(open(Grant { life_s, ..grant(1) }, &expected), GrantError::Life(life_s));
    }
    for slot in [0, 512] {
        let changed = Grant { slot: Slot(slot), ..grant(1) };
        assert_eq!(open(changed, &expected), GrantError::Slot(slot));
    }
    let mut group = grant(1);
    group.station.mac.0[0] |= 1;
    assert_eq!(open(group, &expected), GrantError::Station);
    assert_eq!(open(Grant { engines: vec![], ..grant(1) }, &expected), GrantError::Suites(0));
}

#[test]
fn a_config_that_is_no_segment_is_not_followed() {
    let check =
        |config: Config| Config::check(&Signed::seal(&buyer(), config), order().id(), buyer().id());
    assert_eq!(check(config()), Ok(()));
    let foreign = Signed::seal(&seller(1), config());
    let error = Config::check(&foreign, order().id(), buyer().id()).unwrap_err();
    assert_eq!(error, ConfigError::Signer(seller(1).id()));
    let segment = |change: fn(&mut vde_switch::station::Segment)| {
        let mut config = config();
        change(&mut config.segment);
        check(config).unwrap_err()
    };
    assert_eq!(segment(|s| s.ipv4.1 = 33), ConfigError::Segment);
    assert_eq!(segment(|s| s.ipv4.1 = 0), ConfigError::Segment);
    assert_eq!(segment(|s| s.ipv4.0 = [10, 77, 0, 1].into()), ConfigError::Segment);
    assert_eq!(segment(|s| s.ipv4 = ([127, 0, 0, 0].into(), 24)), ConfigError::Segment);
    assert_eq!(segment(|s| s.ipv6.1 = 200), ConfigError::Segment);
    assert_eq!(segment(|s| s.ipv6.0 = "2a00::".parse().unwrap()), ConfigError::Segment);
    assert_eq!(segment(|s| s.mtu = 0), ConfigError::Mtu(0));
    assert_eq!(segment(|s| s.mtu = 9001), ConfigError::Mtu(9001));
}

fn view() -> RosterView {
    let mut view = RosterView::new(order().id(), buyer().id());
    view.apply(Signed::seal(&buyer(), roster()).bytes()).unwrap();
    view
}

#[test]
fn a_refused_roster_changes_nothing() {
    let before = view();
    let refuse = |roster: Roster| {
        let mut view = before.clone();
        let error = view.apply(Signed::seal(&buyer(), roster).bytes()).unwrap_err();
        assert_eq!(view, before);
        error
    };
    let delta = Roster { base: Some(5), version: 6, entries: vec![], ..roster() };
    assert_eq!(refuse(Roster { version: 4, ..roster() }), RosterError::Stale(4));
    assert_eq!(refuse(Roster { config_version: 0, ..roster() }), RosterError::Stale(5));
    assert_eq!(refuse(Roster { version: 5, ..delta.clone() }), RosterError::Stale(5));
    let error = refuse(Roster { base: Some(4), ..delta.clone() });
    assert_eq!(error, RosterError::Base { base: Some(4), known: Some(5) });
    let other = Order { nonce: [9; 16], ..order() }.id();
    assert_eq!(refuse(Roster { order: other, ..roster() }), RosterError::Order(other));
    let error = refuse(Roster { removed: vec![Slot(1); 513], ..delta.clone() });
    assert_eq!(error, RosterError::Members(513));

    let twice = |change: fn(&mut Grant)| {
        let mut grant = grant(3);
        change(&mut grant);
        let bytes = Signed::seal(&buyer(), grant).bytes().to_vec();
        let entry = RosterEntry { grant: bytes, ..entry(3) };
        refuse(Roster { entries: vec![entry], ..delta.clone() })
    };
    let error = |what| RosterError::Twice { slot: 3, what };
    assert_eq!(twice(|g| g.station.mac = station(1).mac), error("MAC address"));
    assert_eq!(twice(|g| g.station.ipv4 = station(1).ipv4), error("IPv4 address"));
    assert_eq!(twice(|g| g.station.ipv6 = station(1).ipv6), error("IPv6 address"));
    assert_eq!(twice(|g| g.name = name("g1")), error("name"));
    assert_eq!(twice(|g| g.data_key = grant(1).data_key), error("data-plane key"));
    let doubled = Roster { entries: vec![entry(3), entry(3)], ..delta.clone() };
    assert_eq!(refuse(doubled), error("slot"));

    let mut crowd = entry(3);
    crowd.candidates = vec![crowd.candidates[0]; CANDIDATES_MAX + 1];
    let error = RosterError::Candidates { slot: 3, count: 9 };
    assert_eq!(refuse(Roster { entries: vec![crowd], ..delta.clone() }), error);
    let shy = RosterEntry { only_buyer: true, ..entry(3) };
    let error = RosterError::Candidates { slot: 3, count: 1 };
    assert_eq!(refuse(Roster { entries: vec![shy], ..delta.clone() }), error);

    let own = Signed::seal(&seller(3), grant(3)).bytes().to_vec();
    let forged = RosterEntry { grant: own, ..entry(3) };
    let error = refuse(Roster { entries: vec![forged], ..delta });
    assert_eq!(error, RosterError::Grant(GrantError::Signer(seller(3).id())));
    let mut view = before.clone();
    let error = view.apply(Signed::seal(&seller(1), roster()).bytes()).unwrap_err();
    assert_eq!(error, RosterError::Signer(seller(1).id()));
}

#[test]
fn a_delta_adds_replaces_and_removes() {
    let mut view = view();
    let moved = RosterEntry { candidates: vec![], ..entry(2) };
    let delta = Roster {
        base: Some(5),
        version: 9,
        entries: vec![moved, entry(3)],
        removed: vec![Slot(1)],
        ..roster()
    };
    view.apply(Signed::seal(&buyer(), delta).bytes()).unwrap();
    assert_eq!(view.entries().keys().copied().collect::<Vec<_>>(), [Slot(2), Slot(3)]);
    assert!(view.entries()[&Slot(2)].candidates.is_empty());
    assert_eq!(view.version(), Some(9));
}

#[test]
fn the_largest_roster_fits_an_envelope() {
    let entries = (1..512).map(|slot| {
        let mut grant = grant(1);
        grant.slot = Slot(slot);
        grant.name = name(&format!("{}{slot:03}", "n".repeat(29)));
        (grant.serial, grant.epoch) = (u64::MAX, u32::MAX);
        grant.limits.bytes_per_s = u64::MAX;
        grant.limits.frames_per_s = u32::MAX;
        grant.engines = vec![overlay_proto::grant::Suite(u16::MAX); 2];
        let grant = Signed::seal(&buyer(), grant).bytes().to_vec();
        let candidate = "[2a00:1450:1:2:3:4:5:6]:65535".parse().unwrap();
        RosterEntry { grant, candidates: vec![candidate; CANDIDATES_MAX], only_buyer: false }
    });
    let roster = Roster { entries: entries.collect(), ..roster() };
    assert!(Signed::seal(&buyer(), roster).bytes().len() <= ENVELOPE_LEN_MAX);
}

fn messages_hold<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let bytes = message.encode();
    assert_eq!(M::decode(&bytes).as_ref(), Ok(message));
    assert!(M::decode(&[&bytes[..], &[0]].concat()).is_err(), "a rest was taken");
    for len in 0..bytes.len() {
        assert!(M::decode(&bytes[..len]).is_err(), "{len} bytes were taken");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(M::decode(&changed).as_ref(), Ok(message), "bit {bit} made no difference");
    }
}

#[test]
fn each_message_has_one_form_and_no_cut_of_it_is_another() {
    let request = JoinRequest {
        version: 1,
        order: order().id(),
        ticket: ticket().envelope().to_vec(),
        data_key: [7; 32],
        nonce: [8; 16],
        only_buyer: true,
    };
    assert!(!format!("{request:?}").contains("4, 4"), "the ticket's secret is shown");
    messages_hold(&request);
    let newer = JoinRequest { version: 2, ..request };
    assert_eq!(JoinRequest::decode(&newer.encode()), Err(MessageError::Version(2)));
    let (config, grant, roster) = (vec![1; 300], vec![2; 300], vec![3; 300]);
    let observed = [44, 128, 2, 2].into();
    messages_hold(&JoinReply::Welcome(Welcome { config, grant, roster, observed }));
    messages_hold(&JoinReply::Refused(RefuseReason::Version(7)));
    let candidates = entry(1).candidates;
    let hello = ToGateway::Hello { slot: Slot(300), roster_version: 1 << 40, candidates };
    messages_hold(&hello);
    messages_hold(&ToGateway::Renew { nonce: [1; 16] });
    messages_hold(&ToGateway::Leave);
    messages_hold(&ToMember::Roster(vec![5; 400]));
    messages_hold(&ToMember::Evicted);
    let crowd = ToGateway::Candidates(vec![entry(1).candidates[0]; CANDIDATES_MAX + 1]);
    assert_eq!(ToGateway::decode(&crowd.encode()), Err(MessageError::Candidates(9)));
}
