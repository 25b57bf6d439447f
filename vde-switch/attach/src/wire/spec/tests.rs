use proptest::prelude::*;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;

use super::*;

fn spec(routes: &[Route]) -> WireSpec {
    WireSpec { station: STATION, segment: SEGMENT, routes: routes.to_vec() }
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect(text)
}

#[test]
fn what_cannot_be_a_guests_wire_is_refused_by_name() {
    let good = spec(&[(v4("192.168.9.0"), 24, v4("10.77.0.2"))]);
    assert_eq!(good.check(), Ok(()));
    let with = |change: &dyn Fn(&mut WireSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec.check().expect_err("a wrong spec")
    };
    assert_eq!(with(&|s| s.station.mac = MacAddr([1, 0, 0, 0, 0, 1])), SpecError::Mac);
    assert_eq!(with(&|s| s.station.mac = MacAddr([0; 6])), SpecError::Mac);
    for address in ["10.77.1.1", "10.77.0.0", "10.77.0.255"] {
        assert_eq!(with(&|s| s.station.ipv4 = v4(address)), SpecError::Ipv4(v4(address)));
    }
    for address in ["fd3a:0:0:1::1", "fd3a::"] {
        let address: Ipv6Addr = address.parse().expect(address);
        assert_eq!(with(&|s| s.station.ipv6 = address), SpecError::Ipv6(address));
    }
    for (network, len) in [
        ("10.77.0.1", 24),
        ("10.0.0.0", 7),
        ("10.77.0.0", 31),
        ("10.77.0.0", 33),
        ("127.0.0.0", 24),
        ("169.254.0.0", 16),
        ("224.0.0.0", 24),
        ("0.0.0.0", 8),
    ] {
        let subnet = (v4(network), len);
        assert_eq!(with(&|s| s.segment.ipv4 = subnet), SpecError::Subnet(subnet.0, len));
        let route = vec![(subnet.0, len, STATION.ipv4)];
        if (network, len) != ("10.77.0.0", 31) {
            assert_eq!(with(&|s| s.routes = route.clone()), SpecError::Route(subnet.0, len));
        }
    }
    for (prefix, len) in [("fd3a::1", 64), ("fe80::", 64), ("ff02::", 64), ("::", 0), ("::", 8)] {
        let prefix: (Ipv6Addr, u8) = (prefix.parse().expect(prefix), len);
        assert_eq!(with(&|s| s.segment.ipv6 = prefix), SpecError::Prefix(prefix.0, len));
    }
    for mtu in [0, 1279, 9217] {
        assert_eq!(with(&|s| s.segment.mtu = mtu), SpecError::Mtu(mtu));
    }
    let many = vec![good.routes[0]; 9];
    assert_eq!(with(&|s| s.routes = many.clone()), SpecError::Routes(9));
}

#[test]
fn sources_and_destinations_are_the_networks_that_lead_there() {
    let me = STATION.ipv4;
    let other = v4("10.77.0.11");
    let spec = spec(&[
        (v4("192.168.0.0"), 16, me),
        (v4("192.168.9.0"), 24, other),
        (v4("192.168.9.128"), 25, me),
        (v4("172.16.0.0"), 12, other),
    ]);
    assert_eq!(
        spec.sources_v4().to_string(),
        "10.77.0.10, 192.168.0.0-192.168.8.255, 192.168.9.128-192.168.255.255".replace(
            "192.168.9.128-192.168.255.255",
            "192.168.9.128-192.168.9.255, 192.168.10.0-192.168.255.255"
        )
    );
    let to = spec.destinations_v4();
    for address in ["10.77.0.0", "10.77.0.254", "172.31.0.1", "192.168.9.1"] {
        assert!(to.contain(v4(address)), "{address}");
    }
    for address in ["10.77.0.255", "10.77.1.0", "172.32.0.0", "8.8.8.8", "224.0.0.1"] {
        assert!(!to.contain(v4(address)), "{address}");
    }
}

fn network() -> impl Strategy<Value = Route> {
    let via = prop::sample::select(vec![STATION.ipv4, v4("10.77.0.11")]);
    (any::<u16>(), 14..=32u8, via).prop_map(|(bits, len, via)| {
        let address = Ipv4Addr::from_bits(0x0a4c_0000 | u32::from(bits));
        (range(address, len).expect("a length").first, len, via)
    })
}

proptest! {
    /// The ranges say of every address what the port policy says.
    #[test]
    fn ranges_and_policy_agree(
        routes in prop::collection::vec(network(), 0..8),
        offsets in prop::collection::vec(any::<u16>(), 1..50),
    ) {
        use vde_switch::parse::{Ipv4, L4, Packet, Parsed};
        use vde_switch::policy::Policy;

        let spec = spec(&routes);
        let policy = Policy::new(&[STATION], SEGMENT).with_routes(&routes);
        let edges = routes.iter().flat_map(|(network, len, _)| {
            let Range { first, last } = range(*network, *len).expect("a length");
            [first.to_bits(), last.to_bits(), first.to_bits() - 1, last.to_bits() + 1]
        });
        let near = offsets.iter().map(|offset| 0x0a4c_0000 + 3 * u32::from(*offset));
        for address in edges.chain(near).map(Ipv4Addr::from_bits) {
            let says = |src, dst| {
                let packet = Packet::Ipv4(Ipv4 { src, dst, l4: L4::Udp });
                let mac = MacAddr([2, 0, 0, 0, 0, 0xb]);
                policy.admit(&Parsed { dst: mac, src: STATION.mac, packet }).is_ok()
            };
            let from = spec.sources_v4().contain(address);
            prop_assert_eq!(from, says(address, v4("10.77.0.11")), "from {}", address);
            let to = spec.destinations_v4().contain(address);
            prop_assert_eq!(to, says(STATION.ipv4, address), "to {}", address);
        }
    }
}
