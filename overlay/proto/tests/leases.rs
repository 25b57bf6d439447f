//! Guests of one order on one host share its lease: one data-plane key, several slots.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeMap;

use common::book::*;
use common::*;
use overlay_proto::control::{Command, Limits, LocalPort, Member, Slot};
use overlay_proto::membership::{GatewayPlane, Membership, SellerHost};
use overlay_proto::messages::{JoinReply, RefuseReason, ToMember};
use overlay_proto::registry::{Options, Registry, Standing};
use overlay_proto::roster::RosterView;
use overlay_proto::ticket::Ticket;
use proptest::collection::vec;
use proptest::prelude::*;
use vde_switch::time::Instant;

/// A guest of seller `number` whose data plane has this key.
fn guest(ticket: &Ticket, number: u8, key: u8, port: u16) -> Membership {
    let host = SellerHost { data_key: [key; 32], ..host(number) };
    match port {
        0 => Membership::new(ticket.clone(), host),
        port => Membership::beside(ticket.clone(), host, LocalPort(port)),
    }
}

fn slots(members: &[&Member]) -> Vec<(u16, Vec<u16>)> {
    let slot_of = |mac| (0..9).find(|slot| station(*slot).mac == mac).unwrap();
    let stations = |m: &Member| m.stations.iter().map(|s| slot_of(s.mac)).collect();
    members.iter().map(|m| (m.slot.0, stations(m))).collect()
}

/// Slots 1 and 3 are one lease of seller 1, slot 2 is seller 2's.
fn lease() -> (Registry, [Membership; 3]) {
    let mut book = registry();
    let tickets = [1, 2, 3].map(|secret| invite(&mut book, secret));
    let mut one = guest(&tickets[0], 1, 0xa1, 0);
    let mut two = guest(&tickets[1], 2, 0xa2, 0);
    let mut three = guest(&tickets[2], 1, 0xa1, 1);
    join(&mut book, &mut one, 1);
    join(&mut book, &mut two, 2);
    let told = join(&mut book, &mut three, 1);
    assert!(matches!(&told[..], [Command::Serve { port: LocalPort(1), .. }]), "{told:?}");
    (book, [one, two, three])
}

#[test]
fn a_key_is_shared_by_guests_of_one_seller_alone() {
    let (mut book, _members) = lease();
    let ticket = invite(&mut book, 4);
    let thief = guest(&ticket, 2, 0xa1, 0).request([1; 16], Instant::ZERO);
    assert_eq!(refused(ask(&mut book, 2, &thief, NOW, Instant::ZERO)), RefuseReason::KeyInUse);
    let again = guest(&ticket, 1, 0xa1, 2).request([1; 16], Instant::ZERO);
    assert!(matches!(ask(&mut book, 1, &again, NOW, Instant::ZERO), JoinReply::Welcome(_)));
    assert_eq!(book.lease_of(Slot(3)), [1, 3, 4].map(Slot));
    assert_eq!(book.lease_of(Slot(2)), [Slot(2)]);
    assert!(book.lease_of(Slot(7)).is_empty());
    let mut view = RosterView::new(order().id(), buyer().id());
    view.apply(&book.roster()).unwrap();
    assert_eq!(view.entries().len(), 4);
}

#[test]
fn others_know_a_lease_as_one_member_with_all_its_stations() {
    let (book, [mut one, mut two, _]) = lease();
    let told = update(&book, &mut two);
    assert_eq!(slots(&set_members(&told)), [(1, vec![1, 3])]);
    assert_eq!(set_members(&told)[0].key, [0xa1; 32]);
    let told = update(&book, &mut one);
    assert_eq!(slots(&set_members(&told)), [(2, vec![2])], "its own lease is no member");
    let told = GatewayPlane::default().sync(&book, &rules());
    assert_eq!(slots(&set_members(&told)), [(1, vec![1, 3]), (2, vec![2])]);
}

#[test]
fn one_guests_end_leaves_the_others_of_its_lease() {
    type End = fn(&mut Registry, Slot);
    let ends: [End; 2] = [
        |book, slot| drop(book.leave(seller(1).id(), slot, NOW).unwrap()),
        |book, slot| drop(book.evict(slot, NOW).unwrap()),
    ];
    for end in ends {
        let (mut book, [_, mut two, _]) = lease();
        let mut plane = GatewayPlane::default();
        plane.sync(&book, &rules());
        update(&book, &mut two);
        end(&mut book, Slot(3));
        for told in [plane.sync(&book, &rules()), update(&book, &mut two)] {
            assert_eq!(slots(&set_members(&told)), [(1, vec![1])]);
            assert_eq!(told.len(), 1, "{told:?}");
        }
        let (mut book, [_, mut two, _]) = lease();
        let mut plane = GatewayPlane::default();
        plane.sync(&book, &rules());
        update(&book, &mut two);
        end(&mut book, Slot(1));
        for told in [plane.sync(&book, &rules()), update(&book, &mut two)] {
            // Another slot is another member: nothing goes on under the old number.
            assert_eq!(told[0], Command::RemoveMember(Slot(1)));
            assert_eq!(slots(&set_members(&told)), [(3, vec![3])]);
        }
        assert_eq!(book.lease_of(Slot(3)), [Slot(3)]);
    }
}

#[test]
fn each_guest_lives_as_long_as_its_own_grant() {
    let (mut book, [mut one, _, mut three]) = lease();
    let mut plane = GatewayPlane::default();
    plane.sync(&book, &rules());
    renew(&mut book, &mut one, 1, at(450));
    assert!(book.expire(NOW, at(900)));
    let told = plane.sync(&book, &rules());
    assert_eq!(slots(&set_members(&told)), [(1, vec![1])]);
    assert!(told.contains(&Command::RemoveMember(Slot(2))));
    assert!(renew(&mut book, &mut three, 1, at(1000)).is_empty(), "life is not its to tell");
    assert_eq!(slots(&set_members(&plane.sync(&book, &rules()))), [(1, vec![1, 3])]);
    assert_eq!(three.expires_at(), Some(at(1900)));
    let standing: Vec<_> = book.members().map(|member| member.standing).collect();
    assert_eq!(standing, [Standing::Live, Standing::Suspended, Standing::Live]);
}

