//! DHCPv6, decoded by `dhcproto`.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{DhcpOption, Message, MessageType, OptionCode, Status};
use dhcproto::{Decodable, Decoder};
use vde_switch::verdict::DropReason;

use crate::asks::*;
use crate::frames::*;

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

fn told(frame: &[u8]) -> Message {
    let (src, dst, ports, payload) = crate::udp_answer(frame);
    assert_eq!((src, dst), (IpAddr::V6(SERVICE_LINK), IpAddr::V6(ALICE_LINK)));
    assert_eq!((ports, &frame[..6]), ((547, 546), &ALICE[..]));
    let message = Message::decode(&mut Decoder::new(&payload)).unwrap();
    assert_eq!(message.xid(), [0xab, 0xcd, 0xef]);
    let server = message.opts().get(OptionCode::ServerId);
    assert_eq!(server, Some(&DhcpOption::ServerId(duid_of(SERVICE))));
    message
}

/// What an association was told: number, addresses with their lifetimes, status.
type Told = (u32, Vec<(Ipv6Addr, u32)>, Option<Status>);

fn associations(message: &Message) -> Vec<Told> {
    let of = |opts: &dhcproto::v6::DhcpOptions| {
        let addresses = opts.iter().filter_map(|option| match option {
            DhcpOption::IAAddr(address) => {
                assert_eq!(address.preferred_life, address.valid_life);
                Some((address.addr, address.valid_life))
            }
            _ => None,
        });
        let status = opts.iter().find_map(|option| match option {
            DhcpOption::StatusCode(code) => Some(code.status),
            _ => None,
        });
        (addresses.collect(), status)
    };
    let each = message.opts().iter().filter_map(|option| {
        let (id, opts) = match option {
            DhcpOption::IANA(ia) => (ia.id, &ia.opts),
            DhcpOption::IATA(ia) => (ia.id, &ia.opts),
            DhcpOption::IAPD(ia) => (ia.id, &ia.opts),
            _ => return None,
        };
        let (addresses, status) = of(opts);
        Some((id, addresses, status))
    });
    each.collect()
}

fn status(message: &Message) -> Option<Status> {
    match message.opts().get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    }
}

fn assert_configured(message: &Message) {
    let dns = message.opts().get(OptionCode::DomainNameServers);
    assert_eq!(dns, Some(&DhcpOption::DomainNameServers(vec![GATEWAY6])));
    let Some(DhcpOption::DomainSearchList(names)) =
        message.opts().get(OptionCode::DomainSearchList)
    else {
        panic!("no domain")
    };
    let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    assert_eq!(names, ["farm.internal."]);
}

#[test]
fn a_guest_is_offered_and_given_its_address() {
    let advert = told(&ask(&client6(SOLICIT, &ia_na(7, &[]))).unwrap());
    assert_eq!(advert.msg_type(), MessageType::Advertise);
    assert_eq!(associations(&advert), [(7, vec![(ALICE6, 3600)], None)]);
    assert_eq!(advert.opts().get(OptionCode::Preference), Some(&DhcpOption::Preference(255)));
    let client = advert.opts().get(OptionCode::ClientId);
    assert_eq!(client, Some(&DhcpOption::ClientId(duid_of(ALICE))));
    assert_configured(&advert);

    let rapid = [ia_na(7, &[]), option6(14, &[])].concat();
    let reply = told(&ask(&client6(SOLICIT, &rapid)).unwrap());
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert!(reply.opts().get(OptionCode::RapidCommit).is_some());
    assert_eq!(associations(&reply), [(7, vec![(ALICE6, 3600)], None)]);

    for question in [
        to_server6(REQUEST, &ia_na(7, &[ALICE6])),
        to_server6(RENEW, &ia_na(7, &[ALICE6])),
        client6(REBIND, &ia_na(7, &[ALICE6])),
    ] {
        let mut switch = switch();
        let reply = ask_at(&mut switch, &question, vde_switch::time::Instant::ZERO).unwrap();
        let reply = told(&reply);
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert_eq!(associations(&reply), [(7, vec![(ALICE6, 3600)], None)]);
        let Some(DhcpOption::IANA(ia)) = reply.opts().get(OptionCode::IANA) else { panic!() };
        assert_eq!((ia.t1, ia.t2), (1800, 2880));
        assert_configured(&reply);
        assert_eq!(switch.port_counters(GUEST).unwrap().dhcp6_leases, 1);
    }
}

