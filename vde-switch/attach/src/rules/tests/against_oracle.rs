//! Changed frames through the real rules, against the slow oracle of the port policy.
//!
//! What the oracle admits must pass. What passes though it does not must be of a kind that the
//! module's header leaves to the port policy, and must still keep what the rules promise alone,
//! which [`kept`] says once more, slowly.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use vde_switch::verdict::DropReason;

use super::*;
use crate::oracle;

/// Frames that are tried.
const FRAMES: usize = 400_000;

/// What is left to the port policy.
const LEFT: [DropReason; 20] = [
    DropReason::TrailingBytes,
    // Of a later fragment that begins with an extension header: the kernel gives up there.
    DropReason::BadLength,
    DropReason::TooLong,
    DropReason::BadOffload,
    // UDP's length against IP's.
    DropReason::BadUdp,
    // The low bits of a group's MAC address.
    DropReason::MacMismatch,
    // Behind the first option.
    DropReason::BadNd,
    DropReason::SpoofedNd,
    // Behind the first extension header of a kind, or AH and headers of mobility, where nft does
    // not look.
    DropReason::RoutingHeader,
    DropReason::BadTcp,
    DropReason::FragmentedDhcp,
    DropReason::ExtensionChain,
    DropReason::BadHeader,
    DropReason::TinyFragment,
    DropReason::IcmpBehindExtension,
    DropReason::Mld,
    // Without options; with them it is stopped.
    DropReason::Igmp,
    DropReason::DhcpServer,
    DropReason::BadDhcp,
    // The sum of offset and length.
    DropReason::BadFragment,
];

/// Least length of a frame on a wire, without its checksum.
const FRAME_LEN_MIN: usize = 60;

/// Numbers that look random (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() % bound.max(1)
    }
}

/// Bytes that headers are about.
const TELLING: [u8; 24] = [
    0, 1, 2, 4, 6, 8, 17, 20, 43, 44, 47, 50, 51, 58, 60, 67, 68, 0x45, 0x60, 0x80, 0x86, 0xdd,
    135, 255,
];

fn change(frame: &mut Vec<u8>, all: &[Try], dice: &mut Dice) {
    // Headers are where it matters.
    let at = dice.below(frame.len().min(90));
    match dice.below(8) {
        0 | 1 if !frame.is_empty() => frame[at] ^= 1 << dice.below(8),
        2 | 3 if !frame.is_empty() => frame[at] = TELLING[dice.below(TELLING.len())],
        4 if !frame.is_empty() => frame[at] = dice.next() as u8,
        5 => frame.truncate(dice.below(frame.len())),
        6 => {
            let bytes: Vec<u8> = (0..8 * dice.below(3)).map(|_| dice.next() as u8).collect();
            frame.splice(at..at, bytes);
        }
        _ => {
            // Another's bytes at the same place.
            let other = &all[dice.below(all.len())].frame;
            let end = (at + dice.below(40)).min(frame.len()).min(other.len());
            if at < end {
                frame[at..end].copy_from_slice(&other[at..end]);
            }
        }
    }
}

/// Sets the length that the IP header says to the frame's.
fn repair(frame: &mut [u8]) {
    let len = frame.len().saturating_sub(14) as u16;
    match frame.get(12..14) {
        Some([0x08, 0x00]) if len >= 20 => frame[16..18].copy_from_slice(&len.to_be_bytes()),
        Some([0x86, 0xdd]) if len >= 40 => {
            frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
        }
        _ => {}
    }
}

