//! The shape of the house: what depends on what, where clocks and `unsafe` live, how files look.
//!
//! Each rule is a function from text to complaints, and is shown a text that it must complain
//! about before it looks at ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Longest line, in characters; rustfmt leaves comments and strings alone.
const LINE_LEN_MAX: usize = 100;
/// Longest file, in lines: beyond it there is a second idea in it.
const FILE_LEN_MAX: usize = 700;
/// From this length on, a file with state explains itself.
const THEORY_LEN_MIN: usize = 120;
/// Lines above `unsafe` in which its reason stands.
const SAFETY_LINES: usize = 8;

/// Crates that decide and do nothing else.
const CORES: [&str; 2] = ["vde-switch", "overlay-proto"];

/// What a core must not depend on, also not indirectly: beginning of the name, and why.
const BANNED_IN_CORES: [(&str, &str); 14] = [
    ("tokio", "a runtime acts"),
    ("async-", "a runtime acts"),
    ("mio", "sockets act"),
    ("socket2", "sockets act"),
    ("quinn", "sockets act"),
    ("libp2p", "sockets act"),
    ("nix", "system calls act"),
    ("rustix", "system calls act"),
    ("redb", "files are state from outside"),
    ("tempfile", "files are state from outside"),
    ("getrandom", "randomness is an argument"),
    ("rand", "randomness is an argument"),
    ("time", "the clock is an argument"),
    ("chrono", "the clock is an argument"),
];

/// Below these the ban does not look, and why.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("boringtun", "the WireGuard engine reads clock and randomness itself, behind `Engine`"),
    ("x25519-dalek", "cargo gives it the features that boringtun asks for"),
    ("rand_core", "traits; the same holds for its features"),
];

/// Which crates of ours a crate of ours may name.
const DIRECTION: [(&str, &str, &[&str]); 7] = [
    ("vde-switch", "vde-switch", &[]),
    ("vde-switch/attach", "vde-attach", &["vde-switch"]),
    ("overlay/proto", "overlay-proto", &["vde-switch"]),
    ("overlay", "overlay", &["vde-switch", "vde-attach", "overlay-proto"]),
    ("buyer-gateway", "buyer-gateway", &["vde-switch", "vde-attach", "overlay-proto", "overlay"]),
    ("seller-node", "seller-node", &["vde-switch", "vde-attach", "overlay-proto", "overlay"]),
    ("tests", "overlay-tests", &["vde-switch", "vde-attach", "overlay-proto", "overlay"]),
];

/// Licences that ask for nothing but their text.
const LICENCES: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "BSL-1.0",
    "Unicode-3.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Versions below which a known attack works.
const FLOORS: [(&str, [u32; 3]); 12] = [
    ("quinn-proto", [0, 11, 18]),
    ("yamux", [0, 13, 10]),
    ("libp2p-gossipsub", [0, 49, 5]),
    ("rustls", [0, 23, 18]),
    ("rustls-webpki", [0, 103, 13]),
    ("bytes", [1, 11, 1]),
    ("ring", [0, 17, 12]),
    ("hickory-proto", [0, 26, 1]),
    ("snow", [0, 9, 5]),
    ("h2", [0, 4, 16]),
    ("boringtun", [0, 7, 1]),
    ("ed25519-dalek", [2, 0, 0]),
];

/// Crates that must not be there at all, and why.
const BANNED: [(&str, &str); 2] =
    [("bincode", "abandoned, RUSTSEC-2025-0141"), ("openssl-sys", "one TLS stack is enough")];

/// A source file and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn planted(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The lines with their numbers, without comments and the insides of strings.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        (1..).zip(self.text.lines().map(|line| {
            let outside = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
            outside.split("//").next().unwrap_or_default().to_owned()
        }))
    }

    fn is_sys(&self) -> bool {
        Path::new(&self.path).with_extension("").iter().any(|part| part == "sys")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace").to_owned()
}

fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path)?;
                let path = path.strip_prefix(root())?.display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    ensure!(found.len() > 20, "only {} source files were found", found.len());
    Ok(found)
}

fn cargo(words: &[&str]) -> Result<String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(words)
        .args(["--offline", "--locked", "--target", &target])
        .current_dir(root())
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {words:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Asserts that a rule complains about a planted text and about nothing of ours.
fn hold(planted: Vec<String>, ours: Vec<String>) {
    assert!(!planted.is_empty(), "the rule does not see what was planted for it");
    assert!(ours.is_empty(), "{} complaints:\n{}", ours.len(), ours.join("\n"));
}

fn each(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources.iter().flat_map(rule).collect()
}

/// Complains about banned crates in `cargo tree --prefix depth --no-dedupe`.
fn acting_dependencies(tree: &str) -> Vec<String> {
    let mut way: Vec<&str> = Vec::new();
    let mut complaints = Vec::new();
    for line in tree.lines() {
        let name_at = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(line.len());
        let (depth, rest) = line.split_at(name_at);
        let name = rest.split(' ').next().unwrap_or_default();
        way.truncate(depth.parse().unwrap_or(0));
        way.push(name);
        if way.iter().any(|name| EXCEPTIONS.iter().any(|(exempt, _)| exempt == name)) {
            continue;
        }
        let banned = |word: &str| name == word || name.starts_with(&format!("{word}-"));
        let hit = BANNED_IN_CORES.iter().find(|(word, _)| {
            banned(word.trim_end_matches('-')) || (word.ends_with('-') && name.starts_with(word))
        });
        if let Some((_, why)) = hit {
            complaints.push(format!("{}: {why}", way.join(" → ")));
        }
    }
    complaints
}

#[test]
fn cores_depend_on_nothing_that_acts() -> Result<()> {
    let planted =
        acting_dependencies("0core v1\n1serde v1\n1x v1\n2tokio-util v1\n1boringtun v1\n2nix v1");
    assert_eq!(planted, ["core → x → tokio-util: a runtime acts"]);
    let mut ours = Vec::new();
    for core in CORES {
        let words = ["tree", "-p", core, "-e", "normal", "--prefix", "depth", "--no-dedupe"];
        ours.extend(acting_dependencies(&cargo(&words)?));
    }
    hold(planted, ours);
    Ok(())
}

/// Returns the dependencies of a manifest, each with its line.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("workspace");
        } else if let (true, Some((name, _))) = (inside, line.split_once(['.', ' ', '='])) {
            found.push((name, line));
        }
    }
    found
}

fn wrong_direction(package: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let ours = |name: &str| DIRECTION.iter().any(|(_, package, _)| *package == name);
    let wrong = |name: &&str| ours(name) && !allowed.contains(name);
    let names = dependencies(manifest).into_iter().map(|(name, _)| name).filter(wrong);
    names.map(|name| format!("{package} must not depend on {name}")).collect()
}

#[test]
fn dependencies_point_one_way() -> Result<()> {
    let planted = wrong_direction("vde-switch", "[dependencies]\noverlay.workspace = true", &[]);
    let mut ours = Vec::new();
    for (folder, package, allowed) in DIRECTION {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml"))?;
        ours.extend(wrong_direction(package, &manifest, allowed));
    }
    hold(planted, ours);
    Ok(())
}

fn own_versions(package: &str, manifest: &str) -> Vec<String> {
    let own = |line: &&str| !line.contains("workspace = true");
    let lines = dependencies(manifest).into_iter().map(|(_, line)| line).filter(own);
    lines.map(|line| format!("{package} says a version of its own: {line}")).collect()
}

#[test]
fn versions_stand_in_the_workspace_alone() -> Result<()> {
    let planted = own_versions("x", "[dev-dependencies]\nserde = \"1\"\nnix.workspace = true");
    assert_eq!(planted.len(), 1);
    let mut ours = Vec::new();
    for (folder, package, _) in DIRECTION {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml"))?;
        ours.extend(own_versions(package, &manifest));
    }
    hold(planted, ours);
    Ok(())
}

