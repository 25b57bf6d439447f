//! Several guests of one order on one host: they share its lease, and outlive each other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay::ipc;
use overlay::local::Client;
use overlay_tests::cast::{Gateway, Guest, state_of};
use overlay_tests::lab::Host;
use overlay_tests::lab::process::Process;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{Ear, eventually, reaches, say, transfer, wait_reach};
use serde_json::{Value, json};

const MARKER: &[u8] = b"<between two of a host, 7c21>";
const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
const PORT: u16 = 5001;
/// For everything that is not about time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a guest has to find another place in when its lease has ended.
const RECOVERY_MAX: Duration = Duration::from_secs(15);
/// More datagrams than heartbeats, probes and renewals are while two guests talk for a moment.
const IDLE_FRAMES_MAX: usize = 60;

/// An order with so many guests on one host and one on another.
fn farm(count: usize) -> Result<(Stage, Gateway, Vec<Guest>, Guest)> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let mut guests = Vec::new();
    for number in 1..=count {
        guests.push(stage.join(&gateway, "seller1", &format!("guest{number}"))?);
    }
    let far = stage.join(&gateway, "seller2", "far")?;
    Ok((stage, gateway, guests, far))
}

/// The data planes of these programs.
fn data_planes<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Vec<u32> {
    let pids = processes.into_iter().flat_map(Process::pids);
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"overlay-dp\0")
    };
    pids.filter(is_one).collect()
}

fn udp_ports(host: &Host) -> Result<BTreeSet<String>> {
    let sockets = host.must("ss -Huln")?;
    let local = sockets.lines().filter_map(|line| line.split_whitespace().nth(3));
    Ok(local.filter_map(|at| at.rsplit(':').next().map(str::to_owned)).collect())
}

fn status(stage: &Stage, host: &Host) -> Result<Vec<Value>> {
    let args = ["status", "--json", "--state", &state_of(host)];
    let output = host.output(&stage.programs.seller, args)?;
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn all_reach(members: &[(&Host, Ipv4Addr)], timeout: Duration) -> Result<()> {
    for (from, own) in members {
        for (_, to) in members.iter().filter(|(_, to)| to != own) {
            wait_reach(from, (*to).into(), timeout).with_context(|| format!("{own} → {to}"))?;
        }
    }
    Ok(())
}

fn seats<'a>(guests: impl IntoIterator<Item = &'a Guest>) -> Vec<(&'a Host, Ipv4Addr)> {
    guests.into_iter().map(|guest| (&guest.seat, guest.ipv4)).collect()
}

#[test]
fn guests_of_an_order_on_one_host_share_its_lease() -> Result<()> {
    let (stage, mut gateway, guests, far) = farm(2)?;
    let seller = stage.host("seller1");
    let [one, two] = &guests[..] else { anyhow::bail!("two guests") };
    ensure!((one.name.as_str(), two.name.as_str()) == ("g1", "g2"));
    let planes = data_planes(guests.iter().map(|guest| &guest.process));
    ensure!(planes.len() == 1, "data planes {planes:?}");
    let ports = udp_ports(seller)?;
    ensure!(ports.len() == 1, "UDP ports {ports:?}");
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g2 joined 10.77.0.11"))?;

    let mut members = seats(guests.iter().chain([&far]));
    members.push((&gateway.host, gateway.ipv4));
    all_reach(&members, PATIENCE)?;
    wait_reach(&one.seat, two.ipv6.into(), PATIENCE)?;
    wait_reach(&two.seat, gateway.ipv6.into(), PATIENCE)?;

    // What the two say to each other stays on their host.
    let (uplink, inside) = (stage.router.capture()?, two.seat.capture()?);
    let at = SocketAddr::new(two.ipv4.into(), PORT);
    let sent = transfer(&one.seat, &two.seat, at, 2 << 20, MARKER)?;
    ensure!(sent.equal, "the hashes differ: {sent:?}");
    ensure!(inside.finish()?.count_of(MARKER) > 0, "the payload is not seen inside");
    let uplink = uplink.finish()?;
    ensure!(uplink.len() < IDLE_FRAMES_MAX, "{} frames on the uplinks", uplink.len());

    // A broadcast of one is heard once by each of the others.
    let ears = [&two.seat, &far.seat].map(|seat| Ear::open(seat, PORT));
    say(&one.seat, one.ipv4, SocketAddr::new(Ipv4Addr::BROADCAST.into(), PORT), MARKER)?;
    for ear in ears {
        let ear = ear?;
        ensure!(ear.hears(MARKER, PATIENCE)?, "a broadcast is not heard");
        ensure!(!ear.hears(MARKER, Duration::from_millis(500))?, "a broadcast is heard twice");
    }

    gateway.ask(&["set", "farm", "mtu=1400"])?;
    for guest in &guests {
        eventually("the guest's interface follows the order", PATIENCE, || {
            Ok(guest.seat.must("ip link show dev eth0")?.contains("mtu 1400"))
        })?;
    }
    let shown = status(&stage, seller)?;
    let field = |name: &str| shown.iter().map(|lease| lease[name].clone()).collect::<Vec<_>>();
    ensure!(field("guest") == ["g1", "g2"] && field("state") == ["up", "up"], "{shown:?}");
    ensure!(field("port")[0] == field("port")[1], "{shown:?}");
    let attached = field("attached");
    ensure!(attached[1].as_str().is_some_and(|at| at.contains(two.seat.netns())), "{attached:?}");
    ensure!(shown[1]["in_frames"].as_u64() > Some(0), "{shown:?}");
    let pong = gateway.ask(&["ping", "farm", "g2", "-c", "1"])?;
    ensure!(pong.contains("10.77.0.11"), "ping says {pong}");
    let file = seller.dir().join("two.pcapng").display().to_string();
    let args = ["pcap", "farm/g2", "--count", "1", "-w", &file, "--state", &state_of(seller)];
    let mut pcap = seller.spawn(&stage.programs.seller, args)?;
    eventually("a frame is captured", PATIENCE, || {
        reaches(&far.seat, two.ipv4.into())?;
        Ok(!pcap.is_running())
    })?;
    ensure!(fs::metadata(&file)?.len() > 100, "{}", pcap.log());
    Ok(())
}

