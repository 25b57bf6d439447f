//! Carries a plan out, from wherever it runs: frames by packet sockets, then ordinary sockets.
//!
//! # Theory of operation
//! First all frames of the catalogue and all [`escapes`] leave by a packet socket, each followed by
//! changed copies. Then the kernel of the attacker is told that everybody is on the link, at each
//! known MAC address in turn, and ordinary sockets connect and send. What comes back with a marker
//! is counted: an answer is an escape, too. One line is said for each attempt.
//!
//! # Limits
//! Needs root and `ip` where it runs. The routes that it makes are taken back.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, send};

use super::dice::Dice;
use super::escapes::{escapes, is_group};
use super::frames::{Roles, catalogue};
use super::marker::{self, Row};
use super::packet::Mac;
use super::plan::{Plan, Target, mac_text};
use super::sockets;
use crate::inject;
use crate::sys;

/// Copies of a frame that go out before the receiver is given time.
const BURST: u64 = 64;
/// How long it gets.
const BURST_PAUSE: Duration = Duration::from_millis(1);
/// MAC addresses that ordinary sockets are led to.
const HOPS_MAX: usize = 2;
/// Kernel's mark of frames that the attacker's own host sends.
const OUTGOING: u8 = 4;
/// Answers are waited for so long.
const ANSWER_AFTER: Duration = Duration::from_millis(200);

/// Errors that are about the interface or the socket, not about a frame.
const GONE: [Errno; 5] = [Errno::ENXIO, Errno::ENODEV, Errno::ENETDOWN, Errno::EPERM, Errno::EBADF];

/// What an attack did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines said.
    pub attempts: u64,
    /// Frames that left the attacker's kernel.
    pub frames: u64,
    /// Frames that it would not send.
    pub refused: u64,
    /// Calls of ordinary sockets.
    pub calls: u64,
    /// Of which so many were answered.
    pub answers: u64,
}

impl Tally {
    /// Writes it as the last line of an attack.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { attempts, frames, refused, calls, answers } = self;
        format!(
            "ATTACK DONE {attempts} attempts {frames} frames {refused} refused {calls} calls \
             {answers} answers"
        )
    }

    /// Reads that line.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let numbers = line.split("ATTACK DONE ").nth(1)?;
        let mut numbers = numbers.split_whitespace().step_by(2).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            attempts: next()?,
            frames: next()?,
            refused: next()?,
            calls: next()?,
            answers: next()?,
        })
    }
}

/// Whoever sends frames.
struct Gun<'a> {
    plain: OwnedFd,
    vnet: OwnedFd,
    dice: Dice<'a>,
    mutations: u32,
    tally: Tally,
    /// Who answered which row, and how often.
    heard: BTreeMap<(Mac, Row), u64>,
}

/// Attacks, and says each attempt.
///
/// # Errors
/// When there is no such interface, or no right to send on it.
pub fn attack(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Tally> {
    let index = nix::net::if_::if_nametoindex(plan.interface.as_str())
        .with_context(|| format!("find {}", plan.interface))?;
    let plain = sys::packet_socket(index.cast_signed(), 4 << 20, Duration::from_millis(1))?;
    let mut gun = Gun {
        plain,
        vnet: inject::frame_socket(&plan.interface)?,
        dice: Dice::new(plan.seed, &plan.macs),
        mutations: plan.mutations,
        tally: Tally::default(),
        heard: BTreeMap::new(),
    };
    let mut say = |gun: &mut Gun<'_>, line: String| {
        gun.tally.attempts += 1;
        say(&line);
    };
    // The catalogue, once to a member in the name of another and once in everybody's.
    let [to, other] = [plan.members.first(), plan.members.last()];
    let (to, other) = (*to.context("a member")?, *other.context("a member")?);
    let roles = Roles { own: plan.own, to, other };
    for one in catalogue(&roles) {
        let sent = gun.shoot(&one.frame, one.vnet)?;
        let len = one.frame.len();
        say(&mut gun, format!("{} {}: {sent} frames of {len} bytes", one.row, one.what));
    }
    for one in escapes(plan) {
        let mut sent = 0;
        for frame in &one.frames {
            sent += gun.shoot(frame, None)?;
        }
        say(&mut gun, format!("{} {}: {sent} frames", one.row, one.what));
    }
    let routes = Routes::open(&plan.interface)?;
    // Groups need no neighbour, and a loopback that ordinary sockets reach is the attacker's own.
    let alone = |target: &&Target| !is_group(target.ip) && !target.ip.is_loopback();
    let targets: Vec<_> = plan.targets.iter().filter(alone).collect();
    let hops = plan.macs.iter().take(HOPS_MAX).map(|mac| Some(*mac));
    for hop in hops.chain([None]) {
        for target in &targets {
            if let Some(mac) = hop {
                // An attacker without IPv6 has no such neighbours.
                let _ = sockets::set_neighbour(index, target.ip, mac);
            }
        }
        let called = sockets::call(&targets, index);
        for target in &targets {
            let _ = sockets::forget_neighbour(index, target.ip);
        }
        for (row, calls, answers) in called {
            gun.tally.calls += calls;
            gun.tally.answers += answers;
            let hop = hop.map_or_else(|| "whoever answers".to_owned(), mac_text);
            let line = format!("{row} by sockets via {hop}: {calls} calls, {answers} answers");
            say(&mut gun, line);
        }
        gun.listen()?;
    }
    drop(routes);
    thread::sleep(ANSWER_AFTER);
    gun.listen()?;
    for ((mac, row), count) in std::mem::take(&mut gun.heard) {
        say(&mut gun, format!("HEARD {row} from {} {count} times", mac_text(mac)));
    }
    Ok(gun.tally)
}

