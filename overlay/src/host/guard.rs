//! The egress guard: what a seller's marked sockets and control process may send, in the kernel.
//!
//! # Theory of operation
//! One nftables table of the host, shared by all leases, so that its budgets hold for all orders
//! together. Two kinds of sockets are looked at: those with [`GUARD_MARK`], which their holder
//! cannot take off ([`mark`]), and those that the control process's user opened. Both may reach
//! three tiers of addresses, the tiers of `overlay_proto::dial`: *proven* ones freely, those of the
//! *ticket* and *hearsay* within budgets, which hold even if the program behind the socket is
//! somebody else's by now.
//!
//! An address becomes proven ([`Guard::widen`]) only if the kernel itself heard a datagram from it
//! on the lease's port; that its key was proved is the data plane's word. It remains proven for
//! [`ALIVE_FOR`] and has to be renewed ([`Guard::renew`]): when the helper is gone or the other end
//! is silent, the kernel shuts the address by itself. The same holds for all that a lease brings,
//! so a killed helper leaves nothing open.
//!
//! [`Guard::watch_fd`] tells of changes to the packet filter, [`Guard::check`] compares the table
//! with one that the same `nft` made in an empty namespace, [`Guard::reinstall`] puts it back.
//! Until then the `latch` keeps everything in. The last lease of a host takes the table away.
//!
//! Who sends what the guard refuses is told so by the kernel: EPERM.
//!
//! # Limits
//! [`LEASES_MAX`] leases, [`PROVEN_MAX`] proven and [`GIVEN_MAX`] ticket addresses of each. Hearsay
//! is one budget for all leases, which one can use up: the others then wait or go by the relay. A
//! forged datagram counts as heard: with the data plane in other hands and a forger elsewhere, an
//! address that never spoke can be proven for as long as the forger goes on, one in a second. Left
//! out: VRFs, whose own addresses the kernel does not find.

mod elements;
mod error;
mod latch;
mod lock;
mod resolv;
mod ruleset;
mod segments;
mod sys;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use overlay_proto::control::AddressTrust;
use overlay_proto::dial::{BUDGET_WINDOW, DialRules, Lan, canonical};
use socket2::SockRef;
use vde_switch::time::Instant;

use self::elements::{Element, Path, Script, Tcp};
pub use self::error::{GuardError, Refused};
use self::latch::Latch;
use self::lock::Locks;
pub use self::resolv::{parse_resolvers, resolvers};
use self::segments::Segments;
use self::table::{anew, listing, removal, trial};
use self::watch::Watch;
use super::nft::{self, NftError};
use crate::clock;

/// The mark of a socket that the guard looks at: "ovl".
pub const GUARD_MARK: u32 = 0x006f_766c;

/// The mark of a packet that the guard let pass.
pub const PASSED: u32 = GUARD_MARK + 1;

/// The mark of a packet that the guard let pass to an unproven address.
pub const ASKING: u32 = GUARD_MARK + 2;

/// The table's name, in family `inet`.
pub const TABLE: &str = "ovl_guard";

/// How long what a lease brings stays in the kernel unless it is renewed. A third of it is a good
/// interval between renewals.
pub const ALIVE_FOR: Duration = Duration::from_secs(180);

/// How long a datagram from an address counts as heard.
pub const HEARD_FOR: Duration = Duration::from_secs(60);

/// Most leases of a host.
pub const LEASES_MAX: usize = 32;

/// Most proven addresses of a lease.
pub const PROVEN_MAX: usize = 32;

/// Most ticket addresses of a lease.
pub const GIVEN_MAX: usize = 4;

/// Most networks of a lease that `--lan` opens.
pub const LAN_MAX: usize = 32;

/// Addresses that may be proven at once; more, one each [`WIDEN_INTERVAL`].
pub const WIDEN_BURST_MAX: u32 = 32;

/// Between two addresses that may be proven, in the long run.
pub const WIDEN_INTERVAL: Duration = Duration::from_secs(1);

/// SYNs to one ticket address in any `BUDGET_WINDOW`, its key unproved.
pub const SYN_MAX: usize = 3;

/// Packets a second to all name servers in the long run: many names, no flood of a domain's.
pub const DNS_RATE: u32 = 20;

