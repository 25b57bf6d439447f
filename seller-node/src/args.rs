//! The command line of `overlay-seller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use overlay::capture::PcapArgs;
use overlay::duration;
use overlay::manual::{CompletionsArgs, ManArgs};
use vde_attach::tap::{IfName, IfNameError};

/// A seller's host: gives a guest its place on a buyer's segment, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "overlay-seller", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where leases and the node's key are kept [default: /var/lib/overlay as root, otherwise
    /// ~/.local/state/overlay]
    #[arg(long, value_name = "DIR", env = "OVERLAY_STATE", global = true, hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,

    /// Logs more to stderr; twice, still more (RUST_LOG says it in detail)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Joins a buyer's segment: a line when data passed both ways, then one for each event
    Join(Join),
    /// Runs a virtual machine on a buyer's segment
    Run(Run),
    /// Joins again with a ticket that this host has used, as after a restart
    Resume(Resume),
    /// Shows the leases of this host
    Status(Status),
    /// Ends a lease, or all of them
    Leave(Leave),
    /// Captures the frames of a guest of this host at its port, as pcapng
    Pcap(Pcap),
    /// Proves on this host that a guest reaches its segment and nothing else; as root
    Audit(Audit),
    /// Prints a completion script: load it by `source <(overlay-seller completions bash)`
    Completions(CompletionsArgs),
    /// Prints a man page: read it by `overlay-seller man | man -l -`
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The ticket: @FILE, - for a line of stdin, or its text; asked for when left out
    pub(crate) ticket: Option<String>,

    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The ticket: @FILE, - for a line of stdin (the rest is the guest's), or its text; asked for
    /// when left out
    pub(crate) ticket: Option<String>,

    /// Writes the guest's serial console to a file of at most 16 MiB [default: the terminal, or
    /// with --json a file that the first line names]
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,

    /// The most that all disks with snapshot=on together may write
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = parse_size)]
    pub(crate) scratch: u64,

    /// Starts the machine again when it has crashed; its place on the segment is kept
    #[arg(long)]
    pub(crate) restart: bool,

    #[command(flatten)]
    pub(crate) conduct: Conduct,

    /// The machine: qemu-system-x86_64 and its options, without any for the network
    #[arg(last = true, required = true, value_name = "QEMU")]
    pub(crate) line: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The order's name or id; ORDER/GUEST if this host has several guests of it
    pub(crate) order: String,

    #[command(flatten)]
    pub(crate) place: Place,
}

/// Where the guest is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where the guest is: netns:NAME or netns:/proc/PID/ns/net, a namespace with nothing in it;
    /// tap:NAME, a tap that a hypervisor of yours holds; stream:PATH, a unix socket that speaks as
    /// QEMU's -netdev stream
    #[arg(long, value_name = "KIND:ARG")]
    pub(crate) attach: Attach,

    /// Names the guest's interface (netns alone)
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    pub(crate) ifname: IfName,

    #[command(flatten)]
    pub(crate) conduct: Conduct,
}

/// How a guest's host behaves.
#[derive(Clone, Debug, Args)]
pub(crate) struct Conduct {
    /// Listens here [default: all addresses, port 7770 or the next free one]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Speaks to the buyer's gateway alone; what is for other guests passes it, sealed
    #[arg(long)]
    pub(crate) only_buyer: bool,

    /// Also dials and names addresses of the local network
    #[arg(long)]
    pub(crate) lan: bool,

    /// How long the gateway is dialled on when it has not been heard and the guest is suspended
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = duration::parse)]
    pub(crate) keep: Duration,

    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// The order's name or id [default: all]
    pub(crate) order: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Pcap {
    /// The order's name or id; ORDER/GUEST if this host has several guests of it [default: the one
    /// guest that is joined]
    #[arg(value_name = "ORDER[/GUEST]")]
    pub(crate) lease: Option<String>,

    #[command(flatten)]
    pub(crate) how: PcapArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the man pages say of files; the state directory goes without saying.
pub(crate) const FILES: [(&str, &str); 3] = [
    ("node.pem", "The key of this node, in the state directory: the buyers' tickets hang on it."),
    ("leases/ID-SLOT.redb", "A lease: its ticket and its data key."),
    ("run/seller-ID-SLOT.sock", "How the other commands reach a running lease."),
];

/// How the guest is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// By a tap in a network namespace, given by name or path.
    Netns(String),
    /// By a tap of this host that a hypervisor of the user's holds.
    Tap(IfName),
    /// By a unix socket that a hypervisor listens at or calls.
    Stream(PathBuf),
}

