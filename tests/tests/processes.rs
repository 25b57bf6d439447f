//! What the processes of both programs may do, by what the kernel says of them; and a control
//! process in other hands, which is asked for nothing that its helper should do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay::ipc;
use overlay_tests::cast::{Guest, state_of};
use overlay_tests::lab::process::Process;
use overlay_tests::stage::Stage;
use overlay_tests::steal_fd;
use overlay_tests::traffic::{eventually, reaches, wait_reach};
use overlay_tests::tree::{Member, namespaces, tree};

const SUBNET: [&str; 2] = ["--subnet", "10.77.0.0/24"];
const PATIENCE: Duration = Duration::from_secs(20);
/// First user that no person and no service of a distribution has.
const USERS_MIN: u32 = 0x6ffd_0000;

/// The parts of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Helper,
    Control,
    DataPlane,
    Pump,
}

/// The processes of a program, by what their command lines say they are. One that is about to
/// become another program looks like its parent for a moment.
fn parts(process: &Process) -> Result<BTreeMap<Part, u32>> {
    let mut found = look_for_parts(process);
    let until = Instant::now() + PATIENCE;
    while found.is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
        found = look_for_parts(process);
    }
    found
}

fn look_for_parts(process: &Process) -> Result<BTreeMap<Part, u32>> {
    let mut parts = BTreeMap::new();
    for Member { pid, .. } in tree(process.pid()) {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let part = match words {
            _ if pid == process.pid() => Part::Helper,
            words if words.contains("\0--data-plane\0") => Part::DataPlane,
            words if words.contains("\0--stream-pump\0") => Part::Pump,
            words if words.starts_with("nft\0") => continue, // the guard's latch
            _ => Part::Control,
        };
        ensure!(parts.insert(part, pid).is_none(), "two processes are {part:?}");
    }
    Ok(parts)
}

/// What the kernel says of a process.
struct Facts {
    pid: u32,
    status: String,
}

impl Facts {
    fn of(pid: u32) -> Result<Self> {
        Ok(Self { pid, status: fs::read_to_string(format!("/proc/{pid}/status"))? })
    }

    fn fields(&self, name: &str) -> Vec<&str> {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect()
    }

    fn read(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{name}", self.pid))?)
    }

    fn limit(&self, name: &str) -> Result<String> {
        let limits = self.read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).context("a limit")?;
        Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// The user it is, whom it cannot leave: without rights, a way to more, or a readable memory.
    fn user(&self) -> Result<u32> {
        let ids: BTreeSet<_> =
            [self.fields("Uid"), self.fields("Gid")].concat().into_iter().collect();
        ensure!(ids.len() == 1, "users and groups are {ids:?}");
        ensure!(self.fields("Groups").is_empty(), "groups {:?}", self.fields("Groups"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(self.fields(set) == ["0000000000000000"], "{set} {:?}", self.fields(set));
        }
        ensure!(self.fields("NoNewPrivs") == ["1"], "it may gain rights");
        ensure!(self.limit("Max core file size")? == "0", "it may write its memory down");
        // The files of a process that is not dumpable are root's.
        let files = fs::metadata(format!("/proc/{}/mem", self.pid))?;
        ensure!(files.st_uid() == 0, "others of its user may read its memory");
        Ok(ids.first().context("it has a user")?.parse()?)
    }

    /// A process that handles foreign bytes and nothing else.
    fn is_confined(&self) -> Result<()> {
        ensure!(self.user()? >= USERS_MIN, "it shares a user with others");
        ensure!(self.fields("Seccomp") == ["2"], "it may make any system call");
        let devices = self.read("net/dev")?;
        let names: Vec<_> =
            devices.lines().skip(2).flat_map(|line| line.split(':').next()).collect();
        ensure!(names.iter().all(|name| name.trim() == "lo"), "it has a network: {names:?}");
        let (own, mine) = (self.netns()?, fs::read_link("/proc/self/ns/net")?);
        ensure!(own != mine.display().to_string(), "it is in this host's network");
        ensure!(self.limit("Max open files")?.parse::<u32>()? <= 64, "it may open any number");
        ensure!(self.limit("Max data size")?.parse::<u64>()? <= 256 << 20, "it may use any memory");
        for line in self.read("maps")?.lines() {
            ensure!(!line.contains("rwx"), "memory that can be written and executed: {line}");
        }
        for fd in self.descriptors()? {
            let is_known = ["socket:[", "anon_inode:[", "/dev/net/tun", "/dev/null", "pipe:["]
                .iter()
                .any(|start| fd.starts_with(start));
            let is_kept = fd.contains("overlay") || fd.ends_with(".log");
            ensure!(is_known || is_kept, "it has {fd} open");
        }
        Ok(())
    }

    fn netns(&self) -> Result<String> {
        Ok(fs::read_link(format!("/proc/{}/ns/net", self.pid))?.display().to_string())
    }

    fn descriptors(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid))?;
        let targets = entries.map(|entry| Ok(fs::read_link(entry?.path())?.display().to_string()));
        targets.collect()
    }
}