/// What the rules promise of a frame that passes, whatever else is wrong with it.
fn kept(frame: &[u8]) -> Option<()> {
    let must = |rule: bool| rule.then_some(());
    let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    must(frame.get(6..12)? == ALICE)?;
    let to_group = frame[0] & 1 == 1;
    match word(12)? {
        0x0806 => must(oracle::admits(frame, &[0; 12], &[STATION], &SEGMENT)),
        0x0800 => {
            let header = frame.get(14..34)?;
            must(header[0] == 0x45 && usize::from(word(16)?) + 14 <= frame.len())?;
            let src = Ipv4Addr::from(*header[12..].first_chunk::<4>()?);
            let dst = Ipv4Addr::from(*header[16..].first_chunk::<4>()?);
            must(src == ALICE4 || src.is_unspecified() && dst.is_broadcast())?;
            let [a, b, c, d] = dst.octets();
            let many =
                dst.is_broadcast() || dst == DIRECTED4 || [a, b, c] == [224, 0, 0] || a == 239;
            must(many || [a, b, c] == [10, 77, 0])?;
            must(many == to_group)?;
            let (offset, more) = (word(20)? & 0x1fff, word(20)? & 0x2000 != 0);
            if offset != 0 {
                return must(header[9] != 6 || offset != 1);
            }
            match header[9] {
                1 => must(![5, 9, 10, 17, 18].contains(frame.get(34)?)),
                6 => must(frame.get(47)? & 3 != 3 && frame[46] >> 4 >= 5),
                17 => {
                    let (from, to) = (word(34)?, word(36)?);
                    must(from != 67 && to != 68 && !(more && to == 67))?;
                    must(!src.is_unspecified() || to == 67)
                }
                _ => must(frame.len() <= 1514),
            }
            .and(must(d != 255 || many))
        }
        0x86dd => {
            let header = frame.get(14..54)?;
            must(header[0] >> 4 == 6)?;
            let src = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
            let dst = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
            let local = |address: Ipv6Addr| address.segments()[0] & 0xffc0 == 0xfe80;
            must(src == ALICE6 || local(src) || src.is_unspecified())?;
            let group = dst.segments()[0] == 0xff02;
            must(group || local(dst) || dst.segments()[..4] == [0xfd3a, 0, 0, 0])?;
            must(group == to_group)?;
            let kind = frame.get(54).copied();
            match header[6] {
                17 => must(word(54)? != 547 && word(56)? != 546),
                58 => {
                    must(!matches!(kind?, 130..=132 | 134 | 137 | 143))?;
                    must(!src.is_unspecified() || matches!(kind?, 133 | 135))?;
                    must(!matches!(kind?, 133 | 135 | 136) || header[7] == 255)?;
                    let target = || Some(Ipv6Addr::from(*frame.get(62..)?.first_chunk::<16>()?));
                    must(kind? != 136 || target()? == ALICE6 || local(target()?))
                }
                // Nothing of ICMPv6 is behind what every stack walks.
                0 | 43 | 60 => {
                    must(!src.is_unspecified())?;
                    let (mut next, mut at) = (header[6], 54);
                    while matches!(next, 0 | 43 | 60) {
                        let Some(&[to, len]) = frame.get(at..).and_then(|rest| rest.first_chunk())
                        else {
                            return Some(());
                        };
                        next = to;
                        at += 8 + 8 * usize::from(len);
                    }
                    must(next != 58)
                }
                _ => must(!src.is_unspecified()),
            }
        }
        _ => None,
    }
}

/// Whether bytes stand behind the packet, which no system sends but as padding of a short frame.
fn hides(frame: &[u8]) -> bool {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?)));
    let len = match word(12) {
        Some(0x0800) => word(16).map(|len| 14 + len),
        Some(0x86dd) => word(18).map(|len| 54 + len),
        Some(0x0806) => Some(42),
        _ => None,
    };
    len.is_some_and(|len| frame.len() > len.max(FRAME_LEN_MIN))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "which frames are tried may be said")]
fn changed_frames_pass_if_they_are_legal_and_break_no_promise_if_they_pass() {
    in_netns(|| {
        let mut rig = Rig::new();
        rig.load(&Ruleset::new(&spec(), &cable()).without_limits());
        let all = tries_of_guest(&mut rig);
        let seed = std::env::var("OVERLAY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x006f_766c_7769_7265);
        let mut dice = Dice(seed);
        let (mut passed, mut admitted, mut hidden) = (0, 0, 0);
        let mut left: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut violations = Vec::new();
        for _ in 0..FRAMES {
            let one = &all[dice.below(all.len())];
            let mut one = one.clone();
            for _ in 0..dice.below(4) {
                change(&mut one.frame, &all, &mut dice);
            }
            if dice.below(2) == 0 {
                repair(&mut one.frame);
            }
            let passes = rig.passes(one.from, &one.vnet, &one.frame);
            let legal = oracle::admits(&one.frame, &one.vnet, &[STATION], &SEGMENT);
            passed += usize::from(passes);
            admitted += usize::from(legal);
            let what = match (passes, legal) {
                // What is behind a packet is cut by the port policy; here it may be looked at.
                (false, true) if hides(&one.frame) => {
                    hidden += 1;
                    continue;
                }
                (false, true) => "stopped, and legal".to_owned(),
                (true, _) if kept(&one.frame).is_none() => "a promise is broken".to_owned(),
                (true, false) => match one.policy() {
                    Err(reason) if LEFT.contains(&reason) => {
                        *left.entry(reason.name()).or_default() += 1;
                        continue;
                    }
                    other => format!("passed: {other:?}"),
                },
                _ => continue,
            };
            violations.push(format!(
                "{} {what}: {:02x?}",
                one.name,
                &one.frame[..one.frame.len().min(120)]
            ));
        }
        eprintln!(
            "{FRAMES} frames tried (OVERLAY_SEED={seed}), {admitted} legal, {passed} passed, \
             {} violations; {hidden} stopped for bytes behind the packet; left to the port policy: \
             {left:?}",
            violations.len()
        );
        violations.truncate(20);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        assert!(admitted > FRAMES / 20 && passed > admitted, "too few frames are legal");
    });
}