#[test]
fn a_guest_that_ends_leaves_its_slot_and_the_lease_goes_on() -> Result<()> {
    let (mut stage, mut gateway, mut guests, far) = farm(3)?;
    let mut three = guests.pop().context("three guests")?;
    let mut two = guests.pop().context("three guests")?;
    let one = guests.pop().context("three guests")?;
    all_reach(&seats([&one, &two, &three, &far]), PATIENCE)?;
    let told = one.process.pid();
    two.process.signal(Signal::SIGKILL)?;
    two.process.wait_end(PATIENCE)?;
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g2 left"))?;
    ensure!(!reaches(&one.seat, two.ipv4.into())?, "a killed guest is reached");
    let ended = three.process.terminate(PATIENCE)?;
    ensure!(ended.success(), "ended with {ended}");
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g3 left"))?;
    ensure!(one.process.pids().contains(&told));
    all_reach(&seats([&one, &far]), PATIENCE)?;
    // Its ticket brings it back, into the same lease.
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("again")?;
    let again = Guest::join(&stage.programs, stage.host("seller1"), &seat, &ticket, &[])?;
    ensure!(data_planes([&one.process, &again.process]).len() == 1);
    all_reach(&seats([&one, &again, &far]), PATIENCE)
}

#[test]
fn guests_whose_lease_is_killed_find_another_place_with_the_same_addresses() -> Result<()> {
    let (stage, gateway, mut guests, far) = farm(3)?;
    let mut one = guests.remove(0);
    all_reach(&seats(guests.iter().chain([&one, &far])), PATIENCE)?;
    one.process.signal(Signal::SIGKILL)?;
    let killed_at = Instant::now();
    one.process.wait_end(PATIENCE)?;
    let lines = ["it has a lease of its own now", "it shares that of g2 now"];
    for (guest, text) in guests.iter_mut().zip(lines) {
        guest.process.wait_line(RECOVERY_MAX, |line| line.ends_with(text))?;
    }
    for guest in &guests {
        wait_reach(&gateway.host, guest.ipv4.into(), RECOVERY_MAX)?;
    }
    all_reach(&seats(guests.iter().chain([&far])), RECOVERY_MAX)?;
    let took = killed_at.elapsed();
    ensure!(took < RECOVERY_MAX, "it took {took:?}");
    eprintln!("recovered in {took:?}");
    ensure!(data_planes(guests.iter().map(|guest| &guest.process)).len() == 1);
    ensure!(udp_ports(stage.host("seller1"))?.len() == 1);
    Ok(())
}

#[test]
fn an_eviction_takes_one_guest_and_leaves_the_others() -> Result<()> {
    for (evicted, stays) in [("g2", 0), ("g1", 1)] {
        let (_stage, gateway, mut guests, far) = farm(2)?;
        all_reach(&seats(guests.iter().chain([&far])), PATIENCE)?;
        gateway.ask(&["evict", "farm", evicted])?;
        let stayed = guests.remove(stays);
        let mut gone = guests.remove(0);
        let status = gone.process.wait_end(PATIENCE)?;
        ensure!(status.code() == Some(3), "{evicted} ended with {status}");
        ensure!(gone.process.log().contains("evicted"), "{}", gone.process.log());
        wait_reach(&gateway.host, stayed.ipv4.into(), RECOVERY_MAX)?;
        all_reach(&seats([&stayed, &far]), RECOVERY_MAX)?;
        ensure!(!reaches(&far.seat, gone.ipv4.into())?, "an evicted guest is reached");
    }
    Ok(())
}

