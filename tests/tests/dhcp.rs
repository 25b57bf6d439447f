//! Guests that configure themselves, by the clients that systems come with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, wait_reach};
use overlay_tests::vm::initramfs::find;

/// For everything that is not about time.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn dhcp_clients_and_the_kernel_learn_what_the_grant_and_the_order_say() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let settings = ["set", "farm", "dns=10.77.0.2", "routes=192.168.9.0/24:10.77.0.2", "mtu=1400"];
    gateway.ask(&settings)?;
    for (bad, words) in [
        ("dns=8.8.8.8", "8.8.8.8 is not on the segment"),
        ("dns=one", "write up to 4 addresses"),
        ("routes=0.0.0.0/0:10.77.0.2", "cannot be"),
        ("routes=192.168.9.0/24:192.168.9.1", "leads nowhere"),
    ] {
        let output = gateway.cli(&["set", "farm", bad])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && error.contains(words), "{bad}: {error}");
    }
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    let seat = &guest.seat;
    wait_reach(seat, gateway.ipv4.into(), PATIENCE)?;

    // Nothing that the seller's program set up is left.
    seat.must("ip addr flush dev eth0 scope global")?;
    let script = seat.dir().join("lease.sh");
    fs::write(&script, "#!/bin/sh\nenv >> lease.$1\nenv >> lease.$reason\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let script = script.display();
    let said = |name: &str| fs::read_to_string(seat.dir().join(name)).unwrap_or_default();

    let busybox = find("busybox")?;
    let busybox = busybox.display();
    seat.must(&format!("{busybox} udhcpc -i eth0 -n -q -f -t 3 -T 1 -O 121 -O 26 -s {script}"))?;
    let lease = said("lease.bound");
    for line in [
        "ip=10.77.0.10",
        "subnet=255.255.255.0",
        "dns=10.77.0.2",
        "domain=farm.internal",
        "hostname=g1",
        "mtu=1400",
        "serverid=10.77.0.1",
        "lease=3600",
        "staticroutes=192.168.9.0/24 10.77.0.2",
    ] {
        ensure!(lease.lines().any(|said| said == line), "{line} is not in {lease}");
    }
    ensure!(!lease.contains("router="), "a default route: {lease}");

    // An address for IPv6, by a client that asks for it, with the link-local one it has.
    let link_local = || {
        let addresses = seat.must("ip -6 -o addr show dev eth0 scope link")?;
        Ok(addresses.contains("fe80::") && !addresses.contains("tentative"))
    };
    eventually("a link-local address", PATIENCE, link_local)?;
    let [leases, pid] = ["lease6", "pid6"].map(|name| seat.dir().join(name));
    fs::write(&leases, "")?;
    let line = format!("-6 -1 -d -lf {} -pf {} -sf {script} eth0", leases.display(), pid.display());
    let mut client = seat.spawn(find("dhclient")?, line.split(' '))?;
    let bound = || Ok(said("lease.BOUND6").contains("new_ip6_address"));
    let found = eventually("a DHCPv6 lease", PATIENCE, bound);
    let log = client.log();
    drop(client.terminate(PATIENCE));
    found.map_err(|error| error.context(log))?;
    let lease = said("lease.BOUND6");
    let address = format!("new_ip6_address={}", guest.ipv6);
    ensure!(lease.contains(&address), "{address} is not in {lease}");

    // The kernel solicits routers when the link comes up: the prefix is on the link, and nothing
    // leads away from it.
    seat.must("sysctl -qw net.ipv6.conf.eth0.accept_ra=2")?;
    seat.must("ip link set eth0 down")?;
    seat.must("ip link set eth0 up")?;
    let learned = || {
        // Where the interface has been told so, the advertisement has come.
        let told = seat.must("ip -6 route show dev eth0")?;
        Ok(told.lines().any(|route| route.contains("::/64") && !route.starts_with("fe80")))
    };
    let found = eventually("a router advertisement", PATIENCE, learned);
    let routes = seat.must("ip -6 route show dev eth0")?;
    found.map_err(|error| error.context(routes.clone()))?;
    ensure!(!routes.contains("default"), "{routes}");
    let addresses = seat.must("ip -6 -o addr show dev eth0 scope global")?;
    ensure!(!addresses.contains("dynamic"), "an address made from the prefix: {addresses}");
    Ok(())
}
