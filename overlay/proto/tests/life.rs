//! How long members are members: grants, clocks, late and repeated messages, one host a key.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::time::Duration;

use common::book::*;
use common::*;
use overlay_proto::control::{Command, Life, Limits, LocalPort, Slot};
use overlay_proto::envelope::Signed;
use overlay_proto::grant::GrantError;
use overlay_proto::membership::{GatewayPlane, LifeChange, MembershipError};
use overlay_proto::messages::{RefuseReason, ToGateway, ToMember, Welcome};
use overlay_proto::registry::{Options, STREAM_ALIVE_AFTER, Seen, SetError, Standing};
use overlay_proto::roster::RosterError;
use vde_switch::station::Broadcast;
use vde_switch::time::Instant;

fn says_life(commands: &[Command]) -> Option<Life> {
    commands.iter().find_map(|c| if let Command::Live(life) = c { Some(*life) } else { None })
}

#[test]
fn a_grant_is_renewed_at_half_life_and_only_as_asked() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    assert_eq!((a.renew_at(), a.expires_at()), (Some(at(450)), Some(at(900))));
    let unasked = book.renew(seller(1).id(), Slot(1), [9; 16], at(1)).unwrap();
    assert!(a.handle_message(ToMember::Grant(unasked.clone()), at(1)).is_err());
    let ToGateway::Renew { nonce } = a.renew([8; 16], at(450)) else { panic!("no question") };
    assert!(a.handle_message(ToMember::Grant(unasked), at(451)).is_err(), "another nonce");
    assert_eq!(a.expires_at(), Some(at(900)));
    let grant = book.renew(seller(1).id(), Slot(1), nonce, at(460)).unwrap();
    let told = a.handle_message(ToMember::Grant(grant.clone()), at(470)).unwrap();
    assert_eq!(told, [Command::Live(Life::Millis(880_000))], "counted from the question");
    assert_eq!((a.renew_at(), a.expires_at()), (Some(at(900)), Some(at(1350))));
    assert!(a.handle_message(ToMember::Grant(grant), at(471)).is_err(), "the same answer twice");
    assert_eq!(a.handle_message(ToMember::Evicted, at(472)), Err(MembershipError::Evicted));
}

#[test]
fn an_answer_that_comes_after_its_life_gives_none() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    let request = a.request([1; 16], Instant::ZERO);
    let welcome = welcome(ask(&mut book, 1, &request, NOW, Instant::ZERO));
    let told = a.handle_welcome(&welcome, at(5000)).unwrap();
    assert_eq!(says_life(&told), Some(Life::Millis(0)));
    assert_eq!(a.poll(at(5000)), Some(LifeChange::Expired));
}

#[test]
fn expiry_and_return_are_told_once_each() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    assert_eq!(a.poll(at(5)), None);
    join(&mut book, &mut a, 1);
    assert_eq!((a.poll(at(0)), a.poll(at(899))), (None, None));
    assert_eq!(a.poll(at(900)), Some(LifeChange::Expired));
    assert_eq!(a.poll(at(901)), None);
    join_at(&mut book, &mut a, 1, at(5000));
    assert_eq!(a.poll(at(5000)), Some(LifeChange::Resumed));
    assert_eq!(a.poll(at(5001)), None);
}

