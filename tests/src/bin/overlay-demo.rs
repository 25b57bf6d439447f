//! `make demo`: the product, played on this machine by the real programs.
//!
//! Two buyers and two sellers behind a router, each in a network namespace. Each seller serves a
//! guest of either order; the orders use the same subnet. The first order has one guest more, which
//! is a real machine: a Debian kernel in QEMU. Every line with ✓ or ✗ is a check.

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::fs;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use overlay_tests::cast::{Gateway, Guest};
use overlay_tests::lab::Host;
use overlay_tests::lab::capture::Capture;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{Ear, connects, eventually, ping, say, transfer, wait_reach};
use overlay_tests::vm::member::Member;
use overlay_tests::vm::{self, must_ssh};
use overlay_tests::{exit_on_signals, wait_if_interrupted};

/// In every payload of the first order.
const FARM_MARKER: &[u8] = b"<payload of farm, in the clear>";
/// In every payload of the second.
const BARN_MARKER: &[u8] = b"<payload of barn, in the clear>";
/// Both orders have this subnet.
const SUBNET: &str = "10.77.0.0/24";
/// The port that the buyer lets guests reach.
const OPEN_PORT: u16 = 5001;
/// A port that he does not.
const CLOSED_PORT: u16 = 5002;
/// Length of a TCP transfer.
const TRANSFER_LEN: usize = 8 << 20;
/// How long a datagram may take before it counts as not heard.
const HEARD_MAX: Duration = Duration::from_secs(2);
/// How long the programs may take to end.
const LEAVE_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let mut report = Report { passed: 0, failed: 0, colour: std::io::stdout().is_terminal() };
    if let Err(error) =
        exit_on_signals().context("watch for Ctrl-C").and_then(|()| play(&mut report))
    {
        wait_if_interrupted();
        report.check(false, format!("{error:#}"));
    }
    println!("demo: {} checks passed, {} failed", report.passed, report.failed);
    ExitCode::from(u8::from(report.failed > 0))
}

/// Counts checks and prints them.
struct Report {
    passed: u32,
    failed: u32,
    colour: bool,
}

impl Report {
    fn check(&mut self, holds: bool, what: impl AsRef<str>) {
        let (mark, colour) = if holds { ("✓", "32") } else { ("✗", "31") };
        *(if holds { &mut self.passed } else { &mut self.failed }) += 1;
        println!("  {} {}", self.paint(mark, colour), what.as_ref());
    }

    fn heading(&self, text: &str) {
        println!("\n{}", self.paint(text, "1"));
    }

    fn typed(&self, host: &str, command: &str) {
        println!("  {}", self.paint(&format!("{host}$ {command}"), "2"));
    }

    fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("    {line}");
        }
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One order with its members, who are all there.
struct Segment {
    gateway: Gateway,
    guests: Vec<Guest>,
    /// The guest that is a real machine.
    machine: Option<Member>,
}

impl Segment {
    /// Names, namespaces and addresses of all members, the buyer first.
    fn members(&self) -> Vec<(&str, &Host, [IpAddr; 2])> {
        let addresses = [self.gateway.ipv4.into(), self.gateway.ipv6.into()];
        let buyer = (self.gateway.host.name(), &self.gateway.host, addresses);
        let guests = self.guests.iter().map(|one| (one.name.as_str(), &one.seat, one.addresses()));
        std::iter::once(buyer).chain(guests).collect()
    }
}

fn play(report: &mut Report) -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1", "seller2", "buyer2"])?;
    println!("Rented computers on one Ethernet segment: two buyers, two sellers, five guests.\n");
    report.quote(&picture(&stage));
    let probe = stage.host("buyer").within(|| {
        tun_tap::Iface::without_packet_info("probe%d", tun_tap::Mode::Tap)
            .map(|tap| tap.name().to_owned())
    });
    report.check(probe.is_ok(), "this machine can make taps and network namespaces");

    let wires = stage.router.capture()?;
    report.heading("A buyer opens an order, two sellers join it");
    let mut farm = open_order(report, &mut stage, "buyer", "farm", 3, ["guest1", "guest2"])?;
    report.heading("A real machine joins by one line, and configures itself");
    rent_machine(report, &stage, &mut farm)?;
    report.heading("What the buyer sees");
    show_status(report, &farm)?;
    let insides = capture_seats(&farm)?;

    report.heading("Everyone reaches everyone, IPv4 and IPv6");
    ping_all(report, &farm)?;
    ping_machine(report, &farm)?;
    report.heading("The buyer logs in");
    log_in(report, &farm)?;
    report.heading("TCP, compared by hash at both ends");
    move_bytes(report, &farm)?;
    report.heading("One says it once, all hear it");
    broadcast(report, &farm, FARM_MARKER)?;

    report.heading("Another buyer, the same subnet, the same sellers");
    let mut barn = open_order(report, &mut stage, "buyer2", "barn", 2, ["guest3", "guest4"])?;
    two_orders(report, &farm, &barn)?;

    report.heading("What the wires carried");
    look_at_wires(report, &stage, &farm, wires, insides)?;

    report.heading("Everyone leaves");
    leave(report, &mut farm)?;
    leave(report, &mut barn)?;
    Ok(())
}

