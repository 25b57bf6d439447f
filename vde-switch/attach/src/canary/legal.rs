//! What must pass.

use super::*;

/// A row: what it is, and the frame.
fn ok(name: &'static str, frame: Vec<u8>) -> Canary {
    Canary { id: "ok", name, from: Side::Guest, vnet: [0; 12], frame, stopped: None }
}

/// What a decent guest says.
pub(super) fn guest(cast: &Cast) -> Vec<Canary> {
    let Cast { own4, own6, own_link, other4, other6, other_link, all4, mac, mtu, .. } = *cast;
    let nobody4 = Ipv4Addr::UNSPECIFIED;
    let nobody6 = Ipv6Addr::UNSPECIFIED;
    let exact = vec![7; mtu - 28];
    let hello = udp(5353, 5353, b"hello");
    let nfs = udp(700, 2049, &[7; 1000]);
    let agents = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let mdns = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let long = tcp(ACK, &vec![7; 3 * mtu]);
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    vec![
        ok("an ARP request", cast.arp(1, own4, other4)),
        ok("an ARP request, padded", {
            let mut frame = cast.arp(1, own4, other4);
            frame.resize(60, 0);
            frame
        }),
        ok("an ARP request with more behind it, which is cut later", {
            let mut frame = cast.arp(1, own4, other4);
            frame.resize(80, 0);
            frame
        }),
        ok("an ARP probe", cast.arp(1, nobody4, own4)),
        ok("an ARP reply", cast.arp(2, own4, other4)),
        ok("TCP", cast.ip4(other4, TCP, &tcp(SYN, b""))),
        ok("TCP with 40 bytes of options", {
            let mut segment = tcp(SYN, &[1; 40]);
            segment[12] = 0xf0;
            cast.ip4(other4, TCP, &segment)
        }),
        ok("UDP", cast.ip4(other4, UDP, &nfs)),
        ok("UDP of exactly the MTU", cast.ip4(other4, UDP, &udp(1, 2, &exact))),
        ok("a ping", cast.ip4(other4, ICMP, &icmp(8, &[0; 56]))),
        ok("GRE: other protocols stay inside", cast.ip4(other4, 47, &[0; 40])),
        ok("IGMP without options", cast.ip4(Ipv4Addr::new(224, 0, 0, 22), 2, &[0; 8])),
        ok("limited broadcast", cast.ip4(Ipv4Addr::BROADCAST, UDP, &hello)),
        ok("directed broadcast", cast.ip4(all4, UDP, &hello)),
        ok("mDNS", cast.ip4(Ipv4Addr::new(224, 0, 0, 251), UDP, &hello)),
        ok("SSDP", cast.ip4(Ipv4Addr::new(239, 255, 255, 250), UDP, &hello)),
        ok("a first fragment", cast.part4(UDP, 0x2000, &nfs)),
        ok("a later fragment", cast.part4(UDP, 0x007e, &[7; 99])),
        ok("a later fragment of TCP", cast.part4(TCP, 0x0002, &[7; 99])),
        ok("a second fragment of 8 bytes", cast.part4(UDP, 0x0001, &[7; 99])),
        ok("a DHCP discover", {
            let question = udp(68, 67, &[1; 300]);
            cast.ip4_from(nobody4, Ipv4Addr::BROADCAST, UDP, &question)
        }),
        ok("a DHCP renewal", cast.ip4(other4, UDP, &udp(68, 67, &[1; 300]))),
        ok("TCP over IPv6", cast.ip6(other6, TCP, &tcp(SYN, b""))),
        ok("UDP over IPv6", cast.ip6(other6, UDP, &nfs)),
        ok("a ping over IPv6", cast.ip6(other6, ICMPV6, &icmp(128, &[0; 56]))),
        ok("ESP over IPv6", cast.ip6(other6, 50, &[0; 40])),
        ok("link-local UDP", cast.ip6_from(own_link, other_link, UDP, &hello)),
        ok("mDNS over IPv6", cast.ip6_from(own_link, mdns, UDP, &hello)),
        ok("a ping to all nodes", cast.ip6_from(own_link, ALL_NODES, ICMPV6, &icmp(128, &[0; 56]))),
        ok("TCP behind options", cast.ip6(other6, OPTIONS, &extension(TCP, &tcp(SYN, b"")))),
        ok("UDP behind options", cast.ip6(other6, OPTIONS, &extension(UDP, &hello))),
        ok("UDP behind hop-by-hop", cast.ip6(other6, 0, &extension(UDP, &hello))),
        ok("no next header", cast.ip6(other6, 59, b"")),
        ok("a first fragment over IPv6", {
            cast.ip6(other6, FRAGMENT, &fragment6(UDP, 0, true, &nfs))
        }),
        ok("a first fragment of TCP over IPv6", {
            cast.ip6(other6, FRAGMENT, &fragment6(TCP, 0, true, &tcp(ACK, &[7; 1004])))
        }),
        ok("a later fragment over IPv6", {
            cast.ip6(other6, FRAGMENT, &fragment6(UDP, 1008, false, &[7; 99]))
        }),
        ok("a later fragment of TCP over IPv6", {
            cast.ip6(other6, FRAGMENT, &fragment6(TCP, 16, false, &[7; 99]))
        }),
        ok("a second fragment of 8 bytes over IPv6", {
            cast.ip6(other6, FRAGMENT, &fragment6(UDP, 8, false, &[7; 99]))
        }),
        ok("a first fragment behind AH", {
            let header = [FRAGMENT, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
            cast.ip6(other6, 51, &[&header[..], &fragment6(UDP, 0, true, &nfs)].concat())
        }),
        ok("an atomic fragment of nothing", {
            cast.ip6(other6, FRAGMENT, &fragment6(59, 0, false, b""))
        }),
        ok("a later fragment with options", {
            cast.ip6(other6, FRAGMENT, &fragment6(OPTIONS, 1008, false, &[7; 99]))
        }),
        ok("a fragmented ping over IPv6", {
            let ping = icmp(128, &[7; 1000]);
            cast.ip6(other6, FRAGMENT, &fragment6(ICMPV6, 0, true, &ping))
        }),
        ok("another protocol, fragmented", {
            cast.ip6(other6, FRAGMENT, &fragment6(50, 0, true, &[7; 80]))
        }),
        ok("a neighbour solicitation", cast.solicit(own6, other6)),
        ok("a link-local one", cast.solicit(own_link, other_link)),
        ok("duplicate detection", cast.solicit(nobody6, own6)),
        ok("duplicate detection with a nonce", {
            cast.ip6_from(nobody6, solicited_node(own6), ICMPV6, &nd(135, 0, own6, &nonce))
        }),
        ok("a neighbour advertisement", cast.advert(other6, 0x60, own6)),
        ok("one with a nonce first", {
            let options = [&nonce[..], &link_option(2, mac)].concat();
            cast.ip6(other6, ICMPV6, &nd(136, 0x60, own6, &options))
        }),
        ok("one to all, of a link-local address", cast.advert(ALL_NODES, 0x20, own_link)),
        ok("a router solicitation", {
            let option = link_option(1, mac);
            let message = [&[133, 0, 0, 0, 0, 0, 0, 0], &option[..]].concat();
            cast.ip6_from(own_link, ALL_ROUTERS, ICMPV6, &message)
        }),
        ok("one with a nonce", {
            let message = [&[133, 0, 0, 0, 0, 0, 0, 0], &nonce[..]].concat();
            cast.ip6_from(own_link, ALL_ROUTERS, ICMPV6, &message)
        }),
        ok("one without an address", {
            cast.ip6_from(nobody6, ALL_ROUTERS, ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0])
        }),
        ok("a DHCPv6 solicit", cast.ip6_from(own_link, agents, UDP, &udp(546, 547, &[1; 60]))),
        Canary {
            vnet: super_frame(1, 54, 34),
            ..ok("a super-frame", cast.ip4(other4, TCP, &long))
        },
        Canary {
            vnet: super_frame(4, 74, 54),
            ..ok("a super-frame over IPv6", cast.ip6(other6, TCP, &long))
        },
    ]
}

/// What the data plane hands to the guest.
pub(super) fn data(cast: &Cast) -> Vec<Canary> {
    let Cast { mac, other, own4, other4, own6, other6, .. } = *cast;
    let row = |name, frame| Canary { from: Side::Data, ..ok(name, frame) };
    let packet = ip4((other4, own4), TCP, 0, &tcp(SYN, b""));
    let all = Ipv4Addr::new(224, 0, 0, 251);
    let group = ip4((other4, all), UDP, 0, &udp(5353, 5353, b"hello"));
    vec![
        row("TCP for the guest", ethernet(mac, other, 0x0800, &packet)),
        row("an ARP request to all", {
            ethernet(MacAddr::BROADCAST, other, 0x0806, &arp(1, other, other4, own4))
        }),
        row("an ARP reply", ethernet(mac, other, 0x0806, &arp(2, other, other4, own4))),
        row("mDNS of another", ethernet(group4(all), other, 0x0800, &group)),
        row("UDP over IPv6", {
            ethernet(mac, other, 0x86dd, &ip6((other6, own6), UDP, &udp(1, 2, b"hello")))
        }),
    ]
}
