//! Members that were silent for long: the first frame or ping to one makes its tunnel and arrives.

use std::time::Duration;

use overlay_proto::control::{Command, Event, PathKind, Slot};
use overlay_tests::trio::{Trio, frame};

/// Longer than any session of the tunnel lives.
const LONG: Duration = Duration::from_secs(30 * 60);
/// A round trip of ticks.
const MOMENT: Duration = Duration::from_millis(300);

/// Sends one frame and says whether it came out, once.
fn arrives(trio: &mut Trio, from: u16, to: u16, payload: &[u8]) -> bool {
    let bytes = frame(from, to, payload);
    trio.send(from, &bytes);
    trio.run();
    trio.pass(MOMENT);
    trio.heard(to) == [bytes]
}

fn pong(trio: &mut Trio, from: u16, to: u16, id: u32) -> bool {
    trio.command(from, Command::Ping { slot: Slot(to), id });
    trio.run();
    trio.pass(Duration::from_millis(1500));
    let node = &trio.seats[usize::from(from)].node;
    std::iter::from_fn(|| node.poll_event())
        .any(|event| matches!(event, Event::Pong { id: i, rtt_us: Some(_), .. } if i == id))
}

#[test]
fn a_tunnel_that_was_never_made_is_made_by_the_buyers_first_frame() {
    let mut trio = Trio::new();
    assert!(trio.wire.is_empty(), "nobody speaks first");
    assert_eq!(trio.path(0, 1), PathKind::None);
    assert!(arrives(&mut trio, 0, 1, b"wake up"));
    assert!(pong(&mut trio, 0, 2, 7), "and by a ping");
}

#[test]
fn sellers_that_were_silent_for_long_reach_each_other_by_a_first_frame() {
    let mut trio = Trio::joined();
    assert!(arrives(&mut trio, 1, 2, b"first") && arrives(&mut trio, 2, 1, b"back"));
    trio.pass(LONG);
    for (from, to, payload) in [(2, 1, b"after"), (1, 2, b"sleep")] {
        assert!(arrives(&mut trio, from, to, payload), "{from} does not wake {to}");
    }
}

#[test]
fn sellers_whose_tunnel_is_gone_make_it_again_by_a_first_frame() {
    let mut trio = Trio::joined();
    assert!(arrives(&mut trio, 1, 2, b"first"));
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        trio.block(a, b);
    }
    trio.pass(LONG);
    trio.blocked.clear();
    trio.pass(Duration::from_secs(10));
    assert!(arrives(&mut trio, 2, 1, b"again"));
}

#[test]
fn the_buyer_reaches_a_guest_that_was_silent_for_long() {
    let mut trio = Trio::joined();
    trio.pass(LONG);
    assert!(pong(&mut trio, 0, 1, 1), "a ping is answered");
    assert!(arrives(&mut trio, 0, 1, b"are you there") && arrives(&mut trio, 1, 0, b"yes"));
}

#[test]
fn a_tunnel_that_died_under_a_silent_pair_comes_up_again_by_its_next_frame() {
    let mut trio = Trio::joined();
    assert!(arrives(&mut trio, 0, 1, b"before"));
    // The way is cut for longer than sessions live, then whole again.
    trio.block(0, 1);
    trio.pass(LONG);
    trio.blocked.clear();
    trio.pass(Duration::from_secs(10));
    assert!(arrives(&mut trio, 0, 1, b"after"), "the first frame after a long cut");
}