/// Looks at all processes of a program; the user of its control process is returned.
fn look(process: &Process, expected: &[Part]) -> Result<u32> {
    let parts = parts(process)?;
    ensure!(parts.keys().eq(expected), "its parts are {parts:?}");
    // It enters a guest's namespace on a thread of its own, for a moment.
    eventually("the helper is root with one thread", PATIENCE, || {
        let helper = Facts::of(parts[&Part::Helper])?;
        Ok(helper.fields("Uid")[0] == "0" && helper.fields("Threads") == ["1"])
    })?;
    let inet = |facts: &Facts| -> Result<bool> {
        let sockets = facts.descriptors()?;
        let tables: Result<Vec<_>> = ["tcp", "tcp6", "udp", "udp6"]
            .map(|name| facts.read(&format!("net/{name}")))
            .into_iter()
            .collect();
        let known: BTreeSet<String> = tables?
            .iter()
            .flat_map(|table| table.lines().skip(1))
            .flat_map(|line| line.split_whitespace().nth(9))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        Ok(sockets.iter().any(|socket| known.contains(socket)))
    };
    let control = Facts::of(parts[&Part::Control])?;
    // One that shares a lease has no need of a network.
    let has_lease = expected.contains(&Part::DataPlane);
    ensure!(inet(&control)? == has_lease, "control has a network: {}", !has_lease);
    let users: Result<BTreeSet<_>> =
        parts.iter().skip(1).map(|(_, pid)| Facts::of(*pid)?.user()).collect();
    ensure!(users?.len() == parts.len() - 1, "two parts share a user");
    for (part, pid) in parts.iter().filter(|(part, _)| **part >= Part::DataPlane) {
        Facts::of(*pid)?.is_confined().with_context(|| format!("{part:?}"))?;
    }
    let user = control.user().context("control")?;
    ensure!(user != 0, "control is root");
    Ok(user)
}

/// A host whose processes may have their memory read although they changed their user, as long as
/// this lives.
struct OpenHost(String);

impl OpenHost {
    const SWITCH: &str = "/proc/sys/fs/suid_dumpable";

    fn make() -> Result<Self> {
        let before = fs::read_to_string(Self::SWITCH)?;
        fs::write(Self::SWITCH, "1")?;
        Ok(Self(before))
    }
}

impl Drop for OpenHost {
    fn drop(&mut self) {
        // Whoever could write it can write it.
        let _ = fs::write(Self::SWITCH, &self.0);
    }
}

#[test]
fn each_process_has_what_its_part_needs_and_nothing_more() -> Result<()> {
    let _open = OpenHost::make()?;
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    let all = [Part::Helper, Part::Control, Part::DataPlane];
    look(&gateway.process, &all).context("the buyer's")?;
    look(&guest.process, &all).context("a guest's in a namespace")?;

    let seller = stage.host("seller1");
    let sockets = seller.must("ss -Huane")?;
    ensure!(sockets.contains("fwmark:0x6f766c"), "the guard does not see the lease: {sockets}");
    let attach = format!("stream:{}/guest.sock", seller.dir().display());
    let (ticket, state) = (gateway.invite_file()?, state_of(seller));
    let join = ["join", &ticket, "--attach", &attach, "--state", &state];
    let with_pump = [Part::Helper, Part::Control, Part::DataPlane, Part::Pump];
    let sharing = [Part::Helper, Part::Control, Part::Pump];
    for (more, expected) in [(&[][..], &sharing[..]), (&["--listen", "[::]:7790"], &with_pump)] {
        let words = join.iter().chain(more);
        let mut stream = seller.spawn(&stage.programs.seller, words)?;
        stream.wait_line(PATIENCE, |line| line.contains("  order "))?;
        look(&stream, expected).with_context(|| format!("a guest's at a socket {more:?}"))?;
        ensure!(stream.terminate(PATIENCE)?.success());
    }
    Ok(())
}

/// A running lease whose control process is in other hands: it stands still, and whoever holds
/// `socket` speaks for it.
struct Taken {
    guest: Guest,
    control: Pid,
    socket: OwnedFd,
}

