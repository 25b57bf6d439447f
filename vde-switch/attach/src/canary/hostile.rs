//! What must not pass, by rows of the attack catalogue.

use super::*;
use crate::rules::Stop::{self, *};

/// A row: id, the counter that sees it, what it is, the frame.
fn no(id: &'static str, stop: Stop, name: &'static str, frame: Vec<u8>) -> Canary {
    Canary { id, name, from: Side::Guest, vnet: [0; 12], frame, stopped: Some(stop) }
}

/// `frame` with bytes behind it that are not the packet's.
fn longer(frame: Vec<u8>) -> Vec<u8> {
    [&frame[..], &[7; 24]].concat()
}

/// F01 to F07, F23, F24, F28: what is no frame of an IP network.
pub(super) fn shapes(cast: &Cast) -> Vec<Canary> {
    let Cast { mac, own4, own6, other, other4, other6, mtu, .. } = *cast;
    let raw = |ethertype| cast.say(other, ethertype, &[0; 46]);
    let packet = ip4((own4, other4), TCP, 0, &tcp(SYN, b""));
    let plain = cast.say(other, 0x0800, &packet);
    let advert = cast.ip6(ALL_NODES, ICMPV6, &icmp(134, &[0; 8]));
    let llc = |len: u16, packet: &[u8]| {
        let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        cast.say(other, len, &[&snap, packet].concat())
    };
    let snap6 = {
        let header = [0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd];
        let packet = ip6((own6, other6), TCP, &tcp(SYN, b""));
        cast.say(other, 0, &[&header[..], &packet].concat())
    };
    let from = |mac: MacAddr| ethernet(other, mac, 0x0800, &packet);
    let group = MacAddr([mac.0[0] | 1, mac.0[1], mac.0[2], mac.0[3], mac.0[4], mac.0[5]]);
    let reserved = |last| MacAddr([1, 0x80, 0xc2, 0, 0, last]);
    vec![
        no("F01", EtherType, "an experimental EtherType", raw(0x88b5)),
        no("F01", EtherType, "MPLS", raw(0x8847)),
        no("F01", EtherType, "PPPoE", raw(0x8863)),
        no("F01", EtherType, "batman", raw(0x4305)),
        no("F01", EtherType, "PTP", raw(0x88f7)),
        no("F01", EtherType, "RARP", raw(0x8035)),
        no("F02", Tagged, "a priority tag", tagged(&[0x81, 0, 0xe0, 0], &plain)),
        no("F03", Tagged, "VLAN 1", tagged(&[0x81, 0, 0, 1], &plain)),
        no("F03", Tagged, "VLAN 4095", tagged(&[0x81, 0, 0x0f, 0xff], &plain)),
        no("F04", Tagged, "a service tag", tagged(&[0x88, 0xa8, 0, 5], &plain)),
        no("F04", Tagged, "tag 9100", tagged(&[0x91, 0, 0, 5], &plain)),
        no("F04", Tagged, "tag 9200", tagged(&[0x92, 0, 0, 5], &plain)),
        no("F05", Tagged, "two tags", tagged(&[0x81, 0, 0, 0].repeat(2), &plain)),
        no("F05", Tagged, "ten tags and RA", tagged(&[0x81, 0, 0, 0].repeat(10), &advert)),
        no("F06", EtherType, "SNAP", llc(8 + packet.len() as u16, &packet)),
        no("F06", EtherType, "SNAP, false length", llc(3, &packet)),
        no("F06", EtherType, "SNAP with IPv6, no length", snap6),
        no("F07", SourceMac, "MAC of another", from(other)),
        no("F07", SourceMac, "MAC of a group", from(group)),
        no("F07", SourceMac, "MAC zero", from(MacAddr::default())),
        no("F07", ZeroMac, "to MAC zero", cast.say(MacAddr::default(), 0x0800, &packet)),
        no("F23", Ip4Destination, "a header alone", plain[..14].to_vec()),
        no("F23", Ip4Destination, "19 bytes of IPv4", plain[..33].to_vec()),
        no("F23", Ip6Destination, "39 bytes of IPv6", cast.ip6(other6, TCP, b"")[..53].to_vec()),
        no("F24", TooLong, "MTU and one, GRE", cast.ip4(other4, 47, &vec![7; mtu - 19])),
        no("F24", TooLong, "MTU and one, IPv6", cast.ip6(other6, 50, &vec![7; mtu - 39])),
        no("F24", TooLong, "a giant ping", cast.ip4(other4, ICMP, &icmp(8, &[7; 60_000]))),
        no("F24", TooLong, "a giant fragment", cast.part4(UDP, 0x2000, &vec![7; 4 * (mtu & !7)])),
        no("F28", EtherType, "LLDP", cast.say(reserved(0xe), 0x88cc, &[0; 46])),
        no("F28", EtherType, "spanning tree", cast.say(reserved(0), 38, &[0x42; 46])),
        no("F28", EtherType, "a pause frame", cast.say(reserved(1), 0x8808, &[0; 46])),
        no("F28", EtherType, "EAPOL", cast.say(reserved(3), 0x888e, &[0; 46])),
        no("F28", Ip4Mac, "IPv4 to a bridge", cast.say(reserved(0), 0x0800, &packet)),
    ]
}

