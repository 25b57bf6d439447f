//! Virtual machines by one line: `overlay-seller run TICKET -- qemu-system-x86_64 …`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_tests::cast::{Gateway, state_of};
use overlay_tests::lab::Host;
use overlay_tests::lab::process::Process;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, ping, reaches, wait_reach};
use overlay_tests::vitals::Vitals;
use overlay_tests::vm::{self, BOOT_MAX, QEMU};
use serde_json::Value;

const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
/// For everything that is not about time.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the program has to end in.
const END_MAX: Duration = Duration::from_secs(2);

const ONE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

/// Starts `overlay-seller run TICKET ARGS… -- MACHINE…`.
fn run(
    stage: &Stage,
    seller: &str,
    ticket: &str,
    args: &[&str],
    machine: &[String],
) -> Result<Process> {
    let host = stage.host(seller);
    let state = state_of(host);
    let fixed = ["run", ticket, "--state", &state].into_iter().chain(args.iter().copied());
    let all = fixed.chain(["--"]).chain(machine.iter().map(String::as_str));
    host.spawn(&stage.programs.seller, all)
}

/// The small guest, emulated as everywhere, with a fixed address.
fn machine(ipv4: Ipv4Addr, append: &str) -> Result<Vec<String>> {
    let mut words = vm::small(&format!("ovl.ip={ipv4}/24 {append}"))?;
    words.extend(["-accel".to_owned(), "tcg".to_owned()]);
    Ok(words)
}

fn event(process: &mut Process, name: &str) -> Result<Value> {
    let named = format!("\"event\":\"{name}\"");
    let line = process.wait_line(PATIENCE, |line| line.contains(&named))?;
    Ok(serde_json::from_str(&line)?)
}

/// Waits until a console's file holds a line with that text, and returns it.
fn console(path: &Path, text: &str) -> Result<String> {
    let mut found = None;
    eventually(&format!("{text:?} is in {}", path.display()), BOOT_MAX, || {
        let said = fs::read(path).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        found = said.lines().find(|line| line.contains(text)).map(str::to_owned);
        Ok(found.is_some())
    })?;
    found.context("there was a line")
}

fn exists(pid: u64) -> bool {
    // A process that has ended and is not yet waited for is as good as gone.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// What machines have left in a seller's state directory, consoles aside.
fn leftovers(host: &Host) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(Path::new(&state_of(host)).join("vm")) else {
        return Ok(Vec::new());
    };
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?.into_iter().filter(|path| path.is_dir()).collect())
}

fn farm(sellers: &[&str]) -> Result<(Stage, Gateway)> {
    let hosts: Vec<_> = std::iter::once("buyer").chain(sellers.iter().copied()).collect();
    let stage = Stage::build(&hosts)?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    Ok((stage, gateway))
}

/// What QEMU may and may not, by what the kernel says of its process.
fn check_confined(pid: u64, own: u32, dir: &Path) -> Result<()> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let status = read("status")?;
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.into_iter()
            .flat_map(|line| line.split_whitespace().skip(1).map(str::to_owned))
            .collect()
    };
    let ids: Vec<u32> =
        [field("Uid"), field("Gid")].concat().iter().flat_map(|id| id.parse()).collect();
    ensure!(ids.len() == 8 && ids.iter().all(|id| *id >= 1000), "QEMU is {ids:?}");
    ensure!(field("Groups").is_empty(), "QEMU is in {:?}", field("Groups"));
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        ensure!(
            field(capabilities) == ["0000000000000000"],
            "{capabilities} {:?}",
            field(capabilities)
        );
    }
    ensure!(field("NoNewPrivs") == ["1"] && field("Seccomp") == ["2"], "{status}");
    let devices = read("net/dev")?;
    ensure!(devices.lines().skip(2).all(|line| line.trim_start().starts_with("lo:")), "{devices}");
    for (limit, value) in [("Max core file size", "0"), ("Max file size", "10737418240")] {
        let limits = read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).unwrap_or_default();
        ensure!(line.split_whitespace().next() == Some(value), "{limit} {line}, not {value}");
    }
    let netns = |pid: String| fs::read_link(format!("/proc/{pid}/ns/net"));
    ensure!(netns(pid.to_string())? != netns(own.to_string())?, "QEMU is in the seller's network");
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = fs::read_link(entry?.path())?.display().to_string();
        let known = ["anon_inode:", "pipe:", "/dev/null", "/dev/net/tun", "/memfd:ovl"];
        let image = Path::new(&target).parent() == Some(dir);
        let scratch = target.contains("/state/vm/") && target.ends_with(" (deleted)");
        let is_known = image || scratch || known.iter().any(|start| target.starts_with(start));
        ensure!(is_known, "QEMU has {target} open");
    }
    Ok(())
}

