//! What an attacker on the wire, a hostile relay and a hostile member do with the messages of the
//! data plane: nothing delivered, nobody moved, no answer, no memory, no panic.

use std::collections::BTreeSet;
use std::time::Duration;

use overlay_proto::control::{Command, PathKind, Slot};
use overlay_proto::tunnel::wireguard::{COUNTER_MAX, COUNTER_STEP_MAX, Identity, WireGuard};
use overlay_proto::wire::demux::{COOKIE_LEN, INITIATION_LEN, RESPONSE_LEN};
use overlay_proto::wire::relay::RelayHeader;
use overlay_tests::trio::{Datagram, Trio, address, frame, initiation, public};

/// First bytes of WireGuard's messages.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// A stranger's address.
const STRANGER: u16 = 65;

/// What every payload holds that must not be read on a wire.
const MARKER: &[u8] = b"not-for-the-wire";

/// A small generator, so that a failure repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % sides
    }
}

fn payload(number: u32) -> Vec<u8> {
    [MARKER, &number.to_be_bytes(), &[0; 60]].concat()
}

/// All three talk to each other, so that every kind of message was on the wire.
fn talking() -> Trio {
    let mut trio = Trio::joined();
    for (from, to) in [(1, 0), (0, 1), (1, 2), (2, 1), (2, 0), (0, 2)] {
        trio.send(from, &frame(from, to, &payload(1)));
        trio.run();
        assert_eq!(trio.heard(to).len(), 1, "{from} does not reach {to}");
    }
    trio
}

fn paths(trio: &mut Trio) -> Vec<PathKind> {
    [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)].map(|(a, b)| trio.path(a, b)).to_vec()
}

/// Delivers a datagram that must have no effect; what comes back may only be a cookie, which is
/// what is said under load, and shorter than its cause.
fn must_be_idle(trio: &mut Trio, datagram: Datagram, what: &str) {
    let len = datagram.bytes.len();
    trio.deliver(datagram);
    for answer in std::mem::take(&mut trio.wire) {
        assert!(answer.bytes[0] == COOKIE && answer.bytes.len() < len, "{what}: {answer:?}");
    }
    for slot in 0..3 {
        assert!(trio.heard(slot).is_empty(), "{what}: something was delivered to {slot}");
    }
}

/// Everyone still reaches everyone.
fn assert_works(trio: &mut Trio) {
    for (from, to) in [(1, 0), (0, 1), (1, 2), (2, 1)] {
        let bytes = frame(from, to, &payload(9));
        trio.send(from, &bytes);
        trio.run();
        assert_eq!(trio.heard(to), [bytes], "{from} does not reach {to} any more");
    }
}

#[test]
fn replays_and_reflections_of_anything_at_once_and_later_have_no_effect() {
    let mut trio = talking();
    let recorded = trio.carried.clone();
    let kinds: BTreeSet<u8> = recorded.iter().map(|datagram| datagram.bytes[0]).collect();
    assert!(kinds.is_superset(&[INITIATION, RESPONSE, DATA].into()), "{kinds:?}");
    for wait in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(600)] {
        trio.pass(wait);
        let before = paths(&mut trio);
        for datagram in &recorded {
            must_be_idle(&mut trio, datagram.clone(), "a replay");
            let elsewhere = Datagram { from: address(STRANGER), ..datagram.clone() };
            must_be_idle(&mut trio, elsewhere, "a replay from elsewhere");
            let victim = Datagram { from: address(2), ..datagram.clone() };
            must_be_idle(&mut trio, victim, "a replay in a member's name");
            let Datagram { from, to, bytes } = datagram.clone();
            must_be_idle(&mut trio, Datagram { from: to, to: from, bytes }, "a reflection");
        }
        assert_eq!(paths(&mut trio), before, "a replay moved somebody");
    }
    assert_works(&mut trio);
}

/// Delivers every truncation, every single flipped bit but those of `unread`, and a few lengths
/// more of a datagram.
fn mangle(trio: &mut Trio, datagram: &Datagram, unread: std::ops::Range<usize>) {
    let Datagram { from, to, bytes } = datagram;
    let deliver = |trio: &mut Trio, bytes: Vec<u8>, what: &str| {
        must_be_idle(trio, Datagram { from: *from, to: *to, bytes }, what);
    };
    for bit in (0..bytes.len() * 8).filter(|bit| !unread.contains(&(bit / 8))) {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        deliver(trio, bytes, &format!("bit {bit} of {}", datagram.bytes[0]));
    }
    for len in 0..bytes.len() {
        deliver(trio, bytes[..len].to_vec(), &format!("{len} bytes of {}", bytes[0]));
    }
    for more in [1, 16, 1000] {
        let mut longer = bytes.clone();
        longer.extend(vec![0; more]);
        deliver(trio, longer, &format!("{more} bytes more than {}", bytes[0]));
    }
}

