//! DHCPv4: the station's granted address and nothing else, to whoever has its MAC address.
//!
//! Strict where a message could lie, since a guest writes it: one message type, one of each value,
//! lengths that fit, the station's own hardware address. Lenient where systems differ: any
//! order of options, no need of an end option. A list of wanted options is not
//! looked at: there are few, and nobody minds one that he does not know.
//!
//! Source: RFC 2131 (messages), 2132 (options), 3442 (routes), 6842 (client identifiers).

use std::net::Ipv4Addr;

use super::{Host, LEASE_S, ROUTES_MAX, Served, once};
use crate::answer::{ANSWER_LEN_MAX, Answer};
use crate::mac::MacAddr;
use crate::verdict::DropReason;

/// Length, in bytes, of the fixed part, and the cookie behind it.
const FIXED_LEN: usize = 236;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

/// Ethernet, IPv4 and UDP headers of an answer, in bytes.
const HEADERS_LEN: usize = 42;

/// Least message, in bytes: BOOTP's, which some clients still ask for.
const MESSAGE_LEN_MIN: usize = 300;

/// Least packet that each client takes, in bytes, its IP and UDP headers included.
const PACKET_LEN_MIN: u16 = 576;

/// The flag of a client that hears broadcasts only.
const BROADCAST: u16 = 0x8000;

const PAD: u8 = 0;
const NETMASK: u8 = 1;
const DNS: u8 = 6;
const HOSTNAME: u8 = 12;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const BROADCAST_ADDRESS: u8 = 28;
const REQUESTED: u8 = 50;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const PACKET_LEN: u8 = 57;
const RENEWAL: u8 = 58;
const REBINDING: u8 = 59;
const CLIENT: u8 = 61;
const ROUTES: u8 = 121;
const ROUTES_MICROSOFT: u8 = 249;
const END: u8 = 255;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// A client's message, as far as it matters.
struct Message<'a> {
    xid: [u8; 4],
    flags: u16,
    ciaddr: Ipv4Addr,
    chaddr: MacAddr,
    options: Options<'a>,
}

#[derive(Default)]
struct Options<'a> {
    kind: Option<u8>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client: Option<&'a [u8]>,
    packet_len: Option<u16>,
    overload: Option<u8>,
}

