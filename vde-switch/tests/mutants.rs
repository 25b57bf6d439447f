//! The list of checks that a script takes out one by one still fits the sources: see `mutants.txt`.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Fewest checks on the list.
const MUTANTS_MIN: usize = 130;

/// What each line says: id, file, text, other text, command.
fn parse(line: &str) -> Option<[&str; 5]> {
    let (id, rest) = line.split_once('|')?;
    let (file, rest) = rest.split_once('|')?;
    let (change, command) = rest.rsplit_once('|')?;
    let (text, other) = change.split_once(" ==> ")?;
    Some([id, file, text, other, command])
}

/// Complains about a line that could not be carried out.
fn complaint(line: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let Some([id, file, text, other, command]) = parse(line) else {
        return Some(format!("no mutant: {line}"));
    };
    let Some(source) = read(file) else { return Some(format!("{id}: there is no {file}")) };
    let words: Vec<&str> = command.split(' ').collect();
    let found = match words[..] {
        ["cargo", "test", "--release", "-p", package, "--test", test] => {
            let folder = package.replace("overlay-proto", "overlay/proto");
            let places =
                [format!("{folder}/tests/{test}.rs"), format!("{folder}/tests/{test}/main.rs")];
            places.iter().any(|place| read(place).is_some())
        }
        ["cargo", "test", "--release", "-p", _, "--lib", filter] => !filter.is_empty(),
        _ => false,
    };
    match source.matches(text).count() {
        _ if text == other => Some(format!("{id} changes nothing")),
        _ if !found => Some(format!("{id}: there is no test for `{command}`")),
        1 => None,
        count => Some(format!("{id}: the text stands {count} times in {file}: {text}")),
    }
}

#[test]
fn each_mutant_changes_one_place_and_has_a_test() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    let planted = |_: &str| Some("one two two".to_owned());
    let test = "cargo test --release -p vde-switch --lib x";
    assert_eq!(complaint(&format!("a|b|one|| ==> 1|{test}"), planted).map(|_| ()), Some(()));
    assert_eq!(complaint(&format!("a|b|two ==> 2|{test}"), planted).map(|_| ()), Some(()));
    assert_eq!(complaint(&format!("a|b|one ==> |{test}"), planted), None);

    let text = read("vde-switch/tests/mutants.txt").unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let complaints: Vec<_> = lines.iter().filter_map(|line| complaint(line, read)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let ids: BTreeSet<_> = lines.iter().map(|line| line.split('|').next()).collect();
    assert_eq!(ids.len(), lines.len(), "an id stands twice");
    assert!(lines.len() >= MUTANTS_MIN, "{} mutants", lines.len());
}
