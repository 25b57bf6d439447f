use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::canary::{End, PacketEnd};
use crate::frames::*;
use crate::rules::Stop;
use crate::testing::{in_netns, name, sound4, spec, spec_with};

/// What stands for the host: a namespace of the test's own, with a hypervisor's tap in it.
struct Host {
    tap: HostTap,
    guest: File,
    data: File,
}

fn hypervisor() -> File {
    let tap = Tap::open(&name("vnet0"), TapOptions::default()).expect("a tap");
    tap.into_fd().into()
}

fn shell(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Host {
    fn new() -> Self {
        let guest = hypervisor();
        let mut tap = HostTap::find(&name("vnet0")).expect("a tap");
        let data = tap.join(&spec()).expect("joined").into_fd().into();
        Self { tap, guest, data }
    }

    /// Sends a frame of the guest's and says whether it comes out.
    fn carries(&mut self, frame: &[u8]) -> bool {
        let _ = self.guest.write(&[&[0; 12], frame].concat()); // a tap that is down refuses it
        let mut bytes = vec![0; 70_000];
        matches!(self.data.read(&mut bytes), Ok(len) if bytes[12..len] == *frame)
    }

    /// Returns what the guest hears.
    fn heard(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        let mut bytes = vec![0; 70_000];
        while let Ok(len) = self.guest.read(&mut bytes) {
            heard.push(bytes[12..len].to_vec());
        }
        heard
    }
}

fn hello() -> Vec<u8> {
    alice4(BOB4, UDP, &udp(1, 2, b"hello"))
}

fn is_up(name: &str) -> bool {
    let list = Links::open().expect("a socket").list().expect("a list");
    list.iter().any(|link| link.name == name && link.is_up)
}

#[test]
fn a_free_tap_passes_and_any_other_is_refused_with_a_cure() {
    in_netns(|| {
        let _guest = hypervisor();
        let find = || HostTap::find(&name("vnet0")).map(drop).map_err(|error| error.to_string());
        assert_eq!(find(), Ok(()));
        shell("ip link add vmbr0 type bridge; ip link set vnet0 master vmbr0");
        let text = find().expect_err("in a bridge");
        assert!(text.contains("vmbr0") && text.contains("nomaster"), "{text}");
        shell("ip link set vnet0 nomaster");
        for address in ["10.0.0.1", "169.254.0.1", "fd00::1"] {
            shell(&format!("ip addr add {address}/24 dev vnet0"));
            let text = find().expect_err(address);
            assert!(text.contains(address) && text.contains("addr flush"), "{text}");
            shell("ip addr flush dev vnet0");
        }
        // A link-local address comes by itself.
        shell("ip link set vnet0 up; ip addr add fe80::1/64 dev vnet0 nodad");
        assert_eq!(find(), Ok(()));
        for (line, other) in [
            ("ip link add veth0 type veth peer name veth1", "veth0"),
            ("ip tuntap add tun0 mode tun", "tun0"),
        ] {
            shell(line);
            let found = HostTap::find(&name(other));
            assert!(matches!(found, Err(HostTapError::NoTap(_))), "{found:?}");
        }
        let missing = HostTap::find(&name("no-such-tap"));
        assert!(matches!(missing, Err(HostTapError::Missing(_))), "{missing:?}");
    });
}

#[test]
fn the_guests_rules_stand_at_a_hypervisors_tap() {
    in_netns(|| {
        let mut host = Host::new();
        assert!(host.carries(&hello()));
        let answer =
            ethernet(ALICE, BOB, 0x0800, &packet4(BOB4, ALICE4, UDP, 0, &udp(2, 1, b"hello")));
        host.data.write_all(&[&[0; 12], &answer[..]].concat()).expect("taken");
        assert_eq!(host.heard(), [answer]);
        assert!(!host.carries(&ethernet(BOB, GATEWAY, 0x0800, &hello()[14..])));
        assert!(!host.carries(&alice4([8; 4].into(), UDP, &udp(1, 2, b"x"))));
        let counts = host.tap.counters().expect("counters");
        assert_eq!(counts[&Stop::SourceMac].packets, 1);
        assert_eq!(counts[&Stop::Ip4Destination].packets, 1);
        host.tap.check().expect("unchanged");
        // Another program is told.
        let second = HostTap::find(&name("vnet0"));
        assert!(matches!(second, Err(HostTapError::InUse(_))), "{second:?}");
        // An order that changed.
        let wider = spec_with(&[([8, 8, 8, 0].into(), 24, BOB4)]);
        host.tap.retarget(&wider).expect("followed");
        assert!(host.carries(&alice4([8; 4].into(), UDP, &udp(1, 2, b"x"))));
        host.tap.check().expect("unchanged");
    });
}

#[test]
fn the_host_itself_does_not_speak_to_the_guest() {
    in_netns(|| {
        let mut host = Host::new();
        host.heard();
        let mut program = PacketEnd::open(host.tap.theirs.index).expect("a socket");
        let lldp = ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], GATEWAY, 0x88cc, &[7; 46]);
        assert!(program.send(&[0; 12], &lldp).is_err(), "the sender is not told");
        assert_eq!(host.heard(), Vec::<Vec<u8>>::new());
        assert_eq!(host.tap.counters().expect("counters")[&Stop::HostSpeaks].packets, 1);
        // Without that chain it would.
        shell("nft delete chain netdev ovl_vnet0 to_guest");
        program.send(&[0; 12], &lldp).expect("sent");
        assert_eq!(host.heard(), [lldp]);
        assert!(host.tap.check().is_err());
    });
}

