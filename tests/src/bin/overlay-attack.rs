//! Attacks whatever is at the other end of an interface, as a hostile guest would.
//!
//! It runs in a guest, as root, and sends what `overlay_tests::home` describes. Each attempt is a
//! line, the last line a tally; whoever watches the wires knows what became of it. The words are
//! those of `overlay_tests::home::plan`.

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::process::ExitCode;

use overlay_tests::home::attack::attack;
use overlay_tests::home::plan::Plan;

fn main() -> ExitCode {
    let outcome = Plan::parse(std::env::args().skip(1))
        .and_then(|plan| attack(&plan, |line| println!("ATTACK {line}")));
    match outcome {
        Ok(tally) => {
            println!("{}", tally.line());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("ATTACK FAILED {error:#}");
            ExitCode::FAILURE
        }
    }
}