/// Answers a DHCP message that came from `src`.
///
/// # Errors
/// The [`DropReason`] of a message that gets no answer.
pub(super) fn reply(
    host: &Host<'_>,
    src: Ipv4Addr,
    message: &[u8],
    answer: &mut Answer,
) -> Result<Served, DropReason> {
    let message = Message::parse(message)?;
    if message.chaddr != host.station.mac {
        return Err(DropReason::ForeignDhcp);
    }
    let service = host.segment.service_ipv4().ok_or(DropReason::DhcpClient)?;
    let granted = host.station.ipv4;
    let Options { kind, requested, server, .. } = message.options;
    if server.is_some_and(|server| server != service) {
        return Err(DropReason::OtherDhcpServer);
    }
    match kind.ok_or(DropReason::BadDhcp)? {
        DISCOVER => {
            message.write(host, service, OFFER, answer);
            Ok(Served::Other)
        }
        REQUEST => {
            // Chosen or remembered, it is in an option; in use, it is in the client's own field.
            let wanted = requested.unwrap_or(message.ciaddr);
            if wanted.is_unspecified() {
                return Err(DropReason::BadDhcp);
            }
            let is_granted = wanted == granted;
            message.write(host, service, if is_granted { ACK } else { NAK }, answer);
            Ok(if is_granted { Served::Dhcp4Lease } else { Served::Other })
        }
        INFORM => {
            let asker = if message.ciaddr.is_unspecified() { src } else { message.ciaddr };
            if asker != granted {
                return Err(DropReason::ForeignDhcp);
            }
            message.write(host, service, INFORM, answer);
            Ok(Served::Other)
        }
        DECLINE | RELEASE => Err(DropReason::DhcpNotice),
        OFFER | ACK | NAK => Err(DropReason::DhcpServer),
        _ => Err(DropReason::BadDhcp),
    }
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED_LEN>().ok_or(DropReason::BadDhcp)?;
        let (cookie, main) = rest.split_first_chunk::<4>().ok_or(DropReason::BadDhcp)?;
        let [op, hardware, hardware_len, hops, x0, x1, x2, x3, _, _, f0, f1, fields @ ..] = fixed;
        let [c0, c1, c2, c3, _, _, _, _, _, _, _, _, g0, g1, g2, g3, fields @ ..] = fields;
        let [h0, h1, h2, h3, h4, h5, ..] = *fields;
        // A request, from Ethernet, that no relay agent has touched.
        let sound = [*op, *hardware, *hardware_len, *hops] == [1, 1, 6, 0];
        if !sound || *cookie != COOKIE || [*g0, *g1, *g2, *g3] != [0; 4] {
            return Err(DropReason::BadDhcp);
        }
        let mut options = Options::default();
        options.read(main)?;
        let (server_name, file) = (fixed.get(44..108), fixed.get(108..));
        let overload = options.overload.unwrap_or(0);
        for (bit, area) in [(1, file), (2, server_name)] {
            if overload & bit != 0 {
                options.read(area.unwrap_or_default())?;
            }
        }
        Ok(Self {
            xid: [*x0, *x1, *x2, *x3],
            flags: u16::from_be_bytes([*f0, *f1]),
            ciaddr: Ipv4Addr::new(*c0, *c1, *c2, *c3),
            chaddr: MacAddr([h0, h1, h2, h3, h4, h5]),
            options,
        })
    }

    /// Writes an offer, an acknowledgement or a refusal; [`INFORM`] stands for an acknowledgement
    /// that gives no address.
    fn write(&self, host: &Host<'_>, service: Ipv4Addr, kind: u8, answer: &mut Answer) {
        const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
        let granted = host.station.ipv4;
        let yiaddr = if matches!(kind, OFFER | ACK) { granted } else { UNSPECIFIED };
        let ciaddr = if matches!(kind, ACK | INFORM) { self.ciaddr } else { UNSPECIFIED };
        // Who has no address hears a broadcast, or, if he says he can, what is sent to the one that
        // he is about to have (RFC 2131 4.1).
        let has_address = matches!(kind, ACK | INFORM) && ciaddr == granted;
        let hears = kind == INFORM || has_address || kind != NAK && self.flags & BROADCAST == 0;
        let (mac, dst) = if hears {
            (host.station.mac, granted)
        } else {
            (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
        };
        answer
            .begin_udp4(mac, (service, 67), (dst, 68))
            .put(&[2, 1, 6, 0])
            .put(&self.xid)
            .put(&[0; 2])
            .put(&(self.flags & BROADCAST).to_be_bytes())
            .put(&ciaddr.octets())
            .put(&yiaddr.octets())
            .put(&[0; 8])
            .put(&self.chaddr.0)
            .put(&[0; FIXED_LEN - 34])
            .put(&COOKIE);
        let packet_len = usize::from(self.options.packet_len.unwrap_or(0).max(PACKET_LEN_MIN));
        // One byte is for the end option.
        let mut out = Out { end: (14 + packet_len).min(ANSWER_LEN_MAX) - 1, answer };
        out.put(MESSAGE_TYPE, &[&[if kind == INFORM { ACK } else { kind }]]);
        out.put(SERVER, &[&service.octets()]);
        if let Some(client) = self.options.client {
            out.put(CLIENT, &[client]);
        }
        if matches!(kind, OFFER | ACK) {
            out.put(LEASE_TIME, &[&LEASE_S.to_be_bytes()]);
            out.put(RENEWAL, &[&(LEASE_S / 2).to_be_bytes()]);
            out.put(REBINDING, &[&(LEASE_S / 8 * 7).to_be_bytes()]);
        }
        if kind != NAK {
            out.put_config(host);
        }
        out.answer.put(&[END]);
        answer.fill(HEADERS_LEN + MESSAGE_LEN_MIN);
        answer.finish_udp4();
    }
}