fn clocks(source: &Source) -> Vec<String> {
    // Tests may measure how long something takes.
    let is_test = source.path.starts_with("tests/") || source.path.contains("/tests/");
    let may = is_test || source.path.starts_with("overlay/src/clock");
    let words = ["Instant::now", "SystemTime::now", "clock_gettime", "UNIX_EPOCH.elapsed"];
    // The number of the system call is in lists of what may be called.
    let named = |line: &str| line.replace("SYS_clock_gettime", "");
    let reads = |(_, line): &(usize, String)| words.iter().any(|word| named(line).contains(word));
    let lines = source.code().filter(|line| !may && reads(line));
    lines.map(|(at, line)| format!("{}:{at} reads a clock: {}", source.path, line.trim())).collect()
}

#[test]
fn clocks_are_read_in_one_place() -> Result<()> {
    let planted = Source::planted("overlay/src/x.rs", "// Instant::now\nlet t = Instant::now();");
    assert_eq!(clocks(&planted).len(), 1);
    hold(clocks(&planted), each(&sources()?, clocks));
    Ok(())
}

fn unsafety(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut complaints = Vec::new();
    for (at, line) in source.code() {
        let is_word = |word: &str| word == "unsafe";
        if !line.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_word) {
            continue;
        }
        if !source.is_sys() {
            complaints.push(format!("{}:{at} is unsafe outside a sys module", source.path));
        }
        let above = &lines[at.saturating_sub(SAFETY_LINES + 1)..at];
        if !above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            complaints.push(format!("{}:{at} does not say why it is safe", source.path));
        }
    }
    complaints
}

#[test]
fn unsafe_code_is_in_sys_modules_and_says_why() -> Result<()> {
    let planted = Source::planted("x/src/y.rs", "// SAFETY: none\nunsafe { f() }");
    assert_eq!(unsafety(&planted).len(), 1);
    let unexplained = Source::planted("x/src/sys/y.rs", "fn g() {\n    unsafe { f() }\n}");
    assert_eq!(unsafety(&unexplained).len(), 1);
    hold(unsafety(&planted), each(&sources()?, unsafety));
    Ok(())
}

fn theory(source: &Source) -> Vec<String> {
    let body = source.text.split("#[cfg(test)]").next().unwrap_or_default();
    let has_state = body.lines().any(|line| line.trim_start().starts_with("pub struct"))
        && body.contains("(&mut self");
    let is_tests = source.path.ends_with("/tests.rs");
    let header = body.lines().take_while(|line| line.starts_with("//!")).collect::<String>();
    if !header.starts_with("//!") && !is_tests {
        vec![format!("{} has no header", source.path)]
    } else if has_state
        && body.lines().count() >= THEORY_LEN_MIN
        && !header.contains("# Theory of operation")
    {
        vec![format!("{} has state and no theory of operation", source.path)]
    } else {
        Vec::new()
    }
}

#[test]
fn files_open_with_a_header_and_those_with_state_with_a_theory() -> Result<()> {
    let long = "\n".repeat(THEORY_LEN_MIN);
    let planted = format!("//! A queue.\npub struct Queue;\nfn push(&mut self) {{}}{long}");
    let planted = theory(&Source::planted("x.rs", &planted));
    assert!(!theory(&Source::planted("x.rs", "fn main() {}")).is_empty());
    hold(planted, each(&sources()?, theory));
    Ok(())
}

fn sizes(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, line) in (1..).zip(source.text.lines()) {
        if line.chars().count() > LINE_LEN_MAX {
            complaints.push(format!("{}:{at} is longer than {LINE_LEN_MAX}", source.path));
        }
    }
    if source.text.lines().count() > FILE_LEN_MAX {
        complaints.push(format!("{} has more than {FILE_LEN_MAX} lines", source.path));
    }
    complaints
}

