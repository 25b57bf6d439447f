//! Half handshakes cost nothing that stays. In a process of its own: it measures memory.

use std::fs;
use std::time::Duration;

use overlay_proto::control::{Command, PathKind, Slot};
use overlay_proto::tunnel::wireguard::{Identity, WireGuard};
use overlay_tests::trio::{Datagram, Trio, address, engine, frame, initiation, public};

/// Returns this process's resident memory, in bytes.
fn memory_len() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn a_million_half_handshakes_cost_no_memory_and_shut_nobody_out() {
    let mut trio = Trio::new();
    // A member that starts and never ends, and a stranger, from ever other addresses.
    let mut member = engine(2, 0);
    let mut stranger = WireGuard::new(Identity::new([0x5a; 32]), public(0), 5);
    let mut knocks: Vec<_> = (0..500).map(|_| initiation(&mut member)).collect();
    knocks.extend((0..500).map(|_| initiation(&mut stranger)));
    let flood = |trio: &mut Trio, count: u32| {
        for n in 0..count {
            let [_, b, c, d] = n.to_be_bytes();
            let from = ([198, b, c, d], 7770).into();
            let bytes = knocks[n as usize % knocks.len()].clone();
            trio.deliver(Datagram { from, to: address(0), bytes });
            trio.carried.clear();
            trio.wire.clear();
            if n.is_multiple_of(2000) {
                trio.now += Duration::from_millis(100); // 20,000 a second
            }
        }
    };
    flood(&mut trio, 10_000);
    let before = memory_len();
    flood(&mut trio, 1_000_000);
    let grown = memory_len().saturating_sub(before);
    assert!(grown < 8 << 20, "memory grew by {grown} bytes");
    // Those who answer at their address get in while it goes on.
    for slot in [1, 2] {
        trio.command(slot, Command::Connect(Slot::GATEWAY));
    }
    for _ in 0..20 {
        trio.run();
        flood(&mut trio, 2000);
        trio.tick();
    }
    trio.run();
    for slot in [1, 2] {
        let path = trio.path(0, slot);
        assert_eq!(path, PathKind::Direct(address(slot)), "the flood keeps {slot} out");
    }
    trio.pass(Duration::from_secs(2));
    for slot in [1, 2] {
        let bytes = frame(slot, 0, b"after the flood");
        trio.send(slot, &bytes);
        trio.run();
        assert_eq!(trio.heard(0), [bytes], "{slot} does not reach the gateway any more");
    }
}