fn picture(stage: &Stage) -> String {
    let at = |name: &str| stage.cable(name).host.ipv4.to_string();
    format!(
        "buyer   {:<11} ───┐              ┌─── {:<11} seller1 ─── guest1 (farm), guest3 (barn)\n\
         {:23}├─── router ───┤\n\
         buyer2  {:<11} ───┘              └─── {:<11} seller2 ─── guest2, VM (farm), guest4 (barn)",
        at("buyer"),
        at("seller1"),
        "",
        at("buyer2"),
        at("seller2"),
    )
}

fn open_order(
    report: &mut Report,
    stage: &mut Stage,
    buyer: &str,
    order: &str,
    invited: u32,
    seats: [&str; 2],
) -> Result<Segment> {
    let (tcp, udp, invited) =
        (OPEN_PORT.to_string(), format!("{OPEN_PORT}/udp"), invited.to_string());
    let args = ["--subnet", SUBNET, "--invite", &invited, "--expose", &tcp, "--expose", &udp];
    report.typed(buyer, &format!("overlay-gw up {order} {}", args.join(" ")));
    let started = Instant::now();
    let gateway = stage.open(buyer, order, &args)?;
    let took = started.elapsed().as_millis();
    report.quote(&gateway.line);
    report.check(true, format!("order {order} is open after {took} ms"));
    // The tickets are written, in the order of their numbers, once the order is open.
    let last = gateway.ticket_file(&format!("g{invited}"));
    let is_there = || Ok(fs::metadata(last.trim_start_matches('@')).is_ok_and(|f| f.len() > 0));
    eventually("the tickets are written", Duration::from_secs(5), is_there)?;
    let mut segment = Segment { gateway, guests: Vec::new(), machine: None };
    for (number, name) in (1..).zip(seats) {
        let seller = stage.host(&format!("seller{number}")).clone();
        let seat = stage.lab.guest(name)?;
        let file = format!("{order}-g{number}.ovl");
        report.typed(seller.name(), &format!("overlay-seller join @{file} --attach netns:{name}"));
        let ticket = segment.gateway.ticket_file(&format!("g{number}"));
        let guest = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
        // The namespace's name here has the lab's prefix, which says nothing to the reader.
        report.quote(&guest.line.replace(seat.netns(), name));
        let took = guest.took.as_millis();
        report.check(true, format!("{} is on the segment {took} ms after its start", guest.name));
        segment.guests.push(guest);
    }
    Ok(segment)
}

fn rent_machine(report: &mut Report, stage: &Stage, farm: &mut Segment) -> Result<()> {
    // Where this machine keeps the files says nothing to the reader.
    let words = vm::small("")?;
    let words = words.iter().map(|word| match word.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None if word.contains(' ') => format!("'{word}'"),
        None => word.clone(),
    });
    let words = words.collect::<Vec<_>>().join(" ");
    report.typed("seller2", &format!("overlay-seller run @farm-g3.ovl -- {words}"));
    let ticket = farm.gateway.ticket_file("g3");
    let machine = Member::up(Member::start(&stage.programs, stage.host("seller2"), &ticket, &[])?)?;
    machine.lines.iter().for_each(|line| report.quote(line));
    let (name, took) = (&machine.name, machine.took.as_secs_f64());
    let addresses = format!("{} by DHCP and {} by DHCPv6", machine.ipv4, machine.ipv6);
    report.check(name == "g3", format!("{name} has {addresses}, {took:.1} s after its start"));
    farm.machine = Some(machine);
    Ok(())
}

fn show_status(report: &mut Report, farm: &Segment) -> Result<()> {
    report.typed("buyer", "overlay-gw status farm");
    let table = farm.gateway.ask(&["status", "farm"])?;
    report.quote(&table);
    let guests = farm.guests.iter().map(|guest| (&guest.name, guest.ipv4));
    let machine = farm.machine.iter().map(|machine| (&machine.name, machine.ipv4));
    let named = guests.chain(machine).all(|(name, ipv4)| {
        table.lines().any(|line| line.contains(name) && line.contains(&ipv4.to_string()))
    });
    report.check(named, "the status table names every guest with its address");
    Ok(())
}

