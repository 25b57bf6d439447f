//! What survives kills, replacements, evictions, changes and a gateway that stops, played by the
//! real programs. Times are printed, with the bounds they must keep.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_tests::cast::{Gateway, Guest, state_of};
use overlay_tests::lab::process::Process;
use overlay_tests::lab::{Host, block};
use overlay_tests::line::Line;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{Ear, eventually, reaches, say, wait_reach};
use serde_json::Value;

const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
/// Four times the 5 s in which traffic is to be back, or a guest out.
const BACK_MAX: Duration = Duration::from_secs(20);
/// For everything that is not about time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Exit code of a seller that was refused or evicted.
const REFUSED: i32 = 3;

/// A buyer with an order, and two sellers with a guest each.
fn farm() -> Result<(Stage, Gateway, Guest, Guest)> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let one = stage.join(&gateway, "seller1", "guest1")?;
    let two = stage.join(&gateway, "seller2", "guest2")?;
    Ok((stage, gateway, one, two))
}

fn kill(process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    process.wait_end(PATIENCE).map(drop)
}

/// Waits for a seller's program to end and returns its exit code and its last words.
fn end(process: &mut Process) -> Result<(Option<i32>, String)> {
    let status = process.wait_end(PATIENCE)?;
    Ok((status.code(), process.log().lines().last().unwrap_or_default().to_owned()))
}

/// Joins once more, as a user would after a restart: the same ticket, the same namespace.
fn join_again(stage: &Stage, guest: &Guest, ticket: &str) -> Result<Guest> {
    Guest::join(&stage.programs, &guest.seller, &guest.seat, ticket, &[])
}

fn mac(seat: &Host) -> Result<String> {
    seat.must("cat /sys/class/net/eth0/address")
}

fn order(gateway: &Gateway) -> Result<Value> {
    let lines = gateway.ask(&["orders", "--json"])?;
    serde_json::from_str(lines.lines().next().context("one order")?).context("an object")
}

fn state_of_guest(gateway: &Gateway, guest: &str) -> Result<String> {
    for line in gateway.ask(&["status", "farm", "--json"])?.lines() {
        let status: Value = serde_json::from_str(line)?;
        if status["guest"] == guest {
            return Ok(status["state"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok("unlisted".to_owned())
}

#[test]
fn a_killed_gateway_comes_back_as_it_was() -> Result<()> {
    let (mut stage, mut gateway, one, two) = farm()?;
    let ticket = gateway.invite_file()?;
    let buyer = stage.host("buyer").clone();
    let mut between = Line::open(&one.seat, &two.seat, two.ipv4, 5001)?;
    let mut to_guest = Line::open(&buyer, &one.seat, one.ipv4, 5002)?;
    let (id, line) = (order(&gateway)?["id"].clone(), gateway.line.clone());

    kill(&mut gateway.process)?;
    std::thread::sleep(Duration::from_secs(12)); // the pauses between tries are their longest
    between.say(100_000).context("guests talk on while the gateway is dead")?;
    drop(gateway);
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let back = wait_reach(&buyer, one.ipv4.into(), BACK_MAX)?;
    let said = to_guest.say(100_000).context("the buyer's connection to the guest")?;
    eprintln!("gateway killed: traffic back {back:?} after it was ready, TCP on in {said:?} (5 s)");
    between.say(100_000)?;
    assert_eq!((order(&gateway)?["id"].clone(), &gateway.line), (id, &line));
    wait_reach(&buyer, two.ipv4.into(), BACK_MAX)?;

    // A ticket claimed before a kill is its key's for ever, one unclaimed is still good.
    let three = stage.lab.guest("guest3")?;
    let mut three = Guest::join(&stage.programs, stage.host("seller2"), &three, &ticket, &[])?;
    kill(&mut gateway.process)?;
    kill(&mut three.process)?;
    drop(gateway);
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let stranger = stage.lab.guest("guest4")?;
    let mut other = Guest::start(&stage.programs, stage.host("seller1"), &stranger, &ticket, &[])?;
    let (code, words) = end(&mut other)?;
    assert!(code == Some(REFUSED) && words.contains("used by another seller"), "{code:?} {words}");
    let again = join_again(&stage, &three, &ticket)?;
    assert_eq!((again.name.as_str(), again.ipv4), ("g3", three.ipv4));
    wait_reach(&gateway.host, again.ipv4.into(), BACK_MAX)?;
    Ok(())
}

#[test]
fn a_killed_seller_comes_back_to_its_place() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let mut one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &ticket, &[])?;
    let before = mac(&seat)?;
    kill(&mut one.process)?;
    let again = join_again(&stage, &one, &ticket)?;
    assert_eq!((&again.name, again.ipv4, again.ipv6), (&one.name, one.ipv4, one.ipv6));
    assert_eq!(mac(&seat)?, before);
    let back = wait_reach(&gateway.host, one.ipv4.into(), BACK_MAX)?;
    eprintln!("seller killed: joined again in {:?}, reached after {back:?} (5 s)", again.took);
    drop(again);

    // Resuming needs no ticket at all.
    let state = state_of(stage.host("seller1"));
    let attach = format!("netns:{}", seat.netns());
    let words = ["resume", "farm", "--attach", &attach, "--state", &state];
    let _seller = stage.host("seller1").spawn(&stage.programs.seller, words)?;
    wait_reach(&gateway.host, one.ipv4.into(), BACK_MAX)?;
    Ok(())
}

#[test]
fn a_replacement_has_the_lost_guests_place() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let old_ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let mut one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &old_ticket, &[])?;
    let before = mac(&seat)?;
    kill(&mut one.process)?;

    let ticket = gateway.ask(&["invite", "farm", "--name", "g1", "--replace"])?;
    let file = stage.host("seller2").dir().join("replacement.ovl");
    fs::write(&file, ticket)?;
    let file = format!("@{}", file.display());
    let seat = stage.lab.guest("guest2")?;
    let new = Guest::join(&stage.programs, stage.host("seller2"), &seat, &file, &[])?;
    assert_eq!((&new.name, new.ipv4, new.ipv6), (&one.name, one.ipv4, one.ipv6));
    assert_eq!(mac(&seat)?, before);
    let back = wait_reach(&gateway.host, new.ipv4.into(), BACK_MAX)?;
    eprintln!("replacement: reached after {back:?} (5 s)");
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 replaced"))?;

    let mut late =
        Guest::start(&stage.programs, stage.host("seller1"), &one.seat, &old_ticket, &[])?;
    let (code, words) = end(&mut late)?;
    assert_eq!(code, Some(REFUSED), "{words}");
    assert!(reaches(&gateway.host, new.ipv4.into())?, "who has the place now keeps it");
    Ok(())
}

