//! What the rules cost a frame: a measurement, not a test. Run it alone:
//! `cargo test --release -p vde-attach --lib cost -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;
use crate::canary::{End, PacketEnd, TapEnd};
use crate::netlink::route::{Change, Links};
use crate::nft::Nft;
use crate::tap::{Tap, TapOptions};
use crate::testing::name;

const ROUNDS: usize = 7;
/// Frames that are on the way at once.
const BATCH: usize = 32;

fn plain() -> String {
    let chain = |at: &str, to: &str| {
        format!(
            "chain {at} {{\ntype filter hook ingress device \"{at}\" priority -500; policy drop;\n\
             ether type {{ 8021q, 8021ad }} drop\nfwd to \"{to}\"\n}}\n"
        )
    };
    let (a, b) = (chain("guest", "data"), chain("data", "guest"));
    format!("table netdev ovl\ndelete table netdev ovl\ntable netdev ovl {{\n{a}{b}}}\n")
}

/// How two ends are joined.
#[derive(Clone, Copy, Debug)]
enum Joint {
    /// Not at all: the stack drops each frame.
    Nothing,
    /// A bridge without rules.
    Bridge,
    /// One rule that hands on.
    Plain,
    /// The guest's.
    Rules,
}

fn run(line: &str) {
    let done = std::process::Command::new("sh").args(["-ec", line]).status().unwrap();
    assert!(done.success(), "{line}");
}

struct Line {
    guest: Box<dyn End>,
    data: TapEnd,
}

impl Line {
    fn new(veth: bool, joint: Joint) -> Self {
        crate::sysctl::silence().unwrap();
        let mut links = Links::open().unwrap();
        let data = Tap::open(&name("data"), TapOptions::default()).unwrap();
        let mut tap = None;
        if veth {
            links.make_pair(&name("guest"), &name("far")).unwrap();
        } else {
            tap = Some(Tap::open(&name("guest"), TapOptions::default()).unwrap());
        }
        let up = Change { up: Some(true), no_arp: Some(true), mtu: None };
        for link in links.list().unwrap().iter().filter(|link| link.kind.is_some()) {
            links.change(link.index, up).unwrap();
        }
        match joint {
            Joint::Nothing => {}
            Joint::Bridge => run("ip link add br0 type bridge; ip link set guest master br0; \
                 ip link set data master br0; ip link set br0 up; sleep 0.2"),
            Joint::Plain => Nft::default().load(&plain()).unwrap(),
            Joint::Rules => {
                Nft::default().load(&Ruleset::new(&spec(), &cable()).to_string()).unwrap();
            }
        }
        let far = links.find(&name("far")).unwrap();
        let guest: Box<dyn End> = match (tap, far) {
            (Some(tap), _) => Box::new(TapEnd::new(&tap).unwrap()),
            (None, far) => Box::new(PacketEnd::open(far.unwrap().index).unwrap()),
        };
        Self { guest, data: TapEnd::new(&data).unwrap() }
    }

    #[expect(clippy::disallowed_methods, reason = "how long it takes is the question")]
    /// Time for a frame from the one to the other, by one thread.
    fn time(&mut self, vnet: &[u8; 12], frame: &[u8], count: usize, lost: bool) -> Duration {
        let mut buffer = vec![0; 70_000];
        let since = Instant::now();
        let mut came = 0;
        for _ in 0..count / BATCH {
            for _ in 0..BATCH {
                self.guest.send(vnet, frame).unwrap();
            }
            while let Some(out) = self.data.take(&mut buffer).unwrap() {
                came += 1;
                black_box(out.len());
            }
        }
        let took = since.elapsed() / count as u32;
        assert!(lost || came >= count * 9 / 10, "{came} of {count} came");
        took
    }
}

#[test]
#[ignore = "a measurement"]
fn what_the_rules_cost() {
    let small = alice4(BOB4, UDP, &udp(1, 2, &[7; 18]));
    let acknowledgement = {
        let mut segment = tcp(ACK, &[1; 12]);
        segment[12] = 0x80;
        alice4(BOB4, TCP, &segment)
    };
    let large = alice4(BOB4, TCP, &tcp(ACK, &[7; 64_000]));
    let kinds = [
        ("64 bytes of UDP", [0; 12], small, 64_000),
        ("an acknowledgement", [0; 12], acknowledgement, 64_000),
        ("64 kB of TCP", vnet(1, 1, 54, 1448, 34, 16), large, 6_400),
    ];
    let joints = [Joint::Nothing, Joint::Bridge, Joint::Plain, Joint::Rules];
    let ways: Vec<(bool, Joint)> =
        [false, true].into_iter().flat_map(|veth| joints.map(|joint| (veth, joint))).collect();
    let mut times = vec![vec![Vec::new(); kinds.len()]; ways.len()];
    for _ in 0..ROUNDS {
        for (way, (veth, joint)) in ways.iter().enumerate() {
            in_netns(|| {
                let mut line = Line::new(*veth, *joint);
                for (kind, (_, vnet, frame, count)) in kinds.iter().enumerate() {
                    let lost = matches!(joint, Joint::Nothing);
                    line.time(vnet, frame, BATCH, lost);
                    times[way][kind].push(line.time(vnet, frame, *count, lost));
                }
            });
        }
    }
    for (kind, (what, ..)) in kinds.iter().enumerate() {
        for (way, (veth, joint)) in ways.iter().enumerate() {
            let mut all = times[way][kind].clone();
            all.sort();
            let median = all[all.len() / 2];
            let plain_way = ways.iter().position(|(v, j)| v == veth && matches!(j, Joint::Plain));
            let mut plain = times[plain_way.unwrap()][kind].clone();
            plain.sort();
            let ratio = median.as_secs_f64() / plain[plain.len() / 2].as_secs_f64();
            let from = if *veth { "veth" } else { "tap" };
            eprintln!(
                "{what}, {from} to tap, {joint:?}: {median:?} ({:?}..{:?}), {ratio:.2} of plain",
                all[0],
                all[all.len() - 1]
            );
        }
    }
}
