//! Guests that somebody else runs: at a tap that a hypervisor holds, and at a unix socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{read, write};
use overlay_tests::cast::{Gateway, state_of};
use overlay_tests::lab::Host;
use overlay_tests::lab::process::Process;
use overlay_tests::stage::Stage;
use overlay_tests::traffic::{Ear, eventually, reaches, say, transfer, wait_reach};
use overlay_tests::vm::images::ipxe_image;
use tun_tap::{Iface, Mode};
use vde_attach::stream::framing::{Framed, Unframer};
use vde_attach::tap::{IfName, Tap, TapOptions};

const MARKER: &[u8] = b"<guest of another, 7c21>";
const SUBNET: [&str; 4] = ["--subnet", "10.77.0.0/24", "--expose", "5001"];
const PORT: u16 = 5001;
const PATIENCE: Duration = Duration::from_secs(15);
/// A guest under TCG on a busy machine: four times what it takes alone.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// A buyer with an order and a seller's host.
fn farm() -> Result<(Stage, Gateway)> {
    let stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    Ok((stage, gateway))
}

/// A running `overlay-seller join` of any attachment.
struct Join {
    process: Process,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    mac: String,
}

fn start(stage: &Stage, ticket: &str, attach: &str) -> Result<Process> {
    let seller = stage.host("seller1");
    let state = state_of(seller);
    let args = ["join", ticket, "--attach", attach, "--state", &state];
    seller.spawn(&stage.programs.seller, args)
}

fn join(stage: &Stage, ticket: &str, attach: &str) -> Result<Join> {
    let mut process = start(stage, ticket, attach)?;
    let (kind, place) = attach.split_once(':').context("an attachment has a kind")?;
    let words = format!("  {kind} {place} mac ");
    let line = process.wait_line(PATIENCE, |line| line.contains(&words))?;
    let mut fields = line.split("  ").skip(1);
    let mut next = || fields.next().context("a field");
    let (ipv4, ipv6) = (next()?.parse()?, next()?.parse()?);
    let mac = line.split(" mac ").nth(1).context("an address")?;
    let mac = mac.split_whitespace().next().context("an address")?.to_owned();
    Ok(Join { process, ipv4, ipv6, mac })
}

/// Configures the guest's interface as its owner does.
fn configure(guest: &Host, join: &Join) -> Result<()> {
    guest.must(&format!("ip link set eth0 address {} mtu 1500 up", join.mac))?;
    guest.must(&format!("ip addr replace {}/24 dev eth0", join.ipv4))?;
    guest.must(&format!("ip addr replace {}/64 dev eth0 nodad", join.ipv6)).map(drop)
}

/// Both addresses both ways, and two megabytes of TCP both ways.
fn all_passes(gateway: &Gateway, guest: &Host, join: &Join) -> Result<()> {
    let buyer: [IpAddr; 2] = [gateway.ipv4.into(), gateway.ipv6.into()];
    for to in buyer {
        wait_reach(guest, to, PATIENCE)?;
    }
    for to in [IpAddr::from(join.ipv4), join.ipv6.into()] {
        wait_reach(&gateway.host, to, PATIENCE)?;
    }
    for (from, to, at) in [
        (guest, &gateway.host, buyer[0]),
        (&gateway.host, guest, join.ipv4.into()),
        (guest, &gateway.host, buyer[1]),
        (&gateway.host, guest, join.ipv6.into()),
    ] {
        let sent = transfer(from, to, SocketAddr::new(at, PORT), 2 << 20, MARKER)?;
        ensure!(sent.equal, "to {at}: the hashes differ: {sent:?}");
    }
    Ok(())
}

/// The descriptor's end of a tap.
enum End {
    /// With a virtio-net header in front of each frame, as of `vnet_hdr=on`.
    Vnet(OwnedFd),
    /// Finished frames, as of `vnet_hdr=off`.
    Plain(Iface),
}

impl End {
    fn open(host: &Host, name: &str, with_header: bool) -> Result<Self> {
        if with_header {
            let name: IfName = name.parse()?;
            let tap = host.within(|| {
                Tap::open(&name, TapOptions::default()).map_err(std::io::Error::other)
            })?;
            return Ok(Self::Vnet(tap.into_fd()));
        }
        let tap = host.within(|| Iface::without_packet_info(name, Mode::Tap))?;
        tap.set_non_blocking()?;
        Ok(Self::Plain(tap))
    }