#[test]
fn a_member_whose_grant_ran_out_is_suspended_and_comes_back_as_it_was() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let (mut a, mut b) = (member(&first, 1), member(&second, 2));
    join(&mut book, &mut a, 1);
    join_at(&mut book, &mut b, 2, at(30));
    update(&book, &mut a);
    let mut plane = GatewayPlane::default();
    plane.sync(&book, &rules());
    assert_eq!(book.next_expiry(), Some(at(900)));
    assert!(!book.expire(NOW, at(899)));
    assert!(book.expire(NOW, at(900)), "nobody was suspended");
    assert!(!book.expire(NOW, at(901)), "the same twice");
    assert_eq!(book.next_expiry(), Some(at(930)));
    assert_eq!(plane.sync(&book, &rules()), [Command::RemoveMember(Slot(1))]);
    assert_eq!(update(&book, &mut b), [Command::RemoveMember(Slot(1))]);
    let standing: Vec<_> = book.members().map(|member| member.standing).collect();
    assert_eq!(standing, [Standing::Suspended, Standing::Live]);
    let mut late = member(&second, 2);
    join_at(&mut book, &mut late, 2, at(950));
    assert!(late.view().entries().get(&Slot(1)).is_none(), "a new roster names a suspended one");
    b = late;

    // By its stream, or by its ticket: the same place again.
    renew(&mut book, &mut a, 1, at(2000));
    assert_eq!(set_members(&plane.sync(&book, &rules()))[0].stations, [station(1)]);
    assert_eq!(set_members(&update(&book, &mut b))[0].slot, Slot(1));
    assert!(book.expire(NOW, at(9000)));
    plane.sync(&book, &rules());
    join_at(&mut book, &mut a, 1, at(9001));
    assert_eq!(a.grant().unwrap().station, station(1));
    assert_eq!(set_members(&plane.sync(&book, &rules()))[0].slot, Slot(1));
    assert_eq!(book.next_expiry(), Some(at(9001) + LIFE));
}

#[test]
fn a_gateways_start_gives_members_one_life_and_no_more() {
    let mut store = Store { order: Some(record()), ..Store::default() };
    let mut book = store.open(NOW, Instant::ZERO);
    store.write(book.set_reach(vec!["44.128.1.2:7770".parse().unwrap()], Vec::new(), 7770));
    let secret = overlay_proto::ticket::TicketSecret([1; 16]);
    let (ticket, records) = book.invite(None, secret, NOW + 60, NOW, Instant::ZERO).unwrap();
    store.write(records);
    let request = member(&ticket, 1).request([1; 16], Instant::ZERO);
    store.write(book.handle_join(seller(1).id(), REMOTE, &request, NOW, at(0)).records);

    // Another boot: the clock starts anew.
    let mut book = store.open(NOW + 86_400, at(7));
    assert_eq!(book.members().next().unwrap().standing, Standing::Live);
    assert!(!book.expire(NOW, at(906)));
    assert!(book.expire(NOW, at(907)));
    assert_eq!(book.members().next().unwrap().standing, Standing::Suspended);
}

#[test]
fn nothing_late_or_repeated_changes_or_lengthens_anything() {
    let mut book = registry();
    let (first, second) = (invite(&mut book, 1), invite(&mut book, 2));
    let (mut a, mut b) = (member(&first, 1), member(&second, 2));
    let request = a.request([1; 16], Instant::ZERO);
    let old_welcome = welcome(ask(&mut book, 1, &request, NOW, Instant::ZERO));
    a.handle_welcome(&old_welcome, Instant::ZERO).unwrap();
    join(&mut book, &mut b, 2);
    let old_delta = book.roster_since(a.view().version().unwrap()).unwrap();
    a.handle_message(ToMember::Roster(old_delta.clone()), at(1)).unwrap();
    let old_full = book.roster();
    let old_config = book.config().bytes().to_vec();
    book.evict(Slot(2), NOW).unwrap();
    update(&book, &mut a);
    let known = a.view().clone();
    for old in [&old_delta, &old_full, &old_welcome.roster] {
        let told = a.handle_message(ToMember::Roster(old.clone()), at(2));
        assert!(matches!(told, Err(MembershipError::Roster(_))), "{told:?}");
        assert_eq!(a.view(), &known, "an old roster was followed");
    }
    // A genuine answer with an old roster beside it.
    let request = a.request([3; 16], at(2));
    let good = welcome(ask(&mut book, 1, &request, NOW, at(2)));
    let mixed = Welcome { roster: old_full.clone(), ..good.clone() };
    let told = a.handle_welcome(&mixed, at(2));
    assert!(matches!(told, Err(MembershipError::Roster(RosterError::Stale(_)))), "{told:?}");
    assert_eq!((a.view(), a.expires_at()), (&known, Some(at(900))));
    a.handle_welcome(&good, at(2)).unwrap();

    book.set(&Options { mtu: Some(1400), ..Options::default() }).unwrap();
    for message in book.news(&mut Seen::new(a.view().version().unwrap())) {
        a.handle_message(message, at(3)).unwrap();
    }
    assert!(a.view().entries().get(&Slot(2)).is_none() && a.config().unwrap().segment.mtu == 1400);

    let (view, ends) = (a.view().clone(), a.expires_at());
    let replays = [
        ToMember::Roster(old_delta),
        ToMember::Roster(old_full),
        ToMember::Roster(old_welcome.roster.clone()),
        ToMember::Config(old_config),
        ToMember::Grant(old_welcome.grant.clone()),
    ];
    for replay in replays {
        let told = a.handle_message(replay.clone(), at(600));
        assert!(told.is_err(), "{replay:?}");
        assert_eq!((a.view(), a.expires_at()), (&view, ends), "{replay:?}");
        assert_eq!(a.config().unwrap().segment.mtu, 1400);
    }
    assert!(a.handle_welcome(&old_welcome, at(600)).is_err(), "an old welcome");
    let _ = a.request([2; 16], at(600));
    assert!(a.handle_welcome(&old_welcome, at(600)).is_err(), "to another question");
    assert_eq!((a.view(), a.expires_at()), (&view, ends));
    assert_eq!(a.poll(at(902)), Some(LifeChange::Expired));
    // The present roster once more is no news, and no life.
    let again = a.handle_message(ToMember::Roster(book.roster()), at(903)).unwrap();
    assert_eq!((again, a.expires_at()), (Vec::new(), ends));
}

