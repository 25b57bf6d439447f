//! The rules that keep a stack silent where nobody is to speak but by a cable.
//!
//! No frame of a cable's ever reaches a stack, so whatever these see means that the cable's rules
//! are gone: it is dropped, counted as [`REACHED`], and looked for. In a guest's namespace they
//! stop all that there is; in a host's, what comes in by either end. They know those by name, so
//! that they stand between the host and a tap that was deleted and made again, too, of which a
//! kernel before 6.13 has forgotten the cable's rules.

use std::fmt::Write as _;

use super::Cable;

/// The name of the tables.
pub const TABLE: &str = "ovl_stack";

/// The counter of what has reached the stack.
pub const REACHED: &str = "reached-the-stack";

/// Each family with its hooks; all that there are.
const FAMILIES: [(&str, &[&str]); 2] = [
    ("inet", &["prerouting", "input", "forward", "output", "postrouting"]),
    ("arp", &["input", "output"]),
];

/// Where a host's stack first sees what has come in.
pub(crate) const HOST_FAMILIES: [(&str, &str); 2] = [("inet", "prerouting"), ("arp", "input")];

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

/// Returns the tables of a host's families, of the same name as the cable's; they replace others of
/// that name.
#[must_use]
pub fn host_ruleset(cable: &Cable) -> String {
    let Cable { table, guest, data, .. } = cable;
    let mut text = String::new();
    for (family, hook) in HOST_FAMILIES {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "table {family} {table}\ndelete table {family} {table}\ntable {family} {table} {{\n  \
             counter {REACHED} {{ }}\n  chain {hook} {{\n    \
             type filter hook {hook} priority -500; policy accept;\n    \
             iifname {{ \"{guest}\", \"{data}\" }} counter name \"{REACHED}\" drop\n  }}\n}}\n"
        );
    }
    text
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