    fn take(&self, buffer: &mut [u8]) -> Option<usize> {
        match self {
            Self::Vnet(fd) => read(fd, buffer).ok(),
            Self::Plain(tap) => tap.recv(buffer).ok(),
        }
    }

    /// A full or absent side loses frames.
    fn put(&self, frame: &[u8]) {
        let _ = match self {
            Self::Vnet(fd) => write(fd, frame).is_ok(),
            Self::Plain(tap) => tap.send(frame).is_ok(),
        };
    }
}

/// What joins a guest's interface to a cable: the part of a hypervisor that matters here.
struct Hypervisor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hypervisor {
    /// Runs `turn` until dropped: a turn says whether it moved anything, or ends it.
    fn run(mut turn: impl FnMut() -> Option<bool> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed)
                && let Some(moved) = turn()
            {
                if !moved {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Copies frames between two taps, as they are.
    fn between(a: End, b: End) -> Self {
        let mut buffer = vec![0; 70_000];
        Self::run(move || {
            let mut moved = false;
            for (from, to) in [(&a, &b), (&b, &a)] {
                for _ in 0..64 {
                    let Some(len) = from.take(&mut buffer) else { break };
                    to.put(&buffer[..len]);
                    moved = true;
                }
            }
            Some(moved)
        })
    }

    /// Copies frames between a tap and a stream, until that ends.
    fn streaming(tap: Arc<End>, stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let (mut unframer, mut framed) = (Unframer::default(), Framed::default());
        let mut buffer = vec![0; 70_000];
        Self::run(move || {
            let mut moved = false;
            while framed.has_room() {
                let Some(len) = tap.take(&mut buffer) else { break };
                framed.push(&buffer[..len]);
                moved = true;
            }
            if let Ok(len) = (&stream).write(framed.unwritten()) {
                framed.wrote(len);
            }
            match (&stream).read(unframer.room()) {
                Ok(0) => return None,
                Ok(len) => unframer.add(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(moved),
                Err(_) => return None,
            }
            while let Some(frame) = unframer.frame().expect("the port does not lie") {
                tap.put(frame);
                unframer.advance();
            }
            Some(true)
        })
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Interfaces and rules that a join may have left on the seller's host.
fn traces(host: &Host) -> Result<String> {
    Ok(format!("{:?} {}", host.interfaces()?, host.must("nft list tables")?))
}

#[test]
fn a_tap_of_a_hypervisor_is_on_the_segment_with_and_without_offloads() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let guest = stage.lab.guest("guest1")?;
    for with_header in [true, false] {
        let seller = stage.host("seller1").clone();
        let theirs = End::open(&seller, "vnet0", with_header)?;
        let hypervisor = Hypervisor::between(theirs, End::open(&guest, "eth0", with_header)?);
        let before = traces(&seller)?;
        let mut join = join(&stage, &gateway.invite_file()?, "tap:vnet0")?;
        ensure!(join.process.log().contains("not the hypervisor"), "{}", join.process.log());
        configure(&guest, &join)?;
        all_passes(&gateway, &guest, &join)?;
        let addresses = seller.must("ip -o addr show")?;
        ensure!(!addresses.contains("vnet0"), "the host has a foot in it: {addresses}");
        ensure!(join.process.terminate(PATIENCE)?.success());
        ensure!(traces(&seller)? == before, "{} is not {before}", traces(&seller)?);
        drop(hypervisor);
        eventually("the taps are gone", PATIENCE, || Ok(guest.interfaces()?.is_empty()))?;
    }
    Ok(())
}

#[test]
fn the_host_hears_nothing_of_a_tap_that_is_joined() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let (seller, guest) = (stage.host("seller1").clone(), stage.lab.guest("guest1")?);
    let own = stage.cable("seller1").host.ipv4;
    let theirs = End::open(&seller, "vnet0", true)?;
    let _hypervisor = Hypervisor::between(theirs, End::open(&guest, "eth0", true)?);
    seller.must("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.vnet0.rp_filter=0")?;
    seller.must("ip link set vnet0 up")?;
    let mac = seller.must("cat /sys/class/net/vnet0/address")?;
    let ear = Ear::open(&seller, PORT)?;
    let call = |from: Ipv4Addr| -> Result<bool> {
        guest.must(&format!("ip route replace {own}/32 dev eth0"))?;
        guest.must(&format!("ip neigh replace {own} lladdr {} dev eth0", mac.trim()))?;
        say(&guest, from, SocketAddr::new(own.into(), PORT), MARKER)?;
        ear.hears(MARKER, Duration::from_secs(1))
    };
    guest.must("ip link set eth0 up")?;
    guest.must("ip addr add 10.99.0.1/24 dev eth0")?;
    ensure!(call(Ipv4Addr::new(10, 99, 0, 1))?, "without the rules the host is not reached");
    let join = join(&stage, &gateway.invite_file()?, "tap:vnet0")?;
    configure(&guest, &join)?;
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    for from in [Ipv4Addr::new(10, 99, 0, 1), join.ipv4] {
        ensure!(!call(from)?, "the host hears {from}");
    }
    Ok(())
}

#[test]
fn a_tap_that_disappears_under_load_ends_the_lease_and_leaves_nothing() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let (seller, guest) = (stage.host("seller1").clone(), stage.lab.guest("guest1")?);
    let before = traces(&seller)?;
    let theirs = End::open(&seller, "vnet0", true)?;
    let hypervisor = Hypervisor::between(theirs, End::open(&guest, "eth0", true)?);
    let mut join = join(&stage, &gateway.invite_file()?, "tap:vnet0")?;
    configure(&guest, &join)?;
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    let load = {
        let (from, to) = (guest.clone(), gateway.host.clone());
        let at = SocketAddr::new(gateway.ipv4.into(), PORT);
        thread::spawn(move || transfer(&from, &to, at, 256 << 20, MARKER).is_ok())
    };
    thread::sleep(Duration::from_millis(300));
    drop(hypervisor);
    let status = join.process.wait_end(PATIENCE)?;
    let log = join.process.log();
    ensure!(!status.success(), "it ended with {status}");
    ensure!(log.lines().filter(|line| line.contains("tap vnet0 is gone")).count() == 1, "{log}");
    ensure!(traces(&seller)? == before, "{} is not {before}", traces(&seller)?);
    let _ = load.join();
    Ok(())
}

#[test]
fn taps_that_cannot_hold_a_guest_are_refused_with_a_sentence() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let (seller, guest) = (stage.host("seller1").clone(), stage.lab.guest("guest1")?);
    seller.must("ip link add br0 type bridge")?;
    for (name, then) in [
        ("bridged", "ip link set bridged master br0"),
        ("addressed", "ip addr add 10.5.5.5/24 dev addressed"),
        ("tunnel", "ip link show tunnel"),
    ] {
        let mode = if name == "tunnel" { "tun" } else { "tap" };
        seller.must(&format!("ip tuntap add {name} mode {mode}"))?;
        seller.must(then)?;
    }
    let ticket = gateway.invite_file()?;
    let wan = format!("tap:{}", stage.cable("seller1").host.interface);
    for (attach, word, code) in [
        ("tap:bridged", "br0", 5),
        ("tap:addressed", "10.5.5.5", 5),
        ("tap:tunnel", "is no tap", 2),
        (&wan, "is no tap", 2),
        ("stream:/tmp/g.sock", "anybody may write", 5),
        ("stream:missing/g.sock", "is missing", 1),
        ("stream:/proc/self/status", "is no socket", 2),
    ] {
        let mut process = start(&stage, &ticket, attach)?;
        let status = process.wait_end(PATIENCE)?;
        let log = process.log();
        let last = log.lines().last().unwrap_or_default();
        ensure!(status.code() == Some(code), "{attach}: {status} {log}");
        ensure!(last.starts_with("overlay-seller: ") && last.contains(word), "{attach}: {log}");
    }
    // One that is not there is waited for, and then used.
    let mut waits = start(&stage, &ticket, "tap:vnet0")?;
    eventually("it says that it waits", PATIENCE, || {
        Ok(waits.log().contains("waiting for a tap named vnet0"))
    })?;
    let theirs = End::open(&seller, "vnet0", true)?;
    let _hypervisor = Hypervisor::between(theirs, End::open(&guest, "eth0", true)?);
    waits.wait_line(PATIENCE, |line| line.contains("  tap vnet0 mac "))?;
    // And nobody else gets it.
    let mut second = start(&stage, &gateway.invite_file()?, "tap:vnet0")?;
    ensure!(!second.wait_end(PATIENCE)?.success());
    ensure!(second.log().contains("tap vnet0 is in use by another"), "{}", second.log());
    // Put into a bridge later, it ends the lease.
    seller.must("ip link set vnet0 master br0")?;
    ensure!(waits.wait_end(PATIENCE)?.code() == Some(5), "{}", waits.log());
    Ok(())
}

#[test]
fn a_tap_and_a_stream_share_the_lease_of_a_namespace_and_outlive_it() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let mut first = stage.join(&gateway, "seller1", "guest1")?;
    let (seller, two, three) =
        (stage.host("seller1").clone(), stage.lab.guest("guest2")?, stage.lab.guest("guest3")?);
    let theirs = End::open(&seller, "vnet0", true)?;
    let _hypervisor = Hypervisor::between(theirs, End::open(&two, "eth0", true)?);
    let at_tap = join(&stage, &gateway.invite_file()?, "tap:vnet0")?;
    configure(&two, &at_tap)?;
    let tap = Arc::new(End::open(&three, "eth0", false)?);
    let path = socket_of(&stage);
    let attach = format!("stream:{}", path.display());
    let at_stream = join(&stage, &gateway.invite_file()?, &attach)?;
    configure(&three, &at_stream)?;
    let _peer = Hypervisor::streaming(tap, connect(&path)?);
    for ends in [true, false] {
        all_passes(&gateway, &two, &at_tap)?;
        all_passes(&gateway, &three, &at_stream)?;
        wait_reach(&two, at_stream.ipv4.into(), PATIENCE)?;
        let sockets = seller.must("ss -Huln")?;
        ensure!(sockets.lines().count() == 1, "more than one lease: {sockets}");
        if ends {
            first.process.signal(Signal::SIGKILL)?;
            first.process.wait_end(PATIENCE)?;
        }
    }
    Ok(())
}