#[test]
fn a_machine_is_on_the_lan_by_one_line_and_goes_without_a_trace() -> Result<()> {
    let (stage, mut gateway) = farm(&["seller1"])?;
    let seller = stage.host("seller1");
    gateway.ask(&["set", "farm", "mtu=1400"])?;
    let mut words = machine(ONE, "ovl.run=ping,-c,1,-W,20,10.77.0.2")?;
    for (name, rest) in [("a.img", "format=raw,snapshot=on"), ("b.img", "format=raw")] {
        let path = file(seller, name, &[0; 1 << 20])?;
        words.extend(["-drive".to_owned(), format!("file={path},if=virtio,{rest}")]);
    }
    let path = file(seller, "c.qcow2", &empty_qcow2())?;
    words.extend(["-drive".to_owned(), format!("file={path},if=virtio,format=qcow2")]);
    let mut process = run(&stage, "seller1", &gateway.invite_file()?, &["--json"], &words)?;
    let started = event(&mut process, "guest_started")?;
    let pid = started["pid"].as_u64().context("a process")?;
    let joined = event(&mut process, "joined")?;
    ensure!(joined["attached"] == format!("vm {QEMU} pid {pid}"), "{joined}");
    let log = PathBuf::from(started["console"].as_str().context("a console")?);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{} has mode {mode:o}", log.display());
    let link = console(&log, "GUEST LINK")?;
    let mac = joined["mac"].as_str().context("a MAC")?;
    ensure!(link.contains(mac) && link.contains("mtu 1400"), "{link}, granted {mac}");
    check_confined(pid, process.pid(), seller.dir())?;
    wait_reach(&gateway.host, ONE.into(), BOOT_MAX)?;
    ensure!(
        console(&log, "GUEST RAN")?.contains("GUEST RAN 0"),
        "the guest does not reach the buyer"
    );
    let status = seller.output(&stage.programs.seller, ["status", "--state", &state_of(seller)])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(status.contains(&format!("vm {QEMU} pid {pid}")), "{status}");
    ensure!(leftovers(seller)?.len() == 1, "{:?}", leftovers(seller)?);
    // All that is printed is for programs: nothing of the console is in it.
    for line in process.take_lines() {
        serde_json::from_str::<Value>(&line).with_context(|| format!("no event: {line}"))?;
    }
    // One that does not end when asked is killed.
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGSTOP)?;
    let asked = Instant::now();
    ensure!(process.terminate(4 * END_MAX)?.success());
    eprintln!("ended in {:?}", asked.elapsed());
    ensure!(asked.elapsed() < 2 * END_MAX, "it took {:?} to end", asked.elapsed());
    ensure!(!exists(pid), "QEMU lives on");
    ensure!(leftovers(seller)?.is_empty(), "{:?} are left", leftovers(seller)?);
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 left"))?;
    Ok(())
}

#[test]
fn a_guest_that_switches_itself_off_ends_its_lease() -> Result<()> {
    let (stage, mut gateway) = farm(&["seller1"])?;
    // The first line of stdin is the ticket, the others are typed into the guest.
    let words =
        machine(ONE, "ovl.run=until,test,_$x,=,_hello;do,read,x;done;echo,HEARD-$x;poweroff,-f")?;
    let host = stage.host("seller1");
    let script = "(echo \"$0\"; while sleep 1; do echo hello; done) | exec \"$@\"";
    let (ticket, state) = (gateway.invite()?, state_of(host));
    let seller = stage.programs.seller.display().to_string();
    let fixed = ["-c", script, &ticket, &seller, "run", "-", "--state", &state, "--"];
    let all = fixed.into_iter().chain(words.iter().map(String::as_str));
    let mut process = host.spawn("sh", all)?;
    process.wait_line(PATIENCE, |line| line.starts_with(&format!("vm {QEMU} pid ")))?;
    // Without --console it is on the terminal, which is stdout here.
    process.wait_line(BOOT_MAX, |line| line.contains("GUEST READY"))?;
    process.wait_line(BOOT_MAX, |line| line.contains("HEARD-hello"))?;
    process.wait_line(PATIENCE, |line| line.starts_with("guest exited (exit status: 0)"))?;
    let status = process.wait_end(PATIENCE)?;
    ensure!(status.success(), "ended with {status}: {}", process.log());
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 left"))?;
    ensure!(leftovers(stage.host("seller1"))?.is_empty());
    Ok(())
}

