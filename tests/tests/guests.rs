//! Real machines, under QEMU, on the segment.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::lab::Lab;
use overlay_tests::traffic::wait_reach;
use overlay_tests::vm::{self, BOOT_MAX, Vm};

#[test]
fn a_small_guest_boots_and_answers_on_a_plain_bridge() -> Result<()> {
    let mut lab = Lab::new()?;
    let host = lab.host("host")?;
    vm::bridge(&host, "10.9.0.1/24", &["tap0"])?;
    let mut words = vm::small("ovl.ip=10.9.0.10/24 ovl.ip6=fd09::10/64")?;
    words.extend(vm::tap("tap0", "02:00:00:00:09:10"));
    let mut guest = Vm::start(&host, &words)?;
    for marker in ["GUEST UP", "GUEST READY"] {
        eprintln!("{} ({:?})", guest.wait(marker, BOOT_MAX)?, guest.age());
    }
    let address: IpAddr = "10.9.0.10".parse()?;
    wait_reach(&host, address, Duration::from_secs(5))?;
    let said = vm::must_ssh(&host, address, "hostname; ip addr; ip -6 route; free; uptime")?;
    eprintln!("{said}\n{:?}\n{}", guest.age(), guest.console());
    ensure!(said.contains("fd09::10/64"), "the guest has {said}");
    Ok(())
}
