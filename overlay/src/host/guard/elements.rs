//! The elements that leases bring into the guard's sets, as scripts and queries.
//!
//! An element of ours has a time to live in the kernel. To renew one it is added, deleted and added
//! in the same transaction: the first makes sure that there is one to delete, and an element that
//! is there already would keep its time.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::TABLE;
use crate::host::nft::{self, NftError};

/// Sets whose key is a path: the lease's port, the other's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Proven,
    Given,
    Heard,
    Live,
    Awaited,
}

impl Path {
    /// Those that nothing but a lease fills.
    pub(super) const OF_LEASES: [Self; 3] = [Self::Proven, Self::Given, Self::Awaited];

    const fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Given => "given",
            Self::Heard => "heard",
            Self::Live => "live",
            Self::Awaited => "awaited",
        }
    }
}

/// Sets whose key is an address and a port, the same for all leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tcp {
    Given,
    Proven,
}

impl Tcp {
    const fn name(self) -> &'static str {
        match self {
            Self::Given => "tcp_given",
            Self::Proven => "tcp_proven",
        }
    }
}

const fn version(ip: IpAddr) -> char {
    if ip.is_ipv4() { '4' } else { '6' }
}

/// One element: its set and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    set: String,
    key: String,
}

impl Element {
    pub(super) fn port(port: u16) -> Self {
        Self { set: "ports".into(), key: port.to_string() }
    }

    pub(super) fn ctl_uid(uid: u32) -> Self {
        Self { set: "ctl_uids".into(), key: uid.to_string() }
    }

    pub(super) fn path(set: Path, port: u16, addr: SocketAddr) -> Self {
        let key = format!("{port} . {} . {}", addr.ip(), addr.port());
        Self { set: format!("{}{}", set.name(), version(addr.ip())), key }
    }

    pub(super) fn tcp(set: Tcp, addr: SocketAddr) -> Self {
        let key = format!("{} . {}", addr.ip(), addr.port());
        Self { set: format!("{}{}", set.name(), version(addr.ip())), key }
    }

    /// What an unproven address has had of TCP: connections begun, and bytes.
    pub(super) fn spent_tcp(addr: SocketAddr) -> [Self; 2] {
        ["syn", "tcp"].map(|name| Self {
            set: format!("{name}_spent{}", version(addr.ip())),
            key: format!("{} . {}", addr.ip(), addr.port()),
        })
    }

    pub(super) fn lan(port: u16, net: IpAddr, len: u8) -> Self {
        Self { set: format!("lan{}", version(net)), key: format!("{port} . {net}/{len}") }
    }

    pub(super) fn resolver(ip: IpAddr) -> Self {
        Self { set: format!("resolvers{}", version(ip)), key: ip.to_string() }
    }

    /// Returns the other's address if it is that of a proven path.
    pub(super) fn proven_addr(&self) -> Option<SocketAddr> {
        if !self.set.starts_with(Path::Proven.name()) {
            return None;
        }
        let mut words = self.key.split(" . ").skip(1);
        Some((words.next()?.parse::<IpAddr>().ok()?, words.next()?.parse().ok()?).into())
    }

    fn words(&self, verb: &str, rest: &str) -> String {
        format!("{verb} element inet {TABLE} {} {{ {}{rest} }}", self.set, self.key)
    }