impl Gun<'_> {
    /// Sends a frame and its changed copies; returns how many left.
    fn shoot(&mut self, frame: &[u8], vnet: Option<[u8; 10]>) -> Result<u64> {
        let mut sent = match vnet {
            Some(header) => self.one(&[&header[..], frame].concat(), true)?,
            None => self.one(frame, false)?,
        };
        for _ in 0..self.mutations {
            let changed = self.dice.change(frame);
            sent += self.one(&changed, false)?;
        }
        Ok(sent)
    }

    fn one(&mut self, bytes: &[u8], is_vnet: bool) -> Result<u64> {
        let socket = if is_vnet { &self.vnet } else { &self.plain };
        let sent = match send(socket.as_raw_fd(), bytes, MsgFlags::empty()) {
            Ok(_) => 1,
            // What the attacker's own kernel does not send, it sends in no other way either.
            Err(error) if !GONE.contains(&error) => 0,
            Err(error) => return Err(io::Error::from(error)).context("send a frame"),
        };
        self.tally.frames += sent;
        self.tally.refused += 1 - sent;
        if (self.tally.frames + self.tally.refused).is_multiple_of(BURST) {
            thread::sleep(BURST_PAUSE);
            self.listen()?;
        }
        Ok(sent)
    }

    /// Counts marked frames that came in.
    fn listen(&mut self) -> Result<()> {
        let mut buffer = vec![0; 70_000];
        loop {
            let heard = recvfrom::<LinkAddr>(self.plain.as_raw_fd(), &mut buffer);
            let (len, from) = match heard {
                Ok(heard) => heard,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(io::Error::from(error)).context("hear frames"),
            };
            let is_own = from.is_some_and(|from| from.pkttype() == OUTGOING);
            let Some((row, _)) = marker::find(&buffer[..len]).filter(|_| !is_own) else {
                continue;
            };
            let mac: Option<Mac> = buffer.get(6..12).and_then(|mac| mac.try_into().ok());
            *self.heard.entry((mac.unwrap_or_default(), row)).or_default() += 1;
        }
    }
}

/// Default routes onto a link; gone when dropped.
struct Routes<'a>(&'a str);

impl<'a> Routes<'a> {
    fn open(interface: &'a str) -> Result<Self> {
        let routes = Self(interface);
        ensure!(routes.each("replace"), "no default route by {interface}");
        Ok(routes)
    }

    fn each(&self, verb: &str) -> bool {
        let four = ip(&["route", verb, "default", "dev", self.0]);
        // A namespace may have no IPv6; then there is nothing to try by it.
        let _ = ip(&["-6", "route", verb, "default", "dev", self.0]);
        four
    }
}

impl Drop for Routes<'_> {
    fn drop(&mut self) {
        self.each("del");
    }
}

fn ip(words: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_as_written() {
        let tally = Tally { attempts: 1, frames: 2, refused: 3, calls: 4, answers: 5 };
        assert_eq!(Tally::read(&tally.line()), Some(tally));
        assert_eq!(Tally::read(&format!("noise {}\r", tally.line())), Some(tally));
        assert_eq!(Tally::read("ATTACK DONE soon"), None);
    }
}
