//! Ordinary sockets of an attacker: UDP and TCP to every target at once, and the neighbour table
//! that leads them there.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::escapes::is_link_local;
use super::marker::{By, Row, mark};
use super::packet::Mac;
use super::plan::Target;

/// How long a host may take to answer; an emulated guest is slow, its host is near.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// Calls at a time.
const CALLERS: usize = 48;
/// Ports of a target that are called.
const PORTS_MAX: usize = 4;

/// Numbers of rtnetlink(7).
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NLM_F_REQUEST_ACK: u16 = 0x05;
const NLM_F_CREATE_REPLACE: u16 = 0x0500;
const NUD_PERMANENT: u16 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// Calls all targets by UDP and TCP; returns calls and answers by row.
#[must_use]
pub fn call(targets: &[&Target], interface: u32) -> Vec<(Row, u64, u64)> {
    let calls = targets.iter().flat_map(|target| {
        let ports = target.ports.iter().take(PORTS_MAX);
        ports.map(|port| (target.row, at(target.ip, *port, interface)))
    });
    let calls = Mutex::new(calls);
    let counts = Mutex::new(BTreeMap::<Row, (u64, u64)>::new());
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while let Some((row, at)) = calls.lock().ok().and_then(|mut calls| calls.next()) {
                    let answers = u64::from(by_udp(row, at).unwrap_or(false))
                        + u64::from(by_tcp(row, at).unwrap_or(false));
                    if let Ok(mut counts) = counts.lock() {
                        let count = counts.entry(row).or_default();
                        *count = (count.0 + 2, count.1 + answers);
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap_or_default();
    counts.into_iter().map(|(row, (calls, answers))| (row, calls, answers)).collect()
}

fn at(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if is_link_local(ip) => SocketAddrV6::new(ip, port, 0, interface).into(),
        _ => (ip, port).into(),
    }
}

fn by_udp(row: Row, at: SocketAddr) -> io::Result<bool> {
    let any: IpAddr =
        if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(true)?;
    socket.connect(at)?;
    socket.send(&mark(row, By::Socket))?;
    socket.set_read_timeout(Some(ANSWER_MAX / 4))?;
    // ICMP errors are answers, too: somebody got it.
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
    }
}

fn by_tcp(row: Row, at: SocketAddr) -> io::Result<bool> {
    let mut stream = match TcpStream::connect_timeout(&at, ANSWER_MAX) {
        Ok(stream) => stream,
        Err(error) => return Ok(error.kind() == io::ErrorKind::ConnectionRefused),
    };
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    // A page of a router's, asked for by the name that an evil resolver gave it.
    let request = b" GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n";
    stream.write_all(&[&mark(row, By::Socket)[..], request].concat())?;
    let _ = stream.read(&mut [0; 512]);
    Ok(true)
}

/// Tells the kernel at which MAC address a neighbour is.
///
/// # Errors
/// The kernel's.
pub fn set_neighbour(interface: u32, ip: IpAddr, mac: Mac) -> io::Result<()> {
    neighbour(RTM_NEWNEIGH, NLM_F_CREATE_REPLACE, interface, ip, Some(mac))
}

/// Takes that back.
///
/// # Errors
/// The kernel's.
pub fn forget_neighbour(interface: u32, ip: IpAddr) -> io::Result<()> {
    neighbour(RTM_DELNEIGH, 0, interface, ip, None)
}

fn neighbour(
    kind: u16,
    flags: u16,
    interface: u32,
    ip: IpAddr,
    mac: Option<Mac>,
) -> io::Result<()> {
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6 as u8, ip.octets().to_vec()),
    };
    let mut body = vec![family, 0, 0, 0];
    body.extend(interface.to_ne_bytes());
    body.extend(NUD_PERMANENT.to_ne_bytes());
    body.extend([0, 0]);
    let mac = mac.map(|mac| (NDA_LLADDR, mac.to_vec()));
    for (name, value) in [(NDA_DST, octets)].into_iter().chain(mac) {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(name.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST_ACK | flags).to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    // The answer is an error message, whose number is 0 if all is well.
    let mut answer = [0; 128];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..len].get(16..20).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => match i32::from_ne_bytes(bytes) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
