//! Where a hostile guest sits: at a plain cable, as it has on a host without us, or at ours.
//!
//! # Theory of operation
//! A seat knows its guest's addresses, how to run the attack there, and which interfaces of which
//! hosts it may be seen at. Plain seats come in two kinds, since not every escape takes every way:
//! a guest that is routed and masqueraded by its host, as docker's are, and one in the same bridge
//! as the host's network card, as libvirt's may be.
//!
//! A machine's system is [`crate::vm::small`] with the attacker added.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::attack::Tally;
use super::frames::Station;
use super::load::{Load, of_machine};
use super::packet::Mac;
use super::patch::{self, Patch};
use super::plan::{self, Plan, mac_text};
use super::{Home, mac_of, plug_into};
use crate::cast::{Gateway, Guest, state_of};
use crate::lab::Host;
use crate::lab::process::Process;
use crate::traffic::wait_reach;
use crate::vm::initramfs::with_program;
use crate::vm::member::{Member, command};
use crate::vm::{self, BOOT_MAX, Vm};

/// Addresses of a guest at a plain cable, of its host there, and of members that are not there.
pub const PLAIN: Station = Station {
    mac: [2, 0x77, 0, 0, 0, 0x0a],
    ipv4: Ipv4Addr::new(10, 77, 0, 10),
    ipv6: Ipv6Addr::new(0xfd3a, 0x77, 0, 0, 0, 0, 0, 0x0a),
};
/// See there.
const HOST4: &str = "10.77.0.1";
const HOST6: &str = "fd3a:77::1";
/// The host's end of a plain cable.
pub const PLAIN_PORT: &str = "vnet0";

/// Longest attack by a namespace, and by an emulated machine.
const ATTACK_MAX: [Duration; 2] = [Duration::from_secs(90), Duration::from_secs(240)];
/// How long a machine waits before it attacks.
const FIRST_MAX: Duration = Duration::from_secs(3);
/// For everything else.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a guest has without us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// Its host forwards for it.
    Routed,
    /// It is on the LAN.
    Bridged,
}

/// A guest's place.
#[derive(Debug)]
pub struct Seat {
    /// Its addresses.
    pub station: Station,
    /// Hosts and their interfaces that are the guest's own cable: what is there tells nothing.
    pub cable: Vec<(String, String)>,
    /// Hosts and their interfaces where what the segment carries may be seen.
    pub inside: Vec<(String, String)>,
    /// Namespaces of other guests of its segment, which are watched, too.
    pub members: Vec<Host>,
    /// What the last attack said.
    pub said: Vec<String>,
    runner: Runner,
    _patches: Vec<Patch>,
}

#[derive(Debug)]
enum Runner {
    /// A namespace, and what serves it.
    Netns(Host, Option<Process>),
    /// A machine that a host reaches by ssh.
    Machine(Box<Vm>, Host, u32),
}

impl Seat {
    /// Puts a guest's namespace at the end of a plain cable of the seller's host.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plain(home: &mut Home, name: &str, kind: Plain) -> Result<Self> {
        let (seller, guest) = (home.seller.clone(), home.lab.guest(name)?);
        guest.must("ip link set lo up")?;
        guest.must("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
        plug_into(&guest, &seller, "eth0", PLAIN_PORT, "br0")?;
        guest.must(&format!("ip link set eth0 address {}", mac_text(PLAIN.mac)))?;
        guest.must(&format!("ip addr add {}/24 dev eth0", PLAIN.ipv4))?;
        guest.must(&format!("ip addr add {}/64 dev eth0 nodad", PLAIN.ipv6))?;
        plain(&seller, kind)?;
        Ok(Self::at_plain(PLAIN, Runner::Netns(guest, None)))
    }

