//! Orders, guests and what happens to them, played by the real programs in a lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_tests::cast::{Gateway, Guest, state_of};
use overlay_tests::lab::{Host, block};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{Ear, eventually, reaches, say, transfer, wait_reach};

const MARKER: &[u8] = b"<in the clear, 51f0>";
const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
const PORT: u16 = 5001;

/// A few times what a change of path is meant to take: 3 s to the relay.
const REROUTE_MAX: Duration = Duration::from_secs(12);
/// Four times what following a roaming peer is meant to take.
const ROAM_MAX: Duration = Duration::from_secs(4);
/// What the programs have to end in.
const END_MAX: Duration = Duration::from_secs(2);
/// For everything that is not about time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A buyer with an order, and two sellers with a guest each.
fn farm() -> Result<(Stage, Gateway, Guest, Guest)> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let one = stage.join(&gateway, "seller1", "guest1")?;
    let two = stage.join(&gateway, "seller2", "guest2")?;
    Ok((stage, gateway, one, two))
}

fn tcp_passes(from: &Guest, to: &Guest) -> Result<()> {
    let at = SocketAddr::new(to.ipv4.into(), PORT);
    let sent = transfer(&from.seat, &to.seat, at, 2 << 20, MARKER)?;
    ensure!(sent.equal, "{} → {}: the hashes differ: {sent:?}", from.name, to.name);
    Ok(())
}

/// What a program may have left in a namespace: interfaces, firewall tables, sockets.
fn traces(host: &Host) -> Result<String> {
    let tables = host.must("nft list tables")?;
    Ok(format!("{:?} {tables} {}", host.interfaces()?, host.must("ss -Htuln")?))
}

#[test]
fn a_guest_is_configured_from_its_grant_and_reaches_all_members() -> Result<()> {
    let (_stage, gateway, one, two) = farm()?;
    ensure!(one.name == "g1" && two.name == "g2", "names: {} {}", one.name, two.name);
    ensure!(gateway.ipv4 == Ipv4Addr::new(10, 77, 0, 2), "the buyer is {}", gateway.ipv4);
    ensure!(one.ipv4 == Ipv4Addr::new(10, 77, 0, 10), "g1 is {}", one.ipv4);
    let addresses = one.seat.must("ip -o addr show dev eth0")?;
    for address in [format!("{}/24", one.ipv4), format!("{}/64", one.ipv6)] {
        ensure!(addresses.contains(&address), "{address} is not in {addresses}");
    }
    ensure!(one.seat.must("ip link show dev eth0")?.contains("mtu 1500"));
    let buyer = [gateway.ipv4.into(), gateway.ipv6.into()];
    let members: [(&Host, [IpAddr; 2]); 3] =
        [(&gateway.host, buyer), (&one.seat, one.addresses()), (&two.seat, two.addresses())];
    for (from, _) in members {
        for to in members.iter().flat_map(|(_, addresses)| addresses) {
            wait_reach(from, *to, PATIENCE)?;
        }
    }
    let pings = gateway.ask(&["ping", "farm", "g1", "-c", "2"])?;
    ensure!(pings.contains("10.77.0.10"), "ping says {pings}");
    ensure!(!gateway.cli(&["ping", "farm", "g9", "-c", "1"])?.status.success());
    Ok(())
}

#[test]
fn two_sellers_talk_directly_and_sealed() -> Result<()> {
    let (stage, _gateway, one, two) = farm()?;
    wait_reach(&one.seat, two.ipv4.into(), PATIENCE)?;
    let capture = stage.router.capture()?;
    let inside = two.seat.capture()?;
    tcp_passes(&one, &two)?;
    ensure!(inside.finish()?.count_of(MARKER) > 0, "the payload is not seen inside");
    let frames = capture.finish()?;
    ensure!(frames.count_of(MARKER) == 0, "the payload is on a wire");
    let [buyer, a, b] = ["buyer", "seller1", "seller2"].map(|name| &stage.cable(name).host);
    let direct = frames.count_from_to(a, b);
    let via_buyer = frames.count_from_to(a, buyer) + frames.count_from_to(buyer, b);
    ensure!(direct > 30 && via_buyer < direct / 3, "{direct} direct, {via_buyer} by the buyer");
    Ok(())
}