/// Packets to all name servers at once.
pub const DNS_BURST_MAX: u32 = 100;

/// Unproven addresses of each kind that are counted: more than the hearsay of one window.
const SPENT_MAX: usize = 1024;

/// Strangers that are remembered as heard.
const HEARD_MAX: usize = 4096;

/// Addresses that are listened for by name, when strangers fill the memory for the heard: as many
/// as all leases can ask about while one counts as heard.
const AWAITED_MAX: usize = LEASES_MAX
    * (WIDEN_BURST_MAX as usize + (HEARD_FOR.as_secs() / WIDEN_INTERVAL.as_secs()) as usize);

/// What a lease needs of the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSpec {
    /// The lease's UDP port.
    pub port: u16,
    /// The user that the control process runs as, and nothing else. A socket counts as that of the
    /// user who opened it, so one that root opened for the process is not looked at.
    pub ctl_uid: u32,
    /// Networks that this host is on, if the user opened them with `--lan`; else none.
    pub lan: Vec<(IpAddr, u8)>,
    /// The name servers, see [`resolvers`].
    pub resolvers: Vec<IpAddr>,
}

/// What [`Guard::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// All is as it was made.
    Whole,
    /// There is no table.
    Gone,
    /// There is one, with other rules or without this lease, or the latch is open.
    Changed,
}

/// Puts a socket under the guard; whoever holds it without privileges cannot undo that.
///
/// # Errors
/// The system's; needs CAP_NET_ADMIN.
pub fn mark(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(GUARD_MARK)
}

/// One lease's part in the guard; leaves it when dropped, which must be after the processes that
/// hold marked sockets, and the control process, are gone.
///
/// All methods work on the network namespace of the thread that calls them.
#[derive(Debug)]
pub struct Guard {
    spec: GuardSpec,
    rules: DialRules,
    alive_for: Duration,
    expected: String,
    /// Ticket addresses, and when each was named last.
    given: BTreeMap<SocketAddr, Instant>,
    /// Proven addresses, and when each was renewed last.
    proven: BTreeMap<SocketAddr, Instant>,
    tcp_proven: Vec<SocketAddr>,
    /// When all that was asked of [`Self::widen`] is paid for.
    paid_at: Instant,
    /// Whether the table holds anything of this lease.
    joined: bool,
    watch: Watch,
    latch: Option<Latch>,
    _segments: Segments,
    locks: Locks,
    life: File,
}

impl Guard {
    /// Makes the guard stand, and this lease a part of it.
    ///
    /// # Errors
    /// [`GuardError`], with what is missing on this host; nothing of this lease is left then.
    pub fn join(spec: GuardSpec) -> Result<Self, GuardError> {
        Self::join_for(spec, ALIVE_FOR)
    }

    /// As [`Self::join`], with another time than [`ALIVE_FOR`].
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn join_for(mut spec: GuardSpec, alive_for: Duration) -> Result<Self, GuardError> {
        if spec.port == 0 || spec.ctl_uid == 0 {
            return Err(GuardError::Spec);
        }
        spec.lan = ruleset::networks(&spec.lan);
        if spec.lan.len() > LAN_MAX {
            return Err(GuardError::Networks(spec.lan.len()));
        }
        let lan = if spec.lan.is_empty() { Lan::Refused } else { Lan::Allowed };
        let expected = trial()?;
        let locks = Locks::of_this_namespace().map_err(GuardError::Lock)?;
        let mut guard = Self {
            rules: DialRules { lan, links: spec.lan.clone() },
            alive_for,
            expected,
            given: BTreeMap::new(),
            proven: BTreeMap::new(),
            tcp_proven: Vec::new(),
            paid_at: Instant::ZERO,
            joined: false,
            watch: Watch::new().map_err(GuardError::Watch)?,
            latch: None,
            _segments: Segments::refuse().map_err(GuardError::Segments)?,
            life: locks.share().map_err(GuardError::Lock)?,
            locks,
            spec,
        };
        guard.settle()?;
        guard.joined = true;
        guard.shut_latch()?;
        Ok(guard)
    }

