//! What is documented is what is printed, and all that is printed is documented.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use overlay::documented;
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::order::Order;
use overlay_proto::registry::Registry;
use overlay_proto::ticket::TicketSecret;
use vde_switch::time::Instant;

use super::*;
use crate::api::{GuestStatus, OrderStatus};
use crate::ask;

const DOCUMENT: &str = include_str!("../../../../docs/events.md");

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// In place of stdout.
pub(super) fn line(text: &str) -> io::Result<()> {
    LINES.with_borrow_mut(|lines| lines.push(text.to_owned()));
    Ok(())
}

fn member() -> (OrderRecord, MemberInfo, Station) {
    let (buyer, seller) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
    let order = Order { buyer: buyer.id(), nonce: [3; 16] };
    let (name, subnet) = ("farm".parse().expect("a name"), "10.77.0.0/24".parse().expect("one"));
    let record = OrderRecord::new(order, name, subnet, [4; 32]);
    let now = Instant::ZERO;
    let mut registry =
        Registry::open(buyer, record, Vec::new(), Vec::new(), 100, now).expect("a sound record");
    let gateway = "198.51.100.7:7770";
    registry.set_reach(vec![gateway.parse().expect("an address")], Vec::new(), 7770);
    let made = registry.invite(None, TicketSecret([5; 16]), 200, 100, now).expect("room");
    let host = SellerHost {
        seller: seller.id(),
        data_key: [6; 32],
        only_buyer: false,
        rules: DialRules { lan: Lan::Refused, links: Vec::new() },
        gateway: vec![gateway.parse().expect("an address")],
    };
    let mut membership = Membership::new(made.0, host);
    let request = membership.request([7; 16], now);
    let remote = Ipv4Addr::new(203, 0, 113, 9).into();
    let outcome = registry.handle_join(seller.id(), remote, &request, 100, now);
    assert_eq!(outcome.joined, Some(overlay_proto::control::Slot(1)));
    let record = registry.order_record().clone();
    let own = record.station(overlay_proto::control::Slot::GATEWAY).expect("a station");
    let member = registry.members().next().expect("it joined");
    (record, member, own)
}

/// Lets each event happen, as text or as JSON.
fn all(report: Report) -> Vec<String> {
    let (order, member, own) = member();
    let remote = Ipv4Addr::new(203, 0, 113, 9);
    let direct = PathKind::Direct((remote, 7770).into());
    let life = Duration::from_secs(900);
    let tell = || -> io::Result<()> {
        report.ready(&order, &own, "198.51.100.7")?;
        report.ticket("g1", "farm-g1.ovl")?;
        report.joined(&member, remote.into(), Some(Duration::from_millis(41)))?;
        report.joined(&member, remote.into(), None)?;
        report.path("g1", direct, "the first data came")?;
        report.path("g1", PathKind::Relay, "the direct path is silent")?;
        report.first_frame("g1")?;
        report.left("g1")?;
        report.suspended("g1", life)?;
        report.resumed("g1")?;
        report.evicted("g1")?;
        report.replaced(&member)?;
        report.lost("g1")
    };
    tell().expect("memory takes it");
    LINES.take()
}

#[test]
fn every_event_is_documented_by_an_example_that_is_true() {
    let printed: Vec<Value> = all(Report::Json)
        .iter()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    let faults = documented::faults(DOCUMENT, "## Events of `overlay-gw up`", &printed);
    assert_eq!(faults, [""; 0]);
    // Whoever adds an event lets it happen above.
    for rest in include_str!("../report.rs").split("\"event\": \"").skip(1) {
        let name = rest.split('"').next().expect("a quoted name");
        assert!(printed.iter().any(|event| event["event"] == name), "{name} is not told above");
    }
}

#[test]
fn text_and_json_tell_the_same_events() {
    let (text, json) = (all(Report::Text), all(Report::Json));
    assert_eq!(text.len(), json.len());
    assert!(text.contains(&"g1 up (its first frame came)".to_owned()), "{text:?}");
}

#[test]
fn status_and_orders_are_documented() {
    let some = |text: &str| text.to_owned();
    let guest = GuestStatus {
        guest: some("g1"),
        ipv4: some("10.77.0.10"),
        ipv6: some("fd00::10"),
        seller: some("ab12"),
        path: some("direct"),
        remote: Some(some("203.0.113.9:7770")),
        rtt_ms: Some(1.5),
        loss_percent: 0,
        lease_left_s: Some(800),
        joined_at: 1_800_000_000,
        heard_ms: Some(12),
        has_spoken: true,
        rate_bps: 3.0,
        sent_bps: 1.0,
        sent_fps: 1.0,
        received_bps: 2.0,
        received_fps: 1.0,
        state: some("up"),
        dropped: 1,
        sent_frames: 1,
        sent_bytes: 1,
        received_frames: 1,
        received_bytes: 1,
    };
    let order = OrderStatus {
        order: some("farm"),
        id: some("cd34"),
        subnet: some("10.77.0.0/24"),
        ipv6: some("fd00::/64"),
        you: some("10.77.0.1"),
        port: 7770,
        state: some("running"),
        guests: vec![guest.clone()],
        drops: BTreeMap::from([(some("mld"), 3)]),
        reasons: BTreeMap::from([(some("mld"), some("A multicast …"))]),
    };
    let real = ask::guest_object(&order, &guest).expect("an object");
    let faults = documented::faults(DOCUMENT, "## `overlay-gw status --json`", &[real]);
    assert_eq!(faults, [""; 0]);
    let real = ask::order_object(&order).expect("an object");
    let faults = documented::faults(DOCUMENT, "## `overlay-gw orders --json`", &[real]);
    assert_eq!(faults, [""; 0]);
}
