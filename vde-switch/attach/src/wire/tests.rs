use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use vde_switch::fuzz::STATION;

use super::*;
use crate::frames::*;
use crate::link::{Link as Interface, Place};
use crate::netlink::route::Link;
use crate::rules::Stop;
use crate::testing::{any_spec, name, spec, spec_with};

mod changes;
mod refusals;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A wire with a tap for the guest, up.
fn up(spec: &WireSpec) -> (LeaseWire, File, File) {
    let (mut wire, ends) = LeaseWire::open(spec, GuestEnd::Tap).unwrap();
    wire.up().unwrap();
    (wire, ends.guest.unwrap().into(), ends.data.into())
}

fn links(wire: &LeaseWire) -> Vec<Link> {
    run_in(wire.netns(), || Links::open().unwrap().list().unwrap()).unwrap()
}

/// Runs a line of shell in the wire's namespace.
fn shell(wire: &LeaseWire, line: &str) {
    let output =
        run_in(wire.netns(), || Command::new("sh").args(["-ec", line]).output().unwrap()).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a frame and says what comes out at the other end.
fn carry(from: &mut File, to: &mut File, frame: &[u8]) -> Option<Vec<u8>> {
    let _ = from.write(&[&[0; 12], frame].concat()); // a link that is down refuses it
    let mut bytes = vec![0; 70_000];
    let len = to.read(&mut bytes).ok()?;
    Some(bytes[12..len].to_vec())
}

fn hello() -> Vec<u8> {
    alice4(BOB4, UDP, &udp(1, 2, b"hello"))
}

fn answer() -> Vec<u8> {
    ethernet(ALICE, BOB, 0x0800, &packet4(BOB4, ALICE4, UDP, 0, &udp(2, 1, b"hello")))
}

/// A thread in a new namespace, as a guest's owner has one.
struct Owner {
    path: String,
    _stop: mpsc::Sender<()>,
}

impl Owner {
    fn new() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = stopped.recv();
        });
        let thread = told.recv().unwrap();
        let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        Self { path, _stop: stop }
    }

    fn netns(&self) -> Netns {
        Netns::open(&self.path).unwrap()
    }
}

