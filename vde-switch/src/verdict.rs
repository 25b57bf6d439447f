//! What becomes of a frame: one [`Verdict`] each, and every drop has a name.

use std::fmt;

use crate::port::PortId;

/// The switch's answer to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to this port.
    Forward(PortId),
    /// Give a copy to each of [`Switch::flood_ports`](crate::switch::Switch::flood_ports).
    Flood(FloodTo),
    /// Give [`Switch::answer`](crate::switch::Switch::answer), which has no virtio-net header of
    /// note, back to the port that this frame came from.
    Answer,
    /// Forget it.
    Drop(DropReason),
}

/// Which ports a flood is meant for, the ingress port never among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodTo {
    /// All: the frame is for a group.
    All,
    /// Those that learn: the station is nowhere in the roster, so it may be on a bridged LAN.
    Learning,
}

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $text:literal)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name that counters and logs use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Says in a sentence what was wrong.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    // What no frame may be.
    Runt "runt" "The frame is shorter than an Ethernet header."
    TooLong "too-long" "The frame is longer than the segment's MTU allows, and no super-frame."
    BadOffload "bad-offload" "The virtio-net header does not fit the frame that it came with."
    Tagged "tagged" "The frame carries a VLAN tag."
    Llc "llc" "The frame has a length in place of an EtherType."
    EtherType "ethertype" "The EtherType is neither IPv4, ARP nor IPv6."
    ReservedGroup "reserved-group" "The destination is reserved for bridges (01:80:c2)."
    BadArp "bad-arp" "The ARP message is cut short, or not a request or reply for IPv4."
    BadVersion "bad-version" "The IP version is not the one that the EtherType names."
    BadHeader "bad-header" "An IP or transport header is cut short or says it is."
    BadLength "bad-length" "The length in the IP header is not that of the packet."
    TrailingBytes "trailing-bytes" "Bytes follow the packet."
    Ipv4Options "ipv4-options" "The IPv4 header has options."
    ExtensionChain "extension-chain" "The IPv6 extension headers are too many or out of order."
    RoutingHeader "routing-header" "The packet has an IPv6 routing header of type 0."
    BadFragment "bad-fragment" "The fragment's offset and length cannot be."
    TinyFragment "tiny-fragment" "The fragment hides a part of the transport header."
    FragmentedDhcp "fragmented-dhcp" "A DHCP message comes in fragments."
    FragmentedNd "fragmented-nd" "A neighbour discovery message comes in fragments."
    IcmpBehindExtension "icmp-behind-extension" "An ICMPv6 message hides behind extension headers."
    BadTcp "bad-tcp" "The TCP header has a false data offset, or SYN and FIN."
    BadUdp "bad-udp" "The UDP length is less than 8 or more than the packet."
    BadNd "bad-nd" "The neighbour discovery message breaks RFC 4861."
    BadDhcp "bad-dhcp" "The DHCP message lies about a length or lacks what it must say."
    // What no station may say.
    DhcpServer "dhcp-server" "A station plays DHCP server."
    DhcpClient "dhcp-client" "A station asks for DHCP where nobody serves it."
    ForeignDhcp "foreign-dhcp" "The DHCP message is in the name of another station."
    OtherDhcpServer "other-dhcp-server" "The DHCP message is for another server than ours."
    RouterAdvertisement "router-advertisement" "A station plays IPv6 router."
    RouterSolicitation "router-solicitation" "A station asks for a router where nobody serves it."
    Redirect "redirect" "A station redirects others by ICMP."
    IcmpConfig "icmp-config" "An ICMP message of router discovery or address masks."
    Mld "mld" "A multicast listener report, which nobody needs here."
    Igmp "igmp" "A multicast group report, which nobody needs here."
    // What this station may not say.
    ForeignMac "foreign-mac" "The source MAC address is not one of the port's stations."
    ForeignIpv4 "foreign-ipv4" "The IPv4 source is not the station's address."
    ForeignIpv6 "foreign-ipv6" "The IPv6 source is not the station's address."
    SpoofedArp "spoofed-arp" "The ARP sender is not the station that sent the frame."
    SpoofedNd "spoofed-nd" "The neighbour discovery message speaks for another station."
    LinkLocalTaken "link-local-taken" "The link-local address belongs to another station."
    LinkLocalLimit "link-local-limit" "The station uses too many link-local addresses."
    OutsideSegment "outside-segment" "The IP destination or ARP target is not on the segment."
    MacMismatch "mac-mismatch" "The destination MAC address does not suit the IP destination."
    // What needs no carrying.
    DhcpNotice "dhcp-notice" "A station gives up or declines its address, which stays granted."
    OwnAddress "own-address" "A station asks after its own address; silence says it is free."
    NoSuchStation "no-such-station" "A station asks for an address that nobody has."
    Unsolicited "unsolicited" "An announcement; the addresses come from the roster."
    NeighbourOnUplink "neighbour-on-uplink" "A neighbour query that its sender's switch answers."
    // Where it cannot go.
    NoSuchPort "no-such-port" "The frame came in by a port that is not set."
    UnknownDestination "unknown-destination" "No port has the destination MAC address."
    Hairpin "hairpin" "The destination is behind the port that the frame came from."
    NotForUs "not-for-us" "A frame from one uplink is for a station behind another."
    Reflected "reflected" "A station's own frame came back by an uplink."
    BroadcastOff "broadcast-off" "The order does not carry group frames."
    GroupRate "group-rate" "The port sends too many group frames."
    ArpRate "arp-rate" "The port asks too often by ARP."
    NdRate "nd-rate" "The port sends too much neighbour discovery."
    Dhcp4Rate "dhcp4-rate" "The port asks too often by DHCPv4."
    Dhcp6Rate "dhcp6-rate" "The port asks too often by DHCPv6."
    RouterRate "router-rate" "The port asks too often for a router."
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_kebab_name_of_its_own_and_one_sentence() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(reason.name().chars().all(kebab), "{reason}");
            assert!(reason.describe().ends_with('.'), "{reason}");
        }
    }
}