    /// Adds this lease to the table that stands, or makes one. What a killed helper left of a lease
    /// on the same port goes, but for the proven addresses that the kernel still hears: a program
    /// that is started again and again would spend what unproven ones may be sent.
    fn settle(&mut self) -> Result<(), GuardError> {
        let now = clock::now();
        let _turn = self.locks.turn().map_err(GuardError::Lock)?;
        let listing = listing(false)?;
        let alone = Locks::is_last(&self.life).map_err(GuardError::Lock)?;
        if alone {
            self.life.lock_shared().map_err(GuardError::Lock)?;
        }
        let mut script = match listing {
            Some(text) if text == self.expected => {
                let mut script = Script::default();
                let all = nft::read(&["list", "table", "inet", TABLE])?;
                for element in elements::of_lease(&all, self.spec.port) {
                    script.take(&element);
                    if let Some(addr) = element.proven_addr()
                        && self.proven.len() < PROVEN_MAX
                        && self.is_heard(addr)?
                    {
                        self.proven.insert(addr, now);
                    }
                }
                script
            }
            Some(_) if !alone => return Err(GuardError::Foreign),
            Some(_) | None => anew(),
        };
        self.put_all(&mut script, now);
        Ok(script.run()?)
    }

    fn shut_latch(&mut self) -> Result<(), GuardError> {
        self.latch = None;
        let latch = Latch::close(self.spec.port, self.spec.ctl_uid).map_err(GuardError::Latch)?;
        self.latch = Some(latch);
        Ok(())
    }

    /// Writes down all that this lease brings.
    fn put_all(&self, script: &mut Script, now: Instant) {
        script.fix(&Element::ctl_uid(self.spec.ctl_uid));
        for element in self.lasting() {
            script.put(&element, self.alive_for);
        }
        for (addr, renewed_at) in &self.proven {
            let left = self.alive_for.saturating_sub(now - *renewed_at);
            if !left.is_zero() {
                script.put(&Element::path(Path::Proven, self.spec.port, *addr), left);
            }
        }
    }

    /// Returns what is renewed as long as the lease stands.
    fn lasting(&self) -> Vec<Element> {
        let port = self.spec.port;
        let mut elements = vec![Element::port(port)];
        elements.extend(self.spec.lan.iter().map(|(net, len)| Element::lan(port, *net, *len)));
        elements.extend(self.spec.resolvers.iter().map(|ip| Element::resolver(*ip)));
        for addr in self.given.keys() {
            elements.push(Element::path(Path::Given, port, *addr));
            elements.push(Element::tcp(Tcp::Given, *addr));
        }
        elements.extend(self.tcp_proven.iter().map(|addr| Element::tcp(Tcp::Proven, *addr)));
        elements
    }

    /// Opens the ticket's tiers, UDP and TCP, to an address. Where there are [`GIVEN_MAX`] already,
    /// one that was not named for a `BUDGET_WINDOW` makes room.
    ///
    /// # Errors
    /// [`Refused`] in a [`GuardError`], or that the kernel does not take it.
    pub fn given(&mut self, addr: SocketAddr, now: Instant) -> Result<(), GuardError> {
        let addr = self.rules.check(addr, AddressTrust::Given).map_err(Refused::Dial)?;
        let mut script = Script::default();
        if !self.given.contains_key(&addr) && self.given.len() >= GIVEN_MAX {
            let old = self.given.iter().find(|(_, named_at)| now - **named_at >= BUDGET_WINDOW);
            let old = *old.ok_or(Refused::TooManyGiven(addr))?.0;
            self.given.remove(&old);
            self.tcp_proven.retain(|proven| *proven != old);
            for element in self.of_ticket(old) {
                script.take(&element);
            }
        }
        self.given.insert(addr, now);
        for element in self.of_ticket(addr).into_iter().take(2) {
            script.put(&element, self.alive_for);
        }
        Ok(script.run()?)
    }

    fn of_ticket(&self, addr: SocketAddr) -> [Element; 3] {
        [
            Element::path(Path::Given, self.spec.port, addr),
            Element::tcp(Tcp::Given, addr),
            Element::tcp(Tcp::Proven, addr),
        ]
    }