#[test]
fn a_lease_goes_on_for_the_others_when_its_own_guest_has_ended() -> Result<()> {
    let (stage, mut gateway, mut guests, far) = farm(2)?;
    let two = guests.pop().context("two guests")?;
    let mut one = guests.pop().context("two guests")?;
    all_reach(&seats([&one, &two, &far]), PATIENCE)?;
    one.process.signal(Signal::SIGINT)?;
    one.process.wait_line(PATIENCE, |line| line.starts_with("the lease goes on for g2 "))?;
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 left"))?;
    eventually("its interface is gone", PATIENCE, || Ok(one.seat.interfaces()?.is_empty()))?;
    all_reach(&seats([&two, &far]), RECOVERY_MAX)?;
    wait_reach(&gateway.host, two.ipv4.into(), RECOVERY_MAX)?;
    ensure!(!reaches(&far.seat, one.ipv4.into())?, "a guest that ended is reached");
    let shown = status(&stage, stage.host("seller1"))?;
    ensure!(shown[0]["state"] == "left" && shown[1]["state"] == "up", "{shown:?}");
    let mut two = two;
    let status = two.process.terminate(PATIENCE)?;
    ensure!(status.success(), "the last guest ended with {status}");
    let status = one.process.wait_end(PATIENCE)?;
    ensure!(status.success(), "the lease ended with {status}");
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g2 left"))?;
    Ok(())
}

#[test]
fn a_lease_that_is_interrupted_twice_ends_and_the_others_go_on() -> Result<()> {
    let (stage, gateway, mut guests, _far) = farm(3)?;
    let mut one = guests.remove(0);
    one.process.signal(Signal::SIGINT)?;
    one.process.wait_line(PATIENCE, |line| line.starts_with("the lease goes on for g2, g3 "))?;
    std::thread::sleep(Duration::from_millis(1200));
    one.process.signal(Signal::SIGINT)?;
    let status = one.process.wait_end(PATIENCE)?;
    ensure!(status.success(), "ended with {status}");
    for guest in &guests {
        wait_reach(&gateway.host, guest.ipv4.into(), RECOVERY_MAX)?;
    }
    ensure!(data_planes(guests.iter().map(|guest| &guest.process)).len() == 1);
    // All of them are told to go before any is waited for.
    let args = ["leave", "farm", "--state", &state_of(stage.host("seller1"))];
    let left = stage.host("seller1").output(&stage.programs.seller, args)?;
    ensure!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
    for guest in &mut guests {
        ensure!(guest.process.wait_end(PATIENCE)?.success());
    }
    Ok(())
}

#[test]
fn orders_share_nothing_and_neither_do_leases_of_other_options() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "buyer2", "seller1"])?;
    let farm = stage.open("buyer", "farm", &SUBNET)?;
    let barn = stage.open("buyer2", "barn", &SUBNET)?;
    let one = stage.join(&farm, "seller1", "guest1")?;
    let other = stage.join(&barn, "seller1", "guest2")?;
    ensure!(one.ipv4 == other.ipv4 && one.ipv6 != other.ipv6);
    ensure!(data_planes([&one.process]).len() == 1 && data_planes([&other.process]).len() == 1);
    ensure!(udp_ports(stage.host("seller1"))?.len() == 2);
    let foreign = other.seat.capture()?;
    wait_reach(&farm.host, one.ipv4.into(), PATIENCE)?;
    let all = SocketAddr::new(Ipv4Addr::BROADCAST.into(), PORT);
    say(&one.seat, one.ipv4, all, MARKER)?;
    ensure!(!reaches(&one.seat, other.ipv6.into())?, "two orders meet");
    ensure!(foreign.finish()?.count_of(MARKER) == 0, "the other order heard it");

    let seat = stage.lab.guest("shy")?;
    let ticket = farm.invite_file()?;
    let seller = stage.host("seller1");
    let shy = Guest::join(&stage.programs, seller, &seat, &ticket, &["--only-buyer"])?;
    ensure!(data_planes([&shy.process]).len() == 1, "a guest with other options shares a lease");
    wait_reach(&farm.host, shy.ipv4.into(), PATIENCE)?;
    Ok(())
}

/// First byte of what the guest's program says that its cable is beside.
const CABLE: &[u8] = &[0];

fn descriptor(path: &str) -> Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(path)?.into())
}