#[test]
fn whatever_is_changed_is_noticed_and_the_guest_is_unplugged() {
    type Expected = fn(&HostTapError) -> bool;
    const ADDRESS: &str = "10.0.0.1";
    let rules: Expected =
        |error| matches!(error, HostTapError::Wire(WireError::Changed(Difference::Rules)));
    let changes: [(&str, Expected); 14] = [
        ("nft flush ruleset", rules),
        ("nft flush table netdev ovl_vnet0", rules),
        ("nft delete table netdev ovl_vnet0", rules),
        ("nft delete table inet ovl_vnet0", rules),
        ("nft flush table arp ovl_vnet0", rules),
        (
            "nft delete chain netdev ovl_vnet0 from_guest; \
             nft add chain netdev ovl_vnet0 from_guest",
            rules,
        ),
        ("nft insert rule netdev ovl_vnet0 from_guest accept", rules),
        ("ip link set vnet0 down; ip link set vnet0 name other; ip link set other up", |error| {
            matches!(error, HostTapError::Wire(WireError::Changed(Difference::Renamed(..))))
        }),
        ("ip link del vnet0", |error| matches!(error, HostTapError::Gone(_))),
        ("ip link del vnet0; ip tuntap add vnet0 mode tap", |error| {
            matches!(error, HostTapError::Gone(_))
        }),
        (
            "ip link add vmbr0 type bridge; ip link set vnet0 master vmbr0",
            |error| matches!(error, HostTapError::Bridged { bridge, .. } if bridge == "vmbr0"),
        ),
        (
            "ip addr add 10.0.0.1/24 dev vnet0",
            |error| matches!(error, HostTapError::Addressed { address, .. } if address == ADDRESS),
        ),
        ("echo 0 > /proc/sys/net/ipv6/conf/vnet0/disable_ipv6", |error| {
            let switch = |d: &Difference| matches!(d, Difference::Switch(..));
            matches!(error, HostTapError::Addressed { .. })
                || matches!(error, HostTapError::Wire(WireError::Changed(d)) if switch(d))
        }),
        ("ip link set $(ip -o link | sed -n 's/.*\\(ovlt-[0-9]*\\).*/\\1/p') down", |error| {
            matches!(error, HostTapError::Wire(WireError::Changed(Difference::Altered(..))))
        }),
    ];
    for (line, expected) in changes {
        in_netns(|| {
            let mut host = Host::new();
            assert!(host.carries(&hello()), "{line}");
            shell(line);
            if !line.starts_with("echo") {
                let mut polled = host.tap.watch_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                let told = poll(&mut polled, PollTimeout::from(5000_u16)).expect("polled");
                assert!(told > 0, "{line}: the kernel does not tell");
            }
            let error = host.tap.check().expect_err(line);
            assert!(expected(&error), "{line}: {error}");
            assert!(!host.carries(&hello()), "{line}");
            assert!(!is_up("vnet0") && !is_up("other"), "{line}");
        });
    }
}

