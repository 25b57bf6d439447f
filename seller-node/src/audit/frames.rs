//! Frames of a guest: each of the catalogue against the rules, and against the port policy alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::write;
use overlay::confine::{data_plane_user, service_user};
use overlay::datakey::DataKey;
use overlay::dataplane::{DataPlane, process::ROLE};
use overlay::helper::start_role;
use overlay::host::guard::{self, Guard, GuardSpec};
use overlay::ipc;
use overlay_proto::control::{Command, Event, Life, Limits, LocalPort, Slot, Stats};
use vde_attach::canary::{Canary, Side, catalogue};
use vde_attach::link;
use vde_attach::tap::{IfName, Tap, TapOptions};
use vde_attach::wire::{GuestEnd, LeaseWire, WireSpec};
use vde_switch::mac::MacAddr;
use vde_switch::station::{Broadcast, Segment, Station};

use super::Row;
use super::sight::Sight;
use crate::helper::seat::watch::explain;

/// How long the data plane may take to say what it counted.
const STATS_AFTER_MAX: Duration = Duration::from_secs(5);
/// How long a guest says nothing until it may ask as much at once as ever.
const REST: Duration = Duration::from_millis(2500);

/// Makes a guest that nobody has: its MAC address begins with five bytes drawn for this audit,
/// which all its frames bear somewhere, as the source or as a neighbour's address.
fn spec() -> anyhow::Result<WireSpec> {
    let mut drawn = [0; 8];
    getrandom::fill(&mut drawn).context("the system has no randomness")?;
    let [a, b, c, d, e, f, ..] = drawn;
    let station = Station {
        mac: MacAddr([0x02 | (a & 0xfc), b, c, d, e, 0x40]),
        ipv4: Ipv4Addr::new(10, e, f, 10),
        ipv6: Ipv6Addr::new(0xfd00 | u16::from(a), 0x1111, 0, 0, 0, 0, 0, 0xa),
    };
    let segment = Segment {
        ipv4: (Ipv4Addr::new(10, e, f, 0), 24),
        ipv6: (Ipv6Addr::new(0xfd00 | u16::from(a), 0x1111, 0, 0, 0, 0, 0, 0), 64),
        mtu: 1500,
        broadcast: Broadcast::On,
    };
    Ok(WireSpec { station, segment, routes: Vec::new() })
}

fn mark(spec: &WireSpec) -> Vec<u8> {
    spec.station.mac.0[..5].to_vec()
}

/// Shows that what stands in the watched network is seen.
pub(super) fn prove_sight() -> anyhow::Result<Row> {
    let spec = spec()?;
    let frames: Vec<_> =
        catalogue(&spec).into_iter().filter(|canary| canary.from == Side::Guest).collect();
    let work = || -> anyhow::Result<Row> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let hole: IfName = "hole".parse()?;
        let tap = Tap::open(&hole, TapOptions::default())?;
        link::set_mtu_and_up(&hole, spec.segment.mtu)?;
        let sight = Sight::open()?;
        let fd = tap.into_fd();
        let (sent, seen) = sight.during(&mark(&spec), || send(&fd, &frames))?;
        Ok(Row {
            id: "–",
            what: "a guest whose tap stands in the watched network is seen".to_owned(),
            tried: sent,
            seen,
            stopped_by: "nothing, as it should".to_owned(),
            is_held: seen > frames.len() / 2,
        })
    };
    thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Writes frames behind their headers; says how many the end took.
fn send(end: &OwnedFd, frames: &[Canary]) -> usize {
    let whole = |canary: &Canary| [&canary.vnet[..], &canary.frame].concat();
    frames.iter().filter(|canary| write(end, &whole(canary)).is_ok()).count()
}

