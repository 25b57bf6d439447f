//! What hostile programs do with the sockets they have: as fast as they can, in bounded numbers.

use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use nix::unistd::{Uid, setfsuid};
use overlay::host::guard;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{Family, Lab};
use crate::sys::set_option;

pub(crate) const PORT: u16 = 7770;
pub(crate) const CTL_UID: u32 = 65_501;
/// Bytes of WireGuard's initiation, the usual first datagram.
pub(crate) const INITIATION_LEN: usize = 148;
/// Datagrams in a row, far fewer than the kernel queues between two ends of a cable.
const QUEUE_LEN: usize = 250;
const PAUSE: Duration = Duration::from_millis(1);
/// More than any budget.
pub(crate) const MANY: u16 = 1000;

const UNSPECIFIED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Opens the data plane's socket as the helper does: marked, for both families, without fragments.
pub(crate) fn dp_socket(port: u16) -> UdpSocket {
    let socket = overlay::udp::bind((Ipv6Addr::UNSPECIFIED, port).into()).expect("a free port");
    set_option(
        &socket,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        &libc::IP_PMTUDISC_PROBE.to_ne_bytes(),
    )
    .expect("an option of IPv4");
    let probe = libc::IPV6_PMTUDISC_PROBE.to_ne_bytes();
    set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &probe).expect("and of IPv6");
    set_option(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST, &1_i32.to_ne_bytes()).expect("set");
    guard::mark(&socket).expect("root marks sockets");
    socket
}

/// Opens a marked socket of another kind.
pub(crate) fn marked(family: Family, kind: Type, protocol: Protocol) -> Socket {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, Some(protocol)).expect("root opens sockets");
    socket.set_nonblocking(true).expect("set");
    guard::mark(&socket).expect("root marks sockets");
    socket
}

/// Returns the spelling of an address for a socket of both families.
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => addr,
    }
}

/// Sends one datagram to each; returns how many the kernel took. Pauses now and then, so that what
/// the cable cannot queue is not taken for what the guard kept.
pub(crate) fn send(
    socket: &UdpSocket,
    to: impl IntoIterator<Item = SocketAddr>,
    len: usize,
) -> usize {
    let v6 = socket.local_addr().is_ok_and(|addr| addr.is_ipv6());
    let bytes = vec![0; len];
    let mut taken = 0;
    for (number, to) in to.into_iter().enumerate() {
        let to = if v6 { mapped(to) } else { to };
        taken += usize::from(socket.send_to(&bytes, to).is_ok());
        if number % QUEUE_LEN == QUEUE_LEN - 1 {
            thread::sleep(PAUSE);
        }
    }
    taken
}

/// The same destination, over and over.
pub(crate) fn over_and_over(to: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    (0..MANY).map(move |_| to)
}

/// Sends one buffer with a control message, to be segmented or with a source, say.
pub(crate) fn send_with(
    socket: &UdpSocket,
    to: SocketAddr,
    len: usize,
    control: ControlMessage<'_>,
) -> bool {
    let bytes = vec![0; len];
    let to = SockaddrStorage::from(mapped(to));
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &[control], MsgFlags::empty(), Some(&to))
        .is_ok()
}

/// Runs code in the host as the control process's user: sockets opened in it are that user's.
pub(crate) fn as_ctl<T: Send>(lab: &Lab, code: impl FnOnce() -> T + Send) -> T {
    lab.host.run(|| {
        // Of this thread alone, which ends here.
        setfsuid(Uid::from_raw(CTL_UID));
        code()
    })
}

pub(crate) fn udp_socket(family: Family) -> UdpSocket {
    let index = usize::from(family == Family::V6);
    UdpSocket::bind((UNSPECIFIED[index], 0)).expect("a free port")
}

/// Begins a connection without waiting for it.
pub(crate) fn dial(to: SocketAddr) -> Socket {
    let socket = tcp_socket(to);
    let _ = socket.connect(&to.into());
    socket
}

pub(crate) fn tcp_socket(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("set");
    socket
}

/// Connects to a listener of the world and writes as much as it takes in a time; says how much.
pub(crate) fn pour(to: SocketAddr, bytes: usize, time: Duration) -> io::Result<(TcpStream, usize)> {
    let mut stream = TcpStream::connect_timeout(&to, time)?;
    set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(1_i32 << 22).to_ne_bytes())?;
    stream.set_write_timeout(Some(time))?;
    let data = vec![0; bytes];
    let mut written = 0;
    while written < bytes {
        match stream.write(&data[written..]) {
            Ok(len) => written += len,
            Err(_) => break,
        }
    }
    Ok((stream, written))
}

/// Sets an option that only some systems know, or says that it is not to be had.
pub(crate) fn try_option(socket: &impl AsFd, level: i32, option: i32, value: &[u8]) -> bool {
    set_option(socket, level, option, value).is_ok()
}
