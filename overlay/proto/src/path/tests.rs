use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 7770))
}

fn direct(last: u8) -> Route {
    Route::Direct(Via { remote: address(last), local: None })
}

fn member() -> PathAgent {
    let mut agent = PathAgent::new(Relayed::Possible);
    agent.set_candidates(&[address(1)], AddressTrust::Hearsay, START);
    agent
}

#[test]
fn a_direct_path_is_tried_first_and_the_relay_soon_after() {
    let mut agent = member();
    assert_eq!(agent.poll(false, true, START).initiate, Some(Targets::Candidates));
    assert_eq!(agent.poll(false, true, START + RELAY_AFTER / 2), Todo::default());
    assert!(agent.poll(false, true, START + RELAY_AFTER).repeat_by_relay);
    let later = agent.poll(false, true, START + RETRY_AFTER_MIN);
    assert_eq!(later.initiate, Some(Targets::Everywhere));
}

#[test]
fn a_silent_gateway_is_asked_less_often_than_its_address_may_hear_and_at_once_when_it_is_there() {
    let mut agent = PathAgent::new(Relayed::Impossible);
    agent.set_candidates(&[address(1)], AddressTrust::Given, START);
    agent.keep();
    let at = |tick: u32| START + Duration::from_millis(100) * tick;
    let asked = |tick| agent.poll(false, false, at(tick)).initiate.is_some();
    let count = (0..3000).map(asked).filter(|asked| *asked).count();
    assert!((10..crate::dial::GIVEN_PACKETS_MAX).contains(&count), "{count} tries in 5 minutes");
    agent.poll(false, false, at(3000));
    assert_eq!(agent.poll(false, false, at(3001)), Todo::default());
    agent.keep();
    assert!(
        agent.poll(false, false, at(3001)).initiate.is_some(),
        "it waits for a peer that is there"
    );
}

#[test]
fn nothing_is_dialled_without_demand() {
    let mut agent = member();
    for tick in 0..1000 {
        let now = START + Duration::from_millis(100) * tick;
        assert_eq!(agent.poll(false, false, now), Todo::default());
    }
}

#[test]
fn retries_slow_down_to_one_in_five_seconds() {
    let mut agent = member();
    let initiations = (0..600)
        .filter(|tick| {
            let now = START + Duration::from_millis(100) * *tick;
            agent.poll(false, true, now).initiate.is_some()
        })
        .count();
    assert!((12..=20).contains(&initiations), "{initiations} in a minute");
}

#[test]
fn a_peer_that_moves_is_followed_by_its_first_authentic_datagram() {
    let mut agent = member();
    agent.handle_heard(direct(1), START);
    assert!(agent.poll_change().is_some());
    agent.handle_heard(direct(2), START + Duration::from_millis(1));
    assert_eq!(agent.primary(), Some(direct(2)));
    assert_eq!(agent.poll_change().map(|change| change.reason), Some("peer moved"));
}

#[test]
fn datagrams_in_flight_by_the_relay_do_not_displace_a_fresh_direct_path() {
    let mut agent = member();
    agent.handle_heard(Route::Relay, START);
    agent.handle_heard(direct(1), START + Duration::from_millis(10));
    agent.handle_heard(Route::Relay, START + Duration::from_millis(20));
    assert_eq!(agent.primary(), Some(direct(1)));
    agent.handle_heard(Route::Relay, START + Duration::from_secs(5));
    assert_eq!(agent.primary(), Some(Route::Relay));
}

#[test]
fn a_silent_direct_path_falls_back_to_the_relay_within_three_seconds_and_climbs_back() {
    let mut agent = member();
    agent.handle_heard(direct(1), START);
    agent.poll_change();
    let (mut fell_at, mut tried_at, mut probes) = (None, None, 0);
    for tick in 0..100 {
        let now = START + Duration::from_millis(100) * tick;
        agent.handle_sent(now);
        let todo = agent.poll(true, false, now);
        probes += u32::from(todo.probe.is_some());
        if fell_at.is_none() && agent.primary() == Some(Route::Relay) {
            fell_at = Some(now);
        }
        if fell_at.is_some() {
            agent.handle_heard(Route::Relay, now);
            if todo.initiate == Some(Targets::Candidates) {
                tried_at.get_or_insert(now);
            }
        }
    }
    assert!(fell_at.is_some_and(|at| at - START <= Duration::from_secs(3)), "{fell_at:?}");
    assert!(tried_at.is_some(), "the direct path was never tried again");
    assert!(probes >= 3, "{probes} probes before giving up");
}

#[test]
fn an_idle_path_is_asked_once_for_its_round_trip_and_then_left_in_peace() {
    let mut agent = member();
    agent.handle_heard(direct(1), START);
    assert!(agent.poll(true, false, START).probe.is_some());
    agent.handle_heard(direct(1), START);
    let probes = (0..6000)
        .filter(|tick| {
            let now = START + USED_FOR + Duration::from_millis(100) * *tick;
            let todo = agent.poll(true, false, now);
            assert_eq!(todo.initiate, None);
            todo.probe.is_some()
        })
        .count();
    assert_eq!(probes, 0);
}

#[test]
fn a_reply_gives_the_round_trip_once() {
    let mut agent = member();
    let token = agent.next_probe(START);
    let now = START + Duration::from_millis(3);
    assert_eq!(agent.handle_reply(token, now), Some(Duration::from_millis(3)));
    assert_eq!(agent.handle_reply(token, now), None);
    assert_eq!(agent.loss_percent(), 0);
    agent.next_probe(now);
    agent.next_probe(now);
    assert_eq!(agent.loss_percent(), 33);
}