impl Taken {
    fn of(guest: Guest) -> Result<Self> {
        let parts = parts(&guest.process)?;
        let (helper, control) = (parts[&Part::Helper], parts[&Part::Control]);
        let fd = line_between(&guest, helper, control)?;
        let socket = steal_fd(control, fd)?;
        let control = Pid::from_raw(control.try_into()?);
        kill(control, Signal::SIGSTOP)?;
        Ok(Self { guest, control, socket })
    }

    fn say(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match ipc::send(&self.socket, bytes, fds) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until =>
                {
                    thread::yield_now();
                }
                sent => return sent,
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Dead already, where it was to be.
        let _ = kill(self.control, Signal::SIGCONT);
    }
}

/// Finds control's end of the socket whose other end is the helper's.
fn line_between(guest: &Guest, helper: u32, control: u32) -> Result<i32> {
    let sockets = |pid| -> Result<BTreeMap<String, i32>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let path = entry?.path();
            let target = fs::read_link(&path)?.display().to_string();
            if let Some(inode) = target.strip_prefix("socket:[") {
                let number = path.file_name().and_then(|name| name.to_str()).context("a number")?;
                found.insert(inode.trim_end_matches(']').to_owned(), number.parse()?);
            }
        }
        Ok(found)
    };
    let (ours, theirs) = (sockets(helper)?, sockets(control)?);
    let listed = guest.seller.output("ss", ["-xaH"])?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [kind, .., inode, _, peer] = words[..] else { continue };
        if kind == "u_seq"
            && ours.contains_key(inode)
            && let Some(fd) = theirs.get(peer)
        {
            return Ok(*fd);
        }
    }
    bail!("control and helper have no socket in common")
}

/// The first byte of a question, as postcard numbers them.
const READY: u8 = 0;
const START: u8 = 2;
const OPEN: u8 = 5;
const PROVEN: u8 = 6;
const KEEP: u8 = 11;
const SHARE: u8 = 13;
const LISTEN: u8 = 14;
const CALL: u8 = 15;

#[test]
fn what_is_no_question_ends_the_lease_and_leaves_nothing() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let ticket = gateway.invite_file()?;
    let seat = stage.lab.guest("guest1")?;
    let seller = stage.host("seller1").clone();
    let long = vec![KEEP; ipc::MESSAGE_LEN_MAX + 1];
    let cases: [(&str, &[u8], usize); 8] = [
        ("an unknown question", &[200, 1], 0),
        ("a number that never ends", &[0xff; 40], 0),
        ("more than a question", &[KEEP, KEEP], 0),
        ("half a question", &[PROVEN, 0, 44], 0),
        (
            "a list that says it has 2^60 addresses",
            &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
            0,
        ),
        ("a path that is no text", &[READY, 1, 1, 3, 0xff, 0xfe, 0xfd, 0, 0], 0),
        ("more bytes than a message", &long, 0),
        ("more descriptors than a message", &[KEEP], ipc::FDS_MAX + 1),
    ];
    for (what, bytes, fds) in cases {
        let guest = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
        let mut taken = Taken::of(guest).context(what)?;
        let null = fs::File::open("/dev/null")?;
        taken.say(bytes, &vec![null.as_fd(); fds]).context(what)?;
        let end = taken.guest.process.wait_end(PATIENCE).context(what)?;
        ensure!(!end.success(), "{what}: {end}");
        let log = taken.guest.process.log();
        ensure!(!log.contains("panicked"), "{what}: {log}");
        eventually(&format!("{what}: nothing is left"), PATIENCE, || {
            let tables = seller.must("nft list tables")?;
            let links = seat.must("ip -o link show")?;
            Ok(!tables.contains("ovl_") && links.lines().count() == 1)
        })?;
    }
    Ok(())
}