impl<'a> Options<'a> {
    fn read(&mut self, mut area: &'a [u8]) -> Result<(), DropReason> {
        loop {
            area = match area {
                [] | [END, ..] => return Ok(()),
                [PAD, rest @ ..] => rest,
                [code, len, rest @ ..] => {
                    let split = rest.split_at_checked(usize::from(*len));
                    let (value, rest) = split.ok_or(DropReason::BadDhcp)?;
                    self.take(*code, value)?;
                    rest
                }
                [_] => return Err(DropReason::BadDhcp),
            };
        }
    }

    fn take(&mut self, code: u8, value: &'a [u8]) -> Result<(), DropReason> {
        match (code, value) {
            (MESSAGE_TYPE, &[kind]) => once(&mut self.kind, kind),
            (OVERLOAD, &[areas @ 1..=3]) => once(&mut self.overload, areas),
            (REQUESTED, &[a, b, c, d]) => once(&mut self.requested, Ipv4Addr::new(a, b, c, d)),
            (SERVER, &[a, b, c, d]) => once(&mut self.server, Ipv4Addr::new(a, b, c, d)),
            (PACKET_LEN, &[a, b]) => once(&mut self.packet_len, u16::from_be_bytes([a, b])),
            (CLIENT, [_, _, ..]) => once(&mut self.client, value),
            (MESSAGE_TYPE | OVERLOAD | REQUESTED | SERVER | PACKET_LEN | CLIENT, _) => {
                Err(DropReason::BadDhcp)
            }
            _ => Ok(()),
        }
    }
}

/// Writes options as long as the client has room for them, the needed ones first.
struct Out<'a> {
    answer: &'a mut Answer,
    end: usize,
}

impl Out<'_> {
    fn put(&mut self, code: u8, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let Ok(byte) = u8::try_from(len) else { return };
        if byte == 0 || self.answer.len() + 2 + len > self.end {
            return;
        }
        self.answer.put(&[code, byte]);
        for part in parts {
            self.answer.put(part);
        }
    }

    fn put_config(&mut self, host: &Host<'_>) {
        let Host { segment, guest, .. } = *host;
        self.put(NETMASK, &[&segment.netmask().octets()]);
        self.put(BROADCAST_ADDRESS, &[&segment.broadcast_ipv4().octets()]);
        self.put(MTU, &[&segment.mtu.to_be_bytes()]);
        let mut dns = [[0; 4]; super::DNS_MAX];
        let mut count = 0;
        for (place, address) in dns.iter_mut().zip(guest.dns4()) {
            *place = address.octets();
            count += 1;
        }
        self.put(DNS, &[dns[..count].as_flattened()]);
        let (routes, len) = classless(&guest.routes);
        self.put(ROUTES, &[&routes[..len]]);
        self.put(HOSTNAME, &[guest.hostname.as_bytes()]);
        self.put(DOMAIN, &[guest.domain.as_bytes()]);
        self.put(ROUTES_MICROSOFT, &[&routes[..len]]);
    }
}

/// Encodes routes as RFC 3442 does: prefix length, as many bytes of the network, router.
fn classless(routes: &[super::Route]) -> ([u8; 9 * ROUTES_MAX], usize) {
    let (mut bytes, mut len) = ([0; 9 * ROUTES_MAX], 0);
    for (network, prefix, router) in routes.iter().take(ROUTES_MAX) {
        let significant = usize::from(prefix.div_ceil(8)).min(4);
        for part in [&[*prefix][..], &network.octets()[..significant], &router.octets()] {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
    }
    (bytes, len)
}
