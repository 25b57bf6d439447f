//! What users type wrong: one sentence, the right exit code, nothing left behind.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use overlay_tests::lab::Host;
use overlay_tests::stage::Stage;

/// How long a program may take to say no.
const ANSWER_MAX: Duration = Duration::from_secs(8);

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const CONFINEMENT: i32 = 5;

/// A host where things are typed wrong, and a guest's namespace.
struct Desk {
    stage: Stage,
    seat: Host,
    complaints: Vec<String>,
}

impl Desk {
    fn new() -> Result<Self> {
        let mut stage = Stage::build(&["buyer", "seller1"])?;
        let seat = stage.lab.guest("guest1")?;
        Ok(Self { stage, seat, complaints: Vec::new() })
    }

    fn host(&self) -> &Host {
        self.stage.host("seller1")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host().dir().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<String> {
        fs::write(self.path(name), bytes)?;
        Ok(format!("@{}", self.path(name).display()))
    }

    /// Runs `overlay-gw` with a state directory of its own unless the words name one.
    fn gw(&mut self, what: &str, words: &str, code: i32, says: &[&str]) -> Result<()> {
        let program = self.stage.programs.gateway.clone();
        self.refuses(what, &program, words, b"", code, says)
    }

    /// Runs `overlay-seller`, likewise.
    fn seller(&mut self, what: &str, words: &str, code: i32, says: &[&str]) -> Result<()> {
        let program = self.stage.programs.seller.clone();
        self.refuses(what, &program, words, b"", code, says)
    }

    /// Runs `overlay-seller join TICKET` for the guest's namespace.
    fn join(&mut self, what: &str, ticket: &str, code: i32, says: &[&str]) -> Result<()> {
        let words = format!("join {ticket} --attach netns:{}", self.seat.netns());
        self.seller(what, &words, code, says)
    }

    /// Runs a program that is to refuse, and notes whatever is not as it should be.
    fn refuses(
        &mut self,
        what: &str,
        program: &Path,
        words: &str,
        stdin: &[u8],
        code: i32,
        says: &[&str],
    ) -> Result<()> {
        let state = self.path(&format!("state-{}", what.replace(' ', "-")));
        let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        if !words.iter().any(|word| word == "--state") {
            words.extend(["--state".to_owned(), state.display().to_string()]);
        }
        let before = self.traces()?;
        let output = answer(self.host(), program, &words, stdin)
            .with_context(|| format!("{what}: {words:?}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut wrong = Vec::new();
        if output.status.code() != Some(code) {
            wrong.push(format!("ended with {}, not with {code}", output.status));
        }
        if stderr.lines().count() != 1 || stderr.len() > 400 {
            wrong.push("said not one sentence".to_owned());
        }
        for word in ["Error:", "error:", "panicked", "backtrace", "Caused by", "Os {"] {
            if stderr.contains(word) {
                wrong.push(format!("speaks to programmers: {word}"));
            }
        }
        wrong.extend(
            says.iter()
                .filter(|word| !stderr.contains(**word))
                .map(|word| format!("does not name {word:?}")),
        );
        if !output.stdout.is_empty() {
            wrong.push("printed something on stdout".to_owned());
        }
        let after = self.traces()?;
        if after != before {
            wrong.push(format!("left behind: {after} instead of {before}"));
        }
        if !wrong.is_empty() {
            self.complaints.push(format!("{what}: {}; stderr: {stderr:?}", wrong.join(", ")));
        }
        Ok(())
    }

    fn traces(&self) -> Result<String> {
        let host = self.host();
        let tables = host.must("nft list tables")?;
        let interfaces = (host.interfaces()?, self.seat.interfaces()?);
        Ok(format!("{interfaces:?} {tables} {}", host.must("ss -Htuln")?))
    }

    fn verdict(self) -> Result<()> {
        ensure!(self.complaints.is_empty(), "\n{}", self.complaints.join("\n"));
        Ok(())
    }
}

/// Runs a program that is to end soon.
fn answer(host: &Host, program: &Path, words: &[String], stdin: &[u8]) -> Result<Output> {
    let mut command = host.command(program);
    command.args(words).env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It may end without having read all: then it does not want it.
    let _ = child.stdin.take().context("stdin is piped")?.write_all(stdin);
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > ANSWER_MAX {
            child.kill()?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::bail!("still running after {ANSWER_MAX:?}; stderr: {said:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

/// Returns the ticket with its version byte changed and a right checksum.
fn of_other_version(ticket: &str) -> Result<String> {
    let mut bytes: Vec<u8> = CheckedHrpstring::new::<Bech32m>(ticket)?.byte_iter().collect();
    *bytes.first_mut().context("a ticket has bytes")? = 2;
    Ok(bech32::encode::<Bech32m>(Hrp::parse("ovl")?, &bytes)?)
}

#[test]
fn tickets_that_are_none() -> Result<()> {
    let mut desk = Desk::new()?;
    let gateway = desk.stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let ticket = gateway.invite()?;
    let end = ticket.len() - 20;
    let other = if &ticket[end..=end] == "q" { "p" } else { "q" };
    let changed = format!("{}{other}{}", &ticket[..end], &ticket[end + 1..]);
    for (what, text) in [
        ("truncated ticket", ticket.as_bytes()[..end].to_vec()),
        ("ticket with one character changed", changed.into_bytes()),
        ("ticket of another version", of_other_version(&ticket)?.into_bytes()),
        ("ticket of 10 MB", ticket.as_bytes().repeat(10_000_000 / ticket.len())),
        ("ticket that is no text", vec![0xff; 300]),
        ("empty ticket", Vec::new()),
    ] {
        let file = desk.file("ticket", &text)?;
        desk.join(what, &file, USAGE, &["ticket"])?;
    }
    desk.join("ticket from empty stdin", "-", USAGE, &["ticket"])?;
    desk.join("ticket in a missing file", "@/no/such/file", FAILED, &["/no/such/file"])?;
    desk.verdict()
}

#[test]
fn addresses_that_cannot_be() -> Result<()> {
    let mut desk = Desk::new()?;
    for (what, subnet) in [
        ("subnet of a local route", "44.128.2.0/24"),
        ("subnet around a local route", "44.0.0.0/8"),
    ] {
        desk.gw(what, &format!("up farm --subnet {subnet}"), FAILED, &[subnet, "wan2"])?;
    }
    for (what, subnet) in [
        ("subnet with host bits", "10.77.0.5/24"),
        ("subnet longer than an address", "10.77.0.0/33"),
        ("subnet without a length", "10.77.0.0"),
        ("subnet that is a word", "banana"),
    ] {
        desk.gw(what, &format!("up farm --subnet {subnet}"), USAGE, &[subnet])?;
    }
    let at = "44.128.2.2:7770";
    let udp = desk.host().within(|| std::net::UdpSocket::bind(at))?;
    desk.gw("given udp port in use", &format!("up farm --listen {at}"), FAILED, &[at])?;
    drop(udp);
    let tcp = desk.host().within(|| std::net::TcpListener::bind(at))?;
    desk.gw("given tcp port in use", &format!("up farm --listen {at}"), FAILED, &[at])?;
    drop(tcp);
    let far = "44.128.9.9:7770";
    desk.gw("address of another host", &format!("up farm --listen {far}"), FAILED, &[far])?;
    desk.verdict()
}

#[test]
fn interfaces_and_namespaces_that_cannot_be() -> Result<()> {
    let mut desk = Desk::new()?;
    desk.host().must("ip tuntap add dev taken mode tap")?;
    let long = "a-name-of-16-char";
    desk.gw("tap name taken", "up farm --tap taken", FAILED, &["taken"])?;
    desk.gw("tap name too long", &format!("up farm --tap {long}"), USAGE, &[long])?;
    desk.gw("tap name with a slash", "up farm --tap a/b", USAGE, &["a/b"])?;
    desk.gw("order name with a slash", "up ../farm", USAGE, &["../farm"])?;

    let gateway = desk.stage.open("buyer", "barn", &[])?;
    let ticket = gateway.invite_file()?;
    let seat = desk.seat.netns().to_owned();
    let to = |place: &str| format!("join {ticket} --attach {place}");
    desk.seller("namespace missing", &to("netns:no-such"), FAILED, &["no-such"])?;
    desk.seller("attachment of no kind", &to("carrier-pigeon:x"), USAGE, &["carrier-pigeon"])?;
    let own = desk.host().netns().to_owned();
    desk.seller("the seller's own namespace", &to(&format!("netns:{own}")), CONFINEMENT, &[&own])?;
    for (what, name) in
        [("guest interface name too long", long), ("guest interface name with a slash", "a/b")]
    {
        desk.seller(
            what,
            &format!("{} --ifname {name}", to(&format!("netns:{seat}"))),
            USAGE,
            &[name],
        )?;
    }
    desk.seat.must("ip tuntap add dev other mode tap")?;
    desk.join("namespace with another interface", &ticket, CONFINEMENT, &["other"])?;
    desk.verdict()
}

#[test]
fn hosts_that_lack_something() -> Result<()> {
    let mut desk = Desk::new()?;
    let gateway = desk.stage.open("buyer", "barn", &[])?;
    let ticket = gateway.invite_file()?;
    // Whoever is not root may not even see the build directory: give him copies.
    let public = desk.stage.lab.dir().join("bin");
    fs::create_dir(&public)?;
    let [gw, seller] = [&desk.stage.programs.gateway, &desk.stage.programs.seller].map(|program| {
        let copy = public.join(program.file_name().unwrap_or_default());
        fs::copy(program, &copy).map(|_| copy.display().to_string())
    });
    let (gw, seller) = (gw?, seller?);
    let readable = desk.file("ticket", &fs::read(ticket.trim_start_matches('@'))?)?;
    fs::set_permissions(desk.path("ticket"), fs::Permissions::from_mode(0o644))?;
    let home = desk.path("home");
    fs::create_dir(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777))?;
    let join = format!("{seller} join {readable} --attach netns:{}", desk.seat.netns());
    let (drop_root, env) = (Path::new("setpriv"), Path::new("env"));
    let nobody = "--reuid=65534 --regid=65534 --clear-groups";
    let state = format!("--state {}/state", home.display());
    for (what, line) in
        [("gateway not root", format!("{gw} up farm")), ("seller not root", join.clone())]
    {
        let words = format!("{nobody} {line} {state}");
        desk.refuses(what, drop_root, &words, b"", FAILED, &["root"])?;
    }
    for (what, line) in
        [("gateway without ip and nft", format!("{gw} up farm")), ("seller without them", join)]
    {
        let words = format!("PATH=/nonexistent {line}");
        desk.refuses(what, env, &words, b"", FAILED, &["`ip`", "iproute2"])?;
    }
    desk.gw("state below a file", "up farm --state /dev/null/x", FAILED, &["/dev/null/x"])?;
    desk.gw("state on a read-only place", "up farm --state /proc/x", FAILED, &["/proc/x"])?;
    desk.seller(
        "seller state likewise",
        &format!("join {ticket} --attach netns:{} --state /proc/x", desk.seat.netns()),
        FAILED,
        &["/proc/x"],
    )?;
    desk.verdict()
}

#[test]
fn keys_that_are_not_safe() -> Result<()> {
    let mut desk = Desk::new()?;
    let mut first = desk.stage.open("seller1", "farm", &[])?;
    first.process.terminate(Duration::from_secs(5))?;
    let state = desk.path("state");
    let key = state.join("node.pem");
    let pem = fs::read(&key).context("the node's key is node.pem in the state directory")?;
    let up = format!("up farm --state {}", state.display());
    fs::write(&key, &pem[..pem.len() / 2])?;
    desk.gw("key truncated", &up, FAILED, &["node.pem"])?;
    fs::write(&key, b"")?;
    desk.gw("key empty", &up, FAILED, &["node.pem"])?;
    fs::write(&key, &pem)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    desk.gw("key world-readable", &up, FAILED, &["node.pem"])?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let moved = desk.path("moved.pem");
    fs::rename(&key, &moved)?;
    symlink(&moved, &key)?;
    desk.gw("key a symlink", &up, FAILED, &["node.pem"])?;
    fs::remove_file(&key)?;
    fs::rename(&moved, &key)?;
    desk.stage.open("seller1", "farm", &[]).context("the key as it was is refused")?;
    desk.verdict()
}

#[test]
fn orders_and_words_that_nobody_knows() -> Result<()> {
    let mut desk = Desk::new()?;
    for command in ["status nosuch", "invite nosuch", "ping nosuch g1"] {
        desk.gw(&format!("unknown order in {command}"), command, FAILED, &["nosuch"])?;
    }
    desk.seller("unknown order in leave", "leave nosuch", FAILED, &["nosuch"])?;
    desk.gw("unknown command", "banana", USAGE, &["banana"])?;
    desk.gw("unknown flag", "up farm --banana", USAGE, &["--banana"])?;
    desk.seller("no attachment", "join @/dev/null", USAGE, &["--attach"])?;
    desk.verdict()
}
