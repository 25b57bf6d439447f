//! Whatever addresses, numbers and names a guest's rules are made from, the text that nft gets says
//! the same of them: only the values differ, and a value is never anything else.

use std::net::{Ipv4Addr, Ipv6Addr};

use vde_attach::rules::{Cable, Place, Ruleset, Stop, TableName};
use vde_attach::tap::IfName;
use vde_attach::wire::WireSpec;
use vde_switch::fuzz::{SEGMENT, STATION};
use vde_switch::mac::MacAddr;
use vde_switch::station::{Broadcast, Segment, Station};

/// Takes values from the front of an input; zeros when it has ended.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        bytes
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn ipv4(&mut self) -> Ipv4Addr {
        self.take::<4>().into()
    }

    fn ipv6(&mut self) -> Ipv6Addr {
        self.take::<16>().into()
    }
}

/// Renders rules from any bytes: a place, a spec, and two names that end at a zero.
///
/// # Panics
/// When a value or a name has become another word of the ruleset.
pub fn ruleset(bytes: &[u8]) {
    let mut input = Input(bytes);
    let place = if input.byte() & 1 == 0 { Place::Lease } else { Place::Host };
    let station = Station { mac: MacAddr(input.take()), ipv4: input.ipv4(), ipv6: input.ipv6() };
    let segment = Segment {
        ipv4: (input.ipv4(), input.byte()),
        ipv6: (input.ipv6(), input.byte()),
        mtu: u16::from_be_bytes(input.take()),
        broadcast: Broadcast::On,
    };
    let count = input.byte() % 10;
    let routes = (0..count).map(|_| {
        let network = (input.ipv4(), input.byte());
        (network.0, network.1, if input.byte() & 1 == 0 { station.ipv4 } else { segment.ipv4.0 })
    });
    let spec = WireSpec { station, segment, routes: routes.collect() };
    let text = String::from_utf8_lossy(input.0);
    let mut names = text.split('\0').map(|text| {
        let fitted = IfName::fit(text);
        assert_eq!(fitted.as_str().parse(), Ok(fitted.clone()), "a name that fits is one");
        text.parse().unwrap_or(fitted)
    });
    let mut name = || names.next().unwrap_or_else(|| IfName::fit("tap"));
    let (guest, data) = (name(), name());
    let cable = Cable { table: TableName::of(&guest), guest, data, place };
    let said = words(&Ruleset::new(&spec, &cable).to_string(), &cable);
    if spec.check().is_ok() {
        let spec = WireSpec { station: STATION, segment: SEGMENT, routes: Vec::new() };
        let expected = words(&Ruleset::new(&spec, &cable).to_string(), &cable);
        assert_eq!(said, expected, "the rules say something else");
    }
}

/// A ruleset's lines with a sign for each value, and one for values in a row.
fn words(text: &str, cable: &Cable) -> Vec<String> {
    text.lines().map(|line| line_words(line, cable)).collect()
}

fn line_words(line: &str, cable: &Cable) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " \"{}:;,.-_/()&|=!<>@#".contains(c);
    assert!(line.chars().all(plain), "{line:?} has a sign that no rule has");
    let table = cable.table.to_string();
    let mut words: Vec<String> = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            let end = [&cable.guest, &cable.data].iter().any(|name| name.as_str() == part);
            assert!(end || Stop::named(part).is_some(), "{part:?} is neither end nor counter");
            words.push(if end { "END".to_owned() } else { part.to_owned() });
            continue;
        }
        words.extend(part.split_whitespace().map(|word| {
            let bare = word.trim_end_matches(',');
            let comma = &word[bare.len()..];
            let is_value = bare.chars().all(|c| c.is_ascii_hexdigit() || ":.-/x".contains(c))
                && bare.chars().any(|c| c.is_ascii_digit() || c == ':')
                && bare != ":";
            match bare {
                bare if bare == table => "TABLE".to_owned(),
                _ if is_value => format!("VALUE{comma}"),
                _ => word.to_owned(),
            }
        }));
    }
    // Elements of a set: as many of a kind as there are networks.
    let line = words.join(" ");
    let mut elements: Vec<&str> = line.split(", ").collect();
    elements.dedup_by(|next, before| {
        let of = |text: &str| text.trim_end_matches(" }").rsplit("{ ").next().map(str::to_owned);
        of(next) == of(before)
    });
    elements.join(", ").replace(" }", "")
}
