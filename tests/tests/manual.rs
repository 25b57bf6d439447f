//! Completions and man pages of the real programs, read by those who are to read them.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use overlay_tests::cast::Programs;

fn printed(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a reader of stdin; `None` if this host has none.
fn read_by(reader: &str, args: &[&str], text: &str) -> Result<Option<Output>> {
    let mut command = Command::new(reader);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return Ok(None) };
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    Ok(Some(child.wait_with_output()?))
}

/// The commands that a program lists in its help.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn completions_are_scripts_that_their_shells_take() -> Result<()> {
    let Programs { gateway, seller } = Programs::find()?;
    for program in [gateway, seller] {
        for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
            let script = printed(&program, &["completions", shell])?;
            if let Some(read) = read_by(shell, &[check], &script)? {
                let said = String::from_utf8_lossy(&read.stderr).into_owned();
                ensure!(read.status.success() && said.is_empty(), "{shell}: {said}");
            }
            for command in commands(&printed(&program, &["--help"])?) {
                ensure!(script.contains(&command), "{shell} does not know {command}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_command_has_a_man_page_without_a_warning() -> Result<()> {
    let Programs { gateway, seller } = Programs::find()?;
    for program in [gateway, seller] {
        let known = commands(&printed(&program, &["--help"])?);
        ensure!(known.len() > 5, "{known:?}");
        let mut pages = vec![printed(&program, &["man"])?];
        for command in known.iter().filter(|command| *command != "help") {
            pages.push(printed(&program, &["man", command])?);
        }
        for page in pages {
            ensure!(page.contains("EXIT STATUS") && page.contains("FILES"), "{page}");
            for (reader, args) in
                [("groff", &["-man", "-Tutf8", "-ww", "-z"][..]), ("mandoc", &["-T", "lint"])]
            {
                let Some(read) = read_by(reader, args, &page)? else { continue };
                let said = [read.stdout, read.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                let warned = said.lines().any(|line| line.contains("warning"));
                ensure!(reader == "mandoc" || (read.status.success() && !warned), "{said}");
                ensure!(!said.contains("ERROR"), "{reader}: {said}");
            }
        }
        let unknown = Command::new(&program).args(["man", "attic"]).output()?;
        let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(unknown.status.code() == Some(2) && said.contains("attic"), "{said}");
    }
    Ok(())
}
