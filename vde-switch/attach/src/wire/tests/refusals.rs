//! What a wire cannot be made with is said, and nothing is left.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A program in place of `nft`: a script, gone when dropped.
struct Script(PathBuf);

impl Script {
    fn new(name: &str, body: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ovl-{}-{name}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn nft(&self) -> Nft {
        Nft::at(&self.0)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn refused(nft: Nft) -> String {
    match LeaseWire::open_with(nft, &spec(), GuestEnd::Tap) {
        Ok(_) => panic!("it was made"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_program_that_is_missing_or_too_old_is_named() {
    if !is_root() {
        return;
    }
    let text = refused(Nft::at("/no/such/nft"));
    assert!(text.contains("`nft` is missing") && text.contains("apt-get"), "{text}");
    let old = Script::new("old", "echo 'nftables v0.9.0 (Fearless Fosdick)'");
    let text = refused(old.nft());
    assert!(text.contains("too old") && text.contains("v0.9.0"), "{text}");
    let other = Script::new("other", "echo hello");
    assert!(refused(other.nft()).contains("too old"));
}

#[test]
fn a_kernel_that_lacks_something_is_told_what() {
    if !is_root() {
        return;
    }
    for (word, expected) in [
        ("fwd to", "CONFIG_NFT_FWD_NETDEV"),
        ("limit rate", "CONFIG_NFT_LIMIT"),
        ("hook ingress", "CONFIG_NF_TABLES_NETDEV"),
        ("table arp", "CONFIG_NF_TABLES_ARP"),
        ("table inet", "CONFIG_NF_TABLES_INET"),
        ("exthdr frag", "extension headers"),
    ] {
        // What the kernel would say to this program, if it were so.
        let body = format!(
            "case \"$*\" in *-f*) text=$(cat); case \"$text\" in *'{word}'*) \
             echo 'Error: Could not process rule: Operation not supported' >&2; exit 1;; esac; \
             printf '%s\\n' \"$text\" | nft \"$@\";; *) exec nft \"$@\";; esac"
        );
        let script = Script::new(&expected[..8].replace(' ', "-"), &body);
        let text = refused(script.nft());
        assert!(text.contains("lacks") && text.contains(expected), "{word}: {text}");
    }
    // Bridges are the one thing that it may do without.
    let body = "case \"$*\" in *-f*) text=$(cat); case \"$text\" in *'table bridge'*) \
                exit 1;; esac; printf '%s\\n' \"$text\" | nft \"$@\";; *) exec nft \"$@\";; esac";
    let script = Script::new("no-bridge", body);
    let (mut wire, _ends) =
        LeaseWire::open_with(script.nft(), &spec(), GuestEnd::Tap).expect("a wire");
    wire.check().unwrap();
}

#[test]
fn rules_that_do_not_read_back_or_do_not_hold_are_refused() {
    if !is_root() {
        return;
    }
    let changed = |edit: &str| {
        format!(
            "case \"$*\" in *-f*) text=$(cat | sed '{edit}'); \
             printf '%s\\n' \"$text\" | nft \"$@\";; *) exec nft \"$@\";; esac"
        )
    };
    // One rule less than was loaded.
    let script = Script::new("less", &changed("/arp-form\" drop/d"));
    assert!(refused(script.nft()).contains("read back"));
    // As many rules, of which one means something else.
    let script =
        Script::new("lies", &changed("s/ether saddr != [0-9a-f:]*/ether saddr 01:00:00:00:00:01/"));
    let text = refused(script.nft());
    assert!(text.contains("lets pass") && text.contains("F07"), "{text}");
    let script = Script::new(
        "strict",
        &changed("s/arp saddr ether != [0-9a-f:]*/arp saddr ether != 02:00:00:00:00:99/"),
    );
    let text = refused(script.nft());
    assert!(text.contains("must let pass") && text.contains("ARP"), "{text}");
}

#[test]
fn a_wire_that_cannot_be_looked_at_is_cut() {
    if !is_root() {
        return;
    }
    let script = Script::new("gone", "exec nft \"$@\"");
    let (mut wire, ends) =
        LeaseWire::open_with(script.nft(), &spec(), GuestEnd::Tap).expect("a wire");
    wire.up().unwrap();
    let (mut guest, mut data) = (File::from(ends.guest.unwrap()), File::from(ends.data));
    assert_eq!(carry(&mut guest, &mut data, &hello()), Some(hello()));
    drop(script);
    let text = wire.check().expect_err("nothing can be listed").to_string();
    assert!(text.contains("`nft` is missing"), "{text}");
    assert!(links(&wire).iter().all(|link| !link.is_up));
    assert_eq!(carry(&mut guest, &mut data, &hello()), None);
}

#[test]
fn rules_that_are_listed_but_hang_at_no_hook_are_noticed() {
    if !is_root() {
        return;
    }
    // What a kernel says that can list its hooks, and of chains that have lost their devices.
    let says =
        |hooks: &str| format!("case \"$*\" in *hooks*) echo '{hooks}';; *) exec nft \"$@\";; esac");
    let script = Script::new("hooked", &says("-0000000500 chain netdev ovl guest"));
    let (mut wire, _ends) =
        LeaseWire::open_with(script.nft(), &spec(), GuestEnd::Tap).expect("a wire");
    wire.up().unwrap();
    wire.check().unwrap();
    fs::write(&script.0, format!("#!/bin/sh\n{}\n", says(""))).unwrap();
    let error = wire.check().expect_err("nothing stops a frame");
    assert!(matches!(error, WireError::Changed(Difference::Hooks)), "{error}");
    assert!(links(&wire).iter().all(|link| !link.is_up));
}

#[test]
fn a_name_that_is_taken_in_the_guests_namespace_is_said() {
    if !is_root() {
        return;
    }
    let owner = Owner::new();
    let netns = owner.netns();
    netns
        .run(|| {
            let line = "ip link add eth0 type veth peer name other";
            assert!(Command::new("sh").args(["-c", line]).status().unwrap().success());
        })
        .unwrap();
    let ifname = name("eth0");
    let wire = LeaseWire::open(&spec(), GuestEnd::Netns { netns: &netns, name: &ifname });
    let Err(error @ WireError::Move { .. }) = wire else { panic!("{wire:?}") };
    assert!(error.to_string().contains("eth0"), "{error}");
    let devices = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    eventually(
        || netns.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap(),
        |devices| !devices.contains("far"),
    );
    drop(devices);
}

#[test]
fn a_spec_that_cannot_be_is_refused_before_anything_is_made() {
    let mut wrong = spec();
    wrong.segment.mtu = 100;
    let wire = LeaseWire::open(&wrong, GuestEnd::Tap);
    assert!(matches!(wire, Err(WireError::Spec(SpecError::Mtu(100)))), "{wire:?}");
}
