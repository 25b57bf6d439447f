//! Whatever somebody changes on a wire is noticed, and the wire is down by then.

use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::sysctl::{self, SILENCE};
use crate::testing::sound4;

/// Longest wait for the kernel to tell, in milliseconds: on a busy machine, five times the goal.
const TOLD_MAX: u16 = 5000;

/// How a difference is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The kernel tells.
    Told,
    /// It has to be looked for.
    Looked,
}
use Seen::{Looked, Told};

type Expected = fn(&Difference) -> bool;

/// What is done in the namespace, and what is said of it.
fn changes() -> Vec<(&'static str, Expected, Seen)> {
    let rules: Expected = |d| matches!(d, Difference::Rules);
    let gone: Expected = |d| matches!(d, Difference::Gone(_));
    let added: Expected = |d| matches!(d, Difference::Added(_));
    let altered: Expected = |d| matches!(d, Difference::Altered(..));
    let renamed: Expected = |d| matches!(d, Difference::Renamed(..) | Difference::Altered(..));
    let address: Expected = |d| matches!(d, Difference::Address(_));
    vec![
        ("nft flush ruleset", rules, Told),
        ("nft delete table netdev ovl", rules, Told),
        ("nft flush table netdev ovl", rules, Told),
        ("nft flush chain netdev ovl from_guest", rules, Told),
        (
            "nft delete rule netdev ovl g_arp handle $(nft -a list chain netdev ovl g_arp \
             | sed -n 's/.*arp-form.* handle //p' | head -1)",
            rules,
            Told,
        ),
        ("nft insert rule netdev ovl from_guest fwd to data", rules, Told),
        ("nft add rule netdev ovl g_pass accept", rules, Told),
        ("nft 'add chain netdev ovl from_guest { policy accept; }'", rules, Told),
        ("nft 'add chain inet ovl_stack input { policy accept; }'", rules, Told),
        ("nft delete table arp ovl_stack", rules, Told),
        ("nft add table inet another", rules, Told),
        (
            "nft 'table netdev another { chain c { type filter hook ingress device guest \
             priority -600; }; }'",
            rules,
            Told,
        ),
        ("ip link del guest", gone, Told),
        ("ip link del data", gone, Told),
        ("ip link set guest down; ip link set guest name other", renamed, Told),
        ("ip link set data name other || ip link set data down", renamed, Told),
        ("ip link add other type veth peer name another", added, Told),
        ("ip link add other type bridge", added, Told),
        ("ip tuntap add other mode tap", added, Told),
        (
            "ip link add other type bridge; ip link set guest master other",
            |d| matches!(d, Difference::Enslaved(..)),
            Told,
        ),
        ("ip link set guest down", altered, Told),
        ("ip link set guest mtu 1400", altered, Told),
        ("ip link set guest arp on", altered, Told),
        ("ip link set lo up", |d| matches!(d, Difference::Added(_)), Told),
        ("ip addr add 10.9.9.9/24 dev guest", address, Told),
        (
            "sysctl -qw net.ipv6.conf.guest.disable_ipv6=0; ip addr add fd99::9/64 dev guest",
            address,
            Told,
        ),
        ("ip addr add 127.0.0.1/8 dev lo", address, Told),
        ("ip route add 10.9.0.0/16 dev data", |d| matches!(d, Difference::Routes(1)), Told),
        ("ip route add blackhole default table 77", |d| matches!(d, Difference::Routes(1)), Told),
    ]
}

/// One of the two ways to look.
type Look = fn(&mut LeaseWire) -> Result<(), WireError>;

/// Does it to a wire that is up; returns what is said, and after how long all was down.
#[expect(clippy::disallowed_methods, reason = "how long it takes is asked")]
fn noticed(line: &str, seen: Seen, look: Look) -> (Difference, Duration) {
    let (mut wire, mut guest, mut data) = up(&spec());
    shell(&wire, line);
    let since = Instant::now();
    if seen == Told {
        let mut polled = wire.watch_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let ready = poll(&mut polled, PollTimeout::from(TOLD_MAX)).unwrap();
        assert!(ready > 0, "{line}: the kernel does not tell");
    }
    let said = look(&mut wire);
    let took = since.elapsed();
    let Err(WireError::Changed(difference)) = said else { panic!("{line}: {said:?}") };
    let up: Vec<_> = links(&wire).into_iter().filter(|link| link.is_up).collect();
    assert!(up.is_empty(), "{line}: {up:?}");
    assert_eq!(carry(&mut guest, &mut data, &hello()), None, "{line}");
    (difference, took)
}

#[test]
fn whatever_is_changed_is_noticed_and_the_wire_is_cut() {
    if !is_root() {
        return;
    }
    let mut times = Vec::new();
    let looks: [Look; 2] = [LeaseWire::glance, LeaseWire::check];
    for (line, expected, seen) in changes() {
        for look in looks {
            let (said, took) = noticed(line, seen, look);
            assert!(expected(&said), "{line}: {said}");
            times.push(took);
        }
    }
    let (wire, ..) = up(&spec());
    let has = |switch| run_in(wire.netns(), || sysctl::get(switch).is_some()).unwrap();
    // A kernel may have no bridges, or no filter of theirs.
    for (switch, value) in SILENCE.into_iter().filter(|(switch, _)| has(switch)) {
        let line = format!("echo $((1 - {value} % 2)) > /proc/sys/net/{switch}");
        let (said, took) = noticed(&line, Looked, LeaseWire::glance);
        let sees = match &said {
            Difference::Switch(name, _) => *name == switch,
            // It comes by itself.
            Difference::Address(_) => switch.ends_with("disable_ipv6"),
            _ => false,
        };
        assert!(sees, "{switch}: {said}");
        times.push(took);
    }
    let worst = times.iter().max().expect("some");
    eprintln!("{} changes noticed, from the change to all down at worst {worst:?}", times.len());
}

#[test]
fn what_comes_back_by_itself_is_no_difference() {
    if !is_root() {
        return;
    }
    let (mut wire, mut guest, mut data) = up(&spec());
    // Rules that come and go are another generation of the same.
    shell(&wire, "nft add table inet another; nft delete table inet another");
    wire.glance().unwrap();
    wire.check().unwrap();
    // Tunnel modules put their fallback devices into every namespace.
    shell(&wire, "ip link add tunl0 type veth peer name sit0");
    wire.glance().unwrap();
    assert_eq!(carry(&mut guest, &mut data, &hello()), Some(hello()));
}

#[test]
fn frames_that_have_passed_by_the_rules_are_noticed() {
    if !is_root() {
        return;
    }
    let (mut wire, mut guest, _data) = up(&spec());
    let frame = ethernet(BROADCAST, ALICE, 0x0800, &sound4(ALICE4, BOB4));
    // As a kernel would do that loses the chain, and is looked at when it is back.
    let saved = std::env::temp_dir().join(format!("ovl-{}-saved", std::process::id()));
    let saved = saved.display();
    shell(
        &wire,
        &format!(
            "nft -s list table netdev ovl > {saved}; nft flush chain netdev ovl from_guest; \
             nft 'add chain netdev ovl from_guest {{ policy accept; }}'"
        ),
    );
    guest.write_all(&[&[0; 12], &frame[..]].concat()).unwrap();
    shell(&wire, &format!("nft delete table netdev ovl; nft -f {saved}; rm {saved}"));
    let said = wire.glance();
    assert!(matches!(said, Err(WireError::Changed(Difference::Reached(1)))), "{said:?}");
}