#[test]
fn a_killed_join_is_started_again_on_the_same_tap() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let (seller, guest) = (stage.host("seller1").clone(), stage.lab.guest("guest1")?);
    let theirs = End::open(&seller, "vnet0", true)?;
    let _hypervisor = Hypervisor::between(theirs, End::open(&guest, "eth0", true)?);
    let before = traces(&seller)?;
    let ticket = gateway.invite_file()?;
    let mut first = join(&stage, &ticket, "tap:vnet0")?;
    configure(&guest, &first)?;
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    first.process.signal(Signal::SIGKILL)?;
    first.process.wait_end(PATIENCE)?;
    ensure!(!reaches(&guest, gateway.ipv4.into())?, "a killed join still forwards");
    let mut again = join(&stage, &ticket, "tap:vnet0")?;
    ensure!(again.mac == first.mac && again.ipv4 == first.ipv4, "another place");
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    ensure!(again.process.terminate(PATIENCE)?.success());
    ensure!(traces(&seller)? == before, "{} is not {before}", traces(&seller)?);
    Ok(())
}

fn socket_of(stage: &Stage) -> PathBuf {
    stage.host("seller1").dir().join("g.sock")
}

fn connect(path: &Path) -> Result<UnixStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            connected => return connected.with_context(|| format!("call {}", path.display())),
        }
    }
}