#[test]
fn an_evicted_guest_is_out_everywhere_even_if_its_host_hears_nothing() -> Result<()> {
    let (stage, mut gateway, mut one, two) = farm()?;
    let buyer = gateway.host.clone();
    let host = stage.host("seller1");
    wait_reach(&two.seat, one.ipv4.into(), PATIENCE)?;
    // By IPv4 and IPv6: the control connection is whichever came up first.
    host.nft(
        "table inet deaf { chain in { type filter hook input priority 0; \
         tcp sport 7770 drop; }\n}",
    )?;

    gateway.ask(&["evict", "farm", "g1"])?;
    let started = Instant::now();
    for from in [&buyer, &two.seat] {
        eventually("the evicted guest is cut", BACK_MAX, || Ok(!reaches(from, one.ipv4.into())?))?;
    }
    eprintln!("evict: cut at every member after {:?} (5 s)", started.elapsed());
    gateway.process.wait_line(PATIENCE, |line| line == "g1 evicted")?;
    assert_eq!(state_of_guest(&gateway, "g1")?, "evicted");
    assert!(one.process.is_running(), "its host has not heard of it");

    host.nft("delete table inet deaf")?;
    let (code, words) = {
        let status = one.process.wait_end(Duration::from_secs(60))?;
        (status.code(), one.process.log())
    };
    assert!(code == Some(REFUSED) && words.contains("evicted this guest"), "{code:?} {words}");
    assert!(one.seat.interfaces()?.is_empty(), "its interface is gone");
    assert!(reaches(&buyer, two.ipv4.into())?, "the other guest is not concerned");
    Ok(())
}

