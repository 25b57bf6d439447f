//! Where the ticket comes from: a file, a line of stdin, a hidden prompt, or the command line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use overlay::exit::{Exit, Fault};
use overlay_proto::ticket::{TEXT_LEN_MAX, Ticket};

/// Reads the ticket that the command line names.
pub(crate) fn read(source: Option<&str>) -> anyhow::Result<Ticket> {
    let text = match source {
        None if io::stdin().is_terminal() => prompt().context("the ticket cannot be asked for")?,
        None => {
            let text = "no ticket given: write @FILE, - for a line of stdin, or its text";
            return Err(Fault::new(Exit::Usage, text).into());
        }
        // Not a byte more is taken than the line: the rest is a machine's.
        Some("-") => line(BufReader::with_capacity(1, Stdin))
            .context("the ticket cannot be read from stdin")?,
        Some(source) => match source.strip_prefix('@') {
            Some(path) => file(Path::new(path))
                .with_context(|| format!("ticket file {path} cannot be read"))?,
            None => source.to_owned(),
        },
    };
    let usage = |error| Fault::new(Exit::Usage, format!("{error}"));
    let ticket = Ticket::decode(&text).map_err(usage)?;
    if source.is_some_and(|source| source != "-" && !source.starts_with('@')) {
        tracing::warn!(
            "a ticket on the command line can be read by every user of this host and stays in the \
             shell's history: use @FILE or -"
        );
    }
    Ok(ticket)
}

/// Standard input without the buffer that this program's own handle has.
struct Stdin;

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(io::stdin().as_fd(), bytes)?)
    }
}

/// Reads a little more than a ticket may have, so that the parser sees that it is too long.
fn file(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(TEXT_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn line(input: impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    input.take(TEXT_LEN_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks on the terminal without showing what is typed.
fn prompt() -> io::Result<String> {
    write!(io::stderr(), "ticket (not shown): ")?;
    let terminal = File::open("/dev/tty")?;
    let hidden = Hidden::new(&terminal)?;
    let text = line(BufReader::new(&terminal));
    drop(hidden);
    writeln!(io::stderr())?;
    text
}

/// A terminal that shows nothing until this is dropped.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal.as_fd())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(self.terminal.as_fd(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_a_ticket_may_have() {
        let endless = BufReader::new(io::repeat(b'x'));
        assert_eq!(line(endless).expect("read").len(), TEXT_LEN_MAX + 1);
        assert_eq!(line(&b"ovl1abc\nrest"[..]).expect("read"), "ovl1abc\n");
    }

    #[test]
    fn an_empty_stdin_or_a_broken_text_is_a_usage_error() {
        for text in ["", "ovl1", "hello"] {
            let error = read(Some(text)).expect_err("no ticket");
            assert_eq!(overlay::exit::exit_of(error.chain()), Exit::Usage, "{text:?}");
        }
    }
}
