//! What the guard costs, and what it lets out in a whole window. Run by hand: they take long, or
//! are about speed.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::ControlMessage;
use nix::sys::time::{TimeVal, TimeValLike};
use overlay::host::guard::Guard;
use overlay_proto::dial::{
    BUDGET_WINDOW, GIVEN_PACKETS_MAX, HEARSAY_BURST_MAX, HEARSAY_PACKETS_MAX, HEARSAY_RATE,
};

use crate::attack::{INITIATION_LEN, PORT, dp_socket, send, send_with};
use crate::net::{Family, HOST_V4, Lab};
use crate::spec;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Returns the seconds of this thread on a processor that one of what the code does takes; what the
/// kernel does for it on the other end of the cable is in it.
fn cost(mut step: impl FnMut() -> usize) -> f64 {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("there is one");
        let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    };
    let (start, used_before) = (Instant::now(), used());
    let mut done = 0;
    while start.elapsed() < ROUND {
        done += step();
    }
    (used() - used_before) / done as f64
}

/// Compares rounds with and without the guard, in turns.
fn compare(lab: &Lab, what: &str, open: impl Fn(), round: impl Fn() -> f64) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(round());
        let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it stands");
        open();
        with.push(round());
        lab.host.run(|| drop(guard));
    }
    let (with, without) = (median(with) * 1e9, median(without) * 1e9);
    let (more, ratio) = (with - without, without / with);
    println!("{what}: {without:.0} ns without, {more:.0} ns more with the guard, rate {ratio:.3}");
}

#[test]
#[ignore = "a figure; other loads disturb it"]
fn the_cost_for_a_proven_peer() {
    let lab = Lab::new();
    lab.host.sh("ip link set va gso_max_segs 65535");
    let silence = "table inet silence { chain in { type filter hook prerouting priority -390; \
                   udp dport 7770 udp sport 7770 iifname \"vb\" drop; }\n}";
    assert!(lab.world.nft(silence));
    for family in [Family::V4, Family::V6] {
        let peer = SocketAddr::from((lab.fresh(family), PORT));
        let open = || lab.open("proven", family, &format!("{PORT} . {} . {PORT}", peer.ip()));
        compare(&lab, &format!("{family:?} single datagrams out"), open, || {
            lab.host.run(|| {
                let socket = dp_socket(PORT);
                cost(|| send(&socket, vec![peer; 100], 1400))
            })
        });
        compare(&lab, &format!("{family:?} 60 kB in 44 segments out"), open, || {
            lab.host.run(|| {
                let socket = dp_socket(PORT);
                let segments = ControlMessage::UdpGsoSegments(&1400);
                cost(|| usize::from(send_with(&socket, peer, 61_600, segments)))
            })
        });
    }
    let peer = SocketAddr::from((lab.fresh(Family::V4), PORT));
    let open = || lab.open("proven", Family::V4, &format!("{PORT} . {} . {PORT}", peer.ip()));
    compare(&lab, "V4 single datagrams in", open, || {
        let _held = lab.host.run(|| dp_socket(PORT));
        lab.world.run(|| {
            let socket = std::net::UdpSocket::bind(peer).expect("an address of the world");
            cost(|| send(&socket, vec![(HOST_V4, PORT).into(); 100], 1400))
        })
    });
}

#[test]
#[ignore = "a figure"]
fn how_long_opening_an_address_takes() {
    let lab = Lab::new();
    let mut guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it stands");
    let mut times = Vec::new();
    for number in 0..20 {
        let peer = SocketAddr::from((lab.fresh(Family::V4), PORT));
        lab.say(peer, PORT);
        let start = Instant::now();
        let now = vde_switch::time::Instant::ZERO + Duration::from_secs(number);
        lab.host.run(|| guard.widen(peer, now)).expect("heard and proven");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("widen: {:.1} ms", median(times));
    let start = Instant::now();
    lab.host.run(|| guard.check()).expect("listed");
    println!("check: {:?}", start.elapsed());
    let start = Instant::now();
    lab.host.run(|| guard.renew(&[], vde_switch::time::Instant::ZERO)).expect("renewed");
    println!("renew: {:?}", start.elapsed());
    lab.host.run(|| drop(guard));
}

#[test]
#[ignore = "takes five minutes: make soak runs it"]
fn in_a_whole_window_no_budget_is_exceeded() {
    let lab = Lab::new();
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it stands");
    let [one, given] = [(); 2].map(|()| SocketAddr::from((lab.fresh(Family::V4), PORT)));
    let element = format!("{PORT} . {} . {PORT} timeout 600s", given.ip());
    assert!(lab.host.nft(&format!("add element inet ovl_guard given4 {{ {element} }}")));
    let (mut to_one, mut to_given, mut to_all) = (0, 0, 0);
    let start = Instant::now();
    while start.elapsed() < BUDGET_WINDOW {
        let reach = |victims: Vec<SocketAddr>| {
            lab.reset();
            lab.host.run(|| send(&dp_socket(PORT), victims, INITIATION_LEN));
            lab.seen().packets
        };
        to_one += reach(vec![one; 100]);
        to_given += reach(vec![given; 100]);
        let many = |_| SocketAddr::from((lab.fresh(Family::V4), PORT));
        to_all += reach((0..100).map(many).collect());
        thread::sleep(Duration::from_millis(250));
    }
    println!("{to_one} to one, {to_given} to the ticket's, {to_all} to all, in {BUDGET_WINDOW:?}");
    assert!(to_one <= HEARSAY_PACKETS_MAX as u64 && to_given <= GIVEN_PACKETS_MAX as u64);
    let seconds = start.elapsed().as_secs() + 1;
    assert!(to_one + to_all <= u64::from(HEARSAY_BURST_MAX) + u64::from(HEARSAY_RATE) * seconds);
    lab.host.run(|| drop(guard));
}
