//! A small guest that is a member of an order: what `overlay-seller run` gives a seller.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{BOOT_MAX, Vm, must_ssh, small};
use crate::cast::{Programs, state_of};
use crate::lab::Host;

/// Longest wait for an address once the guest's kernel is up.
const ADDRESS_MAX: Duration = Duration::from_secs(60);

/// A real machine on the segment, addressed by what its port told it.
#[derive(Debug)]
pub struct Member {
    /// The running guest.
    pub vm: Vm,
    /// The host name that DHCP gave it.
    pub name: String,
    /// Its IPv4 address, as DHCP gave it.
    pub ipv4: Ipv4Addr,
    /// Length of its subnet's prefix.
    pub ipv4_len: u8,
    /// The MTU of its card.
    pub mtu: u16,
    /// Its IPv6 address, as DHCPv6 gave it.
    pub ipv6: Ipv6Addr,
    /// Its lines about DHCP and DHCPv6.
    pub lines: [String; 2],
    /// From the program's start to both addresses.
    pub took: Duration,
}

/// Returns `overlay-seller run TICKET ARGS… -- WORDS…`.
#[must_use]
pub fn command(
    programs: &Programs,
    seller: &Host,
    ticket: &str,
    args: &[&str],
    words: Vec<String>,
) -> Vec<String> {
    let program = programs.seller.display().to_string();
    let state = state_of(seller);
    let mut line: Vec<_> =
        [program.as_str(), "run", ticket, "--state", &state].map(str::to_owned).into();
    line.extend(args.iter().map(|arg| (*arg).to_owned()));
    line.push("--".to_owned());
    line.extend(words);
    line
}

impl Member {
    /// Starts a small guest by `overlay-seller run`; [`Self::up`] waits for it.
    ///
    /// # Errors
    /// When this machine lacks what it takes, or nothing can be started.
    pub fn start(programs: &Programs, seller: &Host, ticket: &str, args: &[&str]) -> Result<Vm> {
        Vm::start(seller, &command(programs, seller, ticket, args, small("")?))
    }

    /// Waits until a small guest has both its addresses.
    ///
    /// # Errors
    /// When it does not get them; with the end of its console.
    pub fn up(mut vm: Vm) -> Result<Self> {
        vm.wait("GUEST READY", BOOT_MAX)?;
        let four = vm.wait("GUEST IP4 ", ADDRESS_MAX)?;
        let six = vm.wait("GUEST IP6 ", ADDRESS_MAX)?;
        let took = vm.age();
        let (name, ipv4, ipv4_len, mtu) =
            read_four(&four).with_context(|| format!("the guest says {four:?}"))?;
        let ipv6 = read_six(&six).with_context(|| format!("the guest says {six:?}"))?;
        Ok(Self { vm, name, ipv4, ipv4_len, mtu, ipv6, lines: [four, six], took })
    }

    /// Returns both its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// Lets the guest ping addresses, by ssh from `from`; returns the median round trip of each
    /// that answered, in milliseconds.
    ///
    /// # Errors
    /// When there is no way into the guest.
    pub fn pings(&self, from: &Host, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, f64>> {
        let list: Vec<_> = to.iter().map(IpAddr::to_string).collect();
        // The first one makes the tunnel.
        let script = format!(
            "for a in {}; do ping -c 1 -W 5 $a >/dev/null; ping -c 5 -i 0.1 -W 2 $a; done; true",
            list.join(" ")
        );
        let said = must_ssh(from, self.ipv4.into(), &script)?;
        let mut times: BTreeMap<IpAddr, Vec<f64>> = BTreeMap::new();
        for (address, time) in said.lines().filter_map(reply) {
            times.entry(address).or_default().push(time);
        }
        let medians = times.into_iter().map(|(address, mut times)| {
            times.sort_by(f64::total_cmp);
            (address, times[times.len() / 2])
        });
        Ok(medians.collect())
    }
}

/// Reads `64 bytes from 10.77.0.2: seq=1 ttl=64 time=0.511 ms`.
fn reply(line: &str) -> Option<(IpAddr, f64)> {
    let (address, rest) = line.split_once(" from ")?.1.split_once(": ")?;
    let time = rest.split("time=").nth(1)?.split(' ').next()?;
    Some((address.parse().ok()?, time.parse().ok()?))
}

/// Reads `GUEST IP4 10.77.0.12/24 mtu 1500 host g3 …`.
fn read_four(line: &str) -> Option<(String, Ipv4Addr, u8, u16)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (address, len) = words.get(2)?.split_once('/')?;
    let after = |key: &str| words.iter().skip_while(|word| **word != key).nth(1).copied();
    let mtu = after("mtu")?.parse().ok()?;
    Some((after("host").unwrap_or("-").to_owned(), address.parse().ok()?, len.parse().ok()?, mtu))
}

/// Reads `GUEST IP6 fd3a::12/128 …`.
fn read_six(line: &str) -> Option<Ipv6Addr> {
    line.split_whitespace().nth(2)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_read() {
        let four = "GUEST IP4 10.77.0.12/24 mtu 1420 host g3 lease 3600 router - dns -";
        let expected = ("g3".to_owned(), Ipv4Addr::new(10, 77, 0, 12), 24, 1420);
        assert_eq!(read_four(four), Some(expected));
        assert_eq!(read_six("GUEST IP6 fd09::50/128 dns -"), "fd09::50".parse().ok());
        assert_eq!(read_four("GUEST IP4 none mtu 1500"), None);
        let line = "64 bytes from 10.77.0.2: seq=1 ttl=64 time=0.511 ms";
        assert_eq!(reply(line), Some((Ipv4Addr::new(10, 77, 0, 2).into(), 0.511)));
    }
}