#[test]
fn a_blocked_direct_path_is_replaced_by_the_relay_and_comes_back() -> Result<()> {
    let (stage, _gateway, one, two) = farm()?;
    wait_reach(&one.seat, two.ipv4.into(), PATIENCE)?;
    let [buyer, a, b] = ["buyer", "seller1", "seller2"].map(|name| stage.cable(name).host.clone());
    block(&stage.router, a.ipv4.into(), b.ipv4.into())?;
    block(&stage.router, a.ipv6.into(), b.ipv6.into())?;
    wait_reach(&one.seat, two.ipv4.into(), REROUTE_MAX)?;
    let capture = stage.router.capture()?;
    tcp_passes(&one, &two)?;
    tcp_passes(&two, &one)?;
    let frames = capture.finish()?;
    ensure!(frames.count_of(MARKER) == 0, "the relayed payload is on a wire");
    let relayed = frames.count_from_to(&a, &buyer);
    ensure!(relayed > 30, "only {relayed} frames went to the relay");
    for family in ["ip", "ip6"] {
        stage.router.must(&format!("nft delete table {family} lab_block"))?;
    }
    eventually("the direct path is used again", Duration::from_secs(60), || {
        let capture = stage.router.capture()?;
        ensure!(reaches(&one.seat, two.ipv4.into())?, "the way back up breaks traffic");
        std::thread::sleep(Duration::from_millis(500));
        Ok(capture.finish()?.count_from_to(&a, &b) >= 3)
    })
}

#[test]
fn sellers_that_never_see_each_other_are_relayed_from_the_start() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let [a, b] = ["seller1", "seller2"].map(|name| stage.cable(name).host.clone());
    block(&stage.router, a.ipv4.into(), b.ipv4.into())?;
    block(&stage.router, a.ipv6.into(), b.ipv6.into())?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let one = stage.join(&gateway, "seller1", "guest1")?;
    let two = stage.join(&gateway, "seller2", "guest2")?;
    wait_reach(&one.seat, two.ipv4.into(), REROUTE_MAX)?;
    wait_reach(&two.seat, one.ipv6.into(), REROUTE_MAX)?;
    tcp_passes(&one, &two)
}

#[test]
fn a_seller_whose_address_changes_is_followed() -> Result<()> {
    let (stage, gateway, one, two) = farm()?;
    wait_reach(&one.seat, two.ipv4.into(), PATIENCE)?;
    let cable = stage.cable("seller1");
    let dev = &cable.host.interface;
    for line in [
        format!("ip addr add 44.128.2.77/24 dev {dev}"),
        format!("ip addr del {}/24 dev {dev}", cable.host.ipv4),
        format!("ip addr add 44.128.2.77/24 dev {dev}"),
        format!("ip route replace default via {}", cable.router.ipv4),
    ] {
        // The second `add` is for kernels that take a promoted secondary with its primary.
        stage.host("seller1").run(&line)?;
    }
    // IPv6 goes too, so that there is no way around the change.
    stage.host("seller1").must(&format!("ip -6 addr flush dev {dev} scope global"))?;
    let buyer = wait_reach(&one.seat, gateway.ipv4.into(), ROAM_MAX).context("to the buyer")?;
    let guest = wait_reach(&one.seat, two.ipv4.into(), ROAM_MAX).context("to a guest")?;
    wait_reach(&gateway.host, one.ipv4.into(), ROAM_MAX).context("from the buyer")?;
    ensure!(buyer + guest < 2 * ROAM_MAX);
    tcp_passes(&two, &one)
}

