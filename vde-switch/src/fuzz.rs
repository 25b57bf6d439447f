//! Doors for fuzz targets and stored inputs: any bytes go in, nothing panics, properties hold.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::answer::ANSWER_LEN_MAX;
use crate::frame::Frame;
use crate::mac::MacAddr;
use crate::parse::Parsed;
use crate::policy::Policy;
use crate::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
use crate::serve::{DNS_MAX, GuestConfig, ROUTES_MAX};
use crate::station::{Broadcast, Segment, Station};
use crate::switch::Switch;
use crate::time::Instant;
use crate::verdict::{DropReason, Verdict};
use crate::vnet::VnetHdr;

/// The segment that stored inputs are about.
pub const SEGMENT: Segment = Segment {
    ipv4: (Ipv4Addr::new(10, 77, 0, 0), 24),
    ipv6: (Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 0), 64),
    mtu: 1500,
    broadcast: Broadcast::On,
};

/// The station that sends them.
pub const STATION: Station = Station {
    mac: MacAddr([2, 0, 0, 0, 0, 0x0a]),
    ipv4: Ipv4Addr::new(10, 77, 0, 10),
    ipv6: Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 0x0a),
};

/// Takes any frame to a port where [`STATION`] may speak.
///
/// # Errors
/// The policy's reason.
pub fn port_policy(bytes: &[u8]) -> Result<Parsed, DropReason> {
    Policy::new(&[STATION], SEGMENT).check(&mut Frame { hdr: VnetHdr::default(), bytes })
}

/// Takes any DHCPv4 message of [`STATION`]'s to its port, and says whether it is answered.
///
/// # Panics
/// If it leaves the port, or is answered to another or by too much.
pub fn dhcp4(message: &[u8]) -> bool {
    let message = &message[..message.len().min(MESSAGE_LEN_MAX)];
    let mut frame = [&MacAddr::BROADCAST.0, &STATION.mac.0, &[8, 0, 0x45, 0][..]].concat();
    frame.extend((message.len() as u16 + 28).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    asks(frame, message)
}

/// The same for DHCPv6.
///
/// # Panics
/// As [`dhcp4`].
pub fn dhcp6(message: &[u8]) -> bool {
    let message = &message[..message.len().min(MESSAGE_LEN_MAX)];
    let mut frame = [&[0x33, 0x33, 0, 1, 0, 2], &STATION.mac.0, &[0x86, 0xdd][..]].concat();
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16 + 8).to_be_bytes());
    frame.extend([17, 1]);
    frame.extend(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x0a).octets());
    frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).octets());
    frame.extend([2, 34, 2, 35]);
    asks(frame, message)
}

/// Longest message that fits the segment's MTU behind its headers, in bytes.
const MESSAGE_LEN_MAX: usize = 1400;

fn asks(mut frame: Vec<u8>, message: &[u8]) -> bool {
    frame.extend((message.len() as u16 + 8).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    let (port, kind) = (PortId(0), PortKind::Attachment);
    let (stations, learning, hands_on) = (vec![STATION], Learning::Off, HandsOn::No);
    let mut switch = Switch::new(SEGMENT);
    let config = PortConfig { kind, stations, learning, hands_on };
    switch.set_port(port, config).expect("a port of a station's own");
    let dns = vec![SEGMENT.service_ipv6().into(); DNS_MAX];
    let routes = vec![(Ipv4Addr::new(192, 168, 9, 0), 24, STATION.ipv4); ROUTES_MAX];
    let guest = GuestConfig { hostname: "g1".into(), domain: "farm.internal".into(), dns, routes };
    switch.serve(port, guest).expect("a guest that can be told so");
    let mut asked = Frame { hdr: VnetHdr::default(), bytes: &frame };
    match switch.forward(port, &mut asked, Instant::ZERO) {
        Verdict::Drop(_) => false,
        Verdict::Forward(_) | Verdict::Flood(_) => panic!("a question left its port"),
        Verdict::Answer => {
            let answer = switch.answer();
            assert!(answer.len() <= ANSWER_LEN_MAX, "{} bytes of answer", answer.len());
            assert!(answer[..6] == STATION.mac.0 || answer[0] & 1 == 1, "told to another");
            true
        }
    }
}

/// Takes any virtio-net header with the frame behind it, and says whether it would be let pass.
///
/// # Panics
/// If a header passes that would not pass again on the other side, or reaches beyond its frame.
pub fn vnet_hdr(bytes: &[u8]) -> bool {
    let Some((header, frame)) = bytes.split_first_chunk::<{ VnetHdr::LEN }>() else {
        return false;
    };
    let Ok(parsed) = VnetHdr::parse(header) else { return false };
    let mut emitted = [0; VnetHdr::LEN];
    parsed.emit(&mut emitted);
    assert_eq!(VnetHdr::parse(&emitted), Ok(parsed), "a header reads as it was written");
    let passes = parsed.check(frame, SEGMENT.mtu).is_ok();
    if passes && parsed.needs_csum {
        let layout = parsed.layout(frame).expect("a checked header has a transport header");
        let field = layout.l4 + usize::from(parsed.csum_offset);
        assert!(field + 2 <= layout.payload && layout.payload <= layout.end);
        assert!(layout.end <= frame.len());
    }
    passes
}
