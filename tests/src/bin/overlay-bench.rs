//! `make bench`: what does the segment cost, next to the bare cable it runs over?
//!
//! A gateway and a seller with a guest in a namespace of its own, one cable between them in wire
//! mode N. The same traffic goes over the cable and over the segment, in fresh namespaces each
//! round; printed are medians and, in brackets, the lowest and highest. The figures also go to
//! `target/bench/overlay.json`.
//!
//! With `--vm` instead: what does the segment cost a real machine, next to a bridge of the kernel's
//! on one host? The figures go to `target/bench/vm.json`.
//!
//! With `--walls`: what do the walls around a guest cost, taken away one after the other?

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use overlay_tests::cast::{Gateway, Guest, Programs};
use overlay_tests::iperf::{bits_per_second, iperf, packets_per_second};
use overlay_tests::lab::process::Process;
use overlay_tests::lab::{Host, Lab, Wire};
use overlay_tests::toll::{Passed, toll};
use overlay_tests::traffic::{Pings, ping, wait_reach};
use overlay_tests::vitals::Vitals;
use overlay_tests::vm::rate::{Rates, on_a_bridge, on_the_segment};
use overlay_tests::{exit_on_signals, wait_if_interrupted};
use serde_json::{Value, json};

/// Between two pings.
const PING_INTERVAL: Duration = Duration::from_millis(5);
/// Pings on the idle way.
const IDLE_PINGS: u32 = 400;
/// How long a flow runs before it counts as load.
const LOAD_RAMP: Duration = Duration::from_millis(700);
/// A row of a table: key, heading, unit, decimals.
type Row = (&'static str, &'static str, &'static str, usize);

/// The rows of the table.
const ROWS: [Row; 13] = [
    ("tcp", "one flow, buyer to guest", "Gbit/s", 2),
    ("tcp_reverse", "one flow, guest to buyer", "Gbit/s", 2),
    ("tcp_8", "8 flows", "Gbit/s", 2),
    ("udp_64", "UDP of 64 bytes", "k/s", 0),
    ("ping_p50", "ping, idle, p50", "ms", 2),
    ("ping_p99", "ping, idle, p99", "ms", 2),
    ("loaded_p50", "ping, loaded, p50", "ms", 2),
    ("loaded_p99", "ping, loaded, p99", "ms", 2),
    ("cpu_per_gb", "daemons' CPU, one flow", "s/GB", 2),
    ("join_line", "join, start to line", "ms", 0),
    ("join_ping", "join, start to first ping", "ms", 0),
    ("pss_gw", "memory of overlay-gw", "MB", 1),
    ("pss_seller", "memory of overlay-seller", "MB", 1),
];

/// The rows of the table of `--vm`.
const VM_ROWS: [Row; 3] = [
    ("tcp", "one flow, guest to buyer", "Gbit/s", 3),
    ("tcp_8", "8 flows, guest to buyer", "Gbit/s", 3),
    ("tcp_reverse", "one flow, buyer to guest", "Gbit/s", 3),
];

/// Values of one way, by row: one for each round.
type Figures = BTreeMap<&'static str, Vec<f64>>;

fn main() -> ExitCode {
    let outcome = exit_on_signals().map_err(Into::into).and_then(|()| run());
    wait_if_interrupted();
    if let Err(error) = &outcome {
        eprintln!("overlay-bench: {error:#}");
    }
    ExitCode::from(u8::from(outcome.is_err()))
}

fn run() -> Result<()> {
    let (mut secs, mut rounds, mut is_vm, mut is_walls) = (4, 3, false, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--vm" {
            is_vm = true;
            continue;
        }
        if word == "--walls" {
            is_walls = true;
            continue;
        }
        let number = words.next().and_then(|text| text.parse::<u32>().ok()).filter(|n| *n > 0);
        match (word.as_str(), number) {
            ("--secs", Some(number)) => secs = number,
            ("--rounds", Some(number)) => rounds = number,
            _ => bail!("usage: overlay-bench [--vm | --walls] [--secs SECONDS] [--rounds ROUNDS]"),
        }
    }
    let programs = Programs::find()?;
    let machine = machine();
    println!("{machine}; wire mode N; {rounds} rounds of {secs} s");
    if is_walls {
        return walls(&programs, secs, rounds);
    }
    let (mut bare, mut overlay) = (Figures::new(), Figures::new());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        if is_vm {
            note_rates(&mut bare, on_a_bridge(secs).context("the guest on a bridge")?);
            let rates = on_the_segment(&programs, secs).context("the guest on the segment")?;
            note_rates(&mut overlay, rates);
        } else {
            play(&programs, secs, &mut bare, &mut overlay)?;
        }
    }
    let (rows, bare_name, file): (&[Row], _, _) = if is_vm {
        (&VM_ROWS, "plain bridge", "vm.json")
    } else {
        (&ROWS, "bare cable", "overlay.json")
    };
    println!("\n{:<28} {:>7}  {bare_name:>22}  {:>22}  {:>5}", "", "", "overlay", "ratio");
    for (key, heading, unit, decimals) in rows {
        let cell = |figures: &Figures| {
            figures.get(key).map_or("–".to_owned(), |values| {
                let (median, low, high) = summary(values);
                format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
            })
        };
        let medians = bare.get(key).zip(overlay.get(key));
        let ratio = medians.map_or("–".to_owned(), |(bare, overlay)| {
            format!("{:.2}", summary(overlay).0 / summary(bare).0)
        });
        println!(
            "{heading:<28} {unit:>7}  {:>22}  {:>22}  {ratio:>5}",
            cell(&bare),
            cell(&overlay)
        );
    }
    let path = write_json(file, rows, &machine, [secs, rounds], [&bare, &overlay])?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// Prints a line for each state of the walls: medians, lowest and highest.
