//! For tests: a namespace of the test's own, and two taps joined by whatever rules it wants.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::serve::{ROUTES_MAX, Route};
use vde_switch::station::{Broadcast, Segment, Station};

use crate::canary::{End, Side, TapEnd};
use crate::frames::*;
use crate::netlink::route::{Change, Links};
use crate::nft::{Counts, Nft};
use crate::rules::{Cable, Place, Ruleset, stack};
use crate::sysctl;
use crate::tap::{IfName, Tap, TapOptions};
use crate::wire::WireSpec;

/// The guest that all of these are about.
pub(crate) fn spec() -> WireSpec {
    spec_with(&[])
}

pub(crate) fn spec_with(routes: &[Route]) -> WireSpec {
    WireSpec { station: STATION, segment: SEGMENT, routes: routes.to_vec() }
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().expect(text)
}

pub(crate) fn cable() -> Cable {
    Cable {
        table: "ovl".parse().expect("a name"),
        guest: name("guest"),
        data: name("data"),
        place: Place::Lease,
    }
}

fn host_bits(len: u8) -> u32 {
    u32::MAX.checked_shr(len.into()).unwrap_or(0)
}

fn network() -> impl Strategy<Value = (Ipv4Addr, u8)> {
    (any::<u32>(), 8..=30_u8)
        .prop_map(|(bits, len)| (Ipv4Addr::from_bits(bits & !host_bits(len)), len))
}

fn segment() -> impl Strategy<Value = Segment> {
    (network(), any::<u128>(), 8..=127_u8, 1280..=9216_u16).prop_map(|(ipv4, bits, len, mtu)| {
        let prefix = Ipv6Addr::from_bits(bits & !(u128::MAX >> len));
        Segment { ipv4, ipv6: (prefix, len), mtu, broadcast: Broadcast::On }
    })
}

/// Any spec that a wire can be made from.
pub(crate) fn any_spec() -> impl Strategy<Value = WireSpec> {
    let routes = prop::collection::vec((network(), any::<bool>()), 0..=ROUTES_MAX);
    let spec = (segment(), any::<[u8; 6]>(), any::<u32>(), any::<u128>(), routes);
    let spec = spec.prop_map(|(segment, mac, host4, host6, routes)| {
        let ipv4 = segment.ipv4.0.to_bits() | host4 & host_bits(segment.ipv4.1);
        let ipv6 = segment.ipv6.0.to_bits() | host6 & (u128::MAX >> segment.ipv6.1);
        let station = Station { mac: MacAddr(mac), ipv4: ipv4.into(), ipv6: ipv6.into() };
        let via = |own| if own { station.ipv4 } else { segment.broadcast_ipv4() };
        let routes: Vec<Route> =
            routes.into_iter().map(|((network, len), own)| (network, len, via(own))).collect();
        WireSpec { station, segment, routes }
    });
    spec.prop_filter("a wire can be made from it", |spec| spec.check().is_ok())
}

/// An IPv4 packet of UDP whose header sum is right, so that a stack looks at it.
pub(crate) fn sound4(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut packet = packet4(src, dst, UDP, 0, &udp(1, 2, b"x"));
    let words = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet
}

/// Runs a test in a namespace of its own; not at all for who is not root.
pub(crate) fn in_netns(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        return; // making namespaces is root's
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Two taps of the calling thread's namespace, up, and nothing else.
pub(crate) struct Rig {
    guest: TapEnd,
    data: TapEnd,
    pub(crate) nft: Nft,
    buffer: Vec<u8>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        sysctl::silence().expect("switches");
        let nft = Nft::default();
        nft.load(&stack::ruleset()).expect("rules");
        let mut links = Links::open().expect("a socket");
        let mut tap = |end| {
            let tap = Tap::open(&name(end), TapOptions::default()).expect("a tap");
            let index = links.find(&name(end)).expect("a list").expect("a link").index;
            let change = Change { up: Some(true), no_arp: Some(true), mtu: None };
            links.change(index, change).expect("up");
            TapEnd::new(&tap).expect("a copy")
        };
        let (guest, data) = (tap("guest"), tap("data"));
        Self { guest, data, nft, buffer: vec![0; 70_000] }
    }

    /// Loads rules in place of those that are there.
    pub(crate) fn load(&self, rules: &Ruleset) {
        let text = rules.to_string();
        self.nft.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }

    /// Says whether the kernel takes a frame of the guest's at all: before 6.2, Linux knows no
    /// super-frames of UDP.
    pub(crate) fn takes(&mut self, vnet: &[u8; 12], frame: &[u8]) -> bool {
        let taken = self.guest.send(vnet, frame).is_ok();
        while self.data.take(&mut self.buffer).expect("a tap").is_some() {}
        taken
    }

    /// Sends a frame and says whether anything of it comes out at the other end.
    pub(crate) fn passes(&mut self, from: Side, vnet: &[u8; 12], frame: &[u8]) -> bool {
        let (from, to) = match from {
            Side::Guest => (&mut self.guest, &mut self.data),
            Side::Data => (&mut self.data, &mut self.guest),
        };
        if from.send(vnet, frame).is_err() {
            return false;
        }
        // The kernel has done all of it when the write returns.
        let mut passed = false;
        while to.take(&mut self.buffer).expect("a tap").is_some() {
            passed = true;
        }
        passed
    }

    pub(crate) fn counts(&self) -> Counts {
        self.nft.counts(&cable().table).expect("counters")
    }
}