    /// Lets the seller join a guest's namespace to an order.
    ///
    /// # Errors
    /// As [`Guest::join`].
    pub fn joined(home: &mut Home, gateway: &Gateway, name: &str) -> Result<Self> {
        let ticket = gateway.invite_file()?;
        let seat = home.lab.guest(name)?;
        let guest = Guest::join(&home.programs, &home.seller, &seat, &ticket, &[])?;
        wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
        let mac = mac_of(&seat, "eth0")?;
        let station = Station { mac, ipv4: guest.ipv4, ipv6: guest.ipv6 };
        Ok(Self::on_segment(gateway, station, Runner::Netns(seat, Some(guest.process))))
    }

    /// Lets the seller join a hypervisor's tap in its own namespace to an order.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn at_tap(home: &mut Home, gateway: &Gateway, name: &str) -> Result<Self> {
        let (seller, guest) = (home.seller.clone(), home.lab.guest(name)?);
        let before = seller.interfaces()?;
        let theirs = patch::tap(&seller, PLAIN_PORT)?;
        let patch = Patch::between(theirs, patch::tap(&guest, "eth0")?);
        let (ticket, state) = (gateway.invite_file()?, state_of(&seller));
        let attach = format!("tap:{PLAIN_PORT}");
        let words = ["join", &ticket, "--attach", &attach, "--state", &state];
        let mut process = seller.spawn(&home.programs.seller, words)?;
        let line = process.wait_line(PATIENCE, |line| line.contains(" tap vnet0 mac "))?;
        let station = station_of(&line).with_context(|| format!("the seller says {line:?}"))?;
        guest.must("ip link set lo up")?;
        guest.must(&format!("ip link set eth0 address {} mtu 1500 up", mac_text(station.mac)))?;
        guest.must(&format!("ip addr add {}/24 dev eth0", station.ipv4))?;
        guest.must(&format!("ip addr add {}/64 dev eth0 nodad", station.ipv6))?;
        wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
        let mut seat = Self::on_segment(gateway, station, Runner::Netns(guest, Some(process)));
        // A hypervisor's tap is in the host, and so is ours beside it; frames are seen there before
        // our rules see them.
        let new = seller.interfaces()?.into_iter().filter(|name| !before.contains(name));
        seat.cable.extend(new.map(|name| ("seller".to_owned(), name)));
        seat._patches.push(patch);
        Ok(seat)
    }

    /// Boots a machine at the end of a plain cable of the seller's host.
    ///
    /// # Errors
    /// When this machine lacks what it takes.
    pub fn plain_machine(home: &Home, kind: Plain) -> Result<Self> {
        let seller = home.seller.clone();
        seller.must(&format!("ip tuntap add {PLAIN_PORT} mode tap vnet_hdr"))?;
        plain(&seller, kind)?;
        // Whatever it is used for, the host gets in.
        seller.must(&format!("ip link set {PLAIN_PORT} up"))?;
        let at = format!("ovl.ip={}/24 ovl.ip6={}/64", PLAIN.ipv4, PLAIN.ipv6);
        let mut words = machine(home, &at)?;
        words.extend(vm::tap(PLAIN_PORT, &mac_text(PLAIN.mac)));
        let mut vm = Vm::start(&seller, &words)?;
        vm.wait("GUEST READY", BOOT_MAX)?;
        vm.wait("GUEST IP6 ", PATIENCE)?;
        wait_reach(&seller, PLAIN.ipv4.into(), PATIENCE)?;
        Ok(Self::at_plain(PLAIN, Runner::Machine(Box::new(vm), seller, 0)))
    }

    /// Lets the seller run a machine of an order.
    ///
    /// # Errors
    /// When this machine lacks what it takes, or the guest does not come up.
    pub fn machine(home: &Home, gateway: &Gateway) -> Result<Self> {
        let ticket = gateway.invite_file()?;
        let words = command(&home.programs, &home.seller, &ticket, &[], machine(home, "")?);
        let member = Member::up(Vm::start(&home.seller, &words)?)?;
        wait_reach(&gateway.host, member.ipv4.into(), PATIENCE)?;
        let said = "cat /sys/class/net/eth0/address";
        let mac = plan::mac(&vm::must_ssh(&gateway.host, member.ipv4.into(), said)?)?;
        let station = Station { mac, ipv4: member.ipv4, ipv6: member.ipv6 };
        let runner = Runner::Machine(Box::new(member.vm), gateway.host.clone(), 0);
        Ok(Self::on_segment(gateway, station, runner))
    }

    fn at_plain(station: Station, runner: Runner) -> Self {
        Self {
            station,
            cable: vec![("seller".to_owned(), PLAIN_PORT.to_owned())],
            inside: Vec::new(),
            members: Vec::new(),
            said: Vec::new(),
            runner,
            _patches: Vec::new(),
        }
    }

    fn on_segment(gateway: &Gateway, station: Station, runner: Runner) -> Self {
        let inside = (gateway.host.name().to_owned(), format!("ovl-{}", gateway.order));
        // The buyer's kernel tells itself what it could not answer to addresses made by dice.
        let cable = vec![(gateway.host.name().to_owned(), "lo".to_owned())];
        Self { cable, inside: vec![inside], ..Self::at_plain(station, runner) }
    }

    /// Makes a seat of parts that a test has put together.
    #[must_use]
    pub fn of_parts(station: Station, guest: Host, patches: Vec<Patch>) -> Self {
        let runner = Runner::Netns(guest, None);
        Self { cable: Vec::new(), _patches: patches, ..Self::at_plain(station, runner) }
    }

    /// Lets another guest's namespace be watched as one where this guest may be seen.
    pub fn add_member(&mut self, other: &Host) {
        self.inside.push((other.name().to_owned(), "eth0".to_owned()));
        self.members.push(other.clone());
    }

    /// Returns the guest's namespace, unless it is a machine.
    #[must_use]
    pub fn netns(&self) -> Option<&Host> {
        match &self.runner {
            Runner::Netns(host, _) => Some(host),
            Runner::Machine(..) => None,
        }
    }

    /// Returns the program that serves it, if it is one of ours.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        match &self.runner {
            Runner::Netns(_, process) => process.as_ref(),
            Runner::Machine(vm, ..) => Some(&vm.process),
        }
    }

    /// Returns the program that serves it, to wait for its end.
    pub fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.runner {
            Runner::Netns(_, process) => process.as_mut(),
            Runner::Machine(vm, ..) => Some(&mut vm.process),
        }
    }

    /// Lets it attack on and on, until what is returned is dropped or the machine ends.
    ///
    /// # Errors
    /// When there is no way into it.
    pub fn begin(&self, plan: &Plan) -> Result<Option<Load>> {
        match &self.runner {
            Runner::Netns(guest, _) => Load::of_netns(guest, plan.words()).map(Some),
            Runner::Machine(_, from, _) => {
                of_machine(from, self.station.ipv4.into(), &plan.words()).map(|()| None)
            }
        }
    }

    /// Runs the attack to its end.
    ///
    /// # Errors
    /// When it does not come to it; with what it said.
    pub fn run(&mut self, plan: &Plan) -> Result<Tally> {
        self.run_after(plan, || Ok(()))
    }

    /// Does something that may cut the guest off, then runs the attack to its end.
    ///
    /// # Errors
    /// As [`Self::run`], and as `first` says.
    pub fn run_after(&mut self, plan: &Plan, first: impl FnOnce() -> Result<()>) -> Result<Tally> {
        let words = plan.words();
        let line = match &mut self.runner {
            Runner::Netns(guest, _) => {
                first()?;
                let program = crate::cast::beside("overlay-attack")?;
                let mut process = guest.spawn(program, words)?;
                let line = process.wait_line(ATTACK_MAX[0], |line| line.contains("ATTACK DONE"))?;
                self.said = process.take_lines();
                line
            }
            Runner::Machine(vm, from, count) => {
                *count += 1;
                // The console, since the segment may be out of order while this goes on.
                let script = format!(
                    "(echo RUN{count} WAITS >/dev/console; sleep {}; \
                     overlay-attack {} 2>&1 | sed 's/^/RUN{count} /' >/dev/console) \
                     </dev/null >/dev/null 2>&1 &",
                    FIRST_MAX.as_secs(),
                    words.join(" ")
                );
                vm::must_ssh(from, self.station.ipv4.into(), &script)?;
                vm.wait(&format!("RUN{count} WAITS"), PATIENCE)?;
                let started = Instant::now();
                first()?;
                ensure!(started.elapsed() < FIRST_MAX, "the attack began before all was ready");
                let line = vm.wait(&format!("RUN{count} ATTACK DONE"), ATTACK_MAX[1])?;
                let mark = format!("RUN{count} ");
                let said = vm.console();
                let lines = said.lines().filter_map(|line| line.split(&mark).nth(1));
                self.said = lines.map(str::to_owned).collect();
                line
            }
        };
        let tally = Tally::read(&line).with_context(|| format!("the attacker says {line:?}"))?;
        ensure!(tally.frames > 0, "the attacker sent nothing: {line}");
        Ok(tally)
    }

    /// Returns from which MAC addresses the last attack was answered.
    #[must_use]
    pub fn answered_from(&self) -> Vec<Mac> {
        let from = self.said.iter().filter_map(|line| line.split("HEARD ").nth(1));
        from.filter_map(|rest| plan::mac(rest.split_whitespace().nth(2)?).ok()).collect()
    }
}