#[test]
fn a_grant_or_an_entry_with_an_older_serial_is_refused() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    renew(&mut book, &mut a, 1, at(450));
    let known = a.grant().unwrap().clone();
    let ToGateway::Renew { nonce } = a.renew([9; 16], at(500)) else { panic!("no question") };
    let old = overlay_proto::grant::Grant { nonce, serial: known.serial - 1, ..known.clone() };
    let error = a.handle_message(grant_message(&old), at(500)).unwrap_err();
    assert_eq!(error, MembershipError::Grant(GrantError::Stale(old.serial)));
    assert_eq!((a.grant(), a.expires_at()), (Some(&known), Some(at(1350))));
    let newer = overlay_proto::grant::Grant { epoch: 1, ..old };
    assert!(a.handle_message(grant_message(&newer), at(500)).is_ok(), "a newer epoch goes first");

    let mut view = overlay_proto::roster::RosterView::new(order().id(), buyer().id());
    view.apply(Signed::seal(&buyer(), roster()).bytes()).unwrap();
    let mut stale = grant(2);
    stale.serial -= 1;
    let entries = vec![overlay_proto::roster::RosterEntry {
        grant: Signed::seal(&buyer(), stale.clone()).bytes().to_vec(),
        ..entry(2)
    }];
    let delta = overlay_proto::roster::Roster { version: 6, base: Some(5), entries, ..roster() };
    let error = view.apply(Signed::seal(&buyer(), delta).bytes()).unwrap_err();
    assert_eq!(error, RosterError::Serial { slot: 2, serial: stale.serial });
    assert_eq!(view.version(), Some(5));
}

fn grant_message(grant: &overlay_proto::grant::Grant) -> ToMember {
    ToMember::Grant(Signed::seal(&buyer(), grant.clone()).bytes().to_vec())
}

