//! Hostile callers at a gateway's TCP port: members keep their service, newcomers from elsewhere
//! get in, memory and descriptors stay within bounds (C09 to C11, P23, R07).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncReadExt, AsyncWriteExt};
use nix::sys::resource::{Resource, getrlimit};
use overlay_proto::envelope::Signed;
use overlay_proto::messages::{
    JOIN_PROTOCOL, JoinReply, MEMBER_PROTOCOL, Message as _, RefuseReason, ToGateway,
};
use overlay_proto::ticket::{DialAddr, Ticket, TicketBody};
use overlay_tests::caller::{self, Raw};
use overlay_tests::cast::{Gateway, Guest, wrapped};
use overlay_tests::flood::{FORGED, own_forged};
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{eventually, ping, wait_reach};
use overlay_tests::tree::{Member, tree};
use overlay_tests::vitals::Vitals;
use tokio::time::{sleep, timeout};

/// From the start of a new guest's program to its line.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// What hostile callers may add to the gateway's memory, in bytes: buffers of 1024 connections.
const GROWTH_MAX: u64 = 64 << 20;
/// Descriptors that callers may make the gateway open: its cap on connections and some.
const DESCRIPTORS_MAX: usize = 1500;
/// How many it may open where it runs out of them: as it is started, and at most.
const LIMIT: (usize, usize) = (40, 64);
/// Half-open connections that are tried in all.
const HALF_OPEN: usize = 10_000;
/// Threads that open them.
const OPENERS: usize = 4;
/// Streams that a stranger tries to open, as far as he gets in [`STREAMS_FOR`].
const STREAMS: usize = 1_000_000;
const STREAMS_FOR: Duration = Duration::from_secs(4);
/// Keys that show one ticket at once.
const CLAIMANTS: u32 = 1000;
/// Addresses that they come from: a gateway bounds the connections of each.
const CLAIMANTS_FROM: usize = 250;
const PATIENCE: Duration = Duration::from_secs(10);

/// A farm with one member, a host for a newcomer and one for whoever attacks.
struct Scene {
    stage: Stage,
    gateway: Gateway,
    member: Guest,
    at: SocketAddr,
    before: Vitals,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::limited(None)
    }

    /// With so few descriptors for the gateway, to begin with and at most.
    fn limited(descriptors: Option<(usize, usize)>) -> Result<Self> {
        let mut stage = Stage::build(&["buyer", "seller1", "seller2", "stranger"])?;
        if let Some((soft, hard)) = descriptors {
            let by = format!("prlimit --nofile={soft}:{hard}");
            stage.programs.gateway = wrapped(&stage.programs.gateway, stage.lab.dir(), &by)?;
        }
        let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
        let member = stage.join(&gateway, "seller1", "guest1")?;
        wait_reach(&gateway.host, member.ipv4.into(), PATIENCE)?;
        let at = SocketAddr::from((stage.cable("buyer").host.ipv4, 7770));
        let before = Vitals::of_tree(&gateway.process)?;
        Ok(Self { stage, gateway, member, at, before })
    }

    /// Returns the number of the gateway's control process.
    fn control(&self) -> Result<u32> {
        let of_control = |member: &Member| member.name == "overlay-gw";
        let control = tree(self.gateway.process.pid()).into_iter().skip(1).find(of_control);
        Ok(control.context("the gateway has a control process")?.pid)
    }

    /// A newcomer joins, and the member hears of it and reaches it: joins, rosters and data all
    /// work for those who do not attack.
    fn serves(&mut self, what: &str) -> Result<()> {
        let (host, to) = (self.gateway.host.clone(), IpAddr::V4(self.member.ipv4));
        let pings = thread::spawn(move || ping(&host, to, 200, Duration::from_millis(10)));
        let newcomer = self.stage.join(&self.gateway, "seller2", &format!("guest-{what}"))?;
        ensure!(newcomer.took < JOIN_MAX, "{what}: joining took {:?}", newcomer.took);
        let heard = wait_reach(&self.member.seat, newcomer.ipv4.into(), PATIENCE)?;
        let pings = pings.join().map_err(|_| anyhow::anyhow!("ping panicked"))??;
        let answered = pings.rtts_ms.len();
        ensure!(answered >= 198, "{what}: {answered} of 200 pings were answered");
        let now = Vitals::of_tree(&self.gateway.process)?;
        let grown = now.memory_len.saturating_sub(self.before.memory_len);
        eprintln!(
            "{what}: joined in {:?}, heard of after {heard:?}, {answered} of 200 pings, memory \
             +{grown} bytes, {} descriptors",
            newcomer.took, now.descriptor_count
        );
        ensure!(grown <= GROWTH_MAX, "{what}: memory grew by {grown} bytes");
        let open = now.descriptor_count;
        ensure!(open <= DESCRIPTORS_MAX, "{what}: the gateway has {open} descriptors open");
        Ok(())
    }
}

