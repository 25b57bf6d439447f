//! `overlay-gw`: runs a buyer's orders on his own computer.

mod api;
mod args;
mod ask;
mod helper;
mod invite;
mod manage;
mod order;
mod segment;
mod setting;
mod up;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use overlay::exit::{self, Exit};
use overlay::manual;
use overlay::output::line;

use crate::args::{Cli, Command, FILES};

const PROGRAM: &str = "overlay-gw";

fn main() -> ExitCode {
    if let Some(ended) = overlay::dataplane::process::role() {
        return ended;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    overlay::log::init(cli.verbose);
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // With stderr closed nobody is left to be told.
            let _ = writeln!(std::io::stderr(), "{}", exit::sentence(PROGRAM, error.chain()));
            exit::exit_of(error.chain()).into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let state = cli.state.as_deref();
    match cli.command {
        Command::Up(args) => up::run(state, args),
        Command::Invite(args) => invite::run(state, args),
        Command::Evict(args) => manage::evict(state, args),
        Command::Set(args) => manage::set(state, args),
        Command::Status(args) => ask::status(state, &args),
        Command::Orders(args) => ask::orders(state, &args),
        Command::Ping(args) => ask::ping(state, &args),
        Command::Down(args) => ask::down(state, &args),
        Command::Pcap(args) => ask::pcap(state, &args),
        Command::Completions(args) => {
            line(manual::completions(Cli::command(), args.shell).trim_end())?;
            Ok(Exit::Done)
        }
        Command::Man(args) => {
            line(manual::page(Cli::command(), args.command.as_deref(), &FILES)?.trim_end())?;
            Ok(Exit::Done)
        }
    }
}

/// Prints help as it is, and a mistake as one sentence.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && !error.to_string().starts_with("error:") {
        // No command at all: the parser's answer is the help text.
        let _ = write!(std::io::stderr(), "{error}");
        return Exit::Usage.into();
    }
    if !error.use_stderr() {
        let _ = error.print();
        return Exit::Done.into();
    }
    let sentence = exit::usage_sentence(PROGRAM, &error.to_string());
    let _ = writeln!(std::io::stderr(), "{sentence}");
    Exit::Usage.into()
}