#[test]
fn options_reach_members_with_a_new_config_and_limits_with_the_grant_that_it_asks_for() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    let mut seen = Seen::new(a.view().version().unwrap());
    let hello = book.news(&mut seen);
    assert!(matches!(&hello[..], [ToMember::Config(_)]), "{hello:?}");
    assert_eq!(a.handle_message(hello[0].clone(), at(1)).unwrap(), []);
    assert_eq!((a.renew_at(), book.news(&mut seen)), (Some(at(450)), Vec::new()));

    let limits = Limits { bytes_per_s: 12_500_000, frames_per_s: 0 };
    let (mtu, broadcast) = (Some(1400), Some(Broadcast::Off));
    let options = Options { mtu, broadcast, limits: Some(limits), ..Options::default() };
    let version = book.order_record().config_version;
    assert_eq!(book.set(&options).unwrap().len(), 1);
    assert_eq!(book.order_record().config_version, version + 1);
    let news = book.news(&mut seen);
    let [config @ ToMember::Config(_), roster @ ToMember::Roster(_)] = &news[..] else {
        panic!("{news:?}")
    };
    let early = a.handle_message(roster.clone(), at(2)).unwrap_err();
    assert_eq!(early, MembershipError::Config(version + 1), "a roster before its config");
    let told = a.handle_message(config.clone(), at(2)).unwrap();
    assert_eq!(told, [Command::SetSegment(book.order_record().segment())]);
    assert_eq!(a.handle_message(roster.clone(), at(2)).unwrap(), []);
    assert_eq!((a.config().unwrap().segment.mtu, a.expires_at()), (1400, Some(at(900))));
    assert!(a.renew_at().unwrap() <= at(2), "the new grant is not asked for at once");
    let told = renew(&mut book, &mut a, 1, at(2));
    assert_eq!(told[1..], [Command::SetLimits { port: LocalPort::GUEST, limits }]);
    assert_eq!(a.renew_at(), Some(at(452)));

    assert_eq!(book.set(&options), Ok(Vec::new()), "nothing new");
    assert_eq!(book.news(&mut seen), []);
    let error = book.set(&Options { mtu: Some(1200), ..options }).unwrap_err();
    assert_eq!(error, SetError::Mtu(1200));
    let mut plane = GatewayPlane::default();
    plane.sync(&book, &rules());
    book.set(&Options { mtu: Some(9000), ..Options::default() }).unwrap();
    assert_eq!(plane.sync(&book, &rules())[0], Command::SetSegment(book.order_record().segment()));
}

#[test]
fn what_guests_are_told_changes_with_the_order_and_makes_sense() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    let mut plane = GatewayPlane::default();
    plane.sync(&book, &rules());
    let mut seen = Seen::new(a.view().version().unwrap());
    book.news(&mut seen);
    let route = |net: [u8; 4], prefix, via: [u8; 4]| (net.into(), prefix, via.into());
    let dns = vec![station(0).ipv4.into(), station(0).ipv6.into()];
    let routes = vec![route([192, 168, 9, 0], 24, [10, 77, 0, 2])];
    let options =
        Options { dns: Some(dns.clone()), routes: Some(routes.clone()), ..Options::default() };
    book.set(&options).unwrap();
    let news = book.news(&mut seen);
    let told = a.handle_message(news[0].clone(), at(2)).unwrap();
    let [Command::SetRoutes(set), Command::Serve { port: LocalPort::GUEST, guest }] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((set, &guest.dns, &guest.routes), (&routes, &dns, &routes));
    assert_eq!(plane.sync(&book, &rules()), [Command::SetRoutes(routes.clone())]);
    guest.check().unwrap();

    let mtu = Options { mtu: Some(1400), ..Options::default() };
    book.set(&mtu).unwrap();
    assert_eq!(book.order_record().dns, dns, "another option took it away");
    let before = book.order_record().clone();
    let mut refuse = |dns: Option<Vec<std::net::IpAddr>>, routes: Option<_>, words: &str| {
        let error = book.set(&Options { dns, routes, ..Options::default() }).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(book.order_record(), &before);
    };
    refuse(Some(vec![[8, 8, 8, 8].into()]), None, "8.8.8.8 is not on the segment");
    refuse(Some(vec!["fd99::1".parse().unwrap()]), None, "fd99::1 is not on the segment");
    refuse(Some(vec![[10, 77, 0, 255].into()]), None, "10.77.0.255 is not on the segment");
    refuse(Some(vec![dns[0]; 5]), None, "5 DNS servers are more than 4");
    for (bad, words) in [
        (route([0; 4], 0, [10, 77, 0, 2]), "a route to 0.0.0.0/0 cannot be"),
        (route([128, 0, 0, 0], 1, [10, 77, 0, 2]), "a route to 128.0.0.0/1 cannot be"),
        (route([192, 168, 9, 1], 24, [10, 77, 0, 2]), "a route to 192.168.9.1/24 cannot be"),
        (route([192, 168, 9, 0], 33, [10, 77, 0, 2]), "a route to 192.168.9.0/33 cannot be"),
        (route([127, 0, 0, 0], 8, [10, 77, 0, 2]), "a route to 127.0.0.0/8 cannot be"),
        (route([10, 77, 0, 0], 25, [10, 77, 0, 2]), "overlaps the segment 10.77.0.0/24"),
        (route([10, 0, 0, 0], 8, [10, 77, 0, 2]), "overlaps the segment 10.77.0.0/24"),
        (route([192, 168, 9, 0], 24, [192, 168, 9, 1]), "via 192.168.9.1 leads nowhere"),
    ] {
        refuse(None, Some(vec![bad]), words);
    }
    refuse(None, Some(vec![routes[0]; 9]), "9 routes are more than 8");
    let none = Options { dns: Some(vec![]), routes: Some(vec![]), ..Options::default() };
    book.set(&none).unwrap();
    assert_eq!(plane.sync(&book, &rules()).last(), Some(&Command::SetRoutes(vec![])));

    // A config that says so all the same is not followed.
    let bad = overlay_proto::order::Config { dns: vec![[8, 8, 8, 8].into()], ..config() };
    let signed = Signed::seal(&buyer(), bad);
    let error = overlay_proto::order::Config::check(&signed, order().id(), buyer().id());
    assert!(matches!(error, Err(overlay_proto::order::ConfigError::Guests(_))), "{error:?}");
}

