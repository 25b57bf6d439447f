//! What data planes were told, and the gateway's own.

use std::collections::BTreeMap;

use vde_switch::station::Segment;

use crate::control::{Command, GuestConfig, Life, Limits, LocalPort, Member, Route, Slot};
use crate::dial::DialRules;
use crate::registry::{MemberInfo, Registry, Standing};

/// What a data plane was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    segment: Option<Segment>,
    routes: Vec<Route>,
    /// Of the guest's port; the first are told by whoever attaches it.
    limits: Option<Limits>,
    guest: Option<GuestConfig>,
    members: BTreeMap<Slot, Member>,
}

impl Told {
    /// Says what leads from what was told to what should be known.
    pub(super) fn tell(
        &mut self,
        segment: Segment,
        routes: &[Route],
        limits: Limits,
        guest: Option<GuestConfig>,
        members: BTreeMap<Slot, Member>,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.segment != Some(segment) {
            commands.push(Command::SetSegment(segment));
        }
        if self.routes != routes {
            commands.push(Command::SetRoutes(routes.to_vec()));
        }
        if self.limits.is_some_and(|told| told != limits) {
            commands.push(Command::SetLimits { port: LocalPort::GUEST, limits });
        }
        if let Some(guest) = guest.as_ref().filter(|guest| self.guest.as_ref() != Some(guest)) {
            commands.push(Command::Serve { port: LocalPort::GUEST, guest: guest.clone() });
        }
        let gone = self.members.keys().filter(|slot| !members.contains_key(slot));
        commands.extend(gone.map(|slot| Command::RemoveMember(*slot)));
        for (slot, member) in &members {
            if self.members.get(slot) != Some(member) {
                commands.push(Command::SetMember(member.clone()));
            }
        }
        let gateway = members.get(&Slot::GATEWAY);
        if gateway.is_some() && gateway != self.members.get(&Slot::GATEWAY) {
            commands.push(Command::Connect(Slot::GATEWAY));
        }
        let routes = routes.to_vec();
        *self = Self { segment: Some(segment), routes, limits: Some(limits), guest, members };
        commands
    }
}

/// The members as the gateway's own data plane is told of them.
#[derive(Debug, Default)]
pub struct GatewayPlane {
    told: Told,
}

impl GatewayPlane {
    /// Returns what changed in the registry since the last call; all of it at the first. The
    /// buyer's own lease has no end and no limits, and its host configures its tap.
    pub fn sync(&mut self, registry: &Registry, rules: &DialRules) -> Vec<Command> {
        let member = |info: MemberInfo| Member {
            slot: info.record.slot,
            key: info.record.data_key,
            stations: vec![info.station],
            candidates: rules.filter(&info.candidates, info.trust),
            trust: info.trust,
        };
        let live = registry.members().filter(|info| info.standing == Standing::Live);
        let members = live.map(member).map(|member| (member.slot, member)).collect();
        let first = self.told.segment.is_none().then_some(Command::Live(Life::Unlimited));
        let order = registry.order_record();
        let news = self.told.tell(order.segment(), &order.routes, Limits::NONE, None, members);
        first.into_iter().chain(news).collect()
    }
}