fn ping_all(report: &mut Report, segment: &Segment) -> Result<()> {
    let members = segment.members();
    let machine = segment.machine.iter().map(|one| (one.name.as_str(), one.addresses()));
    let targets = members.iter().map(|(name, _, addresses)| (*name, *addresses)).chain(machine);
    let targets: Vec<_> = targets.collect();
    for (from, seat, _) in &members {
        for (to, addresses) in targets.iter().filter(|(to, ..)| to != from) {
            // The first packet makes the tunnel; what is shown is how it is from then on.
            let mut times = Vec::new();
            for address in addresses {
                let first = wait_reach(seat, *address, Duration::from_secs(5));
                let pings = ping(seat, *address, 5, Duration::from_millis(10))?;
                let median = first.ok().and_then(|_| pings.percentile(50));
                times.push(median.map_or("no reply".to_owned(), |ms| format!("{ms:.2} ms")));
            }
            report_pings(report, from, to, *addresses, &times);
        }
    }
    Ok(())
}

/// From inside the machine, by ssh.
fn ping_machine(report: &mut Report, segment: &Segment) -> Result<()> {
    let Some(machine) = &segment.machine else { return Ok(()) };
    let members = segment.members();
    let all: Vec<_> = members.iter().flat_map(|(_, _, addresses)| *addresses).collect();
    let answered = machine.pings(&segment.gateway.host, &all)?;
    for (to, _, addresses) in members {
        let time = |address| answered.get(&address).map(|ms| format!("{ms:.2} ms"));
        let times = addresses.map(|address| time(address).unwrap_or_else(|| "no reply".to_owned()));
        report_pings(report, &machine.name, to, addresses, &times);
    }
    Ok(())
}

fn report_pings(
    report: &mut Report,
    from: &str,
    to: &str,
    addresses: [IpAddr; 2],
    times: &[String],
) {
    let holds = !times.iter().any(|time| time == "no reply");
    let [ipv4, ipv6] = addresses.map(|address| address.to_string());
    report.check(
        holds,
        format!("{from:>5} → {to:<5}  {ipv4:<11} {:<9}  {ipv6:<24} {}", times[0], times[1]),
    );
}

fn log_in(report: &mut Report, segment: &Segment) -> Result<()> {
    let Some(machine) = &segment.machine else { return Ok(()) };
    report.typed("buyer", &format!("ssh root@{} 'hostname; uname -sr; uptime'", machine.ipv4));
    let said = must_ssh(&segment.gateway.host, machine.ipv4.into(), "hostname; uname -sr; uptime");
    report.quote(said.as_deref().unwrap_or_default());
    let right = said.as_ref().is_ok_and(|said| said.starts_with(&machine.name));
    let failure = said.err().map(|error| format!(": {error:#}")).unwrap_or_default();
    report.check(right, format!("a shell in {}{failure}", machine.name));
    Ok(())
}

fn move_bytes(report: &mut Report, farm: &Segment) -> Result<()> {
    let members = farm.members();
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 1)] {
        let ((from, sender, _), (to, receiver, addresses)) = (members[from], members[to]);
        let at = SocketAddr::new(addresses[0], OPEN_PORT);
        match transfer(sender, receiver, at, TRANSFER_LEN, FARM_MARKER) {
            Ok(sent) => {
                let rate = sent.len as f64 * 8e-9 / sent.took.as_secs_f64();
                report.check(
                    sent.equal,
                    format!("{from:>5} → {to:<5}  {} MiB  {rate:.2} Gbit/s", sent.len >> 20),
                );
            }
            Err(error) => report.check(false, format!("{from:>5} → {to:<5}  {error:#}")),
        }
    }
    let (name, seat, _) = members[1];
    let closed = SocketAddr::new(members[0].2[0], CLOSED_PORT);
    let _listener = members[0].1.within(|| std::net::TcpListener::bind(closed))?;
    let got_in = connects(seat, closed, Duration::from_millis(500));
    report.check(
        !got_in,
        format!("{name} does not reach the buyer's port {CLOSED_PORT}, which is not exposed"),
    );
    Ok(())
}

fn broadcast(report: &mut Report, segment: &Segment, marker: &[u8]) -> Result<()> {
    let members = segment.members();
    let ears = members
        .iter()
        .map(|(_, host, _)| Ear::open(host, OPEN_PORT))
        .collect::<Result<Vec<_>>>()?;
    for (speaker, (from, host, addresses)) in members.iter().enumerate() {
        let IpAddr::V4(own) = addresses[0] else { continue };
        for to in ["255.255.255.255", "10.77.0.255"] {
            let text = [marker, format!(" {from} to {to}").as_bytes()].concat();
            say(host, own, SocketAddr::new(to.parse()?, OPEN_PORT), &text)?;
            let mut deaf = Vec::new();
            for (listener, (ear, (name, ..))) in ears.iter().zip(&members).enumerate() {
                if listener != speaker && !ear.hears(&text, HEARD_MAX)? {
                    deaf.push(*name);
                }
            }
            let heard = members.len() - 1 - deaf.len();
            let missing = if deaf.is_empty() { String::new() } else { format!(", not {deaf:?}") };
            report.check(
                deaf.is_empty(),
                format!("{from:>5} → {to:<15}  heard by {heard} of {}{missing}", members.len() - 1),
            );
        }
    }
    Ok(())
}

