use vde_switch::frame::Frame;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::policy::Policy;
use vde_switch::verdict::DropReason;
use vde_switch::vnet::VnetHdr;

use super::*;
use crate::canary::{Canary, Side, catalogue};
use crate::frames::*;
use crate::rows::{self, Row};
use crate::testing::{Rig, cable, in_netns, spec};

mod against_oracle;
mod cost;
mod headers;
mod mutation;
mod text;

/// A frame of the guest's or of the data plane's, by whatever list it is from.
#[derive(Clone)]
pub(super) struct Try {
    pub(super) name: String,
    pub(super) from: Side,
    pub(super) vnet: [u8; 12],
    pub(super) frame: Vec<u8>,
}

impl Try {
    /// What the port policy says of it. The data plane's frames have passed another port.
    pub(super) fn policy(&self) -> Result<(), DropReason> {
        let hdr = VnetHdr::parse(&self.vnet).map_err(|_| DropReason::BadOffload)?;
        let mut frame = Frame { hdr, bytes: &self.frame };
        Policy::new(&[STATION], SEGMENT).check(&mut frame).map(drop)
    }
}

/// All frames that there are.
pub(super) fn tries() -> Vec<Try> {
    let canary = |Canary { id, name, from, vnet, frame, .. }| Try {
        name: format!("{id} {name}"),
        from,
        vnet,
        frame,
    };
    let row = |Row { name, vnet, frame, .. }| Try {
        name: name.to_owned(),
        from: Side::Guest,
        vnet,
        frame,
    };
    let mut all: Vec<Try> = catalogue(&spec()).into_iter().map(canary).collect();
    all.extend(rows::legal().into_iter().chain(rows::hostile()).map(row));
    all.extend(headers::more());
    all
}

/// The guest's frames, without legal ones that this kernel does not know.
pub(super) fn tries_of_guest(rig: &mut Rig) -> Vec<Try> {
    let mut all = tries();
    all.retain(|one| one.from == Side::Guest);
    all.retain(|one| one.policy().is_err() || rig.takes(&one.vnet, &one.frame));
    all
}

#[test]
fn every_canary_ends_where_it_says_and_is_counted_by_that_name() {
    in_netns(|| {
        let mut rig = Rig::new();
        rig.load(&Ruleset::new(&spec(), &cable()).without_limits());
        let mut wrong = Vec::new();
        for canary in catalogue(&spec()) {
            let before = rig.counts();
            let passes = rig.passes(canary.from, &canary.vnet, &canary.frame);
            let after = rig.counts();
            let seen: Vec<_> =
                after.iter().filter(|(stop, count)| **count != before[*stop]).collect();
            let seen: Vec<Stop> = seen.iter().map(|(stop, _)| **stop).collect();
            let expected: Vec<Stop> = canary.stopped.into_iter().collect();
            if passes != canary.stopped.is_none() || seen != expected {
                wrong.push(format!("{} {}: passes {passes}, {seen:?}", canary.id, canary.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn what_the_port_policy_admits_passes_and_the_rest_is_known_by_its_reason() {
    in_netns(|| {
        let mut rig = Rig::new();
        rig.load(&Ruleset::new(&spec(), &cable()).without_limits());
        let (mut wrong, mut left) = (Vec::new(), Vec::new());
        for one in tries_of_guest(&mut rig) {
            let passes = rig.passes(one.from, &one.vnet, &one.frame);
            match one.policy() {
                Ok(()) if !passes => wrong.push(format!("{} is stopped", one.name)),
                Err(reason) if passes => {
                    left.push(format!("{}: {reason}", one.name));
                }
                _ => {}
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        eprintln!("left to the port policy:\n{}", left.join("\n"));
    });
}
