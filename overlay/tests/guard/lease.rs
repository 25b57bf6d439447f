//! What one lease may open, for how long, and what becomes of it when the table goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay::host::guard::{
    GIVEN_MAX, Guard, GuardError, GuardSpec, PROVEN_MAX, Refused, Stands, TABLE, WIDEN_BURST_MAX,
    WIDEN_INTERVAL,
};
use overlay_proto::dial::{BUDGET_WINDOW, GIVEN_PACKETS_MAX, HEARSAY_PACKETS_MAX};
use vde_switch::time::Instant;

use crate::attack::{INITIATION_LEN, MANY, PORT, dp_socket, over_and_over, send};
use crate::net::{Family, Lab};
use crate::spec;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(1000 + seconds)
}

fn join(lab: &Lab, spec: GuardSpec) -> Guard {
    lab.host.run(|| Guard::join(spec)).expect("the guard stands")
}

fn leave(lab: &Lab, guard: Guard) {
    lab.host.run(|| drop(guard));
}

/// Returns what reaches an address of a thousand datagrams.
fn reaches(lab: &Lab, to: SocketAddr) -> u64 {
    lab.reset();
    lab.host.run(|| send(&dp_socket(PORT), over_and_over(to), INITIATION_LEN));
    lab.seen().packets
}

fn refused(result: Result<(), GuardError>) -> Refused {
    match result {
        Err(GuardError::Refused(refused)) => refused,
        other => panic!("not refused but {other:?}"),
    }
}

fn peer(lab: &Lab, family: Family) -> SocketAddr {
    (lab.fresh(family), PORT).into()
}

fn says(lab: &Lab, from: SocketAddr) {
    lab.say(from, PORT);
}

#[test]
fn only_whom_the_kernel_heard_can_be_proven() {
    let lab = Lab::new();
    for family in FAMILIES {
        let mut guard = join(&lab, spec(PORT));
        let (heard, silent) = (peer(&lab, family), peer(&lab, family));
        assert!(reaches(&lab, heard) <= HEARSAY_PACKETS_MAX as u64);
        says(&lab, heard);
        // Heard is not proven, and the same address with another port was not heard.
        assert!(reaches(&lab, heard) <= HEARSAY_PACKETS_MAX as u64);
        let elsewhere = SocketAddr::new(heard.ip(), PORT + 1);
        for addr in [silent, elsewhere] {
            let result = lab.host.run(|| guard.widen(addr, at(0)));
            assert_eq!(refused(result), Refused::NotHeard(addr));
        }
        lab.host.run(|| guard.widen(heard, at(0))).expect("heard and proven");
        assert_eq!(reaches(&lab, heard), u64::from(MANY));
        assert!(reaches(&lab, elsewhere) <= HEARSAY_PACKETS_MAX as u64);
        lab.host.run(|| guard.narrow(heard)).expect("narrowed");
        assert!(reaches(&lab, heard) <= HEARSAY_PACKETS_MAX as u64);
        leave(&lab, guard);
    }
}

#[test]
fn a_datagram_to_another_port_or_from_the_host_itself_is_not_heard() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    let peer = peer(&lab, Family::V4);
    lab.say(peer, PORT + 1);
    let result = lab.host.run(|| guard.widen(peer, at(0)));
    assert_eq!(refused(result), Refused::NotHeard(peer));
    leave(&lab, guard);
}

#[test]
fn strangers_who_fill_the_memory_keep_nobody_from_being_proven_or_renewed() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    let (old, new) = (peer(&lab, Family::V4), peer(&lab, Family::V4));
    says(&lab, old);
    lab.host.run(|| guard.widen(old, at(0))).expect("heard and proven");
    lab.host.sh(&format!("nft flush set inet {TABLE} heard4"));
    let strangers: Vec<_> = (0..4096)
        .map(|i| format!("{PORT} . {} . 9", Ipv4Addr::from_bits(0x3000_0000 + i)))
        .collect();
    let script = format!("add element inet {TABLE} heard4 {{ {} }}", strangers.join(", "));
    assert!(lab.host.nft(&script), "the memory takes 4096");
    says(&lab, old);
    says(&lab, new);
    let renewed = lab.host.run(|| guard.renew(&[old], at(100)));
    assert_eq!(renewed.expect("renewed"), []);
    // The first question makes the kernel listen for this one by name.
    let first = lab.host.run(|| guard.widen(new, at(100)));
    assert_eq!(refused(first), Refused::NotHeard(new));
    let unheard = lab.host.run(|| guard.widen(new, at(101)));
    assert_eq!(refused(unheard), Refused::NotHeard(new));
    says(&lab, new);
    lab.host.run(|| guard.widen(new, at(102))).expect("heard by name");
    assert_eq!(reaches(&lab, new), u64::from(MANY));
    leave(&lab, guard);
}