#[test]
fn two_machines_of_one_order_meet_and_those_of_another_do_not() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "buyer2", "seller1"])?;
    let farm = stage.open("buyer", "farm", &SUBNET)?;
    let barn = stage.open("buyer2", "barn", &SUBNET)?;
    let other = stage.join(&barn, "seller1", "guest3")?;
    ensure!(other.ipv4 == ONE, "the orders are to share a subnet");
    let dir = stage.host("seller1").dir().to_owned();
    let logs = [dir.join("one.log"), dir.join("two.log")];
    let shown = logs.each_ref().map(|path| path.display().to_string());
    let ask = |other: Ipv4Addr| {
        format!("ovl.run=until,ping,-c1,-W1,{other};do,true;done;ping,-c,3,{other}")
    };
    let mut processes = Vec::new();
    for (own, other, log) in [(ONE, TWO, &shown[0]), (TWO, ONE, &shown[1])] {
        let ticket = farm.invite_file()?;
        let words = machine(own, &ask(other))?;
        let mut process = run(&stage, "seller1", &ticket, &["--console", log], &words)?;
        process.wait_line(PATIENCE, |line| line.contains("  order farm  "))?;
        processes.push(process);
    }
    for log in &logs {
        ensure!(console(log, "GUEST RAN")?.contains("GUEST RAN 0"), "they do not meet");
    }
    wait_reach(&farm.host, TWO.into(), PATIENCE)?;
    ensure!(!reaches(&other.seat, TWO.into())?, "machines of two orders meet");
    ensure!(leftovers(stage.host("seller1"))?.len() == 2);
    for process in &mut processes {
        let status = process.terminate(4 * END_MAX)?;
        ensure!(status.success(), "ended with {status}: {}", process.log());
    }
    Ok(())
}

#[test]
fn a_crashed_machine_is_started_again_and_a_killed_program_leaves_none() -> Result<()> {
    let (stage, gateway) = farm(&["seller1"])?;
    let seller = stage.host("seller1");
    let ticket = gateway.invite_file()?;
    let words = machine(ONE, "")?;
    let mut process = run(&stage, "seller1", &ticket, &["--json", "--restart"], &words)?;
    let first = event(&mut process, "guest_started")?["pid"].as_u64().context("a process")?;
    kill(Pid::from_raw(i32::try_from(first)?), Signal::SIGKILL)?;
    ensure!(event(&mut process, "guest_exited")?["again_s"] == 1);
    let second = event(&mut process, "guest_started")?["pid"].as_u64().context("a process")?;
    ensure!(first != second && exists(second));
    wait_reach(&gateway.host, ONE.into(), BOOT_MAX)?;
    process.signal(Signal::SIGKILL)?;
    process.wait_end(PATIENCE)?;
    eventually("QEMU is gone with the program", PATIENCE, || Ok(!exists(second)))?;
    ensure!(leftovers(seller)?.len() == 1, "a killed program cannot clean up");
    // The same ticket resumes, and what the killed one left is gone.
    let mut again = run(&stage, "seller1", &ticket, &["--json"], &words)?;
    let third = event(&mut again, "guest_started")?["pid"].as_u64().context("a process")?;
    ensure!(leftovers(seller)?.len() == 1);
    // Without --restart the end of QEMU is the end, and a failure.
    kill(Pid::from_raw(i32::try_from(third)?), Signal::SIGKILL)?;
    let status = again.wait_end(PATIENCE)?;
    ensure!(status.code() == Some(1), "ended with {status}");
    ensure!(again.log().contains("signal: 9"), "{}", again.log());
    ensure!(leftovers(seller)?.is_empty(), "{:?} are left", leftovers(seller)?);
    Ok(())
}

#[test]
fn a_machine_that_reads_nothing_holds_nobody_up() -> Result<()> {
    const PINGS: u32 = 200;
    let (mut stage, gateway) = farm(&["seller1", "seller2"])?;
    let ticket = gateway.invite_file()?;
    let mut process = run(&stage, "seller1", &ticket, &["--json"], &machine(ONE, "")?)?;
    let pid = event(&mut process, "guest_started")?["pid"].as_i64().context("a process")?;
    let qemu = Pid::from_raw(i32::try_from(pid)?);
    wait_reach(&gateway.host, ONE.into(), BOOT_MAX)?;
    let other = stage.join(&gateway, "seller2", "guest2")?;
    wait_reach(&other.seat, ONE.into(), PATIENCE)?;
    let before = Vitals::of_tree(&process)?;
    kill(qemu, Signal::SIGSTOP)?;
    // Far more than the card's ring and its tap's queue hold, at once.
    let burst = ["-q", "-l", "60000", "-c", "60000", "-s", "1400", "-W", "1", &ONE.to_string()];
    let mut flood = other.seat.spawn("ping", burst)?;
    let pings = ping(&gateway.host, other.ipv4.into(), PINGS, Duration::from_millis(5))?;
    let lost = PINGS as usize - pings.rtts_ms.len();
    flood.terminate(PATIENCE)?;
    let after = Vitals::of_tree(&process)?;
    kill(qemu, Signal::SIGCONT)?;
    ensure!(lost < PINGS as usize / 20, "{lost} of {PINGS} pings of others were lost");
    let grown = after.memory_len.saturating_sub(before.memory_len);
    ensure!(grown < 8 << 20, "memory grew by {grown} bytes");
    wait_reach(&other.seat, ONE.into(), PATIENCE)?;
    Ok(())
}

