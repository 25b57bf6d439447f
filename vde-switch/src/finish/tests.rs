use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frames::*;

const MTU: u16 = 1500;

fn finish(frame: &[u8], header: [u8; 12]) -> Result<Vec<Vec<u8>>, VnetError> {
    let mut all = Vec::new();
    let hdr = VnetHdr::parse(&header)?;
    Finisher::default().finish(&hdr, frame, MTU, |segment| all.push(segment.to_vec()))?;
    Ok(all)
}

/// What an independent parser reads from a frame: its sums must be right.
struct Read {
    id: u16,
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
}

fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole packet");
    let (id, len) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.identification, usize::from(header.total_len))
        }
        NetSlice::Ipv6(ip) => (0, 40 + usize::from(ip.header().payload_length())),
        other => panic!("{other:?}"),
    };
    assert_eq!(len + 14, frame.len(), "the packet is not the frame");
    assert!(len <= usize::from(MTU), "{len} bytes");
    match (packet.transport.as_ref().expect("a transport"), packet.net.as_ref().expect("IP")) {
        (TransportSlice::Tcp(tcp), net) => {
            let header = tcp.to_header();
            let sum = match net {
                NetSlice::Ipv4(ip) => {
                    header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
                }
                NetSlice::Ipv6(ip) => {
                    header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(sum.expect("it fits"), header.checksum);
            let flags = frame[frame.len() - tcp.payload().len() - tcp.header_len() + 13];
            Read { id, seq: header.sequence_number, flags, payload: tcp.payload().to_vec() }
        }
        (TransportSlice::Udp(udp), net) => {
            let header = udp.to_header();
            let sum = match net {
                NetSlice::Ipv4(ip) => {
                    header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                }
                NetSlice::Ipv6(ip) => {
                    header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(sum.expect("it fits"), header.checksum);
            assert_ne!(header.checksum, 0, "0 means that there is none");
            assert_eq!(usize::from(header.length), 8 + udp.payload().len());
            Read { id, seq: 0, flags: 0, payload: udp.payload().to_vec() }
        }
        (other, _) => panic!("{other:?}"),
    }
}

/// A super-frame or plain frame that Linux would make, with its header.
fn left_undone(
    v6: bool,
    is_tcp: bool,
    flags: u8,
    payload: &[u8],
    step: u16,
) -> (Vec<u8>, [u8; 12]) {
    let (protocol, segment, offset) =
        if is_tcp { (TCP, tcp(flags, payload), 16) } else { (UDP, udp(5000, 5001, payload), 6) };
    let start = if v6 { 54 } else { 34 };
    let mut frame =
        if v6 { alice6(BOB6, protocol, &segment) } else { alice4(BOB4, protocol, &segment) };
    if !v6 {
        // The sender's kernel leaves the sum of the transport undone, never that of IPv4.
        let sum = !fold(add(0, &frame[14..34]));
        put16(&mut frame, 24, sum);
    }
    let header_len = (frame.len() - payload.len()) as u16;
    let header = if payload.len() <= usize::from(step) {
        vnet(1, 0, 0, 0, start, offset)
    } else {
        let kind = match (is_tcp, v6) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        vnet(1, kind, header_len, step, start, offset)
    };
    (frame, header)
}

proptest! {
    /// Joined again, the segments are what was to be cut, and an independent parser likes each.
    #[test]
    fn segments_joined_again_are_the_super_frame(
        v6: bool,
        is_tcp: bool,
        flags in prop::sample::select(vec![0x10_u8, 0x18, 0x11, 0x90, 0x99]),
        payload in vec(any::<u8>(), 1..9000),
        step in 256_u16..1400,
    ) {
        let (frame, header) = left_undone(v6, is_tcp, flags, &payload, step);
        let segments = finish(&frame, header).unwrap();
        prop_assert_eq!(segments.len(), payload.len().div_ceil(step.into()));
        let read: Vec<_> = segments.iter().map(|segment| read(segment)).collect();
        let joined: Vec<_> = read.iter().flat_map(|read| read.payload.clone()).collect();
        prop_assert!(joined == payload);
        let last = read.len() - 1;
        for (i, read) in read.iter().enumerate() {
            prop_assert!(i == last || read.payload.len() == usize::from(step));
            prop_assert_eq!(read.id, if v6 { 0 } else { 7 + i as u16 });
            if is_tcp {
                prop_assert_eq!(read.seq, 1 + (i * usize::from(step)) as u32);
                let mut expected = flags;
                if i != last { expected &= !0x09; }
                if i != 0 { expected &= !0x80; }
                prop_assert_eq!(read.flags, expected);
            }
        }
    }

    /// Whatever a header says of whatever bytes, nothing panics and nothing too long comes out.
    #[test]
    fn hostile_headers_are_refused_or_harmless(
        mut frame in vec(any::<u8>(), 0..3000),
        header: [u8; 12],
        ip in prop::sample::select(vec![[8_u8, 0, 0x45], [0x86, 0xdd, 0x60]]),
    ) {
        if let Some(head) = frame.get_mut(12..15) {
            head.copy_from_slice(&ip);
        }
        if let Ok(segments) = finish(&frame, header) {
            prop_assert!(segments.iter().all(|one| one.len() <= usize::from(MTU) + 14));
        }
    }
}

#[test]
fn counters_wrap_as_the_protocols_say() {
    let (mut frame, header) = left_undone(false, true, ACK, &[7; 3000], 1000);
    frame[18..20].copy_from_slice(&[0xff, 0xff]); // IPv4 id
    frame[38..42].copy_from_slice(&[0xff; 4]); // sequence number
    let read: Vec<_> = finish(&frame, header).unwrap().iter().map(|one| read(one)).collect();
    assert_eq!(read.iter().map(|one| one.id).collect::<Vec<_>>(), [0xffff, 0, 1]);
    assert_eq!(read.iter().map(|one| one.seq).collect::<Vec<_>>(), [u32::MAX, 999, 1999]);
}

#[test]
fn a_frame_that_asks_for_nothing_passes_as_it_is() {
    let frame = padded(arp(ALICE, BROADCAST, 1, ALICE4, BOB4));
    assert_eq!(finish(&frame, [0; 12]), Ok(vec![frame.clone()]));
    let (frame, _) = left_undone(false, true, ACK, &[1; 100], 1000);
    assert_eq!(finish(&frame, vnet(2, 0, 0, 0, 0, 0)), Ok(vec![frame.clone()]));
}

#[test]
fn padding_is_neither_summed_nor_lost() {
    let (frame, header) = left_undone(false, false, 0, b"name", 1000);
    let frame = padded(frame);
    let done = finish(&frame, header).unwrap().remove(0);
    assert_eq!(done.len(), frame.len());
    read(&done[..14 + 20 + 8 + 4]);
}

#[test]
fn nothing_comes_out_of_what_is_refused() {
    let (frame, mut header) = left_undone(false, true, ACK, &[7; 3000], 1000);
    header[8] = 99; // the checksum is somewhere else
    assert!(finish(&frame, header).is_err());
}

#[test]
fn no_buffer_grows_with_what_is_cut() {
    let (frame, header) = left_undone(true, true, ACK, &[7; 9000], 1000);
    let mut finisher = Finisher::default();
    let hdr = VnetHdr::parse(&header).unwrap();
    for _ in 0..100 {
        finisher.finish(&hdr, &frame, MTU, |_| {}).unwrap();
    }
    assert!(finisher.segment.capacity() <= 4096, "{}", finisher.segment.capacity());
}

#[test]
fn a_udp_sum_of_zero_is_written_as_all_ones() {
    let mut zeros = 0;
    for word in 0..=u16::MAX {
        let (frame, header) = left_undone(true, false, 0, &word.to_be_bytes(), 1000);
        let done = finish(&frame, header).unwrap().remove(0);
        assert_ne!(done[60..62], [0, 0], "payload {word:#06x}");
        zeros += u32::from(done[60..62] == [0xff, 0xff]);
    }
    assert_eq!(zeros, 1, "exactly one payload sums up to zero");
}