/// Configures the host's end of a plain cable.
pub fn plain(seller: &Host, kind: Plain) -> Result<()> {
    match kind {
        Plain::Bridged => {
            seller.must(&format!("ip link set {PLAIN_PORT} master br0 up"))?;
            // The host gets in here, too.
            seller.must(&format!("ip addr replace {HOST4}/24 dev br0")).map(drop)
        }
        Plain::Routed => {
            seller.must(&format!("ip link set {PLAIN_PORT} nomaster up"))?;
            seller.must(&format!("ip addr replace {HOST4}/24 dev {PLAIN_PORT}"))?;
            seller.must(&format!("ip addr replace {HOST6}/64 dev {PLAIN_PORT} nodad")).map(drop)
        }
    }
}

/// Returns the command line of a small guest that has the attacker in it, without network.
pub(crate) fn machine(home: &Home, append: &str) -> Result<Vec<String>> {
    let mut words = vm::small(append)?;
    let at = words.iter().position(|word| word == "-initrd").context("a guest has an initrd")?;
    let initrd = words.get_mut(at + 1).context("a guest has an initrd")?;
    let path = home.lab.dir().join("attack.cpio");
    let program = crate::cast::beside("overlay-attack")?;
    fs::write(&path, with_program(initrd.as_ref(), &program)?)?;
    *initrd = path.display().to_string();
    Ok(words)
}

