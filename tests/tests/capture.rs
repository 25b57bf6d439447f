//! Captures by the real programs, and silent members that a first frame wakes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use overlay_tests::cast::{Gateway, Guest, state_of};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, ping, wait_reach};
use serde_json::Value;

const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
const PATIENCE: Duration = Duration::from_secs(20);
/// What a payload is known by.
const MARKER: &str = "c0ffee1e";

fn farm() -> Result<(Stage, Gateway, Guest)> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
    Ok((stage, gateway, guest))
}

/// A block of a pcapng file, read without the writer's code: kind, fixed part and all behind it.
fn blocks(file: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let (mut rest, mut blocks) = (file, Vec::new());
    while !rest.is_empty() {
        let word = |at: usize| -> Result<u32> {
            let bytes = rest.get(at..at + 4).context("a block is cut off")?;
            Ok(u32::from_le_bytes(bytes.try_into()?))
        };
        let len = usize::try_from(word(4)?)?;
        ensure!(len >= 12 && len % 4 == 0 && word(len - 4)? == word(4)?, "lengths differ");
        blocks.push((word(0)?, rest[8..len - 4].to_vec()));
        rest = &rest[len..];
    }
    Ok(blocks)
}

/// Frames of a capture, and their lengths on the wire.
fn frames(file: &[u8]) -> Result<Vec<(Vec<u8>, usize)>> {
    let blocks = blocks(file)?;
    let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
    ensure!(kinds.starts_with(&[0x0a0d_0d0a, 1]), "a capture begins with {kinds:?}");
    ensure!(kinds.last() == Some(&5), "a capture that ended well ends with its counts");
    let packets = blocks.iter().filter(|(kind, _)| *kind == 6);
    let frame = |(_, block): &(u32, Vec<u8>)| -> Result<(Vec<u8>, usize)> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| block[at + i]));
        let captured = usize::try_from(word(12))?;
        Ok((block[20..20 + captured].to_vec(), usize::try_from(word(16))?))
    };
    packets.map(frame).collect()
}

fn holds(bytes: &[u8], marker: &str) -> bool {
    let marker: Vec<u8> = (0..marker.len())
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(&marker[at..at + 2], 16).ok())
        .collect();
    bytes.windows(marker.len()).any(|window| window == marker)
}

fn pcap_of_seller(stage: &Stage, guest: &Guest, args: &[&str]) -> Result<Output> {
    let state = state_of(&guest.seller);
    let mut all = vec!["pcap", "--state", &state];
    all.extend(args);
    guest.seller.output(&stage.programs.seller, all)
}

#[test]
fn a_capture_shows_headers_and_payloads_only_when_asked_for() -> Result<()> {
    let (stage, gateway, guest) = farm()?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (short, whole, buyers) = (path("short"), path("whole"), path("buyers"));
    let state = state_of(&guest.seller);
    let seller = &stage.programs.seller;
    let mut first = guest
        .seller
        .spawn(seller, ["pcap", "farm/g1", "--count", "12", "-w", &short, "--state", &state])?;
    let mut second = guest
        .seller
        .spawn(seller, ["pcap", "--full", "--count", "12", "-w", &whole, "--state", &state])?;
    let state = state_of(&gateway.host);
    let mut third = gateway.host.spawn(
        &stage.programs.gateway,
        ["pcap", "farm", "g1", "--count", "12", "-w", &buyers, "--state", &state],
    )?;
    eventually("all capture", PATIENCE, || {
        Ok([&short, &whole, &buyers]
            .iter()
            .all(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0)))
    })?;
    let pinged =
        gateway.host.run(&format!("ping -c 8 -i 0.1 -s 600 -p {MARKER} {}", guest.ipv4))?;
    ensure!(pinged.status.success(), "the guest answers");
    for process in [&mut first, &mut second, &mut third] {
        ensure!(process.wait_end(PATIENCE)?.success(), "{}", process.log());
    }
    for path in [&short, &buyers] {
        let file = fs::read(path)?;
        let frames = frames(&file)?;
        ensure!(frames.len() == 12, "{} frames in {path}", frames.len());
        ensure!(!holds(&file, MARKER), "a payload is in {path}, which is of headers");
        let pings = frames.iter().filter(|(frame, len)| frame.len() == 42 && *len == 642);
        ensure!(pings.count() >= 8, "ICMP headers without what follows them");
        ensure!(fs::metadata(path)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    }
    let file = fs::read(&whole)?;
    ensure!(holds(&file, MARKER), "--full has payloads");
    ensure!(frames(&file)?.iter().all(|(frame, len)| frame.len() == *len), "whole frames");

    let again = pcap_of_seller(&stage, &guest, &["-w", &short])?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && said.contains("not overwritten"), "{said}");
    ensure!(frames(&fs::read(&short)?)?.len() == 12, "the file is as it was");
    Ok(())
}

