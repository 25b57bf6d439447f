//! Runs the program `nft`: scripts in, listings out.
//!
//! Scripts are made of numbers, addresses and names of ours alone, never of text from outside.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

/// Most characters of the program's words that are repeated.
const WORDS_MAX: usize = 200;

/// What `nft` says when its view of the rules was out of date: nothing has changed then.
const CROSSED: &str = "Interrupted system call";
/// How often it is run again, and the pause before, longer each time.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a script in one transaction, in the calling thread's network namespace.
///
/// # Errors
/// [`NftError`], with the words of `nft`; nothing has changed then.
pub fn run(script: &str) -> Result<(), NftError> {
    call(&["-f", "-"], script).map(drop)
}

/// Runs one command and returns what it prints.
///
/// # Errors
/// As [`run`].
pub fn read(words: &[&str]) -> Result<String, NftError> {
    call(words, "")
}

/// Returns what the program calls itself, as `nftables v1.0.6`, or a question mark.
#[must_use]
pub fn version() -> String {
    let words = read(&["--version"]).unwrap_or_default();
    let mut words = words.split_whitespace();
    words.next().zip(words.next()).map_or_else(|| "?".to_owned(), |(name, v)| format!("{name} {v}"))
}

/// Runs `nft`, again if somebody else changed the rules while it looked at them.
fn call(words: &[&str], script: &str) -> Result<String, NftError> {
    let mut tries = 0;
    loop {
        match call_once(words, script) {
            Err(NftError::Refused(reason)) if reason.contains(CROSSED) && tries < TRIES_MAX => {
                tries += 1;
                thread::sleep(PAUSE * tries);
            }
            done => return done,
        }
    }
}

fn call_once(words: &[&str], script: &str) -> Result<String, NftError> {
    let mut child = Command::new("nft")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on stderr, which is read below.
        let _ = stdin.write_all(script.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&stderr);
    let first = words.lines().next().unwrap_or("no reason given");
    Err(NftError::Refused(first.chars().take(WORDS_MAX).collect()))
}

/// Why `nft` did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("the program `nft` cannot be run (is nftables installed?)")]
    Run(#[from] io::Error),
    /// The program or the kernel refused; its own words.
    #[error("nft: {0}")]
    Refused(String),
}

impl NftError {
    /// Says whether what was asked for is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(words) if words.contains("No such file or directory"))
    }
}
