//! The programs' exit codes, the same for both: scripts depend on them.

use std::error::Error;
use std::process::ExitCode;

use vde_attach::netns::NetnsError;

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed, for a reason of this host's or this program's.
    Failed = 1,
    /// It was asked for wrongly.
    Usage = 2,
    /// The other party refused, or evicted this one.
    Refused = 3,
    /// The other party could not be reached.
    Unreachable = 4,
    /// The guest could not be confined, so it was not started.
    Confinement = 5,
}

impl Exit {
    /// All of them, by number.
    pub const ALL: [Self; 6] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Refused,
        Self::Unreachable,
        Self::Confinement,
    ];

    /// Says in a sentence what it means.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Done => "What was asked for is done.",
            Self::Failed => "It failed, for a reason of this host or of the program.",
            Self::Usage => "It was asked for wrongly.",
            Self::Refused => "The other party refused, or evicted this one.",
            Self::Unreachable => "The other party could not be reached.",
            Self::Confinement => "The guest could not be confined, so it was not started.",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A sentence for the user together with the way the program ends over it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    exit: Exit,
    text: String,
}

impl Fault {
    /// Makes a fault; `text` is lower case, without a full stop, and says what to change.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Returns how the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// Finds the exit code for an error: the outermost of its causes that knows one decides.
pub fn exit_of<'a>(causes: impl Iterator<Item = &'a (dyn Error + 'static)>) -> Exit {
    causes.into_iter().find_map(known).unwrap_or(Exit::Failed)
}

fn known(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(fault) = cause.downcast_ref::<Fault>() {
        return Some(fault.exit());
    }
    match cause.downcast_ref::<NetnsError>()? {
        NetnsError::Own(_) | NetnsError::NotEmpty { .. } => Some(Exit::Confinement),
        NetnsError::NotOne(_) => Some(Exit::Usage),
        NetnsError::Missing(_) | NetnsError::System { .. } => Some(Exit::Failed),
    }
}

/// Writes an error and its causes as one line: `program: text: cause`.
///
/// Causes that repeat what is already there are left out, and so are the system's numbers of its
/// errors, whose words stand beside them; line ends become spaces.
pub fn sentence<'a>(
    program: &str,
    causes: impl Iterator<Item = &'a (dyn Error + 'static)>,
) -> String {
    format!("{program}: {}", text_of(causes))
}

/// As [`sentence`], without the program's name.
pub fn text_of<'a>(causes: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut line = String::new();
    for text in causes.map(ToString::to_string) {
        let text = without_numbers(text.split_whitespace().collect::<Vec<_>>().join(" "));
        if !line.contains(&text) {
            let colon = if line.is_empty() { "" } else { ": " };
            line.push_str(colon);
            line.push_str(&text);
        }
    }
    line
}

/// Takes ` (os error 2)` and its like out.
fn without_numbers(mut text: String) -> String {
    const START: &str = " (os error ";
    while let Some(at) = text.find(START)
        && let Some(len) = text[at..].find(')')
    {
        text.replace_range(at..=at + len, "");
    }
    text
}

/// Reduces what the argument parser prints, several paragraphs, to the sentence that says what is
/// wrong.
#[must_use]
pub fn usage_sentence(program: &str, printed: &str) -> String {
    let first = printed.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<_> = first.flat_map(str::split_whitespace).collect();
    let text = words.join(" ");
    format!("{program}: {}", text.strip_prefix("error: ").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_numbers_are_not_shown() {
        let text = "a: No such file (os error 2), b (os error 13)".to_owned();
        assert_eq!(without_numbers(text), "a: No such file, b");
        assert_eq!(without_numbers("x (os error 2".to_owned()), "x (os error 2");
    }

    fn one<'a>(
        error: &'a (dyn Error + 'static),
    ) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
        std::iter::successors(Some(error), |error| {
            let error: &'a (dyn Error + 'static) = *error;
            error.source()
        })
    }

    #[test]
    fn a_fault_ends_as_it_says_and_anything_else_fails() {
        assert_eq!(exit_of(one(&Fault::new(Exit::Refused, "no"))), Exit::Refused);
        assert_eq!(exit_of(one(&std::io::Error::other("no"))), Exit::Failed);
        assert_eq!(exit_of(one(&NetnsError::Own("x".into()))), Exit::Confinement);
    }

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let inner = std::io::Error::other("no\n  such thing");
        let outer = NetnsError::System { name: "x".into(), source: inner };
        let line = sentence("overlay-seller", one(&outer));
        assert_eq!(line, "overlay-seller: network namespace x cannot be entered: no such thing");
    }

    #[test]
    fn a_usage_error_loses_its_paragraphs() {
        let printed = "error: the following arguments were not provided:\n  <NAME>\n\nUsage: x\n";
        assert_eq!(
            usage_sentence("overlay-gw", printed),
            "overlay-gw: the following arguments were not provided: <NAME>"
        );
    }
}