/// The throw-away lease.
struct Lease {
    spec: WireSpec,
    wire: LeaseWire,
    /// The hypervisor's end of the wire.
    guest: OwnedFd,
    plane: DataPlane,
    process: Child,
    _guard: Guard,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Nothing of it is worth waiting for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Lease {
    fn make() -> anyhow::Result<Self> {
        let spec = spec()?;
        let udp = overlay::udp::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let port = udp.local_addr()?.port();
        guard::mark(&udp)?;
        let (ctl_uid, _) = service_user()?;
        let resolvers = guard::resolvers();
        let guard = Guard::join(GuardSpec { port, ctl_uid, lan: Vec::new(), resolvers })?;
        let (mut wire, ends) = LeaseWire::open(&spec, GuestEnd::Tap).map_err(explain)?;
        let guest = ends.guest.context("a wire for a hypervisor has an end for it")?;
        let (ours, theirs) = ipc::pair()?;
        let fds = [theirs.as_fd(), udp.as_fd()];
        let process = start_role("overlay-dp", ROLE, &fds, data_plane_user(port)?)?;
        let plane = DataPlane::over(ours, &DataKey::random()?, Slot(1))?;
        plane.send(&Command::SetSegment(spec.segment))?;
        plane.send(&Command::Live(Life::Unlimited))?;
        plane.attach(LocalPort::GUEST, vec![spec.station], Limits::NONE, ends.data)?;
        wire.up()?;
        Ok(Self { spec, wire, guest, plane, process, _guard: guard })
    }

    /// Puts the guest straight at the data plane, past the rules.
    fn bypass(&mut self) -> anyhow::Result<()> {
        let (ours, theirs) = ipc::pair()?;
        self.plane.send(&Command::DetachPort(LocalPort::GUEST))?;
        let stations = vec![self.spec.station];
        self.plane.attach(LocalPort::GUEST, stations, Limits::NONE, theirs)?;
        self.guest = ours;
        Ok(())
    }

    async fn stats(&mut self) -> anyhow::Result<Stats> {
        self.plane.send(&Command::GetStats)?;
        let answer = async {
            loop {
                match self.plane.event().await {
                    Some(Event::Stats(stats)) => return Ok(stats),
                    Some(Event::Refused { reason }) => bail!("its data plane: {reason}"),
                    Some(_) => {}
                    None => bail!("its data plane has ended"),
                }
            }
        };
        tokio::time::timeout(STATS_AFTER_MAX, answer).await.context("it counts nothing")?
    }

    /// Sends frames as the guest; says how many came out.
    fn attempt(&self, sight: &Sight, frames: &[Canary]) -> anyhow::Result<usize> {
        let ((), seen) = sight.during(&mark(&self.spec), || {
            for canary in frames {
                send(&self.guest, std::slice::from_ref(canary));
            }
        })?;
        Ok(seen)
    }
}

/// Returns the frames that came from the guest's port.
fn heard(stats: &Stats) -> u64 {
    let port = stats.ports.iter().find(|port| port.port == LocalPort::GUEST);
    port.map_or(0, |port| port.in_frames)
}

/// The frames of one row of the attack catalogue, and what became of them.
struct Kind {
    id: &'static str,
    frames: Vec<Canary>,
    seen: usize,
    /// Which rules stopped them, and which reasons of the port policy did so alone.
    by_rules: Vec<String>,
    by_policy: Vec<String>,
}

/// Sends the whole catalogue, row by row: first to the rules, then past them.
pub(super) fn try_all() -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut lease = Lease::make()?;
        let sight = Sight::open()?;
        let (mut kinds, decent) = kinds(&lease.spec);
        let mut rows = vec![legal(&mut lease, &sight, &decent).await?];
        let mut counts = lease.wire.counters()?;
        for kind in &mut kinds {
            kind.seen += lease.attempt(&sight, &kind.frames)?;
            let after = lease.wire.counters()?;
            let grown = after.iter().filter(|(stop, count)| {
                count.packets > counts.get(stop).map_or(0, |before| before.packets)
            });
            kind.by_rules = grown.map(|(stop, _)| stop.to_string()).collect();
            counts = after;
        }
        lease.bypass()?;
        let mut drops: BTreeMap<String, u64> = lease.stats().await?.drops.into_iter().collect();
        for kind in &mut kinds {
            kind.seen += lease.attempt(&sight, &kind.frames)?;
            let after: BTreeMap<String, u64> = lease.stats().await?.drops.into_iter().collect();
            let grown = after
                .iter()
                .filter(|(reason, count)| **count > drops.get(*reason).copied().unwrap_or(0));
            kind.by_policy = grown.map(|(reason, _)| reason.clone()).collect();
            drops = after;
        }
        rows.extend(kinds.iter().map(hostile));
        Ok(rows)
    })
}

/// Sorts the catalogue by its rows; what a decent guest says stands apart.
fn kinds(spec: &WireSpec) -> (Vec<Kind>, Vec<Canary>) {
    let (mut kinds, mut decent): (Vec<Kind>, _) = (Vec::new(), Vec::new());
    for canary in catalogue(spec).into_iter().filter(|one| one.from == Side::Guest) {
        match kinds.iter_mut().find(|kind| kind.id == canary.id) {
            _ if canary.stopped.is_none() => decent.push(canary),
            Some(kind) => kind.frames.push(canary),
            None => {
                let (by_rules, by_policy) = (Vec::new(), Vec::new());
                let id = canary.id;
                kinds.push(Kind { id, frames: vec![canary], seen: 0, by_rules, by_policy });
            }
        }
    }
    kinds.sort_by_key(|kind| kind.id);
    (kinds, decent)
}

/// What a decent guest says reaches its data plane, and nobody else.
async fn legal(lease: &mut Lease, sight: &Sight, frames: &[Canary]) -> anyhow::Result<Row> {
    // The wire's own proof has used up what a guest may ask at once.
    tokio::time::sleep(REST).await;
    let before = heard(&lease.stats().await?);
    let seen = lease.attempt(sight, frames)?;
    let arrived = heard(&lease.stats().await?).saturating_sub(before);
    Ok(Row {
        id: "–",
        what: format!("what a decent guest says: {arrived} of {} reach its segment", frames.len()),
        tried: frames.len(),
        seen,
        stopped_by: "nothing".to_owned(),
        is_held: seen == 0 && arrived == frames.len() as u64,
    })
}

fn hostile(kind: &Kind) -> Row {
    let Kind { id, frames, seen, by_rules, by_policy } = kind;
    let what = frames.first().map_or("", |canary| canary.name);
    let what = match frames.len() {
        1 => what.to_owned(),
        more => format!("{what}, and {} more", more - 1),
    };
    let first = |list: &[String]| match list {
        [] => "the missing wire".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} (+{})", rest.len()),
    };
    Row {
        id,
        what,
        tried: 2 * frames.len(),
        seen: *seen,
        stopped_by: format!("rule {}; alone, policy {}", first(by_rules), first(by_policy)),
        is_held: *seen == 0 && !by_rules.is_empty() && !by_policy.is_empty(),
    }
}