#[test]
fn a_config_that_comes_while_a_question_is_under_way_is_asked_for_after_its_answer() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let mut a = member(&ticket, 1);
    join(&mut book, &mut a, 1);
    let ToGateway::Renew { nonce } = a.renew([8; 16], at(450)) else { panic!("no question") };
    let old = book.renew(seller(1).id(), Slot(1), nonce, at(450)).unwrap();
    let limits = Limits { bytes_per_s: 1_000_000, frames_per_s: 0 };
    book.set(&Options { limits: Some(limits), ..Options::default() }).unwrap();
    let mut seen = Seen::new(a.view().version().unwrap());
    for message in book.news(&mut seen) {
        a.handle_message(message, at(450)).unwrap();
    }
    assert_eq!(a.renew_at(), Some(at(900)), "two questions at a time");
    a.handle_message(ToMember::Grant(old), at(451)).unwrap();
    assert!(a.renew_at().unwrap() <= at(451));
    renew(&mut book, &mut a, 1, at(451));
    assert_eq!((a.grant().unwrap().limits, a.renew_at()), (limits, Some(at(901))));
}

#[test]
fn of_two_hosts_with_one_key_the_second_is_refused_while_the_first_is_heard() {
    let mut book = registry();
    let ticket = invite(&mut book, 1);
    let (mut first, mut second) = (member(&ticket, 1), member(&ticket, 1));
    join(&mut book, &mut first, 1);
    assert_eq!(book.handle_open(seller(1).id(), Slot(1), 7, at(0)), Ok(None));
    let version = book.version();
    let request = second.request([2; 16], at(5));
    assert_eq!(refused(ask(&mut book, 1, &request, NOW, at(5))), RefuseReason::InUse);
    assert_eq!(book.handle_open(seller(1).id(), Slot(1), 8, at(5)), Err(RefuseReason::InUse));
    assert_eq!(book.version(), version, "the refused one changed something");
    assert_eq!(
        book.handle_open(seller(2).id(), Slot(1), 9, at(5)),
        Err(RefuseReason::TicketUnknown)
    );
    for second in 6..100 {
        book.handle_heard(Slot(1), 7, at(second));
        book.handle_heard(Slot(1), 8, at(1000)); // not the one that is open
    }
    assert_eq!(refused(ask(&mut book, 1, &request, NOW, at(100))), RefuseReason::InUse);

    // Its stream ends, or is silent for too long: then the next one has the slot.
    let silent = at(99) + STREAM_ALIVE_AFTER;
    assert_eq!(book.handle_open(seller(1).id(), Slot(1), 10, silent), Ok(Some(7)));
    book.handle_closed(Slot(1), 7);
    let early = silent + Duration::from_secs(1);
    assert_eq!(refused(ask(&mut book, 1, &request, NOW, early)), RefuseReason::InUse);
    book.handle_closed(Slot(1), 10);
    join_at(&mut book, &mut second, 1, early);
    assert_eq!(book.handle_open(seller(1).id(), Slot(1), 11, early), Ok(None));
}
