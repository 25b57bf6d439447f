//! Defences taken out one at a time: each line of `tests/mutants.txt` names a change of a source
//! and the test that must fail then.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// One change that takes a defence out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant<'a> {
    /// What it is called: the row of the attack catalogue, and what is missing.
    pub id: &'a str,
    /// The source, from the repository's root.
    pub file: &'a str,
    /// What stands there once.
    pub text: String,
    /// What stands there instead.
    pub other: String,
    /// The words of the command whose test must fail.
    pub command: &'a str,
}

impl<'a> Mutant<'a> {
    /// Reads `id|file|text ==> other|command`: the first two and the last bar separate; `⏎` is the
    /// end of a line.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (id, rest) = line.split_once('|')?;
        let (file, rest) = rest.split_once('|')?;
        let (change, command) = rest.rsplit_once('|')?;
        let (text, other) = change.split_once(" ==> ")?;
        let lines = |text: &str| text.replace('⏎', "\n");
        Some(Self { id, file, text: lines(text), other: lines(other), command })
    }

    /// Returns the source without the defence; `None` unless its text stands there once.
    #[must_use]
    pub fn apply(&self, source: &str) -> Option<String> {
        let is_once = source.matches(&self.text).count() == 1 && self.text != self.other;
        is_once.then(|| source.replacen(&self.text, &self.other, 1))
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// These tests failed.
    Caught(Vec<String>),
    /// The test did not end, which its harness notices.
    Hung,
    /// No test minds.
    Missed,
    /// It is no program: the list is wrong.
    NotCompiled(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(tests) => write!(f, "{}", tests.join(", ")),
            Self::Hung => f.write_str("its test does not end"),
            Self::Missed => f.write_str("MISSED"),
            Self::NotCompiled(error) => write!(f, "NOT COMPILED: {error}"),
        }
    }
}

/// A copy of the sources that may be changed.
#[derive(Debug)]
pub struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies what git knows of a repository, as it stands there, into an empty directory; what is
    /// built goes to `target`.
    ///
    /// # Errors
    /// When that cannot be read or written.
    pub fn of(repository: &Path, root: PathBuf, target: PathBuf) -> Result<Self> {
        let listed =
            Command::new("git").args(["ls-files", "-z"]).current_dir(repository).output()?;
        ensure!(listed.status.success(), "git knows no files of {}", repository.display());
        for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
            let to = root.join(name);
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            fs::copy(repository.join(name), &to).with_context(|| name.to_owned())?;
        }
        Ok(Self { root, target })
    }

    /// Runs a mutant's test with it in place, for `most` at most, and takes it out again.
    ///
    /// # Errors
    /// When it does not fit the sources, or nothing can be run.
    pub fn try_out(&self, mutant: &Mutant<'_>, most: Duration) -> Result<(Fate, Duration)> {
        let path = self.root.join(mutant.file);
        let source = fs::read_to_string(&path)?;
        let changed = mutant.apply(&source).context("its text does not stand there once")?;
        fs::write(&path, changed)?;
        let started = Instant::now();
        let output = self.run(mutant.command, most);
        fs::write(&path, source)?;
        Ok((fate(&output?), started.elapsed()))
    }

    /// Checks that a command's tests pass while nothing is missing.
    ///
    /// # Errors
    /// With what it said, if they do not.
    pub fn passes(&self, command: &str, most: Duration) -> Result<()> {
        let output = self.run(command, most)?;
        let [said, errors] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let (status, last) = (output.status, errors.lines().last().unwrap_or_default());
        ensure!(status.success(), "{command} fails as it is ({status}, {last}): {said}");
        Ok(())
    }

    /// Tests of programs find what was built before them, as in `make test`.
    fn run(&self, command: &str, most: Duration) -> Result<Output> {
        let needs_programs =
            command.contains("-p overlay-tests") || command.contains("-p overlay ");
        let build = "cargo build --release --workspace && ";
        let line = format!("{}{command}", if needs_programs { build } else { "" });
        let output = Command::new("timeout")
            .args(["--kill-after=10", &most.as_secs().to_string(), "sh", "-c", &line])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            // Quickly built rather than quick.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_INCREMENTAL", "1")
            .output()?;
        Ok(output)
    }
}

/// Reads from a run of tests what became of the mutant.
fn fate(output: &Output) -> Fate {
    const TIMED_OUT: [i32; 2] = [124, 137];
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Fate::Missed;
    }
    if errors.contains("could not compile") {
        let line = errors.lines().find(|line| line.starts_with("error"));
        return Fate::NotCompiled(line.unwrap_or_default().to_owned());
    }
    if output.status.code().is_some_and(|code| TIMED_OUT.contains(&code)) {
        return Fate::Hung;
    }
    let failed =
        said.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let mut failed: Vec<_> = failed.map(str::to_owned).collect();
    if failed.is_empty() {
        let last = errors.lines().rev().find(|line| line.contains("error"));
        failed.push(last.unwrap_or("the run ends before its tests do").to_owned());
    }
    Fate::Caught(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_line_is_a_change_and_the_change_has_one_place() {
        let mutant = Mutant::parse("F01|a.rs|a || b ==> a|cargo test --release").expect("one");
        assert_eq!((&*mutant.text, &*mutant.other), ("a || b", "a"));
        assert_eq!(mutant.command, "cargo test --release");
        let lines = Mutant::parse("F01|a.rs|a⏎b ==> |cargo test").expect("one");
        assert_eq!(lines.apply("c a\nb").as_deref(), Some("c "));
        assert_eq!(mutant.apply("if a || b {").as_deref(), Some("if a {"));
        assert_eq!(mutant.apply("a || b; a || b"), None);
        assert_eq!(mutant.apply("b"), None);
        assert_eq!(Mutant::parse("F01|a.rs|a|cargo"), None);
    }

    #[test]
    fn what_became_of_it_is_read_from_the_run() {
        let run = |code: i32, out: &str, err: &str| {
            fate(&Output {
                status: ExitStatus::from_raw(code << 8),
                stdout: out.into(),
                stderr: err.into(),
            })
        };
        assert_eq!(run(0, "test a ... ok\n", ""), Fate::Missed);
        let failed = "test a ... ok\ntest b::c ... FAILED\n";
        assert_eq!(run(101, failed, ""), Fate::Caught(vec!["b::c".into()]));
        assert_eq!(run(124, "", ""), Fate::Hung);
        let error = "error[E0308]: mismatched types\nerror: could not compile `x`\n";
        assert_eq!(run(101, "", error), Fate::NotCompiled("error[E0308]: mismatched types".into()));
    }
}
