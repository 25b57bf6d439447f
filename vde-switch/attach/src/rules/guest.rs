//! The two ends, and ARP.

use super::{ASK_RATE, Cable, Chain, DATA_MARK, GROUP_RATE, NEIGHBOUR_RATE, Place, Stop};
use crate::wire::spec::WireSpec;

/// Set in the MAC addresses of groups.
pub(super) const IS_GROUP: &str = "ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00";

/// What a frame may be besides tagged.
pub(super) const KINDS: &str = "ether type { ip, arp, ip6 }";
pub(super) const IS_TAGGED: &str = "ether type { 0x8100, 0x88a8, 0x9100, 0x9200 }";

pub(super) fn chains(spec: &WireSpec, cable: &Cable) -> Vec<Chain> {
    let mut chains = vec![from_guest(spec, cable), from_data(spec, cable)];
    chains.extend((cable.place == Place::Host).then(|| to_guest(cable)));
    chains.extend([pass(cable), long(), groups(), asks(), arp(spec), arp_asks()]);
    chains
}

fn from_guest(spec: &WireSpec, cable: &Cable) -> Chain {
    let (mac, mtu) = (spec.station.mac, spec.segment.mtu);
    Chain::at("from_guest", "ingress", &cable.guest)
        // First: the kernel takes a tag off before the chain sees the frame, and what looks for a
        // protocol sees through it. Whoever serves VLANs on the host would have them fed by guests.
        .stop(Stop::Tagged, IS_TAGGED)
        .stop(Stop::SourceMac, &format!("ether saddr != {mac}"))
        .stop(Stop::ZeroMac, "ether daddr 00:00:00:00:00:00")
        .jump(&format!("meta length > {mtu}"), "g_long")
        .fork("ether type", &[("arp", "g_arp"), ("ip", "g_ip4"), ("ip6", "g_ip6")])
        .rest(Stop::EtherType)
}

fn from_data(spec: &WireSpec, cable: &Cable) -> Chain {
    let mac = spec.station.mac;
    let chain = Chain::at("from_data", "ingress", &cable.data)
        .stop(Stop::InTagged, IS_TAGGED)
        .stop(Stop::InOwnMac, &format!("ether saddr {mac}"))
        .stop(
            Stop::InForeignMac,
            &format!(
                "ether daddr != {mac} and ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00"
            ),
        );
    let mark = match cable.place {
        Place::Lease => String::new(),
        Place::Host => format!("meta mark set {DATA_MARK:#x} "),
    };
    chain.rule(KINDS, None, format!("{mark}fwd to \"{}\"", cable.guest)).rest(Stop::InEtherType)
}

/// Keeps the host's stack, its bridges and programs from speaking to the guest.
fn to_guest(cable: &Cable) -> Chain {
    Chain::at("to_guest", "egress", &cable.guest)
        .rule(&format!("meta mark {DATA_MARK:#x}"), None, "accept")
        .rest(Stop::HostSpeaks)
}

/// The one way out.
fn pass(cable: &Cable) -> Chain {
    Chain::new("g_pass").rule("", None, format!("fwd to \"{}\"", cable.data))
}

/// Only super-frames are longer than the MTU: whole packets with TCP or UDP right behind the IP
/// header. Whether they are, the virtio-net header says, which nft does not see.
fn long() -> Chain {
    Chain::new("g_long")
        .back("ip frag-off & 0x3fff == 0 and ip protocol { tcp, udp }")
        .back("ip6 nexthdr { tcp, udp }")
        .rest(Stop::TooLong)
}

fn groups() -> Chain {
    Chain::new("g_groups").limit(Stop::GroupRate, GROUP_RATE)
}

/// Questions to the segment's own services.
fn asks() -> Chain {
    Chain::new("g_asks").limit(Stop::AskRate, ASK_RATE).goto("", "g_pass")
}

fn arp(spec: &WireSpec) -> Chain {
    let (mac, own) = (spec.station.mac, spec.station.ipv4);
    let (first, last) = (spec.segment.ipv4.0, spec.segment.broadcast_ipv4());
    Chain::new("g_arp")
        // Ethernet, IPv4, lengths 6 and 4.
        .stop(Stop::ArpForm, "@nh,0,48 != 0x000108000604")
        .stop(Stop::ArpSender, &format!("arp saddr ether != {mac}"))
        .stop(
            Stop::ArpSender,
            &format!(
                "arp operation . arp saddr ip != \
                 {{ request . {own}, request . 0.0.0.0, reply . {own} }}"
            ),
        )
        .stop(Stop::ArpTarget, &format!("ether daddr != ff:ff:ff:ff:ff:ff and {IS_GROUP}"))
        // The last field: a message that is cut short has none. As a range, for of a prefix nft
        // loads no more than its bytes.
        .goto(&format!("arp daddr ip {first}-{last}"), "g_arp_asks")
        .rest(Stop::ArpTarget)
}

fn arp_asks() -> Chain {
    Chain::new("g_arp_asks").limit(Stop::ArpRate, NEIGHBOUR_RATE).goto("", "g_pass")
}