/// Reads `g1  10.77.0.10  fd3a::a  order farm  tap vnet0 mac 02:… …`.
fn station_of(line: &str) -> Option<Station> {
    let mut fields = line.split("  ").skip(1);
    let (ipv4, ipv6) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let mac = line.split(" mac ").nth(1)?.split_whitespace().next()?;
    Some(Station { mac: plan::mac(mac).ok()?, ipv4, ipv6 })
}

/// Returns the station of the buyer's computer on a segment.
///
/// # Errors
/// When its interface is not there.
pub fn buyer_of(gateway: &Gateway) -> Result<Station> {
    let mac = mac_of(&gateway.host, &format!("ovl-{}", gateway.order))?;
    Ok(Station { mac, ipv4: gateway.ipv4, ipv6: gateway.ipv6 })
}

/// Returns members for an attacker at a plain cable, where nobody has their MAC addresses: a bridge
/// gives what is for them to everybody.
#[must_use]
pub fn strangers() -> [Station; 2] {
    [2, 11].map(|number| Station {
        mac: [2, 0x77, 0, 0, 0, number],
        ipv4: [10, 77, 0, number].into(),
        ipv6: Ipv6Addr::new(0xfd3a, 0x77, 0, 0, 0, 0, 0, number.into()),
    })
}
