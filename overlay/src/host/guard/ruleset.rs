//! The guard's table as text: what each tier may send, in numbers that the code's own budget has.
//!
//! # Theory of operation
//! Token buckets count: one of burst B and rate R lets no more than B + R·t pass in any time t, so
//! half of a budget is burst and half comes back over [`BUDGET_WINDOW`]. A bucket that nobody
//! touched that long is full again, and may be forgotten. A table of buckets that is full admits
//! nobody new, since the rule that would make one does not match then and the next one drops.
//!
//! What is accepted leaves with another mark: [`PASSED`], or [`ASKING`] while unproven, which
//! [`super::segments`] does not let out in more than one piece. What still has
//! [`super::GUARD_MARK`] after this table was never seen by it: see [`super::latch`].
//!
//! All that differs between leases stands in sets, so the text is the same for everyone.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_proto::dial::{
    BUDGET_WINDOW, GIVEN_BYTES_MAX, GIVEN_PACKETS_MAX, GLOBAL_V6, HEARSAY_BURST_MAX,
    HEARSAY_PACKETS_MAX, HEARSAY_RATE, PORT_QUIC, Reach, special_ranges,
};
use overlay_proto::wire::UDP_PAYLOAD_MIN;

use super::{
    ASKING, AWAITED_MAX, DNS_BURST_MAX, DNS_RATE, GIVEN_MAX, GUARD_MARK, HEARD_FOR, HEARD_MAX,
    LAN_MAX, LEASES_MAX, PASSED, PROVEN_MAX, SPENT_MAX, SYN_MAX, TABLE,
};

/// Longest UDP length field of what goes to an unproven address: it passes any IPv6 path whole, and
/// [`GIVEN_PACKETS_MAX`] of these are less than [`GIVEN_BYTES_MAX`].
const UNPROVEN_UDP_LEN_MAX: usize = UDP_PAYLOAD_MIN + UDP_HEADER_LEN;
const UDP_HEADER_LEN: usize = 8;
const _: () = assert!(UDP_PAYLOAD_MIN * GIVEN_PACKETS_MAX <= GIVEN_BYTES_MAX);

/// Before any filter of the host's own, which may be stricter.
const PRIORITY: i32 = -150;

/// The two address families: nft's word, the letter in our names, the type.
const FAMILIES: [(&str, char, &str); 2] = [("ip", '4', "ipv4_addr"), ("ip6", '6', "ipv6_addr")];

/// Returns a bucket for so many packets in any [`BUDGET_WINDOW`].
fn bucket(packets_max: usize) -> String {
    let refill = packets_max / 2;
    let per_hour = refill as u64 * 3600 / BUDGET_WINDOW.as_secs();
    format!("limit rate {per_hour}/hour burst {} packets", packets_max - refill)
}

/// Returns a bucket for so many bytes in any [`BUDGET_WINDOW`]; its burst is a second's worth more.
fn byte_bucket(bytes_max: usize) -> String {
    let per_second = bytes_max as u64 / 2 / (BUDGET_WINDOW.as_secs() + 1);
    format!("limit rate {per_second} bytes/second burst {} bytes", bytes_max / 2)
}

/// Returns the table's text, without the elements that leases bring.
pub(super) fn ruleset() -> String {
    let mut text = format!("table inet {TABLE} {{\n  set ctl_uids {{ type uid; }}\n");
    sets(&mut text);
    text.push_str(&input());
    text.push_str(&output());
    text.push_str(&dp());
    text.push_str(&ctl());
    text.push_str("}\n");
    text
}

fn sets(text: &mut String) {
    let mut set = |name: &str, kind: &str, size: usize, rest: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  set {name} {{ type {kind}; size {size}; {rest} }}");
    };
    let window = BUDGET_WINDOW.as_secs();
    let spent = format!("flags dynamic,timeout; timeout {window}s;");
    let heard = format!("flags dynamic,timeout; timeout {}s;", HEARD_FOR.as_secs());
    let (given_max, lan_max) = (LEASES_MAX * GIVEN_MAX, LEASES_MAX * LAN_MAX);
    set("ports", "inet_service", LEASES_MAX, "flags timeout;");
    for (_, v, addr) in FAMILIES {
        let path = format!("inet_service . {addr} . inet_service");
        let there = format!("{addr} . inet_service");
        set(&format!("proven{v}"), &path, LEASES_MAX * PROVEN_MAX, "flags timeout;");
        set(&format!("given{v}"), &path, given_max, "flags timeout;");
        set(&format!("live{v}"), &path, LEASES_MAX * PROVEN_MAX, &heard);
        set(&format!("heard{v}"), &path, HEARD_MAX, &heard);
        set(&format!("awaited{v}"), &path, AWAITED_MAX, "flags timeout; counter;");
        let lan = format!("inet_service . {addr}");
        set(&format!("lan{v}"), &lan, lan_max, "flags interval,timeout;");
        set(&format!("resolvers{v}"), addr, LEASES_MAX, "flags timeout;");
        set(&format!("tcp_given{v}"), &there, given_max, "flags timeout;");
        set(&format!("tcp_proven{v}"), &there, given_max, "flags timeout;");
        set(&format!("given_spent{v}"), addr, SPENT_MAX, &spent);
        set(&format!("hearsay_spent{v}"), addr, SPENT_MAX, &spent);
        set(&format!("syn_spent{v}"), &there, SPENT_MAX, &spent);
        set(&format!("tcp_spent{v}"), &there, SPENT_MAX, &spent);
    }
}

