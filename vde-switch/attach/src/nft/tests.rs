use super::*;

#[test]
fn versions_are_read_and_compared() {
    for (words, expected) in [
        ("nftables v1.0.6 (Lester Gooch #5)\n", Some([1, 0, 6])),
        ("nftables v0.9.8 (E.D.S.)", Some([0, 9, 8])),
        ("nftables v1.1-rc3", Some([1, 1, 0])),
        ("nftables v2", Some([2, 0, 0])),
        ("nftables", None),
        ("", None),
        ("v", None),
    ] {
        assert_eq!(version(words), expected, "{words}");
    }
}

#[test]
fn counters_are_read_from_a_listing() {
    let listing = "table netdev ovl {\n\tcounter tagged {\n\t\tpackets 3 bytes 180\n\t}\n\n\
                   \tcounter reached-the-stack {\n\t\tpackets 0 bytes 0\n\t}\n}\n";
    let read: Vec<_> = counters(listing).collect();
    let tagged = Count { packets: 3, bytes: 180 };
    assert_eq!(read, [("tagged", tagged), ("reached-the-stack", Count::default())]);
    for broken in ["", "packets 1 bytes 2", "counter a {\npackets x bytes 2\n", "counter {"] {
        assert_eq!(counters(broken).count(), 0, "{broken}");
    }
}

#[test]
fn a_listings_shape_is_its_chains_and_their_rules() {
    let listing = "table netdev ovl {\n\tcounter a {\n\t}\n\n\tchain from_guest {\n\t\ttype filter \
                   hook ingress device \"guest\" priority -500; policy drop;\n\t\tether type { ip, \
                   arp } drop\n\t\tcounter name \"a\" drop\n\t}\n\n\tchain g_pass {\n\t}\n}\n";
    let expected = [("from_guest".to_owned(), 2), ("g_pass".to_owned(), 0)];
    assert_eq!(shape(listing), expected);
    assert!(shape("").is_empty());
}

#[test]
fn a_long_complaint_is_cut() {
    assert_eq!(shorten(&"x".repeat(10_000)).len(), WORDS_LEN_MAX);
}