#[test]
fn an_evicted_key_does_not_return_and_a_revoked_ticket_opens_nothing() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let (first, second) = (gateway.invite_file()?, gateway.invite_file()?);
    let seat = stage.lab.guest("guest1")?;
    let mut one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &first, &[])?;
    let started = Instant::now();
    gateway.ask(&["evict", "farm", "g1"])?;
    let (code, words) = end(&mut one.process)?;
    eprintln!("evict: the guest's program ended after {:?} (5 s)", started.elapsed());
    assert!(code == Some(REFUSED) && words.contains("evicted"), "{code:?} {words}");
    let leases = stage.host("seller1").dir().join("state/leases");
    assert_eq!(fs::read_dir(leases)?.count(), 0, "nothing is left of the lease");

    gateway.ask(&["invite", "farm", "--revoke", "g2"])?;
    for (ticket, word) in [(&first, "evicted"), (&second, "taken the ticket back")] {
        let mut late = Guest::start(&stage.programs, stage.host("seller1"), &seat, ticket, &[])?;
        let (code, words) = end(&mut late)?;
        assert!(code == Some(REFUSED) && words.contains(word), "{code:?} {words}");
    }
    for (words, word) in [
        (["evict", "farm", "g9"], "no guest named g9"),
        (["evict", "farm", "g2"], "revoking"),
        (["evict", "nosuch", "g1"], "nosuch"),
    ] {
        let output = gateway.cli(&words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(word), "{words:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    Ok(())
}

#[test]
fn options_change_under_running_connections() -> Result<()> {
    let (stage, mut gateway, one, two) = farm()?;
    let buyer = gateway.host.clone();
    let mut lines = [
        Line::open(&one.seat, &two.seat, two.ipv4, 5001)?,
        Line::open(&buyer, &one.seat, one.ipv4, 5002)?,
    ];
    let everyone = "10.77.0.255:6000".parse()?;
    let ear = Ear::open(&two.seat, 6000)?;
    let shout = |words: &[u8]| say(&one.seat, one.ipv4, everyone, words);
    shout(b"<before>")?;
    ensure!(ear.hears(b"<before>", PATIENCE)?, "broadcasts are heard at first");

    gateway.ask(&["set", "farm", "mtu=1400", "broadcast=off", "rate=800M"])?;
    let mtu = |host: &Host, dev: &str| host.must(&format!("cat /sys/class/net/{dev}/mtu"));
    let is_set = |wanted: &str| -> Result<bool> {
        Ok(mtu(&buyer, "ovl-farm")?.trim() == wanted
            && mtu(&one.seat, "eth0")?.trim() == wanted
            && mtu(&two.seat, "eth0")?.trim() == wanted)
    };
    eventually("the MTU is 1400 everywhere", PATIENCE, || is_set("1400"))?;
    for line in &mut lines {
        line.say(3_000_000).context("a connection lives through a smaller MTU")?;
    }
    eventually("broadcasts are heard no more", PATIENCE, || {
        shout(b"<after>")?;
        Ok(!ear.hears(b"<after>", Duration::from_millis(300))?)
    })?;

    // A stopped order is changed by the command itself; members hear of it when it is back.
    gateway.process.terminate(PATIENCE)?;
    gateway.ask(&["set", "farm", "mtu=1500", "rate=off"])?;
    drop(gateway);
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    eventually("the MTU is 1500 again", PATIENCE, || is_set("1500"))?;
    for line in &mut lines {
        line.say(3_000_000).context("a connection lives through a larger MTU")?;
    }
    for bad in ["mtu=100", "broadcast=maybe", "rate=fast", "life=1s", "colour=red", "mtu"] {
        let output = gateway.cli(&["set", "farm", bad])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.lines().count() == 1, "{bad}: {said}");
    }
    Ok(())
}

#[test]
fn a_rate_limit_holds_while_it_is_set_and_no_longer() -> Result<()> {
    let (_stage, gateway, one, two) = farm()?;
    let mut line = Line::open(&one.seat, &two.seat, two.ipv4, 5001)?;
    const LEN: usize = 4_000_000;
    let free = line.say(LEN)?;
    gateway.ask(&["set", "farm", "rate=20M"])?;
    // Each byte is said by one guest and said back by the other, both at 20 Mbit/s at most; the
    // burst of 128 KiB is free. A grant with the limit takes a moment to arrive.
    let least = Duration::from_secs_f64((LEN as f64 - 131_072.0 * 2.0) * 8.0 / 20e6);
    eventually("the limit holds", PATIENCE * 3, || {
        let took = line.say(LEN)?;
        eprintln!("{LEN} bytes there and back: {free:?} freely, {took:?} at 20 Mbit/s");
        Ok(took >= least)
    })?;
    gateway.ask(&["set", "farm", "rate=off"])?;
    eventually("the limit is gone", PATIENCE * 3, || Ok(line.say(LEN)? < least))
}

