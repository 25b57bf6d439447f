//! One host of a lab: a namespace in which programs and code run.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::capture::Capture;
use super::process::Process;
use super::{End, Wire, must, reaper};

/// A namespace with a name and a directory. A handle: clones name the same host.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    netns: String,
    dir: PathBuf,
}

impl Host {
    pub(super) fn new(name: &str, netns: String, dir: PathBuf) -> Self {
        Self { name: name.to_owned(), netns, dir }
    }

    /// Returns the name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of its namespace, as in `ip netns exec NAME`.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Returns its own directory, which is also where its programs run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a command that runs `program` in the namespace, in a process group of its own so
    /// that Ctrl-C reaches the owner of the lab alone.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(program);
        let prefix = self.netns.strip_suffix(&self.name).unwrap_or(&self.netns);
        command.env(reaper::MARK, prefix);
        command.current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts a program; its stderr goes to `NAME.log` in the host's directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<I, S>(&self, program: impl AsRef<OsStr>, args: I) -> Result<Process>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default();
        let log = self.dir.join(format!("{}.log", name.to_string_lossy()));
        let mut command = self.command(program.as_ref());
        command.args(args);
        Process::start(command, log)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the [`Output`].
    pub fn output<I, S>(&self, program: impl AsRef<OsStr>, args: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command(program);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = {
            let _open = reaper::gate();
            command.spawn().with_context(|| format!("run {command:?}"))?
        };
        Ok(child.wait_with_output()?)
    }

    /// Runs a command line, split at spaces, to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the [`Output`].
    pub fn run(&self, line: &str) -> Result<Output> {
        let mut words = line.split_whitespace();
        self.output(words.next().context("an empty command line")?, words)
    }

    /// Runs a command line, split at spaces, and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed.
    pub fn must(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        must(self.command(words.next().context("an empty command line")?).args(words))
    }

    /// Gives nft one line of rules.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        must(self.command("nft").arg(rules)).map(drop)
    }

    /// Runs `work` on a thread in the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    /// When the namespace is gone, or as `work` says.
    ///
    /// # Panics
    /// When `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let netns = File::open(Path::new("/run/netns").join(&self.netns))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts to capture all interfaces of the namespace, those to come included.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(self).with_context(|| format!("capture in {}", self.name))
    }

    /// Returns the names of the namespace's interfaces other than lo.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        self.within(|| {
            let all = nix::net::if_::if_nameindex()?;
            let names = all.iter().map(|one| one.name().to_string_lossy().into_owned());
            Ok(names.filter(|name| name != "lo").collect())
        })
        .with_context(|| format!("list the interfaces of {}", self.name))
    }

    /// Addresses one end of a cable and takes it into use.
    pub(super) fn plug(&self, end: &End, wire: Wire) -> Result<()> {
        let dev = &end.interface;
        self.must(&format!("ip addr add {}/24 dev {dev}", end.ipv4))?;
        self.must(&format!("ip addr add {}/64 dev {dev} nodad", end.ipv6))?;
        let offloads = match wire {
            Wire::P => "",
            Wire::N => "tx-udp-segmentation off gro on rx-udp-gro-forwarding on",
            Wire::W => "tx-udp-segmentation off tso off gso off gro off",
        };
        if !offloads.is_empty() {
            self.must(&format!("ethtool -K {dev} {offloads}"))?;
        }
        self.must(&format!("ip link set {dev} up")).map(drop)
    }
}