    /// Opens a ticket's address to TCP freely: its key is proved. What it has had until then is
    /// forgotten, so that a lease that is started again finds it as before.
    ///
    /// # Errors
    /// [`Refused::NotGiven`] for others, or that the kernel does not take it.
    pub fn tcp_proven(&mut self, addr: SocketAddr) -> Result<(), GuardError> {
        let addr = canonical(addr);
        if !self.given.contains_key(&addr) {
            return Err(Refused::NotGiven(addr).into());
        }
        let mut script = Script::default();
        script.put(&Element::tcp(Tcp::Proven, addr), self.alive_for);
        script.run()?;
        for spent in Element::spent_tcp(addr) {
            if spent.find()?.is_some() {
                let mut script = Script::default();
                script.take(&spent);
                // It may have been forgotten meanwhile.
                let _ = script.run();
            }
        }
        if !self.tcp_proven.contains(&addr) {
            self.tcp_proven.push(addr);
        }
        Ok(())
    }

    /// Opens an address to the data plane freely: a peer's key is proved there, it says, and the
    /// kernel heard a datagram from there on the lease's port.
    ///
    /// # Errors
    /// [`Refused`] in a [`GuardError`], or that the kernel does not take it. One that was
    /// [`Refused::NotHeard`] is listened for: the next datagram from there is enough.
    pub fn widen(&mut self, addr: SocketAddr, now: Instant) -> Result<(), GuardError> {
        let named = self.given.contains_key(&canonical(addr));
        let trust = if named { AddressTrust::Given } else { AddressTrust::Hearsay };
        let addr = self.rules.check(addr, trust).map_err(Refused::Dial)?;
        self.forget(now);
        if !self.proven.contains_key(&addr) && self.proven.len() >= PROVEN_MAX {
            return Err(Refused::TooManyProven(addr).into());
        }
        let paid_at = self.paid_at.max(now) + WIDEN_INTERVAL;
        if paid_at - now > WIDEN_INTERVAL * WIDEN_BURST_MAX {
            return Err(Refused::TooFast(addr).into());
        }
        self.paid_at = paid_at;
        let mut script = Script::default();
        if !self.is_heard(addr)? {
            script.put(&Element::path(Path::Awaited, self.spec.port, addr), HEARD_FOR);
            script.run()?;
            return Err(Refused::NotHeard(addr).into());
        }
        script.put(&Element::path(Path::Proven, self.spec.port, addr), self.alive_for);
        script.run()?;
        self.proven.insert(addr, now);
        Ok(())
    }

    /// Asks the kernel whether it heard from an address lately.
    fn is_heard(&self, addr: SocketAddr) -> Result<bool, NftError> {
        let element = |set| Element::path(set, self.spec.port, addr);
        if element(Path::Heard).find()?.is_some() || element(Path::Live).find()?.is_some() {
            return Ok(true);
        }
        let awaited = element(Path::Awaited).find()?;
        Ok(awaited.is_some_and(|text| elements::packets(&text) > 0))
    }

    /// Renews what the lease has, and of the proven addresses those that `alive` names and that the
    /// kernel heard lately; returns which of them it did not. The dead man's switch: without this,
    /// all of it is shut after [`ALIVE_FOR`].
    ///
    /// # Errors
    /// That the kernel does not take it.
    pub fn renew(
        &mut self,
        alive: &[SocketAddr],
        now: Instant,
    ) -> Result<Vec<SocketAddr>, GuardError> {
        self.forget(now);
        let (mut known, mut silent): (Vec<_>, Vec<_>) = alive
            .iter()
            .map(|addr| canonical(*addr))
            .partition(|addr| self.proven.contains_key(addr));
        let live = |addr: &SocketAddr| Element::path(Path::Live, self.spec.port, *addr);
        if !Element::find_all(&known.iter().map(live).collect::<Vec<_>>())? {
            let mut heard = Vec::new();
            for addr in known {
                let list = if self.is_heard(addr)? { &mut heard } else { &mut silent };
                list.push(addr);
            }
            known = heard;
        }
        for addr in known {
            self.proven.insert(addr, now);
        }
        let mut script = Script::default();
        self.put_all(&mut script, now);
        script.run()?;
        Ok(silent)
    }