#[test]
fn a_gateway_that_stops_suspends_everyone_and_all_resumes_by_itself() -> Result<()> {
    let (_stage, mut gateway, mut one, mut two) = farm()?;
    let mut line = Line::open(&one.seat, &two.seat, two.ipv4, 5001)?;
    gateway.ask(&["set", "farm", "life=10s"])?;
    std::thread::sleep(Duration::from_secs(4)); // grants of the new life
    gateway.process.signal_all(Signal::SIGSTOP)?;
    let started = Instant::now();
    for guest in [&mut one, &mut two] {
        guest.process.wait_line(Duration::from_secs(40), |line| line.starts_with("suspended: "))?;
    }
    eprintln!("gateway stopped: guests suspended after {:?} (10 s)", started.elapsed());
    let to: IpAddr = two.ipv4.into();
    eventually("nothing flows", PATIENCE, || Ok(!reaches(&one.seat, to)?))?;
    ensure!(!reaches(&two.seat, one.ipv4.into())?, "nothing flows the other way either");

    gateway.process.signal_all(Signal::SIGCONT)?;
    let back = wait_reach(&one.seat, to, Duration::from_secs(60))?;
    eprintln!("gateway continued: guests hear each other after {back:?} (5 s)");
    for guest in [&mut one, &mut two] {
        guest.process.wait_line(PATIENCE, |line| line == "resumed")?;
    }
    line.say(100_000).context("a connection lives through a suspension")?;
    wait_reach(&gateway.host, to, BACK_MAX)?;

    // A seller that stops is suspended by the gateway and comes back by itself, too.
    gateway.process.take_lines();
    one.process.signal_all(Signal::SIGSTOP)?;
    let told = "g1 suspended (no renewal for 10 s)";
    gateway.process.wait_line(Duration::from_secs(60), |line| line == told)?;
    assert_eq!(state_of_guest(&gateway, "g1")?, "suspended");
    one.process.signal_all(Signal::SIGCONT)?;
    gateway.process.wait_line(Duration::from_secs(60), |line| line == "g1 resumed")?;
    let back = wait_reach(&gateway.host, one.ipv4.into(), BACK_MAX)?;
    eprintln!("seller continued: reached {back:?} after it resumed (5 s)");
    Ok(())
}

#[test]
fn a_guest_whose_buyer_stays_away_is_given_up_in_the_end() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    gateway.ask(&["set", "farm", "life=10s"])?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let keep = ["--keep", "5s"];
    let mut one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &ticket, &keep)?;
    kill(&mut gateway.process)?;
    one.process.wait_line(Duration::from_secs(60), |line| line.starts_with("suspended: "))?;
    let status = one.process.wait_end(Duration::from_secs(40))?;
    assert_eq!(status.code(), Some(4), "{}", one.process.log());
    assert!(one.process.log().contains("overlay-seller resume"), "{}", one.process.log());
    assert!(seat.interfaces()?.is_empty(), "its interface is gone");
    Ok(())
}

#[test]
fn the_second_of_two_hosts_with_one_key_is_refused_by_name() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &ticket, &[])?;
    let [from, to] = ["seller1", "seller2"].map(|name| state_of(stage.host(name)));
    stage.host("seller2").must(&format!("cp -a {from} {to}"))?;
    let seat = stage.lab.guest("guest2")?;
    let mut copy = Guest::start(&stage.programs, stage.host("seller2"), &seat, &ticket, &[])?;
    let status = copy.wait_end(Duration::from_secs(60))?;
    let words = copy.log();
    assert!(status.code() == Some(REFUSED), "{status} {words}");
    assert!(words.contains("g1") && words.contains("another host"), "{words}");
    assert!(reaches(&gateway.host, one.ipv4.into())?, "the first host is not disturbed");
    // Once the first is gone, the copy may serve.
    let [buyer, first] = ["buyer", "seller1"].map(|name| stage.cable(name).host.ipv4.into());
    block(&stage.router, buyer, first)?;
    drop(one);
    let copy = Guest::join(&stage.programs, stage.host("seller2"), &seat, &ticket, &[]);
    let copy = match copy {
        Ok(copy) => copy,
        Err(_) => Guest::join(&stage.programs, stage.host("seller2"), &seat, &ticket, &[])?,
    };
    wait_reach(&gateway.host, copy.ipv4.into(), BACK_MAX)?;
    Ok(())
}
