//! The frames that the simulated guests send: UDP over IPv4 with a number by which they are known
//! again.

use std::net::Ipv4Addr;

use overlay_proto::cut::sum_ipv4_header;
use vde_switch::mac::MacAddr;
use vde_switch::station::Station;

/// What the payload begins with.
const MAGIC: [u8; 4] = *b"sim!";
/// Where the payload begins.
const PAYLOAD_AT: usize = 14 + 20 + 8;
/// Magic and number, in bytes.
pub const PAYLOAD_LEN_MIN: usize = 12;

/// Makes a frame with this number; no destination station makes it a broadcast.
#[must_use]
pub fn make(from: &Station, to: Option<&Station>, id: u64, payload_len: usize) -> Vec<u8> {
    let (mac, ipv4) = match to {
        Some(to) => (to.mac, to.ipv4),
        None => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
    };
    let payload_len = payload_len.max(PAYLOAD_LEN_MIN);
    let mut frame = [mac.0, from.mac.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((28 + payload_len) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.ipv4.octets());
    frame.extend(ipv4.octets());
    sum_ipv4_header(&mut frame[14..34]);
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend(((8 + payload_len) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(MAGIC);
    frame.extend(id.to_be_bytes());
    frame.resize(PAYLOAD_AT + payload_len, 0x5a);
    frame
}

/// Returns source MAC address, source IPv4 address and number of a frame made here.
#[must_use]
pub fn read(frame: &[u8]) -> Option<(MacAddr, Ipv4Addr, u64)> {
    let mac = MacAddr(*frame.get(6..)?.first_chunk()?);
    let ipv4 = Ipv4Addr::from(*frame.get(26..)?.first_chunk::<4>()?);
    let payload = frame.get(PAYLOAD_AT..)?.strip_prefix(&MAGIC)?;
    Some((mac, ipv4, u64::from_be_bytes(*payload.first_chunk()?)))
}