#[test]
fn tcpdump_reads_a_live_capture_from_a_pipe() -> Result<()> {
    let (stage, gateway, guest) = farm()?;
    let command = format!(
        "{} pcap --state {} | tcpdump -Z root -l -n -c 4 -r - icmp 2>&1",
        stage.programs.seller.display(),
        state_of(&guest.seller)
    );
    let mut reader = guest.seller.spawn("sh", ["-c", &command])?;
    reader.wait_line(PATIENCE, |line| line.contains("link-type EN10MB"))?;
    let pinged = gateway.host.run(&format!("ping -c 4 -i 0.2 {}", guest.ipv4))?;
    ensure!(pinged.status.success(), "the guest answers");
    let line = reader.wait_line(PATIENCE, |line| line.contains("ICMP echo request"))?;
    ensure!(line.contains(&format!("{} > {}", gateway.ipv4, guest.ipv4)), "{line}");
    // tcpdump has seen enough and goes, and so does what wrote to it.
    ensure!(reader.wait_end(PATIENCE)?.success(), "{}", reader.log());
    Ok(())
}

#[test]
fn a_capture_of_nobody_is_refused_in_a_sentence_and_leaves_no_file() -> Result<()> {
    let (stage, gateway, guest) = farm()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("none").display().to_string();
    let of_seller = pcap_of_seller(&stage, &guest, &["attic", "-w", &path])?;
    let of_gateway = gateway.cli(&["pcap", "farm", "g9", "-w", &path])?;
    for (output, word) in [(of_seller, "attic"), (of_gateway, "g9")] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(word), "{said}");
        ensure!(said.lines().count() == 1, "{said}");
    }
    ensure!(!Path::new(&path).exists(), "a file was left behind");
    Ok(())
}

#[test]
fn a_reader_that_stops_reading_or_is_killed_hurts_no_traffic() -> Result<()> {
    let (stage, gateway, guest) = farm()?;
    let state = state_of(&guest.seller);
    // Its stdout is a pipe that nobody empties while the flood goes on.
    let command = format!(
        "{} pcap --full --state {state} | (head -c 8; sleep 4; head -c 100)",
        stage.programs.seller.display()
    );
    let mut stuck = guest.seller.spawn("sh", ["-c", &command])?;
    let flood = gateway.host.run(&format!("ping -c 3000 -f -s 1400 {}", guest.ipv4))?;
    let said = String::from_utf8_lossy(&flood.stdout).into_owned();
    // A flood may lose one to a busy machine; a capture that held it up would cost hundreds.
    ensure!(said.contains(" 0% packet loss") || said.contains(" 0.0"), "{said}");
    let pings = ping(&gateway.host, guest.ipv4.into(), 3, Duration::from_millis(200))?;
    ensure!(pings.rtts_ms.len() == 3, "the guest is there as before");
    ensure!(stuck.wait_end(PATIENCE)?.success(), "a reader that has gone ends the capture");
    Ok(())
}

fn guest_status(gateway: &Gateway) -> Result<Value> {
    let lines = gateway.ask(&["status", "farm", "--json"])?;
    serde_json::from_str(lines.lines().next().context("one guest")?).context("an object")
}

#[test]
fn status_tells_a_guests_story() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let mut gateway = stage.open("buyer", "farm", &SUBNET)?;
    let mut guest = stage.join(&gateway, "seller1", "guest1")?;
    wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
    gateway.process.wait_line(PATIENCE, |line| line.starts_with("g1 up"))?;
    guest.process.wait_line(PATIENCE, |line| line.starts_with("guest up"))?;
    let flood = gateway.host.run(&format!("ping -c 300 -i 0.01 {}", guest.ipv4))?;
    ensure!(flood.status.success(), "the guest answers");
    eventually("rates are told", PATIENCE, || {
        let status = guest_status(&gateway)?;
        let number = |key: &str| status[key].as_f64().unwrap_or_default();
        let rates = ["sent_bps", "sent_fps", "received_bps", "received_fps"];
        Ok(rates.iter().all(|key| number(key) > 1.0) && number("lease_left_s") > 1.0)
    })?;
    let state = state_of(&guest.seller);
    let words = ["status", "--json", "--state", &state];
    let ask = || -> Result<Value> {
        let status = guest.seller.output(&stage.programs.seller, words)?;
        Ok(serde_json::from_slice(&status.stdout)?)
    };
    eventually("the guest's frames are counted", PATIENCE, || {
        Ok(ask()?["in_frames"].as_u64() > Some(300))
    })?;
    let status = ask()?;
    ensure!(status["first_frame_s"].is_u64(), "the guest has spoken: {status}");
    let counted = status["drops"].as_object().context("drops by reason")?;
    let words = status["reasons"].as_object().context("reasons in words")?;
    ensure!(counted.keys().all(|name| words.contains_key(name)), "{status}");
    Ok(())
}