#[test]
fn lines_and_files_are_short() -> Result<()> {
    let planted = Source::planted("x.rs", &"x".repeat(LINE_LEN_MAX + 1));
    let long = Source::planted("x.rs", &"\n".repeat(FILE_LEN_MAX + 1));
    assert!(!sizes(&long).is_empty());
    hold(sizes(&planted), each(&sources()?, sizes));
    Ok(())
}

/// Complains about what stands in backticks, looks like a path of ours and is not there.
fn missing_paths(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let is_path = |span: &&str| {
        let known = [".rs", ".md", ".toml", ".sh", "/"].iter().any(|end| span.ends_with(end));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let inner =
            span.contains('/') && root().join(span.split('/').next().unwrap_or("")).is_dir();
        span.chars().all(plain) && !span.starts_with('/') && (known || inner)
    };
    let missing = |span: &&str| !root().join(span).exists();
    let found = spans.filter(is_path).filter(missing);
    found.map(|path| format!("ARCHITECTURE.md names {path}, which is not there")).collect()
}

#[test]
fn every_path_that_the_architecture_names_exists() -> Result<()> {
    let planted = missing_paths("see `overlay/src/no-such.rs`, `tests/` and `/dev/null`");
    assert_eq!(planted.len(), 1, "{planted:?}");
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    hold(planted, missing_paths(&text));
    Ok(())
}

/// Tells whether a licence expression can be met with allowed licences alone.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= all_of(words, at);
    }
    allowed
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let allowed = any_of(words, at);
        *at += 1;
        return allowed;
    }
    if words.get(*at) != Some(&"WITH") {
        return LICENCES.contains(&word);
    }
    let exception = words.get(*at + 1).copied().unwrap_or_default();
    *at += 2;
    LICENCES.contains(&format!("{word} WITH {exception}").as_str())
}

/// Complains about lines `NAME VERSION<TAB>LICENCE` that are not allowed.
fn licences(tree: &str) -> Vec<String> {
    let wrong = |line: &&str| {
        let licence = line.split('\t').nth(1).unwrap_or_default();
        !is_allowed(licence.trim_end_matches(" (*)"))
    };
    tree.lines().filter(|line| !line.is_empty()).filter(wrong).map(str::to_owned).collect()
}

#[test]
fn licences_are_permissive() -> Result<()> {
    for good in ["MIT", "Apache-2.0/MIT", "GPL-3.0 OR (ISC AND MIT)", "MIT AND (Zlib OR GPL-2.0)"] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH X", "MIT) OR MIT", "MPL-2.0"] {
        assert!(!is_allowed(bad), "{bad}");
    }
    let words = ["tree", "--workspace", "--prefix", "none", "--format", "{p}\t{l}"];
    hold(licences("x v1\tGPL-3.0\ny v1\tMIT"), licences(&cargo(&words)?));
    Ok(())
}

/// Complains about sources, versions and crates in a `Cargo.lock`.
fn locked(lock: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let start = format!("{name} = \"");
            package.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"'))
        };
        let (name, version) = (field("name").unwrap_or("?"), field("version").unwrap_or("?"));
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        if field("source").is_some_and(|source| source != registry) {
            complaints.push(format!("{name} does not come from the registry"));
        }
        let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse().ok());
        let numbers: [u32; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
        if FLOORS.iter().any(|(crate_, floor)| *crate_ == name && numbers < *floor) {
            complaints.push(format!("{name} {version} has a known hole"));
        }
        if let Some((_, why)) = BANNED.iter().find(|(crate_, _)| *crate_ == name) {
            complaints.push(format!("{name}: {why}"));
        }
    }
    complaints
}

#[test]
fn crates_come_from_the_registry_and_are_new_enough() -> Result<()> {
    let planted = "[[package]]\nname = \"yamux\"\nversion = \"0.13.9\"\nsource = \"git+https://x\"";
    let planted = locked(planted);
    assert_eq!(planted.len(), 2, "{planted:?}");
    hold(planted, locked(&fs::read_to_string(root().join("Cargo.lock"))?));
    Ok(())
}
