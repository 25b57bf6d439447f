//! The rules that keep a stack silent where nobody is to speak but by a cable.
//!
//! In a guest's namespace no frame ever reaches the stack, so whatever these see means that the
//! cable's rules are gone: it is dropped, counted as [`REACHED`], and looked for.

use std::fmt::Write as _;

/// The name of the tables.
pub const TABLE: &str = "ovl_stack";

/// The counter of what has reached the stack.
pub const REACHED: &str = "reached-the-stack";

/// Each family with its hooks; all that there are.
const FAMILIES: [(&str, &[&str]); 2] = [
    ("inet", &["prerouting", "input", "forward", "output", "postrouting"]),
    ("arp", &["input", "output"]),
];

/// A family that a kernel may do without: where it is not, there are no bridges to filter.
const BRIDGE: (&str, &[&str]) =
    ("bridge", &["prerouting", "input", "forward", "output", "postrouting"]);

/// Returns the tables that every kernel must have.
#[must_use]
pub fn ruleset() -> String {
    FAMILIES.iter().map(|family| table(*family)).collect()
}

/// Returns the table of the family bridge.
#[must_use]
pub fn bridge_ruleset() -> String {
    table(BRIDGE)
}

fn table((family, hooks): (&str, &[&str])) -> String {
    let mut text = format!("table {family} {TABLE} {{\n  counter {REACHED} {{ }}\n");
    for hook in hooks {
        let priority = "priority -500; policy drop;";
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  chain {hook} {{\n    type filter hook {hook} {priority}\n    \
             counter name \"{REACHED}\" drop\n  }}\n"
        );
    }
    text.push_str("}\n");
    text
}