#[test]
fn a_stream_that_calls_is_served_again_after_either_side_went_and_lies_hurt_nobody() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let guest = stage.lab.guest("guest1")?;
    let tap = Arc::new(End::open(&guest, "eth0", false)?);
    let path = socket_of(&stage);
    let attach = format!("stream:{}", path.display());
    let ticket = gateway.invite_file()?;
    let mut first = join(&stage, &ticket, &attach)?;
    configure(&guest, &first)?;
    let peer = Hypervisor::streaming(Arc::clone(&tap), connect(&path)?);
    all_passes(&gateway, &guest, &first)?;
    drop(peer);
    for lie in [&[0xff; 4][..], &[0; 4], &[0, 0, 1, 0, 7], &[0x55; 9000]] {
        connect(&path)?.write_all(lie)?;
    }
    let _peer = Hypervisor::streaming(Arc::clone(&tap), connect(&path)?);
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    // Nobody else takes the path while it is served.
    let mut second = start(&stage, &gateway.invite_file()?, &attach)?;
    ensure!(!second.wait_end(PATIENCE)?.success());
    ensure!(second.log().contains("in use by another"), "{}", second.log());
    first.process.signal(Signal::SIGKILL)?;
    first.process.wait_end(PATIENCE)?;
    let mut again = join(&stage, &ticket, &attach)?;
    let _peer = Hypervisor::streaming(Arc::clone(&tap), connect(&path)?);
    all_passes(&gateway, &guest, &again)?;
    ensure!(again.process.terminate(PATIENCE)?.success());
    ensure!(!path.exists(), "the socket is left");
    ensure!(!path.with_extension("sock.lock").exists(), "the lock is left");
    Ok(())
}

