//! SECURITY.md: each attack it lists is held by a test that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Fewest attacks that the list has.
const ROWS_MIN: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace").to_owned()
}

/// Reads the rows of a table such as ``| F01, F02 | what | `file.rs::test` |``: ids and test.
fn rows(text: &str) -> Vec<(Vec<&str>, &str)> {
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            let ids = cells.next()?.split(", ").collect();
            let test = cells.last()?.strip_prefix('`')?.strip_suffix('`')?;
            test.contains("::").then_some((ids, test))
        })
        .collect()
}

/// Complains about rows whose test is not there, and ids that stand twice.
fn unowned(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    let mut files = BTreeMap::new();
    for (ids, owner) in rows(text) {
        let (file, test) = owner.split_once("::").unwrap_or((owner, ""));
        let source: &Option<String> = files.entry(file).or_insert_with(|| read(file));
        let head = format!("fn {test}(");
        let found = source.as_ref().is_some_and(|source| {
            let at = source.find(&head).unwrap_or(0);
            let line_at = source[..at].rfind('\n').unwrap_or(0);
            let above = source[..line_at].lines().rev();
            above.take_while(|line| line.trim_start().starts_with('#')).any(is_test)
        });
        if !found {
            complaints.push(format!("{}: there is no test {owner}", ids.join(", ")));
        }
        for id in ids {
            if !seen.insert(id) {
                complaints.push(format!("{id} has two owners"));
            }
        }
    }
    complaints
}

fn is_test(line: &str) -> bool {
    line.trim_start().starts_with("#[test") || line.contains("#[tokio::test")
}

#[test]
fn every_attack_in_the_list_is_held_by_a_test_that_exists() -> Result<()> {
    let planted = "| X1 | a | `a.rs::held` |\n| X1, X2 | b | `a.rs::gone` |\n| no | row |";
    let source = "#[test]\nfn held() {}\nfn gone() {}\n";
    let complaints = unowned(planted, |_| Some(source.to_owned()));
    assert_eq!(complaints, ["X1, X2: there is no test a.rs::gone", "X1 has two owners"]);
    let text = fs::read_to_string(root().join("SECURITY.md")).context("SECURITY.md")?;
    let count: usize = rows(&text).iter().map(|(ids, _)| ids.len()).sum();
    assert!(count >= ROWS_MIN, "SECURITY.md lists {count} attacks");
    let complaints = unowned(&text, |file| fs::read_to_string(root().join(file)).ok());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}