fn walls(programs: &Programs, secs: u32, rounds: u32) -> Result<()> {
    let mut all: BTreeMap<&str, Vec<Passed>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (what, passed) in toll(programs, secs)? {
            all.entry(what).or_default().push(passed);
        }
    }
    println!(
        "\n{:<20} {:>22} {:>22} {:>22}",
        "", "to the guest, Gbit/s", "from it, Gbit/s", "64 bytes from it, k/s"
    );
    for (what, passed) in &all {
        let cell = |of: fn(&Passed) -> f64, decimals: usize| {
            let (median, low, high) = summary(&passed.iter().map(of).collect::<Vec<_>>());
            format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
        };
        println!(
            "{what:<20} {:>22} {:>22} {:>22}",
            cell(|one| one.to_guest, 2),
            cell(|one| one.from_guest, 2),
            cell(|one| one.small, 0)
        );
    }
    Ok(())
}

fn note_rates(figures: &mut Figures, rates: Rates) {
    let Rates { out, out_8, back } = rates;
    eprintln!("  {out:.2} out, {out_8:.2} in eight flows, {back:.2} back");
    note(figures, "tcp", rates.out);
    note(figures, "tcp_8", rates.out_8);
    note(figures, "tcp_reverse", rates.back);
}

/// One round: a fresh lab, the cable alone, then a segment over it.
fn play(programs: &Programs, secs: u32, bare: &mut Figures, overlay: &mut Figures) -> Result<()> {
    let mut lab = Lab::new()?;
    let (buyer, seller, seat) = (lab.host("buyer")?, lab.host("seller")?, lab.guest("guest")?);
    let cable = lab.connect(&seller, &buyer, Wire::N)?;
    measure(&buyer, &seller, cable.host.ipv4.into(), secs, &[], bare)?;

    let gateway = Gateway::up(programs, &buyer, "lab", &["--subnet", "10.99.0.0/24"])?;
    let ticket = gateway.invite_file()?;
    let started = Instant::now();
    let guest = Guest::join(programs, &seller, &seat, &ticket, &[])?;
    wait_reach(&buyer, guest.ipv4.into(), Duration::from_secs(15))?;
    note(overlay, "join_ping", started.elapsed().as_secs_f64() * 1e3);
    note(overlay, "join_line", guest.took.as_secs_f64() * 1e3);
    let programs = [&gateway.process, &guest.process];
    measure(&buyer, &seat, guest.ipv4.into(), secs, &programs, overlay)?;
    for (key, program) in ["pss_gw", "pss_seller"].into_iter().zip(programs) {
        note(overlay, key, memory_mb(program)?);
    }
    Ok(())
}