#[test]
fn a_question_out_of_turn_starts_and_opens_nothing() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    let victim = stage.host("buyer").dir().join("victim");
    fs::write(&victim, "of somebody else")?;
    let mut taken = Taken::of(guest)?;
    // What the helper asks of the packet filter comes and goes.
    let planes = |pid| -> usize {
        let words = |member: Member| fs::read(format!("/proc/{}/cmdline", member.pid));
        let all = tree(pid).into_iter().flat_map(words);
        all.filter(|words| words.windows(14).any(|at| at == b"\0--data-plane\0")).count()
    };
    // Ready, with the port and a file that is to be removed in the end.
    let path = victim.display().to_string();
    let mut ready = vec![READY, 1, 1, u8::try_from(path.len())?];
    ready.extend(path.as_bytes());
    ready.extend([0, 0]);
    let null = fs::File::open("/dev/null")?;
    taken.say(&ready, &[null.as_fd()])?;
    // The same for one that shares a lease, which this one does not.
    let mut share = vec![SHARE, 1, u8::try_from(path.len())?];
    share.extend(path.as_bytes());
    share.extend([0, 0]);
    taken.say(&share, &[])?;
    let sockets = taken.guest.seller.must("ss -Huln")?;
    for _ in 0..20 {
        for question in [&[START][..], &[OPEN], &[LISTEN], &[CALL, 1]] {
            taken.say(question, &[])?;
        }
    }
    // An address that never said a word, and the metadata service of clouds.
    for address in [[44, 1, 2, 3], [169, 254, 169, 254]] {
        let [a, b, c, d] = address;
        taken.say(&[PROVEN, 0, a, b, c, d, 80], &[])?;
    }
    thread::sleep(Duration::from_secs(1));
    let count = planes(taken.guest.process.pid());
    ensure!(count == 1, "there are {count} data planes");
    ensure!(taken.guest.seller.must("ss -Huln")? == sockets, "a socket was opened");
    let table = taken.guest.seller.must("nft list set inet ovl_guard proven4")?;
    ensure!(!table.contains("44.1.2.3") && !table.contains("169.254"), "{table}");
    wait_reach(&taken.guest.seat, gateway.ipv4.into(), PATIENCE)?;
    kill(taken.control, Signal::SIGKILL)?;
    taken.guest.process.wait_end(PATIENCE)?;
    ensure!(Path::new(&victim).exists(), "a file of somebody else's was removed");
    Ok(())
}

#[test]
fn a_control_process_that_never_stops_asking_hides_nothing() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &SUBNET)?;
    let guest = stage.join(&gateway, "seller1", "guest1")?;
    let taken = Taken::of(guest)?;
    let pids: Vec<_> = tree(taken.guest.process.pid()).iter().map(|member| member.pid).collect();
    let wires: Vec<_> = namespaces(&pids)?
        .into_iter()
        .filter(|netns| netns.interfaces().is_ok_and(|names| !names.is_empty()))
        .collect();
    let [wire] = &wires[..] else { bail!("{} namespaces have interfaces", wires.len()) };
    ensure!(reaches(&taken.guest.seat, gateway.ipv4.into())?, "the guest is cut off already");
    let until = Instant::now() + Duration::from_secs(5);
    let mut down_after = None;
    thread::scope(|scope| -> Result<()> {
        // As fast as the socket takes them, by as many as there are processors.
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < until {
                    // Full, as often as not.
                    let _ = ipc::send(&taken.socket, &[KEEP], &[]);
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        wire.must("nft flush ruleset")?;
        let flushed_at = Instant::now();
        while Instant::now() < until && down_after.is_none() {
            let up = wire.must("ip -o link show up")?;
            if up.lines().count() == 0 {
                down_after = Some(flushed_at.elapsed());
            }
        }
        Ok(())
    })?;
    let after = down_after.context("the wire is open without its rules as long as control asks")?;
    ensure!(after < Duration::from_secs(2), "the wire went down after {after:?}");
    Ok(())
}

#[test]
fn a_data_plane_that_dies_takes_its_own_lease_and_no_other() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let farm = stage.open("buyer", "farm", &SUBNET)?;
    let barn = stage.open("buyer", "barn", &["--subnet", "10.78.0.0/24"])?;
    let (ticket, seat) = (farm.invite_file()?, stage.lab.guest("guest1")?);
    let seller = stage.host("seller1").clone();
    let mut dying = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    let mut other = stage.join(&barn, "seller1", "guest2")?;
    let before = parts(&other.process)?;
    // As a panic ends it, and as an intruder's forbidden call does.
    for signal in [Signal::SIGABRT, Signal::SIGSYS] {
        let plane = parts(&dying.process)?[&Part::DataPlane];
        kill(Pid::from_raw(plane.try_into()?), signal)?;
        let end = dying.process.wait_end(PATIENCE)?;
        let log = dying.process.log();
        ensure!(!end.success() && log.contains("the data plane has ended"), "{end}: {log}");
        ensure!(other.process.is_running(), "the other lease has ended as well");
        ensure!(parts(&other.process)? == before, "the other lease has other processes");
        ensure!(reaches(&other.seat, barn.ipv4.into())?, "the other guest is cut off");
        eventually("its guest's interface is gone", PATIENCE, || {
            Ok(seat.interfaces()?.is_empty())
        })?;
        dying = Guest::join(&stage.programs, &seller, &seat, &ticket, &[])?;
    }
    Ok(())
}