/// Writes a rule for each family: `%ip`, `%v` and `%addr` stand for its words.
fn each(rule: &str) -> String {
    let mut text = String::new();
    for (ip, v, addr) in FAMILIES {
        let rule = rule.replace("%ip", ip).replace("%v", &v.to_string()).replace("%addr", addr);
        let _ = writeln!(text, "    {rule}");
    }
    text
}

/// What arrives for a lease is remembered: only who was heard can be proven, and stays so.
/// Strangers can fill the table of who was heard; the proven, and whom the helper asks after, have
/// their own.
fn input() -> String {
    let path = "udp dport . %ip saddr . udp sport";
    let live = each(&format!("{path} @proven%v update @live%v {{ {path} }} return"));
    let awaited = each(&format!("{path} @awaited%v"));
    let heard = each(&format!("update @heard%v {{ {path} }}"));
    format!(
        "  chain input {{
    type filter hook input priority {PRIORITY}; policy accept;
    iifname != \"lo\" udp dport @ports jump heard
  }}
  chain heard {{
{live}{awaited}{heard}  }}
"
    )
}

/// Whose packets are looked at. A closed TCP socket goes on sending what it was given, and belongs
/// to nobody then: it may do so to the proven alone.
fn output() -> String {
    let orphan = each("%ip daddr . tcp dport @tcp_given%v jump orphan");
    let proven = each("%ip daddr . tcp dport @tcp_proven%v return");
    format!(
        "  chain output {{
    type filter hook output priority {PRIORITY}; policy accept;
    meta mark {GUARD_MARK:#010x} jump dp
    meta skuid @ctl_uids jump ctl
{orphan}  }}
  chain orphan {{
    meta skuid != {} return
{proven}    counter drop
  }}
",
        u32::MAX
    )
}

/// A packet whose addresses are what they seem: no source route, no option or extension behind
/// which another header hides, and a source of this host's own, which IPV6_FREEBIND makes a choice
/// of any program.
fn honest() -> &'static str {
    "  chain honest {
    ip hdrlength != 5 counter drop
    ip6 nexthdr != { tcp, udp } counter drop
    fib saddr type != local counter drop
  }
"
}

/// Where no member can be, `--lan` or not.
fn nowhere() -> String {
    let (v4, v6) = ranges(Reach::Nowhere);
    let (_, mut known) = ranges(Reach::Local);
    known.push((GLOBAL_V6.0.into(), GLOBAL_V6.1));
    format!(
        "  chain nowhere {{
    ip daddr {{ {} }} counter drop
    ip6 daddr {{ {} }} counter drop
    ip6 daddr != {{ {} }} counter drop
  }}
",
        list(&v4),
        list(&v6),
        list(&outermost(known))
    )
}

/// The data plane's socket. A packet without DF could leave in several pieces.
fn dp() -> String {
    let (v4, v6) = ranges(Reach::Local);
    let proven = each(&format!(
        "udp sport . %ip daddr . udp dport @proven%v meta mark set {PASSED:#010x} accept"
    ));
    let given = each("udp sport . %ip daddr . udp dport @given%v goto given");
    let tier = |name: &str, packets_max: usize| {
        let bucket = bucket(packets_max);
        each(&format!(
            "update @{name}_spent%v {{ %ip daddr {bucket} }} meta mark set {ASKING:#010x} accept"
        ))
    };
    format!(
        "{}{}  chain dp {{
    oifname \"lo\" counter drop
    meta l4proto != udp counter drop
    jump honest
{proven}    jump nowhere
    fib daddr type != unicast counter drop
    udp sport . ip daddr != @lan4 ip daddr {{ {} }} counter drop
    udp sport . ip6 daddr != @lan6 ip6 daddr {{ {} }} counter drop
    ip frag-off & 0x4000 == 0 counter drop
    udp length > {UNPROVEN_UDP_LEN_MAX} counter drop
{given}    udp dport < 1024 udp dport != {PORT_QUIC} counter drop
    limit rate over {HEARSAY_RATE}/second burst {HEARSAY_BURST_MAX} packets counter drop
{}    counter drop
  }}
  chain given {{
{}    counter drop
  }}