/// Writes a file of the scenario's and returns its path.
fn file(host: &Host, name: &str, bytes: &[u8]) -> Result<String> {
    let path = host.dir().join(name);
    fs::write(&path, bytes)?;
    Ok(path.display().to_string())
}

/// An empty disk of 1 GiB: header, table of counts, counts, table of contents, 64 KiB each.
fn empty_qcow2() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 16];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16u32.to_be_bytes());
    put(24, &(1u64 << 30).to_be_bytes());
    put(36, &2u32.to_be_bytes());
    put(40, &(3u64 << 16).to_be_bytes());
    put(48, &(1u64 << 16).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(1 << 16, &(2u64 << 16).to_be_bytes());
    put(2 << 16, &[0, 1, 0, 1, 0, 1, 0, 1]);
    bytes
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() -> Result<()> {
    let (stage, gateway) = farm(&["seller1"])?;
    let host = stage.host("seller1");
    let ticket = gateway.invite_file()?;
    let empty = file(host, "empty.img", &[0; 1 << 20])?;
    let passwords = file(host, "passwords", b"root:x:0:0:root:/root:/bin/bash\n")?;
    let mut head = vec![0; 1 << 16];
    head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    let qcow2 = file(host, "disk.qcow2", &head)?;
    head[15] = 1;
    let backed = file(host, "backed.qcow2", &head)?;
    let drive = |file: &str, rest: &str| format!("{QEMU} -drive file={file},{rest}");
    let missing = host.dir().join("missing.img").display().to_string();
    // Held for the rest of the scenario.
    let busy = file(host, "busy.img", &[0; 1 << 20])?;
    let mut other = host.spawn(
        QEMU,
        format!("-nodefaults -display none -S -drive file={busy},format=raw,if=virtio").split(' '),
    )?;
    eventually("QEMU has locked its image", PATIENCE, || {
        let locks = fs::read_to_string("/proc/locks")?;
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&busy)?);
        ensure!(other.is_running(), "{}", other.log());
        Ok(locks.contains(&format!(":{inode} ")))
    })?;
    let cases = [
        (format!("{QEMU} -netdev user,id=n"), 2, "-netdev"),
        (format!("{QEMU} -device vhost-vsock-pci,guest-cid=3"), 2, "vhost-vsock-pci"),
        (drive(&empty, "if=virtio"), 2, "format=raw"),
        ("sh -c true".to_owned(), 2, "\"sh\""),
        ("qemu-system-none".to_owned(), 1, "apt-get install qemu-system-misc"),
        (drive(&missing, "format=raw"), 1, "no such file"),
        (drive(&passwords, "format=raw,snapshot=on"), 1, "no disk"),
        (format!("{QEMU} -kernel {passwords}"), 1, "no kernel"),
        (drive(&qcow2, "format=raw"), 1, "qcow2, not raw"),
        (drive(&empty, "format=qcow2"), 1, "not qcow2"),
        (drive(&backed, "format=qcow2"), 1, "another file"),
        (drive(&busy, "format=raw"), 1, "another virtual machine"),
        (format!("{QEMU} -accel tcg -cpu nonsense"), 1, "nonsense"),
    ];
    let mut complaints = Vec::new();
    for (line, code, says) in cases {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let before = host.interfaces()?;
        let mut process = run(&stage, "seller1", &ticket, &[], &words)?;
        let log = process.log().len();
        let status = process.wait_end(PATIENCE)?;
        let said = process.log()[log.min(process.log().len())..].to_owned();
        let last = said.lines().last().unwrap_or_default();
        if status.code() != Some(code) || !last.contains(says) || last.len() > 700 {
            complaints.push(format!("{line}: {status}, not {code} with {says:?}: {said}"));
        }
        if host.interfaces()? != before || !leftovers(host)?.is_empty() {
            complaints.push(format!("{line}: left something behind"));
        }
    }
    ensure!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}
