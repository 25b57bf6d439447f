//! What data planes were told, and the gateway's own.
//!
//! # Theory of operation
//! A data plane knows a member by its key. Guests that share a lease share that key, so for others
//! they are one [`Member`] whose slot is the lowest of theirs ([`gather`]); when that slot goes,
//! the next lowest is another member with a tunnel of its own, and what was sealed for the old one
//! is for nobody. [`Plane`] and [`Port`] keep what was told and say what is new; the order in which
//! they say it leaves no key and no station with two members at any moment.

use std::collections::BTreeMap;

use vde_switch::port::STATIONS_MAX;
use vde_switch::station::Segment;

use crate::control::{
    AddressTrust, CANDIDATES_MAX, Command, GuestConfig, Life, Limits, LocalPort, Member, Route,
    Slot,
};
use crate::dial::DialRules;
use crate::registry::{MemberInfo, Registry, Standing};

/// What a data plane was told of the order: by one membership at a time.
#[derive(Debug, Default)]
pub(super) struct Plane {
    segment: Option<Segment>,
    routes: Vec<Route>,
    members: BTreeMap<Slot, Member>,
    /// Whose ports are its own, whatever a roster says that is older than that.
    pub(super) local: Vec<Slot>,
}

impl Plane {
    /// Knows nothing of what was told; the ports stay its own.
    pub(super) fn forget(&mut self) {
        *self = Self { local: std::mem::take(&mut self.local), ..Self::default() };
    }

    /// Says what leads from the segment that was told to the one that should be known.
    pub(super) fn tell_segment(&mut self, segment: Segment, routes: &[Route]) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.segment.replace(segment) != Some(segment) {
            commands.push(Command::SetSegment(segment));
        }
        if self.routes != routes {
            self.routes = routes.to_vec();
            commands.push(Command::SetRoutes(routes.to_vec()));
        }
        commands
    }

    /// Says what leads from the members that were told to those that should be known, in an order
    /// in which no station and no key ever belongs to two.
    pub(super) fn tell_members(&mut self, members: BTreeMap<Slot, Member>) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut known = std::mem::take(&mut self.members);
        known.retain(|slot, old| {
            let moved = |new: &Member| {
                new.key != old.key && members.values().any(|other| other.key == old.key)
            };
            let stays = members.get(slot).is_some_and(|new| !moved(new));
            if !stays {
                commands.push(Command::RemoveMember(*slot));
            }
            stays
        });
        for (slot, old) in &mut known {
            let Some(new) = members.get(slot) else { continue };
            if old.stations.iter().any(|station| !new.stations.contains(station)) {
                let kept = new.stations.iter().filter(|station| old.stations.contains(station));
                *old = Member { stations: kept.copied().collect(), ..new.clone() };
                commands.push(Command::SetMember(old.clone()));
            }
        }
        for (slot, member) in &members {
            if known.get(slot) != Some(member) {
                commands.push(Command::SetMember(member.clone()));
            }
        }
        let gateway = Command::Connect(Slot::GATEWAY);
        let is_gateway =
            |c: &Command| matches!(c, Command::SetMember(m) if m.slot == Slot::GATEWAY);
        if commands.iter().any(is_gateway) {
            commands.push(gateway);
        }
        self.members = members;
        commands
    }
}

/// What a data plane was told of one local port; the first limits are told by whoever attaches it.
#[derive(Debug, Default)]
pub(super) struct Port {
    limits: Option<Limits>,
    guest: Option<GuestConfig>,
}

impl Port {
    /// Says what leads from what was told to what should be known.
    pub(super) fn tell(
        &mut self,
        port: LocalPort,
        limits: Limits,
        guest: GuestConfig,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.limits.replace(limits).is_some_and(|told| told != limits) {
            commands.push(Command::SetLimits { port, limits });
        }
        if self.guest.as_ref() != Some(&guest) {
            self.guest = Some(guest.clone());
            commands.push(Command::Serve { port, guest });
        }
        commands
    }
}

/// Makes one member of all slots that share a data plane: the lowest of them, with the stations of
/// all. `members` come by slot.
///
/// What does not fit (more than [`STATIONS_MAX`] stations of one key) is left out; it can neither
/// speak nor be spoken to.
pub(super) fn gather(members: impl IntoIterator<Item = Member>) -> BTreeMap<Slot, Member> {
    let mut gathered: BTreeMap<Slot, Member> = BTreeMap::new();
    let mut leads = BTreeMap::new();
    for member in members {
        let lead = *leads.entry(member.key).or_insert(member.slot);
        let Some(known) = gathered.get_mut(&lead) else {
            gathered.insert(lead, member);
            continue;
        };
        let room = STATIONS_MAX.saturating_sub(known.stations.len());
        known.stations.extend(member.stations.into_iter().take(room));
        for addr in member.candidates {
            if known.candidates.len() < CANDIDATES_MAX && !known.candidates.contains(&addr) {
                known.candidates.push(addr);
            }
        }
        if member.trust == AddressTrust::Hearsay {
            known.trust = AddressTrust::Hearsay;
        }
    }
    gathered
}

/// The members as the gateway's own data plane is told of them.
#[derive(Debug, Default)]
pub struct GatewayPlane {
    told: Plane,
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
        let members = gather(live.map(member));
        let first = self.told.segment.is_none().then_some(Command::Live(Life::Unlimited));
        let order = registry.order_record();
        let segment = self.told.tell_segment(order.segment(), &order.routes);
        let members = self.told.tell_members(members);
        first.into_iter().chain(segment).chain(members).collect()
    }
}
