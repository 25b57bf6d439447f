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

/// A port of the throw-away lease whose frames do not pass the rules.
const BARE: LocalPort = LocalPort(1);
/// How long the data plane may take to say what it counted.
const STATS_AFTER_MAX: Duration = Duration::from_secs(5);

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
    /// The hypervisor's end of the wire, and an end past the rules.
    guest: OwnedFd,
    bare: OwnedFd,
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
        let (mut wire, ends) = LeaseWire::open(&spec, GuestEnd::Tap)?;
        let guest = ends.guest.context("a wire for a hypervisor has an end for it")?;
        let (ours, theirs) = ipc::pair()?;
        let fds = [theirs.as_fd(), udp.as_fd()];
        let process = start_role("overlay-dp", ROLE, &fds, data_plane_user(port)?)?;
        let plane = DataPlane::over(ours, &DataKey::random()?, Slot(1))?;
        let (bare, far) = ipc::pair()?;
        plane.send(&Command::SetSegment(spec.segment))?;
        plane.send(&Command::Live(Life::Unlimited))?;
        plane.attach(LocalPort::GUEST, vec![spec.station], Limits::NONE, ends.data)?;
        plane.attach(BARE, vec![spec.station], Limits::NONE, far)?;
        wire.up()?;
        Ok(Self { spec, wire, guest, bare, plane, process, _guard: guard })
    }

    async fn stats(&mut self) -> anyhow::Result<Stats> {
        self.plane.send(&Command::GetStats)?;
        let answer = async {
            loop {
                match self.plane.event().await {
                    Some(Event::Stats(stats)) => return Ok(stats),
                    Some(_) => {}
                    None => bail!("the audit's data plane has ended"),
                }
            }
        };
        tokio::time::timeout(STATS_AFTER_MAX, answer).await.context("it counts nothing")?
    }

    /// Sends frames by one of the two ends and says what came out, and what stopped them where.
    async fn attempt(
        &mut self,
        sight: &Sight,
        frames: &[Canary],
        is_bare: bool,
    ) -> anyhow::Result<(usize, Vec<String>, u64)> {
        let (drops, passed) = counted(&self.stats().await?, is_bare);
        let rules = self.wire.counters()?;
        let end = if is_bare { &self.bare } else { &self.guest };
        let ((), seen) = sight.during(&mark(&self.spec), || {
            for canary in frames {
                send(end, std::slice::from_ref(canary));
            }
        })?;
        let (drops_after, passed_after) = counted(&self.stats().await?, is_bare);
        let mut by: Vec<String> = Vec::new();
        for (stop, count) in self.wire.counters()? {
            if count.packets > rules.get(&stop).map_or(0, |before| before.packets) {
                by.push(format!("rule {stop}"));
            }
        }
        let grown = |(name, count): (&String, &u64)| {
            (*count > drops.get(name).copied().unwrap_or(0)).then(|| format!("policy {name}"))
        };
        by.extend(drops_after.iter().filter_map(grown));
        Ok((seen, by, passed_after - passed))
    }
}

/// Returns the drops by reason, and the frames of a port that were none.
fn counted(stats: &Stats, is_bare: bool) -> (BTreeMap<String, u64>, u64) {
    let wanted = if is_bare { BARE } else { LocalPort::GUEST };
    let port = stats.ports.iter().find(|port| port.port == wanted);
    let passed = port.map_or(0, |port| port.in_frames.saturating_sub(port.dropped));
    (stats.drops.iter().cloned().collect(), passed)
}

/// Sends the whole catalogue, row by row.
pub(super) fn try_all() -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut lease = Lease::make()?;
        let sight = Sight::open()?;
        let mut kinds: Vec<(&'static str, Vec<Canary>)> = Vec::new();
        for canary in catalogue(&lease.spec).into_iter().filter(|one| one.from == Side::Guest) {
            match kinds.iter_mut().find(|(id, _)| *id == canary.id) {
                Some((_, frames)) => frames.push(canary),
                None => kinds.push((canary.id, vec![canary])),
            }
        }
        let mut rows = Vec::new();
        for (id, frames) in kinds {
            rows.push(if frames.iter().all(|canary| canary.stopped.is_none()) {
                legal(&mut lease, &sight, &frames).await?
            } else {
                hostile(&mut lease, &sight, id, &frames).await?
            });
        }
        Ok(rows)
    })
}

/// What a decent guest says reaches its data plane, and nobody else.
async fn legal(lease: &mut Lease, sight: &Sight, frames: &[Canary]) -> anyhow::Result<Row> {
    let before = lease.stats().await?;
    let (seen, _, _) = lease.attempt(sight, frames, false).await?;
    let heard = |stats: &Stats| {
        let port = stats.ports.iter().find(|port| port.port == LocalPort::GUEST);
        port.map_or(0, |port| port.in_frames)
    };
    let arrived = heard(&lease.stats().await?).saturating_sub(heard(&before));
    Ok(Row {
        id: "–",
        what: format!("what a decent guest says: {arrived} of {} reach its segment", frames.len()),
        tried: frames.len(),
        seen,
        stopped_by: "nothing".to_owned(),
        is_held: seen == 0 && arrived == frames.len() as u64,
    })
}

async fn hostile(
    lease: &mut Lease,
    sight: &Sight,
    id: &'static str,
    frames: &[Canary],
) -> anyhow::Result<Row> {
    let (seen, by, _) = lease.attempt(sight, frames, false).await?;
    let (seen_bare, by_policy, _) = lease.attempt(sight, frames, true).await?;
    let what = frames.first().map_or("", |canary| canary.name);
    let what = match frames.len() {
        1 => what.to_owned(),
        more => format!("{what}, and {} more", more - 1),
    };
    let first = |list: &[String]| match list {
        [] => "no wire".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} (+{})", rest.len()),
    };
    let seen = seen + seen_bare;
    Ok(Row {
        id,
        what,
        tried: 2 * frames.len(),
        seen,
        stopped_by: format!("{}; alone, {}", first(&by), first(&by_policy)),
        is_held: seen == 0 && !by.is_empty(),
    })
}