#[test]
fn a_wire_is_proven_carries_what_it_must_and_leaves_nothing() {
    if !is_root() {
        return; // making taps is root's
    }
    let (mut wire, mut guest, mut data) = up(&spec());
    let Proof { passed, stopped, refused } = wire.proof();
    assert!(passed >= 50 && stopped >= 180, "{:?}", wire.proof());
    assert_eq!(refused, 0, "a tap takes all");
    assert_eq!(carry(&mut guest, &mut data, &hello()), Some(hello()));
    assert_eq!(carry(&mut data, &mut guest, &answer()), Some(answer()));
    let spoofed = ethernet(BOB, GATEWAY, 0x0800, &hello()[14..]);
    assert_eq!(carry(&mut guest, &mut data, &spoofed), None);
    let counts = wire.counters().unwrap();
    let seen: Vec<_> = counts.iter().filter(|(_, count)| count.packets != 0).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(counts[&Stop::SourceMac].packets, 1);
    wire.check().unwrap();
    wire.down().unwrap();
    assert_eq!(carry(&mut guest, &mut data, &hello()), None);
    wire.up().unwrap();
    assert_eq!(carry(&mut guest, &mut data, &hello()), Some(hello()));

    let netns = wire.netns().try_clone_to_owned().unwrap();
    drop(wire);
    let left = run_in(netns.as_fd(), || Links::open().unwrap().list().unwrap()).unwrap();
    let left: Vec<_> = left.iter().filter(|link| link.kind.is_some()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(guest.write(&[0; 100]).is_err(), "the hypervisor still holds a tap");
}

#[test]
fn a_guest_in_a_namespace_speaks_by_the_same_rules() {
    if !is_root() {
        return;
    }
    let owner = Owner::new();
    let netns = owner.netns();
    // One of our own names, to see that it is no other's there.
    let ifname = name("data");
    let end = GuestEnd::Netns { netns: &netns, name: &ifname };
    let (mut wire, ends) = LeaseWire::open(&spec(), end).unwrap();
    assert!(ends.guest.is_none());
    let mut data = File::from(ends.data);
    let Proof { passed, stopped, refused } = wire.proof();
    assert!(passed >= 50 && stopped >= 180 && refused <= 5, "{:?}", wire.proof());
    netns
        .run(|| {
            let interface = Interface {
                name: ifname.clone(),
                mac: STATION.mac,
                ipv4: (ALICE4, 24),
                ipv6: (ALICE6, 64),
                mtu: 1500,
                place: Place::Guest,
            };
            interface.configure().unwrap();
        })
        .unwrap();
    wire.up().unwrap();
    wire.check().unwrap();
    netns
        .run(|| {
            let said = Command::new("ip")
                .args(["neigh", "add", "10.77.0.11", "lladdr", "02:00:00:00:00:0b"])
                .args(["dev", "data"])
                .status()
                .unwrap();
            assert!(said.success());
            say((ALICE4, 7), (BOB4, 8));
        })
        .unwrap();
    let heard = next(&mut data, |frame| frame.ends_with(b"hello"));
    assert_eq!((&heard[..6], &heard[6..12]), (&BOB[..], &ALICE[..]));
    // Its owner takes another's address, and deletes the interface.
    netns
        .run(|| {
            let line = "ip addr add 10.77.0.99/24 dev data";
            assert!(Command::new("sh").args(["-c", line]).status().unwrap().success());
            say((Ipv4Addr::new(10, 77, 0, 99), 7), (BOB4, 8));
        })
        .unwrap();
    let counted = || wire.counters().unwrap()[&Stop::Ip4Source].packets;
    eventually(counted, |count| *count == 1);
    netns
        .run(|| {
            let line = "ip link del data";
            assert!(Command::new("sh").args(["-c", line]).status().unwrap().success());
        })
        .unwrap();
    let changed = wire.glance();
    assert!(
        matches!(&changed, Err(WireError::Changed(Difference::Gone(end))) if end == "guest"),
        "{changed:?}"
    );
}

/// Says hello from one address to another.
#[expect(clippy::disallowed_types, reason = "a guest's socket")]
fn say(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) {
    let socket = std::net::UdpSocket::bind(from).unwrap();
    socket.send_to(b"hello", to).unwrap();
}

/// Asks again and again until the answer is right.
fn eventually<T: std::fmt::Debug>(mut ask: impl FnMut() -> T, right: impl Fn(&T) -> bool) {
    for _ in 0..500 {
        if right(&ask()) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("still {:?}", ask());
}

/// Reads frames until one is wanted.
fn next(data: &mut File, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    for _ in 0..500 {
        match data.read(&mut bytes) {
            Ok(len) if wanted(&bytes[12..len]) => return bytes[12..len].to_vec(),
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("nothing came");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn a_wire_can_be_made_for_any_guest_of_any_order(spec in any_spec()) {
        if is_root() {
            let (wire, _ends) = LeaseWire::open(&spec, GuestEnd::Tap)
                .unwrap_or_else(|error| panic!("{error}: {spec:?}"));
            prop_assert!(wire.proof().stopped > 150, "{:?}", wire.proof());
        }
    }
}

/// Each is also what the rules stop: this wall is seen by its switches alone.
#[test]
fn the_stack_of_a_wires_namespace_is_silent_by_its_switches() {
    if !is_root() {
        return;
    }
    let (wire, ..) = up(&spec());
    for (switch, value) in [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/arp_ignore", "8"),
    ] {
        let path = format!("/proc/sys/net/{switch}");
        let found = run_in(wire.netns(), || fs::read_to_string(&path)).unwrap();
        assert_eq!(found.expect(switch).trim(), value, "{switch}");
    }
}

#[test]
fn a_wire_follows_its_order_and_goes_on_counting() {
    if !is_root() {
        return;
    }
    let (mut wire, mut guest, mut data) = up(&spec());
    let large = alice4(BOB4, 47, &[7; 8000]);
    let afar = {
        let packet = packet4(ALICE4, [192, 168, 9, 1].into(), UDP, 0, &udp(1, 2, b"x"));
        ethernet(BOB, ALICE, 0x0800, &packet)
    };
    assert_eq!(carry(&mut guest, &mut data, &large), None);
    assert_eq!(carry(&mut guest, &mut data, &afar), None);
    let mut wider = spec_with(&[([192, 168, 9, 0].into(), 24, BOB4)]);
    wider.segment.mtu = 9000;
    wire.retarget(&wider).unwrap();
    assert_eq!(carry(&mut guest, &mut data, &large).as_ref(), Some(&large));
    assert_eq!(carry(&mut guest, &mut data, &afar).as_ref(), Some(&afar));
    for link in links(&wire).iter().filter(|link| link.kind.is_some()) {
        assert_eq!((link.mtu, link.is_up), (9000, true), "{link:?}");
    }
    wire.check().unwrap();
    wire.glance().unwrap();
    assert_eq!(carry(&mut guest, &mut data, &afar).as_ref(), Some(&afar));
    wire.retarget(&spec()).unwrap();
    assert_eq!(carry(&mut guest, &mut data, &large), None);
    assert_eq!(carry(&mut guest, &mut data, &afar), None);
    let counts = wire.counters().unwrap();
    assert_eq!((counts[&Stop::TooLong].packets, counts[&Stop::Ip4Destination].packets), (2, 2));
}