#[test]
fn two_orders_of_one_subnet_do_not_touch() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "buyer2", "seller1", "seller2"])?;
    let farm = stage.open("buyer", "farm", &SUBNET)?;
    let barn = stage.open("buyer2", "barn", &SUBNET)?;
    let one = stage.join(&farm, "seller1", "guest1")?;
    let two = stage.join(&farm, "seller2", "guest2")?;
    let three = stage.join(&barn, "seller1", "guest3")?;
    let four = stage.join(&barn, "seller2", "guest4")?;
    ensure!(one.ipv4 == three.ipv4 && one.ipv6 != three.ipv6);
    wait_reach(&one.seat, two.ipv4.into(), PATIENCE)?;
    wait_reach(&three.seat, four.ipv4.into(), PATIENCE)?;
    let foreign = [three.seat.capture()?, four.seat.capture()?];
    let own = two.seat.capture()?;
    tcp_passes(&one, &two)?;
    let ear = Ear::open(&two.seat, PORT)?;
    let all = SocketAddr::new(Ipv4Addr::BROADCAST.into(), PORT);
    say(&one.seat, one.ipv4, all, MARKER)?;
    ensure!(ear.hears(MARKER, PATIENCE)?, "a broadcast is not heard");
    for (seat, gone) in [(&one.seat, three.ipv6), (&three.seat, two.ipv6)] {
        ensure!(!reaches(seat, gone.into())?, "{} reaches the other order", seat.name());
    }
    std::thread::sleep(Duration::from_millis(300));
    ensure!(own.finish()?.count_of(MARKER) > 0);
    for capture in foreign {
        ensure!(capture.finish()?.count_of(MARKER) == 0, "the other order heard it");
    }
    Ok(())
}

#[test]
fn a_guest_that_leaves_leaves_nothing_behind() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let before = traces(stage.host("seller1"))?;
    let mut guest = stage.join(&gateway, "seller1", "guest1")?;
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 joined 10.77.0.10"))?;
    let state = state_of(&guest.seller);
    let seller = &stage.programs.seller;
    let table = guest.seller.output(seller, ["status", "--state", &state])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(table.contains("g1") && table.contains("10.77.0.10"), "status says {table}");
    let left = guest.seller.output(seller, ["leave", "--state", &state])?;
    ensure!(left.status.success(), "leave: {}", String::from_utf8_lossy(&left.stderr));
    let status = guest.process.wait_end(PATIENCE)?;
    ensure!(status.success(), "join ended with {status}");
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 left"))?;
    ensure!(guest.seat.interfaces()?.is_empty(), "{:?} are left", guest.seat.interfaces()?);
    eventually("no trace is left", PATIENCE, || Ok(traces(stage.host("seller1"))? == before))
}

#[test]
fn sigterm_ends_everything_in_two_seconds() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let hosts = ["buyer", "seller1"].map(|name| stage.host(name).clone());
    let before = [traces(&hosts[0])?, traces(&hosts[1])?];
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let mut guest = stage.join(&gateway, "seller1", "guest1")?;
    ensure!(traces(&hosts[0])? != before[0], "a running gateway leaves no trace to look for");
    let started = Instant::now();
    for process in [&mut guest.process, &mut gateway.process] {
        let status = process.terminate(END_MAX)?;
        ensure!(status.success(), "ended with {status}");
    }
    ensure!(started.elapsed() < 2 * END_MAX);
    ensure!(guest.seat.interfaces()?.is_empty(), "{:?} are left", guest.seat.interfaces()?);
    for (host, before) in hosts.iter().zip(before) {
        eventually("no trace is left", PATIENCE, || Ok(traces(host)? == before))?;
        let run = std::path::Path::new(&state_of(host)).join("run");
        let sockets = std::fs::read_dir(run)?.count();
        ensure!(sockets == 0, "{} keeps {sockets} control sockets", host.name());
    }
    Ok(())
}

#[test]
fn a_killed_gateway_is_started_again_and_the_order_goes_on() -> Result<()> {
    let (stage, mut gateway, one, two) = farm()?;
    wait_reach(&one.seat, two.ipv4.into(), PATIENCE)?;
    gateway.process.signal(nix::sys::signal::Signal::SIGKILL)?;
    gateway.process.wait_end(PATIENCE)?;
    ensure!(reaches(&one.seat, two.ipv4.into())?, "guests need the gateway to talk directly");
    let again = stage.open("buyer", "farm", &[])?;
    ensure!(again.line == gateway.line, "{} became {}", gateway.line, again.line);
    wait_reach(&again.host, one.ipv4.into(), 2 * PATIENCE)?;
    wait_reach(&two.seat, again.ipv4.into(), PATIENCE)?;
    Ok(())
}
