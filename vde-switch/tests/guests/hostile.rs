//! Whatever a guest says instead: nothing panics, nothing leaves its port, and an answer is one.

use dhcproto::{Decodable, Decoder, v4, v6};
use proptest::prelude::*;
use vde_switch::frame::Frame;
use vde_switch::time::Instant;
use vde_switch::verdict::{DropReason, Verdict};
use vde_switch::vnet::VnetHdr;

use crate::asks::*;
use crate::frames::*;

fn with(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

#[test]
fn what_is_no_question_of_the_station_is_dropped_by_its_name() {
    let discover = || message4(0, ZERO4, &options4(DISCOVER, &[]));
    let raw = |options: &[u8]| broadcast4(&message4(0, ZERO4, options));
    let other: (u8, &[u8]) = (54, &[10, 77, 0, 2]);
    let to = |dst, mac| {
        ethernet(mac, ALICE, 0x0800, &packet4(ALICE4, dst, UDP, 0, &udp(68, 67, &discover())))
    };
    let mut overload = message4(0, ZERO4, &options4(DISCOVER, &[(52, &[3])]));
    overload[44..48].copy_from_slice(&[61, 255, 1, 1]);
    let mut twice = message4(0, ZERO4, &options4(DISCOVER, &[(52, &[1])]));
    twice[108..112].copy_from_slice(&[53, 1, 3, 255]);
    for (name, frame, expected) in [
        ("foreign chaddr", broadcast4(&with(discover(), 33, 0x77)), DropReason::ForeignDhcp),
        ("of a relay agent", broadcast4(&with(discover(), 24, 10)), DropReason::BadDhcp),
        ("hops", broadcast4(&with(discover(), 3, 1)), DropReason::BadDhcp),
        ("a reply", broadcast4(&with(discover(), 0, 2)), DropReason::BadDhcp),
        ("token ring", broadcast4(&with(discover(), 1, 6)), DropReason::BadDhcp),
        ("hlen 16", broadcast4(&with(discover(), 2, 16)), DropReason::BadDhcp),
        ("BOOTP", raw(&[255]), DropReason::BadDhcp),
        ("no cookie", broadcast4(&discover()[..236]), DropReason::BadDhcp),
        ("another cookie", broadcast4(&with(discover(), 236, 0)), DropReason::BadDhcp),
        ("cut", broadcast4(&discover()[..100]), DropReason::BadDhcp),
        ("nothing", broadcast4(&[]), DropReason::BadDhcp),
        ("a length that lies", raw(&[53, 1, 1, 12, 200, b'x']), DropReason::BadDhcp),
        ("a code without length", raw(&[53, 1, 1, 12]), DropReason::BadDhcp),
        ("two types", raw(&[53, 1, 1, 53, 1, 3, 255]), DropReason::BadDhcp),
        ("a type of two bytes", raw(&[53, 2, 1, 1, 255]), DropReason::BadDhcp),
        ("an address of three", raw(&[53, 1, 3, 50, 3, 1, 1, 1, 255]), DropReason::BadDhcp),
        ("an identifier of one", raw(&[53, 1, 1, 61, 1, 1, 255]), DropReason::BadDhcp),
        ("overload of nothing", raw(&[53, 1, 1, 52, 1, 4, 255]), DropReason::BadDhcp),
        ("overload that lies", broadcast4(&overload), DropReason::BadDhcp),
        ("a type in each area", broadcast4(&twice), DropReason::BadDhcp),
        ("a request for nothing", dhcp4(REQUEST, &[]), DropReason::BadDhcp),
        ("unknown type", dhcp4(9, &[]), DropReason::BadDhcp),
        ("another server", dhcp4(REQUEST, &[other]), DropReason::OtherDhcpServer),
        ("an offer", dhcp4(2, &[]), DropReason::DhcpServer),
        ("decline", dhcp4(4, &[(50, &[10, 77, 0, 10])]), DropReason::DhcpNotice),
        ("release", dhcp4(RELEASE, &[]), DropReason::DhcpNotice),
        ("to another guest", to(BOB4, BOB), DropReason::DhcpClient),
        ("to a group", to([224, 0, 0, 1].into(), [1, 0, 0x5e, 0, 0, 1]), DropReason::DhcpClient),
    ] {
        assert_eq!(ask(&frame), Err(expected), "{name}");
    }
    let inform = message4(0, BOB4, &options4(INFORM, &[]));
    assert_eq!(ask(&unicast4(&inform)), Err(DropReason::ForeignDhcp));

    let solicit = client6(1, &ia_na(1, &[]));
    for (name, options) in [
        ("an identifier of two bytes", option6(1, &[0, 3])),
        ("one of 131", option6(1, &[1; 131])),
        ("two of them", [option6(1, &duid_of(ALICE)), option6(1, &duid_of(ALICE))].concat()),
        ("a length that lies", vec![0, 1, 0, 200, 1, 1, 1, 1]),
        ("a cut option", [option6(1, &duid_of(ALICE)), vec![0, 3, 0]].concat()),
        ("a short association", [option6(1, &duid_of(ALICE)), option6(3, &[0; 11])].concat()),
        (
            "an address that lies",
            [option6(1, &duid_of(ALICE)), option6(3, &[&[0; 12], &[0, 5, 0, 99][..]].concat())]
                .concat(),
        ),
        (
            "a short address",
            [
                option6(1, &duid_of(ALICE)),
                option6(3, &[&[0; 12], &option6(5, &[1; 23])[..]].concat()),
            ]
            .concat(),
        ),
        ("a commit with a value", [option6(1, &duid_of(ALICE)), option6(14, &[1])].concat()),
    ] {
        assert_eq!(ask(&dhcp6(1, &options)), Err(DropReason::BadDhcp), "{name}");
    }
    let bare = alice6_from(ALICE_LINK, AGENTS, UDP, &udp(546, 547, &[1, 2, 3]));
    assert_eq!(ask(&bare), Err(DropReason::BadDhcp), "no whole header");
    let hidden = alice6_from(ALICE_LINK, AGENTS, 60, &extension(60, UDP, &solicit[54..]));
    assert_eq!(ask(&hidden), Err(DropReason::BadDhcp), "behind options");
    let mut unicast = solicit;
    unicast[..6].copy_from_slice(&SERVICE);
    unicast[38..54].copy_from_slice(&SERVICE_LINK.octets());
    assert_eq!(ask(&unicast), Err(DropReason::DhcpClient), "by unicast");
}

#[test]
fn a_longest_identifier_leaves_room_for_all_the_rest() {
    let full = [
        option6(1, &[1; 130]),
        option6(2, &duid_of(SERVICE)),
        ia_na(1, &[BOB6; 30]),
        ia_na(2, &[BOB6; 5]),
        option6(25, &[0; 12]),
        option6(4, &[0; 4]),
    ];
    let mut switch = switch();
    let domain = "a".repeat(63) + "." + &"b".repeat(63);
    let dns = vec![GATEWAY6.into(); 4];
    switch.serve(GUEST, vde_switch::serve::GuestConfig { domain, dns, ..guest() }).unwrap();
    let frame = ask_at(&mut switch, &dhcp6(5, &full.concat()), Instant::ZERO).unwrap();
    let (.., payload) = crate::udp_answer(&frame);
    v6::Message::decode(&mut Decoder::new(&payload)).unwrap();
}

/// Legal questions to change.
fn seeds() -> Vec<Vec<u8>> {
    let rapid = [ia_na(7, &[ALICE6]), option6(14, &[]), option6(6, &[0, 23, 0, 24])].concat();
    vec![
        dhcp4(DISCOVER, &[(61, &[1, 2, 0, 0, 0, 0, 10]), (57, &[5, 220]), (55, &[1, 3, 6, 121])]),
        dhcp4(REQUEST, &[(50, &[10, 77, 0, 10]), (54, &[10, 77, 0, 1]), (12, &[b'h'; 255])]),
        dhcp4(DISCOVER, &[(52, &[3]), (61, &[9; 255])]),
        unicast4(&message4(0, ALICE4, &options4(REQUEST, &[]))),
        client6(1, &rapid),
        to_server6(3, &ia_na(1, &[ALICE6])),
        to_server6(5, &[ia_na(1, &[BOB6]), option6(25, &[0; 12]), option6(4, &[0; 4])].concat()),
        client6(4, &ia_na(1, &[ALICE6])),
        router_solicitation(ALICE_LINK),
        router_solicitation(ZERO6),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100_000, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn changed_questions_get_a_sound_answer_or_none(
        seed: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        insert in prop::option::of((any::<prop::sample::Index>(), any::<u8>(), 0..300usize)),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let seeds = seeds();
        let mut frame = seeds[seed.index(seeds.len())].clone();
        let (is_v4, l4) = if frame[12] == 8 { (true, 34) } else { (false, 54) };
        // Changes are in the message, behind headers that stay as they are or are put right.
        let body = if frame[23] == UDP || frame[20] == UDP { l4 + 8 } else { l4 };
        for (at, byte) in changes {
            let at = body + at.index(frame.len() - body);
            frame[at] = byte;
        }
        if let Some((at, byte, count)) = insert {
            let at = body + at.index(frame.len() - body);
            frame.splice(at..at, std::iter::repeat_n(byte, count));
        }
        if let Some(len) = cut {
            frame.truncate(body + len.index(frame.len() - body));
        }
        let len = frame.len() as u16;
        if is_v4 {
            frame[16..18].copy_from_slice(&(len - 14).to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&(len - 54).to_be_bytes());
        }
        if body > l4 {
            frame[l4 + 4..l4 + 6].copy_from_slice(&(len - l4 as u16).to_be_bytes());
        }
        let mut switch = switch();
        let mut shown = Frame { hdr: VnetHdr::default(), bytes: &frame };
        match switch.forward(GUEST, &mut shown, Instant::ZERO) {
            Verdict::Drop(_) => {}
            // Another kind of ICMPv6 is no question any more.
            Verdict::Forward(_) | Verdict::Flood(_) => prop_assert!(body == l4),
            Verdict::Answer if body > l4 => {
                let (.., payload) = crate::udp_answer(switch.answer());
                if is_v4 {
                    let message = v4::Message::decode(&mut Decoder::new(&payload)).unwrap();
                    prop_assert!(message.yiaddr() == ALICE4 || message.yiaddr() == ZERO4);
                    prop_assert_eq!(message.chaddr(), &ALICE[..]);
                } else {
                    v6::Message::decode(&mut Decoder::new(&payload)).unwrap();
                }
            }
            Verdict::Answer => prop_assert!(switch.answer().len() <= 1294),
        }
    }
}
