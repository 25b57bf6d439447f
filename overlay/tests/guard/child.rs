//! Guards and hostile programs in processes of their own: killed, unprivileged, without `nft`.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use overlay::host::guard::{self, Guard, GuardError, GuardSpec, Stands, TABLE};
use overlay_proto::dial::HEARSAY_PACKETS_MAX;
use socket2::SockRef;

use crate::attack::{
    CTL_UID, INITIATION_LEN, MANY, PORT, dp_socket, over_and_over, send, try_option,
};
use crate::net::{Family, Lab};
use crate::spec;

/// Says which part a process plays, and for whom.
const ROLE: &str = "OVL_GUARD_ROLE";
/// The word before what a process says.
const SAYS: &str = "says: ";

/// Not a test by itself: what the tests below start as processes of their own.
#[test]
#[ignore = "other tests run it"]
fn role() {
    let role = std::env::var(ROLE).unwrap_or_default();
    let words: Vec<&str> = role.split(' ').collect();
    let said = match *words {
        ["join", port] => join_and_wait(port.parse().expect("a port")),
        ["try"] => Guard::join(spec(PORT)).map_or_else(|error| sentence(&error), |_| "ok".into()),
        ["escape", to] => escape(to.parse().expect("an address")),
        ["unmark"] => unmark(),
        _ => panic!("no such role: {role}"),
    };
    println!("\n{SAYS}{said}");
}

/// Puts an error and its sources in one line.
fn sentence(error: &GuardError) -> String {
    let first: &dyn std::error::Error = error;
    let all = std::iter::successors(Some(first), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn join_and_wait(port: u16) -> String {
    let _guard = Guard::join(spec(port)).expect("it stands");
    println!("\n{SAYS}joined");
    loop {
        thread::park();
    }
}

/// Tries all that a program without privileges has.
fn escape(to: SocketAddr) -> String {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let udp = UdpSocket::bind(any).expect("anyone may");
    let sent = send(&udp, over_and_over(to), INITIATION_LEN);
    let dialled = TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok();
    let domain = socket2::Domain::for_address(to);
    let icmp = if to.is_ipv4() { socket2::Protocol::ICMPV4 } else { socket2::Protocol::ICMPV6 };
    let raw = socket2::Socket::new(domain, socket2::Type::RAW, Some(icmp)).is_ok();
    let ping = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(icmp));
    let echo = [if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 0];
    let pinged = ping.is_ok_and(|socket| socket.send_to(&echo, &to.into()).is_ok());
    format!("sent {sent} dialled {dialled} raw {raw} pinged {pinged}")
}

/// Tries to take the mark off the socket that is its input, by all the options there are.
fn unmark() -> String {
    let input = std::io::stdin();
    let socket = SockRef::from(&input);
    let unmarked = socket.set_mark(0).is_ok();
    let other = try_option(&input, libc::SOL_SOCKET, libc::SO_MARK, &1_i32.to_ne_bytes());
    format!("unmarked {unmarked} {other} mark {:#x}", socket.mark().unwrap_or(0))
}

/// Starts a role in the lab's host. Others than root cannot read where test programs are built.
fn start(
    lab: &Lab,
    role: &str,
    change: impl FnOnce(&mut Command) -> &mut Command + Send,
) -> (Child, PathBuf) {
    let open = Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().permissions(open).tempdir().expect("a directory").keep();
    let program = dir.join("guard");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copied");
    let mut command = Command::new(&program);
    command.args(["--exact", "child::role", "--ignored", "--nocapture"]).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    change(&mut command);
    let spawn = || loop {
        match command.spawn() {
            // Another thread's child had the copy open when it was forked, and is about to exec.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(5));
            }
            spawned => return spawned.expect("it starts"),
        }
    };
    (lab.host.run(spawn), dir)
}

fn said(child: &mut Child) -> String {
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut lines = output.by_ref().lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix(SAYS).map(str::to_owned));
    child.stdout = Some(output.into_inner());
    line.expect("it says something")
}

/// Plays a role to its end.
fn play(lab: &Lab, role: &str, change: impl FnOnce(&mut Command) -> &mut Command + Send) -> String {
    let (mut child, dir) = start(lab, role, change);
    let said = said(&mut child);
    child.wait_with_output().expect("it ends");
    fs::remove_dir_all(dir).expect("removed");
    said
}

fn locks(lab: &Lab) -> Vec<PathBuf> {
    let netns = lab.host.run(|| fs::metadata("/proc/thread-self/ns/net").expect("one").ino());
    let all =
        ["life", "turn"].map(|kind| PathBuf::from(format!("/run/overlay/guard-{netns}.{kind}")));
    all.into_iter().filter(|path| path.exists()).collect()
}

fn has_table(lab: &Lab) -> bool {
    lab.host.sh("nft list tables").contains(&format!("inet {TABLE}\n"))
}

