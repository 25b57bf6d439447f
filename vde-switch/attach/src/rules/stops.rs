//! The names under which the rules count what they stop.

use std::fmt;

macro_rules! stops {
    ($($variant:ident $name:literal $text:literal)*) => {
        /// A reason to stop a frame between a guest and its data plane: the name of a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Stop {
            $(#[doc = $text] $variant,)*
        }

        /// Every reason, with its counter's name and a sentence.
        pub const STOPS: &[(Stop, &str, &str)] = &[$((Stop::$variant, $name, $text),)*];
    };
}

stops! {
    // From the guest, by what it is.
    Tagged "tagged" "The frame carries a VLAN tag."
    SourceMac "source-mac" "The source MAC address is not the guest's."
    ZeroMac "zero-mac" "The destination MAC address is zero."
    TooLong "too-long" "The packet is longer than the MTU and cannot be a super-frame."
    EtherType "ethertype" "The frame is neither IPv4, ARP nor IPv6."
    ArpForm "arp-form" "The ARP message is not for IPv4 over Ethernet."
    ArpSender "arp-sender" "The ARP message is no request or reply in the guest's name."
    ArpTarget "arp-target" "The ARP message asks beyond the segment, by a group, or is cut short."
    ArpRate "arp-rate" "The guest sends too much ARP."
    Ip4Form "ip4-form" "The IPv4 header has options, another version, or a false length."
    Ip4Source "ip4-source" "The IPv4 source is not the guest's."
    Ip4Destination "ip4-destination" "The IPv4 destination is not on the segment, or cut off."
    Ip4Mac "ip4-mac" "The destination MAC address does not suit the IPv4 destination."
    Ip6Form "ip6-form" "The IPv6 header or one behind it has a false length."
    Ip6Source "ip6-source" "The IPv6 source is not the guest's."
    Ip6Destination "ip6-destination" "The IPv6 destination is not on the segment, or cut off."
    Ip6Mac "ip6-mac" "The destination MAC address does not suit the IPv6 destination."
    Ip6Extension "ip6-extension" "The IPv6 extension headers are out of order, or route."
    Fragment "fragment" "The fragment's offset and length cannot be."
    TinyFragment "tiny-fragment" "The fragment hides a part of the transport header."
    FragmentedDhcp "fragmented-dhcp" "A DHCP message comes in fragments or behind extensions."
    FragmentedNd "fragmented-nd" "Neighbour discovery or multicast control comes in fragments."
    HiddenIcmp "hidden-icmp" "An ICMPv6 message hides behind extension headers."
    TcpForm "tcp-form" "The TCP header is cut short, or has a false data offset."
    TcpFlags "tcp-flags" "The TCP header has SYN and FIN."
    UdpForm "udp-form" "The UDP header is cut short, or says a length below 8."
    IcmpForm "icmp-form" "The ICMP header is cut short."
    IcmpControl "icmp-control" "ICMP that redirects, advertises routers or asks for masks."
    DhcpServer "dhcp-server" "The guest plays DHCP server."
    RouterAdvert "router-advert" "The guest plays IPv6 router."
    Redirect "nd-redirect" "The guest redirects others by ICMPv6."
    Mld "mld" "A multicast listener report, which nobody needs here."
    NdForm "nd-form" "The neighbour discovery message breaks RFC 4861."
    NdTarget "nd-target" "The neighbour advertisement speaks for another station."
    NdOption "nd-option" "The neighbour discovery message names another MAC address."
    NdRate "nd-rate" "The guest sends too much neighbour discovery."
    AskRate "ask-rate" "The guest asks too often for its configuration."
    GroupRate "group-rate" "The guest sends too many packets to groups."
    // From the data plane.
    InTagged "in-tagged" "A frame for the guest carries a VLAN tag."
    InOwnMac "in-own-mac" "A frame for the guest bears its own MAC address as the source."
    InForeignMac "in-foreign-mac" "A frame for the guest is addressed to another station."
    InEtherType "in-ethertype" "A frame for the guest is neither IPv4, ARP nor IPv6."
    // From nobody who may speak.
    HostSpeaks "host-speaks" "The host itself sends to the guest's interface."
}

impl Stop {
    /// Returns the counter's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        STOPS[self as usize].1
    }

    /// Says in a sentence what was wrong.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        STOPS[self as usize].2
    }

    /// Finds it by its counter's name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        STOPS.iter().find(|(_, known, _)| *known == name).map(|(stop, ..)| *stop)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
