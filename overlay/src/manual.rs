//! Shell completions and man pages, made from the command line's own definition.
//!
//! What the parser does not know stands here: exit codes, the same in both programs, and files.

use std::io::{self, Write};

use clap::{Args, Command, ValueEnum};
use clap_complete::aot::{Generator, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::exit::{Exit, Fault};

/// What `completions` takes.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: CompletedShell,
}

/// What `man` takes.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// The command whose page it is [default: the program's own, which lists them]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// A shell that is told how to complete a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletedShell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Writes a shell's completion script for a program.
#[must_use]
pub fn completions(mut program: Command, shell: CompletedShell) -> String {
    program.set_bin_name(program.get_name().to_owned());
    program.build();
    let generator = match shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generator.generate(&program, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the man page of a program, or of one of its commands, in roff.
///
/// `files` are paths, `~` where the state directory is, and what they are.
///
/// # Errors
/// [`Fault`], if the program has no such command.
pub fn page(
    program: Command,
    command: Option<&str>,
    files: &[(&str, &str)],
) -> Result<String, Fault> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let name = program.get_name().to_owned();
    let version = program.get_version().unwrap_or_default().to_owned();
    let others: Vec<_> =
        program.get_subcommands().map(|other| other.get_name().to_owned()).collect();
    let shown = match command {
        None => program,
        Some(wanted) => {
            let found = program.find_subcommand(wanted).cloned();
            found.ok_or_else(|| {
                let text = format!("{name} has no command {wanted}: {}", others.join(", "));
                Fault::new(Exit::Usage, text)
            })?
        }
    };
    let mut page = Vec::new();
    let man = Man::new(shown).source(format!("{name} {version}")).manual("Overlay");
    man.render(&mut page).and_then(|()| extra(&name, command, files, &mut page)).map_err(
        |error| Fault::new(Exit::Failed, format!("the page cannot be written: {error}")),
    )?;
    Ok(ascii(&String::from_utf8_lossy(&page)))
}

/// Writes what is not ASCII as roff does, whatever its reader takes the input for.
fn ascii(page: &str) -> String {
    let escaped = page.chars().map(|c| match c {
        c if c.is_ascii() => c.to_string(),
        c => format!("\\[u{:04X}]", u32::from(c)),
    });
    escaped.collect()
}

/// Writes what the parser does not know.
fn extra(
    program: &str,
    command: Option<&str>,
    files: &[(&str, &str)],
    page: &mut dyn Write,
) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        roff.control("TP", []);
        roff.text([bold((exit as u8).to_string())]);
        roff.text([roman(exit.words())]);
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", []);
    roff.text([bold("/var/lib/overlay, ~/.local/state/overlay")]);
    roff.text([roman(
        "The state directory, root's and everybody else's, unless --state names one.",
    )]);
    for (path, words) in files {
        roff.control("TP", []);
        roff.text([bold(*path)]);
        roff.text([roman(*words)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let other = if program == "overlay-gw" { "overlay-seller" } else { "overlay-gw" };
    let see = if command.is_some() { [program, other] } else { [other, "tcpdump"] };
    roff.text([roman(format!("{}(1), {}(1)", see[0], see[1]))]);
    roff.to_writer(page)
}

/// What is wrong with the completions and pages of a program, for tests: nothing, if they know
/// every command and every option of it.
#[must_use]
pub fn faults(program: &Command, files: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut built = program.clone().disable_help_subcommand(true);
    built.build();
    let names: Vec<_> = built.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for shell in CompletedShell::value_variants() {
        let script = completions(program.clone(), *shell);
        let missing = names.iter().filter(|name| !script.contains(name.as_str()));
        faults.extend(missing.map(|name| format!("{shell:?} does not know {name}")));
    }
    let all = names.iter().map(|name| Some(name.as_str())).chain([None]);
    for command in all {
        let shown = command.and_then(|name| built.find_subcommand(name)).unwrap_or(&built);
        let text = match page(program.clone(), command, files) {
            Ok(text) => text.replace('\\', ""),
            Err(fault) => {
                faults.push(fault.to_string());
                continue;
            }
        };
        let options = shown.get_arguments().filter_map(|arg| arg.get_long());
        let sections = ["NAME", "SYNOPSIS", "OPTIONS", "\"EXIT STATUS\"", "FILES"];
        let wanted = options
            .map(|long| format!("--{long}"))
            .chain(sections.map(|section| format!(".SH {section}")))
            .chain(files.iter().map(|(path, _)| (*path).to_owned()))
            .chain(Exit::ALL.map(|exit| exit.words().to_owned()));
        let missing = wanted.filter(|word| !text.contains(word.as_str()));
        faults.extend(missing.map(|word| format!("the page of {command:?} lacks {word}")));
    }
    faults
}