fn list(lab: &Lab, set: &str) -> String {
    lab.host.sh(&format!("nft list set inet {TABLE} {set}"))
}

#[test]
fn leases_share_the_table_and_the_last_one_takes_it_away() {
    let lab = Lab::new();
    let [first, second] =
        [PORT, PORT + 1].map(|port| lab.host.run(|| Guard::join(spec(port))).expect("it stands"));
    let victim = SocketAddr::from((lab.fresh(Family::V4), PORT));
    lab.reset();
    lab.host.run(|| {
        for port in [PORT, PORT + 1] {
            send(&dp_socket(port), over_and_over(victim), INITIATION_LEN);
        }
    });
    assert!(lab.seen().packets <= HEARSAY_PACKETS_MAX as u64, "each has a budget of its own");
    lab.host.run(|| drop(first));
    assert!(has_table(&lab) && !list(&lab, "ports").contains("7770 "));
    assert!(list(&lab, "ports").contains("7771 "));
    let hold = lab.host.run(|| second.hold()).expect("held");
    lab.host.run(|| drop(second));
    assert!(has_table(&lab), "a process with a marked socket is still there");
    drop(hold);
    let third = lab.host.run(|| Guard::join(spec(PORT))).expect("it adopts what stands");
    lab.host.run(|| drop(third));
    assert!(!has_table(&lab) && locks(&lab).is_empty(), "{:?}", locks(&lab));
    assert!(lab.host.sh("nft list tables").lines().all(|line| line == "table inet count"));
}

#[test]
fn a_flushed_ruleset_is_put_back_by_each_lease_for_itself() {
    let lab = Lab::new();
    let mut guards =
        [PORT, PORT + 1].map(|port| lab.host.run(|| Guard::join(spec(port))).expect("it stands"));
    let victims = [(); 2].map(|()| SocketAddr::from((lab.fresh(Family::V4), PORT)));
    lab.host.sh("nft flush ruleset");
    lab.count();
    let now = vde_switch::time::Instant::ZERO;
    let [first, second] = &mut guards;
    lab.host.run(|| {
        first.reinstall(now).expect("put back");
        assert_eq!(first.check().expect("listed"), Stands::Whole);
        assert_eq!(second.check().expect("listed"), Stands::Changed, "it is not in the table");
        second.reinstall(now).expect("put back");
        assert_eq!(first.check().expect("listed"), Stands::Whole, "it was thrown out");
        assert_eq!(second.check().expect("listed"), Stands::Whole);
        for (port, victim) in [PORT, PORT + 1].into_iter().zip(victims) {
            send(&dp_socket(port), over_and_over(victim), INITIATION_LEN);
        }
    });
    let seen = lab.seen().packets;
    assert!((1..=2 * HEARSAY_PACKETS_MAX as u64).contains(&seen), "{seen}");
    lab.host.run(|| drop(guards));
    assert!(!has_table(&lab) && locks(&lab).is_empty());
}

#[test]
fn what_a_killed_helper_left_holds_until_the_next_one_takes_it_over() {
    let lab = Lab::new();
    let (mut child, dir) = start(&lab, &format!("join {PORT}"), |command| command);
    assert_eq!(said(&mut child), "joined");
    let (own, other) = ("7770 . 44.9.0.1 . 7770", "7999 . 44.9.0.2 . 7770");
    let heard = SocketAddr::from((lab.fresh(Family::V4), PORT));
    lab.say(heard, PORT);
    let kept = format!("{PORT} . {} . {}", heard.ip(), heard.port());
    for path in [own, other, &kept] {
        lab.open("proven", Family::V4, path);
    }
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    fs::remove_dir_all(dir).expect("removed");
    assert!(has_table(&lab), "killing the helper opens the guard");
    while lab.host.sh("nft list tables").contains("ovl_latch") {
        thread::sleep(Duration::from_millis(10));
    }
    let victim = SocketAddr::from((lab.fresh(Family::V4), PORT));
    lab.reset();
    lab.host.run(|| send(&dp_socket(PORT), over_and_over(victim), INITIATION_LEN));
    assert!(lab.seen().packets <= HEARSAY_PACKETS_MAX as u64);
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it takes over");
    let proven = list(&lab, "proven4");
    assert!(!proven.contains(own), "a dead lease's silent peer is the new one's: {proven}");
    assert!(proven.contains(&kept), "a peer that is heard still is gone: {proven}");
    assert!(proven.contains(other), "another lease's peer is gone: {proven}");
    assert_eq!(lab.host.sh("nft list ruleset").matches("meta mark 0x006f766c jump dp").count(), 1);
    let second = lab.host.run(|| Guard::join(spec(PORT + 1))).expect("it stands");
    lab.host.run(|| drop(guard));
    let proven = list(&lab, "proven4");
    assert!(proven.contains(&format!("{kept} timeout 1m ")), "it is to stay a minute: {proven}");
    lab.host.sh(&format!("nft flush set inet {TABLE} live4"));
    lab.host.sh(&format!("nft flush set inet {TABLE} heard4"));
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it takes over");
    let proven = list(&lab, "proven4");
    assert!(!proven.contains(&kept), "it fell silent: {proven}");
    lab.host.run(|| drop(guard));
    lab.host.run(|| drop(second));
    assert!(!has_table(&lab) && locks(&lab).is_empty());
}

