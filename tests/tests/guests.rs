//! Real machines, under QEMU, on the segment: what each makes of it by its own means.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::cast::Gateway;
use overlay_tests::lab::Lab;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::wait_reach;
use overlay_tests::vm::images::{debian, ipxe, uefi};
use overlay_tests::vm::member::{Member, command};
use overlay_tests::vm::page::Page;
use overlay_tests::vm::{self, BOOT_MAX, Vm};

/// The buyer's address, and that of the first guest of an order.
const BUYER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// Where the buyer serves a page.
const PAGE_PORT: u16 = 8080;
const PAGE: &str = "a page of the buyer's\n";
/// For everything that is not a machine starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// A buyer with an order and a page, and two sellers.
fn farm() -> Result<(Stage, Gateway, Page)> {
    let stage = Stage::build(&["buyer", "seller1", "seller2"])?;
    let port = PAGE_PORT.to_string();
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24", "--expose", &port])?;
    ensure!(gateway.ipv4 == BUYER, "the buyer is {}", gateway.ipv4);
    let page = Page::serve(&gateway.host, SocketAddr::new(BUYER.into(), PAGE_PORT), PAGE)?;
    Ok((stage, gateway, page))
}

/// Starts a guest by one line at the seller.
fn rent(stage: &Stage, gateway: &Gateway, words: Vec<String>) -> Result<Vm> {
    let (seller, ticket) = (stage.host("seller1"), gateway.invite_file()?);
    Vm::start(seller, &command(&stage.programs, seller, &ticket, &[], words))
}

#[test]
fn a_small_guest_boots_and_answers_on_a_plain_bridge() -> Result<()> {
    let mut lab = Lab::new()?;
    let host = lab.host("host")?;
    vm::bridge(&host, "10.9.0.1/24", &["tap0"])?;
    let mut words = vm::small("ovl.ip=10.9.0.10/24 ovl.ip6=fd09::10/64")?;
    words.extend(vm::tap("tap0", "02:00:00:00:09:10"));
    let mut guest = Vm::start(&host, &words)?;
    guest.wait("GUEST READY", BOOT_MAX)?;
    guest.wait("GUEST IP6 fd09::10/64", PATIENCE)?;
    let address: IpAddr = "10.9.0.10".parse()?;
    wait_reach(&host, address, PATIENCE)?;
    let said = vm::must_ssh(&host, address, "cat /sys/class/net/eth0/address")?;
    ensure!(said.trim() == "02:00:00:00:09:10", "the guest says {said}");
    let console = guest.console();
    ensure!(!console.contains("GUEST LACKS"), "something is missing in the guest: {console}");
    guest.stop()
}

#[test]
fn a_small_guest_configures_itself_and_is_a_member_like_the_others() -> Result<()> {
    let (mut stage, gateway, _page) = farm()?;
    let (seller, ticket) = (stage.host("seller1").clone(), gateway.invite_file()?);
    let starting = Member::start(&stage.programs, &seller, &ticket, &[])?;
    let member = Member::up(starting)?;
    ensure!(member.ipv4 == FIRST && member.ipv4_len == 24, "the guest is {:?}", member.lines);
    ensure!(member.name == "g1", "its name is {}", member.name);
    ensure!(member.mtu == 1500, "its MTU is {}", member.mtu);
    ensure!(!member.lines[1].contains("TAKEN"), "its address is another's: {:?}", member.lines);
    let other = stage.join(&gateway, "seller2", "guest2")?;
    for (from, to) in [&gateway.host, &other.seat].into_iter().zip([member.addresses(); 2]) {
        for address in to {
            wait_reach(from, address, PATIENCE)?;
        }
    }
    let [four, six] = other.addresses();
    let all = [gateway.ipv4.into(), gateway.ipv6.into(), four, six];
    let answered = member.pings(&gateway.host, &all)?;
    ensure!(answered.len() == all.len(), "of {all:?} the guest reaches {answered:?}");
    // Two megabytes through ssh, from the buyer and from another guest: all bytes arrive.
    let busybox = std::fs::read(overlay_tests::vm::images::busybox()?)?;
    for from in [&gateway.host, &other.seat] {
        let sent = vm::ssh(from, member.ipv4.into(), "cat /bin/busybox")?;
        ensure!(sent.stdout == busybox, "{} of {} bytes", sent.stdout.len(), busybox.len());
    }
    // No service that the order did not ask for: a guest has no way out, and is told of none.
    let routes = vm::must_ssh(&gateway.host, FIRST.into(), "ip route; ip -6 route")?;
    ensure!(!routes.contains("default"), "the guest was given a way out: {routes}");
    Ok(())
}

#[test]
fn ipxe_asks_dhcp_and_fetches_from_the_buyer() -> Result<()> {
    let (stage, gateway, page) = farm()?;
    let words = ipxe(stage.lab.dir(), &page.url())?;
    let mut guest = rent(&stage, &gateway, words)?;
    let line = guest.wait("GUEST IP4 ", BOOT_MAX)?;
    ensure!(line.contains("10.77.0.10/255.255.255.0 mtu 1500 host g1"), "iPXE says {line}");
    guest.wait("GUEST FETCHED", BOOT_MAX)?;
    guest.wait(&format!("page : {} bytes", PAGE.len()), PATIENCE)?;
    Ok(())
}

#[test]
fn uefi_firmware_asks_dhcp_and_dhcpv6_and_fetches_from_the_buyer() -> Result<()> {
    let (stage, gateway, page) = farm()?;
    let (four, six) = (gateway.ipv4.to_string(), gateway.ipv6.to_string());
    let words = uefi(stage.lab.dir(), &page.url(), [&four, &six])?;
    let mut guest = rent(&stage, &gateway, words)?;
    guest.wait("GUEST READY", 2 * BOOT_MAX)?;
    let said = guest.console();
    ensure!(said.contains(&format!("ipv4 address : {FIRST}")), "UEFI says {said}");
    ensure!(said.matches(" 0% packet loss").count() == 2, "UEFI pings: {said}");
    ensure!(said.contains(PAGE.trim()), "UEFI fetched {said}");
    Ok(())
}

#[test]
fn debian_with_systemd_networkd_needs_nothing_but_its_card() -> Result<()> {
    let (stage, gateway, _page) = farm()?;
    let mut guest = rent(&stage, &gateway, debian(&format!("ovl.ping={BUYER}"))?)?;
    guest.wait("GUEST READY", 3 * BOOT_MAX)?;
    let said = guest.console();
    ensure!(said.contains(&format!("GUEST IP4 {FIRST}/24 mtu 1500")), "Debian says {said}");
    ensure!(said.contains("GUEST HAS HOSTNAME=g1"), "Debian was given no name: {said}");
    ensure!(said.contains("GUEST HAS LIFETIME=3600"), "a lease of other length: {said}");
    ensure!(said.contains("GUEST REACHES"), "Debian does not reach the buyer: {said}");
    let six = guest.wait("GUEST IP6 ", PATIENCE)?;
    let address = six.trim_start_matches("GUEST IP6 ").split('/').next().unwrap_or_default();
    wait_reach(&gateway.host, FIRST.into(), PATIENCE)?;
    wait_reach(&gateway.host, address.parse()?, PATIENCE)?;
    Ok(())
}