    /// Forgets the proven addresses that the kernel has shut.
    fn forget(&mut self, now: Instant) {
        self.proven.retain(|_, renewed_at| now - *renewed_at < self.alive_for);
    }

    /// Makes a proven address unproven.
    ///
    /// # Errors
    /// That the kernel does not take it.
    pub fn narrow(&mut self, addr: SocketAddr) -> Result<(), GuardError> {
        let addr = canonical(addr);
        let mut script = Script::default();
        if self.proven.remove(&addr).is_some() {
            script.take(&Element::path(Path::Proven, self.spec.port, addr));
        }
        if self.tcp_proven.contains(&addr) {
            self.tcp_proven.retain(|proven| *proven != addr);
            script.take(&Element::tcp(Tcp::Proven, addr));
        }
        Ok(script.run()?)
    }

    /// Returns the descriptor that is readable after a change to the host's packet filter, this
    /// guard's own among them; then ask [`Self::touched`].
    #[must_use]
    pub fn watch_fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    /// Says whether the guard's table was among what changed; then ask [`Self::check`].
    ///
    /// # Errors
    /// The system's.
    pub fn touched(&self) -> Result<bool, GuardError> {
        self.watch.touched().map_err(GuardError::Watch)
    }

    /// Compares the guard with what it is to be.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn check(&mut self) -> Result<Stands, GuardError> {
        let Some(found) = listing(false)? else { return Ok(Stands::Gone) };
        let own = [Element::ctl_uid(self.spec.ctl_uid), Element::port(self.spec.port)];
        let latched = match &mut self.latch {
            Some(latch) => latch.is_closed().map_err(|error| GuardError::Latch(error.into()))?,
            None => false,
        };
        let whole = found == self.expected && latched && Element::find_all(&own)?;
        Ok(if whole { Stands::Whole } else { Stands::Changed })
    }

    /// Makes the guard stand again, with what is known to be given and proven. What unproven
    /// addresses have had is forgotten with the table. The data plane is to be stopped meanwhile.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn reinstall(&mut self, now: Instant) -> Result<(), GuardError> {
        {
            let _turn = self.locks.turn().map_err(GuardError::Lock)?;
            let stands = listing(false)?.is_some_and(|text| text == self.expected);
            let mut script = if stands { Script::default() } else { anew() };
            self.put_all(&mut script, now);
            script.run()?;
        }
        let latched = match &mut self.latch {
            Some(latch) => latch.is_closed().unwrap_or(false),
            None => false,
        };
        if latched { Ok(()) } else { self.shut_latch() }
    }

    /// Returns a hold on the table, for a process that has a marked socket or the control process's
    /// user: while it is open somewhere, no other lease takes the table away.
    ///
    /// # Errors
    /// The system's.
    pub fn hold(&self) -> io::Result<File> {
        self.locks.share()
    }

    fn leave(&self) -> Result<(), GuardError> {
        let _turn = self.locks.turn().map_err(GuardError::Lock)?;
        let is_last = Locks::is_last(&self.life).map_err(GuardError::Lock)?;
        if is_last {
            Script::after(removal()).run()?;
            self.locks.remove();
        } else if self.joined && listing(false)?.is_some() {
            self.removal_of_lease().run()?;
        }
        Ok(())
    }

    /// Takes back what this lease brought. What the kernel hears stays proven for [`HEARD_FOR`]: a
    /// lease that is started again would spend what unproven addresses may be sent. Name servers
    /// and the control process's user may be others' as well; so may a ticket's TCP addresses,
    /// which the other renews.
    fn removal_of_lease(&self) -> Script {
        let mut script = Script::default();
        let port = self.spec.port;
        let shared = |element: &Element| {
            self.spec.resolvers.iter().any(|ip| *element == Element::resolver(*ip))
        };
        for element in self.lasting().iter().filter(|element| !shared(element)) {
            script.take(element);
        }
        for addr in self.proven.keys() {
            let proven = Element::path(Path::Proven, port, *addr);
            match self.is_heard(*addr) {
                Ok(true) => script.put(&proven, HEARD_FOR.min(self.alive_for)),
                Ok(false) | Err(_) => script.take(&proven),
            }
        }
        script
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!(%error, "the egress guard was not left in order");
        }
    }
}
