//! Links, addresses and routes of one network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::SockProtocol;

use super::{CREATE_NEW, Message, Socket, attribute, find, u32_of};
use crate::tap::IfName;

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const TUN_TYPE: u16 = 3;
const VETH_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// The value of `IFLA_TUN_TYPE` that stands for Ethernet frames.
const TUN_IS_TAP: u8 = 2;

const UP: u32 = 1;
const NO_ARP: u32 = 0x80;

/// `struct ifinfomsg` and `struct ifaddrmsg`, `struct rtmsg`: lengths in bytes.
const LINK_LEN: usize = 16;
const ADDRESS_LEN: usize = 8;
const ROUTE_LEN: usize = 12;

/// Links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes: `RTNLGRP_*` 1, 5, 9, 7, 11 as bits.
const CHANGES: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 6 | 1 << 10;
/// Links and addresses alone.
const LINK_CHANGES: u32 = 1 | 1 << 4 | 1 << 8;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `tun`, `veth` and so on; none of what the kernel makes itself.
    pub(crate) kind: Option<String>,
    pub(crate) is_tap: bool,
    pub(crate) is_up: bool,
    pub(crate) no_arp: bool,
    pub(crate) mtu: u32,
    /// The bridge or bond that it is in.
    pub(crate) master: Option<u32>,
}

/// What is to become of an interface; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    pub(crate) up: Option<bool>,
    pub(crate) no_arp: Option<bool>,
    pub(crate) mtu: Option<u16>,
}

/// Asks for links and changes them, and hears of changes.
#[derive(Debug)]
pub(crate) struct Links {
    ask: Socket,
    pub(crate) heard: Socket,
}

impl Links {
    /// Opens the sockets in the calling thread's namespace, to hear of all there.
    pub(crate) fn open() -> io::Result<Self> {
        Self::hearing(CHANGES)
    }

    /// The same, deaf to routes: a host's come and go.
    pub(crate) fn open_among_others() -> io::Result<Self> {
        Self::hearing(LINK_CHANGES)
    }

    fn hearing(groups: u32) -> io::Result<Self> {
        let ask = Socket::open(SockProtocol::NetlinkRoute)?;
        let heard = Socket::listen(SockProtocol::NetlinkRoute, groups)?;
        Ok(Self { ask, heard })
    }

    /// Returns all interfaces.
    pub(crate) fn list(&mut self) -> io::Result<Vec<Link>> {
        self.ask.dump(GET_LINK, &[0; LINK_LEN], read_link)
    }

    /// Finds an interface by its name.
    pub(crate) fn find(&mut self, name: &IfName) -> io::Result<Option<Link>> {
        Ok(self.list()?.into_iter().find(|link| link.name == name.as_str()))
    }

    /// Returns all addresses, each with the index of its interface.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        self.ask.dump(GET_ADDRESS, &[0; ADDRESS_LEN], |body| {
            let (fixed, rest) = body.split_first_chunk::<ADDRESS_LEN>()?;
            let index = u32_of(&fixed[4..])?;
            let local = find(rest, IFA_LOCAL).or_else(|| find(rest, IFA_ADDRESS))?;
            let address = match local.len() {
                4 => Ipv4Addr::from(*local.first_chunk::<4>()?).into(),
                16 => Ipv6Addr::from(*local.first_chunk::<16>()?).into(),
                _ => return None,
            };
            Some((index, address))
        })
    }

    /// Returns how many routes there are, of all families and tables.
    pub(crate) fn route_count(&mut self) -> io::Result<usize> {
        Ok(self.ask.dump(GET_ROUTE, &[0; ROUTE_LEN], |_| Some(()))?.len())
    }

    /// Changes an interface, which is named by its index: names change.
    pub(crate) fn change(&mut self, index: u32, change: Change) -> io::Result<()> {
        let (mut flags, mut mask) = (0, 0);
        for (flag, value) in [(UP, change.up), (NO_ARP, change.no_arp)] {
            mask |= value.map_or(0, |_| flag);
            flags |= value.filter(|on| *on).map_or(0, |_| flag);
        }
        let mut message = Message::new(SET_LINK, &fixed(index, flags, mask));
        if let Some(mtu) = change.mtu {
            message = message.with(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        self.ask.order(message)
    }

    /// Takes an interface down.
    pub(crate) fn down(&mut self, index: u32) -> io::Result<()> {
        self.change(index, Change { up: Some(false), ..Change::default() })
    }

    /// Deletes an interface; the other end of a pair goes with it.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        self.ask.order(Message::new(DEL_LINK, &fixed(index, 0, 0)))
    }

    /// Moves an interface to another network namespace, where it has that name and is down.
    pub(crate) fn move_to(
        &mut self,
        index: u32,
        netns: BorrowedFd<'_>,
        name: &IfName,
    ) -> io::Result<()> {
        let message = Message::new(SET_LINK, &fixed(index, 0, 0));
        let message = message.with(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        self.ask.order(message.with(IFLA_IFNAME, &zero_terminated(name)))
    }

    /// Makes a pair of interfaces, joined like a cable.
    pub(crate) fn make_pair(&mut self, near: &IfName, far: &IfName) -> io::Result<()> {
        let name = |name: &IfName| attribute(IFLA_IFNAME, &zero_terminated(name));
        let peer = [fixed(0, 0, 0).to_vec(), name(far)].concat();
        let data = attribute(INFO_DATA, &attribute(VETH_PEER, &peer));
        let info = [attribute(INFO_KIND, b"veth\0"), data].concat();
        let message = Message::new(NEW_LINK, &fixed(0, 0, 0)).flags(CREATE_NEW);
        let message = message.with(IFLA_IFNAME, &zero_terminated(near));
        self.ask.order(message.with(IFLA_LINKINFO, &info))
    }
}

fn zero_terminated(name: &IfName) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0]].concat()
}

/// `struct ifinfomsg`: family, pad, type, index, flags, which flags to change.
fn fixed(index: u32, flags: u32, mask: u32) -> [u8; LINK_LEN] {
    let mut bytes = [0; LINK_LEN];
    for (at, field) in [(4, index), (8, flags), (12, mask)] {
        bytes[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}

fn read_link(body: &[u8]) -> Option<Link> {
    let (fixed, rest) = body.split_first_chunk::<LINK_LEN>()?;
    let (index, flags) = (u32_of(&fixed[4..])?, u32_of(&fixed[8..])?);
    let name = text(find(rest, IFLA_IFNAME)?);
    let info = find(rest, IFLA_LINKINFO).unwrap_or_default();
    let kind = find(info, INFO_KIND).map(text);
    let data = find(info, INFO_DATA).unwrap_or_default();
    let is_tun = kind.as_deref() == Some("tun");
    Some(Link {
        index,
        name,
        is_tap: is_tun && find(data, TUN_TYPE).and_then(|v| v.first()) == Some(&TUN_IS_TAP),
        kind,
        is_up: flags & UP != 0,
        no_arp: flags & NO_ARP != 0,
        mtu: find(rest, IFLA_MTU).and_then(u32_of)?,
        master: find(rest, IFLA_MASTER).and_then(u32_of),
    })
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