/// F08, F09, F10, F30: whose it is and where it goes.
pub(super) fn addresses(cast: &Cast) -> Vec<Canary> {
    let Cast { mac, own4, own6, other, other4, other6, all4, .. } = *cast;
    let syn = tcp(SYN, b"");
    let hello = udp(5353, 5353, b"hello");
    let from4 = |src| cast.ip4_from(src, other4, TCP, &syn);
    let from6 = |src| cast.ip6_from(src, other6, TCP, &syn);
    let nobody4 = Ipv4Addr::UNSPECIFIED;
    let message = cast.arp(1, own4, other4);
    let arp_with = |at: usize, byte: u8| with(message.clone(), 14 + at, &[byte]);
    let by = |dst: MacAddr, frame: Vec<u8>| with(frame, 0, &dst.0);
    let ntp = Ipv4Addr::new(224, 0, 1, 1);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let site = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);
    vec![
        no("F08", Ip4Source, "IPv4 of another", from4(other4)),
        no("F08", Ip4Source, "IPv4 of nobody", from4(nobody4)),
        no("F08", Ip4Source, "IPv4 loopback", from4(Ipv4Addr::LOCALHOST)),
        no("F08", Ip4Source, "IPv4 of class E", from4(Ipv4Addr::new(240, 0, 0, 1))),
        no("F08", Ip4Source, "IPv4 broadcast", from4(all4)),
        no("F08", Ip6Source, "IPv6 of another", from6(other6)),
        no("F08", Ip6Source, "IPv6 of nobody", from6(Ipv6Addr::UNSPECIFIED)),
        no("F08", Ip6Source, "IPv6 loopback", from6(Ipv6Addr::LOCALHOST)),
        no("F08", Ip6Source, "IPv6 mapped", from6(own4.to_ipv6_mapped())),
        no("F08", Ip6Source, "IPv6 group", from6(ALL_NODES)),
        no("F08", Ip6Source, "a ping of nobody, IPv6", {
            cast.ip6_from(Ipv6Addr::UNSPECIFIED, ALL_NODES, ICMPV6, &icmp(128, &[0; 8]))
        }),
        no("F09", ArpSender, "gratuitous ARP of another", cast.arp(1, other4, other4)),
        no("F09", ArpSender, "an ARP reply of another", cast.arp(2, other4, own4)),
        no("F09", ArpSender, "an ARP reply of nobody", cast.arp(2, nobody4, other4)),
        no("F09", ArpSender, "ARP of another MAC", {
            cast.say(MacAddr::BROADCAST, 0x0806, &arp(1, other, own4, other4))
        }),
        no("F09", ArpTarget, "ARP beyond the segment", cast.arp(1, own4, metadata)),
        no("F09", ArpTarget, "ARP by a group", by(group4(ntp), message.clone())),
        no("F10", ArpForm, "ARP for another hardware", arp_with(1, 6)),
        no("F10", ArpForm, "ARP for IPv6", arp_with(2, 0x86)),
        no("F10", ArpForm, "ARP, hardware length", arp_with(4, 7)),
        no("F10", ArpForm, "ARP, protocol length", arp_with(5, 16)),
        no("F10", ArpSender, "ARP operation 0", arp_with(7, 0)),
        no("F10", ArpSender, "ARP operation 3", arp_with(7, 3)),
        no("F10", ArpSender, "InARP", arp_with(7, 8)),
        no("F10", ArpSender, "ARP operation 257", arp_with(6, 1)),
        no("F10", ArpTarget, "ARP cut short", message[..41].to_vec()),
        no("F30", Ip4Destination, "routed multicast", cast.ip4(ntp, UDP, &hello)),
        no("F30", Ip6Destination, "site multicast over IPv6", cast.ip6(site, UDP, &hello)),
        no("F30", Ip4Mac, "unicast by broadcast", {
            by(MacAddr::BROADCAST, cast.ip4(other4, UDP, &hello))
        }),
        no("F30", Ip6Mac, "unicast by broadcast, IPv6", {
            by(MacAddr::BROADCAST, cast.ip6(other6, UDP, &hello))
        }),
        no("F30", Ip4Mac, "broadcast by unicast", by(other, cast.ip4(all4, UDP, &hello))),
        no("F30", Ip4Mac, "multicast by unicast", {
            by(other, cast.ip4([224, 0, 0, 251].into(), UDP, &hello))
        }),
        no("F30", Ip6Mac, "multicast by unicast, IPv6", {
            by(other, cast.ip6(ALL_NODES, UDP, &hello))
        }),
        no("F30", Ip4Form, "IGMP with router alert", {
            let packet = ip4((own4, [224, 0, 0, 22].into()), 2, 0, &[0; 12]);
            cast.say(group4([224, 0, 0, 22].into()), 0x0800, &with(packet, 0, &[0x46]))
        }),
        no("F30", HiddenIcmp, "an MLD report", {
            cast.ip6(ALL_NODES, 0, &extension(ICMPV6, &icmp(143, &[0; 20])))
        }),
        no("F30", Mld, "an MLD report, plain", cast.ip6(ALL_NODES, ICMPV6, &icmp(143, &[0; 20]))),
        no("E07", ArpTarget, "ARP for loopback", {
            cast.say(mac, 0x0806, &arp(1, mac, own4, Ipv4Addr::LOCALHOST))
        }),
        no("E02", Ip6Source, "a solicitation from beyond", {
            let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            cast.ip6_from(far, solicited_node(own6), ICMPV6, &nd(135, 0, own6, b""))
        }),
    ]
}

