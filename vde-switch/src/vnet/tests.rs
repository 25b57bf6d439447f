use proptest::prelude::*;

use super::*;
use crate::frames::*;

const MTU: u16 = 1500;

/// A TCP super-frame of Alice's with 4000 bytes to cut, and the header that Linux gives it.
fn super4() -> (Vec<u8>, [u8; 12]) {
    (alice4(BOB4, TCP, &tcp(ACK, &[7; 4000])), vnet(1, 1, 54, 1448, 34, 16))
}

fn super6() -> (Vec<u8>, [u8; 12]) {
    (alice6(BOB6, TCP, &tcp(ACK, &[7; 4000])), vnet(1, 4, 74, 1428, 54, 16))
}

fn super_udp() -> (Vec<u8>, [u8; 12]) {
    (alice6(BOB6, UDP, &udp(5000, 5001, &[7; 4000])), vnet(1, 5, 62, 1000, 54, 6))
}

fn judge(frame: &[u8], header: [u8; 12]) -> Result<(), VnetError> {
    VnetHdr::parse(&header)?.check(frame, MTU)
}

#[test]
fn what_linux_sends_passes_and_reads_back_as_written() {
    let small = alice4(BOB4, UDP, &udp(5000, 53, b"name"));
    let cases = [
        (small.clone(), vnet(0, 0, 0, 0, 0, 0)),
        (small.clone(), vnet(2, 0, 0, 0, 0, 0)),
        (small, vnet(1, 0, 0, 0, 34, 6)),
        super4(),
        super6(),
        super_udp(),
        (super4().0, vnet(1, 0x81, 2048, 1448, 34, 16)),
    ];
    for (frame, bytes) in cases {
        let header = VnetHdr::parse(&bytes).unwrap();
        assert_eq!(header.check(&frame, MTU), Ok(()), "{header:?}");
        let mut emitted = [0xff; 12];
        header.emit(&mut emitted);
        assert_eq!(emitted, bytes);
    }
}

#[test]
fn the_layout_of_a_super_frame_is_where_its_headers_end() {
    let (frame, header) = super6();
    let layout = VnetHdr::parse(&header).unwrap().layout(&frame).unwrap();
    let expected = Layout {
        ip: Ip::V6,
        transport: Transport::Tcp,
        l3: 14,
        l4: 54,
        payload: 74,
        end: frame.len(),
    };
    assert_eq!(layout, expected);
    let padded = padded(alice4(BOB4, UDP, &udp(1, 2, b"x")));
    assert_eq!(Layout::of(&padded).map(|layout| layout.end), Some(43));
}

#[test]
fn unknown_flags_and_types_are_refused() {
    let known = [0x00, 0x01, 0x04, 0x05, 0x81, 0x84];
    for kind in 0..=u8::MAX {
        let parsed = VnetHdr::parse(&vnet(1, kind, 54, 1448, 34, 16));
        assert_eq!(parsed.is_ok(), known.contains(&kind), "{kind:#x}");
    }
    for flags in 0..=u8::MAX {
        assert_eq!(VnetHdr::parse(&vnet(flags, 0, 0, 0, 34, 16)).is_ok(), flags < 3, "{flags:#x}");
    }
}

#[test]
fn fields_without_a_meaning_do_not_travel() {
    let parsed = VnetHdr::parse(&[2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
    assert_eq!(parsed, VnetHdr { data_valid: true, ..VnetHdr::default() });
}

#[test]
fn each_lie_about_the_frame_has_its_error() {
    let (frame, _) = super4();
    let with = |at: usize, byte: u8| {
        let mut changed = frame.clone();
        changed[at] = byte;
        changed
    };
    let good = vnet(1, 1, 54, 1448, 34, 16);
    assert_eq!(judge(&frame, good), Ok(()));
    let cases = [
        (frame.clone(), vnet(0, 0, 0, 0, 0, 0), VnetError::TooLong(4054)),
        (frame.clone(), vnet(1, 0, 0, 0, 34, 16), VnetError::TooLong(4054)),
        (frame.clone(), vnet(0, 1, 54, 1448, 34, 16), VnetError::NoChecksum),
        (frame.clone(), vnet(1, 4, 54, 1448, 34, 16), VnetError::Protocol),
        (frame.clone(), vnet(1, 5, 54, 1448, 34, 16), VnetError::Protocol),
        (frame.clone(), vnet(1, 1, 54, 0, 34, 16), VnetError::GsoSize(0)),
        (frame.clone(), vnet(1, 1, 54, 255, 34, 16), VnetError::GsoSize(255)),
        (frame.clone(), vnet(1, 1, 54, 1461, 34, 16), VnetError::GsoSize(1461)),
        (frame.clone(), vnet(1, 1, 54, 0xffff, 34, 16), VnetError::GsoSize(0xffff)), // BY_FRAGS
        (frame.clone(), vnet(1, 1, 4055, 1448, 34, 16), VnetError::Extent),
        (frame.clone(), vnet(1, 1, 54, 1448, 34, 6), VnetError::Checksum { start: 34, offset: 6 }),
        (
            frame.clone(),
            vnet(1, 1, 54, 1448, 0xffff, 16),
            VnetError::Checksum { start: 0xffff, offset: 16 },
        ),
        ([&frame[..], &[0]].concat(), good, VnetError::Extent),
        (alice4(BOB4, TCP, &tcp(ACK, &[])), good, VnetError::Extent),
        (with(47, SYN), good, VnetError::TcpFlags(SYN)),
        (with(47, 4), good, VnetError::TcpFlags(4)),
        (with(47, 0x20), good, VnetError::TcpFlags(0x20)),
        (with(46, 0x40), good, VnetError::NoTransport), // data offset 4
        (with(20, 0x20), good, VnetError::NoTransport), // a fragment
        (with(23, 47), good, VnetError::NoTransport),   // GRE
        (with(13, 6), good, VnetError::NoTransport),    // ARP
        (with(16, 0xff), good, VnetError::NoTransport), // total length
        (vec![0; 70_000], good, VnetError::TooLong(70_000)),
    ];
    for (number, (frame, header, error)) in cases.into_iter().enumerate() {
        assert_eq!(judge(&frame, header), Err(error), "case {number}");
    }
    let (mut frame, header) = super_udp();
    frame[59] ^= 1;
    assert_eq!(judge(&frame, header), Err(VnetError::Extent));
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(
        header: [u8; 12], frame in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        crate::fuzz::vnet_hdr(&[&header[..], &frame].concat());
    }

    #[test]
    fn a_changed_super_frame_never_reaches_beyond_itself(
        kind in 0..3usize, at in 0..90usize, bit in 0..8u8, len in 0..4100usize
    ) {
        let (frame, header) = [super4(), super6(), super_udp()][kind].clone();
        let mut bytes = [&header[..], &frame].concat();
        bytes[at] ^= 1 << bit;
        crate::fuzz::vnet_hdr(&bytes);
        bytes.truncate(len);
        crate::fuzz::vnet_hdr(&bytes);
    }
}
