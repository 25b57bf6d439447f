//! Each rule, and each part of a rule, taken away: something must become of it.
//!
//! The table that is printed has a line for each mutant: the chain, what was taken away, and what
//! shows it: `+` a frame that passes and should not, `-` one that does not and should, a rate that
//! does not hold, or a counter that does not count.

use super::*;
use crate::canary::Side::Guest;
use crate::testing::sound4;

/// Frames of each kind that a rate is tried with: more than a burst and many seconds.
const FLOOD: usize = 2000;

/// What shows nothing here, and why it is there.
const JUSTIFIED: [(&str, &str); 1] = [(
    "g_ip6_unaddressed | ip6 nexthdr icmpv6, of",
    "a kernel that takes a later fragment's payload for a type would let it pass from nobody; this \
     one takes the IPv6 header for it",
)];

/// Frames of the guest's that are to groups, and those that are questions.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let group = |dst: &str| dst.parse().expect(dst);
    let group6 = |dst: &str| dst.parse().expect(dst);
    let discover = packet4(ZERO4, [255; 4].into(), UDP, 0, &udp(68, 67, &[1; 240]));
    let agents = group6("ff02::1:2");
    let routers = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &link_option(1, ALICE)].concat();
    vec![
        ("ARP", arp(ALICE, BROADCAST, 1, ALICE4, BOB4)),
        ("solicitations", solicitation(ALICE6, BOB6)),
        ("advertisements", advertisement(ALICE6, BOB6, ALICE6)),
        ("router solicitations", alice6_from(ALICE_LINK, ALL_ROUTERS, ICMPV6, &routers)),
        ("DHCP by broadcast", ethernet(BROADCAST, ALICE, 0x0800, &discover)),
        ("DHCP", alice4(BOB4, UDP, &udp(68, 67, &[1; 240]))),
        ("DHCPv6", alice6_from(ALICE_LINK, agents, UDP, &udp(546, 547, &[1; 60]))),
        ("DHCPv6 to one", alice6(BOB6, UDP, &udp(546, 547, &[1; 60]))),
        ("broadcast", alice4(group("10.77.0.255"), UDP, &udp(9, 9, b"x"))),
        ("multicast", alice4(group("224.0.0.251"), UDP, &udp(9, 9, b"x"))),
        ("multicast over IPv6", alice6(group6("ff02::fb"), UDP, &udp(9, 9, b"x"))),
        ("pings to all", alice6(ALL_NODES, ICMPV6, &icmp(128, 0, &[0; 8]))),
        ("UDP", alice4(BOB4, UDP, &udp(9, 9, b"x"))),
        ("UDP over IPv6", alice6(BOB6, UDP, &udp(9, 9, b"x"))),
    ]
}

/// Which kinds are held back; each is sent through rules that have seen nothing yet.
fn held(rig: &mut Rig, rules: &Ruleset) -> Vec<&'static str> {
    let mut held = Vec::new();
    for (name, frame) in kinds() {
        rig.load(rules);
        let passed = (0..FLOOD).filter(|_| rig.passes(Guest, &[0; 12], &frame)).count();
        assert!(passed > 0, "no {name} passes");
        held.extend((passed < FLOOD).then_some(name));
    }
    // Who has said all he may to groups may still ask for a neighbour.
    rig.load(rules);
    for (name, frame) in kinds() {
        if name == "multicast over IPv6" {
            (0..FLOOD).for_each(|_| {
                rig.passes(Guest, &[0; 12], &frame);
            });
        }
    }
    let asks = (0..50).filter(|_| rig.passes(Guest, &[0; 12], &solicitation(ALICE6, BOB6))).count();
    held.extend((asks < 50).then_some("neighbours behind groups"));
    held
}

/// Everything that passes.
fn passing(rig: &mut Rig, tries: &[Try]) -> Vec<bool> {
    tries.iter().map(|one| rig.passes(one.from, &one.vnet, &one.frame)).collect()
}

/// What a mutant lets pass that is not legal, or stops that is. What is left to the port policy
/// shows nothing.
fn changes(tries: &[Try], sound: &[bool], now: &[bool]) -> Vec<String> {
    let changed = tries.iter().zip(sound.iter().zip(now)).filter(|(_, (was, is))| was != is);
    let shows =
        |(one, (_, is)): &(&Try, (&bool, &bool))| one.from != Guest || one.policy().is_ok() != **is;
    changed
        .filter(shows)
        .map(|(one, (_, is))| format!("{}{}", if *is { '+' } else { '-' }, one.name))
        .collect()
}

/// The place of a rule, and of a part of it.
type At = (usize, usize, Option<usize>);

fn mutate(rules: &Ruleset, (chain, rule, part): At) -> Ruleset {
    let mut mutant = rules.clone();
    let rules = &mut mutant.chains_mut()[chain].rules;
    match part {
        None => drop(rules.remove(rule)),
        Some(part) => drop(rules[rule].when.remove(part)),
    }
    mutant
}

fn mutants(rules: &Ruleset) -> Vec<(At, String)> {
    let mut all = Vec::new();
    for (chain_at, chain) in rules.chains.iter().enumerate() {
        for (rule_at, rule) in chain.rules.iter().enumerate() {
            all.push(((chain_at, rule_at, None), format!("{} | {rule}", chain.name)));
            let parts = rule.when.iter().enumerate().filter(|_| rule.when.len() > 1);
            all.extend(parts.map(|(part_at, part)| {
                let what = format!("{} | {part}, of {rule}", chain.name);
                ((chain_at, rule_at, Some(part_at)), what)
            }));
        }
    }
    all
}

