//! What is documented is what is printed, and all that is printed is documented.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use overlay::documented;
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::NodeKey;
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::JoinReply;
use overlay_proto::order::Order;
use overlay_proto::registry::{OrderRecord, Registry};
use overlay_proto::ticket::TicketSecret;
use vde_switch::time::Instant;

use super::*;
use crate::api::LeaseStatus;

const DOCUMENT: &str = include_str!("../../../../docs/events.md");

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// In place of stdout.
pub(super) fn line(text: &str) -> io::Result<()> {
    LINES.with_borrow_mut(|lines| lines.push(text.to_owned()));
    Ok(())
}

fn joined() -> Membership {
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
    match registry.handle_join(seller.id(), remote, &request, 100, now).reply {
        JoinReply::Welcome(welcome) => membership.handle_welcome(&welcome, now).expect("true"),
        JoinReply::Refused(reason) => panic!("{reason}"),
    };
    membership
}

/// Lets each event happen, as text or as JSON.
fn all(report: Report) -> Vec<String> {
    let membership = joined();
    let grant = membership.grant().expect("granted");
    let config = membership.config().expect("told");
    let (segment, routes) = (config.segment, config.routes.clone());
    let wiring = Wiring { station: grant.station, segment, routes };
    let path = |to: &str, path, reason: &str| News::Path {
        to: to.to_owned(),
        path,
        reason: reason.to_owned(),
    };
    let control = |up, reason: &str| News::Control { up, reason: reason.to_owned() };
    let direct = PathKind::Direct((Ipv4Addr::new(198, 51, 100, 7), 7770).into());
    let tell = || -> io::Result<()> {
        let (ticket, took) = (membership.ticket(), Duration::from_millis(41));
        report.joined(ticket, &wiring, "eth0 in netns g", direct, took)?;
        for news in [
            News::FirstFrame,
            News::Address,
            path("g2", direct, "the first data came"),
            path("buyer", PathKind::None, "silent"),
            News::Suspended(Duration::from_secs(900)),
            News::Resumed,
            control(false, "the connection was closed"),
            control(true, "joined again"),
            News::Joined(direct),
        ] {
            report.news(&news)?;
        }
        report.goes_on(&["g2".to_owned(), "g3".to_owned()])?;
        report.lease(None)?;
        report.lease(Some("g2"))?;
        report.guest_started("qemu-system-x86_64", Some(1234), "tcg", Some("/tmp/g1.log"))?;
        report.guest_exited("exit status: 0", None)?;
        report.guest_exited("signal: 11 (SIGSEGV)", Some(Duration::from_secs(1)))
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
    let faults =
        documented::faults(DOCUMENT, "## Events of `overlay-seller join` and `run`", &printed);
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
    assert!(text.contains(&"guest up (its first frame came)".to_owned()), "{text:?}");
    assert!(text.contains(&"resumed".to_owned()), "{text:?}");
}

#[test]
fn status_is_documented() {
    let some = |text: &str| text.to_owned();
    let lease = LeaseStatus {
        order: some("farm"),
        id: some("cd34"),
        guest: some("g1"),
        ipv4: some("10.77.0.10"),
        ipv6: some("fd00::10"),
        attached: some("eth0 in netns g"),
        port: 7770,
        path: some("direct"),
        remote: Some(some("198.51.100.7:7770")),
        rtt_ms: Some(1.5),
        members: 2,
        state: some("up"),
        lease_left_s: Some(800),
        first_frame_s: Some(3),
        addresses_given: 1,
        in_frames: 1,
        in_bytes: 1,
        in_bps: 1.0,
        in_fps: 1.0,
        out_frames: 1,
        out_bytes: 1,
        out_bps: 1.0,
        out_fps: 1.0,
        drops: BTreeMap::from([(some("mld"), 3)]),
        reasons: BTreeMap::from([(some("mld"), some("A multicast …"))]),
    };
    let real = serde_json::to_value(lease).expect("an object");
    let faults = documented::faults(DOCUMENT, "## `overlay-seller status --json`", &[real]);
    assert_eq!(faults, [""; 0]);
}
