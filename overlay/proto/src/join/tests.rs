//! Cutting and joining are inverse: what one end cuts, the other joins to the same bytes.

use proptest::prelude::*;

use super::*;
use crate::cut::{Cut, clamp_mss};
use crate::path::Via;
use crate::transmit::Sent;

/// A tap that keeps what it is given.
#[derive(Default)]
struct Tap(Vec<(VnetHdr, Vec<u8>)>);

impl Io for Tap {
    fn deliver(&mut self, _: LocalPort, hdr: &VnetHdr, parts: &[IoSlice<'_>]) -> Delivered {
        self.0.push((*hdr, parts.iter().flat_map(|part| part.to_vec()).collect()));
        Delivered::Done
    }
    fn transmit(&mut self, _: Via, _: usize, _: &[u8]) -> Sent {
        Sent::Done
    }
}

/// A TCP frame as a kernel hands it to a tap with offloads: the checksum holds the pseudo-header.
fn tcp_frame(ip: Ip, payload_len: usize, flags: u8, options: &[u8]) -> Vec<u8> {
    let tcp_len = 20 + options.len() + payload_len;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let mut sum = 0_u32;
    match ip {
        Ip::V4 => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(((20 + tcp_len) as u16).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            sum_ipv4_header(&mut frame[14..34]);
        }
        Ip::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp_len as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([0xfd; 32]);
        }
    }
    let addresses = if ip == Ip::V4 { 26..34 } else { 22..54 };
    for pair in frame[addresses].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    sum += 6 + tcp_len as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 1, 0, 0, 0, 2, 0]);
    frame.extend([((5 + options.len() / 4) << 4) as u8, flags, 0xff, 0xff]);
    frame.extend((sum as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(options);
    frame.extend((0..payload_len).map(|i| (i * 7 + i / 251) as u8));
    frame
}

fn segments(frame: &[u8], cut: &Cut) -> Vec<Vec<u8>> {
    (0..cut.count)
        .map(|index| {
            let mut out = vec![0; cut.segment_len(index)];
            cut.write_segment(frame, index, &mut out);
            out
        })
        .collect()
}

fn join(segments: &[Vec<u8>], lost: &[usize]) -> Vec<(VnetHdr, Vec<u8>)> {
    let (mut joiner, mut tap, mut arena) = (Joiner::default(), Tap::default(), Vec::new());
    for (index, bytes) in segments.iter().enumerate().filter(|(i, _)| !lost.contains(i)) {
        let start = arena.len();
        arena.extend(bytes);
        let segment = Segment {
            port: LocalPort(0),
            number: 9,
            index: index as u8,
            flags: Flags::CSUM,
            range: start..arena.len(),
        };
        if !joiner.extend(&segment, &arena) {
            joiner.finish(&arena, &mut tap);
            if !joiner.start(&segment, Layout::of(bytes).unwrap(), &arena) {
                let hdr = VnetHdr::default();
                tap.deliver(segment.port, &hdr, &[IoSlice::new(bytes)]);
            }
        }
    }
    joiner.finish(&arena, &mut tap);
    tap.0
}

fn payloads(joined: &[(VnetHdr, Vec<u8>)], layout: Layout) -> Vec<u8> {
    joined.iter().flat_map(|(_, frame)| frame[layout.payload..].to_vec()).collect()
}

proptest! {
    #[test]
    fn a_super_frame_arrives_as_it_left(
        v6 in any::<bool>(),
        payload_len in 1..60_000_usize,
        frame_len_max in 600..1500_usize,
        push in any::<bool>(),
    ) {
        let ip = if v6 { Ip::V6 } else { Ip::V4 };
        let flags = if push { 0x18 } else { 0x10 };
        let frame = tcp_frame(ip, payload_len, flags, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let layout = Layout::of(&frame).unwrap();
        let cut = Cut::plan(layout, frame_len_max, 1448, false).unwrap();
        let segments = segments(&frame, &cut);
        for segment in &segments {
            prop_assert!(segment.len() <= frame_len_max);
            let hdr = VnetHdr {
                needs_csum: true, csum_start: layout.l4 as u16, csum_offset: 16,
                ..VnetHdr::default()
            };
            prop_assert!(hdr.check(segment, 1500).is_ok());
        }
        let joined = join(&segments, &[]);
        let bytes = payloads(&joined, layout);
        prop_assert_eq!(&bytes, &frame[layout.payload..]);
        if cut.count <= PARTS_MAX {
            prop_assert_eq!(joined.len(), 1);
            prop_assert_eq!(&joined[0].1, &frame);
        }
        for (hdr, frame) in &joined {
            prop_assert!(hdr.check(frame, 1500).is_ok(), "{:?}", hdr);
        }
    }

    #[test]
    fn a_lost_segment_costs_nothing_but_itself(lost in 0..20_usize) {
        let frame = tcp_frame(Ip::V4, 20 * 1000, 0x10, &[]);
        let layout = Layout::of(&frame).unwrap();
        let cut = Cut::plan(layout, 1054, 1000, false).unwrap();
        let joined = join(&segments(&frame, &cut), &[lost]);
        let bytes = payloads(&joined, layout);
        let mut expected = frame[layout.payload..].to_vec();
        expected.drain(lost * 1000..(lost + 1) * 1000);
        prop_assert_eq!(bytes, expected);
    }
}

#[test]
fn a_segment_of_another_flow_is_never_joined() {
    let frame = tcp_frame(Ip::V4, 3000, 0x10, &[]);
    let cut = Cut::plan(Layout::of(&frame).unwrap(), 1054, 1000, false).unwrap();
    for at in [0, 6, 26, 30, 34, 37] {
        let mut segments = segments(&frame, &cut);
        segments[1][at] ^= 0x11;
        let joined = join(&segments[..2], &[]);
        assert_eq!(joined.len(), 2, "byte {at} was ignored");
    }
}

#[test]
fn the_mss_of_a_syn_is_lowered_and_its_checksum_follows() {
    let options = [1, 2, 4, 5, 180, 1, 1, 0]; // an odd offset on purpose: MSS 1460
    let complete = |frame: &[u8]| {
        let mut sum = 6 + (frame.len() - 34) as u32;
        for pair in frame[26..].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    };
    let mut frame = tcp_frame(Ip::V4, 0, 2, &options);
    frame[50..52].fill(0);
    let sum = !complete(&frame);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(complete(&frame), 0xffff);
    let layout = Layout::of(&frame).unwrap();
    clamp_mss(&mut frame, layout, 1428, false);
    assert_eq!(u16::from_be_bytes([frame[57], frame[58]]), 1428 - 54);
    assert_eq!(complete(&frame), 0xffff, "the checksum does not fit any more");
    let before = frame.clone();
    clamp_mss(&mut frame, layout, 1500, false);
    assert_eq!(frame, before, "an MSS that fits is left alone");
}