fn two_orders(report: &mut Report, farm: &Segment, barn: &Segment) -> Result<()> {
    let same = farm.guests[0].ipv4 == barn.guests[0].ipv4;
    let address = farm.guests[0].ipv4;
    report.check(same, format!("{address} is a guest of farm, and another one of barn"));
    let insides = [capture_seats(farm)?, capture_seats(barn)?];
    for (segment, marker) in [(farm, FARM_MARKER), (barn, BARN_MARKER)] {
        let order = &segment.gateway.order;
        let (guest, other) = (&segment.guests[0], &segment.guests[1]);
        let at = SocketAddr::new(other.ipv4.into(), OPEN_PORT);
        let sent = transfer(&guest.seat, &other.seat, at, 1 << 20, marker)?;
        report.check(sent.equal, format!("{order}: 1 MiB from {} to {}", guest.name, other.name));
        broadcast_once(guest, marker)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut counts = Vec::new();
    for captures in insides {
        let mut own = [0, 0];
        for capture in captures {
            let frames = capture.finish()?;
            for (count, marker) in own.iter_mut().zip([FARM_MARKER, BARN_MARKER]) {
                *count += frames.count_of(marker);
            }
        }
        counts.push(own);
    }
    for (order, other, [own, foreign]) in
        [("farm", "barn", counts[0]), ("barn", "farm", [counts[1][1], counts[1][0]])]
    {
        report.check(
            own > 0 && foreign == 0,
            format!("{order} heard {own} frames of its own and {foreign} of {other}"),
        );
    }
    Ok(())
}

fn broadcast_once(guest: &Guest, marker: &[u8]) -> Result<()> {
    say(&guest.seat, guest.ipv4, SocketAddr::new("255.255.255.255".parse()?, OPEN_PORT), marker)
}

/// Captures where the frames are in the clear: in the members' own namespaces. The gateway's host
/// has an underlay wire too, so it is left out.
fn capture_seats(segment: &Segment) -> Result<Vec<Capture>> {
    segment.guests.iter().map(|guest| guest.seat.capture()).collect()
}

fn look_at_wires(
    report: &mut Report,
    stage: &Stage,
    farm: &Segment,
    wires: Capture,
    insides: Vec<Capture>,
) -> Result<()> {
    let mut clear = 0;
    for inside in insides {
        clear += inside.finish()?.count_of(FARM_MARKER);
    }
    report.check(clear > 0, format!("inside the guests the payload is seen in {clear} frames"));
    let wires = wires.finish()?;
    let seen = wires.count_of(FARM_MARKER) + wires.count_of(BARN_MARKER);
    report.check(
        seen == 0 && !wires.is_empty(),
        format!("on the router's four wires it is seen in {seen} of {} frames", wires.len()),
    );
    let [one, two] = ["seller1", "seller2"].map(|name| &stage.cable(name).host);
    let direct = wires.count_from_to(one, two).min(wires.count_from_to(two, one));
    let [a, b] = [&farm.guests[0].name, &farm.guests[1].name];
    report.check(
        direct > TRANSFER_LEN / 65536,
        format!("{a} and {b} talked directly: {direct} frames between their sellers each way"),
    );
    Ok(())
}

fn leave(report: &mut Report, segment: &mut Segment) -> Result<()> {
    let order = segment.gateway.order.clone();
    let started = Instant::now();
    let mut statuses = Vec::new();
    if let Some(machine) = &mut segment.machine {
        statuses.push(machine.vm.process.terminate(LEAVE_MAX)?);
    }
    for guest in &mut segment.guests {
        statuses.push(guest.process.terminate(LEAVE_MAX)?);
    }
    statuses.push(segment.gateway.process.terminate(LEAVE_MAX)?);
    let took = started.elapsed().as_millis();
    let sellers = statuses.len() - 1;
    report.check(
        statuses.iter().all(std::process::ExitStatus::success),
        format!("{order}: {sellers} sellers and the gateway ended in {took} ms"),
    );
    let mut left = Vec::new();
    for guest in &segment.guests {
        left.extend(guest.seat.interfaces()?);
    }
    let buyer = &segment.gateway.host;
    left.extend(buyer.interfaces()?.into_iter().filter(|name| !name.starts_with("wan")));
    left.extend(buyer.must("nft list tables")?.lines().map(str::to_owned));
    report.check(
        left.is_empty(),
        format!("{order}: interfaces and firewall tables left behind: {}", left.len()),
    );
    Ok(())
}
