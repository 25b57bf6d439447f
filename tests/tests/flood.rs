//! Handshake floods at a gateway's UDP port: live tunnels keep their traffic, newcomers get in,
//! memory stays, and nobody is made to hear more than was said in his name (G8, G11, G12).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use overlay_proto::envelope::Signed;
use overlay_proto::messages::JoinReply;
use overlay_proto::order::Config;
use overlay_proto::ticket::Ticket;
use overlay_proto::tunnel::Engine as _;
use overlay_proto::tunnel::wireguard::{Identity, WireGuard};
use overlay_proto::wire::demux::INITIATION_LEN;
use overlay_tests::caller;
use overlay_tests::cast::Gateway;
use overlay_tests::flood::{Flood, Flooded, forged, own_forged};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{ping, wait_reach};
use overlay_tests::vitals::Vitals;

/// Initiations a second.
const RATE: u32 = 20_000;
/// Of which the flooder must have sent so many, or the flood was none.
const RATE_MIN: u64 = 10_000;
/// Pings during a flood: 200 a second for four seconds.
const PINGS: u32 = 800;
const PING_INTERVAL: Duration = Duration::from_millis(5);
/// Pings that may be lost: less than one in a hundred.
const LOST_MAX: usize = 7;
/// From the start of a new guest's program to its line.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// The slowest ping but one in a hundred, of many while nothing else goes on, may be so many times
/// slower under a flood, or take so many milliseconds: the flooder uses one of two cores itself.
const SLOWER_MAX: f64 = 8.0;
const SLOW_MAX_MS: f64 = 50.0;
/// What a flood may add to the gateway's memory, in bytes.
const GROWTH_MAX: u64 = 8 << 20;
/// Different initiations of a flood, made in advance: each costs its maker more than its reader.
const INITIATIONS: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    stage: Stage,
    gateway: Gateway,
    /// What pings from the buyer's host reach.
    to: IpAddr,
    /// Of pings while nothing else goes on, in milliseconds.
    idle_p99_ms: f64,
    initiations: Vec<Vec<u8>>,
}

impl Scene {
    fn new() -> Result<(Self, overlay_tests::cast::Guest)> {
        let mut stage = Stage::build(&["buyer", "seller1", "seller2", "flooder"])?;
        own_forged(&stage.router, stage.host("flooder"), stage.cable("flooder"))?;
        let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
        let guest = stage.join(&gateway, "seller1", "guest1")?;
        wait_reach(&gateway.host, guest.ipv4.into(), PATIENCE)?;
        let initiations = initiations(&stage, &gateway)?;
        let to = guest.ipv4.into();
        let idle = ping(&gateway.host, to, PINGS / 2, PING_INTERVAL)?;
        let idle_p99_ms = idle.percentile(99).context("no ping was answered")?;
        eprintln!("idle: p99 {idle_p99_ms} ms");
        Ok((Self { stage, gateway, to, idle_p99_ms, initiations }, guest))
    }

    /// Floods, and asks of the product meanwhile what G11 says.
    fn survives(&mut self, what: &str, bad_mac: bool, sources: Vec<Ipv4Addr>) -> Result<Flooded> {
        let mut datagrams = self.initiations.clone();
        if bad_mac {
            datagrams.iter_mut().for_each(|bytes| bytes[INITIATION_LEN - 20] ^= 1);
        }
        let before = Vitals::of_tree(&self.gateway.process)?;
        let flooder = self.stage.host("flooder");
        let at = SocketAddrV4::new(self.stage.cable("buyer").host.ipv4, 7770);
        let flood = Flood::start(flooder, sources, at, datagrams, RATE)?;
        thread::sleep(Duration::from_millis(500));
        let (host, to) = (self.gateway.host.clone(), self.to);
        let pings = thread::spawn(move || ping(&host, to, PINGS, PING_INTERVAL));
        let guest = self.stage.join(&self.gateway, "seller2", &format!("guest-{what}"))?;
        wait_reach(&guest.seat, self.gateway.ipv4.into(), PATIENCE)?;
        let pings = pings.join().map_err(|_| anyhow::anyhow!("ping panicked"))??;
        let flooded = flood.stop()?;
        let after = Vitals::of_tree(&self.gateway.process)?;
        let lost = PINGS as usize - pings.rtts_ms.len();
        eprintln!(
            "{what}: {} initiations in {:?}, {} replies of {} bytes; {lost} of {PINGS} pings lost, \
             p99 {:?} ms; joined in {:?}; memory {} → {} bytes; {:.2} s of CPU",
            flooded.sent,
            flooded.took,
            flooded.replies,
            flooded.reply_bytes / flooded.replies.max(1),
            pings.percentile(99),
            guest.took,
            before.memory_len,
            after.memory_len,
            after.cpu_seconds - before.cpu_seconds,
        );
        let rate = flooded.sent * 1000 / (flooded.took.as_millis() as u64).max(1);
        ensure!(rate >= RATE_MIN, "{what}: no flood, {rate} datagrams a second");
        ensure!(lost <= LOST_MAX, "{what}: {lost} of {PINGS} pings were lost");
        let p99_ms = pings.percentile(99).context("no ping was answered")?;
        let slow_ms = SLOW_MAX_MS.max(SLOWER_MAX * self.idle_p99_ms);
        ensure!(p99_ms <= slow_ms, "{what}: one ping in a hundred takes {p99_ms} ms");
        ensure!(guest.took < JOIN_MAX, "{what}: joining took {:?}", guest.took);
        let grown = after.memory_len.saturating_sub(before.memory_len);
        ensure!(grown <= GROWTH_MAX, "{what}: memory grew by {grown} bytes");
        ensure!(flooded.reply_bytes <= flooded.sent_bytes, "{what}: {flooded:?} amplifies");
        Ok(flooded)
    }
}

/// Makes initiations that a gateway knows to be meant for it, from keys that it does not know.
fn initiations(stage: &Stage, gateway: &Gateway) -> Result<Vec<Vec<u8>>> {
    let ticket = Ticket::decode(&gateway.invite()?)?;
    let at = SocketAddr::from((stage.cable("buyer").host.ipv4, 7770));
    let key = caller::key(1);
    let joining = caller::join(&key, &ticket, at);
    let (_, reply) = caller::call(stage.host("seller2"), joining)?;
    let JoinReply::Welcome(welcome) = reply else { bail!("{reply:?}") };
    let gateway_key = Signed::<Config>::open(&welcome.config)?.body().gateway_key;
    let mut stranger = WireGuard::new(Identity::new([0x5a; 32]), gateway_key, 1);
    let mut made = Vec::new();
    for _ in 0..INITIATIONS {
        let mut buffer = [0; 256];
        let len = stranger.initiate(&mut buffer).unwrap_or_default();
        ensure!(len == INITIATION_LEN, "the engine made no initiation");
        made.push(buffer[..len].to_vec());
    }
    Ok(made)
}

#[test]
fn floods_of_handshakes_cost_members_and_newcomers_nothing() -> Result<()> {
    let (mut scene, _guest) = Scene::new()?;
    let silent = scene.survives("bad-mac", true, Vec::new())?;
    ensure!(silent.replies == 0, "whoever does not know our key heard {} replies", silent.replies);
    let asked = scene.survives("good-mac", false, Vec::new())?;
    ensure!(asked.replies > 0, "nobody was asked for a cookie: the flood did not reach");
    scene.survives("spoofed", false, forged())?;
    ensure!(scene.gateway.process.is_running(), "the gateway is gone");
    Ok(())
}
