//! Who is held back when more comes than the receiving thread can do: whoever asks for most.
//!
//! # Theory of operation
//! One thread opens what all members send. Beyond what it can do, the kernel's buffer overflows and
//! loses datagrams of each member in proportion to what it sends, so a flood would leave the others
//! little. [`FairShare`] counts, by account and in windows of [`WINDOW`], the work that datagrams
//! ask for. When the shell says that the buffer overflowed ([`FairShare::handle_overflow`]), no
//! account may have more than one share of a window; what is above it is dropped before it is
//! opened, which costs a twentieth. The share shrinks from what the largest account asked for until
//! nothing overflows, and grows again as long as nothing does, as TCP finds its rate. Accounts
//! below the share lose nothing of it (max-min fairness); while the thread keeps up, nobody is held
//! back.
//!
//! An account is the member whose proven address a datagram comes from, or that the gateway names
//! when it hands one on: an index in a datagram is no proof, and costs its owner nothing. All
//! others share one.
//!
//! # Limits
//! [`ACCOUNTS`] accounts of four bytes. The share is never less than [`SHARE_MIN`].

use std::time::Duration;

use vde_switch::time::Instant;

use crate::control::{MEMBERS_MAX, Slot};

/// How long accounts are added up: some turns of a busy thread.
pub const WINDOW: Duration = Duration::from_millis(10);

/// Least share of a window, in nanoseconds of work: what 33 equal members would have.
pub const SHARE_MIN: u32 = 300_000;

/// Accounts: the members', and that of all whose address is not proven.
pub const ACCOUNTS: usize = MEMBERS_MAX + 1;

/// Nanoseconds of work that a datagram asks for, beside one a byte. Only relations matter: the
/// share is found by trying.
const WORK: u32 = 500;

/// Whose a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(usize);

impl Account {
    /// That of all whose address is not proven.
    pub const STRANGERS: Self = Self(MEMBERS_MAX);

    /// Returns a member's.
    #[must_use]
    pub const fn of(slot: Slot) -> Self {
        let at = slot.0 as usize;
        if at < MEMBERS_MAX { Self(at) } else { Self::STRANGERS }
    }
}

/// Windows in a row that make a step of the share larger.
const STREAK_MAX: u32 = 8;

/// See the module's theory of operation.
#[derive(Debug)]
pub struct FairShare {
    /// What each account asked for in this window.
    asked: [u32; ACCOUNTS],
    /// The most that one of them did.
    most: u32,
    share: u32,
    ends_at: Instant,
    overflows: bool,
    /// What the window before was, and how many there were of that kind in a row.
    before: (bool, u32),
}

impl Default for FairShare {
    fn default() -> Self {
        let (asked, share, ends_at) = ([0; ACCOUNTS], u32::MAX, Instant::ZERO);
        Self { asked, most: 0, share, ends_at, overflows: false, before: (false, 0) }
    }
}

impl FairShare {
    /// Takes note that the kernel lost datagrams which the thread did not take in time.
    pub const fn handle_overflow(&mut self) {
        self.overflows = true;
    }

    /// Says whether a datagram of so many bytes is within its account's share.
    pub fn admit(&mut self, account: Account, len: usize, now: Instant) -> bool {
        if now >= self.ends_at {
            self.turn_over(now);
        }
        let work = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(WORK);
        let asked = &mut self.asked[account.0];
        *asked = asked.saturating_add(work);
        self.most = self.most.max(*asked);
        *asked <= self.share
    }

    /// Begins another window with the share that the last one suggests: smaller by an eighth, or up
    /// to a half if one overflow follows another, and larger by a 64th, or up to an eighth.
    fn turn_over(&mut self, now: Instant) {
        let (kind, count) = self.before;
        let streak = if kind == self.overflows { STREAK_MAX.min(count + 1) } else { 1 };
        self.share = if self.overflows {
            let share = self.share.min(self.most);
            (share - share / 8 * streak.min(4)).max(SHARE_MIN)
        } else if self.most <= self.share {
            u32::MAX // nobody asks for more than it
        } else {
            self.share.saturating_add(self.share / 64 * streak)
        };
        self.asked.fill(0);
        self.before = (self.overflows, streak);
        (self.most, self.overflows, self.ends_at) = (0, false, now + WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Account = Account::of(Slot(1));
    const OTHER: Account = Account::of(Slot(2));

    /// Offers `count` datagrams a window for so many windows; returns how many of the last pass.
    fn windows(fair: &mut FairShare, now: &mut Instant, windows: u32, overflows: bool) -> [u32; 2] {
        let mut passed = [0; 2];
        for _ in 0..windows {
            *now += WINDOW;
            passed = [0; 2];
            for n in 0..20_000 {
                passed[0] += u32::from(fair.admit(ONE, 500, *now));
                if n % 200 == 0 {
                    passed[1] += u32::from(fair.admit(OTHER, 500, *now));
                }
            }
            if overflows {
                fair.handle_overflow();
            }
        }
        passed
    }

    #[test]
    fn the_greedy_are_held_back_to_what_fits_and_the_modest_are_not() {
        let (mut fair, mut now) = (FairShare::default(), Instant::from_nanos(1 << 40));
        assert_eq!(windows(&mut fair, &mut now, 5, false), [20_000, 100], "nothing is lost");
        let [greedy, modest] = windows(&mut fair, &mut now, 20, true);
        assert_eq!((greedy, modest), (SHARE_MIN / 1000, 100), "the share is at its least");
        let [greedy, modest] = windows(&mut fair, &mut now, 10, false);
        assert!((400..2000).contains(&greedy) && modest == 100, "{greedy}, {modest}");
        let [greedy, _] = windows(&mut fair, &mut now, 100, false);
        assert_eq!(greedy, 20_000, "nothing has been lost for a second");
    }

    #[test]
    fn slots_out_of_range_are_strangers_and_lengths_do_not_overflow() {
        assert_eq!(Account::of(Slot(MEMBERS_MAX as u16)), Account::STRANGERS);
        let (mut fair, now) = (FairShare::default(), Instant::ZERO);
        assert!(fair.admit(Account::STRANGERS, usize::MAX, now));
        assert!(fair.admit(Account::STRANGERS, usize::MAX, now));
    }
}
