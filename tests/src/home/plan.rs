//! What an attacker knows and is to try, as words of a command line.
//!
//! # Theory of operation
//! A test puts a [`Plan`] together, the attacker in its guest reads it back:
//!
//! ```text
//! --dev eth0 --own MAC,IPV4,IPV6 --member MAC,IPV4,IPV6 … --mac MAC … --target ROW,IP,PORT+PORT …
//! --seed N --mutations N
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::frames::Station;
use super::marker::Row;
use super::packet::{Mac, link_local};

/// An address that a guest has no business with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// By which row of the catalogue.
    pub row: Row,
    /// Where.
    pub ip: IpAddr,
    /// Ports to try.
    pub ports: Vec<u16>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The interface to attack from.
    pub interface: String,
    /// The attacker's own addresses.
    pub own: Station,
    /// Who else is on his segment; the first is spoken to, the last is lied about.
    pub members: Vec<Station>,
    /// MAC addresses of hosts that are none of his business.
    pub macs: Vec<Mac>,
    /// Addresses likewise.
    pub targets: Vec<Target>,
    /// Where chance begins.
    pub seed: u64,
    /// How many changed copies of each frame follow it.
    pub mutations: u32,
}

impl Plan {
    /// Returns the words of a command line.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let station = |one: &Station| format!("{},{},{}", mac_text(one.mac), one.ipv4, one.ipv6);
        let mut pairs = vec![("dev", self.interface.clone()), ("own", station(&self.own))];
        pairs.extend(self.members.iter().map(|one| ("member", station(one))));
        pairs.extend(self.macs.iter().map(|mac| ("mac", mac_text(*mac))));
        pairs.extend(self.targets.iter().map(|target| {
            let ports: Vec<_> = target.ports.iter().map(u16::to_string).collect();
            ("target", format!("{},{},{}", target.row, target.ip, ports.join("+")))
        }));
        pairs.push(("seed", self.seed.to_string()));
        pairs.push(("mutations", self.mutations.to_string()));
        pairs.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }

    /// Reads the words of a command line.
    ///
    /// # Errors
    /// Names the word that says nothing.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let zero = Station { mac: [0; 6], ipv4: [0; 4].into(), ipv6: Ipv6Addr::UNSPECIFIED };
        let mut plan = Self {
            interface: "eth0".to_owned(),
            own: zero,
            members: Vec::new(),
            macs: Vec::new(),
            targets: Vec::new(),
            seed: 1,
            mutations: 0,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} wants a value"))?;
            match word.as_str() {
                "--dev" => plan.interface = value,
                "--own" => plan.own = station(&value)?,
                "--member" => plan.members.push(station(&value)?),
                "--mac" => plan.macs.push(mac(&value)?),
                "--target" => plan.targets.push(target(&value)?),
                "--seed" => plan.seed = parsed(&value)?,
                "--mutations" => plan.mutations = parsed(&value)?,
                _ => bail!("{word} is not known"),
            }
        }
        ensure!(plan.own != zero && !plan.members.is_empty(), "--own and --member are needed");
        Ok(plan)
    }

    /// Adds the link-local address that a kernel makes of each MAC address (E02).
    pub fn add_link_locals(&mut self, ports: &[u16]) {
        let made = self.macs.iter().map(|mac| Target {
            row: Row(*b"E02"),
            ip: link_local(*mac).into(),
            ports: ports.to_vec(),
        });
        self.targets.extend(made.collect::<Vec<_>>());
    }
}

/// Writes a MAC address as Linux does.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a MAC address.
///
/// # Errors
/// When the text is none.
pub fn mac(text: &str) -> Result<Mac> {
    let bytes: Option<Vec<u8>> =
        text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac = bytes.and_then(|bytes| bytes.try_into().ok());
    mac.with_context(|| format!("{text:?} is no MAC address"))
}

fn station(text: &str) -> Result<Station> {
    let [first, ipv4, ipv6] = three(text)?;
    Ok(Station { mac: mac(first)?, ipv4: parsed::<Ipv4Addr>(ipv4)?, ipv6: parsed(ipv6)? })
}

fn target(text: &str) -> Result<Target> {
    let [row, ip, ports] = three(text)?;
    let ports = ports.split('+').filter(|port| !port.is_empty()).map(parsed).collect::<Result<_>>();
    Ok(Target { row: row.parse()?, ip: parsed(ip)?, ports: ports? })
}

fn three(text: &str) -> Result<[&str; 3]> {
    let parts: Vec<_> = text.splitn(3, ',').collect();
    parts.try_into().map_err(|_| anyhow::anyhow!("{text:?} does not have three parts"))
}

fn parsed<T: FromStr>(text: &str) -> Result<T> {
    text.parse().ok().with_context(|| format!("{text:?} is not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_command_line() {
        let station = |n: u8| Station {
            mac: [2, 0xff, 0, 0, 0, n],
            ipv4: [10, 77, 0, n].into(),
            ipv6: Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, n.into()),
        };
        let target = |row: &[u8; 3], ip: &str, ports: &[u16]| Target {
            row: Row(*row),
            ip: ip.parse().expect("an address"),
            ports: ports.to_vec(),
        };
        let mut plan = Plan {
            interface: "eth0".into(),
            own: station(10),
            members: vec![station(2), station(11)],
            macs: vec![[2, 1, 2, 3, 4, 5]],
            targets: vec![target(b"E01", "192.168.1.10", &[22, 80]), target(b"E04", "::1", &[])],
            seed: 9,
            mutations: 2,
        };
        plan.add_link_locals(&[7]);
        assert_eq!(plan.targets.len(), 3);
        assert_eq!(Plan::parse(plan.words()).expect("its own words"), plan);
        for bad in [&["--own"][..], &["--own", "1,2"], &["--what", "x"], &["--seed", "1"]] {
            assert!(Plan::parse(bad.iter().map(|word| (*word).to_owned())).is_err(), "{bad:?}");
        }
    }
}