#[test]
fn connections_that_say_nothing_shut_nobody_out() -> Result<()> {
    let mut scene = Scene::new()?;
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // This process has other tests beside it: it keeps half of its descriptors for them.
    let at_once = usize::try_from(soft / 2)?.min(HALF_OPEN) / OPENERS;
    let stop = Arc::new(AtomicBool::new(false));
    let opened = Arc::new(AtomicUsize::new(0));
    let openers: Vec<_> = (0..OPENERS)
        .map(|_| {
            let (stop, opened, at) = (Arc::clone(&stop), Arc::clone(&opened), scene.at);
            let host = scene.stage.host("stranger").clone();
            thread::spawn(move || host.within(|| hold_half_open(at, at_once, &stop, &opened)))
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    let served = scene.serves("half-open");
    let started = Instant::now();
    while opened.load(Ordering::Relaxed) < HALF_OPEN && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    for opener in openers {
        opener.join().map_err(|_| anyhow::anyhow!("an opener panicked"))??;
    }
    served?;
    let tried = opened.load(Ordering::Relaxed);
    ensure!(tried >= HALF_OPEN / 4, "only {tried} connections were opened");
    eprintln!("{tried} half-open connections");
    ensure!(scene.gateway.process.is_running(), "the gateway is gone");
    scene.serves("afterwards")
}

#[test]
fn a_gateway_out_of_descriptors_goes_on_and_takes_newcomers_when_it_has_some_again() -> Result<()> {
    let mut scene = Scene::limited(Some(LIMIT))?;
    let control = scene.control()?;
    let limits = std::fs::read_to_string(format!("/proc/{control}/limits"))?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = soft.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    ensure!(soft == Some(LIMIT.1), "control may open {soft:?} files of {LIMIT:?}");
    let open =
        || Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{control}/fd"))?.count());
    let before = open()?;
    let (stranger, at) = (scene.stage.host("stranger").clone(), scene.at);
    let connect = || TcpStream::connect_timeout(&at, PATIENCE);
    let held =
        stranger.within(|| (0..LIMIT.1).map(|_| connect()).collect::<Result<Vec<_>, _>>())?;
    eventually("it runs out of descriptors", PATIENCE, || Ok(open()? == LIMIT.1))?;
    let (calm, started) = (Vitals::of_tree(&scene.gateway.process)?, Instant::now());
    let (host, to) = (scene.gateway.host.clone(), IpAddr::V4(scene.member.ipv4));
    let pings = ping(&host, to, 300, Duration::from_millis(10))?;
    let after = Vitals::of_tree(&scene.gateway.process)?;
    let spent = (after.cpu_seconds - calm.cpu_seconds) / started.elapsed().as_secs_f64();
    let most = open()?;
    drop(held);
    let log = scene.gateway.process.log();
    let complaints = log.lines().filter(|line| line.contains("cannot accept")).count();
    eprintln!(
        "{before} descriptors, {most} under attack; {} of 300 pings, {spent:.2} of a core, \
         {complaints} lines in the log",
        pings.rtts_ms.len()
    );
    ensure!(most == LIMIT.1, "{most} descriptors: it had some meanwhile");
    ensure!(complaints == 1, "{complaints} complaints in the log: {log}");
    ensure!(pings.rtts_ms.len() >= 297, "{} of 300 pings", pings.rtts_ms.len());
    ensure!(spent < 0.5, "the gateway spends {spent:.2} of a core on what it cannot accept");
    scene.serves("descriptors again")
}

/// Opens connections without end and holds as many as it may, with a byte a second on each.
fn hold_half_open(
    at: SocketAddr,
    at_once: usize,
    stop: &AtomicBool,
    opened: &AtomicUsize,
) -> std::io::Result<()> {
    let mut held: std::collections::VecDeque<TcpStream> = std::collections::VecDeque::new();
    let mut dripped_at = Instant::now();
    while !stop.load(Ordering::Relaxed) && opened.load(Ordering::Relaxed) < 4 * HALF_OPEN {
        if let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(100)) {
            opened.fetch_add(1, Ordering::Relaxed);
            let _ = stream.set_nonblocking(true);
            held.push_back(stream);
        }
        if held.len() > at_once {
            held.pop_front();
        }
        if dripped_at.elapsed() > Duration::from_secs(1) {
            dripped_at = Instant::now();
            // The first byte of what libp2p says first: its peer waits for the rest.
            held.retain(|mut stream| stream.write(&[0x13]).is_ok());
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

#[test]
fn lengths_that_nobody_means_are_refused_before_they_cost_memory() -> Result<()> {
    let mut scene = Scene::new()?;
    let ticket = Ticket::decode(&scene.gateway.invite()?)?;
    let at = scene.at;
    // In front of everything: libp2p's own lengths, as varints.
    let huge_varint = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    for start in [&huge_varint[..], &[0xff; 64][..], b"\x13/multistream/1.0.0\n\xff\xff\x7f"] {
        let left = scene.stage.host("stranger").within(|| {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(start)?;
            let mut said = Vec::new();
            // A reset is an end, too.
            let _ = stream.read_to_end(&mut said);
            Ok(said)
        })?;
        ensure!(left.len() < 100, "{} bytes came back", left.len());
    }
    caller::call(scene.stage.host("stranger"), async {
        let key = caller::key(10);
        let mut raw = Raw::connect(&key, at).await?;
        let request = caller::request(&ticket, &key).encode();
        // The ticket's own length, 2^63: the varint behind version and order.
        let ticket_len_at = request
            .windows(ticket.envelope().len())
            .position(|part| part == ticket.envelope())
            .context("a request holds its ticket")?;
        let mut lying = request[..ticket_len_at - 2].to_vec();
        lying.extend(huge_varint);
        lying.extend(&request[ticket_len_at..]);
        let refused = JoinReply::Refused(RefuseReason::Malformed).encode();
        let mut malformed = vec![lying, vec![], vec![0x01], request[..request.len() - 1].to_vec()];
        malformed.push([&request[..], &[0]].concat());
        for bytes in malformed {
            let said = say(&mut raw, JOIN_PROTOCOL, &framed(&bytes)).await?;
            ensure!(said.get(4..) == Some(&refused[..]), "{bytes:02x?} was answered {said:02x?}");
        }
        for len in [0x8000_0000_u32, u32::MAX, 1 << 20] {
            let bytes = [&len.to_be_bytes()[..], &[0; 100]].concat();
            let said = say(&mut raw, JOIN_PROTOCOL, &bytes).await?;
            ensure!(said.is_empty(), "{len} bytes announced: {said:02x?}");
            let said = say(&mut raw, MEMBER_PROTOCOL, &bytes).await?;
            ensure!(said.is_empty(), "{len} bytes announced to a member stream: {said:02x?}");
        }
        // One byte at a time is slow, not wrong.
        let mut stream = raw.open(JOIN_PROTOCOL).await?;
        for byte in framed(&request) {
            stream.write_all(&[byte]).await?;
            stream.flush().await?;
        }
        let said = read_all(&mut stream).await;
        let reply = JoinReply::decode(said.get(4..).unwrap_or_default())?;
        ensure!(matches!(reply, JoinReply::Welcome(_)), "{reply:?}");
        Ok(())
    })?;
    scene.serves("lengths")
}

#[test]
fn streams_and_windows_of_one_caller_are_bounded() -> Result<()> {
    let mut scene = Scene::new()?;
    let at = scene.at;
    let ticket = Ticket::decode(&scene.gateway.invite()?)?;
    let stranger = scene.stage.host("stranger").clone();
    let attack = thread::spawn(move || caller::call(&stranger, attack_with_streams(at, ticket)));
    thread::sleep(Duration::from_secs(2));
    scene.serves("streams")?;
    let (opened, asked) = attack.join().map_err(|_| anyhow::anyhow!("a stranger panicked"))??;
    eprintln!("{opened} streams opened, {asked} renewals asked for and not read");
    ensure!(opened > 16, "the stranger did not get as far as the limit");
    ensure!(asked > 20, "the member did not get far");
    ensure!(scene.gateway.process.is_running(), "the gateway is gone");
    scene.serves("after-streams")
}

/// Opens streams without end, and a member stream that asks much and reads nothing.
async fn attack_with_streams(at: SocketAddr, ticket: Ticket) -> Result<(usize, usize)> {
    let greedy = tokio::spawn(async move {
        let (mut opened, mut held) = (0, Vec::new());
        let started = Instant::now();
        let mut raw = Raw::connect(&caller::key(20), at).await?;
        for n in 0..STREAMS {
            if started.elapsed() > STREAMS_FOR {
                break;
            }
            let protocol = if n % 2 == 0 { JOIN_PROTOCOL } else { MEMBER_PROTOCOL };
            match raw.open(protocol).await {
                Ok(stream) => {
                    opened += 1;
                    held.push(stream);
                }
                // Hung up on: calls again.
                Err(_) => match Raw::connect(&caller::key(20), at).await {
                    Ok(again) => raw = again,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                },
            }
        }
        anyhow::Ok(opened)
    });
    let key = caller::key(21);
    let (_net, reply) = caller::join(&key, &ticket, at).await?;
    ensure!(matches!(reply, JoinReply::Welcome(_)), "{reply:?}");
    let mut raw = Raw::connect(&key, at).await?;
    let mut stream = raw.open(MEMBER_PROTOCOL).await?;
    let slot = ticket.body().slot;
    let hello = ToGateway::Hello { slot, roster_version: 0, candidates: Vec::new() };
    stream.write_all(&framed(&hello.encode())).await?;
    let renew = framed(&ToGateway::Renew { nonce: [3; 16] }.encode());
    let (started, mut asked) = (Instant::now(), 0);
    while started.elapsed() < STREAMS_FOR * 2 {
        match timeout(Duration::from_secs(1), stream.write_all(&renew)).await {
            Ok(Ok(())) => asked += 1,
            Ok(Err(_)) | Err(_) => break,
        }
        let _ = timeout(Duration::from_secs(1), stream.flush()).await;
    }
    Ok((greedy.await??, asked))
}

#[test]
fn of_1000_keys_with_one_ticket_one_is_welcome_and_may_come_again() -> Result<()> {
    let mut scene = Scene::new()?;
    let (host, cable) = (scene.stage.host("stranger"), scene.stage.cable("stranger"));
    own_forged(&scene.stage.router, host, cable)?;
    many_addresses(&scene.stage)?;
    let ticket = Arc::new(Ticket::decode(&scene.gateway.invite()?)?);
    let at = scene.at;
    let host = host.clone();
    let shared = Arc::clone(&ticket);
    let started = Instant::now();
    let replies = caller::call(&host, async move {
        let mut claims = tokio::task::JoinSet::new();
        for number in 0..CLAIMANTS {
            let ticket = Arc::clone(&shared);
            claims.spawn(async move {
                let key = caller::key(1000 + number);
                // A gateway that has its hands full refuses connections; whoever means it, retries.
                for _ in 0..60 {
                    if let Ok((_, reply)) = caller::join(&key, &ticket, at).await {
                        return Some((number, reply));
                    }
                    sleep(Duration::from_millis(500)).await;
                }
                None
            });
        }
        Ok(claims.join_all().await)
    })?;
    let answered: Vec<_> = replies.into_iter().flatten().collect();
    let won = |reply: &JoinReply| matches!(reply, JoinReply::Welcome(_));
    let winners: Vec<_> = answered.iter().filter(|(_, reply)| won(reply)).collect();
    eprintln!("{} keys answered in {:?}", answered.len(), started.elapsed());
    ensure!(answered.len() == CLAIMANTS as usize, "{} keys were answered", answered.len());
    ensure!(winners.len() == 1, "{} keys were welcome", winners.len());
    let used = JoinReply::Refused(RefuseReason::TicketUsed);
    ensure!(answered.iter().all(|(_, reply)| won(reply) || *reply == used), "another refusal");
    let (winner, _) = winners[0];
    let key = caller::key(1000 + winner);
    let (_, again) = caller::call(&host, caller::join(&key, &ticket, at))?;
    ensure!(won(&again), "the winner came again and was told {again:?}");
    let late = caller::key(1000 + (winner + 1) % CLAIMANTS);
    let (_, refused) = caller::call(&host, caller::join(&late, &ticket, at))?;
    ensure!(refused == used, "a loser came again and was told {refused:?}");
    scene.serves("claimed")
}

/// Lets the stranger's connections come from many addresses in turn.
fn many_addresses(stage: &Stage) -> Result<()> {
    let [a, b, ..] = FORGED.octets();
    let addresses = (0..CLAIMANTS_FROM).map(|n| format!("{n} : {a}.{b}.{n}.9"));
    let map = addresses.collect::<Vec<_>>().join(", ");
    stage.host("stranger").nft(&format!(
        "table ip lab_many {{ chain post {{ type nat hook postrouting priority 100; \
         tcp dport 7770 snat to numgen inc mod {CLAIMANTS_FROM} map {{ {map} }}; }}\n}}"
    ))
}

#[test]
fn a_ticket_of_10000_addresses_opens_nothing_at_either_end() -> Result<()> {
    let mut scene = Scene::new()?;
    let ticket = Ticket::decode(&scene.gateway.invite()?)?;
    let forger = caller::key(30);
    let at = scene.at;
    for count in [10_000, 500, 5] {
        let address =
            |n: usize| DialAddr::Ip(SocketAddr::from(([44, 1, (n >> 8) as u8, n as u8], 7)));
        let addresses = (0..count).map(address).collect();
        // Signed by whoever: the buyer's key signs no such ticket.
        let large = Signed::seal(&forger, TicketBody { addresses, ..ticket.body().clone() });
        ensure!(Ticket::open(large.bytes()).is_err(), "{count} addresses are a ticket");
        let large = large.bytes().to_vec();
        let said = caller::call(scene.stage.host("stranger"), async {
            let mut request = caller::request(&ticket, &forger);
            request.ticket = large.clone();
            let mut raw = Raw::connect(&forger, at).await?;
            say(&mut raw, JOIN_PROTOCOL, &framed(&request.encode())).await
        })?;
        let refused = said.get(4..).map(JoinReply::decode);
        match refused {
            None => ensure!(said.is_empty(), "{count} addresses: {said:02x?}"),
            Some(Ok(JoinReply::Refused(_))) => {}
            Some(other) => bail!("{count} addresses: {other:?}"),
        }
    }
    let text = format!("ovl1{}", "q".repeat(10_000 * 12));
    let file = scene.stage.host("stranger").dir().join("ticket");
    std::fs::write(&file, text)?;
    let seat = scene.stage.lab.guest("nobody")?;
    let words = format!("join @{} --attach netns:{}", file.display(), seat.netns());
    let said =
        scene.stage.host("stranger").output(&scene.stage.programs.seller, words.split(' '))?;
    ensure!(said.status.code() == Some(2), "{said:?}");
    ensure!(seat.interfaces()?.is_empty(), "an interface was made for it");
    scene.serves("large-ticket")
}

/// Puts the length in front of a message.
fn framed(message: &[u8]) -> Vec<u8> {
    let len = message.len() as u32;
    [&len.to_be_bytes()[..], message].concat()
}

/// Says some bytes on a stream of its own and returns all that comes back.
async fn say(raw: &mut Raw, protocol: &'static str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = raw.open(protocol).await?;
    // The gateway may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    Ok(read_all(&mut stream).await)
}

async fn read_all(stream: &mut libp2p::Stream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    said
}