#[test]
fn proven_addresses_are_few_and_come_slowly() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    let peers: Vec<_> = (0..=PROVEN_MAX).map(|_| peer(&lab, Family::V4)).collect();
    peers.iter().for_each(|peer| says(&lab, *peer));
    let (last, first) = peers.split_last().expect("there are some");
    lab.host.run(|| {
        for peer in first {
            guard.widen(*peer, at(0)).expect("within the burst");
        }
        assert_eq!(refused(guard.widen(*last, at(0))), Refused::TooManyProven(*last));
        guard.narrow(first[0]).expect("narrowed");
        let burst = u64::from(WIDEN_BURST_MAX);
        assert_eq!(burst, PROVEN_MAX as u64);
        assert_eq!(refused(guard.widen(*last, at(0))), Refused::TooFast(*last));
        let later = at(0) + WIDEN_INTERVAL;
        guard.widen(*last, later).expect("one more each second");
        guard.narrow(*last).expect("narrowed");
        // Questions count, whatever the answer.
        let silent = SocketAddr::from(([44, 1, 1, 1], PORT));
        assert_eq!(refused(guard.widen(silent, later)), Refused::TooFast(silent));
        assert_eq!(refused(guard.widen(silent, at(2))), Refused::NotHeard(silent));
        assert_eq!(refused(guard.widen(*last, at(2))), Refused::TooFast(*last));
    });
    leave(&lab, guard);
}

#[test]
fn no_spelling_of_a_special_address_is_given_or_proven() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    for text in [
        "192.168.7.2:7770",
        "[::ffff:192.168.7.2]:7770",
        "[64:ff9b::192.168.7.2]:7770",
        "[fd00:7::2]:7770",
        "[fe80::1%3]:7770",
        "127.0.0.1:7770",
        "169.254.169.254:80",
        "224.0.0.1:7770",
        "[::1]:7770",
        "44.0.0.9:0",
    ] {
        let addr: SocketAddr = text.parse().expect(text);
        lab.host.run(|| {
            assert!(matches!(refused(guard.given(addr, at(0))), Refused::Dial(_)), "{text}");
            assert!(matches!(refused(guard.widen(addr, at(0))), Refused::Dial(_)), "{text}");
        });
    }
    let low = SocketAddr::from(([44, 0, 0, 9], 53));
    lab.host.run(|| {
        assert!(matches!(refused(guard.widen(low, at(0))), Refused::Dial(_)));
        guard.given(low, at(0)).expect("a ticket may name any port");
        assert_eq!(refused(guard.widen(low, at(0))), Refused::NotHeard(low));
    });
    leave(&lab, guard);
}

#[test]
fn with_lan_the_hosts_own_networks_are_within_the_budgets() {
    let lab = Lab::new();
    let near: [IpAddr; 2] =
        [[192, 168, 7, 2].into(), Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2).into()];
    let mut own: Vec<(IpAddr, u8)> = vec![([192, 168, 7, 1].into(), 24)];
    own.push((Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1).into(), 64));
    for ip in near {
        let to = SocketAddr::from((ip, PORT));
        let guard = join(&lab, spec(PORT));
        assert_eq!(reaches(&lab, to), 0, "{to} without --lan");
        leave(&lab, guard);
        let mut guard = join(&lab, GuardSpec { lan: own.clone(), ..spec(PORT) });
        let heard = reaches(&lab, to);
        assert!((1..=HEARSAY_PACKETS_MAX as u64).contains(&heard), "{heard} to {to}");
        lab.host.run(|| guard.given(to, at(0))).expect("on-link");
        let given = reaches(&lab, to);
        assert!((1..=GIVEN_PACKETS_MAX as u64).contains(&given), "{given} to {to}");
        let beyond: SocketAddr = if ip.is_ipv4() { "192.168.8.2:7770" } else { "[fd00:8::2]:7770" }
            .parse()
            .expect("one");
        assert_eq!(reaches(&lab, beyond), 0, "{beyond} is not on-link");
        assert!(matches!(refused(lab.host.run(|| guard.given(beyond, at(0)))), Refused::Dial(_)));
        leave(&lab, guard);
    }
}

#[test]
fn a_ticket_names_four_addresses_in_five_minutes() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    let addrs: Vec<_> = (0..=GIVEN_MAX).map(|_| peer(&lab, Family::V4)).collect();
    let (fifth, first) = addrs.split_last().expect("there are some");
    lab.host.run(|| {
        for addr in first {
            guard.given(*addr, at(0)).expect("one of four");
        }
        guard.given(first[0], at(100)).expect("again");
        assert_eq!(refused(guard.given(*fifth, at(100))), Refused::TooManyGiven(*fifth));
        assert_eq!(refused(guard.tcp_proven(*fifth)), Refused::NotGiven(*fifth));
        let later = at(BUDGET_WINDOW.as_secs());
        guard.given(*fifth, later).expect("an old one makes room");
        guard.tcp_proven(*fifth).expect("it is given");
    });
    let gone = first.iter().filter(|addr| reaches(&lab, **addr) <= HEARSAY_PACKETS_MAX as u64 / 2);
    assert_eq!(gone.count(), 1, "one of the old ones is not given any more");
    leave(&lab, guard);
}

