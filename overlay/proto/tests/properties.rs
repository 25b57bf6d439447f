//! Properties over many documents: what is written is read, what is not written is refused.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{buyer, ticket_body};
use overlay_proto::addressing::Subnet;
use overlay_proto::control::AddressTrust;
use overlay_proto::dial::{Lan, canonical, may_dial, special_use};
use overlay_proto::envelope::{Envelope, Kind};
use overlay_proto::messages::{JoinReply, JoinRequest, Message, ToGateway, ToMember};
use overlay_proto::names::Name;
use overlay_proto::order::OrderId;
use overlay_proto::ticket::{DialAddr, Ticket, TicketBody, TicketSecret};
use proptest::collection::vec;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn addr() -> impl Strategy<Value = DialAddr> {
    prop_oneof![
        (any::<IpAddr>(), 1..=u16::MAX)
            .prop_map(|(ip, port)| DialAddr::Ip(SocketAddr::new(ip, port))),
        ("[a-z][a-z0-9-]{0,20}[a-z0-9]\\.[a-z]{2,8}", 1..=u16::MAX)
            .prop_map(|(host, port)| DialAddr::Name(host, port)),
    ]
}

proptest! {
    /// A ticket survives its text, and so does every field of it.
    #[test]
    fn a_ticket_is_read_as_it_was_written(
        (order_name, guest) in (name(), name()),
        (addresses, relays) in (vec(addr(), 1..=4), vec(addr(), 0..=4)),
        (nonce, secret, expires_at) in any::<([u8; 16], [u8; 16], u64)>(),
    ) {
        let secret = TicketSecret(secret);
        let slot = ticket_body().slot;
        let body =
            TicketBody { nonce, order_name, slot, guest, addresses, relays, secret, expires_at };
        let ticket = Ticket::seal(&buyer(), body.clone()).unwrap();
        let read = Ticket::decode(&ticket.encode()).unwrap();
        prop_assert_eq!(read.body(), &body);
        prop_assert_eq!(read, ticket);
    }

    /// Any payload comes out as it went in, under its kind alone.
    #[test]
    fn an_envelope_hands_out_what_was_sealed(
        payload in vec(any::<u8>(), 0..2000), at in any::<u16>(),
    ) {
        let sealed = Envelope::seal(Kind::Grant, &buyer(), &payload);
        prop_assert_eq!(Envelope::open(&sealed, Kind::Grant).unwrap().payload, &payload[..]);
        prop_assert!(Envelope::open(&sealed, Kind::Roster).is_err());
        let mut changed = sealed.clone();
        let at = usize::from(at) % changed.len();
        changed[at] = changed[at].wrapping_add(1);
        prop_assert!(Envelope::open(&changed, Kind::Grant).is_err());
    }

    /// No bytes reach a panic, and what is taken has one form.
    #[test]
    fn any_bytes_are_a_message_or_none(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(message) = ToGateway::decode(&bytes) {
            prop_assert_eq!(message.encode(), &bytes[..]);
        }
        if let Ok(message) = ToMember::decode(&bytes) {
            prop_assert_eq!(message.encode(), &bytes[..]);
        }
        let _ = JoinRequest::decode(&bytes);
        let _ = JoinReply::decode(&bytes);
        let _ = Ticket::open(&bytes);
        let _ = Ticket::decode(&String::from_utf8_lossy(&bytes));
    }

    /// No text reaches a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        let _ = text.parse::<Name>();
        let _ = text.parse::<Subnet>();
        let _ = text.parse::<DialAddr>();
        let _ = Ticket::decode(&format!("ovl1{text}"));
    }

    /// An order's subnet meets none of the host's routes, or there is none to be had.
    #[test]
    fn a_chosen_subnet_is_free(
        routes in vec((any::<[u8; 4]>(), 4_u8..=32), 0..20), id in any::<[u8; 32]>(),
    ) {
        let routes: Vec<_> = routes
            .into_iter()
            .filter_map(|(addr, prefix)| Subnet::new(addr.into(), prefix))
            .collect();
        if let Some(subnet) = Subnet::choose(OrderId(id), &routes) {
            prop_assert!(routes.iter().all(|route| !route.overlaps(subnet)));
            prop_assert_eq!(subnet.to_string().parse::<Subnet>().unwrap(), subnet);
        }
    }

    /// What may be dialled without `--lan` is global in its one spelling, whatever it was written
    /// as.
    #[test]
    fn only_global_addresses_are_dialled(
        ip in any::<IpAddr>(), v4 in any::<u32>(), port in any::<u16>(),
    ) {
        let mapped = IpAddr::V6(std::net::Ipv4Addr::from_bits(v4).to_ipv6_mapped());
        for addr in [SocketAddr::new(ip, port), SocketAddr::new(mapped, port)] {
            if let Ok(addr) = may_dial(addr, AddressTrust::Hearsay, Lan::Refused, true) {
                prop_assert_eq!(special_use(addr.ip()), None);
                prop_assert_eq!(canonical(addr), addr);
                prop_assert!(addr.port() == 443 || addr.port() >= 1024);
            }
        }
    }
}