fn measure(
    near: &Host,
    far: &Host,
    to: IpAddr,
    secs: u32,
    programs: &[&Process],
    figures: &mut Figures,
) -> Result<()> {
    wait_reach(near, to, Duration::from_secs(15))?;
    let pings = ping(near, to, IDLE_PINGS, PING_INTERVAL)?;
    note_pings(figures, ["ping_p50", "ping_p99"], &pings)?;

    let cpu_before = cpu_seconds(programs)?;
    let one = iperf(near, far, to, secs, &[])?;
    note(figures, "tcp", bits_per_second(&one)? / 1e9);
    if !programs.is_empty() {
        let bytes = one["end"]["sum_received"]["bytes"].as_f64().context("iperf3 counts bytes")?;
        note(figures, "cpu_per_gb", (cpu_seconds(programs)? - cpu_before) / (bytes / 1e9));
    }
    note(figures, "tcp_reverse", bits_per_second(&iperf(near, far, to, secs, &["-R"])?)? / 1e9);
    note(figures, "tcp_8", bits_per_second(&iperf(near, far, to, secs, &["-P", "8"])?)? / 1e9);

    let udp = iperf(near, far, to, secs, &["-u", "-b", "0", "-l", "64"])?;
    note(figures, "udp_64", packets_per_second(&udp)? / 1e3);

    let load_secs = secs.max(4);
    let loaded = thread::scope(|scope| {
        let load = scope.spawn(|| iperf(near, far, to, load_secs, &[]));
        thread::sleep(LOAD_RAMP);
        let count = (load_secs - 1) * 1000 / PING_INTERVAL.as_millis() as u32;
        let pings = ping(near, to, count, PING_INTERVAL);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        load.and(pings)
    })?;
    note_pings(figures, ["loaded_p50", "loaded_p99"], &loaded)
}

fn note(figures: &mut Figures, key: &'static str, value: f64) {
    figures.entry(key).or_default().push(value);
}

fn note_pings(figures: &mut Figures, keys: [&'static str; 2], pings: &Pings) -> Result<()> {
    for (key, percent) in keys.into_iter().zip([50, 99]) {
        note(figures, key, pings.percentile(percent).context("no ping came back")?);
    }
    Ok(())
}

/// Returns the median, the lowest and the highest.
fn summary(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)))
}

/// Returns the CPU seconds that programs and all they started have spent, user and system.
fn cpu_seconds(programs: &[&Process]) -> Result<f64> {
    programs.iter().map(|program| Ok(Vitals::of_tree(program)?.cpu_seconds)).sum()
}

/// Returns the memory of a program and all it started, what they share counted once: their
/// proportional set size.
fn memory_mb(program: &Process) -> Result<f64> {
    let mut kilobytes = 0.0;
    for pid in program.pids() {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes += number.unwrap_or(0.0);
    }
    ensure!(kilobytes > 0.0, "the memory of a program is not known");
    Ok(kilobytes / 1e3)
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("CPU");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} × {}, Linux {}",
        cpu.trim_start_matches(['\t', ' ', ':']),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn write_json(
    file: &str,
    rows: &[Row],
    machine: &str,
    [secs, rounds]: [u32; 2],
    [bare, overlay]: [&Figures; 2],
) -> Result<PathBuf> {
    let way = |figures: &Figures| {
        let rows = rows.iter().filter_map(|(key, _, unit, _)| {
            let values = figures.get(key)?;
            let (median, min, max) = summary(values);
            let row =
                json!({"unit": unit, "median": median, "min": min, "max": max, "values": values});
            Some(((*key).to_owned(), row))
        });
        Value::Object(rows.collect())
    };
    let report = json!({
        "machine": machine, "wire": "N", "secs": secs, "rounds": rounds,
        "bare": way(bare), "overlay": way(overlay),
    });
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("programs are in target/PROFILE")?;
    let path = target.join("bench").join(file);
    fs::create_dir_all(target.join("bench"))?;
    fs::write(&path, format!("{report:#}\n")).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
