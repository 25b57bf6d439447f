//! Chooses the port number that a lease or gateway has for both UDP and TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::udp;

/// The usual port.
pub const PORT_USUAL: u16 = 7770;
/// How many numbers from the usual one on are tried: leases that fit on one host.
const PORTS_TRIED_MAX: u16 = 256;

/// How often a remembered port is tried, and the pause between two tries: the processes of a
/// program that was killed let go of it one after the other.
const REMEMBERED_TRIES: u32 = 20;
const REMEMBERED_INTERVAL: Duration = Duration::from_millis(50);

/// The sockets' addresses and the UDP socket itself, which holds the number from here on.
#[derive(Debug)]
pub struct Listening {
    /// The lease's socket.
    pub udp: UdpSocket,
    /// Where TCP is to listen: the same port on each address.
    pub tcp: Vec<SocketAddr>,
    /// The number.
    pub port: u16,
}

/// Opens the given addresses, or the remembered port, which is waited for a second, or the first
/// free one from 7770 on.
///
/// # Errors
/// [`PortError`] says which address is taken; a given one is never replaced by another.
pub fn listen(given: &[SocketAddr], remembered: Option<u16>) -> Result<Listening, PortError> {
    if let [first, rest @ ..] = given {
        if let Some(other) = rest.iter().find(|other| other.port() != first.port()) {
            return Err(PortError::Differ(first.port(), other.port()));
        }
        let udp_at = if rest.is_empty() { *first } else { any(first.port()) };
        let taken = |source| PortError::Taken { addr: *first, source };
        return open(udp_at, given.to_vec()).map_err(taken);
    }
    if let Some(port) = remembered {
        for _ in 0..REMEMBERED_TRIES {
            match open_any(port) {
                Some(listening) => return Ok(listening),
                None => thread::sleep(REMEMBERED_INTERVAL),
            }
        }
    }
    (PORT_USUAL..PORT_USUAL + PORTS_TRIED_MAX).find_map(open_any).ok_or(PortError::NoneFree)
}

fn open_any(port: u16) -> Option<Listening> {
    let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    open(any(port), vec![any(port)]).or_else(|_| open_v4_only(v4)).ok()
}

/// All addresses of the host, IPv4 ones too.
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// As [`open`], on a host without IPv6.
fn open_v4_only(at: SocketAddr) -> io::Result<Listening> {
    let has_v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if has_v6 { Err(io::ErrorKind::AddrInUse.into()) } else { open(at, vec![at]) }
}

/// Opens the UDP socket and tries the TCP addresses, which are closed again at once.
fn open(udp_at: SocketAddr, tcp: Vec<SocketAddr>) -> io::Result<Listening> {
    let udp = udp::bind(udp_at)?;
    let port = udp.local_addr()?.port();
    let tcp: Vec<_> = tcp.into_iter().map(|at| SocketAddr::new(at.ip(), port)).collect();
    for at in &tcp {
        TcpListener::bind(at)?;
    }
    Ok(Listening { udp, tcp, port })
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The given address cannot be had.
    #[error("{addr} cannot be listened on (udp and tcp): choose another with --listen")]
    Taken {
        /// Which.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Two numbers were given.
    #[error("ports {0} and {1} differ: all --listen addresses share one port number")]
    Differ(u16, u16),
    /// Everything is in use.
    #[error(
        "no port from {PORT_USUAL} to {} is free for both udp and tcp: choose one with --listen",
        PORT_USUAL + PORTS_TRIED_MAX - 1
    )]
    NoneFree,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_port_in_use_is_refused_and_another_is_found_otherwise() {
        let first = listen(&["127.0.0.1:0".parse().expect("an address")], None).expect("free");
        let given = SocketAddr::new("127.0.0.1".parse().expect("an address"), first.port);
        assert!(matches!(listen(&[given], None), Err(PortError::Taken { .. })));
        let other = listen(&[], Some(first.port)).expect("another");
        assert_ne!(other.port, first.port);
    }

    #[test]
    fn all_addresses_share_one_number() {
        let given = ["127.0.0.1:1000", "[::1]:1001"].map(|at| at.parse().expect("an address"));
        assert!(matches!(listen(&given, None), Err(PortError::Differ(1000, 1001))));
    }
}