    /// Returns how the kernel describes it, `None` if it is not there.
    pub(super) fn find(&self) -> Result<Option<String>, NftError> {
        match nft::read(&[&self.words("get", "")]) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says whether all are there.
    pub(super) fn find_all(elements: &[Self]) -> Result<bool, NftError> {
        if elements.is_empty() {
            return Ok(true);
        }
        let commands: Vec<_> = elements.iter().map(|element| element.words("get", "")).collect();
        match nft::read(&[&commands.join("; ")]) {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Changes of elements, made in one transaction.
#[derive(Debug, Default)]
pub(super) struct Script(String);

impl Script {
    /// Begins with other commands.
    pub(super) const fn after(commands: String) -> Self {
        Self(commands)
    }

    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    /// Makes an element be there for a time.
    pub(super) fn put(&mut self, element: &Element, time: Duration) {
        let rest = format!(" timeout {}ms", time.as_millis().max(1));
        self.line(&element.words("add", &rest));
        self.line(&element.words("delete", ""));
        self.line(&element.words("add", &rest));
    }

    /// Makes an element be there for good.
    pub(super) fn fix(&mut self, element: &Element) {
        self.line(&element.words("add", ""));
    }

    /// Makes an element not be there.
    pub(super) fn take(&mut self, element: &Element) {
        self.line(&element.words("add", ""));
        self.line(&element.words("delete", ""));
    }

    pub(super) fn run(&self) -> Result<(), NftError> {
        if self.0.is_empty() { Ok(()) } else { nft::run(&self.0) }
    }
}

/// Finds what a table's listing has of a lease: what one that was killed left behind.
pub(super) fn of_lease(listing: &str, port: u16) -> Vec<Element> {
    let mut found = Vec::new();
    let names = Path::OF_LEASES.iter().map(|set| set.name()).chain(["lan"]);
    for set in names.flat_map(|name| [format!("{name}4"), format!("{name}6")]) {
        let Some((_, after)) = listing.split_once(&format!("set {set} {{")) else { continue };
        let body = after.split_once("\n\t}").map_or(after, |(body, _)| body);
        let Some((_, elements)) = body.split_once("elements = {") else { continue };
        for item in elements.split(['}', ',']) {
            let words: Vec<_> = item.split_whitespace().collect();
            let len = words.iter().position(|word| ["timeout", "counter"].contains(word));
            let key = words.get(..len.unwrap_or(words.len())).unwrap_or_default();
            let plain = |c: char| c.is_ascii_hexdigit() || ".:/".contains(c);
            let is_ours = key.first().is_some_and(|first| *first == port.to_string())
                && key.iter().all(|word| word.chars().all(plain));
            if is_ours {
                found.push(Element { set: set.clone(), key: key.join(" ") });
            }
        }
    }
    found
}

/// Reads how many packets a counter in a listing has seen.
pub(super) fn packets(listing: &str) -> u64 {
    let after = listing.split_once("counter packets ").map_or("0", |(_, after)| after);
    after.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "table inet ovl_guard {
\tset proven4 {
\t\ttype inet_service . ipv4_addr . inet_service
\t\telements = { 7770 . 44.1.1.1 . 80 timeout 3m expires 2m59s980ms,
\t\t\t     77 . 44.1.1.2 . 7770 timeout 3m }
\t}

\tset awaited6 {
\t\tcounter
\t\telements = { 7770 . 2a00::1 . 9 counter packets 3 bytes 100 timeout 1m expires 9s }
\t}

\tset lan4 {
\t\telements = { 7770 . 192.168.1.0/24 timeout 3m expires 2m58s964ms }
\t}
}
";

    #[test]
    fn what_a_lease_left_is_found_by_its_port() {
        let found = of_lease(LISTING, 7770);
        let element = |set: &str, key: &str| Element { set: set.into(), key: key.into() };
        assert_eq!(
            found,
            [
                element("proven4", "7770 . 44.1.1.1 . 80"),
                element("awaited6", "7770 . 2a00::1 . 9"),
                element("lan4", "7770 . 192.168.1.0/24"),
            ]
        );
        let proven: Vec<_> = found.iter().filter_map(Element::proven_addr).collect();
        assert_eq!(proven, ["44.1.1.1:80".parse().expect("an address")]);
        assert_eq!(of_lease(LISTING, 77).len(), 1);
        assert!(of_lease(LISTING, 7).is_empty() && of_lease("", 7770).is_empty());
        assert_eq!((packets(LISTING), packets("counter"), packets("")), (3, 0, 0));
    }

    #[test]
    fn an_element_is_renewed_by_way_of_its_absence() {
        let mut script = Script::default();
        let addr = "[2a00::1]:7770".parse().expect("an address");
        script.put(&Element::path(Path::Proven, 9, addr), Duration::from_millis(1500));
        let key = "inet ovl_guard proven6 { 9 . 2a00::1 . 7770";
        assert_eq!(
            script.0,
            format!(
                "add element {key} timeout 1500ms }}\ndelete element {key} }}\n\
                 add element {key} timeout 1500ms }}\n"
            )
        );
    }
}