/// F13, F14, F18 to F20, F29: what it carries.
pub(super) fn protocols(cast: &Cast) -> Vec<Canary> {
    let Cast { other4, other6, .. } = *cast;
    let plain4 = cast.ip4(other4, TCP, &tcp(SYN, b""));
    let plain6 = cast.ip6(other6, TCP, &tcp(SYN, b""));
    let udp4 = |src, dst| cast.ip4(other4, UDP, &udp(src, dst, &[0; 20]));
    let udp6 = |src, dst| cast.ip6(other6, UDP, &udp(src, dst, &[0; 20]));
    let part6 = |next, offset, more, rest: &[u8]| {
        cast.ip6(other6, FRAGMENT, &fragment6(next, offset, more, rest))
    };
    let behind = |next, rest: &[u8]| cast.ip6(other6, OPTIONS, &extension(next, rest));
    let offer = udp(67, 68, &[2; 296]);
    let options = cast.ip4(other4, TCP, &[1; 24]);
    vec![
        no("F13", DhcpServer, "a DHCP server", udp4(67, 68)),
        no("F13", DhcpServer, "one by another port", udp4(1067, 68)),
        no("F13", DhcpServer, "a DHCP relay", udp4(67, 67)),
        no("F13", DhcpServer, "an offer to all", cast.ip4(Ipv4Addr::BROADCAST, UDP, &offer)),
        no("F13", DhcpServer, "an offer in fragments", cast.part4(UDP, 0x2000, &offer)),
        no("F14", DhcpServer, "a DHCPv6 server", udp6(547, 546)),
        no("F14", DhcpServer, "a DHCPv6 reconfigure", udp6(1547, 546)),
        no("F14", DhcpServer, "a DHCPv6 relay", udp6(547, 547)),
        no("F14", DhcpServer, "a DHCPv6 offer behind options", {
            behind(UDP, &udp(547, 546, &[2; 96]))
        }),
        no("F14", DhcpServer, "a DHCPv6 offer in fragments", {
            part6(UDP, 0, true, &udp(547, 546, &[2; 96]))
        }),
        no("F17", FragmentedDhcp, "a DHCP question in fragments", {
            cast.part4(UDP, 0x2000, &udp(68, 67, &[1; 296]))
        }),
        no("F17", FragmentedDhcp, "a DHCPv6 question behind options", {
            behind(UDP, &udp(546, 547, &[1; 96]))
        }),
        no("F17", Ip4Source, "DHCP from nobody by unicast", {
            cast.ip4_from(Ipv4Addr::UNSPECIFIED, other4, UDP, &udp(68, 67, &[1; 240]))
        }),
        no("F17", Ip4Source, "a later fragment from nobody", {
            let (nobody, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
            let packet = ip4((nobody, all), UDP, 0x0400, &udp(68, 67, &[1; 240]));
            cast.say(MacAddr::BROADCAST, 0x0800, &packet)
        }),
        no("F17", Ip6Source, "a later fragment from nobody, IPv6", {
            let message = nd(135, 0, other6, b"");
            let part = fragment6(ICMPV6, 80, false, &message);
            cast.ip6_from(Ipv6Addr::UNSPECIFIED, solicited_node(other6), FRAGMENT, &part)
        }),
        no("F17", Ip4Source, "UDP from nobody", {
            cast.ip4_from(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, UDP, &udp(68, 69, &[1; 240]))
        }),
        no("F18", Ip4Form, "IPv4 options", with(options.clone(), 14, &[0x46])),
        no("F18", Ip4Form, "60 bytes of IPv4 options", with(options, 14, &[0x4f])),
        no("F18", Ip4Form, "an IPv4 header of 0", with(plain4.clone(), 14, &[0x40])),
        no("F18", Ip4Form, "an IPv4 header of 16", with(plain4.clone(), 14, &[0x44])),
        no("F19", TcpForm, "a tiny first fragment", {
            cast.part4(TCP, 0x2000, &tcp(SYN, b"")[..16])
        }),
        no("F19", TinyFragment, "TCP flags overlapped", cast.part4(TCP, 0x2001, &[0; 16])),
        no("F19", Fragment, "beyond 65535", cast.part4(UDP, 0x1fff, &[0; 96])),
        no("F19", Fragment, "an odd length", cast.part4(47, 0x2000, &[0; 101])),
        no("F19", Fragment, "an empty fragment", cast.part4(47, 0x2003, &[])),
        no("F19", TinyFragment, "a tiny first fragment, IPv6", {
            part6(TCP, 0, true, &tcp(SYN, b"")[..16])
        }),
        no("F19", TinyFragment, "TCP flags overlapped, IPv6", part6(TCP, 8, false, &[0; 16])),
        no("F19", Fragment, "an odd length, IPv6", part6(50, 0, true, &[0; 101])),
        no("F19", Fragment, "an empty first fragment, IPv6", part6(50, 0, true, &[])),
        no("F19", Fragment, "an empty later fragment, IPv6", part6(50, 80, false, &[])),
        no("F20", Ip4Form, "IPv6 as IPv4", with(plain4.clone(), 14, &[0x65])),
        no("F20", Ip6Form, "IPv4 as IPv6", with(plain6.clone(), 14, &[0x45])),
        no("F20", Ip6Form, "version 14 with a later fragment", {
            with(part6(OPTIONS, 80, false, &[7; 40]), 14, &[0xe0])
        }),
        no("F20", Ip4Form, "IPv4 longer than its frame", with(plain4.clone(), 17, &[41])),
        no("F20", Ip4Form, "a fragment longer than its frame", {
            with(cast.part4(UDP, 10, &[0; 80]), 17, &[101])
        }),
        no("F20", Ip6Form, "a first fragment longer than its frame, IPv6", {
            with(part6(50, 0, true, &[0; 80]), 19, &[96])
        }),
        no("F20", Ip6Form, "a later fragment longer than its frame, IPv6", {
            with(part6(50, 80, true, &[0; 80]), 19, &[96])
        }),
        no("F20", Ip6Form, "a ping longer than its frame, IPv6", {
            with(cast.ip6(other6, ICMPV6, &icmp(128, &[0; 8])), 19, &[17])
        }),
        no("F20", Ip4Form, "IPv4 shorter than its header", with(plain4.clone(), 17, &[19])),
        no("F20", TcpForm, "IPv6 longer than its frame", with(plain6.clone(), 19, &[21])),
        no("F20", Ip6Form, "another protocol, longer than its frame", {
            with(cast.ip6(other6, 50, &[0; 40]), 19, &[41])
        }),
        no("F20", Ip6Form, "a jumbogram", {
            with(cast.ip6(other6, 0, &extension(50, &[7; 80])), 19, &[0])
        }),
        no("F29", TcpFlags, "SYN and FIN", cast.ip4(other4, TCP, &tcp(3, b""))),
        no("F29", TcpFlags, "SYN and FIN over IPv6", cast.ip6(other6, TCP, &tcp(3, b""))),
        no("F29", TcpForm, "a data offset of 4", with(plain4.clone(), 46, &[0x40])),
        no("F29", TcpForm, "a data offset beyond", with(plain4, 46, &[0x60])),
        no("F29", TcpForm, "a data offset beyond, IPv6", with(plain6, 66, &[0x60])),
        no("F29", TcpForm, "19 bytes of TCP", cast.ip4(other4, TCP, &tcp(SYN, b"")[..19])),
        no("F29", TcpForm, "19 bytes of TCP, IPv6", cast.ip6(other6, TCP, &tcp(SYN, b"")[..19])),
        no("F29", UdpForm, "7 bytes of UDP", {
            let mut frame = cast.ip4(other4, UDP, &[7; 7]);
            frame.resize(60, 7);
            frame
        }),
        no("F29", UdpForm, "7 bytes of UDP, IPv6", longer(cast.ip6(other6, UDP, &[7; 7]))),
        no("F29", UdpForm, "a DHCPv6 question, UDP length of 7", with(udp6(546, 547), 59, &[7])),
        no("F29", UdpForm, "a UDP length of 7", with(udp4(1, 2), 39, &[7])),
        no("F29", UdpForm, "a UDP length of 7, IPv6", with(udp6(1, 2), 59, &[7])),
        no("F29", UdpForm, "a DHCP question, UDP length of 7", with(udp4(68, 67), 39, &[7])),
        no("F29", UdpForm, "a UDP length of 7 behind options", {
            behind(UDP, &with(udp(1, 2, &[0; 8]), 5, &[7]))
        }),
        no("F29", IcmpForm, "3 bytes of ICMPv6 in a fragment", part6(ICMPV6, 0, false, &[128; 3])),
        no("F29", IcmpForm, "3 bytes of ICMP", cast.ip4(other4, ICMP, &[8, 0, 0])),
        no("F29", IcmpForm, "7 bytes of ICMPv6", longer(cast.ip6(other6, ICMPV6, &[128; 7]))),
        no("F29", IcmpControl, "an ICMP redirect", cast.ip4(other4, ICMP, &icmp(5, &[0; 28]))),
        no("F29", IcmpControl, "an ICMP router", cast.ip4(other4, ICMP, &icmp(9, &[0; 8]))),
        no("F29", IcmpControl, "an ICMP mask request", cast.ip4(other4, ICMP, &icmp(17, &[0; 4]))),
    ]
}

/// F11, F12, F15, F16: neighbours and routers.
pub(super) fn neighbours(cast: &Cast) -> Vec<Canary> {
    let Cast { mac, own6, own_link, other, other6, .. } = *cast;
    let nobody6 = Ipv6Addr::UNSPECIFIED;
    let say = |message: &[u8]| cast.ip6(other6, ICMPV6, message);
    let solicit = |options: &[u8]| say(&nd(135, 0, other6, options));
    let own = link_option(1, mac);
    let nothing = [14, 0, 0, 0, 0, 0, 0, 0];
    let router = icmp(134, &[0; 8]);
    let rs = |src, options: &[u8]| {
        let message = [&[133, 0, 0, 0, 0, 0, 0, 0], options].concat();
        cast.ip6_from(src, ALL_ROUTERS, ICMPV6, &message)
    };
    let probe =
        |dst, options: &[u8]| cast.ip6_from(nobody6, dst, ICMPV6, &nd(135, 0, other6, options));
    let group = solicited_node(other6);
    let behind = |next: u8, rest: &[u8]| cast.ip6(ALL_NODES, next, rest);
    let part = |next, rest: &[u8]| behind(FRAGMENT, &fragment6(next, 0, false, rest));
    let options = extension(ICMPV6, &router);
    vec![
        no("F11", NdTarget, "an advertisement for another", cast.advert(other6, 0x60, other6)),
        no("F11", NdOption, "one with another's MAC", {
            say(&nd(136, 0x60, own6, &link_option(2, other)))
        }),
        no("F11", NdOption, "a solicitation with another's MAC", solicit(&link_option(1, other))),
        no("F11", NdForm, "one from afar", with(solicit(&own), 21, &[254])),
        no("F11", NdForm, "one with a code", with(solicit(&own), 55, &[1])),
        no("F11", NdForm, "one for a group", say(&nd(135, 0, ALL_NODES, b""))),
        no("F11", NdForm, "one for loopback", say(&nd(135, 0, Ipv6Addr::LOCALHOST, b""))),
        no("F11", NdForm, "one cut short", longer(say(&nd(135, 0, other6, b"")[..23]))),
        no("F11", NdForm, "one with an option of length 0", solicit(&nothing)),
        no("F11", NdForm, "an advertisement cut short", {
            longer(say(&nd(136, 0x60, own_link, b"")[..23]))
        }),
        no("F11", NdForm, "one from afar", with(cast.advert(other6, 0x60, own6), 21, &[254])),
        no("F11", NdForm, "one with an option of length 0", {
            say(&nd(136, 0x60, own6, &nothing))
        }),
        no("F11", NdForm, "a solicited one to all", cast.advert(ALL_NODES, 0x60, own6)),
        no("F11", NdForm, "duplicate detection with a MAC", probe(group, &own)),
        no("F11", NdForm, "duplicate detection to all", probe(ALL_NODES, b"")),
        no("F12", NdTarget, "duplicate detection denied", cast.advert(ALL_NODES, 0x20, other6)),
        no("F15", RouterAdvert, "a router advertisement", {
            cast.ip6_from(own_link, ALL_NODES, ICMPV6, &router)
        }),
        no("F15", Redirect, "a redirect", say(&icmp(137, &[0; 32]))),
        no("F15", NdOption, "a router solicitation with another's MAC", {
            rs(own_link, &link_option(1, other))
        }),
        no("F15", NdForm, "one with a MAC from nobody", rs(nobody6, &own)),
        no("F15", NdForm, "one with an option of length 0", rs(own_link, &nothing)),
        no("F15", NdForm, "one from afar", with(rs(own_link, b""), 21, &[254])),
        no("F16", HiddenIcmp, "RA behind hop-by-hop", behind(0, &options)),
        no("F16", HiddenIcmp, "RA behind options", behind(OPTIONS, &options)),
        no("F16", HiddenIcmp, "RA behind options twice", {
            behind(OPTIONS, &extension(OPTIONS, &options))
        }),
        no("F16", HiddenIcmp, "RA behind AH", {
            behind(51, &[&[ICMPV6, 4, 0, 0, 0, 0, 0, 1][..], &[0; 16], &router].concat())
        }),
        no("F16", FragmentedNd, "RA in an atomic fragment", part(ICMPV6, &router)),
        no("F16", FragmentedNd, "RA in a first fragment", {
            behind(FRAGMENT, &fragment6(ICMPV6, 0, true, &router))
        }),
        no("F16", HiddenIcmp, "RA in a fragment behind options", part(OPTIONS, &options)),
        no("F16", HiddenIcmp, "a ping in a fragment behind options", {
            part(OPTIONS, &extension(ICMPV6, &icmp(128, &[0; 8])))
        }),
        no("F16", FragmentedNd, "a solicitation in a fragment", {
            part(ICMPV6, &nd(135, 0, other6, &own))
        }),
        no("F16", Ip6Extension, "a fragment in a fragment", {
            part(FRAGMENT, &fragment6(TCP, 0, false, &tcp(SYN, b"")))
        }),
        no("F16", Ip6Extension, "hop-by-hop late", {
            behind(OPTIONS, &extension(0, &extension(50, b"12345678")))
        }),
        no("F16", Ip6Extension, "routing type 0", {
            behind(43, &with(extension(50, b"12345678"), 2, &[0, 0]))
        }),
    ]
}

/// What the data plane must not hand to the guest, should it be taken over.
pub(super) fn data(cast: &Cast) -> Vec<Canary> {
    let Cast { mac, other, own4, other4, .. } = *cast;
    let row = |id, stop, name, frame| Canary { from: Side::Data, ..no(id, stop, name, frame) };
    let packet = ip4((other4, own4), TCP, 0, &tcp(SYN, b""));
    let mut third = other;
    third.0[4] ^= 1;
    let plain = ethernet(mac, other, 0x0800, &packet);
    vec![
        row("F02", InTagged, "a priority tag", tagged(&[0x81, 0, 0xe0, 0], &plain)),
        row("F04", InTagged, "a service tag", tagged(&[0x88, 0xa8, 0, 5], &plain)),
        row("F01", InEtherType, "another EtherType", ethernet(mac, other, 0x88b5, &[0; 46])),
        row("F06", InEtherType, "SNAP", {
            let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
            ethernet(mac, other, 48, &[&snap[..], &packet].concat())
        }),
        row(
            "R03",
            InOwnMac,
            "the guest's own frame",
            ethernet(MacAddr::BROADCAST, mac, 0x0800, &packet),
        ),
        row("G5", InForeignMac, "a frame for another", ethernet(third, other, 0x0800, &packet)),
    ]
}

/// E01 to E09: ways out. An address that the order routes is none.
pub(super) fn escapes(cast: &Cast, spec: &WireSpec) -> Vec<Canary> {
    let probe = udp(9999, 80, b"escape");
    let inside = spec.destinations_v4();
    let to4 = |id, name, dst: [u8; 4]| {
        let dst = Ipv4Addr::from(dst);
        let row = no(id, Ip4Destination, name, cast.ip4(dst, UDP, &probe));
        (!inside.contain(dst)).then_some(row)
    };
    let to6 = |id, name, dst: [u16; 8]| {
        let dst = Ipv6Addr::from(dst);
        let row = no(id, Ip6Destination, name, cast.ip6(dst, UDP, &probe));
        (!spec.segment.contains_ipv6(dst)).then_some(row)
    };
    [
        to4("E01", "to a host of this LAN", [192, 168, 1, 2]),
        to4("E03", "to a router's page", [192, 168, 1, 1]),
        to4("E03", "to another private network", [172, 17, 0, 1]),
        to4("E03", "to the carrier's network", [100, 64, 0, 1]),
        to4("E04", "to the metadata address", [169, 254, 169, 254]),
        to4("E04", "to another metadata address", [100, 100, 100, 200]),
        to6("E04", "to a metadata address, IPv6", [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]),
        to4("E05", "to the internet", [1, 1, 1, 1]),
        to6("E05", "to the internet, IPv6", [0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111]),
        to6("E05", "to 6to4", [0x2002, 0x0101, 0x0101, 0, 0, 0, 0, 1]),
        to6("E05", "to NAT64", [0x64, 0xff9b, 0, 0, 0, 0, 0x0101, 0x0101]),
        to4("E07", "to loopback", [127, 0, 0, 1]),
        to6("E07", "to loopback, IPv6", [0, 0, 0, 0, 0, 0, 0, 1]),
        to6("E07", "to a mapped address", [0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]),
        to6("E02", "to site-local", [0xfec0, 0, 0, 0, 0, 0, 0, 1]),
        to4("E09", "to nobody's address", [0, 0, 0, 0]),
    ]
    .into_iter()
    .flatten()
    .collect()
}