",
        honest(),
        nowhere(),
        list(&v4),
        list(&v6),
        tier("hearsay", HEARSAY_PACKETS_MAX),
        tier("given", GIVEN_PACKETS_MAX),
    )
}

/// The control process: TCP that it dials to whom the ticket names, and the name servers.
fn ctl() -> String {
    let resolvers = each("meta l4proto { tcp, udp } th dport 53 %ip daddr @resolvers%v goto dns");
    let proven =
        each(&format!("%ip daddr . tcp dport @tcp_proven%v meta mark set {PASSED:#010x} accept"));
    let given = each("%ip daddr . tcp dport @tcp_given%v goto tcp_given");
    let spend = |name: &str, bucket: String| {
        each(&format!(
            "update @{name}_spent%v {{ %ip daddr . tcp dport {bucket} }} \
             meta mark set {PASSED:#010x} accept"
        ))
    };
    format!(
        "  chain ctl {{
    jump honest
{resolvers}    oifname \"lo\" counter drop
    jump nowhere
{proven}{given}    counter drop
  }}
  chain dns {{
    limit rate {DNS_RATE}/second burst {DNS_BURST_MAX} packets \
         meta mark set {PASSED:#010x} accept
    counter drop
  }}
  chain tcp_given {{
    tcp flags & (syn | ack) == syn goto syn
{}    counter drop
  }}
  chain syn {{
{}    counter drop
  }}
",
        spend("tcp", byte_bucket(GIVEN_BYTES_MAX)),
        spend("syn", bucket(SYN_MAX)),
    )
}

type Range = (IpAddr, u8);

/// Returns what reaches so far, IPv4 and IPv6 apart.
fn ranges(reach: Reach) -> (Vec<Range>, Vec<Range>) {
    let (v4, v6): (Vec<_>, Vec<_>) = special_ranges(reach).partition(|(net, _)| net.is_ipv4());
    (outermost(v4), outermost(v6))
}

/// Leaves out what lies inside another: nft refuses overlaps.
fn outermost(ranges: Vec<Range>) -> Vec<Range> {
    let within = |inner: &Range, outer: &Range| {
        outer.0.is_ipv4() == inner.0.is_ipv4()
            && outer.1 < inner.1
            && prefix(outer.0, outer.1) == prefix(inner.0, outer.1)
    };
    let alone = |range: &&Range| !ranges.iter().any(|outer| within(range, outer));
    ranges.iter().filter(alone).copied().collect()
}

/// Returns networks without host bits, without default routes, none inside another.
pub(super) fn networks(links: &[Range]) -> Vec<Range> {
    let mut networks = Vec::new();
    for &(ip, len) in links {
        let bits = prefix(ip, len).checked_shl(128 - u32::from(len)).unwrap_or(0);
        let network: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        };
        if len > 0 && !networks.contains(&(network, len)) {
            networks.push((network, len));
        }
    }
    outermost(networks)
}

/// Returns the first bits of an address, the family left aside.
fn prefix(ip: IpAddr, len: u8) -> u128 {
    let bits = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    bits.checked_shr(128 - u32::from(len)).unwrap_or(0)
}

fn list(ranges: &[Range]) -> String {
    ranges.iter().map(|(net, len)| format!("{net}/{len}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bucket_lets_more_through_in_any_window_than_the_budget() {
        assert_eq!(bucket(HEARSAY_PACKETS_MAX), "limit rate 48/hour burst 4 packets");
        assert_eq!(bucket(GIVEN_PACKETS_MAX), "limit rate 96/hour burst 8 packets");
        assert_eq!(bucket(SYN_MAX), "limit rate 12/hour burst 2 packets");
        let bytes = byte_bucket(GIVEN_BYTES_MAX);
        assert_eq!(bytes, "limit rate 33 bytes/second burst 10000 bytes");
        assert!(10_000 + 33 * (BUDGET_WINDOW.as_secs() + 1) <= GIVEN_BYTES_MAX as u64);
    }

    #[test]
    fn every_range_of_special_use_is_in_the_text_or_inside_one_that_is() {
        let text = ruleset();
        for reach in [Reach::Local, Reach::Nowhere] {
            let (v4, v6) = ranges(reach);
            for (net, len) in special_ranges(reach) {
                let known = if net.is_ipv4() { &v4 } else { &v6 };
                let holds = |(outer, outer_len): &&Range| {
                    *outer_len <= len && prefix(*outer, *outer_len) == prefix(net, *outer_len)
                };
                let (outer, outer_len) = known.iter().find(holds).expect("a range around it");
                assert!(text.contains(&format!("{outer}/{outer_len}")), "{outer}/{outer_len}");
            }
        }
        assert!(
            text.contains("ip6 daddr != { fc00::/7, fe80::/10, fec0::/10, 2000::/3 }"),
            "{text}"
        );
    }
}
