//! The lease's one UDP socket: batches out by `UDP_SEGMENT`, in by `UDP_GRO`.
//!
//! quinn-udp does the system calls, and the cases where a kernel or a driver refuses to segment.
//! Path MTU discovery is the tunnel's own: the socket sends with DF and believes no ICMP.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use overlay_proto::dial::canonical;
use overlay_proto::path::Via;
use overlay_proto::transmit::Sent;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Receive buffer of the socket, in bytes: 10 Gbit/s for 3 ms. The kernel may grant less.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Send buffer of the socket, in bytes; a longer queue is only latency.
const SEND_BUFFER_LEN: usize = 2 << 20;

/// Messages of one receive call.
const MESSAGES: usize = 4;

/// Bytes of one message: what `UDP_GRO` merges at most.
const MESSAGE_LEN: usize = 65_536;

/// Opens the socket of a lease at `addr`. The IPv6 wildcard takes IPv4 as well.
///
/// # Errors
/// The system's: the port is in use, the address is not this host's.
pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if let SocketAddr::V6(v6) = addr {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&addr.into())?;
    let socket = UdpSocket::from(socket);
    // Here, where there may be the right to force it: the data plane has none.
    crate::sys::force_buffers(&socket, RECEIVE_BUFFER_LEN, SEND_BUFFER_LEN)
        .or_else(|_| SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_LEN))?;
    Ok(socket)
}

/// The socket with its offloads.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    v6: bool,
    wildcard: bool,
}

impl Udp {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { state, v6: addr.is_ipv6(), wildcard: addr.ip().is_unspecified(), socket })
    }

    /// Returns how many datagrams the kernel has lost, modulo 2^32, since nobody took them in time.
    pub(crate) fn lost(&self) -> u32 {
        crate::sys::lost(&self.socket).unwrap_or(0)
    }

    pub(crate) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a batch; what the kernel will not segment goes out one by one.
    pub(crate) fn transmit(&self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        let segments = self.state.max_gso_segments();
        if datagrams.len() <= stride || segments > 1 {
            match self.send(via, stride, datagrams) {
                Sent::Failed if datagrams.len() > stride && self.state.max_gso_segments() == 1 => {}
                sent => return sent,
            }
        }
        let sent = datagrams.chunks(stride).map(|datagram| self.send(via, stride, datagram));
        sent.fold(Sent::Done, |all, one| if all == Sent::Done { one } else { all })
    }

    fn send(&self, via: Via, stride: usize, datagrams: &[u8]) -> Sent {
        let destination = match via.remote {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())
            }
            other => other,
        };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: datagrams,
            segment_size: (datagrams.len() > stride).then_some(stride),
            src_ip: via.local.filter(|_| self.wildcard),
        };
        let mut tries = 0;
        loop {
            match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Ok(()) => return Sent::Done,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < SEND_TRIES => {
                    tries += 1;
                    crate::dataplane::wait_writable(&self.socket);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Full,
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Sent::TooLong,
                Err(_) => return Sent::Failed,
            }
        }
    }
}

/// How often a full socket is waited for, [`crate::dataplane::WRITABLE_WAIT`] each, before a batch
/// is dropped. While it waits the thread reads no tap, so the guest's own queue holds the rest.
const SEND_TRIES: u32 = 4;

/// Buffers of one receiving thread.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffers: Vec<u8>,
    meta: [RecvMeta; MESSAGES],
}

impl Default for Receiver {
    fn default() -> Self {
        Self { buffers: vec![0; MESSAGES * MESSAGE_LEN], meta: [RecvMeta::default(); MESSAGES] }
    }
}

impl Receiver {
    /// Receives what is there, at most [`MESSAGES`]; says how many, zero when there is nothing.
    pub(crate) fn receive(
        &mut self,
        udp: &Udp,
        mut handle: impl FnMut(Via, usize, &[u8]),
    ) -> io::Result<usize> {
        let (a, rest) = self.buffers.split_at_mut(MESSAGE_LEN);
        let (b, rest) = rest.split_at_mut(MESSAGE_LEN);
        let (c, d) = rest.split_at_mut(MESSAGE_LEN);
        let mut slices = [a, b, c, d].map(IoSliceMut::new);
        let socket = UdpSockRef::from(&udp.socket);
        let count = match udp.state.recv(socket, &mut slices, &mut self.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        for (meta, slice) in self.meta.iter().zip(&slices).take(count) {
            let via = Via { remote: canonical(meta.addr), local: meta.dst_ip.filter(is_usable) };
            handle(via, meta.stride.max(1), slice.get(..meta.len).unwrap_or_default());
        }
        Ok(count)
    }
}

/// Says whether an address may be asked for as a datagram's source.
fn is_usable(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_in_time_is_counted() {
        let socket = bind(([127, 0, 0, 1], 0).into()).expect("a loopback address");
        let udp = Udp::new(socket).expect("offloads");
        SockRef::from(udp.socket()).set_recv_buffer_size(4096).expect("a small buffer");
        let to = udp.socket().local_addr().expect("it is bound");
        let sender = UdpSocket::bind(("127.0.0.1", 0)).expect("a loopback address");
        sender.send_to(&[0; 1000], to).expect("loopback takes all");
        assert_eq!(udp.lost(), 0);
        for _ in 0..100 {
            sender.send_to(&[0; 1000], to).expect("loopback takes all");
        }
        assert!((90..=100).contains(&udp.lost()), "{} of 100 were lost", udp.lost());
    }
}