/// Takes the first datagram of a kind off the wire; the rest stays.
fn take(trio: &mut Trio, kind: u8, from: u16) -> Datagram {
    let is_it = |d: &Datagram| d.bytes[0] == kind && d.from == address(from);
    let at = trio.wire.iter().position(is_it).unwrap_or_else(|| panic!("no {kind} from {from}"));
    trio.wire.remove(at).expect("it was found there")
}

#[test]
fn every_bit_and_every_cut_of_every_message_is_noticed() {
    let mut trio = Trio::joined();
    trio.send(1, &frame(1, 2, &payload(1)));
    let initiation = take(&mut trio, INITIATION, 1);
    assert_eq!(initiation.bytes.len(), INITIATION_LEN);
    // The second MAC counts under load alone: then by the test of cookies.
    let initiation_unread = INITIATION_LEN - 16..INITIATION_LEN;
    mangle(&mut trio, &initiation, initiation_unread.clone());
    trio.deliver(initiation.clone());
    let response = take(&mut trio, RESPONSE, 2);
    mangle(&mut trio, &initiation, initiation_unread);
    assert_eq!(response.bytes.len(), RESPONSE_LEN);
    let response_unread = RESPONSE_LEN - 16..RESPONSE_LEN;
    mangle(&mut trio, &response, response_unread.clone());
    trio.deliver(response.clone());
    let data = trio.wire.iter().rfind(|d| d.from == address(1)).expect("a frame");
    let data = data.clone();
    assert_eq!(data.bytes[0], DATA);
    trio.wire.clear();
    mangle(&mut trio, &response, response_unread);
    mangle(&mut trio, &data, 0..0);
    trio.deliver(data);
    assert_eq!(trio.heard(2), [frame(1, 2, &payload(1))], "the original was refused");
    assert_works(&mut trio);
}

/// Puts the gateway under load: it asks everybody for a cookie until the second is over.
fn load_gateway(trio: &mut Trio) {
    let mut stranger = WireGuard::new(Identity::new([0x5a; 32]), public(0), 5);
    for _ in 0..60 {
        let (from, to) = (address(STRANGER), address(0));
        trio.deliver(Datagram { from, to, bytes: initiation(&mut stranger) });
    }
    assert!(trio.wire.iter().any(|d| d.bytes[0] == COOKIE), "the gateway asks for no cookies");
    trio.wire.clear();
}

fn second_mac(initiation: &Datagram) -> &[u8] {
    &initiation.bytes[INITIATION_LEN - 16..]
}

#[test]
fn a_cookie_is_taken_as_it_was_given_and_in_no_other_form() {
    let mut trio = Trio::new();
    load_gateway(&mut trio);
    trio.command(1, Command::Connect(Slot::GATEWAY));
    let asked = take(&mut trio, INITIATION, 1);
    assert_eq!(second_mac(&asked), [0; 16]);
    trio.deliver(asked.clone());
    let cookie = take(&mut trio, COOKIE, 0);
    assert!(trio.wire.is_empty(), "more than a cookie came back: {:?}", trio.wire);
    assert_eq!(cookie.bytes.len(), COOKIE_LEN);
    mangle(&mut trio, &cookie, 0..0);
    let mut forged = cookie.clone();
    for index in 0..=255_u8 {
        forged.bytes[4] = index; // the index, guessed
        forged.bytes[8..].fill(index);
        must_be_idle(&mut trio, forged.clone(), "a forged cookie");
    }
    let without = next_initiation(&mut trio);
    assert_eq!(second_mac(&without), [0; 16], "a forged cookie was taken");
    // A true cookie answers one initiation: the latest.
    must_be_idle(&mut trio, cookie, "a cookie for an older initiation");
    load_gateway(&mut trio);
    trio.deliver(without);
    let cookie = take(&mut trio, COOKIE, 0);
    trio.deliver(cookie);
    let with = next_initiation(&mut trio);
    assert_ne!(second_mac(&with), [0; 16], "the true cookie was not taken");
    load_gateway(&mut trio);
    trio.deliver(with);
    assert_eq!(take(&mut trio, RESPONSE, 0).to, address(1), "a proven source is still kept out");
}