/// Waits for the channel's next message, `None` for its end.
fn hear(channel: &OwnedFd) -> Result<Option<String>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ipc::receive(channel) {
            Ok((bytes, _)) if bytes.is_empty() => return Ok(None),
            Ok((bytes, _)) => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(Instant::now() < until, "nothing is said");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn wrong_words_on_the_local_socket_are_refused_by_a_sentence_and_harm_nothing() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "buyer2", "seller1"])?;
    let mut farm = stage.open("buyer", "farm", &SUBNET)?;
    let barn = stage.open("buyer2", "barn", &SUBNET)?;
    let own = farm.invite()?;
    let seat = stage.lab.guest("guest1")?;
    fs::write(seat.dir().join("own"), &own)?;
    let file = format!("@{}", seat.dir().join("own").display());
    let mut one = Guest::join(&stage.programs, stage.host("seller1"), &seat, &file, &[])?;
    let run = Path::new(&state_of(stage.host("seller1"))).join("run");
    let socket = fs::read_dir(run)?.next().context("a socket")??.path();
    let client = || -> Result<Client> { Client::connect(&socket)?.context("a program listens") };
    let share = |ticket: &str| {
        let mut request = json!({ "do": "share", "only_buyer": false, "lan": false, "keep_s": 60 });
        request["ticket"] = ticket.into();
        request
    };
    let mine = farm.invite()?;
    let refused = |request: &Value| match client()?.ask_for_fd(request) {
        Err(error) => Ok(error.to_string()),
        Ok((value, _)) => anyhow::bail!("{request} is answered by {value}"),
    };
    for (request, says) in [
        (json!("nonsense"), "no such request"),
        (json!({ "do": "share" }), "no such request"),
        (share("ovl1nonsense"), "ticket"),
        (share(&barn.invite()?), "order farm, the ticket is of order barn"),
        (share(&own), "g1 of this ticket is joined already"),
    ] {
        let said = refused(&request)?;
        ensure!(said.contains(says), "{request} is refused by {said:?}");
    }
    // What a descriptor beside a request is, nobody looks at.
    let stream = overlay::local::dial(&socket)?.context("a program listens")?;
    let null = descriptor("/dev/null")?;
    ipc::send(&stream, b"{\"do\":\"status\"}\n", &[null.as_fd()])?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(answer.contains("10.77.0.10"), "{answer}");

    let pair = ipc::pair()?;
    let tun = descriptor("/dev/net/tun")?;
    let stranger = UdpSocket::bind("127.0.0.1:0")?;
    let cases: [(&[u8], Vec<BorrowedFd<'_>>, &str); 7] = [
        (CABLE, vec![], "0 descriptors"),
        (CABLE, vec![pair.0.as_fd(), pair.1.as_fd()], "2 descriptors"),
        (CABLE, vec![null.as_fd()], "no cable"),
        (CABLE, vec![stranger.as_fd()], "no cable"),
        (CABLE, vec![tun.as_fd()], "interface is gone"),
        (&[9, 9, 9], vec![], "not understood"),
        (&[0, 0], vec![tun.as_fd()], "not understood"),
    ];
    for (bytes, fds, says) in cases {
        let (shares, channel) = client()?.ask_fd(&share(&mine))?;
        ensure!(shares["of"] == "g1", "{shares}");
        hear(&channel)?.context("it is granted something")?;
        ipc::send(&channel, bytes, &fds)?;
        let mut said = Vec::new();
        while let Some(message) = hear(&channel)? {
            said.push(message);
        }
        let last = said.last().context("a sentence")?;
        ensure!(last.contains(says), "{bytes:?} with {} is answered by {said:?}", fds.len());
        farm.process.wait_line(PATIENCE, |line| line.starts_with("g2 left"))?;
        ensure!(reaches(&one.seat, farm.ipv4.into())?, "{says}: the lease has suffered");
    }
    // A cable before anything is granted, and a channel that is closed at once.
    let (_, channel) = client()?.ask_fd(&share(&mine))?;
    ipc::send(&channel, CABLE, &[tun.as_fd()])?;
    let said = hear(&channel)?.context("a sentence")?;
    ensure!(said.contains("out of turn"), "{said:?}");
    drop(client()?.ask_fd(&share(&mine))?);
    ensure!(one.process.is_running() && reaches(&farm.host, one.ipv4.into())?);
    ensure!(data_planes([&one.process]).len() == 1);
    let seat = stage.lab.guest("guest2")?;
    fs::write(seat.dir().join("mine"), &mine)?;
    let file = format!("@{}", seat.dir().join("mine").display());
    let two = Guest::join(&stage.programs, stage.host("seller1"), &seat, &file, &[])?;
    all_reach(&seats([&one, &two]), PATIENCE)
}
