//! Doors for fuzz targets and stored inputs: any bytes go in, nothing panics, properties hold.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Frame;
use crate::mac::MacAddr;
use crate::parse::Parsed;
use crate::policy::Policy;
use crate::station::{Broadcast, Segment, Station};
use crate::verdict::DropReason;
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
    Policy::new(&[STATION], SEGMENT).check(&Frame { hdr: VnetHdr::default(), bytes })
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