#[test]
fn limits_and_answers_are_each_ports_own() {
    let (mut book, [mut one, _, mut three]) = lease();
    let options = Options {
        limits: Some(Limits { bytes_per_s: 1_000_000, frames_per_s: 0 }),
        ..Options::default()
    };
    let records = book.set(&options);
    assert!(records.is_ok(), "{records:?}");
    for (member, port) in [(&mut one, 0), (&mut three, 1)] {
        let config = book.config().bytes().to_vec();
        member.handle_message(ToMember::Config(config), at(1)).unwrap();
        let told = renew(&mut book, member, 1, at(2));
        let limited = told.iter().filter_map(|command| match command {
            Command::SetLimits { port, .. } => Some(port.0),
            _ => None,
        });
        assert_eq!(limited.collect::<Vec<_>>(), [port]);
    }
}

#[test]
fn the_lease_is_driven_by_one_and_handed_on_without_a_word_twice() {
    let (mut book, [mut one, _, mut three]) = lease();
    update(&book, &mut one);
    assert!(one.drives() && !three.drives());
    let told = three.take_over(&mut one, at(1));
    assert!(matches!(told[..], [Command::Live(_)]), "{told:?}");
    assert!(three.drives() && !one.drives());
    book.leave(seller(1).id(), Slot(1), NOW).unwrap();
    assert!(update(&book, &mut three).is_empty());
    book.leave(seller(2).id(), Slot(2), NOW).unwrap();
    assert_eq!(update(&book, &mut three), [Command::RemoveMember(Slot(2))]);
}

#[test]
fn a_port_of_the_lease_is_its_own_before_the_roster_says_so() {
    let mut book = registry();
    let tickets = [1, 2].map(|secret| invite(&mut book, secret));
    let mut one = guest(&tickets[0], 1, 0xa1, 0);
    join(&mut book, &mut one, 1);
    // The second guest had a lease of its own, which ended without a word.
    join(&mut book, &mut guest(&tickets[1], 1, 0xa2, 0), 1);
    assert_eq!(slots(&set_members(&update(&book, &mut one))), [(2, vec![2])]);
    let mut two = guest(&tickets[1], 1, 0xa1, 1);
    join(&mut book, &mut two, 1);
    assert_eq!(one.set_local(&[Slot(1), Slot(2)]), [Command::RemoveMember(Slot(2))]);
    assert!(update(&book, &mut one).is_empty());
    assert!(one.set_local(&[Slot(1)]).is_empty());
}

/// What a data plane holds, which takes nothing that two members would have.
#[derive(Default)]
struct Model(BTreeMap<Slot, Member>);

impl Model {
    fn take(&mut self, commands: Vec<Command>) -> Result<(), TestCaseError> {
        for command in commands {
            match command {
                Command::RemoveMember(slot) => {
                    prop_assert!(self.0.remove(&slot).is_some(), "{slot:?} is not known");
                }
                Command::SetMember(member) => {
                    for (slot, other) in self.0.iter().filter(|(slot, _)| **slot != member.slot) {
                        prop_assert_ne!(other.key, member.key, "{:?} and {:?}", slot, member.slot);
                        let both = |s| other.stations.contains(s);
                        prop_assert!(!member.stations.iter().any(both), "a station of two");
                    }
                    self.0.insert(member.slot, member);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

proptest! {
    /// However guests come and go by whatever keys of their host, a data plane that hears of it
    /// late and all at once is told nothing that it could not take, and what is right in the end.
    #[test]
    fn leases_change_in_an_order_that_a_data_plane_takes(
        steps in vec((1..6_usize, 0..4_u8, 0..3_u8), 1..40),
    ) {
        let mut book = registry();
        let tickets: Vec<_> = (1..7).map(|secret| invite(&mut book, secret)).collect();
        let mut watcher = guest(&tickets[5], 2, 0xff, 0);
        let (mut model, mut gateway) = (Model::default(), Model::default());
        model.take(join(&mut book, &mut watcher, 2))?;
        let mut plane = GatewayPlane::default();
        for (number, key, look) in steps {
            let slot = Slot(number as u16);
            match key {
                0 => drop(book.leave(seller(1).id(), slot, NOW)),
                key => drop(join(&mut book, &mut guest(&tickets[number - 1], 1, 0xa0 + key, 0), 1)),
            }
            if look > 0 {
                gateway.take(plane.sync(&book, &rules()))?;
            }
            if look > 1 && book.roster_since(watcher.view().version().unwrap()).is_some() {
                model.take(update(&book, &mut watcher))?;
            }
        }
        gateway.take(plane.sync(&book, &rules()))?;
        if book.roster_since(watcher.view().version().unwrap()).is_some() {
            model.take(update(&book, &mut watcher))?;
        }
        for member in book.members() {
            let lead = book.lease_of(member.record.slot)[0];
            for (held, known) in [(&model, 0xff), (&gateway, 0)] {
                if member.record.data_key == [known; 32] {
                    continue;
                }
                let held = &held.0[&lead];
                prop_assert_eq!(held.key, member.record.data_key);
                prop_assert!(held.stations.contains(&member.station));
            }
        }
        let stations: usize = gateway.0.values().map(|member| member.stations.len()).sum();
        prop_assert_eq!(stations, book.members().count());
    }
}
