//! The egress guard on a real kernel: a hostile program with the sockets that we hand out, victims
//! that count.
#![expect(clippy::print_stdout, reason = "the tables are read by people")]

mod attack;
mod checks;
mod child;
mod figures;
mod lease;
mod mutants;
mod net;
mod sys;

use net::{Family, Lab, RESOLVERS};
use overlay::host::guard::{Guard, GuardSpec};

use crate::attack::{CTL_UID, PORT};
use crate::checks::{ATTACKS, Check, LEGAL, Outcome};

fn spec(port: u16) -> GuardSpec {
    let resolvers = RESOLVERS.map(|text| text.parse().expect("an address")).to_vec();
    GuardSpec { port, ctl_uid: CTL_UID, lan: Vec::new(), resolvers }
}

/// Runs a check with a guard that nothing was sent through before.
fn guarded(lab: &Lab, check: &Check, family: Family) -> Outcome {
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("the guard stands");
    lab.begin();
    let outcome = (check.run)(lab, family);
    lab.host.run(|| drop(guard));
    outcome
}

#[test]
fn every_attack_succeeds_without_the_guard_and_ends_at_it() {
    let lab = Lab::new();
    let mut wrong = Vec::new();
    for check in &ATTACKS {
        for &family in check.families {
            lab.begin();
            let without = (check.run)(&lab, family);
            let with = guarded(&lab, check, family);
            let name = format!("{} {} {family:?}", check.id, check.name);
            println!("{name}: without {without:?}, with {with:?}");
            if without.is_ok() {
                wrong.push(format!("{name}: no escape was seen without the guard"));
            }
            if let Err(text) = with {
                wrong.push(format!("{name}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_agreed_upon_passes_the_guard() {
    let lab = Lab::new();
    for check in &LEGAL {
        for &family in check.families {
            let outcome = guarded(&lab, check, family);
            assert_eq!(outcome, Ok(()), "{} {family:?}", check.name);
        }
    }
}
