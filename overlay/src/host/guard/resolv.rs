//! Which name servers this host asks.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// Most name servers that the system asks (resolv.conf(5), MAXNS).
const RESOLVERS_MAX: usize = 3;
/// Where they stand.
const PATH: &str = "/etc/resolv.conf";

/// Returns the system's name servers, this host itself where none is named.
#[must_use]
pub fn resolvers() -> Vec<IpAddr> {
    parse_resolvers(&fs::read_to_string(PATH).unwrap_or_default())
}

/// Reads the name servers of a `resolv.conf`; zones are left out.
///
/// ```
/// # use overlay::host::guard::parse_resolvers;
/// let found = parse_resolvers("# by hand\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n");
/// let expected = ["127.0.0.53", "fe80::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
/// assert_eq!(found, expected);
/// ```
#[must_use]
pub fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let word = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        word.split('%').next()?.parse().ok()
    });
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in named.take(RESOLVERS_MAX) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    if found.is_empty() {
        found.push(Ipv4Addr::LOCALHOST.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_name_servers_are_asked_and_nonsense_is_passed_over() {
        let text = "nameserver\nnameserver x\n;nameserver 1.1.1.1\n nameserver 192.168.1.1 # home\n\
                    nameserver 192.168.1.1\nnameserver 2a00::1\nnameserver 9.9.9.9\nsearch lan\n";
        let expected: Vec<IpAddr> =
            ["192.168.1.1", "2a00::1"].map(|ip| ip.parse().expect("an address")).to_vec();
        assert_eq!(parse_resolvers(text), expected);
        assert_eq!(parse_resolvers("options edns0"), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    }
}
