//! Where sellers may dial this gateway: what goes into tickets.

use std::net::{IpAddr, SocketAddr};

use overlay_proto::dial::{Lan, special_use};
use overlay_proto::ticket::{ADDRESSES_MAX, DialAddr};

/// Addresses for tickets and what to tell the buyer about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// At most four, best first.
    pub(crate) addresses: Vec<DialAddr>,
    /// `yes`, or a sentence.
    pub(crate) said: String,
}

impl Reach {
    /// Chooses among what the user advertises, where he listens, and the host's own addresses.
    ///
    /// Advertised ones are the user's word; others of special use count with `--lan` only.
    pub(crate) fn find(
        advertised: &[DialAddr],
        listening: &[SocketAddr],
        own: &[IpAddr],
        port: u16,
        lan: Lan,
    ) -> Self {
        if !advertised.is_empty() {
            let addresses = advertised.iter().take(ADDRESSES_MAX).cloned().collect();
            return Self { addresses, said: "yes".to_owned() };
        }
        let explicit: Vec<_> =
            listening.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        let candidates = if explicit.is_empty() { own } else { &explicit };
        let (global, local): (Vec<IpAddr>, Vec<_>) =
            candidates.iter().partition(|ip| special_use(**ip).is_none());
        let local = if lan == Lan::Allowed { local } else { Vec::new() };
        let said = match (global.is_empty(), local.is_empty()) {
            (false, _) => "yes",
            (true, false) => "on the local network only",
            (true, true) => "no: name an address by --advertise HOST:PORT, or use --lan",
        };
        let addresses = global.into_iter().chain(local).take(ADDRESSES_MAX);
        let addresses = addresses.map(|ip| DialAddr::Ip(SocketAddr::new(ip, port))).collect();
        Self { addresses, said: said.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        advertised: &[&str],
        listening: &[&str],
        own: &[&str],
        lan: Lan,
    ) -> (Vec<String>, String) {
        let parse = |text: &&str| text.parse().expect("an address");
        let advertised: Vec<DialAddr> =
            advertised.iter().map(|text| text.parse().expect("an address")).collect();
        let listening: Vec<SocketAddr> = listening.iter().map(parse).collect();
        let own: Vec<IpAddr> = own.iter().map(|text| text.parse().expect("an address")).collect();
        let reach = Reach::find(&advertised, &listening, &own, 7770, lan);
        (reach.addresses.iter().map(ToString::to_string).collect(), reach.said)
    }

    #[test]
    fn the_users_word_comes_first_then_where_he_listens_then_what_the_host_has() {
        let own = ["192.168.1.5", "44.128.2.1", "2a00::1"];
        assert_eq!(find(&["gw.example:1"], &[], &own, Lan::Refused).0, ["gw.example:1"]);
        let (addresses, said) = find(&[], &["44.128.9.9:7770"], &own, Lan::Refused);
        assert_eq!((addresses, said.as_str()), (vec!["44.128.9.9:7770".to_owned()], "yes"));
        let (addresses, _) = find(&[], &["[::]:7770"], &own, Lan::Refused);
        assert_eq!(addresses, ["44.128.2.1:7770", "[2a00::1]:7770"]);
    }

    #[test]
    fn local_addresses_need_lan_and_nothing_is_claimed_without_any() {
        let (addresses, said) = find(&[], &["192.0.2.1:7770"], &[], Lan::Allowed);
        assert_eq!((addresses.len(), said.as_str()), (1, "on the local network only"));
        let (addresses, said) = find(&[], &["192.0.2.1:7770"], &[], Lan::Refused);
        assert!(addresses.is_empty() && said.starts_with("no: "), "{said}");
    }
}
