//! DHCPv6: the station's granted address and nothing else.
//!
//! There is no binding to look up, so a guest that comes back with an old address, or after the
//! order moved to another host, gets the granted one. Relayed messages, and messages that only a
//! server sends, are refused. What is repeated of a question is its client identifier, its
//! associations' numbers and, when it renews addresses that it no longer has, those, each length
//! checked and each counted.
//!
//! Source: RFC 8415 (16: which messages are valid; 18.3: what to answer), 3646 (DNS).

use std::net::Ipv6Addr;

use super::{Host, LEASE_S, Served, once};
use crate::answer::Answer;
use crate::link_local::SERVICE_LINK_LOCAL;
use crate::mac::SERVICE_MAC;
use crate::verdict::DropReason;

/// Most associations in a message; systems ask for one or two.
const ASSOCIATIONS_MAX: usize = 4;

/// Most addresses told to be given up, in one answer.
const STALE_MAX: usize = 4;

/// Longest DUID, in bytes (RFC 8415 11.1).
const DUID_LEN_MAX: usize = 130;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const RECONFIGURE: u8 = 10;
const INFORMATION_REQUEST: u8 = 11;

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDR: u16 = 5;
const PREFERENCE: u16 = 7;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;
const DOMAIN_SEARCH: u16 = 24;
const IA_PD: u16 = 25;
const REFRESH: u16 = 32;

const SUCCESS: u16 = 0;
const NO_ADDRS: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIX: u16 = 6;

/// A client's message, as far as it matters.
struct Message<'a> {
    kind: u8,
    xid: [u8; 3],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    rapid_commit: Option<()>,
    associations: [Option<Association<'a>>; ASSOCIATIONS_MAX],
}

/// An identity association: of addresses, of temporary ones, of prefixes.
#[derive(Clone, Copy)]
struct Association<'a> {
    kind: u16,
    id: [u8; 4],
    /// Whole options, as [`options`] has found.
    options: &'a [u8],
}

/// Answers a DHCP message that came from `src`.
///
/// # Errors
/// The [`DropReason`] of a message that gets no answer.
pub(super) fn reply(
    host: &Host<'_>,
    src: Ipv6Addr,
    message: &[u8],
    answer: &mut Answer,
) -> Result<Served, DropReason> {
    let message = Message::parse(message)?;
    message.check()?;
    let granted = host.station.ipv6;
    let commits = message.rapid_commit.is_some();
    let kind = if message.kind == SOLICIT && !commits { ADVERTISE } else { REPLY };
    answer
        .begin_udp6((host.station.mac, src), (SERVICE_LINK_LOCAL, 547), 546)
        .put(&[kind])
        .put(&message.xid);
    if let Some(client) = message.client {
        put(answer, CLIENT, &[client]);
    }
    put(answer, SERVER, &[&SERVER_ID]);
    let mut served = Served::Other;
    match message.kind {
        SOLICIT => {
            if commits {
                put(answer, RAPID_COMMIT, &[]);
            } else {
                put(answer, PREFERENCE, &[&[255]]); // no use in waiting for others
            }
            let given = message.put_associations(granted, host, answer);
            if given && commits {
                served = Served::Dhcp6Lease;
            }
        }
        REQUEST | RENEW | REBIND => {
            if message.put_associations(granted, host, answer) {
                served = Served::Dhcp6Lease;
            }
        }
        CONFIRM => {
            let mut addresses = message.associations().flat_map(|ia| ia.addresses()).peekable();
            if addresses.peek().is_none() {
                return Err(DropReason::BadDhcp); // nothing to confirm
            }
            let status =
                if addresses.all(|address| address == granted) { SUCCESS } else { NOT_ON_LINK };
            put_status(answer, status);
        }
        RELEASE | DECLINE => put_status(answer, SUCCESS),
        _ => put(answer, REFRESH, &[&LEASE_S.to_be_bytes()]),
    }
    if !matches!(message.kind, CONFIRM | RELEASE | DECLINE) {
        put_config(host, answer);
    }
    answer.finish_udp6();
    Ok(served)
}