#[test]
fn a_stream_that_listens_is_called_and_called_again() -> Result<()> {
    let (mut stage, gateway) = farm()?;
    let guest = stage.lab.guest("guest1")?;
    let tap = Arc::new(End::open(&guest, "eth0", false)?);
    let path = socket_of(&stage);
    let server = UnixListener::bind(&path)?;
    let attach = format!("stream:{}", path.display());
    let ticket = gateway.invite_file()?;
    let mut first = join(&stage, &ticket, &attach)?;
    configure(&guest, &first)?;
    let peer = Hypervisor::streaming(Arc::clone(&tap), server.accept()?.0);
    all_passes(&gateway, &guest, &first)?;
    drop((peer, server));
    std::fs::remove_file(&path)?;
    let server = UnixListener::bind(&path)?;
    let peer = Hypervisor::streaming(Arc::clone(&tap), server.accept()?.0);
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    ensure!(first.process.terminate(PATIENCE)?.success());
    ensure!(path.exists(), "the server's socket was removed");
    drop(peer);
    let _again = join(&stage, &ticket, &attach)?;
    let _peer = Hypervisor::streaming(Arc::clone(&tap), server.accept()?.0);
    wait_reach(&guest, gateway.ipv4.into(), PATIENCE)?;
    Ok(())
}

/// Boots iPXE in a real QEMU on the seller's host with one network card, and lets it fetch two
/// files from the buyer, the second only if it had the first.
fn fetches_under_qemu(stage: &Stage, gateway: &Gateway, join: &Join, netdev: &str) -> Result<()> {
    let seller = stage.host("seller1");
    let script = seller.dir().join("script.ipxe");
    let (own, buyer) = (join.ipv4, gateway.ipv4);
    std::fs::write(
        &script,
        format!(
            "#!ipxe\nifopen net0\nset net0/ip {own}\nset net0/netmask 255.255.255.0\n:again\n\
             imgfetch http://{buyer}:{PORT}/first && imgfetch http://{buyer}:{PORT}/second || \
             goto again\nreboot\n"
        ),
    )?;
    let listener = gateway.host.within(|| TcpListener::bind((buyer, PORT)))?;
    listener.set_nonblocking(true)?;
    let device = format!("virtio-net-pci,netdev=n0,mac={}", join.mac);
    let script = script.display().to_string();
    let mut args = vec!["-M", "pc", "-accel", "tcg", "-m", "256", "-no-reboot"];
    args.extend(["-display", "none", "-monitor", "none", "-serial", "null"]);
    args.extend(["-netdev", netdev, "-device", &device]);
    let ipxe = ipxe_image()?;
    args.extend(["-kernel", &ipxe, "-initrd", &script]);
    let mut qemu = seller.spawn("qemu-system-x86_64", args)?;
    let until = Instant::now() + BOOT_MAX;
    loop {
        ensure!(Instant::now() < until && qemu.is_running(), "no second file: {}", qemu.log());
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = [0; 2048];
        let len = stream.read(&mut request)?;
        let body = [b'x'; 60_000];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat())?;
        if request[..len].starts_with(b"GET /second") {
            return Ok(());
        }
    }
}

#[test]
fn a_real_qemu_that_serves_a_stream_is_on_the_segment() -> Result<()> {
    let (stage, gateway) = farm()?;
    let path = socket_of(&stage);
    let join = join(&stage, &gateway.invite_file()?, &format!("stream:{}", path.display()))?;
    // QEMU comes later and takes the path over: it is called then.
    let netdev = format!("stream,id=n0,server=on,addr.type=unix,addr.path={}", path.display());
    fetches_under_qemu(&stage, &gateway, &join, &netdev)
}

#[test]
fn a_real_qemu_that_holds_a_tap_is_on_the_segment() -> Result<()> {
    let (stage, gateway) = farm()?;
    stage.host("seller1").must("ip tuntap add vnet0 mode tap vnet_hdr")?;
    let join = join(&stage, &gateway.invite_file()?, "tap:vnet0")?;
    let netdev = "tap,id=n0,ifname=vnet0,script=no,downscript=no,vhost=off";
    fetches_under_qemu(&stage, &gateway, &join, netdev)
}
