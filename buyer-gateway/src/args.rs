//! The command line of `overlay-gw`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};
use overlay::capture::PcapArgs;
use overlay::duration;
use overlay::host::filter::Exposed;
use overlay::manual::{CompletionsArgs, ManArgs};
use overlay_proto::addressing::Subnet;
use overlay_proto::names::Name;
use overlay_proto::ticket::DialAddr;
use vde_attach::tap::IfName;

use crate::setting::Setting;

/// The buyer's side of an order: a private Ethernet segment of his computer and rented guests.
#[derive(Debug, Parser)]
#[command(name = "overlay-gw", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where orders and the node's key are kept [default: /var/lib/overlay as root, otherwise
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
    /// Runs an order, made if it is new: a line when it is ready, then one for each event
    Up(Up),
    /// Prints tickets for sellers, one a line, whether the order runs or not
    Invite(Invite),
    /// Takes a guest out of an order at once; its seller cannot come back without a new ticket
    Evict(Evict),
    /// Changes an order's options, whether it runs or not; connections live on
    Set(Set),
    /// Shows the guests of a running order
    Status(Status),
    /// Lists all orders
    Orders(Orders),
    /// Asks a guest's host through the tunnel, as ping(8) does a computer
    Ping(Ping),
    /// Stops a running order
    Down(Down),
    /// Captures the frames between this computer and a guest, as pcapng
    Pcap(Pcap),
    /// Prints a completion script: load it by `source <(overlay-gw completions bash)`
    Completions(CompletionsArgs),
    /// Prints a man page: read it by `overlay-gw man | man -l -`
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The order's name
    pub(crate) name: Name,

    /// Listens here, UDP and TCP alike; may be repeated with the same port
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Names this address in tickets, instead of this host's own; at most 4
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<DialAddr>,

    /// The segment's IPv4 network, for a new order [default: chosen, away from this host's routes]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<Subnet>,

    /// Names this computer's interface on the segment [default: ovl-NAME]
    #[arg(long, value_name = "IFNAME")]
    pub(crate) tap: Option<IfName>,

    /// Writes this many tickets to files when the order is ready
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = value_parser!(u16).range(0..=500))]
    pub(crate) invite: u16,

    /// Lets guests reach this port of this computer; /udp behind it for UDP
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<Exposed>,

    /// Also names and dials addresses of the local network
    #[arg(long)]
    pub(crate) lan: bool,

    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// The order's name
    pub(crate) name: Name,

    /// How many tickets, one guest each
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = value_parser!(u16).range(1..=500))]
    pub(crate) slots: u16,

    /// The guest's name, instead of g1, g2, …
    #[arg(long = "name", value_name = "GUEST", conflicts_with = "slots")]
    pub(crate) guest: Option<Name>,

    /// How long the tickets may be used first
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
    pub(crate) expires: Duration,

    /// Gives the place of the guest of this --name, its addresses too, to whoever uses the ticket
    #[arg(long, requires = "guest")]
    pub(crate) replace: bool,

    /// Takes the unused ticket of this guest back instead
    #[arg(long, value_name = "GUEST", conflicts_with_all = ["slots", "guest", "expires"])]
    pub(crate) revoke: Option<Name>,
}

#[derive(Debug, Args)]
pub(crate) struct Evict {
    /// The order's name
    pub(crate) name: Name,
    /// The guest's name
    pub(crate) guest: Name,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The order's name
    pub(crate) name: Name,

    /// mtu=BYTES, broadcast=on|off, rate=BITS|off (a second, of each guest: 500k, 100M, 2G),
    /// life=TIME (of grants, 10s to 15m: a guest that was not heard for so long is suspended),
    /// dns=ADDRESS,…|off and routes=NETWORK/PREFIX:ADDRESS,…|off (that guests learn by DHCP)
    #[arg(required = true, value_name = "OPTION=VALUE")]
    pub(crate) settings: Vec<Setting>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The order's name [default: all running orders]
    pub(crate) name: Option<Name>,

    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Orders {
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// The order's name
    pub(crate) name: Name,
    /// The guest's name
    pub(crate) guest: Name,

    /// Stops after this many
    #[arg(short, value_name = "N", default_value_t = 4,
        value_parser = value_parser!(u32).range(1..))]
    pub(crate) count: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The order's name
    pub(crate) name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct Pcap {
    /// The order's name
    pub(crate) name: Name,
    /// The guest's name
    pub(crate) guest: Name,

    #[command(flatten)]
    pub(crate) how: PcapArgs,
}

/// What the man pages say of files; the state directory goes without saying.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("node.pem", "The key of this node, in the state directory. Back it up: orders hang on it."),
    ("orders/NAME.redb", "An order: its guests, tickets, options and data key."),
    ("run/gw-NAME.sock", "How the other commands reach a running order."),
    ("NAME-GUEST.ovl", "A ticket, written by up --invite into the current directory."),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn error(line: &str) -> clap::Error {
        Cli::try_parse_from(line.split(' ')).expect_err(line)
    }

    #[test]
    fn the_parser_is_sound_and_the_contract_parses() {
        Cli::command().debug_assert();
        for line in [
            "overlay-gw up lab --state /tmp/x --listen 192.0.2.1:7770 --subnet 10.99.0.0/24 \
             --tap ovl0 --lan",
            "overlay-gw up farm --invite 2 --expose 22 --expose 53/udp \
             --advertise gw.example:7770 --json",
            "overlay-gw invite lab --state /tmp/x",
            "overlay-gw invite lab --slots 3 --expires 90m",
            "overlay-gw invite lab --name builder",
            "overlay-gw invite lab --name g1 --replace --expires 1h",
            "overlay-gw invite lab --revoke g2",
            "overlay-gw evict lab g1",
            "overlay-gw set lab mtu=1400 broadcast=off rate=100M life=20s",
            "overlay-gw status",
            "overlay-gw status lab --json",
            "overlay-gw orders --json",
            "overlay-gw ping lab g1 -c 3",
            "overlay-gw -v down lab",
            "overlay-gw pcap lab g1",
            "overlay-gw pcap lab g1 --full --count 10 -w /tmp/x.pcapng",
            "overlay-gw pcap lab g1 -w -",
            "overlay-gw completions bash",
            "overlay-gw man",
            "overlay-gw man up",
        ] {
            let words = line.split_whitespace();
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for line in [
            "overlay-gw up",
            "overlay-gw up Lab",
            "overlay-gw up lab --subnet 10.99.0.1/24",
            "overlay-gw up lab --tap a/b",
            "overlay-gw up lab --tap 1234567890123456",
            "overlay-gw up lab --listen 7770",
            "overlay-gw up lab --expose ssh",
            "overlay-gw invite lab --slots 0",
            "overlay-gw invite lab --expires 0h",
            "overlay-gw invite lab --replace",
            "overlay-gw invite lab --revoke g1 --name g1",
            "overlay-gw invite lab --revoke g1 --slots 2",
            "overlay-gw evict lab",
            "overlay-gw set lab",
            "overlay-gw set lab mtu=100",
            "overlay-gw set lab colour=red",
            "overlay-gw ping lab",
            "overlay-gw pcap lab",
            "overlay-gw pcap lab g1 --count 0",
            "overlay-gw completions tcsh",
        ] {
            assert_eq!(error(line).exit_code(), 2, "{line}");
        }
        assert_eq!(error("overlay-gw --help").kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn completions_and_pages_know_every_command_and_option() {
        assert_eq!(overlay::manual::faults(&Cli::command(), &FILES), [""; 0]);
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