#[test]
fn behind_the_rules_others_keep_a_guest_from_the_hosts_stack() {
    in_netns(|| {
        let mut host = Host::new();
        let sound = ethernet(BROADCAST, ALICE, 0x0800, &sound4(ALICE4, [10, 9, 9, 9].into()));
        // As a kernel that has forgotten the chain with the interface; the name is the same.
        shell(
            "nft delete table netdev ovl_vnet0; ip link del vnet0; \
             nft add table inet witness; nft 'add chain inet witness c \
             { type filter hook prerouting priority 0; }'; nft add counter inet witness seen; \
             nft add rule inet witness c iifname vnet0 counter name seen",
        );
        host.guest = hypervisor();
        shell("ip link set vnet0 up");
        assert!(!host.carries(&sound));
        let seen = || Nft::default().count_all("seen", None).expect("a counter");
        assert_eq!(seen(), 0, "the host's stack has seen it");
        let reached = host.tap.joined.as_ref().expect("joined").loaded.reached();
        assert_eq!(reached.expect("counters"), 1);
        // Without them it would.
        shell("nft delete table inet ovl_vnet0");
        assert!(!host.carries(&sound));
        assert_eq!(seen(), 1);
        assert!(host.tap.check().is_err());
    });
}

#[test]
fn what_others_do_on_the_host_is_theirs() {
    in_netns(|| {
        let mut host = Host::new();
        shell(
            "nft add table inet firewall; ip link add br0 type bridge; ip link set br0 up; \
             ip addr add 192.168.1.1/24 dev br0; ip tuntap add vnet1 mode tap; \
             ip link set vnet1 master br0; ip link set vnet0 mtu 1400",
        );
        host.tap.check().expect("none of it is ours");
        assert!(host.carries(&hello()));
    });
}

#[test]
fn the_tap_is_given_back_as_it_was_and_down() {
    in_netns(|| {
        let guest = hypervisor();
        shell("ip link set vnet0 mtu 1400 up");
        let switch = ipv6_switch(&name("vnet0"));
        let before = sysctl::get(&switch);
        let mut tap = HostTap::find(&name("vnet0")).expect("a tap");
        let data = tap.join(&spec()).expect("joined");
        assert_ne!(sysctl::get(&switch), before);
        drop(tap);
        let found = Links::open().expect("a socket").find(&name("vnet0")).expect("a list");
        let found = found.expect("it is still there");
        assert_eq!((found.mtu, found.is_up), (1400, false));
        assert_eq!(sysctl::get(&switch), before);
        assert_eq!(Nft::default().list().expect("a listing"), "");
        drop((guest, data));
    });
}

#[test]
fn what_a_killed_program_has_left_is_replaced() {
    in_netns(|| {
        let host = Host::new();
        let Host { tap, guest, data } = host;
        // Killed: its descriptors are closed, and nothing is undone.
        std::mem::forget(tap);
        drop(data);
        assert!(Nft::default().list().expect("a listing").contains("ovl_vnet0"));
        let mut tap = HostTap::find(&name("vnet0")).expect("a tap");
        let data = tap.join(&spec()).expect("joined").into_fd().into();
        let mut host = Host { tap, guest, data };
        assert!(host.carries(&hello()));
        host.tap.check().expect("unchanged");
    });
}