/// A text that says no attachment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttachError {
    /// Of no kind.
    #[error("{0:?} is no attachment: write netns:NAME, tap:NAME or stream:PATH")]
    Kind(String),
    /// A tap that no kernel would have.
    #[error(transparent)]
    Name(#[from] IfNameError),
}

impl FromStr for Attach {
    type Err = AttachError;

    fn from_str(text: &str) -> Result<Self, AttachError> {
        match text.split_once(':') {
            Some(("netns", name)) if !name.is_empty() => Ok(Self::Netns(name.to_owned())),
            Some(("tap", name)) => Ok(Self::Tap(name.parse()?)),
            Some(("stream", path)) if !path.is_empty() => Ok(Self::Stream(path.into())),
            _ => Err(AttachError::Kind(text.chars().take(64).collect())),
        }
    }
}

/// Reads a size: a number of bytes, or of `K`, `M`, `G` or `T`, which are powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is no size: write a number and K, M, G or T, such as 10G");
    let (number, shift) = match text.char_indices().next_back().ok_or_else(error)? {
        (at, 'K' | 'k') => (&text[..at], 10),
        (at, 'M' | 'm') => (&text[..at], 20),
        (at, 'G' | 'g') => (&text[..at], 30),
        (at, 'T' | 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_sound_and_the_contract_parses() {
        Cli::command().debug_assert();
        for line in [
            "overlay-seller join @t --state /tmp/x --attach netns:labG --lan",
            "overlay-seller join - --attach netns:g --ifname eth1 --listen 192.0.2.2:7771",
            "overlay-seller join --attach netns:/proc/1/ns/net --only-buyer --keep 1h --json",
            "overlay-seller join @t --attach tap:vnet0",
            "overlay-seller join @t --attach stream:/run/overlay/g1.sock",
            "overlay-seller join @t --attach stream:g1.sock",
            "overlay-seller run @t -- qemu-system-x86_64 -m 2G -drive file=a,format=raw",
            "overlay-seller run --restart --json --scratch 1G - -- qemu-system-x86_64",
            "overlay-seller run @t --console x.log --keep 1h --lan -- qemu-system-x86_64",
            "overlay-seller resume farm --attach netns:g --lan",
            "overlay-seller resume farm/g2 --attach netns:g",
            "overlay-seller status --json",
            "overlay-seller leave",
            "overlay-seller leave farm",
            "overlay-seller pcap",
            "overlay-seller pcap farm/g1 --full --count 3 -w x.pcapng",
            "overlay-seller audit",
            "overlay-seller audit --json",
            "overlay-seller completions zsh",
            "overlay-seller man join",
        ] {
            let words = line.split_whitespace();
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for line in [
            "overlay-seller join @t",
            "overlay-seller resume farm",
            "overlay-seller run @t",
            "overlay-seller run @t --",
            "overlay-seller run @t --attach netns:g -- qemu-system-x86_64",
            "overlay-seller run @t --scratch 1X -- qemu-system-x86_64",
            "overlay-seller join @t --attach labG",
            "overlay-seller join @t --attach netns:",
            "overlay-seller join @t --attach tap:",
            "overlay-seller join @t --attach tap:a/b",
            "overlay-seller join @t --attach tap:sixteen-letters-",
            "overlay-seller join @t --attach stream:",
            "overlay-seller join @t --attach vde:x",
            "overlay-seller join @t --attach netns:g --ifname a/b",
            "overlay-seller join @t --attach netns:g --listen 7771",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn completions_and_pages_know_every_command_and_option() {
        assert_eq!(overlay::manual::faults(&Cli::command(), &FILES), [""; 0]);
    }

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("2k"), Ok(2048));
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        for bad in ["", "G", "0", "-1", "1.5G", "1GB", "99999999999T", "+1M", "é"] {
            assert!(parse_size(bad).is_err(), "{bad:?} passed");
        }
    }

    /// Everything `--help` prints, as it is committed in `help.txt`: scripts rely on it.
    #[test]
    fn the_help_is_the_committed_one() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut help = command.render_help().to_string();
        for command in command.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            let (name, text) = (command.get_name().to_owned(), command.render_help());
            help.push_str(&format!("\n== {name}\n\n{text}"));
        }
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.trim_end().to_owned()).collect()
        };
        let (new, old) = (lines(&help), lines(include_str!("help.txt")));
        assert!(new == old, "src/help.txt is to be:\n{help}");
    }
}
