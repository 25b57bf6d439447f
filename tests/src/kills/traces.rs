//! What a command may leave behind in a host: interfaces, firewall tables, sockets.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use crate::lab::Host;

/// Firewall tables that stay after a kill by design: they shut what they belong to, and the next
/// start replaces them.
const KEPT_TABLES: [&str; 2] = ["inet ovl_farm", "inet ovl_guard"];

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at a host.
    pub(super) fn of(host: &Host) -> Result<Self> {
        let mut all = BTreeSet::new();
        all.extend(host.interfaces()?.into_iter().map(|name| format!("interface {name}")));
        all.extend(host.must("nft list tables")?.lines().map(str::to_owned));
        for line in host.must("ss -Htuln")?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [kind, _, _, _, at, ..] = fields[..] {
                all.insert(format!("socket {kind} {at}"));
            }
        }
        let local = host.within(|| fs::read_to_string("/proc/thread-self/net/unix"))?;
        let own = host.dir().display().to_string();
        let paths = local.lines().filter_map(|line| line.split(&own).nth(1));
        all.extend(paths.map(|path| format!("local socket {path}")));
        Ok(Self(all))
    }

    /// Names what is there now and was not before, but for what stays after a kill.
    pub(super) fn left_of(&self, before: &Self) -> Vec<String> {
        let more = self.more_than(before).into_iter();
        more.filter(|one| !KEPT_TABLES.iter().any(|kept| one.contains(kept))).collect()
    }

    /// Names what is there now and was not before.
    pub(super) fn more_than(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Returns which of these network namespaces still have a name somewhere.
pub(super) fn named(inodes: &[u64]) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_one = |line: &&str| inodes.iter().any(|n| line.contains(&format!(" net:[{n}] ")));
    let places = mounts.lines().filter(is_one).filter_map(|line| line.split(' ').nth(4));
    // A lab's namespace may have got the number of one that is gone.
    let is_lab = |place: &str| place.split('-').nth(1).is_some_and(|n| n.parse::<u32>().is_ok());
    places.filter(|place| !is_lab(place)).map(|place| format!("namespace {place}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_nobodys_leftover() {
        let of = |all: &[&str]| Traces(all.iter().map(|one| (*one).to_owned()).collect());
        let before = of(&["interface br0", "socket udp 0.0.0.0:53"]);
        let now = of(&["interface br0", "interface tap0", "table inet ovl_farm"]);
        assert_eq!(now.more_than(&before), ["interface tap0", "table inet ovl_farm"]);
        assert_eq!(now.left_of(&before), ["interface tap0"]);
        assert!(before.left_of(&before).is_empty());
    }

    #[test]
    fn what_is_left_in_a_host_is_seen() {
        if !nix::unistd::geteuid().is_root() {
            return; // namespaces are root's
        }
        let mut lab = crate::lab::Lab::new().expect("a lab");
        let host = lab.host("host").expect("a host");
        let before = Traces::of(&host).expect("looked at");
        host.must("ip tuntap add left0 mode tap").expect("a tap");
        host.nft("table netdev left { }").expect("a table");
        let path = host.dir().join("left.sock");
        let socket = host.within(|| {
            let udp = std::net::UdpSocket::bind("127.0.0.1:7777")?;
            Ok((udp, std::os::unix::net::UnixListener::bind(&path)?))
        });
        let left = Traces::of(&host).expect("looked at").left_of(&before);
        let expected = [
            "interface left0",
            "local socket /left.sock",
            "socket udp 127.0.0.1:7777",
            "table netdev left",
        ];
        assert_eq!(left, expected);
        drop(socket);
    }
}
