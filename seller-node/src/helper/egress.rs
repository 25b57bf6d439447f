//! The lease's part in the egress guard, and what is done when that does not stand.
//!
//! # Theory of operation
//! The lease's socket is marked before anybody without rights holds it. Control names the ticket's
//! addresses, and those that proved their keys; the guard takes the latter only if the kernel heard
//! from them. What is proven is renewed every [`RENEW_INTERVAL`] as long as control names it.
//!
//! When somebody has changed the host's packet filter, the data plane is stopped (SIGSTOP) until
//! the guard stands again.
//!
//! # Limits
//! An address that is refused stays within the budgets of unproven ones; the path agent then finds
//! the relay. One refused because nothing was heard yet is asked for again with the next renewal.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use overlay::clock;
use overlay::helper::Helper;
use overlay::host::guard::{self, Guard, GuardError, GuardSpec, Refused, Stands};
use overlay_proto::dial::{DialRules, Lan};
use vde_switch::time::Instant;

/// How often what is proven is renewed: three times within its life.
const RENEW_INTERVAL: Duration = Duration::from_secs(50);
/// How soon an address that the kernel had not heard is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often the guard is compared with what it should be, without a reason.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Most addresses that control may name at once.
const NAMED_MAX: usize = 64;

/// What the lease's socket and its control process may send to.
#[derive(Debug)]
pub(super) struct Egress {
    guard: Guard,
    /// What control named last as alive.
    alive: Vec<SocketAddr>,
    /// Proven by control's word, not yet heard by the kernel.
    waiting: Vec<SocketAddr>,
    renewed_at: Instant,
    tried_at: Instant,
    checked_at: Instant,
}

impl Egress {
    /// Marks the lease's socket and makes the guard stand.
    pub(super) fn open(
        udp: &OwnedFd,
        port: u16,
        ctl_uid: u32,
        rules: &DialRules,
    ) -> anyhow::Result<Self> {
        guard::mark(udp)?;
        let lan = if rules.lan == Lan::Allowed { rules.links.clone() } else { Vec::new() };
        let guard = Guard::join(GuardSpec { port, ctl_uid, lan, resolvers: guard::resolvers() })?;
        let now = clock::now();
        Ok(Self {
            guard,
            alive: Vec::new(),
            waiting: Vec::new(),
            renewed_at: now,
            tried_at: now,
            checked_at: now,
        })
    }

    /// Returns what is readable when the host's packet filter has changed.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.guard.watch_fd()
    }

    /// Takes an address of the ticket.
    pub(super) fn given(&mut self, addr: SocketAddr) {
        report("given", addr, self.guard.given(addr, clock::now()));
    }

    /// Takes an address that proved its key over TCP.
    pub(super) fn joined(&mut self, addr: SocketAddr) {
        report("joined", addr, self.guard.tcp_proven(addr));
        // The same host at the same number: the kernel heard from it if it is connected.
        if is_connected(addr) {
            report("connected", addr, self.guard.widen_connected(addr, clock::now()));
        }
    }

    /// Takes an address that proved its key to the data plane.
    pub(super) fn proven(&mut self, addr: SocketAddr) {
        if !self.alive.contains(&addr) && self.alive.len() < NAMED_MAX {
            self.alive.push(addr);
        }
        match self.guard.widen(addr, clock::now()) {
            Err(GuardError::Refused(Refused::NotHeard(_) | Refused::TooFast(_))) => {
                if !self.waiting.contains(&addr) && self.waiting.len() < NAMED_MAX {
                    self.waiting.push(addr);
                }
            }
            widened => {
                self.waiting.retain(|other| *other != addr);
                report("proven", addr, widened);
            }
        }
    }

    /// Takes what is in use still.
    pub(super) fn alive(&mut self, mut addrs: Vec<SocketAddr>) {
        addrs.truncate(NAMED_MAX);
        self.waiting.retain(|addr| addrs.contains(addr));
        self.alive = addrs;
    }

    /// Does what is due; `heard` says that the packet filter of the host has changed.
    ///
    /// # Errors
    /// When the guard does not stand and cannot be put back: the lease ends.
    pub(super) fn look(&mut self, heard: bool, helper: &Helper) -> anyhow::Result<()> {
        let now = clock::now();
        let touched = heard && self.guard.touched()?;
        if touched || now - self.checked_at >= CHECK_INTERVAL {
            self.checked_at = now;
            self.check(helper, now)?;
        }
        if !self.waiting.is_empty() && now - self.tried_at >= AGAIN_AFTER {
            self.tried_at = now;
            for addr in self.waiting.clone() {
                self.proven(addr);
            }
        }
        if now - self.renewed_at >= RENEW_INTERVAL {
            self.renewed_at = now;
            for addr in self.guard.renew(&self.alive, now)? {
                self.proven(addr);
            }
        }
        Ok(())
    }

    fn check(&mut self, helper: &Helper, now: Instant) -> anyhow::Result<()> {
        if self.guard.check()? == Stands::Whole {
            return Ok(());
        }
        helper.pause_data_plane();
        tracing::warn!("somebody has changed the egress guard: it is put back");
        self.guard.reinstall(now)?;
        helper.resume_data_plane();
        Ok(())
    }
}

/// Whether this host has an established TCP connection to an address, as the kernel lists them:
/// `number: local remote state …`, addresses in hexadecimal words of the host's byte order.
fn is_connected(addr: SocketAddr) -> bool {
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let words = |ip: &[u8]| -> String {
        ip.chunks_exact(4).map(|four| word([four[0], four[1], four[2], four[3]])).collect()
    };
    let (ip, mapped) = match addr.ip() {
        IpAddr::V4(v4) => (words(&v4.octets()), words(&v4.to_ipv6_mapped().octets())),
        IpAddr::V6(v6) => (words(&v6.octets()), words(&v6.octets())),
    };
    let wanted = [ip, mapped].map(|ip| format!("{ip}:{:04X}", addr.port()));
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].iter().any(|list| {
        let list = fs::read_to_string(list).unwrap_or_default();
        list.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(2);
            let remote = fields.next().is_some_and(|remote| wanted.iter().any(|it| it == remote));
            remote && fields.next() == Some("01")
        })
    })
}

fn report(what: &str, addr: SocketAddr, done: Result<(), GuardError>) {
    match done {
        Ok(()) => tracing::debug!(%addr, what, "the egress guard takes an address"),
        Err(error) => tracing::warn!(%addr, what, "the egress guard refuses an address: {error}"),
    }
}