#[test]
fn foreign_rules_under_our_name_are_replaced_unless_a_lease_lives_by_them() {
    let lab = Lab::new();
    lab.host.sh(&format!("nft add table inet {TABLE}"));
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("nobody needs them");
    lab.host.sh(&format!("nft insert rule inet {TABLE} output accept"));
    let error = lab.host.run(|| Guard::join(spec(PORT + 1))).expect_err("somebody may need them");
    assert!(matches!(error, GuardError::Foreign), "{error}");
    assert!(list(&lab, "ports").contains("7770 "), "the living lease is undisturbed");
    lab.host.run(|| drop(guard));
    assert!(!has_table(&lab) && locks(&lab).is_empty());
}

#[test]
fn a_program_of_the_control_user_gets_nothing_out() {
    let lab = Lab::new();
    for family in [Family::V4, Family::V6] {
        let to = SocketAddr::from((lab.fresh(family), PORT));
        let run = || {
            lab.reset();
            let role = format!("escape {to}");
            let said = play(&lab, &role, |command| command.uid(CTL_UID).gid(CTL_UID));
            (said, lab.seen())
        };
        let (said, seen) = run();
        assert!(
            said.starts_with(&format!("sent {MANY} ")) && seen.packets > u64::from(MANY),
            "{said}"
        );
        let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("it stands");
        let (said, seen) = run();
        assert_eq!(said, "sent 0 dialled false raw false pinged false");
        assert_eq!(seen.packets, 0);
        lab.host.run(|| drop(guard));
    }
}

#[test]
fn the_mark_cannot_be_taken_off_by_whom_the_socket_is_handed_to() {
    let lab = Lab::new();
    let socket = lab.host.run(|| UdpSocket::from(OwnedFd::from(dp_socket(PORT))));
    let give = |user: Option<u32>| {
        let input = socket.as_fd().try_clone_to_owned().expect("a copy");
        play(&lab, "unmark", |command| {
            let command = command.stdin(input);
            match user {
                Some(user) => command.uid(user).gid(user),
                None => command,
            }
        })
    };
    assert_eq!(give(Some(CTL_UID)), format!("unmarked false false mark {:#x}", guard::GUARD_MARK));
    assert_eq!(give(None), "unmarked true true mark 0x1", "root can, so the test sees it");
}

/// Makes a directory with a program of that name.
fn fake_nft(dir: &Path, script: &str) -> PathBuf {
    let bin = dir.join("bin");
    DirBuilder::new().create(&bin).expect("made");
    fs::write(bin.join("nft"), script).expect("written");
    fs::set_permissions(bin.join("nft"), Permissions::from_mode(0o755)).expect("set");
    bin
}

#[test]
fn what_is_missing_is_named_in_one_sentence() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = play(&lab, "try", |command| command.env("PATH", dir.path()));
    assert!(nowhere.contains("`nft` cannot be run (is nftables installed?)"), "{nowhere}");
    let old = "#!/bin/sh\n\
               [ \"$1\" = --version ] && echo nftables v0.8.2 \"(Joe Btfsplk)\" && exit\n\
               cat > /dev/null; echo 'Error: syntax error, unexpected size' >&2; exit 1\n";
    let path = format!("{}:/usr/bin:/bin", fake_nft(dir.path(), old).display());
    let old = play(&lab, "try", |command| command.env("PATH", path));
    assert_eq!(
        old,
        "the egress guard cannot be made by nftables v0.8.2 and this kernel: nft: Error: syntax \
         error, unexpected size"
    );
    let user = play(&lab, "try", |command| command.uid(CTL_UID));
    assert!(user.contains("in a namespace of its own") && user.contains("permitted"), "{user}");
    assert!(!has_table(&lab) && locks(&lab).is_empty());
    for bad in [GuardSpec { port: 0, ..spec(PORT) }, GuardSpec { ctl_uid: 0, ..spec(PORT) }] {
        let error = lab.host.run(|| Guard::join(bad)).expect_err("nobody means that");
        assert!(matches!(error, GuardError::Spec));
    }
    let start = Instant::now();
    let guard = lab.host.run(|| Guard::join(spec(PORT))).expect("nothing is missing here");
    println!("joined in {:?}", start.elapsed());
    lab.host.run(|| drop(guard));
}
