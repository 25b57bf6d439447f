//! The host's routes, so that a segment never takes an address range away from it.

use std::io;
use std::process::Command;

use overlay_proto::addressing::Subnet;
use serde::Deserialize;

/// One IPv4 route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub net: Subnet,
    /// The interface it leads to.
    pub dev: String,
}

/// Lists the host's IPv4 routes, the default route left out: it overlaps everything.
///
/// # Errors
/// [`RoutesError`] when `ip` cannot be run or says something else.
pub fn routes() -> Result<Vec<Route>, RoutesError> {
    let output = Command::new("ip").args(["-4", "-j", "route", "show"]).output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(RoutesError::Refused(words.trim().chars().take(200).collect()));
    }
    parse(&output.stdout)
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    dst: String,
    #[serde(default)]
    dev: String,
}

fn parse(json: &[u8]) -> Result<Vec<Route>, RoutesError> {
    let empty = json.iter().all(u8::is_ascii_whitespace);
    let lines: Vec<Line> = if empty { Vec::new() } else { serde_json::from_slice(json)? };
    let net = |dst: &str| {
        let (ip, len) = dst.split_once('/').unwrap_or((dst, "32"));
        Subnet::new(ip.parse().ok()?, len.parse().ok().filter(|len| *len > 0)?)
    };
    Ok(lines
        .into_iter()
        .filter_map(|line| Some(Route { net: net(&line.dst)?, dev: line.dev }))
        .collect())
}

/// Why the routes are not known.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The program cannot be run.
    #[error("the program `ip` cannot be run (is iproute2 installed?)")]
    Run(#[from] io::Error),
    /// The program refused; its own words.
    #[error("the host's routes cannot be listed: {0}")]
    Refused(String),
    /// It printed something else than expected.
    #[error("`ip -j route` printed no JSON: iproute2 5 or later is needed")]
    Format(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_and_defaults_left_out() {
        let json = br#"[{"dst":"default","gateway":"192.0.2.2","dev":"vA","flags":[]},
            {"dst":"192.0.2.0/24","dev":"vA","protocol":"kernel"},
            {"type":"blackhole","dst":"198.51.100.7"}, {"dst":"0.0.0.0/0","dev":"x"}]"#;
        let routes = parse(json).expect("good JSON");
        let nets: Vec<_> = routes.iter().map(|route| route.net.to_string()).collect();
        assert_eq!(nets, ["192.0.2.0/24", "198.51.100.7/32"]);
        assert!(parse(b"").expect("nothing").is_empty());
        assert!(parse(b"default via").is_err());
    }
}