#[test]
fn what_nobody_renews_is_shut_by_the_kernel() {
    let lab = Lab::new();
    let alive_for = Duration::from_secs(8);
    let mut guard = lab.host.run(|| Guard::join_for(spec(PORT), alive_for)).expect("it stands");
    let [kept, left, silent] = [(); 3].map(|()| peer(&lab, Family::V4));
    let given = peer(&lab, Family::V6);
    for peer in [kept, left, silent] {
        says(&lab, peer);
        lab.host.run(|| guard.widen(peer, at(0))).expect("heard and proven");
    }
    lab.host.run(|| guard.given(given, at(0))).expect("given");
    lab.host.sh(&format!("nft flush set inet {TABLE} heard4"));
    says(&lab, kept);
    says(&lab, left);
    thread::sleep(alive_for / 2);
    let stranger = peer(&lab, Family::V4);
    let renewed = lab.host.run(|| guard.renew(&[kept, silent, stranger], at(4)));
    // The silent one may have been proven, and the data plane may say it is alive.
    assert_eq!(renewed.expect("renewed"), [stranger, silent]);
    thread::sleep(alive_for / 2 + Duration::from_millis(200));
    assert_eq!(reaches(&lab, kept), u64::from(MANY));
    for addr in [left, silent] {
        assert!(reaches(&lab, addr) <= HEARSAY_PACKETS_MAX as u64, "{addr} is still open");
    }
    thread::sleep(alive_for);
    assert!(reaches(&lab, kept) <= HEARSAY_PACKETS_MAX as u64, "open with nobody there");
    assert!(reaches(&lab, given) <= HEARSAY_PACKETS_MAX as u64, "still given");
    let late = lab.host.run(|| guard.renew(&[kept], at(30))).expect("renewed");
    assert_eq!(late, [kept], "what was shut is proven anew or not at all");
    assert!(reaches(&lab, given) > HEARSAY_PACKETS_MAX as u64 / 2, "given again");
    leave(&lab, guard);
}

fn waits_for_change(guard: &Guard, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(guard.watch_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(milliseconds)).expect("polled") > 0
        && guard.touched().expect("read")
}

#[test]
fn a_flushed_ruleset_lets_nothing_out_is_noticed_and_put_back() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    let (proven, given, other) =
        (peer(&lab, Family::V4), peer(&lab, Family::V6), peer(&lab, Family::V4));
    says(&lab, proven);
    lab.host.run(|| {
        guard.widen(proven, at(0)).expect("heard and proven");
        guard.given(given, at(0)).expect("given");
        assert!(waits_for_change(&guard, 1000), "its own changes are heard as well");
        assert_eq!(guard.check().expect("listed"), Stands::Whole);
        assert!(!waits_for_change(&guard, 0), "a check changes nothing");
    });
    lab.host.sh("nft flush ruleset");
    lab.count();
    assert_eq!(reaches(&lab, proven), 0, "the latch is open");
    let noticed = lab.host.run(|| waits_for_change(&guard, 1000));
    assert!(noticed, "nobody says that the table is gone");
    lab.host.run(|| {
        assert_eq!(guard.check().expect("listed"), Stands::Gone);
        guard.reinstall(at(1)).expect("put back");
        assert_eq!(guard.check().expect("listed"), Stands::Whole);
    });
    assert_eq!(reaches(&lab, proven), u64::from(MANY));
    let given = reaches(&lab, given);
    assert!((1..=GIVEN_PACKETS_MAX as u64).contains(&given), "{given}");
    assert!(reaches(&lab, other) <= HEARSAY_PACKETS_MAX as u64);
    leave(&lab, guard);
}

#[test]
fn without_its_latch_a_flushed_ruleset_lets_everything_out_until_it_is_put_back() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    crate::mutants::break_latch(&lab);
    let victim = peer(&lab, Family::V4);
    lab.host.sh("nft flush ruleset");
    lab.count();
    assert_eq!(reaches(&lab, victim), u64::from(MANY));
    lab.host.run(|| {
        guard.reinstall(at(1)).expect("put back");
        assert_eq!(guard.check().expect("listed"), Stands::Whole);
    });
    lab.host.sh("nft flush ruleset");
    lab.count();
    assert_eq!(reaches(&lab, victim), 0, "the latch is shut again");
    leave(&lab, guard);
}

#[test]
fn any_change_of_the_rules_is_found() {
    let lab = Lab::new();
    let mut guard = join(&lab, spec(PORT));
    for change in [
        "nft flush chain inet ovl_guard dp",
        "nft insert rule inet ovl_guard output accept",
        "nft delete element inet ovl_guard ctl_uids { 65501 }",
        "nft flush set inet ovl_guard ports",
        "nft add chain inet ovl_guard more",
        "nft flush table inet ovl_guard",
    ] {
        lab.host.sh(change);
        lab.host.run(|| {
            assert_eq!(guard.check().expect("listed"), Stands::Changed, "{change}");
            guard.reinstall(at(0)).expect("put back");
            assert_eq!(guard.check().expect("listed"), Stands::Whole, "after {change}");
        });
    }
    leave(&lab, guard);
}
