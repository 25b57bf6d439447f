//! Programs killed at any moment, state that was damaged, disks that are full or read-only; and
//! tickets, which nobody may find lying around.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_proto::ticket::Ticket;
use overlay_tests::cast::{Gateway, Guest, state_of};
use overlay_tests::lab::Host;
use overlay_tests::lab::process::Process;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::wait_reach;
use serde_json::Value;

const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
const PATIENCE: Duration = Duration::from_secs(20);
/// Kills of each program.
const KILLS: usize = 10;
/// Longest life of a program before it is killed, in milliseconds: ready at about a third of it.
const LIFE_MAX_MS: u64 = 900;

/// A sequence of numbers that a seed repeats.
struct Chance(u64);

impl Chance {
    /// Takes the seed of the environment or a new one, and prints it.
    fn new() -> Self {
        let given = std::env::var("OVERLAY_SEED").ok().and_then(|seed| seed.parse().ok());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or(u64::from(since.subsec_nanos()));
        eprintln!("OVERLAY_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

fn kill(process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    process.wait_end(PATIENCE).map(drop)
}

#[test]
fn kills_at_random_moments_lose_nothing_that_was_said() -> Result<()> {
    let mut chance = Chance::new();
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let (buyer, seller) = (stage.host("buyer").clone(), stage.host("seller1").clone());
    let mut one = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    let (line, name, ipv4) = (gateway.line.clone(), one.name.clone(), one.ipv4);

    let mut handed_out = BTreeSet::new();
    let state = state_of(&buyer);
    for _ in 0..KILLS {
        kill(&mut gateway.process)?;
        let up = ["up", "farm", "--state", &state];
        let mut process = buyer.spawn(&stage.programs.gateway, up)?;
        let life = Duration::from_millis(chance.below(LIFE_MAX_MS));
        let invite = {
            let (host, program, state) =
                (buyer.clone(), stage.programs.gateway.clone(), state.clone());
            let after = Duration::from_millis(chance.below(LIFE_MAX_MS));
            thread::spawn(move || {
                thread::sleep(after);
                host.output(program, ["invite", "farm", "--slots", "5", "--state", &state])
            })
        };
        thread::sleep(life);
        kill(&mut process)?;
        let printed = invite.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        for text in String::from_utf8_lossy(&printed.stdout).lines() {
            let guest = Ticket::decode(text)?.body().guest.to_string();
            ensure!(handed_out.insert(guest.clone()), "{guest} was invited twice");
        }
        drop(process);
        gateway = stage.open("buyer", "farm", &SUBNET)?;
        assert_eq!(gateway.line, line, "the same addresses as ever");
    }
    let attach = format!("netns:{}", seat.netns());
    let seller_state = state_of(&seller);
    let join = ["join", &ticket, "--attach", &attach, "--state", &seller_state];
    for _ in 0..KILLS {
        kill(&mut one.process)?;
        let mut process = seller.spawn(&stage.programs.seller, join)?;
        thread::sleep(Duration::from_millis(chance.below(LIFE_MAX_MS)));
        kill(&mut process)?;
        drop(process);
        one = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
        assert_eq!((&one.name, one.ipv4), (&name, ipv4), "the same place as ever");
    }
    let back = wait_reach(&buyer, ipv4.into(), PATIENCE)?;
    eprintln!("{} kills; {} tickets handed out; back {back:?}", 3 * KILLS, handed_out.len());
    for guest in &handed_out {
        gateway.ask(&["invite", "farm", "--revoke", guest]).context("a ticket was forgotten")?;
    }
    Ok(())
}

/// A small file system of its own at a host's state directory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={size},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that is just ending may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Runs a program that is to refuse, with one sentence that names what is wrong.
fn refuses(host: &Host, program: &Path, words: &[&str], says: &str) -> Result<()> {
    let output: Output = host.output("timeout", {
        let program = program.display().to_string();
        let words = words.iter().map(|word| (*word).to_owned());
        ["10".to_owned(), program].into_iter().chain(words)
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{words:?}: {} {said}", output.status);
    ensure!(said.lines().count() == 1 && said.len() < 500, "{words:?}: {said:?}");
    ensure!(said.contains(says), "{words:?} does not name {says}: {said}");
    for word in ["panicked", "Os {", "Error("] {
        ensure!(!said.contains(word), "{words:?} speaks to programmers: {said}");
    }
    Ok(())
}

#[test]
fn a_damaged_store_is_refused_as_often_as_it_is_tried() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let (buyer, seller) = (stage.host("buyer").clone(), stage.host("seller1").clone());
    let mut one = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    kill(&mut one.process)?;
    kill(&mut gateway.process)?;
    let line = gateway.line.clone();
    drop(gateway);

    let (state, sellers) = (state_of(&buyer), state_of(&seller));
    let attach = format!("netns:{}", seat.netns());
    let up = ["up", "farm", "--state", &state];
    let join = ["join", &ticket, "--attach", &attach, "--state", &sellers];
    let lease = fs::read_dir(Path::new(&sellers).join("leases"))?.next().context("a lease")??;
    let programs = [
        (&buyer, &stage.programs.gateway, &up[..], Path::new(&state).join("orders/farm.redb")),
        (&seller, &stage.programs.seller, &join[..], lease.path()),
    ];
    for (host, program, words, path) in &programs {
        let whole = fs::read(path)?;
        let flipped = [&[whole[0] ^ 0x10], &whole[1..]].concat();
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("a page", whole[..4096].to_vec()),
            ("half", whole[..whole.len() / 2].to_vec()),
            ("another file", b"hello".repeat(1000)),
            ("a flipped bit", flipped),
        ] {
            fs::write(path, &bytes)?;
            for _ in 0..2 {
                refuses(host, program, words, "is damaged").with_context(|| what.to_owned())?;
            }
        }
        fs::write(path, &whole)?;
    }
    for (host, program, words, state) in [
        (&buyer, &stage.programs.gateway, &up[..], &state),
        (&seller, &stage.programs.seller, &join[..], &sellers),
    ] {
        let key = Path::new(state).join("node.pem");
        let away = Path::new(state).join("moved.pem");
        fs::rename(&key, &away)?;
        refuses(host, program, words, "node.pem")?;
        ensure!(!key.exists(), "a new identity was made");
        fs::rename(&away, &key)?;
    }
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    assert_eq!(gateway.line, line);
    let one = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    wait_reach(&buyer, one.ipv4.into(), PATIENCE)?;
    Ok(())
}

#[test]
fn full_and_read_only_disks_are_named_and_change_no_identity() -> Result<()> {
    let stage = Stage::build(&["buyer"])?;
    let buyer = stage.host("buyer").clone();
    let state = state_of(&buyer);
    let disk = SmallDisk::mount(Path::new(&state), "1m")?;
    let filler = Path::new(&state).join("filler");
    let fill = || fs::write(&filler, vec![1; 4 << 20]);
    let up = ["up", "farm", "--state", &state];
    let gw = &stage.programs.gateway;

    ensure!(fill().is_err(), "a disk of 1 MiB takes 4 MiB");
    refuses(&buyer, gw, &up, &state)?;
    ensure!(!Path::new(&state).join("orders/farm.redb").exists(), "half an order was left");
    fs::remove_file(&filler)?;

    disk.remount("size=16m")?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let (id, line) = (id_of(&gateway)?, gateway.line.clone());
    ensure!(fs::write(&filler, vec![1; 32 << 20]).is_err(), "a disk of 16 MiB takes 32 MiB");
    // What needs no new page may still be written; what cannot be written is not handed out.
    for _ in 0..20 {
        let output = gateway.cli(&["invite", "farm", "--slots", "50"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            ensure!(output.stdout.is_empty() && said.lines().count() == 1, "{said}");
            break;
        }
    }
    if gateway.process.is_running() {
        gateway.process.terminate(PATIENCE)?;
    }
    drop(gateway);
    fs::remove_file(&filler)?;

    disk.remount("ro")?;
    refuses(&buyer, gw, &up, &state)?;
    disk.remount("rw")?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    assert_eq!((id_of(&gateway)?, &gateway.line), (id, &line));
    drop(gateway);
    Ok(())
}

fn id_of(gateway: &Gateway) -> Result<String> {
    let lines = gateway.ask(&["orders", "--json"])?;
    let order: Value = serde_json::from_str(lines.lines().next().context("one order")?)?;
    Ok(order["id"].to_string())
}

/// All texts by which a ticket's secret would give itself away.
fn traces_of(ticket: &str) -> Result<Vec<String>> {
    let secret = Ticket::decode(ticket)?.body().secret.0;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = secret.iter().map(ToString::to_string).collect();
    let middle = ticket.len() / 2;
    Ok(vec![ticket[middle..middle + 24].to_owned(), hex, list.join(", ")])
}

#[test]
fn a_tickets_secret_is_in_no_log_and_no_command_line() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let buyer = stage.host("buyer").clone();
    let (state, sellers) = (state_of(&buyer), state_of(stage.host("seller1")));
    let gw = stage.programs.gateway.display().to_string();
    let up = ["RUST_LOG=trace", &gw, "up", "farm", "--state", &state];
    let mut gateway = buyer.spawn("env", up)?;
    gateway.wait_line(PATIENCE, |line| line.starts_with("farm  "))?;
    let invite = ["RUST_LOG=trace", &gw, "invite", "farm", "--slots", "2", "--state", &state];
    let invited = buyer.output("env", invite)?;
    let texts = String::from_utf8_lossy(&invited.stdout).into_owned();
    let mut traces = Vec::new();
    let mut logs = vec![String::from_utf8_lossy(&invited.stderr).into_owned()];
    let program = stage.programs.seller.display().to_string();
    let mut sellers_running = Vec::new();
    for (number, ticket) in texts.lines().enumerate() {
        traces.extend(traces_of(ticket)?);
        let seat = stage.lab.guest(&format!("guest{number}"))?;
        let host = stage.host("seller1");
        let file = host.dir().join(format!("ticket{number}"));
        fs::write(&file, format!("{ticket}\n"))?;
        // One by @FILE, one by a line of stdin.
        let tail = format!("--attach netns:{} --state {sellers}", seat.netns());
        let line = match number {
            0 => format!("exec {program} join @{} {tail}", file.display()),
            _ => format!("exec {program} join - {tail} < {}", file.display()),
        };
        let mut seller = host.spawn("env", ["RUST_LOG=trace", "sh", "-c", &line])?;
        seller.wait_line(PATIENCE, |line| line.contains("  order "))?;
        sellers_running.push(seller);
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        for file in ["cmdline", "environ"] {
            // Processes end while they are looked at.
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            logs.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    logs.push(gateway.log());
    logs.extend(sellers_running.iter().map(Process::log));
    ensure!(logs.iter().any(|log| log.contains("TRACE")), "the logs were to be detailed");
    for (number, trace) in traces.iter().enumerate() {
        ensure!(!logs.iter().any(|log| log.contains(trace)), "trace {number} was found");
    }
    Ok(())
}