/// Our DUID: link-layer, Ethernet.
const SERVER_ID: [u8; 10] = {
    let [a, b, c, d, e, f] = SERVICE_MAC.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
};

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (&[kind, x0, x1, x2], rest) = bytes.split_first_chunk().ok_or(DropReason::BadDhcp)?;
        match kind {
            ADVERTISE | REPLY | RECONFIGURE => return Err(DropReason::DhcpServer),
            SOLICIT..=INFORMATION_REQUEST => {}
            _ => return Err(DropReason::BadDhcp),
        }
        let (client, server, rapid_commit) = Default::default();
        let associations = [None; ASSOCIATIONS_MAX];
        let xid = [x0, x1, x2];
        let mut message = Self { kind, xid, client, server, rapid_commit, associations };
        for option in options(rest) {
            let (code, value) = option?;
            message.take(code, value)?;
        }
        Ok(message)
    }

    fn take(&mut self, code: u16, value: &'a [u8]) -> Result<(), DropReason> {
        match code {
            CLIENT if (3..=DUID_LEN_MAX).contains(&value.len()) => once(&mut self.client, value),
            SERVER if (3..=DUID_LEN_MAX).contains(&value.len()) => once(&mut self.server, value),
            CLIENT | SERVER => Err(DropReason::BadDhcp),
            RAPID_COMMIT if value.is_empty() => once(&mut self.rapid_commit, ()),
            RAPID_COMMIT => Err(DropReason::BadDhcp),
            IA_NA | IA_TA | IA_PD => {
                let free = self.associations.iter_mut().find(|place| place.is_none());
                *free.ok_or(DropReason::BadDhcp)? = Some(Association::parse(code, value)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Judges what must and must not be in a message (RFC 8415 16).
    fn check(&self) -> Result<(), DropReason> {
        let to_us = self.server == Some(&SERVER_ID);
        if self.server.is_some() && !to_us {
            return Err(DropReason::OtherDhcpServer);
        }
        let valid = match self.kind {
            REQUEST | RENEW | DECLINE | RELEASE => to_us && self.client.is_some(),
            INFORMATION_REQUEST => self.associations().next().is_none(),
            _ => !to_us && self.client.is_some(),
        };
        if valid { Ok(()) } else { Err(DropReason::BadDhcp) }
    }

    fn associations(&self) -> impl Iterator<Item = Association<'a>> {
        self.associations.iter().copied().flatten()
    }

    /// Gives the granted address to the first association that may have it, and says whether there
    /// was one.
    fn put_associations(&self, granted: Ipv6Addr, host: &Host<'_>, answer: &mut Answer) -> bool {
        let (mut given, mut stale) = (false, 0);
        for association in self.associations() {
            let elsewhere = |address| !host.segment.contains_ipv6(address);
            let status = match association.kind {
                IA_PD => Some(NO_PREFIX),
                IA_NA if given => Some(NO_ADDRS),
                IA_NA if self.kind == REQUEST && association.addresses().any(elsewhere) => {
                    Some(NOT_ON_LINK)
                }
                IA_NA => None,
                _ => Some(NO_ADDRS),
            };
            let mut body = [0; ASSOCIATION_LEN_MAX];
            let mut len = 0;
            let mut add = |bytes: &[u8]| {
                body[len..len + bytes.len()].copy_from_slice(bytes);
                len += bytes.len();
            };
            add(&association.id);
            let (lease, renew, rebind) = match status {
                None => (LEASE_S, LEASE_S / 2, LEASE_S / 5 * 4),
                Some(_) => (0, 0, 0),
            };
            if association.kind != IA_TA {
                add(&renew.to_be_bytes());
                add(&rebind.to_be_bytes());
            }
            if let Some(status) = status {
                add(&[0, STATUS as u8, 0, 2]);
                add(&status.to_be_bytes());
            } else {
                given = true;
                let address = |address: Ipv6Addr, lease: u32| {
                    let mut option = [0; IA_ADDR_LEN];
                    option[..4].copy_from_slice(&[0, IA_ADDR as u8, 0, 24]);
                    option[4..20].copy_from_slice(&address.octets());
                    option[20..24].copy_from_slice(&lease.to_be_bytes());
                    option[24..].copy_from_slice(&lease.to_be_bytes());
                    option
                };
                add(&address(granted, lease));
                if matches!(self.kind, RENEW | REBIND) {
                    let old = association.addresses().filter(|address| *address != granted);
                    for old in old.take(STALE_MAX - stale) {
                        add(&address(old, 0));
                        stale += 1;
                    }
                }
            }
            put(answer, association.kind, &[&body[..len]]);
        }
        given
    }
}

/// An address with its option header.
const IA_ADDR_LEN: usize = 28;

/// An association with the granted address and all that are to be given up.
const ASSOCIATION_LEN_MAX: usize = 12 + IA_ADDR_LEN * (1 + STALE_MAX);

impl<'a> Association<'a> {
    fn parse(kind: u16, value: &'a [u8]) -> Result<Self, DropReason> {
        let (id, rest) = value.split_first_chunk().ok_or(DropReason::BadDhcp)?;
        let times = if kind == IA_TA { 0 } else { 8 };
        let inner = rest.get(times..).ok_or(DropReason::BadDhcp)?;
        for option in options(inner) {
            let (code, value) = option?;
            if code == IA_ADDR {
                let (_, rest) = value.split_first_chunk::<24>().ok_or(DropReason::BadDhcp)?;
                options(rest).try_for_each(|option| option.map(|_| ()))?;
            }
        }
        Ok(Self { kind, id: *id, options: inner })
    }

    fn addresses(self) -> impl Iterator<Item = Ipv6Addr> {
        let value = |option: Result<(u16, &'a [u8]), _>| match option {
            Ok((IA_ADDR, value)) => value.first_chunk::<16>().map(|octets| (*octets).into()),
            Ok(_) | Err(_) => None,
        };
        options(self.options).filter_map(value)
    }
}

/// Walks options, each length within what is left; ends at the first that lies.
fn options(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), DropReason>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let header = rest.split_first_chunk();
        let split = header.and_then(|(&[c0, c1, l0, l1], behind)| {
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            Some((u16::from_be_bytes([c0, c1]), behind.split_at_checked(len)?))
        });
        let Some((code, (value, behind))) = split else {
            rest = &[];
            return Some(Err(DropReason::BadDhcp));
        };
        rest = behind;
        Some(Ok((code, value)))
    })
}

/// Appends an option of at most 65,535 bytes, which all ours are.
fn put(answer: &mut Answer, code: u16, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum::<usize>() as u16;
    answer.put(&code.to_be_bytes()).put(&len.to_be_bytes());
    for part in parts {
        answer.put(part);
    }
}

fn put_status(answer: &mut Answer, status: u16) {
    put(answer, STATUS, &[&status.to_be_bytes()]);
}

fn put_config(host: &Host<'_>, answer: &mut Answer) {
    let mut dns = [[0; 16]; super::DNS_MAX];
    let mut count = 0;
    for (place, address) in dns.iter_mut().zip(host.guest.dns6()) {
        *place = address.octets();
        count += 1;
    }
    if count > 0 {
        put(answer, DNS, &[dns[..count].as_flattened()]);
    }
    let domain = &host.guest.domain;
    if !domain.is_empty() {
        // As DNS has it: each label behind its length, a zero at the end.
        let len = domain.len() as u16 + 2;
        answer.put(&DOMAIN_SEARCH.to_be_bytes()).put(&len.to_be_bytes());
        for label in domain.split('.') {
            answer.put(&[label.len() as u8]).put(label.as_bytes());
        }
        answer.put(&[0]);
    }
}