/// Lets time pass until the first seller knocks at the gateway again.
fn next_initiation(trio: &mut Trio) -> Datagram {
    for _ in 0..100 {
        trio.tick();
        if trio.wire.iter().any(|d| d.bytes[0] == INITIATION && d.from == address(1)) {
            let initiation = take(trio, INITIATION, 1);
            trio.wire.clear();
            return initiation;
        }
    }
    panic!("the seller gave up")
}

#[test]
fn counters_that_no_honest_peer_sends_change_nothing() {
    let mut trio = talking();
    trio.send(1, &frame(1, 0, &payload(2)));
    let data = take(&mut trio, DATA, 1);
    let seen = u64::from_le_bytes(*data.bytes[8..].first_chunk().expect("a counter"));
    let refused = |trio: &mut Trio| {
        let drops = trio.stats(0).drops;
        drops
            .iter()
            .find(|(name, _)| name == "datagram-not-authentic")
            .map_or(0, |(_, count)| *count)
    };
    let before = refused(&mut trio);
    let odd = [u64::MAX, u64::MAX - 1, COUNTER_MAX, COUNTER_MAX + 1, COUNTER_STEP_MAX + seen + 1];
    for (counter, n) in odd.into_iter().zip(1..) {
        let mut other = data.clone();
        other.bytes[8..16].copy_from_slice(&counter.to_le_bytes());
        must_be_idle(&mut trio, other, &format!("counter {counter}"));
        assert_eq!(refused(&mut trio), before + n, "counter {counter} is not counted");
    }
    trio.deliver(data.clone());
    assert_eq!(trio.heard(0).len(), 1, "the counters have closed the window");
    must_be_idle(&mut trio, data, "a replay after odd counters");
    assert_works(&mut trio);
}

#[test]
fn a_relay_that_drops_repeats_reorders_and_alters_reads_and_forges_nothing() {
    let mut trio = Trio::new();
    trio.block(1, 2);
    for slot in [1, 2] {
        trio.command(slot, Command::Connect(Slot::GATEWAY));
    }
    trio.run();
    trio.send(1, &frame(1, 2, &payload(0)));
    trio.pass(Duration::from_secs(1));
    assert_eq!(trio.path(1, 2), PathKind::Relay);
    trio.heard(2);
    trio.carried.clear();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut sent, mut arrived, mut held) = (BTreeSet::new(), 0, Vec::new());
    for number in 1..=2000 {
        let (from, to) = if number % 2 == 0 { (1, 2) } else { (2, 1) };
        let bytes = frame(from, to, &payload(number));
        trio.send(from, &bytes);
        sent.insert(bytes);
        while let Some(datagram) = trio.wire.pop_front() {
            if datagram.from != address(0) || datagram.bytes[0] != RelayHeader::FIRST {
                trio.deliver(datagram);
                continue;
            }
            let mut altered = datagram.clone();
            let at = dice.roll(altered.bytes.len() as u64 * 8) as usize;
            match dice.roll(5) {
                0 => continue,
                1 => trio.deliver(datagram.clone()),
                2 => altered.bytes[at / 8] ^= 1 << (at % 8),
                3 => altered.bytes[RelayHeader::LEN + 16..].fill(7),
                _ => {}
            }
            held.push(if dice.roll(2) == 0 { altered } else { datagram });
            if held.len() > 8 {
                let at = dice.roll(held.len() as u64) as usize;
                let late = held.swap_remove(at);
                trio.deliver(late);
            }
        }
        for frame in [1, 2].into_iter().flat_map(|slot| trio.heard(slot)) {
            assert!(sent.remove(&frame), "a frame was forged, altered or delivered twice");
            arrived += 1;
        }
    }
    assert!(arrived > 500, "only {arrived} frames arrived: nothing was tried");
    let relayed = trio.carried.iter().filter(|d| d.bytes[0] == RelayHeader::FIRST);
    let readable = |d: &&Datagram| d.bytes.windows(MARKER.len()).any(|part| part == MARKER);
    assert_eq!(relayed.filter(readable).count(), 0, "the relay could read");
}