#[test]
fn old_addresses_are_given_up_and_what_is_not_granted_is_refused() {
    let old: Ipv6Addr = "fd99::7".parse().unwrap();
    let gone: Vec<_> = (0..9).map(|n| Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, n)).collect();
    let renewed = told(&ask(&to_server6(RENEW, &ia_na(1, &[old, ALICE6]))).unwrap());
    assert_eq!(associations(&renewed), [(1, vec![(ALICE6, 3600), (old, 0)], None)]);
    let many = told(&ask(&to_server6(RENEW, &ia_na(1, &gone))).unwrap());
    assert_eq!(associations(&many)[0].1.len(), 5, "more is repeated than the bound says");
    let request = told(&ask(&to_server6(REQUEST, &ia_na(1, &[old]))).unwrap());
    assert_eq!(associations(&request), [(1, vec![], Some(Status::NotOnLink))]);

    let several = [
        ia_na(1, &[]),
        ia_na(2, &[]),
        option6(4, &3_u32.to_be_bytes()),
        option6(25, &[&4_u32.to_be_bytes()[..], &[0; 8]].concat()),
    ];
    let reply = told(&ask(&to_server6(REQUEST, &several.concat())).unwrap());
    let mut told = associations(&reply);
    told.sort_by_key(|(id, ..)| *id);
    let none = Some(Status::NoAddrsAvail);
    let expected = [
        (1, vec![(ALICE6, 3600)], None),
        (2, vec![], none),
        (3, vec![], none),
        (4, vec![], Some(Status::NoPrefixAvail)),
    ];
    assert_eq!(told, expected);
    let fifth = [several.concat(), ia_na(5, &[])].concat();
    assert_eq!(ask(&to_server6(REQUEST, &fifth)), Err(DropReason::BadDhcp));
}

#[test]
fn addresses_are_confirmed_and_given_back() {
    for (address, expected) in [(ALICE6, Status::Success), (BOB6, Status::NotOnLink)] {
        let reply = told(&ask(&client6(CONFIRM, &ia_na(1, &[address]))).unwrap());
        assert_eq!((reply.msg_type(), status(&reply)), (MessageType::Reply, Some(expected)));
    }
    assert_eq!(ask(&client6(CONFIRM, &ia_na(1, &[]))), Err(DropReason::BadDhcp));
    for kind in [RELEASE, DECLINE] {
        let reply = told(&ask(&to_server6(kind, &ia_na(1, &[ALICE6]))).unwrap());
        assert_eq!((status(&reply), associations(&reply)), (Some(Status::Success), vec![]));
    }
    // Options alone, with or without an identifier.
    for question in [dhcp6(INFORMATION, &[]), client6(INFORMATION, &[])] {
        let reply = told(&ask(&question).unwrap());
        assert_configured(&reply);
        let Some(DhcpOption::Unknown(refresh)) = reply.opts().get(OptionCode::from(32)) else {
            panic!("it would ask again after a day")
        };
        assert_eq!(refresh.data(), 3600_u32.to_be_bytes());
        assert_eq!(associations(&reply), []);
    }
}

#[test]
fn a_message_that_must_not_be_answered_is_not() {
    let bad = Err(DropReason::BadDhcp);
    let na = ia_na(1, &[]);
    for (question, expected) in [
        (dhcp6(SOLICIT, &na), bad.clone()),
        (to_server6(SOLICIT, &na), bad.clone()),
        (client6(REQUEST, &na), bad.clone()),
        (client6(RENEW, &na), bad.clone()),
        (to_server6(REBIND, &na), bad.clone()),
        (client6(RELEASE, &na), bad.clone()),
        (client6(INFORMATION, &na), bad.clone()),
        (client6(0, &na), bad.clone()),
        (client6(12, &na), bad.clone()),
        (client6(13, &na), bad),
        (client6(2, &na), Err(DropReason::DhcpServer)),
        (client6(7, &na), Err(DropReason::DhcpServer)),
        (client6(10, &na), Err(DropReason::DhcpServer)),
        (
            client6(REQUEST, &[option6(2, &duid_of(BOB)), na.clone()].concat()),
            Err(DropReason::OtherDhcpServer),
        ),
    ] {
        assert_eq!(ask(&question), expected, "{question:02x?}");
    }
}
