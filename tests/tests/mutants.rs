//! The list of defences that `make mutants` takes out one by one still fits the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use overlay_tests::mutants::Mutant;

/// Fewest defences on the list.
const MUTANTS_MIN: usize = 130;

/// Complains about a line that could not be carried out.
fn complaint(line: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let Some(mutant) = Mutant::parse(line) else { return Some(format!("no mutant: {line}")) };
    let Mutant { id, file, text, command, .. } = &mutant;
    let Some(source) = read(file) else { return Some(format!("{id}: there is no {file}")) };
    let words: Vec<&str> = command.split(' ').collect();
    let folder = |package: &str| match package {
        "overlay-proto" => "overlay/proto".to_owned(),
        "overlay-tests" => "tests".to_owned(),
        "vde-attach" => "vde-switch/attach".to_owned(),
        other => other.to_owned(),
    };
    let found = match words[..] {
        ["cargo", "test", "--release", "-p", package, "--test", test, ..] => {
            let folder = folder(package);
            let places =
                [format!("{folder}/tests/{test}.rs"), format!("{folder}/tests/{test}/main.rs")];
            places.iter().any(|place| read(place).is_some())
        }
        ["cargo", "test", "--release", "-p", package, "--lib" | "--bins", filter] => {
            !filter.is_empty() && read(&format!("{}/Cargo.toml", folder(package))).is_some()
        }
        _ => false,
    };
    match mutant.apply(&source) {
        _ if !found => Some(format!("{id}: there is no test for `{command}`")),
        None => Some(format!("{id}: the text does not stand once in {file}: {text}")),
        Some(_) => None,
    }
}

#[test]
fn each_defence_on_the_list_has_one_place_and_a_test() -> Result<()> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    let planted = |_: &str| Some("one two two".to_owned());
    let test = "cargo test --release -p vde-switch --lib x";
    ensure!(complaint(&format!("a|b|one|| ==> 1|{test}"), planted).is_some());
    ensure!(complaint(&format!("a|b|two ==> 2|{test}"), planted).is_some());
    ensure!(complaint("a|b|one ==> 1|true", planted).is_some());
    ensure!(complaint(&format!("a|b|one ==> |{test}"), planted).is_none());

    let text = read("tests/mutants.txt").context("the list")?;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let complaints: Vec<_> = lines.iter().filter_map(|line| complaint(line, read)).collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    let ids: BTreeSet<_> = lines.iter().map(|line| line.split('|').next()).collect();
    ensure!(ids.len() == lines.len(), "an id stands twice");
    ensure!(lines.len() >= MUTANTS_MIN, "{} defences", lines.len());
    Ok(())
}