#[test]
fn no_rule_is_there_in_vain() {
    in_netns(|| {
        let mut rig = Rig::new();
        let tries = tries();
        let whole = Ruleset::new(&spec(), &cable());
        rig.load(&whole.clone().without_limits());
        let sound = passing(&mut rig, &tries);
        let sound_counts = rig.counts();
        let sound_held = held(&mut rig, &whole);
        let (mut table, mut missed) = (Vec::new(), Vec::new());
        for (at, what) in mutants(&whole) {
            let rule = &whole.chains[at.0].rules[at.1];
            let mutant = mutate(&whole, at);
            rig.load(&mutant.clone().without_limits());
            let now = passing(&mut rig, &tries);
            let mut seen = changes(&tries, &sound, &now);
            if let (true, true, Some(stop)) = (seen.is_empty(), rule.when.is_empty(), rule.counter)
            {
                // The end of a chain: what comes there is dropped by the policy, too.
                let counts = rig.counts();
                let (was, is) = (sound_counts[&stop].packets, counts.get(&stop));
                if is.is_none_or(|is| is.packets < was) {
                    seen.push(format!("not counted as {stop}; the policy drops it"));
                }
            }
            if seen.is_empty() && rule.when == [guest::IS_TAGGED] {
                let frames = through_tags(&mut rig, &mutant, &tries);
                seen.extend(frames.iter().map(|frame| {
                    format!("+{frame}, were the protocol looked for where the tag is not")
                }));
            }
            if seen.is_empty() {
                let held = held(&mut rig, &mutant);
                let of = |a: &[&str], b: &[&str], sign: char| {
                    let gone = a.iter().filter(|kind| !b.contains(kind));
                    gone.map(|kind| format!("{sign}rate of {kind}")).collect::<Vec<_>>()
                };
                seen.extend(of(&sound_held, &held, '+'));
                seen.extend(of(&held, &sound_held, '-'));
            }
            if seen.is_empty() {
                let justified = JUSTIFIED.iter().filter(|(start, _)| what.starts_with(start));
                seen.extend(justified.map(|(_, why)| (*why).to_owned()));
            }
            match seen.first() {
                Some(first) => {
                    table.push(format!("{what} | {first} and {} more", seen.len() - 1));
                }
                None => missed.push(what),
            }
        }
        eprintln!("{}", table.join("\n"));
        eprintln!("{} mutants, {} caught", table.len() + missed.len(), table.len());
        assert!(missed.is_empty(), "not seen:\n{}", missed.join("\n"));
    });
}

/// Returns the tagged frames that pass rules which look for a protocol as nft does by itself.
fn through_tags(rig: &mut Rig, rules: &Ruleset, tries: &[Try]) -> Vec<String> {
    let text = rules.to_string();
    let text = text.replace("ether type vmap", "meta protocol vmap");
    let text = text.replace(guest::KINDS, "meta protocol { ip, arp, ip6 }");
    rig.nft.load(&text).expect("rules");
    let passed = tries.iter().filter(|one| rig.passes(one.from, &one.vnet, &one.frame));
    passed.filter(|one| one.frame.get(12..14) == Some(&[0x81, 0])).map(|o| o.name.clone()).collect()
}

#[test]
fn what_no_rule_has_stopped_the_policy_does() {
    in_netns(|| {
        let mut rig = Rig::new();
        let mut bare = Ruleset::new(&spec(), &cable()).without_limits();
        for chain in bare.chains_mut() {
            chain.rules.retain(|rule| !(rule.when.is_empty() && rule.counter.is_some()));
        }
        // Sound and to all, so that a stack looks at it.
        let sent = |src: Mac| ethernet(BROADCAST, src, 0x0800, &sound4(ALICE4, [8; 4].into()));
        let mut reached = |rules: &str| {
            rig.nft.load(rules).expect("rules");
            let before = rig.nft.count_all(stack::REACHED, None).expect("a counter");
            assert!(!rig.passes(Guest, &[0; 12], &sent(ALICE)), "it passed");
            // The data plane's end lets all IPv4 pass: as if it did not.
            let rules = rules.replace(guest::KINDS, "ether type { arp, ip6 }");
            rig.nft.load(&rules).expect("rules");
            assert!(!rig.passes(Side::Data, &[0; 12], &sent(BOB)), "it passed");
            rig.nft.count_all(stack::REACHED, None).expect("a counter") - before
        };
        assert_eq!(reached(&bare.to_string()), 0);
        assert_eq!(reached(&bare.to_string().replace("policy drop", "policy accept")), 2);
    });
}

#[test]
fn rates_let_a_burst_pass_and_little_more() {
    in_netns(|| {
        let mut rig = Rig::new();
        let rules = Ruleset::new(&spec(), &cable());
        let held = held(&mut rig, &rules);
        let free = ["UDP", "UDP over IPv6", "neighbours behind groups"];
        let kinds: Vec<_> = kinds().iter().map(|(name, _)| *name).collect();
        let expected: Vec<_> = kinds.into_iter().filter(|name| !free.contains(name)).collect();
        assert_eq!(held, expected);
        for (name, frame) in super::mutation::kinds() {
            rig.load(&rules);
            let (_, burst) = match name {
                "ARP" | "solicitations" | "advertisements" => NEIGHBOUR_RATE,
                "router solicitations" => ASK_RATE,
                name if name.starts_with("DHCP") => ASK_RATE,
                _ => GROUP_RATE,
            };
            let burst = usize::try_from(burst).expect("small");
            let first = (0..burst).filter(|_| rig.passes(Guest, &[0; 12], &frame)).count();
            assert!(first == burst, "{first} {name} of a burst of {burst}");
        }
    });
}
