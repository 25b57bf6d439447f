//! The lab itself: several at once, nothing left behind, and a capture that can see.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_tests::lab::{Host, Lab, Wire, block, lose, masquerade, prefix_of};
use overlay_tests::traffic::{Ear, eventually, ping, reaches, say, transfer};

/// Set in the process that is killed while it holds a lab.
const HOLD: &str = "OVERLAY_LAB_HOLD";

const MARKER: &[u8] = b"<a marked payload, 7c1f>";

fn pair(lab: &mut Lab) -> Result<(Host, Host, Host, [SocketAddr; 2])> {
    let (router, a, b) = (lab.router("router")?, lab.host("a")?, lab.host("b")?);
    let a_end = lab.connect(&a, &router, Wire::P)?.host;
    let b_end = lab.connect(&b, &router, Wire::P)?.host;
    Ok((router, a, b, [(a_end.ipv4, 700).into(), (b_end.ipv4, 700).into()]))
}

fn leftovers(prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in ["/run/netns", "/tmp"] {
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix.trim_end_matches('-')) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Tells whether a process is no more, or dead and only not yet collected by its new parent.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[test]
fn two_labs_at_once_carry_traffic_and_leave_nothing() -> Result<()> {
    let (mut one, mut two) = (Lab::new()?, Lab::new()?);
    let prefixes = [one.prefix().to_owned(), two.prefix().to_owned()];
    for lab in [&mut one, &mut two] {
        let (_, a, b, [a_at, b_at]) = pair(lab)?;
        ensure!(reaches(&a, b_at.ip())? && reaches(&b, a_at.ip())?, "IPv4 does not pass");
        ensure!(reaches(&a, "2000:44:128:2::2".parse()?)?, "IPv6 does not pass");
        let sent = transfer(&a, &b, b_at, 1 << 20, MARKER)?;
        ensure!(sent.equal && sent.len == 1 << 20, "TCP does not pass: {sent:?}");
        let guest = lab.guest("guest")?;
        ensure!(guest.interfaces()?.is_empty(), "a guest has more than lo");
    }
    drop((one, two));
    for prefix in prefixes {
        ensure!(leftovers(&prefix)?.is_empty(), "left behind: {:?}", leftovers(&prefix)?);
    }
    Ok(())
}

#[test]
fn a_capture_sees_a_marked_payload_on_every_interface() -> Result<()> {
    let mut lab = Lab::new()?;
    let (router, a, b, [a_at, b_at]) = pair(&mut lab)?;
    let capture = router.capture()?;
    let ear = Ear::open(&b, 700)?;
    say(&a, "44.128.1.2".parse()?, b_at, MARKER)?;
    ensure!(ear.hears(MARKER, Duration::from_secs(5))?, "the datagram did not come");
    let sent = transfer(&b, &a, a_at, 4 << 20, MARKER)?;
    ensure!(sent.equal, "TCP came out as something else");
    let frames = capture.finish()?;
    let on = |wanted: &str| {
        frames.iter().any(|(name, frame)| {
            name == wanted && frame.windows(MARKER.len()).any(|part| part == MARKER)
        })
    };
    ensure!(on("lan1") && on("lan2"), "an interface is missing");
    ensure!(frames.count_of(b"<another marker, 93ab>") == 0, "it sees what is not there");
    ensure!(frames.count_between([44, 128, 1, 2], [44, 128, 2, 2]) > 0);
    Ok(())
}

#[test]
fn rules_block_lose_and_hide() -> Result<()> {
    let mut lab = Lab::new()?;
    let (router, a, b, [a_at, b_at]) = pair(&mut lab)?;
    let inner = lab.host("inner")?;
    lab.connect(&inner, &a, Wire::N)?;
    a.must("sysctl -qw net.ipv4.ip_forward=1")?;
    let uplink = overlay_tests::lab::End {
        interface: "wan1".into(),
        ipv4: "44.128.1.2".parse()?,
        ipv6: "::".parse()?,
    };
    ensure!(!reaches(&inner, b_at.ip())?, "there is no way back without NAT");
    masquerade(&a, &uplink)?;
    ensure!(reaches(&inner, b_at.ip())?, "the NAT does not work");
    lose(&b, 500)?;
    let pings = ping(&a, b_at.ip(), 100, Duration::from_millis(2))?.rtts_ms.len();
    ensure!((10..90).contains(&pings), "{pings} of 100 came through a loss of a half");
    block(&router, a_at.ip(), b_at.ip())?;
    ensure!(!reaches(&a, b_at.ip())?, "the block does not block");
    Ok(())
}

#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "holds_a_lab_when_asked_to", "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = owner.stdout.take().context("stdout is piped")?;
    let mut words = BufReader::new(stdout).lines().map_while(Result::ok);
    let line = words.find(|line| line.contains("holding ")).context("it holds no lab")?;
    let mut fields = line.split("holding ").nth(1).context("a prefix")?.split(' ');
    let (prefix, pid) = (fields.next().context("a prefix")?, fields.next().context("a pid")?);
    ensure!(leftovers(prefix)?.len() >= 4, "it does not hold a lab: {:?}", leftovers(prefix)?);
    owner.kill()?;
    owner.wait()?;
    eventually("nothing is left", Duration::from_secs(5), || Ok(leftovers(prefix)?.is_empty()))?;
    let is_gone = || Ok(is_gone(pid));
    eventually("its processes are gone", Duration::from_secs(5), is_gone)
}

#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    let rounds = [(20, Signal::SIGINT), (150, Signal::SIGTERM), (700, Signal::SIGINT)];
    for (after_ms, signal) in rounds {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_overlay-demo"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(after_ms));
        kill(Pid::from_raw(demo.id().cast_signed()), signal)?;
        let prefix = prefix_of(demo.id());
        let status = demo.wait()?;
        let code = status.code();
        // Very early the signal may come before anybody watches for it.
        let early = code.is_none() && after_ms < 100;
        ensure!(early || code == Some(130), "{signal} after {after_ms} ms: {status}");
        ensure!(leftovers(&prefix)?.is_empty(), "left behind: {:?}", leftovers(&prefix)?);
    }
    Ok(())
}

/// Not a test by itself: the owner that the test above kills.
#[test]
fn holds_a_lab_when_asked_to() -> Result<()> {
    if std::env::var_os(HOLD).is_none() {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let (_, a, ..) = pair(&mut lab)?;
    let sleeper = a.spawn("sleep", ["1000"])?;
    eprintln!("ready");
    print_line(&format!("holding {} {} .", lab.prefix(), sleeper.pid()));
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn print_line(line: &str) {
    use std::io::Write;
    // Straight to the descriptor: the test harness keeps what println! prints.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
