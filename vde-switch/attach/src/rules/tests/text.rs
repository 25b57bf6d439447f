//! The text that nft gets, and what it says of it afterwards.

use proptest::prelude::*;

use super::*;
use crate::nft::{self, Nft};
use crate::tap::{Tap, TapOptions};
use crate::testing::any_spec;

fn any_name() -> impl Strategy<Value = IfName> {
    "[a-zA-Z0-9._-]{1,15}".prop_filter_map("no interface's name", |text| {
        text.parse::<IfName>().ok().filter(|name| name.as_str() != "lo" && name.as_str() != "all")
    })
}

fn any_cable() -> impl Strategy<Value = Cable> {
    let names = (any_name(), any_name(), any::<bool>());
    names.prop_filter_map("two names", |(guest, data, host)| {
        let table = TableName::of(&guest);
        let place = if host { Place::Host } else { Place::Lease };
        (guest != data).then_some(Cable { table, guest, data, place })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48, failure_persistence: None, ..Default::default()
    })]

    /// What is loaded is listed with all its chains and rules, and what is listed, loaded again,
    /// is listed as before: no name and no address means anything else to nft.
    #[test]
    fn rules_read_back_as_they_were_written(spec in any_spec(), cable in any_cable()) {
        in_netns(|| {
            let taps = [&cable.guest, &cable.data].map(|end| {
                Tap::open(end, TapOptions::default()).unwrap_or_else(|error| panic!("{error}"))
            });
            let (nft, rules) = (Nft::default(), Ruleset::new(&spec, &cable));
            let text = rules.to_string();
            nft.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let listing = nft.list_table("netdev", &cable.table).unwrap().expect("it is there");
            let shape: Vec<_> =
                rules.shape().map(|(chain, rules)| (chain.to_owned(), rules)).collect();
            assert_eq!(nft::shape(&listing), shape, "{text}\n{listing}");
            for end in [&cable.guest, &cable.data] {
                let hook = format!("device \"{end}\" priority -500; policy drop;");
                assert!(listing.contains(&hook), "{listing}");
                assert!(listing.contains(&format!("fwd to \"{end}\"\n")), "{listing}");
            }
            nft.delete(&["netdev"], &cable.table).unwrap();
            nft.load(&listing).unwrap_or_else(|error| panic!("{error}\n{listing}"));
            assert_eq!(nft.list_table("netdev", &cable.table).unwrap(), Some(listing));
            // Replaced by itself, it is still itself.
            nft.load(&text).unwrap();
            nft.load(&text).unwrap();
            let listed = nft.list_table("netdev", &cable.table).unwrap().unwrap();
            assert_eq!(nft::shape(&listed), shape);
            drop(taps);
        });
    }
}

#[test]
fn table_names_are_nfts_and_one_for_each_interface() {
    let names = ["a", "a.", "a-", "a_", "a__", "a_d", "a.d", "123456789012345", "..............x"];
    let of = |name: &&str| TableName::of(&name.parse().expect(name));
    let mut tables: Vec<_> = names.iter().map(of).collect();
    for table in &tables {
        assert!(table.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{table}");
    }
    tables.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    tables.dedup();
    assert_eq!(tables.len(), names.len());
    for bad in ["", "1a", "_a", "a b", "a;", "a\n", "é", &"x".repeat(35)] {
        assert!(bad.parse::<TableName>().is_err(), "{bad:?} passed");
    }
}

#[test]
fn every_stop_has_a_name_of_its_own_and_one_sentence() {
    for (number, (stop, name, text)) in STOPS.iter().enumerate() {
        assert_eq!(*stop as usize, number);
        assert_eq!(Stop::named(name), Some(*stop));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(text.ends_with('.') && text.len() < 80, "{text}");
    }
    let mut cable = cable();
    cable.place = Place::Host;
    let used = Ruleset::new(&spec(), &cable).stops();
    assert_eq!(used.len(), STOPS.len(), "some are counted nowhere");
}

#[test]
fn the_ruleset_reads_as_the_catalogue_has_it() {
    let text = Ruleset::new(&spec(), &cable()).to_string();
    let start = "table netdev ovl
delete table netdev ovl
table netdev ovl {
  counter tagged { }
";
    assert!(text.starts_with(start), "{text}");
    let from_guest = "  chain from_guest {
    type filter hook ingress device \"guest\" priority -500; policy drop;
    ether type { 0x8100, 0x88a8, 0x9100, 0x9200 } counter name \"tagged\" drop
    ether saddr != 02:00:00:00:00:0a counter name \"source-mac\" drop
    ether daddr 00:00:00:00:00:00 counter name \"zero-mac\" drop
    meta length > 1500 jump g_long
    ether type vmap { arp : goto g_arp, ip : goto g_ip4, ip6 : goto g_ip6 }
    counter name \"ethertype\" drop
  }
  chain from_data {
    type filter hook ingress device \"data\" priority -500; policy drop;
    ether type { 0x8100, 0x88a8, 0x9100, 0x9200 } counter name \"in-tagged\" drop
    ether saddr 02:00:00:00:00:0a counter name \"in-own-mac\" drop
    ether daddr != 02:00:00:00:00:0a ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
                      counter name \"in-foreign-mac\" drop
    ether type { ip, arp, ip6 } fwd to \"guest\"
    counter name \"in-ethertype\" drop
  }
";
    assert!(text.contains(from_guest), "{text}");
    // Nothing is accepted: whatever passes, passes to the other end.
    assert_eq!(text.matches("fwd to").count(), 2);
    assert!(!text.contains("accept"));
}
