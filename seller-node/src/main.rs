//! `overlay-seller`: gives guests of a seller's host their places on buyers' segments.

mod api;
mod args;
mod ask;
mod audit;
mod helper;
mod join;
mod run;
mod ticket;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use overlay::exit::{self, Exit};
use overlay::manual;
use overlay::output::line;

use crate::args::{Cli, Command, FILES};

const PROGRAM: &str = "overlay-seller";

fn main() -> ExitCode {
    let roles = overlay::dataplane::process::role();
    if let Some(ended) = roles.or_else(helper::seat::stream::role).or_else(audit::role) {
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
        Command::Join(args) => join::run(state, &args),
        Command::Run(args) => run::run(state, &args),
        Command::Resume(args) => join::resume(state, &args),
        Command::Status(args) => ask::status(state, &args),
        Command::Leave(args) => ask::leave(state, &args),
        Command::Pcap(args) => ask::pcap(state, &args),
        Command::Audit(args) => audit::run(&args),
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
